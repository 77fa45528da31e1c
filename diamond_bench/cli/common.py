"""Shared parts of commands: the application, its consoles, the store, and running the jobs of a plan."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from diamond_bench.errors import UserError
from diamond_bench.terminal import SafeConsole

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Ablation and benchmark studies of diffusion world models.",
)

STUDIES, AGENTS, STORE, CLUSTER, MACHINE = "Studies", "Agents", "Jobs and disk", "Cluster", "This machine"
"""Panels of the list of commands, in their order."""

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings, such as scale=smoke seeds=3 games=[Breakout,Pong] sampler.num_steps=1,3."),
]
StoreOnly = Annotated[list[str] | None, typer.Argument(metavar="output_dir=FOLDER", help="The store's folder.")]
Wait = Annotated[bool, typer.Option("--wait", help="With cluster=slurm: wait until the jobs have ended, then show the results.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Study = Annotated[str, typer.Argument(metavar="STUDY", help="The name of a study (see `studies`), or the path of its YAML file.")]

_LONG_HOURS = 12.0
"""From this time on a run at the default scale may be a mistake."""
_SWEEP = "diamond-bench sweep "
"""Start of the command of a study. Other commands run a single agent, which answers no question and is not registered."""
_PREPARE = "diamond-bench score --prepare "

out = SafeConsole(soft_wrap=True, highlight=False)
out.width = max(out.width, 240)  # a table's numbers are never cut: a narrow terminal wraps its lines, a file takes them as they are
err = SafeConsole(stderr=True, soft_wrap=True, highlight=False)


def say(text: str) -> None:
    """Prints a line for the user on stderr, separate from output that a program may read."""
    err.print(text, markup=False)


def working(what: str) -> contextlib.AbstractContextManager[object]:
    """On a terminal, shows what the command is doing until the context ends."""
    return err.status(what) if err.is_terminal else contextlib.nullcontext()


def jobs(number: int) -> str:
    """A number of jobs in words."""
    return f"{number:,} job{'' if number == 1 else 's'}"


def report_results(saved: Any, store: Any, as_json: bool, with_report: bool) -> None:
    """Writes a plan's report, prints its results, answer first, and says what to do next. Does nothing before an evaluation is done."""
    from diamond_bench.report import write_report

    if not evaluated(saved, store):
        return
    with working("drawing the report"):
        files = write_report(saved, store, say) if with_report else []
    print_results(saved, store, as_json)
    if files:
        from diamond_bench.report.next_steps import next_steps, play_step

        say(f"\nReport: {files[0]}")
        for step in filter(None, [*next_steps(saved), play_step(saved, store)]):
            say(f"{step.why}:\n  {step.command}")


def planned(plan: Any, store: Any) -> tuple[Any, Any]:
    """(a function that saves the plan, the plan as it will be saved). Call the function once it is certain that something is run or
    submitted."""
    from diamond_bench.store.files import DamagedFile
    from diamond_bench.studies.housekeeping import remember
    from diamond_bench.studies.plan import as_saved, load_plan, save_plan

    saved = as_saved(plan, store.root)

    def begin() -> None:
        try:
            before = load_plan(saved.folder).command
        except FileNotFoundError:
            before = plan.command
        except DamagedFile as error:
            say(f"note: {error}")
            before = plan.command
        if before != plan.command and not plan.command.startswith(_PREPARE):  # starts have no results to show
            say(f"`status`, `results` and `report` of {plan.name} now show this command in place of `{before}`.")
        if plan.command.startswith(_SWEEP):
            say_registration(saved, store)
        save_plan(plan, store.root)
        remember(saved.folder, plan.jobs)

    return begin, saved


def say_registration(saved: Any, store: Any) -> None:
    """Registers a plan if that is still possible, and reports it. If the study was registered with another plan, reports the difference."""
    from diamond_bench.store.files import DamagedFile
    from diamond_bench.studies.registration import register

    try:
        registration, written = register(saved, lambda ref: bool(store.state(ref).status == "done"))
    except DamagedFile as error:
        say(f"note: the study counts as not registered: {error}")
        return
    if written:
        say(f"registered: {registration.file} (SHA-256 {registration.sha256})")
    stands = standing_of(saved, store)
    for sentence in [*([] if stands.kind in ("registered", "planned look") else [stands.sentence]), *stands.trace]:
        say(f"note: {sentence}")


