"""Does a variant differ from the baseline, by more than a margin? One row a variant: difference, interval, test, verdict.

The unit is the training run: one seed of one game. Games are strata: the difference is the mean over games of the difference of means
over seeds, and everything random is drawn within a game.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from math import comb, inf, nan, prod

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.aggregates import MIN_RUNS, REPLICATES, Indices, joint_ranks, ranked_wins
from analysis.multiplicity import ARRANGEMENTS, EXACT, holm, smallest_p

Array = NDArray[np.float64]

COLUMNS = (
    "variant", "baseline", "runs", "baseline_runs", "paired", "difference", "low", "high",
    "probability_of_improvement", "pi_low", "pi_high", "p_value", "p_holm", "verdict", "missing",
)  # fmt: skip

BETTER, WORSE, UNDECIDED = "better", "worse", "not enough runs to tell"

_NAMED = 5


class ComparisonError(ValueError):
    """Rows that cannot be compared: what is wrong with them and what was expected."""


def equivalent_within(margin: float) -> str:
    """The verdict `equivalent within <margin>`."""
    return f"equivalent within {margin:g}"


def compare(
    rows: pd.DataFrame,
    baseline: str | Mapping[str, str],
    margin: float,
    higher_is_better: bool,
    seed: int = 0,
    *,
    variants: Sequence[str] | None = None,
    replicates: int = REPLICATES,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """One row of COLUMNS for each variant but the baseline, in the order of `variants` (else of appearance).

    `baseline`: the one that all are compared to; or, by variant, each one's own: then those named are compared, in the mapping's order,
    and all of them are one family, whatever their baselines.

    rows: variant, game, seed, value, and optionally `trajectory` (several values a run: the run is their mean, and they are resampled
    inside it) and `pair` (a run of the variant and one of the baseline with the same game and pair are of one checkpoint, or of one
    seed with the same references; empty: not paired). A value that is not finite counts as missing. `variants` names what was planned,
    so that a variant without any result has its row too (a mapping of baselines does so by itself).

    - `difference`: variant - baseline in the metric's unit, whatever its direction, over the games that both have.
    - `low`, `high`: its interval. Runs are resampled within games (pairs together), then trajectories within runs. Deviations of runs
      are scaled by sqrt(n / (n - 1)), and the interval by Student's t over the normal quantile with Satterthwaite's degrees of freedom:
      a plain percentile interval of 3 to 5 runs is far too narrow (the expanded interval of Hesterberg 2015).
    - `probability_of_improvement`, `pi_low`, `pi_high`: that a run of the variant is better than one of the baseline, over all pairs of
      runs of a game, ties counted half, mean over games; percentile interval.
    - `p_value`: two-sided permutation test of the difference: signs of the paired differences are flipped, or labels are exchanged
      within games where runs are not paired; exact up to 65,536 arrangements, else 9,999 are drawn, the observed one counted in.
    - `p_holm`: after Holm's correction over all variants, those without a p-value counted.
    - `verdict`: `equivalent within <margin>` where the interval lies inside +-margin, whatever its p-value: what differs by less does not
      matter (two one-sided tests of 2.5% each, not corrected for the number of variants). Else `better` or `worse` where it excludes 0
      and p_holm < 1 - confidence. Else, and whenever a game has fewer than MIN_RUNS runs on a side (then there is no interval and no
      test) or only one side has it, `not enough runs to tell`.
    - `missing`: "" or what is not there, with games and seeds that other variants have.

    Raises ComparisonError: a column missing, a run given twice, values that are not numbers, a baseline or margin that is none.
    """
    if isinstance(baseline, str):
        against = {name: baseline for name in (rows["variant"] if variants is None else variants) if name != baseline}
    else:
        against = dict(baseline)
    _check(rows, baseline, margin, variants, replicates, confidence)
    finite = rows[np.isfinite(rows["value"].to_numpy(dtype=np.float64))]
    empty = finite[:0]
    by_name = dict(list(finite.groupby("variant", sort=False)))
    runs = {name: _runs(by_name.get(name, empty)) for name in {*against, *against.values()}}
    expected = {str(game): list(dict.fromkeys(part["seed"].sort_values())) for game, part in rows.groupby("game", sort=True)}
    found = [
        _compare_one(name, base, _matched(name, runs[name], base, runs[base], expected), higher_is_better, seed, replicates, confidence)
        for name, base in against.items()
    ]
    corrected = holm([one.p_value for one in found])
    smallest = holm([one.smallest_p for one in found])
    table = [
        _row(one, p, least, margin, higher_is_better, 1.0 - confidence) for one, p, least in zip(found, corrected, smallest, strict=True)
    ]
    return pd.DataFrame(table, columns=list(COLUMNS))


@dataclass(frozen=True)
class _Run:
    values: Array  # (trajectories,), in order of their names
    trajectories: tuple[object, ...]
    pair: object | None


Runs = dict[str, dict[object, _Run]]  # game -> seed -> run


@dataclass(frozen=True)
class _Matched:
    """Runs of variant and baseline by game; where paired, position i of one belongs to position i of the other."""

    variant: list[list[Array]]
    baseline: list[list[Array]]
    paired: bool
    complete: bool  # the same games on both sides
    missing: list[str]


@dataclass(frozen=True)
class _Found:
    variant: str
    baseline: str
    runs: int
    baseline_runs: int
    paired: bool
    complete: bool
    missing: list[str]
    difference: float = nan
    interval: tuple[float, float] = (nan, nan)
    improvement: tuple[float, float, float] = (nan, nan, nan)
    p_value: float = nan
    smallest_p: float = field(default=nan)  # that runs of this number could have


def _row(one: _Found, p_holm: float, smallest: float, margin: float, higher_is_better: bool, level: float) -> tuple[object, ...]:
    low, high = one.interval
    missing = list(one.missing)
    if smallest > level:
        missing.append(f"with so few runs no corrected p-value can fall below {smallest:.2g}, so neither better nor worse can be told")
    if not one.complete or np.isnan(low):
        verdict = UNDECIDED
    elif -margin <= low and high <= margin:
        verdict = equivalent_within(margin)
    elif p_holm < level and (low > 0 or high < 0):
        verdict = BETTER if (low > 0) == higher_is_better else WORSE
    else:
        verdict = UNDECIDED
    counts = (one.variant, one.baseline, one.runs, one.baseline_runs, one.paired)
    return (*counts, one.difference, low, high, *one.improvement, one.p_value, p_holm, verdict, "; ".join(missing))


def _compare_one(name: str, base: str, data: _Matched, higher_is_better: bool, seed: int, replicates: int, confidence: float) -> _Found:
    counts = (sum(map(len, data.variant)), sum(map(len, data.baseline)))
    none = _Found(name, base, *counts, data.paired, data.complete, data.missing)
    if not data.variant:
        return none
    a, b = ([np.array([run.mean() for run in game]) for game in side] for side in (data.variant, data.baseline))
    difference = float(np.mean([x.mean() - y.mean() for x, y in zip(a, b, strict=True)]))
    sign = 1.0 if higher_is_better else -1.0
    ranks = [joint_ranks(sign * x[:, None], sign * y[:, None]) for x, y in zip(a, b, strict=True)]
    improvement = float(np.mean([ranked_wins(x[None], y[None]) for x, y in ranks]))
    if min(map(len, a + b)) < MIN_RUNS:
        return replace(none, difference=difference, improvement=(improvement, nan, nan))
    generator = np.random.default_rng(seed)
    interval = _interval(data, difference, generator, replicates, confidence)
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(_resampled_wins(ranks, data.paired, generator, replicates), [tail, 100.0 - tail])
    p_value = _sign_flip([x - y for x, y in zip(a, b, strict=True)], generator) if data.paired else _permutation(a, b, generator)
    smallest = smallest_p([(len(x), len(y)) for x, y in zip(a, b, strict=True)], data.paired)
    chances = (improvement, float(low), float(high))
    return replace(none, difference=difference, interval=interval, improvement=chances, p_value=p_value, smallest_p=smallest)


def _interval(data: _Matched, difference: float, generator: np.random.Generator, replicates: int, confidence: float) -> tuple[float, float]:
    from scipy import stats

    if data.paired:
        samples = [[x - y for x, y in zip(*game, strict=True)] for game in zip(data.variant, data.baseline, strict=True)]
        sides = [(1.0, game) for game in samples]
    else:
        sides = [(1.0, game) for game in data.variant] + [(-1.0, game) for game in data.baseline]
    deviation = np.zeros(replicates)
    variances, degrees = [], []
    for sign, game in sides:
        deviation += sign * _deviations(game, generator, replicates) / len(data.variant)
        variances.append(float(np.var([run.mean() for run in game], ddof=1)) / len(game))
        degrees.append(len(game) - 1)
    total = sum(variances)
    freedom = total**2 / sum(v**2 / d for v, d in zip(variances, degrees, strict=True)) if total > 0 else inf
    tail = (1.0 - confidence) / 2.0
    expansion = stats.t.ppf(tail, freedom) / stats.norm.ppf(tail)
    low, high = difference + expansion * np.quantile(deviation, [tail, 1.0 - tail])
    return float(low), float(high)


def _deviations(game: list[Array], generator: np.random.Generator, replicates: int) -> Array:
    """(replicates,): resampled mean of one side of a game, less its mean: runs first, then the trajectories of each run drawn."""
    n = len(game)
    means = np.array([run.mean() for run in game])
    drawn = generator.integers(n, size=(replicates, n))
    deviations = ((means - means.mean()) * np.sqrt(n / (n - 1)))[drawn]
    for i, run in enumerate(game):
        if len(run) > 1:
            here = drawn == i
            inside = generator.integers(len(run), size=(int(here.sum()), len(run)))
            deviations[here] += run[inside].mean(axis=1) - means[i]
    return deviations.mean(axis=1)


def _resampled_wins(ranks: list[tuple[Indices, Indices]], paired: bool, generator: np.random.Generator, replicates: int) -> Array:
    total = np.zeros(replicates)
    for x, y in ranks:
        drawn = generator.integers(len(x), size=(replicates, len(x)))
        other = drawn if paired else generator.integers(len(y), size=(replicates, len(y)))
        total += ranked_wins(x[drawn], y[other])[:, 0]
    return total / len(ranks)


def _sign_flip(differences: list[Array], generator: np.random.Generator) -> float:
    """p-value: under no effect the sign of each paired difference is a coin's."""
    shares = np.concatenate([game / (len(game) * len(differences)) for game in differences])
    if 2 ** len(shares) <= EXACT:
        sums = np.zeros(1)
        for share in shares:
            sums = np.concatenate([sums + share, sums - share])
        return _tail_share(sums, shares.sum())
    signs = generator.integers(2, size=(ARRANGEMENTS, len(shares))) * 2.0 - 1.0
    return _drawn_share(signs @ shares, shares.sum())


