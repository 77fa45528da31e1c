"""Rewards and ends of a collected dataset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from diamond_bench.data.minari_io import MAIN_FILE
from diamond_bench.data.static import load_split
from diamond_bench.errors import UserError


@dataclass(frozen=True)
class Outcomes:
    """What followed the action of each row, in the order of `load_split`."""

    rewards: NDArray[np.float32]
    """(N,), raw."""
    ends: NDArray[np.bool_]
    """(N,)."""


def load_outcomes(folder: Path, split: Literal["train", "heldout"], lives: bool) -> Outcomes:
    """The outcomes of a split of a dataset. `lives`: a lost life is an end too.

    Raises UserError if it has no rewards, or cannot be read.
    """
    episodes = load_split(folder, split)
    if episodes.rewards is None:
        raise UserError(f"{folder}: it has no rewards, so predicted rewards cannot be measured; leave outcomes out of metrics")
    path, ends = folder / split / "data" / MAIN_FILE, episodes.terminations.numpy().copy()
    try:
        with h5py.File(path, "r") as file:
            for index, (start, length) in enumerate(zip(episodes.starts.tolist(), episodes.lengths.tolist(), strict=True)):
                infos = file[f"episode_{index}"].get("infos", {})
                if lives and "life_loss" in infos:
                    ends[start : start + length - 1] |= infos["life_loss"][1:]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    return Outcomes(episodes.rewards.numpy(), ends)
