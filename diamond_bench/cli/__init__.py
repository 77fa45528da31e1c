"""The command line: each command parses, calls a function below, and prints."""

import signal
import sys
from types import FrameType
from typing import Annotated

try:
    import typer

    from diamond_bench.cli.common import app, err, out
except KeyboardInterrupt:  # before `main` can see it
    sys.exit(130)

from diamond_bench.cli import agent_commands, cluster_commands, paper_commands, profile_commands, store_commands, study_commands
from diamond_bench.errors import UserError

__all__ = ["agent_commands", "app", "cluster_commands", "main", "paper_commands", "profile_commands", "store_commands", "study_commands"]


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        out.print(f"diamond-bench {version('diamond-bench')}", markup=False)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)] = False,
) -> None:
    """Options of no command."""


def main() -> None:
    """The console script. A mistake of the user's is one message and exit code 2; Ctrl-C is 130."""
    interrupted = False

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        app()
    except UserError as error:
        err.print(f"diamond-bench: {error}", markup=False, style="red")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        if interrupted:  # what it was raised in the middle of (an import) made another exception of it
            sys.exit(130)
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own ending would show a traceback
