"""Plays without a page: recorded actions, a policy or chance, to a video, a picture or a saved session."""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from analysis.media import replacing, write_video
from diamond_bench.envs.policies import random_action
from diamond_bench.errors import UserError
from diamond_bench.play.opened import Opened
from diamond_bench.play.options import PlayOptions
from diamond_bench.play.recording import Recording, recorded, replay
from diamond_bench.play.saver import Played
from diamond_bench.play.saving import save_session
from diamond_bench.play.session import Moment, Session
from diamond_bench.play.video import pictures

STEPS = 150
"""Steps without a recording and without a horizon: 10 seconds at 15 per second."""
_REPORT_SECONDS = 5.0
_ROWS = 4


def run_headless(opened: Opened, recording: Recording | None, options: PlayOptions, say: Callable[[str], None]) -> Session:
    """Plays, and writes a video to `options.out` if that is an .mp4 file, or a picture of four steps from the first to the last if it is a
    .png file. Otherwise it saves the session in that folder (`save_session`).

    A recording is replayed up to `options.horizon`, if that is not 0. Without one, the policy plays (`options.player`), or else random
    actions, for `options.horizon` or `STEPS` steps, until the game ends in the picture of the player. `say` gets the progress, and for each
    picture of the recording whether its bytes are equal. A file appears whole or not at all.

    Raises UserError for a start that is not there, actions of another space, and a file that cannot be written.
    """
    place, seed = options.place, options.seed
    if recording is not None and options.as_recorded:
        place, seed = recording.place, recording.seed
    session = opened.session(place, seed, options.threads)
    if recording is not None:
        moments, total = replay(session, recording, options.as_recorded), len(recording.steps)
        total = min(total, options.horizon or total)
        moments = itertools.islice(moments, total)
    else:
        total = options.horizon or STEPS
        moments = _played(session, opened, options, total)
    shown = itertools.chain([session.now], _reported(moments, total, say))
    player = "recording" if recording is not None else _player(options)
    try:
        saved = _saved(session, shown, player, opened, options)
    except OSError as error:
        raise UserError(f"--out {options.out}: cannot be written ({error.strerror or error})") from error
    if recording is not None and recording.lanes:
        _compare(session, recording, total, say)
    say(f"{player}: {session.now.step} steps, saved in {saved}")
    return session


def _saved(session: Session, shown: Iterator[Moment], player: str, opened: Opened, options: PlayOptions) -> Path:
    """Plays all moments, and returns the file or the folder."""
    kind = options.out.suffix
    if kind == ".mp4":
        return write_video(pictures(session.lanes, shown), options.out, options.fps)
    path = list(shown)
    if kind != ".png":
        return save_session(Played(session, session.now, player, options.fps), options.out, opened.game)
    if len(path) < 2:
        raise UserError("nothing was played, so there is nothing to show")
    steps = np.linspace(1, len(path) - 1, min(_ROWS, len(path) - 1)).round().astype(int)
    rows = np.concatenate(list(pictures(session.lanes, [path[step] for step in steps], steps=True)))
    with replacing(options.out) as temporary:
        Image.fromarray(rows).save(temporary)
    return options.out


def _player(options: PlayOptions) -> str:
    """Nobody presses keys without a page, so a human's place is taken by random actions."""
    return "policy" if options.player == "policy" else "random"


def _played(session: Session, opened: Opened, options: PlayOptions, steps: int) -> Iterator[Moment]:
    leading = next((number for number, lane in enumerate(opened.facts) if lane.policy), 0) if options.player == "policy" else 0
    for step in range(steps):
        if options.player == "policy":
            moment = session.step(session.policy_action(leading))
        else:
            moment = session.step(random_action(session.actions, np.random.default_rng((options.seed, step))))
        yield moment
        if moment.shown[leading].ended or moment.shown[leading].cut:
            return


def _reported(moments: Iterator[Moment], total: int, say: Callable[[str], None]) -> Iterator[Moment]:
    """The same moments. Every few seconds `say` gets how far they are and how fast."""
    began = last = time.perf_counter()
    for number, moment in enumerate(moments, start=1):
        yield moment
        if (now := time.perf_counter()) - last > _REPORT_SECONDS:
            last = now
            say(f"step {number:,} of {total:,}, {number / (now - began):.1f} per second")


def _compare(session: Session, recording: Recording, steps: int, say: Callable[[str], None]) -> None:
    """Says for each picture whether it showed the recorded bytes. As many pictures are compared in order, others by name."""
    if steps < len(recording.steps):
        say(f"the bytes are not compared, because {steps:,} of {len(recording.steps):,} recorded steps were replayed")
        return
    found = recorded(session)
    by_order = len(found.lanes) == len(recording.lanes)
    known = dict(zip(found.lanes if by_order else recording.lanes, recording.digests, strict=True))
    for name, digest in zip(found.lanes, found.digests, strict=True):
        same = "not in the recording" if name not in known else "the recorded bytes" if known[name] == digest else "other bytes"
        say(f"{name}: {same}")
