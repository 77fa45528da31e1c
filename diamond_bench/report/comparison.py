"""Does it matter? Every variant of a study against the baseline that its file names, and what each costs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from diamond_bench.errors import UserError, nearest
from diamond_bench.metrics.columns import METRIC_INFO, columns_of, comparable, measured_with, pools, source_of
from diamond_bench.report.cost_ratios import CostRatios
from diamond_bench.report.facts import StudyFacts
from diamond_bench.report.scores import Scores
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.answerable import baselines, family, repetitions
from diamond_bench.studies.looks import ALPHA
from diamond_bench.studies.margin import COPYABLE, Margin, parse_margin
from diamond_bench.studies.plan import SavedPlan

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "status", "metric", "variant", "baseline", "verdict", "difference", "low", "high", "level", "unit", "runs", "baseline_runs", "paired",
    "scope", "references", "episodes", "effect_size", "effect", "probability_of_improvement", "test", "p_value", "p_holm", "p_equivalent",
    "margin", "nfe_ratio", "flops_ratio", "seconds_ratio", "training_ratio", "missing",
)  # fmt: skip
"""Columns of comparison.csv. `status` is primary or exploratory. `difference` is variant minus baseline in `unit` (of a metric whose best
value is 1: of the distance to 1). `nfe_ratio`, `flops_ratio`, `seconds_ratio` (of imagining one frame) and `training_ratio` (of training
seconds) are the variant's cost over the baseline's, of the games that both have. They are empty where there is none, where seconds were
not measured on one kind of device, and where network calls are those of two families. The other columns are those of
`analysis.comparison.compare`."""

PRIMARY, EXPLORATORY = "primary", "exploratory"
OF_COPYING = "share of copy-last-frame's error"
"""The unit of differences where the margin is relative: every game in units of its own error of copying the last frame."""


@dataclass(frozen=True)
class Comparison:
    """A study's variants against their baselines."""

    table: "pd.DataFrame"
    """COLUMNS, the primary metric first."""
    metric: str
    margin: Margin
    baselines: Mapping[str, str]
    """The variant that each variant which answers the question (all, where the comparison was asked for) is compared to."""
    effects: "pd.DataFrame"
    """The primary metric game by game: `analysis.comparison.effects`."""
    problem: str = ""
    """Why there is no primary comparison, where there is none."""
    alpha: float = ALPHA
    repeated: Mapping[str, str] = field(default_factory=dict)
    """Variants whose primary comparison repeats another one, with the variant of that one (`studies.answerable.repetitions`)."""

    @property
    def primary(self) -> "pd.DataFrame":
        """The rows that answer the study's question."""
        return self.table[self.table["status"] == PRIMARY]

    @property
    def family(self) -> dict[str, str]:
        """`baselines` without repeated comparisons: those that Holm's correction counts."""
        return {name: base for name, base in self.baselines.items() if name not in self.repeated}


