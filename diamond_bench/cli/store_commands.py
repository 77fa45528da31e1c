"""Commands on the store: show, diff, du, gc, merge, export-dataset; and the weights of the learned metrics."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from diamond_bench.cli.common import MACHINE, STORE, AsJson, StoreOnly, app, jobs, open_store, out, say, writing

weights_app = typer.Typer(no_args_is_help=True, help="List or download the weights of the learned metrics (LPIPS, FID, FVD).")
app.add_typer(weights_app, name="weights", rich_help_panel=MACHINE)


@app.command(rich_help_panel=STORE)
def show(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The id of a job, or its first digits.")], overrides: StoreOnly = None
) -> None:
    """Show one job: its settings, state and results."""
    from diamond_bench.studies.overview import describe

    store = open_store(overrides)
    out.print(describe(store, store.find(job)), markup=False)


@app.command(rich_help_panel=STORE)
def diff(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The id of a job, or its first digits.")],
    other: Annotated[str, typer.Argument(metavar="OTHER", help="The id of the job to compare with.")],
    overrides: StoreOnly = None,
) -> None:
    """Show the settings in which two jobs differ."""
    from diamond_bench.printing import table
    from diamond_bench.studies.overview import differences

    store = open_store(overrides)
    found = list(differences(store, store.find(job), store.find(other)))
    if not found:
        say(f"{job} and {other} have the same settings")
        return
    shown = table("key", job, other)
    for row in found:
        shown.add_row(*row)
    out.print(shown)


@app.command(rich_help_panel=STORE)
def du(overrides: StoreOnly = None, as_json: AsJson = False) -> None:
    """Show how much disk each kind of job uses."""
    from diamond_bench.printing import print_usage
    from diamond_bench.studies.housekeeping import du as measure

    print_usage(out, measure(open_store(overrides)), as_json)


@app.command(rich_help_panel=STORE)
def gc(
    overrides: StoreOnly = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed. Remove nothing.")] = False,
    keep_frames: Annotated[
        bool, typer.Option("--keep-frames", help="Keep the frames that evaluations saved (evaluation.keep_frames).")
    ] = False,
    unplanned: Annotated[
        bool, typer.Option("--unplanned", help="Also remove damaged jobs and jobs that belong to no swept study.")
    ] = False,
) -> None:
    """Remove checkpoints of finished jobs and saved frames to free disk space."""
    from diamond_bench.printing import gigabytes
    from diamond_bench.studies.housekeeping import gc as collect_garbage
    from diamond_bench.studies.housekeeping import planned

    store = open_store(overrides)
    with writing(store):
        keep = planned(store.root) if unplanned else set()
        removals = collect_garbage(store, keep, frames=not keep_frames, unplanned=unplanned, dry_run=dry_run)
    for removal in removals:
        out.print(f"{removal.path} ({gigabytes(removal.bytes)}): {removal.reason}", markup=False)
    say(f"{'Would free' if dry_run else 'Freed'} {gigabytes(sum(removal.bytes for removal in removals))}")


@app.command(rich_help_panel=STORE)
def merge(other: Annotated[Path, typer.Argument(metavar="FOLDER", help="The other store's folder.")], overrides: StoreOnly = None) -> None:
    """Copy another store's finished jobs and plans into this one.

    Nothing is overwritten.
    """
    from diamond_bench.studies.housekeeping import merge as bring_in

    store = open_store(overrides)
    with writing(store):
        merged = bring_in(store, other)
    for reason in merged.refused:
        say(f"left out: {reason}")
    out.print(f"Copied {jobs(len(merged.copied))} and {len(merged.plans)} plans. {jobs(len(merged.present))} were here already.")


@app.command(rich_help_panel=STORE)
def export_dataset(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The id of a finished dataset, or its first digits.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The new folder.")],
    overrides: StoreOnly = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="NAME=COLUMN", help="Write the dataset's action column COLUMN as NAME of the layout.")
    ] = None,
    leave_out: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="An action column that is not written.")] = None,
    size: Annotated[
        str | None, typer.Option(metavar="HEIGHTxWIDTH", help="Resize frames by area. By default they keep their size.")
    ] = None,
) -> None:
    """Write a dataset as HDF5 files of frames, in the layout of Pearce and Zhu's Counter-Strike data."""
    from diamond_bench.stored.datasets import DATASETS, columns_of, export_frames, size_of

    store = open_store(overrides)
    dataset = store.find(job, DATASETS)
    train, heldout = export_frames(store, dataset, folder, columns_of(column or ()), leave_out or (), size_of(size), say)
    say(f"files for training: {train}; held-out files, which {folder}/test_split.txt names: {heldout}")


@weights_app.command("list")
def weights_list(as_json: AsJson = False) -> None:
    """List the weights: where each file is, or how to get it."""
    from diamond_bench.metrics.weights import status as weights_status
    from diamond_bench.printing import print_json, table

    if as_json:
        print_json(out, [dataclasses.asdict(found) | {"path": str(found.path or "")} for found in weights_status()])
        return
    shown = table("weights", "metric", "state", "where, or how to get them")
    for found in weights_status():
        shown.add_row(found.name, found.metric, found.state, str(found.path) if found.state == "found" else found.command)
    out.print(shown)


@weights_app.command("fetch")
def weights_fetch(
    weights: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Any of lpips, lpips-vgg, fid and fvd (see `weights list`). By default all."),
    ] = None,
) -> None:
    """Download weights and check them against their SHA-256. Weights that are here already are not downloaded again."""
    from diamond_bench.metrics.weights_download import fetch, weights_named

    for name in weights_named(weights or []):
        out.print(str(fetch(name, say)), markup=False)
