"""The imagination environment: the authors' roll-out, oracles, the ring of start segments, exact resumption, other people's code."""

from typing import Any

import numpy as np
import pytest
import torch
from golden_files import assert_frames_near, assert_near, golden, small_agent
from stand_ins import CountingReward, CountingWorld, GoldenDraws, ListedStarts, SavedFrames, counting_frames, generator, reward_of
from torch import Tensor, nn

from diamond_bench.config import KarrasSchedule, OdeSampler
from diamond_bench.data.segments import Segments, tensors_of
from diamond_bench.diffusion.quantization import from_bytes, to_bytes
from diamond_bench.imagination import GeneratorDraws, ImaginationEnv, ImaginationSettings, StartRing, categorical

L = 4
SAMPLER = OdeSampler(schedule=KarrasSchedule(sigma_min=2e-3, sigma_max=5.0, rho=7.0))


def golden_env(teacher_forced: bool) -> ImaginationEnv:
    g, agent = golden("imagination.npz"), small_agent()
    horizon, _, preload, num_steps, order = g["settings"].tolist()
    assert (num_steps, order) == (SAMPLER.num_steps, 1)
    assert agent.world_model is not None
    world: Any = SavedFrames() if teacher_forced else agent.world_model.bound(SAMPLER)
    starts = ListedStarts(g["init_obs_u8"], g["init_act"], g["init_mask"].bool())
    assert agent.reward_end is not None
    settings = ImaginationSettings(3, horizon, preload, discard_left_overs=True)
    return ImaginationEnv(world, agent.reward_end, starts, GoldenDraws(), settings)


@pytest.mark.parametrize("teacher_forced", [True, False], ids=["teacher-forced", "free-running"])
def test_every_step_equals_the_authors(teacher_forced: bool) -> None:
    g, env = golden("imagination.npz"), golden_env(teacher_forced)
    atol = 1e-4 if teacher_forced else 0.06

    def assert_frames(actual: Tensor, expected: Tensor) -> None:
        if teacher_forced:
            assert torch.equal(actual, expected)
        else:
            assert_frames_near(actual, expected, share=0.985, within=1e-4, most=0.05)

    frames, _ = env.reset()
    for step in range(6):
        send, t = f"send{step // 3}", step % 3
        assert_frames(frames, g[f"{send}_obs"][:, t])
        frames, rewards, ends, truncations, infos = env.step(g["actions"][:, step])
        assert torch.equal(rewards, g[f"{send}_rew"][:, t])
        assert torch.equal(ends.long(), g[f"{send}_end"][:, t])
        assert torch.equal(truncations.long(), g[f"{send}_trunc"][:, t])
        assert torch.equal(infos["_final_obs"], ends | truncations)
        assert_frames(infos["final_obs"], g["next_obs"][:, step])
        assert_near(infos["reward_logits"], g["logits_rew"][:, step], atol=atol)
        assert_near(infos["end_logits"], g["logits_end"][:, step], atol=atol)
    state = env.state_dict()
    assert_frames(state["world"][0], g["final_obs_buffer"])
    assert torch.equal(state["world"][1], g["final_act_buffer"])
    assert torch.equal(state["steps"], g["final_ep_len"])
    assert_near(state["state"][0], g["final_hx_rew_end"], atol=atol)
    assert_near(state["state"][1], g["final_cx_rew_end"], atol=atol)


def counting_starts(count: int = 40, size: int = 8) -> ListedStarts:
    """Segments of `CounterEnv`, each second to third one padded; they end at 6, 22, 38, ..., 7 before the game's next end."""
    draws = generator(5)
    actions = torch.randint(3, (count, L), generator=draws)
    counts = (6 + torch.arange(count) % 12 * 16)[:, None].repeat(1, L)
    for i in reversed(range(L - 1)):
        counts[:, i] = counts[:, i + 1] - actions[:, i]
    mask = torch.arange(L) >= torch.randint(L, (count, 1), generator=draws)
    mask[::3] = True
    return ListedStarts(counting_frames(counts, size), actions, mask)


