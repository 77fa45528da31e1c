"""The smallest agents that have every part."""

from diamond_bench.store.kinds import TrainAgent
from diamond_bench.studies.single import plan_train

_POLICY = ("scale=tiny", "env.frame_size=16", "agent.test_every=0", "actor_critic.channels=[8]", "actor_critic.down=[true]")
_WORLD = ("sampler.num_steps=1", "network.depths=[1]", "network.channels=[8]", "network.attention=[false]")
REWARD_END = ("reward_end.depths=[1]", "reward_end.channels=[8]", "reward_end.attention=[false]")


def small_agent_config(*tokens: str) -> TrainAgent:
    """A training's config, planned as `train` plans it. If a family is given, the size of its models is given, too."""
    models = () if "agent.model_free=true" in tokens or any(t.startswith("family=") for t in tokens) else (*_WORLD, *REWARD_END)
    plan = plan_train([*_POLICY, *models, *tokens])
    return next(spec.config for spec in plan.jobs.values() if spec.kind == "train_agent")
