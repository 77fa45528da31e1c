"""How the cost of networks and metrics grows: CPU seconds of one thread against each size, and the figure of docs/measurements/speed.md.

    python tests/benchmarks/cost_growth.py --work FOLDER [PANEL ...]
    python tests/benchmarks/cost_growth.py --draw

The first command measures the panels (by default all: batch, frame_size, context, network, trajectories, metrics) and replaces their rows
in docs/figures/cost_growth.csv. Both commands then draw docs/figures/cost_growth.png from that file. Its rows for jobs and runs are from
scaling.py. The networks are small ones around scale smoke, not compiled, in fp32. All points of a line take turns. Metrics are measured by
the job `evaluate_world_model` itself, on given frames.
"""

import argparse
import csv
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from diamond_bench.jobs.context import JobContext
from diamond_bench.jobs.evaluate_world_model import run as evaluate
from diamond_bench.launch.devices import device_name
from diamond_bench.launch.local import run_local
from diamond_bench.launch.memory import keep_memory
from diamond_bench.metrics import all_metrics
from diamond_bench.metrics.metric import Metric
from diamond_bench.profiling.parts import Parts, flop_of, random_replay
from diamond_bench.profiling.timing import Work, alternate, spread, warm_up
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.stored.score_starts import write_starts
from diamond_bench.studies.score import plan_prepare, plan_score
from diamond_bench.studies.single import plan_train

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
NUMBERS, PICTURE = FIGURES / "cost_growth.csv", FIGURES / "cost_growth.png"
COLUMNS = ("panel", "series", "x", "seconds", "low", "high", "gflop", "date")
"""Columns of NUMBERS. `seconds` is a median and `low` and `high` are its quartiles, `gflop` the counted arithmetic of networks."""
Rows = list[dict[str, Any]]
CPU = torch.device("cpu")
ENOUGH = 0.5
"""Seconds of CPU time after which no further round of a panel is timed."""


# Networks


@dataclass(frozen=True)
class Axis:
    """One line of settings that grow."""

    panel: str
    series: str
    sizes: tuple[int, ...]
    settings: str
    """Overrides, with {x} for the size."""


BASE = (
    "scale=smoke execution.num_threads=1 execution.precision=fp32 execution.compile=none training.batch_size=4 actor_critic.batch_size=4 "
    "agent.budget=1000"
)
EVERY = "network.attention=[true,true,true,true] training.batch_size=1 actor_critic.batch_size=1"
LENGTHS = (1, 2, 4, 8, 16)
AXES = (
    Axis("batch", "", (1, 2, 4, 8, 16, 32), "training.batch_size={x} actor_critic.batch_size={x}"),
    Axis("frame_size", "", (32, 64, 96, 128), "env.frame_size={x}"),
    Axis("frame_size", "attention at every level, batch 1", (32, 48, 64), f"{EVERY} env.frame_size={{x}}"),
    Axis("context", "stack", LENGTHS, "conditioning.num_frames={x}"),
    Axis("context", "cross_attention", LENGTHS, "conditioning=cross_attention conditioning.num_frames={x}"),
    Axis("network", "", (8, 16, 32, 64), "network.channels=[{x},{x},{x},{x}]"),
)
PARTS = {"denoiser_update": "update", "next_frame": "next frame"}


def measure_networks(axis: Axis, base: str = BASE, enough: float = ENOUGH) -> Rows:
    """One row per part and size."""
    built = []
    for size in axis.sizes:
        tokens = {word.partition("=")[0]: word for word in f"{base} {axis.settings.format(x=size)}".split()}
        config = next(spec.config for spec in plan_train(list(tokens.values())).jobs.values() if spec.kind == "train_agent")
        built.append((config, Parts(config, CPU, random_replay(config, CPU))))
    torch.set_num_threads(1)
    rows: Rows = []
    for part, title in PARTS.items():
        works = [parts.works[part] for _, parts in built]
        series = f"{title}, {axis.series}" if axis.series else title
        for size, (config, _), seconds in zip(axis.sizes, built, in_turn(works, enough), strict=True):
            rows.append(row(axis.panel, series, size, seconds, flop_of(config, "cpu")[part] / 1e9))
    return rows


