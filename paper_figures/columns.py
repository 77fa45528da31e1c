"""The sets of scores in score tables and figures: published methods, a user's CSV file, and agents of studies."""

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from diamond_bench.report.drawing import scale_warning
from diamond_bench.results.table import conditions
from paper_figures.methods import Method
from paper_figures.parts import Inputs, StudyResults, published_source, study_source

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

METRIC, PROTOCOL = "test_return", "agent"


@dataclass(frozen=True)
class Column:
    """One set of scores: the head, the mean score of each game, and the scores that aggregates are computed from."""

    label: str
    cells: "Mapping[str, float]"
    """Mean raw score by game."""
    frame: "pd.DataFrame | None"
    """Columns of analysis.scores with hns: runs, or one mean per game."""
    notes: tuple[str, ...]
    sources: tuple[Mapping[str, Any], ...]
    method: Method | None = None
    """The method; None for a user's own scores and for agents of studies."""
    study: StudyResults | None = None
    """The study of an agent."""
    variant: str = ""
    """The name of an agent in its study."""

    @property
    def scale(self) -> str:
        """Notes of an agent's study; empty for all other columns."""
        return "" if self.study is None else self.study.plan.scale

    @property
    def drawn(self) -> str:
        """Its label in a figure with published methods, above which no band stands."""
        return self.one_line + (": no finding" if self.scale and scale_warning(self.scale) else "")

    @property
    def competes(self) -> bool:
        """Whether its numbers may be the best of a row; false at scales other than the paper's."""
        return self.scale in ("", "paper")

    @property
    def one_line(self) -> str:
        """Its label without line breaks."""
        return self.label.replace("\n", " ")

    @property
    def has_runs(self) -> bool:
        """Whether scores of single runs are known for every game it has."""
        return self.frame is not None and bool(self.frame["seed"].notna().all())

    def matrix(self, games: Sequence[str] | None = None) -> "np.ndarray":
        """HNS (runs, games). Raises ScoreError if games are missing, numbers of runs differ, or protocols are mixed."""
        from analysis.scores import ScoreError, score_matrix

        if self.frame is None:
            raise ScoreError(f"{self.one_line}: only means over runs were published")
        return score_matrix(self.frame, games=games)


def published(method: Method, iqm: bool = True) -> Column:
    """A published method. Its frame holds runs if there are any, else the means of its cells. `iqm` says whether an IQM is shown."""
    from analysis.scores import footnotes, select, with_hns
    from analysis.scores import published as shipped

    everything = shipped()
    sources = tuple(dict.fromkeys(source for source in (method.cells, method.runs) if source))
    frames = {source: with_hns(select(everything, method.name, source)) for source in sources}
    cells = _means(frames[method.cells or method.runs], "score")
    notes = tuple(dict.fromkeys(note for source in sources for note in footnotes(method.name, source, iqm)))
    origin = tuple(published_source(method.name, source) for source in sources)
    return Column(method.name, cells, frames[method.runs or method.cells], notes, origin, method)


def of_runs(method: Method, iqm: bool = True) -> Column:
    """A published method by its runs alone: footnotes of its printed means do not belong to it. `iqm` as in `published`."""
    from analysis.scores import footnotes

    column = published(method)
    notes = tuple(footnotes(method.name, method.runs, iqm))
    sources = (published_source(method.name, method.runs),)
    return Column(column.label, column.cells, column.frame, notes, sources, method)


def own(inputs: Inputs, shown: Collection[Method] = ()) -> list[Column]:
    """The columns that the user asks for: published methods (except those `shown` anyway), methods of the score file, agents of studies.

    Each variant of a study has its own column.
    """
    asked = [of_runs(method) for method in inputs.methods if method not in shown]
    more = [replace(column, label=f"{column.label}\n({column.method.runs})") for column in asked if column.method is not None]
    return [*more, *_of_scores(inputs), *(column for study in inputs.studies for column in _of_study(study))]


def _of_scores(inputs: Inputs) -> Iterator[Column]:
    from analysis.scores import entries, select, with_hns

    if inputs.scores is None:
        return
    frame = with_hns(inputs.scores.frame)
    for entry in entries(frame):
        rows = select(frame, entry.method, entry.source)
        others = tuple(str(other) for other in entries(frame) if other != entry)
        flags = tuple(flag for flag in inputs.scores.flags if not flag.startswith(others))
        origin = {"kind": "scores file", "path": inputs.scores.path, "sha256": inputs.scores.sha256, "methods": [entry.method]}
        cells = _means(rows, "score")
        yield Column(f"{entry.method}\n({entry.source})", cells, rows, flags, (origin,))


