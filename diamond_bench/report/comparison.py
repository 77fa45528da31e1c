"""Does it matter? Every variant of a study against the baseline that its file named before it ran, and what each costs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diamond_bench.errors import UserError, nearest
from diamond_bench.report.facts import StudyFacts, device_name
from diamond_bench.studies.metrics import METRIC_INFO, comparable
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
seconds) are the variant's cost over the baseline's; empty where they were not measured on one kind of device."""

PRIMARY, EXPLORATORY = "primary", "exploratory"
_HEADLINES = ("test_return", "one_step_psnr", "drift", "psnr", "ssim", "lpips", "lpips_vgg", "fid", "sharpness_ratio")
"""Metrics compared in a report, the primary one apart; `api.compare` takes any."""
_SEED = 0
_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Comparison:
    """What a study's variants were compared to."""

    table: "pd.DataFrame"
    """COLUMNS, the primary metric first."""
    metric: str
    margin: float
    baselines: Mapping[str, str]
    """Of each compared variant, the variant it is compared to."""
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
    else. Seconds are compared only where they were measured on one kind of device. `metrics`, `baseline` and `margin` in place of
    the file's make every row exploratory. Raises UserError for a baseline or metric that is not in the plan.
    """
    import pandas as pd

    stated, table = plan.primary, facts.table
    own = metrics is not None or baseline is not None or margin is not None
    wanted = dict(stated.get("baseline", {}) if baseline is None else baseline)
    pairs = _baselines(plan, wanted)
    primary, least = str(stated["metric"]), float(stated.get("margin", 0.0)) if margin is None else margin
    present = set(table.loc[table["seed"].notna() & table["value"].abs().lt(math.inf), "metric"])
    chosen = list(metrics) if metrics is not None else [primary, *(name for name in _HEADLINES if name in present and name != primary)]
    for name in chosen:
        if name != primary and name not in present:
            raise UserError(f"metric {name!r}: not in the results of {plan.study}: {nearest(name, present)}")
    costs = _Costs(facts)
    parts = [
        _of_metric(plan, facts, name, pairs, least if name == primary or margin is not None else 0.0, costs).assign(
            status=PRIMARY if name == primary and not own else EXPLORATORY
        )
        for name in chosen
        if pairs and name in present and comparable(name, table["value"]) is not None
    ]
    kept = [part for part in parts if len(part)]
    merged = pd.concat(kept, ignore_index=True) if kept else pd.DataFrame(columns=list(COLUMNS))
    problem = _problem(plan, table, primary, wanted, pairs) if metrics is None else ""
    return Comparison(merged.reindex(columns=list(COLUMNS)), primary, least, pairs, problem)


def _problem(plan: SavedPlan, table: "pd.DataFrame", metric: str, wanted: Mapping[str, Any], pairs: Mapping[str, str]) -> str:
    named = ", ".join(f"{key}={value}" for key, value in wanted.items())
    if not wanted:
        return "the study names no baseline"
    if not pairs:
        return f"no variant of this plan is the baseline that the study names ({named}), or none is beside it"
    of_variants = table[table["seed"].notna() & table["metric"].eq(metric)]
    if of_variants.empty:
        return f"its primary metric {metric} was not measured by any finished job (is it in metrics=?)"
    if comparable(metric, table["value"]) is None:
        return f"its primary metric {metric} has no better side"
    return ""


def _baselines(plan: SavedPlan, wanted: Mapping[str, Any]) -> dict[str, str]:
    """Of each variant that has one, the variant with the baseline's arm and axes that equals it in all it leaves open."""
    cells: dict[str, dict[str, Any]] = {p.variant: {"arm": p.arm, **p.axes} for p in plan.points}
    for key in wanted:
        if key not in ("arm", *plan.axes):
            raise UserError(f"baseline {key}={wanted[key]}: the study has no such axis: {nearest(key, ('arm', *plan.axes))}")
    keys = ["arm", *plan.axes]
    home = {_cell(at, keys): name for name, at in cells.items()}
    found = {name: home.get(_cell({**at, **wanted}, keys)) for name, at in cells.items()} if wanted else {}
    return {name: base for name, base in found.items() if base is not None and base != name}


def _cell(at: Mapping[str, Any], keys: Iterable[str]) -> tuple[str, ...]:
    return tuple(str(float(at[key]) if isinstance(at[key], int) and not isinstance(at[key], bool) else at[key]) for key in keys)


