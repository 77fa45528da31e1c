"""The command line: each command parses, calls a function below, and prints."""

import contextlib
import errno
import io
import os
import signal
import sys
from types import FrameType
from typing import Annotated

try:
    import typer

    from diamond_bench.cli.common import app, err, out
except KeyboardInterrupt:  # before `main` can see it
    sys.exit(130)

from diamond_bench.cli import (
    agent_commands,
    cluster_commands,
    completion,
    correlation_commands,
    dataset_commands,
    paper_commands,
    play_commands,
    profile_commands,
    score_commands,
    setup_commands,
    store_commands,
    study_commands,
)
from diamond_bench.errors import UserError
from diamond_bench.terminal import visible

__all__ = [
    "agent_commands",
    "app",
    "cluster_commands",
    "correlation_commands",
    "dataset_commands",
    "main",
    "paper_commands",
    "play_commands",
    "profile_commands",
    "score_commands",
    "setup_commands",
    "store_commands",
    "study_commands",
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        out.print(f"diamond-bench {version('diamond-bench')}", markup=False)
        raise typer.Exit


_MODULES = (
    study_commands,
    correlation_commands,
    score_commands,
    play_commands,
    paper_commands,
    agent_commands,
    store_commands,
    cluster_commands,
    profile_commands,
    setup_commands,
)
"""The commands' modules in the order of the list of commands."""
app.registered_commands.sort(key=lambda command: [module.__name__ for module in _MODULES].index(str(command.callback.__module__)))


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)] = False,
) -> None:
    """Options that belong to no command."""


def main() -> None:
    """The console script. A user's mistake gives one message and exit code 2. Ctrl-C gives 130, and output that cannot be written 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an encoding without a character shows its escape
    code: object = 0
    try:
        _run()
    except SystemExit as end:
        code = end.code
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output left
        _discard(1)
        code = code or 1
    except OSError as error:
        _complain(f"the output cannot be written: {error.strerror or error}")
        _discard(1)
        code = code or 1
    sys.exit(code)  # type: ignore[arg-type]


def _complain(problem: object) -> None:
    try:
        err.print(f"diamond-bench: {problem}", markup=False, style="red")
    except (UserError, OSError):  # nobody can be reached
        _discard(2)


def _discard(descriptor: int) -> None:
    """Redirects a standard stream to nowhere: otherwise Python would try again to write what is still buffered, and print a traceback."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _complete(words: list[str]) -> None:
    """Answers a shell that completes a line. A problem offers nothing, because a message would disturb the line."""
    shell, line = [*words, "", ""][:2]
    with contextlib.suppress(UserError, OSError):
        for offer in completion.answer(typer.main.get_command(app), shell, line):
            out.write(f"{offer}\n")


def _run() -> None:
    interrupted = False

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        for word in sys.argv[1:]:
            if word != visible(word):
                raise UserError(f"{visible(word)}: control characters and changes of direction are not taken")
        if sys.argv[1:2] == [completion.ASK]:
            _complete(sys.argv[2:])
            return
        app()
    except UserError as error:
        _complain(error)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if interrupted:  # what it was raised in the middle of (an import) made another exception of it
            sys.exit(130)
        if isinstance(error, PermissionError) and error.filename:
            from diamond_bench.store.files import refusal

            _complain(refusal(error))
            sys.exit(2)
        if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP) and error.filename:
            _complain(f"{error.filename}: {error.strerror}")
            sys.exit(2)
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own ending would show a traceback
