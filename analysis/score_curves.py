"""Published learning curves, shipped as data: scores over the training. They are no final scores, so rankings refuse them."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.aggregates import ScoreError

Array = NDArray[np.float64]

CURVE_COLUMNS = ("method", "game", "seed", "real_steps", "score", "episodes", "source")
TEST, TRAINING = "test", "training"
"""Values of the column `episodes`: the kind of episodes that a curve's scores come from."""

_FILE = Path(__file__).parent / "published" / "published_curves.csv"
_WHOLE = 0.9
"""A run that ends before this share of its method's longest run was stopped early."""


def published_curves() -> pd.DataFrame:
    """The shipped curves in CURVE_COLUMNS: raw game scores against real environment steps (agent steps, a quarter of the frames).

    `episodes` is `test` (an evaluation separate from training) or `training` (returns of the training episodes).
    """
    return _curves().copy()


@cache
def _curves() -> pd.DataFrame:
    types = {"method": str, "game": str, "seed": "Int64", "real_steps": np.float64, "score": np.float64, "episodes": str, "source": str}
    return pd.read_csv(_FILE, dtype=types)[list(CURVE_COLUMNS)]  # type: ignore[arg-type]


def training_only() -> list[str]:
    """Methods whose only published scores are returns of training episodes."""
    curves = published_curves()
    return sorted(set(curves["method"][curves["episodes"] == TRAINING]) - set(curves["method"][curves["episodes"] == TEST]))


def not_rankable(name: str) -> str:
    """The reason why rankings and aggregate tables refuse scores of training episodes, for an error message."""
    return (
        f"{name}: its scores are returns of training episodes; rankings and aggregates are of test episodes, and the two do not compare. "
        "Its learning curve is in sample_efficiency"
    )


def refuse_curves(frame: pd.DataFrame, name: str) -> None:
    """Raises ScoreError if a frame contains returns of training episodes, or points of a learning curve in place of final scores."""
    if "episodes" in frame.columns and (frame["episodes"] == TRAINING).any():
        raise ScoreError(not_rankable(name))
    if "real_steps" in frame.columns:
        raise ScoreError(
            f"{name}: points of a learning curve are no final scores; select one score a run. The curve is in sample_efficiency"
        )


def runs_of_curve(frame: pd.DataFrame, games: Sequence[str]) -> tuple[dict[str, list[tuple[Array, Array]]], list[str]]:
    """The runs of one method's curve by game, each (real_steps, score) with ascending steps, and sentences about changes to them.

    Several values at one number of steps are replaced by their mean. Runs that were stopped early are left out. Raises ScoreError if a game
    has no curve.
    """
    if absent := [game for game in games if game not in set(frame["game"])]:
        raise ScoreError(f"no curve of {len(absent)} of {len(games)} games is published ({', '.join(absent[:5])})")
    shown = frame[frame["game"].isin(games)]
    if len(kinds := shown[["method", "episodes"]].drop_duplicates()) > 1:
        raise ScoreError(f"expected the curves of one method and one kind of episodes, got {len(kinds)}")
    ends = shown.groupby(["game", "seed"])["real_steps"].max()
    stopped = ends[ends < _WHOLE * ends.max()]
    notes = [f"{game}, seed {seed}: left out, it stops after {end:,.0f} steps" for (game, seed), end in stopped.items()]
    points = shown.groupby(["game", "seed", "real_steps"])["score"].mean().reset_index()  # sorted by all three
    found: dict[str, list[tuple[Array, Array]]] = {game: [] for game in games}
    for (game, seed), run in points.groupby(["game", "seed"]):
        if (game, seed) not in stopped.index:
            found[str(game)].append((run["real_steps"].to_numpy(dtype=np.float64), run["score"].to_numpy(dtype=np.float64)))
    return found, notes
