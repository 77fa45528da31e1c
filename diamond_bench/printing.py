"""Prints tables for people and JSON for programs."""

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from diamond_bench.config import LocalCluster
from diamond_bench.config.worlds import DIAMOND
from diamond_bench.launch.cores import workers
from diamond_bench.launch.devices import has_gpu
from diamond_bench.profiling.device_plan import GPUS, DevicePlan, device_plan
from diamond_bench.results.older import older_sentence
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import free_bytes
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.states import JobState
from diamond_bench.studies.device_notes import node_notes, precision_notes, slow_sizes
from diamond_bench.studies.estimate import estimate, time_range
from diamond_bench.studies.housekeeping import Usage
from diamond_bench.studies.job_plan import Plan
from diamond_bench.studies.overview import StudyStatus, job_variants
from diamond_bench.studies.plan import PER_GAME
from diamond_bench.terminal import SafeConsole

if TYPE_CHECKING:
    from diamond_bench.doctor import Check

_PARTS = ("artifact", "checkpoint", "frames")
_COLOURS = {
    "done": "green",
    **dict.fromkeys(("failed", "damaged", "unreadable"), "red"),
    **dict.fromkeys(("lost", "preempted", "cancelled"), "yellow"),
    **dict.fromkeys(("running", "requeued"), "cyan"),
}

_SHOWN_FIRST = ("running", "failed", "damaged", "unreadable", "lost", "requeued", "preempted", "cancelled")
_MAX_SHOWN = 40
"""Most jobs of a study that `status` lists one by one."""


def table(*columns: str) -> Table:
    """A borderless table in the style of all commands."""
    return Table(*columns, box=None, header_style="bold", pad_edge=False)


def print_json(out: SafeConsole, content: list[Any]) -> None:
    """Prints a list as JSON, one item per line, independent of the terminal. Numbers that JSON cannot hold become null."""
    lines = (json.dumps(_finite(item), allow_nan=False) for item in content)  # json's own indenting takes seconds for 10,000 jobs
    out.write("[" + ",\n ".join(lines) + "]\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plan_rows(plan: Plan, states: Mapping[JobRef, JobState]) -> list[dict[str, Any]]:
    """The jobs of a plan in the format of `sweep --dry-run --json`: id, kind, variants, game, seed, needs, state."""
    variants = job_variants(plan.points)
    where: dict[Any, tuple[str, int | None]] = {}
    for point in plan.points:
        for role, ref in point.jobs.items():
            where[ref] = (point.game, None if role in PER_GAME else point.seed)
    return [
        {
            "id": ref.id,
            "kind": ref.kind,
            "variants": variants[ref],
            "game": where[ref][0],
            "seed": where[ref][1],
            "needs": [need.id for need in spec.inputs.values()],
            "state": states[ref].status if ref in states else "missing",
        }
        for ref, spec in plan.jobs.items()
    ]


def print_plan(out: SafeConsole, plan: Plan, store: Store, as_json: bool, notes: Iterable[str] = ()) -> None:
    """Prints the jobs of a plan, how many are missing, the cost of running them, and notes: those on its devices, and further `notes`.

    With `as_json` it prints only the jobs, as JSON, and the notes go to stderr.
    """
    states = store.states()
    rows = plan_rows(plan, states)
    missing = [ref for (ref, _), row in zip(plan.jobs.items(), rows, strict=True) if row["state"] != "done"]
    if isinstance(plan.cluster, LocalCluster):
        gpu = has_gpu()
        of_devices = [*precision_notes(plan.jobs, missing, gpu), *slow_sizes(plan.jobs, missing, gpu), *workers(plan, missing).notes]
    else:
        of_devices = node_notes(plan.jobs, missing)
    sentences = [f"note: {escape(sentence)}" for sentence in (*of_devices, *notes)]
    if as_json:
        print_json(out, rows)
        err = SafeConsole(stderr=True, soft_wrap=True, highlight=False)
        for sentence in sentences:
            err.print(sentence)
        return
    shown = table("kind", "jobs", "done", "to run")
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of_kind = [row for row in rows if row["kind"] == kind]
        done = sum(row["state"] == "done" for row in of_kind)
        shown.add_row(kind, str(len(of_kind)), str(done), str(len(of_kind) - done))
    out.print(f"[bold]{escape(plan.name)}[/bold] at scale {plan.scale}: {escape(plan.question)}")
    games = escape(", ".join(dict.fromkeys(point.game for point in plan.points)))
    seeds = _seeds(list(dict.fromkeys(point.seed for point in plan.points)))
    measured = f"; metrics {', '.join(plan.metrics)}" if plan.metrics else ""
    worlds = f"; families {', '.join(plan.families)}" if plan.families not in ((), (DIAMOND,)) else ""
    out.print(f"games {games}; seeds {seeds}{measured}{worlds}; store {escape(str(store.root))}")
    out.print(shown)
    cost = estimate(plan.jobs, missing, store, states)
    if cost.jobs:
        passing = f" (and up to {cost.passing_gigabytes:.3g} GB while a job runs)" if cost.passing_gigabytes else ""
        size = f"{cost.gigabytes:.3g} GB of disk{passing}"
        out.print(f"to run: {cost.jobs} jobs, {time_range(cost.low_hours, cost.high_hours)} of one device and {size} ({cost.basis})")
        free = free_bytes(store.root) / 1e9
        if cost.gigabytes + cost.passing_gigabytes > free:
            out.print(f"note: the disk of the store has only {free:.3g} GB free", highlight=False)
        if on_gpus := device_plan(plan.jobs, missing, store, states, cost):
            _print_device_plan(out, on_gpus)
    else:
        out.print("nothing to run: every job is done")
    if older := older_sentence(plan.jobs, store, states):
        out.print(escape(older), highlight=False)
    for sentence in sentences:
        out.print(sentence, highlight=False)


def _print_device_plan(out: SafeConsole, found: DevicePlan) -> None:
    out.print(
        f"\n{found.trainings} trainings of agents on GPUs, {found.flop:.3g} FLOP in all. The hours are those until every job is done:"
    )
    shown = table("speed of a GPU", "trainings at once")
    for number in GPUS:
        shown.add_column(f"{number} GPU{'s' * (number > 1)}", justify="right", no_wrap=True)
    for course in found.courses:
        shown.add_row(escape(course.speed.source), str(course.speed.at_once), *course.words)
    out.print(shown)
    for sentence in found.sentences:
        out.print(escape(sentence), highlight=False)


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) if len(seeds) <= 10 else f"{seeds[0]}, {seeds[1]}, ... {seeds[-1]} ({len(seeds)} in all)"