def _permutation(a: list[Array], b: list[Array], generator: np.random.Generator) -> float:
    """p-value: under no effect any of a game's runs could be the variant's."""
    games = len(a)
    observed = float(np.mean([x.mean() - y.mean() for x, y in zip(a, b, strict=True)]))
    if prod(comb(len(x) + len(y), len(x)) for x, y in zip(a, b, strict=True)) <= EXACT:
        sums = np.zeros(1)
        for x, y in zip(a, b, strict=True):
            sums = (sums[:, None] + _all_differences(x, y)[None] / games).ravel()
        return _tail_share(sums, observed)
    sums = np.zeros(ARRANGEMENTS)
    for x, y in zip(a, b, strict=True):
        mixed = generator.permuted(np.tile(np.concatenate([x, y]), (ARRANGEMENTS, 1)), axis=1)
        sums += (mixed[:, : len(x)].mean(axis=1) - mixed[:, len(x) :].mean(axis=1)) / games
    return _drawn_share(sums, observed)


def _all_differences(x: Array, y: Array) -> Array:
    values = np.concatenate([x, y])
    chosen = np.array(list(combinations(range(len(values)), len(x))))
    sums = values[chosen].sum(axis=1)
    return sums / len(x) - (values.sum() - sums) / len(y)


def _tail_share(sums: Array, observed: float) -> float:
    return float(np.mean(_at_least(sums, observed)))


