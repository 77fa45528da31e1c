"""A real one-node SLURM in a folder: own ports, key, socket and state, so that it meets no other SLURM of the machine.

Needs root and Debian's packages (`missing_reason` names them).
By hand, until Ctrl-C: python -P tests/slurm/cluster.py FOLDER [--accounting]

The node's GPUs are copies of /dev/null: SLURM counts and hands them out as it does real ones (`CUDA_VISIBLE_DEVICES`), and the machine
needs none. It also counts more CPUs and memory than the machine has: nothing is bound or limited, only counted.
"""

import argparse
import atexit
import contextlib
import os
import random
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

# proctrack/linuxproc and task/none need no cgroup: containers have none that can be written. cred_expire: a requeued job waits until its
# credential has surely expired, two minutes without this line; 5 seconds are the least that SLURM takes.
_SLURM_CONF = """
ClusterName={name} SlurmctldHost={host}(127.0.0.1) SlurmctldPort={controller} SlurmdPort={node} SlurmUser=root
AuthType=auth/munge CredType=cred/munge AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state SlurmdSpoolDir={folder}/spool SlurmctldPidFile={folder}/slurmctld.pid SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc TaskPlugin=task/none JobAcctGatherType=jobacct_gather/none MpiDefault=none MailProg=/bin/true
SelectType=select/cons_tres SelectTypeParameters=CR_CPU_Memory DefMemPerCPU=1000 GresTypes=gpu SlurmdParameters=config_overrides
SchedulerType=sched/backfill SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=100000,bf_interval=1
EnforcePartLimits=ALL PreemptMode=OFF MaxArraySize={max_array_size} MaxJobCount={max_job_count} MinJobAge=300
JobRequeue=1 KillWait=5 KillOnBadExit=0 CompleteWait=0 InactiveLimit=0 ReturnToService=2
"""
_CGROUP_CONF = """
ProctrackType=proctrack/cgroup TaskPlugin=task/cgroup JobAcctGatherType=jobacct_gather/cgroup JobAcctGatherFrequency=1
"""
_CGROUPS = """
CgroupPlugin=cgroup/v1 CgroupMountpoint=/sys/fs/cgroup CgroupAutomount=no ConstrainRAMSpace=yes ConstrainSwapSpace=yes AllowedSwapSpace=0
"""
_ACCOUNTING_CONF = """
AccountingStorageType=accounting_storage/slurmdbd AccountingStorageHost=127.0.0.1 AccountingStoragePort={slurmdbd}
AccountingStoragePass={folder}/munge.socket AccountingStorageEnforce=associations JobAcctGatherType=jobacct_gather/linux
"""
_SLURMDBD_CONF = """
AuthType=auth/munge AuthInfo=socket={folder}/munge.socket DbdHost=localhost DbdAddr=127.0.0.1 DbdPort={slurmdbd} SlurmUser=root
PidFile={folder}/slurmdbd.pid StorageType=accounting_storage/mysql StorageHost=127.0.0.1 StoragePort={mariadb}
StorageUser=slurm StoragePass={password} StorageLoc=slurm
"""

_PORTS = range(20_000, 30_000, 4)  # the first of four each; below those that Linux lends to whoever connects somewhere, at any moment
NODE = "node1"
ACCOUNT = "lab"
MARK = "DIAMOND_BENCH_TEST_CLUSTER"  # with the folder, in the environment of each daemon, and so of the slurmstepd that slurmd starts

_PACKAGES = {"munge": "munged", "slurmctld": "slurmctld", "slurmd": "slurmd", "slurm-client": "sbatch"}  # and what shows each is there
_ACCOUNTING_PACKAGES = {"slurmdbd": "slurmdbd", "mariadb-server": "mariadbd"}


class ClusterError(RuntimeError):
    """The cluster, or a client command, did not do what it was asked; holds what they said."""


