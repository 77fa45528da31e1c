"""The figures of a study, from its finished jobs: drift against t, quality against NFE, a grid of trajectories."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diamond_bench.errors import UserError
from diamond_bench.studies.files import DamagedFile, read_json, write_atomic, write_json
from diamond_bench.studies.jobspec import JobRef
from diamond_bench.studies.plan import Point, SavedPlan
from diamond_bench.studies.results import collect, mixtures, pivot, save_results
from diamond_bench.studies.store import Store

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_QUALITY = ("one_step_psnr", "drift", "psnr", "ssim", "lpips", "fid", "sharpness_ratio")
_DRIFT = ("drift", "copy_drift", "unrelated_drift")
_FINDINGS = ("paper", "small")
_VERSION = 1
"""Raised when the figures change, so that reports are drawn anew."""


@dataclass(frozen=True)
class _Line:
    """One line of a drift figure: a variant on one game, its finished seeds."""

    label: str
    arm: str
    points: tuple[Point, ...]


def write_report(plan: SavedPlan, store: Store, say: Callable[[str], None]) -> list[Path]:
    """Writes results.parquet and report/ (figures as PNG and PDF, the table as CSV) of what is finished.

    Does nothing where the report was already made of these results. Raises UserError where no evaluation is finished.
    """
    table = collect(plan, store)
    if table.empty:
        raise UserError(f"{plan.study} at scale {plan.scale} has no finished evaluation yet; run it with: {plan.command}")
    folder = plan.folder / "report"
    digest = hashlib.sha256(f"{_VERSION}{plan.scale}{table.to_csv(index=False)}".encode()).hexdigest()
    made = _made(folder / "report.json")
    if made.get("results") == digest and all((folder / name).exists() for name in made["files"]):
        return [folder / name for name in made["files"]]
    say("drawing the report")
    save_results(table, plan.folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = [_write_csv(table, folder)]
    for stem, figure in _figures(plan, store, table):
        files += _save(figure, folder / stem)
    write_json(folder / "report.json", {"results": digest, "files": [file.name for file in files], "notes": mixtures(table)}, durable=False)
    return files


def _made(file: Path) -> dict[str, Any]:
    try:
        return read_json(file)
    except (FileNotFoundError, DamagedFile):
        return {}


def _write_csv(table: "pd.DataFrame", folder: Path) -> Path:
    write_atomic(folder / "summary.csv", pivot(table).to_csv(index=False).encode(), durable=False)
    return folder / "summary.csv"


def _save(figure: "Figure", stem: Path) -> list[Path]:
    from analysis.figures import save_figure

    return save_figure(figure, stem)


def _figures(plan: SavedPlan, store: Store, table: "pd.DataFrame") -> Iterator[tuple[str, "Figure"]]:
    done = {ref for point in plan.points if store.state(ref := point.jobs["evaluation"]).status == "done"}
    for game in dict.fromkeys(point.game for point in plan.points):
        lines = list(_lines(plan, [point for point in plan.points if point.game == game and point.jobs["evaluation"] in done]))
        if not lines:
            continue
        yield f"drift-{game}", _drift_figure(plan, store, lines)
        for group in dict.fromkeys(_group(line.arm) for line in lines):
            members = [line for line in lines if _group(line.arm) == group]
            yield f"trajectories-{game}{'-' + _slug(group) if group else ''}", _grid_figure(plan, store, members)
        points = _quality_points(plan, table[table["game"] == game])
        if not points.empty:
            from analysis.curves import mean_points
            from analysis.figures import quality_figure

            yield (
                f"quality-{game}",
                _annotated(quality_figure(mean_points(points)), plan, f"{game}; intervals: 95% over seeds, where several ran"),
            )


def _lines(plan: SavedPlan, points: list[Point]) -> Iterator[_Line]:
    """The variants shown in drift figures: along the first axis, every other axis at its last value."""
    first, *others = list(plan.axes) or [""]
    last = {name: [point.axes[name] for point in plan.points][-1] for name in others}
    for variant in dict.fromkeys(point.variant for point in points):
        same = tuple(point for point in points if point.variant == variant)
        if all(same[0].axes[name] == value for name, value in last.items()):
            label = f"{first} = {same[0].axes[first]}" if first else variant
            yield _Line(label, same[0].arm, same)


def _group(arm: str) -> str:
    return arm.partition("/")[0] if "/" in arm else ""


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")


def _arrays(store: Store, ref: JobRef, file: str, *names: str) -> dict[str, np.ndarray]:
    path = store.folder(ref) / file
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DamagedFile(path, f"cannot be read ({error}); run the sweep again") from None


def _drift_figure(plan: SavedPlan, store: Store, lines: list[_Line]) -> "Figure":
    from analysis.curves import mean_curve
    from analysis.figures import DriftPanel, caption_text, drift_figure

    panels, seeds, trajectories = [], 0, 0
    for arm in dict.fromkeys(line.arm for line in lines):
        curves = {}
        for line in (line for line in lines if line.arm == arm):
            loaded = [_arrays(store, point.jobs["evaluation"], "arrays.npz", *_DRIFT) for point in line.points]
            curves[line.label] = mean_curve(np.stack([arrays["drift"] for arrays in loaded]))
            seeds, trajectories = max(seeds, len(loaded)), loaded[0]["drift"].shape[0]
        title = f"{lines[0].points[0].game}{f': {arm}' if arm else ''}"
        panels.append(DriftPanel(title, curves, float(loaded[0]["unrelated_drift"].mean()), loaded[0]["copy_drift"].mean(axis=0)))
    caption = caption_text(trajectories, seeds, plan.scale, "band: 95% interval of the mean over seeds and trajectories")
    return _annotated(drift_figure(panels, ordered=True), plan, caption)


def _grid_figure(plan: SavedPlan, store: Store, lines: list[_Line]) -> "Figure":
    from analysis.figures import trajectory_figure

    true, imagined = None, {}
    for line in lines:
        kept = _arrays(store, line.points[0].jobs["evaluation"], "media/frames.npz", "true", "imagined")
        true = kept["true"][0]
        imagined[f"{line.arm.partition('/')[2] or line.arm}\n{line.label}".strip()] = kept["imagined"][0]
    assert true is not None
    times = _times(len(true))
    figure = trajectory_figure(true, imagined, times)
    first = lines[0].points[0]
    return _annotated(figure, plan, f"{first.game}, one held-out trajectory, seed {first.seed}, same start and actions; scale {plan.scale}")


def _times(horizon: int, most: int = 9) -> list[int]:
    """Frames shown of a trajectory: 1, then about evenly in the logarithm of t, up to the last."""
    return sorted({int(t) for t in np.geomspace(1, horizon, min(most, horizon)).round()})


def _quality_points(plan: SavedPlan, table: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

    model = table[(table["kind"] == "evaluate_world_model") & table["seed"].notna()]
    nfe = model[model["metric"] == "nfe_per_frame"].drop_duplicates("job").set_index("job")["value"]
    shown = model[model["metric"].isin(_QUALITY) & np.isfinite(model["value"])]
    others = [f"axis.{name}" for name in list(plan.axes)[1:]]
    last = {name: model[name].iloc[-1] for name in others} if len(model) else {}
    for name, value in last.items():
        shown = shown[shown[name] == value]
    points = pd.DataFrame(
        {
            "metric": shown["metric"],
            "group": shown["arm"].replace("", plan.study),
            "nfe": shown["job"].map(nfe),
            "seed": shown["seed"],
            "value": shown["value"],
        }
    )
    order = {metric: i for i, metric in enumerate(_QUALITY)}
    return points.sort_values("metric", key=lambda column: column.map(order), kind="stable")


def _annotated(figure: "Figure", plan: SavedPlan, caption: str) -> "Figure":
    from analysis.figures import annotate

    scale = plan.scale.rstrip("*")
    watermark = "" if scale in _FINDINGS else f"scale {plan.scale}: shows the plumbing, not a finding"
    return annotate(figure, caption, watermark)
