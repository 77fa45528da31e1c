"""The console's memory at each frame of a dataset that was collected here."""

from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import numpy.typing as npt

from diamond_bench.data.minari_io import MAIN_FILE
from diamond_bench.errors import UserError


def load_ram(folder: Path, split: Literal["train", "heldout"]) -> npt.NDArray[np.uint8]:
    """(N, 128): one row per frame, in the order of `load_split`. Raises UserError if the dataset has no memory, or it cannot be read."""
    path = folder / split / "data" / MAIN_FILE
    try:
        with h5py.File(path, "r") as file:
            return np.concatenate([file[f"episode_{index}"]["infos"]["ram"][()] for index in range(len(file))])
    except KeyError:
        raise UserError(f"{path}: it holds no console memory, so its objects cannot be located; leave state out of metrics") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
