"""Sample efficiency: the IQM of human-normalised scores of test games against the real steps that an agent has taken."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diamond_bench.errors import UserError
from diamond_bench.report.drawing import range_words
from diamond_bench.studies.store import Store
from paper_figures.columns import PROTOCOL
from paper_figures.parts import SEED, Inputs, Lack, Made, StudyResults, slug, study_source, watermark
from paper_figures.tables import sentence
from paper_figures.training import rounds, trained

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    from analysis.score_figures import EfficiencyLine

_MOST_POINTS = 100
_PUBLISHED = Lack("curves of published methods: their scores along training are not at hand, only those at its end")
_BASIS = (
    "IQM of HNS over runs and games, of the test games played so far at a number of real steps: a run's score holds until its next "
    "round of test games. They select nothing, and are fewer than those of a final score."
)


@dataclass(frozen=True)
class _Found:
    """One variant's curve, and what it rests on."""

    line: "EfficiencyLine"
    games: int
    runs: int
    jobs: list[str]
    problem: str
    """Why there is no band; empty where there is one."""


def make(inputs: Inputs) -> Made:
    """A figure a study of agents, a line a variant; what cannot be honestly pooled is left out, saying so."""
    import pandas as pd

    from analysis.aggregates import REPLICATES
    from analysis.figures import annotate
    from analysis.score_figures import efficiency_figure
    from analysis.scores import ScoreError

    figures: dict[str, Figure] = {}
    tidy, notes, sources, lacks = list[pd.DataFrame](), list[str](), [], [_PUBLISHED]
    studies = [study for study in inputs.studies if study.plan.protocol == PROTOCOL]
    for study in studies:
        found: dict[str, _Found] = {}
        for variant in dict.fromkeys(point.variant for point in study.plan.points):
            try:
                found[variant] = _of_variant(study, variant, inputs.store)
            except ScoreError as error:
                notes.append(f"{study.label(variant)}: left out, {sentence(error)}")
        if not found:
            lacks.append(Lack(f"{study.name}: no variant has trainings with test games of all its games", study.plan.command))
            continue
        notes += [f"{study.label(variant)}: {sentence(f.problem)}" for variant, f in found.items() if f.problem]
        tidy += [_numbers(study, variant, f) for variant, f in found.items()]
        band = f"band: pointwise 95%, stratified bootstrap over runs, {REPLICATES} replicates, seed {SEED}"
        without = "no band: it needs at least 3 runs a game" if any(f.problem for f in found.values()) else ""
        bands = [band] if not all(f.problem for f in found.values()) else []
        caption = "; ".join([f"{study.name}; {_counts(list(found.values()))}", *bands, *([without] if without else []), *study.notes])
        name = slug(study.plan.study, study.plan.scale, taken=figures)
        figure = efficiency_figure({variant or study.plan.study: f.line for variant, f in found.items()})
        figures[name] = annotate(figure, caption, watermark(study.plan.scale))
        notes += [f"{name}: {caption}.", *_episodes(study, inputs.store, list(found)), *study.remarks]
        sources.append(study_source(study, [job for f in found.values() for job in f.jobs]))
    if not studies:
        lacks.append(inputs.lack("atari_100k", "curves of one's own agents", "sample_efficiency", scale="paper"))
    data = pd.concat(tidy, ignore_index=True) if tidy else None
    footnotes = tuple(dict.fromkeys([_BASIS, *notes])) if tidy else tuple(notes)
    return Made(figures=figures, data=data, footnotes=footnotes, sources=tuple(sources), lacks=tuple(lacks))


def _of_variant(study: StudyResults, variant: str, store: Store) -> _Found:
    """Raises ScoreError where games, runs or test games are missing, or revisions are mixed; UserError for a damaged file."""
    import numpy as np

    from analysis.aggregates import Curve, iqm_curve, sample_efficiency
    from analysis.score_figures import EfficiencyLine
    from analysis.scores import ScoreError, human_random

    points = trained(study, variant)
    wanted = list(dict.fromkeys(point.game for point in study.plan.points if point.variant == variant))
    of_games = {game: [point for point in points if point.game == game] for game in wanted}
    if absent := [game for game, of in of_games.items() if not of]:
        raise ScoreError(f"it has no finished training of {len(absent)} of its {len(wanted)} games ({', '.join(absent[:5])})")
    if len(counts := {len(of) for of in of_games.values()}) > 1:
        raise ScoreError(f"its games have unequal numbers of finished trainings ({min(counts)} to {max(counts)})")
    norm = human_random()
    if unknown := [game for game in wanted if game not in norm.index]:
        raise ScoreError(f"{', '.join(unknown[:5])} has no published human score")
    revisions = sorted({str(study.results[point.jobs["agent"].id].recorded.get("revision")) for point in points})
    if len(revisions) > 1:
        raise ScoreError(f"its trainings are of several revisions ({', '.join(revisions)})")
    curves = [[rounds(point, store) for point in of] for of in of_games.values()]
    if empty := sum(not curve for of in curves for curve in of):
        raise ScoreError(f"{empty} of its {len(points)} trainings played no test games on the way (agent.test_every)")
    steps = _grid([curve["real_steps"] for of in curves for curve in of])
    hns = []
    for game, of in zip(wanted, curves, strict=True):
        low, high = float(norm["random"][game]), float(norm["human"][game])
        held = [curve["test_return"][np.searchsorted(curve["real_steps"], steps, side="right") - 1] for curve in of]
        hns.append((np.stack(held) - low) / (high - low))
    matrix = np.stack(hns, axis=1)
    problem = ""
    try:
        curve = sample_efficiency(matrix, SEED)
    except ScoreError as error:
        problem, nothing = str(error), np.full(len(steps), np.nan)
        curve = Curve(iqm_curve(matrix), nothing, nothing)
    return _Found(EfficiencyLine(steps, curve), len(wanted), len(matrix), [point.jobs["agent"].id for point in points], problem)


def _grid(steps: "list[np.ndarray]") -> "np.ndarray":
    """Numbers of real steps at which every run has a score: from the latest first round to the earliest last one."""
    import numpy as np

    from analysis.scores import ScoreError

    first, last = max(float(of[0]) for of in steps), min(float(of[-1]) for of in steps)
    if first > last:
        raise ScoreError(f"its trainings share no number of real steps (one is first tested at {first:g}, another last at {last:g})")
    every = np.unique(np.concatenate(steps))
    shared = every[(every >= first) & (every <= last)]
    if len(shared) <= _MOST_POINTS:
        return shared
    return shared[np.linspace(0, len(shared) - 1, _MOST_POINTS).round().astype(int)]


def _numbers(study: StudyResults, variant: str, found: _Found) -> "pd.DataFrame":
    import pandas as pd

    curve = found.line.curve
    labels = {"study": study.plan.study, "scale": study.plan.scale, "variant": variant}
    values = {"real_steps": found.line.steps, "iqm": curve.value, "low": curve.low, "high": curve.high}
    return pd.DataFrame({**labels, **values, "games": found.games, "runs": found.runs})


def _counts(found: list[_Found]) -> str:
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
