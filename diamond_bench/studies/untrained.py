"""Runs whose family of world models is not trained: what they leave unread, and what they may not ask for. No torch."""

from collections.abc import Iterable
from dataclasses import replace

from diamond_bench.config import (
    AgentConfig,
    ConditioningConfig,
    EvaluationConfig,
    ExecutionConfig,
    FactoredObjective,
    NetworkConfig,
    OdeSampler,
    RewardEndConfig,
    RunConfig,
    TrainingConfig,
    world_family,
)
from diamond_bench.errors import UserError
from diamond_bench.studies.execution import of_no_compilation

_DIAMOND = ("objective", "network", "training", "sampler", "execution.compile", "execution.cuda_graphs", "execution.sampling_streams")
_UNREAD = {
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
"""Groups and keys of a trained world model, by protocol. An agent's start segments have `conditioning.num_frames` frames all the same."""


class UnreadSettings:
    """The settings of a study that no variant reads because of its family. Others, of a study with trained variants too, are left alone."""

    def __init__(self, protocol: str) -> None:
        self._protocol = protocol
        self._read: set[str] = set()
        self._unread: dict[str, str] = {}

    def of_variant(self, keys: Iterable[str], config: RunConfig) -> list[str]:
        """Those of the keys that a variant sets which its family reads."""
        if config.family is None:
            unread: tuple[str, ...] = ()
        else:
            unread = _UNREAD[self._protocol]
        ignored = {key for key in keys if any(key == name or key.startswith((f"{name}.", f"{name}/")) for name in unread)}
        read = [key for key in keys if key not in ignored]
        self._read.update(read)
        self._unread |= {key: config.family.name for key in ignored if config.family is not None}
        return read

    def check(self) -> None:
        """Raises UserError for the first key that no variant reads."""
        for key, family in self._unread.items():
            if key not in self._read:
                raise UserError(f"{key}: it would change nothing with family={family}")


def of_family(config: RunConfig, protocol: str) -> RunConfig:
    """The config with everything that its family does not read at its neutral value. Raises UserError where the family refuses the run."""
    if config.family is None:
        return config
    world_family(config.family).check(config.family, config, protocol)
    config = replace(config, objective=FactoredObjective(), network=NetworkConfig(), training=TrainingConfig(), sampler=OdeSampler())
    execution = replace(of_no_compilation(config.execution), cuda_graphs="none")
    if protocol == "agent":
        plain, names = AgentConfig(), ("first_denoiser_updates", "denoiser_updates", "first_reward_end_updates", "reward_end_updates")
        agent = replace(config.agent, model_free=False, **{name: getattr(plain, name) for name in names})
        conditioning = ConditioningConfig(config.conditioning.num_frames)
        return replace(config, conditioning=conditioning, reward_end=RewardEndConfig(), agent=agent, execution=execution)
    evaluation = replace(config.evaluation, milestone=1.0, weights=EvaluationConfig().weights, world_model=None)
    execution = replace(execution, precision=ExecutionConfig().precision)
    return replace(config, conditioning=ConditioningConfig(num_frames=1), evaluation=evaluation, execution=execution)
