"""What each kind of job says of its cost, and who asks it."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from test_floors import ROOT, imports

from diamond_bench.config import ActorCriticConfig, AgentConfig, Resources, SlurmCluster
from diamond_bench.launch.local import begin_order
from diamond_bench.launch.resources import resources
from diamond_bench.store.artifacts import Store
from diamond_bench.store.cost import NOTHING, Checkpoint, Inputs, JobCost
from diamond_bench.store.jobspec import JobSpec
from diamond_bench.store.kinds import KINDS, Kind, TrainAgent
from diamond_bench.studies.estimate import checkpoint_intervals, estimate, input_configs
from diamond_bench.studies.plan import plan_study
from diamond_bench.worlds.oracle import Oracle

PINNED: dict[tuple[str, ...], dict[str, tuple[float, float, float, float]]] = {
    ("sampling_steps", "scale=paper", "seeds=[0]", "games=[Pong]"): {
        "collect_dataset": (704800.0, 352400000.0, 0.0, 3.0),
        "train_world_model": (1.16945584128e17, 158646636.0, 0.0, 3.0),
        "extract_features": (456000000000000.0, 327680000.0, 327680000.0, 3.0),
        "evaluate_world_model": (1.1287685234688e17, 448512000.0, 983040000.0, 24013.333333333332),
    },
    ("sampling_steps", "scale=tiny"): {
        "collect_dataset": (472.0, 236000.0, 0.0, 3.0),
        "train_world_model": (20713144320.0, 1364076.0, 0.0, 3.0),
        "evaluate_world_model": (72496005120.0, 1482240.0, 0.0, 20.285714285714285),
    },
    ("sampling_steps_agent", "scale=smoke"): {
        "train_agent": (3708385310720.0, 38025072.0, 0.0, 24.0),
        "evaluate_agent": (16000.0, 0.0, 0.0, 6.0),
    },
    ("conditioning_frames", "scale=paper", "seeds=[0]", "games=[Pong]"): {
        "collect_dataset": (704800.0, 352400000.0, 0.0, 3.0),
        "train_world_model": (4.675199827968e17, 643408560.0, 0.0, 12.0),
        "train_state_probe": (37446746112000.0, 127512.0, 0.0, 3.0),
        "evaluate_world_model": (3.3018598785024e16, 299008000.0, 0.0, 9584.0),
    },
}
"""By study and overrides, summed by kind: work, bytes, passing bytes, fixed seconds on the CPU; of the commit before kinds had costs. The
bytes of agents also have the games in imagination since then, and the seconds of evaluations the measured speed of SSIM."""


@pytest.mark.parametrize("words", PINNED, ids=" ".join)
def test_sums_over_a_study_are_those_of_earlier_versions(words: tuple[str, ...]) -> None:
    plan = plan_study(words[0], words[1:])
    found: dict[str, list[float]] = {}
    for spec in plan.jobs.values():
        cost, inputs = KINDS[spec.kind].costs, input_configs(spec, plan.jobs)
        numbers = (cost.work(spec.config, inputs), cost.disk(spec.config, inputs), cost.passing_disk(spec.config, inputs))
        of_kind = found.setdefault(spec.kind, [0.0] * 4)
        found[spec.kind] = [a + b for a, b in zip(of_kind, (*numbers, cost.fixed_seconds(spec.config, "cpu")), strict=True)]
    assert found.keys() == PINNED[words].keys()
    for kind, numbers in PINNED[words].items():
        assert found[kind] == pytest.approx(numbers, rel=1e-12), kind


def test_every_kind_that_a_study_plans_has_a_cost_of_its_own() -> None:
    without = {name for name, kind in KINDS.items() if kind.costs is NOTHING}
    assert without == {"import_agent", "import_world_model"}, "an import takes seconds"


def test_an_agent_in_the_true_dynamics_takes_their_time_and_measures_no_other_agent() -> None:
    agent = AgentConfig(
        budget=30, initial_steps=10, steps_per_epoch=10, final_epochs=0, first_actor_critic_updates=3, actor_critic_updates=2
    )
    learned = TrainAgent("synthetic/turn", 0, agent=agent, actor_critic=ActorCriticConfig(batch_size=20))
    oracle, cost = replace(learned, family=Oracle()), KINDS["train_agent"].costs
    assert cost.arithmetic(oracle, {}).network not in ("", cost.arithmetic(learned, {}).network)
    steps = (3 + 2 * 2) * 15 * 20
    assert cost.fixed_seconds(oracle, "cpu") == pytest.approx(12.0 + steps / 2000.0)
    assert cost.fixed_seconds(learned, "cpu") == 12.0


# ------------------------------------------------------------------------------------------------ a kind of one's own


@dataclass(frozen=True)
class Brew:
    cups: int


def _cups(config: Brew, inputs: Inputs) -> float:
    return float(config.cups + (inputs["water"].cups if "water" in inputs else 0))


BREW = JobCost(
    _cups,
    fixed_seconds=lambda config, device: 60.0,
    disk=lambda config, inputs: 1e9 * config.cups,
    passing_disk=lambda config, inputs: 3e9 * config.cups,
    checkpoint=lambda config: Checkpoint("brew.every", 1, config.cups),
)


@pytest.fixture
def brews(monkeypatch: pytest.MonkeyPatch) -> dict[Any, JobSpec]:
    monkeypatch.setitem(KINDS, "brew", Kind(Brew, "nowhere:run", 1, optional=("water",), cost=f"{__name__}:BREW"))
    water = JobSpec("brew", Brew(2))
    cups = [JobSpec("brew", Brew(number), {"water": water.ref}) for number in (10, 30, 20)]
    return {spec.ref: spec for spec in (water, *cups)}


def test_a_new_kind_is_estimated_by_its_row_alone(brews: dict[Any, JobSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("estimate", "speed"):
        monkeypatch.setattr(f"diamond_bench.studies.{module}.slowness", lambda: 1.0)
    found = estimate(brews, brews, Store(tmp_path), {})
    assert found.gigabytes == 62
    assert found.passing_gigabytes == 90
    frames = 2 + 12 + 32 + 22
    assert found.device_hours * 3600 == pytest.approx(8.0 + 4 * 60.0 + frames / 1500.0)
    every = checkpoint_intervals(brews, list(brews)[2:3], Store(tmp_path), {}, lambda kind: False)
    (interval,) = every.values()
    assert interval[:2] == (pytest.approx(32 / 6e10 / 30), "brew.every=1")


def test_the_longest_with_the_same_inputs_begins_first(brews: dict[Any, JobSpec], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "stew", KINDS["brew"])
    (water, *_) = brews
    stew = JobSpec("stew", Brew(25), {"water": water})
    order = begin_order({**brews, stew.ref: stew}, KINDS)
    assert [{**brews, stew.ref: stew}[ref].config.cups for ref in sorted(order, key=order.__getitem__)] == [2, 30, 25, 20, 10]


def test_resources_come_from_the_group_then_the_row_then_the_profile(brews: object, monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(KINDS["train_agent"], resources=Resources(gpus=2, memory="64G"))
    monkeypatch.setitem(KINDS, "train_agent", row)
    cluster = SlurmCluster(gpus=1, memory="16G", cpus=4, train_agent=Resources(memory="32G"))
    asked = resources(cluster, "train_agent")
    assert (asked.gpus, asked.memory, asked.cpus) == (2, "32G", 4)
    assert [resources(cluster, kind).gpus for kind in ("brew", "collect_dataset", "evaluate_agent")] == [1, 0, 1]


# ------------------------------------------------------------------------------------------------ who knows what


def test_what_estimates_and_launches_names_no_kind_and_no_network() -> None:
    package = ROOT / "diamond_bench"
    asking = [*(package / "launch").rglob("*.py"), package / "studies" / "estimate.py", package / "studies" / "speed.py"]
    known = {f"diamond_bench.store.kinds.{kind.config.__name__}" for kind in KINDS.values()}
    rooms = ("diamond_bench.models", "diamond_bench.costs", "diamond_bench.worlds", "diamond_bench.diffusion")
    found = [f"{file.name}: {name}" for file in asking for name in imports(file.read_text()) if name in known or name.startswith(rooms)]
    assert found == []


def test_from_the_study_file_to_the_sampler_no_cost_code_is_passed() -> None:
    """The files that docs/architecture.md names on this way."""
    section = (ROOT / "docs" / "architecture.md").read_text().partition("## From the study file to the sampler\n")[2].partition("\n## ")[0]
    files = [ROOT / "docs" / link for link in re.findall(r"\]\((\.\./diamond_bench/[^)]+\.py)\)", section)]
    assert len(files) >= 8
    passed = [f"{file.name}: {name}" for file in files for name in imports(file.read_text()) if name.startswith("diamond_bench.costs")]
    assert passed == []