def _drawn_share(sums: Array, observed: float) -> float:
    return (1.0 + int(_at_least(sums, observed).sum())) / (1.0 + len(sums))


def _at_least(sums: Array, observed: float) -> NDArray[np.bool_]:
    # Arrangements that tie with the observed one differ from it by rounding alone.
    return np.abs(sums) >= abs(observed) - 1e-9 * max(abs(observed), float(np.abs(sums).max()))


def _runs(rows: pd.DataFrame) -> Runs:
    """Each run with its values in order of their trajectories' names. Plain loops: a group a run costs pandas more than all the rest."""
    ordered = rows.sort_values(["game", "seed"], kind="stable")
    trajectories = ordered["trajectory"] if "trajectory" in rows.columns else [None] * len(rows)
    pairs = ordered["pair"].where(ordered["pair"].notna(), None) if "pair" in rows.columns else [None] * len(rows)
    values: dict[tuple[str, object], list[tuple[str, object, float]]] = {}
    partner: dict[tuple[str, object], object] = {}
    for game, seed, name, pair, value in zip(ordered["game"], ordered["seed"], trajectories, pairs, ordered["value"], strict=True):
        values.setdefault((str(game), seed), []).append((str(name), name, float(value)))
        partner[str(game), seed] = pair if pair != "" else None
    runs: Runs = {}
    for (game, seed), found in values.items():
        found.sort(key=lambda one: one[0])
        runs.setdefault(game, {})[seed] = _Run(np.array([v for *_, v in found]), tuple(n for _, n, _ in found), partner[game, seed])
    return runs


