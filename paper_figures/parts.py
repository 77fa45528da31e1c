"""Inputs and outputs of artifacts: the types that all modules of this package share."""

import itertools
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from diamond_bench.report import drawing
from diamond_bench.report.drawing import Drawn
from diamond_bench.store.artifacts import Store, StoredResult
from diamond_bench.studies.plan import SavedPlan
from diamond_bench.studies.spec import study_files
from paper_figures.methods import Method
from paper_figures.tables import Table

if TYPE_CHECKING:
    import pandas as pd


SEED = 0
"""Seed of every bootstrap."""


@dataclass(frozen=True)
class StudyResults:
    """The finished jobs of one study at one scale."""

    plan: SavedPlan
    table: "pd.DataFrame"
    """The tidy table (`studies.results.collect`)."""
    results: Mapping[str, StoredResult]
    """Results by job id, for every job in the table."""
    notes: tuple[str, ...]
    """Notes on mixed revisions or precisions."""

    @property
    def name(self) -> str:
        """The name in tables and figures, which always includes the scale."""
        return f"{self.plan.study} (scale {self.plan.scale})"

    @property
    def remarks(self) -> tuple[str, ...]:
        """Footnotes of whatever shows it: what is mixed in it, and what its file notes on what it can tell."""
        return (*self.notes, *([f"{self.name}: {self.plan.note.strip()}"] if self.plan.note.strip() else []))

    def label(self, variant: str) -> str:
        """Label of a variant's row, column or line."""
        return f"{self.plan.study}: {variant} (scale {self.plan.scale})"


@dataclass(frozen=True)
class Lack:
    """Missing data of an artifact, the reason, and the command that would create it (None if there is no such command)."""

    what: str
    command: str = ""


@dataclass(frozen=True)
class Inputs:
    """Everything artifacts are made from."""

    store: Store
    studies: tuple[StudyResults, ...] = ()
    scores: "UserScores | None" = None
    methods: tuple[Method, ...] = ()
    """Published methods outside the paper that were asked for: columns of the score tables and figures."""
    curves: tuple[str, ...] = ()
    """Requested methods with published curves of training episodes only."""
    swept: tuple[tuple[str, str], ...] = ()
    """(study, scale) of every plan in the store, asked for or not."""

    def lack(self, study: str, what: str, artifact: str, scale: str = "small") -> Lack:
        """Reports that a study has not run, or was not requested, with the command that corrects this."""
        scales = [found for name, found in self.swept if name == study]
        asked = [results for results in self.studies if results.plan.study == study]
        if scales and not asked:
            command = shlex.join(["diamond-bench", "paper", artifact, "--results", f"{study}:{scales[0]}"])  # quotes the star of a scale
            return Lack(f"{what}: {study} was swept, but not asked for", command)
        if asked:
            return Lack(f"{what}: {study} has no finished job that shows it", asked[0].plan.command)
        if study not in study_files():
            return Lack(f"{what}: they are those of a study {study}, which this version does not ship")
        return Lack(f"{what}: {study} has not been swept", f"diamond-bench sweep {study} scale={scale}")


@dataclass(frozen=True)
class UserScores:
    """A user's own CSV of scores, validated."""

    frame: "pd.DataFrame"
    flags: tuple[str, ...]
    path: str
    sha256: str


@dataclass(frozen=True)
class Output:
    """An artifact: a table, figures by the suffix of their file's name (one figure alone has none), numbers for programs."""

    table: Table | None = None
    figures: Mapping[str, Drawn] = field(default_factory=dict)
    data: "pd.DataFrame | None" = None
    """Numbers behind a figure, as CSV; an artifact with a table has that as its CSV."""
    footnotes: tuple[str, ...] = ()
    """Besides the table's own."""
    sources: tuple[Mapping[str, Any], ...] = ()
    lacks: tuple[Lack, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return self.table is None and not self.figures and self.data is None


def published_source(method: str, source: str) -> dict[str, Any]:
    """A row of the index: published scores of a method."""
    return {"kind": "published scores", "method": method, "source": source}


def paper_source(where: str) -> dict[str, Any]:
    """A row of the index: numbers printed in the DIAMOND paper."""
    return {"kind": "printed", "source": f"DIAMOND paper {where}"}


def study_source(results: StudyResults, jobs: "Mapping[str, None] | list[str]") -> dict[str, Any]:
    """A row of the index: the jobs of a study that an artifact shows."""
    found = sorted({str(job) for job in jobs})
    recorded = [results.results[job].recorded for job in found if job in results.results]

    def all_of(key: str) -> list[str]:
        return sorted({str(r[key]) for r in recorded if r.get(key) is not None})

    return {
        "kind": "study",
        "study": results.plan.study,
        "scale": results.plan.scale,
        "protocol": results.plan.protocol,
        "jobs": found,
        "commits": all_of("commit"),
        "revisions": all_of("revision"),
        "devices": all_of("device_name"),
        "notes": list(results.notes),
        "command": results.plan.command,
    }


def slug(*words: str, taken: Collection[str] = ()) -> str:
    """Words as part of a file's name that every system and LaTeX takes; unlike those `taken`, by a number where need be."""
    name = drawing.slug("-".join(words).replace("*", "-changed"))
    others = (f"{name}-{number}" for number in itertools.count(2))
    return name if name not in taken else next(other for other in others if other not in taken)
