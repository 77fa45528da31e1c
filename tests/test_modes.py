"""Scores of modes, against samplers whose scores can be worked out by hand, and where a study's figure draws them."""

from pathlib import Path

import numpy as np
import pytest
from test_report import finish

from analysis.modes import measure, score
from diamond_bench.report.mode_figures import mode_figures
from diamond_bench.studies.metrics import metric_label
from diamond_bench.studies.plan import plan_study, save_plan
from diamond_bench.studies.results import collect
from diamond_bench.studies.store import Store

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


Points = list[tuple[float, float]]


def drawn_points(tmp_path: Path, arms: str) -> tuple[dict[str, Points], dict[str, Points]]:
    """By line, (NFE, mean over seeds) of two metrics as a study's figure of modes has them.

    n steps of every variant are said to take 2n - 1 calls a frame; the scores are made up of n, the seed and the metric.
    """
    file = tmp_path / "mine.yaml"
    fixed = "set: {data: random, env.frame_size: 16, evaluation.metrics: [modes]}"
    primary = "primary: {metric: mode_distance}"
    axes = "axes: {n: {key: sampler.num_steps, values: [1, 2, 4]}}"
    file.write_text(f"question: x\nprotocol: world_model\ngames: [synthetic/turn]\nseeds: 2\n{primary}\n{fixed}\n{arms}{axes}\n")
    plan = plan_study(str(file), ["scale=tiny"])
    store = Store(tmp_path / "outputs", say=lambda text: None)
    seeds = {point.jobs["evaluation"]: point.seed for point in plan.points}
    for ref, spec in plan.jobs.items():
        n = spec.config.sampler.num_steps if ref in seeds else 0
        scores = {"nfe_per_frame": 2.0 * n - 1, "mode_distance": 0.1 * n + 0.02 * seeds.get(ref, 0), "mode_valid_fraction": 0.2 * n}
        finish(store, spec, scores=scores)
    saved = save_plan(plan, store.root)
    (offered,) = mode_figures(saved, collect(saved, store))
    drawn = offered.draw()
    assert drawn is not None
    panels = {" ".join(ax.get_title().split()): ax for ax in drawn.figure.axes}
    assert {ax.get_xlabel() for ax in panels.values()} == {"NFE per frame"}
    found = []
    for metric in ("mode_distance", "mode_valid_fraction"):
        lines = [line for line in panels[metric_label(metric)].get_lines() if not str(line.get_label()).startswith("_")]
        found.append({str(line.get_label()): list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in lines})
    return found[0], found[1]


DISTANCES, VALID = [(1, 0.11), (3, 0.21), (7, 0.41)], [(1, 0.2), (3, 0.4), (7, 0.8)]


def test_the_figure_draws_each_score_at_its_denoiser_calls(tmp_path: Path) -> None:
    distances, valid = drawn_points(tmp_path, "")
    assert list(distances) == list(valid) == ["mine"]
    assert np.array(distances["mine"]) == pytest.approx(np.array(DISTANCES))
    assert np.array(valid["mine"]) == pytest.approx(np.array(VALID))


def test_lines_side_by_side_stand_around_their_denoiser_calls(tmp_path: Path) -> None:
    distances, _ = drawn_points(tmp_path, "arms: {a: {training.learning_rate: 0.001}, b: {training.learning_rate: 0.002}}\n")
    a, b = np.array(distances["a"]), np.array(distances["b"])
    assert (a[:, 0] < b[:, 0]).all()
    assert (a[:, 0] > 0.9 * b[:, 0]).all()
    assert np.sqrt(a[:, 0] * b[:, 0]) == pytest.approx(np.array(DISTANCES)[:, 0])
    for line in (a, b):
        assert line[:, 1] == pytest.approx(np.array(DISTANCES)[:, 1])
