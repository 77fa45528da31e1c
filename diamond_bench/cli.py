"""The command line: each command parses, calls a function below, and prints."""

import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

try:
    import typer
    from rich.console import Console
except KeyboardInterrupt:  # before `main` can see it
    sys.exit(130)

from diamond_bench.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Ablation and benchmark studies of diffusion world models.",
)
weights_app = typer.Typer(no_args_is_help=True, help="Weights of the learned metrics (LPIPS, FID).")
app.add_typer(weights_app, name="weights")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Hydra overrides: scale=smoke seeds=3 games=[Breakout,Pong] sampler.num_steps=1,3"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Study = Annotated[str, typer.Argument(help="A study's name (see `studies`), or the path of a YAML file.")]

out = Console(soft_wrap=True, highlight=False)
out.width = max(out.width, 240)  # a table's numbers are never cut: a narrow terminal wraps its lines, a file takes them as they are
err = Console(stderr=True, soft_wrap=True, highlight=False)


def say(text: str) -> None:
    """A line for the person at the keyboard, apart from what a program would read."""
    err.print(text, markup=False)


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
    as_json: AsJson = False,
) -> None:
    """Run every job of a study that is not done yet, then draw its report. The same command again resumes."""
    from diamond_bench.evaluation.weights import require
    from diamond_bench.launch.devices import valid_device
    from diamond_bench.printing import print_plan
    from diamond_bench.studies.plan import plan_study

    tokens = overrides or []
    plan, store = plan_study(study, tokens), _store(tokens)
    valid_device(plan.execution.device)
    if dry_run:
        print_plan(out, plan, store, as_json)
        for refusal in (lambda: require(plan.metrics), store.require_writable):
            try:
                refusal()
            except UserError as error:
                say(f"A sweep without --dry-run would be refused: {error}")
        return
    require(plan.metrics)
    with _writing(store):
        exit_code = _run(plan, store, as_json)
    raise typer.Exit(exit_code)


def _run(plan: Any, store: Any, as_json: bool) -> int:
    from diamond_bench.launch.local import run_local
    from diamond_bench.launch.progress import progress_display
    from diamond_bench.report import write_report
    from diamond_bench.studies.housekeeping import remember
    from diamond_bench.studies.overview import job_labels
    from diamond_bench.studies.plan import as_saved, save_plan

    saved = as_saved(plan, store.root)

    def begin() -> None:
        save_plan(plan, store.root)
        remember(saved.folder, plan.jobs)

    store.require_writable()
    with progress_display(job_labels(saved.points)) as display:
        store.say = display.say
        options = {"num_workers": plan.cluster.num_workers, "device": plan.execution.device}
        summary = run_local(store, plan.jobs.values(), **options, on_event=display, begin=begin)
    store.say = say
    for ref, error in summary.failed.items():
        say(f"failed: {ref}: {error} (log: {store.folder(ref) / 'log.txt'})")
    if summary.blocked:
        say(f"{len(summary.blocked)} jobs were not run: a job they need failed or was stopped")
    if summary.stopped:
        say(f"Stopped; what was finished is kept. Go on with: {plan.command}")
    elif any(point.jobs["evaluation"] in {*summary.done, *summary.skipped} for point in saved.points):
        files = write_report(saved, store, say)
        _print_results(saved, store, as_json)
        say(f"Report: {files[0].parent} ({', '.join(file.name for file in files)})")
    return summary.exit_code


@app.command()
def status(
    study: Annotated[str | None, typer.Argument(help="A study's name; all that were swept, where none is given.")] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every two seconds, until Ctrl-C.")] = False,
) -> None:
    """Say how the jobs of swept studies stand."""
    from rich.live import Live

    from diamond_bench.printing import print_json, status_table
    from diamond_bench.studies.overview import overview

    if study is not None and "=" in study:  # no study, and its place taken by the first override
        overrides = [study, *(overrides or [])]
        study = None
    store = _store(overrides)
    if as_json:
        print_json(out, [found.plain() for found in overview(store, study, overrides or [])])
        return
    if not watch:
        out.print(status_table(overview(store, study, overrides or [])))
        return
    with contextlib.suppress(KeyboardInterrupt), Live(console=out, auto_refresh=False) as live:
        while True:
            live.update(status_table(overview(store, study, overrides or [])), refresh=True)
            time.sleep(2)


