"""Rows of scores as runs: the values of each run, paired runs, and missing data."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.runs import MIN_RUNS

Array = NDArray[np.float64]

_NAMED = 5
"""Maximum number of names in a message. The others are counted."""


class ComparisonError(ValueError):
    """Rows that cannot be compared. The message states the problem and the expectation."""


@dataclass(frozen=True)
class Run:
    """One seed of one variant on one game."""

    values: Mapping[object, float]
    """By reference. A run that was scored as a whole has the single reference None."""
    episodes: Mapping[object, object]
    """By reference, the held-out episode from which it was cut."""
    pair: object | None


Runs = dict[str, dict[object, Run]]
"""By game and seed."""


@dataclass(frozen=True)
class Game:
    """The runs of both sides on one game, as arrays of one value per run and reference."""

    name: str
    variant: Array
    """(runs, references)."""
    baseline: Array
    """(runs, references). If runs are paired, row i belongs to row i of `variant`."""
    episodes: NDArray[np.int64] | None
    """(references,): numbers of the episodes from which references were cut. None if the two sides share no references."""


@dataclass(frozen=True)
class Matched:
    """All data of one comparison."""

    games: tuple[Game, ...]
    paired: bool
    complete: bool
    """Whether both sides have the same games."""
    missing: tuple[str, ...]


def read_runs(rows: pd.DataFrame) -> Runs:
    """The finite values of `rows` (game, seed, value, optionally reference, episode and pair) by game, seed and reference."""
    ordered = rows.sort_values(["game", "seed"], kind="stable")

    def column(name: str) -> Iterable[Any]:
        return ordered[name].where(ordered[name].notna(), None) if name in rows.columns else [None] * len(rows)

    runs: Runs = {}
    fields = (ordered["game"], ordered["seed"], column("reference"), column("episode"), column("pair"), ordered["value"])
    for game, seed, reference, episode, pair, value in zip(*fields, strict=True):
        run = runs.setdefault(str(game), {}).setdefault(seed, Run({}, {}, pair if pair != "" else None))
        run.values[reference] = float(value)  # type: ignore[index]
        run.episodes[reference] = reference if episode is None else episode  # type: ignore[index]
    return runs


def match(name: str, a: Runs, baseline: str, b: Runs, expected: Mapping[str, Sequence[object]]) -> Matched:
    """The runs of the games that both sides have, paired if every run of the smaller side has a partner.

    `expected` has the seeds of each game that any variant has. Seeds that the sides lack are named in `missing`.
    """
    missing = [text for who, runs in ((name, a), (baseline, b)) for text in _absent(who, runs, expected)]
    names = [game for game in sorted(a) if game in b]
    partners = {game: _partners(a[game], b[game]) for game in names}
    number = sum(map(len, partners.values()))
    paired = number > 0 and all(len(partners[game]) == min(len(a[game]), len(b[game])) for game in names)
    if paired and (spare := sum(len(a[game]) + len(b[game]) - 2 * len(partners[game]) for game in names)):
        missing.append(f"{spare} {'run' if spare == 1 else 'runs'} without a partner left out")
    if not paired and number:
        missing.append(f"only {number} {'run has' if number == 1 else 'runs have'} a partner, so none is compared as a pair")
    games = []
    for game in names:
        first = [x for x, _ in partners[game]] if paired else list(a[game].values())
        second = [y for _, y in partners[game]] if paired else list(b[game].values())
        found, dropped = _arrays(game, first, second)
        games.append(found)
        missing += [f"{dropped} references of {game} without a value in every run left out"] if dropped else []
    if few := [game.name for game in games if min(len(game.variant), len(game.baseline)) < MIN_RUNS]:
        missing.append(f"fewer than {MIN_RUNS} runs in {_few(few)}: no interval and no test")
    return Matched(tuple(games), paired, set(a) == set(b) and bool(a), tuple(missing))


def match_all(rows: pd.DataFrame, baseline: Mapping[str, str], excluded: Mapping[str, str]) -> dict[str, Matched]:
    """The matched runs of each variant of the mapping and its own baseline. `rows` and `excluded`: see `comparison.compare`.

    An excluded variant has no games, and the reason in `missing`.
    """
    finite = rows[np.isfinite(rows["value"].to_numpy(dtype=np.float64))]
    by_name = dict(list(finite.groupby("variant", sort=False)))
    runs = {name: read_runs(by_name.get(name, finite[:0])) for name in {*baseline, *baseline.values()}}
    expected = {str(game): list(dict.fromkeys(part["seed"].sort_values())) for game, part in rows.groupby("game", sort=True)}
    return {
        name: Matched((), False, False, (excluded[name],)) if name in excluded else match(name, runs[name], base, runs[base], expected)
        for name, base in baseline.items()
    }


def _arrays(name: str, a: Sequence[Run], b: Sequence[Run]) -> tuple[Game, int]:
    """The values on the references that every run has, and the number of others that are left out. If runs share none, each is its mean."""
    runs = (*a, *b)
    shared = [key for key in a[0].values if all(key in run.values and run.episodes[key] == a[0].episodes[key] for run in runs)]
    if len(shared) < 2:
        means = [np.array([[np.mean(list(run.values.values()))] for run in side]) for side in (a, b)]
        return Game(name, means[0], means[1], None), 0
    references = sorted(shared, key=str)
    values = [np.array([[run.values[reference] for reference in references] for run in side]) for side in (a, b)]
    numbers = pd.factorize(pd.Series([str(a[0].episodes[reference]) for reference in references]))[0]
    dropped = len({key for run in runs for key in run.values}) - len(references)
    return Game(name, values[0], values[1], numbers.astype(np.int64)), dropped


def _partners(a: Mapping[object, Run], b: Mapping[object, Run]) -> list[tuple[Run, Run]]:
    by_pair = {run.pair: run for run in b.values() if run.pair is not None}
    found = [(run, by_pair[run.pair]) for run in a.values() if run.pair in by_pair]
    return [(x, y) for x, y in found if x.values.keys() & y.values.keys()]  # runs on different references are no pair


def _absent(name: str, runs: Runs, expected: Mapping[str, Sequence[object]]) -> list[str]:
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


def check_rows(rows: pd.DataFrame, baseline: str | Mapping[str, str], variants: Sequence[str] | None) -> None:
    """Raises ComparisonError for a missing column, a run given twice, values that are not numbers, or a missing baseline."""
    if absent := [name for name in ("variant", "game", "seed", "value") if name not in rows.columns]:
        raise ComparisonError(f"rows lack the column {absent[0]!r}")
    if (len(rows) and not pd.api.types.is_numeric_dtype(rows["value"])) or pd.api.types.is_bool_dtype(rows["value"]):
        raise ComparisonError(f"value: expected numbers, got {rows['value'].dtype}")
    if rows[["variant", "game", "seed"]].isna().any(axis=None):
        raise ComparisonError("every row needs a variant, a game and a seed")
    key = ["variant", "game", "seed", *(["reference"] if "reference" in rows.columns else [])]
    if (again := rows.duplicated(key)).any():
        raise ComparisonError(f"a value is given twice: {rows.loc[again, key].iloc[0].to_dict()}")
    if "pair" in rows.columns:
        named = rows[rows["pair"].notna() & (rows["pair"] != "")].drop_duplicates(["variant", "game", "seed", "pair"])
        if (again := named.duplicated(["variant", "game", "pair"]) | named.duplicated(["variant", "game", "seed"])).any():
            raise ComparisonError(
                f"a pair and a run of a variant must belong to each other exclusively: {named.loc[again].iloc[0].to_dict()}"
            )
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