def in_turn(works: Sequence[Work], enough: float) -> list[tuple[float, ...]]:
    """CPU seconds of each work in several rounds, the works in turn."""
    clock = time.process_time
    warm = [warm_up(work, wait, clock=clock) for work in works]
    return list(alternate(works, warm, wait, clock=clock, enough=enough).seconds)


def wait() -> None:
    """Does nothing: on the CPU a call returns when its work is done."""


def row(panel: str, series: str, x: int, seconds: Sequence[float], gflop: float | None = None) -> dict[str, Any]:
    """A row of NUMBERS."""
    found = spread(seconds)
    values = {name: f"{getattr(found, name):.4g}" for name in ("low", "high")}
    counted = "" if gflop is None else f"{gflop:.4g}"
    return dict(zip(COLUMNS, (panel, series, x, f"{found.median:.4g}", values["low"], values["high"], counted, today()), strict=True))


def today() -> str:
    """The date, as the log of measurements writes it."""
    return time.strftime("%Y-%m-%d")


# Metrics

GAME = (
    *("game=Freeway", "scale=tiny", "data.num_references=256", "data.reference_horizon=16"),
    *("evaluation.horizon=16", "evaluation.num_one_step=16"),
)
"""The dataset and the evaluation. There are at least as many references as trajectories below."""
TRAJECTORIES = {("drift", "psnr", "ssim"): (4, 16, 64, 256), ("lpips", "state"): (4, 16, 64), ("kid",): (4, 8, 16, 32)}
"""Metrics that are measured together, and their numbers of trajectories."""
TOGETHER = ("drift", "psnr", "low_resolution_drift", "action_gain", "ssim", "action_accuracy", "lpips", "state")
TOGETHER_TRAJECTORIES, IMAGES = 16, 1
"""Trajectories for the number of metrics, and images of KID per trajectory."""
REPETITIONS = 3


@contextmanager
def clocked(names: Sequence[str]) -> Iterator[dict[str, float]]:
    """Adds up the CPU seconds of each metric's measuring and reducing. Loading its networks and data does not count."""
    spent = dict.fromkeys(names, 0.0)

    def timed(name: str, function: Any, *given: Any) -> Any:
        began = time.process_time()
        found = function(*given)
        spent[name] += time.process_time() - began
        return found

    def wrapped(name: str, metric: Metric) -> Metric:
        def opened(setting: Any) -> Any:
            meter = metric.open(setting)
            return replace(meter, measure=partial(timed, name, meter.measure))

        return replace(metric, open=opened, reduce=partial(timed, name, metric.reduce))

    with patch.dict(all_metrics(), {name: wrapped(name, all_metrics()[name]) for name in names}):
        yield spent


@dataclass(frozen=True)
class Measuring:
    """Evaluations of given frames in a folder."""

    work: Path

    def prepared(self, metrics: Sequence[str], trajectories: int) -> tuple[Store, JobSpec]:
        """The evaluation of frames that repeat the last true one under noise, and all that it needs, done."""
        store = Store(self.work / "outputs", say=lambda text: None)
        own = (f"evaluation.num_trajectories={trajectories}", f"evaluation.num_fid_images={IMAGES * trajectories}")
        frames, starts = self.work / f"frames-{trajectories}", self.work / f"starts-{trajectories}"
        plan, config = plan_prepare(starts, [*GAME, *own])
        finish(store, plan.jobs)
        (dataset,) = plan.jobs
        if not frames.exists():
            shutil.rmtree(starts, ignore_errors=True)
            write_starts(store, dataset, config, plan.scale, starts)
            write_frames(starts, frames)
        scored = plan_score([frames], [f"metrics=[{','.join(metrics)}]"])
        asked = scored.points[0].jobs["evaluation"]
        finish(store, {ref: spec for ref, spec in scored.jobs.items() if ref != asked})
        return store, scored.jobs[asked]

    def seconds(self, metrics: Sequence[str], trajectories: int) -> tuple[float, dict[str, float]]:
        """CPU seconds of the whole evaluation, and of each metric in it."""
        store, spec = self.prepared(metrics, trajectories)
        folder = self.work / "evaluation"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        torch.set_num_threads(1)
        with clocked(metrics) as spent:
            began = time.process_time()
            evaluate(spec.config, JobContext(folder, {role: store.folder(ref) for role, ref in spec.inputs.items()}))
            return time.process_time() - began, spent


