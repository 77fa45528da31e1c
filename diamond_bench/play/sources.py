"""The worlds of a lane, by setting, and the starts of sessions in recorded episodes."""

from collections.abc import Callable

import torch

from diamond_bench.config import Sampler
from diamond_bench.data.segments import Rows, read_segments
from diamond_bench.data.static import EpisodeSet
from diamond_bench.errors import UserError
from diamond_bench.imagination.env import RewardEnd
from diamond_bench.play.lanes import Imagined, Setting, Start
from diamond_bench.worlds.contract import TrainedWorld, WorldModel


class TrainedWorlds:
    """The worlds of a trained model, by setting. Each is loaded and bound once."""

    def __init__(self, load: Callable[[float | None], TrainedWorld], sampler: Sampler) -> None:
        """`load(milestone)` raises UserError for a milestone that was not kept. `sampler`: that of a setting without one."""
        self._load, self._sampler = load, sampler
        self._loaded: dict[float | None, TrainedWorld] = {}
        self._bound: dict[Setting, WorldModel] = {}

    def __call__(self, setting: Setting) -> WorldModel:
        """See `Imagined.world`."""
        if setting not in self._bound:
            if setting.milestone not in self._loaded:
                self._loaded[setting.milestone] = self._load(setting.milestone)
            self._bound[setting] = self._loaded[setting.milestone].bound(setting.sampler or self._sampler)
        return self._bound[setting]


def trained(
    load: Callable[[float | None], TrainedWorld], first: Setting, sampler: Sampler, reward_end: RewardEnd | None = None
) -> Imagined:
    """A trained world model whose sampler and milestone can be changed. `load`, `sampler`: see `TrainedWorlds`. `reward_end`:
    predicts rewards and ends."""
    worlds = TrainedWorlds(load, sampler)
    return Imagined(worlds, worlds(first).spec.actions, first, reward_end)


def untrained(world: WorldModel) -> Imagined:
    """A world of a family that is not trained, which takes no setting."""

    def only(setting: Setting) -> WorldModel:
        if setting != Setting():
            raise UserError("this family is not trained: it has no sampler and no milestones")
        return world

    return Imagined(only, world.spec.actions)


def start_at(episodes: EpisodeSet, episode: int, step: int, length: int) -> Start:
    """The start after `step` steps of a recorded episode, with `length` frames. What lies before the episode is padding.

    `episodes`: laid end to end, as in a dataset. Raises UserError for an episode or a step that is not there.
    """
    if not 0 <= episode < len(episodes):
        raise UserError(f"episode {episode}: there are the episodes 0 to {len(episodes) - 1}")
    most = int(episodes.lengths[episode]) - 2  # after the final frame nothing was played
    if not 0 <= step <= most:
        raise UserError(f"step {step}: episode {episode} has the steps 0 to {most}")
    first = int(episodes.starts[episode])
    places = torch.arange(first + step + 1 - length, first + step + 1)
    rows: Rows = episodes
    segments = read_segments(rows, torch.where(places >= first, places, -1)[None])
    return Start(segments.frames[0].cpu(), segments.actions[0].cpu(), segments.mask[0].cpu(), (episode, step))
