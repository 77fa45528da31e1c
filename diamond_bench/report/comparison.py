"""Does it matter? Every variant of a study against the baseline that its file named before it ran, and what each costs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diamond_bench.errors import UserError, nearest
from diamond_bench.report.facts import StudyFacts, device_name
from diamond_bench.studies.answerable import baselines, family
from diamond_bench.studies.margin import Margin, parse_margin
from diamond_bench.studies.metrics import METRIC_INFO, comparable, pools
from diamond_bench.studies.plan import SavedPlan

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "status", "metric", "variant", "baseline", "verdict", "difference", "low", "high", "runs", "baseline_runs", "paired",
    "probability_of_improvement", "pi_low", "pi_high", "p_value", "p_holm", "margin",
    "nfe_ratio", "seconds_ratio", "training_ratio", "missing",
)  # fmt: skip
"""Columns of comparison.csv. `status` is primary or exploratory. `difference` is variant minus baseline in the metric's unit (of a metric
whose best value is 1: of the distance to 1). `nfe_ratio`, `seconds_ratio` (of imagining one frame) and `training_ratio` (of training
seconds) are the variant's cost over the baseline's, of the games that both have; empty where there is none, or they were not measured on
one kind of device."""

PRIMARY, EXPLORATORY = "primary", "exploratory"
_HEADLINES = (
    "hns",
    "test_return",
    "one_step_psnr",
    "drift",
    "psnr",
    "ssim",
    "lpips",
    "lpips_vgg",
    "fid",
    "state_presence_error",
    "mode_cramer_distance",
    "mode_energy_distance",
    "mode_off_axis",
    "mode_commitment",
    "sharpness_ratio",
)
"""Metrics compared in a report, the primary one apart; `api.compare` takes any."""
_SEED = 0


@dataclass(frozen=True)
class Comparison:
    """What a study's variants were compared to."""

    table: "pd.DataFrame"
    """COLUMNS, the primary metric first."""
    metric: str
    margin: float
    baselines: Mapping[str, str]
    """Of each variant that answers the question (all, where the comparison was asked for), the variant it is compared to."""
    problem: str = ""
    """Why there is no primary comparison, where there is none."""

    @property
    def primary(self) -> "pd.DataFrame":
        """The rows that answer the study's question."""
        return self.table[self.table["status"] == PRIMARY]


def compare_study(
    plan: SavedPlan,
    facts: StudyFacts,
    metrics: Sequence[str] | None = None,
    baseline: Mapping[str, Any] | None = None,
    margin: float | None = None,
) -> Comparison:
    """Compares the finished variants of a plan to its baseline.

    The baseline of the study's file fixes some of arm and axes; a variant is compared to the one that has these and equals it in all
    else. The variants that the file names (all, where it names none) are the family that answers the question, and Holm's correction is
    over them; the others are exploratory, a family of their own. Seconds are compared only where they were measured on one kind of device;
    scores of several games only where they can be pooled. A variant whose jobs are of mixed revisions is not compared, and says so.
    `metrics`, `baseline` and `margin` in place of the file's make every row exploratory. Raises UserError for a baseline or metric that is
    not in the plan, a metric that cannot be pooled, or a margin that is no number from 0.
    """
    import pandas as pd

    stated, table = plan.primary, facts.table
    own = metrics is not None or baseline is not None or margin is not None
    wanted = dict(stated.get("baseline", {}) if baseline is None else baseline)
    pairs = baselines(plan.points, plan.axes, wanted)
    answering = pairs if own else family(plan.points, pairs, stated.get("variants", []))
    taken = parse_margin(stated.get("margin", 0.0), "margin") if margin is None else Margin(_checked(margin))
    primary, least = str(stated["metric"]), 0.0 if taken.relative else taken.value
    present = set(table.loc[table["seed"].notna() & table["value"].abs().lt(math.inf), "metric"])
    chosen = [primary, *(name for name in _headlines(plan, present) if name != primary)] if metrics is None else list(metrics)
    for name in chosen:
        if name not in present and (name != primary or metrics is not None):
            raise UserError(f"metric {name!r}: not in the results of {plan.study}: {nearest(name, present)}")
        if metrics is not None and not _poolable(plan, name):
            raise UserError(f"metric {name!r}: the games of {plan.study} have a scale each, which cannot be pooled; take 'hns'")
    costs = _Costs(facts)
    parts = []
    for name in chosen:
        if name not in present or comparable(name, table["value"]) is None or not _poolable(plan, name):
            continue
        ours, limit = name == primary and not own, least if name == primary or margin is not None else 0.0
        rest = {variant: base for variant, base in pairs.items() if variant not in answering} if ours else {}
        for status, of_status in ((PRIMARY if ours else EXPLORATORY, answering if ours else pairs), (EXPLORATORY, rest)):
            if of_status:
                parts.append(_of_metric(plan, facts, name, of_status, limit, costs).assign(status=status))
    kept = [part for part in parts if len(part)]
    merged = pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=list(COLUMNS))
    merged = merged.sort_values("status", key=lambda column: column != PRIMARY, kind="stable", ignore_index=True)
    problem = _problem(plan, table, primary, wanted, pairs, answering) if metrics is None else ""
    return Comparison(merged.reindex(columns=list(COLUMNS)), primary, least, answering, problem)


