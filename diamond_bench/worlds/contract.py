"""The interface of a world model for code that plays, trains or measures one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diamond_bench.config import EnvConfig, RewardEndConfig, Sampler, TrainingConfig
from diamond_bench.data.segments import Segments
from diamond_bench.data.sources import SegmentSource
from diamond_bench.data.static import EpisodeSet
from diamond_bench.models.compilation import Compilable
from diamond_bench.spaces import FrameSpec, WorldSpec

State = tuple[Tensor, ...]
"""The memory of a world model for b games: a flat tuple of tensors, batch first, whose shapes never change."""
Draw = Callable[[Tensor], Tensor]
"""draw(like) -> fresh N(0, 1) of the shape and on the device of `like`, whose first axis is the rows."""


@dataclass(frozen=True)
class Step:
    """The observations of one step of b games."""

    frame: Tensor
    """(b, 3, h, w) float32 on the 8-bit grid of [-1, 1], without gradient."""
    reward_logits: Tensor | None = None
    """(b, 3) for the rewards -1, 0, +1. None if the world model predicts none."""
    end_logits: Tensor | None = None
    """(b, 2) for no, yes. None if the world model predicts none."""


@dataclass(frozen=True)
class Trainable:
    """One network of a world model, and how it is trained."""

    name: str
    """Name of its learner in checkpoints and of its losses in logs."""
    network: nn.Module
    segment_length: int
    """Frames per training segment."""
    loss: Callable[[Segments, torch.Generator], tuple[Tensor, Mapping[str, Tensor]]]
    """loss(segments, generator) -> the loss of a batch of such segments, and metrics (detached). The generator lies on the segments'
    device."""
    batch_size: int | None = None
    """Segments per batch. None is `training.batch_size`."""
    logged: tuple[str, ...] = ()
    """The metrics that are logged in addition to the loss."""
    optimizer: RewardEndConfig | None = None
    """The settings of its optimiser. None is `training`."""
    apart: nn.Module | None = None
    """A part of the network whose gradients are clipped on their own, because it must not affect the rest."""
    final_frames: bool = False
    """Whether segments of an agent's replay may end with the frame after an episode's last step, as those of static data do."""

    def found(self, loss: Tensor, metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The scalars of an update for the log, detached."""
        return {"loss": loss.detach(), **{name: metrics[name] for name in self.logged}}


class WorldModel(Protocol):
    """Imagines games frame by frame. If the model needs a sampler, one is bound to it: callers choose none."""

    @property
    def spec(self) -> WorldSpec:
        """The frames and actions, and whether `step` predicts rewards and ends."""
        ...

    @property
    def context(self) -> int:
        """The minimum number of frames for `start`."""
        ...

    @property
    def pure(self) -> bool:
        """Whether `step` depends on its tensors alone. Such a step may be compiled, or recorded as a CUDA graph."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of its states."""
        ...

    @property
    def calls_per_frame(self) -> int:
        """Network calls per step (NFE). 0 without a network. A call for k frames (`OpenLoop`) counts as one call of each."""
        ...

    @property
    def flops_per_frame(self) -> float:
        """FLOP of one step for one row."""
        ...

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """All trained networks by name. Empty if there are none."""
        ...

    def start(self, frames: Tensor, actions: Tensor, mask: Tensor, draw: Draw, origin: Tensor | None = None) -> State:
        """The state after real play.

        Args:
            frames: in [-1, 1], oldest first, exactly 0 where padded, (b, s, 3, h, w) with s >= `context`.
            actions: action i was taken after frame i, (b, s, ...). The last is not used.
            mask: false where padded, (b, s) bool.
            draw: the source of randomness.
            origin: (recording, step) of each row's last frame, (b, 2) int64, for world models that need the recorded play itself.
        """
        ...

    def step(self, state: State, action: Tensor, draw: Draw) -> tuple[State, Step]:
        """The next frame of every row after its action, (b, ...), and the state after it. `state` is not changed."""
        ...


class TrainedWorld(WorldModel, Protocol):
    """A world model of a trained family."""

    @property
    def description(self) -> object:
        """All that is needed to build it again, except its weights. Models that are built alike have equal descriptions."""
        ...

    @property
    def compilable(self) -> Sequence[Compilable]:
        """The networks that have a part that may be compiled."""
        ...

    def bound(self, sampler: Sampler) -> "TrainedWorld":
        """The same model with this sampler. Raises UserError if the sampler does not fit its training."""
        ...

    def in_streams(self, count: int) -> "TrainedWorld":
        """The same model, with its rows sampled in `count` groups at once (`SideBySide`)."""
        ...

    def trainables(self, training: TrainingConfig) -> Sequence[Trainable]:
        """Its networks in the order of their training.

        `train_world_model` updates each one `training.num_steps` times before it begins with the next one.
        """
        ...

    def measure(self, episodes: EpisodeSet | SegmentSource) -> None:
        """Measures the values that its settings leave open, from the play that it will be trained on. Called once, before the first update.

        Raises UserError if there is nothing to measure from.
        """
        ...

    @property
    def measured(self) -> Mapping[str, float]:
        """The measured values by name. They are saved with the weights."""
        ...

    def call(self, state: State) -> None:
        """One of the network calls of a step, for timing."""
        ...

    def save(self, folder: Path) -> None:
        """Writes weights and description into an existing folder. Each file appears whole or not at all."""
        ...


