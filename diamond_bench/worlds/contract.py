"""What a world model is to everything that plays, trains or measures one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diamond_bench.config import EnvConfig, Sampler, TrainingConfig
from diamond_bench.data.segments import Segments
from diamond_bench.data.sources import SegmentSource
from diamond_bench.data.static import EpisodeSet
from diamond_bench.models.compilation import Compilable
from diamond_bench.spaces import WorldSpec

State = tuple[Tensor, ...]
"""All that a world model remembers of b games: a flat tuple of tensors, batch first, whose shapes never change."""
Draw = Callable[[Tensor], Tensor]
"""draw(like) -> fresh N(0, 1) of the shape and on the device of `like`, whose first axis is that of the rows."""


@dataclass(frozen=True)
class Step:
    """What one step of b games showed."""

    frame: Tensor
    """(b, 3, h, w) float32 on the 8-bit grid of [-1, 1], without gradient."""
    reward_logits: Tensor | None = None
    """(b, 3) for the rewards -1, 0, +1; None where the world model predicts none."""
    end_logits: Tensor | None = None
    """(b, 2) for no, yes; None where the world model predicts none."""


@dataclass(frozen=True)
class Trainable:
    """One network of a world model, and how it learns."""

    name: str
    """The name of its learner in checkpoints and of its losses in logs."""
    network: nn.Module
    segment_length: int
    """Frames of the segments that it learns from."""
    loss: Callable[[Segments, torch.Generator], tuple[Tensor, Mapping[str, Tensor]]]
    """The loss of a batch of such segments, and metrics (detached); the generator lies on the segments' device."""


class WorldModel(Protocol):
    """Imagines games frame by frame. A model that is sampled has its sampler bound: its users choose none."""

    @property
    def spec(self) -> WorldSpec:
        """Frames and actions; whether `step` predicts rewards and ends."""
        ...

    @property
    def context(self) -> int:
        """The fewest frames from which `start` can begin."""
        ...

    @property
    def pure(self) -> bool:
        """Whether `step` is a function of its tensors alone, which may be compiled, or recorded as a CUDA graph."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its states lie."""
        ...

    @property
    def calls_per_frame(self) -> int:
        """Calls of a network in one step (NFE); 0 where there is no network."""
        ...

    @property
    def flops_per_frame(self) -> float:
        """FLOP of one step of one row."""
        ...

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """Everything that is trained, by name; empty where nothing is."""
        ...

    def start(self, frames: Tensor, actions: Tensor, mask: Tensor, draw: Draw, origin: Tensor | None = None) -> State:
        """The state after real play.

        Args:
            frames: in [-1, 1], oldest first, exactly 0 where padded, (b, s, 3, h, w) with s >= `context`.
            actions: action i was taken after frame i, (b, s, ...); the last is not used.
            mask: false where padded, (b, s) bool.
            draw: where randomness comes from.
            origin: (recording, step) of each row's last frame, (b, 2) int64, for world models that need the recorded play itself.
        """
        ...

    def step(self, state: State, action: Tensor, draw: Draw) -> tuple[State, Step]:
        """The next frame of every row after its action, (b, ...), and the state after it. `state` stays what it was."""
        ...


class TrainedWorld(WorldModel, Protocol):
    """A world model of a family that is trained."""

    @property
    def description(self) -> object:
        """What is needed to build it again, its weights apart; equal where the models are built alike."""
        ...

    @property
    def compilable(self) -> Sequence[Compilable]:
        """The networks of which a part may be compiled."""
        ...

    def bound(self, sampler: Sampler) -> "TrainedWorld":
        """The same model, sampled so. UserError where the sampler does not fit how it was trained."""
        ...

    def in_streams(self, count: int) -> "TrainedWorld":
        """The same model, its rows sampled in `count` groups at once (`SideBySide`)."""
        ...

    def trainables(self, training: TrainingConfig) -> Sequence[Trainable]:
        """Its networks in the order in which they are trained.

        `train_world_model` updates each one `training.num_steps` times, and begins with the next one when the one before is done.
        """
        ...

    def measure(self, episodes: EpisodeSet | SegmentSource) -> None:
        """Measures what its settings leave to be measured of the play that it will be trained on; called once, before the first update.

        Raises UserError where there is nothing to measure.
        """
        ...

    @property
    def measured(self) -> Mapping[str, float]:
        """The measured values by name; they are saved with the weights."""
        ...

    def call(self, state: State) -> None:
        """One of the network calls of a step, for those who time it."""
        ...

    def save(self, folder: Path) -> None:
        """Writes weights and description into an existing folder, each file in one piece."""
        ...


class RecordedPlay(Protocol):
    """Real play that can be replayed: of each recording the seed that began it and every action."""

    @property
    def game(self) -> str:
        """The game that was played."""
        ...

    @property
    def env(self) -> EnvConfig:
        """How it was played."""
        ...

    @property
    def continues(self) -> bool:
        """Whether a recording goes on after an episode's end, from a reset without a seed; else it is one episode."""
        ...

    def name(self, number: int) -> str:
        """What a message calls the recording."""
        ...

    def seed(self, number: int) -> int:
        """The seed of its first reset. UserError where none was recorded."""
        ...

    def action(self, number: int, step: int) -> Any:
        """What was done after the frame of this step, as the environment takes it."""
        ...

    def frame(self, number: int, step: int) -> NDArray[np.uint8]:
        """(3, h, w): what was seen after so many steps."""
        ...


def imagined_frames(world: WorldModel, frames: Tensor, actions: Tensor, draw: Draw, origin: Tensor | None = None) -> Iterator[Tensor]:
    """Imagines T frames one after the other, each (b, 3, h, w), after s real ones.

    Action i is taken after frame i, so the last but T of them led to no imagined frame, and the last one leads to the last frame.

    Args:
        world: bound to its sampler, where it has one.
        frames: as in `WorldModel.start`, without padding.
        actions: (b, s - 1 + T, ...).
        draw: as in `WorldModel.start`.
        origin: as in `WorldModel.start`.
    """
    seen = frames.shape[1]
    state = world.start(frames, actions[:, :seen], frames.new_ones(frames.shape[:2], dtype=torch.bool), draw, origin)
    for t in range(seen - 1, actions.shape[1]):
        state, step = world.step(state, actions[:, t], draw)
        yield step.frame