def compare_study(
    plan: SavedPlan,
    store: Store,
    facts: StudyFacts,
    metrics: Sequence[str] | None = None,
    baseline: Mapping[str, Any] | None = None,
    margin: float | str | None = None,
    alpha: float = ALPHA,
    exploratory: bool = True,
) -> Comparison:
    """Compares the finished variants of a plan to its baseline.

    The baseline of the study's file fixes some of arm and axes; a variant is compared to the one that has these and equals it in all
    else. The variants that the file names (all, where it names none) are the family that answers the question, and Holm's correction is
    over them. The others are exploratory and a family of their own. Seconds are compared only where they were measured on one kind of
    device, and scores of several games only where they can be pooled. `metrics`, `baseline` and `margin` in place of the file's make every
    row exploratory. `alpha` is the level of the primary comparison at this look. Without `exploratory`, the headline metrics are not
    compared. Raises UserError for a baseline or metric that is not in the plan, a metric that cannot be pooled, or something that is no
    margin.
    """
    import pandas as pd

    stated, table = plan.primary, facts.table
    own = metrics is not None or baseline is not None or margin is not None
    wanted = dict(stated.get("baseline", {}) if baseline is None else baseline)
    pairs = baselines(plan.points, plan.axes, wanted)
    answering = pairs if own else family(plan.points, pairs, stated.get("variants", []))
    primary = str(stated["metric"])
    least = parse_margin(stated.get("margin", 0.0) if margin is None else margin, "margin")
    present = set(table.loc[table["seed"].notna() & table["value"].abs().lt(math.inf), "metric"])
    headlines = [name for name in _headlines(plan, present) if name != primary] if exploratory else []
    chosen = [primary, *headlines] if metrics is None else list(metrics)
    for name in chosen:
        if name not in present and (name != primary or metrics is not None):
            meant = source_of(name) or columns_of(name) or nearest(name, present)
            raise UserError(f"metric {name!r}: not in the results of {plan.study}: {meant}")
        if metrics is not None and least.relative and name not in COPYABLE:
            raise UserError(f"margin={least.plain()}: {name} has no copy-last-frame error to take a share of: {nearest(name, COPYABLE)}")
        if metrics is not None and not _poolable(plan, name):
            raise UserError(f"metric {name!r}: the games of {plan.study} have a scale each, which cannot be pooled; take 'hns'")
    scores, costs = Scores(plan, store, facts), CostRatios(facts)
    parts = []
    for name in chosen:
        if name not in present or comparable(name, table["value"]) is None or not _poolable(plan, name):
            continue
        ours = name == primary and not own
        limit = least if (name == primary or margin is not None) and not (least.relative and name not in COPYABLE) else Margin(0.0)
        rest = {variant: base for variant, base in pairs.items() if variant not in answering} if ours else {}
        for status, of_status in ((PRIMARY if ours else EXPLORATORY, answering if ours else pairs), (EXPLORATORY, rest)):
            if of_status:
                level = alpha if status == PRIMARY else ALPHA
                repeated = repetitions(name, of_status, facts.measured)
                parts.append(_of_metric(plan, scores, name, of_status, limit, level, costs, repeated).assign(status=status))
    kept = [part for part in parts if len(part)]
    merged = pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=list(COLUMNS))
    merged = merged.sort_values("status", key=lambda column: column != PRIMARY, kind="stable", ignore_index=True)
    problem = _problem(plan, table, primary, wanted, pairs, answering) if metrics is None else ""
    by_game = _effects(scores, primary, answering, least) if primary in set(merged["metric"]) else pd.DataFrame()
    repeated = repetitions(primary, answering, facts.measured)
    return Comparison(merged.reindex(columns=list(COLUMNS)), primary, least, answering, by_game, problem, alpha, repeated)


def _effects(scores: Scores, metric: str, pairs: Mapping[str, str], margin: Margin) -> "pd.DataFrame":
    from analysis.comparison import effects

    excluded = scores.excluded(metric, pairs, margin.relative)
    rows, _ = scores.rows(metric, {*pairs, *pairs.values()}, margin.relative)
    return effects(rows, {variant: base for variant, base in pairs.items() if variant not in excluded})


def _headlines(plan: SavedPlan, present: set[str]) -> list[str]:
    """The columns to compare, the primary one apart: of returns, the normalised one where there is one, which says the same."""
    found = [name for name, column in METRIC_INFO.items() if column.compared and name in present and _poolable(plan, name)]
    return [name for name in found if not (name == "test_return" and present & {"hns", "normalised_return"})]


def _poolable(plan: SavedPlan, metric: str) -> bool:
    return pools(metric) or len({point.game for point in plan.points}) == 1


