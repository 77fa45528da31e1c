"""Scores of modes, against samplers whose scores can be worked out by hand, and where a study's figure draws them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_report import finish

from analysis.mode_figures import modes_figure, threshold_figure
from analysis.modes import ModeScores, measure, score, share_within
from diamond_bench.metrics import all_metrics
from diamond_bench.metrics.columns import metric_label
from diamond_bench.report.mode_figures import mode_figures
from diamond_bench.results.table import collect
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.plan import plan_study, save_plan
from diamond_bench.studies.spec import load_study

P = 0.2
WINDOWS, SAMPLES = 400, 8
MODES = np.random.default_rng(0).integers(0, 256, (WINDOWS, 2, 3, 4, 4)).astype(np.float64)
SHARES = np.tile([P, 1 - P], (WINDOWS, 1))


def scored(samples: np.ndarray, modes: np.ndarray = MODES, shares: np.ndarray = SHARES) -> ModeScores:
    return score(measure(samples, modes), shares)


def drawn(choice: np.ndarray, modes: np.ndarray = MODES) -> np.ndarray:
    """Samples (n, K, ...) exactly on the mode that choice (n, K) names."""
    return np.stack([row[chosen] for row, chosen in zip(modes, choice, strict=True)])


def weighed(minority: int, of: int) -> np.ndarray:
    """Choices (of^2, 2) of two independent draws, enumerated: the less likely mode in `minority` of `of` cases. So means over windows are
    exact expectations."""
    case = (np.arange(of) >= minority).astype(int)
    return np.stack(np.meshgrid(case, case), axis=-1).reshape(-1, 2)


def same_modes(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(MODES[:1], n, axis=0), SHARES[:1].repeat(n, axis=0)


def mean_frames(samples: int = SAMPLES) -> np.ndarray:
    return (MODES * SHARES[:, :, None, None, None]).sum(axis=1, keepdims=True).repeat(samples, axis=1)


def test_a_sampler_of_the_true_distribution_has_distance_zero_in_expectation() -> None:
    modes, shares = same_modes(25)
    found = scored(drawn(weighed(1, 5), modes), modes, shares)
    assert found.cramer.mean() == pytest.approx(0.0, abs=1e-12)
    assert found.energy.mean() == pytest.approx(0.0, abs=1e-12)
    assert (found.minority_share, found.true_minority_share) == pytest.approx((P, P))
    assert (found.commitment, found.off_axis) == pytest.approx((1.0, 0.0), abs=1e-12)
    assert found.cramer.min() < 0, "a window's value may be negative"


def test_small_noise_off_the_axis_leaves_shares_and_cramer_distance_as_they_are() -> None:
    """Noise of 0.01 per pixel is 0.16 of the modes' distance in 256 pixels: more than the 1/8 at which the former score called a sample
    invalid."""
    modes = np.zeros((25, 2, 1, 16, 16))
    modes[:, 0, 0, 0, 0] = modes[:, 1, 0, 0, 1] = np.sqrt(0.5)  # 1 apart
    noise = np.random.default_rng(2).normal(0.0, 0.01, (25, 2, 1, 16, 16))
    noise[..., 0, :2] = 0.0  # the pixels in which the modes differ
    samples = drawn(weighed(1, 5), modes) + noise
    found = scored(samples, modes, SHARES[:25])
    assert share_within(measure(samples, modes)["distances"], [1 / 8, 1 / 4]).tolist() == [0.0, 1.0]
    assert found.cramer.mean() == pytest.approx(0.0, abs=1e-12)
    assert found.minority_share == pytest.approx(P)
    assert found.off_axis == pytest.approx(0.01 * np.sqrt(254), rel=0.02)


def test_a_blur_has_the_variance_as_its_cramer_distance() -> None:
    found = scored(mean_frames())
    assert found.cramer == pytest.approx(np.full(WINDOWS, P * (1 - P)))
    assert found.energy == pytest.approx(np.full(WINDOWS, 2 * P * (1 - P)))
    assert (found.commitment, found.minority_share, found.off_axis) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)


@pytest.mark.parametrize(("mode", "share", "distance"), [(1, 0.0, P**2), (0, 1.0, (1 - P) ** 2)])
def test_a_sampler_of_one_mode_misses_the_other_ones_probability(mode: int, share: float, distance: float) -> None:
    found = scored(drawn(np.full((WINDOWS, SAMPLES), mode)))
    assert found.cramer == pytest.approx(np.full(WINDOWS, distance))
    assert found.energy == pytest.approx(np.full(WINDOWS, 2 * distance))
    assert (found.commitment, found.minority_share) == pytest.approx((1.0, share))


def test_even_odds_where_the_truth_is_uneven() -> None:
    modes, shares = same_modes(4)
    found = scored(drawn(weighed(1, 2), modes), modes, shares)
    assert found.cramer.mean() == pytest.approx((0.5 - P) ** 2)
    assert found.minority_share == pytest.approx(0.5)


def test_one_way_per_window_has_the_right_shares_but_not_the_distribution() -> None:
    once = (np.arange(WINDOWS) % 5 > 0).astype(int)[:, None].repeat(SAMPLES, axis=1)
    found = scored(drawn(once))
    assert found.minority_share == pytest.approx(P)
    assert found.cramer.mean() == pytest.approx(P * (1 - P))


def test_no_score_depends_on_which_mode_is_named_first() -> None:
    rng = np.random.default_rng(3)
    samples = drawn(rng.integers(0, 2, (WINDOWS, SAMPLES))) + rng.normal(0.0, 20.0, (WINDOWS, SAMPLES, 3, 4, 4))
    one, other = scored(samples), scored(samples, MODES[:, ::-1], SHARES[:, ::-1])
    for name, value in vars(one).items():
        assert getattr(other, name) == pytest.approx(value), name
    middle = MODES.mean(axis=1, keepdims=True).repeat(2, axis=1)
    assert scored(middle).minority_share == pytest.approx(0.5)
    distances = [measure(samples, modes)["distances"] for modes in (MODES, MODES[:, ::-1])]
    assert np.array_equal(share_within(distances[0], [0.1, 0.5]), share_within(distances[1], [0.1, 0.5]))


def test_at_even_odds_there_is_no_less_likely_mode() -> None:
    found = scored(drawn(np.zeros((WINDOWS, SAMPLES), int)), shares=np.full((WINDOWS, 2), 0.5))
    assert np.isnan(found.minority_share)
    assert np.isnan(found.true_minority_share)
    assert found.cramer.mean() == pytest.approx(0.25)


def test_half_way_from_the_mean_to_a_mode_is_half_committed() -> None:
    """Such samples lie at 0.1 from the likelier mode and at 0.4 from the other: one threshold would count those of one mode alone."""
    assert scored((mean_frames(2) + MODES) / 2).commitment == pytest.approx(0.5)
    modes, shares = same_modes(25)
    mean = (modes * shares[:, :, None, None, None]).sum(axis=1, keepdims=True)
    found = scored((mean + drawn(weighed(1, 5), modes)) / 2, modes, shares)
    assert (found.commitment, found.minority_share) == pytest.approx((0.5, P))


def test_the_share_within_a_threshold_is_a_function_of_the_threshold() -> None:
    at = [MODES[:, [0]] * (1 - error) + MODES[:, [1]] * error for error in (0.05, 0.1, 0.7, 0.9)]
    distances = measure(np.concatenate(at, axis=1), MODES)["distances"]
    assert share_within(distances, [0.0, 0.07, 0.11, 0.31, 1.0]).tolist() == [0.0, 0.25, 0.75, 1.0, 1.0]


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


Points = list[tuple[float, float]]


def drawn_points(tmp_path: Path, arms: str) -> tuple[dict[str, Points], dict[str, Points]]:
    """By line, (NFE, mean over seeds) of two metrics as a study's figure of modes has them.

    n steps of every variant are said to take 2n - 1 calls a frame; the scores are made up of n, the seed and the metric.
    """
    file = tmp_path / "mine.yaml"
    fixed = "set: {data: random, env.frame_size: 16, evaluation.metrics: [modes]}"
    primary = "primary: {metric: mode_cramer_distance}"
    axes = "axes: {n: {key: sampler.num_steps, values: [1, 2, 4]}}"
    file.write_text(f"question: x\nprotocol: world_model\ngames: [synthetic/turn]\nseeds: 3\n{primary}\n{fixed}\n{arms}{axes}\n")
    plan = plan_study(str(file), ["scale=tiny"])
    store = Store(tmp_path / "outputs", say=lambda text: None)
    seeds = {point.jobs["evaluation"]: point.seed for point in plan.points}
    for ref, spec in plan.jobs.items():
        n = spec.config.sampler.num_steps if ref in seeds else 0
        scores = {"nfe_per_frame": 2.0 * n - 1, "mode_cramer_distance": 0.1 * n + 0.02 * seeds.get(ref, 0), "mode_commitment": 0.2 * n}
        finish(store, spec, scores=scores)
    saved = save_plan(plan, store.root)
    (offered,) = mode_figures(all_metrics()["modes"].figures[0], saved, collect(saved, store))
    drawn = offered.draw()
    assert drawn is not None
    assert "dash-dotted: as many samples" in drawn.caption
    panels = {" ".join(ax.get_title().split()): ax for ax in drawn.figure.axes}
    assert {ax.get_xlabel() for ax in panels.values()} == {"network calls per frame (NFE)"}
    found = []
    for metric in ("mode_cramer_distance", "mode_commitment"):
        lines = [line for line in panels[metric_label(metric)].get_lines() if not str(line.get_label()).startswith("_")]
        found.append({str(line.get_label()): list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in lines})
    return found[0], found[1]


DISTANCES, COMMITMENT = [(1, 0.12), (3, 0.22), (7, 0.42)], [(1, 0.2), (3, 0.4), (7, 0.8)]


def test_the_figure_draws_each_score_at_its_denoiser_calls(tmp_path: Path) -> None:
    distances, commitment = drawn_points(tmp_path, "")
    assert list(distances) == list(commitment) == ["mine"]
    assert np.array(distances["mine"]) == pytest.approx(np.array(DISTANCES))
    assert np.array(commitment["mine"]) == pytest.approx(np.array(COMMITMENT))


def test_lines_of_several_arms_stand_at_their_denoiser_calls(tmp_path: Path) -> None:
    distances, _ = drawn_points(tmp_path, "arms: {a: {training.learning_rate: 0.001}, b: {training.learning_rate: 0.002}}\n")
    for arm in ("a", "b"):
        assert np.array(distances[arm]) == pytest.approx(np.array(DISTANCES))


def test_the_figure_of_thresholds_shows_shares_and_the_true_distribution() -> None:
    thresholds = np.linspace(0.0, 0.5, 3)
    figure = threshold_figure(thresholds, {"edm": {"n = 1": np.array([0.0, 0.5, 1.0]), "n = 3": np.array([0.2, 0.9, 1.0])}}, blur=0.2)
    lines = {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in figure.axes[0].get_lines()}
    assert lines["n = 3"] == [0.2, 0.9, 1.0]
    assert lines["true distribution"] == [1.0, 1.0]
    points = pd.DataFrame({"metric": ["a"], "group": ["b"], "nfe": [1.0], "mean": [0.3], "low": [0.2], "high": [0.4]})
    for shown in (figure, modes_figure(points, labels={}, truth={"a": 0.1})):  # the captions of both say dash-dotted
        (truth,) = [line for line in shown.axes[0].get_lines() if line.get_label() == "true distribution"]
        assert truth.get_linestyle() == "-."


def test_the_study_of_a_random_game_asks_for_the_cramer_distance() -> None:
    stated = load_study("stochastic_world", "paper").primary
    assert stated.metric == "mode_cramer_distance"
    assert stated.margin.value == pytest.approx(P**2 / 4)  # a quarter of the distance of a sampler of one mode
