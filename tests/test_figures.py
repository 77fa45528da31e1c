"""Figures of a study: what they draw. test_charts.py has what all figures share."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.agent_figures import learning_figure
from analysis.curves import band_words, mean_curve, mean_points
from analysis.figures import DriftPanel, draw_drift, drift_figure, quality_figure, trajectory_figure
from analysis.variant_figures import variant_figure

STEPS = 30


def drifts(seed: int, level: float = 0.1) -> np.ndarray:
    """(3 seeds, 10 trajectories, t)."""
    return level * np.random.default_rng(seed).uniform(0.5, 1.5, size=(3, 10, 1)) * np.linspace(0.1, 1, STEPS)


def scores(*nfe: int, seeds: int = 3) -> pd.DataFrame:
    grid = itertools.product(("fid", "psnr"), ("EDM", "DDPM"), nfe, range(seeds))
    return pd.DataFrame([{"metric": m, "group": g, "nfe": n, "seed": s, "value": 10.0 * n + s + (g == "DDPM")} for m, g, n, s in grid])


# ------------------------------------------------------------------------------------------------ curves


def test_a_curve_is_the_mean_over_trajectories_and_seeds():
    values = np.arange(24.0).reshape(2, 3, 4)
    curve = mean_curve(values)
    assert curve.mean == pytest.approx(values.mean(axis=(0, 1)))
    assert (curve.num_seeds, curve.num_trajectories) == (2, 3)
    assert mean_curve(values[0]).mean == pytest.approx(values[0].mean(axis=0))
    for wrong in (np.zeros(3), np.zeros((0, 3)), np.full((2, 3), np.nan)):
        with pytest.raises(ValueError, match="a curve needs"):
            mean_curve(wrong)


def test_the_interval_knows_what_varies():
    """1,000 trajectories that agree leave no doubt about the mean, unless the three seeds they come from disagree."""
    agreeing = np.ones((3, 1000, 2))
    assert mean_curve(agreeing).high == pytest.approx([1.0, 1.0])
    by_seed = agreeing * np.array([0.5, 1.0, 1.5])[:, None, None]
    assert (mean_curve(by_seed).high - mean_curve(by_seed).low > 0.5).all()
    noisy = np.random.default_rng(0).normal(size=(1, 400, 1))
    curve = mean_curve(noisy)
    assert curve.high - curve.low == pytest.approx(2 * 1.96 * noisy.std() / 20, rel=0.15)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("between", [0.0, 1.0, 3.0])
def test_the_band_holds_the_true_mean_as_often_as_it_says(seeds: int, between: float):
    """1,000 independent studies (one a t) whose true mean is 0, 40 references, seeds that differ by `between` standard deviations."""
    generator, studies = np.random.default_rng(seeds), 1000
    own = generator.normal(0.0, between, (seeds, 1, studies))
    curve = mean_curve(own + generator.normal(size=(1, 40, studies)) + generator.normal(size=(seeds, 40, studies)))
    covered = ((curve.low <= 0) & (curve.high >= 0)).mean()
    assert 0.91 <= covered <= 0.99


@pytest.mark.parametrize("seeds", [3, 5, 30])
def test_where_seeds_alone_differ_the_band_is_students(seeds: int):
    values = np.random.default_rng(0).normal(size=(seeds, 1, 50)) * np.ones((1, 20, 1))
    curve = mean_curve(values)
    half = stats.t.ppf(0.975, seeds - 1) * values[:, 0].std(axis=0, ddof=1) / np.sqrt(seeds)
    assert ((curve.high - curve.low) / (2 * half)).mean() == pytest.approx(1.0)


def test_fewer_than_three_seeds_say_nothing_of_other_seeds():
    values = np.random.default_rng(0).normal(size=(2, 400, 1)) + np.array([0.0, 9.0])[:, None, None]
    curve = mean_curve(values)
    assert curve.high - curve.low == pytest.approx(2 * 1.96 * values.mean(axis=0).std() / 20, rel=0.15)
    three = mean_curve(drifts(0))
    assert band_words([three]) == "band: 95% interval of the mean, over seeds and references clustered by episode"
    assert "saying nothing about other seeds (where there are 2 seeds)" in band_words([curve, three])


def test_windows_of_one_game_are_no_independent_references():
    """40 windows from 5 games that differ, and windows that do not: the band is that of five numbers, not of forty."""
    of_game = np.random.default_rng(0).normal(size=5) + 10.0
    values = np.repeat(of_game, 8)[None, :, None]
    curve = mean_curve(values, episodes=np.repeat(np.arange(5), 8))
    assert (curve.num_trajectories, curve.num_episodes, curve.random) == (40, 5, "references")
    assert curve.high - curve.low == pytest.approx(2 * stats.t.ppf(0.975, 4) * of_game.std(ddof=1) / np.sqrt(5))
    few = mean_curve(values, episodes=np.repeat(np.arange(4), 10))
    assert np.isnan(few.low).all()
    assert band_words([few]) == "no band: fewer than 3 seeds and fewer than 5 episodes"
    seeds = mean_curve(np.concatenate([values, values + 1, values + 2]), episodes=np.zeros(40))
    assert seeds.random == "seeds"
    assert seeds.high - seeds.low == pytest.approx(2 * stats.t.ppf(0.975, 2) / np.sqrt(3))


def test_learning_curves_stand_at_their_mean_steps_with_bands_of_several_seeds():
    rows = [("Pong", "n=1", s, test, 100.0 * (test + 1) + 2 * s, float(test + s)) for s in range(3) for test in range(4)]
    rows += [("Boxing", "n=3", 0, 0, 90.0, 5.0)]
    figure = learning_figure(pd.DataFrame(rows, columns=["game", "variant", "seed", "test", "real_steps", "value"]))
    pong, boxing = figure.axes
    assert (pong.get_title(), boxing.get_title()) == ("Pong", "Boxing")
    assert pong.lines[0].get_xdata() == pytest.approx([102, 202, 302, 402])
    assert pong.lines[0].get_ydata() == pytest.approx([1, 2, 3, 4])
    high = pong.collections[0].get_paths()[0].vertices[:, 1].max()
    assert high == pytest.approx(4 + 4.3027 / np.sqrt(3), rel=1e-4)
    assert not boxing.collections[0].get_paths()  # one run has no band
    with pytest.raises(ValueError, match="no test returns"):
        learning_figure(pd.DataFrame(columns=["game", "variant", "seed", "test", "real_steps", "value"]))


def test_the_spread_is_of_trajectories():
    curve = mean_curve(np.arange(101.0)[:, None], band="spread")
    assert (curve.low[0], curve.high[0]) == (10.0, 90.0)


def test_points_have_student_intervals_over_seeds():
    table = pd.DataFrame({"metric": "fid", "group": "a", "nfe": [3, 3, 3, 1], "seed": [0, 1, 2, 0], "value": [1.0, 2.0, 3.0, 5.0]})
    points = mean_points(table).set_index("nfe")
    assert points.loc[3, "mean"] == 2.0
    assert points.loc[3, "high"] - 2.0 == pytest.approx(4.3027 / np.sqrt(3), rel=1e-4)  # t of 2 degrees of freedom, deviation 1
    assert points.loc[1, ["low", "high"]].isna().all()
    two = mean_points(table[table["seed"] < 2]).set_index("nfe")
    assert two.loc[3, ["mean", "num_seeds"]].tolist() == [1.5, 2]
    assert two[["low", "high"]].isna().all(axis=None)  # two seeds give no interval either
    with pytest.raises(ValueError, match="more than once"):
        mean_points(pd.concat([table, table]))
    with pytest.raises(ValueError, match="seed"):
        mean_points(table.drop(columns="seed"))
    with pytest.raises(ValueError, match="finite"):
        mean_points(table.assign(value=np.nan))


# ------------------------------------------------------------------------------------------------ what is drawn


def test_drift_draws_every_variant_with_its_levels():
    curves = {name: mean_curve(drifts(i)) for i, name in enumerate(("n = 1", "n = 3", "n = 10"))}
    ax = draw_drift(curves, unrelated=0.3, copy_last=np.linspace(0, 0.2, STEPS))
    lines = {line.get_label(): line for line in ax.lines}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [*curves, "copy last frame", "unrelated true frames"]
    assert np.array_equal(lines["n = 3"].get_xdata(), np.arange(1, STEPS + 1))  # frame 1 is the first imagined one
    assert np.array_equal(lines["n = 3"].get_ydata(), curves["n = 3"].mean)
    assert set(lines["unrelated true frames"].get_ydata()) == {0.3}
    assert ax.get_ylim()[0] == 0.0
    assert draw_drift(curves, ax=ax) is ax


def test_panels_of_one_scale_hold_the_curves_of_all():
    """In whatever order they come: the best arm first once cut the others off."""
    panels = [DriftPanel(str(level), {"n = 3": mean_curve(drifts(i, level))}) for i, level in enumerate((0.01, 0.4, 0.1))]
    for ax in drift_figure(panels).axes:
        low, high = ax.get_ylim()
        assert low == 0.0
        assert high > max(panel.curves["n = 3"].high.max() for panel in panels)


@pytest.mark.parametrize("unrelated", [0.04, None])
def test_a_curve_far_above_the_references_leaves_the_axis_and_the_legend_says_where(unrelated: float | None) -> None:
    curves = {"good": mean_curve(drifts(0, 0.03)), "bad": mean_curve(drifts(1, 3.0))}
    panels = [DriftPanel(name, {name: curve}, unrelated) for name, curve in curves.items()]
    figure = drift_figure(panels)
    tops = {ax.get_ylim()[1] for ax in figure.axes}
    legends = [figure.axes[i].get_legend().get_texts()[0].get_text().replace("\n", " ") for i in range(2)]
    drawn = figure.numbers().query("series == 'bad'")["value"]
    assert drawn.max() == curves["bad"].mean.max()  # the numbers are whole
    assert legends[0] == "good"
    if unrelated is None:  # nothing tells which curves are bad
        assert legends[1] == "bad"
        assert tops.pop() > curves["bad"].mean.max()
        return
    (top,) = tops
    assert max(unrelated, curves["good"].mean.max()) < top < 0.1
    assert legends[1] == f"bad (above the axis from t={int(np.argmax(curves['bad'].mean > top)) + 1})"


def test_quality_draws_a_panel_a_metric():
    points = mean_points(scores(1, 2, 5, 10))
    figure = quality_figure(points, labels={"fid": "FID ↓", "psnr": "PSNR (dB) ↑"})
    assert [ax.get_title() for ax in figure.axes] == ["FID ↓", "PSNR (dB) ↑"]
    figure.draw_without_rendering()
    for ax in figure.axes:
        assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "2", "5", "10"]
        edm = next(line for line in ax.lines if line.get_label() == "EDM")
        assert edm.get_ydata() == pytest.approx([11.0, 21.0, 51.0, 101.0])
        assert list(edm.get_xdata()) == [1, 2, 5, 10]
        assert len(ax.collections) == 2  # intervals of both groups
    alone = quality_figure(mean_points(scores(1, 2, seeds=1)))
    assert alone.axes[0].lines[-1].get_xdata() == pytest.approx([1, 2])
    with pytest.raises(ValueError, match="NFE"):
        quality_figure(points.assign(nfe=0))


def test_variants_are_rows_with_their_scores():
    points = mean_points(scores(2))
    figure = variant_figure(points, labels={"fid": "FID ↓"}, baselines={"fid": 40.0})
    assert [ax.get_title() for ax in figure.axes] == ["FID ↓", "psnr"]
    for ax, metric in zip(figure.axes, ("fid", "psnr"), strict=True):
        rows = [text.get_text() for text in figure.axes[0].get_yticklabels()]
        for score in points[points["metric"] == metric].itertuples():
            row = rows.index(score.group)
            (dot,) = (line for line in ax.lines if len(line.get_xdata()) == 1 and list(line.get_ydata()) == [row])
            (bar,) = (line for line in ax.lines if len(line.get_xdata()) == 2 and list(line.get_ydata()) == [row, row])
            assert dot.get_xdata()[0] == score.mean
            assert list(bar.get_xdata()) == [score.low, score.high]
        assert (40.0 in {line.get_xdata()[0] for line in ax.lines}) == (metric == "fid")
    assert all(len(line.get_xdata()) == 1 for line in variant_figure(mean_points(scores(2, seeds=1))).axes[0].lines), (
        "no interval of one run"
    )
    with pytest.raises(ValueError, match="points"):
        variant_figure(points[:0])


def test_trajectories_show_the_frames_asked_for():
    """A synthetic video whose frame t shows t: column t holds frame t, counted from 1, of its row's variant."""
    frames = np.broadcast_to(np.arange(1, 11, dtype=np.uint8)[:, None, None, None], (10, 8, 8, 3))
    figure = trajectory_figure(frames, {"n = 1": frames + 100, "n = 10": frames + 200}, times=[1, 4, 10])
    shown = np.array([ax.images[0].get_array()[0, 0, 0] for ax in figure.axes]).reshape(3, 3)
    assert shown.tolist() == [[1, 4, 10], [101, 104, 110], [201, 204, 210]]
    assert [ax.get_ylabel() for ax in figure.axes[::3]] == ["true", "n = 1", "n = 10"]
    assert [ax.get_title() for ax in figure.axes[:3]] == ["t = 1", "t = 4", "t = 10"]
    for times in ([0], [11], []):
        with pytest.raises(ValueError, match="must lie in"):
            trajectory_figure(frames, {}, times=times)
    with pytest.raises(ValueError, match="n = 1: expected uint8"):
        trajectory_figure(frames, {"n = 1": frames / 255}, times=[1])


def test_rows_of_wide_frames_are_as_high_as_the_frames() -> None:
    frames = np.zeros((4, 36, 64, 3), np.uint8)
    wide = trajectory_figure(frames, {"a": frames}, times=[1, 4])
    square = trajectory_figure(np.zeros((4, 36, 36, 3), np.uint8), {}, times=[1, 4])
    assert wide.get_figheight() == pytest.approx(2 * 0.9 * 36 / 64 + 0.5)
    assert square.get_figheight() == pytest.approx(0.9 + 0.5)
