"""Aggregates, intervals, profiles and probabilities of improvement: by hand, and equal to rliable's replicate for replicate."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rliable import library, metrics

from analysis.aggregates import (
    AGGREGATES,
    CORRECTED,
    MIN_RUNS,
    ScoreError,
    corrected_intervals,
    improvement,
    intervals,
    iqm_curve,
    performance_profile,
    point_estimates,
    probability_of_improvement,
    profile_shares,
    sample_efficiency,
)
from analysis.coverage import SHAPES, attained_coverage, noise, true_values

TAUS = np.linspace(-0.5, 4.0, 37)


def scores(runs: int, games: int, seed: int = 0) -> NDArray[np.float64]:
    """Skewed like HNS, with ties within and between runs."""
    return np.random.default_rng(seed).lognormal(-0.5, 1.0, (runs, games)).round(1)


def rliables(*sides: NDArray[np.float64], statistic: object, seed: int, replicates: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """rliable's own point estimate and interval of a statistic, drawn after seeding what it draws from."""
    state = np.random.get_state()
    np.random.seed(seed)
    data = sides[0] if len(sides) == 1 else list(sides)
    points, ends = library.get_interval_estimates({"x": data}, statistic, reps=replicates)
    np.random.set_state(state)
    return points["x"], ends["x"]


def test_aggregates_by_hand() -> None:
    matrix = np.array([[0.0, 1.0, 4.0, 0.4], [0.2, 1.0, 8.0, 0.6]])  # per-game means 0.1, 1, 6, 0.5
    estimates = point_estimates(matrix)
    assert tuple(estimates) == AGGREGATES
    assert estimates["mean"] == pytest.approx(7.6 / 4)
    assert estimates["median"] == pytest.approx(0.75)
    assert estimates["iqm"] == pytest.approx((0.4 + 0.6 + 1.0 + 1.0) / 4)  # 0, 0.2 and 4, 8 are cut
    assert estimates["optimality_gap"] == pytest.approx((1.0 + 0.8 + 0.6 + 0.4) / 8)
    assert estimates["superhuman"] == 2  # exactly human counts


def test_iqm_is_a_trimmed_mean_and_not_of_quartiles() -> None:
    assert point_estimates([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [1000.0]])["iqm"] == pytest.approx(4.0)  # 7 // 4 = 1 cut a side
    assert point_estimates([[-50.0, 1.0, 2.0, 900.0]])["iqm"] == pytest.approx(1.5)


def test_a_mean_that_rounding_leaves_below_one_is_superhuman() -> None:
    assert point_estimates(np.array([[0.1], [0.7], [2.2]]))["superhuman"] == 1  # 1 - 2e-16 in floating point
    assert point_estimates(np.array([[0.999999]]))["superhuman"] == 0


@pytest.mark.parametrize(("runs", "games"), [(5, 26), (3, 1), (40, 26), (7, 3)])
def test_intervals_are_rliables(runs: int, games: int) -> None:
    matrix = scores(runs, games)

    def statistic(x: NDArray[np.float64]) -> NDArray[np.float64]:
        functions = (metrics.aggregate_mean, metrics.aggregate_median, metrics.aggregate_iqm, metrics.aggregate_optimality_gap)
        return np.array([function(x) for function in functions])

    points, ends = rliables(matrix, statistic=statistic, seed=7, replicates=600)
    found, estimates = intervals(matrix, seed=7, replicates=600), point_estimates(matrix)
    for i, name in enumerate(("mean", "median", "iqm", "optimality_gap")):
        assert estimates[name] == pytest.approx(points[i], abs=1e-12)
        assert found[name] == pytest.approx(tuple(ends[:, i]), abs=1e-12)


def test_interval_of_superhuman_counts_games() -> None:
    matrix = np.array([[0.0, 2.0, 0.4], [0.2, 3.0, 1.0], [0.1, 2.0, 1.9]])  # never, always, sometimes
    assert intervals(matrix, seed=0)["superhuman"] == (1.0, 2.0)


@pytest.mark.parametrize(("runs", "games"), [(5, 26), (30, 26), (3, 2)])
def test_profiles_are_rliables(runs: int, games: int) -> None:
    matrix = scores(runs, games)
    taus = np.unique(np.concatenate([TAUS, matrix[:, 0]]))  # also exactly at scores: the share is of those above
    points, ends = rliables(matrix, statistic=lambda x: library.score_distributions(x, taus), seed=3, replicates=700)
    profile = performance_profile(matrix, taus, seed=3, replicates=700)
    assert profile.share == pytest.approx(points, abs=1e-12)
    assert profile.low == pytest.approx(ends[0], abs=1e-12)
    assert profile.high == pytest.approx(ends[1], abs=1e-12)


