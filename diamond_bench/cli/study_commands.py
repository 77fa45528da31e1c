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
    say,
    say_limits,
    say_refusals,
    standing_of,
    writing,
)
from diamond_bench.cli.running import run_plan, show_submission
from diamond_bench.cli.several_studies import studies_named
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
    from diamond_bench.config import SlurmCluster
    from diamond_bench.launch.devices import check_devices, check_there
    from diamond_bench.metrics.planning import require_weights
    from diamond_bench.printing import print_plan
    from diamond_bench.studies.answerable import limits
    from diamond_bench.studies.plan import as_saved, plan_study
    from diamond_bench.studies.registration import preview_registration

    tokens = overrides or []
    plan, store = plan_study(study, tokens), open_store(tokens)
    check_devices(plan.executions(), here=not isinstance(plan.cluster, SlurmCluster))
    if dry_run:
        print_plan(out, plan, store, as_json, limits(plan))
        on_slurm = isinstance(plan.cluster, SlurmCluster) and not as_json
        states = store.states()
        if not as_json:
            done = {ref for ref, state in states.items() if state.status == "done"}
            say_refusals(lambda: out.print(preview_registration(as_saved(plan, store.root), done.__contains__), markup=False))
        readable = partial(store.require_readable, plan.jobs, states)
        there = [] if isinstance(plan.cluster, SlurmCluster) else [partial(check_there, plan.execution.device)]
        submission = [lambda: show_submission(plan, store)] if on_slurm else []
        say_refusals(*there, readable, lambda: require_weights(plan.metrics), store.require_writable, *submission)
        return
    require_weights(plan.metrics)
    say_limits(plan, store)
    with writing(store):
        exit_code = run_plan(plan, store, as_json, wait)
    raise typer.Exit(exit_code)


@app.command()
def register(
    study: Study,
    overrides: Overrides = None,
    export: Annotated[
        Path | None, typer.Option("--export", help="Copy the first registration and its amendments to this file, to attach to a paper.")
    ] = None,
) -> None:
    """Write down a study's comparison before any job runs; a sweep does it too. Repeat the overrides of the sweep.

    `--export` works after the study has changed, too: it copies what was registered.
    """
    from diamond_bench.metrics.planning import require_weights
    from diamond_bench.studies.plan import as_saved, plan_study
    from diamond_bench.studies.registration import register as write_registration
    from diamond_bench.studies.registration_files import export_file, registrations

    if export is not None and export.is_dir():
        raise UserError(f"--export {export}: is a folder; give the name of a file")
    store = open_store(overrides)
    plan = plan_study(study, overrides or [])
    saved = as_saved(plan, store.root)
    store.require_writable()
    with writing(store):
        registration, _ = write_registration(saved, lambda ref: store.state(ref).status == "done", fewer_seeds=True)
    stands = standing_of(saved, store)
    unchanged = f"{registration.file} stays as it is, since evaluations that it covers have finished. {stands.sentence}"
    if stands.changes and export is None:
        raise UserError(unchanged)
    say_limits(plan, store)
    say_refusals(lambda: require_weights(plan.metrics))
    for sentence in (f"note: {unchanged}" if stands.changes else stands.sentence, *stands.trace):
        say(sentence)
    if export is not None:
        found = registrations(saved.folder)
        export_file(found, export)
        more = len(found) - 1
        say(f"wrote {export}: the first registration{f' and {more} amendment' + 's' * (more > 1) if more else ''}")
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
    from diamond_bench.launch.slurm.queue_status import queue_status
    from diamond_bench.studies.overview import overview

    try:
        states = queue_status(store).states
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
    from diamond_bench.results.table import collect, left_out, write_csv

    if csv is not None:
        plan, store = api.find_study(study, *(overrides or []), say=say)
        for note in left_out(plan, store):
            say(f"note: {note}")
        write_csv(collect(plan, store), csv)
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
def report(
    study: Study,
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]... [STUDY [KEY=VALUE]...]...", help="Overrides of the study, and further studies."),
    ] = None,
) -> None:
    """Write a study's report, a page and its figures, from its finished jobs. With several studies: one page with all, side by side."""
    from diamond_bench import api

    named = studies_named([study, *(more or [])])
    with writing(open_store([word for word in named[0][1:] if word.startswith("output_dir=")])):
        files = api.report_together(*named, say=say) if len(named) > 1 else api.report(*named[0], say=say)
    status = standing_of(*api.find_study(*named[0], say=say)) if len(named) == 1 else None
    for sentence in (status.sentence, *status.trace) if status else ():
        say(sentence)
    for file in files:
        out.print(str(file), markup=False)
