"""Fault 3: rewards, actions and ends are those of the same step in the game, the replay, the training segments and imagination."""

from typing import Any

import torch
from stand_ins import NO, YES, StandIn, generator
from test_play import Watcher
from torch import Tensor
from toy_game import SIZE, toy_vector_env

from diamond_bench.data.replay import Replay
from diamond_bench.data.segments import sample_reward_end_segments, sample_segments, to_float, transition_frames
from diamond_bench.diffusion.quantization import from_bytes, to_bytes
from diamond_bench.envs.play import Collector
from diamond_bench.imagination import GeneratorDraws, ImaginationEnv, ImaginationSettings, ReplayStarts
from diamond_bench.models.reward_end_model import RewardEndOutput
from diamond_bench.worlds.contract import Draw


def rules(frames: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """CountGame by its frames: (..., 3, h, w) in [-1, 1] and (...) to next frames, rewards and lost lives."""
    shown = to_bytes(frames)[..., 0, 0].long()
    count, lost = shown[..., 0] + actions, shown[..., 0] + actions >= 12
    rewards = torch.where(actions > 0, 10.0 * count * (count % 4 == 0), -1.0)
    after = torch.stack((count - count // 2 * lost, shown[..., 1], shown[..., 2] - lost.long()), dim=-1)
    return from_bytes(after.to(torch.uint8))[..., None, None].expand(*frames.shape), rewards, lost


def collected(num_envs: int = 1, num_steps: int = 400) -> Replay:
    replay = Replay(num_envs * num_steps, SIZE, num_envs=num_envs)
    Collector(toy_vector_env(num_envs, life_loss_ends=True), Watcher(), replay, seed=0, epsilon=0.2).collect(num_steps)
    return replay


class Oracle(StandIn):
    """The game itself in the place of the world model and of the reward/end model; both check what they are given."""

    def __init__(self) -> None:
        super().__init__(SIZE)
        self.checked = 0

    def predict(self, past: Tensor, actions: Tensor, draw: Draw) -> Tensor:
        self.check(past[:, :-1], actions[:, :-1], past[:, 1:])
        return rules(past[:, -1], actions[:, -1])[0].contiguous()

    def reward_end(self, frames: Tensor, actions: Tensor, next_frames: Tensor, state: Any) -> RewardEndOutput:
        self.check(frames, actions, next_frames)
        _, rewards, lost = rules(frames, actions)
        reward_logits = torch.where(torch.nn.functional.one_hot((rewards.sign() + 1).long(), 3).bool(), YES, NO)
        end_logits = torch.where(torch.nn.functional.one_hot(lost.long(), 2).bool(), YES, NO)
        return RewardEndOutput(reward_logits, end_logits, (torch.zeros(1, len(frames), 1), torch.zeros(1, len(frames), 1)))

    def check(self, frames: Tensor, actions: Tensor, next_frames: Tensor) -> None:
        real = (frames != 0).flatten(2).any(dim=2)  # padding is exactly 0.0
        assert torch.equal(rules(frames, actions)[0][real], next_frames[real]), "an action does not lead from its frame to the next"
        self.checked += int(real.sum())


def test_segments_follow_the_rules_of_the_game() -> None:
    for num_envs in (1, 2):
        replay = collected(num_envs)
        segments = sample_segments(replay.episodes, 500, 6, generator(), "recency")
        Oracle().check(to_float(segments)[:, :-1], segments.actions[:, :-1], to_float(segments)[:, 1:])
        reported = sample_reward_end_segments(replay.episodes, 500, 9, generator(), "all")
        frames, following = transition_frames(reported)
        mask = reported.mask[:, :-1]
        expected, rewards, lost = rules(frames, reported.actions[:, :-1])
        assert torch.equal(expected[mask], following[mask])
        assert torch.equal(rewards[mask], reported.rewards[:, :-1][mask])
        assert torch.equal(lost[mask], reported.ends[:, :-1][mask])
        assert lost[mask].any()


def test_imagination_from_replay_follows_the_rules_of_the_game() -> None:
    oracle, replay = Oracle(), collected()
    starts, draws = ReplayStarts(replay, 4, generator(1)), GeneratorDraws(generator(2))
    env = ImaginationEnv(oracle, oracle.reward_end, starts, draws, ImaginationSettings(5, horizon=7, preload=3))
    frames, _ = env.reset()
    ends = cuts = 0
    for _ in range(60):
        actions = torch.randint(3, (5,), generator=generator(env.state_dict()["steps"].sum().item() + ends))
        expected, expected_rewards, lost = rules(frames, actions)
        frames, rewards, terminations, truncations, infos = env.step(actions)
        assert torch.equal(infos["final_obs"], expected)
        assert torch.equal(rewards, expected_rewards.sign())
        assert torch.equal(terminations, lost)
        ends, cuts = ends + int(terminations.sum()), cuts + int(truncations.sum())
    assert ends > 5
    assert cuts > 5
    assert oracle.checked > 500
