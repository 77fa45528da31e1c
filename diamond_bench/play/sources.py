"""The worlds of a lane, by setting, and the starts of sessions in recorded episodes."""

from collections.abc import Callable
from functools import lru_cache

import torch

from diamond_bench.config import Sampler
from diamond_bench.data.replay import Replay
from diamond_bench.data.segments import read_segments
from diamond_bench.data.static import EpisodeSet
from diamond_bench.diffusion.schedules import check_closed_loop
from diamond_bench.errors import UserError
from diamond_bench.imagination.env import RewardEnd
from diamond_bench.play.lanes import Imagined, Setting, Start
from diamond_bench.play.options import Place
from diamond_bench.worlds.contract import TrainedWorld, WorldModel

_LOADED = 3
"""Milestones and settings of one lane that stay loaded. The least recently used goes."""


def trained(
    load: Callable[[float | None], TrainedWorld], first: Setting, sampler: Sampler, reward_end: RewardEnd | None = None
) -> Imagined:
    """A trained world model whose sampler and milestone can be changed.

    Args:
        load: load(milestone) -> the model. Raises UserError for a milestone that was not kept.
        first: see `Dynamics.first`.
        sampler: that of a setting without one.
        reward_end: predicts rewards and ends.
    """
    loaded = lru_cache(_LOADED)(load)

    @lru_cache(_LOADED)
    def world(setting: Setting) -> WorldModel:
        check_closed_loop(setting.sampler or sampler, "a player")
        return loaded(setting.milestone).bound(setting.sampler or sampler)

    return Imagined(world, world(first).spec.actions, first, reward_end)


def untrained(world: WorldModel) -> Imagined:
    """A world of a family that is not trained, which takes no setting."""

    def only(setting: Setting) -> WorldModel:
        if setting != Setting():
            raise UserError("this family is not trained: it has no sampler and no milestones")
        return world

    return Imagined(only, world.spec.actions)


def start_at(play: EpisodeSet | Replay, recording: int, step: int, length: int) -> Start:
    """The start after `step` steps of a recording, with `length` frames. What lies before the episode is padding.

    `play`: episodes laid end to end, each of which is a recording, or the replay of one environment, which is one recording. Raises
    UserError for a recording or a step that is not there.
    """
    episodes = play.episodes if isinstance(play, Replay) else play
    _check_place(play, recording, step)
    if isinstance(play, Replay):
        last = step
        begun = int(episodes.starts[torch.searchsorted(episodes.starts, step, right=True) - 1])
    else:
        begun = int(episodes.starts[recording])
        last = begun + step
    places = torch.arange(last + 1 - length, last + 1, device=episodes.frames.device)
    segments = read_segments(episodes, torch.where(places >= begun, places, -1)[None])
    return Start(segments.frames[0].cpu(), segments.actions[0].cpu(), segments.mask[0].cpu(), (recording, step))


def places(play: EpisodeSet | Replay, most: int, seen: int, first_steps: int | None = None) -> tuple[Place, ...]:
    """At most `most` places to start from, evenly spaced over all play, in its order.

    Each has `seen` real frames or more. In a recording that is shorter, the last step is the only place. `first_steps`: offers no later
    place in a recording.
    """
    lengths = [play.num_rows + 1] if isinstance(play, Replay) else play.lengths.tolist()  # after an episode's last row nothing was played
    lengths = [min(length, (first_steps or length) + 1) for length in lengths]
    known = [(recording, step) for recording, length in enumerate(lengths) for step in range(min(seen, length - 1) - 1, length - 1)]
    return tuple(known[index * len(known) // min(most, len(known))] for index in range(min(most, len(known))))


def _check_place(play: EpisodeSet | Replay, recording: int, step: int) -> None:
    if isinstance(play, Replay):
        if recording:
            raise UserError(f"recording {recording}: the play of an agent is one recording, 0")
        most, whose = play.num_rows - 1, "the play"
    else:
        if not 0 <= recording < len(play):
            raise UserError(f"episode {recording}: there are the episodes 0 to {len(play) - 1}")
        most, whose = int(play.lengths[recording]) - 2, f"episode {recording}"  # after the final frame nothing was played
    if not 0 <= step <= most:
        raise UserError(f"step {step}: {whose} has the steps 0 to {most}")
