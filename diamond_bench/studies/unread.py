"""Settings without effect, given the others: they are refused if a user sets them, and change no identity."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from diamond_bench.config import (
    OBJECTIVES,
    ConditioningConfig,
    EnvConfig,
    ExecutionConfig,
    FactoredObjective,
    HeadsConfig,
    RewardEndConfig,
    RunConfig,
    option_of,
)
from diamond_bench.envs.games import unread_settings
from diamond_bench.errors import UserError
from diamond_bench.metrics import all_metrics

_TIMESTEPS = ("num_train_timesteps", "beta_start", "beta_end")
_HISTORY = ("history_depths", "history_channels", "attended_levels")


def check_read(keys: Iterable[str], config: RunConfig) -> None:
    """Raises UserError for the first of the dotted keys that has no effect."""
    unread = dict(_unread(config))
    for key in keys:
        if key in unread:
            raise UserError(f"{key}: it has no effect with {unread[key]}")


@lru_cache(maxsize=4096)
def in_effect(config: RunConfig) -> RunConfig:
    """The config with neutral values for settings without effect, so that equal trainings have one identity."""
    objective: dict[str, Any] = {}
    conditioning: dict[str, Any] = {}
    env: dict[str, Any] = {}
    execution: dict[str, Any] = {}
    heads: dict[str, Any] = {}
    lstm: dict[str, Any] = {}
    groups = {
        "objective": (objective, FactoredObjective()),
        "conditioning": (conditioning, ConditioningConfig()),
        "env": (env, EnvConfig()),
        "execution": (execution, ExecutionConfig()),
        "network.heads": (heads, HeadsConfig()),
        "network.heads.lstm": (lstm, RewardEndConfig()),
    }
    for key, _ in _unread(config):
        group, _, name = key.rpartition(".")
        if group in groups:  # the probe's settings enter no job that does not use them
            values, neutral = groups[group]
            values[name] = getattr(neutral, name)
    if not config.training.num_autoregressive_steps and isinstance(config.objective, FactoredObjective):
        objective["quantization"] = FactoredObjective().quantization  # no training on the model's own frames
    return replace(
        config,
        objective=replace(config.objective, **objective),
        conditioning=replace(config.conditioning, **conditioning),
        env=replace(config.env, **env),
        execution=replace(config.execution, **execution),
        network=replace(config.network, heads=replace(config.network.heads, **heads, lstm=replace(config.network.heads.lstm, **lstm))),
    )


def _unread(config: RunConfig) -> Iterator[tuple[str, str]]:
    """(dotted key, reason) of the settings without effect. A user's own objective or conditioning may use any of them."""
    o, c = config.objective, config.conditioning
    if option_of(o).function == OBJECTIVES["edm"].function:
        if o.noise_levels != "log_normal":
            yield from ((f"objective.{name}", f"objective.noise_levels={o.noise_levels}") for name in ("loc", "scale"))
        if o.noise_levels == "timesteps":
            yield from ((f"objective.{name}", "objective.noise_levels=timesteps") for name in ("sigma_min", "sigma_max"))
        if not o.uses_timesteps:
            why = f"objective.noise_levels={o.noise_levels} and objective.noise_conditioning={o.noise_conditioning}"
            yield from ((f"objective.{name}", why) for name in _TIMESTEPS)
        new = o.coordinate == "change" or o.sigma_data == "measured"  # in others, an identity includes settings without effect
        if new and "edm" not in (o.parameterization, o.input_scaling, o.loss_weight):
            yield "objective.sigma_data", f"objective.parameterization={o.parameterization} and objective.input_scaling={o.input_scaling}"
        if o.loss_weight != "min_snr":
            yield "objective.min_snr", f"objective.loss_weight={o.loss_weight}"
    yield from _of_heads(config.network.heads)
    yield from _of_metrics(config.evaluation.metrics)
    if c.frames == "stack":
        yield from ((f"conditioning.{name}", "conditioning.frames=stack") for name in _HISTORY)
    if c.frames == "stack" and config.evaluation.world_model is None:
        yield "execution.encode_past", "conditioning.frames=stack"
    if c.actions == "none":
        yield "conditioning.action_width", "conditioning.actions=none"
    if config.data.dataset is None:
        own = ("stacked_frames", "link_frames", "heldout")
        yield from ((f"data.{key}", "a game to collect data from (data.dataset=null)") for key in own)
    if config.data.dataset is not None:
        yield "env.pooling", "a dataset of your own (data.dataset)"
    else:
        yield from ((f"env.{name}", why) for name, why in unread_settings(config.game, config.env))


def _of_heads(heads: HeadsConfig) -> Iterator[tuple[str, str]]:
    """The keys of the heads of rewards and ends that the others leave without effect."""
    weights = ("reward_weight", "end_weight")
    found: dict[str, tuple[str, ...]] = {f"reads={heads.reads}": ("sigma",) * (heads.reads != "extra")}
    if not heads.on_trunk:
        found[f"reads={heads.reads}"] += ("width", "memory", "gradient", "weights", *weights)
    elif not heads.gradient:
        found["gradient=false"] = ("weights", *weights)
    elif heads.weights == "harmonised":
        found["weights=harmonised"] = weights
    if heads.reads != "frames":
        found[f"reads={heads.reads}"] += tuple(f"lstm.{name}" for name in vars(RewardEndConfig()))
    else:
        found["reads=frames, since static data has all final frames"] = ("lstm.final_frames",)
    for why, names in found.items():
        yield from ((f"network.heads.{name}", f"network.heads.{why}") for name in names)


def _of_metrics(requested: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The keys that only metrics read which are not requested."""
    readers: dict[str, list[str]] = {}
    for metric in all_metrics().values():
        for key in metric.reads:
            readers.setdefault(key, []).append(metric.name)
    for key, names in readers.items():
        if not set(names) & set(requested):
            yield key, f"metrics that leave out {' and '.join(names)}"
