"""Commands on datasets that are made from packages: list and fetch."""

from pathlib import Path
from typing import Annotated

import typer

from diamond_bench.cli.common import MACHINE, AsJson, app, out, say

datasets_app = typer.Typer(no_args_is_help=True, help="List or make datasets from what packages contain (human play of Freedoom).")
app.add_typer(datasets_app, name="datasets", rich_help_panel=MACHINE)


@datasets_app.command("list")
def datasets_list(as_json: AsJson = False) -> None:
    """List the datasets: where each is, or how to make it."""
    from diamond_bench.datasets.freedoom_demos import NAME, default_folder, finished
    from diamond_bench.errors import UserError
    from diamond_bench.printing import print_json, table

    folder, command = default_folder(), f"diamond-bench datasets fetch {NAME}"
    try:
        state = "missing" if finished(folder, 5) is None else "found"
    except UserError:
        state = "another"
    if as_json:
        print_json(out, [{"dataset": NAME, "state": state, "path": str(folder) if state == "found" else "", "command": command}])
        return
    shown = table("dataset", "state", "where, or how to make it")
    shown.add_row(NAME, state, str(folder) if state == "found" else command)
    out.print(shown)


@datasets_app.command("fetch")
def datasets_fetch(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="freedoom_demos (see `datasets list`).")],
    divisor: Annotated[
        int, typer.Option("--divisor", help="Reduce frames of 200 x 320 by this number: 1, 2, 4, 5, 8 or 10. 5 gives 40 x 64.")
    ] = 5,
    folder: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="The new folder. By default one among Minari's.")] = None,
    install_tool: Annotated[
        bool, typer.Option("--install-tool", help="Install cydoomgeneric (GPL-2), which draws the frames, in an environment of its own.")
    ] = False,
    tool_python: Annotated[
        Path | None, typer.Option("--tool-python", metavar="PYTHON", help="The Python of an environment that has cydoomgeneric.")
    ] = None,
) -> None:
    """Make a dataset and print its folder.

    Stopped with Ctrl-C, it continues with the next demo when it is started again.
    """
    from diamond_bench.datasets import freedoom_demos

    freedoom_demos.check_name(dataset)
    fetched = freedoom_demos.fetch(divisor, folder, tool_python, install_tool, say)
    say(f"{'Made' if fetched.created else 'It is there'}. SHA-256 of frames and actions: {fetched.content_sha256}")
    out.print(str(fetched.folder), markup=False)
