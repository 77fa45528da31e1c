"""The soak's runner: one hostile input, the commands that meet it, and what must hold afterwards."""

import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from command_line import clean_environment
from matplotlib.figure import Figure
from PIL import Image

from diamond_bench.launch.events import Event

JOB = "(job)"
"""In place of a command: [JOB, kind, study, *overrides] runs the job of this kind of the study's plan in this process."""
LONGEST = 10.0
"""Seconds of work after which a command hangs; so does one that waits as long and does nothing."""
IDLE = 0.005
"""Share of a processor below which a command waits. A busy machine gives a command that works more than that."""
_RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What no command may print: control characters save newline and tab, and changes of the direction of text."""
_ADMITTED = ("damaged", "unverified", "is missing", "left out", "no such", "symbolic link")
"""Words with which a command says that it does not believe something."""


class Hang(BaseException):
    """Not an Exception, so that no handler of the code under test takes it for an error of its own."""


class NoWorker:
    """In place of a worker process: takes every job and says that it failed. Preparation, damage and claims are real."""

    ready, job, killed = False, None, False

    def __init__(self, store: Path, device: str, heard: Any, arguments: Sequence[str] = ()):
        self.heard = heard
        heard.put((self, Event("ready")))

    def run(self, ref: Any) -> None:
        self.job = ref
        self.heard.put((self, Event("failed", ref, text="no job runs in the soak")))

    def stop(self) -> None: ...
    def retire(self) -> None: ...
    def kill(self) -> None: ...
    def reap(self) -> None: ...
    def wait(self, seconds: float) -> None: ...


@dataclass
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str
    fault: str = ""
    """A traceback or a hang."""

    @property
    def admits(self) -> bool:
        """Whether it says that something is not as it was written."""
        return any(word in self.out + self.err for word in _ADMITTED)


class Stream(io.TextIOWrapper):
    """A standard stream that keeps what is written, as UTF-8."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors="backslashreplace", newline="\n")

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(errors="replace")  # type: ignore[attr-defined]


def run_command(arguments: Sequence[str], cwd: Path, environment: dict[str, str]) -> Outcome:
    """A command of the console script in this process. Nothing escapes but what ends the test run itself."""
    from diamond_bench.cli import main

    out, err = Stream(), Stream()
    outcome = Outcome(0, "", "")
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(cwd))
        stack.enter_context(patch.dict(os.environ, {**clean_environment(), **environment}, clear=True))
        stack.enter_context(patch.object(sys, "argv", ["diamond-bench", *arguments]))
        stack.enter_context(patch("diamond_bench.launch.local.WorkerProcess", NoWorker))
        stack.enter_context(patch.object(Figure, "savefig", one_pixel))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(alarm())
        try:
            run_the_job(arguments[1], arguments[2:], outcome) if arguments[0] == JOB else main()
        except SystemExit as end:
            outcome.code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Hang:
            outcome.fault = f"hang: {LONGEST:g} s"
        except BaseException:
            outcome.fault = traceback.format_exc()
    outcome.out, outcome.err = out.text(), err.text()
    if "Traceback (most recent call last)" in outcome.out + outcome.err:
        outcome.fault = outcome.fault or outcome.err
    return outcome


def one_pixel(figure: Figure, file: Any, **options: Any) -> None:
    """In place of rendering a figure, which takes most of a report's time."""
    Image.new("RGB", (1, 1)).save(file)


def run_the_job(kind: str, words: Sequence[str], outcome: Outcome) -> None:
    """Prepares and runs one job of a study's plan. A job that ends with anything but a UserError has crashed."""
    from diamond_bench.errors import UserError
    from diamond_bench.launch.attempt import run_job
    from diamond_bench.store.artifacts import Store
    from diamond_bench.studies.plan import plan_study

    store, printed = Store("outputs", say=lambda text: None), io.StringIO()  # a job's log holds the traceback of a UserError too
    try:
        (spec,) = (spec for spec in plan_study(words[0], words[1:]).jobs.values() if spec.kind == kind)
        store.prepare(spec)
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            end = run_job(store, spec.ref, "cpu")
    except UserError as error:
        print(error, file=sys.stderr)
        outcome.code = 2
        return
    print(end.text, file=sys.stderr)
    outcome.code = 0 if end.name == "done" else 1
    if end.name == "crashed":
        outcome.fault = printed.getvalue()


