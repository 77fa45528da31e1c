"""How many seeds do I need? The smallest difference that the primary comparison would detect, against seeds, references and device hours.

It rests on the variance between finished runs, never on the difference that they show (`analysis.power`).
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from diamond_bench.errors import UserError
from diamond_bench.metrics.columns import METRIC_INFO
from diamond_bench.report.comparison import OF_COPYING, Comparison, compare_study
from diamond_bench.report.drawing import Drawn, StudyFigure, annotated, slug
from diamond_bench.report.facts import StudyFacts, device_name, gather
from diamond_bench.report.looks import variant_looks
from diamond_bench.report.registered import level
from diamond_bench.report.scores import Scores
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.studies.plan import PER_GAME, SavedPlan, command_of
from diamond_bench.studies.registration import registration_status

if TYPE_CHECKING:
    import pandas as pd

    from analysis.power import Planner

SEEDS = (3, 5, 10, 20, 40)
"""Numbers of seeds that are always shown; the study's own number is added."""
TIMES = (1, 2, 4)
"""Multiples of the study's episodes of references, where references count as random."""
COLUMNS = (
    "metric", "variant", "baseline", "seeds", "own", "episodes", "detectable", "unit", "equivalence_power", "device_hours", "problem",
)  # fmt: skip
"""Columns of power.csv: a row per comparison, number of seeds and number of episodes. `detectable` is the minimum detectable effect in
`unit`. It is empty where no test can detect any difference. A comparison that cannot be planned has one row with its `problem`."""
_MAX_LINES = 6


@dataclass(frozen=True)
class Cost:
    """Device hours of one more seed: of all variants and games of the study."""

    training: float
    evaluation: float
    devices: tuple[str, ...]
    """The devices on which the finished jobs ran."""

    def hours(self, seeds: int, times: int = 1) -> float:
        """Hours of so many seeds, where the evaluations take `times` as many references each."""
        return seeds * (self.training + times * self.evaluation)


@dataclass(frozen=True)
class Planned:
    """One comparison."""

    variant: str
    baseline: str
    planner: "Planner | None"
    problem: str
    """Why nothing can be planned, where nothing can."""
    note: str = ""
    """What is missing, where one side lacks games: only the games that both have count."""


@dataclass(frozen=True)
class Power:
    """What further seeds would bring the study's primary comparison."""

    metric: str
    unit: str
    margin: float
    """The smallest difference that matters, in `unit`; 0 where there is none or it is refused."""
    alpha: float
    family: int
    """Comparisons that Holm's correction counts. The level of each is alpha / family, Holm's strictest step."""
    test: str
    comparisons: tuple[Planned, ...]
    cost: Cost | None
    """None where the finished jobs recorded no time."""
    problem: str = ""
    """Why there is no comparison, where there is none."""

    @property
    def known(self) -> "list[tuple[Planned, Planner]]":
        """The comparisons that can be planned."""
        return [(one, one.planner) for one in self.comparisons if one.planner is not None]

    @property
    def problems(self) -> list[str]:
        """Sentences on comparisons that cannot be planned, or only in part."""
        if self.problem:
            return [f"Nothing can be planned: {self.problem}."]
        by_reason: dict[str, list[str]] = {}
        for one in self.comparisons:
            if one.problem:
                by_reason.setdefault(one.problem, []).append(f"{one.variant} against {one.baseline}")
        notes = [(f"{one.variant} against {one.baseline}", one.note) for one in self.comparisons if one.note]
        found = [f"Only the games that both sides have count for {name}: {note}." for name, note in notes]
        for reason, names in by_reason.items():
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            found.append(f"Nothing can be planned for {', '.join(names[:5])}{more}: {reason}.")
        return found

    @property
    def seeds(self) -> list[int]:
        """Numbers of seeds shown."""
        return sorted({*SEEDS, *(planner.runs for _, planner in self.known)})

    def amount(self, difference: float) -> str:
        """A difference with its unit."""
        if not math.isfinite(difference):
            return "none"
        if self.unit == OF_COPYING:
            return f"{100 * difference:.3g}% of copying's error"
        return f"{difference:.3g}{f' {self.unit}' if self.unit else ''}"


def finished_power(plan: SavedPlan, store: Store) -> Power:
    """Plans further seeds from whatever has finished of a plan. Raises UserError where no evaluation is finished."""
    facts = gather(plan, store)
    if not any(point.jobs["evaluation"] in facts.done for point in plan.points):
        raise UserError(
            f"{plan.study} at scale {plan.scale} has no finished evaluation yet, and power is planned from finished runs; run it with: "
            f"{command_of(plan)}"
        )
    alpha = level(registration_status(plan, facts.done))
    return study_power(plan, store, facts, compare_study(plan, store, facts, alpha=alpha))


