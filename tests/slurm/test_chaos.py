"""A study of 24 jobs on a real SLURM that is shot at while it runs: nothing lost, nothing done twice, the results of a quiet run.

    pytest -m slurm_chaos

What is shot and when comes from a seed (DIAMOND_BENCH_CHAOS_SEED, 0 by default); what it hits is whatever runs at that moment.
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from pathlib import Path

import fake_jobs
import pytest
from cluster import Cluster, ClusterError, cgroups_missing_reason, missing_reason, processes_of, until
from fake_jobs import add, count

from diamond_bench.config import SlurmCluster
from diamond_bench.launch.local import run_local
from diamond_bench.launch.slurm.client import SlurmError
from diamond_bench.launch.slurm.follow import wait
from diamond_bench.launch.slurm.submit import Order, submit
from diamond_bench.store.artifacts import Store
from diamond_bench.store.batches import read_batches
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.states import JobState

SEED = int(os.environ.get("DIAMOND_BENCH_CHAOS_SEED", "0"))
STEP_SECONDS = 0.25
PROFILE = SlurmCluster(gpus=0, cpus=1, memory="1G", time="5", signal_seconds=10, retries=1, retry_seconds=1.0, parallelism=1)
CONF = "UnkillableStepTimeout=300"
"""A step whose end the controller was too dead to hear of tells it again after 60 s: no reason to drain the node."""
_PATIENCE_SECONDS = 150.0
_MEND_SECONDS = 10.0
_SWEEP_SECONDS = 20.0
"""After which a user to whom nothing seems to run gives the command again."""
_NO_NODE = "node configuration is not available"
"""What SLURM says while the only node is drained, or has not yet registered with a new controller."""
_MAX_SWEEPS = 20
"""Of those after the last fault."""
_ATTEMPT = re.compile(r"^--- \S+ \S+ attempt (\d+) on .*?, pid (\d+),", re.MULTILINE)


@dataclass(frozen=True)
class Running:
    """A process of a task on the node."""

    pid: int
    task: str
    """SLURM's id of it, 12_3 or 12."""
    worker: bool
    """A worker, not the task's own process, its parent."""


@dataclass
class Chaos:
    """The study, the cluster it runs on, and what has been done to it."""

    cluster: Cluster
    store: Store
    orders: Sequence[Order]
    rng: random.Random
    tell: Callable[[str], None]
    began: float = field(default_factory=time.monotonic)
    hit: Counter[str] = field(default_factory=Counter)
    sweeps: int = 0
    swept: float = 0.0
    by_hand: Counter[str] = field(default_factory=Counter)
    """What SLURM itself would not get out of, and was undone as an administrator does."""
    mended: float = field(default_factory=time.monotonic)

    @property
    def specs(self) -> dict[JobRef, JobSpec]:
        return {ref: spec for order in self.orders for ref, spec in order.specs.items()}

    def sweep(self) -> None:
        """What the user's command does again: submits what is missing, of both studies."""
        self.swept = time.monotonic()
        for order in self.orders:
            self.sweeps += 1
            try:
                submit(self.store, order, self.say)
            except SlurmError as error:
                if not error.transient and _NO_NODE not in str(error):
                    raise
                self.say(f"not submitted: {error}")

    def done(self) -> bool:
        states = self.store.states()
        return all(ref in states and states[ref].status == "done" for ref in self.specs)

    def at_work(self) -> list[Running]:
        """Workers that have a job now, of tasks that SLURM knows to run."""
        busy = {state.pid for state in self.store.states().values() if state.status == "running"}
        known = self.cluster.states()
        return [found for found in processes(self.cluster) if found.worker and found.pid in busy and known.get(found.task) == "RUNNING"]

    def mend(self) -> None:
        """What an administrator does after a crash of the controller, which forgets what it had not saved yet.

        It may think that a task runs which has ended: nodes tell it what they run when they register, by themselves after 20 pings (half
        an hour by SLURM's defaults), or when asked to. It may start a task a second time: the node refuses, SLURM drains it and holds the
        task.
        """
        if time.monotonic() - self.mended < _MEND_SECONDS:
            return
        self.mended = time.monotonic()
        if "drain" in self.cluster.run("sinfo", "--noheader", "--format=%T"):
            self.by_hand["node drained"] += 1
            self.cluster.set_node("RESUME")
        for line in self.cluster.run("squeue", "--noheader", "--array", "--Format=JobArrayID:|,Reason:|").splitlines():
            if "launch failed" in line:
                self.by_hand["task held"] += 1
                self.cluster.run("scontrol", "release", line.partition("|")[0].strip())
        self.cluster.run("scontrol", "reconfigure")

    def target(self) -> Running:
        """A worker at work; there must be one before all is done."""
        found: list[Running] = []

        def look() -> bool:
            self.mend()
            found[:] = self.at_work()
            assert found or not self.done(), f"all was done after {dict(self.hit)}: the jobs are too short for these faults"
            if not found and time.monotonic() - self.swept > _SWEEP_SECONDS:
                self.sweep()
            return bool(found)

        try:
            until(look, "a worker at work", _PATIENCE_SECONDS)
        except ClusterError as error:
            raise ClusterError(f"{error}\n{self.shown()}") from None
        return self.rng.choice(found)

    def say(self, text: str) -> None:
        """For who watches, and who reads of a failure."""
        self.tell(f"{time.monotonic() - self.began:.1f} s: {text}")

    def shown(self) -> str:
        """What SLURM thinks, for a failing test."""
        return self.cluster.run("squeue", "--array", "--states=all", "--Format=JobArrayID,State,Reason:30,Dependency:40")

    def count(self, fault: str, what: object) -> None:
        self.hit[fault] += 1
        self.say(f"fault: {fault} ({what})")


