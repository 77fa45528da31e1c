"""Computes a line of a sample-efficiency figure from runs: the IQM of human-normalised scores against real steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paper_figures.attained import attained
from paper_figures.parts import SEED

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from analysis.score_figures import EfficiencyLine

_MAX_POINTS = 100


@dataclass(frozen=True)
class Found:
    """One line, and the runs it is computed from."""

    line: "EfficiencyLine"
    games: int
    runs: int
    problem: str
    """Why there is no band; empty if there is one."""
    attained: float = float("nan")
    """How often the band at the last number of real steps contains the true value, by simulation; NaN without a band."""


def pooled(runs_by_game: "Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]") -> Found:
    """The IQM over runs and games, at numbers of real steps that all runs reached. A run's score holds until its next one.

    `runs_by_game` has the runs of each game, each as (rising numbers of real steps, raw score at each). Raises ScoreError if the games have
    unequal numbers of runs, a game has no published human score, or the runs share no number of steps.
    """
    import numpy as np

    from analysis.aggregates import Curve, iqm_curve, sample_efficiency
    from analysis.score_figures import EfficiencyLine
    from analysis.scores import ScoreError, human_random

    if len(counts := {len(runs) for runs in runs_by_game.values()}) > 1:
        raise ScoreError(f"its games have unequal numbers of finished trainings ({min(counts)} to {max(counts)})")
    norm = human_random()
    if unknown := [game for game in runs_by_game if game not in norm.index]:
        raise ScoreError(f"{', '.join(unknown[:5])} has no published human score")
    steps = _grid([of_run for runs in runs_by_game.values() for of_run, _ in runs])
    hns = []
    for game, runs in runs_by_game.items():
        low, high = float(norm["random"][game]), float(norm["human"][game])
        held = [scores[np.searchsorted(of_run, steps, side="right") - 1] for of_run, scores in runs]
        hns.append((np.stack(held) - low) / (high - low))
    matrix = np.stack(hns, axis=1)
    problem, level = "", float("nan")
    try:
        curve = sample_efficiency(matrix, SEED)
        level = attained(np.ascontiguousarray(matrix[:, :, -1]))["iqm"].level
    except ScoreError as error:
        problem, nothing = str(error), np.full(len(steps), np.nan)
        curve = Curve(iqm_curve(matrix), nothing, nothing)
    return Found(EfficiencyLine(steps, curve), len(runs_by_game), len(matrix), problem, level)


def _grid(steps: "Sequence[np.ndarray]") -> "np.ndarray":
    """Numbers of real steps at which every run has a score: from the latest first round to the earliest last one."""
    import numpy as np

    from analysis.scores import ScoreError

    first, last = max(float(of[0]) for of in steps), min(float(of[-1]) for of in steps)
    if first > last:
        raise ScoreError(f"its trainings share no number of real steps (one is first tested at {first:g}, another last at {last:g})")
    every = np.unique(np.concatenate(steps))
    shared = every[(every >= first) & (every <= last)]
    if len(shared) <= _MAX_POINTS:
        return shared
    chosen: np.ndarray = shared[np.linspace(0, len(shared) - 1, _MAX_POINTS).round().astype(int)]
    return chosen


def numbers(found: Found, study: str, scale: str, variant: str, episodes: str) -> "pd.DataFrame":
    """A line as rows of the figure's CSV. `episodes` is `test` or `training`."""
    import pandas as pd

    curve = found.line.curve
    labels = {"study": study, "scale": scale, "variant": variant, "episodes": episodes}
    values = {"real_steps": found.line.steps, "iqm": curve.value, "low": curve.low, "high": curve.high}
    return pd.DataFrame({**labels, **values, "games": found.games, "runs": found.runs})
