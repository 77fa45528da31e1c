"""Training segments: their places, and reading them from episodes on the device (method section 4, golden README 3.5).

In memory, a batch costs a few index operations, without a loop over examples and without reads by the host. Episodes that stay on disk are
read by another source of segments (`data/sources.py`). The places are drawn here for all sources.
"""

from dataclasses import dataclass, fields, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from diamond_bench.data.replay import ReplayEpisodes
from diamond_bench.data.static import EpisodeSet
from diamond_bench.diffusion.quantization import from_bytes

_QUARTER_BOUNDS = (0.1, 0.2, 0.3)  # cumulative weights of 0.1, 0.1, 0.1, 0.7, oldest to newest

Weighting = Literal["length", "recency"]
"""How an episode is chosen; see `segment_places`."""


class Layout(Protocol):
    """The assignment of rows to episodes: an `EpisodeSet` or a source of segments. Its tensors lie on the device that draws places."""

    @property
    def starts(self) -> Tensor:
        """(E,) int64, first row of each episode, ascending."""
        ...

    @property
    def lengths(self) -> Tensor:
        """(E,) int64, number of rows of each episode."""
        ...

    @property
    def num_frames(self) -> int:
        """Number of rows of all episodes."""
        ...


class Rows(Protocol):
    """The rows from which segments are read: an `EpisodeSet`, or the storage of a replay."""

    @property
    def frames(self) -> Tensor:
        """(N, 3, h, w) uint8."""
        ...

    @property
    def actions(self) -> Tensor:
        """(N,) int64, or (N, k) for several columns."""
        ...


