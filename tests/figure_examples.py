"""One example of every kind of figure, with long names, many panels and a look for each variant."""

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.agent_figures import learning_figure
from analysis.aggregates import Curve as Band
from analysis.aggregates import Profile
from analysis.chart import Chart
from analysis.control_figures import confusion_figure, sensitivity_figure
from analysis.curves import Curve, mean_curve, mean_points
from analysis.figures import DriftPanel, drift_figure, quality_figure, trajectory_figure
from analysis.looks import crossed_styles
from analysis.mode_figures import threshold_figure
from analysis.outcome_figures import outcome_figure
from analysis.power_figures import power_figure
from analysis.rank_figures import rank_figure
from analysis.score_figures import (
    EfficiencyLine,
    Interval,
    IntervalPanel,
    TrajectoryBlock,
    efficiency_figure,
    interval_figure,
    per_game_figure,
    profile_figure,
    side_by_side_figure,
)
from analysis.side_by_side import side_figure
from analysis.state_figures import StatePanel, state_figure
from analysis.survival import survival
from analysis.survival_figures import HeldPanel, survival_figure
from analysis.training_figures import loss_figure
from analysis.variant_figures import variant_figure

LONG = "DDPM-trained, sampled with EDM's schedule and Euler"
ARMS = ("EDM", LONG)
STEPS = (1, 2, 3, 5, 10)
LOOKS = crossed_styles({f"{arm} {n}": (arm, n) for arm in ARMS for n in STEPS}, {"EDM 1"})
METRICS = {
    "drift": "drift (pixel error) ↓",
    "one_step": "PSNR one step ahead (dB) ↑",
    "energy": "energy distance to the true next frames (distance of the modes) ↓",
    "axis": "distance from the axis of the modes (RMS) (distance of the modes) ↓",
}
FRAMES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)

LOSSES = pd.DataFrame(
    [(network, name, seed, step, 3.0 / step + seed) for network in ("first network", "second network") for name in (LONG, "every variant")
     for seed in range(2) for step in range(1, 30)],
    columns=["network", "training", "seed", "step", "loss"],
)  # fmt: skip
SIDES = pd.DataFrame(
    [(f"study {i}, data=random", variant, i + j, i + j - 0.4, i + j + 0.3) for i in range(2) for j, variant in enumerate(LOOKS)],
    columns=["study", "variant", "mean", "low", "high"],
)


def curve(seed: int, level: float = 0.1) -> Curve:
    """A drift curve of 30 frames, from 3 seeds and 10 trajectories."""
    return mean_curve(level * np.random.default_rng(seed).uniform(0.5, 1.5, size=(3, 10, 1)) * np.linspace(0.1, 1, 30))


def points(nfe: tuple[int, ...] = STEPS, seeds: int = 3) -> pd.DataFrame:
    """Means with intervals of METRICS, as quality figures take them, with the variant of each point."""
    grid = itertools.product(METRICS, ARMS, nfe, range(seeds))
    rows = [{"metric": m, "group": g, "nfe": n, "seed": s, "value": 10.0 * n + s + len(g) / 9} for m, g, n, s in grid]
    means = mean_points(pd.DataFrame(rows))
    return means.assign(variant=[f"{group} {nfe}" for group, nfe in zip(means["group"], means["nfe"], strict=True)])


def _drift() -> Chart:
    panels = []
    for k, arm in enumerate((*ARMS, "a third arm of the study")):
        curves = {f"n = {n}": curve(k + n, 0.1 * n) for n in STEPS}
        looks = {f"n = {n}": LOOKS[f"{arm if k < 2 else 'EDM'} {n}"] for n in STEPS}
        panels.append(DriftPanel(f"synthetic/turn: {arm}", curves, 0.3, np.linspace(0, 0.2, 30), looks))
    return drift_figure(panels, ylabel="drift (mean absolute pixel error)")


def _states() -> Chart:
    curves = {f"n = {n}": curve(n) for n in STEPS}
    rows = [
        [StatePanel(f"{thing}, {arm}", label, curves, np.linspace(0, 0.2, 30), np.full(30, 0.01)) for thing in ("ball", "player paddle")]
        for arm, label in itertools.product(ARMS[1:], ("position error (pixels)", "lost or made up (share)"))
    ]
    return state_figure(rows)


def _sensitivity() -> Chart:
    lines = {name: 1 + np.exp(-np.arange(4)[:, None] - np.linspace(-1, 1, 5) ** 2) * (i + 1) for i, name in enumerate(LOOKS)}
    return sensitivity_figure((0.1, 0.3, 1.0, 3.0, 10.0), lines, LOOKS)


def _confusion() -> Chart:
    names = [f"action {i}" for i in range(18)]
    return confusion_figure({name: np.eye(18) * (i + 1) + 1 for i, name in enumerate(LOOKS)}, names)


def _thresholds() -> Chart:
    thresholds = np.linspace(0.0, 0.5, 33)
    panels = {arm: {f"n = {n}": thresholds**n for n in STEPS} for arm in ARMS}
    return threshold_figure(thresholds, panels, 0.2, {arm: {f"n = {n}": LOOKS[f"{arm} {n}"] for n in STEPS} for arm in ARMS})


