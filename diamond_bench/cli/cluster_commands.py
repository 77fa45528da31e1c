"""Commands for jobs on a cluster: cancel, logs, retry."""

from typing import Annotated

import typer

from diamond_bench.cli.common import CLUSTER, STORE, AsJson, Overrides, Study, Wait, app, jobs, open_store, out, say, writing
from diamond_bench.cli.running import submit_plan
from diamond_bench.errors import UserError


@app.command(rich_help_panel=CLUSTER)
def cancel(
    study: Study,
    overrides: Overrides = None,
    variant: Annotated[
        list[str] | None, typer.Option("--variant", help="Cancel only this variant's jobs. The option can be repeated.")
    ] = None,
    shared: Annotated[bool, typer.Option("--shared", help="Also cancel jobs that another swept study or another variant needs.")] = False,
) -> None:
    """Cancel a study's jobs on SLURM.

    Running jobs save and stop. Finished ones stay.
    """
    from diamond_bench.errors import nearest
    from diamond_bench.launch.slurm.follow import cancel_jobs
    from diamond_bench.store.batches import read_batches
    from diamond_bench.studies.plan import find_plan, load_plans

    store = open_store(overrides)
    plan = find_plan(store.root, study, overrides or [])
    if not read_batches(store.root):
        raise UserError(f"nothing of {store.root} was submitted to SLURM. To stop a sweep on this machine, press Ctrl-C where it runs")
    names = {point.variant for point in plan.points}
    for name in variant or []:
        if name not in names:
            raise UserError(f"--variant {name!r}: {plan.study} has no such variant: {nearest(name, names)}")
    wanted = {ref for point in plan.points if not variant or point.variant in variant for ref in point.jobs.values()}
    others = {ref for point in plan.points if variant and point.variant not in variant for ref in point.jobs.values()}
    others |= {ref for other in load_plans(store.root) if other.folder != plan.folder for ref in other.jobs}
    with writing(store):
        ended = cancel_jobs(store, wanted if shared else wanted - others)
    say(f"Cancelled {jobs(len(ended.jobs))}. Their progress is saved, and the same sweep continues from it.")
    if ended.shared:
        say(f"Kept {jobs(len(ended.shared))} that share a SLURM task with jobs that were not to be cancelled.")
    if not shared and wanted & others:
        say(f"Kept {jobs(len(wanted & others))} that other variants or studies need. --shared cancels them too.")


@app.command(rich_help_panel=STORE)
def logs(
    job: Annotated[str, typer.Argument(metavar="JOB", help="The id of a job, or its first digits.")],
    overrides: Overrides = None,
    follow: Annotated[bool, typer.Option("--follow", help="Keep showing new lines until the job ends or you press Ctrl-C.")] = False,
) -> None:
    """Show the output of a job that ran here or on a cluster."""
    from diamond_bench.launch.slurm.follow import follow as followed
    from diamond_bench.launch.slurm.follow import logs as logs_of
    from diamond_bench.launch.slurm.follow import printed

    store = open_store(overrides)
    ref = store.find(job)
    files = logs_of(store, ref)
    if not files:
        raise UserError(f"{ref} has no output yet: it is {store.state(ref).status}")
    for file in files:
        say(f"--- {file}")
        if follow and file is files[0]:
            for part in followed(store, ref, file):
                out.write(part)
        else:
            for part in printed(file, say):
                out.write(part)


def retry_tokens(words: list[str], overrides: list[str]) -> tuple[list[str], list[str]]:
    """(overrides that identify the plan, overrides of the plan to submit) of a retry. `words` are those of the plan's own command."""
    profile = [token for token in overrides if token.startswith("cluster.")]
    keys = {token.partition("=")[0] for token in profile}
    kept = [word for word in words if word.partition("=")[0] not in keys]
    given = [token for token in overrides if token.startswith("output_dir=") and token not in words]
    return [token for token in overrides if token not in profile], [*kept, *given, *profile]


@app.command(rich_help_panel=CLUSTER)
def retry(
    study: Study,
    overrides: Overrides = None,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Submit a study's failed, cancelled and lost jobs to SLURM again.

    Jobs that wait for them are submitted too, and other jobs that never began are not. Keys of the cluster's profile can
    be changed, such as cluster.exclude=node03 for a broken node, or cluster.memory=32G.
    """
    import shlex

    from diamond_bench.config import SlurmCluster
    from diamond_bench.launch.slurm.queue_status import queue_status
    from diamond_bench.studies.job_plan import Plan
    from diamond_bench.studies.plan import find_plan, plan_study
    from diamond_bench.studies.single import plan_train

    store = open_store(overrides)
    saved = find_plan(store.root, study, retry_tokens([], overrides or [])[0])
    _, command, *words = shlex.split(saved.command)
    plan: Plan
    if command == "sweep":
        plan = plan_study(words[0], retry_tokens(words[1:], overrides or [])[1])
    elif command == "train":
        plan = plan_train(retry_tokens(words, overrides or [])[1])
    else:
        raise UserError(f"retry {study}: it is no sweep or training. Repeat the command that created it: {saved.command}")
    if not isinstance(plan.cluster, SlurmCluster):
        raise UserError(f"{saved.study} was swept on this machine. To run its failed jobs again, repeat the command: {saved.command}")
    states = queue_status(store).states
    fell = {ref for ref in plan.jobs if ref in states and states[ref].status in ("failed", "cancelled", "lost", "preempted", "damaged")}
    with writing(store):
        raise typer.Exit(submit_plan(plan, store, as_json, wait, with_report=True, only=fell.__contains__))
