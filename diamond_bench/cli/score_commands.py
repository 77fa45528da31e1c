"""The command `score`: measures frames that were imagined elsewhere, and prepares the starts for them."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from diamond_bench.cli.common import STUDIES, AsJson, Wait, app, open_store, out, run_jobs, say, working, writing
from diamond_bench.cli.running import run_plan, show_submission
from diamond_bench.errors import UserError


@app.command(rich_help_panel=STUDIES)
def score(
    words: Annotated[
        list[str],
        typer.Argument(metavar="FOLDER... [KEY=VALUE]...", help="Folders of imagined frames, and settings such as metrics=\\[drift,psnr]."),
    ],
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare",
            help="Write starts and actions to the new FOLDER, with a README that says what to imagine. Takes game= (by default Breakout), "
            "scale=, and settings of the starts.",
        ),
    ] = False,
    starts: Annotated[
        Path | None, typer.Option("--starts", metavar="FOLDER", help="Refuse frames that were not imagined for these prepared starts.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the folders, and show the jobs and their cost. Run nothing.")] = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Score frames that any program imagined, on starts and actions that --prepare wrote.

    Without metrics=, all metrics are measured that the frames allow. Several folders stand side by side in one report.
    """
    folders, tokens = [Path(word) for word in words if "=" not in word], [word for word in words if "=" in word]
    store = open_store([token for token in tokens if token.startswith("output_dir=")])
    if prepare:
        _check_preparing(folders, starts, wait)
        _prepare(folders[0], tokens, store, dry_run, as_json)
        return
    if not folders:
        raise UserError("score: name a folder of imagined frames; `diamond-bench score --prepare FOLDER game=...` writes starts for them")
    _score(folders, tokens, starts, store, dry_run, wait, as_json)


def _check_preparing(folders: list[Path], starts: Path | None, wait: bool) -> None:
    if not folders:
        raise UserError("score --prepare: name the new folder to write, such as `diamond-bench score --prepare starts game=Freeway`")
    if len(folders) > 1:
        raise UserError(f"score --prepare writes one folder, and {len(folders)} are named: {', '.join(map(str, folders))}")
    if starts is not None or wait:
        raise UserError(f"{'--wait' if wait else f'--starts {starts}'}: it has no effect with --prepare; leave it out")


def _prepare(folder: Path, tokens: list[str], store: Any, dry_run: bool, as_json: bool) -> None:
    from diamond_bench.printing import print_plan
    from diamond_bench.studies.score import plan_prepare

    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder} exists already; name a new folder")
    plan, config = plan_prepare(folder, tokens)
    if dry_run:
        print_plan(out, plan, store, as_json)
        return
    if as_json:
        raise UserError("--json: score --prepare prints a folder; use it with --dry-run")
    with writing(store):
        exit_code = run_jobs(plan, store).exit_code
    if exit_code:
        raise typer.Exit(exit_code)
    from diamond_bench.stored.score_starts import write_starts

    with working("writing the starts"):
        kinds = write_starts(store, next(iter(plan.jobs)), config, plan.scale, folder)
    then = shlex.join(["diamond-bench", "score", str(folder), *(token for token in tokens if token.startswith("output_dir="))])
    say(f"Wrote starts of {plan.points[0].game}: {', '.join(kinds)}. Its README.md says what to imagine. Then:\n  {then}")
    out.print(str(folder), markup=False)


def _score(folders: list[Path], tokens: list[str], starts: Path | None, store: Any, dry_run: bool, wait: bool, as_json: bool) -> None:
    from diamond_bench.config import SlurmCluster
    from diamond_bench.launch.devices import check_devices
    from diamond_bench.metrics.planning import require_weights
    from diamond_bench.printing import print_plan
    from diamond_bench.studies.score import plan_score

    with working("checking the frames"):
        plan = plan_score(folders, tokens, starts)
    on_slurm = isinstance(plan.cluster, SlurmCluster)
    check_devices(plan.executions(), here=not on_slurm)
    require_weights(plan.metrics)
    for sentence in plan.unmeasured:
        say(f"note: {sentence}")
    if dry_run:
        print_plan(out, plan, store, as_json)
        if on_slurm and not as_json:
            show_submission(plan, store)
        return
    with writing(store):
        exit_code = run_plan(plan, store, as_json, wait)
    raise typer.Exit(exit_code)
