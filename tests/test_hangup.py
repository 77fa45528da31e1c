"""A terminal that is closed while a sweep runs: the running jobs save, and the same sweep goes on from there."""

import contextlib
import os
import pty
import signal
import sys
import time
from pathlib import Path

import pytest
from fake_jobs import count
from test_store import TESTS, make_store

from diamond_bench.launch.interrupts import counted_interrupts


def test_a_hangup_asks_to_stop_and_is_ignored_where_the_caller_ignores_it(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr("diamond_bench.launch.interrupts._leave_the_terminal", lambda: left.append(1))
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with counted_interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert (interrupts.count, left) == (1, [1])
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with counted_interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts.count == 0
    finally:
        signal.signal(signal.SIGHUP, before)


_SWEEP = """
import sys, fake_jobs
from diamond_bench.launch.local import run_local
from diamond_bench.launch.progress import LineDisplay, SweepProgress
from diamond_bench.store.artifacts import Store
spec = fake_jobs.count("a", steps=600, pause=0.1, ledger=sys.argv[2])
with LineDisplay(SweepProgress({}), sys.stderr) as display:
    summary = run_local(Store(sys.argv[1], kinds=fake_jobs.KINDS), [spec], device="cpu", on_event=display,
                        worker_arguments=("--kinds", "fake_jobs:KINDS"))
open(sys.argv[2] + ".end", "w").write(f"{len(summary.interrupted)} interrupted, {summary.exit_code}")
"""


@pytest.mark.slow
def test_a_closed_terminal_lets_the_job_save(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    child, terminal = pty.fork()
    if child == 0:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        os.execv(sys.executable, [sys.executable, "-P", "-c", _SWEEP, str(tmp_path / "outputs"), str(ledger)])
    end = time.monotonic() + 120
    while not ledger.exists() or len(ledger.read_text().splitlines()) < 3:
        assert time.monotonic() < end
        time.sleep(0.1)
    with contextlib.suppress(OSError):
        os.set_blocking(terminal, False)
        os.read(terminal, 10_000)
    os.close(terminal)
    os.waitpid(child, 0)
    state = make_store(tmp_path / "outputs").state(count("a", steps=600).ref)
    assert (tmp_path / "ledger.end").read_text() == "1 interrupted, 130"
    assert state.status == "preempted"
    assert state.done == len(ledger.read_text().splitlines())
