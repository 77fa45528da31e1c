"""The paper's tables and figures."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from diamond_bench.cli.common import STUDIES, app, err, open_store, out


@app.command(rich_help_panel=STUDIES)
def paper(
    artifacts: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARTIFACT", help="table1, figure2, ..., or all (see docs/paper.md). output_dir=FOLDER names the store."),
    ] = None,
    results: Annotated[
        list[str] | None,
        typer.Option("--results", metavar="STUDY[:SCALE]", help="Also show the finished jobs of this study. The option can be repeated."),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option("--scores", help="A CSV file with scores of your own methods: method,game,seed,score,source.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help="Also show this published method, which is not in the paper (see docs/paper.md). The option can be repeated."
        ),
    ] = None,
    captions: Annotated[bool, typer.Option("--captions", help="Write captions into the figures' PNG and PDF files.")] = False,
    to: Annotated[Path, typer.Option("--out", help="The folder for the files.")] = Path("paper"),
) -> None:
    """Write the paper's tables and figures from published scores, finished studies and yours."""
    from rich.progress import Progress

    from paper_figures.build import build_paper

    words = artifacts or []
    store = open_store([word for word in words if word.startswith("output_dir=")])
    names = [word for word in words if not word.startswith("output_dir=")]
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("paper", total=None)

        def show_progress(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total, description=text)
            if not err.is_terminal:
                err.print(f"[{done}/{total}] {text}", markup=False)

        printed = partial(bar.console.print, markup=False)
        files = build_paper(names, results or [], scores, to, store, printed, show_progress, method or [], captions)
    for file in files:
        out.print(str(file), markup=False)
