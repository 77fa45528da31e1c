"""Commands on studies: list, sweep, status, results, power, report."""

import contextlib
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from diamond_bench.cli.common import (
    STUDIES,
    AsJson,
    Overrides,
    Study,
    Wait,
    app,
    open_store,
    out,
    print_results,
    require_results,
    say,
    say_limits,
    say_refusals,
    standing_of,
    working,
    writing,
)
from diamond_bench.cli.running import run_plan, show_submission
from diamond_bench.cli.several_studies import studies_named
from diamond_bench.errors import UserError


@app.command(rich_help_panel=STUDIES)
def studies() -> None:
    """List the shipped studies."""
    from diamond_bench.printing import table
    from diamond_bench.studies.spec import load_study, study_files

    shown = table("study", "question", "paper")
    for name in study_files():
        study = load_study(name, "paper")
        shown.add_row(name, study.question, study.paper)
    out.print(shown)


@app.command(rich_help_panel=STUDIES)
def sweep(
    study: Study,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the jobs and their cost. Run nothing.")] = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Run every job of a study that is not done, then show the answer and write the report.

    Rerunning the command performs only the missing work. With cluster=slurm the command submits the jobs and returns at once.
    """
    from diamond_bench.config import SlurmCluster
    from diamond_bench.launch.devices import check_devices, check_there
    from diamond_bench.metrics.planning import require_weights
    from diamond_bench.printing import print_plan
    from diamond_bench.studies.answerable import limits
    from diamond_bench.studies.plan import as_saved, plan_study
    from diamond_bench.studies.registration import preview_registration

    tokens = overrides or []
    with working("planning"):
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


@app.command(rich_help_panel=STUDIES)
def register(
    study: Study,
    overrides: Overrides = None,
    export: Annotated[
        Path | None,
        typer.Option("--export", help="Copy the first registration and its amendments to this file, as an attachment to a paper."),
    ] = None,
) -> None:
    """Register a study's comparison before any of its jobs runs, as the first sweep does.

    Use the settings of that sweep. `--export` also works after the study has changed: it copies what was registered.
    """
    from diamond_bench.metrics.planning import require_weights
    from diamond_bench.studies.plan import as_saved, plan_study
    from diamond_bench.studies.registration import register as write_registration
    from diamond_bench.studies.registration_files import export_file, registrations

    if export is not None and export.is_dir():
        raise UserError(f"--export {export} is a folder; name a file")
    store = open_store(overrides)
    plan = plan_study(study, overrides or [])
    saved = as_saved(plan, store.root)
    store.require_writable()
    with writing(store):
        registration, _ = write_registration(saved, lambda ref: store.state(ref).status == "done", fewer_seeds=True)
    stands = standing_of(saved, store)
    unchanged = f"{registration.file} is unchanged, because evaluations that it covers have finished. {stands.sentence}"
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
        say(f"Wrote {export}: the first registration{f' and {more} amendment' + 's' * (more > 1) if more else ''}")
    out.print(str(registration.file), markup=False)


@app.command(rich_help_panel=STUDIES)
def status(
    study: Annotated[str | None, typer.Argument(metavar="STUDY", help="The name of a study; by default all studies in the store.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every two seconds (ten with SLURM) until you press Ctrl-C.")] = False,
) -> None:
    """Show which jobs of the swept studies are running, failed, pending or done."""
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
    before: list[Any] = []
    with contextlib.suppress(KeyboardInterrupt), Live(console=out, auto_refresh=False) as live:
        while True:
            found = _overview(store, study, overrides)
            if out.is_terminal:
                live.update(status_table(found), refresh=True)
            elif before != (before := [(one.study, one.scale, one.counts) for one in found]):  # in a pipe, only what has changed
                out.print(status_table(found))
            time.sleep(10 if (store.root / "slurm").exists() else 2)  # SLURM's controller is everybody's


def _overview(store: Any, study: str | None, overrides: list[str] | None) -> list[Any]:
    from diamond_bench.launch.slurm.client import SlurmError
    from diamond_bench.launch.slurm.queue_status import queue_status
    from diamond_bench.studies.overview import overview

    try:
        states = queue_status(store).states
    except SlurmError as error:
        say(f"{error}. The states below are those of the store alone.")
        states = None
    return overview(store, study, overrides or [], states)


@app.command(rich_help_panel=STUDIES)
def results(
    study: Study,
    overrides: Overrides = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the whole results table to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the answer and the numbers of a study's finished jobs.

    The exit code is 2 as long as no evaluation is finished.
    """
    from diamond_bench import api
    from diamond_bench.results.table import collect, left_out, write_csv

    if csv is not None:
        plan, store = api.find_study(study, *(overrides or []), say=say)
        for note in left_out(plan, store):
            say(f"note: {note}")
        table = collect(plan, store)
        if not table.empty:
            write_csv(table, csv)
            say(f"Wrote {csv}")
        require_results(plan, store)
    else:
        print_results(*api.find_study(study, *(overrides or []), say=say), as_json)


@app.command(rich_help_panel=STUDIES)
def power(study: Study, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show how many seeds a study needs.

    The table has the smallest difference that the study detects, and the device hours, for several numbers of seeds.
    """
    from diamond_bench import api
    from diamond_bench.printing import print_frame, print_json
    from diamond_bench.report.power import finished_power, plain
    from diamond_bench.report.power_section import power_table, sentences

    plan, store = api.find_study(study, *(overrides or []), say=say)
    with working("planning seeds"):
        found = finished_power(plan, store)
    if as_json:
        print_json(out, plain(found))
        return
    if found.known:
        print_frame(out, power_table(found))
    for sentence in sentences(found):
        out.print(sentence, markup=False)


@app.command(rich_help_panel=STUDIES)
def report(
    study: Study,
    more: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]... [STUDY [KEY=VALUE]...]...", help="Settings of the study, and further studies with their settings."
        ),
    ] = None,
    captions: Annotated[bool, typer.Option("--captions", help="Write captions into the figures' PNG and PDF files too.")] = False,
) -> None:
    """Write a study's report from its finished jobs.

    With several studies, one page shows all of them side by side.
    """
    from diamond_bench import api

    named = studies_named([study, *(more or [])])
    with writing(open_store([word for word in named[0][1:] if word.startswith("output_dir=")])):
        draw = api.report_together if len(named) > 1 else api.report
        with working("drawing the report"):
            files = draw(*(named if len(named) > 1 else named[0]), captions=captions, say=say)
    status = standing_of(*api.find_study(*named[0], say=say)) if len(named) == 1 else None
    for sentence in (status.sentence, *status.trace) if status else ():
        say(sentence)
    for file in files:
        out.print(str(file), markup=False)


@app.command("open", rich_help_panel=STUDIES)
def open_(study: Study, overrides: Overrides = None) -> None:
    """Open a study's report in the browser.

    The report is drawn first if the results have changed. Without a display the command prints the path of the page.
    """
    import webbrowser

    from diamond_bench import api
    from diamond_bench.terminal import has_display

    with writing(open_store(overrides)), working("drawing the report"):
        page = api.report(study, *(overrides or []), say=say)[0]
    if not has_display():
        say("This machine has no display. The page is one self-contained file, so you can copy it to a machine that has one:")
    elif not webbrowser.open(page.as_uri()):
        say("No browser could be started. Open this page yourself:")
    out.print(str(page), markup=False)
