"""Start states in the layout of the authors' CS:GO model: one folder per state, with arrays of frames and actions.

    spawn/0/full_res.npy   (s, 3, h, w) uint8 RGB, oldest first
    spawn/0/low_res.npy    (s, 3, h, w) uint8 RGB, the same frames at low resolution; may be missing
    spawn/0/act.npy        (s, k) bytes: the action after each of these frames
    spawn/0/next_act.npy   (n, k) bytes: the recorded actions after those; may be missing

An action is a vector of k bits: one bit for a key, and the one-hot of a choice of several values, such as a bin of the mouse. Other files
are not read.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diamond_bench.data.static import EpisodeSet
from diamond_bench.errors import UserError, joined
from diamond_bench.play.lanes import Start
from diamond_bench.play.options import Place
from diamond_bench.play.recording import MOST_STEPS, RecordedStep, Recording
from diamond_bench.reading import read_file
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.stored.imagination import RealPlay

LOW_RESOLUTION = "low_res.npy"
MOST_SPAWNS = 1000
"""Maximum number of start states."""
_MOST_BYTES = 256_000_000
"""Maximum size of an array's file."""


@dataclass(frozen=True)
class Spawn:
    """One start state."""

    name: str
    frames: Tensor
    """(s, 3, h, w) uint8, oldest first."""
    actions: Tensor
    """(s, columns) int64: the action after each frame."""
    following: tuple[list[int], ...]
    """The recorded actions after the last of `actions`."""
    low: Tensor | None = None
    """(s, 3, h, w) uint8: the frames at low resolution. None if the folder has none."""

    def start(self, place: Place, length: int) -> Start:
        """Real play of the last `length` frames. Raises UserError if there are fewer."""
        if len(self.frames) < length:
            raise UserError(f"start state {self.name}: it has {len(self.frames)} frames, and what plays needs {length}")
        low = None if self.low is None else self.low[-length:]
        return Start(self.frames[-length:], self.actions[-length:], torch.ones(length, dtype=torch.bool), place, low)

    def recording(self, spec: ActionSpec, place: Place) -> Recording | None:
        """The recorded actions from the last frame on. None if there are none."""
        if not self.following:
            return None
        steps = (self.actions[-1].tolist(), *self.following)
        return Recording(spec, place, 0, (), (), tuple(RecordedStep(action, 0, ()) for action in steps), ())


def read_spawns(folder: Path, spec: WorldSpec) -> tuple[Spawn, ...]:
    """The start states in a folder, in the order of their names. Numbers are sorted by their value.

    Args:
        folder: contains one folder per state.
        spec: frames and actions of the world model.

    Raises UserError with the file and the problem if an array is missing, damaged, or of another shape.
    """
    if spec.actions.kind != "MultiDiscrete":
        raise UserError(f"--spawn {folder}: the actions of the world model are {spec.actions}, and spawn folders have keys and choices")
    try:
        found = [inner for inner in folder.iterdir() if inner.is_dir() and not inner.name.startswith(".")]
    except OSError as error:
        raise UserError(f"--spawn {folder}: {error.strerror or error}; expected a folder with one folder per start state") from None
    if not 1 <= len(found) <= MOST_SPAWNS:
        raise UserError(f"--spawn {folder}: it has {len(found)} folders; expected 1 to {MOST_SPAWNS}, one per start state")
    ordered = sorted(found, key=lambda inner: (not inner.name.isdecimal(), int(inner.name) if inner.name.isdecimal() else 0, inner.name))
    return tuple(_read(inner, spec) for inner in ordered)


def _read(folder: Path, spec: WorldSpec) -> Spawn:
    frames = _frames(folder / "full_res.npy", spec.frames)
    actions = _actions(folder / "act.npy", spec.actions)
    if len(actions) != len(frames):
        raise UserError(f"{folder / 'act.npy'}: {len(actions)} actions for {len(frames)} frames; expected one for each frame")
    following = folder / "next_act.npy"
    after = _actions(following, spec.actions).tolist() if following.exists() else []
    file = folder / LOW_RESOLUTION
    low = torch.from_numpy(_frames(file, None, len(frames))) if file.exists() else None
    return Spawn(folder.name, torch.from_numpy(frames), torch.from_numpy(actions), tuple(after), low)


