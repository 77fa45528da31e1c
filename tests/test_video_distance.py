"""FVD and KVD of features: values by hand, torchmetrics' kernel, and a jackknife that leaves out whole episodes."""

import numpy as np
import pytest
from scipy import linalg, stats

from analysis.frechet import kernel_distance
from analysis.video_distance import (
    MIN_EPISODES,
    frechet_interval,
    frechet_video_distance,
    kernel_interval,
    kernel_video_distance,
)

D = 5


def features(number: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1.0, (number, D)).astype(np.float32)


def test_fvd_divides_covariances_by_the_number_of_clips() -> None:
    """Two points at ±1 and two at ±2 on the first axis: variances 1 and 4, so (1 - 2)² = 1, and 9 of the means."""
    a, b = np.zeros((2, 3)), np.zeros((2, 3))
    a[:, 0], b[:, 0], b[:, 1] = (-1, 1), (-2, 2), 3
    assert frechet_video_distance(a, b) == pytest.approx(10.0)
    x, y = features(40, 0).astype(float), features(30, 1, 0.5).astype(float)
    covariances = [np.cov(z.T, bias=True) for z in (x, y)]
    by_hand = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * linalg.sqrtm(covariances[0] @ covariances[1]).real)
    assert frechet_video_distance(x, y) == pytest.approx(by_hand)


def test_kvd_of_independent_clips_is_kid_of_their_features() -> None:
    """KID itself is compared with torchmetrics in test_frechet.py."""
    a, b = features(20, 0), features(20, 1, 0.3)
    expected, _ = kernel_distance(a, b, subset_size=20, num_subsets=1)
    assert kernel_video_distance(a, b, np.arange(20), np.arange(20, 40)) == pytest.approx(expected)


def test_kvd_leaves_out_pairs_of_one_episode() -> None:
    a, b = features(6, 0), features(5, 1)
    of_a, of_b = np.array([0, 0, 1, 1, 7, 7]), np.array([0, 1, 1, 7, 9])

    def mean(x: np.ndarray, y: np.ndarray, of_x: np.ndarray, of_y: np.ndarray) -> float:
        pairs = [(u.astype(float) @ v / D + 1) ** 3 for u, e in zip(x, of_x, strict=True) for v, f in zip(y, of_y, strict=True) if e != f]
        return float(np.mean(pairs))

    by_hand = mean(a, a, of_a, of_a) + mean(b, b, of_b, of_b) - 2 * mean(a, b, of_a, of_b)
    assert kernel_video_distance(a, b, of_a, of_b) == pytest.approx(by_hand)
    with pytest.raises(ValueError, match="at least two episodes"):
        kernel_video_distance(a, b, np.zeros(6), of_b)


def test_a_perfect_copy_of_the_true_clips_has_no_negative_bias() -> None:
    """With its own continuation among the pairs, a copy would have a KVD of about -2 / n times the spread of the kernel."""
    found = []
    for seed in range(200):
        a, of = features(6, seed), np.arange(6)
        found.append(kernel_video_distance(a, a, of, of))
    assert np.abs(found).max() < 1e-12


@pytest.mark.parametrize("name", ["fvd", "kvd"])
def test_the_interval_is_that_of_deleting_one_episode_from_both_sides(name: str) -> None:
    value_of, interval_of = {
        "fvd": (lambda a, b, e: frechet_video_distance(a, b), frechet_interval),
        "kvd": (lambda a, b, e: kernel_video_distance(a, b, e, e), kernel_interval),
    }[name]
    episodes = np.random.default_rng(3).permutation(np.repeat(np.arange(MIN_EPISODES), 3)) * 5
    a, b = features(60, 0), features(60, 1, 0.4)
    found = interval_of(a, b, episodes, episodes)
    without = np.array([value_of(a[episodes != e], b[episodes != e], episodes[episodes != e]) for e in np.unique(episodes)])
    n = len(without)
    error = np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum())
    assert found.value == pytest.approx(value_of(a, b, episodes))
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, n - 1) * error)
    assert found.low == pytest.approx(max(found.value - stats.t.ppf(0.975, n - 1) * error, 0.0 if name == "fvd" else -np.inf))
    few = episodes > 0  # one episode fewer
    assert np.isnan(interval_of(a[few], b[few], episodes[few], episodes[few]).low)


def test_features_that_are_none_are_refused() -> None:
    a = features(4, 0)
    for wrong, message in ((a[:, :3], "of one d"), (a[:1], "n of at least 2"), (np.full((4, D), np.nan), "finite"), (a[0], "of one d")):
        with pytest.raises(ValueError, match=message):
            frechet_video_distance(a, wrong)
    with pytest.raises(ValueError, match="one number per clip"):
        kernel_video_distance(a, a, np.arange(4), np.arange(3))