Seen = Callable[[Tensor, Tensor, float], None]
"""seen(x, clean, sigma), called at every network call of a sampler: its input (b, 3, h, w) at the noise level sigma, and the estimate of
the clean frame, unclamped."""


@runtime_checkable
class Watchable(Protocol):
    """A world model that samples its frames in steps, which can be watched."""

    def watched(self, seen: Seen) -> WorldModel:
        """The same model, which also calls `seen`. Its frames are the same."""
        ...


class Estimating(WorldModel, Protocol):
    """A world model that estimates the clean next frame at a noise level. Its family has `WorldFamily.estimates`."""

    def estimate(self, past: Tensor, actions: Tensor, noisy: Tensor, sigma: float) -> Tensor:
        """The estimate of the clean next frame, unclamped, (b, 3, h, w) float32, without gradient.

        Args:
            past: true frames in [-1, 1], oldest first, (b, L, 3, h, w) with L = `context`.
            actions: actions[:, i] taken after frame i of `past`, (b, L, ...).
            noisy: clean + sigma * noise, (b, 3, h, w), with noise N(0, 1).
            sigma: the noise level.
        """
        ...


class Reconstructed(NamedTuple):
    """Frames after compression to tokens and back."""

    frames: Tensor
    """(n, 3, h, w) float32 on the 8-bit grid of [-1, 1], without gradient."""
    tokens: Tensor
    """(n, K) int64."""


@runtime_checkable
class Reconstructing(Protocol):
    """A world model that predicts frames in a compressed form. Its family has `WorldFamily.reconstructs`."""

    @property
    def num_codes(self) -> int:
        """Number of values of a token."""
        ...

    def reconstruct(self, frames: Tensor) -> Reconstructed:
        """Frames (n, 3, h, w) in [-1, 1], encoded and decoded."""
        ...


@runtime_checkable
class TwoStages(Protocol):
    """A world model that makes each frame from one at low resolution."""

    @property
    def low_frames(self) -> FrameSpec:
        """The size of a frame at low resolution."""
        ...

    def start_from(self, frames: Tensor, low: Tensor, actions: Tensor, mask: Tensor, draw: Draw, origin: Tensor | None = None) -> State:
        """As `WorldModel.start`, with the same frames at low resolution, (b, t, 3, h, w) in [-1, 1], which `start` would compute."""
        ...

    def low_frame(self, state: State) -> Tensor:
        """The frame at low resolution behind the last frame of each row, in [-1, 1], (b, 3, h, w)."""
        ...


@runtime_checkable
class CostlyStart(Protocol):
    """A world model whose `start` calls networks. Imagined games start it only in steps in which a game begins."""

    def skip_start(self, frames: Tensor, draw: Draw) -> None:
        """Draws the random numbers of `start` for these frames, and does nothing else."""
        ...


@runtime_checkable
class OpenLoop(Protocol):
    """A world model that imagines the frames of a horizon together, so it needs all actions in advance. Its `step` raises UserError."""

    def together(self, state: State, actions: Tensor, draw: Draw) -> Iterator[Tensor]:
        """The next T frames in their order, each (b, 3, h, w) as in `Step.frame`.

        Args:
            state: the state to start from, which is not changed.
            actions: action i leads to frame i, (b, T, ...).
            draw: see `WorldModel.start`.
        """
        ...


class RecordedPlay(Protocol):
    """Real play that can be replayed: the seed and all actions of each recording."""

    @property
    def game(self) -> str:
        """The game."""
        ...

    @property
    def env(self) -> EnvConfig:
        """The environment's settings."""
        ...

    @property
    def continues(self) -> bool:
        """Whether a recording continues after an episode's end, with a reset without a seed. Otherwise a recording is one episode."""
        ...

    def name(self, number: int) -> str:
        """A name of the recording for messages."""
        ...

    def seed(self, number: int) -> int:
        """The seed of its first reset. Raises UserError if none was recorded."""
        ...

    def action(self, number: int, step: int) -> Any:
        """The action after the frame of this step, in the environment's format."""
        ...

    def frame(self, number: int, step: int) -> NDArray[np.uint8]:
        """The frame after this number of steps, (3, h, w)."""
        ...


def imagined_frames(world: WorldModel, frames: Tensor, actions: Tensor, draw: Draw, origin: Tensor | None = None) -> Iterator[Tensor]:
    """Imagines T frames one after the other, each (b, 3, h, w), after s real ones.

    Action i is taken after frame i. The last T actions lead to the imagined frames.

    Args:
        world: with its sampler bound, if it needs one.
        frames: see `WorldModel.start`, without padding.
        actions: (b, s - 1 + T, ...).
        draw: see `WorldModel.start`.
        origin: see `WorldModel.start`.
    """
    seen = frames.shape[1]
    state = world.start(frames, actions[:, :seen], frames.new_ones(frames.shape[:2], dtype=torch.bool), draw, origin)
    if isinstance(world, OpenLoop):
        yield from world.together(state, actions[:, seen - 1 :], draw)
        return
    for t in range(seen - 1, actions.shape[1]):
        state, step = world.step(state, actions[:, t], draw)
        yield step.frame
