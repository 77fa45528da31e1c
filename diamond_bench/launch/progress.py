"""Shows the progress of a sweep on stderr: one live line per running job on a terminal, and plain lines elsewhere."""

import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.live import Live
from rich.markup import escape
from rich.text import Text

from diamond_bench.launch.events import Event
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import KINDS
from diamond_bench.terminal import SafeConsole, visible

_LINE_EVERY_SECONDS = 30.0
"""The longest silence of a running sweep without a terminal."""
_WINDOW_SECONDS = 30.0
"""The throughput is the mean over this time."""
_SHOWN_DIGITS = 8
_MIN_SHARE = 0.02
"""Share of the sweep's work that must be done before its time left is estimated from it."""
_SHORTEST_BAR, _LONGEST_BAR, _MIN_TEXT = 6, 20, 15
"""Characters of a job's bar, which a narrow terminal leaves out, and of the text that stays at the end of the line."""


class Display(Protocol):
    """The object that receives the events of `run_local`: call it with each event, inside its context."""

    def __call__(self, event: Event) -> None: ...

    def say(self, text: str) -> None:
        """Shows a line that belongs to no job."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def progress_display(labels: Mapping[JobRef, str], stream: TextIO | None = None, expected: Mapping[JobRef, float] | None = None) -> Display:
    """The display for `stream` (stderr): live on a terminal, lines elsewhere. `labels` describe jobs by their variant, game and seed.

    `expected` are the seconds that the jobs still to run are expected to take. The time left of the whole sweep needs them.
    """
    stream = stream or sys.stderr
    live = stream.isatty() and os.environ.get("TERM", "dumb").lower() not in ("dumb", "unknown", "")
    sweep = SweepProgress(labels, expected)
    return LiveDisplay(sweep, stream) if live else LineDisplay(sweep, stream)


class _Job:
    """The progress of one running job in this attempt."""

    def __init__(self, now: float):
        self.began = now
        self.done = self.total = 0
        self.text = ""
        self.before = 0.0
        """Share that earlier attempts had done."""
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, event: Event, now: float) -> None:
        if event.total != self.total or event.done < self.done:  # the job counts something else now
            self._samples.clear()
        first = not self.total
        self.done, self.total, self.text = event.done, event.total, event.text
        self.before = self.share if first else self.before
        self._samples.append((now, event.done))
        while len(self._samples) > 2 and self._samples[1][0] < now - _WINDOW_SECONDS:
            self._samples.popleft()

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def per_second(self) -> float | None:
        """Steps per second of late; None before two of its reports differ."""
        if len(self._samples) < 2:
            return None
        (began, first), (now, last) = self._samples[0], self._samples[-1]
        return (last - first) / (now - began) if now > began and last > first else None

    @property
    def left(self) -> float | None:
        """Expected seconds to its end."""
        rate = self.per_second
        return (self.total - self.done) / rate if rate and self.total else None


class SweepProgress:
    """The progress of the whole sweep, from its events. `labels` and `expected`: see `progress_display`."""

    def __init__(
        self, labels: Mapping[JobRef, str], expected: Mapping[JobRef, float] | None = None, clock: Callable[[], float] = time.monotonic
    ):
        self._labels = labels
        self._expected = dict(expected or {})
        """Seconds of the jobs without an outcome."""
        self._finished = 0.0
        """Expected seconds of the jobs that this sweep has run."""
        self.clock = clock
        self._began: float | None = None
        self.running: dict[JobRef, _Job] = {}
        self.done = self.total = self.failed = self.blocked = 0

    def count(self, event: Event) -> float | None:
        """Takes an event in. Returns the seconds that the job took if the event ends a job that ran here."""
        now = self.clock()
        if event.name == "planned":
            self.done, self.total = event.done, event.total
        self.done += event.name == "done"
        self.failed += event.name == "failed"
        self.blocked += event.name == "blocked"
        if event.ref is None:
            return None
        if event.name == "started":
            self._began = now if self._began is None else self._began
            self.running[event.ref] = _Job(now)
        elif event.name == "progress" and event.ref in self.running:
            self.running[event.ref].update(event, now)
        elif event.name in ("done", "failed", "interrupted", "taken", "blocked"):
            job = self.running.pop(event.ref, None)
            expected = 0.0 if event.name == "taken" else self._expected.pop(event.ref, 0.0)
            if job is not None:
                self._finished += expected * (1 - job.before)
                return now - job.began
        return None

    def overall(self) -> str:
        parts = [f"{self.done}/{self.total} jobs done"]
        parts += [f"{number} {word}" for number, word in ((self.failed, "failed"), (self.blocked, "blocked")) if number]
        return ", ".join(parts)

    def standing(self) -> str:
        """`overall` while the sweep runs. A worker takes seconds to start."""
        return f"{self.overall()}, starting" if self._began is None and self.done < self.total else self.overall()

    @property
    def elapsed(self) -> float | None:
        """Seconds since the first job began; None before."""
        return None if self._began is None else self.clock() - self._began

    @property
    def left(self) -> float | None:
        """Expected seconds to the end of the sweep: the work left at the rate of this sweep so far. None before enough is done."""
        running = [(self._expected.get(ref, 0.0), job) for ref, job in self.running.items()]
        worked = self._finished + sum(expected * (job.share - job.before) for expected, job in running)
        todo = sum(self._expected.values()) - sum(expected * job.share for expected, job in running)
        if not self.elapsed or worked <= _MIN_SHARE * (worked + todo):
            return None
        return todo * self.elapsed / worked

    def label(self, ref: JobRef) -> str:
        return f"{ref.kind} {self._labels.get(ref, ref.id[:_SHOWN_DIGITS])}"

    def line(self, event: Event, seconds: float | None = None) -> str | None:
        """The event as a line to be kept, or None if it is not notable."""
        if event.ref is None:
            return event.text if event.name == "said" else None
        took = f"in {duration(seconds)}" if seconds is not None else ""
        texts = {
            "said": event.text,
            "done": " ".join(part for part in ("done", event.text, took) if part),
            "failed": f"failed: {event.text} (see diamond-bench logs {event.ref.id[:_SHOWN_DIGITS]})",
            "interrupted": f"stopped: {event.text}",
            "taken": f"is being run by {event.text}",
            "blocked": f"not run, because it needs {event.text}",
        }
        return f"{self.label(event.ref)}: {texts[event.name]}" if event.name in texts else None

    def ending(self) -> str:
        """The outcome of the sweep in a line."""
        return self.overall() if self.elapsed is None else f"{self.overall()} in {duration(self.elapsed)}"


class LineDisplay:
    """Prints a line when something happens to a job, and one about a running job after half a minute of silence. No control characters."""

    def __init__(self, sweep: SweepProgress, stream: TextIO):
        self._sweep, self._stream = sweep, stream
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
        self._shown: dict[JobRef, float] = {}
        """When each running job had its last line."""
        self._last, self._written = "", sweep.clock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            seconds = self._sweep.count(event)
            started = f"{self._sweep.label(event.ref)}: started" if event.ref and event.name == "started" else None
            line = started or self._sweep.line(event, seconds)
            if line is not None:
                self._write_with_count(line)
            elif event.name == "planned":
                self._write(self._sweep.standing())

    def say(self, text: str) -> None:
        """Writes a line with the progress of the sweep."""
        with self._lock:
            self._write_with_count(text)

    def beat(self) -> None:
        """After a long silence, says how far the job is that was shown longest ago. So many jobs at once give no more lines than one."""
        with self._lock:
            now, running = self._sweep.clock(), self._sweep.running
            if now - self._written < _LINE_EVERY_SECONDS:
                return
            if not running:
                self._write(self._sweep.standing())
                return
            ref = min(running, key=lambda ref: self._shown.get(ref, running[ref].began))
            self._shown[ref] = now
            others = f" ({len(running) - 1} more running)" if len(running) > 1 else ""
            self._write_with_count(f"{self._sweep.label(ref)}: {amount(running[ref], ref.kind)}{others}")

    def _watch(self) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more: the next event raises it in the main thread
            while not self._over.wait(1.0):
                self.beat()

    def _write_with_count(self, text: str) -> None:
        self._write(f"[{self._sweep.done}/{self._sweep.total}] {text}")

    def _write(self, line: str) -> None:
        self._last, self._written = line, self._sweep.clock()
        print(one_line(line), file=self._stream, flush=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if self._last != (line := self._sweep.ending()):
            self._write(line)


class LiveDisplay:
    """Shows one line per running job and one for the sweep, and removes them at the end; notable lines scroll above."""

    def __init__(self, sweep: SweepProgress, stream: TextIO):
        self._sweep = sweep
        self._console = SafeConsole(file=stream, highlight=False)
        self._lock = threading.Lock()  # the live lines are drawn by a thread
        self._live = Live(console=self._console, get_renderable=self._lines, refresh_per_second=4, transient=True)

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._sweep.count(event)
        line = self._sweep.line(event)
        if line is not None and event.name != "done":
            self.say(line)

    def say(self, text: str) -> None:
        """Prints a line above the live ones."""
        self._console.print(escape(text), highlight=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()
        self.say(self._sweep.ending())

    def _lines(self) -> Text:
        with self._lock:
            return self._drawn()

    def _drawn(self) -> Text:
        width, ascii_only = self._console.width, self._console.options.ascii_only
        running = list(self._sweep.running.items())
        cells: list[tuple[str, str, str, str]] = []
        for ref, job in running:
            left = "" if not job.left else f"{duration(job.left)} left"
            share = f"{job.share:.0%}" if job.total else ""
            cells.append((visible(self._sweep.label(ref)), share, throughput(job.per_second, ref.kind), left))
        label, _, speed, time_left = (max((len(row[i]) for row in cells), default=0) for i in range(4))
        label = min(label, width * 11 // 20)
        room = width - label - 6 - sum(one + 2 for one in (speed, time_left) if one) - _MIN_TEXT
        bar_width = min(room, _LONGEST_BAR) if room >= _SHORTEST_BAR else 0
        lines = []
        for (_, job), (name, share, rate, remaining) in zip(running, cells, strict=True):
            shown = name if len(name) <= label else f"…{name[1 - label :]}"  # the end tells jobs of one kind apart
            line = Text(f"{shown:<{label}}  ")
            line.append_text(bar(job.share, bar_width, ascii_only))
            numbers = [share.rjust(4), *([rate.rjust(speed)] if speed else []), *([remaining.rjust(time_left)] if time_left else [])]
            line.append(f"{'  ' if bar_width else ''}{'  '.join(numbers)}")
            line.append(f"  {one_line(job.text)}", style="dim")
            lines.append(line)
        about = "" if not self._sweep.left else f", about {duration(self._sweep.left)} left"
        lines.append(Text(f"{self._sweep.standing()}{about}", style="bold"))
        for line in lines:
            line.truncate(width, overflow="ellipsis")
        return Text("\n").join(lines)


def one_line(text: str) -> str:
    """The text on one line, without control characters."""
    return visible(" ".join(text.splitlines()))


def bar(share: float, width: int, ascii_only: bool = False) -> Text:
    """A bar of so many characters, of which a share is filled. It can be read without colours."""
    full, rest = ("#", "-") if ascii_only else ("━", "─")
    filled = int(share * width)
    return Text.assemble((full * filled, "bar.complete"), (rest * (width - filled), "dim"))


def amount(job: _Job, kind: str) -> str:
    """Describes how far a job is, how fast it goes and how long it still takes."""
    share = f"{job.done}/{job.total} ({job.share:.0%})" if job.total else str(job.done or "running")
    left = "" if job.left is None else f"{duration(job.left)} left"
    return ", ".join(part for part in (share, throughput(job.per_second, kind), left, job.text) if part)


def throughput(per_second: float | None, kind: str) -> str:
    """Steps per second with the unit of this kind of job, such as `31 updates/s`; empty if the unit or the rate is unknown."""
    unit = KINDS[kind].unit if kind in KINDS else "steps"
    if per_second is None or not unit:
        return ""
    if per_second >= 1:
        return f"{per_second:,.0f} {unit}/s" if per_second >= 10 else f"{per_second:.1f} {unit}/s"
    return f"{60 * per_second:.1f} {unit}/min"


def duration(seconds: float) -> str:
    """A time span in words, such as 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
