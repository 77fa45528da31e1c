"""A study's page in one file, which needs no network, script or other file."""

import importlib.resources
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diamond_bench.report import answers, departures, gate, power_section, sections
from diamond_bench.report.aggregates import aggregates
from diamond_bench.report.comparison import Comparison
from diamond_bench.report.drawing import StudyFigure, scale_warning
from diamond_bench.report.facts import StudyFacts
from diamond_bench.report.gate import Gate
from diamond_bench.report.markup import Html, details, el, items, joined, marked
from diamond_bench.report.pictures import CLIP_BYTES, Budget, ClipShown, clips, small_picture
from diamond_bench.report.power import Power
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.plan import SavedPlan
from diamond_bench.studies.registration import RegistrationStatus

if TYPE_CHECKING:
    import pandas as pd

PAGE_BYTES = 15_000_000
"""Most bytes of a page. Further pictures are only named; their files are in the same folder."""
SECTION_BYTES = 1_200_000
"""Most bytes of a section's words and tables."""
_FRAME_BYTES = 200_000
_SEEDS = "How many seeds"
_ORDER = (
    *("Sanity gate", "Results", "Figures", "Trajectories", "Clips", "Aggregates", "Comparison", _SEEDS),
    *("Variants", "Jobs", "Cost", "Reproduce", "Notes"),
)
"""Sections below the answer."""
_CARDS_BELOW = {"wide": "74.99rem", "medium": "47.99rem"}
"""The width of the page below which tables of this size (markup.py) are cards."""
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class Shown:
    """A finished figure: its subject, its caption, the caption's height in the PNG (0 without it), and its files: PNG, PDF, CSV, LaTeX."""

    figure: StudyFigure
    caption: str
    caption_pixels: int
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Report:
    """Everything a page shows."""

    plan: SavedPlan
    store: Store
    facts: StudyFacts
    jobs: "pd.DataFrame"
    comparison: Comparison
    standing: RegistrationStatus
    gates: tuple[Gate, ...]
    power: Power
    figures: tuple[Shown, ...]
    notes: tuple[str, ...]


def render(report: Report) -> str:
    """The page, at most PAGE_BYTES long as UTF-8."""
    plan, facts = report.plan, report.facts
    words: dict[str, Html] = {
        "Answer": answers.section(plan, report.comparison, report.standing, report.gates),
        "Sanity gate": gate.section(report.gates),
        "Jobs": sections.jobs(plan, facts, report.jobs),
        "Variants": sections.variants(plan, facts),
        "Results": sections.results(plan, facts),
        "Aggregates": aggregates(plan, facts),
        "Comparison": sections.comparison(report.comparison),
        _SEEDS: power_section.section(report.power) if len({point.variant for point in plan.points}) > 1 else Html(""),
        "Cost": sections.costs(plan, facts),
        "Reproduce": sections.reproduce(plan, facts),
        "Notes": sections.notes(plan, report.notes),
    }
    words = {title: _bounded(title, body) for title, body in words.items() if body}
    budget = Budget(PAGE_BYTES - sum(len(body.encode()) for body in words.values()) - _FRAME_BYTES)
    pictures = _pictures(report, budget)
    answer = words.pop("Answer")
    order = list(_ORDER)
    if sections.incomplete(report.jobs):  # what failed comes before numbers that lack it
        order.insert(0, order.pop(order.index("Jobs")))
    shown = {title: body for title in order if (body := joined([words.get(title, ""), pictures.get(title, "")]))}
    body = joined(section(title, text) for title, text in shown.items())
    contents = el("nav", items(el("a", title, href=f"#{_anchor(title)}") for title in shown), aria_label="Contents")
    top = joined([_header(report), section("Answer", answer), *_about(report), contents])
    return document(f"{plan.study}, scale {plan.scale}", joined([el("header", top), el("main", body)]))


def section(title: str, body: Html) -> Html:
    """A section with its heading, which a link reaches by `#title`."""
    return el("section", el("h2", title, id=_anchor(title)), body, aria_labelledby=_anchor(title))


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _bounded(title: str, body: Html) -> Html:
    if len(body.encode()) <= SECTION_BYTES:
        return body
    return el("p", f"{title} is too large for the page ({len(body) / 1e6:.1f} MB); the tables in the same folder have it.")


