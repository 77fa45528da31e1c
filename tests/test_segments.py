"""Sampled segments: aligned, inside their episode, distributed as stated."""

import itertools
from typing import Literal

import numpy as np
import pytest
import torch
from episode_sets import episode as synthetic_episode
from episode_sets import episode_set

from diamond_bench.data.replay import Replay
from diamond_bench.data.segments import sample_reward_end_segments, sample_segments, to_float, transition_frames
from diamond_bench.diffusion.quantization import to_bytes
from diamond_bench.envs.play import Steps


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_frames_actions_and_mask_are_aligned_and_inside_one_episode() -> None:
    lengths = (3, 40, 200, 7)
    segments = sample_segments(episode_set(*lengths), 4000, 6, generator())
    assert segments.frames.shape == (4000, 6, 3, 8, 8)
    assert segments.frames.dtype == torch.uint8
    shown, number = segments.frames[:, :, 0, 0, 0].long(), segments.frames[:, :, 1, 0, 0].long()
    last = shown[:, -1:]
    expected = last - 5 + torch.arange(6)
    assert segments.mask[:, -1].all(), "padding is on the left only"
    assert torch.equal(segments.mask, expected >= 0)
    assert torch.equal(shown[segments.mask], expected[segments.mask])
    assert torch.equal(number[segments.mask], number[:, -1:].expand(-1, 6)[segments.mask])
    is_final = shown == torch.tensor(lengths)[number]
    action = torch.where(segments.mask & ~is_final, (shown + number) % 4, 0)
    assert torch.equal(segments.actions, action)
    assert is_final.any(), "the final observation is a frame to predict"
    assert not is_final[:, :-1].any(), "nothing follows it in a segment"


def exact_probabilities(rows: list[int], episode_weights: list[float], length: int) -> dict[tuple[int, int], float]:
    table: dict[tuple[int, int], float] = {}
    for (episode, count), extra in itertools.product(enumerate(rows), range(length)):
        for t in range(count):
            key = (episode, min(count, t + 1 + extra) - 1)
            table[key] = table.get(key, 0.0) + episode_weights[episode] / count / length
    return table


@pytest.mark.parametrize(
    ("steps", "weighting", "weights"),
    [
        ((2, 30, 9), "length", [3 / 44, 31 / 44, 10 / 44]),
        ((2, 30, 9), "recency", [3 / 44, 31 / 44, 10 / 44]),
        ((5, 1, 9, 3, 12, 3, 4, 5, 6, 2), "recency", [0.05] * 6 + [0.175] * 4),
        ((5, 1, 9, 3, 12), "length", [6 / 35, 2 / 35, 10 / 35, 4 / 35, 13 / 35]),
        ((5, 1, 9, 3, 12), "recency", [0.1, 0.1, 0.1, 0.35, 0.35]),
    ],
)
def test_distribution_is_the_stated_one(steps: tuple[int, ...], weighting: Literal["length", "recency"], weights: list[float]) -> None:
    draws = 60_000
    segments = sample_segments(episode_set(*steps, size=1), draws, 5, generator(3), weighting)
    last = segments.frames[:, -1, :2, 0, 0].numpy()
    seen, counts = np.unique(last, axis=0, return_counts=True)
    probabilities = exact_probabilities([n + 1 for n in steps], weights, 5)
    observed = {(int(episode), int(t)): int(count) for (t, episode), count in zip(seen, counts, strict=True)}
    assert observed.keys() <= probabilities.keys()
    squared = sum((observed.get(key, 0) - draws * p) ** 2 / (draws * p) for key, p in probabilities.items())
    freedom = len(probabilities) - 1
    assert squared < freedom + 5 * (2 * freedom) ** 0.5


def test_to_float_is_exact_and_padding_is_zero() -> None:
    segments = sample_segments(episode_set(2, 3), 200, 9, generator())
    floats = to_float(segments)
    assert floats.dtype == torch.float32
    assert (floats[~segments.mask] == 0.0).all()
    expected = segments.frames.numpy().astype(np.float32) / np.float32(255) * np.float32(2) - np.float32(1)
    mask = segments.mask.numpy()
    np.testing.assert_array_equal(floats.numpy()[mask], expected[mask])
    assert floats[segments.mask][:, 2].min() == 1.0


def test_a_seed_gives_the_same_segments() -> None:
    episodes = episode_set(20, 30)
    first, second = (sample_segments(episodes, 8, 4, generator(9)) for _ in range(2))
    assert torch.equal(first.frames, second.frames)


def replay_of(*steps: int, num_envs: int = 1, size: int = 8) -> Replay:
    """The episodes of `episode_set` as they would have been collected; of each environment the last one may still run."""
    replay = Replay(sum(steps), size, num_envs=num_envs)
    for number, n in enumerate(steps):
        e = synthetic_episode(number, n, size)
        done = np.arange(n) == n - 1
        running = number >= len(steps) - num_envs and number % 2 == 1
        ends, truncations = done & e.terminated & (not running), done & e.truncated & (not running)
        replay.append(number % num_envs, Steps(e.frames[:-1], e.actions, e.rewards, ends, truncations, e.frames[1:]))
    return replay


def test_the_last_step_of_a_replay_has_an_outcome_and_a_final_observation_has_none() -> None:
    """Static data ends with a final observation, after which nothing is done. A replay ends with the last action."""
    replay, static = replay_of(4).episodes, episode_set(3)
    for episodes, last in ((replay, True), (static, False)):
        segments = sample_segments(episodes, 64, 4, generator())
        assert segments.acted is not None
        whole = segments.mask.all(1)
        assert segments.acted[whole].all(0).tolist() == [True, True, True, last]
        assert not segments.acted[~segments.mask].any()


