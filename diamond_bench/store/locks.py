"""One owner per job: on one host, between hosts, and after an owner's death.

**Taking.** A job's owner is whoever made its newest claim file `claim-<number>`. The file is written and locked (flock) under a
temporary name, then hard-linked to the number after the newest one: link() fails where the name exists, on NFS too, so of all
contenders for a number exactly one wins, and nobody ever sees a claim that is half written or not yet locked. Numbers only rise.

**On one host** (one running kernel, identified by its boot id) the kernel drops an owner's flock when it dies, however it dies. A
claim of this host whose flock is free is therefore dead and may be succeeded at once; one whose flock is held is alive, even if
its process is stopped and misses heartbeats. Contenders and readers only ever test with shared, non-blocking locks, so they never
stand in each other's way. Forked children drop the descriptor: an orphan of a killed owner does not keep its claim alive.

**Between hosts** flock is not relied upon. The owner touches its claim every `beat_seconds`; another host may succeed it only
when the last touch is more than `takeover_seconds` ago. Both times are read from the file server's clock (a file touched now
against a file touched then), so the hosts' clocks need not agree. Released claims have the heartbeat 0 and stay, to keep the
numbers rising.

**Fencing.** An owner may be late (a suspended machine, a network cut): it must not publish after it was succeeded. `check` touches
the claim, which goes to the file server and fails if a successor has removed the file, looks for a higher number, and compares
inodes (a set-aside job's folder may have been created again, with numbers from 1). It is called before every publication. What remains
is an owner suspended for over `takeover_seconds` between a `check` and the rename that follows it. Its file then replaces
one of the same identity by a whole, valid file made from the same inputs: the store stays correct, the work was done twice.
"""

import contextlib
import errno
import fcntl
import functools
import json
import os
import platform
import re
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from diamond_bench.errors import UserError
from diamond_bench.store.files import DamagedFile, read_json, temporary_name
from diamond_bench.store.shapes import CLAIM, fit

_CLAIM = re.compile(r"claim-([0-9]{6}|[1-9][0-9]{6,8})")
_MAX_CLAIMS = 10**9 - 1
_CLAIM_BYTES = 2**16
_GONE = (errno.ENOENT, errno.ESTALE, errno.ENOTDIR)


class ClaimLost(Exception):
    """Another process has taken over this job, so this one must not publish anything."""


@functools.cache
def this_host() -> str:
    """The scope of flock: the running kernel's boot id (containers share it), or the host's name if there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


@dataclass(frozen=True)
class Timing:
    """How often an owner shows that it is alive, and the silence after which another host may take over."""

    beat_seconds: float = 10.0
    takeover_seconds: float = 120.0


@dataclass(frozen=True)
class Owner:
    """The newest claim of a job."""

    number: int
    path: Path
    heartbeat: float
    """Time of the last touch. 0 if the claim was released."""
    host: str = ""
    locked: bool = False
    """Whether it holds a flock (if the file system has them)."""

    def alive(self, host: str, timing: Timing, clock: Callable[[], float] = time.time) -> bool:
        """Whether the owner still holds the job, seen from `host`. `clock` is called only for owners on other hosts."""
        if self.heartbeat == 0:
            return False
        if self.locked and self.host == host:
            return not _flock_is_free(self.path)
        # a touch from the future does not count, since the clock is the file server's
        return abs(clock() - self.heartbeat) < timing.takeover_seconds


def newest_owner(folder: Path) -> Owner | None:
    """The newest claim in a job's folder, or None if there was never one (or no folder)."""
    number = max(_numbers(folder), default=0)
    if not number:
        return None
    path = _claim_path(folder, number)
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):  # a folder or a link, which no owner has written
            return Owner(number, path, 0.0)
        content = read_json(path, _CLAIM_BYTES)
        fit(content, CLAIM, path)
        return Owner(number, path, found.st_mtime, content["host"], content["locked"])
    except FileNotFoundError:  # succeeded during the check
        return newest_owner(folder)
    except DamagedFile:  # only its heartbeat decides
        return Owner(number, path, found.st_mtime)