def usr2(chaos: Chaos) -> None:
    """As SLURM says that the time limit is near, or a job is preempted."""
    before = chaos.hit["USR2 signal"]
    while chaos.hit["USR2 signal"] == before:
        target = chaos.target()
        with contextlib.suppress(
            ClusterError, subprocess.TimeoutExpired
        ):  # of a task that just ends, or goes back in line: tried for minutes
            chaos.cluster.run("scancel", "--signal=USR2", target.task, timeout=3)
            chaos.count("USR2 signal", target.task)


def scancel(chaos: Chaos) -> None:
    """A user, or an administrator, ends a task behind our back."""
    target = chaos.target()
    chaos.cluster.run("scancel", target.task)
    chaos.count("scancel", target.task)


def kill_worker(chaos: Chaos) -> None:
    """As the kernel's out-of-memory killer does."""
    target = chaos.target()
    with contextlib.suppress(ProcessLookupError):
        os.kill(target.pid, signal.SIGKILL)
        chaos.count("kill -9 of a worker", target)


def kill_task(chaos: Chaos) -> None:
    """The process that watches over a task's workers; they are left alone."""
    task = chaos.target().task
    for process in processes(chaos.cluster):
        if process.task == task and not process.worker:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
                chaos.count("kill -9 of a task's process", process)


def restart_node(chaos: Chaos) -> None:
    """An update of slurmd."""
    pause = chaos.rng.uniform(0, 3)
    chaos.target()
    chaos.cluster.restart_node(pause)
    chaos.count("slurmd restarted", f"{pause:.1f} s")


def restart_controller(chaos: Chaos) -> None:
    """An update of slurmctld, while tasks want things of it."""
    pause = chaos.rng.uniform(0, 4)
    chaos.target()
    chaos.cluster.restart_controller(pause)
    chaos.count("slurmctld restarted", f"{pause:.1f} s")


def kill_controller(chaos: Chaos) -> None:
    """Its machine's crash: what it has not saved yet is forgotten, a submission of just now among it."""
    chaos.target()
    chaos.cluster.kill_controller(hard=True)
    chaos.sweep()  # nobody answers
    chaos.cluster.start_controller()
    chaos.count("kill -9 of slurmctld", "a sweep meanwhile")


