"""The words and tables of a study's page, each from what the results hold: a protocol's own metrics appear as soon as there are rows."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from analysis.runs import MIN_RUNS
from diamond_bench.metrics.columns import METRIC_INFO, metric_label
from diamond_bench.report.comparison import OF_COPYING, Comparison
from diamond_bench.report.cost_table import costs_of_variants
from diamond_bench.report.facts import MAX_CONFIGS, StudyFacts, config_differences, device_hours, versions
from diamond_bench.report.markup import MAX_CHARACTERS, Html, details, el, escaped, items, joined, table
from diamond_bench.results.table import number_in_words, seed_means
from diamond_bench.store.provenance import provenance
from diamond_bench.studies.plan import SavedPlan

if TYPE_CHECKING:
    import pandas as pd

_MAX_LINES = 40
_EFFECTS = "Effect sizes are Hedges' g_av of paired runs and g_s of independent ones (Lakens 2013)."
_ORDER = ("failed", "damaged", "lost", "preempted", "blocked", "running", "not begun", "done")
_TONE = {"failed": "bad", "damaged": "bad", "lost": "bad", "preempted": "warn", "blocked": "warn", "done": "good"}


def incomplete(rows: "pd.DataFrame") -> Html:
    """One line on what has not been done, for the top of the page."""
    counts = _counts(rows)
    if counts["done"] == len(rows):
        return Html("")
    summary = ", ".join(f"{number} {status}" for status, number in counts.items())
    return joined([el("strong", "Incomplete: "), f"of {len(rows)} jobs, {summary}. What follows rests on the finished ones."])


def _counts(rows: "pd.DataFrame") -> Counter[str]:
    found = Counter(rows["status"])
    return Counter({status: found[status] for status in dict.fromkeys((*_ORDER, *found)) if found[status]})


def jobs(plan: SavedPlan, facts: StudyFacts, rows: "pd.DataFrame") -> Html:
    """How the jobs stand: what is wrong first."""
    counts = _counts(rows)
    parts: list[Any] = []
    if counts["done"] == len(rows):
        parts.append(el("p", el("span", f"All {len(rows)} jobs are done.", class_="good")))
    else:
        lacking = _lacking(plan, facts)
        shown = lacking[:_MAX_LINES] + ([f"and {len(lacking) - _MAX_LINES} more"] if len(lacking) > _MAX_LINES else [])
        runs = [el("p", "Finished runs, of those planned:"), items(shown)] if shown else []
        parts.append(el("div", el("p", incomplete(rows)), *runs, class_="box wrong"))
        wrong = rows[~rows["status"].isin(["done", "not begun", "running", "blocked"])]
        if len(wrong):
            parts.append(_troubles(wrong, rows))
    parts.append(details(f"All {len(rows)} jobs", _job_table(rows, "Every job of the study")))
    return joined(parts)


def _lacking(plan: SavedPlan, facts: StudyFacts) -> list[str]:
    planned = Counter((point.game, point.variant) for point in plan.points)
    done = Counter((point.game, point.variant) for point in plan.points if point.jobs["evaluation"] in facts.done)
    return [
        f"{game}, {variant}: {done[game, variant]} of {number}"
        for (game, variant), number in planned.items()
        if done[game, variant] < number
    ]


def _troubles(wrong: "pd.DataFrame", rows: "pd.DataFrame") -> Html:
    """A line a job that went wrong: its last error, and how many others wait for it."""
    waiting = Counter(error.split()[1] for error in rows.loc[rows["status"] == "blocked", "error"])
    lines = []
    for job in wrong.head(_MAX_LINES).to_dict(orient="records"):
        name = f"{job['kind']}/{job['id']}"
        error = str(job["error"])[:MAX_CHARACTERS]
        blocks = f" ({waiting[name]} jobs wait for it)" if waiting[name] else ""
        words = [
            el("span", job["status"], class_=_TONE.get(str(job["status"]))),
            f": {job['of']}{': ' if error else ''}",
            el("code", error),
        ]
        lines.append(joined([*words, blocks, ". ", el("code", f"diamond-bench show {job['id']}", class_="soft")]))
    if len(wrong) > _MAX_LINES:
        lines.append(Html(f"and {len(wrong) - _MAX_LINES} more, in the table below"))
    return items(lines)


def _job_table(rows: "pd.DataFrame", caption: str) -> Html:
    place = {status: i for i, status in enumerate(_ORDER)}
    ordered = rows.sort_values("status", key=lambda column: column.map(place), kind="stable")
    shown = ordered.assign(
        status=[el("span", status, class_=_TONE.get(status)) for status in ordered["status"]],
        seconds=[f"{seconds:.0f}" if seconds else "" for seconds in ordered["seconds"]],
    )
    return table(shown[["id", "status", "kind", "of", "error", "seconds"]], caption, numeric=["seconds"], rest="`diamond-bench status`")


def variants(plan: SavedPlan, facts: StudyFacts) -> Html:
    """What sets the variants apart."""
    frame = config_differences(plan, facts)
    if len(frame) == 1:
        return el("p", f"One variant: {frame['variant'][0]}.")
    caption = "Every setting in which the variants differ (–: the setting does not exist there, or the job was not prepared yet)."
    if not facts.configs:
        caption = f"More than {MAX_CONFIGS} variants: their axes alone; `diamond-bench show JOB` tells a job's settings."
    return table(frame, caption, rest="plan.json")


def results(plan: SavedPlan, facts: StudyFacts) -> Html:
    """Means over runs with intervals: a row for each game and variant, a column for each headline metric."""
    import pandas as pd

    scores = facts.table[facts.table["kind"].astype(str).str.startswith("evaluate_") | facts.table["seed"].isna()]
    metrics = [name for name, column in METRIC_INFO.items() if not column.cost and not column.detail]
    extra = [name for name in dict.fromkeys(scores["metric"]) if name not in METRIC_INFO]
    present = [name for name in (*metrics, *extra) if (scores["metric"] == name).any()]
    scores = scores[scores["metric"].isin(present)]
    if scores.empty:
        return el("p", "No evaluation is finished yet.")
    cells = {(m.game, m.variant, m.metric): with_interval(m) for m in seed_means(scores).itertuples()}
    runs = scores[scores["seed"].notna()].groupby(["game", "variant"])["seed"].nunique().to_dict()
    games = {game: i for i, game in enumerate(dict.fromkeys(scores["game"]))}
    order = sorted(dict.fromkeys(zip(scores["game"], scores["variant"], strict=True)), key=lambda cell: games[cell[0]])
    several = len(games) > 1
    rows: list[dict[str, Any]] = [
        {
            "variant": variant,
            **({"game": game} if several else {}),
            "runs": str(runs.get((game, variant), "")),
            **{metric_label(name): cells.get((game, variant, name), "") for name in present},
        }
        for game, variant in order
    ]
    start = "Mean" if several else f"{order[0][0]}: mean"
    caption = (
        f"{start} over runs, and below it its 95% interval (Student's t over seeds, from {MIN_RUNS} seeds on). Rows without runs are "
        "baselines and the dataset. The arrow points to the better side."
    )
    labels = [metric_label(name) for name in present]
    return table(pd.DataFrame(rows), caption, numeric=["runs", *labels], rest="summary.csv", keys=2 if several else 1)


def with_interval(mean: Any) -> Html:
    """A mean over seeds and, where there is one, its interval."""
    if not math.isfinite(mean.mean):
        return escaped(number_in_words(mean.mean))
    interval = f"{mean.low:.4g} to {mean.high:.4g}" if mean.low == mean.low else ""
    return joined([f"{mean.mean:.4g}", *([el("span", interval, class_="interval")] if interval else [])])


def comparison(found: Comparison) -> Html:
    """Every comparison, the primary metric and then the exploratory ones."""
    import pandas as pd

    if found.table.empty:
        return Html("")

    def shown(rows: "pd.DataFrame", caption: str) -> Html:
        lines = [
            {
                "variant": row["variant"],
                "against": row["baseline"],
                "metric": f"{metric_label(row['metric'])}{f', {OF_COPYING}' if row['unit'] == OF_COPYING else ''}",
                "verdict": row["verdict"],
                "difference": _interval(row, "difference", "low", "high"),
                "P(improvement)": _number(row["probability_of_improvement"]),
                "effect size": _effect(row),
                "p": _number(row["p_value"]),
                "p (Holm)": _number(row["p_holm"]),
                "runs": _runs(row),
                "NFE ratio": _number(row["nfe_ratio"]),
                "FLOP ratio": _number(row["flops_ratio"]),
                "time ratio": _number(row["seconds_ratio"]),
                "training ratio": _number(row["training_ratio"]),
                "missing": row["missing"] if isinstance(row["missing"], str) else "",
            }
            for row in rows.to_dict(orient="records")
        ]
        ratios = ["NFE ratio", "FLOP ratio", "time ratio", "training ratio"]
        numeric = ["difference", "P(improvement)", "effect size", "p", "p (Holm)", "runs", *ratios]
        return table(pd.DataFrame(lines), caption, numeric=numeric, rest="comparison.csv", keys=2)

    parts: list[Any] = []
    if len(found.primary):
        interval = f"{(1 - found.alpha) * 100:.4g}% interval"
        caption = f"Primary metric: variant minus baseline with {interval}. {_EFFECTS} Ratios are the variant's cost over the baseline's."
        parts.append(shown(found.primary, caption))
    if len(found.effects) and found.effects["game"].nunique() > 1:
        games = found.effects.assign(**{name: found.effects[name].map(_number) for name in ("difference", "effect_size", "g_z", "weight")})
        caption = f"The primary metric game by game. {_EFFECTS} The pooled one weighs all games the same."
        parts.append(details("Game by game", table(games, caption, numeric=list(games.columns[3:]), rest="effects.csv")))
    rest = found.table[found.table["status"] != "primary"]
    if len(rest):
        caption = (
            "Exploratory: not the study's stated comparison. Each metric is corrected over these variants alone, and only the primary "
            "metric has a margin."
        )
        parts.append(details(f"Exploratory comparisons ({len(rest)})", shown(rest, caption)))
    return joined(parts)


def _number(value: Any) -> str:
    return f"{value:.3g}" if value is not None and value == value else ""


def _effect(row: Mapping[Any, Any]) -> Html:
    name = [el("span", row["effect"], class_="interval")] if row["effect_size"] == row["effect_size"] else []
    return joined([_number(row["effect_size"]), *name])


def _interval(row: Mapping[Any, Any], value: str, low: str, high: str) -> Html:
    number = _number(row[value])
    interval = f"{_number(row[low])} to {_number(row[high])}" if _number(row[low]) else ""
    return joined([number, *([el("span", interval, class_="interval")] if interval else [])])


def _runs(row: Mapping[Any, Any]) -> Html:
    numbers = f"{_number(row['runs'])} vs {_number(row['baseline_runs'])}"
    paired = row["paired"] == row["paired"] and row["paired"]
    return joined([numbers, *([el("span", "same checkpoints", class_="interval")] if paired else [])])


def costs(plan: SavedPlan, facts: StudyFacts) -> Html:
    """What the jobs took, and what each variant costs."""
    import pandas as pd

    spent = device_hours(facts)
    if spent.empty:
        return Html("")
    total = pd.DataFrame([["all", "", spent["jobs"].sum(), spent["hours"].sum()]], columns=spent.columns)
    hours = pd.concat([spent, total], ignore_index=True)
    hours["jobs"] = hours["jobs"].map(str)
    hours["hours"] = hours["hours"].map(lambda value: f"{value:.3g}" if value >= 1e-3 else "below 0.001")
    parts = [table(hours.rename(columns={"hours": "device hours"}), "Device hours of the finished jobs", numeric=["jobs", "device hours"])]
    return joined([*parts, costs_of_variants(plan, facts)])


def reproduce(plan: SavedPlan, facts: StudyFacts) -> Html:
    """The command, and the versions the jobs ran under."""
    import pandas as pd

    found = versions(facts)
    rows = [{"what": name, "versions": ", ".join(several)} for name, several in found.items()]
    own = provenance()
    page = f"This page: diamond-bench {own['versions'].get('diamond-bench', '')}, commit {own['commit'] or 'not a checkout'}."
    hosts = sorted({str(recorded.get("host", "unknown")) for recorded in facts.recorded.values()})
    ran = (
        [el("p", f"Hosts: {', '.join(hosts[:20])}{f' and {len(hosts) - 20} more' if len(hosts) > 20 else ''}.", class_="soft")]
        if hosts
        else []
    )
    shown = [table(pd.DataFrame(rows), "What the finished jobs ran under")] if rows else []
    return joined([el("pre", el("code", plan.command)), *shown, *ran, el("p", page, class_="soft")])


def notes(plan: SavedPlan, said: tuple[str, ...]) -> Html:
    """Footnotes: mixtures of revisions, precisions and versions, figures left out."""
    return items(f"{note[:1].upper()}{note[1:]}." for note in said) if said else Html("")
