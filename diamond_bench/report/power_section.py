"""Text and tables that answer "how many seeds do I need?", for the page and for the terminal."""

import math
from typing import TYPE_CHECKING

from diamond_bench.report.comparison import OF_COPYING
from diamond_bench.report.markup import Html, details, el, items, joined, table
from diamond_bench.report.power import TIMES, Power, components, level_words, worst

if TYPE_CHECKING:
    import pandas as pd

    from analysis.power import Planner

ASSUMPTIONS = (
    "Assumed: means over runs and references are normal, each variance is at its upper 80% confidence limit (so the observed difference "
    "plays no part), and the games are fixed."
)
_FEW_RUNS = (
    "With the smallest number of seeds that can be significant, the permutation test detects the difference shown with about 70% "
    "probability instead of 80%."
)


def sentences(power: Power) -> list[str]:
    """The answer: first the comparison that needs the most seeds, then the cost of a seed, then everything that cannot be planned."""
    found = []
    if power.known:
        found.append(_reach(power))
        found += [text for text in (_needs(power), _permutation(power)) if text]
        found.append(_cost_words(power))
        found.append(ASSUMPTIONS)
    return [*found, *power.problems]


def _reach(power: Power) -> str:
    one, planner = worst(power)
    effect, level = planner.detectable(planner.runs), level_words(power)
    which = f"{one.variant} against {one.baseline}"
    among = f" It is the least sensitive of {len(power.known)} comparisons." if len(power.known) > 1 else ""
    if math.isinf(effect):
        return f"With {planner.runs} seeds, {which} cannot be significant at {level}, however large the difference is.{among}"
    return f"With {planner.runs} seeds, {which} detects a true difference of {power.amount(effect)} with 80% power at {level}.{among}"


def _needs(power: Power) -> str:
    if power.margin <= 0:
        return "The study states no margin, so no number of seeds is enough or too few by itself."
    _, planner = worst(power)
    words = []
    for what, found in (
        ("to detect a difference of the margin", planner.seeds_to_detect(power.margin)),
        ("to show equivalence within it (TOST) if the true difference is 0", planner.seeds_for_equivalence(power.margin)),
    ):
        hours = f" ({_hours(power.cost.hours(found))} in all)" if found and power.cost else ""
        words.append(f"{_number(found)} seeds {what}{hours}")
    references = ""
    if planner.episodes:
        references = f" These numbers hold for {planner.episodes} episodes of references."
    return f"For the margin of {power.amount(power.margin)} this comparison needs {words[0]} and {words[1]}.{references}"


def _permutation(power: Power) -> str:
    if power.test != "permutation":
        return ""
    fewest = [planner.smallest_seeds() for _, planner in power.known]
    if None in fewest:
        return (
            "With so many comparisons the permutation test can never be significant after Holm's correction: name fewer (primary.variants)."
        )
    least = max(number for number in fewest if number is not None)
    return f"The permutation test cannot be significant with fewer than {least} seeds, however large the difference is. {_FEW_RUNS}"


def _cost_words(power: Power) -> str:
    cost = power.cost
    if cost is None:
        return "The finished jobs recorded no time, so device hours are unknown."
    parts = f"trainings {cost.training:.2g}, evaluations {cost.evaluation:.2g}"
    return f"Each further seed of all variants and games takes {_hours(cost.hours(1))} ({parts}), as measured on {', '.join(cost.devices)}."


def power_table(power: Power) -> "pd.DataFrame":
    """Detectable differences as texts, one row per comparison and number of episodes and one column per number of seeds; then device
    hours."""
    import pandas as pd

    crossed = any(planner.episodes for _, planner in power.known)
    rows = []
    for one, planner in power.known:
        for times in TIMES if planner.episodes else (1,):
            row = {"variant": one.variant, "against": one.baseline}
            row |= {"episodes": str(planner.episodes * times or "")} if crossed else {}
            row |= {_head(power, n): _effect(power, planner.detectable(n, times)) for n in power.seeds}
            rows.append(row | _needed(power, planner, times))
    if power.cost is not None and rows:
        for times in TIMES if crossed else (1,):
            row = {"variant": "device hours", "against": ""} | ({"episodes": f"{times} ×"} if crossed else {})
            rows.append(row | {_head(power, n): f"{power.cost.hours(n, times):.3g}" for n in power.seeds})
    return pd.DataFrame(rows).fillna("")


def _head(power: Power, seeds: int) -> str:
    own = seeds == min(planner.runs for _, planner in power.known)
    return f"{seeds} seeds{' (now)' if own else ''}"


def _effect(power: Power, difference: float) -> str:
    return power.amount(difference).replace(" of copying's error", "").removesuffix(f" {power.unit}" if power.unit else "")


def _needed(power: Power, planner: "Planner", times: int) -> dict[str, str]:
    if power.margin <= 0:
        return {}
    return {
        "seeds for margin": _number(planner.seeds_to_detect(power.margin, times)),
        "seeds for equivalence": _number(planner.seeds_for_equivalence(power.margin, times)),
    }


def components_table(power: Power) -> "pd.DataFrame":
    """The standard deviations of one draw for each comparison and game as texts, estimated and at their upper limits."""
    import pandas as pd

    rows = []
    for one, planner in power.known:
        for row in components(planner):
            sides = "same checkpoints" if planner.paired else "independent runs"
            line = {"variant": one.variant, "against": one.baseline, "game": row["game"], "runs": str(row["runs"]), "sides": sides}
            line["episodes"] = str(row["episodes"] or "")
            for name in ("seeds", "references", "interaction"):
                value, limit = row[f"sd_{name}"], row[f"sd_{name}_upper"]
                line[f"SD over {name}"] = "" if value is None else f"{_effect(power, value)} (at most {_effect(power, limit)})"
            rows.append(line)
    return pd.DataFrame(rows)


def section(power: Power) -> Html:
    """The section of a study's page, without its figure."""
    said = sentences(power)
    if not power.known:
        return joined([el("p", text) for text in said])
    frame = power_table(power)
    caption = f"Smallest true difference detected with 80% power, {_unit_words(power)}. 'none': no difference can be significant."
    shown = table(frame, caption, numeric=list(frame.columns[2:]), rest="power.csv", keys=2)
    inside = components_table(power)
    about = (
        f"Standard deviations of the difference, {_unit_words(power)}: between seeds, between references (means of one episode), and of "
        "what neither explains. In brackets the upper 80% limits that the plan uses."
    )
    more = details("Where the variance comes from", table(inside, about, numeric=["runs", "episodes"], rest="report.json", keys=2))
    return joined([el("p", said[0]), items(said[1:]), shown, more])


def _unit_words(power: Power) -> str:
    if power.unit == OF_COPYING:
        return "as a share of copy-last-frame's error"
    return f"in {power.unit}" if power.unit else "in the metric's own unit"


def _number(seeds: int | None) -> str:
    from analysis.power import MAX_SEEDS

    return f"more than {MAX_SEEDS}" if seeds is None else str(seeds)


def _hours(hours: float) -> str:
    return f"{hours:.3g} device hours" if hours >= 1e-3 else "less than 0.001 device hours"
