"""The commands that play world models and real games, and that make recordings a dataset."""

import os
import shlex
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from diamond_bench.cli.common import STUDIES, app, open_store, say, writing
from diamond_bench.errors import UserError, nearest
from diamond_bench.play.options import LOOPBACK, MAX_FPS, MAX_HORIZON, MAX_SEED, Pictures, Place, Player, PlayOptions


@app.command(rich_help_panel=STUDIES)
def play(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE... [KEY=VALUE]...",
            help="Jobs (world models, agents, evaluations, datasets) by id, studies, families such as oracle, and games. Settings: "
            "game=, seed=, variant= and scale= choose a part of a study, and sampler.num_steps=1 and others change the sampler.",
        ),
    ] = None,
    real: Annotated[bool, typer.Option("--real", help="Also play the real game, and show how far one model is from it.")] = False,
    player: Annotated[
        str | None, typer.Option("--player", help="Who plays first: human, policy, or recording, which is the default with --actions.")
    ] = None,
    start: Annotated[str | None, typer.Option("--start", metavar="EPISODE:STEP", help="Where to begin in the recorded play.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=MAX_SEED, help="The seed of all noise and chance.")] = 0,
    fps: Annotated[float, typer.Option("--fps", min=0.1, max=MAX_FPS, help="Steps per second.")] = 15.0,
    horizon: Annotated[
        int,
        typer.Option("--horizon", min=0, max=MAX_HORIZON, help="Steps after which play is over. 0 is no limit, or 150 with --headless."),
    ] = 0,
    milestone: Annotated[float | None, typer.Option("--milestone", help="Share of the training after which the model was saved.")] = None,
    policy: Annotated[
        str | None,
        typer.Option("--policy", metavar="AGENT", help="An agent whose policy can play in pictures that have none of their own."),
    ] = None,
    spawn: Annotated[
        Path | None,
        typer.Option("--spawn", metavar="FOLDER", help="Start from the states in this folder, in the layout of the authors' CS:GO model."),
    ] = None,
    actions: Annotated[Path | None, typer.Option("--actions", help="Replay the actions of this file (actions.json).")] = None,
    as_recorded: Annotated[
        bool,
        typer.Option("--as-recorded/--actions-only", help="Replay with the recorded seeds and settings, or with those of this command."),
    ] = True,
    headless: Annotated[bool, typer.Option("--headless", help="Play without a page: --actions, the policy, or random actions.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for what is saved; with --headless also a file (a.mp4, a.png).")] = Path(
        "play"
    ),
    pictures: Annotated[str, typer.Option("--pictures", help="Format of the page's pictures: png, webp or jpeg (not exact).")] = "png",
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on. Others than 127.0.0.1 can be reached from elsewhere.")
    ] = LOOPBACK[0],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Open no browser. The address is printed in any case.")] = False,
    threads: Annotated[int, typer.Option("--threads", min=1, max=1024, help="CPU threads.")] = 1,
    device: Annotated[
        str, typer.Option("--device", help="The models' device: auto (a GPU if there is one), cpu, cuda or cuda:N.")
    ] = "auto",
    precision: Annotated[str, typer.Option("--precision", help="Arithmetic of the networks: fp32, tf32 or bf16.")] = "fp32",
) -> None:
    """Play world models and real games in the browser.

    The page is served by this machine and needs no display here. Models that are named together play next to each other.
    """
    options = PlayOptions(
        player=_one_of("--player", player or ("human" if actions is None else "recording"), Player),
        seed=seed,
        place=None if start is None else _place(start),
        fps=fps,
        horizon=horizon,
        threads=threads,
        pictures=_one_of("--pictures", pictures, Pictures),
        actions=actions,
        as_recorded=as_recorded,
        out=out,
        host=host,
        port=port,
        browser=not no_browser,
    )
    known: Any = _one_of("--precision", precision, Literal["fp32", "tf32", "bf16"])
    _check(options, headless, spawn)
    words = sources or []
    store = open_store([word for word in words if word.startswith("output_dir=")])
    from diamond_bench.launch.devices import resolve_device, valid_device
    from diamond_bench.play.naming import request

    valid_device(device, "--device")
    asked = request(store, words, policy)  # mistakes in names are reported before torch is imported
    recording = _recording(options)
    if recording is not None and options.place is None:
        options = replace(options, place=recording.place)
    from diamond_bench.play.opening import open_sources
    from diamond_bench.stored.imagination import How

    how = How(milestone=milestone, device=resolve_device(device, "--device"), precision=known)
    opened = open_sources(store, asked, real, how, threads, say, spawn)
    _check_opened(opened, options, recording)
    for note in opened.notes:
        say(f"note: {note}")
    with writing(store):
        if headless:
            from diamond_bench.play.headless import run_headless

            if recording is None and options.player == "recording":
                recording, options = _recording_of_start(opened, options), replace(options, as_recorded=False)
            run_headless(opened, recording, options, say)
        else:
            from diamond_bench.play.server import serve

            serve(opened, recording, options, say)


