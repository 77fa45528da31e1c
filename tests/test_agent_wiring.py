"""That the job `train_agent` gives each setting to the part it is meant for: each expectation is said here, none is a second run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_agents import small_agent_config

from diamond_bench.data.replay import Replay
from diamond_bench.data.segments import sample_reward_end_segments, sample_segments
from diamond_bench.envs.play import Steps
from diamond_bench.jobs import agent_learners, train_agent
from diamond_bench.jobs.agent_learners import Learners
from diamond_bench.jobs.agent_play import RealPlay
from diamond_bench.jobs.context import JobContext
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.training.actor_critic import actor_critic_loss
from diamond_bench.training.means import Means
from diamond_bench.training.rollout import collect_rollout, sampled, start

CPU = torch.device("cpu")


def replay(episodes: int = 6, length: int = 30) -> Replay:
    """Episodes of frames of one level each, the last step of each an end."""
    built = Replay(episodes * length, 16)
    rng = np.random.default_rng(0)
    for episode in range(episodes):
        frames = np.full((length, 16, 16, 3), 10 * episode + 5, np.uint8)
        ends = np.arange(length) == length - 1
        rewards = rng.choice([-1.0, 0.0, 1.0], length).astype(np.float32)
        built.append(0, Steps(frames, rng.integers(4, size=length), rewards, ends, np.zeros(length, bool), frames))
    return built


def learners(settings: TrainAgent, over: Replay) -> Learners:
    torch.manual_seed(0)
    return Learners(settings, CPU, over, torch.Generator().manual_seed(7))


def test_updates_of_the_policy_go_on_from_one_another_as_a_rollout_by_hand_does() -> None:
    """Through the environment's own steps: positions and memories are handed on, and none is taken twice."""
    settings = small_agent_config("actor_critic.steps_per_update=2", "actor_critic.horizon=3")
    ours, theirs = learners(settings, replay()), learners(settings, replay())
    env, policy = theirs._imagination, theirs.agent.actor_critic
    assert env is not None
    carry = start(policy, env)
    for _ in range(4):
        rollout, carry = collect_rollout(policy, env, carry, 2, sampled(theirs.generator))
        loss, _ = actor_critic_loss(rollout, settings.actor_critic)
        theirs.learn_from(loss)
        assert float(ours.update("actor_critic")["actor_critic"]["loss"]) == float(loss)
        assert ours._imagination is not None
        assert ours._carry is not None
        for a, b in zip(ours._imagination.position, env.position, strict=True):
            assert torch.equal(a, b)
        assert torch.equal(ours._carry.frames, carry.frames)
        assert all(torch.equal(a, b) for a, b in zip(ours._carry.state, carry.state, strict=True))


def test_an_update_has_a_start_segment_for_every_game_that_may_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring of one update's segments, and games that end at every step: none is handed out before it was loaded."""
    settings = small_agent_config("actor_critic.steps_per_update=4", "actor_critic.preload=4")
    ours = learners(settings, replay())
    env: Any = ours._imagination
    monkeypatch.setattr(type(env._draws), "end", lambda self, logits: torch.ones(len(logits), dtype=torch.bool))
    for _ in range(3):
        ours.update("actor_critic")
        assert int(env._ring.taken) <= env._ring._loaded


def test_each_network_has_its_own_optimiser_settings() -> None:
    settings = small_agent_config(
        *("training.learning_rate=0.1", "training.weight_decay=0.2", "training.max_grad_norm=0.3", "training.warmup_steps=4"),
        *("reward_end.learning_rate=0.5", "reward_end.weight_decay=0.6", "reward_end.max_grad_norm=0.7", "reward_end.warmup_steps=8"),
        *(
            "actor_critic.learning_rate=0.9",
            "actor_critic.weight_decay=0.11",
            "actor_critic.max_grad_norm=0.12",
            "actor_critic.warmup_steps=13",
        ),
    )
    built = learners(settings, replay())
    for name, group in {"denoiser": settings.training, "reward_end": settings.reward_end, "actor_critic": settings.actor_critic}.items():
        learner: Any = built._learners[name]
        assert learner._settings is group
        assert [g["weight_decay"] for g in learner._optimizer.param_groups] == [group.weight_decay, 0.0]
        for update in range(2):
            before = [p.detach().clone() for p in learner.network.parameters()]
            built.update(name)
            rate = group.learning_rate * update / group.warmup_steps
            assert {g["lr"] for g in learner._optimizer.param_groups} == {rate}
            moved = any(not torch.equal(a, b) for a, b in zip(before, learner.network.parameters(), strict=True))
            assert moved == (rate > 0), "the first update changes nothing but the optimiser"
            norm = torch.stack([p.grad.norm() for p in learner.network.parameters() if p.grad is not None]).norm()
            assert norm <= group.max_grad_norm * 1.001


def test_the_denoiser_learns_from_recent_play_and_the_reward_end_model_by_its_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, tuple[Any, ...]] = {}

    def recorded(name: str, sample: Any) -> Any:
        def sampling(episodes: Any, *rest: Any) -> Any:
            asked[name] = rest
            return sample(episodes, *rest)

        return sampling

    monkeypatch.setattr(agent_learners, "sample_segments", recorded("denoiser", sample_segments))
    monkeypatch.setattr(agent_learners, "sample_reward_end_segments", recorded("reward_end", sample_reward_end_segments))
    settings = small_agent_config(
        "training.batch_size=3", "training.num_autoregressive_steps=2", "reward_end.batch_size=5", "reward_end.segment_length=11"
    )
    built = learners(settings, replay())
    built.update("denoiser")
    built.update("reward_end")
    assert asked == {"denoiser": (3, 4 + 1 + 2, built.generator, "recency"), "reward_end": (5, 11, built.generator, "ends")}
    corrected = learners(small_agent_config("reward_end.final_frames=all"), replay())
    corrected.update("reward_end")
    assert asked["reward_end"][3] == "all"