def _problem(
    plan: SavedPlan,
    table: "pd.DataFrame",
    metric: str,
    wanted: Mapping[str, Any],
    pairs: Mapping[str, str],
    answering: Mapping[str, str],
) -> str:
    named = ", ".join(f"{key}={value}" for key, value in wanted.items())
    if len({point.variant for point in plan.points}) == 1:
        return "the study has one variant, so there is nothing to compare"
    if not wanted:
        return "the study names no baseline"
    if not pairs:
        return f"no variant of this plan is the baseline that the study names ({named}), or the plan has no other variant"
    if not answering:
        return "none of the variants that the study's question is about (primary.variants) is in this plan"
    if metric not in METRIC_INFO:
        return f"the study's primary metric {metric} is not measured any more by this version of the evaluation"
    of_variants = table[table["seed"].notna() & table["metric"].eq(metric)]
    if of_variants.empty:
        source = " or ".join(measured_with(metric)) or "it"
        return f"no finished job measured {metric}, the study's primary metric (the sweep's metrics=[...] must contain {source})"
    if comparable(metric, table["value"]) is None:
        return f"the study's primary metric {metric} has no better side"
    if not _poolable(plan, metric):
        return f"the study's primary metric {metric} has another scale in each game, which cannot be pooled (hns can)"
    return ""


def _of_metric(
    plan: SavedPlan,
    scores: Scores,
    metric: str,
    among: Mapping[str, str],
    margin: Margin,
    alpha: float,
    costs: CostRatios,
    repeated: Mapping[str, str],
) -> "pd.DataFrame":
    """One row for each pair (variant: baseline) of `among`, with Holm's correction over all of them but the repeated ones.

    A repeated comparison has the numbers of the one that it repeats. A variant that would be compared to itself has no row.
    """
    import pandas as pd

    from analysis.comparison import compare, equivalent_within

    pairs = {name: base for name, base in among.items() if name not in repeated}
    rows, higher = scores.rows(metric, {*pairs, *pairs.values()}, relative=margin.relative)
    excluded = scores.excluded(metric, pairs, relative=margin.relative)
    too_wide = "" if margin.relative else scores.too_wide(metric, margin.value, {*pairs, *pairs.values()})
    out = compare(
        rows,
        pairs,
        math.nan if too_wide else margin.value,
        higher,
        test=plan.primary.get("test", "permutation"),
        alpha=alpha,
        holm_equivalence=plan.primary.get("holm_equivalence", False),
        excluded=excluded,
    )
    between = zip(out["variant"], out["baseline"], out["missing"], strict=True)
    notes = [
        (
            said,
            scores.differing_revisions(variant, base),
            scores.differing_settings(variant, base),
            scores.one_for_all_seeds(variant, base),
            too_wide,
        )
        for variant, base, said in between
    ]
    out["missing"] = ["; ".join(part for part in parts if part) for parts in notes]
    if margin.relative:
        out["verdict"] = out["verdict"].replace(equivalent_within(margin.value), f"equivalent within {margin.plain()} of copying's error")
    info = METRIC_INFO.get(metric)
    unit = OF_COPYING if margin.relative else info.unit if info else ""
    out = _with_repeated(out, among, repeated)
    cost = pd.DataFrame([costs.of(name, base) for name, base in zip(out["variant"], out["baseline"], strict=True)], index=out.index)
    return pd.concat([out.assign(metric=metric, margin=margin.value, unit=unit, level=alpha), cost], axis=1)


def _with_repeated(rows: "pd.DataFrame", among: Mapping[str, str], repeated: Mapping[str, str]) -> "pd.DataFrame":
    """The rows of a family and, in the order of `among`, those of the comparisons that repeat one of them."""
    by_name = {row["variant"]: row for row in rows.to_dict(orient="records")}
    found = []
    for name, base in among.items():
        row = by_name.get(repeated.get(name, name))
        if row is not None:
            note = [row["missing"], f"the same measurement as {row['variant']}, counted once"] if name in repeated else [row["missing"]]
            found.append({**row, "variant": name, "baseline": base, "missing": "; ".join(part for part in note if part)})
    return rows.iloc[:0] if not found else type(rows)(found, columns=rows.columns)