def kill_for_memory(chaos: Chaos) -> None:
    """The kernel's out-of-memory killer at the limit that SLURM has set for a task. A process that it spares takes all of that memory.

    Without cgroups, all processes of a task are killed at once, as SLURM does.
    """
    target = chaos.target()
    if not chaos.cluster.cgroups:
        for process in processes(chaos.cluster):
            if process.task == target.task:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        chaos.count("memory kill", f"kill -9 of all of {target.task}")
        return
    lines: list[str] = []
    while not lines:
        with contextlib.suppress(OSError):  # it may just have ended
            lines = Path(f"/proc/{target.pid}/cgroup").read_text().splitlines()
        target = target if lines else chaos.target()
    group = next(line.split(":", 2)[2] for line in lines if line.split(":", 2)[1] == "memory")
    members = f"/sys/fs/cgroup/memory{group}/cgroup.procs"
    take_all = f"import time; kept = b'1' * {2 * 2**30}; time.sleep(60)"
    take = f'echo -1000 > /proc/$$/oom_score_adj; echo $$ > {members} && exec python3 -c "{take_all}"'
    hog = subprocess.Popen(["sh", "-c", take], stderr=subprocess.DEVNULL)
    try:
        until(lambda: not Path(f"/proc/{target.pid}/cmdline").exists() or hog.poll() is not None, "a killed worker", 60)
    finally:
        hog.kill()
        hog.wait()
    chaos.count("memory kill", f"by the kernel, in {group}")


def kill_node(chaos: Chaos) -> None:
    """Its machine dies for good. An administrator says so to SLURM, and later puts another one in its place."""
    chaos.target()
    chaos.cluster.kill_node()
    chaos.cluster.set_node("DOWN", "it died")
    chaos.sweep()
    time.sleep(chaos.rng.uniform(0, 4))
    chaos.cluster.start_node()
    if set(chaos.cluster.run("sinfo", "--noheader", "--format=%T").split()) & {"down", "drained", "draining"}:  # it may resume by itself
        chaos.cluster.set_node("RESUME")
    chaos.count("node died", "another in its place")


FAULTS: dict[Callable[[Chaos], None], int] = {
    usr2: 3,
    scancel: 3,
    kill_worker: 3,
    kill_task: 3,
    restart_node: 2,
    restart_controller: 2,
    kill_controller: 2,
    kill_for_memory: 3,
    kill_node: 2,
}
"""How many of each."""


