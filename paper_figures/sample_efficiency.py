"""Sample efficiency: the IQM of human-normalised scores against the real steps that an agent has taken."""

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

from diamond_bench.errors import UserError
from diamond_bench.report.drawing import Drawn, range_words, scale_warning
from diamond_bench.store.artifacts import Store
from paper_figures.attained import BASIS
from paper_figures.columns import PROTOCOL
from paper_figures.efficiency import Found, numbers, pooled
from paper_figures.looks import all_looks, variant_names
from paper_figures.parts import SEED, Inputs, Lack, Output, StudyResults, slug, study_source
from paper_figures.published_curves import KINDS, PublishedLines, methods_with_curves, published_lines
from paper_figures.tables import sentence
from paper_figures.training import rounds, trained

if TYPE_CHECKING:
    from analysis.looks import Style

_PUBLISHED = Lack("curves of the other published methods: their scores along training are not available, only those at its end")
_BASIS = (
    "IQM of HNS over runs and games, of the test games played so far at a number of real steps: a run's score holds until its next "
    "round of test games. They select nothing, and are fewer than those of a final score."
)
_HELD = "IQM of HNS over runs and games at a number of real steps: a run's score holds until its next one."
_KINDS_DIFFER = "returns of training episodes do not compare with scores of test episodes"


def make(inputs: Inputs) -> Output:
    """One figure per study of agents with a line for each variant, and the published curves in one figure for each kind of episodes.

    Methods that the user asks for are lines of the studies' figures too. Lines that cannot be honestly pooled are left out, with a note.
    """
    import pandas as pd

    figures: dict[str, Drawn] = {}
    tidy, notes, sources, lacks = list[pd.DataFrame](), list[str](), [], [_PUBLISHED]
    studies = [study for study in inputs.studies if study.plan.protocol == PROTOCOL]
    for study in studies:
        found, of_study = _of_study(study, inputs.store)
        notes += of_study
        if not found:
            lacks.append(Lack(f"{study.name}: no variant has trainings with test games of all its games", study.plan.command))
            continue
        games = list(dict.fromkeys(point.game for point in study.plan.points))
        asked = published_lines([*(method.name for method in inputs.methods), *inputs.curves], games)
        mark = scale_warning(study.plan.scale)
        suffix = ": no finding" if mark and asked.lines else ""  # the band is not for published numbers
        labels = {variant: (variant or study.plan.study) + suffix for variant in found}
        lines = {**{labels[variant]: f for variant, f in found.items()}, **asked.lines}
        named = variant_names(study, found)
        looks = all_looks(inputs, named.values())
        of_lines = {**{labels[variant]: looks[name] for variant, name in named.items()}, **_method_looks(asked, looks)}
        differ = [_KINDS_DIFFER] if "training" in asked.kinds.values() else []
        caption = _caption(study.name, list(lines.values()), [*([mark] if suffix else []), *differ, *study.notes])
        name = slug(study.plan.study, study.plan.scale, taken=figures)
        figures[name] = _drawn(lines, of_lines, caption, "" if suffix else mark)
        tidy += [numbers(f, study.plan.study, study.plan.scale, variant, "test") for variant, f in found.items()]
        tidy += [numbers(f, "", "", label, asked.kinds[label]) for label, f in asked.lines.items()]
        notes += [*_episodes(study, inputs.store, list(found)), *study.remarks, *asked.notes]
        sources += [study_source(study, _jobs(study, list(found))), *asked.sources]
    if not studies:
        lacks.append(inputs.lack("atari_100k", "curves of one's own agents", "sample_efficiency", scale="paper"))
    for kind, shown in _published().items():
        name = slug("published", kind, taken=figures)
        caption = _caption("published curves", list(shown.lines.values()), [_KINDS_DIFFER] if kind == "training" else [])
        figures[name] = _drawn(shown.lines, _method_looks(shown, all_looks(inputs)), caption, "", f"IQM of HNS of {KINDS[kind]}")
        tidy += [numbers(f, "", "", label, kind) for label, f in shown.lines.items()]
        notes += shown.notes
        sources += shown.sources
    data = pd.concat(tidy, ignore_index=True).drop_duplicates()
    distinct = [source for i, source in enumerate(sources) if source not in sources[:i]]
    of_own = any(source["kind"] == "study" for source in sources)
    footnotes = tuple(dict.fromkeys([_BASIS if of_own else _HELD, BASIS, *notes]))
    return Output(figures=figures, data=data, footnotes=footnotes, sources=tuple(distinct), lacks=tuple(lacks))