@pytest.mark.parametrize("num_envs", [1, 2])
def test_segments_of_a_replay_hold_no_final_frame_and_one_episode(num_envs: int) -> None:
    lengths = (3, 40, 20, 7, 9, 11)
    episodes = replay_of(*lengths, num_envs=num_envs).episodes
    for weighting in ("length", "recency"):
        segments = sample_segments(episodes, 4000, 6, generator(), weighting)
        shown, number = segments.frames[:, :, 0, 0, 0].long(), segments.frames[:, :, 1, 0, 0].long()
        expected = shown[:, -1:] - 5 + torch.arange(6)
        assert torch.equal(segments.mask, expected >= 0)
        assert torch.equal(shown[segments.mask], expected[segments.mask])
        assert torch.equal(number[segments.mask], number[:, -1:].expand(-1, 6)[segments.mask])
        assert torch.equal(segments.actions, torch.where(segments.mask, (shown + number) % 4, 0))
        last = shown[:, -1]
        for e, length in enumerate(lengths):
            assert last[number[:, -1] == e].max() == length - 1


@pytest.mark.parametrize("steps", [(2, 30, 9), (5, 1, 9, 3, 12, 3, 4, 5, 6, 2)])
def test_replay_segments_have_the_stated_distribution(steps: tuple[int, ...]) -> None:
    weights = [n / sum(steps) for n in steps] if len(steps) < 4 else [0.05] * 6 + [0.175] * 4
    draws = 60_000
    segments = sample_segments(replay_of(*steps, num_envs=2, size=1).episodes, draws, 5, generator(3), "recency")
    seen, counts = np.unique(segments.frames[:, -1, :2, 0, 0].numpy(), axis=0, return_counts=True)
    probabilities = exact_probabilities(list(steps), weights, 5)
    observed = {(int(e), int(t)): int(count) for (t, e), count in zip(seen, counts, strict=True)}
    assert observed.keys() <= probabilities.keys()
    squared = sum((observed.get(key, 0) - draws * p) ** 2 / (draws * p) for key, p in probabilities.items())
    freedom = len(probabilities) - 1
    assert squared < freedom + 5 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("num_envs", [1, 2])
@pytest.mark.parametrize("final_frames", ["ends", "all"])
def test_reward_end_segments_are_aligned_and_padded_on_both_sides(final_frames: Literal["ends", "all"], num_envs: int) -> None:
    """Episodes with even numbers end, those with odd ones are cut, the last one still runs."""
    lengths = torch.tensor([3, 40, 20, 7, 9, 11])
    episodes = replay_of(*lengths.tolist(), num_envs=num_envs).episodes
    segments = sample_reward_end_segments(episodes, 6000, 8, generator(), final_frames)
    mask = segments.mask
    shown, number = segments.frames[:, :, 0, 0, 0].long(), segments.frames[:, :, 1, 0, 0].long()
    real = mask.int().argmax(dim=1)
    rows = torch.arange(6000)
    e = number[rows, real]
    position = shown[rows, real][:, None] - real[:, None] + torch.arange(8)
    assert torch.equal(mask, (position >= 0) & (position < lengths[e][:, None]))
    assert torch.equal(shown, torch.where(mask, position, 0))
    assert torch.equal(segments.actions, torch.where(mask, (position + e[:, None]) % 4, 0))
    assert torch.equal(segments.rewards, torch.where(mask, position, 0).float())
    last = position == lengths[e][:, None] - 1
    assert torch.equal(segments.ends, last & (e % 2 == 0)[:, None])
    assert torch.equal(segments.final_steps, last if final_frames == "all" else segments.ends)
    assert (~mask[:, 0] & mask[:, -1]).any()
    assert (mask[:, 0] & ~mask[:, -1]).any()
    assert (last[:, -1]).any()
    frames, following = transition_frames(segments)
    assert frames.shape == following.shape == (6000, 7, 3, 8, 8)
    assert (frames[~mask[:, :-1]] == 0.0).all()
    final = segments.final_steps[:, :-1]
    reached = to_bytes(following)[:, :, 0, 0, 0].long()
    assert torch.equal(reached[mask[:, :-1] & (mask[:, 1:] | final)], (position + 1)[:, :-1][mask[:, :-1] & (mask[:, 1:] | final)])
    assert (following[mask[:, :-1] & ~mask[:, 1:] & ~final] == 0.0).all(), "an episode that did not end leads to padding"
    assert (following[~mask[:, :-1] & ~mask[:, 1:]] == 0.0).all()
    assert (mask[:, :-1] & ~mask[:, 1:] & ~final).any() == (final_frames == "ends")


def test_reward_end_segments_start_where_stated() -> None:
    """Of one episode of n frames, t uniform and start = t - U{0..L-1}."""
    n, length, draws = 6, 4, 60_000
    segments = sample_reward_end_segments(replay_of(n).episodes, draws, length, generator(1))
    first = segments.mask.int().argmax(dim=1)
    start = segments.frames[torch.arange(draws), first, 0, 0, 0].long() - first
    expected = np.convolve(np.full(n, 1 / n), np.full(length, 1 / length))
    observed = np.bincount((start + length - 1).numpy(), minlength=n + length - 1)
    assert ((observed - draws * expected) ** 2 / (draws * expected)).sum() < 8 + 5 * 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("weighting", ["length", "recency"])
def test_nothing_is_read_back_by_the_host(weighting: Literal["length", "recency"]) -> None:
    episodes = episode_set(20, 30, 40, 50).to("cuda")
    draws = torch.Generator("cuda").manual_seed(0)
    sample_segments(episodes, 8, 4, draws, weighting)
    torch.cuda.set_sync_debug_mode("error")
    try:
        to_float(sample_segments(episodes, 8, 4, draws, weighting))
    finally:
        torch.cuda.set_sync_debug_mode("default")