def _of_metric(plan: SavedPlan, facts: StudyFacts, metric: str, pairs: Mapping[str, str], margin: float, costs: "_Costs") -> "pd.DataFrame":
    """One row a compared variant, Holm's correction over all of them."""
    import pandas as pd

    from analysis.comparison import compare

    table = facts.table
    shown = table[(table["metric"] == metric) & table["seed"].notna()].drop_duplicates(["variant", "game", "seed"])
    taken = comparable(metric, shown["value"])
    assert taken is not None
    values, higher = taken
    checkpoints = _checkpoints(plan, facts)
    keys = zip(shown["variant"], shown["game"], shown["seed"], strict=True)
    rows = shown[["variant", "game", "seed"]].assign(value=values, pair=[checkpoints.get((v, g, int(s)), "") for v, g, s in keys])
    found = []
    for base in dict.fromkeys(pairs.values()):
        variants = [name for name, against in pairs.items() if against == base]
        of_base = rows[rows["variant"].isin([base, *variants])]
        found.append(compare(of_base, base, margin, higher, _SEED, variants=[*variants, base]).assign(baseline=base))
    out = _one_family(found) if found else pd.DataFrame(columns=list(COLUMNS))
    cost = pd.DataFrame([costs.ratios(name, base) for name, base in zip(out["variant"], out["baseline"], strict=True)], index=out.index)
    return pd.concat([out.assign(metric=metric, margin=margin), cost], axis=1)


def _checkpoints(plan: SavedPlan, facts: StudyFacts) -> dict[tuple[str, str, int], str]:
    """By variant, game and seed: the checkpoint that was evaluated, where that is known; evaluations of one are paired."""
    found = {}
    for point in plan.points:
        trainings = [ref.id for ref in point.jobs.values() if ref.kind.startswith("train_")]
        settings = facts.configs.get(point.variant)
        if trainings and settings:
            found[point.variant, point.game, point.seed] = " ".join([*trainings, str(settings.get("evaluation.milestone"))])
    return found


def _one_family(families: Sequence["pd.DataFrame"]) -> "pd.DataFrame":
    """The rows of all baselines, with Holm's correction over all variants: each family was corrected by itself."""
    import pandas as pd

    from analysis.comparison import BETTER, UNDECIDED, WORSE

    rows = pd.concat(families, ignore_index=True)
    if len(families) == 1:
        return rows
    worst, corrected, verdicts = 0.0, dict(rows["p_holm"]), dict(rows["verdict"])
    tested = rows[rows["p_value"].notna()].sort_values("p_value", kind="stable")
    for place, (index, row) in enumerate(tested.iterrows()):
        corrected[index] = worst = max(worst, min(1.0, row["p_value"] * (len(rows) - place)))
        if row["verdict"] in (BETTER, WORSE) and worst >= _SIGNIFICANT:
            verdicts[index] = UNDECIDED
    return rows.assign(p_holm=list(corrected.values()), verdict=list(verdicts.values()))


class _Costs:
    """What a variant costs against another: means over its finished runs."""

    def __init__(self, facts: StudyFacts) -> None:
        runs = facts.table[facts.table["seed"].notna()]
        devices = {ref.id: device_name(recorded) for ref, recorded in facts.recorded.items()}
        wanted = runs[runs["metric"].isin(["nfe_per_frame", "frames_per_second", "training_seconds"])]
        self._mean = wanted.groupby(["variant", "metric"])["value"].mean().to_dict()
        self._devices: dict[tuple[str, str], set[str]] = {}
        for variant, metric, job in zip(wanted["variant"], wanted["metric"], wanted["job"], strict=True):
            self._devices.setdefault((variant, metric), set()).add(devices.get(job, ""))

    def ratios(self, variant: str, base: str) -> dict[str, float]:
        frames = self._ratio("frames_per_second", variant, base, measured=True)
        return {
            "nfe_ratio": self._ratio("nfe_per_frame", variant, base, measured=False),
            "seconds_ratio": 1 / frames if frames else float("nan"),
            "training_ratio": self._ratio("training_seconds", variant, base, measured=True),
        }

    def _ratio(self, metric: str, variant: str, base: str, measured: bool) -> float:
        one, other = self._mean.get((variant, metric)), self._mean.get((base, metric))
        devices = self._devices.get((variant, metric), set()) | self._devices.get((base, metric), set())
        if not one or not other or (measured and len(devices) != 1):
            return float("nan")
        return one / other


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
        runs = f"{row['runs']:g} runs against {row['baseline_runs']:g}"
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
