"""Worker processes that start as a copy of a process that has imported torch. This saves seconds of imports for each.

`start_template` forks this process before it runs any test. `ForkedPopen` asks this copy, the template, to fork again. The new process
becomes a child of ours. It gets the requested streams, folder and environment, and runs the requested module.
"""

import atexit
import ctypes
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

_PR_SET_CHILD_SUBREAPER = 36
_BYTES = 1 << 20
_asking = threading.Lock()
_template: tuple[int, socket.socket] | None = None
"""The template's process, and the socket on which it takes requests."""


def start_template(prepare: Callable[[], None]) -> None:
    """Forks the template, which calls `prepare` and ends with this process."""
    global _template
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        prepare()
        _serve(theirs.detach())
    theirs.close()
    _template = pid, ours


def end_template() -> None:
    """Ends the template."""
    global _template
    if _template is not None:
        pid, ours = _template
        ours.close()
        os.waitpid(pid, 0)
        _template = None


class ForkedPopen(subprocess.Popen[bytes]):
    """`subprocess.Popen` of the command `[sys.executable, "-P", "-m", MODULE, ...]`, without an interpreter of its own."""

    def _execute_child(self, args: list[str], executable: None, *rest: Any) -> None:
        (_, _, _, cwd, env), (p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite) = rest[:5], rest[8:14]
        assert args[:3] == [sys.executable, "-P", "-m"], args
        asked = {"words": args[3:], "cwd": os.fspath(cwd or Path.cwd()), "env": dict(env or os.environ)}
        streams = [given if given != -1 else number for number, given in enumerate((p2cread, c2pwrite, errwrite))]
        self.pid = _ask(asked, streams)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]


PROCESSES = SimpleNamespace(Popen=ForkedPopen, PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)
"""Replaces the module `subprocess` where workers are started."""


def _ask(asked: dict[str, object], streams: list[int]) -> int:
    """Requests a process from the template, and returns its number. It becomes our child because we adopt orphans for this moment."""
    assert _template is not None
    with _asking:
        _adopt_orphans(True)
        try:
            socket.send_fds(_template[1], [json.dumps(asked).encode()], streams)
            return int(_template[1].recv(_BYTES))
        finally:
            _adopt_orphans(False)


def _adopt_orphans(wanted: bool) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _serve(place: int) -> NoReturn:
    """Runs the template: forks a process for each request until the other end of the socket is closed."""
    os.closerange(3, place)
    os.closerange(place + 1, os.sysconf("SC_OPEN_MAX"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    atexit._clear()
    requests = socket.socket(fileno=place)
    while True:
        request, streams, _, _ = socket.recv_fds(requests, _BYTES, 3)
        if not request:
            os._exit(0)
        read, write = os.pipe()
        between = os.fork()
        if between == 0:
            child = os.fork()
            if child == 0:
                _become(json.loads(request), streams)
            os.write(write, str(child).encode())
            os._exit(0)
        os.waitpid(between, 0)  # its child is now adopted
        requests.send(os.read(read, 100))
        for number in (read, write, *streams):
            os.close(number)


def _become(asked: dict[str, Any], streams: list[int]) -> NoReturn:
    """Runs a module as the program, in a session of its own."""
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    module, *sys.argv[1:] = asked["words"]
    sys.modules.pop(module, None)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115 - as long as the process
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code if isinstance(code, int) else 1)
