"""Starts CUDA's Multi-Process Service for the duration of a run, so that kernels of processes that share a GPU run concurrently.

The service is a private daemon in a private folder: other processes do not find it, and other daemons are not affected. A guard process
outlives its parent. It starts the daemon, and ends it when the run says so or has died (`kill -9`).
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from diamond_bench.config import SlurmCluster
from diamond_bench.errors import UserError
from diamond_bench.launch.devices import has_gpu
from diamond_bench.launch.resources import resources

PROGRAM = "nvidia-cuda-mps-control"
_SECONDS = 60.0
"""Time limit for the daemon to start, and to end."""
_SAVING_SECONDS = 35.0
"""Seconds between the death of a run and the end of the service: workers notice the death and have half a minute to save
(`launch.worker`)."""
_LONGEST_FOLDER = 60
"""Maximum length of a temporary folder's path: the paths of the daemon's sockets below it may have 107 characters."""
_END = b"end\n"


def check_mps(devices: Sequence[str], processes: int = 1) -> None:
    """Raises UserError if the service cannot run or would have no effect: on the CPU, without its program, or if no two processes share a
    GPU.

    `devices` has one entry per worker. `processes` is the largest number of processes that one job starts.
    """
    if set(devices) == {"cpu"} or not has_gpu():
        raise UserError("cluster.mps=true: CUDA's Multi-Process Service is for GPUs, and these jobs run on the CPU; leave it false")
    if shutil.which(PROGRAM) is None:
        raise UserError(f"cluster.mps=true: {PROGRAM} is not there (it comes with NVIDIA's driver); leave it false")
    if processes < 2 and not shared(devices):
        raise UserError("cluster.mps=true: no two processes share a GPU, so it has no effect; raise cluster.num_workers or leave it false")


def shared(devices: Sequence[str]) -> bool:
    """Whether two workers share a device."""
    return max(Counter(devices).values(), default=0) > 1


def check_packed_mps(cluster: SlurmCluster, kinds: Sequence[str]) -> None:
    """Raises UserError if a cluster profile asks for the service although no kind of job shares a GPU, so that it would have no effect."""
    asked = [resources(cluster, kind) for kind in kinds]
    if cluster.mps and not any(one.gpus and (one.packed or 1) > one.gpus for one in asked):
        raise UserError("cluster.mps=true: no two jobs share a GPU (cluster.packed), so it has no effect; leave it false")


@contextlib.contextmanager
def service(wanted: bool = True, saving_seconds: float = _SAVING_SECONDS) -> Iterator[None]:
    """Runs the service for every process that is started inside the context. Does nothing unless `wanted`.

    The service's two variables are set in this process's environment, which should not be changed elsewhere meanwhile. If this process is
    killed, the service continues for `saving_seconds`.

    Raises UserError with the daemon's output if it does not start. Nothing is left behind then.
    """
    if not wanted:
        yield
        return
    command = [sys.executable, "-P", "-m", "diamond_bench.launch.mps", str(saving_seconds)]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert guard.stdin is not None
    assert guard.stdout is not None
    before: dict[str, str | None] = {}
    try:
        answer = json.loads(guard.stdout.readline() or '{"error": "its guard could not start"}')
        if "error" in answer:
            raise UserError(f"cluster.mps=true: {PROGRAM} did not start: {answer['error']}")
        before = {name: os.environ.get(name) for name in answer["variables"]}
        os.environ.update(answer["variables"])
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        with contextlib.suppress(BrokenPipeError):
            guard.stdin.write(_END)
            guard.stdin.close()
        guard.wait()
        guard.stdout.close()


def main() -> None:
    """The guard: starts the daemon, prints its variables or the error, and ends the daemon when stdin ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # these signals are for the run, and its end ends this process
        signal.signal(number, lambda number, frame: None)  # the daemon would inherit SIG_IGN
    folder = Path(tempfile.mkdtemp(prefix="mps-", dir=_short_folder()))
    variables = {"CUDA_MPS_PIPE_DIRECTORY": str(folder / "pipe"), "CUDA_MPS_LOG_DIRECTORY": str(folder / "log")}
    try:
        for name in variables.values():
            Path(name).mkdir()
        error = _start({**os.environ, **variables})
        print(json.dumps({"error": error} if error else {"variables": variables}), flush=True)
        if not error:
            if not sys.stdin.buffer.read().endswith(_END):
                time.sleep(float(sys.argv[1]))
            _quit({**os.environ, **variables}, Path(variables["CUDA_MPS_PIPE_DIRECTORY"]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _short_folder() -> str:
    usual = tempfile.gettempdir()
    return usual if len(usual) <= _LONGEST_FOLDER else "/tmp"


def _start(environment: Mapping[str, str]) -> str:
    """Starts the daemon. Returns an error message, or an empty string."""
    with tempfile.TemporaryFile() as printed:  # not a pipe, which the daemon might keep open
        try:
            code = subprocess.run(
                [PROGRAM, "-d"], env=environment, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed, timeout=_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
        printed.seek(0)
        words = " ".join(printed.read().decode(errors="replace").split())
    return "" if code.returncode == 0 else f"exit code {code.returncode}: {words or 'it printed nothing'}"


def _quit(environment: Mapping[str, str], pipes: Path) -> None:
    """Ends the daemon of this folder, by a signal if it does not respond."""
    pid = _pid_of(pipes)
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run([PROGRAM], env=environment, input=b"quit\n", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=_SECONDS)
    end = time.monotonic() + _SECONDS
    while pid is not None and _is_daemon(pid):
        if time.monotonic() > end:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            return
        time.sleep(0.1)


def _pid_of(pipes: Path) -> int | None:
    try:
        return int((pipes / f"{PROGRAM}.pid").read_text())
    except (OSError, ValueError):
        return None


def _is_daemon(pid: int) -> bool:
    try:
        return PROGRAM.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


if __name__ == "__main__":
    main()