def counting_env(starts: ListedStarts | None = None, num_envs: int = 3, num_frames: int = L, **options: Any) -> ImaginationEnv:
    settings = ImaginationSettings(num_envs, **{"horizon": 5, "preload": 2, **options})
    draws = GeneratorDraws(generator(1))
    starts = starts or counting_starts()
    return ImaginationEnv(CountingWorld(num_frames), CountingReward(), starts, draws, settings)


def shown(frames: Tensor) -> Tensor:
    return to_bytes(frames)[..., 0, 0, 0].long()


def test_rewards_and_ends_are_those_of_the_step_that_was_taken() -> None:
    """Fault 3: the oracle is strict about which action goes with which frames, the test about which reward with which step."""
    env = counting_env(horizon=50)
    frames, _ = env.reset()
    draws = generator(2)
    ended = 0
    for _ in range(60):
        before, actions = shown(frames), torch.randint(3, (3,), generator=draws)
        frames, rewards, ends, _, infos = env.step(actions)
        reached = shown(infos["final_obs"])
        assert torch.equal(reached, before + actions)
        assert torch.equal(rewards, reward_of(reached).sign())
        assert torch.equal(ends, reached % 16 >= 13)
        assert torch.equal(shown(frames)[~ends], reached[~ends])
        ended += int(ends.sum())
    assert ended > 3


@pytest.mark.parametrize("num_frames", [1, 3, L])
@pytest.mark.parametrize("discard", [False, True])
def test_only_finished_episodes_restart_each_from_a_fresh_segment_burnt_in(discard: bool, num_frames: int) -> None:
    """Fault 4. The burn-in is the whole segment's, however few of its frames the denoiser sees."""
    starts = counting_starts()
    env = counting_env(starts, num_envs=4, num_frames=num_frames, horizon=5, preload=3, discard_left_overs=discard)
    frames, _ = env.reset()
    taken = 4
    block = 12
    age = torch.zeros(4, dtype=torch.long)
    known = torch.stack([starts.segments.mask[i, :-1].sum() for i in range(4)])
    draws = generator(3)
    assert torch.equal(frames, from_bytes(starts.segments.frames[:4, -1]))
    for _ in range(40):
        before = env.state_dict()
        frames, _, ends, truncations, infos = env.step(torch.randint(3, (4,), generator=draws))
        done, age = ends | truncations, age + 1
        assert torch.equal(truncations, age >= 5)
        if discard and int(done.sum()) > block - taken % block:
            taken += block - taken % block
        after = env.state_dict()
        for i in range(4):
            if done[i]:
                number = taken % 40
                segment = Segments(*(column[number] for column in tensors_of(starts.segments)))
                expected = from_bytes(segment.frames) * segment.mask[:, None, None, None]
                assert torch.equal(frames[i], expected[-1])
                assert torch.equal(infos["burn_in"][i], expected[:-1])
                assert torch.equal(after["world"][0][i], expected[-num_frames:])
                assert torch.equal(after["world"][1][i], segment.actions[-num_frames:])
                assert after["state"][0][0, i, 0] == L - 1, "burnt in on L - 1 transitions, padding included"
                known[i] = segment.mask[:-1].sum()
                assert after["state"][1][0, i, 0] == known[i], "burnt in on another segment's frames"
                age[i] = 0
                taken += 1
            else:
                assert torch.equal(after["world"][0][i, :-1], before["world"][0][i, 1:])
                assert torch.equal(frames[i], infos["final_obs"][i])
                assert after["state"][0][0, i, 0] == before["state"][0][0, i, 0] + 1
    assert torch.equal(infos["_burn_in"], done)


