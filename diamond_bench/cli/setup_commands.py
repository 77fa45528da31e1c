"""Commands on this machine: doctor and completion."""

import dataclasses
from typing import Annotated

import typer

from diamond_bench.cli.common import MACHINE, AsJson, StoreOnly, app, open_store, out, say
from diamond_bench.errors import UserError


@app.command(rich_help_panel=MACHINE)
def doctor(overrides: StoreOnly = None, as_json: AsJson = False) -> None:
    """Check what this machine has, what is missing, what that costs, and how to get it.

    Exit code 0 if the main job (sweep sampling_steps scale=smoke) can run, 1 otherwise.
    """
    from diamond_bench.doctor import MAIN_JOB, blocked, examine
    from diamond_bench.printing import print_checks, print_json

    checks = examine(open_store(overrides).root)
    wanting = blocked(checks)
    if as_json:
        print_json(out, [dataclasses.asdict(check) for check in checks])
    else:
        print_checks(out, checks, wanting, f"diamond-bench sweep {' '.join(MAIN_JOB)}")
    raise typer.Exit(1 if wanting else 0)


@app.command(rich_help_panel=MACHINE)
def completion(
    shell: Annotated[str | None, typer.Argument(metavar="bash|zsh|fish", help="The shell; by default the one that $SHELL names.")] = None,
    install: Annotated[bool, typer.Option("--install", help="Install the script for this user in place of printing it.")] = False,
) -> None:
    """Print or install the script for completion in your shell.

    The shell then completes commands, studies, scales, config keys and job ids.
    """
    from diamond_bench.cli.completion import install as write_script
    from diamond_bench.cli.completion import script, users_shell

    chosen = shell or users_shell()
    if not install:
        out.write(script(chosen))
        return
    try:
        file, startup = write_script(chosen)
    except OSError as error:
        raise UserError(f"completion --install: {error.filename}: {error.strerror}") from None
    say(f"Wrote {file}{f', and added a line that reads it to {startup}' if startup else ''}")
    say("It works in every shell that you start from now on.")
