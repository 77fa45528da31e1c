"""Published Atari 100k scores, a user's own score files, and the rules for computing with them together.

HNS = (score - random) / (human - random). For the data and their sources see published/README.md.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.aggregates import MIN_RUNS
from analysis.aggregates import ScoreError as ScoreError  # raised by the functions below
from analysis.score_curves import not_rankable, published_curves, refuse_curves, training_only
from analysis.score_files import COLUMNS, Fields, nearest, nearest_game, read_fields
from analysis.score_files import ScoreFileError as ScoreFileError  # raised by read_scores

Array = NDArray[np.float64]

CONDITIONS = ("protocol", "protocol_record", "scale", "revision")
"""Optional columns of own results. Each must have a single value within an entry."""

_DATA = Path(__file__).parent / "published"
MAX_RUNS = 50
"""Number of runs per game above which a warning is given: world models publish 5. The 100 runs of CURL, SPR and DrQ(eps) are known and have
a footnote."""

_MAX_ENTRIES = 10_000
_FARTHEST_HNS = (-5.0, 100.0)  # all published runs lie between -0.8 and 14.4
_PSEUDO = "Episodes of one training that are counted as runs make intervals far too narrow (pseudo-replication)"
_SAME_NAME = "of this method returns of training episodes alone are published; rankings need scores of test episodes"
_SHOWN = 10  # entries that one kind of flag names
_OF_IQM = ("iqm of means", "mixed iqm")
_DECISIVE = ("environment id", "sticky actions", "no-ops", "test policy", "episodes averaged", "real steps")


@dataclass(frozen=True)
class Entry:
    """One set of scores. A method may have several, from different sources: never select by the method alone."""

    method: str
    source: str

    def __str__(self) -> str:
        return f"{self.method} ({self.source})"


@dataclass(frozen=True)
class ScoreFile:
    """A user's scores, valid, in COLUMNS. `flags` are warnings about them."""

    frame: pd.DataFrame
    flags: list[str]


@cache
def _read(name: str, **types: Any) -> pd.DataFrame:
    """A shipped table with the types of its columns, read once per process. Do not modify it."""
    return pd.read_csv(_DATA / name, dtype=types or None)


def published() -> pd.DataFrame:
    """The shipped scores in COLUMNS. seed is Int64, missing if one number per game was published."""
    return _read("published_scores.csv", method=str, game=str, seed="Int64", score=np.float64, source=str)[list(COLUMNS)].copy()


def human_random() -> pd.DataFrame:
    """Columns random and human, index game: the 26 games, alphabetical."""
    return _read("human_random.csv").set_index("game").sort_index().astype(np.float64)


