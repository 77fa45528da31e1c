"""The sanity gate: does a world model predict better than copying the last frame, and does an agent play better than at random?

A verdict between two variants says nothing about either being any good. Where the next frame is determined, the gate compares pixel
error (drift). In games with random dynamics it compares the energy score of sampled futures, a proper score: there pixel error prefers
copying, or a blur, to samples of the true distribution (Gneiting and Raftery 2007).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from diamond_bench.envs.games import is_random
from diamond_bench.metrics.columns import METRIC_INFO
from diamond_bench.report.facts import StudyFacts
from diamond_bench.report.markup import Html, details, el, items, joined
from diamond_bench.report.references import per_reference
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.plan import Point, SavedPlan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

State = Literal["passed", "failed", "undecided", "unknown"]
_NORMALISED = ("hns", "normalised_return")
"""Scores at which random play has 0."""
_TONE = {"passed": "good", "failed": "bad", "undecided": "warn", "unknown": "warn"}


@dataclass(frozen=True)
class Gate:
    """One variant on one game."""

    variant: str
    game: str
    metric: str
    state: State
    """passed and failed: the 95% interval of the difference excludes 0. With fewer than 3 runs: the sign of the mean."""
    words: str
    lead: int = 0
    """The number of first frames over which a variant that did not pass has a smaller mean error than copying."""

    @property
    def against(self) -> str:
        """The trivial predictor or player that the variant is compared to."""
        return "random play" if self.metric in _NORMALISED else "copying the last frame"


def gates(plan: SavedPlan, store: Store, facts: StudyFacts) -> list[Gate]:
    """The gate of every variant and game with a finished evaluation, in the plan's order."""
    cells: dict[tuple[str, str], list[Point]] = {}
    for point in plan.points:
        if point.jobs["evaluation"] in facts.recorded:
            cells.setdefault((point.variant, point.game), []).append(point)
    if plan.protocol == "agent":
        return [gate for (variant, game) in cells if (gate := _of_agents(facts, variant, game)) is not None]
    return [_of_world_models(store, facts, variant, game, points) for (variant, game), points in cells.items()]


def gate_metrics(plan: SavedPlan, facts: StudyFacts) -> list[str]:
    """The metrics by which the gate decides on world models, each once. Empty for agents. Reads nothing from the store."""
    if plan.protocol == "agent":
        return []
    cells = {(point.variant, point.game): point for point in plan.points if point.jobs["evaluation"] in facts.recorded}
    return list(dict.fromkeys(_metric(random) for point in cells.values() if (random := _random(facts, point)) is not None))


def _metric(random: bool) -> str:
    return "energy_score" if random else "drift"


def _imported(point: Point) -> bool:
    return any(ref.kind == "import_dataset" for ref in point.jobs.values())


def _random(facts: StudyFacts, point: Point) -> bool | None:
    """Whether the next frame of a point's game is random. None if nothing determines it."""
    return None if _imported(point) else is_random(point.game, facts.configs.get(point.variant, {}))


def _of_world_models(store: Store, facts: StudyFacts, variant: str, game: str, points: Sequence[Point]) -> Gate:
    import numpy as np

    imported, random = _imported(points[0]), _random(facts, points[0])
    if random is None:
        teller = "" if imported else " (EnvFamily.random of its family, or a setting that could not be read)"
        why = f"nothing says whether the next frame of {game} is random{teller}, and so which error to compare"
        return Gate(variant, game, "drift", "unknown", why)
    metric = _metric(random)
    found = [per_reference(store, point.jobs["evaluation"], metric) for point in points]
    known = [one for one in found if one is not None and one.copied is not None]
    if len(known) < len(points) or len({len(one.values) for one in known}) > 1:
        return Gate(variant, game, metric, "unknown", f"{METRIC_INFO[metric].title} was not measured: sweep again")
    values = np.stack([one.values for one in known])
    copied = np.stack([one.copied for one in known if one.copied is not None])
    state, few = _state(values, copied, known[0].episodes)
    unit = f" {METRIC_INFO[metric].unit}" if METRIC_INFO[metric].unit else ""
    ratio = f"{values.mean() / copied.mean():.3g} times " if copied.mean() > 0 else ""
    words = f"{METRIC_INFO[metric].title} {values.mean():.3g}{unit}, {ratio}that of copying the last frame ({copied.mean():.3g}){few}"
    curves = [one.by_frame for one in known if one.by_frame is not None]
    lead = 0 if state == "passed" or len(curves) < len(known) else _lead(curves)
    return Gate(variant, game, metric, state, words + (f", but smaller over {_first(lead)}" if lead else ""), lead)


