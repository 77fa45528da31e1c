"""What a sweep will take: a range, learned from the store, else from a timing of this machine."""

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from test_report import finish, planned

from diamond_bench.printing import print_plan
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import sealed, write_json
from diamond_bench.studies import device_notes, execution
from diamond_bench.studies import estimate as estimating
from diamond_bench.studies import speed as speeds
from diamond_bench.studies.estimate import estimate, job_work, time_range
from diamond_bench.studies.plan import Plan
from diamond_bench.studies.single import plan_profile
from diamond_bench.studies.speed import Speed
from diamond_bench.terminal import SafeConsole

TIMING = speeds.slowness


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (20 / 3600, 69.2 / 3600, "20 to 70 seconds"),
        (2 / 60, 6 / 60, "2 to 6 minutes"),
        (1.49 / 60, 131.1 / 60, "89 seconds to 3 hours"),
        (99.1 / 60, 119 / 60, "99 to 120 minutes"),
        (0.4, 3.2, "24 minutes to 4 hours"),
        (356.2, 1234.0, "350 to 1,300 hours"),
    ],
)
def test_a_range_is_rounded_outwards_to_two_digits(low: float, high: float, words: str) -> None:
    assert time_range(low, high) == words


@pytest.fixture(autouse=True)
def slowness(monkeypatch: pytest.MonkeyPatch) -> float:
    """A machine half as fast as the reference core."""
    for module in (speeds, estimating):
        monkeypatch.setattr(module, "slowness", lambda: 2.0)
    return 2.0


def run(store: Store, plan: Plan, rate: float, concurrent: float) -> float:
    """Finishes a plan's jobs as a machine does that makes `rate` FLOP/s and takes `beside` seconds beside that; returns the seconds."""
    total = 0.0
    for spec in plan.jobs.values():
        finish(store, spec)
        work = job_work(spec, plan.jobs)
        seconds = work / rate if spec.inputs else 1.0
        file = store.folder(spec.ref) / "result.json"
        content: dict[str, Any] = {"rows": [], "files": {}, "id": spec.id, "info": {"work": work, "work_seconds": seconds}}
        write_json(file, sealed({**content, "recorded": {"device": "cpu", "seconds": seconds + concurrent}}))
        total += seconds + concurrent
    return total


@pytest.mark.parametrize(("rate", "concurrent"), [(1e8, 0.5), (1e9, 5.0), (1e7, 60.0)])
def test_what_the_store_has_seen_is_expected_again(rate: float, concurrent: float, tmp_path: Path) -> None:
    store = Store(tmp_path / "outputs", say=lambda text: None)
    actual = run(store, planned(tmp_path, ["execution.device=cpu"]), rate, concurrent)
    other = planned(tmp_path, ["execution.device=cpu", "data.seed=1"])
    found = estimate(other.jobs, other.jobs, store)
    start = speeds.START_SECONDS * 2.0
    assert found.device_hours * 3600 == pytest.approx(actual + start, rel=0.05)
    assert found.low_hours * 3600 < actual + start < found.high_hours * 3600
    assert found.high_hours / found.low_hours < 4  # wider than a job's own range: the start of the worker is not measured
    assert "measured on jobs in this store" in found.basis
    assert "timing" not in found.basis


def test_without_finished_jobs_a_timing_of_the_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "outputs")
    plan = planned(tmp_path, ["execution.device=cpu"])
    found = estimate(plan.jobs, plan.jobs, store)
    assert "from a timing of this machine" in found.basis
    for module in (speeds, estimating):
        monkeypatch.setattr(module, "slowness", lambda: 6.0)
    slower = estimate(plan.jobs, plan.jobs, store)
    assert slower.device_hours == pytest.approx(3 * found.device_hours)
    assert slower.low_hours == pytest.approx(3 * found.low_hours)
    assert not store.root.exists()


def test_a_gpu_is_assumed_within_a_wide_range(tmp_path: Path) -> None:
    plan = planned(tmp_path, ["execution.device=cuda"])
    trainings = [ref for ref in plan.jobs if ref.kind == "train_world_model"]
    found = estimate(plan.jobs, trainings, Store(tmp_path / "outputs"))
    assert "assumed (3e+13 FLOP/s on a GPU)" in found.basis
    assert found.high_hours / found.low_hours > 8


