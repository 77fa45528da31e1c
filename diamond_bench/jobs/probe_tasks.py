"""The two tasks of a state probe: finding a game's objects in a frame, and reading where a first-person player stands and looks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diamond_bench.config.probe import ProbeConfig
from diamond_bench.data.ram import load_ram
from diamond_bench.data.static import load_split
from diamond_bench.envs.games import object_names, read_poses, read_states, truth
from diamond_bench.metrics.pose_meter import pose_errors, pose_probe_rows, read_pose_frames, save_pose_probe
from diamond_bench.metrics.state_meter import ProbeDescription, probe_rows, read_frames, save_probe
from diamond_bench.models.pose_probe import PoseProbe
from diamond_bench.models.state_probe import StateProbe, probe_loss, probe_targets
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.rows import Row


@dataclass(frozen=True)
class ProbeTask:
    """A network to train, its loss, and how it is saved and measured."""

    build: Callable[[], nn.Module]
    """The network with fresh weights, on the CPU."""
    loss: Callable[[Any, Tensor, Tensor], Tensor]
    """loss(network, frames (n, 3, h, w) in [-1, 1], their rows in the training split (n,)), a scalar."""
    finish: Callable[[Any, Path], tuple[list[Row], dict[str, Any]]]
    """finish(network, folder) writes the network into the job's folder and measures it on the held-out split: rows and facts."""


def probe_task(game: str, probe: ProbeConfig, dataset: Path, frames: FrameSpec, device: torch.device) -> ProbeTask:
    """The task of a game's probe. Raises UserError for a game of which neither objects nor poses are known."""
    if truth(game).poses is not None:
        return _pose_task(game, probe, dataset, frames, device)
    return _object_task(game, probe, dataset, frames, device)


def _object_task(game: str, probe: ProbeConfig, dataset: Path, frames: FrameSpec, device: torch.device) -> ProbeTask:
    objects, shape = object_names(game), frames.sides
    states = read_states(game, load_ram(dataset, "train"))
    positions, present = (torch.from_numpy(values).to(device) for values in (states.positions, states.present))

    def loss(network: Any, shown: Tensor, rows: Tensor) -> Tensor:
        return probe_loss(network(shown), probe_targets(positions[rows], present[rows], shape), shape)

    def finish(network: Any, folder: Path) -> tuple[list[Row], dict[str, Any]]:
        save_probe(network, ProbeDescription(game, objects, probe.channels), folder)
        heldout, true = load_split(dataset, "heldout"), read_states(game, load_ram(dataset, "heldout"))
        true_places = true.positions.astype(np.float64) * shape[::-1]
        places, seen = read_frames(network, heldout.frames.to(device))
        of_object = {
            name: probe_rows(places[:, [k]], seen[:, [k]], true_places[:, [k]], true.present[:, [k]]) for k, name in enumerate(objects)
        }
        facts = {
            "heldout_frames": len(heldout.frames),
            "of_objects": {name: {row.metric: row.value for row in rows} for name, rows in of_object.items()},
        }
        return probe_rows(places, seen, true_places, true.present), facts

    return ProbeTask(lambda: StateProbe(len(objects), probe.channels), loss, finish)


def _pose_task(game: str, probe: ProbeConfig, dataset: Path, frames: FrameSpec, device: torch.device) -> ProbeTask:
    poses = read_poses(game, load_ram(dataset, "train"))
    positions, angles = (torch.from_numpy(values).to(device) for values in (poses.positions, poses.angles))

    def build() -> nn.Module:
        network = PoseProbe(probe.channels, frames)
        network.measure(torch.from_numpy(poses.positions))
        return network

    def loss(network: Any, shown: Tensor, rows: Tensor) -> Tensor:
        error: Tensor = network(shown) - network.targets(positions[rows], angles[rows])
        return error.square().mean()

    def finish(network: Any, folder: Path) -> tuple[list[Row], dict[str, Any]]:
        save_pose_probe(network, game, probe.channels, frames, folder)
        heldout, true = load_split(dataset, "heldout"), read_poses(game, load_ram(dataset, "heldout"))
        read = read_pose_frames(network, heldout.frames.to(device))
        errors = pose_errors(*read, true.positions.astype(np.float64), true.angles.astype(np.float64))
        return pose_probe_rows(*errors), {"heldout_frames": len(heldout.frames)}

    return ProbeTask(build, loss, finish)