def test_profile_by_hand() -> None:
    assert profile_shares([[0.0, 1.0], [1.0, 3.0]], [-1.0, 0.0, 1.0, 2.0, 3.0]).tolist() == [1.0, 0.75, 0.25, 0.25, 0.0]


@pytest.mark.parametrize(("shape_x", "shape_y"), [((5, 26), (5, 26)), ((5, 4), (9, 4)), ((40, 26), (3, 26))])
def test_probability_of_improvement_is_rliables(shape_x: tuple[int, int], shape_y: tuple[int, int]) -> None:
    x, y = scores(*shape_x), scores(*shape_y, seed=1)
    x[: min(len(x), len(y)), 0] = y[: min(len(x), len(y)), 0]  # a game of ties
    points, ends = rliables(x, y, statistic=lambda a, b: np.array([metrics.probability_of_improvement(a, b)]), seed=11, replicates=80)
    estimate = probability_of_improvement(x, y, seed=11, replicates=80)
    assert estimate.value == pytest.approx(points[0], abs=1e-12)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(ends[:, 0]), abs=1e-12)
    assert improvement(x, y) == estimate.value


def test_probability_of_improvement_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = scores(6, 5), scores(4, 5, seed=1)
    whole = probability_of_improvement(x, y, seed=2, replicates=300), intervals(x, 2, 300), sample_efficiency(x[:, :, None], 2, 300)
    monkeypatch.setattr("analysis.aggregates._BLOCK", 100)
    parts = probability_of_improvement(x, y, seed=2, replicates=300), intervals(x, 2, 300), sample_efficiency(x[:, :, None], 2, 300)
    assert whole[0] == parts[0]
    assert whole[1] == parts[1]
    assert (whole[2].low, whole[2].high) == (parts[2].low, parts[2].high)


def test_probability_of_improvement_by_hand() -> None:
    assert improvement([[1.0, 5.0], [3.0, 5.0]], [[2.0, 5.0], [0.0, 5.0], [3.0, 5.0]]) == pytest.approx(((1 + 2.5) / 6 + 0.5) / 2)
    assert improvement([[2.0]], [[1.0]]) == 1.0
    x = scores(5, 6)
    assert probability_of_improvement(x + 100.0, x, seed=0).low == 1.0
    assert improvement(x, x + 100.0) == 0.0
    assert improvement(x, x) == 0.5


def test_sample_efficiency_is_the_iqm_of_every_frame() -> None:
    curves = np.stack([scores(5, 26, seed) * (1.0 + seed) for seed in range(4)], axis=2)
    curve = sample_efficiency(curves, seed=5, replicates=400)
    for frame in range(4):
        assert curve.value[frame] == pytest.approx(metrics.aggregate_iqm(curves[:, :, frame]))
        assert (curve.low[frame], curve.high[frame]) == pytest.approx(intervals(curves[:, :, frame], 5, 400)["iqm"])


def test_a_curve_without_a_band_needs_no_more_than_one_run() -> None:
    curves = np.stack([scores(5, 26, seed) for seed in range(3)], axis=2)
    assert iqm_curve(curves).tolist() == sample_efficiency(curves, seed=0, replicates=10).value.tolist()
    assert iqm_curve([[[1.0, 2.0], [3.0, 4.0], [5.0, 9.0], [7.0, 9.0]]]).tolist() == [4.0, 6.5]


def test_one_seed_gives_one_interval_and_numpys_generator_is_left_alone() -> None:
    matrix, curves = scores(5, 8), scores(5, 32).reshape(5, 8, 4)
    np.random.seed(123)
    before = np.random.get_state()

    def everything(seed: int) -> list[object]:
        profile, curve = performance_profile(matrix, TAUS, seed, 50), sample_efficiency(curves, seed, 50)
        arrays = [profile.low.tolist(), profile.high.tolist(), curve.low.tolist(), curve.high.tolist()]
        return [
            *arrays,
            intervals(matrix, seed, 50),
            intervals(curves, seed, 50),
            probability_of_improvement(matrix, matrix * 1.1, seed, 50),
        ]

    first, again, other = everything(4), everything(4), everything(5)
    after = np.random.get_state()
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_episodes_are_resampled_inside_runs() -> None:
    matrix = scores(5, 6)
    flat = np.repeat(matrix[:, :, None], 10, axis=2)
    assert point_estimates(flat) == pytest.approx(point_estimates(matrix))
    same, without = intervals(flat, 0, 500), intervals(matrix, 0, 500)
    for name in AGGREGATES:  # episodes that do not vary add nothing: the same runs are drawn
        assert same[name] == pytest.approx(without[name], abs=1e-12)
    noise = np.random.default_rng(0).normal(size=(5, 6, 10))
    noisy = flat + noise - noise.mean(axis=2, keepdims=True)
    low, high = intervals(noisy, 0, 500)["mean"]
    assert high - low > (without["mean"][1] - without["mean"][0]) * 1.02
    only_episodes = np.ones((5, 6, 1)) + noise - noise.mean(axis=2, keepdims=True)
    low, high = intervals(only_episodes, 0, 4000)["mean"]  # 300 values of deviation about 1: the mean varies by 1 / sqrt(300)
    spread = only_episodes.std() / np.sqrt(only_episodes.size)
    assert (high - low) / (2 * 1.96 * spread) == pytest.approx(1.0, abs=0.08)