def _checked(margin: float) -> float:
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 <= margin < math.inf:
        raise UserError(f"margin={margin!r}: expected a number, at least 0, in the metric's unit")
    return float(margin)


def _headlines(plan: SavedPlan, present: set[str]) -> list[str]:
    """Those that are there; of returns, the human-normalised one where there is one: of one game it says the same."""
    return [name for name in _HEADLINES if name in present and _poolable(plan, name) and not (name == "test_return" and "hns" in present)]


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
        return f"no variant of this plan is the baseline that the study names ({named}), or none is beside it"
    if not answering:
        return "none of the variants that the study's question is about (primary.variants) is in this plan"
    of_variants = table[table["seed"].notna() & table["metric"].eq(metric)]
    if of_variants.empty:
        return f"its primary metric {metric} was not measured by any finished job (is it in metrics=?)"
    if comparable(metric, table["value"]) is None:
        return f"its primary metric {metric} has no better side"
    if not _poolable(plan, metric):
        return f"its primary metric {metric} has another scale in each game, which cannot be pooled (hns can)"
    return ""


def _of_metric(plan: SavedPlan, facts: StudyFacts, metric: str, pairs: Mapping[str, str], margin: float, costs: "_Costs") -> "pd.DataFrame":
    """One row a pair (variant: baseline), Holm's correction over all of them."""
    import pandas as pd

    from analysis.comparison import compare

    table = facts.table
    shown = table[(table["metric"] == metric) & table["seed"].notna() & table["variant"].isin({*pairs, *pairs.values()})]
    shown = shown.drop_duplicates(["variant", "game", "seed"])
    revisions = _revisions(plan, facts)
    mixed = {name: words for name in {*pairs, *pairs.values()} if (words := _mixture(name, revisions.get(name, {})))}
    shown = shown[~shown["variant"].isin(mixed)]
    taken = comparable(metric, shown["value"])
    assert taken is not None
    values, higher = taken
    checkpoints = _checkpoints(plan, facts)
    keys = zip(shown["variant"], shown["game"], shown["seed"], strict=True)
    rows = shown[["variant", "game", "seed"]].assign(value=values, pair=[checkpoints.get((v, g, int(s)), "") for v, g, s in keys])
    out = compare(rows, pairs, margin, higher, _SEED)
    between = zip(out["variant"], out["baseline"], out["missing"], strict=True)
    out["missing"] = [_not_one(v, b, said, mixed, revisions) for v, b, said in between]
    cost = pd.DataFrame([costs.ratios(name, base) for name, base in pairs.items()], index=out.index)
    return pd.concat([out.assign(metric=metric, margin=margin), cost], axis=1)


_Revisions = Mapping[str, set[str]]
"""By kind of job, the revisions of its code."""


def _revisions(plan: SavedPlan, facts: StudyFacts) -> Mapping[str, _Revisions]:
    found: dict[str, dict[str, set[str]]] = {}
    for point in plan.points:
        if point.jobs["evaluation"] in facts.recorded:
            for ref in point.jobs.values():
                revision = facts.recorded.get(ref, {}).get("revision")
                if revision is not None:
                    found.setdefault(point.variant, {}).setdefault(ref.kind, set()).add(str(revision))
    return found


def _mixture(variant: str, revisions: _Revisions) -> str:
    several = [f"{kind} {' and '.join(sorted(found))}" for kind, found in revisions.items() if len(found) > 1]
    return f"{variant} mixes revisions ({', '.join(several)}), so it is not compared: sweep again" if several else ""


def _not_one(variant: str, base: str, said: str, mixed: Mapping[str, str], revisions: Mapping[str, _Revisions]) -> str:
    """What is missing, and revisions of the code that stand in the way of a comparison or differ between its sides."""
    stopped = [mixed[name] for name in (variant, base) if name in mixed]
    if stopped:
        return "; ".join([*stopped, *(part for part in said.split("; ") if part and not part.endswith("has no results"))])
    one, other = revisions.get(variant, {}), revisions.get(base, {})
    differing = [f"{kind} {min(one[kind])} against {min(other[kind])}" for kind in one if kind in other and one[kind] != other[kind]]
    return "; ".join(part for part in (said, f"revisions differ: {', '.join(differing)}" if differing else "") if part)


