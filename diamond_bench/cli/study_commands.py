"""Commands on studies: list, sweep, status, results, power, report."""

import contextlib
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from diamond_bench.cli.common import (
    AsJson,
    Overrides,
    Study,
    Wait,
    app,
    open_store,
    out,
    print_results,
    run_plan,
    say,
    standing_of,
    writing,
)
from diamond_bench.errors import UserError


@app.command()
def studies() -> None:
    """List the studies that can be swept."""
    from diamond_bench.printing import table
    from diamond_bench.studies.spec import load_study, study_files

    shown = table("study", "question", "paper")
    for name in study_files():
        study = load_study(name, "paper")
        shown.add_row(name, study.question, study.paper)
    out.print(shown)


@app.command()
def sweep(
    study: Study,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the jobs and what they would cost; run nothing.")] = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Run every job of a study that is not done yet, then draw its report. The same command again resumes.

    With cluster=slurm the jobs are submitted and the command returns at once.
    """
    from diamond_bench.cli.cluster_commands import show_submission
    from diamond_bench.config import SlurmCluster
    from diamond_bench.evaluation.weights import require
    from diamond_bench.launch.devices import check_devices, check_there
    from diamond_bench.printing import print_plan
    from diamond_bench.studies.answerable import limits
    from diamond_bench.studies.older import older_sentence
    from diamond_bench.studies.plan import plan_study

    tokens = overrides or []
    plan, store = plan_study(study, tokens), open_store(tokens)
    check_devices(plan.executions(), here=not isinstance(plan.cluster, SlurmCluster))
    if dry_run:
        print_plan(out, plan, store, as_json)
        on_slurm = isinstance(plan.cluster, SlurmCluster) and not as_json
        readable = partial(store.require_readable, plan.jobs, store.states())
        there = [] if isinstance(plan.cluster, SlurmCluster) else [partial(check_there, plan.execution.device)]
        submission = [lambda: show_submission(plan, store)] if on_slurm else []
        for check in (*there, readable, lambda: require(plan.metrics), store.require_writable, *submission):
            try:
                check()
            except UserError as error:
                say(f"A sweep without --dry-run would be refused: {error}")
        return
    require(plan.metrics)
    for limit in limits(plan):
        say(f"note: {limit}")
    if older := older_sentence(plan.jobs, store, store.states()):
        say(older)
    with writing(store):
        exit_code = run_plan(plan, store, as_json, wait)
    raise typer.Exit(exit_code)


@app.command()
def register(
    study: Study,
    overrides: Overrides = None,
    export: Annotated[Path | None, typer.Option("--export", help="Copy the registration to this file, to attach to a paper.")] = None,
) -> None:
    """Write down a study's comparison before any job runs; a sweep does it too. Repeat the overrides of the sweep."""
    from diamond_bench.studies.plan import as_saved, plan_study
    from diamond_bench.studies.registration import export_file
    from diamond_bench.studies.registration import register as write_registration

    store = open_store(overrides)
    plan = as_saved(plan_study(study, overrides or []), store.root)
    store.require_writable()
    with writing(store):
        registration, _ = write_registration(plan, lambda ref: store.state(ref).status == "done", fewer_seeds=True)
    stands = standing_of(plan, store)
    if stands.changes:
        raise UserError(f"{registration.file} stays as it is, since evaluations of it have finished. {stands.sentence}")
    say(stands.sentence)
    if export is not None:
        export_file(registration, export)
        say(f"wrote {export}")
    out.print(str(registration.file), markup=False)


@app.command()
def status(
    study: Annotated[str | None, typer.Argument(help="A study's name; all that were swept, where none is given.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every two seconds (ten with SLURM), until Ctrl-C.")] = False,
) -> None:
    """Say how the jobs of swept studies stand."""
    from rich.live import Live

    from diamond_bench.printing import print_json, status_table

    if study is not None and "=" in study:  # no study, and its place taken by the first override
        overrides = [study, *(overrides or [])]
        study = None
    store = open_store(overrides)
    if as_json:
        print_json(out, [found.plain() for found in _overview(store, study, overrides)])
        return
    if not watch:
        out.print(status_table(_overview(store, study, overrides)))
        return
    with contextlib.suppress(KeyboardInterrupt), Live(console=out, auto_refresh=False) as live:
        while True:
            live.update(status_table(_overview(store, study, overrides)), refresh=True)
            time.sleep(10 if (store.root / "slurm").exists() else 2)  # SLURM's controller is everybody's


def _overview(store: Any, study: str | None, overrides: list[str] | None) -> list[Any]:
    from diamond_bench.launch.slurm.client import SlurmError
    from diamond_bench.launch.slurm.standing import standing
    from diamond_bench.studies.overview import overview

    try:
        states = standing(store).states
    except SlurmError as error:
        say(f"{error}: what follows is the store's word alone")
        states = None
    return overview(store, study, overrides or [], states)


@app.command()
def results(
    study: Study,
    overrides: Overrides = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the whole tidy table here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the numbers of a study's finished jobs."""
    from diamond_bench import api
    from diamond_bench.spreadsheet import csv_text

    if csv is not None:
        table = api.results(study, *(overrides or []), say=say)
        try:
            csv.write_text(csv_text(table))
        except OSError as error:
            raise UserError(f"--csv {csv}: cannot be written ({error.strerror or error})") from None
        say(f"wrote {csv}")
    else:
        print_results(*api.find_study(study, *(overrides or []), say=say), as_json)


@app.command()
def power(study: Study, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say how many seeds a study needs: the smallest difference that its finished runs let it detect, against seeds and device hours."""
    from diamond_bench import api
    from diamond_bench.printing import print_frame, print_json
    from diamond_bench.report.power import finished_power, plain
    from diamond_bench.report.power_section import power_table, sentences

    plan, store = api.find_study(study, *(overrides or []), say=say)
    found = finished_power(plan, store)
    if as_json:
        print_json(out, plain(found))
        return
    if found.known:
        print_frame(out, power_table(found))
    for sentence in sentences(found):
        out.print(sentence, markup=False)


@app.command()
def report(study: Study, overrides: Overrides = None) -> None:
    """Write a study's report, a page and its figures, from its finished jobs."""
    from diamond_bench import api

    with writing(open_store(overrides)):
        files = api.report(study, *(overrides or []), say=say)
    say(standing_of(*api.find_study(study, *(overrides or []), say=say)).sentence)
    for file in files:
        out.print(str(file), markup=False)
