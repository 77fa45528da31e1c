"""Sampled segments: aligned, inside their episode, distributed as stated."""

import itertools
from typing import Literal

import numpy as np
import pytest
import torch
from episode_sets import episode_set

from diamond_bench.data.segments import sample_segments, to_float


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
