"""Rollouts: the authors' numbers, losses and gradients; memory of finished episodes; the real environment in the same loop."""

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import assert_component_gradient_norms, assert_near, golden, golden_json, small_agent
from stand_ins import CountingReward, CountingWorld, GoldenDraws, ListedStarts, SavedFrames, generator
from test_imagination import counting_starts
from torch import Tensor
from toy_game import CountGame, toy_vector_env

from diamond_bench.config import ActorCriticConfig, KarrasSchedule, OdeSampler
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.imagination import GeneratorDraws, ImaginationEnv, ImaginationSettings
from diamond_bench.models.actor_critic import ActorCritic
from diamond_bench.training.actor_critic import actor_critic_loss
from diamond_bench.training.rollout import Carry, RealEnv, collect_rollout, sampled, start
from diamond_bench.worlds.contract import Draw

SAMPLER = OdeSampler(schedule=KarrasSchedule(sigma_min=2e-3, sigma_max=5.0, rho=7.0))
TINY = ActorCriticConfig(channels=(8, 8), down=(True, True), lstm_dim=8)


@pytest.mark.parametrize("all_rows", [False, True], ids=["finished rows", "all rows"])
@pytest.mark.parametrize("teacher_forced", [True, False], ids=["teacher-forced", "free-running"])
def test_rollouts_losses_and_gradients_are_the_authors(teacher_forced: bool, all_rows: bool) -> None:
    g, agent = golden("imagination.npz"), small_agent()
    horizon, num_steps, preload, _, _ = g["settings"].tolist()
    assert agent.world_model is not None
    assert agent.reward_end is not None
    world: Any = SavedFrames() if teacher_forced else agent.world_model.bound(SAMPLER)
    starts = ListedStarts(g["init_obs_u8"], g["init_act"], g["init_mask"].bool())
    env = ImaginationEnv(world, agent.reward_end, starts, GoldenDraws(), ImaginationSettings(3, horizon, preload, discard_left_overs=True))
    policy, atol = agent.actor_critic, 1e-4 if teacher_forced else 0.06
    discount, trace_decay, value_weight, entropy_weight = golden("actor_critic.npz")["loss_hparams"].tolist()
    config = ActorCriticConfig(discount=discount, trace_decay=trace_decay, value_weight=value_weight, entropy_weight=entropy_weight)
    actions = iter(g["actions"].unbind(1))
    carry = start(policy, env)
    for send in range(2):
        rollout, carry = collect_rollout(policy, env, carry, num_steps, lambda _: next(actions), all_rows)
        assert torch.equal(rollout.actions, g[f"send{send}_act"])
        assert torch.equal(rollout.rewards, g[f"send{send}_rew"])
        assert torch.equal(rollout.ends.long(), g[f"send{send}_end"])
        assert torch.equal(rollout.truncations.long(), g[f"send{send}_trunc"])
        assert_near(rollout.logits, g[f"send{send}_logits_act"], atol=atol)
        assert_near(rollout.values, g[f"send{send}_val"], atol=atol)
        assert_near(rollout.bootstraps, g[f"send{send}_val_bootstrap"], atol=atol)
        assert not rollout.bootstraps.requires_grad
        loss, metrics = actor_critic_loss(rollout, config)
        parts = torch.stack([metrics[name] for name in ("loss", "loss_actions", "loss_values", "loss_entropy")])
        assert_near(parts, g[f"send{send}_loss_parts"], rtol=1e-3, atol=atol)
        if teacher_forced:
            policy.zero_grad()
            loss.backward()
            assert_component_gradient_norms(policy, golden_json("grad_norms.json")[f"actor_critic_imagination_{send}"], "actor_critic")


def awake_policy(num_actions: int = 3, frame_size: int = 8) -> ActorCritic:
    torch.manual_seed(0)
    policy = ActorCritic(TINY, num_actions, frame_size)
    for parameter in policy.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return policy


