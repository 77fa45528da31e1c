"""Two hosts on one disk: a job whose host falls silent is taken over, and the late host publishes nothing.

Namespaces stand in for hosts: each has a name and a boot id of its own, as machines that share a file server do. They share a kernel, so a
flock of the one is seen by the other, which a network file system may not grant; nothing here relies on it.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_jobs import count
from test_store import TESTS, make_store

from diamond_bench.store.locks import Timing

TIMING = Timing(beat_seconds=0.3, takeover_seconds=3.0)
JOB = count("a", steps=40, pause=0.1)
_CODE = """
import sys, fake_jobs
from diamond_bench.launch.attempt import run_job
from diamond_bench.store.locks import Timing
from diamond_bench.store.artifacts import Store
store = Store(sys.argv[1], kinds=fake_jobs.KINDS, timing=Timing(0.3, 3.0), say=lambda text: None)
spec = fake_jobs.count("a", steps=40, pause=0.1, ledger=sys.argv[2])
store.prepare(spec)
print("ready", flush=True)
while (end := run_job(store, spec.ref, "cpu")).name == "taken" and sys.argv[3] == "wait":
    pass
print(end.name, flush=True)
"""


def namespaces_missing() -> str:
    """Why no other host can be pretended; "" where it can."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return "to give a process another boot id takes root and unshare"
    trial = subprocess.run(["unshare", "--mount", "--uts", "mount", "--bind", "/dev/null", "/proc/sys/kernel/random/boot_id"], check=False)
    return "" if trial.returncode == 0 else "no file of /proc can be replaced in a namespace here"


def host(name: str, folder: Path, how: str) -> subprocess.Popen[str]:
    """A process of its own host that runs the job in `folder`; with `wait` it waits until nobody has it."""
    boot = folder / f"boot-{name}"
    boot.write_text(f"{name}\n")
    become = f'hostname {name} && mount --bind {boot} /proc/sys/kernel/random/boot_id && exec {sys.executable} -P -c "$1" {folder}/outputs'
    command = ["unshare", "--mount", "--uts", "sh", "-c", f"{become} {folder}/ledger {how}", "sh", _CODE]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def steps(folder: Path) -> list[tuple[int, int]]:
    """(step, process) in the order in which they were begun."""
    ledger = folder / "ledger"
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    return [(int(step), int(pid)) for _, step, pid in map(str.split, lines)]


@pytest.mark.slow
@pytest.mark.parametrize("dies", [True, False])
def test_a_silent_host_is_succeeded_and_publishes_nothing_when_it_comes_back(dies: bool, tmp_path: Path) -> None:
    if reason := namespaces_missing():
        pytest.skip(reason)
    one, other = host("one", tmp_path, "once"), None
    try:
        end = time.monotonic() + 120
        while len(steps(tmp_path)) < 3:
            assert time.monotonic() < end
            time.sleep(0.05)
        store = make_store(tmp_path / "outputs", timing=TIMING, host="a third one")
        assert store.state(JOB.ref).status == "running"
        one.send_signal(signal.SIGKILL if dies else signal.SIGSTOP)
        silent = time.monotonic()
        other = host("other", tmp_path, "wait")
        while len({pid for _, pid in steps(tmp_path)}) < 2:
            assert time.monotonic() < end
            time.sleep(0.05)
        waited = time.monotonic() - silent
        if not dies:
            one.send_signal(signal.SIGCONT)
        assert [process.communicate(timeout=120)[0].split()[-1] for process in (other, one)] == ["done", "ready" if dies else "taken"]
    finally:
        for process in (one, other):
            if process is not None:
                process.kill()
                process.wait()
    assert waited > TIMING.takeover_seconds - TIMING.beat_seconds
    state = store.state(JOB.ref)
    assert (state.status, state.host, state.attempt) == ("done", "other", 2)
    assert store.damage(JOB.ref, contents=True) == ""
    by_one, by_other = (
        [step for step, pid in steps(tmp_path) if pid == process] for process in dict.fromkeys(pid for _, pid in steps(tmp_path))
    )
    assert by_other == list(range(by_other[0], 40))
    assert by_other[0] in (by_one[-1], by_one[-1] + 1) or by_one == list(range(len(by_one)))
    assert store.result(JOB.ref).rows[0]["value"] == 40