def say_limits(plan: Any, store: Any) -> None:
    """Prints what is unusual about the planned runs, what they can never show, and which results of earlier code exist."""
    from diamond_bench.results.older import older_sentence
    from diamond_bench.studies.answerable import limits

    for limit in limits(plan):
        say(f"note: {limit}")
    if older := older_sentence(plan.jobs, store, store.states()):
        say(older)


def say_refusals(*checks: Any) -> None:
    """Prints why a sweep would be refused, for each check that raises UserError."""
    for check in checks:
        try:
            check()
        except UserError as error:
            say(f"A sweep without --dry-run would be refused: {error}")


def standing_of(saved: Any, store: Any) -> Any:
    """How a plan and its finished evaluations relate to the study's registration."""
    from diamond_bench.studies.registration import registration_status

    evaluations = {point.jobs["evaluation"] for point in saved.points}
    return registration_status(saved, {ref for ref in evaluations if store.state(ref).status == "done"})


def refuse_copies() -> None:
    """Raises UserError in one of several copies of a command that torchrun started.

    The copies would run the same jobs at once, and no training would use several of them.
    """
    copies = os.environ.get("WORLD_SIZE", "1") if "TORCHELASTIC_RUN_ID" in os.environ else "1"
    if copies != "1":
        raise UserError(
            f"torchrun started {copies} copies of this command; start it once, without torchrun, with execution.num_processes={copies}: a "
            "training starts its own processes"
        )


def run_jobs(plan: Any, store: Any) -> Any:
    """Runs the missing jobs of a plan, shows progress, and prints what failed. Returns the `launch.local.Summary`.

    Raises UserError in one of several copies that torchrun started.
    """
    from diamond_bench.launch.cores import workers
    from diamond_bench.launch.devices import has_gpu
    from diamond_bench.launch.local import run_local
    from diamond_bench.launch.progress import progress_display
    from diamond_bench.studies.device_notes import precision_notes, slow_sizes
    from diamond_bench.studies.estimate import estimate
    from diamond_bench.studies.overview import job_labels

    refuse_copies()
    begin, saved = planned(plan, store)
    store.require_writable()
    states = store.states()
    missing = [ref for ref in plan.jobs if ref not in states or states[ref].status != "done"]
    cost = estimate(plan.jobs, missing, store, states)
    if missing:
        say(amount(plan, cost))
    share, gpu = workers(plan, missing), has_gpu()
    for sentence in (*precision_notes(plan.jobs, missing, gpu), *slow_sizes(plan.jobs, missing, gpu), *share.notes):
        say(f"note: {sentence}")
    with progress_display(job_labels(saved.points), expected=cost.seconds) as display:
        store.say = display.say
        options = {"num_workers": share.number, "device": plan.execution.device, "mps": plan.cluster.mps, "limit": share.limit}
        waiting = ("--sleep-idle-threads",) if share.crowded else ()
        summary = run_local(store, plan.jobs.values(), **options, worker_arguments=waiting, on_event=display, begin=begin)
    store.say = say
    for ref, error in summary.failed.items():
        say(f"Failed: {ref}: {error} (log: {store.folder(ref) / 'log.txt'})")
    if summary.blocked:
        say(f"Not run: {jobs(len(summary.blocked))}, because another job failed or was stopped.")
    if summary.exit_code == 0:
        return summary
    if summary.stopped and all(ref.kind == "profile" for ref in plan.jobs):  # of which nothing is kept that could be gone on with
        say(f"Stopped. To measure again:\n  {plan.command}")
    elif summary.stopped:
        say(f"Stopped. Finished work is kept. To continue:\n  {plan.command}")
    return summary


def amount(plan: Any, cost: Any) -> str:
    """What is about to run in a line: how many jobs, at which scale, and how long they take."""
    from diamond_bench.studies.estimate import time_range
    from diamond_bench.studies.spec import SCALES

    scale = f" at scale {plan.scale}" if plan.scale.rstrip("*") in SCALES else ""
    unasked = plan.command.startswith((_SWEEP, "diamond-bench train")) and " scale=" not in plan.command
    default = " (the default; scale=smoke takes minutes)" if unasked and cost.low_hours >= _LONG_HOURS else ""
    return f"{jobs(cost.jobs)} to run{scale}{default}: about {time_range(cost.low_hours, cost.high_hours)} on one device"