def _checkpoints(plan: SavedPlan, facts: StudyFacts) -> dict[tuple[str, str, int], str]:
    """By variant, game and seed: the checkpoint that was evaluated, where that is known; evaluations of one are paired."""
    found = {}
    for point in plan.points:
        trainings = [ref.id for ref in point.jobs.values() if ref.kind.startswith("train_")]
        settings = facts.configs.get(point.variant)
        if trainings and settings:
            found[point.variant, point.game, point.seed] = " ".join([*trainings, str(settings.get("evaluation.milestone"))])
    return found


class _Costs:
    """What a variant costs against another: means over its finished runs of the games that both have, each game as much as another."""

    def __init__(self, facts: StudyFacts) -> None:
        runs = facts.table[facts.table["seed"].notna()]
        devices = {ref.id: device_name(recorded) for ref, recorded in facts.recorded.items()}
        wanted = runs[runs["metric"].isin(["nfe_per_frame", "frames_per_second", "training_seconds"])]
        self._by_game: dict[tuple[str, str], dict[str, float]] = {}
        means: dict[Any, float] = wanted.groupby(["variant", "metric", "game"])["value"].mean().to_dict()
        for (variant, metric, game), mean in means.items():
            self._by_game.setdefault((variant, metric), {})[game] = mean
        for variant, calls in facts.nfe.items():  # of agents, whose evaluation imagines nothing
            self._by_game[variant, "nfe_per_frame"] = dict.fromkeys(runs.loc[runs["variant"] == variant, "game"].unique(), calls)
        self._devices: dict[tuple[str, str, str], set[str]] = {}
        for variant, metric, game, job in zip(wanted["variant"], wanted["metric"], wanted["game"], wanted["job"], strict=True):
            self._devices.setdefault((variant, metric, game), set()).add(devices.get(job, ""))

    def ratios(self, variant: str, base: str) -> dict[str, float]:
        frames = self._ratio("frames_per_second", variant, base, measured=True)
        return {
            "nfe_ratio": self._ratio("nfe_per_frame", variant, base, measured=False),
            "seconds_ratio": 1 / frames if frames else float("nan"),
            "training_ratio": self._ratio("training_seconds", variant, base, measured=True),
        }

    def _ratio(self, metric: str, variant: str, base: str, measured: bool) -> float:
        one, other = self._by_game.get((variant, metric), {}), self._by_game.get((base, metric), {})
        games = [game for game in one if game in other]
        devices = {name for side in (variant, base) for game in games for name in self._devices.get((side, metric, game), ())}
        least = sum(other[game] for game in games)
        if not games or not least or (measured and len(devices) != 1):
            return float("nan")
        return sum(one[game] for game in games) / least


def answer(row: Mapping[Any, Any]) -> str:
    """A row of the comparison as one sentence."""
    return f"{row['variant']} against {row['baseline']}: {row['verdict']}{reasons(row)}"


def reasons(row: Mapping[Any, Any]) -> str:
    """What a verdict rests on, in brackets: difference, interval, runs, p, cost; empty where there is nothing to say."""
    metric = METRIC_INFO.get(row["metric"])
    unit = f" {metric.unit}" if metric and metric.unit else ""
    what = metric.title if metric else row["metric"]
    what = f"distance of {what} to 1" if metric and metric.better == "near 1" else what
    parts = []
    if _known(row["difference"]):
        interval = f", 95% interval {_signed(row['low'])} to {_signed(row['high'])}" if _known(row["low"]) else ""
        parts.append(f"{what} {_signed(row['difference'])}{unit}{interval}")
        runs = f"{row['runs']:g} {'run' if row['runs'] == 1 else 'runs'} against {row['baseline_runs']:g}"
        parts.append(f"{runs}{' on the same checkpoints' if _known(row['paired']) and row['paired'] else ''}")
    if _known(row["p_holm"]):
        parts.append(f"p = {row['p_holm']:.2g} (Holm)")
    if _known(row["nfe_ratio"]):
        parts.append(f"{row['nfe_ratio']:.3g} × the denoiser calls")
    if isinstance(row["missing"], str) and row["missing"]:
        parts.append(row["missing"])
    return f" ({'; '.join(parts)})" if parts else ""


def _known(value: Any) -> bool:
    return value is not None and value == value


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−")
