"""Many runs on one device: measured with real processes, ended with them, and CUDA's Multi-Process Service around them."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from command_line import descendants
from small_agents import small_agent_config

from diamond_bench.config import LocalCluster, Resources, SlurmCluster
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import Interrupted, JobContext, Result
from diamond_bench.launch.local import run_local
from diamond_bench.launch.mps import PROGRAM, check_mps, check_packed_mps, service
from diamond_bench.profiling import packed_run, packing
from diamond_bench.profiling.lines import Line
from diamond_bench.profiling.packed_run import PackedRun, cycle, cycles_of, mixture, with_frequent_loads
from diamond_bench.profiling.packing import Measured, Packing, epochs_per_run, jobs, lines_of, measure, notes
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobSpec
from diamond_bench.store.kinds import KINDS as ALL_KINDS
from diamond_bench.store.kinds import Kind, TrainAgent

TESTS = Path(__file__).parent

pytestmark = pytest.mark.usefixtures("forked_workers")


@pytest.fixture(scope="module")
def small() -> TrainAgent:
    return small_agent_config("execution.num_threads=1")


# The work


@pytest.mark.parametrize(
    ("updates", "steps"), [((400, 400, 400), 100), ((10, 5, 3), 100), ((401, 400, 400), 100), ((2, 2, 1), 0), ((7, 0, 3), 1)]
)
def test_an_epoch_of_cycles_is_an_epoch(small: TrainAgent, updates: tuple[int, int, int], steps: int) -> None:
    denoiser, reward_end, actor_critic = updates
    agent = replace(
        small.agent, denoiser_updates=denoiser, reward_end_updates=reward_end, actor_critic_updates=actor_critic, steps_per_epoch=steps
    )
    counts = mixture(replace(small, agent=agent))
    done: Counter[str] = Counter()
    sizes = []
    for number in range(cycles_of(counts)):
        work = cycle(counts, number)
        done.update(dict.fromkeys(counts, 0))
        for name, times in work:
            done[name] += times
        sizes.append(sum(times for name, times in work if name != "real_step"))
    assert done == counts
    assert max(sizes) <= 61
    assert max(sizes) - min(sizes) <= 3


def test_kinds_take_turns_and_runs_begin_at_different_points() -> None:
    counts = {"denoiser": 6, "reward_end": 6, "actor_critic": 6, "real_step": 60}
    assert cycles_of(counts) == 6
    counts = {"denoiser": 6, "reward_end": 3, "actor_critic": 2}
    whole = cycle(counts, 0)
    kinds = [name for name, _ in whole]
    assert [kinds[:6].count(name) for name in counts] == [3, 2, 1]
    turned = cycle(counts, 0, turn=0.5)
    assert turned[0] == whole[5]
    assert Counter(turned) == Counter(whole)


@pytest.mark.parametrize(
    ("device", "threads", "processes", "each"),
    [("cpu", 2, 2, [1, 1, 2]), ("cpu", 8, 3, [2, 2, 2, 8]), ("cpu", 1, 4, [1, 1, 1, 1]), ("cuda:0", 8, 2, [8, 8])],
)
def test_runs_have_their_own_seeds_and_places_and_divide_the_threads(
    small: TrainAgent, device: str, threads: int, processes: int, each: list[int]
) -> None:
    specs = jobs(replace(small, execution=replace(small.execution, num_threads=threads)), device, processes)
    configs: list[PackedRun] = [spec.config for spec in specs]
    assert [config.execution.num_threads for config in configs] == each
    assert [config.training.seed for config in configs] == [small.seed + number for number in range(len(each))]
    assert [config.turn for config in configs[:processes]] == [number / processes for number in range(processes)]
    assert len({spec.ref for spec in specs}) == len(specs)


@pytest.mark.parametrize(("preload", "loaded"), [(256, 17), (16, 16)])
def test_start_segments_are_loaded_every_few_updates(small: TrainAgent, preload: int, loaded: int) -> None:
    settings = replace(small.actor_critic, batch_size=64, steps_per_update=15, preload=preload)
    built = with_frequent_loads(replace(small, actor_critic=settings))
    assert built == replace(small, actor_critic=replace(settings, preload=loaded)), "15 steps of a rollout, and 128 segments at once"


# What it comes to


def measured(**changes: object) -> Measured:
    built = Measured(4, (8, 2), (2.0, 2.0, 4.0), (3.0, 6.0, 8.0), "appaap", 1000)
    return replace(built, **changes)  # type: ignore[arg-type]


def test_runs_a_day_and_updates_a_second(small: TrainAgent) -> None:
    lines = {line.name: line for line in lines_of(small, measured())}
    assert cycles_of(mixture(small)) == 1
    runs, updates = lines["packed_4"], lines["packed_4_denoiser"]
    assert (runs.unit, updates.unit) == ("runs/day", "updates/s")
    assert runs.median == pytest.approx(6.0 * 86400 / epochs_per_run(small))
    assert runs.other == pytest.approx(2.0 * 86400 / epochs_per_run(small))
    assert updates.median == pytest.approx(6.0 * small.agent.denoiser_updates)
    assert lines["packed_4_real_step"].median == pytest.approx(6.0 * small.agent.steps_per_epoch)
    assert (runs.ratio, runs.ratio_low, runs.ratio_high) == (2.0, 1.75, 2.5), "of the pairs' ratios 1.5, 3 and 2"
    assert (lines["packed_4_memory"].median, lines["packed_4_threads"].median, lines["packed_4_threads"].other) == (1000, 2, 8)
    assert all(isinstance(line, Line) for line in lines.values())
    said = " ".join(notes(Packing(small, (4,)), [measured()]))
    assert "2 CPU threads each, against 8 CPU threads of the one alone; 3 pairs" in said


def test_a_run_is_so_many_epochs_as_its_arithmetic(small: TrainAgent) -> None:
    agent = small.agent
    alike = replace(
        agent,
        first_denoiser_updates=agent.denoiser_updates,
        first_reward_end_updates=agent.reward_end_updates,
        first_actor_critic_updates=agent.actor_critic_updates,
    )
    later = math.ceil((agent.budget - agent.initial_steps) / agent.steps_per_epoch)
    assert epochs_per_run(replace(small, agent=alike)) == pytest.approx(1 + later + agent.final_epochs)
    assert epochs_per_run(small) > epochs_per_run(replace(small, agent=alike))


# Real processes


def children() -> list[int]:
    """The workers of this process. Each is a copy of the template, and leads a session of its own."""

    def is_worker(pid: int) -> bool:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may end while we look
            return os.getsid(pid) == pid and Path(f"/proc/{pid}/cmdline").read_bytes() == Path("/proc/self/cmdline").read_bytes()
        return False

    return [pid for pid in descendants(os.getpid()) if is_worker(pid)]


def works_by_name(config: TrainAgent, device: object) -> Mapping[str, Callable[[int], object]]:
    """Work that takes known times, in place of that of networks."""
    return {name: lambda times: time.sleep(0.002 * times) for name in mixture(config)}


def job(config: PackedRun, context: JobContext) -> Result:
    """The job `packed_run` with such work; with the game Pong it fails."""
    if config.training.game == "Pong":
        raise UserError("there is no ball")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_run, "works_of", works_by_name)
        return packed_run.run(config, context)


PACKED_KINDS = {"packed_run": Kind(PackedRun, "test_packing:job", 1)}


@pytest.fixture
def sleeping(small: TrainAgent, monkeypatch: pytest.MonkeyPatch) -> TrainAgent:
    """A training whose packed runs are real processes, and sleep in place of computing."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
    monkeypatch.setattr(packing, "_KINDS", "test_packing:PACKED_KINDS")
    agent = replace(small.agent, denoiser_updates=2, reward_end_updates=1, actor_critic_updates=1, steps_per_epoch=6)
    return replace(small, agent=agent)