def _matched(name: str, a: Runs, baseline: str, b: Runs, expected: dict[str, list[object]]) -> _Matched:
    """Runs of the games that both have, paired where every run of the smaller side has a partner; and what is missing."""
    missing = [text for who, runs in ((name, a), (baseline, b)) for text in _absent(who, runs, expected)]
    games = [game for game in sorted(a) if game in b]
    partners = {game: _partners(a[game], b[game]) for game in games}
    number = sum(map(len, partners.values()))
    paired = number > 0 and all(len(partners[game]) == min(len(a[game]), len(b[game])) for game in games)
    if paired and (spare := sum(len(a[game]) + len(b[game]) - 2 * len(partners[game]) for game in games)):
        missing.append(f"{spare} {'run' if spare == 1 else 'runs'} without a partner left out")
    if not paired and number:
        missing.append(f"only {number} {'run has' if number == 1 else 'runs have'} a partner, so none is compared as a pair")
    if paired:
        variant = [[x.values for x, _ in partners[game]] for game in games]
        other = [[y.values for _, y in partners[game]] for game in games]
    else:
        variant, other = ([[run.values for run in side[game].values()] for game in games] for side in (a, b))
    few = [game for game, x, y in zip(games, variant, other, strict=True) if min(len(x), len(y)) < MIN_RUNS]
    if few:
        missing.append(f"fewer than {MIN_RUNS} runs in {_few(few)}: no interval and no test")
    return _Matched(variant, other, paired, set(a) == set(b) and bool(a), missing)


def _partners(a: dict[object, _Run], b: dict[object, _Run]) -> list[tuple[_Run, _Run]]:
    by_pair = {run.pair: run for run in b.values() if run.pair is not None}
    found = [(run, by_pair[run.pair]) for run in a.values() if run.pair in by_pair]
    return [(x, y) for x, y in found if x.trajectories == y.trajectories]  # of other references: no partner


def _absent(name: str, runs: Runs, expected: dict[str, list[object]]) -> list[str]:
    if not runs:
        return [f"{name} has no results"]
    texts = []
    if games := [game for game in expected if game not in runs]:
        texts.append(f"{name} lacks {_few(games)}")
    for game in [game for game in expected if game in runs]:
        if seeds := [seed for seed in expected[game] if seed not in runs[game]]:
            texts.append(f"{name} lacks {game} seed{'s' if len(seeds) > 1 else ''} {_few(seeds)}")
    return texts


def _few(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:_NAMED])) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _check(
    rows: pd.DataFrame,
    baseline: str | Mapping[str, str],
    margin: float,
    variants: Iterable[str] | None,
    replicates: int,
    confidence: float,
) -> None:
    if absent := [name for name in ("variant", "game", "seed", "value") if name not in rows.columns]:
        raise ComparisonError(f"rows lack the column {absent[0]!r}")
    if (len(rows) and not pd.api.types.is_numeric_dtype(rows["value"])) or pd.api.types.is_bool_dtype(rows["value"]):
        raise ComparisonError(f"value: expected numbers, got {rows['value'].dtype}")
    if rows[["variant", "game", "seed"]].isna().any(axis=None):
        raise ComparisonError("every row needs a variant, a game and a seed")
    key = ["variant", "game", "seed", *(["trajectory"] if "trajectory" in rows.columns else [])]
    if (again := rows.duplicated(key)).any():
        raise ComparisonError(f"a value is given twice: {rows.loc[again, key].iloc[0].to_dict()}")
    if "pair" in rows.columns:
        named = rows[rows["pair"].notna() & (rows["pair"] != "")].drop_duplicates(["variant", "game", "seed", "pair"])
        if (again := named.duplicated(["variant", "game", "pair"]) | named.duplicated(["variant", "game", "seed"])).any():
            raise ComparisonError(f"a pair and a run of a variant belong to each other alone: {named.loc[again].iloc[0].to_dict()}")
    if not (np.isfinite(margin) and margin >= 0):
        raise ComparisonError(f"margin: expected a number from 0, got {margin}")
    if replicates < 1 or not 0.0 < confidence < 1.0:
        raise ComparisonError(f"expected replicates of at least 1 and a confidence between 0 and 1, got {replicates} and {confidence}")
    if not isinstance(baseline, str):
        if own := [name for name, base in baseline.items() if name == base]:
            raise ComparisonError(f"{own[0]!r} cannot be its own baseline")
        if variants is not None:
            raise ComparisonError("variants: a mapping of baselines names them already")
        return
    valid = sorted({*rows["variant"], *(variants or ())})
    if baseline not in valid:
        near = difflib.get_close_matches(baseline, valid, n=1)
        raise ComparisonError(
            f"no variant {baseline!r} to compare with: " + (f"did you mean {near[0]}?" if near else f"valid: {_few(valid)}")
        )
