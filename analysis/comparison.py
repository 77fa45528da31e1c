"""Tests whether a variant differs from the baseline by more than a margin. One row per variant: difference, interval, tests, verdict.

The unit is the training run: one seed of one game. Games are strata: the difference is the mean over games of the difference of means over
runs. If runs were scored on common references from several episodes, the references are random too (analysis/differences.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from typing import Literal

import numpy as np
import pandas as pd

from analysis import permutation
from analysis.aggregates import improvement
from analysis.differences import difference, effect_name, standardised, standardised_change
from analysis.matching import ComparisonError, Matched, check_rows, match_all
from analysis.multiplicity import holm, smallest_p
from analysis.runs import MIN_RUNS

__all__ = ["BETTER", "COLUMNS", "SCOPES", "UNDECIDED", "WORSE", "ComparisonError", "compare", "effects", "equivalent_within"]

COLUMNS = (
    "variant", "baseline", "runs", "baseline_runs", "references", "episodes", "paired", "scope", "difference", "low", "high",
    "effect_size", "effect", "probability_of_improvement", "test", "p_value", "p_holm", "p_equivalent", "verdict", "missing",
)  # fmt: skip

BETTER, WORSE, UNDECIDED = "better", "worse", "undecided"

Test = Literal["permutation", "t"]

STILL = 1e-6
"""A standard error below this share of the values is rounding, and no spread between runs."""
RUNS, CROSSED = "runs", "runs and references"
SCOPES = (RUNS, CROSSED)
"""The scope of an interval and a verdict beyond the measured data: other runs, or other runs and other references."""


def equivalent_within(margin: float) -> str:
    """The verdict `equivalent within <margin>`."""
    return f"equivalent within {margin:g}"


def compare(
    rows: pd.DataFrame,
    baseline: str | Mapping[str, str],
    margin: float,
    higher_is_better: bool,
    *,
    variants: Sequence[str] | None = None,
    test: Test = "permutation",
    alpha: float = 0.05,
    holm_equivalence: bool = False,
    excluded: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """One row of COLUMNS for each variant except the baseline, in the order of `variants` (or of appearance).

    Args:
        rows: columns variant, game, seed and value. Optional columns: `reference` and `episode` (several values per run, one for each
            reference trajectory, and the episode from which it was cut), and `pair` (a run of the variant and one of the baseline with the
            same game and pair are evaluations of one checkpoint; empty: not paired). A value that is not finite counts as missing.
        baseline: the variant to which all others are compared. Or a mapping from each variant to its own baseline: then the named variants
            are compared, in the mapping's order, and all of them are one family.
        margin: the smallest difference that matters, in the metric's unit; 0 or NaN for none.
        higher_is_better: whether a positive difference is an improvement.
        variants: the planned variants, so that one without results has a row too.
        test: "permutation" or "t", see below.
        alpha: the family-wise level.
        holm_equivalence: whether Holm's correction also applies to the tests of equivalence.
        excluded: variants that must not be compared, with the reason. Their rows contain the reason and no numbers, and they count in the
            family.

    Columns:
    - `difference`: variant - baseline in the metric's unit, whatever its direction, over the games that both have.
    - `scope`, `low`, `high`: the random factors, and the Student interval of level 1 - alpha with Satterthwaite's degrees of freedom.
      Runs are always random. References are random too, clustered by episode and crossed with runs, if every game has at least
      MIN_EPISODES episodes (`analysis.differences`). `references` and `episodes` count those of the game with the fewest.
    - `effect_size`, `effect`: Hedges' g, the mean over games with equal weights, and its name: g_av for paired runs, g_s for independent
      ones (`analysis.differences.standardised`).
    - `probability_of_improvement`: probability that a run of the variant is better than a run of the baseline, ties counted half, over all
      pairs of runs of a game, then the mean over games. It has no interval: none of the methods that were tried holds its level for 3 to 10
      runs with different variances.
    - `test`, `p_value`: test="t" is Student's t test of the difference with that standard error, which assumes normal means. The default
      is the larger p-value of that and of a studentised permutation test over runs (`analysis.permutation`).
    - `p_holm`: the p-value after Holm's correction over all variants, including those without a p-value.
    - `p_equivalent`: TOST, two one-sided tests of a difference of at least `margin` in either direction, by the same test. NaN if the
      margin is 0 or NaN.
    - `verdict`: `equivalent within <margin>` if p_equivalent <= alpha. Else `better` or `worse` if the interval excludes 0 and
      p_holm <= alpha. Else `undecided`. It is always `undecided` if a game has fewer than MIN_RUNS runs on a side (there is then no
      interval and no test) or if only one side has the game.
    - `missing`: missing data, with games and seeds that other variants have, or "".

    Raises ComparisonError for a missing column, a run given twice, values that are not numbers, or an unknown baseline, test or margin.
    """
    _check(margin, test, alpha)
    check_rows(rows, baseline, variants)
    if isinstance(baseline, str):
        against = {name: baseline for name in (rows["variant"] if variants is None else variants) if name != baseline}
    else:
        against = dict(baseline)
    matched = match_all(rows, against, excluded or {})
    found = [compare_matched(name, base, matched[name], margin, higher_is_better, test, alpha) for name, base in against.items()]
    return pd.DataFrame(decide(found, margin, higher_is_better, test, alpha, holm_equivalence), columns=list(COLUMNS))


def effects(rows: pd.DataFrame, baseline: Mapping[str, str]) -> pd.DataFrame:
    """The differences game by game: a row for each variant of the mapping and game that it shares with its baseline.

    Columns: variant, baseline, game, runs, baseline_runs, difference, effect_size (Hedges' g), effect (its name, see `compare`), g_z (for
    paired runs, `analysis.differences.standardised_change`), weight (of the game in the pooled difference and effect size: all games have
    equal weights). `rows`: see `compare`.
    """
    check_rows(rows, baseline, None)
    found = []
    for name, data in match_all(rows, baseline, {}).items():
        kind, weight = effect_name(data.paired), 1.0 / max(1, len(data.games))
        changes = standardised_change(data.games) if data.paired else [nan] * len(data.games)
        for game, effect, change in zip(data.games, standardised(data.games, data.paired), changes, strict=True):
            value = float(game.variant.mean() - game.baseline.mean())
            start = (name, baseline[name], game.name, len(game.variant), len(game.baseline), value)
            found.append((*start, effect, kind, change, weight))
    names = ["variant", "baseline", "game", "runs", "baseline_runs", "difference", "effect_size", "effect", "g_z", "weight"]
    return pd.DataFrame(found, columns=names)


@dataclass(frozen=True)
class Compared:
    """One comparison before corrections over the family."""

    variant: str
    baseline: str
    data: Matched
    difference: float = nan
    interval: tuple[float, float] = (nan, nan)
    scope: str = ""
    effect_size: float = nan
    improvement: float = nan
    p_value: float = nan
    p_equivalent: float = nan
    smallest_p: float = field(default=nan)
    """The smallest p-value that is possible with this number of runs."""
    note: str = ""
    """The reason for omitting a test."""


def compare_matched(
    name: str, base: str, data: Matched, margin: float, higher_is_better: bool, test: Test = "permutation", alpha: float = 0.05
) -> Compared:
    """The numbers of one comparison; see `compare`."""
    if not data.games:
        return Compared(name, base, data)
    sign = 1.0 if higher_is_better else -1.0
    means = [(game.variant.mean(axis=1), game.baseline.mean(axis=1)) for game in data.games]
    value = float(np.mean([x.mean() - y.mean() for x, y in means]))
    chance = float(np.mean([improvement(sign * x[:, None], sign * y[:, None]) for x, y in means]))
    effect = float(np.mean(standardised(data.games, data.paired)))
    if min(len(side) for game in means for side in game) < MIN_RUNS:
        return Compared(name, base, data, value, effect_size=effect, improvement=chance)
    estimate = difference(data.games, data.paired)
    testing = margin > 0
    p_value, p_equivalent = estimate.p_value(), estimate.p_equivalent(margin) if testing else nan
    smallest, counts = 0.0, [(len(x), len(y)) for x, y in means]
    if test == "permutation":
        p_value = max(p_value, permutation.two_sided(means, data.paired))
        p_equivalent = max(p_equivalent, permutation.equivalence(means, data.paired, margin)) if testing else nan
        smallest = smallest_p(counts, data.paired)
    note = ""
    if test == "t" and estimate.variance <= (STILL * max(abs(side).max() for game in means for side in game)) ** 2:
        p_value, p_equivalent, note = nan, nan, "runs hardly vary, so Student's t says nothing"
    elif test == "permutation" and testing and smallest_p(counts, data.paired, two_sided=False) > alpha:
        note = "with so few runs a permutation test cannot show equivalence either"
    scope = CROSSED if estimate.crossed else RUNS
    found = (estimate.value, estimate.interval(1.0 - alpha), scope, effect, chance, p_value, p_equivalent, smallest, note)
    return Compared(name, base, data, *found)


def decide(
    family: Sequence[Compared], margin: float, higher_is_better: bool, test: Test, alpha: float, holm_equivalence: bool
) -> list[tuple[object, ...]]:
    """One row of COLUMNS for each comparison of a family, corrected and with its verdict."""
    corrected, smallest = holm([one.p_value for one in family]), holm([one.smallest_p for one in family])
    equivalent = [one.p_equivalent for one in family]
    equivalent = holm(equivalent) if holm_equivalence else equivalent
    rows: list[tuple[object, ...]] = []
    for one, p_holm, least, p_equivalent in zip(family, corrected, smallest, equivalent, strict=True):
        low, high = one.interval
        missing = list(one.data.missing)
        if least > alpha:
            missing.append(f"with so few runs no corrected p-value can fall below {least:.2g}, so neither better nor worse can be shown")
        missing += [one.note] if one.note else []
        if not one.data.complete or isnan(low):
            verdict = UNDECIDED
        elif p_equivalent <= alpha:
            verdict = equivalent_within(margin)
        elif p_holm <= alpha and (low > 0 or high < 0):
            verdict = BETTER if (low > 0) == higher_is_better else WORSE
        else:
            verdict = UNDECIDED
        games = one.data.games
        counts = (sum(len(game.variant) for game in games), sum(len(game.baseline) for game in games), *_references(one.data))
        start = (one.variant, one.baseline, *counts, one.data.paired, one.scope, one.difference, low, high, one.effect_size)
        kind = effect_name(one.data.paired) if games else ""
        rows.append((*start, kind, one.improvement, test, one.p_value, p_holm, p_equivalent, verdict, "; ".join(missing)))
    return rows


def _references(data: Matched) -> tuple[int, int]:
    """Number of references and episodes of the game with the fewest. 0 if the sides share none."""
    counts = [(len(game.episodes), len(np.unique(game.episodes))) if game.episodes is not None else (0, 0) for game in data.games]
    return min(counts, key=lambda count: count[::-1], default=(0, 0))


def _check(margin: float, test: str, alpha: float) -> None:
    if (np.isfinite(margin) and margin < 0) or np.isinf(margin):
        raise ComparisonError(f"margin: expected a number from 0, or NaN for none, got {margin}")
    if test not in ("permutation", "t"):
        raise ComparisonError(f"test: expected permutation or t, got {test!r}")
    if not 0.0 < alpha < 1.0:
        raise ComparisonError(f"alpha: expected a share between 0 and 1, got {alpha}")
