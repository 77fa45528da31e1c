"""The small model of study table8 turns its view as its actions say: minutes of training.

    pytest -m slow tests/test_imagined_turns.py

Prints the mean motion of the picture under a turn to the left, no turn, and a turn to the right, imagined and in the real game.
"""

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from diamond_bench.config import EnvConfig
from diamond_bench.data.minari_io import read_seeds
from diamond_bench.data.references import Windows, reference_windows
from diamond_bench.data.static import EpisodeSet, load_info, load_split
from diamond_bench.diffusion.quantization import from_bytes, to_bytes
from diamond_bench.envs import games
from diamond_bench.envs.first_person import MOUSE_X, no_motion
from diamond_bench.evaluation.rollouts import seeded_draw
from diamond_bench.launch.attempt import run_job
from diamond_bench.store.artifacts import Store
from diamond_bench.stored.models import load_world_model
from diamond_bench.studies.plan import plan_study
from diamond_bench.worlds.contract import imagined_frames

GAME = "vizdoom/my_way_home"
STEPS, COUNTS = 4, 100
"""Imagined frames, and counts of mouse_x in each of them: 22 degrees in all."""


def moved(pictures: NDArray[np.uint8]) -> float:
    """Pixels by which pictures (t, 3, h, w) move to the right from the first to the last, after Lucas and Kanade (1981): the sum of the
    displacements that explain the change from picture to picture best, once they are blurred."""
    grey = [cv2.GaussianBlur(each.mean(0).astype(np.float32), (0, 0), 2.0) for each in pictures]
    return sum(_displacement(before, after) for before, after in itertools.pairwise(grey))


def _displacement(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    middle = (before + after) / 2
    slope, change = (middle[:, 2:] - middle[:, :-2]) / 2, (after - before)[:, 1:-1]
    return -float((slope * change).sum() / (slope * slope).sum())


def test_motion_to_the_right_is_positive() -> None:
    wide = cv2.GaussianBlur(np.random.default_rng(0).uniform(0, 255, (3, 36, 80)).astype(np.float32).transpose(1, 2, 0), (0, 0), 3.0)
    views = np.stack([wide[:, start : start + 64] for start in (8, 7, 6, 5)]).transpose(0, 3, 1, 2).astype(np.uint8)
    assert moved(views) == pytest.approx(3, abs=0.3)
    assert moved(views[::-1]) == pytest.approx(-3, abs=0.3)


def turn(counts: int) -> NDArray[np.int64]:
    action = no_motion()
    action[-2] = MOUSE_X.index(counts)
    return action


def really_moved(heldout: EpisodeSet, seeds: tuple[int | None, ...], row: int, counts: int) -> float:
    """The motion in the real game, replayed up to a row of the held-out play."""
    episode = int(torch.searchsorted(heldout.starts, row, right=True)) - 1
    env = games.make_env(GAME, EnvConfig())
    frame, _ = env.reset(seed=seeds[episode])
    for action in heldout.actions[int(heldout.starts[episode]) : row]:
        frame, *_ = env.step(action.numpy())
    assert np.array_equal(frame.transpose(2, 0, 1), heldout.frames[row].numpy())
    frames = [frame, *(env.step(turn(counts))[0] for _ in range(STEPS))]
    env.close()
    return moved(np.stack(frames).transpose(0, 3, 1, 2))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_imagined_turns_move_the_picture_as_real_ones_do(tmp_path: Path) -> None:
    pytest.importorskip("vizdoom")
    plan = plan_study("table8", ["scale=smoke", f"games=[{GAME}]", "metrics=[drift]", "data.policy=look_around"])
    store, (point, *_) = Store(tmp_path, say=lambda text: None), plan.points
    assert point.arm == "frame stack"
    for ref in (point.jobs["dataset"], point.jobs["world_model"]):
        store.prepare(plan.jobs[ref])
        end = run_job(store, ref, "cpu")
        assert end.name == "done", end.text
    sampler = plan.jobs[point.jobs["evaluation"]].config.sampler
    world = load_world_model(store, point.jobs["world_model"], None, "cpu", "fp32").bound(sampler)
    folder = store.folder(point.jobs["dataset"])
    heldout, layout = load_split(folder, "heldout"), load_info(folder).content["heldout"]
    starts = layout["reference_starts"]
    windows: Windows = reference_windows(heldout, len(starts), 8, 16, 0, starts=starts)
    past, actions = windows.frames()[:, :8], windows.actions()[:, :8]
    imagined, real = {}, {}
    for counts in (-COUNTS, 0, COUNTS):
        taken = torch.from_numpy(turn(counts)).repeat(len(past), STEPS, 1)
        draw = seeded_draw([(0, row) for row in range(len(past))], torch.device("cpu"))
        with torch.no_grad():
            frames = torch.stack([*imagined_frames(world, from_bytes(past), torch.cat((actions[:, :-1], taken), dim=1), draw)], dim=1)
        shown = np.concatenate([past[:, -1:].numpy(), to_bytes(frames).numpy()], axis=1)
        imagined[counts] = np.array([moved(each) for each in shown])
        rows = (windows.first + 7).tolist()
        real[counts] = np.array([really_moved(heldout, read_seeds(folder / "heldout" / "data"), row, counts) for row in rows[:12]])
    for name, found in (("imagined", imagined), ("real", real)):
        left, none, right = (found[counts] for counts in (-COUNTS, 0, COUNTS))
        shares = [float((one > other).mean()) for one, other in ((left, right), (left, none), (none, right))]
        print(f"{name}: left {left.mean():.2f}, none {none.mean():.2f}, right {right.mean():.2f} pixels; right order of starts {shares}")
        assert left.mean() > none.mean() > right.mean(), name
        assert left.mean() > 0 > right.mean(), name
        assert (left > right).mean() >= 0.9, name
