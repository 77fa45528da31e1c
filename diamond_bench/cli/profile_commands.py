"""The commands that measure how fast this machine trains agents."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from diamond_bench.cli.common import MACHINE, AsJson, app, open_store, out, run_jobs, say, writing
from diamond_bench.errors import UserError

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings of the training, such as game=Pong scale=small execution.precision=bf16."),
]


@app.command(rich_help_panel=MACHINE)
def profile(
    overrides: Overrides = None,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare", metavar="plain|authors", help="Compare with plain fp32 without compilation, or with the authors' settings."
        ),
    ] = None,
    parts: Annotated[
        str | None, typer.Option("--parts", metavar="NAME[,NAME]", help="Measure only these parts, such as denoiser_update,next_frame.")
    ] = None,
    packed: Annotated[
        str | None,
        typer.Option(
            "--packed", metavar="N[,M]", help="Compare N simultaneous trainings on the device with a single one, instead of timing parts."
        ),
    ] = None,
    pairs: Annotated[
        int | None, typer.Option("--pairs", metavar="N", help="With --packed: measure each number of trainings in N pairs. Default: 6.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how long the parts of a training take on this machine.

    The default is game=Breakout seed=0.
    """
    from diamond_bench.printing import print_json
    from diamond_bench.report.packing_table import packing_records, packing_table
    from diamond_bench.report.profile_table import executed_with, profile_records, profile_table
    from diamond_bench.studies.single import plan_profile

    tokens = overrides or []
    plan = plan_profile(tokens, compare, _model_of, [] if parts is None else parts.split(","), _numbers(packed), pairs)
    store = open_store([token for token in tokens if token.startswith("output_dir=")])
    (ref,) = plan.jobs
    with writing(store):
        exit_code = run_jobs(plan, store).exit_code
    if exit_code == 0:
        result, config = store.result(ref), plan.jobs[ref].config
        if as_json:
            print_json(out, packing_records(store, ref) if config.packed else profile_records(store, ref))
        else:
            say(f"{config.device_name}, {config.executed}; {config.training.game} at scale {plan.scale}")
            if config.packed:
                out.print(packing_table(result))
            else:
                say(executed_with(config, result))
                out.print(profile_table(result, config.compare))
            for note in result.info["notes"]:
                say(f"note: {note}")
        say(f"Profile: {store.folder(ref)}")
    raise typer.Exit(exit_code)


@app.command(rich_help_panel=MACHINE)
def acceptance(
    overrides: Overrides = None,
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, help="End after this time. Parts that do not begin are named.")] = 8.0,
    file: Annotated[Path, typer.Option("--out", help="Write all numbers to this JSON file.")] = Path("acceptance.json"),
) -> None:
    """Measure what a GPU gains from each option, in at most eight minutes.

    The command runs the tests of CUDA and profiles, each with a time limit. On a CPU it measures what a CPU offers. It writes the JSON file
    after each part. Rerunning the command measures only what is missing. The exit code is 1 if a part is not done.
    """
    from diamond_bench.profiling.acceptance import Outcome, accept, findings, parts, plain
    from diamond_bench.report.acceptance_table import findings_table, parts_table
    from diamond_bench.store.files import write_json
    from diamond_bench.studies.single import plan_profile

    tokens = overrides or []
    tests = Path(__file__).parents[2] / "tests" / "test_cuda.py"
    (spec,) = plan_profile(tokens, None, _model_of).jobs.values()
    gpu = spec.config.execution.device != "cpu"
    todo = parts(tokens, gpu, tests if tests.exists() else None)
    if file.is_dir():
        raise UserError(f"--out {file} is a folder; name a file")

    def write(outcomes: Sequence[Outcome]) -> None:
        try:
            write_json(file, {"device": spec.config.device_name, "software": spec.config.software, **plain(outcomes, gpu)})
        except OSError as error:
            raise UserError(f"--out {file} cannot be written ({error})") from None

    def save(outcomes: Sequence[Outcome]) -> None:
        write(outcomes)
        done = outcomes[-1]
        say(f"{done.part.name}: {done.status} after {done.seconds:.0f} s ({len(outcomes)} of {len(todo)} parts)")

    write(())  # a file that cannot be written is refused before anything is measured
    outcomes = accept(todo, minutes, save)
    say(f"{spec.config.device_name}; {spec.config.software}")
    out.print(parts_table(outcomes))
    out.print(findings_table(findings(outcomes, gpu)))
    say(f"Numbers: {file}")
    raise typer.Exit(int(any(outcome.status != "done" for outcome in outcomes)))


def _numbers(text: str | None) -> list[int]:
    """The numbers of --packed. Raises UserError."""
    found = [] if text is None else text.split(",")
    if not all(number.strip().isdecimal() for number in found):
        raise UserError(f"--packed {text}: expected numbers of simultaneous trainings, each at least 2, such as 2,4")
    return [int(number) for number in found]


def _model_of(device: str) -> tuple[str, str]:
    """The resolved device and its model. Asks torch only if the machine shows a GPU."""
    from diamond_bench.launch.devices import device_name, has_gpu, worker_devices

    worker_devices(device, 1)  # refuses what is no device, or not there
    return asked_of_torch(device) if has_gpu() and device != "cpu" else ("cpu", device_name("cpu"))


_ASK = """
import json, sys
from diamond_bench.errors import UserError
from diamond_bench.launch.devices import device_name, resolve_device
try:
    resolved = resolve_device(sys.argv[1])
    resolved = "cuda:0" if resolved == "cuda" else resolved
    if resolved != "cpu":
        import torch
    print(json.dumps({"found": [resolved, device_name(resolved)]}))
except UserError as error:
    print(json.dumps({"error": str(error)}))
"""


def asked_of_torch(device: str) -> tuple[str, str]:
    """As `_model_of`, but asks torch in a short-lived process, so that the CUDA context of the question does not exist during the profile.

    Raises UserError if torch finds no such device, or cannot be asked.
    """
    done = subprocess.run([sys.executable, "-P", "-c", _ASK, device], capture_output=True, text=True)
    if done.returncode:
        raise UserError(
            f"execution.device={device}: torch could not look for it: {(done.stderr.strip().splitlines() or ['it printed no reason'])[-1]}"
        )
    answer = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        raise UserError(answer["error"])
    resolved, name = answer["found"]
    return resolved, name
