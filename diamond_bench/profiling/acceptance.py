"""Acceptance of a device: the tests that need it, and profiles of a training in every way that it offers, each in bounded time.

Each part is a process of its own with a time limit. Its outcome is saved before the next part begins. Profiles are ordinary jobs of the
store, so a repeated command measures only what is missing. Without torch.
"""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from diamond_bench.errors import UserError
from diamond_bench.store.profiled import PROFILED_UPDATES

_UPDATES = ",".join(PROFILED_UPDATES)
_TIMED = f"{_UPDATES},imagination_step,next_frame"
_FAST = ("execution.precision=bf16", "execution.cuda_graphs=all")
"""The settings that a GPU is accepted with."""
_PACKED = (4, 2, 8)
_PAIRS = ("--pairs", "2")
CHOSEN = ("execution.precision", "execution.cuda_graphs", "actor_critic.batch_size")
"""Settings that the parts choose."""
GOALS: Mapping[str, float] = {"actor_critic_update": 4.0, "denoiser_update": 3.0, "reward_end_update": 3.0, "packed": 1.5, "run_hours": 6.0}
"""For the paper's sizes on an H100 or H200: times as fast as the authors' settings, runs per day of the best packing relative to one run at
a time, and the most hours of a whole run."""
_LEAST_SECONDS = 5.0
"""A part does not begin with less time than this."""
_LEAVE_SECONDS = 5.0
_LAST_LINES = 12

Status = Literal["done", "failed", "out of time", "not run"]


@dataclass(frozen=True)
class Part:
    """One command of an acceptance."""

    name: str
    command: tuple[str, ...]
    seconds: float
    """Its time limit."""


@dataclass(frozen=True)
class Outcome:
    """The end of a part."""

    part: Part
    status: Status
    seconds: float = 0.0
    lines: tuple[Mapping[str, Any], ...] = ()
    """The records that `profile --json` printed."""
    output: str = ""
    """The last lines of its messages, if it is not done."""

    def line(self, name: str) -> Mapping[str, Any]:
        """The record of a profile with this name. Empty if there is none."""
        return next((line for line in self.lines if line["name"] == name), {})


@dataclass(frozen=True)
class Finding:
    """One number of an acceptance."""

    what: str
    value: float
    unit: str
    """The unit, or empty for a ratio."""
    goal: float | None = None
    met: bool | None = None
    """None without a goal."""


def parts(tokens: Sequence[str], gpu: bool, tests: Path | None) -> list[Part]:
    """The parts for the training that `tokens` describe, the most important first.

    `gpu`: whether the training's device is a GPU. A CPU has no CUDA graphs and no TF32. `tests`: tests/test_cuda.py, if this is a checkout.
    Raises UserError if `tokens` set what the parts choose.
    """
    for token in tokens:
        if (key := token.partition("=")[0]) in CHOSEN:
            raise UserError(f"{token}: acceptance measures several values of {key}; leave it out, or use `profile`")

    def profile(name: str, seconds: float, *words: str) -> Part:
        return Part(name, (sys.executable, "-P", "-m", "diamond_bench", "profile", *tokens, *words, "--json"), seconds)

    if not gpu:
        return [
            profile("plain", 300, "--parts", f"{_TIMED},peak_memory", "--compare", "plain"),
            profile("bf16", 300, "execution.precision=bf16", "--parts", _TIMED),
            profile("batch_1", 60, "actor_critic.batch_size=1", "--parts", "imagination_step"),
            profile("packed_2", 300, "--packed", "2", *_PAIRS),
        ]
    whole = f"{_TIMED},start_segments,real_step,peak_memory"
    found = [Part("tests", (sys.executable, "-m", "pytest", "-q", str(tests)), 150)] if tests is not None else []
    return [
        *found,
        profile("authors", 150, *_FAST, "--parts", whole, "--compare", "authors"),
        profile("plain", 90, *_FAST, "--parts", _TIMED, "--compare", "plain"),
        profile("graphs_off", 60, _FAST[0], "--parts", _TIMED),
        profile("tf32", 60, "execution.precision=tf32", _FAST[1], "--parts", _TIMED),
        profile("batch_1", 45, *_FAST, "actor_critic.batch_size=1", "--parts", "imagination_step"),
        *(profile(f"packed_{number}", 75, *_FAST, "--packed", str(number), *_PAIRS) for number in _PACKED),
    ]


Execute = Callable[[Part], Outcome]


