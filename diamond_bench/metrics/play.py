"""Imagined play as metrics see it: batches of frames, what truly came, and what a metric measures them with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diamond_bench.config import EvaluationConfig
from diamond_bench.data.references import Windows
from diamond_bench.metrics.header import Play

if TYPE_CHECKING:
    from diamond_bench.metrics.perceptual import LearnedMetric

Arrays = dict[str, NDArray[Any]]
Key = tuple[int, ...]
"""What seeds the noise of one trajectory."""
ROLLOUT_STREAM, ONE_STEP_STREAM, SAMPLES_STREAM, FID_STREAM, MODES_STREAM = range(5)
"""Second entry of every key and seed of an evaluation: each purpose has its own stream of random numbers."""
Tick = Callable[[], None]
STAGES = ("rollouts", "one_step", "samples", "copy", "unrelated", "after")
"""The order in which rows stand in the results. `after` is for metrics that reduce all of their play together."""
Shown = Literal["", "copy", "unrelated", "true"]
"""Whose frames a batch has: the model's, the last true frame repeated, those of another reference, or the true ones."""


@dataclass(frozen=True)
class WindowBatch:
    """A batch of true play on the device: `context` frames the model may see, then those it is to imagine."""

    frames: Tensor
    """(n, context + horizon, 3, h, w) uint8."""
    actions: Tensor
    """(n, context + horizon) int64; action t is taken after frame t."""
    context: int
    origin: Tensor | None = None
    """(episode, step) of each row's last context frame in its episode, (n, 2) int64; None if unknown."""

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def true(self) -> Tensor:
        """What came after the context, (n, horizon, 3, h, w) uint8."""
        return self.frames[:, self.context :]

    def repeated(self, times: int) -> "WindowBatch":
        """Every row `times` times, side by side."""
        origin = None if self.origin is None else self.origin.repeat_interleave(times, 0)
        return WindowBatch(self.frames.repeat_interleave(times, 0), self.actions.repeat_interleave(times, 0), self.context, origin)


def window_batch(windows: Windows, rows: Sequence[int], horizon: int) -> WindowBatch:
    """The chosen windows, cut to `horizon` frames after their context."""
    which = torch.tensor(rows, dtype=torch.int64, device=windows.first.device)
    stop, last = windows.context + horizon, windows.first[which] + windows.context - 1
    episode = torch.searchsorted(windows.episodes.starts, last, right=True) - 1
    origin = torch.stack((episode, last - windows.episodes.starts[episode]), dim=1)
    return WindowBatch(windows.frames(which)[:, :stop], windows.actions(which)[:, :stop], windows.context, origin)


def copy_last(play: WindowBatch) -> Tensor:
    """The baseline that repeats the last frame of the context, (n, horizon, 3, h, w) uint8."""
    return play.frames[:, play.context - 1 : play.context].expand_as(play.true)


def unit(frames: Tensor) -> Tensor:
    """Bytes as floats in [0, 1]."""
    return frames.float() / 255


@dataclass(frozen=True)
class Forks:
    """The one-step windows at which the next frame can go two ways."""

    windows: Windows
    modes: NDArray[np.uint8]
    """(n, 2, 3, h, w), the less likely first."""
    probabilities: NDArray[np.float64]
    """(n, 2)."""

    def __len__(self) -> int:
        return len(self.modes)


@dataclass(frozen=True)
class Batch:
    """A batch of play that a metric measures."""

    kind: Play
    frames: Tensor
    """(n, T, 3, h, w) uint8; of samples and forks (n, K, T, 3, h, w)."""
    play: WindowBatch
    """The true play of the n rows, on the same device."""
    rows: Sequence[int]
    """Numbers of the references (of forks, or of one-step windows) among all."""
    keys: Sequence[Key] = ()
    """What seeded the noise: n, of samples and forks n * K with the K of a row side by side. They seed whatever else is left to chance."""
    shown: Shown = ""
    tick: Tick = lambda: None
    """Call it after each unit of progress (Meter.ticks)."""


@dataclass(frozen=True)
class Meter:
    """A metric that has loaded what it measures with."""

    measure: Callable[[Batch], Arrays]
    """Arrays of a batch, first axis n. Empty for play that the metric does not measure."""
    sha256: str = ""
    """SHA-256 of its network's file of weights."""
    ticks: Callable[[Sequence[int]], int] = lambda rows: 0
    """Units of progress that it reports for rollouts of these references, besides those of imagining."""


@dataclass(frozen=True)
class Setting:
    """What a metric may load from."""

    evaluation: EvaluationConfig
    device: torch.device
    inputs: Mapping[str, Path]
    """Folder of each input artifact of the evaluation."""
    references: Windows
    forks: Forks | None
    """Where a metric that measures forks is asked for."""
    _networks: dict[str, "LearnedMetric"] = field(default_factory=dict)

    def lpips(self, net: Literal["alex", "vgg"]) -> "LearnedMetric":
        """LPIPS with this backbone, loaded once for all metrics that need it."""
        from diamond_bench.metrics import perceptual

        if net not in self._networks:
            self._networks[net] = perceptual.lpips_network(net, self.device)
        return self._networks[net]


@dataclass(frozen=True)
class Measured:
    """All arrays of an evaluation, by the play that they were measured of."""

    evaluation: EvaluationConfig
    inputs: Mapping[str, Path]
    rollouts: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    baselines: Mapping[Shown, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    """Rollouts of the same references by baselines, by the frames that were shown."""
    one_step: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    samples: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    forks: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def shown(self, shown: Shown) -> Mapping[str, NDArray[Any]]:
        """Arrays of rollouts (of the model) or of a baseline; empty where it was not measured."""
        return self.baselines.get(shown, {}) if shown else self.rollouts