def status_table(studies: Iterable[StudyStatus]) -> Table:
    """The status of swept studies: a line per study, then a line per job that is running, needs attention or is still to run."""
    shown = table("study", "scale", "jobs", "")
    for study in studies:
        counts = ", ".join(f"[{_COLOURS.get(name, 'default')}]{count} {name}[/]" for name, count in study.counts.items())
        waiting = ", ".join(f"{count} pending: {reason}" for reason, count in study.waiting.items())
        shown.add_row(escape(study.study), study.scale, counts, escape(waiting))
        urgent = sorted(study.notable.items(), key=lambda job: _SHOWN_FIRST.index(job[1].status) if job[1].status in _SHOWN_FIRST else 0)
        listed = [*urgent, *study.pending.items()]
        hidden = Counter(state.status for _, state in listed[_MAX_SHOWN:])
        for ref, state in listed[:_MAX_SHOWN]:
            progress = f"{state.done}/{state.total} {state.text}" if state.total else state.text
            left = f"{state.remaining:.0f} s left" if state.remaining is not None else ""
            problem = f"{state.error} (log: {state.log})" if state.error else ""
            about = "; ".join(part for part in (study.labels[ref], progress, left, problem) if part)
            shown.add_row(f"  {ref.kind} {ref.id}", "", f"[{_COLOURS.get(state.status, 'default')}]{state.status}[/]", escape(about))
        if hidden:
            shown.add_row("  ...", "", f"and {', '.join(f'{count} {name}' for name, count in hidden.items())} (--json lists them)", "")
    return shown


def gigabytes(size: int) -> str:
    """A number of bytes in a readable unit."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def print_usage(out: SafeConsole, usages: Iterable[Usage], as_json: bool) -> None:
    """Disk usage by kind of job."""
    if as_json:
        print_json(out, [{"id": u.ref.id, "kind": u.ref.kind, **{name: getattr(u, name) for name in _PARTS}} for u in usages])
        return
    kinds: dict[str, list[Usage]] = {}
    for usage in usages:
        kinds.setdefault(usage.ref.kind, []).append(usage)
    shown = table("kind", "jobs", "artifacts", "checkpoints", "frames")
    for kind, found in kinds.items():
        shown.add_row(kind, str(len(found)), *(gigabytes(sum(getattr(usage, name) for usage in found)) for name in _PARTS))
    out.print(shown)


def print_checks(out: SafeConsole, checks: "Sequence[Check]", wanting: "Sequence[Check]", main_job: str) -> None:
    """The outcome of `doctor`: first whether the main job can run, then each part, with what a missing one costs and how to get it.

    `wanting` are the checks because of which the main job cannot run.
    """
    if wanting:
        out.print(f"[bold red]The main job cannot run here.[/] It needs: {escape(', '.join(check.part for check in wanting))}.")
    else:
        out.print(f"[bold green]The main job can run here:[/] {escape(main_job)}")
    shown = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for check in checks:
        colour = {"ok": "green", "limited": "yellow"}.get(check.state, "red" if check in wanting else "yellow")
        shown.add_row(f"[{colour}]{check.state}[/]", escape(check.part), escape(check.found))
        if check.state != "ok":
            shown.add_row("", "", f"without it: {escape(check.without)}")
            shown.add_row("", "", f"get it: [bold]{escape(check.get)}[/]")
    out.print(shown)


def print_frame(out: SafeConsole, frame: Any) -> list[str]:
    """Prints a DataFrame of texts as a table whose cells are never cut. Returns the columns that a narrow terminal has no room for.

    Columns are left out from the end, and the first three always stay.
    """
    names = [str(name) for name in frame.columns]
    lines = [[str(cell) for cell in line] for line in frame.itertuples(index=False)]
    widths = [max(len(text) for text in (name, *(line[i] for line in lines))) + 1 for i, name in enumerate(names)]
    room = shutil.get_terminal_size().columns if out.is_terminal else math.inf
    kept = next((number for number in range(len(names), 3, -1) if sum(widths[:number]) <= room), min(3, len(names)))
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for name in names[:kept]:
        shown.add_column(name, no_wrap=True, justify="left" if name in ("game", "variant") else "right")
    for line in lines:
        shown.add_row(*map(escape, line[:kept]))
    out.width = max(out.width, sum(widths) + len(widths))
    out.print(shown)
    return names[kept:]