@dataclass(frozen=True)
class Segments:
    """b segments of play of t frames each. Action i is taken after frame i."""

    frames: Tensor
    """(b, t, 3, h, w) uint8. Padding contains zeros in place of its value: use `to_float`."""
    actions: Tensor
    """(b, t) int64 if Discrete, else (b, t, k) int64 or float32. 0 where padded, and at an episode's final observation."""
    mask: Tensor
    """(b, t) bool, false where padded."""
    rewards: Tensor | None = None
    """(b, t) float32, raw, of the action after each frame. 0 where padded, and in games without rewards. None if the source of the
    segments does not read outcomes."""
    ends: Tensor | None = None
    """(b, t) bool, whether the action after each frame ended the game. False where padded. None like `rewards`."""
    acted: Tensor | None = None
    """(b, t) bool, whether an action was taken after each frame. False where padded, and at the final observation of an episode of static
    data. None like `rewards`."""

    @property
    def outcomes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rewards, ends and whether an action was taken, (b, t) each. All are false where the source of the segments does not read
        them."""
        none = torch.zeros_like(self.mask)
        rewards, ends, acted = (none if values is None else values for values in (self.rewards, self.ends, self.acted))
        return rewards, ends, acted

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Segments":
        """The same segments on another device."""
        return Segments(*(tensor.to(device, non_blocking=non_blocking) for tensor in tensors_of(self)))


@dataclass(frozen=True)
class RewardEndSegments:
    """b segments of play of t frames for the reward/end model, padded on either side. Rewards and ends are consequences of an action.

    Step i leads from frame i to frame i + 1, or to the true final frame if `final_steps` is true there. The last frame's step is not used:
    t frames give t - 1 training steps (`transition_frames`).
    """

    frames: Tensor
    """(b, t, 3, h, w) uint8. Padding contains zeros in place of its value: use `transition_frames`."""
    actions: Tensor
    """(b, t) int64, 0 where padded."""
    rewards: Tensor
    """(b, t) float32, raw, 0 where padded."""
    ends: Tensor
    """(b, t) bool, false where padded. Truncations are no ends."""
    mask: Tensor
    """(b, t) bool, false where padded."""
    final_frames: Tensor
    """(b, 3, h, w) uint8, the frame after the last step of each segment's episode. It belongs to the segment only if `final_steps` is
    true."""
    final_steps: Tensor
    """(b, t) bool, true at the one step, if any, that led to `final_frames`."""


def sample_segments(
    episodes: EpisodeSet, batch_size: int, length: int, generator: torch.Generator, weighting: Weighting = "length"
) -> Segments:
    """Draws `batch_size` segments of `length` frames, independently and with replacement (`segment_places`), and reads them."""
    places = segment_places(episodes, batch_size, length, generator, weighting)
    if isinstance(episodes, ReplayEpisodes):
        return with_outcomes(read_segments(episodes, places), places, episodes.rewards, episodes.terminations)
    return read_static(episodes, places)


def sample_with_finals(
    episodes: ReplayEpisodes, batch_size: int, length: int, generator: torch.Generator, weighting: Weighting = "length"
) -> Segments:
    """Like `sample_segments`, but the frame after the last step of an episode belongs to it, as in static data. No action follows it."""
    number = torch.arange(len(episodes.lengths), device=episodes.lengths.device)
    longer = replace(
        episodes,
        lengths=episodes.lengths + 1,
        offsets=episodes.offsets + number,
        num_rows=episodes.num_rows + len(number),
    )
    episode, position = _episode_and_position(longer, batch_size, length, generator, weighting)
    rows = episodes.lengths[episode][:, None]
    inside, final = (position >= 0) & (position < rows), position == rows
    places = torch.where(inside, episodes.starts[episode][:, None] + position * episodes.stride, -1)
    read = with_outcomes(read_segments(episodes, places), places, episodes.rewards, episodes.terminations)
    frames = torch.where(final[:, :, None, None, None], episodes.finals[episode][:, None], read.frames)
    return replace(read, frames=frames, mask=read.mask | final)


def segment_places(episodes: Layout, count: int, length: int, generator: torch.Generator, weighting: Weighting = "length") -> Tensor:
    """Rows of `count` segments of `length` frames, drawn independently and with replacement: (count, length) int64, -1 for padding.

    A frame t is drawn uniformly from an episode, which is chosen by `weighting`. The segment stops at min(rows, t + 1 + U{0..length-1}) and
    starts `length` earlier. It never passes the episode's end. Rows before its start are padding.

    `weighting`: "length" chooses episodes in proportion to their frames (static data). "recency" divides them in order into four groups of
    E // 4, the last with the remainder, with weights 0.1, 0.1, 0.1, 0.7, uniform within a group (replay). Below 4 episodes it chooses by
    length. `generator` lies on the episodes' device.
    """
    episode, position = _episode_and_position(episodes, count, length, generator, weighting)
    return torch.where(position >= 0, episodes.starts[episode][:, None] + position * _stride(episodes), -1)


def read_segments(rows: Rows, places: Tensor) -> Segments:
    """Reads the segments at `places`, (b, t) rows from `segment_places`."""
    mask = places >= 0
    frames = rows.frames[places.clamp(min=0)] * mask[:, :, None, None, None]
    return Segments(frames, read_actions(rows.actions, places), mask)


def read_static(episodes: EpisodeSet, places: Tensor) -> Segments:
    """Reads the segments at `places`, with outcomes, from episodes of static data."""
    finals = episodes.starts + episodes.lengths - 1
    return with_outcomes(read_segments(episodes, places), places, episodes.rewards, episodes.terminations, finals)


def read_actions(actions: Tensor, places: Tensor) -> Tensor:
    """Reads the actions (b, t) or (b, t, k) at `places` from a table (N,) or (N, k), 0 where padded."""
    read = actions[places.clamp(min=0)]
    return read * (places >= 0).view(*places.shape, *[1] * (read.dim() - 2))


def sample_reward_end_segments(
    episodes: ReplayEpisodes,
    batch_size: int,
    length: int,
    generator: torch.Generator,
    final_frames: Literal["ends", "all"] = "ends",
    weighting: Weighting = "recency",
) -> RewardEndSegments:
    """Draws segments of `length` frames that may pass either end of their episode. Rows outside are padding (golden README 3.5).

    Episode and frame t are drawn as in `segment_places`. The segment starts at t - U{0..length-1}. `final_frames`: "ends" gives the true
    final frame to steps that ended an episode (the authors: the last step of a truncated or unfinished episode leads to padding). "all"
    gives it to those too. `generator` lies on the episodes' device.
    """
    device = episodes.frames.device
    episode, frame = _episode_and_frame(episodes, batch_size, generator, weighting)
    first = frame - torch.randint(length, (batch_size,), generator=generator, device=device)
    position = first[:, None] + torch.arange(length, device=device)  # (b, t), relative to the episode
    rows = episodes.lengths[episode][:, None]
    mask = (position >= 0) & (position < rows)
    index = torch.where(mask, episodes.starts[episode][:, None] + position * episodes.stride, 0)
    ends = episodes.terminations[index] & mask
    return RewardEndSegments(
        frames=episodes.frames[index] * mask[:, :, None, None, None],
        actions=episodes.actions[index] * mask,
        rewards=episodes.rewards[index] * mask,
        ends=ends,
        mask=mask,
        final_frames=episodes.finals[episode],
        final_steps=ends if final_frames == "ends" else position == rows - 1,
    )


def tensors_of(segments: Segments | RewardEndSegments) -> tuple[Tensor, ...]:
    """A batch's tensors, in the order of its fields, from which such a batch can be built again."""
    return tuple(value for f in fields(segments) if (value := getattr(segments, f.name)) is not None)