def evaluated(plan: Any, store: Any) -> bool:
    """Whether an evaluation of the plan is done."""
    return any(store.state(point.jobs["evaluation"]).status == "done" for point in plan.points)


def no_results(plan: Any, store: Any) -> str:
    """The sentence for a plan without results, with the command that makes them."""
    from diamond_bench.studies.plan import command_of

    done = sum(store.state(ref).status == "done" for ref in plan.jobs)
    some = f"{done} of {jobs(len(plan.jobs))} {'is' if done == 1 else 'are'} done, but no evaluation" if done else "no job is done"
    return f"{plan.study} at scale {plan.scale} has no results yet: {some}. To run what is missing:\n  {command_of(plan)}"


def require_results(plan: Any, store: Any) -> None:
    """Raises UserError if no evaluation of the plan is finished: `results`, `report` and `open` then have exit code 2."""
    if not evaluated(plan, store):
        raise UserError(no_results(plan, store))


def print_results(plan: Any, store: Any, as_json: bool) -> None:
    """Prints the results of a plan's finished jobs as JSON, or the answer to the study's question and then the table of numbers.

    Raises UserError, after printing what there is, if no evaluation is finished.
    """
    from diamond_bench.metrics.columns import headlines
    from diamond_bench.printing import print_frame, print_json
    from diamond_bench.report.agent_answer import agent_answers
    from diamond_bench.report.answers import study_answers
    from diamond_bench.report.facts import gather
    from diamond_bench.report.gate import gate_metrics
    from diamond_bench.results.table import INTERVALS_NAMED, collect, left_out, mixtures, pivot, uninformative, unverified_plan

    for note in [*unverified_plan(plan), *left_out(plan, store)]:
        say(f"note: {note}")
    if as_json:
        print_json(out, collect(plan, store).to_dict(orient="records"))
        require_results(plan, store)
        return
    with working("reading the results"):
        facts = gather(plan, store)
    table = facts.table
    gate = [name for name in gate_metrics(plan, facts) if name not in headlines()]
    shown = None if table.empty else pivot(table, [*dict.fromkeys([plan.primary["metric"], *gate, *headlines()])], words=True)
    if shown is None or shown.empty:
        raise UserError(no_results(plan, store))
    if plan.command.startswith(_SWEEP):
        out.print(f"[bold]{escape(plan.question)}[/]")
        for line in study_answers(plan, store, facts):
            claim, stop, more = line.partition(". ")
            out.print(f"[bold]{escape(claim + stop)}[/]{escape(more)}" if more else escape(line))
        out.print()
    for line in agent_answers(plan, store):
        out.print(line, markup=False)
    machine = "; frames_per_second is of this machine" if "frames_per_second" in set(table["metric"]) else ""
    seeds = sorted({point.seed for point in plan.points})
    say(f"{plan.study}, scale {plan.scale}, seeds {seeds}; {INTERVALS_NAMED}{machine}")
    if hidden := print_frame(out, shown):
        say(f"A wider terminal, `results --csv FILE` and the report also show {', '.join(hidden)}.")
    for note in [*facts.protocol, *mixtures(table), *uninformative(table)]:
        say(f"note: {note}")
    require_results(plan, store)


@contextlib.contextmanager
def writing(store: Any) -> Iterator[None]:
    """Turns errors of the file system into messages that name the path."""
    from diamond_bench.store.files import refusal, unwritable

    try:
        yield
    except BrokenPipeError:  # the reader of our output left
        raise
    except OSError as error:
        elsewhere = isinstance(error.filename, str) and not Path(error.filename).absolute().is_relative_to(store.root)
        if not elsewhere:
            raise unwritable(store.root, error) from None
        barred = f": {refusal(error)}" if isinstance(error, PermissionError) else ""
        raise UserError(f"{error.filename}: {error.strerror}{barred}") from None


def open_store(tokens: list[str] | None) -> Any:
    """The store that the overrides or the environment name."""
    from diamond_bench.compose import output_root, parse
    from diamond_bench.store.artifacts import Store

    return Store(output_root(parse(tokens or [])), say=say)