def test_imagined_games_are_cut_at_the_horizon_not_at_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts: list[Any] = []
    original = agent_learners.actor_critic_loss

    def seen(rollout: Any, settings: Any) -> Any:
        rollouts.append(rollout)
        return original(rollout, settings)

    monkeypatch.setattr(agent_learners, "actor_critic_loss", seen)
    built = learners(small_agent_config("actor_critic.horizon=2", "actor_critic.steps_per_update=5", "actor_critic.batch_size=4"), replay())
    monkeypatch.setattr(type(built._imagination._draws), "end", lambda self, logits: torch.zeros(len(logits), dtype=torch.bool))  # type: ignore[union-attr]
    built.update("actor_critic")
    (rollout,) = rollouts
    assert rollout.truncations.shape == (4, 5)
    assert rollout.truncations.tolist() == [[False, True, False, True, False]] * 4


@pytest.mark.parametrize(("start_frames", "burnt_in"), [(0, 1), (8, 7)])
def test_start_frames_are_burnt_in_and_the_denoiser_sees_its_own(start_frames: int, burnt_in: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a start segment of s frames, policy and reward/end model are burnt in on what comes before its last; the denoiser sees L = 2."""
    built = learners(small_agent_config("conditioning.num_frames=2", f"actor_critic.start_frames={start_frames}"), replay())
    seen: dict[str, set[tuple[int, ...]]] = {"policy": set(), "denoiser": set(), "reward_end": set()}
    policy, world_model, reward_end = built.agent.actor_critic, built.agent.world_model, built.agent.reward_end
    assert world_model is not None
    assert reward_end is not None
    burn_in, predict = policy.burn_in, type(world_model).predict

    def policy_called(frames: torch.Tensor, state: Any) -> Any:
        seen["policy"].add(tuple(frames.shape[1:]))
        return burn_in(frames, state)

    def denoiser_called(model: Any, past: torch.Tensor, actions: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen["denoiser"] |= {tuple(past.shape[1:]), tuple(actions.shape[1:])}
        return predict(model, past, actions, *rest)

    monkeypatch.setattr(policy, "burn_in", policy_called)
    monkeypatch.setattr(type(world_model), "predict", denoiser_called)
    reward_end.register_forward_pre_hook(lambda model, given: seen["reward_end"].add(tuple(given[1].shape[1:])))
    built.update("actor_critic")
    assert seen == {"policy": {(burnt_in, 3, 16, 16)}, "denoiser": {(2, 3, 16, 16), (2,)}, "reward_end": {(burnt_in,), (1,)}}


@pytest.mark.parametrize(
    ("tokens", "at_random"), [(("agent.epsilon=1.0",), True), (("agent.epsilon=0.0", "agent.temperature=0.001"), False)]
)
def test_collection_has_its_own_epsilon_and_temperature(tokens: tuple[str, ...], at_random: bool) -> None:
    settings, into = small_agent_config(*tokens), Replay(200, 16)
    built = learners(settings, into)
    with torch.no_grad():
        built.agent.actor_critic.actor.bias.copy_(torch.tensor([0.0, 0.1, 0.0, 0.0]))  # hardly preferred: a low temperature decides
    RealPlay(settings, built, into).collect(100, Means(CPU))
    actions = into.episodes.actions
    assert (len(actions.unique()) == 4) if at_random else (actions == 1).all()


def test_the_phases_come_in_the_authors_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    original, collect = Learners.update, RealPlay.collect
    monkeypatch.setattr(Learners, "update", lambda self, name: order.append(name) or original(self, name))  # type: ignore[func-returns-value]
    monkeypatch.setattr(
        RealPlay,
        "collect",
        lambda self, steps, means: order.append(f"collect {steps}") or collect(self, steps, means),  # type: ignore[func-returns-value]
    )
    settings = small_agent_config("agent.budget=45", "agent.initial_rare_rewards=0")
    train_agent.run(settings, JobContext(tmp_path))
    learn = {
        True: ["denoiser"] * 3 + ["reward_end"] * 3 + ["actor_critic"] * 2,
        False: ["denoiser"] * 2 + ["reward_end"] * 2 + ["actor_critic"],
    }
    assert order == ["collect 30", *learn[True], "collect 10", *learn[False], "collect 5", *learn[False], *learn[False]]


def test_a_damaged_replay_never_comes_back_with_a_newer_checkpoint(tmp_path: Path) -> None:
    """The checkpoint that needs the damaged part is taken out of sight, not left to pass for the newest later."""
    from test_train_agent import stopping_at

    from diamond_bench.jobs.context import Interrupted

    settings = replace(small_agent_config(), agent=replace(small_agent_config().agent, checkpoint_units=1))
    for stop in (12, 3):
        with pytest.raises(Interrupted):
            train_agent.run(settings, JobContext(tmp_path, should_stop=stopping_at([stop])))
    file = tmp_path / "checkpoint" / "replay.bin"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    newest = max(path.name for path in (tmp_path / "checkpoint").glob("step-*.pt"))
    said: list[str] = []
    with pytest.raises(Interrupted):
        train_agent.run(settings, JobContext(tmp_path, say=said.append, should_stop=stopping_at([1])))
    assert any("cannot be used" in line for line in said)
    assert not (tmp_path / "checkpoint" / newest).exists()
    assert (tmp_path / "checkpoint" / newest).with_suffix(".unused").exists()
