"""What `sweep --dry-run` says of trainings on one and on eight GPUs: measured where a profile measured it, and never invented."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from command_line import in_this_process
from test_report import finish

from diamond_bench.profiling.device_plan import PUBLISHED_DAYS, DevicePlan, device_plan, makespan
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import sealed, write_json
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import EvaluateAgent, TrainAgent
from diamond_bench.studies import estimate as estimating
from diamond_bench.studies import speed as speeds
from diamond_bench.studies.estimate import estimate
from diamond_bench.studies.job_plan import Plan
from diamond_bench.studies.plan import plan_study
from diamond_bench.studies.single import plan_profile
from paper_figures.table5 import _ROWS

HOURS = 24 * PUBLISHED_DAYS


@pytest.fixture(autouse=True)
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations are estimated at the speed of the reference core, however busy this machine is."""
    for module in (speeds, estimating):
        monkeypatch.setattr(module, "slowness", lambda: 1.0)


@pytest.fixture(scope="module")
def plan() -> Plan:
    """26 trainings and their evaluations."""
    return plan_study("atari_100k", ["seeds=1"])


def planned(plan: Plan, store: Store) -> DevicePlan | None:
    states = store.states()
    missing = [ref for ref in plan.jobs if ref not in states]
    return device_plan(plan.jobs, missing, store, states, estimate(plan.jobs, missing, store, states))


def profiled(store: Store, when: str, lines: list[dict[str, Any]], device: str = "cuda:0", packed: tuple[int, ...] = ()) -> None:
    """Stores a finished profile of the paper's training."""
    (spec,) = plan_profile([f"execution.device={device}"], None, lambda device: (device, "A GPU"), packed=packed).jobs.values()
    finish(store, spec)
    content = {"rows": [], "files": {}, "id": spec.id, "info": {"lines": lines}, "recorded": {"finished": when}}
    write_json(store.folder(spec.ref) / "result.json", sealed(content))


def test_a_free_worker_takes_the_first_ready_job_in_the_order_of_a_sweep() -> None:
    trainings = [JobSpec("train_agent", TrainAgent("Pong", seed), {}) for seed in range(3)]
    evaluations = [JobSpec("evaluate_agent", EvaluateAgent(), {"agent": training.ref}) for training in trainings]
    jobs = {spec.ref: spec for pair in zip(trainings, evaluations, strict=True) for spec in pair}
    seconds: Mapping[JobRef, float] = {ref: 10.0 if ref.kind == "train_agent" else 1.0 for ref in jobs}
    assert makespan(jobs, seconds, 1) == 33.0
    assert makespan(jobs, seconds, 2) == 21.0, "two trainings, then the third and two evaluations at the same time, then its own evaluation"
    assert makespan(jobs, seconds, 8) == 11.0
    assert makespan(jobs, {ref: second for ref, second in seconds.items() if ref.kind == "evaluate_agent"}, 1) == 3.0


def test_without_a_measurement_the_hours_are_the_paper_s_and_an_assumption(plan: Plan, tmp_path: Path) -> None:
    found = planned(plan, Store(tmp_path / "outputs"))
    assert found is not None
    published, assumed = found.courses
    assert "RTX 4090" in published.speed.source
    assert published.hours == pytest.approx((26 * HOURS, 4 * HOURS), rel=0.01), "26 trainings on 8 GPUs are 4 rounds"
    assert published.words == ("about 1,800 hours", "about 280 hours")
    assert assumed.speed.source == "assumption: 3e+13 FLOP/s"
    assert assumed.hours[0] == pytest.approx(found.flop / 3e13 / 3600, rel=0.01)
    assert "speed of your GPU is unknown" in found.sentences[0]
    assert found.sentences[1].startswith("Order: 26 train_agent, 26 evaluate_agent.")
    assert "not measured" in found.sentences[3]


def test_the_published_days_are_those_of_table_5() -> None:
    assert [days for _, name, days, _ in _ROWS if name == "run"] == [PUBLISHED_DAYS]


def test_a_profile_of_a_gpu_replaces_the_assumption(plan: Plan, tmp_path: Path) -> None:
    store = Store(tmp_path / "outputs", say=lambda text: None)
    profiled(store, "2026-11-28", [{"name": "run", "median": 36000.0}])
    found = planned(plan, store)
    assert found is not None
    measured, published = found.courses
    assert measured.speed.source.startswith("profile ")
    assert "A GPU, precision=fp32" in measured.speed.source
    assert measured.hours == pytest.approx((260.0, 40.0), rel=0.01), "ten hours a run"
    assert measured.words[0] == "160 to 420 hours"
    assert "RTX 4090" in published.speed.source
    assert not any("unknown" in sentence for sentence in found.sentences)


def test_a_profile_of_a_processor_says_nothing_of_a_gpu(plan: Plan, tmp_path: Path) -> None:
    store = Store(tmp_path / "outputs", say=lambda text: None)
    profiled(store, "2026-11-28", [{"name": "run", "median": 36000.0}], device="cpu")
    found = planned(plan, store)
    assert found is not None
    assert [course.speed.measured for course in found.courses] == [False, False]


def test_packed_trainings_count_as_many_as_finish(plan: Plan, tmp_path: Path) -> None:
    """Four at once do 6 runs a day where one alone does 2.4: a run takes ten hours alone and sixteen among four."""
    store = Store(tmp_path / "outputs", say=lambda text: None)
    profiled(store, "2026-11-28", [{"name": "packed_4", "median": 6.0, "other": 2.4}], packed=(4,))
    found = planned(plan, store)
    assert found is not None
    alone, four = found.courses[:2]
    assert (alone.speed.at_once, four.speed.at_once) == (1, 4)
    assert alone.hours == pytest.approx((260.0, 40.0), rel=0.01)
    assert four.hours == pytest.approx((7 * 16.0, 16.0), rel=0.01), "26 trainings, 4 or 32 at once"
    assert "4 at once" in found.sentences[-1]
    assert "cluster.packed=4" in found.sentences[-1]


def test_the_command_prints_the_plan_of_long_trainings_alone(tmp_path: Path) -> None:
    said = " ".join(in_this_process("sweep", "atari_100k", "games=Pong", "--dry-run", cwd=tmp_path).stdout.split())
    assert "5 trainings of agents on GPUs" in said
    assert "assumption: 3e+13 FLOP/s" in said
    assert "8 GPUs" in said
    assert "Disk: " in said
    assert "on GPUs" not in in_this_process("sweep", "atari_100k", "scale=tiny", "--dry-run", cwd=tmp_path).stdout
    assert not list(tmp_path.iterdir())