def _lead(curves: "Sequence[tuple[Array, Array]]") -> int:
    """The greatest T for which the mean over frames 1 to T, runs and references is smaller than that of copying; 0 if there is none.

    `curves`: for each run the errors of the model and of copying, (references, t) each.
    """
    import numpy as np

    model, copied = (np.mean([curve[which].mean(axis=0) for curve in curves], axis=0) for which in (0, 1))
    smaller = np.flatnonzero(np.cumsum(model) < np.cumsum(copied))
    return int(smaller[-1]) + 1 if len(smaller) else 0


def _of_agents(facts: StudyFacts, variant: str, game: str) -> Gate | None:
    import numpy as np

    table = facts.table
    metric = next((name for name in _NORMALISED if (table["metric"] == name).any()), "")
    mine = (table["metric"] == metric) & (table["variant"] == variant) & (table["game"] == game) & table["seed"].notna()
    scores = table.loc[mine, "value"].to_numpy(dtype=np.float64)[:, None]
    if not len(scores):
        return None
    state, few = _state(-scores, np.zeros_like(scores), None)  # of a score more is better, of an error less
    return Gate(variant, game, metric, state, f"{METRIC_INFO[metric].title} {scores.mean():.3g}, where random play has 0{few}")


def _state(errors: "Array", trivial: "Array", episodes: "NDArray[np.int64] | None") -> tuple[State, str]:
    """Whether errors (runs, references) lie below the trivial ones, and a remark where there are too few runs for an interval."""
    import numpy as np

    from analysis.differences import difference
    from analysis.matching import Game
    from analysis.runs import MIN_RUNS

    if len(errors) < MIN_RUNS:
        words = f", without an interval ({len(errors)} run{'s' if len(errors) > 1 else ''})"
        sign = errors.mean() - trivial.mean()
        return ("passed" if sign < 0 else "failed" if sign > 0 else "undecided"), words
    numbers = None if episodes is None else np.unique(episodes, return_inverse=True)[1]
    low, high = difference([Game("", errors, trivial, numbers)], paired=True).interval()
    return ("passed" if high < 0 else "failed" if low > 0 else "undecided"), ""


def failed_words(found: Sequence[Gate], variants: Sequence[str]) -> str:
    """A clause on those of the variants that fail, with the metric that decided it, for the sentence of a verdict. Empty if none fails."""
    places: dict[tuple[str, str], list[str]] = {}
    failed = [gate for name in variants for gate in found if gate.variant == name and gate.state == "failed"]
    for gate in failed:
        places.setdefault((gate.variant, gate.metric), []).append(_place(gate))
    if not places:
        return ""
    against = failed[0].against
    texts = [f"{name} is worse than {against} by {_by(metric)} in {', '.join(games[:5])}" for (name, metric), games in places.items()]
    return f"sanity gate failed: {' and '.join(texts)}"


def _by(metric: str) -> str:
    return "human-normalised score" if metric == "hns" else metric.replace("_", " ")


def _first(lead: int) -> str:
    return "the first frame" if lead == 1 else f"the first {lead} frames"


def _place(gate: Gate) -> str:
    return f"{gate.game} (but better over {_first(gate.lead)})" if gate.lead else gate.game


def section(found: Sequence[Gate]) -> Html:
    """The gate on a study's page."""
    if not found:
        return Html("")
    counts = {state: sum(gate.state == state for gate in found) for state in _TONE}
    total, against = len(found), found[0].against
    if counts["passed"] == total:
        words, tone, rest = f"Every variant is better than {against}", "good", f" in every game ({total} of {total})."
    else:
        said = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
        subject = "No variant" if counts["failed"] == total else "Not every variant"
        words, tone, rest = f"{subject} is better than {against}: {said}.", "bad" if counts["failed"] else "warn", ""
    lines = [joined([f"{one.game}, {one.variant}: ", el("span", one.state, class_=_TONE[one.state]), f". {one.words}."]) for one in found]
    meaning = f"If variants fail, their comparison is a comparison of poor {'agents' if found[0].metric == 'hns' else 'models'}."
    how = (
        "From three runs on, passed and failed need a 95% interval that excludes equality, over seeds, and over references where there are "
        "enough episodes. With fewer runs the sign of the mean decides."
    )
    every = details(f"All {total}, and how they are decided", el("p", how, class_="soft"), items(lines[:100]))
    return joined([el("p", el("span", words, class_=tone), rest), el("p", meaning, class_="soft"), every])
