"""Frames that are given in place of imagined ones, and the starts for which somebody imagines them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diamond_bench.config import EvaluationConfig
from diamond_bench.data.given_frames import Reader, digest_of, find_given, open_given
from diamond_bench.data.references import Windows
from diamond_bench.errors import UserError
from diamond_bench.metrics.header import ALTERED_FRAMES, Play
from diamond_bench.metrics.play import ALTERED_STREAM, Key, WindowBatch, window_batch, with_random_actions
from diamond_bench.spaces import ActionSpec
from diamond_bench.store.kinds import GivenFrames


@dataclass(frozen=True)
class Given:
    """Frames from a reader of given files. A `Frames`."""

    read: Reader

    def __call__(self, rows: range, play: WindowBatch, keys: Sequence[Key]) -> Tensor:
        frames = torch.from_numpy(self.read(rows)).movedim(-1, -3)
        return frames.contiguous().reshape(play.true.shape).to(play.frames.device)  # other strides would add in another order


@dataclass(frozen=True)
class Starts:
    """The starts of one kind of play, and the actions to take from them."""

    windows: Windows
    count: int
    horizon: int
    """Frames to imagine from each start."""
    samples: int | None = None
    """Futures of each start, if there are several."""
    random_actions: ActionSpec | None = None
    """The action space, if the actions are uniformly random in place of the true ones."""
    seed: int = 0

    def play(self, row: int) -> WindowBatch:
        """One start: its context, the actions to take, and the true frames."""
        play = window_batch(self.windows, [row], self.horizon)
        return play if self.random_actions is None else with_random_actions(play, self.random_actions, [(self.seed, ALTERED_STREAM, row)])

    def shape(self) -> tuple[int, ...]:
        """The shape of the frames to imagine, (count, [samples,] horizon, h, w, 3)."""
        height, width = self.windows.episodes.frames.shape[-2:]
        return (self.count, *([self.samples] if self.samples else []), self.horizon, height, width, 3)


def starts_of(settings: EvaluationConfig, references: Windows, one_step: Windows, actions: ActionSpec) -> dict[Play, Starts]:
    """The starts of each kind of play that can be given. `references`, `one_step`: the windows of an evaluation with these settings."""
    e = settings
    found: dict[Play, Starts] = {
        "rollouts": Starts(references, e.num_trajectories, e.horizon),
        "samples": Starts(references, e.num_sample_starts, e.sample_horizon, e.num_samples),
    }
    if e.num_one_step:
        found["one_step"] = Starts(one_step, len(one_step), 1)
    if e.horizon >= ALTERED_FRAMES:
        found["altered"] = Starts(references, e.num_trajectories, ALTERED_FRAMES, random_actions=actions, seed=e.seed)
    return found


def given_frames(given: GivenFrames, starts: Mapping[Play, Starts]) -> dict[Play, Given]:
    """The given frames of each kind of play.

    Raises UserError if they are gone or have changed since the score was planned, or were imagined for other starts.
    """
    folder = Path(given.folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: the frames are not there any more; move them back, or remove this job's folder, and score them again")
    found = {kind: path for kind, path in find_given(folder, starts).items() if kind in given.plays}
    if content_digest(starts) != given.starts:
        raise UserError(
            f"{folder}: its manifest was prepared from other frames and actions than this dataset holds, although both have the same "
            "settings; another version of the game or of diamond-bench plays them differently. Score it where the starts were prepared"
        )
    if digest_of(found) != given.digest:
        raise UserError(f"{folder} has changed since its score was planned: run the command again")
    return {kind: Given(open_given(found[kind], of_kind.shape())) for kind, of_kind in starts.items() if kind in found}


def content_digest(starts: Mapping[Play, Starts]) -> str:
    """SHA-256 over the context, actions and true frames of all starts."""
    total = hashlib.sha256()
    for kind, of_kind in starts.items():
        total.update(f"{kind} {of_kind.shape()}\n".encode())
        for row in range(of_kind.count):
            play = of_kind.play(row)
            total.update(play.frames.cpu().numpy().tobytes())
            total.update(play.actions[:, :-1].cpu().numpy().tobytes())
    return total.hexdigest()