def with_hns(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with a column hns. Raises ScoreError for a game without human and random scores."""
    norm = human_random()
    for game in frame["game"].unique():
        if game not in norm.index:
            raise ScoreError(f"no human and random score of game {game!r}: {nearest_game(game, norm.index)}")
    low, high = frame["game"].map(norm["random"]), frame["game"].map(norm["human"])
    return frame.assign(hns=(frame["score"] - low) / (high - low))


def entries(frame: pd.DataFrame) -> list[Entry]:
    """The (method, source) pairs of a frame, in order of appearance."""
    return [Entry(method, source) for method, source in frame[["method", "source"]].drop_duplicates().itertuples(index=False)]


def select(frame: pd.DataFrame, method: str, source: str) -> pd.DataFrame:
    """The rows of one entry. Raises ScoreError, with the nearest names, if there is none, and for a method with only training episodes."""
    of_method = frame[frame["method"] == method]
    if of_method.empty:
        if method in training_only():
            raise ScoreError(not_rankable(method))
        raise ScoreError(f"no scores of method {method!r}: {nearest(method, frame['method'].unique())}")
    chosen = of_method[of_method["source"] == source]
    if chosen.empty:
        raise ScoreError(f"no scores of {method} from source {source!r}: {nearest(source, of_method['source'].unique())}")
    return chosen


def kind_of(frame: pd.DataFrame) -> str:
    """`runs` (every row has a seed) or `means` (none has). Raises ScoreError if the frame mixes both."""
    given = frame["seed"].notna()
    if given.any() and not given.all():
        raise ScoreError(f"{_name(frame)} mixes runs (rows with a seed) and means (rows without): no aggregate of both is honest")
    return "runs" if given.any() else "means"


def runs_by_game(frame: pd.DataFrame, column: str = "hns") -> dict[str, Array]:
    """hns (or score) of each run of one entry by game, in order of seed. A single value if a mean was published.

    Raises ScoreError for no rows, more than one entry, returns of training episodes, mixed CONDITIONS or kinds, a run given twice, or a
    value that is not finite.
    """
    if frame.empty:
        raise ScoreError("there are no scores to aggregate")
    refuse_curves(frame, _name(frame))
    if len(found := entries(frame)) > 1:
        raise ScoreError(f"scores of {len(found)} entries do not belong into one aggregate: {', '.join(map(str, found[:4]))}; select one")
    for condition in CONDITIONS:
        if condition in frame.columns and len(values := frame[condition].drop_duplicates()) > 1:
            shown = ", ".join(str(value)[:80] for value in list(values)[:4])
            raise ScoreError(f"{found[0]} mixes {len(values)} values of {condition} ({shown}): aggregate each separately")
    kind_of(frame)
    twice = frame[frame.duplicated(["game", "seed"])]
    if len(twice):
        raise ScoreError(f"{found[0]} has {twice['game'].iloc[0]}, seed {twice['seed'].iloc[0]}, more than once")
    if not np.isfinite(frame[column].to_numpy(dtype=np.float64)).all():
        raise ScoreError(f"{found[0]} has values of {column} that are not finite")
    ordered = frame.sort_values(["game", "seed"])
    games, starts = np.unique(ordered["game"].to_numpy(dtype=str), return_index=True)
    runs = np.split(ordered[column].to_numpy(dtype=np.float64), starts[1:])  # a pandas group for each game takes ten times as long
    return dict(zip(games.tolist(), runs, strict=True))


def score_matrix(frame: pd.DataFrame, column: str = "hns", games: Sequence[str] | None = None) -> Array:
    """(runs, games) of one entry, games alphabetical: all 26, or those named. Means give one row.

    Raises ScoreError if `runs_by_game` does, for a missing game, and for games with unequal numbers of runs.
    """
    by_game, wanted = runs_by_game(frame, column), sorted(human_random().index if games is None else games)
    if absent := [game for game in wanted if game not in by_game]:
        raise ScoreError(f"{_name(frame)} lacks {len(absent)} of {len(wanted)} games ({_few(absent)}): no aggregate without them")
    numbers = {game: len(by_game[game]) for game in wanted}
    if len(set(numbers.values())) > 1:
        least, most = min(numbers, key=lambda g: numbers[g]), max(numbers, key=lambda g: numbers[g])
        unequal = f"{numbers[least]} of {least}, {numbers[most]} of {most}"
        raise ScoreError(f"{_name(frame)} has unequal numbers of runs ({unequal}): aggregates need the same number in each game")
    return np.stack([by_game[game] for game in wanted], axis=1)


def footnotes(method: str, source: str, iqm: bool = True) -> list[str]:
    """Footnotes for any table or figure with this entry. None for a user's own. `iqm`: whether its IQM is shown."""
    notes = _read("footnotes.csv", method=str, source=str, topic=str, text=str)
    shown = (notes["method"] == method) & (notes["source"] == source) & (iqm | ~notes["topic"].isin(_OF_IQM))
    return notes["text"][shown].tolist()


def general_footnotes() -> list[str]:
    """Footnotes for any comparison of published scores."""
    return [
        "Scores come from different procedures of evaluation (episodes counted, sampling, versions of the environment) and were not "
        "harmonised.",
        "A seed is only a position in a published list: runs of different games are independent, and intervals resample each game's alone.",
    ]


def between_footnotes(frames: Mapping[str, pd.DataFrame], iqm: Collection[str] | None = None, intervals: bool = True) -> list[str]:
    """Footnotes on differences between entries (label -> frame of one entry) in one table or figure.

    They cover the IQM of means next to the IQM of runs (`iqm`: the labels whose IQM is shown; None: all), too few runs for an interval
    (`intervals`: whether any are shown), more runs than MAX_RUNS, different games, and different protocols.
    """
    notes = []
    kinds = {label: kind_of(frame) for label, frame in frames.items() if iqm is None or label in iqm}
    means = [label for label, kind in kinds.items() if kind == "means"]
    if means and len(means) < len(kinds):
        runs = [label for label, kind in kinds.items() if kind == "runs"]
        notes.append(
            f"IQM of game means ({', '.join(means)}) and IQM of runs ({', '.join(runs)}) are different quantities: do not rank across them."
        )
    numbers_of_runs = {label: [len(runs) for runs in runs_by_game(frame, "score").values()] for label, frame in frames.items()}
    notes += _implausible({label: max(numbers) for label, numbers in numbers_of_runs.items()}, frames)
    fewest = {label: min(numbers) for label, numbers in numbers_of_runs.items()}
    if intervals and (few := [label for label, number in fewest.items() if number < MIN_RUNS]):
        notes.append(f"No interval for {', '.join(few)}: it needs at least {MIN_RUNS} runs a game.")
    games = {label: frozenset(frame["game"]) for label, frame in frames.items()}
    if len(set(games.values())) > 1:
        numbers = ", ".join(f"{label} {len(found)}" for label, found in games.items())
        notes.append(f"Not all are of the same games (numbers: {numbers}): aggregates of different games do not compare.")
    return notes + _protocol_notes(frames)


def protocol(method: str, source: str) -> dict[str, str] | None:
    """Protocol point -> value of the public code for a shipped entry. None if it is not recorded here.

    Points that its code does not determine are missing. A user's own scores of a method with that name, from another source, may come from
    any code: None.
    """
    table = _read("protocols.csv", method=str, point=str, value=str)
    rows = table[table["method"] == method]
    if len(rows) and Entry(method, source) not in (*entries(published()), *entries(published_curves())):
        return None
    return None if rows.empty else dict(zip(rows["point"], rows["value"], strict=True))


def read_scores(path: str | Path) -> ScoreFile:
    """Reads a user's CSV of COLUMNS (in any order), UTF-8, with one row per run, or a row without a seed for a mean over runs.

    The scores are raw game scores of the 26 games. Raises ScoreFileError at the first mistake, with its line in the file. `flags` contains
    warnings about unusual but usable data. Nothing is guessed: names must be exact, numbers plain.
    """
    fields = read_fields(path, human_random().index)
    columns = fields.columns
    frame = pd.DataFrame(
        {
            "method": columns["method"],
            "game": columns["game"],
            "seed": pd.array([int(seed) if seed else None for seed in columns["seed"]], dtype="Int64"),
            "score": np.array(columns["score"], dtype=np.float64),
            "source": columns["source"],
        }
    )
    _refuse_clashes(frame, fields, path)
    return ScoreFile(frame, fields.flags + _oddities(frame, fields.lines))


def _refuse_clashes(frame: pd.DataFrame, fields: Fields, path: str | Path) -> None:
    known = (*entries(published()), *entries(published_curves()))
    shipped = {(entry.method.casefold(), entry.source.casefold()): entry for entry in known}
    given = frame[["method", "source"]].drop_duplicates()
    if len(given) > _MAX_ENTRIES:
        fields.refuse(
            path,
            int(given.index[_MAX_ENTRIES]),
            f"{len(given)} methods and sources, at most {_MAX_ENTRIES} are accepted: are columns mixed up?",
        )
    for row, method, source in given.itertuples(name=None):
        if other := shipped.get((method.casefold(), source.casefold())):
            fields.refuse(path, row, f"{other} is shipped already: give your scores a source of their own")
    key = ["method", "source", "game"]
    seeds = frame["seed"].fillna(-1)
    if (again := frame.duplicated([*key, "seed"])).any():
        row = int(again.argmax())
        first = int(((frame[key] == frame[key].iloc[row]).all(axis=1) & (seeds == seeds.iloc[row])).argmax())
        run = "mean" if seeds.iloc[row] < 0 else f"seed {seeds.iloc[row]}"
        fields.refuse(path, row, f"{_run_name(frame, row)}, {run} was given on line {fields.lines[first]} already")
    if (means := seeds < 0).any():
        with_means = means.groupby([frame[column] for column in key]).transform("mean")
        if (mixed := means & (with_means < 1)).any():
            row = int(mixed.argmax())
            fields.refuse(path, row, f"seed is empty, but other rows of {_run_name(frame, row)} have one: give runs or their mean")


def _run_name(frame: pd.DataFrame, row: int) -> str:
    return f"{frame['method'].iloc[row]}, {frame['game'].iloc[row]}"


def _oddities(frame: pd.DataFrame, lines: list[int]) -> list[str]:
    entry, norm = ["method", "source"], human_random()
    games = frame.groupby([*entry, "game"], sort=False).agg(runs=("score", "size"), seeds=("seed", "count"), values=("score", "nunique"))
    games["mean"] = games["seeds"] < games["runs"]
    games["flat"] = (games["runs"] >= MIN_RUNS) & (games["values"] == 1)
    table = games.groupby(entry, sort=False).agg(
        games=("runs", "size"), least=("runs", "min"), most=("runs", "max"), means=("mean", "sum"), flat=("flat", "any")
    )
    large = frame[frame["game"].map(norm["random"]) > 100].assign(size=lambda rows: rows["score"].abs())
    table["tiny"] = large.groupby(entry, sort=False)["size"].max() < 20.0
    runs, short = table["means"] == 0, table["games"] < len(norm)
    flags = [
        *_of_entries(table["means"] == table["games"], "one mean a game and no runs: no intervals, and its IQM is of means"),
        *_of_entries(~runs & (table["means"] < table["games"]), "runs of some games and means of others: aggregates of both are refused"),
        *_of_entries(runs & (table["most"] == 1), "one seed only: no intervals"),
        *_of_entries(runs & (table["most"] > 1) & (table["least"] < MIN_RUNS), f"fewer than {MIN_RUNS} runs of a game: no intervals"),
        *_of_entries(runs & (table["least"] < table["most"]), "unequal numbers of runs: aggregates over games are refused"),
        *_of_entries(table["most"] > MAX_RUNS, f"more than {MAX_RUNS} runs of a game: are these episodes, not training runs? {_PSEUDO}"),
        *_of_entries(pd.Series(table.index.isin(training_only(), level="method"), table.index), _SAME_NAME),
        *_of_entries(table["tiny"].eq(True), "no score reaches 20 where random play scores hundreds: raw scores are expected, not HNS"),
        *_of_entries(table["flat"], "all runs of a game have one score: it may stand in for missing runs"),
    ]
    for method, source in table.index[short][:_SHOWN]:
        absent = sorted(set(norm.index) - set(games.loc[(method, source)].index))
        missing = f"{len(absent)} of {len(norm)} games missing ({_few(absent)})"
        flags.append(f"{Entry(method, source)}: {missing}: aggregates over all are refused.")
    flags += _and_more(int(short.sum()), "games missing")
    far = ~with_hns(frame)["hns"].between(*_FARTHEST_HNS).to_numpy()
    if far.any():
        row = int(far.argmax())
        flags.append(f"{int(far.sum())} scores are far from any published one, first on line {lines[row]} ({frame['score'].iloc[row]:g}).")
    return flags


def _implausible(most: Mapping[str, int], frames: Mapping[str, pd.DataFrame]) -> list[str]:
    """A warning about entries with more than MAX_RUNS runs of a game. The shipped ones are checked, and have their own footnote."""
    if not (many := {label: number for label, number in most.items() if number > MAX_RUNS}):
        return []
    shipped = set(entries(published()))
    doubted = [f"{label} ({number:,})" for label, number in many.items() if Entry(*_method_and_source(frames[label])) not in shipped]
    text = f"More than {MAX_RUNS} runs of a game: {', '.join(doubted)}. If these are episodes, do not rank by them. {_PSEUDO}."
    return [text] if doubted else []


def _of_entries(chosen: pd.Series, text: str) -> list[str]:
    return [f"{Entry(*entry)}: {text}." for entry in chosen.index[chosen][:_SHOWN]] + _and_more(int(chosen.sum()), "the same")


def _and_more(number: int, what: str) -> list[str]:
    return [f"And {number - _SHOWN} more entries with {what}."] if number > _SHOWN else []


def _protocol_notes(frames: Mapping[str, pd.DataFrame]) -> list[str]:
    own = {label for label, frame in frames.items() if "protocol_record" in frame.columns}
    records = {label: protocol(*_method_and_source(frame)) for label, frame in frames.items() if label not in own}
    known = {label: record for label, record in records.items() if record is not None}
    notes = []
    for point in _DECISIVE:
        values: dict[str, list[str]] = {}
        for label, record in known.items():
            if point in record:
                values.setdefault(record[point], []).append(label)
        if len(values) > 1:
            notes.append(f"Protocols differ in {point}: " + "; ".join(f"{value} ({', '.join(who)})" for value, who in values.items()) + ".")
        if len(frames) > 1 and (without := [label for label, record in known.items() if point not in record]):
            notes.append(f"Not recorded here: {point} of {', '.join(without)}.")
    if len(frames) > 1 and (unknown := [label for label, record in records.items() if record is None]):
        notes.append(f"The protocol of {', '.join(unknown)} is not recorded here.")
    return notes


def _method_and_source(frame: pd.DataFrame) -> tuple[str, str]:
    return str(frame["method"].iloc[0]), str(frame["source"].iloc[0])


def _name(frame: pd.DataFrame) -> str:
    return str(found[0]) if len(found := entries(frame)) == 1 else f"a frame of {len(found)} entries"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