@app.command(rich_help_panel=STUDIES)
def join(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Recordings of the real game that `play` saved.")],
    out: Annotated[Path, typer.Option("--out", help="The folder of the new dataset.")],
) -> None:
    """Join recordings of a real game to one dataset for a study."""
    from diamond_bench.play.joining import join_datasets

    number, notes = join_datasets(folders, out)
    for note in notes:
        say(f"note: {note}")
    say(f"{number} recordings in {out}. To train on them: diamond-bench sweep STUDY data.dataset={shlex.quote(str(out))}")


def _one_of(option: str, value: str, kind: Any) -> Any:
    if value not in get_args(kind):
        raise UserError(f"{option} {value}: {nearest(value, get_args(kind))}")
    return value


def _place(text: str) -> Place:
    episode, colon, step = text.partition(":")
    if not colon or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in (episode, step)):
        raise UserError(f"--start {text}: expected EPISODE:STEP, two whole numbers from 0, such as 0:100")
    return int(episode), int(step)


def _check(options: PlayOptions, headless: bool, spawn: Path | None) -> None:
    """Raises UserError for options that do not go together, and for a missing package."""
    if options.player == "recording" and options.actions is None and spawn is None:
        raise UserError("--player recording: name the file of recorded actions with --actions FILE, or start states with --spawn FOLDER")
    if headless:
        if options.actions is not None and options.player != "recording":
            raise UserError(f"--player {options.player}: --headless with --actions replays the recording; leave one of them out")
        _check_video(options.out)
        return
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out {options.out}: is a file; expected a folder")
    if find_spec("aiohttp") is None:
        raise UserError("play: the page needs the package aiohttp; get it with: pip install '.[play]' in the checkout")
    if options.host not in LOOPBACK:
        say(f"note: --host {options.host}: other machines can reach this page. Only its secret address protects it, without encryption.")


def _check_video(out: Path) -> None:
    video = out.suffix in (".mp4", ".png")
    if not video and out.suffix.lower() in (".mp4", ".png"):
        raise UserError(f"--out {out}: write the ending in small letters, {out.suffix.lower()}")
    if not video and out.suffix and not out.is_dir():
        stem = out.with_suffix("")
        raise UserError(f"--out {out}: expected a video such as {stem}.mp4, a picture such as {stem}.png, or a folder such as {stem}")
    if video and os.path.lexists(out):
        raise UserError(f"--out {out}: exists already. Name another file, or remove this one first")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; expected a folder, or a file such as rollout.mp4 or steps.png")
    if video and not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")


def _recording(options: PlayOptions) -> Any:
    if options.actions is None:
        return None
    from diamond_bench.play.recording import read_recording

    return read_recording(options.actions)


def _recording_of_start(opened: Any, options: PlayOptions) -> Any:
    place = options.place or opened.starts[0]
    if place not in opened.recordings:
        raise UserError(f"--player recording: no recorded actions continue from {place[0]}:{place[1]} (next_act.npy)")
    return opened.recordings[place]


def _check_opened(opened: Any, options: PlayOptions, recording: Any) -> None:
    """Raises UserError for options that do not fit what was opened."""
    if options.player == "policy" and not any(lane.policy for lane in opened.facts):
        raise UserError("--player policy: nothing that is named has a policy; name an agent, also as --policy AGENT")
    if options.place is not None:
        opened.start(options.place)
    if recording is not None and options.as_recorded and len(recording.lanes) != len(opened.facts):
        from diamond_bench.play.opening import REAL

        number, missing = len(recording.lanes), REAL in recording.lanes and not any(lane.real for lane in opened.facts)
        raise UserError(
            f"--actions {options.actions}: it was recorded with {number} {'picture' if number == 1 else 'pictures'} "
            f"({'; '.join(recording.lanes)}), and {len(opened.facts)} {'is' if len(opened.facts) == 1 else 'are'} named: "
            f"{'add --real' if missing else 'name as many'}, or --actions-only"
        )