def test_interval_covers_what_it_should() -> None:
    """With many runs the 95% interval of the mean holds the truth about 95 times in 100."""
    generator = np.random.default_rng(0)
    held = [low <= 1.0 <= high for low, high in (intervals(generator.normal(1.0, 0.5, (40, 4)), 0, 300)["mean"] for _ in range(200))]
    assert 0.90 <= np.mean(held) <= 0.985


def test_the_corrected_interval_of_one_game_is_students() -> None:
    """Mean, median and gap of one game, all runs below 1, are means of its runs: Student's t with n - 1 degrees of freedom."""
    runs = np.array([[0.1], [0.3], [0.8]])
    reach = 4.302653 * runs.std(ddof=1) / np.sqrt(3)
    found = corrected_intervals(runs, seed=0, replicates=40_000)
    for name, centre in (("mean", 0.4), ("median", 0.4), ("optimality_gap", 0.6)):
        low, high = found[name]
        assert high - centre == pytest.approx(reach, rel=0.02)
        assert low == (0.0 if name == "optimality_gap" else pytest.approx(centre - reach, rel=0.02))  # a gap is not below 0


def test_the_corrected_interval_of_many_equal_games_is_normal_and_wider_by_the_missing_freedom() -> None:
    matrix = np.tile([[0.2], [0.4], [0.6]], (1, 200)) + np.linspace(0, 0.001, 200)
    low, high = corrected_intervals(matrix, seed=1, replicates=20_000)["mean"]
    assert (high - low) / 2 == pytest.approx(1.96 * 0.2 / np.sqrt(600), rel=0.02)  # 400 degrees of freedom
    low, high = intervals(matrix, seed=1, replicates=20_000)["mean"]
    assert (high - low) / 2 == pytest.approx(np.sqrt(2 / 3) * 1.96 * 0.2 / np.sqrt(600), rel=0.02)


def test_what_no_resample_changes_has_no_corrected_interval() -> None:
    assert set(corrected_intervals(scores(5, 26) + 2.0, 0)) == {"mean", "median", "iqm"}  # no run is below human: the gap is always 0
    assert corrected_intervals(np.ones((3, 4)), 0) == {}


@pytest.mark.parametrize(("runs", "games"), [(3, 3), (3, 26), (5, 26)])
def test_corrected_intervals_cover_what_percentile_intervals_of_few_runs_do_not(runs: int, games: int) -> None:
    mean = np.geomspace(0.05, 5.0, games)
    matrix = mean * (1.0 + 0.3 * np.array([-1.0, 0.0, 1.0, -0.5, 0.5])[:runs, None])
    plain, corrected = (attained_coverage(matrix, 0, method, repetitions=600) for method in ("percentile", "corrected"))
    for name in CORRECTED:
        assert plain[name].level < 0.92
        assert (0.90 if (name, games) == ("iqm", 3) else 0.925) <= corrected[name].level <= 0.985, name  # about two errors of 0.9 points


def test_attained_coverage_is_that_of_the_intervals_themselves() -> None:
    """The simulation in batches agrees with one that calls `intervals` on each simulated matrix."""
    mean, deviation = np.array([0.2, 0.6, 1.5]), np.array([0.1, 0.2, 0.4])
    matrix = mean + deviation * np.array([[-1.0], [0.0], [1.0]])
    generator, held = np.random.default_rng(5), []
    for _ in range(400):
        low, high = intervals(generator.normal(mean, deviation, (3, 3)), 0, 200)["mean"]
        held.append(low <= mean.mean() <= high)
    found = attained_coverage(matrix, 0)["mean"]
    assert found.level == pytest.approx(np.mean(held), abs=0.06)
    assert found.error == pytest.approx(np.sqrt(found.level * (1 - found.level) / 1000))
    assert attained_coverage(matrix, 0)["mean"] == found
    assert attained_coverage(matrix, 1)["mean"] != found