@contextlib.contextmanager
def alarm() -> Iterator[None]:
    """Raises Hang in this thread where the code works longer than LONGEST, or waits as long. Seconds of work are those of the processor, so
    that a busy machine makes no command hang."""
    began = worked = time.process_time()

    def ring(number: int, frame: Any) -> None:
        nonlocal worked
        before, worked = worked, time.process_time()
        if worked - began > LONGEST or worked - before < IDLE * LONGEST:
            raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LONGEST, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fingerprint(folder: Path) -> dict[str, str]:
    """Kind, permissions and content of everything below a folder. Links are not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else ""
        found[path.relative_to(folder).as_posix()] = f"{state.st_mode:o} {state.st_mtime_ns if content else ''} {content}"
    return found


@dataclass
class Case:
    """One hostile input in a folder of its own."""

    kind: str
    number: int
    folder: Path
    """The user's folder. `outputs` in it is the store; `outside` must stay as it is."""
    dice: random.Random
    what: str = ""
    """The input in few words, for the person who repeats it."""
    touched: set[str] = field(default_factory=set)
    """Jobs (kind/id) whose files the input changed."""
    commands: list[list[str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    checks: list[Callable[["Case", list[str], Outcome], str]] = field(default_factory=list)
    """Called after each command: a sentence where a lie was accepted."""

    @property
    def store(self) -> Path:
        return self.folder / "outputs"


@dataclass
class Report:
    """What the soak found."""

    inputs: Counter[str] = field(default_factory=Counter)
    commands: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    """Commands that ended with exit code 2."""
    faults: dict[str, Counter[str]] = field(default_factory=dict)
    """By class: tracebacks, hangs, lies, outside, output."""
    messages: list[str] = field(default_factory=list)

    def fault(self, case: Case, what: str, command: Sequence[str], text: str) -> None:
        self.faults.setdefault(case.kind, Counter())[what] += 1
        self.messages.append(f"--- {case.kind} {case.number}: {case.what[:300]}\n    {what}: {' '.join(command)[:400]}\n{text[-2500:]}")


def run_case(case: Case, report: Report) -> None:
    """Runs the commands of a case and checks everything that must hold after each."""
    report.inputs[case.kind] += 1
    outside = fingerprint(case.folder / "outside")
    others = untouched(case)
    for command in case.commands:
        outcome = run_command(command, case.folder, case.environment)
        report.commands[case.kind] += 1
        report.refused[case.kind] += outcome.code == 2
        if outcome.fault:
            report.fault(case, "hang" if outcome.fault.startswith("hang") else "traceback", command, outcome.fault)
        if outcome.code not in (0, 1, 2):
            report.fault(case, "exit code", command, f"{outcome.code}\n{outcome.err}")
        if outcome.code and not outcome.fault and not (outcome.err.strip() or outcome.out.strip()):
            report.fault(case, "no message", command, f"exit code {outcome.code} without a word")
        for stream in (outcome.out, outcome.err):
            if raw := _RAW.search(stream):
                report.fault(case, "control characters", command, repr(stream[max(0, raw.start() - 200) : raw.end() + 200]))
                break
        for check in case.checks:
            if lie := check(case, command, outcome):
                report.fault(case, "accepted lie", command, f"{lie}\n{outcome.out[:600]}\n{outcome.err[:600]}")
        if fingerprint(case.folder / "outside") != outside:
            report.fault(case, "outside touched", command, outcome.err)
            outside = fingerprint(case.folder / "outside")
        changed = sorted(name for name, state in others.items() if state != state_of(case.store / name))
        if changed:
            report.fault(case, "another job changed", command, f"{changed[:5]}\n{outcome.err}")
            others = untouched(case)


def untouched(case: Case) -> dict[str, Any]:
    """Size, time and inode of the files that other jobs of the store left."""
    found = {}
    for result in case.store.glob("*/*/result.json"):
        job = result.parent.relative_to(case.store).as_posix()
        if job in case.touched or result.is_symlink() or job.startswith("studies"):
            continue
        with contextlib.suppress(ValueError, OSError, KeyError, TypeError):
            names = [*json.loads(result.read_text())["files"], "result.json", "config.yaml"]
            found |= {f"{job}/{name}": state_of(case.store / job / name) for name in names}
    return found


def state_of(path: Path) -> Any:
    try:
        state = path.lstat()
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns, state.st_ino


def workspace(template: Path, folder: Path) -> Path:
    """A user's folder with a copy of the template's store (hard links, which nothing may write through) and a tree outside of it."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    shutil.copytree(template, folder / "outputs", copy_function=os.link)
    outside = folder / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "file.txt").write_text("outside")
    (outside / "result.json").write_text('{"outside": 1}')
    (outside / "deep" / "checkpoint").write_text("outside")
    return folder


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file of a workspace without writing through its hard link."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def table(report: Report) -> str:
    """Counts by class, as docs/measurements/robustness.md shows them."""
    kinds = ("traceback", "hang", "accepted lie", "outside touched", "another job changed", "control characters")
    lines = ["| Class | Inputs | Commands | Refused (exit code 2) | Tracebacks | Hangs | Accepted lies | Changes elsewhere | Raw output |"]
    lines.append("| --- " + "| ---: " * 8 + "|")

    def line(name: str, inputs: int, commands: int, refused: int, faults: Counter[str]) -> str:
        counts = [faults[kind] for kind in kinds]
        counts[3:5] = [counts[3] + counts[4]]
        return f"| {name} | {inputs:,} | {commands:,} | {refused:,} | " + " | ".join(map(str, counts)) + " |"

    for kind in report.inputs:
        faults = report.faults.get(kind, Counter())
        lines.append(line(kind, report.inputs[kind], report.commands[kind], report.refused[kind], faults))
    sums = (sum(counts.values()) for counts in (report.inputs, report.commands, report.refused))
    lines.append(line("all", *sums, sum(report.faults.values(), Counter())))
    return "\n".join(lines)
