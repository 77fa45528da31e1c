"""Commands on what a cluster has: cancel, logs, retry; and the submission of a plan."""

from typing import Annotated, Any

import typer

from diamond_bench.cli.common import AsJson, Overrides, Study, Wait, app, err, open_store, out, planned, report_results, say, writing
from diamond_bench.errors import UserError


def submit_plan(plan: Any, store: Any, as_json: bool, wait: bool, with_report: bool, only: Any = None) -> int:
    """Submits what is missing of a plan to SLURM, and with `wait` follows it and reports. Returns the exit code."""
    from diamond_bench.launch.slurm.submit import submit

    begin, saved = planned(plan, store)
    order = _order(plan, only)
    sent = submit(store, order, say, begin)
    if sent.requests:
        say(f"submitted {sent.jobs} jobs in {len(sent.requests)} arrays; {sent.done} were done, {sent.in_flight} were in the queue already")
        target = f"{saved.study} scale={saved.scale.rstrip('*')}" if with_report else saved.study
        say(f"watch them with `diamond-bench status {target} --watch`, end them with `diamond-bench cancel {target}`")
    elif sent.in_flight:
        say(f"nothing to submit: {sent.done} jobs are done, {sent.in_flight} are in the queue or run")
    if sent.left:
        say(f"{sent.left} jobs were left: they need jobs that run outside of SLURM; the same command submits them later")
    if sent.requests or sent.in_flight:
        return _wait(plan, saved, store, as_json, with_report) if wait else 0
    report_results(saved, store, as_json, with_report)
    return 0


def show_submission(plan: Any, store: Any) -> None:
    """Prints the files that submitting a plan would hand to sbatch."""
    from diamond_bench.launch.slurm.submit import check_order, requested, sbatch_files

    order = _order(plan, None)
    for number, (label, text) in enumerate(sbatch_files(store, order, requested(store, order).requests)):
        out.print(f"\n# ARRAY{number}: {label}\n{text}", markup=False)
    check_order(store, order, say)


def _order(plan: Any, only: Any) -> Any:
    from diamond_bench.launch.slurm.submit import Order
    from diamond_bench.studies.overview import job_variants

    variants = {ref: tuple(names) for ref, names in job_variants(plan.points).items()}
    return Order(plan.jobs, plan.cluster, plan.study.name, variants, plan.execution.device, only or (lambda ref: True))


def _wait(plan: Any, saved: Any, store: Any, as_json: bool, with_report: bool) -> int:
    from rich.live import Live

    from diamond_bench.launch.slurm.follow import counted, wait
    from diamond_bench.printing import status_table
    from diamond_bench.studies.overview import status_of

    told = ""
    try:
        with Live(console=err, auto_refresh=False, transient=True) as live:

            def show(states: Any) -> None:
                nonlocal told
                if err.is_terminal:
                    live.update(status_table([status_of(saved, states)]), refresh=True)
                elif told != (told := counted(states.values())):
                    say(told)

            states = wait(store, list(plan.jobs), show)
    except KeyboardInterrupt:
        say(f"no longer waiting; the jobs go on (diamond-bench status {saved.study})")
        return 130
    report_results(saved, store, as_json, with_report)
    for ref, state in states.items():
        if state.status != "done" and (state.error or state.text):
            say(f"{state.status}: {ref}: {state.error or state.text}{f' (log: {state.log})' if state.log else ''}")
    return 0 if all(state.status == "done" for state in states.values()) else 1