def test_two_runs_at_once(sleeping: TrainAgent) -> None:
    seen: list[str] = []
    found = measure(Packing(sleeping, (2,), seconds=0.2), 2, "cpu", lambda share, text: seen.append(text), pairs=2)
    assert found.order == "appa"
    assert len(found.alone) == len(found.packed) == 2
    assert all(20 < rate <= 50 for rate in found.alone), "a cycle sleeps 10 times 2 ms"
    assert sum(found.packed) / sum(found.alone) == pytest.approx(2, rel=0.5)
    assert found.threads == (1, 1)
    assert found.bytes > 2 * 100e6
    assert seen[0] == "networks and warm-up"
    assert seen[-1] == "alone, pair 2 of 2"
    assert not children()


def test_a_run_works_with_its_networks_until_it_is_stopped(small: TrainAgent, tmp_path: Path) -> None:
    files = packed_run.RunFiles(tmp_path)
    agent = replace(small.agent, denoiser_updates=1, reward_end_updates=1, actor_critic_updates=1, steps_per_epoch=2)
    context = JobContext(tmp_path, should_stop=lambda: len(files.read_ends()) == 2)
    begun = time.monotonic()
    result = packed_run.run(PackedRun(replace(small, agent=agent)), context)
    first, second = files.read_ends()
    assert begun < first < second < time.monotonic()
    assert result.info["bytes"] > 100e6


def test_a_run_that_fails_is_one_message_with_its_log(sleeping: TrainAgent, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"run [12] of 2 that share the device failed: there is no ball; its log ends: .*no ball"):
        measure(Packing(replace(sleeping, game="Pong"), (2,)), 2, "cpu")
    assert "Traceback" in capfd.readouterr().out, "all of it is in the profile's log"
    assert not children()


