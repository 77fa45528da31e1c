"""Settings that nothing reads: refused where somebody sets them, and in no identity."""

from dataclasses import replace

import pytest
from presets import objective

from diamond_bench.config import ConditioningConfig, DataConfig, EnvConfig, FactoredObjective, RunConfig, TrainingConfig
from diamond_bench.errors import UserError
from diamond_bench.store.kinds import CollectDataset, EvaluateAgent, TrainAgent
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
    with pytest.raises(UserError, match=f"{key}: it has no effect with "):
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
        ("objective.beta_end", RunConfig(objective=replace(FLOW, noise_conditioning="timestep"))),
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
    with pytest.raises(UserError, match=r"objective.loc: it has no effect with objective.noise_levels=timesteps"):
        plan_study("atari_100k", ["objective=ddpm", "sampler=ddpm_ancestral", "objective.loc=0.5", "scale=tiny"])
    trained = {job for frames in ([], ["conditioning=stack"]) for job in plan_study("conditioning_frames", ["scale=smoke", *frames]).jobs}
    assert len([job for job in trained if job.kind == "train_world_model"]) == 4


@pytest.mark.parametrize(
    "config", [RunConfig(game="synthetic/turn"), RunConfig(data=DataConfig(dataset="mine")), RunConfig(env=EnvConfig(frame_skip=1))]
)
def test_pooling_is_refused_and_neutral_where_no_screens_are_pooled(config: RunConfig) -> None:
    with pytest.raises(UserError, match=r"env.pooling: it has no effect with "):
        check_read(["env.pooling"], config)
    pooled = replace(config, env=replace(config.env, pooling="in_place"))
    assert in_effect(pooled) == in_effect(config)


def test_atari_pools_in_place_and_older_artifacts_are_reached_by_raw() -> None:
    def configs(study: str, *tokens: str) -> list[object]:
        return [job.config for job in plan_study(study, ["scale=tiny", *tokens]).jobs.values()]

    for tokens, pooling in (([], "in_place"), (["env.pooling=raw"], "raw"), (["games=[synthetic/turn]"], "raw")):
        (dataset,) = {config for config in configs("sampling_steps", *tokens) if isinstance(config, CollectDataset)}
        assert dataset.env == EnvConfig(frame_size=dataset.env.frame_size, pooling=pooling)
    agent = configs("atari_100k", "games=[Pong]", "seeds=1")
    assert {config.env.pooling for config in agent if isinstance(config, TrainAgent)} == {"in_place"}
    assert {config.env for config in agent if isinstance(config, EvaluateAgent)} == {EnvConfig()}


def test_stacked_frames_are_a_matter_of_your_own_data() -> None:
    with pytest.raises(UserError, match=r"data.stacked_frames: it has no effect with a game to collect data from"):
        plan_study("sampling_steps", ["scale=tiny", "data.stacked_frames=newest"])
    check_read(["data.stacked_frames"], RunConfig(data=DataConfig(dataset="mine")))