@app.command()
def cancel(
    study: Study,
    overrides: Overrides = None,
    variant: Annotated[list[str] | None, typer.Option("--variant", help="Only this variant's jobs; may be given several times.")] = None,
    shared: Annotated[bool, typer.Option("--shared", help="Also jobs that another swept study, or another variant, needs.")] = False,
) -> None:
    """Take a study's jobs out of SLURM's queue; those that run save and stop. What is done stays."""
    from diamond_bench.errors import nearest
    from diamond_bench.launch.slurm.follow import cancel_jobs
    from diamond_bench.store.batches import read_batches
    from diamond_bench.studies.plan import find_plan, load_plans

    store = open_store(overrides)
    plan = find_plan(store.root, study, overrides or [])
    if not read_batches(store.root):
        raise UserError(f"nothing of {store.root} was submitted to SLURM; a sweep of this machine ends with Ctrl-C")
    names = {point.variant for point in plan.points}
    for name in variant or []:
        if name not in names:
            raise UserError(f"--variant {name!r}: {plan.study} has no such variant: {nearest(name, names)}")
    wanted = {ref for point in plan.points if not variant or point.variant in variant for ref in point.jobs.values()}
    others = {ref for point in plan.points if variant and point.variant not in variant for ref in point.jobs.values()}
    others |= {ref for other in load_plans(store.root) if other.folder != plan.folder for ref in other.jobs}
    with writing(store):
        ended = cancel_jobs(store, wanted if shared else wanted - others)
    say(f"cancelled {len(ended.jobs)} jobs; what they had done is saved, and the same sweep goes on from there")
    if ended.shared:
        say(f"{len(ended.shared)} jobs were left: they share a task with jobs that were not to be cancelled")
    if not shared and wanted & others:
        say(f"{len(wanted & others)} jobs were left because other variants or studies need them (--shared ends them too)")


@app.command()
def logs(
    job: Annotated[str, typer.Argument(help="A job's id, or its beginning.")],
    overrides: Overrides = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on showing what is added, until the job ends or Ctrl-C.")] = False,
) -> None:
    """Show what a job printed, here or on a cluster."""
    from diamond_bench.launch.slurm.follow import follow as followed
    from diamond_bench.launch.slurm.follow import logs as logs_of
    from diamond_bench.launch.slurm.follow import printed

    store = open_store(overrides)
    ref = store.find(job)
    files = logs_of(store, ref)
    if not files:
        raise UserError(f"{ref} has printed nothing yet: it is {store.state(ref).status}")
    for file in files:
        say(f"--- {file}")
        if follow and file is files[0]:
            for part in followed(store, ref, file):
                out.write(part)
        else:
            for part in printed(file, say):
                out.write(part)


def retry_tokens(words: list[str], overrides: list[str]) -> tuple[list[str], list[str]]:
    """(the overrides that name the plan, the overrides of the plan to submit) of a retry; `words` are those of the plan's own command."""
    profile = [token for token in overrides if token.startswith("cluster.")]
    keys = {token.partition("=")[0] for token in profile}
    kept = [word for word in words if word.partition("=")[0] not in keys]
    given = [token for token in overrides if token.startswith("output_dir=") and token not in words]
    return [token for token in overrides if token not in profile], [*kept, *given, *profile]


@app.command()
def retry(
    study: Study,
    overrides: Overrides = None,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Submit a swept study's failed, cancelled and lost jobs again, and those that wait for them; nothing that was never begun.

    Keys of the profile can be changed, as in cluster.exclude=node03 for a broken node or cluster.memory=32G.
    """
    import shlex

    from diamond_bench.config import SlurmCluster
    from diamond_bench.launch.slurm.standing import standing
    from diamond_bench.studies.plan import find_plan, plan_study
    from diamond_bench.studies.single import plan_train

    store = open_store(overrides)
    saved = find_plan(store.root, study, retry_tokens([], overrides or [])[0])
    _, command, *words = shlex.split(saved.command)
    if command == "sweep":
        plan = plan_study(words[0], retry_tokens(words[1:], overrides or [])[1])
    elif command == "train":
        plan = plan_train(retry_tokens(words, overrides or [])[1])
    else:
        raise UserError(f"retry {study}: repeat the command that made it: {saved.command}")
    if not isinstance(plan.cluster, SlurmCluster):
        raise UserError(f"{saved.study} was swept on this machine, where the same command tries failed jobs again: {saved.command}")
    states = standing(store).states
    fell = {ref for ref in plan.jobs if ref in states and states[ref].status in ("failed", "cancelled", "lost", "preempted", "damaged")}
    with writing(store):
        raise typer.Exit(submit_plan(plan, store, as_json, wait, with_report=True, only=fell.__contains__))
