"""Proper scores against closed forms, and in a stochastic game whose dynamics are known, where pixel error prefers a blur or a copy."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from analysis.proper_scores import crps, energy_score, expected_rank_deviation, rank_deviation, rank_shares, ranks, uniform_band
from analysis.rank_figures import rank_figure
from diamond_bench.envs.synthetic import State, next_frames, render
from diamond_bench.metrics.sample_scores import block_luminance, sample_scores, score_rows

N = 40_000
GAME, SIZE = "synthetic/opponent", 16


def test_the_energy_score_by_hand() -> None:
    x, y = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]), np.array([0.0, 0.0])
    to_truth = np.linalg.norm(x - y, axis=-1)  # 0, 5, 1
    between = np.linalg.norm(x[:, None] - x, axis=-1)  # 5, 1 and sqrt(18)
    assert energy_score(to_truth, between) == pytest.approx(6 / 3 - 2 * (5 + 1 + np.sqrt(18)) / (2 * 3 * 2))
    with pytest.raises(ValueError, match="K >= 2"):
        energy_score([1.0], [[0.0]])


@pytest.mark.parametrize("k", [2, 3, 16])
def test_the_expected_score_of_a_perfect_sampler_does_not_depend_on_k(k: int) -> None:
    rng = np.random.default_rng(k)
    found = crps(rng.normal(size=(N, k)), rng.normal(size=N))
    assert found.mean() == pytest.approx(
        1 / np.sqrt(np.pi), abs=4 * found.std() / np.sqrt(N)
    )  # E|x - y| is 2 / sqrt(pi), half of it subtracted


def test_a_perfect_sampler_beats_the_mean_a_copy_and_one_that_is_too_wide() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=N)
    perfect = crps(rng.normal(size=(N, 4)), truth).mean()
    mean = crps(np.zeros((N, 4)), truth).mean()
    assert mean == pytest.approx(np.sqrt(2 / np.pi), abs=0.02)
    for others in (np.ones((N, 4)), 2 * rng.normal(size=(N, 4)), 0.3 * rng.normal(size=(N, 4)), np.zeros((N, 4))):
        assert crps(others, truth).mean() > perfect + 0.02


def test_ranks_of_exchangeable_samples_are_uniform_also_where_they_tie() -> None:
    rng = np.random.default_rng(1)
    for draw in (rng.normal(size=(N, 5)), rng.integers(0, 2, (N, 5)), np.zeros((N, 5))):
        found = np.bincount(ranks(draw[:, :4], draw[:, 4], rng), minlength=5)
        assert found == pytest.approx(np.full(5, N / 5), abs=4 * np.sqrt(N * 0.16))
        assert rank_deviation(found) < 0.02
    low = np.bincount(ranks(rng.normal(size=(N, 4)) + 50.0, rng.normal(size=N), rng), minlength=5)
    assert rank_deviation(low) == pytest.approx(0.8)
    assert np.isnan(rank_deviation(np.zeros(5)))


def test_chance_alone_takes_ranks_from_uniform_by_the_closed_form() -> None:
    assert expected_rank_deviation(1, 3) == pytest.approx(0.75)  # one bin of four has all
    assert expected_rank_deviation(2, 1) == pytest.approx(0.25)  # both in one bin, 1/2, in half of all cases
    rng = np.random.default_rng(4)
    for n, k in ((6, 4), (64, 8), (7, 30)):
        found = [rank_deviation(np.bincount(rng.integers(0, k + 1, n), minlength=k + 1)) for _ in range(4000)]
        assert expected_rank_deviation(n, k) == pytest.approx(np.mean(found), abs=4 * np.std(found) / np.sqrt(4000))
    with pytest.raises(ValueError, match="at least one rank"):
        expected_rank_deviation(0, 4)


def test_ranks_that_depend_within_a_start_deviate_at_most_as_one_rank_per_start() -> None:
    rng = np.random.default_rng(5)
    starts, blocks, k, chance = 12, 16, 4, expected_rank_deviation(12, 4)

    def deviation(drawn: NDArray[np.int64]) -> float:
        return rank_deviation(rank_shares([np.bincount(row, minlength=k + 1) for row in drawn]))

    found = {}
    for name, shared in (("equal", 1.0), ("half", 0.5), ("independent", 0.0)):
        draws = []
        for _ in range(1500):
            own, common = rng.integers(0, k + 1, (starts, blocks)), rng.integers(0, k + 1, (starts, 1))
            draws.append(deviation(np.where(rng.random(own.shape) < shared, common, own)))
        found[name] = np.mean(draws)
    assert found["equal"] == pytest.approx(chance, rel=0.05)
    assert found["independent"] == pytest.approx(expected_rank_deviation(starts * blocks, k), rel=0.05)
    assert found["independent"] < found["half"] < found["equal"]


def test_the_histogram_of_ranks_weighs_starts_alike() -> None:
    assert rank_shares([[4, 0], [0, 1], [0, 0]]).tolist() == [0.5, 0.5]
    assert np.isnan(rank_shares([[0, 0]])).all()


@pytest.mark.parametrize(("n", "k"), [(8, 3), (64, 8), (500, 15)])
def test_the_band_of_chance_holds_a_bin_in_95_percent(n: int, k: int) -> None:
    low, high = uniform_band(n, k)
    heights = np.random.default_rng(n).binomial(n, 1 / (k + 1), 20_000) * (k + 1) / n
    for beyond, at_least in ((heights > high + 1e-9, heights > high - 1e-9), (heights < low - 1e-9, heights < low + 1e-9)):
        assert beyond.mean() < 0.03
        assert at_least.mean() > 0.02, "a narrower band would hold too little"
    assert low < 1 < high


def test_block_means() -> None:
    frames = torch.zeros(2, 3, 18, 16, dtype=torch.uint8)
    frames[0, :, :4, :4] = 255  # rows 0 to 3 are the first block of 18 rows
    frames[1, 1] = 100
    found = block_luminance(frames)
    assert found.shape == (2, 16)
    assert found[0].tolist() == [1.0] + [0.0] * 15
    assert found[1] == pytest.approx(np.full(16, 0.587 * 100 / 255))


class Dynamics:
    """All of the true distribution of the frame `steps` steps after one start, by the true dynamics."""

    def __init__(self, minority_share: float, steps: int) -> None:
        start = render(GAME, State(1, 3, 0, 6), SIZE).transpose(2, 0, 1)
        self.last = start
        frames, probabilities = [start], np.ones(1)
        for _ in range(steps):
            found = [next_frames(GAME, frame[None], 0, minority_share) for frame in frames]
            probabilities = np.concatenate([p * after for p, (_, after) in zip(probabilities, found, strict=True)])
            frames = [mode for modes, _ in found for mode in modes]
        self.frames, self.probabilities = np.stack(frames), probabilities

    def draw(self, rng: np.random.Generator, *shape: int) -> NDArray[np.uint8]:
        return self.frames[rng.choice(len(self.frames), shape, p=self.probabilities)]

    @property
    def mean(self) -> NDArray[np.uint8]:
        return np.tensordot(self.probabilities, self.frames.astype(np.float64), 1).round().astype(np.uint8)

    @property
    def likeliest(self) -> NDArray[np.uint8]:
        return np.asarray(self.frames[self.probabilities.argmax()])


@pytest.mark.parametrize(
    ("minority_share", "steps", "rival", "error"),
    [(0.2, 1, "mean", "mse"), (0.2, 1, "likeliest", "drift"), (0.5, 2, "last", "drift"), (0.5, 2, "last", "mse")],
    ids=["a blur", "one mode", "a copy", "a copy, squared"],
)
def test_pixel_error_prefers_a_blur_or_a_copy_to_the_true_dynamics_and_the_energy_score_does_not(
    minority_share: float, steps: int, rival: str, error: str
) -> None:
    n, k = 400, 4
    dynamics, rng = Dynamics(minority_share, steps), np.random.default_rng(2)
    true = dynamics.draw(rng, n)
    power = {"mse": 2, "drift": 1}[error]
    errors, scores = {}, {}
    for name, samples in {
        "perfect": dynamics.draw(rng, n, k),
        rival: np.broadcast_to(getattr(dynamics, rival), (n, k, *true.shape[1:])),
    }.items():
        difference = (samples.astype(np.float64) - true[:, None]) / 255
        errors[name] = (np.abs(difference) ** power).mean()
        last = torch.from_numpy(np.broadcast_to(dynamics.last, true.shape).copy())
        keys = [(0, i) for i in range(n)]
        futures = torch.from_numpy(samples[:, :, None].copy())
        arrays = sample_scores(futures, torch.from_numpy(true[:, None]), last, keys, None)
        scores[name] = {(row.metric, row.baseline): row.value for row in score_rows(arrays)}
    assert errors[rival] < 0.9 * errors["perfect"]
    assert scores["perfect"]["energy_score", ""] < 0.95 * scores[rival]["energy_score", ""]
    assert scores["perfect"]["energy_score", ""] < 0.95 * scores["perfect"]["energy_score", "copy-last-frame"]
    assert scores["perfect"]["luminance_crps", ""] < scores[rival]["luminance_crps", ""]
    assert scores["perfect"]["rank_deviation", ""] < 0.05
    assert scores["perfect"]["rank_deviation", "uniform-ranks"] == pytest.approx(expected_rank_deviation(n, k))


@pytest.mark.parametrize("k", [2, 4])
def test_lpips_enters_as_its_root_and_does_so_for_all_pairs(k: int) -> None:
    def squared(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).square().mean(dim=(1, 2, 3))

    rng = np.random.default_rng(3)
    frames = torch.from_numpy(rng.integers(0, 256, (2, k + 1, 3, 3, 8, 8), dtype=np.uint8))
    found = sample_scores(frames[:, :k], frames[:, k], frames[:, 0, 0], [(1,), (2,)], squared)
    for prefix in ("", "copy_"):  # sqrt of the mean squared difference on [-1, 1] is twice the RMS error on [0, 1]
        assert found[f"{prefix}energy_score_lpips"] == pytest.approx(2 * found[f"{prefix}energy_score"], rel=1e-5)
    assert found["ranks"].sum(axis=1).tolist() == [3 * 16] * 2


def test_the_figure_of_ranks_is_in_units_of_the_uniform_histogram() -> None:
    figure = rank_figure({"edm": {"n = 1": [30, 0, 0, 30], "n = 3": [5, 5, 5, 5]}}, 8)
    lines = {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in figure.axes[0].get_lines()}
    assert lines["n = 1"] == [2.0, 0.0, 0.0, 2.0]
    assert lines["n = 3"] == [1.0] * 4
    (band,) = figure.axes[0].patches
    low, high = band.get_extents().transformed(figure.axes[0].transData.inverted()).intervaly
    assert (low, high) == pytest.approx((0.0, 2.5)), "0 to 5 of 8 ranks in a bin that is to have 2"
    with pytest.raises(ValueError, match="without counts"):
        rank_figure({"edm": {"n = 1": [0, 0]}}, 8)
