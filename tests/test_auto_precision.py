"""`execution.precision=auto`: bf16 where the device has units for it, by its flags, and the first attempt's choice after a resume."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_evaluation import data as kept  # noqa: F401  a fixture
from test_kept_frames import KEEPING, MORE, looked_up, measured
from test_kept_frames import finished as evaluated
from test_report import finished, planned
from test_training import CONFIG, artifact, train
from test_training import data as data  # a fixture

from diamond_bench.config import ExecutionConfig
from diamond_bench.data.static import EpisodeSet
from diamond_bench.errors import UserError
from diamond_bench.jobs import precision
from diamond_bench.jobs.context import Interrupted, JobContext
from diamond_bench.jobs.precision import kept_precision, resolved_precision
from diamond_bench.results.table import collect, mixtures
from diamond_bench.store.artifacts import Store, StoredResult
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.studies.execution import AskedPrecision
from diamond_bench.training.checkpoint import load_checkpoint

CPU = torch.device("cpu")
AUTO, BF16, FP32 = (replace(CONFIG, execution=ExecutionConfig(precision=asked)) for asked in ("auto", "bf16", "fp32"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets whether the processor lists units for bf16. None: it lists nothing."""
    return lambda units: monkeypatch.setattr(precision, "bf16_units", lambda: units)


@pytest.mark.parametrize(("units", "found"), [(True, "bf16"), (False, "fp32"), (None, "fp32")])
def test_a_processor_s_flags_decide(units: bool | None, found: str, machine: Any) -> None:
    machine(units)
    assert resolved_precision("auto", CPU) == found
    stated: tuple[AskedPrecision, ...] = ("fp32", "tf32", "bf16")
    assert [resolved_precision(asked, CPU, "fp32") for asked in stated] == list(stated), "a stated precision stays"


@pytest.mark.parametrize(
    ("capability", "hip", "found"),
    [((7, 5), None, "fp32"), ((8, 0), None, "bf16"), ((8, 9), None, "bf16"), ((9, 0), None, "bf16"), ((9, 4), "6.2", "fp32")],
)
def test_a_gpu_s_compute_capability_decides(
    capability: tuple[int, int], hip: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert resolved_precision("auto", torch.device("cuda:1")) == found


def test_the_id_holds_the_request_whatever_the_machine_has(machine: Any) -> None:
    ids = set()
    for units in (True, False):
        machine(units)
        ids |= {(asked, JobSpec("train_world_model", config).id) for asked, config in (("auto", AUTO), ("bf16", BF16), ("fp32", FP32))}
    assert len(ids) == 3
    assert len({id for _, id in ids}) == 3
    assert ("fp32", JobSpec("train_world_model", CONFIG).id) in ids


@pytest.mark.parametrize(("first", "second", "same"), [(True, True, BF16), (False, False, FP32), (False, True, FP32)])
def test_a_training_ends_with_the_bytes_of_the_precision_in_which_it_began(
    first: bool, second: bool, same: Any, data: EpisodeSet, tmp_path: Path, machine: Any
) -> None:
    machine(first)
    with pytest.raises(Interrupted):
        train(tmp_path / "auto", 4, AUTO)
    (_, state) = load_checkpoint(tmp_path / "auto" / "checkpoint", print) or (0, {})
    assert state["precision"] == same.execution.precision
    machine(second)
    train(tmp_path / "auto", None, AUTO)
    train(tmp_path / "stated", None, same)
    assert artifact(tmp_path / "auto") == artifact(tmp_path / "stated")


def test_bf16_and_fp32_differ_here(data: EpisodeSet, tmp_path: Path) -> None:
    for name, config in (("bf16", BF16), ("fp32", FP32)):
        train(tmp_path / name, None, config)
    assert artifact(tmp_path / "bf16") != artifact(tmp_path / "fp32")


def test_a_training_in_bf16_waits_for_a_machine_with_units(data: EpisodeSet, tmp_path: Path, machine: Any) -> None:
    machine(True)
    with pytest.raises(Interrupted):
        train(tmp_path / "auto", 4, AUTO)
    machine(False)
    before = sorted((tmp_path / "auto" / "checkpoint").iterdir())
    with pytest.raises(UserError, match=r"precision=auto: this job began in bf16, and this CPU has no avx512_bf16 .* separate job"):
        train(tmp_path / "auto", None, AUTO)
    assert sorted((tmp_path / "auto" / "checkpoint").iterdir()) == before
    machine(True)
    train(tmp_path / "auto", None, AUTO)
    train(tmp_path / "stated", None, BF16)
    assert artifact(tmp_path / "auto") == artifact(tmp_path / "stated")


def test_a_job_of_parts_keeps_its_first_choice(tmp_path: Path, machine: Any) -> None:
    context = JobContext(tmp_path)
    assert kept_precision("bf16", context) == "bf16"
    assert not list(tmp_path.iterdir())
    machine(False)
    assert kept_precision("auto", context) == "fp32"
    machine(True)
    assert kept_precision("auto", context) == "fp32"
    (tmp_path / "checkpoint" / "precision-cpu.txt").write_bytes(b"\xff damaged")
    assert kept_precision("auto", context) == "bf16"
    machine(None)
    with pytest.raises(UserError, match="this job began in bf16"):
        kept_precision("auto", context)


def test_frames_of_another_precision_are_not_read(
    kept: dict[str, EpisodeSet],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: Any,
) -> None:
    keeping, more = (replace(config, execution=ExecutionConfig(precision="auto")) for config in (KEEPING, MORE))
    store = Store(tmp_path / "outputs", say=lambda text: None)
    machine(False)
    evaluated(store, keeping, monkeypatch)
    twin = looked_up(store, more)
    assert twin is not None
    assert "frames_read" in measured(tmp_path / "same", more, lambda *_: twin).info
    machine(True)
    found = measured(tmp_path / "other", more, lambda *_: twin).info
    assert "frames_read" not in found
    assert found["execution"]["precision"] == "bf16"


@pytest.mark.parametrize("there", ["bf16", "fp32"])
def test_a_table_of_mixed_machines_has_a_note(there: str, tmp_path: Path) -> None:
    saved, store = finished(tmp_path, planned(tmp_path, ["execution.precision=auto", "seeds=2"]))
    results: dict[JobRef, StoredResult] = {}
    elsewhere = saved.points[0].jobs["evaluation"]
    for ref in saved.jobs:
        result = store.result(ref)
        found = there if ref == elsewhere else "fp32"
        results[ref] = replace(result, info={**result.info, "execution": {"compile": "none", "precision": found}})
    table = collect(saved, store, results)
    assert set(table.loc[table["job"] == elsewhere.id, "precision"]) == {there}
    assert ("mixed precisions: bf16, fp32" in mixtures(table)) == (there == "bf16")