def _ranks() -> Chart:
    counts = np.random.default_rng(0).integers(5, 50, 9)
    panels = {arm: {f"n = {n}": counts + n for n in STEPS} for arm in ARMS}
    return rank_figure(panels, 40, {arm: {f"n = {n}": LOOKS[f"{arm} {n}"] for n in STEPS} for arm in ARMS})


def _power() -> Chart:
    effects = {f"{LONG} {n} against EDM": {3: np.inf, 4: 0.2 / n, 5: 0.15 / n, 10: 0.1 / n, 40: 0.05 / n} for n in (2, 5)}
    more = {"16 episodes instead of 8": {5: 0.1, 10: 0.05}}
    ylabel = "detectable difference of energy distance to the true next frames (% of copying)"
    return power_figure(effects, more, ylabel=ylabel, own=4, margin=0.1, hours_per_seed=0.07)


def _learning() -> Chart:
    rows = [
        (game, variant, s, test, 20_000.0 * (test + 1), float(test + s))
        for game, variant, s, test in itertools.product(("Pong", "synthetic/turn"), LOOKS, range(3), range(5))
    ]
    return learning_figure(pd.DataFrame(rows, columns=["game", "variant", "seed", "test", "real_steps", "value"]), LOOKS)


def _scores() -> Chart:
    games = ("Pong", "ChopperCommand", "KungFuMaster", "a dataset of one's own with a long name")
    bars = {name: Interval(0.1 * i - 0.3, 0.1 * i - 0.5, 0.1 * i) for i, name in enumerate(LOOKS)}
    return per_game_figure(dict.fromkeys(games, bars), looks=LOOKS)


def _intervals() -> Chart:
    names = [f"method {i}, from a source whose name is long" for i in range(20)]
    found = {name: Interval(0.1 * i, 0.1 * i - 0.05, 0.1 * i + 0.05, 0.3 if i == 3 else np.nan) for i, name in enumerate(names)}
    panel = IntervalPanel("difference of drift (pixel error), share of copy-last-frame's error", found, [(1.0, "human")], (-0.1, 0.1))
    return interval_figure([panel, panel], names, "as printed in the paper, where it differs")


def _profiles() -> Chart:
    taus = np.linspace(0, 8, 50)
    return profile_figure({name: Profile(taus, np.exp(-taus * (i + 1) / 4), taus * 0, taus * 0 + 1) for i, name in enumerate(LOOKS)})


def _efficiency() -> Chart:
    steps = np.linspace(5_000, 100_000, 20)
    bands = [Band(steps / (1e5 + 1e5 * i), steps / 4e5, steps / 1e5) for i in range(3)]
    return efficiency_figure({f"{LONG} {i}: test episodes": EfficiencyLine(steps, band) for i, band in enumerate(bands)})


def _survival() -> Chart:
    lasted = {name: np.arange(10) * (10 + i) for i, name in enumerate(LOOKS)}
    survivals = {name: survival(frames, frames < 150, 240) for name, frames in lasted.items()}
    motion = {name: np.linspace(i, 1, 240) for i, name in enumerate(LOOKS)}
    game = survival([240, 240], [False, False], 240)
    return survival_figure(
        [HeldPanel("no-op", survivals, motion, game, np.geomspace(1, 1e-3, 240)), HeldPanel("one other action", survivals, motion)], LOOKS
    )


def _outcomes() -> Chart:
    names = [f"{name}_{score}" for name in ("reward_plus", "end") for score in ("precision", "recall", "calibration")]
    rows = {arm: {name: np.linspace(0.1 * i, 0.9, 10) for i, name in enumerate(names)} for arm in list(LOOKS)[4:7]}
    return outcome_figure(np.arange(10) * 8 + 4.5, rows, rows, {"reward_plus": "reward +1", "end": "end"}, LOOKS)


EXAMPLES: dict[str, Callable[[], Chart]] = {
    "drift": _drift,
    "quality": lambda: quality_figure(points(), labels=METRICS, baselines=dict.fromkeys(METRICS, 12.0), looks=LOOKS),
    "variants": lambda: variant_figure(
        points((2,)), labels=METRICS, baselines={"drift": 22.0}, looks={arm: LOOKS[f"{arm} 1"] for arm in ARMS}
    ),
    "trajectories": lambda: trajectory_figure(FRAMES, {"n = 1\n(baseline)": FRAMES, LONG: FRAMES}, [1, 5, 20]),
    "side by side": lambda: side_by_side_figure(
        FRAMES, [TrajectoryBlock(arm, {f"n = {n}": FRAMES for n in STEPS[:3]}) for arm in ARMS], [1, 5, 20]
    ),
    "states": _states,
    "thresholds": _thresholds,
    "ranks": _ranks,
    "survival": _survival,
    "outcomes": _outcomes,
    "sensitivity": _sensitivity,
    "confusion": _confusion,
    "power": _power,
    "learning": _learning,
    "scores": _scores,
    "intervals": _intervals,
    "profiles": _profiles,
    "losses": lambda: loss_figure(LOSSES, "update", {LONG: LOOKS["EDM 2"], "every variant": LOOKS["EDM 5"]}),
    "side by side of studies": lambda: side_figure(SIDES, "energy distance to the true next frames (distance of the modes) ↓"),
    "efficiency": _efficiency,
}
"""By kind, how to draw it."""
