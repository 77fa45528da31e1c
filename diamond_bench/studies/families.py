"""Settings that the family of a run's world model does not use, and refusals of runs by the family. Without torch."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from diamond_bench.config import ConditioningConfig, RunConfig, predicts_outcomes, world_family
from diamond_bench.errors import UserError

OPTIONAL = (
    *("objective", "conditioning", "network", "training.num_autoregressive_steps", "sampler"),
    *("execution.precision", "execution.compile", "execution.sampling_streams", "execution.encode_past"),
)
"""Groups and keys that a trained family uses only if it declares so (`WorldFamily.reads`)."""
_DIAMOND = (
    *("objective", "network", "training", "sampler"),
    *("execution.compile", "execution.cuda_graphs", "execution.sampling_streams", "execution.encode_past"),
)
_UNTRAINED = {
    "world_model": (
        *_DIAMOND,
        "conditioning",
        "execution.precision",
        "evaluation.milestone",
        "evaluation.weights",
        "evaluation.world_model",
    ),
    "agent": (
        *_DIAMOND,
        *(f"conditioning.{name}" for name in vars(ConditioningConfig()) if name != "num_frames"),
        "reward_end",
        *("agent.first_denoiser_updates", "agent.denoiser_updates", "agent.first_reward_end_updates", "agent.reward_end_updates"),
        "agent.model_free",
    ),
}
"""Settings that no untrained family uses, by protocol. An agent's start segments still have `conditioning.num_frames` frames."""

_OUTCOMES = ("reward_end", "agent.first_reward_end_updates", "agent.reward_end_updates")
"""Settings of the separate model of rewards and ends, which an agent has unless its world model predicts them itself."""


def _unread(config: Any, protocol: str) -> tuple[str, ...]:
    family = world_family(getattr(config, "family", None))
    if not family.trained:
        return _UNTRAINED[protocol]
    alone = protocol == "agent" and predicts_outcomes(config)
    return (*(key for key in OPTIONAL if key not in family.reads), *(_OUTCOMES if alone else ()))


def reads(config: Any, key: str, protocol: str) -> bool:
    """Whether the world model of a run or a job uses a setting, given by its dotted key or as group/key."""
    return not any(key == name or key.startswith((f"{name}.", f"{name}/")) for name in _unread(config, protocol))


class UnreadSettings:
    """The settings of a study that no variant uses because of its family. Settings that at least one variant uses are accepted."""

    def __init__(self, protocol: str) -> None:
        self._protocol = protocol
        self._read: set[str] = set()
        self._unread: dict[str, str] = {}

    def of_variant(self, keys: Iterable[str], config: RunConfig) -> list[str]:
        """The keys, among those that a variant sets, that its family uses."""
        ignored = {key for key in keys if not reads(config, key, self._protocol)}
        read = [key for key in keys if key not in ignored]
        self._read.update(read)
        why = f"family={config.family.name}" if config.family is not None else f"network.heads.reads={config.network.heads.reads}"
        self._unread |= dict.fromkeys(ignored, why)
        return read

    def check(self) -> None:
        """Raises UserError for the first key that no variant uses."""
        for key, why in self._unread.items():
            if key not in self._read:
                raise UserError(f"{key}: it has no effect with {why}")


def is_imported(world_model: str) -> bool:
    """Whether `evaluation.world_model` names an imported world model, in the form kind/id."""
    return world_model.startswith("import_world_model/")


def of_family(config: RunConfig, protocol: str) -> RunConfig:
    """The config with neutral values for everything that its family does not use. Raises UserError if the family refuses the run."""
    if config.family is not None:
        world_family(config.family).check(config.family, config, protocol)
    for key in _unread(config, protocol):
        config = _reset(config, key)
    return config


def _reset(config: RunConfig, key: str) -> RunConfig:
    """The config with the neutral value of a group, or of a key in one."""
    group, _, name = key.partition(".")
    neutral = getattr(RunConfig(), group)
    if name:
        neutral = replace(getattr(config, group), **{name: getattr(neutral, name)})
    return replace(config, **{group: neutral})
