"""A world model of first-person play turns the view as its actions say, and the state probe reads the pose: minutes of training.

pytest -m slow tests/test_imagined_turns.py
"""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from diamond_bench.data.references import reference_windows
from diamond_bench.data.static import load_info, load_split
from diamond_bench.diffusion.quantization import from_bytes, to_bytes
from diamond_bench.envs.first_person import MOUSE_X, no_motion
from diamond_bench.evaluation.rollouts import seeded_draw
from diamond_bench.launch.attempt import run_job
from diamond_bench.store.artifacts import Store
from diamond_bench.stored.models import load_world_model
from diamond_bench.studies.plan import Plan, plan_study
from diamond_bench.worlds.contract import imagined_frames

pytest.importorskip("vizdoom")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 4
"""Imagined frames per turn."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Store]:
    folder = tmp_path_factory.mktemp("turns")
    file = folder / "turns.yaml"
    shutil.copy(Path(__file__).with_name("imagined_turns.yaml"), file)
    plan = plan_study(str(file), ["scale=smoke"])
    store = Store(folder / "outputs", say=lambda text: None)
    for ref, spec in plan.jobs.items():
        store.prepare(spec)
        end = run_job(store, ref, "cpu")
        assert end.name == "done", end.text
    return plan, store


def shift(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """Pixels by which a picture (3, h, w) moved to the right, by phase correlation."""
    grey = [cv2.cvtColor(np.ascontiguousarray(each.transpose(1, 2, 0)), cv2.COLOR_RGB2GRAY).astype(np.float32) for each in (before, after)]
    window = cv2.createHanningWindow(grey[0].shape[::-1], cv2.CV_32F)
    return float(cv2.phaseCorrelate(*grey, window)[0][0])


def test_imagined_turns_move_the_picture_the_right_way(trained: tuple[Plan, Store]) -> None:
    plan, store = trained
    (evaluation,) = (ref for ref in plan.jobs if ref.kind == "evaluate_world_model")
    (dataset,) = (ref for ref in plan.jobs if ref.kind == "collect_dataset")
    world = load_world_model(store, evaluation, None, "cpu", "fp32").bound(store.spec(evaluation).config.sampler)
    folder = store.folder(dataset)
    layout = load_info(folder).content["heldout"]
    windows = reference_windows(load_split(folder, "heldout"), layout["references"], 8, 16, 0, starts=layout["reference_starts"])
    past, actions = windows.frames()[:, :8], windows.actions()[:, :8]
    shifts: dict[int, NDArray[np.float64]] = {}
    for counts in (-60, 60):
        taken = torch.from_numpy(no_motion()).repeat(len(past), STEPS, 1)
        taken[..., -2] = MOUSE_X.index(counts)
        draw = seeded_draw([(0, row) for row in range(len(past))], torch.device("cpu"))
        with torch.no_grad():
            imagined = torch.stack([*imagined_frames(world, from_bytes(past), torch.cat((actions[:, :-1], taken), dim=1), draw)], dim=1)
        shown = np.concatenate([past[:, -1:].numpy(), to_bytes(imagined).numpy()], axis=1)
        shifts[counts] = np.array([sum(shift(row[t], row[t + 1]) for t in range(STEPS)) for row in shown])
    left, right = shifts[-60], shifts[60]
    assert np.median(left) > 1 > -1 > np.median(right), (np.median(left), np.median(right))
    assert (left > right).mean() > 0.8, "the two turns from one start diverge"


def test_the_probe_reads_position_and_angle_within_the_stated_errors(trained: tuple[Plan, Store]) -> None:
    plan, store = trained
    (probe,) = (ref for ref in plan.jobs if ref.kind == "train_state_probe")
    found = {row.metric: row.value for row in store.result(probe).rows}
    assert found["probe_pose_angle_median"] < 10
    assert found["probe_pose_position_median"] < 60