def ring(size: int, discard: bool = False, num_envs: int = 2) -> tuple[StartRing, ListedStarts]:
    numbers = torch.arange(1000)
    starts = ListedStarts(
        numbers.view(-1, 1, 1, 1, 1) % 251 * torch.ones(1000, L, 3, 1, 1), numbers[:, None].expand(-1, L), torch.ones(1000, L) == 1
    )
    return StartRing(starts, lambda s: (s.actions[:, :1].float(),), num_envs, size, discard, torch.device("cpu")), starts


def test_the_ring_hands_out_every_segment_once_in_order_however_it_is_refilled() -> None:
    source, starts = ring(5)
    expected, draws = 0, generator(0)
    for rollout in range(60):
        source.prepare(1 + rollout % 7)
        loads = len(starts.drawn)
        for _ in range(1 + rollout % 7):
            which = torch.rand(2, generator=draws) < 0.4
            start = source.take(which)
            segments, (memory,) = start.segments, start.memories
            for row in which.nonzero().flatten().tolist():
                assert segments.actions[row, 0] == expected
                assert memory[row, 0] == expected
                expected += 1
        assert len(starts.drawn) == loads, "segments were loaded within a rollout"
    assert expected > 60
    assert sum(starts.drawn) - expected <= source._size, "segments were thrown away"


def test_left_overs_are_thrown_away_where_asked() -> None:
    source, _ = ring(5, discard=True)
    handed = []
    for which in ([1, 1], [1, 1], [1, 1], [0, 1], [0, 1], [1, 1], [0, 0], [1, 1]):
        segments = source.take(torch.tensor(which) == 1).segments
        handed.append([int(segments.actions[row, 0]) for row in range(2) if which[row]])
    assert handed == [[0, 1], [2, 3], [5, 6], [7], [8], [10, 11], [], [12, 13]]


def test_nothing_in_a_rollout_is_loaded_after_prepare() -> None:
    starts = counting_starts()
    env = counting_env(starts, horizon=2, preload=2)
    env.reset()
    for _ in range(5):
        env.prepare(15)
        loads = len(starts.drawn)
        for _ in range(15):
            env.step(torch.ones(3, dtype=torch.long))
        assert len(starts.drawn) == loads


def test_a_resumed_environment_goes_on_bit_for_bit() -> None:
    def agent_env() -> ImaginationEnv:
        g, agent = golden("imagination.npz"), small_agent()
        assert agent.world_model is not None
        assert agent.reward_end is not None
        starts = ListedStarts(g["init_obs_u8"], g["init_act"], g["init_mask"].bool())
        draws = GeneratorDraws(generator(4))
        world = agent.world_model.bound(OdeSampler(num_steps=1))
        return ImaginationEnv(world, agent.reward_end, starts, draws, ImaginationSettings(3, horizon=3, preload=2))

    actions = torch.randint(6, (8, 3), generator=generator(6))
    env = agent_env()
    env.reset(seed=11)
    for action in actions[:4]:
        env.step(action)
    saved = env.state_dict()
    rest = [env.step(action) for action in actions[4:]]
    resumed = agent_env()
    resumed.load_state_dict(saved)
    for action, expected in zip(actions[4:], rest, strict=True):
        for actual, wanted in zip(resumed.step(action)[:4], expected[:4], strict=True):
            assert torch.equal(actual, wanted)
    again = agent_env()
    again.reset(seed=11)
    assert torch.equal(again.step(actions[0])[0], agent_first(agent_env(), actions[0]))


def agent_first(env: ImaginationEnv, actions: Tensor) -> Tensor:
    env.reset(seed=11)
    return env.step(actions)[0]


def test_draws_have_the_probabilities_of_the_logits() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, -30.0]])
    drawn = categorical(logits.repeat(20_000, 1), generator()).view(-1, 2)
    for column in range(2):
        shares = torch.bincount(drawn[:, column], minlength=3) / 20_000
        assert (shares - logits[column].softmax(0)).abs().max() < 0.015


