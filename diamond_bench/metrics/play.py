"""Imagined play as the input of metrics: batches of frames, the true frames, and the networks and data that metrics load."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diamond_bench.config import EvaluationConfig
from diamond_bench.data.references import Windows
from diamond_bench.errors import UserError
from diamond_bench.metrics.header import Play
from diamond_bench.spaces import ActionSpec

if TYPE_CHECKING:
    from diamond_bench.metrics.perceptual import LearnedMetric

Arrays = dict[str, NDArray[Any]]
Key = tuple[int, ...]
"""The seed of one trajectory's noise."""
ROLLOUT_STREAM, ONE_STEP_STREAM, SAMPLES_STREAM, FID_STREAM, MODES_STREAM, CLIPS_STREAM, ALTERED_STREAM = range(7)
ESTIMATES_STREAM, HELD_STREAM = 7, 8
"""Second entry of all keys and seeds of an evaluation, so that each purpose has its own stream of random numbers."""
Tick = Callable[[], None]
STAGES = ("rollouts", "one_step", "samples", "reconstructed", "copy", "unrelated", "after")
"""The order of rows in the results. `after` is for metrics that reduce all of their play together."""
Shown = Literal["", "copy", "unrelated", "true", "reconstructed"]
"""The source of a batch's frames: the model, the repeated last true frame, another reference, the true frames, or the true frames after the
model's tokenizer."""


@dataclass(frozen=True)
class WindowBatch:
    """A batch of true play on the device: `context` frames that the model may see, then those to imagine."""

    frames: Tensor
    """(n, context + horizon, 3, h, w) uint8."""
    actions: Tensor
    """(n, context + horizon) int64. Action t is taken after frame t."""
    context: int
    origin: Tensor | None = None
    """(episode, step) of each row's last context frame in its episode, (n, 2) int64; None if unknown."""

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def true(self) -> Tensor:
        """The true frames after the context, (n, horizon, 3, h, w) uint8."""
        return self.frames[:, self.context :]

    def repeated(self, times: int) -> "WindowBatch":
        """Repeats each row `times` times, next to each other."""
        origin = None if self.origin is None else self.origin.repeat_interleave(times, 0)
        return WindowBatch(self.frames.repeat_interleave(times, 0), self.actions.repeat_interleave(times, 0), self.context, origin)


def window_batch(windows: Windows, rows: Sequence[int], horizon: int) -> WindowBatch:
    """The chosen windows, cut to `horizon` frames after their context."""
    which = torch.tensor(rows, dtype=torch.int64, device=windows.first.device)
    stop, last = windows.context + horizon, windows.first[which] + windows.context - 1
    episode = torch.searchsorted(windows.episodes.starts, last, right=True) - 1
    origin = torch.stack((episode, last - windows.episodes.starts[episode]), dim=1)
    return WindowBatch(windows.frames(which)[:, :stop], windows.actions(which)[:, :stop], windows.context, origin)


def with_random_actions(play: WindowBatch, spec: ActionSpec, keys: Sequence[Key]) -> WindowBatch:
    """The same context, followed by actions that are uniform over the action space and independent of the state. `keys`: a seed per row."""
    actions = play.actions.clone()
    for row, key in enumerate(keys):
        actions[row, play.context - 1 :] = _uniform(spec, np.random.default_rng(key), actions.shape[1] - play.context + 1).to(actions)
    return replace(play, actions=actions)


def other_actions(actions: Tensor, spec: ActionSpec, keys: Sequence[Key]) -> Tensor:
    """For each action (n, t, ...) another one, uniform over all that differ from it in any column. `keys`: a seed per row.

    Raises UserError if the space has only one action.
    """
    if not spec.low and max(spec.sizes) < 2:
        raise UserError(f"actions {spec}: there is no other action; leave action_sensitivity out of metrics")
    found = actions.clone()
    for row, key in enumerate(keys):
        rng = np.random.default_rng(key)
        while (same := (found[row] == actions[row]).reshape(actions.shape[1], -1).all(dim=1)).any():
            found[row, same] = _uniform(spec, rng, int(same.sum())).to(actions)
    return found


def _uniform(spec: ActionSpec, rng: np.random.Generator, count: int) -> Tensor:
    """`count` actions, uniform over the action space, (count, ...)."""
    least, most = (np.array(bound, np.float64) for bound in spec.bounds)
    sizes = most - least
    drawn = rng.random((count, *(spec.shape or (1,))))
    return torch.from_numpy(least + (drawn * sizes if spec.low else np.floor(drawn * (sizes + 1)))).reshape(-1, *spec.shape)


