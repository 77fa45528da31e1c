"""Writes a study's report/ if its results have changed."""

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diamond_bench.errors import UserError
from diamond_bench.report import latex
from diamond_bench.report.comparison import Comparison, compare_study
from diamond_bench.report.drawing import Drawn, StudyFigure
from diamond_bench.report.facts import StudyFacts, gather, job_rows, version_mixtures, versions
from diamond_bench.report.figures import study_figures
from diamond_bench.report.gate import Gate, gates
from diamond_bench.report.power import Power, plain, power_figures, power_frame, study_power
from diamond_bench.report.registered import level
from diamond_bench.results.table import mixtures, pivot, save_results, uninformative
from diamond_bench.spreadsheet import csv_text
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import IS_A_LINK, DamagedFile, first_link, read_json, require_folders, write_atomic, write_json
from diamond_bench.store.shapes import REPORT, fit
from diamond_bench.studies.plan import SavedPlan, command_of
from diamond_bench.studies.registration import RegistrationStatus, registration_status

if TYPE_CHECKING:
    import pandas as pd

    from diamond_bench.report.page import Shown

_VERSION = 37
"""Increased when the report changes, so that reports are written again."""
_SAY_EVERY_SECONDS = 30.0
_MAX_VIEWS = 8
"""Most figures of one kind, game and group in a report, one per combination of the other axes' values. The API draws any of them."""


def write_report(plan: SavedPlan, store: Store, say: Callable[[str], None], captions: bool | None = None) -> list[Path]:
    """Writes results.parquet and report/ from the finished jobs: index.html, figures (see `draw_figures`), tables as CSV,
    report.json. `captions`: the files of figures have their captions in them (None: if they had them before). The page always shows
    them as text.

    Returns the files, index.html first. Does nothing if the report was already written from these results and states. Raises UserError if
    no evaluation is finished and no job has failed.
    """
    facts = gather(plan, store)
    jobs = job_rows(plan, facts)
    evaluated = any(point.jobs["evaluation"] in facts.done for point in plan.points)
    if not evaluated and not jobs["status"].isin(["failed", "damaged", "lost"]).any():
        raise UserError(f"{plan.study} at scale {plan.scale} has no finished evaluation yet; run it with: {command_of(plan)}")
    folder = plan.folder / "report"
    require_folders(store.root, folder)
    stands = registration_status(plan, facts.done)
    last = _last_record(folder / "report.json")
    captions = last.get("captions") is True if captions is None else captions
    digest = _digest(plan, facts, jobs, stands, captions)
    if last["results"] == digest and all((folder / name).exists() for name in last["files"]):
        return [folder / name for name in last["files"]]
    say("drawing the report")
    save_results(facts.table, plan.folder)
    folder.mkdir(parents=True, exist_ok=True)
    if link := first_link(folder):
        raise UserError(f"{link}: {IS_A_LINK}; remove it, or the folder it lies in")
    notes = [*mixtures(facts.table), *uninformative(facts.table), *version_mixtures(versions(facts)), *facts.unverified, *facts.protocol]
    comparison = compare_study(plan, store, facts, alpha=level(stands))
    checked = tuple(gates(plan, store, facts))
    power = study_power(plan, store, facts, comparison)
    figures = chain(study_figures(plan, store, facts.table, facts.done, mixtures(facts.table)), power_figures(plan, power))
    shown, left_out = draw_figures(figures, folder, say, captions)
    notes += left_out
    tables = [
        write_table(pivot(facts.table), folder / "summary.csv"),
        write_table(comparison.effects, folder / "effects.csv"),
        write_table(comparison.table.assign(registration=stands.kind), folder / "comparison.csv"),
        write_table(power_frame(power), folder / "power.csv"),
    ]
    page = _write_page(plan, store, facts, jobs, comparison, stands, checked, power, shown, notes, folder)
    files = [page, *tables, *(file for figure in shown for file in figure.files)]
    for name in {Path(name).name for name in last["files"]} - {file.name for file in files}:
        (folder / name).unlink(missing_ok=True)
    said = {"notes": notes, "registration": stands.plain(), "comparison": _plain(comparison), "gate": [vars(gate) for gate in checked]}
    content = {"results": digest, "captions": captions, "files": [file.name for file in files], **said}
    content["power"] = [_json(one) for one in plain(power)]
    write_json(folder / "report.json", content, durable=False)
    return files


