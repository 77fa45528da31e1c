"""Saves what was played: the actions, a video, and one Minari dataset per lane. Imagined data are marked as imagined."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from analysis.media import write_video
from diamond_bench.data.foreign import ACTION_NAMES, PLAYED
from diamond_bench.data.minari_io import Episode, write_dataset, write_episode
from diamond_bench.envs.games import make_env, spec
from diamond_bench.envs.saves import load_env
from diamond_bench.errors import UserError
from diamond_bench.play.lanes import Lane, Real
from diamond_bench.play.recording import recorded, write_recording
from diamond_bench.play.saver import Played
from diamond_bench.play.session import Moment, Session
from diamond_bench.play.video import pictures
from diamond_bench.spaces import FrameSpec, WorldSpec
from diamond_bench.store.files import unfinished_folder, write_json
from diamond_bench.typed import to_plain
from diamond_bench.worlds.oracle.packing import unpack

ACTIONS_FILE, VIDEO_FILE, FACTS_FILE, BRANCHES = "actions.json", "play.mp4", "session.json", "branches"
_GROUP = "episode"


def save_session(played: Played, out: Path, game: str, now: datetime | None = None) -> Path:
    """Saves the path from the start of a session to a moment, and returns the new folder `out`/GAME/TIME-PLAYER.

    The folder holds the actions (`recorded`), a video of all lanes, session.json, the actions of each other branch (branches/1.json and so
    on), and for each lane a Minari dataset of one episode. The episode ends where the lane first says so. An episode of the real game has
    raw rewards, lost lives and the console's memory, as in a collected dataset. An imagined one names what imagined it (`imagined_facts`),
    and no study takes it.

    The folder appears whole or not at all: a name that begins with a dot is unfinished. Encoding takes some milliseconds per step. Another
    thread may step the session meanwhile.

    Args:
        played: what to save. `fps` is the rate of the video.
        out: the folder of all recordings.
        game: the name of the game, or of an imported dataset.
        now: the time of the name. None is the present time.

    Raises UserError if nothing was played before the moment, or the folder cannot be written.
    """
    session, path = played.session, played.moment.path
    if len(path) < 2:
        raise UserError("nothing was played yet, so there is nothing to save")
    time = (now or datetime.now(UTC)).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    target = out / _name(game) / f"{time}-{_name(played.player)}"
    try:
        with unfinished_folder(target) as folder:
            write_recording(folder / ACTIONS_FILE, recorded(session, path[-1]))
            for number, end in enumerate(played.branches, start=1):
                write_recording(folder / BRANCHES / f"{number}.json", recorded(session, end))
            write_video(pictures(session.lanes, path), folder / VIDEO_FILE, played.fps)
            names = _different([_name(lane.name) for lane in session.lanes])
            for number, name in enumerate(names):
                _write_lane(folder / name, session, path, number, game, played.player)
            write_json(folder / FACTS_FILE, _facts(played, path, game, names))
            return _published(folder, target)
    except OSError as error:
        raise UserError(f"{out}: the recording cannot be saved ({error.strerror or error}); choose another folder with --out") from error


def imagined_facts(session: Session, path: Sequence[Moment], lane: int) -> dict[str, Any]:
    """What imagined the frames of a lane: the job, the seed of the start, and each setting with the first step that it made."""
    settings: list[dict[str, Any]] = []
    for moment in path[1:]:
        setting = {"seed": moment.seed, **to_plain(moment.settings[lane])}
        if not settings or setting != {key: settings[-1][key] for key in setting}:
            settings.append({"from_step": moment.step, **setting})
    return {"by": _author(session.lanes[lane]), "seed": path[0].seed, "settings": settings}


def lane_episode(session: Session, path: Sequence[Moment], lane: int) -> Episode:
    """The frames, actions and numbers of one lane, up to the first step after which the lane said that it ended."""
    last = next((number for number, moment in enumerate(path) if moment.shown[lane].ended or moment.shown[lane].cut), len(path) - 1)
    path = path[: last + 1]
    dynamics, shown = session.lanes[lane].dynamics, [moment.shown[lane] for moment in path]
    real = dynamics if isinstance(dynamics, Real) else None
    rewarded = spec(real.play.game, real.play.env).rewards if real else shown[-1].reward_probabilities is not None
    infos = _real_infos(real, session, path, lane) if real else []
    rams, losses = [info.get("ram") for info in infos], [info.get("life_loss") for info in infos[1:]]
    return Episode(
        frames=np.stack([each.frame for each in shown]).transpose(0, 2, 3, 1),
        actions=np.array([moment.action for moment in path[1:]], session.actions.dtype),
        rewards=np.array([each.reward for each in shown[1:]], np.float32) if rewarded else None,
        terminated=shown[-1].ended,
        truncated=not shown[-1].ended,
        life_losses=None if None in losses or not real else np.array(losses, np.bool_),
        ram=np.stack(rams) if real and all(ram is not None for ram in rams) else None,  # type: ignore[arg-type]
    )


def _real_infos(real: Real, session: Session, path: Sequence[Moment], lane: int) -> list[Mapping[str, Any]]:
    """The info of each frame of a path in the real game, which is played again. The seed and the actions give the same frames."""
    play, env = real.play, make_env(real.play.game, real.play.env)
    number, step = session.start.place
    _, info = env.reset(seed=play.seed(number))
    for at in range(step):
        _, _, terminated, truncated, info = env.step(play.action(number, at))
        if play.continues and (terminated or truncated):
            _, info = env.reset()
    found: list[Mapping[str, Any]] = [info]
    assert path[0].memories is not None, "the memories of the start are never dropped"
    (state,) = path[0].memories[lane].world
    load_env(env, unpack(state.numpy().tobytes()))
    for moment in path[1:]:
        frame, *_, info = env.step(moment.action)
        assert np.array_equal(np.asarray(frame).transpose(2, 0, 1), moment.shown[lane].frame), "the same step gave another frame"
        found.append(info)
    env.close()
    return found


def _write_lane(folder: Path, session: Session, path: Sequence[Moment], lane: int, game: str, player: str) -> None:
    episode, imagined = lane_episode(session, path, lane), not isinstance(session.lanes[lane].dynamics, Real)
    facts: dict[str, Any] = {"imagined": imagined_facts(session, path, lane)} if imagined else {PLAYED: {"game": game, "player": player}}
    names = session.actions.names
    facts |= {ACTION_NAMES: list(names)} if names else {}
    file = folder.with_name(f"{folder.name}.h5")
    with h5py.File(file, "w") as target:
        write_episode(target.create_group(_GROUP), episode, _author(session.lanes[lane]) if imagined else None)
    dataset_id = f"{'imagined' if imagined else 'played'}/{_name(game).lower()}-v0"
    spec = WorldSpec(FrameSpec(*episode.frames.shape[1:3]), session.actions, rewards=episode.rewards is not None)
    write_dataset(folder / "data", dataset_id, [file], _GROUP, spec, facts)
    file.unlink()


def _author(lane: Lane) -> str:
    return lane.source or lane.name


def _facts(played: Played, path: Sequence[Moment], game: str, folders: Sequence[str]) -> dict[str, Any]:
    """The content of session.json."""
    session, lanes = played.session, list[dict[str, Any]]()
    for number, (lane, folder) in enumerate(zip(session.lanes, folders, strict=True)):
        origin = {"real": True} if isinstance(lane.dynamics, Real) else imagined_facts(session, path, number)
        lanes.append({"name": lane.name, "folder": folder, **origin})
    p50, p95 = np.percentile([moment.seconds for moment in path[1:]], (50, 95)).tolist()
    return {
        "game": game,
        "player": played.player,
        "start": {"place": list(session.start.place), "seed": path[0].seed},
        "steps": path[-1].step,
        "branches": len(played.branches),
        "model_seconds": {"p50": p50, "p95": p95},
        "lanes": lanes,
        "fps": played.fps,
        "measured": dict(played.measured),
    }


def _published(temporary: Path, target: Path) -> Path:
    """Renames a folder to the target, or to the target with the first number from 2 that is free."""
    for path in (target, *(target.with_name(f"{target.name}-{number}") for number in range(2, 1000))):
        try:
            return temporary.rename(path)
        except OSError:
            if not path.exists():
                raise
    raise UserError(f"{target}: too many recordings of one second")


def _name(text: str) -> str:
    """A text as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:80] or "unnamed"


def _different(names: Sequence[str]) -> list[str]:
    """The names, with a number where one occurs twice or is that of something else in the folder."""
    found = list[str]()
    for name in names:
        free: Iterator[str] = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        found.append(next(each for each in free if each not in (*found, ACTIONS_FILE, VIDEO_FILE, FACTS_FILE, BRANCHES)))
    return found