def _frames(file: Path, spec: FrameSpec | None, count: int | None = None) -> NDArray[np.uint8]:
    """Frames of this size (None: of any), and of this number."""
    frames = _array(file)
    fits = frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[1] == 3 and frames.size
    if not fits or len(frames) != (count or len(frames)) or frames.shape[2:] != (spec.sides if spec else frames.shape[2:]):
        size = f"{spec.height}, {spec.width}" if spec else "height, width"
        raise UserError(f"{file}: {_described(frames)}; expected ({count or 'frames'}, 3, {size}) uint8")
    return frames


def check_low(folder: Path, spawns: Sequence[Spawn], low: FrameSpec, name: str) -> None:
    """Raises UserError if a state's frames at low resolution have another size than those of the world model `name`."""
    for spawn in spawns:
        if spawn.low is not None and spawn.low.shape[2:] != low.sides:
            height, width = spawn.low.shape[2:]
            raise UserError(
                f"{folder / spawn.name / LOW_RESOLUTION}: frames of {height} x {width}, and {name} has {low} at low resolution; without "
                "this file they are computed from full_res.npy"
            )


def _actions(file: Path, spec: ActionSpec) -> NDArray[np.int64]:
    """Columns (n, k) int64 of the bits in a file."""
    bits = _array(file)
    widths = [1 if size == 2 else size for size in spec.sizes]
    if bits.dtype.kind not in "biuf" or bits.ndim != 2 or bits.shape[1] != sum(widths) or not len(bits) <= MOST_STEPS:
        raise UserError(f"{file}: {_described(bits)}; expected (steps, {sum(widths)}) bits for {spec}, and at most {MOST_STEPS:,} steps")
    if not np.isin(bits, (0, 1)).all():
        raise UserError(f"{file}: expected only 0 and 1 in it")
    columns = np.zeros((len(bits), len(widths)), np.int64)
    for column, part in enumerate(np.split(bits, np.cumsum(widths)[:-1], axis=1)):
        if part.shape[1] == 1:
            columns[:, column] = part[:, 0]
            continue
        several = np.flatnonzero(part.sum(axis=1) != 1)
        if len(several):
            name, step = spec.names[column] if spec.names else f"column {column}", int(several[0])
            set_ = int(part[step].sum())
            raise UserError(f"{file}: step {step}: {set_} of the {part.shape[1]} values of {name} are set; expected one")
        columns[:, column] = part.argmax(axis=1)
    return columns


def _array(file: Path) -> NDArray[Any]:
    try:
        found = np.load(io.BytesIO(read_file(file, _MOST_BYTES)), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file}: cannot be read as an array of numpy: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(found, np.ndarray):
        raise UserError(f"{file}: several arrays; expected one")
    return found


def _described(array: NDArray[Any]) -> str:
    return f"an array {tuple(array.shape)} of {array.dtype}"


def spawn_starts(spawns: Sequence[Spawn], length: int) -> dict[Place, Start]:
    """The starts by their place, which is the number of the state and the step of its last frame.

    `length`: number of frames of a start. Raises UserError for a state with fewer.
    """
    places = [_place(number, spawn) for number, spawn in enumerate(spawns)]
    return {place: spawn.start(place, length) for place, spawn in zip(places, spawns, strict=True)}


def chosen_start(starts: Mapping[Place, Start], place: Place) -> Start:
    """The start at a place. Raises UserError, with the places that exist, if there is none."""
    if place not in starts:
        raise UserError(f"start {place[0]}:{place[1]}: the start states are {joined([f'{number}:{step}' for number, step in starts])}")
    return starts[place]


def recordings_of(spawns: Sequence[Spawn], spec: ActionSpec) -> dict[Place, Recording]:
    """The recorded actions that continue from each place. States without any are left out."""
    found = {_place(number, spawn): spawn for number, spawn in enumerate(spawns)}
    recordings = {place: spawn.recording(spec, place) for place, spawn in found.items()}
    return {place: recording for place, recording in recordings.items() if recording is not None}


def _place(number: int, spawn: Spawn) -> Place:
    return number, len(spawn.frames) - 1


def as_play(spawns: Sequence[Spawn], actions: ActionSpec) -> RealPlay:
    """The frames of all start states as real play. It cannot be replayed."""
    lengths = torch.tensor([len(spawn.frames) for spawn in spawns])
    none = torch.zeros(int(lengths.sum()), dtype=torch.bool)
    frames, taken = (torch.cat([getattr(spawn, name) for spawn in spawns]) for name in ("frames", "actions"))
    return RealPlay(EpisodeSet(frames, taken, None, none, none, lengths.cumsum(0) - lengths, lengths), None, actions)
