"""`execution.precision=auto`: bf16 where the device has units for it, by its flags, and the first attempt's choice after a resume."""

import signal
import socket
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
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
from diamond_bench.jobs import peer, peers, precision
from diamond_bench.jobs.context import Interrupted, JobContext
from diamond_bench.jobs.execution import Execution
from diamond_bench.jobs.precision import check_peer, kept_precision, resolved_precision
from diamond_bench.results.table import collect, mixtures
from diamond_bench.store.artifacts import Store, StoredResult
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.studies.execution import AskedPrecision
from diamond_bench.training.checkpoint import load_checkpoint
from diamond_bench.training.processes import REFUSED
from diamond_bench.typed import to_plain

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


def test_the_id_holds_the_request() -> None:
    auto, bf16, fp32, unset = (JobSpec("train_world_model", config).id for config in (AUTO, BF16, FP32, CONFIG))
    assert len({auto, bf16, fp32}) == 3
    assert fp32 == unset


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
    with pytest.raises(
        UserError, match=r"precision=auto: this job began in bf16, and this CPU has no units for bf16 .*avx512_bf16.* separate job"
    ):
        train(tmp_path / "auto", None, AUTO)
    assert sorted((tmp_path / "auto" / "checkpoint").iterdir()) == before
    machine(True)
    train(tmp_path / "auto", None, AUTO)
    train(tmp_path / "stated", None, BF16)
    assert artifact(tmp_path / "auto") == artifact(tmp_path / "stated")


def test_a_job_of_parts_keeps_its_first_choice(tmp_path: Path, machine: Any) -> None:
    said: list[str] = []
    checks: list[None] = []
    context = JobContext(tmp_path, say=said.append, check_owner=lambda: checks.append(None))
    assert kept_precision("bf16", context) == "bf16"
    assert not list(tmp_path.iterdir())
    machine(False)
    assert kept_precision("auto", context) == "fp32"
    machine(True)
    assert kept_precision("auto", context) == "fp32"
    assert len(checks) == 1, "the owner was checked before the only write"
    machine(True)
    (tmp_path / "checkpoint" / "precision-cpu.txt").write_bytes(b"bf16")
    for units, lack in ((None, "this CPU's flags are unknown"), (False, "this CPU has no units for bf16")):
        machine(units)
        with pytest.raises(UserError, match=f"this job began in bf16, and {lack}"):
            kept_precision("auto", context)
    assert not said


@pytest.mark.parametrize("content", [b"\xff damaged", b"", b"bf1", None])
def test_parts_of_an_unknown_precision_are_set_aside(content: bytes | None, tmp_path: Path, machine: Any) -> None:
    said: list[str] = []
    context, checkpoint = JobContext(tmp_path, say=said.append), tmp_path / "checkpoint"
    machine(False)
    for number, found in ((1, "bf16"), (2, "fp32")):
        kept_precision("auto", context)
        for name in ("cpu", "cpu with compile=all", "cuda"):
            (checkpoint / name).mkdir(exist_ok=True)
        (checkpoint / "cpu" / "part.npz").write_bytes(b"frames")
        file = checkpoint / "precision-cpu.txt"
        file.unlink() if content is None else file.write_bytes(content)
        machine(found == "bf16")
        assert kept_precision("auto", context) == found
        aside = checkpoint / f"damaged-{number}"
        assert (aside / "cpu" / "part.npz").read_bytes() == b"frames"
        assert {path.name for path in aside.iterdir()} == {"cpu", "cpu with compile=all"} | ({file.name} if content is not None else set())
        assert {path.name for path in checkpoint.iterdir() if "damaged" not in path.name} == {"cuda", file.name}
        assert len(said) == number
        assert "precision of the stored parts is unknown" in said[-1]
        assert str(file) in said[-1]


def test_a_job_that_another_process_owns_writes_no_choice(tmp_path: Path) -> None:
    def taken() -> None:
        raise RuntimeError("taken over")

    with pytest.raises(RuntimeError, match="taken over"):
        kept_precision("auto", JobContext(tmp_path, check_owner=taken))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("asked", "capability", "refused"), [("auto", (7, 5), True), ("auto", (8, 0), False), ("bf16", (7, 5), False)])
def test_a_peer_without_units_is_refused(
    asked: AskedPrecision, capability: tuple[int, int], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(socket, "gethostname", lambda: "node07")
    check_peer("auto", "fp32", torch.device("cuda:0"))
    message = "bf16, and on the node node07 this GPU has a compute capability below 8.0"
    with pytest.raises(UserError, match=message) if refused else nullcontext():
        check_peer(asked, "bf16", torch.device("cuda:0"))


def test_a_peer_checks_the_precision_before_it_reads_data(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(False)
    what = {"config": to_plain(AUTO), "device": "cpu", "dataset": "nowhere", "rank": 1, "size": 2, "port": 1, "host": "x"}
    state = {"execution": asdict(Execution(precision="bf16"))}
    monkeypatch.setattr(peer, "_listen", lambda messages: [messages.put(message) for message in (what, state)])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for name in ("Processes", "meeting_point"):
        monkeypatch.setattr(peer, name, lambda *_: None)
    with pytest.raises(UserError, match=r"on the node .* this CPU has no units for bf16"):
        peer.main()


@pytest.mark.parametrize(("code", "error", "words"), [(REFUSED, UserError, "cannot take part"), (1, RuntimeError, "exit code 1")])
def test_the_first_process_reports_a_refusal_as_a_user_s_mistake(code: int, error: type[Exception], words: str) -> None:
    found = peers._lost([SimpleNamespace(poll=lambda: code)])  # type: ignore[list-item]
    assert type(found) is error
    assert words in str(found)


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
