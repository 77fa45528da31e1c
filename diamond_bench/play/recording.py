"""Recorded actions: a JSON file with all that a session depends on. The same lanes replay it to the same bytes on the same machine."""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diamond_bench.errors import UserError
from diamond_bench.play.lanes import Setting
from diamond_bench.play.session import Moment, Session
from diamond_bench.reading import read_json
from diamond_bench.shapes import anything, bounded, count, listing, mapping, nullable, number, record, row, text
from diamond_bench.spaces import ACTIONS, ActionSpec
from diamond_bench.store.files import write_json
from diamond_bench.typed import build, to_plain

FORMAT = "diamond-bench actions 1"
_MOST_BYTES = 64_000_000
MOST_STEPS = 1_000_000
"""Maximum number of steps in a file."""


@dataclass(frozen=True)
class RecordedStep:
    """One action, with its seed and its settings."""

    action: Any
    """A number, or a list of the columns."""
    seed: int
    settings: tuple[Setting, ...]
    """One per lane of the recording."""

    def prepare(self, session: Session) -> None:
        """Gives a session the seed and the settings of this step. Raises UserError for a setting that its lane does not take."""
        session.seed = self.seed
        session.change_all(self.settings)


@dataclass(frozen=True)
class Recording:
    """The actions that led from the start of a session to one moment."""

    actions: ActionSpec
    place: tuple[int, int]
    """(recording, step) of the last real frame, as `Start.place`."""
    seed: int
    """The seed of the start."""
    lanes: tuple[str, ...]
    """Names of the lanes."""
    sources: tuple[str, ...]
    """The sources of the lanes, such as ids of jobs."""
    steps: tuple[RecordedStep, ...]
    digests: tuple[str, ...]
    """The SHA-256 of the frames, rewards and ends of each lane."""


def recorded(session: Session, moment: Moment | None = None) -> Recording:
    """The path from the start of a session to a moment, by default the present one, without the branches that it left."""
    path = (moment or session.now).path
    steps = tuple(RecordedStep(moment.action.tolist(), moment.seed, moment.settings) for moment in path if moment.action is not None)
    names, sources = zip(*((lane.name, lane.source) for lane in session.lanes), strict=True)
    digests = tuple(_digest(path, lane) for lane in range(len(session.lanes)))
    return Recording(session.actions, session.start.place, path[0].seed, names, sources, steps, digests)


def replay(session: Session, recording: Recording, as_recorded: bool = True) -> Iterator[Moment]:
    """Plays the recorded actions from the present moment of a session. Yields the moment after each.

    For equal bytes, the session must have been begun at the recording's place and with its seed.

    `as_recorded`: with the seeds and settings of the recording, which needs the same number of lanes. Otherwise with those of the
    session, so that any lanes of the same actions can replay them.

    Raises UserError before the first step if the actions are those of another space, or the lanes are others in number.
    """
    ours, theirs = session.actions, recording.actions
    if (ours.sizes, ours.low, ours.high) != (theirs.sizes, theirs.low, theirs.high):
        raise UserError(f"the recorded actions are {theirs}, but the game's are {ours}; replay them in the game that they were recorded in")
    if as_recorded and len(session.lanes) != len(recording.lanes):
        raise UserError(
            f"the recording has the settings of {len(recording.lanes)} lanes ({'; '.join(recording.lanes)}), and {len(session.lanes)} are "
            "open; open as many, or replay the actions alone"
        )
    return _replayed(session, recording, as_recorded)


def same_bytes(session: Session, recording: Recording) -> tuple[bool, ...]:
    """Whether each lane showed the recorded bytes on the path to the present moment."""
    return tuple(ours == theirs for ours, theirs in zip(recorded(session).digests, recording.digests, strict=True))


def write_recording(file: Path, recording: Recording) -> None:
    """Writes a recording. The file appears whole or not at all."""
    seed, settings, steps = recording.seed, None, []
    for step in recording.steps:
        written: dict[str, Any] = {"action": step.action}
        if step.seed != seed:
            written["seed"] = seed = step.seed
        if step.settings != settings:
            settings = step.settings
            written["settings"] = [to_plain(setting) for setting in settings]
        steps.append(written)
    lanes = [
        {"name": name, "source": source, "sha256": digest}
        for name, source, digest in zip(recording.lanes, recording.sources, recording.digests, strict=True)
    ]
    start = {"place": list(recording.place), "seed": recording.seed}
    write_json(file, {"format": FORMAT, "actions": recording.actions.to_plain(), "start": start, "lanes": lanes, "steps": steps})


def read_recording(file: Path) -> Recording:
    """Reads what `write_recording` wrote. Raises UserError, with the file and the place in it, for anything else."""
    try:
        content = read_json(file, _MOST_BYTES)
        _FILE(content)
        spec = ActionSpec.from_plain(content["actions"])
        return _of(content, spec)
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{file}: not a recording of actions: {error}") from None


def _replayed(session: Session, recording: Recording, as_recorded: bool) -> Iterator[Moment]:
    for step in recording.steps:
        if as_recorded:
            step.prepare(session)
        yield session.step(step.action)


def _of(content: dict[str, Any], spec: ActionSpec) -> Recording:
    lanes, seed, settings, steps = content["lanes"], content["start"]["seed"], tuple[Setting, ...](), []
    for index, step in enumerate(content["steps"]):
        seed = step.get("seed", seed)
        if "settings" in step:
            settings = tuple(build(Setting, setting, f"steps[{index}].settings[{lane}]") for lane, setting in enumerate(step["settings"]))
        if len(settings) != len(lanes):
            raise ValueError(f"steps[{index}].settings: expected {len(lanes)}, one per lane, got {len(settings)}")
        steps.append(RecordedStep(step["action"], seed, settings))
    names, sources, digests = (tuple(lane[key] for lane in lanes) for key in ("name", "source", "sha256"))
    recording, step = content["start"]["place"]
    return Recording(spec, (recording, step), content["start"]["seed"], names, sources, tuple(steps), digests)


def _digest(path: list[Moment], lane: int) -> str:
    digest = hashlib.sha256()
    for moment in path:
        shown = moment.shown[lane]
        digest.update(struct.pack("<d??", shown.reward, shown.ended, shown.cut))
        digest.update(shown.frame.tobytes())
    return digest.hexdigest()


def _action(value: Any) -> None:
    (listing(number) if isinstance(value, list) else number)(value)


def _of_format(value: Any) -> None:
    if value != FORMAT:
        raise ValueError(f"format: expected {FORMAT!r}, got {str(value)[:60]!r}")


_SETTING = record({}, {"sampler": nullable(mapping(anything)), "milestone": nullable(number)})
_STEP = record({"action": _action}, {"seed": count, "settings": listing(_SETTING, 1)})
_FILE = record(
    {
        "format": _of_format,
        "actions": ACTIONS,
        "start": record({"place": row(count, count), "seed": count}),
        "lanes": listing(record({"name": text, "source": text, "sha256": text}), 1),
        "steps": bounded(listing(_STEP), MOST_STEPS),
    }
)
