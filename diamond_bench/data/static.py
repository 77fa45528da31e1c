"""A static dataset in memory, on the training device."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from diamond_bench.data.foreign import PLAYED_GAME
from diamond_bench.data.minari_io import open_dataset, read_own_episodes
from diamond_bench.errors import UserError
from diamond_bench.reading import read_json
from diamond_bench.shapes import count, flag, listing, nullable, number, record, row, text
from diamond_bench.spaces import ACTIONS, ActionSpec, FrameSpec, WorldSpec

INFO_FILE = "dataset.json"
_MAX_INFO = 64 * 2**20
_INFO = record(
    {
        "train": record({"frames": count}),
        "heldout": record({"frames": count}, {"reference_starts": listing(count), "reference_context": count, "reference_horizon": count}),
    },
    {
        "game": text,
        PLAYED_GAME: text,
        "minority_share": number,
        "num_actions": count,
        "action_meanings": nullable(listing(text)),
        "actions": ACTIONS,
        "frame_size": count,
        "frames": row(count, count),
        "rewards": flag,
        "ends": flag,
    },
)
"""The keys of dataset.json that are used."""


@dataclass(frozen=True)
class EpisodeSet:
    """Episodes laid end to end: N frames and E episodes. All tensors lie on one device.

    An episode of T steps has T + 1 rows. Row t contains frame t and the action taken *after* it, with its reward and end. The last row is
    the final observation. It has no action: its `actions` and `rewards` are 0 and its flags false. The denoiser learns to predict it like
    any other frame. (The authors never train on final observations.)
    """

    frames: Tensor
    """(N, 3, h, w) uint8, RGB, contiguous."""
    actions: Tensor
    """(N,) int64 if Discrete, else (N, k) int64 or float32 (`ActionSpec`)."""
    rewards: Tensor | None
    """(N,) float32, raw. None if the game has no rewards."""
    terminations: Tensor
    """(N,) bool: game over after this row's action, so the next row is the last of its episode."""
    truncations: Tensor
    """(N,) bool: truncated after this row's action."""
    starts: Tensor
    """(E,) int64, first row of each episode, ascending."""
    lengths: Tensor
    """(E,) int64, number of rows of each episode, T + 1."""

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def num_frames(self) -> int:
        """N."""
        return len(self.frames)

    def to(self, device: torch.device | str) -> "EpisodeSet":
        """The same episodes on another device."""
        moved: dict[str, Any] = {name: None if tensor is None else tensor.to(device) for name, tensor in vars(self).items()}
        return EpisodeSet(**moved)


@dataclass(frozen=True)
class DatasetInfo:
    """The content of dataset.json for a collected or imported dataset."""

    spec: WorldSpec
    """Its frames and actions, and whether it has rewards and ends."""
    num_train_frames: int
    num_heldout_frames: int
    content: dict[str, Any]
    """The whole content."""


def spec_facts(spec: WorldSpec) -> dict[str, Any]:
    """A spec in the keys of dataset.json, which date from when there were only Discrete actions and square frames."""
    actions, frames = spec.actions, spec.frames
    discrete = {"num_actions": actions.sizes[0], "action_meanings": actions.names or None}
    return {
        **(discrete if actions.kind == "Discrete" else {"actions": actions.to_plain()}),
        **({"frame_size": frames.height} if frames.height == frames.width else {"frames": list(frames.sides)}),
        **({} if spec.rewards else {"rewards": False}),
        **({} if spec.ends else {"ends": False}),
    }


def _spec(content: dict[str, Any]) -> WorldSpec:
    if "actions" in content:
        actions = ActionSpec.from_plain(content["actions"])
    else:
        actions = ActionSpec.discrete(content["num_actions"], tuple(content.get("action_meanings") or ()))
    frames = FrameSpec(*content["frames"]) if "frames" in content else FrameSpec.square(content["frame_size"])
    return WorldSpec(actions=actions, frames=frames, rewards=content.get("rewards", True), ends=content.get("ends", True))


def load_info(folder: Path) -> DatasetInfo:
    """The content of a dataset artifact's dataset.json. Raises UserError if it is missing or damaged."""
    try:
        content = read_json(folder / INFO_FILE, _MAX_INFO)
        _INFO(content)
        return DatasetInfo(
            _spec(content),
            content["train"]["frames"],
            content["heldout"]["frames"],
            content,
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder / INFO_FILE}: missing or damaged ({error}); delete the folder and make the dataset again") from error


def load_split(folder: Path, split: Literal["train", "heldout"]) -> EpisodeSet:
    """Loads a split of a dataset artifact on the CPU. Raises UserError if it is missing, damaged or empty."""
    return load_episodes(folder / split)


def load_episodes(split_folder: Path) -> EpisodeSet:
    """See `load_split`, for the split's own folder."""
    data_folder = split_folder / "data"
    storage = open_dataset(data_folder)
    num_frames = storage.total_steps + storage.total_episodes
    if storage.total_episodes == 0 or storage.observation_space.shape is None:
        raise UserError(f"{data_folder}: no episodes in it")
    height, width, _ = storage.observation_space.shape
    spec = ActionSpec.of_space(storage.action_space)
    frames = torch.empty((num_frames, 3, height, width), dtype=torch.uint8)
    actions = torch.zeros((num_frames, *spec.shape), dtype=getattr(torch, spec.dtype))
    rewards = torch.zeros(num_frames, dtype=torch.float32)
    terminations, truncations = torch.zeros(num_frames, dtype=torch.bool), torch.zeros(num_frames, dtype=torch.bool)
    lengths: list[int] = []
    row, rewarded = 0, True
    for episode in read_own_episodes(data_folder):
        steps = len(episode.actions)
        frames[row : row + steps + 1] = torch.from_numpy(episode.frames).permute(0, 3, 1, 2)
        actions[row : row + steps] = torch.from_numpy(episode.actions)
        if episode.rewards is None:
            rewarded = False
        else:
            rewards[row : row + steps] = torch.from_numpy(episode.rewards)
        terminations[row + steps - 1] = episode.terminated
        truncations[row + steps - 1] = episode.truncated
        lengths.append(steps + 1)
        row += steps + 1
    starts = np.cumsum([0, *lengths[:-1]])
    begins = torch.from_numpy(starts)
    return EpisodeSet(frames, actions, rewards if rewarded else None, terminations, truncations, begins, torch.tensor(lengths))
