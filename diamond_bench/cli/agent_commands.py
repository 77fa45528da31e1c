"""Commands on one agent, outside a study: train, evaluate, import, export."""

from pathlib import Path
from typing import Annotated, Any, NoReturn, cast

import typer

from diamond_bench.cli.common import AGENTS, AsJson, Wait, app, open_store, out, run_jobs, say, writing
from diamond_bench.cli.running import run_plan, show_submission
from diamond_bench.errors import UserError

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings of the run, such as scale=smoke agent.budget=20000 sampler.num_steps=1."),
]
Checkpoint = Annotated[str, typer.Argument(metavar="AGENT", help="A finished agent: the id of its job, or a path in the job's folder.")]


@app.command(rich_help_panel=AGENTS)
def train(
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the jobs and their cost. Run nothing.")] = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Train one agent and play its final episodes.

    Rerunning the command performs only the missing work. The default is game=Breakout seed=0.
    """
    from diamond_bench.studies.single import plan_train

    _run_single(plan_train(overrides or []), overrides, dry_run, wait, as_json)


@app.command(rich_help_panel=AGENTS)
def evaluate(
    checkpoint: Checkpoint,
    overrides: Overrides = None,
    episodes: Annotated[int | None, typer.Option("--episodes", min=1, help="Number of episodes; by default that of the scale.")] = None,
    video: Annotated[
        bool, typer.Option("--video", help="Also write a video that shows the real game next to the agent's imagination of it.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the job and its cost. Run nothing.")] = False,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Play episodes with a finished agent, and print its score and its protocol."""
    from diamond_bench.studies.single import plan_evaluate

    _run_single(plan_evaluate(checkpoint, overrides or [], episodes, video), overrides, dry_run, wait, as_json)


@app.command("import", rich_help_panel=AGENTS)
def import_(
    file: Annotated[Path, typer.Argument(help="A checkpoint in the authors' format (.pt or .safetensors).")],
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[game=GAME] [sigma_data=0.5] [sigma_offset_noise=0.3]",
            help="The game, if it is not the name of the file, and constants of the denoiser's training, which the file does not hold. "
            "For a CS:GO model: \\[height=150] \\[width=280] \\[factor=5], the size of its frames and that of low resolution.",
        ),
    ] = None,
) -> None:
    """Import an agent, or a CS:GO world model (docs/game_engine.md), from a checkpoint in the authors' format.

    The last line of output is the path of the stored agent or world model.
    """
    from diamond_bench.models.tensor_file import holds_names

    if holds_names(file, _TWO_STAGES):
        _import_world_model(file, options or [])
    from diamond_bench.agent import read_checkpoint_of
    from diamond_bench.studies.agents import AGENT_FOLDER, assumed
    from diamond_bench.studies.single import plan_import

    plan, store = plan_import(file, options or []), _own_store(options)
    (ref,) = plan.jobs
    config = plan.jobs[ref].config
    read_checkpoint_of(config.game, file, config.frame_size)  # refused before anything is created
    say(f"{file}: {assumed(config)}")
    with writing(store):
        exit_code = run_jobs(plan, store).exit_code
    if exit_code == 0:
        out.print(str(store.folder(ref) / AGENT_FOLDER), markup=False)
    raise typer.Exit(exit_code)


@app.command(rich_help_panel=AGENTS)
def export(
    checkpoint: Checkpoint,
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="output_dir=FOLDER", help="The store's folder.")] = None,
) -> None:
    """Write a finished agent, or a cascade, as a checkpoint in the authors' format."""
    from diamond_bench.api import load_agent, load_world_model
    from diamond_bench.models.authors_checkpoint import write_authors_checkpoint
    from diamond_bench.models.tensor_file import write_state_dict
    from diamond_bench.studies.agents import find_agent
    from diamond_bench.studies.imported import find_cascade
    from diamond_bench.worlds.cascade.checkpoint import cascade_state

    store = open_store(overrides)
    cascade = find_cascade(store, checkpoint)
    ref = cascade or find_agent(store, checkpoint)
    if file.exists():
        raise UserError(f"{file} exists already. Name another file, or remove this one first")
    with writing(store):
        if cascade is not None:
            write_state_dict(cascade_state(cast(Any, load_world_model(str(cascade), output_dir=store.root))), file)
        else:
            for lost in write_authors_checkpoint(load_agent(str(ref), output_dir=store.root), file):
                say(f"not in the file: {lost}")
    out.print(str(file), markup=False)


_TWO_STAGES = b"upsampler.inner_model."
"""Part of the names in a checkpoint of a cascade."""


def _import_world_model(file: Path, options: list[str]) -> NoReturn:
    from diamond_bench.jobs.train_world_model import model_folder
    from diamond_bench.spaces import FrameSpec
    from diamond_bench.studies.imported import plan_import_world_model
    from diamond_bench.worlds.cascade.checkpoint import read_cascade

    plan, store = plan_import_world_model(file, options), _own_store(options)
    (ref,) = plan.jobs
    config = plan.jobs[ref].config
    read_cascade(file, FrameSpec(config.height, config.width), config.factor)  # refused before anything is created
    say(
        f"{file}: the file does not hold the size of its frames; the import uses height={config.height} width={config.width} "
        f"factor={config.factor}"
    )
    with writing(store):
        exit_code = run_jobs(plan, store).exit_code
    if exit_code == 0:
        out.print(str(model_folder(store.folder(ref), 1.0)), markup=False)
    raise typer.Exit(exit_code)


def _own_store(tokens: list[str] | None) -> Any:
    return open_store([token for token in tokens or [] if token.startswith("output_dir=")])


def _run_single(plan: Any, overrides: list[str] | None, dry_run: bool, wait: bool, as_json: bool) -> None:
    from diamond_bench.config import SlurmCluster
    from diamond_bench.launch.devices import check_devices
    from diamond_bench.printing import print_plan
    from diamond_bench.studies.agents import FILM

    store = _own_store(overrides)
    check_devices(plan.executions(), here=not isinstance(plan.cluster, SlurmCluster))
    if dry_run:
        print_plan(out, plan, store, as_json)
        if isinstance(plan.cluster, SlurmCluster) and not as_json:
            show_submission(plan, store)
        return
    with writing(store):
        exit_code = run_plan(plan, store, as_json, wait, with_report=False)
    for point in plan.points:
        if store.state(point.jobs["agent"]).status == "done":
            say(f"Agent: {store.folder(point.jobs['agent'])}")
        if (film := store.folder(point.jobs["evaluation"]) / FILM).is_file():
            say(f"Video: {film}")
    raise typer.Exit(exit_code)
