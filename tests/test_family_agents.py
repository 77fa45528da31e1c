"""Agents that learn in a world model of any trained family, and the job that trains them."""

from pathlib import Path

import pytest
import torch
from small_agents import REWARD_END, small_agent_config
from test_train_agent import stopping_at

from diamond_bench.agent import load_agent
from diamond_bench.costs.train_agent import updates
from diamond_bench.errors import UserError
from diamond_bench.jobs import train_agent
from diamond_bench.jobs.agent_learners import Learners, Logged
from diamond_bench.jobs.context import Interrupted, JobContext
from diamond_bench.store.kinds import KINDS
from diamond_bench.studies.single import plan_train

SMALL = {
    "cascade": (
        *("family.factor=2", "sampler=fast", "sampler.num_steps=1"),
        *(
            f"family.{stage}.network.{key}"
            for stage in ("inner", "upsampler")
            for key in ("depths=[1]", "channels=[8]", "attention=[false]")
        ),
        *("family.inner.conditioning.num_frames=2", *REWARD_END),
    ),
    "tokens": (
        *("family.tokenizer.channels=8", "family.tokenizer.levels=4", "family.tokenizer.perceptual=false", "family.tokenizer.codes=8"),
        *("family.tokenizer.latent_channels=8", "family.tokenizer.code_width=8", "family.tokenizer.batch_size=4"),
        *("family.transformer.layers=1", "family.transformer.heads=1", "family.transformer.width=8", "family.transformer.num_frames=4"),
    ),
    "transformer": (
        *("family.network.layers=1", "family.network.heads=1", "family.network.width=8", "family.network.num_frames=4"),
        *("family.num_frames=2", "sampler.num_steps=1", *REWARD_END),
    ),
}
"""The smallest world model of each family."""
RUN = ("game=synthetic/turn", "seed=0", "agent.budget=60", "agent.initial_steps=40", "agent.max_initial_steps=40")


@pytest.mark.parametrize("family", SMALL)
def test_an_agent_learns_in_its_imagination_and_an_interruption_changes_no_byte(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once before imagination begins, and once within it: after a rollout that leaves its games unfinished."""
    config = small_agent_config(*RUN, f"family={family}", *SMALL[family], "actor_critic.steps_per_update=2", "actor_critic.horizon=3")
    whole = train_agent.run(config, JobContext(tmp_path / "whole"))
    with pytest.raises(Interrupted):
        train_agent.run(config, JobContext(tmp_path / "parts", should_stop=stopping_at([3])))
    rollouts, learn = list[str](), Learners._update_policy

    def noted(learners: Learners) -> Logged:
        rollouts.append(family)
        return learn(learners)

    monkeypatch.setattr(Learners, "_update_policy", noted)
    with pytest.raises(Interrupted):
        train_agent.run(config, JobContext(tmp_path / "parts", should_stop=lambda: bool(rollouts)))
    assert len(rollouts) == 1 < updates(config).actor_critic
    parts = train_agent.run(config, JobContext(tmp_path / "parts"))
    one, two = (load_agent(tmp_path / name / "agent") for name in ("whole", "parts"))
    assert one.description.family == config.family
    assert (one.reward_end is None) == (family == "tokens"), "a token model predicts rewards and ends itself"
    for name, network in one.networks.items():
        state, other = network.state_dict(), two.networks[name].state_dict()
        assert all(torch.equal(state[key], other[key]) for key in state), name
    count, done = updates(config), dict(whole.info["updates"])
    assert done == parts.info["updates"]
    assert done.pop("actor_critic") == count.actor_critic > 0
    assert done.pop("reward_end", 0) == count.reward_end
    assert set(done) == {"cascade": {"denoiser", "upsampler"}, "tokens": {"tokenizer", "transformer"}, "transformer": {"network"}}[family]
    assert set(done.values()) == {count.denoiser}
    costs = KINDS["train_agent"].costs
    assert costs.work(config, {}) > 0
    assert costs.disk(config, {}) > 0


def test_requests_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="start_frames=2: fewer than frames that family=tokens predicts from=3"):
        small_agent_config(*RUN, "family=tokens", *SMALL["tokens"], "actor_critic.start_frames=2", "family.num_frames=3")
    with pytest.raises(UserError, match="family: a model-free agent"):
        plan_train(["game=synthetic/turn", "scale=tiny", "agent.model_free=true", "family=tokens_small"])


def test_settings_of_the_reward_model_have_no_effect_where_the_world_model_predicts_rewards(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"reward_end\.lstm_dim: it has no effect with family=tokens"):
        small_agent_config(*RUN, "family=tokens", *SMALL["tokens"], "reward_end.lstm_dim=32")