def test_a_killed_process_ends_all(sleeping: TrainAgent) -> None:
    def kill_one(share: float, text: str) -> None:
        if text.startswith("packed") and len(children()) == 2:
            os.kill(children()[1], signal.SIGKILL)

    with pytest.raises(UserError, match=r"run [12] of 2 .* failed: killed by signal 9 \(out of memory\?\); its log ends: .*attempt 1"):
        measure(Packing(sleeping, (2,), seconds=0.1), 2, "cpu", kill_one)
    assert not children()


def test_a_stop_ends_all(sleeping: TrainAgent, tmp_path: Path) -> None:
    context = JobContext(tmp_path, should_stop=lambda: len(children()) == 2)
    with pytest.raises(Interrupted):
        packing.run(Packing(sleeping, (2,)), context)
    assert not children()


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_service_must_be_there_where_it_is_asked_for(small: TrainAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    with pytest.raises(UserError, match="none is running"):
        packing.run(Packing(small, (2,), mps=True), JobContext(tmp_path))


# CUDA's Multi-Process Service

DAEMON = """#!/bin/bash
echo "$* $CUDA_MPS_PIPE_DIRECTORY" >> "$MPS_CALLS"
pid="$CUDA_MPS_PIPE_DIRECTORY/nvidia-cuda-mps-control.pid"
if [ "$1" = "-d" ]; then
  [ -n "$MPS_FAILS" ] && echo "An instance of this daemon is already running" && exit 1
  [ -d "$CUDA_MPS_LOG_DIRECTORY" ] || exit 3
  (exec -a nvidia-cuda-mps-control sleep 600) & echo $! > "$pid"
else
  read -r word; echo "$word $CUDA_MPS_PIPE_DIRECTORY" >> "$MPS_CALLS"
  [ "$word" = quit ] && kill "$(cat "$pid")"
fi
exit 0
"""


@dataclass(frozen=True)
class StandIn:
    calls_file: Path

    @property
    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []

    @property
    def folder(self) -> str:
        return self.calls[0].partition(" ")[2]


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A machine that seems to have a GPU and the service's program."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in ((PROGRAM, DAEMON), ("nvidia-smi", "#!/bin/sh\necho 'GPU 0: stand-in'\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setenv("MPS_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/somebody/else")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return StandIn(tmp_path / "calls")


@dataclass(frozen=True)
class Look:
    """A job that says which service it would talk to."""

    name: str
    end: str = ""
    packed: tuple[int, ...] | None = None


KINDS = {"look": Kind(Look, "test_packing:look", 1, cost="diamond_bench.costs.profile:COST")}


def look(config: Look, context: JobContext) -> Result:
    (context.folder / "found").write_text(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
    if config.end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    while config.end == "stuck":
        time.sleep(0.1)
    return Result()


def looking(tmp_path: Path, *jobs: Look) -> tuple[Store, list[JobSpec]]:
    store = Store(tmp_path / "outputs", kinds=KINDS, say=lambda text: None)
    return store, [JobSpec("look", job, {}, revision=1) for job in jobs]


WORKER = ("--kinds", "test_packing:KINDS", "--grace", "1")


def daemons_of(folder: str) -> list[int]:
    """Processes whose environment names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and folder.encode() in (entry / "environ").read_bytes() and alive(int(entry.name)):
                found.append(int(entry.name))
    return found


def test_workers_are_given_a_service_of_their_own(stand_in: StandIn, tmp_path: Path) -> None:
    store, specs = looking(tmp_path, Look("one"), Look("two", end="killed"))
    summary = run_local(store, specs, num_workers=2, worker_arguments=WORKER, mps=True)
    assert (len(summary.done), len(summary.failed)) == (1, 1)
    folder = stand_in.folder
    assert len(folder) < 80
    assert stand_in.calls == [f"-d {folder}", f" {folder}", f"quit {folder}"]
    assert {(store.folder(spec.ref) / "found").read_text() for spec in specs} == {folder}
    assert os.environ["CUDA_MPS_PIPE_DIRECTORY"] == "/somebody/else"
    assert "CUDA_MPS_LOG_DIRECTORY" not in os.environ
    assert not Path(folder).parent.exists()
    assert not daemons_of(folder)


def test_the_service_ends_with_an_exception(stand_in: StandIn) -> None:
    with contextlib.suppress(KeyboardInterrupt), service():
        assert Path(stand_in.folder).stat().st_uid == os.getuid()
        assert Path(stand_in.folder).parent.stat().st_mode & 0o077 == 0
        raise KeyboardInterrupt
    assert stand_in.calls[-1] == f"quit {stand_in.folder}"
    assert not daemons_of(stand_in.folder)


SWEEP = """
import test_packing, sys
from pathlib import Path
store, specs = test_packing.looking(Path(sys.argv[1]), test_packing.Look("one", end="stuck"))
import diamond_bench.launch.local as local
sys.exit(local.run_local(store, specs, num_workers=2, worker_arguments=test_packing.WORKER, mps=True).exit_code)
"""


def test_the_service_ends_with_a_run_that_is_stopped(stand_in: StandIn, tmp_path: Path) -> None:
    found = tmp_path.joinpath("outputs", "look")
    with subprocess.Popen([sys.executable, "-P", "-c", SWEEP, str(tmp_path)], stderr=subprocess.DEVNULL) as process:
        until(lambda: any(found.glob("*/found")))
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)  # the job never comes to a step boundary
    assert process.returncode == 130
    assert stand_in.calls[-1] == f"quit {stand_in.folder}"
    assert not daemons_of(stand_in.folder)


KILLED = """
import time
from diamond_bench.launch.mps import service
with service(saving_seconds=0.5):
    print("on", flush=True)
    time.sleep(600)
"""


def test_the_service_ends_with_a_run_that_is_killed_after_its_workers_had_time_to_save(stand_in: StandIn) -> None:
    with subprocess.Popen([sys.executable, "-P", "-c", KILLED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        process.kill()
        process.wait()
        killed = time.monotonic()
        until(lambda: stand_in.calls[-1] == f"quit {stand_in.folder}")
        assert time.monotonic() - killed > 0.4
    until(lambda: not Path(stand_in.folder).exists() and not daemons_of(stand_in.folder))


def test_a_daemon_that_does_not_start_is_reported_and_nothing_is_created(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPS_FAILS", "1")
    store, specs = looking(tmp_path, Look("one"))
    with pytest.raises(UserError, match="did not start: exit code 1: An instance of this daemon is already running"):
        run_local(store, specs, num_workers=2, worker_arguments=WORKER, mps=True)
    assert not store.root.exists()
    assert not Path(stand_in.folder).parent.exists()


@pytest.mark.parametrize(
    ("devices", "processes", "without", "message"),
    [
        (["cpu", "cpu"], 1, "", "run on the CPU"),
        (["auto", "auto"], 1, "nvidia-smi", "run on the CPU"),
        (["auto", "auto"], 1, PROGRAM, f"{PROGRAM} is not there"),
        (["auto"], 1, "", "no two processes share a GPU"),
        (["cuda:0", "cuda:1"], 1, "", "no two processes share a GPU"),
        (["cuda:0", "cuda:1", "cuda:0"], 1, "", ""),
        (["auto"], 2, "", ""),
    ],
)
def test_it_is_refused_where_it_would_do_nothing(
    stand_in: StandIn, tmp_path: Path, devices: list[str], processes: int, without: str, message: str
) -> None:
    if without:
        (tmp_path / "bin" / without).unlink()
    if message:
        with pytest.raises(UserError, match=message):
            check_mps(devices, processes)
    else:
        check_mps(devices, processes)


def test_a_run_is_refused_before_anything_is_created(stand_in: StandIn, tmp_path: Path) -> None:
    store, specs = looking(tmp_path, Look("one"))
    for options in ({"num_workers": 1}, {"num_workers": 2, "device": "cpu"}):
        with pytest.raises(UserError, match=r"cluster\.mps=true"):
            run_local(store, specs, worker_arguments=WORKER, mps=True, **options)  # type: ignore[arg-type]
    assert not store.root.exists()
    assert not stand_in.calls


def test_one_worker_may_have_it_for_a_job_that_starts_several_processes(stand_in: StandIn, tmp_path: Path) -> None:
    store, specs = looking(tmp_path, Look("one", packed=(2, 4)))
    assert run_local(store, specs, num_workers=1, worker_arguments=WORKER, mps=True).exit_code == 0
    assert stand_in.calls[-1].startswith("quit ")


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({}, False),
        ({"mps": True}, True),
        ({"mps": True, "packed": 2}, False),
        ({"mps": True, "packed": 2, "gpus": 2}, True),
        ({"mps": True, "packed": 2, "gpus": 0}, True),
        ({"mps": True, "train_agent": Resources(packed=4)}, False),
    ],
)
def test_a_cluster_s_profile_that_packs_nothing_is_refused(changes: Mapping[str, object], refused: bool) -> None:
    profile = replace(SlurmCluster(), **changes)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"cluster\.packed") if refused else contextlib.nullcontext():
        check_packed_mps(profile, tuple(ALL_KINDS))


def test_it_is_off_where_nothing_is_said() -> None:
    assert not LocalCluster().mps
    assert not SlurmCluster().mps
