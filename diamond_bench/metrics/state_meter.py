"""The metric state: positions of a game's objects in imagined frames, read by the state probe, against the console's memory.

Pixel errors are hardly affected by a ball of one pixel. The truth is the memory stored with the reference. The probe's own error on the
true frames of the same references is the metric's noise floor.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from diamond_bench.data.ram import load_ram
from diamond_bench.data.references import Windows
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.envs.games import object_names, read_states
from diamond_bench.errors import UserError
from diamond_bench.metrics.baselines import STATE_PROBE
from diamond_bench.models.precision import arithmetic
from diamond_bench.models.state_probe import StateProbe, decode
from diamond_bench.store.files import DamagedFile, read_json, write_atomic, write_json
from diamond_bench.store.rows import Row

Array = NDArray[np.float64]

POSITION, PRESENCE = "state_position_error", "state_presence_error"
_FOLDER, _WEIGHTS, _DESCRIPTION = "probe", "model.safetensors", "model.json"
_CHUNK = 256


@dataclass(frozen=True)
class ProbeDescription:
    """All that is needed to build a probe again, except its weights."""

    game: str
    objects: tuple[str, ...]
    channels: int


def save_probe(network: StateProbe, description: ProbeDescription, folder: Path) -> None:
    """Writes probe/ into a job's folder. The description, which marks it as complete, is written last."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_atomic(folder / _FOLDER / _WEIGHTS, safetensors.torch.save(weights))
    write_json(folder / _FOLDER / _DESCRIPTION, asdict(description))


def load_probe(folder: Path, device: torch.device) -> tuple[StateProbe, ProbeDescription]:
    """Loads the probe of a job. Raises UserError if it is missing, damaged, or trained for other objects than the game's table has."""
    file = folder / _FOLDER / _DESCRIPTION
    try:
        content = read_json(file)
        description = ProbeDescription(str(content["game"]), tuple(content["objects"]), int(content["channels"]))
        network = StateProbe(len(description.objects), description.channels)
        network.load_state_dict(safetensors.torch.load((folder / _FOLDER / _WEIGHTS).read_bytes()))
    except (OSError, DamagedFile, KeyError, TypeError, ValueError, RuntimeError, SafetensorError, json.JSONDecodeError) as error:
        raise UserError(f"{folder / _FOLDER}: no state probe that can be read ({error})") from error
    if description.objects != object_names(description.game):
        raise UserError(f"{file}: trained for {', '.join(description.objects)}; {description.game} now has other objects: retrain it")
    return network.to(device).eval(), description


def read_frames(network: StateProbe, frames: Tensor) -> tuple[Array, NDArray[np.bool_]]:
    """The probe's readings of frames (..., 3, h, w) uint8: positions (..., K, 2), x and y in pixels, and presence (..., K)."""
    shape = (frames.shape[-2], frames.shape[-1])
    places, present = [], []
    with torch.inference_mode(), arithmetic(frames.device.type, "fp32"):
        for chunk in frames.flatten(0, -4).split(_CHUNK):
            place, there = decode(network(from_bytes(chunk)), shape)
            places.append(place.double().cpu())
            present.append(there.cpu())
    leading = frames.shape[:-3]
    return torch.cat(places).reshape(*leading, -1, 2).numpy(), torch.cat(present).reshape(*leading, -1).numpy()


@dataclass(frozen=True)
class StateMeter:
    """The probe, and the true states of the references."""

    objects: tuple[str, ...]
    network: StateProbe
    positions: Array
    """(N, K, 2), pixels, of every held-out row."""
    present: NDArray[np.bool_]
    """(N, K)."""
    first: NDArray[np.int64]
    """(references,): row of the first frame to imagine for each reference."""

    def errors(self, frames: Tensor, rows: Sequence[int], horizon: int) -> dict[str, Array]:
        """Errors of frames (n, horizon or 1, 3, h, w) uint8 that stand for the frames after the context of the references `rows`. Arrays
        (n, horizon):

        - `state_position_error_<object>`: the distance in pixels, NaN if the object is missing in the true or in the given frame.
        - `state_presence_error_<object>`: 1 if the object is in only one of them, else 0.

        A single frame serves for the whole horizon.
        """
        places, seen = read_frames(self.network, frames)
        truth, there = self.truth(rows, horizon)
        distance = np.where(seen & there, np.linalg.norm(places - truth, axis=-1), np.nan)
        wrong = (seen != there).astype(np.float64)
        found = {f"{POSITION}_{name}": distance[..., k] for k, name in enumerate(self.objects)}
        return found | {f"{PRESENCE}_{name}": wrong[..., k] for k, name in enumerate(self.objects)}

    def truth(self, rows: Sequence[int], horizon: int) -> tuple[Array, NDArray[np.bool_]]:
        """True positions (n, horizon, K, 2), x and y in pixels, and presence (n, horizon, K) after the context of the references `rows`."""
        where = self.first[np.asarray(rows)][:, None] + np.arange(horizon)
        return self.positions[where], self.present[where]


def make_state_meter(probe: Path, dataset: Path, references: Windows) -> StateMeter:
    """The meter of an evaluation. `probe`, `dataset`: folders of their jobs. The references are from the held-out split.

    Raises UserError if the probe or the memory of the dataset cannot be read.
    """
    network, description = load_probe(probe, references.first.device)
    states = read_states(description.game, load_ram(dataset, "heldout"))
    height, width = references.episodes.frames.shape[-2:]
    pixels = states.positions.astype(np.float64) * (width, height)
    return StateMeter(description.objects, network, pixels, states.present, references.first.cpu().numpy() + references.context)


def state_rows(errors: Mapping[str, NDArray[np.floating]], baseline: str = "") -> list[Row]:
    """Means over trajectories and the horizon, and at its last step (`_final`), of all objects together and of each.

    The position error covers the objects that are in both the true and the given frame. It is NaN if there are none.
    """
    rows = []
    for measure in (POSITION, PRESENCE):
        of_object = {name: values for name, values in errors.items() if name.startswith(f"{measure}_")}
        for name, values in {measure: np.stack(list(of_object.values()), axis=-1), **of_object}.items():
            rows += [Row(name, _mean(values), baseline=baseline), Row(f"{name}_final", _mean(values[:, -1]), baseline=baseline)]
    return rows


def _mean(values: NDArray[np.floating]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean(dtype=np.float64)) if known.size else float("nan")


def probe_rows(places: Array, seen: NDArray[np.bool_], positions: Array, present: NDArray[np.bool_]) -> list[Row]:
    """The probe's accuracy on true frames that it was not trained on, from read and true positions (N, K, 2) in pixels and presence (N,
    K)."""
    both = seen & present
    distance = np.linalg.norm(places - positions, axis=-1)[both]
    median, most = np.quantile(distance, [0.5, 0.95]) if distance.size else (np.nan, np.nan)
    return [
        Row("probe_presence_accuracy", float((seen == present).mean()), baseline=STATE_PROBE),
        Row("probe_position_median", float(median), baseline=STATE_PROBE),
        Row("probe_position_95", float(most), baseline=STATE_PROBE),
    ]
