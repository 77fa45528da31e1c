"""Published learning curves as lines of sample-efficiency figures, each with the kind of episodes that its scores are of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paper_figures.efficiency import Found, pooled
from paper_figures.parts import published_source
from paper_figures.tables import sentence

KINDS = {"test": "test episodes", "training": "training episodes"}
"""As legends and captions call them."""
_POINTS = ("environment id", "sticky actions", "no-ops", "life loss", "test policy", "episodes averaged")


@dataclass(frozen=True)
class PublishedLines:
    """The lines of several methods on the same games, by label, with what belongs below them."""

    lines: Mapping[str, Found]
    kinds: Mapping[str, str]
    """By label: `test` or `training`."""
    methods: Mapping[str, str]
    """The method, by label."""
    notes: tuple[str, ...]
    sources: tuple[Mapping[str, Any], ...]


def methods_with_curves() -> dict[str, str]:
    """Method -> `test` or `training`, of every published curve."""
    from analysis.score_curves import published_curves

    curves = published_curves()[["method", "episodes"]].drop_duplicates()
    return {str(method): str(kind) for method, kind in curves.itertuples(index=False)}


def published_lines(methods: Sequence[str], games: Sequence[str] | None = None) -> PublishedLines:
    """The lines of these methods on these games, or on all games of the first method's curve.

    A method whose curves cannot be pooled is left out, with a note that says why.
    """
    from analysis.score_curves import published_curves, runs_of_curve
    from analysis.scores import ScoreError, footnotes

    everything = published_curves()
    lines, kinds, names = dict[str, Found](), dict[str, str](), dict[str, str]()
    notes, sources = list[str](), list[Mapping[str, Any]]()
    for method in methods:
        of_method = everything[everything["method"] == method]
        if of_method.empty:
            notes.append(f"{method}: no learning curve is published.")
            continue
        kind, shown = str(of_method["episodes"].iloc[0]), list(games or sorted(set(of_method["game"])))
        label = f"{method}: {KINDS[kind]}"
        try:
            runs, said = runs_of_curve(of_method, shown)
            notes += [f"{method}: {text}." for text in said]
            found = pooled(runs)
        except ScoreError as error:
            notes.append(f"{method}: left out, {sentence(error)}")
            continue
        lines[label], kinds[label], names[label] = found, kind, method
        for source in map(str, of_method["source"].unique()):
            notes += [*_protocol(method, source), *footnotes(method, source)]
            sources.append(published_source(method, source))
    return PublishedLines(lines, kinds, names, tuple(notes), tuple(sources))


def _protocol(method: str, source: str) -> list[str]:
    """The protocol record behind a curve, as a footnote."""
    from analysis.scores import protocol

    record = protocol(method, source) or {}
    points = [f"{point} {record[point]}" for point in _POINTS if point in record]
    return [f"{method}: protocol: {'; '.join(points)}."] if points else []