def _digest(plan: SavedPlan, facts: StudyFacts, jobs: "pd.DataFrame", stands: RegistrationStatus, captions: bool) -> str:
    """A digest of everything that the report shows, except progress and times."""
    planned = [point.variant for point in plan.points]
    about = [_VERSION, captions, plan.scale, planned, plan.question, plan.note, plan.command, dict(plan.primary), stands.plain()]
    text = [json.dumps(about, default=str), jobs[["id", "status", "error"]].to_csv(index=False), facts.table.to_csv(index=False)]
    return hashlib.sha256("\n".join(text).encode(errors="backslashreplace")).hexdigest()


def _last_record(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
        fit(content, REPORT, file)
        return content
    except (FileNotFoundError, DamagedFile):
        return {"results": "", "files": []}


def draw_figures(
    figures: Iterable[StudyFigure], folder: Path, say: Callable[[str], None], captions: bool = False
) -> "tuple[list[Shown], list[str]]":
    """Draws and saves the figures, each as PNG and PDF, with its numbers as CSV and a LaTeX file that includes it with its caption. Returns
    them, and a sentence for each that could not be drawn."""
    from analysis.chart import save_figure
    from diamond_bench.report.page import Shown

    shown: list[Shown] = []
    notes: list[str] = []
    drawn: Counter[str] = Counter()
    skipped: dict[str, list[str]] = {}
    last = time.monotonic()
    for figure in figures:
        if time.monotonic() - last > _SAY_EVERY_SECONDS:
            last = time.monotonic()
            say(f"figures drawn so far: {len(shown)}")
        family = figure.stem.partition("-at-")[0]
        drawn[family] += 1
        if drawn[family] > _MAX_VIEWS:
            skipped.setdefault(family, []).append(figure.stem)
            continue
        found, reason = _try(figure)
        if reason:
            notes.append(f"{figure.stem} is left out: {reason}")
            say(notes[-1])
        elif found is not None:
            pixels = found.finish(captions)
            numbers = write_table(found.figure.numbers(), folder / f"{figure.stem}.csv")
            tex = folder / f"{figure.stem}.tex"
            included = latex.picture(f"{figure.stem}.pdf", found.figure.get_figwidth(), "" if captions else found.caption)
            write_atomic(tex, included.encode(), durable=False)
            shown.append(Shown(figure, found.caption, pixels, (*save_figure(found.figure, folder / figure.stem), numbers, tex)))
    for family, stems in skipped.items():
        notes.append(
            f"{len(stems)} more figures like {family}, at other values, are drawn by diamond_bench.api.figure: {', '.join(stems[:5])}"
        )
    return shown, notes


def _try(figure: StudyFigure) -> "tuple[Drawn | None, str]":
    try:
        return figure.draw(), ""
    except ValueError as error:  # of the figures' functions: what the study varies does not go into one picture
        return None, str(error)


def write_table(table: "pd.DataFrame", file: Path) -> Path:
    """Writes a table as CSV, whole or not at all."""
    write_atomic(file, csv_text(table).encode(), durable=False)
    return file


def _write_page(
    plan: SavedPlan,
    store: Store,
    facts: StudyFacts,
    jobs: "pd.DataFrame",
    comparison: Comparison,
    stands: RegistrationStatus,
    checked: tuple[Gate, ...],
    power: Power,
    shown: "list[Shown]",
    notes: list[str],
    folder: Path,
) -> Path:
    from diamond_bench.report.page import Report, render

    report = Report(plan, store, facts, jobs, comparison, stands, checked, power, tuple(shown), tuple(notes))
    write_atomic(folder / "index.html", render(report).encode(), durable=False)
    return folder / "index.html"


def _plain(comparison: Comparison) -> dict[str, Any]:
    rows = [{str(key): _json(value) for key, value in row.items()} for row in comparison.table.to_dict(orient="records")]
    return {"metric": comparison.metric, "margin": comparison.margin.plain(), "problem": comparison.problem, "rows": rows}


def _json(value: Any) -> Any:
    """A cell as JSON: missing and infinite numbers become null."""
    if isinstance(value, Mapping):
        return {key: _json(inner) for key, inner in value.items()}
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