def test_numpy_arrays_lie_in_the_declared_spaces() -> None:
    env = counting_env(arrays="numpy", preload=1)
    frames, infos = env.reset(seed=3)
    assert isinstance(frames, np.ndarray)
    assert env.observation_space.contains(frames)
    assert infos == {}
    assert env.metadata["autoreset_mode"].value == "SameStep"
    frames, rewards, ends, truncations, infos = env.step(env.action_space.sample())
    assert env.observation_space.contains(frames)
    assert {type(x) for x in (rewards, ends, truncations, *infos.values())} == {np.ndarray}
    assert ends.dtype == truncations.dtype == np.bool_
    assert infos["nfe"].tolist() == [3, 3, 3]
    assert infos["burn_in"].shape == (3, L - 1, 3, 8, 8)


def test_somebody_elses_policy_trains_in_it() -> None:
    """Advantage actor-critic as CleanRL writes it, through numpy: it learns the action that the oracle's rewards favour."""

    class Bandit(CountingReward):
        def __call__(self, frames: Tensor, actions: Tensor, next_frames: Tensor, state: Any) -> Any:
            said = super().__call__(frames, actions, next_frames, state)
            said.reward_logits[..., :] = torch.tensor([-1e4, 1e4, -1e4])
            said.reward_logits[actions == 2] = torch.tensor([-1e4, -1e4, 1e4])
            return said

    torch.manual_seed(0)
    settings = ImaginationSettings(16, preload=4, arrays="numpy")
    env = ImaginationEnv(CountingWorld(), Bandit(), counting_starts(), GeneratorDraws(generator(1)), settings)
    body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 16), nn.Tanh())
    actor, critic = nn.Linear(16, 3), nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*body.parameters(), *actor.parameters(), *critic.parameters()], lr=1e-2)
    frames, _ = env.reset(seed=0)
    means = []
    for _ in range(120):
        log_probs, values, rewards, dones = [], [], [], []
        for _ in range(5):
            hidden = body(torch.as_tensor(frames))
            policy = torch.distributions.Categorical(logits=actor(hidden))
            action = policy.sample()
            frames, reward, terminated, truncated, _ = env.step(action.numpy())
            log_probs.append(policy.log_prob(action))
            values.append(critic(hidden).squeeze(1))
            rewards.append(torch.as_tensor(reward))
            dones.append(torch.as_tensor(terminated | truncated).float())
        with torch.no_grad():
            following = critic(body(torch.as_tensor(frames))).squeeze(1)
        loss = torch.zeros(())
        for t in reversed(range(5)):
            following = rewards[t] + 0.5 * (1 - dones[t]) * following
            advantage = following - values[t]
            loss = loss + (advantage**2 - advantage.detach() * log_probs[t]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        means.append(torch.stack(rewards).mean().item())
    assert np.mean(means[:5]) < 0.55
    assert np.mean(means[-10:]) > 0.8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_step_waits_for_the_device() -> None:
    agent = small_agent()
    assert agent.world_model is not None
    assert agent.reward_end is not None
    world = agent.world_model.bound(SAMPLER)
    world.networks["denoiser"].to("cuda")
    g = golden("imagination.npz")

    class OnDevice(ListedStarts):
        def draw(self, count: int) -> Tensor:
            return super().draw(count).to("cuda")

    starts = OnDevice(g["init_obs_u8"], g["init_act"], g["init_mask"].bool())
    starts.segments = starts.segments.to("cuda")
    draws = GeneratorDraws(torch.Generator("cuda").manual_seed(0))
    env = ImaginationEnv(world, agent.reward_end.cuda(), starts, draws, ImaginationSettings(3, horizon=3, preload=20))
    env.reset()
    actions = torch.ones(3, dtype=torch.int64, device="cuda")
    env.step(actions)
    env.prepare(6)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(6):
            env.step(actions)
    finally:
        torch.cuda.set_sync_debug_mode("default")
