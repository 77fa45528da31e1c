"""The description of an agent without its weights. Without torch."""

from dataclasses import dataclass

from diamond_bench.config import ActorCriticConfig, ConditioningConfig, NetworkConfig, Objective, RewardEndConfig, WorldSettings


@dataclass(frozen=True)
class AgentDescription:
    """All that is needed to build an agent again, except its weights."""

    objective: Objective
    conditioning: ConditioningConfig
    network: NetworkConfig
    reward_end: RewardEndConfig
    actor_critic: ActorCriticConfig
    num_actions: int
    frame_size: int
    model_free: bool
    """An actor-critic alone, without a world model."""
    game: str
    family: WorldSettings | None = None
    """The family of its world model. None is diamond, or no world model at all."""
