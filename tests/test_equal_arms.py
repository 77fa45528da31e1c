"""Arms that claim an equal cost have it, at the scales for which their study claims it. From the plans alone."""

from typing import Any

import pytest

from diamond_bench.costs.world_model import frame_flops, parameters, update_flops
from diamond_bench.studies.plan import plan_study


def costs(study: str, scale: str) -> dict[str, dict[str, float]]:
    """By arm: FLOP of the whole training, FLOP per imagined frame, and trained parameters."""
    found = {}
    plan: Any = plan_study(study, [f"scale={scale}", "games=Breakout", "seeds=[0]"])
    for point in plan.points:
        dataset, training, evaluation = (plan.jobs[point.jobs[role]].config for role in ("dataset", "world_model", "evaluation"))
        frames = dataset.env.frames
        found[point.arm] = {
            "training FLOP": update_flops(training, frames) * training.training.num_steps,
            "FLOP per frame": frame_flops(training, evaluation.sampler, frames),
            "parameters": parameters(training, frames),
        }
    return found


@pytest.mark.parametrize("scale", ["paper", "small"])
@pytest.mark.parametrize(("study", "reference"), [("joint_trunk", "LSTM"), ("world_model_families", "diffusion")])
def test_equal_arms_cost_what_their_reference_does(study: str, reference: str, scale: str) -> None:
    found = costs(study, scale)
    equal = {arm: what for arm in found if (what := arm.partition(", equal ")[2])}
    assert len(equal) == {"joint_trunk": 1, "world_model_families": 6}[study]
    for arm, what in equal.items():
        assert found[arm][what] == pytest.approx(found[reference][what], rel=0.1), arm
        plain = arm.partition(",")[0]
        assert found[plain][what] != pytest.approx(found[reference][what], rel=0.1), f"{plain} needs no arm of its own"
    if study == "joint_trunk":
        assert found["memory"]["training FLOP"] == pytest.approx(found["joint"]["training FLOP"], rel=0.1)
        assert found["extra call"]["training FLOP"] == pytest.approx(2 * found["joint"]["training FLOP"], rel=0.1)


@pytest.mark.parametrize("scale", ["smoke", "laptop"])
def test_both_networks_of_the_separate_arm_have_one_schedule_and_optimiser(scale: str) -> None:
    """The gradient limits differ, as the authors' do."""
    plan = plan_study("joint_trunk", [f"scale={scale}", "seeds=[0]"])
    configs: dict[str, Any] = {point.arm: plan.jobs[point.jobs["world_model"]].config for point in plan.points}
    training, own = configs["LSTM"].training, configs["LSTM"].network.heads.lstm
    assert training.cooldown == 0, "the separate network has no cooldown"
    for name in ("learning_rate", "adam_beta2", "adam_epsilon", "weight_decay", "warmup_steps", "batch_size"):
        assert getattr(own, name) == getattr(training, name), name
    assert all(config.training == training for config in configs.values())