def study_power(plan: SavedPlan, store: Store, facts: StudyFacts, comparison: Comparison) -> Power:
    """Plans further seeds from the finished runs of the study's primary comparison."""
    from analysis.matching import match_all

    metric, margin, pairs = comparison.metric, comparison.margin, comparison.family
    info = METRIC_INFO.get(metric)
    unit = OF_COPYING if margin.relative else info.unit if info else ""
    test = str(plan.primary.get("test", "permutation"))
    count, cost = max(1, len(pairs)), seed_cost(plan, facts)
    of_all = Power(metric, unit, margin.value, comparison.alpha, count, test, comparisons=(), cost=cost)
    if problem := comparison.problem or ("" if len(comparison.primary) else "no variant can be compared yet"):
        return replace(of_all, problem=problem)
    scores, variants = Scores(plan, store, facts), {*pairs, *pairs.values()}
    rows, _ = scores.rows(metric, variants, margin.relative)
    excluded = scores.excluded(metric, pairs, margin.relative)
    too_wide = not margin.relative and scores.too_wide(metric, margin.value, variants)
    each = comparison.alpha / (len(pairs) if plan.primary.get("holm_equivalence", False) else 1)
    planned = []
    for name, data in match_all(rows, pairs, excluded).items():
        planned.append(_planned(name, pairs[name], data, comparison.alpha / len(pairs), each, test))
    return replace(of_all, margin=0.0 if too_wide else margin.value, comparisons=tuple(planned))


def _planned(variant: str, baseline: str, data: Any, corrected: float, each: float, test: str) -> Planned:
    from analysis.power import planner
    from analysis.runs import MIN_RUNS

    runs = [len(side) for game in data.games for side in (game.variant, game.baseline)]
    if not runs:
        return Planned(variant, baseline, None, "; ".join(data.missing) or "there are no runs in common")
    if min(runs) < MIN_RUNS:
        some = f"{min(runs)} finished {'run' if min(runs) == 1 else 'runs'} on a side of a game"
        return Planned(
            variant, baseline, None, f"there {'is' if min(runs) == 1 else 'are'} {some}, and a variance needs at least {MIN_RUNS}"
        )
    found = planner(data.games, data.paired, corrected, each, test == "permutation")
    if not any(sum(one.between_runs) + one.between_episodes > 0 for one in found.estimated):
        return Planned(variant, baseline, None, "its runs do not differ at all, so they show no variance")
    return Planned(variant, baseline, found, "", "" if data.complete else "; ".join(data.missing))


def seed_cost(plan: SavedPlan, facts: StudyFacts) -> Cost | None:
    """What one more seed costs, from the recorded times of finished jobs; None where none recorded a time.

    Jobs that variants share count once. Jobs of a game that all seeds share (datasets, state probes) count nothing. Times are means over
    the finished seeds; a job that no seed has finished counts as the mean of its kind.
    """
    users: dict[JobRef, tuple[str, int, set[str]]] = {}
    for point in plan.points:
        for role, ref in point.jobs.items():
            if role not in PER_GAME and ref in facts.states:
                users.setdefault(ref, (point.game, point.seed, set()))[2].add(point.variant)
    seconds = {ref: float(record["seconds"]) for ref, record in facts.recorded.items() if ref in users and record.get("seconds")}
    if not seconds:
        return None
    cells: dict[tuple[str, str, frozenset[str]], list[JobRef]] = {}
    for ref, (game, _, variants) in users.items():
        cells.setdefault((ref.kind, game, frozenset(variants)), []).append(ref)
    seeds = len({point.seed for point in plan.points})
    total: Counter[bool] = Counter()
    for (kind, _, _), refs in cells.items():
        known = [seconds[ref] for ref in refs if ref in seconds] or [value for ref, value in seconds.items() if ref.kind == kind]
        if known:
            total[kind.startswith("evaluate_")] += sum(known) / len(known) * len(refs) / seeds  # type: ignore[assignment]
    devices = dict.fromkeys(device_name(facts.recorded[ref]) for ref in seconds)
    return Cost(total[False] / 3600, total[True] / 3600, tuple(devices))


def power_rows(power: Power) -> list[dict[str, Any]]:
    """One row of COLUMNS per comparison, number of seeds and number of episodes."""
    rows = []
    for one in power.comparisons:
        common = {"metric": power.metric, "variant": one.variant, "baseline": one.baseline, "unit": power.unit, "problem": one.problem}
        if one.planner is None:
            rows.append({**dict.fromkeys(COLUMNS), **common})
            continue
        for times in TIMES if one.planner.episodes else (1,):
            for seeds in power.seeds:
                effect = one.planner.detectable(seeds, times)
                numbers = {
                    "seeds": seeds,
                    "own": seeds == one.planner.runs,
                    "episodes": one.planner.episodes * times or None,
                    "detectable": effect if math.isfinite(effect) else None,
                    "equivalence_power": one.planner.equivalence_power(power.margin, seeds, times) if power.margin > 0 else None,
                    "device_hours": power.cost.hours(seeds, times) if power.cost else None,
                }
                rows.append({**dict.fromkeys(COLUMNS), **common, **numbers})
    return rows


def power_frame(power: Power) -> "pd.DataFrame":
    """power.csv."""
    import pandas as pd

    frame = pd.DataFrame(power_rows(power), columns=list(COLUMNS))
    return frame.astype({"seeds": "Int64", "episodes": "Int64"})


