"""The figures of a study, from its finished jobs: drift against t and against the training, quality against NFE, grids of trajectories."""

import hashlib
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
_STEPS, _MILESTONE = "sampler.num_steps", "evaluation.milestone"
_USUAL_STEPS = 3
_COPY_LAST = "copy-last-frame"
"""The authors' number of denoising steps."""
_FINDINGS = ("paper", "small")
_VERSION = 2
"""Raised when the figures change, so that reports are drawn anew."""


@dataclass(frozen=True)
class _Line:
    """One line of a drift figure: a variant on one game, its finished seeds."""

    label: str
    arm: str
    points: tuple[Point, ...]

    @property
    def seeds(self) -> set[int]:
        return {point.seed for point in self.points}


@dataclass(frozen=True)
class _Figure:
    """A figure's file without its suffix, and how to draw it (ValueError where the study has no such shape)."""

    stem: str
    draw: "Callable[[], Figure | None]"


def write_report(plan: SavedPlan, store: Store, say: Callable[[str], None]) -> list[Path]:
    """Writes results.parquet and report/ (figures as PNG and PDF, the table as CSV) of what is finished.

    Does nothing where the report was already made of these results. Raises UserError where no evaluation is finished.
    """
    table = collect(plan, store)
    if not (table["kind"] == "evaluate_world_model").any():
        raise UserError(f"{plan.study} at scale {plan.scale} has no finished evaluation yet; run it with: {plan.command}")
    folder = plan.folder / "report"
    planned = [point.variant for point in plan.points]
    digest = hashlib.sha256(f"{_VERSION}{plan.scale}{planned}{table.to_csv(index=False)}".encode()).hexdigest()
    made = _made(folder / "report.json")
    if made["results"] == digest and all((folder / name).exists() for name in made["files"]):
        return [folder / name for name in made["files"]]
    say("drawing the report")
    save_results(table, plan.folder)
    folder.mkdir(parents=True, exist_ok=True)
    files, notes = [_write_csv(table, folder)], mixtures(table)
    for wanted in _figures(plan, store, table, "; ".join(notes)):
        try:
            figure = wanted.draw()
        except ValueError as error:  # of the figures' functions: what the study varies does not go into one picture
            notes.append(f"{wanted.stem} is left out: {error}")
            say(notes[-1])
            continue
        files += [] if figure is None else _save(figure, folder / wanted.stem)
    for name in {Path(name).name for name in made["files"]} - {file.name for file in files}:
        (folder / name).unlink(missing_ok=True)
    write_json(folder / "report.json", {"results": digest, "files": [file.name for file in files], "notes": notes}, durable=False)
    return files


def _made(file: Path) -> dict[str, Any]:
    try:
        return {"results": "", "files": [], **read_json(file)}
    except (FileNotFoundError, DamagedFile):
        return {"results": "", "files": []}


def _write_csv(table: "pd.DataFrame", folder: Path) -> Path:
    write_atomic(folder / "summary.csv", pivot(table).to_csv(index=False).encode(), durable=False)
    return folder / "summary.csv"


def _save(figure: "Figure", stem: Path) -> list[Path]:
    from analysis.figures import save_figure

    return save_figure(figure, stem)


def _figures(plan: SavedPlan, store: Store, table: "pd.DataFrame", notes: str) -> Iterator[_Figure]:
    done = {ref for point in plan.points if store.state(ref := point.jobs["evaluation"]).status == "done"}
    finished = [point for point in plan.points if point.jobs["evaluation"] in done]
    for game in dict.fromkeys(point.game for point in finished):
        of_game = [point for point in finished if point.game == game]
        lines = list(_lines(plan, of_game))
        if lines:
            yield _Figure(f"drift-{_slug(game)}", lambda lines=lines: _drift_figure(plan, store, lines, notes))  # type: ignore[misc]
        for group in dict.fromkeys(_group(point.arm) for point in of_game):
            stem = "-".join(_slug(part) for part in (game, group) if part)
            of_group = [point for point in of_game if _group(point.arm) == group]
            members = [line for line in lines if _group(line.arm) == group]
            scores = table[(table["game"] == game) & table["seed"].notna() & (table["kind"] == "evaluate_world_model")]
            copied = table[(table["game"] == game) & (table["variant"] == _COPY_LAST)].set_index("metric")["value"].to_dict()
            if members:
                yield _Figure(f"trajectories-{stem}", lambda m=members: _grid_figure(plan, store, m, notes))  # type: ignore[misc]
            yield _Figure(f"quality-{stem}", lambda s=scores, p=of_group, c=copied: _quality_figure(plan, s, p, c, notes))  # type: ignore[misc]
            yield _Figure(f"training-{stem}", lambda s=scores, p=of_group: _training_figure(plan, s, p, notes))  # type: ignore[misc]