def copy_last(play: WindowBatch) -> Tensor:
    """The baseline that repeats the last frame of the context, (n, horizon, 3, h, w) uint8."""
    return play.frames[:, play.context - 1 : play.context].expand_as(play.true)


def unit(frames: Tensor) -> Tensor:
    """Converts bytes to floats in [0, 1]."""
    return frames.float() / 255


@dataclass(frozen=True)
class Forks:
    """The one-step windows that have two possible next frames."""

    windows: Windows
    modes: NDArray[np.uint8]
    """(n, 2, 3, h, w), the less likely mode first."""
    probabilities: NDArray[np.float64]
    """(n, 2)."""

    def __len__(self) -> int:
        return len(self.modes)


@dataclass(frozen=True)
class Predicted:
    """Predicted rewards and ends of n rows at T steps."""

    rewards: Tensor
    """(n, T, 3), probabilities of the signs -1, 0, +1."""
    ends: Tensor
    """(n, T), probability of an end."""


@dataclass(frozen=True)
class Batch:
    """A batch of play that a metric measures."""

    kind: Play
    frames: Tensor
    """(n, T, 3, h, w) uint8. For samples and forks (n, K, T, 3, h, w). For estimates (n, 1 + L, levels, 3, h, w) float32 in units of
    [-1, 1]: first with the true actions, then with the action of lag 0 to L - 1 replaced. Lag 0 is the action that leads to the frame."""
    play: WindowBatch
    """The true play of the n rows, on the same device. For altered play, its actions are those that were imposed."""
    rows: Sequence[int]
    """Numbers of the references, forks or one-step windows."""
    keys: Sequence[Key] = ()
    """The seeds of the noise: n, or n * K for samples and forks, with the K keys of a row next to each other. Metrics derive their own
    random numbers from them."""
    shown: Shown = ""
    tick: Tick = lambda: None
    """To be called after each unit of progress (Meter.ticks)."""
    predicted: Predicted | None = None
    """Outcomes: the predictions along the model's own frames, or, if `shown` is true, along the true ones."""
    lengths: NDArray[np.int64] | None = None
    """Held play, and altered play of the game itself: the frames of each row before its game ends, (n,). Frames after them are black."""


@dataclass(frozen=True)
class Meter:
    """A metric that has loaded its networks and data."""

    measure: Callable[[Batch], Arrays]
    """Arrays of a batch with first axis n. Empty for play that the metric does not measure."""
    sha256: str = ""
    """SHA-256 of its network's weights file."""
    ticks: Callable[[Sequence[int]], int] = lambda rows: 0
    """Units of progress that it reports for rollouts of these references, in addition to those of imagining."""
    constants: Arrays = field(default_factory=dict)
    """Arrays that depend on the data alone, such as a threshold."""


@dataclass(frozen=True)
class Setting:
    """The data from which a metric may load."""

    evaluation: EvaluationConfig
    device: torch.device
    inputs: Mapping[str, Path]
    """Folder of each input artifact of the evaluation."""
    references: Windows
    forks: Forks | None
    """Present if a metric that measures forks is requested."""
    _networks: dict[str, "LearnedMetric"] = field(default_factory=dict)

    def lpips(self, net: Literal["alex", "vgg"]) -> "LearnedMetric":
        """LPIPS with this backbone, loaded once for all metrics that need it."""
        from diamond_bench.metrics import perceptual

        if net not in self._networks:
            self._networks[net] = perceptual.lpips_network(net, self.device)
        return self._networks[net]


@dataclass(frozen=True)
class Measured:
    """All arrays of an evaluation, by kind of play."""

    evaluation: EvaluationConfig
    inputs: Mapping[str, Path]
    rollouts: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    baselines: Mapping[Shown, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    """Arrays of baselines' rollouts from the same references, by the source of the frames."""
    one_step: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    samples: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    forks: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    altered: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """With `episodes` and `blocks`, the number of each trajectory's held-out episode and of its block of overlapping windows, (n,) each. If
    the game was replayed for a metric, the arrays of its own play are under `true_`."""
    estimates: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """With `episodes` and `blocks`, the number of each window's held-out episode and of its block of overlapping windows, (n,) each."""
    held: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """With `lengths` (frames before the game's end) and `idle` (whether the action is the no-op), (n,) each. If the game could be played,
    the arrays of its own play are under `true_`."""
    outcomes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Arrays of the true frames are under `true_`."""
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """The constants of all meters."""

    def shown(self, shown: Shown) -> Mapping[str, NDArray[Any]]:
        """Arrays of the model's rollouts or of a baseline. Empty if not measured."""
        return self.baselines.get(shown, {}) if shown else self.rollouts