def document(title: str, body: Html) -> str:
    """A whole page, which needs no other file."""
    sheets = importlib.resources.files("diamond_bench.report")
    cards = sheets.joinpath("cards.css").read_text()
    style = sheets.joinpath("page.css").read_text() + "".join(
        f"@media (max-width: {below}) {{\n{cards.replace('table.cards', f'table.{name}')}}}\n" for name, below in _CARDS_BELOW.items()
    )
    head = joined(
        [
            el("meta", charset="utf-8"),
            el("meta", name="viewport", content="width=device-width, initial-scale=1"),
            el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            el("meta", name="color-scheme", content="light dark"),
            el("title", title),
            el("style", Html(style)),
        ],
        "\n",
    )
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def _header(report: Report) -> Html:
    """What a reader must know before the answer: whether this is the paper's model, the question, and what the scale can say."""
    plan = report.plan
    parts: list[Any] = []
    if words := departures.sentences(plan, report.facts):
        more = [details("In which settings they differ", items(words[1:]))] if len(words) > 1 else []
        parts.append(el("div", el("strong", words[0]), *more, class_="badge"))
    parts += [el("h1", plan.question), el("p", f"Study {plan.study}, scale {plan.scale}, protocol {plan.protocol}", class_="soft")]
    if warning := scale_warning(plan.scale):
        parts.append(el("p", f"{warning}.", class_="badge"))
    if missing := sections.incomplete(report.jobs):
        parts.append(el("p", missing, " ", el("a", "See jobs", href="#jobs"), class_="badge"))
    return joined(parts)


def _about(report: Report) -> list[Html]:
    return [el("p", marked(report.plan.note))] if report.plan.note else []


def _pictures(report: Report, budget: Budget) -> dict[str, Html]:
    """Figures at the main values come first, then clips, then figures at other values, as far as the page has room."""
    left_out: list[str] = []
    main = [shown for shown in report.figures if not shown.figure.view]
    aside = [shown for shown in report.figures if shown.figure.view]
    grids = [shown_figure(shown, budget, left_out) for shown in main if shown.figure.kind == "trajectories"]
    power = [shown_figure(shown, budget, left_out) for shown in main if shown.figure.kind == "power"]
    plots = [shown_figure(shown, budget, left_out) for shown in main if shown.figure.kind not in ("trajectories", "power")]
    moving = _clips(report, budget, left_out)
    others = [shown_figure(shown, budget, left_out) for shown in aside]
    named = (
        [el("p", f"Not in this page, to keep it below {PAGE_BYTES / 1e6:g} MB: {', '.join(left_out)}.", class_="soft")] if left_out else []
    )
    more = [details(f"At other values ({len(others)} figures)", *others)] if any(others) else []
    hint = [el("p", "Tap a figure to enlarge it.", class_="soft hint")] if any((*plots, *grids)) else []
    found = {_SEEDS: joined(power), "Figures": joined([*hint, *plots, *more, *named]), "Trajectories": joined(grids), "Clips": moving}
    return {title: body for title, body in found.items() if body}


def shown_figure(shown: Shown, budget: Budget, left_out: list[str]) -> Html:
    """A figure with its caption. Where the budget has no room for it, nothing, and its name goes to `left_out`."""
    uri = budget.data_uri(*small_picture(shown.files[0], shown.caption_pixels))
    if uri is None:
        left_out.append(shown.files[0].name)
        return Html("")
    picture = el("img", src=uri, alt=f"{shown.figure.title}: a figure that the text below describes")
    first, _, rest = shown.caption.partition("; ")
    caption = rest if rest and first in shown.figure.title else shown.caption  # the game, which the title names
    enlarge = el("input", type="checkbox", class_="enlarge", aria_label=f"Enlarge the figure {shown.figure.title}")
    return el("figure", el("label", enlarge, picture), el("figcaption", f"{shown.figure.title}. {caption[:1].upper()}{caption[1:]}."))


def _clips(report: Report, budget: Budget, left_out: list[str]) -> Html:
    tiles, said = [], []
    for clip in clips(report.plan, report.store, report.facts):
        if isinstance(clip, str):
            said.append(el("p", clip, class_="soft"))
        elif (uri := budget.data_uri(clip.data, "video/mp4")) is None:
            left_out.append(f"the clip of {clip.name}")
        else:
            tiles.append(_clip(clip, uri))
    if not tiles and not said:
        return Html("")
    agents = "The agent plays; without a world model there is play alone. " if report.plan.protocol == "agent" else ""
    words = (
        "Left: true play. Right: imagined from the same start under the same actions, at 15 frames a second. "
        f"{agents}A clip is at most {CLIP_BYTES / 1e6:g} MB."
    )
    return joined([el("p", words, class_="soft"), el("div", *tiles, class_="clips"), *said])


def _clip(clip: ClipShown, uri: str) -> Html:
    words = f"{clip.name}, {clip.words}"
    video = el(
        "video", src=uri, autoplay=True, loop=True, muted=True, playsinline=True, controls=True, preload="auto",
        aria_label=f"True play on the left, imagined play on the right. {words}",
    )  # fmt: skip
    return el("figure", video, el("figcaption", words))
