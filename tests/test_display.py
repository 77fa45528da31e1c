"""What a person sees of a sweep, and the devices its workers are given."""

import io

import pytest
from fake_jobs import count

from diamond_bench.errors import UserError
from diamond_bench.launch import devices
from diamond_bench.launch.devices import worker_devices
from diamond_bench.launch.events import Event
from diamond_bench.launch.progress import duration, progress_display


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


def test_lines_say_what_happens_to_whom() -> None:
    stream = io.StringIO()
    spec = count("a")
    with progress_display({spec.ref: "n=3 Breakout"}, stream) as display:
        display(Event("planned", done=1, total=3))
        display(Event("started", spec.ref, text="cpu"))
        display(Event("progress", spec.ref, 5, 10, "loss 0.1"))
        display(Event("progress", spec.ref, 6, 10, "loss 0.1"))
        display(Event("done", spec.ref))
        display(Event("failed", spec.ref, text="bad [thing]"))
        display.say("a line")
    assert stream.getvalue().splitlines() == [
        "[1/3] 1/3 jobs done",
        "[1/3] count n=3 Breakout: begun",
        "[1/3] count n=3 Breakout: 5/10 (50%), loss 0.1",
        "[2/3] count n=3 Breakout: done",
        f"[2/3] count n=3 Breakout: FAILED: bad [thing] (log of {spec.ref})",
        "[2/3] a line",
        "[2/3] 2/3 jobs done, 1 failed",
    ]
    assert [duration(seconds) for seconds in (45, 600, 12_000)] == ["45 s", "10 min", "3 h 20 min"]


def test_live_display_takes_every_event(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

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
    assert "FAILED: bad" in stream.getvalue()
