"""The page of several studies: what may be concluded, each study's own answer, the numbers side by side, and where they come from."""

from collections.abc import Sequence
from typing import Any

from diamond_bench.metrics.columns import metric_label
from diamond_bench.report import departures
from diamond_bench.report.answers import EXPLORATORY_ONLY, answers_of, no_answer
from diamond_bench.report.drawing import scale_warning
from diamond_bench.report.facts import versions
from diamond_bench.report.markup import Html, details, el, items, joined, table
from diamond_bench.report.page import PAGE_BYTES, Shown, document, section, shown_figure
from diamond_bench.report.pictures import Budget
from diamond_bench.report.sections import with_interval
from diamond_bench.report.together import Entry, Side, differing, warnings

NO_TEST = (
    "No test between these studies was registered, so this page claims no difference between them. Each study's own answer stands; "
    "the numbers side by side only describe."
)
_WORDS_BYTES = 3_000_000
_MAX_VALUES = 6


def render(entries: Sequence[Entry], sides: Sequence[Side], figures: Sequence[Shown], notes: Sequence[str]) -> str:
    """The page, at most PAGE_BYTES long as UTF-8 unless its tables alone are longer."""
    budget, left_out = Budget(PAGE_BYTES - _WORDS_BYTES), list[str]()
    pictures = [shown_figure(shown, budget, left_out) for shown in figures]
    said = [*notes, *(f"{name} is not in this page, to keep it small" for name in left_out)]
    parts = {
        "Each study's own answer": joined(_answer(entry) for entry in entries),
        "What differs between the studies": _warnings(entries),
        "Numbers side by side": joined(_side(side) for side in sides) if sides else _nothing(entries),
        "Figures": joined([*([el("p", "Tap a figure to enlarge it.", class_="soft hint")] if any(pictures) else []), *pictures]),
        "Settings that differ": _settings(entries),
        "Where the numbers come from": _provenance(entries),
        "Notes": items(f"{note[:1].upper()}{note[1:]}." for note in said) if said else Html(""),
    }
    title = " and ".join(entry.label for entry in entries)
    head: list[Any] = [el("h1", f"Side by side: {title}"), el("p", NO_TEST, class_="badge")]
    warnings = sorted({scale_warning(entry.plan.scale) for entry in entries} - {""})
    head += [el("p", f"{warning}.", class_="badge") for warning in warnings]
    body = joined(section(name, text) for name, text in parts.items() if text)
    return document(f"Side by side: {title}", joined([el("header", *head), el("main", body)]))


def _answer(entry: Entry) -> Html:
    plan = entry.plan
    parts: list[Any] = [el("h3", f"{entry.label}: {plan.question}")]
    parts += [el("p", words, class_="badge") for words in departures.sentences(plan, entry.facts)[:1]]
    if words := no_answer(plan, entry.comparison):
        parts.append(el("p", " ".join(words)))
    else:
        exploratory = [] if entry.standing.confirmatory else [el("p", EXPLORATORY_ONLY, class_="soft")]
        lines = [" ".join(part for part in (one.claim, one.gate) if part) for one in answers_of(entry.comparison, entry.gates)]
        parts += [*exploratory, items(lines[:20])]
    parts.append(el("p", entry.standing.sentence, class_="soft"))
    return el("div", *parts, class_="box")


def _warnings(entries: Sequence[Entry]) -> Html:
    said = warnings(entries)
    return items(said) if said else el("p", "Protocol, scale, games, datasets, seeds and versions agree.")


def _nothing(entries: Sequence[Entry]) -> Html:
    return el("p", "No two of these studies share protocol, scale, game and metric, so no numbers stand side by side. See their own pages.")


def _side(side: Side) -> Html:
    """The primary metrics (or the first ones, where no primary metric is shared) as tables, and the others below them."""
    first = side.first
    rest = [metric for metric in side.metrics if metric not in first]
    about = (
        f"Scale {side.entries[0].plan.scale}. Means over seeds and, from three seeds on, their 95% intervals. The arrow points to the "
        "better side. Rows of baselines and of the dataset show how hard the data is."
    )
    more = [details(f"Other metrics ({len(rest)})", *(_means(side, metric) for metric in rest))] if rest else []
    return joined([el("p", about, class_="soft"), *(_means(side, metric) for metric in first), *more])


def _means(side: Side, metric: str) -> Html:
    import pandas as pd

    rows = side.means[side.means["metric"] == metric]
    cells = {(row.game, row.variant, row.study): with_interval(row) for row in rows.itertuples()}
    order = dict.fromkeys(zip(rows["game"], rows["variant"], strict=True))
    several = rows["game"].nunique() > 1
    names = [entry.label for entry in side.entries]
    lines: list[dict[str, Any]] = [
        {"game": game, "variant": variant, **{name: cells.get((game, variant, name), "") for name in names}} for game, variant in order
    ]
    apart = "; ".join(differing(side, metric))
    warning = f". These are not the same measurement: {apart}." if apart else ""
    caption = f"{metric_label(metric)}{'' if several else f', {rows.iloc[0].game}'}{warning}"
    frame = pd.DataFrame(lines)
    shown = frame if several else frame.drop(columns="game")
    return table(shown, caption, numeric=names, rest="side_by_side.csv", keys=2 if several else 1)


def _settings(entries: Sequence[Entry]) -> Html:
    """The settings that at least two of the studies have and whose values differ between them."""
    import pandas as pd

    keys = dict.fromkeys(key for entry in entries for settings in entry.facts.configs.values() for key in settings)
    rows = []
    for key in keys:
        values = {entry.label: {str(own[key]) for own in entry.facts.configs.values() if key in own} for entry in entries}
        known = [frozenset(own) for own in values.values() if own]
        if len(known) > 1 and len(set(known)) > 1:
            rows.append({"setting": key, **{label: _listed(sorted(own)) for label, own in values.items()}})
    if not rows:
        return Html("")
    return table(pd.DataFrame(rows), "Values over all variants of each study.")


def _listed(values: Sequence[str]) -> str:
    more = f" and {len(values) - _MAX_VALUES} more" if len(values) > _MAX_VALUES else ""
    return f"{', '.join(values[:_MAX_VALUES])}{more}"


def _provenance(entries: Sequence[Entry]) -> Html:
    import pandas as pd

    rows = []
    for entry in entries:
        found, registration = versions(entry.facts), entry.standing.registration
        rows.append(
            {
                "study": entry.label,
                "command": entry.plan.command,
                "registered": "no" if registration is None else f"{registration.content['time']}, SHA-256 {registration.sha256[:12]}",
                "jobs done": f"{len(entry.facts.done)} of {len(entry.plan.jobs)}",
                "commit": ", ".join(commit[:12] for commit in found.get("commit", [])),
                "version": ", ".join(found.get("diamond-bench", [])),
                "torch": ", ".join(found.get("torch", [])),
            }
        )
    return table(pd.DataFrame(rows), "What was run, and under which versions.")
