"""Scores of modes, against samplers whose scores can be worked out by hand."""

import numpy as np
import pytest

from analysis.modes import measure, score

P = 0.2
WINDOWS, SAMPLES = 400, 8
MODES = np.random.default_rng(0).integers(0, 256, (WINDOWS, 2, 3, 4, 4)).astype(np.float64)
SHARES = np.tile([P, 1 - P], (WINDOWS, 1))


def scored(samples: np.ndarray, modes: np.ndarray = MODES, shares: np.ndarray = SHARES):  # type: ignore[no-untyped-def]
    return score(measure(samples, modes), shares)


def drawn(choice: np.ndarray) -> np.ndarray:
    """Samples (n, K, ...) exactly on the mode that choice (n, K) names."""
    return np.stack([modes[row] for modes, row in zip(MODES, choice, strict=True)])


def test_the_truth_has_all_right() -> None:
    found = scored(drawn((np.random.default_rng(1).random((WINDOWS, SAMPLES)) >= P).astype(int)))
    assert (found.valid_fraction, found.commitment) == pytest.approx((1.0, 1.0))
    error = np.sqrt(P * (1 - P) / (WINDOWS * SAMPLES))
    assert found.minority_share == pytest.approx(P, abs=4 * error)
    assert found.mode_distance == pytest.approx(abs(found.minority_share - P))
    assert found.energy_distance == pytest.approx(0.0, abs=0.03)
    assert found.true_minority_share == pytest.approx(P)


def test_the_mean_commits_to_nothing() -> None:
    mean = (MODES * SHARES[:, :, None, None, None]).sum(axis=1, keepdims=True).repeat(SAMPLES, axis=1)
    found = scored(mean)
    assert found.valid_fraction == 0.0
    assert found.commitment == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(found.minority_share)
    assert found.mode_distance == pytest.approx(1.0)
    assert found.energy_distance == pytest.approx(2 * 2 * P * (1 - P) - 2 * P * (1 - P))


def test_the_majority_alone_has_share_zero() -> None:
    found = scored(drawn(np.ones((WINDOWS, SAMPLES), int)))
    assert (found.valid_fraction, found.commitment, found.minority_share) == pytest.approx((1.0, 1.0, 0.0))
    assert found.mode_distance == pytest.approx(P)
    assert found.energy_distance == pytest.approx(2 * P * P)


def test_one_way_a_window_has_the_right_shares_but_not_the_distribution() -> None:
    once = (np.arange(WINDOWS) % 5 > 0).astype(int)[:, None].repeat(SAMPLES, axis=1)
    found = scored(drawn(once))
    assert found.mode_distance == pytest.approx(0.0)
    assert found.energy_distance == pytest.approx(2 * P * (1 - P))


def test_half_way_from_the_mean_to_a_mode_is_half_committed() -> None:
    mean = (MODES * SHARES[:, :, None, None, None]).sum(axis=1, keepdims=True).repeat(2, axis=1)
    assert scored((mean + MODES) / 2).commitment == pytest.approx(0.5)


def test_a_wrong_pixel_off_the_axis_is_not_valid() -> None:
    modes = np.zeros((1, 2, 1, 2, 2))
    modes[0, 0, 0, 0, 0] = modes[0, 1, 0, 0, 1] = 1.0
    shares = np.array([[P, 1 - P]])
    samples = modes[:, [0, 1]].copy()
    samples[0, 0, 0, 1, 1] = 1.0  # where the modes agree
    found = scored(samples, modes, shares)
    assert found.valid_fraction == 0.5
    assert found.mode_distance == pytest.approx((abs(0 - P) + abs(0.5 - (1 - P)) + 0.5) / 2)


@pytest.mark.parametrize(("error", "valid"), [(0.124, 1.0), (0.126, 0.0)])
def test_valid_is_an_eighth_of_the_distance(error: float, valid: float) -> None:
    at = MODES[:, [0, 0]] * (1 - error) + MODES[:, [1, 1]] * error
    assert scored(at).valid_fraction == valid


def test_windows_of_other_probabilities_are_no_consolation() -> None:
    shares = np.array([[0.2, 0.8], [0.8, 0.2]] * (WINDOWS // 2))
    always_first = drawn(np.zeros((WINDOWS, SAMPLES), int))
    found = scored(always_first, shares=shares)
    assert found.mode_distance == pytest.approx((0.8 + 0.2) / 2)
    assert found.minority_share == pytest.approx(0.5)


def test_what_does_not_fit_is_refused() -> None:
    samples = drawn(np.zeros((WINDOWS, SAMPLES), int))
    with pytest.raises(ValueError, match="K >= 2"):
        measure(samples[:, :1], MODES)
    with pytest.raises(ValueError, match="modes"):
        measure(samples, MODES[:, :1])
    with pytest.raises(ValueError, match="same frame"):
        measure(samples, MODES[:, [0, 0]])
    with pytest.raises(ValueError, match="probabilities"):
        score(measure(samples, MODES), np.tile([0.0, 1.0], (WINDOWS, 1)))