class Lock:
    """Ownership of one job, kept alive by a thread until `release`."""

    def __init__(self, path: Path, descriptor: int, number: int, timing: Timing):
        self.number = number
        """The fencing token: 1 for a job's first owner, one more for each further owner."""
        self.lost = False
        """Set when the heartbeat finds that the job was taken over. `check` decides."""
        self._path = path
        self._descriptor = descriptor
        self._timing = timing
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat {path.parent.name}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Shows that the owner is alive. Raises ClaimLost if another process owns the job now."""
        try:
            os.utime(self._path)
            same = os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except OSError as error:
            if error.errno not in _GONE:
                raise
            same = False
        if not same or max(_numbers(self._path.parent), default=0) > self.number:
            self.lost = True
            raise ClaimLost(f"{self._path.parent} was taken over by another process")

    def release(self) -> None:
        """Releases the job, so that any process may take it at once."""
        self._quiet()
        with contextlib.suppress(ClaimLost, OSError):
            self.check()
            os.utime(self._path, (0, 0))
        self.abandon()

    def abandon(self) -> None:
        """Releases the lock without touching the folder (it was renamed or removed)."""
        self._quiet()
        _descriptors().discard(self._descriptor)
        os.close(self._descriptor)

    def _quiet(self) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self._timing.beat_seconds):
            try:
                self.check()
            except ClaimLost:
                return
            except OSError:  # the file server is unreachable: the owner's next check shows whether the job was taken over
                continue


def acquire(folder: Path, host: str, timing: Timing) -> Lock | None:
    """The lock of the job in `folder`. None while another process holds it (or if the folder is gone). Raises OSError of the file
    system."""
    try:
        newest = newest_owner(folder)
        if newest is not None and newest.alive(host, timing, partial(_file_server_time, folder)):
            return None
        number = newest.number + 1 if newest is not None else 1
        if number > _MAX_CLAIMS:
            raise UserError(f"{newest and newest.path}: no higher number of a claim is left; remove this file")
        path = _claim_path(folder, number)
        temporary = temporary_name(path)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        return None
    _descriptors().add(descriptor)
    won = False
    try:
        content = {"host": host, "locked": _try_flock(descriptor), "node": platform.node(), "pid": os.getpid(), "time": time.time()}
        os.write(descriptor, json.dumps(content).encode())
        os.fsync(descriptor)
        won = _link(temporary, path, descriptor)
    finally:
        temporary.unlink(missing_ok=True)
        if not won:
            _descriptors().discard(descriptor)
            os.close(descriptor)
    if not won:
        return None
    for older in _numbers(folder):
        if older < number:
            with contextlib.suppress(IsADirectoryError):  # a folder with such a name is nobody's claim, and stays
                _claim_path(folder, older).unlink(missing_ok=True)
    return Lock(path, descriptor, number, timing)


def _link(temporary: Path, path: Path, descriptor: int) -> bool:
    try:
        path.hardlink_to(temporary)
    except FileNotFoundError:  # the folder was set aside, or the winner cleaned up
        return False
    except FileExistsError:
        return os.fstat(descriptor).st_nlink == 2  # NFS: the reply of a successful link was lost, and it was tried again
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise UserError(f"{path.parent} lies on a file system without hard links: choose another with output_dir=FOLDER") from None
        raise
    return True


def _claim_path(folder: Path, number: int) -> Path:
    return folder / f"claim-{number:06d}"


def _numbers(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)  # noqa: PTH208 - names alone are needed, often
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [int(match[1]) for match in map(_CLAIM.fullmatch, names) if match]


def _try_flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # a file system without flock: heartbeats alone
        return False
    return True


def _flock_is_free(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:  # another process has just succeeded it
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _file_server_time(folder: Path) -> float:
    probe = temporary_name(folder / "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


@functools.cache
def _descriptors() -> set[int]:
    """Descriptors of this process's locks. Forked children close them."""
    held: set[int] = set()

    def drop() -> None:
        for descriptor in held:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        held.clear()

    os.register_at_fork(after_in_child=drop)
    return held