@pytest.mark.parametrize(
    ("tokens", "units", "words"),
    [
        (["execution.precision=bf16", "execution.device=cpu"], False, "bf16: this CPU has no units"),
        (["execution.precision=bf16", "execution.device=cpu"], True, None),
        (["execution.precision=bf16", "execution.device=cpu"], None, None),
        (["execution.precision=bf16", "execution.device=cuda"], False, None),
        (["execution.precision=auto", "execution.device=cpu"], True, "auto: on this CPU bf16, because it has units"),
        (["execution.precision=auto", "execution.device=cpu"], False, "auto: on this CPU fp32, because it lists no units"),
        (["execution.precision=auto", "execution.device=cpu"], None, "auto: on this CPU fp32, because its flags are unknown"),
        (["execution.precision=auto", "execution.device=cuda"], False, "auto: bf16 on a GPU of compute capability 8.0 or higher"),
        (["execution.device=cpu"], False, None),
    ],
)
def test_the_meaning_of_a_precision_on_this_machine_is_named(
    tokens: list[str], units: bool | None, words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_notes, "bf16_units", lambda: units)
    plan = planned(tmp_path, tokens)
    for gpu in (True, False):
        notes = device_notes.precision_notes(plan.jobs, plan.jobs, gpu)
        assert len(notes) == (words is not None), notes
        assert words is None or words in notes[0]


@pytest.mark.parametrize(("visible", "words"), [("", "on this CPU fp32"), ("0", "bf16 on a GPU of compute capability")])
def test_the_precision_of_a_device_left_open_is_that_of_the_device_that_jobs_get(
    visible: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device_notes, "bf16_units", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    plan = planned(tmp_path, ["execution.precision=auto"])
    print_plan(SafeConsole(width=400), plan, Store(tmp_path / "outputs"), as_json=False)
    assert f"execution.precision=auto: {words}" in capsys.readouterr().out
    large = planned(tmp_path, ["family=transformer"])
    assert bool(device_notes.slow_sizes(large.jobs, large.jobs, gpu=visible != "")) == (visible == "")


@pytest.mark.parametrize(("asked", "number"), [("auto", 1), ("bf16", 0)])
def test_nodes_of_a_cluster_decide_on_their_own(asked: str, number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(tmp_path, ["cluster=slurm", f"execution.precision={asked}"])
    print_plan(SafeConsole(width=400), plan, Store(tmp_path / "outputs"), as_json=False)
    shown = capsys.readouterr().out
    assert shown.count("execution.precision=auto: each node decides by its own device, so request nodes of one kind") == number
    assert "this CPU" not in shown


@pytest.mark.parametrize(
    ("tokens", "named"),
    [
        (["family=transformer", "execution.device=cpu"], ["family=transformer"]),
        (["family=transformer", "execution.device=cuda"], []),
        (["family=transformer_small", "execution.device=cpu"], []),
        (["execution.device=cpu"], []),
    ],
)
def test_a_family_of_full_size_on_a_cpu_is_named(tokens: list[str], named: list[str], tmp_path: Path) -> None:
    plan = planned(tmp_path, tokens)
    for gpu in (True, False):
        assert [sentence.partition(":")[0] for sentence in device_notes.slow_sizes(plan.jobs, plan.jobs, gpu)] == named


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 sse\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx2\n", False),
        ("processor: 0\n", None),
    ],
)
def test_units_for_bf16_are_read_from_the_processor_s_flags(text: str, units: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: text)
    assert execution.bf16_units() is units


def test_a_finished_job_without_work_tells_no_speed(tmp_path: Path) -> None:
    """Of two profiles in a store, the second divided by the speed of the first: no work in some seconds."""
    store = Store(tmp_path / "outputs", say=lambda text: None)
    first, second = (plan_profile(["scale=tiny", f"seed={seed}"], None, lambda device: ("cpu", "A processor")) for seed in (0, 1))
    run(store, first, 1e9, 5.0)
    (ref,) = second.jobs
    assert 0 < estimate(second.jobs, [ref], store).seconds[ref] < 60


def test_a_narrow_network_is_slower_per_operation() -> None:
    speed_class = ("train_world_model", "cpu", "network", "fp32")
    narrow, wide = (speeds.unmeasured(speed_class, width).rate for width in (8.0, 64.0))
    assert wide == 8 * narrow == speeds.NETWORK_FLOPS / 2


def test_far_from_what_was_measured_the_range_is_wider() -> None:
    near = Speed(1e9, 1.0, "measured", least=1e10, most=1e11)
    assert near.spread(5e9) == near.spread(5e11) < near.spread(5e12) == near.spread(5e8)
    assert near.spread(5e12) < dataclasses.replace(near, basis="timed").spread(1.0)


def test_the_timing_is_short_and_at_least_that_of_the_reference_core() -> None:
    began = time.monotonic()
    assert 1.0 <= TIMING.__wrapped__() < 1000.0
    assert time.monotonic() - began < 10
