"""The paper's tables and figures."""

from pathlib import Path
from typing import Annotated

import typer

from diamond_bench.cli.common import app, err, open_store, out


@app.command()
def paper(
    artifacts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ARTIFACT]...", help="table1, figure2, ... or all (docs/paper.md); output_dir=FOLDER names the store."),
    ] = None,
    results: Annotated[
        list[str] | None,
        typer.Option("--results", metavar="STUDY[:SCALE]", help="Show this swept study's finished jobs too; may be given several times."),
    ] = None,
    scores: Annotated[Path | None, typer.Option("--scores", help="A CSV of your own methods: method,game,seed,score,source.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method", help="Show this published method, which the paper lacks, too (docs/paper.md); may be given several times."
        ),
    ] = None,
    to: Annotated[Path, typer.Option("--out", help="Folder to write to.")] = Path("paper"),
) -> None:
    """Make the paper's tables and figures from published scores, finished studies and your own scores."""
    from rich.progress import Progress

    from paper_figures.build import build_paper

    words = artifacts or []
    store = open_store([word for word in words if word.startswith("output_dir=")])
    names = [word for word in words if not word.startswith("output_dir=")]
    with Progress(console=err, transient=True) as bar:
        task = bar.add_task("paper", total=None)

        def show_progress(done: int, total: int, text: str) -> None:
            bar.update(task, completed=done, total=total, description=text)
            if not err.is_terminal:
                err.print(f"[{done}/{total}] {text}", markup=False)

        files = build_paper(
            names, results or [], scores, to, store, lambda text: bar.console.print(text, markup=False), show_progress, method or []
        )
    for file in files:
        out.print(str(file), markup=False)
