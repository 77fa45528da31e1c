"""Where a first-person player stands and looks: the truth, the probe that reads it from frames, and the metric pose."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from diamond_bench.config import DataConfig, EnvConfig, ExecutionConfig, ProbeConfig
from diamond_bench.data.references import Windows
from diamond_bench.data.static import EpisodeSet
from diamond_bench.envs.games import check_poses
from diamond_bench.envs.poses import pack_variables, read_poses, read_variable
from diamond_bench.errors import UserError
from diamond_bench.jobs import collect_dataset, train_state_probe
from diamond_bench.jobs.context import JobContext
from diamond_bench.metrics.pose_meter import (
    ANGLE,
    POSITION,
    PoseMeter,
    load_pose_probe,
    pose_errors,
    pose_probe_rows,
    pose_rows,
    save_pose_probe,
)
from diamond_bench.models.pose_probe import PoseProbe
from diamond_bench.models.pose_probe_cost import pose_probe_cost
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.kinds import CollectDataset, TrainStateProbe
from diamond_bench.studies.plan import plan_study

FRAMES = FrameSpec(18, 32)


def test_memories_hold_the_variables() -> None:
    memories = np.stack([pack_variables((1.5, -2.0, 0.0, 90.0, -5.0, 100.0, 3.0)), pack_variables((7.0, 8.0, 0.0, 270.0, 0.0, 1.0, 0.0))])
    poses = read_poses(memories[None])
    np.testing.assert_array_equal(poses.positions, [[[1.5, -2.0], [7.0, 8.0]]])
    np.testing.assert_allclose(poses.angles, [[np.pi / 2, 3 * np.pi / 2]], rtol=1e-6)
    np.testing.assert_array_equal(read_variable(memories, "health"), [100.0, 1.0])
    with pytest.raises(ValueError, match="128 bytes"):
        read_poses(memories[:, :100])


def test_errors_of_angles_go_the_short_way_round() -> None:
    angles = np.deg2rad([350.0, 10.0, 180.0, -179.0])
    distance, turned = pose_errors(np.zeros((4, 2)), angles, np.tile([3.0, 4.0], (4, 1)), np.deg2rad([10.0, 350.0, 0.0, 179.0]))
    np.testing.assert_allclose(distance, 5.0)
    np.testing.assert_allclose(turned, [20.0, 20.0, 180.0, 2.0], atol=1e-9)
    assert {row.metric: row.value for row in pose_probe_rows(np.arange(101.0), np.arange(101.0) / 2)} == {
        "probe_pose_position_median": 50.0,
        "probe_pose_position_95": 95.0,
        "probe_pose_angle_median": 25.0,
        "probe_pose_angle_95": 47.5,
    }


def test_the_cost_is_that_of_torch() -> None:
    network = PoseProbe(8, FRAMES)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, *FRAMES.sides))
    cost = pose_probe_cost(8, FRAMES)
    assert cost.flops == counter.get_total_flops()
    assert cost.parameters == sum(parameter.numel() for parameter in network.parameters())


def shown(positions: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Frames (n, 3, 18, 32) uint8 whose brightness in four bands is x, y, and the angle's cosine and sine."""
    values = torch.cat((positions / 1000, 0.5 + 0.5 * torch.stack((angles.cos(), angles.sin()), dim=1)), dim=1)
    bands = values.repeat_interleave(8, dim=1)[:, None, None]
    return (255 * bands).round().byte().expand(-1, 3, FRAMES.height, -1).contiguous()


def test_a_trained_probe_reads_poses_and_the_metric_compares_them_with_the_truth(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    positions, angles = 1000 * torch.rand(512, 2, generator=generator), 2 * torch.pi * torch.rand(512, generator=generator)
    frames = shown(positions, angles)
    torch.manual_seed(0)
    trained = PoseProbe(8, FRAMES)
    trained.measure(positions)
    optimizer = torch.optim.Adam(trained.parameters(), lr=3e-3)
    for _ in range(120):
        rows = torch.randint(512, (64,), generator=generator)
        loss = (trained(frames[rows] / 127.5 - 1) - trained.targets(positions[rows], angles[rows])).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_pose_probe(trained, "vizdoom/basic", 8, FRAMES, tmp_path)
    network, game = load_pose_probe(tmp_path, torch.device("cpu"))
    assert game == "vizdoom/basic"

    flags = torch.zeros(512, dtype=torch.bool)
    episodes = EpisodeSet(frames, flags.long(), None, flags, flags, torch.tensor([0]), torch.tensor([512]))
    windows = Windows(episodes, torch.tensor([100, 200]), 4, 6)
    meter = PoseMeter(network, positions.double().numpy(), angles.double().numpy(), windows.first.numpy() + 4)
    right = meter.errors(windows.frames()[:, 4:], [0, 1], 6)
    turned = meter.errors(shown(positions[104:110], angles[104:110] + torch.pi / 2)[None], [0], 6)
    moved = meter.errors(shown(positions[104:105] * 0, angles[104:105])[None], [0], 6)
    assert right[POSITION].shape == right[ANGLE].shape == (2, 6)
    assert right[POSITION].mean() < 60
    assert right[ANGLE].mean() < 6
    assert turned[ANGLE].mean() == pytest.approx(90, abs=8)
    expected = np.linalg.norm(positions[104:110].numpy(), axis=1)
    np.testing.assert_allclose(moved[POSITION][0], expected, atol=100)
    rows = {row.metric: row.value for row in pose_rows(right)}
    assert rows["pose_angle_error_final"] == pytest.approx(right[ANGLE][:, -1].mean())


def test_games_without_poses_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"known for vizdoom/\.\.\., not for Pong; choose one of these games"):
        check_poses("Pong")
    with pytest.raises(UserError, match="metrics: pose reads where the player stands"):
        plan_study("sampling_steps", ["scale=tiny", "metrics=[drift,pose]"])
    with pytest.raises(UserError, match="no probe of poses"):
        load_pose_probe(tmp_path, torch.device("cpu"))


def test_pose_and_state_share_the_settings_of_the_probe() -> None:
    pytest.importorskip("vizdoom")
    words = ["scale=tiny", "games=[vizdoom/my_way_home]", "metrics=[drift,pose]", "probe.channels=9"]
    probes = [job for job in plan_study("sampling_steps", words).jobs.values() if job.kind == "train_state_probe"]
    assert [job.config.probe.channels for job in probes] == [9]
    with pytest.raises(UserError, match=r"probe.channels: it has no effect with metrics that leave out state and pose"):
        plan_study("sampling_steps", ["scale=tiny", "probe.channels=9"])


PLAY = DataConfig(
    epsilon=0.0, random_start_steps=0, num_train_frames=40_000, num_references=24, reference_horizon=16, windows_per_episode=4
)
PROBE = ProbeConfig(channels=16, num_steps=2000, learning_rate=3e-3, pixel_noise=0.1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_probe_of_a_maze_has_the_stated_errors(tmp_path: Path) -> None:
    """`pytest -m slow tests/test_pose.py`: the numbers of docs/worlds3d.md, in 80 seconds on one core."""
    pytest.importorskip("vizdoom")
    collect_dataset.run(CollectDataset("vizdoom/my_way_home", EnvConfig(), PLAY), JobContext(tmp_path / "data"))
    trained = TrainStateProbe(PROBE, ExecutionConfig(precision="fp32", num_threads=1))
    result = train_state_probe.run(trained, JobContext(tmp_path / "probe", {"dataset": tmp_path / "data"}))
    found = {row.metric: row.value for row in result.rows}
    assert found["probe_pose_position_median"] < 70
    assert found["probe_pose_angle_median"] < 36