def _last_values(plan: SavedPlan, axes: Iterable[str]) -> dict[str, Any]:
    """The last value of each of these axes, as the plan has it; of arms that fix an axis elsewhere, as most arms have it."""
    found = {}
    for name in axes:
        by_arm = {point.arm: point.axes[name] for point in plan.points}  # the last one stands
        common = Counter(map(str, by_arm.values())).most_common(1)[0][0]
        found[name] = next(value for value in by_arm.values() if str(value) == common)
    return found


def _at(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def _lines(plan: SavedPlan, points: Sequence[Point]) -> Iterator[_Line]:
    """The variants shown in drift figures: along the first axis, every other axis at its last value."""
    first = next(iter(plan.axes), None)
    last = _last_values(plan, list(plan.axes)[1:])
    for variant in dict.fromkeys(point.variant for point in points):
        same = tuple(point for point in points if point.variant == variant)
        if all(same[0].axes[name] == value for name, value in last.items()):
            label = variant if first is None else _at({first: same[0].axes[first]})
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
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        store.set_aside(ref, f"{path} is damaged ({error})")
        raise DamagedFile(path, f"cannot be read ({error}); run the sweep again, which makes it anew") from None


def _drift_figure(plan: SavedPlan, store: Store, lines: Sequence[_Line], notes: str) -> "Figure":
    from analysis.curves import mean_curve
    from analysis.figures import DriftPanel, drift_figure

    panels, trajectories = [], set()
    for arm in dict.fromkeys(line.arm for line in lines):
        curves = {}
        of_arm = [line for line in lines if line.arm == arm]
        for line in of_arm:
            jobs = [point.jobs["evaluation"] for point in line.points]
            values = np.stack([_arrays(store, job, "arrays.npz", "drift")["drift"].astype(np.float32, copy=False) for job in jobs])
            curves[line.label] = mean_curve(values)
            trajectories.add(values.shape[1])
        first = of_arm[0].points[0]
        copied = unrelated = None
        if len({point.jobs["dataset"] for line in of_arm for point in line.points}) == 1:  # else they share no baseline
            baselines = _arrays(store, first.jobs["evaluation"], "arrays.npz", "copy_drift", "unrelated_drift")
            copied, unrelated = baselines["copy_drift"].mean(axis=0), float(baselines["unrelated_drift"].mean())
        panels.append(DriftPanel(f"{first.game}{f': {arm}' if arm else ''}", curves, unrelated, copied))
    band = "band: 95% interval of the mean over seeds and trajectories"
    last = _at(_last_values(plan, list(plan.axes)[1:]))
    seeds = [len(line.seeds) for line in lines]
    basis = f"{_range(trajectories, 'trajectory', 'trajectories')}, {_range(seeds, 'seed', 'seeds')}, scale {plan.scale}"
    return _annotated(drift_figure(panels, ordered=True), plan, last, basis, band, notes)


def _range(numbers: Iterable[int], one: str, many: str) -> str:
    """As "1 seed", "3 seeds" or "2 to 5 seeds"."""
    low, high = min(numbers := list(numbers)), max(numbers)
    return f"{low if low == high else f'{low} to {high}'} {one if high == 1 else many}"


def _grid_figure(plan: SavedPlan, store: Store, lines: Sequence[_Line], notes: str) -> "Figure":
    from analysis.figures import trajectory_figure

    shared = set.intersection(*(line.seeds for line in lines))
    true, imagined = None, {}
    for line in lines:
        point = next((point for point in line.points if point.seed == min(shared, default=-1)), line.points[0])
        kept = _arrays(store, point.jobs["evaluation"], "media/frames.npz", "true", "imagined")
        if true is not None and not np.array_equal(true, kept["true"][0]):
            raise ValueError("its rows would be of different true trajectories")
        true = kept["true"][0]
        words = [line.arm.partition("/")[2] or line.arm, line.label, "" if shared else f"seed {point.seed}"]
        imagined["\n".join(word for word in words if word)] = kept["imagined"][0]
    assert true is not None
    figure = trajectory_figure(true, imagined, _times(len(true)))
    what = f"{lines[0].points[0].game}, one held-out trajectory{f', seed {min(shared)}' if shared else ''}, same start and actions"
    return _annotated(figure, plan, what, _at(_last_values(plan, list(plan.axes)[1:])), f"scale {plan.scale}", notes)


def _times(horizon: int, most: int = 9) -> list[int]:
    """Frames shown of a trajectory: 1, then about evenly in the logarithm of t, up to the last."""
    return sorted({int(t) for t in np.geomspace(1, horizon, min(most, horizon)).round()})


def _quality_figure(
    plan: SavedPlan, scores: "pd.DataFrame", points: Sequence[Point], copied: Mapping[Any, float], notes: str
) -> "Figure | None":
    """Quality against NFE: a line each arm and value of the first axis, save where that is the number of steps; `copied` by metric."""
    from analysis.curves import mean_points
    from analysis.figures import quality_figure

    along = [name for name, axis in plan.axes.items() if axis["key"] == _STEPS]
    first = [name for name in list(plan.axes)[:1] if name not in along]
    last = _last_values(plan, [name for name in list(plan.axes)[1:] if name not in along])
    groups = {
        point.variant: ", ".join(part for part in (point.arm, _at({name: point.axes[name] for name in first})) if part) or plan.study
        for point in points
        if all(point.axes[name] == value for name, value in last.items())
    }
    nfe = scores[scores["metric"] == "nfe_per_frame"].drop_duplicates("job").set_index("job")["value"]
    shown = scores[scores["variant"].isin(groups) & scores["metric"].isin(_QUALITY)]
    table = _points(shown, shown["variant"].map(groups), shown["job"].map(nfe))
    if table.empty:
        return None
    basis = _range(table.groupby(["metric", "group", "nfe"])["seed"].nunique(), "seed", "seeds")
    game = points[0].game
    caption = (game, _at(last), f"{basis}, scale {plan.scale}", "intervals: 95% over seeds, where several ran", notes)
    return _annotated(quality_figure(mean_points(table), baselines=copied), plan, *caption)


def _training_figure(plan: SavedPlan, scores: "pd.DataFrame", points: Sequence[Point], notes: str) -> "Figure | None":
    """Drift against the share of the training, a line an arm, at one value of every other axis; None where no axis is that share."""
    from analysis.curves import mean_points
    from analysis.figures import quality_figure

    share = next((name for name, axis in plan.axes.items() if axis["key"] == _MILESTONE), None)
    trained = {point.variant: point for point in points}
    several = {arm for arm in {p.arm for p in points} if share and len({p.axes[share] for p in points if p.arm == arm}) > 1}
    if share is None or not several:
        return None
    at = _last_values(plan, [name for name in plan.axes if name != share])
    steps = next((name for name, axis in plan.axes.items() if axis["key"] == _STEPS), None)
    if steps is not None:
        common = set.intersection(*({p.axes[steps] for p in points if p.arm == arm} for arm in several))
        at[steps] = _USUAL_STEPS if _USUAL_STEPS in common else max(common, default=at[steps])
    groups = {
        name: point.arm or plan.study
        for name, point in trained.items()
        if point.arm in several and all(point.axes[axis] == value for axis, value in at.items())
    }
    shown = scores[scores["variant"].isin(groups) & (scores["metric"] == "drift")]
    percent = shown["variant"].map({name: 100.0 * trained[name].axes[share] for name in groups})
    table = _points(shown, shown["variant"].map(groups), percent)
    if table.empty:
        return None
    figure = quality_figure(mean_points(table))
    for panel in figure.axes:
        panel.set_xlabel("share of the training (%)")
    basis = _range(table.groupby(["group", "nfe"])["seed"].nunique(), "seed", "seeds")
    return _annotated(figure, plan, points[0].game, _at(at), f"{basis}, scale {plan.scale}", "intervals: 95% over seeds", notes)


def _points(shown: "pd.DataFrame", group: "pd.Series", x: "pd.Series") -> "pd.DataFrame":
    """Finite scores as `analysis.curves.mean_points` takes them, metrics in the order of the report."""
    import pandas as pd

    points = pd.DataFrame({"metric": shown["metric"], "group": group, "nfe": x, "seed": shown["seed"], "value": shown["value"]})
    order = {metric: i for i, metric in enumerate(_QUALITY)}
    return points[np.isfinite(points["value"])].sort_values("metric", key=lambda column: column.map(order), kind="stable")


def _annotated(figure: "Figure", plan: SavedPlan, *caption: str) -> "Figure":
    from analysis.figures import annotate

    scale = plan.scale.rstrip("*")
    watermark = "" if scale in _FINDINGS else f"scale {plan.scale}: shows the plumbing, not a finding"
    return annotate(figure, "; ".join(part for part in caption if part), watermark)