def with_outcomes(
    segments: Segments, places: Tensor, rewards: Tensor | None = None, ends: Tensor | None = None, finals: Tensor | None = None
) -> Segments:
    """The segments at `places` with rewards and ends from tables (N,). None stands for a table of zeros. `finals`: the ascending rows (E,)
    of final observations, if the rows contain any."""
    none = torch.zeros_like(places, dtype=torch.bool)
    read = [none if table is None else read_actions(table, places) for table in (rewards, ends)]
    acted = segments.mask if finals is None else segments.mask & ~torch.isin(places, finals)
    return replace(segments, rewards=read[0].float(), ends=read[1], acted=acted)


def to_float(segments: Segments | RewardEndSegments) -> Tensor:
    """Converts frames to (b, t, 3, h, w) float32 in [-1, 1], padding exactly 0.0: byte / 255 * 2 - 1 in this order, times the mask."""
    return from_bytes(segments.frames) * segments.mask[:, :, None, None, None]


def transition_frames(segments: RewardEndSegments) -> tuple[Tensor, Tensor]:
    """Frames of steps 0..t-2 and the frames after them, each (b, t-1, 3, h, w) float32 in [-1, 1], padding exactly 0.0.

    The next frame of a step is the segment's next one (padding, if there is none), or the final frame at `final_steps`.
    """
    frames = to_float(segments)
    final = from_bytes(segments.final_frames)[:, None]
    following = torch.where(segments.final_steps[:, :-1, None, None, None], final, frames[:, 1:])
    return frames[:, :-1], following


def _episode_and_position(
    episodes: Layout, count: int, length: int, generator: torch.Generator, weighting: Weighting
) -> tuple[Tensor, Tensor]:
    """The episode of each segment, (count,), and the places of its frames in the episode, (count, length). Negative is padding."""
    device = episodes.starts.device
    episode, frame = _episode_and_frame(episodes, count, generator, weighting)
    stop = torch.minimum(episodes.lengths[episode], frame + 1 + torch.randint(length, (count,), generator=generator, device=device))
    return episode, (stop - length)[:, None] + torch.arange(length, device=device)


def _episode_and_frame(episodes: Layout, count: int, generator: torch.Generator, weighting: Weighting) -> tuple[Tensor, Tensor]:
    """Numbers of `count` episodes, and of a uniform frame in each, (count,) int64."""
    device, num_episodes = episodes.starts.device, len(episodes.starts)
    if weighting == "recency" and num_episodes >= 4:
        episode = _by_recency(num_episodes, count, generator)
        uniform = torch.rand(count, generator=generator, device=device, dtype=torch.float64)
        return episode, (uniform * episodes.lengths[episode]).long()
    # a uniform row gives an episode in proportion to its length, and a uniform frame of it
    offsets = episodes.offsets if isinstance(episodes, ReplayEpisodes) else episodes.starts
    row = torch.randint(episodes.num_frames, (count,), generator=generator, device=device)
    episode = torch.searchsorted(offsets, row, right=True) - 1
    return episode, row - offsets[episode]


def _stride(episodes: Layout) -> int:
    return episodes.stride if isinstance(episodes, ReplayEpisodes) else 1


def _by_recency(num_episodes: int, batch_size: int, generator: torch.Generator) -> Tensor:
    device, quarter = generator.device, num_episodes // 4
    uniform = torch.rand((2, batch_size), generator=generator, device=device, dtype=torch.float64)
    group = torch.zeros(batch_size, dtype=torch.int64, device=device)
    for bound in _QUARTER_BOUNDS:
        group += uniform[0] >= bound
    size = quarter + (group == 3) * (num_episodes - 4 * quarter)
    return group * quarter + (uniform[1] * size).long()
