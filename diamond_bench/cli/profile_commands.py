"""The command that measures where the time of a training goes."""

from typing import Annotated

import typer

from diamond_bench.cli.common import AsJson, app, open_store, out, run_jobs, say, writing

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As of train: game=Pong scale=small execution.precision=bf16")
]


@app.command()
def profile(
    overrides: Overrides = None,
    compare: Annotated[
        str | None, typer.Option("--compare", metavar="plain|authors", help="Time it in turn with eager fp32, or with what the authors do.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure on this machine how long the parts of a training take (game=Breakout seed=0 where not said otherwise)."""
    from diamond_bench.printing import print_json
    from diamond_bench.report.profile_table import profile_records, profile_table
    from diamond_bench.studies.single import plan_profile

    tokens = overrides or []
    plan = plan_profile(tokens, compare, _model_of)
    store = open_store([token for token in tokens if token.startswith("output_dir=")])
    (ref,) = plan.jobs
    with writing(store):
        exit_code = run_jobs(plan, store).exit_code
    if exit_code == 0:
        result, config = store.result(ref), plan.jobs[ref].config
        if as_json:
            print_json(out, profile_records(store, ref))
        else:
            say(f"{config.device_name}, {config.executed}; {config.training.game} at scale {plan.scale}")
            out.print(profile_table(result))
            for note in result.info["notes"]:
                say(f"note: {note}")
        say(f"profile: {store.folder(ref)}")
    raise typer.Exit(exit_code)


def _model_of(device: str) -> tuple[str, str]:
    """The device that execution.device means, and its model. Torch is imported only where the machine shows a GPU."""
    from diamond_bench.launch.devices import device_name, has_gpu, resolve_device, worker_devices

    worker_devices(device, 1)  # refuses what is no device, or not there
    resolved = resolve_device(device) if has_gpu() else "cpu"
    resolved = "cuda:0" if resolved == "cuda" else resolved
    return resolved, device_name(resolved)