def counting_env(seed: int = 1, horizon: int = 6) -> ImaginationEnv:
    draws = GeneratorDraws(generator(seed))
    return ImaginationEnv(CountingWorld(), CountingReward(), counting_starts(), draws, ImaginationSettings(4, horizon, preload=4))


def test_masked_rows_give_the_same_rollout_and_gradients() -> None:
    results = []
    for all_rows in (False, True):
        policy, env = awake_policy(), counting_env()
        carry = start(policy, env, seed=2)
        losses = []
        for _ in range(3):
            rollout, carry = collect_rollout(policy, env, carry, 7, sampled(generator(8)), all_rows)
            losses.append(actor_critic_loss(rollout, TINY)[0])
        policy.zero_grad()
        torch.stack(losses).sum().backward()
        results.append(([*vars(rollout).values()], [p.grad for p in policy.parameters()]))
    assert (results[0][0][4] | results[0][0][5]).any()
    for one, other in zip(*(result[0] + result[1] for result in results), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_memory_carries_over_rollouts_and_is_burnt_in_where_an_episode_began() -> None:
    """Fault 4, of the policy's memory: compared with a slow and obvious replay of what the policy saw."""
    policy, env = awake_policy(), counting_env()
    steps: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []
    step = env.step

    def watched(actions: Tensor) -> Any:
        result = step(actions)
        steps.append((result[0], result[2] | result[3], result[4]))
        return result

    env.step = watched  # type: ignore[method-assign]
    carry = start(policy, env, seed=2)
    first = carry.frames
    rollouts = []
    for _ in range(3):
        rollout, carry = collect_rollout(policy, env, carry, 5, sampled(generator(8)))
        rollouts.append(rollout)
    values, logits, bootstraps, ends, truncations = (
        torch.cat([getattr(r, name) for r in rollouts], dim=1) for name in ("values", "logits", "bootstraps", "ends", "truncations")
    )
    for row in range(4):
        state, frame = policy.initial_state(1), first[row : row + 1]
        with torch.no_grad():
            for t, (following, done, infos) in enumerate(steps):
                out = policy(frame, state)
                torch.testing.assert_close(values[row, t], out.value[0])
                torch.testing.assert_close(logits[row, t], out.logits[0])
                state = out.state
                torch.testing.assert_close(bootstraps[row, t], policy(infos["final_obs"][row : row + 1], state).value[0])
                if done[row]:
                    state = policy.initial_state(1)
                    for before in infos["burn_in"][row]:
                        state = policy(before[None], state).state
                frame = following[row : row + 1]
        torch.testing.assert_close(carry.state[0][row], state[0][0])
    assert ends.any()
    assert (truncations & ~ends).any()


def test_gradients_stop_at_a_rollouts_start_and_flow_through_the_burn_in() -> None:
    policy, env = awake_policy(), counting_env(horizon=2)
    carry = start(policy, env, seed=2)
    _, carry = collect_rollout(policy, env, carry, 3, sampled(generator(8)))
    assert not carry.state[0].requires_grad
    env.reset(seed=2)
    seen: list[Tensor] = []
    burn_in = policy.burn_in

    def watched(frames: Tensor, state: Any) -> Any:
        seen.append(frames.detach().clone().requires_grad_())
        return burn_in(seen[-1], state)

    policy.burn_in = watched  # type: ignore[method-assign]
    rollout, _ = collect_rollout(policy, env, Carry(carry.frames, carry.state), 4, sampled(generator(8)))
    rollout.values[:, 2:].sum().backward()
    assert seen[0].grad is not None
    assert seen[0].grad.abs().sum() > 0


def test_the_real_game_is_a_tensor_environment() -> None:
    """Model-free training: rewards raw, an episode's true final frame behind the bootstrap, memory emptied without burn-in."""
    game = toy_vector_env(2)
    env = RealEnv(game)
    policy = awake_policy()
    carry = start(policy, env, seed=5)
    by_hand = [CountGame(), CountGame()]
    frames = [by_hand[i].reset(seed=5 + i)[0] for i in range(2)]
    states = [policy.initial_state(1) for _ in range(2)]
    rollout, carry = collect_rollout(policy, env, carry, 40, sampled(generator(1)))
    with torch.no_grad():
        for t in range(40):
            for i, single in enumerate(by_hand):
                out = policy(from_bytes(torch.from_numpy(frames[i]).permute(2, 0, 1))[None], states[i])
                torch.testing.assert_close(rollout.values[i, t], out.value[0])
                frames[i], reward, end, truncated, _ = single.step(int(rollout.actions[i, t]))
                reached = policy(from_bytes(torch.from_numpy(frames[i]).permute(2, 0, 1))[None], out.state).value[0]
                torch.testing.assert_close(rollout.bootstraps[i, t], reached)
                assert rollout.rewards[i, t] == reward
                assert (bool(rollout.ends[i, t]), bool(rollout.truncations[i, t])) == (end, truncated)
                states[i] = out.state
                if end or truncated:
                    frames[i], states[i] = single.reset()[0], policy.initial_state(1)
    assert rollout.ends.any()
    assert env.real_steps == 80
    assert len(env.finished_games()) == int((rollout.ends | rollout.truncations).sum())
    assert env.finished_games() == ()


def test_the_real_game_is_taken_up_again_bit_for_bit() -> None:
    policy = awake_policy()
    env = RealEnv(toy_vector_env(2))
    _, carry = collect_rollout(policy, env, start(policy, env, seed=5), 7, sampled(generator(1)))
    saved = copy.deepcopy(env.save())
    rollout, _ = collect_rollout(policy, env, carry, 30, sampled(generator(2)))
    resumed = RealEnv(toy_vector_env(2))
    resumed.restore(saved)
    again, _ = collect_rollout(policy, resumed, carry, 30, sampled(generator(2)))
    for field in dataclasses.fields(rollout):
        assert torch.equal(getattr(rollout, field.name), getattr(again, field.name)), field.name
    assert resumed.real_steps == env.real_steps == 74
    assert env.finished_games()[-1] == resumed.finished_games()[-1]
    with pytest.raises(ValueError, match="2 environments"):
        RealEnv(toy_vector_env(3)).restore(saved)


def test_temperature_sharpens() -> None:
    logits = torch.tensor([[1.0, 0.0]]).repeat(20_000, 1)
    share = (sampled(generator(), 0.5)(logits) == 0).float().mean()
    assert abs(share - torch.tensor([2.0, 0.0]).softmax(0)[0]) < 0.015
    assert np.isclose(share, 0.88, atol=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_rollout_never_waits_for_the_device() -> None:
    agent, g = small_agent(), golden("imagination.npz")
    assert agent.reward_end is not None

    class Saved(SavedFrames):
        device = torch.device("cuda")

        def predict(self, past: Tensor, actions: Tensor, draw: Draw) -> Tensor:
            return draw(past[:, 0]).clamp(-1, 1)

    class OnDevice(ListedStarts):
        def draw(self, count: int) -> Tensor:
            return super().draw(count).to("cuda")

    starts = OnDevice(g["init_obs_u8"], g["init_act"], g["init_mask"].bool())
    starts.segments = starts.segments.to("cuda")
    draws = GeneratorDraws(torch.Generator("cuda").manual_seed(0))
    env = ImaginationEnv(Saved(), agent.reward_end.cuda(), starts, draws, ImaginationSettings(3, horizon=3, preload=50))
    policy, draw = agent.actor_critic.cuda(), sampled(torch.Generator("cuda").manual_seed(1))
    _, carry = collect_rollout(policy, env, start(policy, env), 3, draw)
    env.prepare(6)
    torch.cuda.set_sync_debug_mode("error")
    try:
        rollout, _ = collect_rollout(policy, env, carry, 6, draw)
        actor_critic_loss(rollout, ActorCriticConfig())[0].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
