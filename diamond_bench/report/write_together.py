"""Writes the page of several studies into a folder of the store, with its figures and its table."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from diamond_bench.errors import UserError
from diamond_bench.metrics.columns import metric_label
from diamond_bench.report.drawing import Drawn, StudyFigure, annotated, slug
from diamond_bench.report.together import Side, differing, labels, read_entry, sides
from diamond_bench.report.together_page import render
from diamond_bench.report.write import draw_figures, write_table
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import IS_A_LINK, first_link, require_folders, write_atomic
from diamond_bench.studies.plan import SavedPlan

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "comparisons"
"""Folder of a store with the pages of several studies."""
_MAX_NAME = 80


def report_together(plans: Sequence[SavedPlan], store: Store, say: Callable[[str], None], captions: bool = False) -> list[Path]:
    """Writes one page on several studies of a store, with figures and the table side_by_side.csv. Returns the files, the page first.

    Raises UserError where a plan is named twice, or one has no finished evaluation.
    """
    entries = [read_entry(label, plan, store) for label, plan in zip(labels(plans), plans, strict=True)]
    found = sides(entries)
    name = slug("-".join(entry.label for entry in entries))[:_MAX_NAME].strip("-")
    digest = hashlib.sha256("\n".join(entry.plan.command for entry in entries).encode()).hexdigest()[:8]
    folder = store.root / FOLDER / f"{name}-{digest}"
    require_folders(store.root, folder)
    folder.mkdir(parents=True, exist_ok=True)
    if link := first_link(folder):
        raise UserError(f"{link}: {IS_A_LINK}; remove it, or the folder it lies in")
    shown, notes = draw_figures((figure for side in found for figure in _figures(side)), folder, say, captions)
    table = write_table(_whole(found), folder / "side_by_side.csv")
    page = folder / "index.html"
    write_atomic(page, render(entries, found, shown, notes).encode(), durable=False)
    return [page, table, *(file for figure in shown for file in figure.files)]


def _figures(side: Side) -> Iterator[StudyFigure]:
    for metric in side.first:
        rows = side.means[side.means["metric"] == metric]
        for game in dict.fromkeys(rows["game"]):
            title = f"{metric_label(metric)}: {game}"
            stem = f"side-{slug(metric)}-{slug(game)}-{slug(side.entries[0].plan.scale)}"
            yield StudyFigure(stem, "side", title, "", partial(_draw, side, metric, rows[rows["game"] == game]))


def _draw(side: Side, metric: str, rows: "pd.DataFrame") -> Drawn:
    import numpy as np

    from analysis.side_by_side import side_figure

    shown = rows[np.isfinite(rows["mean"])]
    words = [
        "lines: 95% interval of the mean over seeds (Student's t)" if shown["low"].notna().any() else "no intervals",
        *differing(side, metric),
    ]
    plan = side.entries[0].plan
    return annotated(side_figure(shown, metric_label(metric)), plan, *words, f"scale {plan.scale}")


def _whole(found: Sequence[Side]) -> "pd.DataFrame":
    import pandas as pd

    columns = ["protocol", "scale", "study", "game", "variant", "metric", "mean", "low", "high"]
    parts = [side.means.assign(protocol=side.entries[0].plan.protocol, scale=side.entries[0].plan.scale) for side in found]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)