def accept(
    parts: Sequence[Part],
    minutes: float,
    save: Callable[[Sequence[Outcome]], object],
    execute: Execute | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Outcome]:
    """Runs the parts one after the other within `minutes`. A part that cannot begin in time is recorded as not run.

    `save` is called with all outcomes so far after each part, so an interruption loses only the running part.
    """
    end, outcomes = clock() + 60 * minutes - _LEAVE_SECONDS, list[Outcome]()
    for part in parts:
        left = end - clock()
        limited = replace(part, seconds=min(part.seconds, left))
        outcomes.append(Outcome(part, "not run") if left < _LEAST_SECONDS else (execute or run)(limited))
        save(outcomes)
    return outcomes


def run(part: Part) -> Outcome:
    """Runs the command of a part. It is asked to stop at its time limit, and killed if it does not end soon after."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(part.command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        status: Status = "out of time"
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = "failed" if process.wait(part.seconds) else "done"
        finally:
            _end(process)
        seconds = time.monotonic() - started
        out.seek(0)
        err.seek(0)
        printed, said = (file.read().decode(errors="replace") for file in (out, err))
    if status == "done":
        return Outcome(part, "done", seconds, tuple(json.loads(printed)) if printed.startswith("[") else ())
    return Outcome(part, status, seconds, output="\n".join(f"{said}\n{printed}".strip().splitlines()[-_LAST_LINES:]))


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process and its workers. The first SIGTERM lets a sweep save and stop, the second makes it kill its workers."""
    for seconds in (_LEAVE_SECONDS * 0.6, _LEAVE_SECONDS * 0.4):
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
    process.kill()
    process.wait()


def findings(outcomes: Sequence[Outcome], gpu: bool) -> list[Finding]:
    """The numbers that the finished parts show, with the goals of a GPU."""
    return list(_findings({outcome.part.name: outcome for outcome in outcomes}, GOALS if gpu else {}))


def _findings(found: Mapping[str, Outcome], goals: Mapping[str, float]) -> Iterator[Finding]:
    none = Outcome(Part("", (), 0.0), "not run")
    main = next((outcome for name in ("authors", "plain") if (outcome := found.get(name, none)).lines), none)
    for other in ("authors", "plain"):
        for name in (*PROFILED_UPDATES, "next_frame"):
            if ratio := found.get(other, none).line(name).get("ratio"):
                goal = goals.get(name) if other == "authors" else None
                yield Finding(f"{name}, times as fast as {other}", ratio, "", goal, None if goal is None else ratio >= goal)
    if seconds := main.line("run").get("median"):
        goal = goals.get("run_hours")
        yield Finding("one run, projected", seconds / 3600, "h", goal, None if goal is None else seconds / 3600 <= goal)
    for name in (*PROFILED_UPDATES, "next_frame"):
        if share := main.line(name).get("share_of_peak"):
            yield Finding(f"{name}, share of the matrix product's rate", share, "")
    for label, part in (("batch of the config", main), ("batch 1", found.get("batch_1", none))):
        if rate := part.line("frames_per_second").get("median"):
            yield Finding(f"imagined frames per second, {label}", rate, "frames/s")
    for label, slower in (("CUDA graphs", "graphs_off"), ("bf16 in place of TF32", "tf32")):
        yield from _times(label, main, found.get(slower, none))
    yield from _times("bf16 in place of fp32", found.get("bf16", none), main)
    packed = {name: outcome.line(name) for name, outcome in found.items() if name.startswith("packed_")}
    ratios = {name: line["ratio"] for name, line in packed.items() if line.get("ratio")}
    for name, ratio in sorted(ratios.items()):
        best = goals.get("packed") if ratio == max(ratios.values()) else None
        yield Finding(
            f"runs per day, {name.partition('_')[2]} at once relative to one", ratio, "", best, None if best is None else ratio >= best
        )
        yield Finding(f"memory, {name.partition('_')[2]} at once", found[name].line(f"{name}_memory")["median"], "bytes")
    for name in ("peak_memory", "peak_memory_reserved"):
        if size := main.line(name).get("median"):
            yield Finding(name.replace("_", " "), size, "bytes")


def _times(label: str, fast: Outcome, slow: Outcome) -> Iterator[Finding]:
    """How many times as fast the parts of one profile are as those of another one, measured one after the other."""
    for name in (*PROFILED_UPDATES, "next_frame"):
        if fast.line(name) and slow.line(name):
            yield Finding(f"{name}, times as fast with {label}", slow.line(name)["median"] / fast.line(name)["median"], "")


def plain(outcomes: Sequence[Outcome], gpu: bool) -> dict[str, Any]:
    """The content of the JSON file: parts with their records, and findings."""
    return {
        "parts": [
            {
                "name": outcome.part.name,
                "command": list(outcome.part.command[1:]),
                "limit_seconds": outcome.part.seconds,
                "status": outcome.status,
                "seconds": outcome.seconds,
                "output": outcome.output,
                "lines": list(outcome.lines),
            }
            for outcome in outcomes
        ],
        "findings": [vars(finding) for finding in findings(outcomes, gpu)],
    }
