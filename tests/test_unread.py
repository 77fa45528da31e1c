"""Settings that nothing reads: refused where somebody sets them, and in no identity."""

from dataclasses import replace

import pytest
from presets import objective

from diamond_bench.config import ConditioningConfig, FactoredObjective, RunConfig, TrainingConfig
from diamond_bench.errors import UserError
from diamond_bench.studies.plan import plan_study
from diamond_bench.studies.unread import check_read, in_effect

FLOW, DDPM = objective("flow"), objective("ddpm")


@pytest.mark.parametrize(
    ("key", "config"),
    [
        ("objective.loc", RunConfig(objective=FLOW)),
        ("objective.scale", RunConfig(objective=DDPM)),
        ("objective.sigma_max", RunConfig(objective=DDPM)),
        ("objective.beta_end", RunConfig()),
        ("objective.min_snr", RunConfig()),
        ("conditioning.history_channels", RunConfig()),
        ("conditioning.attended_levels", RunConfig()),
        ("conditioning.action_width", RunConfig(conditioning=ConditioningConfig(actions="none"))),
    ],
)
def test_what_nothing_reads_is_refused_and_changes_nothing(key: str, config: RunConfig) -> None:
    with pytest.raises(UserError, match=f"{key}: it would change nothing with "):
        check_read([key], config)
    group, _, name = key.partition(".")
    value = getattr(getattr(config, group), name)
    other = replace(getattr(config, group), **{name: value[:1] if isinstance(value, tuple) else value + 0.125})
    assert in_effect(replace(config, **{group: other})) == in_effect(config)


@pytest.mark.parametrize(
    ("key", "config"),
    [
        ("objective.loc", RunConfig()),
        ("objective.sigma_max", RunConfig(objective=FLOW)),
        ("objective.beta_end", RunConfig(objective=replace(FLOW, noise_told="timestep"))),
        ("objective.min_snr", RunConfig(objective=FactoredObjective(loss_weight="min_snr"))),
        ("conditioning.history_channels", RunConfig(conditioning=ConditioningConfig(frames="both"))),
        ("conditioning.action_width", RunConfig(conditioning=ConditioningConfig(actions="planes"))),
    ],
)
def test_what_is_read_is_kept(key: str, config: RunConfig) -> None:
    check_read([key], config)
    group, _, name = key.partition(".")
    value = getattr(getattr(config, group), name)
    other = replace(getattr(config, group), **{name: value[:1] if isinstance(value, tuple) else value + 0.125})
    assert in_effect(replace(config, **{group: other})) != in_effect(config)


def test_rounding_between_autoregressive_steps_counts_where_there_are_any() -> None:
    for steps in (0, 1):
        config = RunConfig(training=TrainingConfig(num_autoregressive_steps=steps))
        rounded = replace(config, objective=FactoredObjective(quantization="round"))
        assert (in_effect(rounded) == in_effect(config)) == (steps == 0)


def test_a_plan_refuses_and_shares() -> None:
    with pytest.raises(UserError, match=r"objective.loc: it would change nothing with objective.noise_levels=timesteps"):
        plan_study("atari_100k", ["objective=ddpm", "sampler=ddpm_ancestral", "objective.loc=0.5", "scale=tiny"])
    trained = {job for frames in ([], ["conditioning=stack"]) for job in plan_study("conditioning_frames", ["scale=smoke", *frames]).jobs}
    assert len([job for job in trained if job.kind == "train_world_model"]) == 4