@app.command()
def results(
    study: Study,
    overrides: Overrides = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the whole tidy table here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the numbers of a study's finished jobs."""
    from diamond_bench.studies.plan import find_plan
    from diamond_bench.studies.results import collect

    store = _store(overrides)
    plan = find_plan(store.root, study, overrides or [])
    if csv is not None:
        try:
            collect(plan, store).to_csv(csv, index=False)
        except OSError as error:
            raise UserError(f"--csv {csv}: cannot be written ({error.strerror or error})") from None
        say(f"wrote {csv}")
    else:
        _print_results(plan, store, as_json)


@app.command()
def report(study: Study, overrides: Overrides = None) -> None:
    """Draw a study's figures from its finished jobs."""
    from diamond_bench.report import write_report
    from diamond_bench.studies.plan import find_plan

    store = _store(overrides)
    plan = find_plan(store.root, study, overrides or [])
    with _writing(store):
        files = write_report(plan, store, say)
    for file in files:
        out.print(str(file), markup=False)


@app.command()
def show(job: Annotated[str, typer.Argument(help="A job's id, or its beginning.")], overrides: Overrides = None) -> None:
    """Show one job: its config, state and result."""
    from diamond_bench.studies.overview import describe

    store = _store(overrides)
    out.print(describe(store, store.find(job)), markup=False)


@app.command()
def diff(job: str, other: str, overrides: Overrides = None) -> None:
    """Show what differs between two jobs."""
    from diamond_bench.printing import table
    from diamond_bench.studies.overview import differences

    store = _store(overrides)
    shown = table("key", job, other)
    for row in differences(store, store.find(job), store.find(other)):
        shown.add_row(*row)
    out.print(shown)


@app.command()
def du(overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say how much disk each kind of job takes, and how much of it `gc` would free."""
    from diamond_bench.printing import print_usage
    from diamond_bench.studies.housekeeping import du as measure

    print_usage(out, measure(_store(overrides)), as_json)


@app.command()
def gc(
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go; remove nothing.")] = False,
    keep_frames: Annotated[bool, typer.Option("--keep-frames", help="Keep the frames that evaluations were told to keep.")] = False,
    unplanned: Annotated[bool, typer.Option("--unplanned", help="Also remove jobs in no swept study, and damaged ones.")] = False,
) -> None:
    """Free disk: checkpoints of finished jobs, and imagined frames."""
    from diamond_bench.printing import gigabytes
    from diamond_bench.studies.housekeeping import gc as collect_garbage
    from diamond_bench.studies.housekeeping import planned

    store = _store(overrides)
    with _writing(store):
        removals = collect_garbage(store, planned(store.root), frames=not keep_frames, unplanned=unplanned, dry_run=dry_run)
    for removal in removals:
        out.print(f"{removal.path} ({gigabytes(removal.bytes)}): {removal.reason}", markup=False)
    say(f"{'would free' if dry_run else 'freed'} {gigabytes(sum(removal.bytes for removal in removals))}")


@app.command()
def merge(other: Annotated[Path, typer.Argument(help="The other store's folder.")], overrides: Overrides = None) -> None:
    """Bring in another store's finished jobs and plans; nothing here is overwritten."""
    from diamond_bench.studies.housekeeping import merge as bring_in

    store = _store(overrides)
    with _writing(store):
        merged = bring_in(store, other)
    for reason in merged.refused:
        say(f"left out: {reason}")
    out.print(f"{len(merged.copied)} jobs and {len(merged.plans)} plans copied, {len(merged.present)} jobs were here already")


@weights_app.command("list")
def weights_list(as_json: AsJson = False) -> None:
    """List the weights: found where, or how to get them."""
    from diamond_bench.evaluation.weights import status as weights_status
    from diamond_bench.printing import print_json, table

    if as_json:
        print_json(out, [dataclasses.asdict(found) | {"path": str(found.path or "")} for found in weights_status()])
        return
    shown = table("weights", "metric", "state", "where, or how to get them")
    for found in weights_status():
        shown.add_row(found.name, found.metric, found.state, str(found.path) if found.state == "found" else found.command)
    out.print(shown)


@weights_app.command("fetch")
def weights_fetch(name: Annotated[str, typer.Argument(help="lpips, lpips-vgg or inception; see `weights list`.")] = "lpips") -> None:
    """Fetch weights into the local folder, checked against their SHA-256."""
    from diamond_bench.evaluation.weights_download import fetch

    out.print(str(fetch(name, say)), markup=False)


def _print_results(plan: Any, store: Any, as_json: bool) -> None:
    from diamond_bench.printing import print_frame, print_json
    from diamond_bench.studies.results import HEADLINES, collect, mixtures, pivot

    table = collect(plan, store)
    if as_json:
        print_json(out, table.to_dict(orient="records"))
    elif table.empty:
        say(f"{plan.study} at scale {plan.scale}: no job is finished yet; run it with: {plan.command}")
    else:
        say(
            f"{plan.study}, scale {plan.scale}, seeds {sorted({point.seed for point in plan.points})}; frames_per_second is of this machine"
        )
        print_frame(out, pivot(table, HEADLINES))
        for note in mixtures(table):
            say(f"note: {note}")


@contextlib.contextmanager
def _writing(store: Any) -> Iterator[None]:
    """Turns what the file system refuses into a message that names the place."""
    from diamond_bench.studies.files import unwritable

    try:
        yield
    except BrokenPipeError:  # the reader of our output left
        raise
    except OSError as error:
        elsewhere = isinstance(error.filename, str) and not Path(error.filename).absolute().is_relative_to(store.root)
        raise UserError(f"{error.filename}: {error.strerror}") if elsewhere else unwritable(store.root, error) from None


def _store(tokens: list[str] | None) -> Any:
    from diamond_bench.compose import output_root, parse
    from diamond_bench.studies.store import Store

    return Store(output_root(parse(tokens or [])), say=say)


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
