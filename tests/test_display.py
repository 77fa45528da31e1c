"""What a person sees of a sweep, and the devices its workers are given."""

import io
import re
import time

import pytest
from fake_jobs import count

from diamond_bench.errors import UserError
from diamond_bench.launch import devices
from diamond_bench.launch.devices import worker_devices
from diamond_bench.launch.events import Event
from diamond_bench.launch.progress import LineDisplay, LiveDisplay, SweepProgress, duration, progress_display, throughput


def test_devices_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.shutil, "which", lambda name: name)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert worker_devices("auto", 0) == ["cuda:0", "cuda:1"]
    assert worker_devices("cuda", 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert worker_devices("cuda:1", 0) == ["cuda:1"]
    assert worker_devices("cpu", 2) == ["cpu", "cpu"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert worker_devices("auto", 0) == ["auto"]
    with pytest.raises(UserError, match="shows no GPU"):
        worker_devices("cuda:0", 0)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True

    def plain(self) -> str:
        """The text, without escape sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.getvalue())


def test_lines_say_what_happens_to_whom() -> None:
    stream, clock = io.StringIO(), Clock()
    spec, other = count("a"), count("b")
    with LineDisplay(SweepProgress({spec.ref: "n=3 Breakout"}, clock=clock), stream) as display:
        display(Event("planned", done=1, total=3))
        display(Event("started", spec.ref, text="cpu"))
        clock.now = 130
        display(Event("done", spec.ref))
        display(Event("failed", other.ref, text="bad [thing]\x1b[2J"))
        display.say("a\nline")
    assert stream.getvalue().splitlines() == [
        "1/3 jobs done, starting",
        "[1/3] count n=3 Breakout: started",
        "[2/3] count n=3 Breakout: done in 2 min",
        f"[2/3] count {other.ref.id[:8]}: failed: bad [thing]\\x1b[2J (see diamond-bench logs {other.ref.id[:8]})",
        "[2/3] a line",
        "2/3 jobs done, 1 failed in 2 min",
    ]
    assert [duration(seconds) for seconds in (45, 600, 12_000)] == ["45 s", "10 min", "3 h 20 min"]


def test_no_silence_is_longer_than_half_a_minute_and_many_jobs_give_no_more_lines() -> None:
    stream, clock = io.StringIO(), Clock()
    refs = [count(name).ref for name in "ab"]
    display = LineDisplay(SweepProgress(dict(zip(refs, ("n=1", "n=3"), strict=True)), clock=clock), stream)
    display(Event("planned", done=0, total=2))
    for clock.now in range(1, 35):
        display.beat()
    for ref in refs:
        display(Event("started", ref, text="cpu"))
    for clock.now in range(36, 160):
        if clock.now > 70:
            display(Event("progress", refs[0], clock.now, 1000, "loss 0.1"))
        display.beat()
    assert stream.getvalue().splitlines() == [
        "0/2 jobs done, starting",
        "0/2 jobs done, starting",  # after 30 s
        "[0/2] count n=1: started",  # after 34 s
        "[0/2] count n=3: started",
        "[0/2] count n=1: running (1 more running)",  # after 64 s
        "[0/2] count n=3: running (1 more running)",
        "[0/2] count n=1: 124/1000 (12%), 1.0 steps/s, 15 min left, loss 0.1 (1 more running)",
        "[0/2] count n=3: running (1 more running)",
    ]


def test_the_lines_come_without_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diamond_bench.launch.progress._LINE_EVERY_SECONDS", 0.0)
    stream, ref = io.StringIO(), count("a").ref
    with LineDisplay(SweepProgress({ref: "n=1"}), stream) as display:
        display(Event("planned", done=0, total=1))
        display(Event("started", ref, text="cpu"))
        end = time.monotonic() + 20
        while "running" not in stream.getvalue() and time.monotonic() < end:
            time.sleep(0.05)
    assert "[0/1] count n=1: running\n" in stream.getvalue()


def test_nothing_to_run_is_one_line() -> None:
    stream = io.StringIO()
    with LineDisplay(SweepProgress({}), stream) as display:
        display(Event("planned", done=3, total=3))
    assert stream.getvalue() == "3/3 jobs done\n"


def test_throughput_has_the_unit_of_the_kind() -> None:
    assert throughput(31.4, "train_world_model") == "31 updates/s"
    assert throughput(0.05, "evaluate_agent") == "3.0 episodes/min"
    assert throughput(10, "train_agent") == ""  # its progress is in thousandths
    assert throughput(None, "train_world_model") == ""


@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_terminal_shows_a_line_per_running_job(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, clock = Terminal(), Clock()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    first, second, third = (count(name).ref for name in "abc")
    labels = {first: "Breakout, seed 0", second: "Breakout, seed 1"}
    with LiveDisplay(SweepProgress(labels, {first: 10.0, second: 10.0, third: 10.0}, clock), stream) as display:
        display(Event("planned", done=0, total=3))
        display(Event("started", third))
        clock.now = 10.0
        display(Event("done", third))
        for ref in (first, second):
            display(Event("started", ref))
            display(Event("progress", ref, 0, 10, "loss [0.1]"))
        clock.now = 14.0
        display(Event("progress", first, 5, 10, "loss [0.1]"))
        stream.seek(0)
        stream.truncate()
        display._live.refresh()
        lines = stream.plain().replace("\r", "").splitlines()
    assert [len(line) <= width for line in lines] == [True] * 3
    assert lines[0].startswith(f"count Breakout{'' if width == 40 else ', seed 0'}")
    if width > 40:
        assert "  50%  1.2 steps/s  4 s left  loss [0.1]" in lines[0]
        assert lines[1].split()[5:7] == ["0%", "loss"]
        assert lines[2] == "1/3 jobs done, about 14 s left"  # 15 expected seconds of work took 14, and 15 are left


def test_a_resumed_job_does_not_count_earlier_work() -> None:
    clock, spec, other = Clock(), count("a"), count("b")
    sweep = SweepProgress({}, {spec.ref: 100.0, other.ref: 100.0}, clock)
    sweep.count(Event("started", spec.ref))
    sweep.count(Event("progress", spec.ref, 80, 100))
    clock.now = 10.0
    sweep.count(Event("progress", spec.ref, 90, 100))
    assert sweep.running[spec.ref].left == pytest.approx(10)
    assert sweep.left == pytest.approx(110)


def test_live_display_takes_every_event(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    spec = count("a")
    with progress_display({spec.ref: "n=3"}, stream) as display:
        for event in (
            Event("planned", done=0, total=1),
            Event("started", spec.ref),
            Event("progress", spec.ref, 5, 10, "loss [0.1]"),
            Event("said", spec.ref, text="resumed"),
            Event("failed", spec.ref, text="bad"),
        ):
            display(event)
    assert "count n=3: resumed" in stream.getvalue()
    assert "failed: bad" in stream.getvalue()
    assert stream.plain().rstrip().endswith("0/1 jobs done, 1 failed in 0 s")


def test_a_terminal_without_cursor_movement_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress_display({}, Terminal()), LineDisplay)