def test_true_values_of_the_model_are_those_of_very_many_runs() -> None:
    mean, deviation = np.array([0.1, 0.8, 1.1, 3.0]), np.array([0.05, 0.3, 0.5, 1.0])
    for shape in SHAPES:
        runs = mean + deviation * noise((400_000, 4), np.random.default_rng(0), shape)
        assert (runs.mean(axis=0), runs.std(axis=0)) == (pytest.approx(mean, abs=0.01), pytest.approx(deviation, rel=0.05))
        many = point_estimates(runs)
        assert true_values(mean, deviation, shape, runs=5) == pytest.approx([many[name] for name in CORRECTED], abs=0.005)  # trims 5 of 20
    value = true_values(mean[:2], deviation[:2], "normal", runs=3)[CORRECTED.index("iqm")]
    trimmed = np.sort(np.ravel(mean[:2] + deviation[:2] * noise((400_000, 2), np.random.default_rng(1), "normal")))
    # of 3 runs of 2 games the IQM trims 1 of 6 values at each end
    assert value == pytest.approx(trimmed[len(trimmed) // 6 : -(len(trimmed) // 6)].mean(), abs=0.003)


def test_a_coverage_needs_runs() -> None:
    with pytest.raises(ScoreError, match="at least 3 runs"):
        attained_coverage(scores(2, 4), 0)
    with pytest.raises(ScoreError, match="shape"):
        attained_coverage(scores(3, 4)[0], 0)
    with pytest.raises(ValueError, match="at least 2"):
        attained_coverage(scores(3, 4), 0, repetitions=2, replicates=1)


def test_confidence_narrows_the_interval() -> None:
    wide, narrow = intervals(scores(5, 26), 0)["iqm"], intervals(scores(5, 26), 0, confidence=0.5)["iqm"]
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize("runs", range(1, MIN_RUNS))
def test_too_few_runs_have_no_interval(runs: int) -> None:
    few, enough = scores(runs, 26), scores(5, 26)
    for attempt in (
        lambda: intervals(few, 0),
        lambda: corrected_intervals(few, 0),
        lambda: performance_profile(few, TAUS, 0),
        lambda: sample_efficiency(few[:, :, None], 0),
        lambda: probability_of_improvement(few, enough, 0),
        lambda: probability_of_improvement(enough, few, 0),
    ):
        with pytest.raises(ScoreError, match="at least 3 runs a game, got"):
            attempt()
    assert point_estimates(few)["mean"] > 0
    assert 0 < improvement(few, enough) < 1
    assert profile_shares(few, TAUS)[0] == 1.0


def test_what_is_no_score_is_refused() -> None:
    good = scores(5, 3)
    for bad in (good[0], np.empty((0, 3)), np.where(good > 1, np.nan, good), np.full((5, 3), np.inf)):
        with pytest.raises(ScoreError):
            point_estimates(bad)
        with pytest.raises(ScoreError):
            intervals(bad, 0)
    with pytest.raises(ScoreError, match="the same games"):
        improvement(good, scores(5, 4))
    for taus in ([1.0, 1.0], [2.0, 1.0], [], [np.nan]):
        with pytest.raises(ScoreError, match="taus"):
            performance_profile(good, taus, 0)
    for settings in ({"seed": -1}, {"seed": 2**32}, {"seed": 0, "replicates": 0}, {"seed": 0, "confidence": 1.0}):
        with pytest.raises(ValueError, match="expected"):
            intervals(good, **settings)  # type: ignore[arg-type]


def test_importing_the_analysis_of_scores_is_light() -> None:
    code = (
        "import sys, analysis.scores, analysis.aggregates, analysis.comparison, analysis.coverage\n"
        "print(sorted({'torch', 'scipy', 'rliable', 'arch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert done.stdout.strip() == "[]"


def test_the_benchmark_of_coverage_prints_the_documented_table() -> None:
    benchmark = Path(__file__).parent / "benchmarks" / "aggregate_coverage.py"
    few = [sys.executable, str(benchmark), "--repetitions", "2", "--replicates", "2"]
    done = subprocess.run(few, capture_output=True, text=True, check=True, cwd=benchmark.parents[2])
    documented = (benchmark.parents[2] / "docs" / "measurements" / "verdicts.md").read_text()
    cells = [line.rpartition(" | ")[0].split(" | ")[:3] for line in done.stdout.splitlines()]
    assert len(cells) == 2 + 4 * 3 * 3
    for name, runs, shape in cells[2:]:
        assert f"{name} | {runs} | {shape} | " in documented


@pytest.mark.slow
def test_twenty_methods_of_a_hundred_runs() -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("benchmarks_analysis.py"))], capture_output=True, text=True, check=True
    )
    figures = dict(line.split("=") for line in done.stdout.split())
    assert float(figures["aggregates_s"]) + float(figures["profiles_s"]) < 60.0
    assert float(figures["improvement_s"]) < 30.0
    assert float(figures["peak_mib"]) < 2048.0
