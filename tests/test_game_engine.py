"""The study game_engine: its models have equal cost, and arms that differ in sampling share trainings."""

import pytest

from diamond_bench.config import world_family
from diamond_bench.envs.games import spec
from diamond_bench.studies.plan import plan_study

PER_FRAME = {"paper": (32893.3, 32242.9), "smoke": (85.4, 86.9)}
"""MFLOP of one stage and of the cascade."""


@pytest.mark.parametrize("scale", PER_FRAME)
def test_both_models_cost_the_same_within_two_percent(scale: str) -> None:
    plan = plan_study("game_engine", [f"scale={scale}", "seeds=1"])
    trained = {point.jobs["world_model"] for point in plan.points}
    assert len(trained) == 2, "all cascades of a seed are one training"
    frame, update = {}, {}
    for point in plan.points:
        training, dataset = plan.jobs[point.jobs["world_model"]].config, plan.jobs[point.jobs["dataset"]].config
        settings, world = training.family or training, spec(dataset.game, dataset.env)
        family, sampler = world_family(training.family), plan.jobs[point.jobs["evaluation"]].config.sampler
        frame[point.arm] = family.cost(settings, world, sampler).flops_per_frame / 1e6
        update[point.arm] = family.update_flops(settings, world, training.training)
    found = frame["one stage"], frame["cascade"]
    assert found == pytest.approx(PER_FRAME[scale], rel=1e-3)
    assert found[0] == pytest.approx(found[1], rel=0.021)
    assert update["one stage"] == pytest.approx(update["cascade"], rel=0.021), "as many loss terms in each stage"
    assert frame["three upsampling steps"] > 2 * frame["cascade"]