def finish(store: Store, jobs: Mapping[JobRef, JobSpec]) -> None:
    """Runs jobs in other processes. Raises SystemExit if one fails."""
    summary = run_local(store, jobs.values(), num_workers=1, device="cpu")
    if summary.exit_code:
        raise SystemExit(f"jobs failed: {summary.failed}")


def write_frames(starts: Path, out: Path) -> None:
    """For each start of each kind, the last frame of its context repeated under noise, and the manifest."""
    out.mkdir()
    rng = np.random.default_rng(0)
    for kind, shape in json.loads((starts / "manifest.json").read_text())["plays"].items():
        last = np.load(starts / "starts" / f"{kind}.npz")["context"][:, -1].astype(np.float64)
        repeated = last.reshape(len(last), *[1] * (len(shape) - 4), *last.shape[1:])
        np.save(out / f"{kind}.npy", (repeated + rng.normal(0, 8, shape)).round().clip(0, 255).astype(np.uint8))
    shutil.copy(starts / "manifest.json", out)


def measure_trajectories(work: Path, metrics: Sequence[str], numbers: Sequence[int], repetitions: int = REPETITIONS) -> Rows:
    """One row per metric and number of trajectories."""
    measuring = Measuring(work)
    measuring.seconds(metrics, min(numbers))  # the first one imports and warms up
    found = [{n: measuring.seconds(metrics, n)[1] for n in numbers} for _ in range(1 if "kid" in metrics else repetitions)]
    return [row("trajectories", name, n, [one[n][name] for one in found]) for name in metrics for n in numbers]


def measure_together(work: Path, metrics: Sequence[str], trajectories: int, repetitions: int = REPETITIONS) -> Rows:
    """CPU seconds of one evaluation with the first k metrics, and of k evaluations with one each, added."""
    measuring = Measuring(work)
    measuring.seconds(metrics, trajectories)
    alone = [[measuring.seconds([name], trajectories)[0] for name in metrics] for _ in range(repetitions)]
    rows: Rows = []
    for k in (2**i for i in range(len(metrics).bit_length())):
        together = [measuring.seconds(metrics[:k], trajectories)[0] for _ in range(repetitions)]
        rows.append(row("metrics", "in one evaluation", k, together))
        rows.append(row("metrics", "in one evaluation each, added", k, [math.fsum(one[:k]) for one in alone]))
    return rows


# Numbers and figure


def read_numbers() -> Rows:
    """The stored rows."""
    with NUMBERS.open(newline="") as file:
        return list(csv.DictReader(file))


def write_numbers(rows: Rows) -> None:
    """Stores the rows, in the order of the panels."""
    with NUMBERS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda one: list(PANELS).index(one["panel"])))


def lines(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float, float | None]]]:
    """(x, seconds, GFLOP) of each series, by x."""
    found: dict[str, list[tuple[float, float, float | None]]] = {}
    for one in rows:
        flop = float(one["gflop"]) if one["gflop"] else None
        found.setdefault(one["series"], []).append((float(one["x"]), float(one["seconds"]), flop))
    return {series: sorted(points) for series, points in found.items()}


def exponents(xs: Sequence[float], ys: Sequence[float]) -> list[float]:
    """The slopes between neighbouring points on logarithmic axes."""
    return [math.log(d / c) / math.log(b / a) for a, b, c, d in zip(xs, xs[1:], ys, ys[1:], strict=False)]