@cache
def _published() -> dict[str, PublishedLines]:
    """The published curves by kind of episodes: the two kinds never share a figure unless the user asks."""
    kinds = methods_with_curves()
    return {kind: published_lines([method for method, of in kinds.items() if of == kind]) for kind in KINDS}


def _of_study(study: StudyResults, store: Store) -> tuple[dict[str, Found], list[str]]:
    """The line of each variant, and notes on those that are left out or have no band."""
    from analysis.scores import ScoreError

    found: dict[str, Found] = {}
    notes = []
    for variant in dict.fromkeys(point.variant for point in study.plan.points):
        try:
            found[variant] = _of_variant(study, variant, store)
        except ScoreError as error:
            notes.append(f"{study.label(variant)}: left out, {sentence(error)}")
    return found, [*notes, *(f"{study.label(variant)}: {sentence(f.problem)}" for variant, f in found.items() if f.problem)]


def _of_variant(study: StudyResults, variant: str, store: Store) -> Found:
    """Raises ScoreError where games, runs or test games are missing, or revisions are mixed; UserError for a damaged file."""
    from analysis.scores import ScoreError

    points = trained(study, variant)
    wanted = list(dict.fromkeys(point.game for point in study.plan.points if point.variant == variant))
    of_games = {game: [point for point in points if point.game == game] for game in wanted}
    if absent := [game for game, of in of_games.items() if not of]:
        raise ScoreError(f"it has no finished training of {len(absent)} of its {len(wanted)} games ({', '.join(absent[:5])})")
    revisions = sorted({str(study.results[job].recorded.get("revision")) for job in _jobs(study, [variant])})
    if len(revisions) > 1:
        raise ScoreError(f"its trainings are of several revisions ({', '.join(revisions)})")
    curves = {game: [rounds(point, store) for point in of] for game, of in of_games.items()}
    if empty := sum(not curve for of in curves.values() for curve in of):
        raise ScoreError(f"{empty} of its {len(points)} trainings played no test games on the way (agent.test_every)")
    return pooled({game: [(curve["real_steps"], curve["test_return"]) for curve in of] for game, of in curves.items()})


def _jobs(study: StudyResults, variants: list[str]) -> list[str]:
    """The ids of the finished trainings of these variants."""
    return [point.jobs["agent"].id for variant in variants for point in trained(study, variant)]


def _caption(title: str, found: list[Found], more: "list[str] | tuple[str, ...]") -> str:
    from analysis.aggregates import REPLICATES

    levels = sorted(f.attained for f in found if f.attained == f.attained)
    ends = dict.fromkeys(f"{100 * level:.0f}" for level in (*levels[:1], *levels[-1:]))
    reached = f"; at the last point nominal 95%, attained about {' to '.join(ends)}% by simulation" if ends else ""
    band = f"band: pointwise 95%, stratified bootstrap over runs, {REPLICATES} replicates, seed {SEED}{reached}"
    without = "no band: it needs at least 3 runs a game" if any(f.problem for f in found) else ""
    bands = [band] if not all(f.problem for f in found) else []
    return "; ".join([f"{title}; {_counts(found)}", *bands, *([without] if without else []), *more])


def _drawn(
    lines: Mapping[str, Found], looks: "Mapping[str, Style]", caption: str, mark: str, ylabel: str = "IQM of human-normalised scores"
) -> Drawn:
    from analysis.score_figures import efficiency_figure

    return Drawn(efficiency_figure({label: f.line for label, f in lines.items()}, ylabel, looks), caption, mark)


def _method_looks(shown: PublishedLines, looks: "Mapping[str, Style]") -> "dict[str, Style]":
    return {label: looks[method] for label, method in shown.methods.items()}


def _counts(found: list[Found]) -> str:
    """As "26 games, 5 runs of each"."""
    return f"{range_words([f.games for f in found], 'game', 'games')}, {range_words([f.runs for f in found], 'run', 'runs')} of each"


def _episodes(study: StudyResults, store: Store, variants: list[str]) -> list[str]:
    """How many games a round has."""
    numbers = set()
    for variant in variants:
        try:
            numbers.add(store.spec(trained(study, variant)[0].jobs["agent"]).config.agent.test_episodes)
        except UserError:  # prepared by another version
            return [f"{study.name}: the number of test games in a round is not recorded."]
    played = " or ".join(map(str, sorted(numbers)))
    return [f"{study.name}: a round is {played} test {'game' if numbers == {1} else 'games'}."]
