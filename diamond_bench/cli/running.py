"""How commands run a plan: on this machine, or by submitting it to a cluster."""

from typing import Any

from diamond_bench.cli.common import err, jobs, out, planned, refuse_copies, report_results, run_jobs, say
from diamond_bench.errors import UserError


def run_plan(plan: Any, store: Any, as_json: bool, wait: bool = False, with_report: bool = True) -> int:
    """Runs the missing jobs of a plan, or submits them to its cluster; then writes its report and prints its results. Returns the exit
    code."""
    from diamond_bench.config import SlurmCluster
    from diamond_bench.studies.plan import as_saved

    if isinstance(plan.cluster, SlurmCluster):
        return submit_plan(plan, store, as_json, wait, with_report)
    if wait:
        raise UserError("--wait is for cluster=slurm; a sweep on this machine always waits for its jobs")
    summary, saved = run_jobs(plan, store), as_saved(plan, store.root)
    if not summary.stopped:
        report_results(saved, store, as_json, with_report)
    return int(summary.exit_code)


def submit_plan(plan: Any, store: Any, as_json: bool, wait: bool, with_report: bool, only: Any = None) -> int:
    """Submits the missing jobs of a plan to SLURM. With `wait`, follows them and reports. Returns the exit code.

    Raises UserError in one of several copies that torchrun started."""
    from diamond_bench.launch.slurm.submit import submit
    from diamond_bench.studies.plan import place_of

    refuse_copies()
    begin, saved = planned(plan, store)
    order = _order(plan, only)
    sent = submit(store, order, say, begin)
    if sent.requests:
        say(
            f"submitted {jobs(sent.jobs)} in {len(sent.requests)} arrays; {sent.done} were done, {sent.in_flight} were in the queue already"
        )
        place = place_of(saved)
        say(f"To watch them:\n  diamond-bench status {place} --watch\nTo cancel them:\n  diamond-bench cancel {place}")
    elif sent.in_flight:
        say(f"nothing to submit: {sent.done} jobs are done, {sent.in_flight} are in the queue or running")
    if sent.left:
        say(f"Not submitted: {jobs(sent.left)} that need jobs running outside SLURM. Repeat the command when those are done.")
    if sent.requests or sent.in_flight:
        return _wait(plan, saved, store, as_json, with_report) if wait else 0
    report_results(saved, store, as_json, with_report)
    return 0


def show_submission(plan: Any, store: Any) -> None:
    """Prints the sbatch files for submitting a plan."""
    from diamond_bench.launch.slurm.submit import check_order, requested, sbatch_files

    order = _order(plan, None)
    for number, (label, text) in enumerate(sbatch_files(store, order, requested(store, order).requests)):
        out.print(f"\n# ARRAY{number}: {label}\n{text}", markup=False)
    check_order(store, order, say)


def _order(plan: Any, only: Any) -> Any:
    from diamond_bench.launch.slurm.submit import Order
    from diamond_bench.studies.overview import job_variants

    variants = {ref: tuple(names) for ref, names in job_variants(plan.points).items()}
    return Order(plan.jobs, plan.cluster, plan.name, variants, plan.execution.device, only or (lambda ref: True))


def _wait(plan: Any, saved: Any, store: Any, as_json: bool, with_report: bool) -> int:
    from rich.live import Live

    from diamond_bench.launch.slurm.follow import counted, wait
    from diamond_bench.printing import status_table
    from diamond_bench.studies.overview import status_of
    from diamond_bench.studies.plan import place_of

    printed = ""
    try:
        with Live(console=err, auto_refresh=False, transient=True) as live:

            def show(states: Any) -> None:
                nonlocal printed
                if err.is_terminal:
                    live.update(status_table([status_of(saved, states)]), refresh=True)
                elif printed != (printed := counted(states.values())):
                    say(printed)

            states = wait(store, list(plan.jobs), show)
    except KeyboardInterrupt:
        say(f"Stopped waiting. The jobs go on. To see them:\n  diamond-bench status {place_of(saved)}")
        return 130
    report_results(saved, store, as_json, with_report)
    for ref, state in states.items():
        if state.status != "done" and (state.error or state.text):
            say(f"{state.status}: {ref}: {state.error or state.text}{f' (log: {state.log})' if state.log else ''}")
    return 0 if all(state.status == "done" for state in states.values()) else 1
