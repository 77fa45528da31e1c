"""The metric pose: where a player stands and looks in imagined frames, read by the state probe, against the game's variables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from diamond_bench.envs.games import read_poses
from diamond_bench.errors import UserError
from diamond_bench.metrics.baselines import STATE_PROBE
from diamond_bench.models.pose_probe import PoseProbe
from diamond_bench.models.precision import arithmetic
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.files import DamagedFile, read_json, write_atomic, write_json
from diamond_bench.store.rows import Row

Array = NDArray[np.float64]

POSITION, ANGLE = "pose_position_error", "pose_angle_error"
_FOLDER, _WEIGHTS, _DESCRIPTION = "probe", "model.safetensors", "model.json"
_CHUNK = 256


def save_pose_probe(network: PoseProbe, game: str, channels: int, frames: FrameSpec, folder: Path) -> None:
    """Writes probe/ into a job's folder. The description, which marks it as complete, is written last."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_atomic(folder / _FOLDER / _WEIGHTS, safetensors.torch.save(weights))
    write_json(folder / _FOLDER / _DESCRIPTION, {"game": game, "reads": "pose", "channels": channels, "frames": list(frames.sides)})


def load_pose_probe(folder: Path, device: torch.device) -> tuple[PoseProbe, str]:
    """The probe of a job and its game. Raises UserError if it is missing or damaged."""
    try:
        content = read_json(folder / _FOLDER / _DESCRIPTION)
        height, width = content["frames"]
        network = PoseProbe(int(content["channels"]), FrameSpec(int(height), int(width)))
        network.load_state_dict(safetensors.torch.load((folder / _FOLDER / _WEIGHTS).read_bytes()))
        game = str(content["game"])
    except (OSError, DamagedFile, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{folder / _FOLDER}: no probe of poses that can be read ({error})") from error
    return network.to(device).eval(), game


def read_pose_frames(network: PoseProbe, frames: Tensor) -> tuple[Array, Array]:
    """The probe's readings of frames (..., 3, h, w) uint8: positions (..., 2) in map units and angles (...) in radians."""
    positions, angles = [], []
    with torch.inference_mode(), arithmetic(frames.device.type, "fp32"):
        for chunk in frames.flatten(0, -4).split(_CHUNK):
            position, angle = network.decode(network(from_bytes(chunk)))
            positions.append(position.double().cpu())
            angles.append(angle.double().cpu())
    leading = frames.shape[:-3]
    return torch.cat(positions).reshape(*leading, 2).numpy(), torch.cat(angles).reshape(leading).numpy()


def pose_errors(positions: Array, angles: Array, true_positions: Array, true_angles: Array) -> tuple[Array, Array]:
    """Distances in map units, and differences of angles in degrees from 0 to 180. Positions (..., 2), angles (...) in radians."""
    turned = np.abs((angles - true_angles + np.pi) % (2 * np.pi) - np.pi)
    return np.linalg.norm(positions - true_positions, axis=-1), np.rad2deg(turned)


@dataclass(frozen=True)
class PoseMeter:
    """The probe, and the true poses of the references."""

    network: PoseProbe
    positions: Array
    """(N, 2), map units, of every held-out row."""
    angles: Array
    """(N,), radians."""
    first: NDArray[np.int64]
    """(references,): row of the first frame to imagine for each reference."""

    def errors(self, frames: Tensor, rows: Sequence[int], horizon: int) -> dict[str, Array]:
        """Arrays (n, horizon) of frames (n, horizon or 1, 3, h, w) uint8 that stand for the frames after the context of the references
        `rows`. A single frame serves for the whole horizon."""
        where = self.first[np.asarray(rows)][:, None] + np.arange(horizon)
        distance, turned = pose_errors(*read_pose_frames(self.network, frames), self.positions[where], self.angles[where])
        return {POSITION: distance, ANGLE: turned}


def make_pose_meter(probe: Path, dataset: Path, references: Windows) -> PoseMeter:
    """The meter of an evaluation. `probe`, `dataset`: folders of their jobs. The references are from the held-out split.

    Raises UserError if the probe or the memory of the dataset cannot be read.
    """
    network, game = load_pose_probe(probe, references.first.device)
    poses = read_poses(game, load_ram(dataset, "heldout"))
    first = references.first.cpu().numpy() + references.context
    return PoseMeter(network, poses.positions.astype(np.float64), poses.angles.astype(np.float64), first)


def pose_rows(errors: Mapping[str, NDArray[np.floating]], baseline: str = "") -> list[Row]:
    """Means over trajectories and the horizon, and at its last step (`_final`)."""
    rows = []
    for name in (POSITION, ANGLE):
        rows += [Row(name, float(errors[name].mean(dtype=np.float64)), baseline=baseline)]
        rows += [Row(f"{name}_final", float(errors[name][:, -1].mean(dtype=np.float64)), baseline=baseline)]
    return rows


def pose_probe_rows(distance: Array, turned: Array) -> list[Row]:
    """The probe's accuracy on true frames that it was not trained on, from its errors (N,)."""
    rows = []
    for name, values in (("probe_pose_position", distance), ("probe_pose_angle", turned)):
        median, most = np.quantile(values, [0.5, 0.95])
        rows += [Row(f"{name}_median", float(median), baseline=STATE_PROBE), Row(f"{name}_95", float(most), baseline=STATE_PROBE)]
    return rows