def plain(power: Power) -> list[dict[str, Any]]:
    """The comparisons for programs: variance components, minimum detectable effects, numbers of seeds needed."""
    rows, found = power_rows(power), []
    for one in power.comparisons:
        own = [row for row in rows if (row["variant"], row["baseline"]) == (one.variant, one.baseline) and row["seeds"]]
        said: dict[str, Any] = {
            "metric": power.metric,
            "unit": power.unit,
            "variant": one.variant,
            "baseline": one.baseline,
            "margin": power.margin,
            "alpha": power.alpha,
            "family": power.family,
            "test": power.test,
            "problem": one.problem or None,
            "hours_per_seed": power.cost.hours(1) if power.cost else None,
            "detectable": [
                {key: row[key] for key in ("seeds", "episodes", "detectable", "equivalence_power", "device_hours")} for row in own
            ],
        }
        if one.planner is not None:
            said |= {"paired": one.planner.paired, "runs": one.planner.runs, "episodes": one.planner.episodes or None}
            said |= {"smallest_seeds": one.planner.smallest_seeds(), "components": components(one.planner), **needed(power, one.planner)}
        found.append(said)
    return found


def needed(power: Power, planner: "Planner") -> dict[str, int | None]:
    """The fewest seeds that detect a difference of the margin, and that show equivalence; None without a margin or above MAX_SEEDS."""
    if power.margin <= 0:
        return {"seeds_to_detect_margin": None, "seeds_for_equivalence": None}
    return {
        "seeds_to_detect_margin": planner.seeds_to_detect(power.margin),
        "seeds_for_equivalence": planner.seeds_for_equivalence(power.margin),
    }


def components(planner: "Planner") -> list[dict[str, Any]]:
    """The variance components of each game as standard deviations of one draw, estimated and at their upper limits."""
    found = []
    for estimated, upper in zip(planner.estimated, planner.upper, strict=True):
        row: dict[str, Any] = {"game": estimated.game, "runs": min(estimated.runs), "episodes": estimated.episodes or None}
        for name, value, limit in (
            ("seeds", sum(estimated.seeds), sum(upper.seeds)),
            ("references", estimated.references, upper.references),
            ("interaction", sum(estimated.interaction), sum(upper.interaction)),
        ):
            random = name == "seeds" or estimated.episodes > 0
            row |= {f"sd_{name}": math.sqrt(value) if random else None, f"sd_{name}_upper": math.sqrt(limit) if random else None}
        found.append(row)
    return found


def power_figures(plan: SavedPlan, power: Power) -> Iterator[StudyFigure]:
    """The figure of detectable differences against seeds, where anything can be planned."""
    if power.known:
        title = "Smallest difference that the primary comparison detects with 80% power"
        yield StudyFigure(f"power-{slug(power.metric)}", "power", title, "", lambda: _draw(plan, power))


def worst(power: Power) -> "tuple[Planned, Planner]":
    """The comparison whose detectable difference is largest with the most seeds shown."""
    return max(power.known, key=lambda found: found[1].detectable(power.seeds[-1]))


def _draw(plan: SavedPlan, power: Power) -> Drawn:
    from analysis.power_figures import power_figure

    most = power.seeds[-1]
    ranked = sorted(power.known, key=lambda found: found[1].detectable(most), reverse=True)[:_MAX_LINES]
    shown = [found for found in power.known if found in ranked]
    effects = {f"{one.variant} against {one.baseline}": _effects(power, planner) for one, planner in shown}
    all_looks = variant_looks(plan)
    looks = {f"{one.variant} against {one.baseline}": all_looks[one.variant] for one, _ in shown}
    first, planner = worst(power)
    times = TIMES[1:] if planner.episodes else ()
    label = f"{first.variant}, " if len(effects) > 1 else ""
    more: Mapping[str, Mapping[int, float]] = {
        f"{label}{planner.episodes * k} episodes instead of {planner.episodes}": _effects(power, planner, k) for k in times
    }
    info = METRIC_INFO.get(power.metric)
    relative = power.unit == OF_COPYING
    ylabel = f"detectable difference of {info.title if info else power.metric} ({'% of copying' if relative else power.unit or 'no unit'})"
    figure = power_figure(
        effects, more, ylabel=ylabel, own=min(planner.runs for _, planner in power.known), margin=power.margin,
        looks=looks, scale=100.0 if relative else 1.0, hours_per_seed=power.cost.hours(1) if power.cost else None,
    )  # fmt: skip
    left = f"the {len(shown)} comparisons of {len(power.known)} with the largest" if len(shown) < len(power.known) else ""
    return annotated(figure, plan, f"80% power, {level_words(power)}", "each variance at its upper 80% limit", left, f"scale {plan.scale}")


def _effects(power: Power, planner: "Planner", times: int = 1) -> dict[int, float]:
    return {seeds: planner.detectable(seeds, times) for seeds in power.seeds}


def level_words(power: Power) -> str:
    """The level of the test."""
    each = f" / {power.family} = {power.alpha / power.family:.2g} (Holm's strictest step)" if power.family > 1 else ""
    return f"two-sided level {power.alpha:.3g}{each}"