def processes(cluster: Cluster) -> list[Running]:
    """What our tasks run on the node: workers, and the process of each task."""
    found = []
    for pid in processes_of(cluster.folder):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            variables = dict(pair.split(b"=", 1) for pair in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") if b"=" in pair)
            named = {name: variables.get(name.encode(), b"").decode() for name in ("ARRAY_JOB_ID", "ARRAY_TASK_ID", "JOB_ID")}
            named = {name: variables.get(f"SLURM_{name}".encode(), b"").decode() for name in named}
            task = f"{named['ARRAY_JOB_ID']}_{named['ARRAY_TASK_ID']}" if named["ARRAY_JOB_ID"] else named["JOB_ID"]
            if "python" in Path(words[0]).name and task:
                worker = "diamond_bench.launch.worker" in words
                if worker or "submitit.core._submit" in words:
                    found.append(Running(pid, task, worker))
    return found


def jobs_of(name: str, ledger: Path, rng: random.Random) -> list[JobSpec]:
    """6 jobs of 14 to 26 seconds, and 6 that need one of them each, of 2 to 4."""
    left = [count(f"{name}-count{i}", steps=rng.randint(55, 105), pause=STEP_SECONDS, ledger=str(ledger)) for i in range(6)]
    right = [add(f"{name}-add{i}", left[i].ref, steps=rng.randint(8, 16), pause=STEP_SECONDS, ledger=str(ledger)) for i in range(6)]
    return [*left, *right]


def attempts(log: Path) -> list[tuple[int, bool]]:
    """(pid, whether it stopped when it was asked to, having saved) of each attempt that a job's log tells of."""
    text = log.read_text(errors="replace")
    starts = list(_ATTEMPT.finditer(text))
    ends = [*(start.start() for start in starts[1:]), len(text)]
    return [(int(start[2]), "--- interrupted: saved" in text[start.end() : end]) for start, end in zip(starts, ends, strict=True)]


def repeats(chaos: Chaos, ledger: Path) -> int:
    """Asserts what the ledger must say, and returns how many steps were begun twice.

    A step is noted before its work and checkpointed after it. So: each step is noted. One process at a time notes a job's, each one
    more. The next process goes on with the next step, or, only where its predecessor was killed between note and checkpoint, with
    that same step. One that was asked to stop and said that it had saved is never repeated.
    """
    noted: dict[str, list[tuple[int, int]]] = {}
    for line in ledger.read_text().splitlines():
        name, step, pid = line.split()
        noted.setdefault(name, []).append((int(step), int(pid)))
    again = 0
    for ref, spec in chaos.specs.items():
        name, steps = spec.config.name, spec.config.steps
        assert {step for step, _ in noted[name]} == set(range(steps)), f"{name}: steps are missing"
        runs = [(pid, [step for step, _ in lines]) for pid, lines in groupby(noted[name], key=lambda line: line[1])]
        assert len({pid for pid, _ in runs}) == len(runs), f"{name}: two processes at once: {runs}"
        assert all(run == list(range(run[0], run[0] + len(run))) for _, run in runs), f"{name}: {runs}"
        saved = dict(attempts(chaos.store.folder(ref) / "log.txt"))
        assert {pid for pid, _ in runs} <= set(saved), f"{name}: a process that its log does not tell of"
        for (pid, before), (_, after) in pairwise(runs):
            allowed = {before[-1] + 1} if saved[pid] else {before[-1], before[-1] + 1}
            assert after[0] in allowed, f"{name}: after step {before[-1]} of {pid} (saved: {saved[pid]}) came step {after[0]}"
            again += after[0] == before[-1]
    return again


@pytest.fixture
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of this test's own, since it kills the daemons."""
    if reason := missing_reason():
        pytest.skip(reason)
    with Cluster(tmp_path_factory.mktemp("slurm"), extra_conf=CONF, cgroups=not cgroups_missing_reason()) as cluster:
        yield cluster


@pytest.fixture
def chaos(own_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Chaos:
    def tell(text: str) -> None:
        with capsys.disabled():
            print(text, flush=True)

    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, own_cluster.env[name])
    monkeypatch.setenv("PYTHONPATH", str(Path(fake_jobs.__file__).parent), prepend=os.pathsep)
    rng = random.Random(SEED)
    store = Store(tmp_path / "outputs", kinds=fake_jobs.KINDS, say=lambda text: None)
    studies = {"alone": PROFILE, "packed": replace(PROFILE, packed=2)}
    orders = [
        Order({spec.ref: spec for spec in jobs_of(name, tmp_path / "ledger", rng)}, profile, name, {}, "cpu", kinds="fake_jobs:KINDS")
        for name, profile in studies.items()
    ]
    return Chaos(own_cluster, store, orders, rng, tell)


@pytest.mark.slurm_chaos
@pytest.mark.timeout(600)
def test_a_job_that_takes_more_memory_than_its_task_has(own_cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel kills its worker at the limit that SLURM has set. It is tried again, fails, and its neighbour goes on."""
    if not own_cluster.cgroups:
        pytest.skip(cgroups_missing_reason())
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, own_cluster.env[name])
    monkeypatch.setenv("PYTHONPATH", str(Path(fake_jobs.__file__).parent), prepend=os.pathsep)
    store = Store(tmp_path / "outputs", kinds=fake_jobs.KINDS, say=lambda text: None)
    hungry, neighbour = count("hungry", end="hungry"), count("neighbour", steps=20, pause=0.5, ledger=str(tmp_path / "ledger"))
    after = add("after", hungry.ref)
    order = Order(
        {spec.ref: spec for spec in (hungry, neighbour, after)},
        replace(PROFILE, memory="700M", packed=2, retry_seconds=0.0),
        "memory",
        device="cpu",
        kinds="fake_jobs:KINDS",
    )
    submit(store, order, lambda text: None)
    states = wait(store, [hungry.ref, neighbour.ref, after.ref], lambda states: None, every=0.5)
    assert {ref: states[ref].status for ref in states} == {hungry.ref: "failed", neighbour.ref: "done", after.ref: "cancelled"}, states
    assert "out of memory" in states[hungry.ref].error
    assert len(attempts(store.folder(hungry.ref) / "log.txt")) == 2
    (store.folder(hungry.ref) / "mended").touch()
    submit(store, order, lambda text: None)
    states = wait(store, [hungry.ref, after.ref], lambda states: None, every=0.5)
    assert {state.status for state in states.values()} == {"done"}, states
    assert [int(line.split()[1]) for line in (tmp_path / "ledger").read_text().splitlines()] == list(range(20))


@pytest.mark.slurm_chaos
@pytest.mark.timeout(1800)
def test_a_study_survives_what_happens_to_it(chaos: Chaos, tmp_path: Path) -> None:
    faults = [fault for fault, number in FAULTS.items() for _ in range(number)]
    chaos.rng.shuffle(faults)
    chaos.sweep()
    for fault in faults:
        time.sleep(chaos.rng.choice((0.0, 0.5, 1.0, 2.0, 4.0)))
        fault(chaos)
        chaos.sweep()
    shot = time.monotonic() - chaos.began
    states: dict[JobRef, JobState] = {}
    after = 0
    while not chaos.done():
        states = dict(wait(chaos.store, list(chaos.specs), lambda states: chaos.mend(), every=0.5))
        if not chaos.done():
            assert after < _MAX_SWEEPS, f"not done after {after} sweeps: {states}"
            after += 1
            chaos.say(f"sweep {after} after the last fault")
            chaos.sweep()
    until(lambda: not processes(chaos.cluster), "the end of every process of ours on the node", 60)
    until(lambda: "diamond-bench" not in chaos.cluster.run("squeue", "--noheader", "--format=%k"), "a queue without our tasks", 60)

    quiet = Store(tmp_path / "quiet", kinds=fake_jobs.KINDS)
    undisturbed = [replace(spec, config=replace(spec.config, pause=0.0, ledger="")) for spec in chaos.specs.values()]
    assert run_local(quiet, undisturbed, device="cpu", worker_arguments=("--kinds", "fake_jobs:KINDS")).exit_code == 0
    for ref in chaos.specs:
        found, expected = chaos.store.result(ref), quiet.result(ref)
        assert [row for row in found.rows if not row["measured"]] == [row for row in expected.rows if not row["measured"]]
        assert found.files == expected.files
        assert not chaos.store.damage(ref, contents=True)

    again = repeats(chaos, tmp_path / "ledger")
    begun = [attempt for ref in chaos.specs for attempt in attempts(chaos.store.folder(ref) / "log.txt")]
    saved = sum(stopped for _, stopped in begun)
    cut = len(begun) - saved - len(chaos.specs)
    chaos.tell(f"\nseed {SEED}: survived " + ", ".join(f"{number} x {fault}" for fault, number in sorted(chaos.hit.items())))
    chaos.tell(
        f"24 jobs done in {time.monotonic() - chaos.began:.0f} s, {shot:.0f} of them under fire: {len(begun)} attempts, "
        f"{saved} stopped and saved, {cut} cut short; {again} steps begun twice, none missing\n"
        f"{len(read_batches(chaos.store.root))} arrays in {chaos.sweeps} sweeps, {2 * after} of them after the last fault; "
        f"undone by hand: {dict(chaos.by_hand)}"
    )
    assert again <= cut
    assert len(chaos.hit) == len(FAULTS)
    assert min(chaos.hit.values()) >= 2