def _of_study(study: StudyResults) -> Iterator[Column]:
    from analysis.scores import human_random, with_hns

    table = study.table
    rows = table[(table["protocol"] == PROTOCOL) & (table["metric"] == METRIC) & table["seed"].notna()]
    for variant in dict.fromkeys(rows["variant"]):
        of_variant = rows[rows["variant"] == variant]
        known = of_variant[of_variant["game"].isin(human_random().index)]
        cells = _means(known, "value")
        notes = [f"{study.label(variant)}: mean over {_seeds(known)} of each game's final policy.", *study.remarks]
        if len(known) < len(of_variant):
            left = ", ".join(sorted(set(of_variant["game"]) - set(human_random().index)))
            notes.append(f"{study.label(variant)}: {left} has no published human score and is left out.")
        scores = known[["game", "seed", "scale", "revision"]].assign(method=variant, score=known["value"], source=study.name)
        records = [conditions(_record(study, job), game) for job, game in zip(known["job"], known["game"], strict=True)]
        if all(records):
            scores = scores.assign(protocol_record=records)
            notes += [f"{study.label(variant)}: {record}." for record in dict.fromkeys(records)]
        notes += [f"{study.label(variant)}: {outcome}." for outcome in _outcomes(study, known["job"])]
        frame = None if scores.empty else with_hns(scores)
        label = variant_label(study, str(variant))
        origin = (study_source(study, list(of_variant["job"])),)
        yield Column(label, cells, frame, tuple(notes), origin, study=study, variant=str(variant))


def variant_label(study: StudyResults, variant: str) -> str:
    """The head of a variant's column."""
    return f"{study.plan.study}\n{variant}\n(scale {study.plan.scale})"


def _outcomes(study: StudyResults, jobs: Iterable[str]) -> Iterator[str]:
    """The outcomes of the runs as ranges: a score of episodes that were cut, or of fewer real steps, is a different score."""
    records = [record for job in jobs if (record := _record(study, job))]
    for name, unit in (("episodes_cut", "episodes cut at the most steps"), ("real_steps", "real steps of training")):
        known = [int(record[name]) for record in records if record.get(name) is not None]
        if known:
            low, high = min(known), max(known)
            played = {record.get("episodes") for record in records}
            of = f" of {played.pop():,} a run" if name == "episodes_cut" and len(played) == 1 and None not in played else ""
            yield f"{unit}: {f'{low:,}' if low == high else f'{low:,} to {high:,}'}{of}"
        if records and len(known) < len(records):
            yield f"{unit}: not recorded of {len(records) - len(known)} of {len(records)} runs"


def _record(study: StudyResults, job: str) -> dict[str, Any]:
    return study.results[job].info.get("protocol_record") or {}


def notes_between(
    columns: Sequence[Column], games: Sequence[str] | None = None, iqm: Collection[Column] = (), intervals: bool = False
) -> list[str]:
    """Footnotes of columns in one table or figure. Columns whose scores are mixed have a footnote of their own about it.

    `iqm` has the columns with an IQM, and `intervals` says whether intervals are shown.
    """
    from analysis.scores import ScoreError, between_footnotes, runs_by_game

    sound: dict[str, pd.DataFrame] = {}
    for column in columns:
        frame = column.frame if column.frame is None or games is None else column.frame[column.frame["game"].isin(games)]
        with contextlib.suppress(ScoreError):
            if frame is not None and len(runs_by_game(frame)):
                sound[column.one_line] = frame
    return between_footnotes(sound, {column.one_line for column in iqm}, intervals)


def no_findings(columns: Sequence[Column]) -> str:
    """For the caption of a figure that shows these columns together with published ones: which of them show no finding. Empty if all do."""
    warnings = dict.fromkeys(warning for column in columns if column.scale and (warning := scale_warning(column.scale)))
    return "".join(f" {warning}." for warning in warnings)


def _means(rows: "pd.DataFrame", column: str) -> dict[str, float]:
    return {str(game): float(value) for game, value in rows.groupby("game")[column].mean().items()}


def _seeds(rows: "pd.DataFrame") -> str:
    counts = rows.groupby("game")["seed"].nunique()
    low, high = (0, 0) if counts.empty else (counts.min(), counts.max())
    return f"{low if low == high else f'{low} to {high}'} {'run' if high == 1 else 'runs'}"
