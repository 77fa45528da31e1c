"""The table of a report that says what each variant costs."""

from collections.abc import Mapping
from typing import Any

from diamond_bench.metrics.columns import METRIC_INFO, metric_label
from diamond_bench.report.facts import StudyFacts, calls_compare
from diamond_bench.report.markup import Html, table
from diamond_bench.report.profile_table import amount
from diamond_bench.studies.plan import SavedPlan

_FLOPS = {"flops_per_frame": "FLOP per frame", "training_flops": "FLOP of the training"}
"""Titles of the costs in `StudyFacts.costs` that are FLOP."""


def costs_of_variants(plan: SavedPlan, facts: StudyFacts) -> Html:
    """Measured costs, which are means over runs, and FLOP, which follow from the settings. Empty if no costs are known."""
    import pandas as pd

    runs = facts.table[facts.table["seed"].notna()]
    variants = list(dict.fromkeys(runs["variant"]))
    known = {(name, cost): _mean(of_games) for name in variants for cost, of_games in facts.costs.get(name, {}).items()}
    calls = {(name, "nfe_per_frame"): value for (name, cost), value in known.items() if cost == "calls_per_frame"}
    measured = {*runs["metric"], *(metric for _, metric in calls)}
    present = [name for name, metric in METRIC_INFO.items() if metric.cost and name in measured]
    if not present:
        return Html("")
    counted = [cost for cost in _FLOPS if any(known.get((name, cost)) for name in variants)]
    own: dict[Any, float] = runs[runs["metric"].isin(present)].groupby(["variant", "metric"], sort=False)["value"].mean().to_dict()
    means = {**calls, **own}
    rows = [
        {
            "variant": name,
            **{metric_label(m): _plain(means[name, m]) if (name, m) in means else "" for m in present},
            **{_FLOPS[cost]: amount(known[name, cost], "FLOP") if known.get((name, cost)) else "" for cost in counted},
        }
        for name in variants
    ]
    notes = ["Means over runs. Times and memory are of the machines above; variants that share a training share its time and its FLOP."]
    if counted:
        notes.append("FLOP are computed from the settings of the world model.")
    if plan.protocol == "agent" and known:
        notes.append("Network calls and FLOP per frame are those of the imagination that agents learned in.")
    if not calls_compare([facts.family_of(name) for name in variants]):
        notes.append("Network calls of different families do not compare: compare their FLOP, or their frames per second.")
    numeric = [*(metric_label(name) for name in present), *(_FLOPS[cost] for cost in counted)]
    return table(pd.DataFrame(rows), " ".join(notes), numeric=numeric, rest="results.parquet")


def _mean(of_games: Mapping[str, float]) -> float:
    return sum(of_games.values()) / len(of_games)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
