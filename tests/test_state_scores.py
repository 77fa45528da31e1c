"""CRPS and ranks of object positions, by hand: a probe that reads x, y and presence from the three channels of pixel k for object k."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from diamond_bench.metrics import state_scores as module
from diamond_bench.metrics.play import WindowBatch
from diamond_bench.metrics.state_meter import StateMeter
from diamond_bench.models.state_probe import StateProbe

N, K = 4000, 4


@pytest.fixture(autouse=True)
def plain_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(network: object, frames: Tensor) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        values = frames.squeeze(-2).movedim(-2, -1).double().numpy()  # (..., objects, 3)
        return values[..., :2] + 0.25, values[..., 2] > 0  # it reads everything a quarter of a pixel too far

    monkeypatch.setattr(module, "read_frames", read)


def frames(values: NDArray[np.integer]) -> Tensor:
    """(..., objects, 3) of x, y and presence -> (..., 3, 1, objects)."""
    return torch.from_numpy(values.astype(np.uint8)).movedim(-1, -2).unsqueeze(-2)


def scores(imagined: NDArray[np.integer], true: NDArray[np.integer], last: NDArray[np.integer]) -> module.Arrays:
    """imagined (n, K, T, objects, 3), true (n, T, objects, 3), last (n, objects, 3); memory tells the truth of every true frame."""
    n, horizon, objects = true.shape[:3]
    memory = true.reshape(n * horizon, objects, 3)
    names = tuple(f"object {k}" for k in range(objects))
    meter = StateMeter(names, StateProbe(objects, 2), memory[..., :2].astype(float), memory[..., 2] > 0, np.arange(n) * horizon)
    play = WindowBatch(frames(np.concatenate([last[:, None], true], axis=1)), torch.zeros(n, 1 + horizon, dtype=torch.int64), 1)
    return module.state_scores(meter, frames(imagined), play, range(n), [(0, i) for i in range(n)])


def test_scores_by_hand() -> None:
    true = np.array([[[[10, 20, 1], [5, 5, 1]], [[10, 20, 1], [0, 0, 0]]]])  # the second object leaves
    first = [[[8, 20, 1], [5, 5, 1]], [[9, 20, 1], [5, 5, 1]]]
    other = [[[13, 20, 1], [9, 9, 0]], [[10, 21, 1], [9, 9, 0]]]  # without the second object
    found = scores(np.array([[first, other]]), true, np.array([[[12, 18, 1], [0, 0, 0]]]))
    # of the first object alone: 1.75 and 3.25 away, half of 5 apart, and so on; x and y of two frames
    x, y = (2.5 - 2.5, (0.75 + 0.25) / 2 - 0.5), (0.25, (0.25 + 1.25) / 2 - 0.5)
    assert found["state_crps"] == pytest.approx([np.mean([*x, *y])])
    assert found["state_scored_share"] == pytest.approx([2 / 3])
    assert found["copy_state_crps"] == pytest.approx([(2.25 + 1.75) / 2])
    assert found["copy_state_scored_share"] == pytest.approx([2 / 3])
    assert found["true_state_crps"] == pytest.approx([0.25])
    assert found["true_state_scored_share"] == pytest.approx([1.0])
    assert found["state_ranks"].sum() == 2 * 2
    assert found["state_ranks"][0, 1] >= 1, "10 lies between 8 and 13"
    rows = {(row.metric, row.baseline): row.value for row in module.state_score_rows(found)}
    assert rows["state_crps", "copy-last-frame"] == pytest.approx(2.0)
    assert rows["state_crps", "state-probe"] == pytest.approx(0.25)
    assert rows["state_rank_deviation", "uniform-ranks"] == pytest.approx(2 / 3), "one rank lies in one of three bins"


def test_a_start_without_scored_objects_has_no_value() -> None:
    true = np.array([[[[10, 20, 1]]], [[[10, 20, 1]]], [[[0, 0, 0]]]])
    imagined = np.stack([true, true], axis=1)
    imagined[0, 0, :, :, 2] = 0  # lost in one sample
    found = scores(imagined, true, true[:, 0])
    assert found["state_crps"] == pytest.approx([np.nan, 0.25, np.nan], nan_ok=True)
    assert found["state_scored_share"] == pytest.approx([0.0, 1.0, np.nan], nan_ok=True)
    assert found["state_ranks"].sum(axis=1).tolist() == [0, 2, 0]
    rows = {(row.metric, row.baseline): row.value for row in module.state_score_rows(found)}
    assert rows["state_crps", ""] == pytest.approx(0.25)
    assert rows["state_scored_share", ""] == pytest.approx(0.5)
    assert rows["state_rank_deviation", "uniform-ranks"] == pytest.approx(2 / 3), "one of three starts has ranks"
    nothing = {(row.metric, row.baseline): row.value for row in module.state_score_rows({**found, "state_ranks": np.zeros((3, 3), int)})}
    assert np.isnan(nothing["state_rank_deviation", "uniform-ranks"])


@pytest.mark.parametrize("spread", [30, 1], ids=["random", "determined"])
def test_a_perfect_sampler_has_uniform_ranks_whatever_the_error_of_the_probe(spread: int) -> None:
    rng = np.random.default_rng(spread)
    drawn = np.concatenate([rng.integers(40, 40 + spread, (N, K + 1, 1, 1, 2)), rng.random((N, K + 1, 1, 1, 1)) < 0.9], axis=-1)
    found = scores(drawn[:, :K], drawn[:, K], drawn[:, K, 0])
    rows = {(row.metric, row.baseline): row.value for row in module.state_score_rows(found)}
    assert rows["state_rank_deviation", ""] < 3 * rows["state_rank_deviation", "uniform-ranks"] < 0.05
    if spread > 1:
        blur = np.broadcast_to(drawn[:, :1], drawn[:, :K].shape)
        worse = {(row.metric, row.baseline): row.value for row in module.state_score_rows(scores(blur, drawn[:, K], drawn[:, K, 0]))}
        assert rows["state_crps", ""] < 0.6 * worse["state_crps", ""]
        assert worse["state_rank_deviation", ""] > 0.4, "one position in all samples: the truth lies below or above all"