def missing_reason(accounting: bool = False) -> str:
    """Why no cluster can be started on this machine, with what to install; "" where it can."""
    if os.geteuid() != 0:
        return "a test cluster needs root: slurmd starts jobs as their users"
    wanted = _PACKAGES | (_ACCOUNTING_PACKAGES if accounting else {})
    absent = {package: program for package, program in wanted.items() if shutil.which(program, path=_path()) is None}
    if absent:
        install = f"apt-get install -y --no-install-recommends {' '.join(absent)}"
        return f"no {', '.join(absent.values())} on this machine: {install}"
    return ""


def cgroups_missing_reason() -> str:
    """Why SLURM cannot limit memory on this machine; "" where it can. Needs the version 1 hierarchy, writable."""
    if Path("/proc/swaps").read_text().count("\n") > 1:
        return "swap would take what a memory limit is to refuse"
    trial = Path(f"/sys/fs/cgroup/memory/diamond-bench-{os.getpid()}")
    try:
        trial.mkdir()
        trial.rmdir()
    except OSError as error:
        return f"no memory cgroup can be made: {error}"
    return ""


def until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Waits until the condition holds; ClusterError naming `what` after `seconds`."""
    start, pause = time.monotonic(), 0.05
    while not condition():
        if time.monotonic() - start > seconds:
            raise ClusterError(f"not after {seconds:g} s: {what}")
        time.sleep(pause)
        pause = min(0.3, 1.3 * pause)  # most conditions start a client of SLURM, which takes time from other tests


@dataclass
class Cluster:
    """One node with its controller, in a new or empty folder. A context manager; `start` and `stop` do the same by hand.

    cpus, memory_mb, gpus: what SLURM counts, whatever the machine has. extra_conf: lines of slurm.conf, which replace ours of the same key.
    Partitions: `main` (default, no limit) and `short` (at most 10 minutes). With `accounting`, slurmdbd keeps a database, and only
    the accounts `lab` (default) and `root` may be charged. However this process ends, a watchdog ends the daemons and their jobs.
    """

    folder: Path
    gpus: int = 2
    cpus: int = 8
    memory_mb: int = 64_000
    max_array_size: int = 1001
    max_job_count: int = 20_000
    accounting: bool = False
    cgroups: bool = False
    """Whether the kernel limits the memory of tasks (see `cgroups_missing_reason`)."""
    extra_conf: str = ""
    env: dict[str, str] = field(default_factory=dict)
    """The environment of client commands, once started: SLURM_CONF is all that they need, and no SLURM variable of ours leaks in."""
    name: str = field(default_factory=lambda: f"test{secrets.token_hex(4)}")
    _daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict, repr=False)
    _ports: dict[str, int] = field(default_factory=dict, repr=False)
    _reservation: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)  # to the end: daemons start again
    _watchdog: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts every daemon and waits until the node is idle; ClusterError with the ends of the logs if it is not in 30 seconds."""
        if reason := missing_reason(self.accounting):
            raise ClusterError(reason)
        self._make_folder()
        foreign = re.compile(r"(SLURM|SBATCH|SQUEUE|SALLOC|SCANCEL|SINFO|SACCT)_")
        ours = {name: value for name, value in os.environ.items() if not foreign.match(name)}
        self.env = {**ours, "SLURM_CONF": f"{self.folder}/slurm.conf", "PATH": _path()}
        reservation, ports = reserved_ports()
        self._reservation.enter_context(reservation)
        self._ports = dict(zip(("controller", "node", "slurmdbd", "mariadb"), ports, strict=True))
        self._write_configuration()
        watch = [sys.executable, "-P", str(Path(__file__).resolve()), "--watch", str(self.folder)]
        self._watchdog = subprocess.Popen(watch, stdin=subprocess.PIPE, start_new_session=True, env=self.env)
        atexit.register(self.stop)
        munge = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "log", "pid", "seed")]
        try:
            self._launch("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *munge)
            until((self.folder / "munge.socket").exists, "munged's socket")
            if self.accounting:
                self._start_database()
            self._launch("slurmctld", "-D")
            self._launch("slurmd", "-D")
            until(self._idle, "an idle node")
        except BaseException as error:
            error.add_note(self.log_tails())
            self.stop()
            raise

    def stop(self) -> None:
        """Cancels all jobs, then ends the daemons and what their jobs left running; only processes of this cluster. Again is harmless."""
        atexit.unregister(self.stop)
        with contextlib.suppress(ClusterError, subprocess.TimeoutExpired):
            if self.alive("slurmctld"):
                self.cancel_all(seconds=10)
        for name in reversed(self._daemons):
            self._end(name)
        self._daemons.clear()
        if self._watchdog is not None:
            self._watchdog.communicate(timeout=30)  # closes its input, which tells it that we are gone: it ends what is left
            self._watchdog = None
        if self.cgroups:
            for folder in sorted(Path("/sys/fs/cgroup").glob(f"*/slurm_{NODE}/**/"), reverse=True):
                with contextlib.suppress(OSError):  # still in use: by another cluster
                    folder.rmdir()
        self._reservation.close()

    def call(self, *command: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        """A client command, in the cluster's folder, whatever it exits with."""
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=timeout, cwd=self.folder)

    def run(self, *command: str, timeout: float = 30) -> str:
        """What a client command prints, without the last newline; ClusterError with what it said if it fails."""
        done = self.call(*command, timeout=timeout)
        if done.returncode != 0:
            raise ClusterError(f"{' '.join(command)} exited with {done.returncode}: {done.stderr.strip()}")
        return done.stdout.rstrip("\n")

    def states(self) -> dict[str, str]:
        """Job id (of an array: id_index) to state, of all jobs that the controller still remembers."""
        lines = self.run("squeue", "--noheader", "--array", "--states=all", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def cancel_all(self, seconds: float = 30) -> None:
        """Cancels every job without the time to save that scancel gives, and waits until the node is free of them."""
        self.run("scancel", "--user=root")
        self.call("scancel", "--user=root", "--full", "--signal=KILL")  # says no when all are gone already
        start = time.monotonic()

        def empty() -> bool:
            if time.monotonic() - start > 2:  # without cgroups SLURM loses sight of a process whose parent died, yet waits for its output
                kill_processes(self.folder, daemons=False)
            return not self.run("squeue", "--noheader")

        until(empty, "an empty queue", seconds)

    def reset(self) -> None:
        """Brings back whatever daemon was ended, an undrained idle node and an empty queue."""
        for name, start in (("slurmctld", self.start_controller), ("slurmd", self.start_node)):
            if not self.alive(name):
                start()
        self.cancel_all()
        if not self._idle():
            self.set_node("RESUME")
            until(self._idle, "an idle node")

    def alive(self, name: str) -> bool:
        """Whether a daemon runs, by the name of its program."""
        return name in self._daemons and self._daemons[name].poll() is None

    def ended(self) -> list[str]:
        """The daemons that were started and run no more."""
        return [name for name in self._daemons if not self.alive(name)]

    def kill_controller(self, hard: bool = False) -> None:
        """Ends slurmctld, with `hard` without the time to save its state; jobs run on, and clients wait in vain."""
        self._end("slurmctld", signal.SIGKILL if hard else signal.SIGTERM)

    def start_controller(self) -> None:
        """Starts slurmctld anew from its saved state, and waits until it answers."""
        self._launch("slurmctld", "-D")
        until(lambda: "UP" in self.call("scontrol", "ping").stdout and self.call("squeue").returncode == 0, "a controller that answers")

    def restart_controller(self, pause: float = 0) -> None:
        """A controller that is away for `pause` seconds."""
        self.kill_controller()
        time.sleep(pause)
        self.start_controller()

    def start_node(self) -> None:
        """Starts slurmd anew, and waits until the controller hears of it."""
        self._launch("slurmd", "-D")
        until(lambda: _listens(self._ports["node"]) and "*" not in self.run("sinfo", "--noheader", "--format=%T"), "a node that answers")

    def restart_node(self, pause: float = 0) -> None:
        """A slurmd that is away for `pause` seconds; the steps it started run on."""
        self._end("slurmd")
        time.sleep(pause)
        self.start_node()

    def kill_node(self) -> None:
        """The end of the node's machine: slurmd, the steps and the jobs are gone at once, and nobody tells the controller."""
        others = {daemon.pid for name, daemon in self._daemons.items() if name != "slurmd"}
        if self._watchdog is not None:
            others.add(self._watchdog.pid)
        for process in (found for found in processes_of(self.folder) if found not in others):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        if "slurmd" in self._daemons:
            self._daemons["slurmd"].wait()

    def set_node(self, state: str, reason: str = "a test") -> None:
        """The node's state as an administrator sets it: DRAIN, DOWN, RESUME, ..."""
        self.run("scontrol", "update", f"NodeName={NODE}", f"State={state}", *([] if state == "RESUME" else [f"Reason={reason}"]))

    def log_tails(self, lines: int = 15) -> str:
        """The last lines of each daemon's output."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) for log in logs)

    def _idle(self) -> bool:
        return set(self.call("sinfo", "--noheader", "--format=%T").stdout.split()) == {"idle"}

    def _launch(self, name: str, *options: str) -> None:
        if self.alive(name):
            raise ClusterError(f"{name} runs already")
        command = [shutil.which(name, path=_path()) or name, *options]
        where: dict[str, Any] = {"env": self.env | {MARK: str(self.folder)}, "cwd": self.folder, "start_new_session": True}
        self._daemons.pop(name, None)  # so that the order stays that of the starts
        with (self.folder / f"{name}.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **where)

    def _end(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        if self.alive(name):
            daemon = self._daemons[name]
            daemon.send_signal(how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(timeout=10)
            daemon.kill()  # sent only to one that is still there
            daemon.wait()

    def _make_folder(self) -> None:
        self.folder = self.folder.resolve()
        if not re.fullmatch(r"[\w./+-]{1,90}", str(self.folder)):  # characters that slurm.conf takes; a socket's path has 107 at most
            raise ClusterError(f"{self.folder}: take a path of at most 90 letters, digits and . _ + -")
        self.folder.mkdir(parents=True, exist_ok=True)
        if any(self.folder.iterdir()):
            raise ClusterError(f"{self.folder} is not empty: a cluster starts in a folder of its own")
        for name in ("state", "spool"):
            (self.folder / name).mkdir()

    def _write_configuration(self) -> None:
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        for index in range(self.gpus):
            os.mknod(self.folder / f"gpu{index}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        gpus = f"NodeName={NODE} Name=gpu File={self.folder}/gpu[0-{self.gpus - 1}]\n" if self.gpus else ""
        (self.folder / "gres.conf").write_text(f"AutoDetect=off\n{gpus}")
        host = socket.gethostname().partition(".")[0]
        settings = _pairs(_SLURM_CONF, host=host, **self._ports, **vars(self))
        settings |= _pairs(_ACCOUNTING_CONF if self.accounting else "", **self._ports, **vars(self))
        if self.cgroups:
            settings |= _pairs(_CGROUP_CONF)
            (self.folder / "cgroup.conf").write_text(_lines(_pairs(_CGROUPS)))
        settings |= dict(line.split("=", 1) for line in self.extra_conf.split("\n") if line.strip())
        counted = f"CPUs={self.cpus} RealMemory={self.memory_mb}" + (f" Gres=gpu:{self.gpus}" if self.gpus else "")
        nodes = (
            f"NodeName={NODE} NodeHostname={host} NodeAddr=127.0.0.1 {counted} State=UNKNOWN",
            f"PartitionName=main Nodes={NODE} Default=YES MaxTime=INFINITE State=UP",
            f"PartitionName=short Nodes={NODE} MaxTime=10 State=UP",
        )
        (self.folder / "slurm.conf").write_text(_lines(settings) + "\n".join(nodes) + "\n")

    def _start_database(self) -> None:
        folder, data, password = self.folder, self.folder / "database", secrets.token_hex(16)
        self.run("mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db", timeout=60)
        setup, conf = folder / "database.sql", folder / "slurmdbd.conf"
        for secret in (setup, conf):
            secret.touch(mode=0o600)
        setup.write_text(f"GRANT ALL ON *.* TO slurm@'127.0.0.1' IDENTIFIED BY '{password}';\n")
        conf.write_text(_lines(_pairs(_SLURMDBD_CONF, folder=folder, password=password, **self._ports)))
        files = (f"--datadir={data}", f"--socket={folder}/mariadb.socket", f"--pid-file={folder}/mariadb.pid", f"--init-file={setup}")
        network = ("--bind-address=127.0.0.1", f"--port={self._ports['mariadb']}", "--skip-name-resolve")
        small = ("--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M", "--innodb-flush-log-at-trx-commit=0")
        self._launch("mariadbd", "--no-defaults", "--user=root", *files, *network, *small, "--innodb-lock-wait-timeout=900")
        until(lambda: _listens(self._ports["mariadb"]), "a database that answers")
        self._launch("slurmdbd", "-D")
        until(lambda: self.call("sacctmgr", "--noheader", "list", "cluster").returncode == 0, "a slurmdbd that answers")
        for added in (("cluster", self.name), ("account", ACCOUNT), ("user", "root", f"Account={ACCOUNT}")):
            self.run("sacctmgr", "--immediate", "add", *added)
        self.run("sacctmgr", "--immediate", "modify", "user", "root", "set", f"DefaultAccount={ACCOUNT}")


def _pairs(text: str, **values: object) -> dict[str, str]:
    """Keys and values of a configuration file, from words `key=value` in which {names} are filled in."""
    return dict(word.format_map(values).split("=", 1) for word in text.split())


def _lines(settings: dict[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def _path() -> str:
    """PATH with the folders where daemons are, which a user's own may lack."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def reserved_ports() -> tuple[socket.socket, range]:
    """Four ports that nobody listens on, and what keeps other clusters from them while it is open: a name that one socket has at a time."""
    for first in random.sample(_PORTS, len(_PORTS)):
        reservation, ports = socket.socket(socket.AF_UNIX), range(first, first + 4)
        try:
            reservation.bind(f"\0diamond-bench-test-cluster-{first}")
            for port in ports:
                socket.create_server(("", port)).close()
            return reservation, ports
        except OSError:
            reservation.close()
    raise ClusterError("there are no four free ports in a row")


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def processes_of(folder: Path, daemons: bool = True) -> list[int]:
    """The processes of the cluster in a folder: daemons and steps by their mark, jobs by SLURM_CONF and SLURM_JOB_ID.

    Not a client of it, nor a shell in which somebody exported SLURM_CONF.
    """
    mark, conf = f"{MARK}={folder}".encode(), f"SLURM_CONF={folder}/slurm.conf".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) != os.getpid():
            with contextlib.suppress(OSError):  # it may end while we look
                environment = (process / "environ").read_bytes().split(b"\0")
                job = conf in environment and any(value.startswith(b"SLURM_JOB_ID=") for value in environment)
                if job or (daemons and mark in environment):
                    found.append(int(process.name))
    return found


def kill_processes(folder: Path, daemons: bool = True) -> int:
    """Kills the processes of the cluster in a folder, one by one; how many there were."""
    for process in (found := processes_of(folder, daemons)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return len(found)


def watch(folder: Path) -> None:
    """Waits until the process at the other end of our standard input is gone, then kills what is left of its cluster."""
    sys.stdin.buffer.read()
    until(lambda: not kill_processes(folder), "nothing left to kill", seconds=5)  # what is killed may just have started another


def main() -> int:
    """Starts a cluster in the foreground; 2 where that cannot be, or where one of its daemons ends by itself."""
    parser = argparse.ArgumentParser(description="A real one-node SLURM, until Ctrl-C.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new or empty folder")
    parser.add_argument("--accounting", action="store_true", help="with slurmdbd and a database; only `lab` and `root` may be charged")
    parser.add_argument("--watch", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.watch:
        watch(options.folder)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what it runs in the background deaf to it
    try:
        with Cluster(options.folder, accounting=options.accounting) as cluster:
            print(f"export SLURM_CONF={cluster.env['SLURM_CONF']}", flush=True)
            until(cluster.ended, "", seconds=float("inf"))
            raise ClusterError(f"{', '.join(cluster.ended())} ended by itself:\n{cluster.log_tails()}")
    except KeyboardInterrupt:
        return 0
    except ClusterError as error:
        print(error, *getattr(error, "__notes__", []), sep="\n", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
