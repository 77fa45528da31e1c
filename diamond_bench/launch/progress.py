"""Shows the progress of a sweep on stderr: a live table on a terminal, and occasional lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from diamond_bench.launch.events import Event
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.states import remaining_seconds
from diamond_bench.terminal import SafeConsole, visible

_LINE_EVERY_SECONDS = 10.0
_SHOWN_DIGITS = 8


class Display(Protocol):
    """The object that receives the events of `run_local`: call it with each event, inside its context."""

    def __call__(self, event: Event) -> None: ...

    def say(self, text: str) -> None:
        """Shows a line that belongs to no job."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


def progress_display(labels: Mapping[JobRef, str], stream: TextIO | None = None) -> Display:
    """The display for `stream` (stderr): live on a terminal, lines elsewhere. `labels` describe jobs by their variant, game and seed."""
    stream = stream or sys.stderr
    return LiveDisplay(labels, stream) if stream.isatty() else LineDisplay(labels, stream)


class _Counts:
    """Tracks the progress of the whole sweep from its events."""

    def __init__(self, labels: Mapping[JobRef, str]):
        self._labels = labels
        self.done = self.total = self.failed = self.blocked = 0

    def count(self, event: Event) -> None:
        if event.name == "planned":
            self.done, self.total = event.done, event.total
        self.done += event.name == "done"
        self.failed += event.name == "failed"
        self.blocked += event.name == "blocked"

    def overall(self) -> str:
        parts = [f"{self.done}/{self.total} jobs done"]
        parts += [f"{number} {word}" for number, word in ((self.failed, "failed"), (self.blocked, "blocked")) if number]
        return ", ".join(parts)

    def label(self, ref: JobRef) -> str:
        return f"{ref.kind} {self._labels.get(ref, ref.id[:_SHOWN_DIGITS])}"

    def line(self, event: Event) -> str | None:
        """The event as a line to be kept, or None if it is not notable."""
        if event.ref is None:
            return event.text if event.name == "said" else None
        texts = {
            "said": event.text,
            "done": f"done {event.text}".rstrip(),
            "failed": f"FAILED: {event.text} (log of {event.ref})",
            "interrupted": f"stopped: {event.text}",
            "taken": f"left to {event.text}",
            "blocked": f"blocked by {event.text}",
        }
        return f"{self.label(event.ref)}: {texts[event.name]}" if event.name in texts else None


class LineDisplay:
    """Prints one line per notable event, and one per running job every ten seconds."""

    def __init__(self, labels: Mapping[JobRef, str], stream: TextIO):
        self._counts = _Counts(labels)
        self._stream = stream
        self._since: dict[JobRef, tuple[int, float]] = {}
        self._shown_at: dict[JobRef, float] = {}

    def __call__(self, event: Event) -> None:
        self._counts.count(event)
        now = time.time()
        if event.ref is not None and event.name == "progress":
            since = self._since.setdefault(event.ref, (event.done, now))
            if now - self._shown_at.get(event.ref, since[1]) >= _LINE_EVERY_SECONDS or event.ref not in self._shown_at:
                self._shown_at[event.ref] = now
                left = remaining_seconds(since, event.done, event.total, now)
                self.say(f"{self._counts.label(event.ref)}: {amount(event)}{'' if left is None else f', {duration(left)} left'}")
            return
        if event.ref is not None:
            self._since.pop(event.ref, None)
            self._shown_at.pop(event.ref, None)
        line = f"{self._counts.label(event.ref)}: begun" if event.ref and event.name == "started" else self._counts.line(event)
        if line is not None:
            self.say(line)
        elif event.name == "planned":
            self.say(self._counts.overall())

    def say(self, text: str) -> None:
        """Writes a line with the progress of the sweep."""
        print(f"[{self._counts.done}/{self._counts.total}] {visible(text)}", file=self._stream, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.say(self._counts.overall())


class LiveDisplay:
    """Shows a bar per running job and one for the sweep; notable lines scroll above."""

    def __init__(self, labels: Mapping[JobRef, str], stream: TextIO):
        self._counts = _Counts(labels)
        self._tasks: dict[JobRef, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=SafeConsole(file=stream),
        )
        self._overall = self._progress.add_task("sweep", total=None, text="")

    def __call__(self, event: Event) -> None:
        self._counts.count(event)
        if event.ref is not None:
            if event.name == "started":
                self._tasks[event.ref] = self._progress.add_task(escape(self._counts.label(event.ref)), total=None, text="")
            elif event.name == "progress" and event.ref in self._tasks:
                total = event.total or None
                self._progress.update(self._tasks[event.ref], completed=event.done, total=total, text=escape(event.text))
            elif event.name in ("done", "failed", "interrupted", "taken") and event.ref in self._tasks:
                self._progress.remove_task(self._tasks.pop(event.ref))
        line = self._counts.line(event)
        if line is not None and event.name != "done":
            self.say(line)
        self._progress.update(self._overall, completed=self._counts.done, total=self._counts.total or None, text=self._counts.overall())

    def say(self, text: str) -> None:
        """Prints a line above the bars."""
        self._progress.console.print(escape(text), highlight=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()


def amount(event: Event) -> str:
    """Describes how far a job is."""
    share = f"{event.done}/{event.total} ({event.done / event.total:.0%})" if event.total else str(event.done)
    return f"{share}, {event.text}" if event.text else share


def duration(seconds: float) -> str:
    """A time span in words, such as 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