def report(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """For each series the seconds, the exponents between neighbours, and those of the counted FLOP."""
    for panel in dict.fromkeys(one["panel"] for one in rows):
        for series, points in lines([one for one in rows if one["panel"] == panel]).items():
            xs, ys, flops = zip(*points, strict=True)
            yield f"{panel}, {series}: " + ", ".join(f"{x:g}: {y:.3g} s" for x, y in zip(xs, ys, strict=True))
            yield "  exponents " + " ".join(f"{slope:.2f}" for slope in exponents(xs, ys))
            if None not in flops:
                yield f"  of {' '.join(f'{flop:.3g}' for flop in flops)} GFLOP " + " ".join(f"{s:.2f}" for s in exponents(xs, flops))


PANELS = {
    "batch": ("Batch", "segments of an update, games of a frame", (1,)),
    "frame_size": ("Frame size", "side of a frame, pixels", (2, 4)),
    "context": ("Context", "past frames", (1,)),
    "network": ("Network", "channels", (1, 2)),
    "trajectories": ("Metrics, by trajectories", "trajectories of 16 frames", (1,)),
    "metrics": ("Metrics, by number", "metrics, the cheapest first", (1,)),
    "jobs": ("Jobs", "jobs of a plan", (1, 2)),
    "runs": ("Runs", "runs: trainings, each with three evaluations", (1, 2)),
}
"""Title, x axis and the slopes of the guides of each panel."""


def draw(rows: Sequence[Mapping[str, Any]], picture: Path) -> None:
    """One panel for each quantity that grows, on logarithmic axes, with dotted guides through the middle."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(4, 2, figsize=(11, 16), layout="constrained")
    for axis, (panel, (title, label, slopes)) in zip(axes.flat, PANELS.items(), strict=True):
        if not (drawn := lines([one for one in rows if one["panel"] == panel])):
            continue  # it is not measured yet
        for series, points in drawn.items():
            axis.plot([x for x, *_ in points], [y for _, y, _ in points], "o-", markersize=4, label=series)
        ends = [x for points in drawn.values() for x, *_ in points]
        first, last = min(ends), max(ends)
        low = min(y for points in drawn.values() for _, y, _ in points)
        high = max(y for points in drawn.values() for _, y, _ in points)
        for slope in slopes:
            middle = math.sqrt(low * high) / math.sqrt(first * last) ** slope
            axis.plot([first, last], [middle * first**slope, middle * last**slope], ":", color="grey", linewidth=1)
            end = min(last, (1.6 * high / middle) ** (1 / slope))  # where the guide leaves the panel
            axis.annotate(f"slope {slope}", (end, middle * end**slope), color="grey", fontsize=8, ha="right", va="center")
        axis.set(xscale="log", yscale="log", title=title, xlabel=label, ylabel="CPU seconds of one thread", ylim=(low / 2, high * 2))
        ticks = sorted(set(ends))
        axis.set_xticks(ticks, [f"{x:g}" if x < 1000 else f"{x / 1000:g}k" for x in ticks])
        if high < 100 * low:
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.legend(fontsize=8)
    figure.savefig(picture, dpi=110, metadata={"Software": None})


def measured_rows(panel: str, work: Path) -> Iterator[Rows]:
    """The rows of a panel, each group of series when it is measured."""
    if panel == "trajectories":
        yield from (measure_trajectories(work, metrics, numbers) for metrics, numbers in TRAJECTORIES.items())
    elif panel == "metrics":
        yield measure_together(work, TOGETHER, TOGETHER_TRAJECTORIES)
    else:
        yield from (measure_networks(axis) for axis in AXES if axis.panel == panel)


def main() -> None:
    """Measures, prints, stores and draws."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measured = [panel for panel in PANELS if panel not in ("jobs", "runs")]
    asked.add_argument("panels", nargs="*", help=f"panels to measure: {', '.join(measured)}")
    asked.add_argument("--work", type=Path, default=Path("cost_growth"), help="folder of the store and of the frames")
    asked.add_argument("--draw", action="store_true", help="only draw the stored numbers")
    given = asked.parse_args()
    if unknown := sorted({*given.panels} - {*measured}):
        asked.error(f"unknown panel {unknown[0]}: expected {', '.join(measured)}")
    keep_memory()  # as the workers of jobs do
    for panel in () if given.draw else given.panels or measured:
        print(f"{time.strftime('%Y-%m-%d %H:%M')}, {device_name('cpu')}, load {os.getloadavg()[0]:.1f}", flush=True)
        for rows in measured_rows(panel, given.work.absolute()):
            print("\n".join(report(rows)), flush=True)
            new = {(one["panel"], one["series"]) for one in rows}
            stored = read_numbers() if NUMBERS.exists() else []
            write_numbers([one for one in stored if (one["panel"], one["series"]) not in new] + rows)
    draw(read_numbers(), PICTURE)


if __name__ == "__main__":
    main()
