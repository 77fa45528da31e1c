"""The metric action_gain on worlds whose use of actions is known: all of it, none, half, and one step late."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_evaluation import CONFIG, SETTINGS, Predictor, data, evaluate, numbers  # noqa: F401

from diamond_bench.data.static import EpisodeSet
from diamond_bench.errors import UserError
from diamond_bench.jobs import evaluation_parts as parts
from diamond_bench.metrics import action_gain
from diamond_bench.metrics.play import Key, WindowBatch, with_random_actions
from diamond_bench.spaces import ActionSpec
from diamond_bench.studies.plan import plan_study
from diamond_bench.worlds.contract import Draw

CONTROL = replace(CONFIG, evaluation=replace(SETTINGS, metrics=("drift", "action_gain"), keep_frames=True))
STEP = 60
"""Grey levels per action: the next frame is STEP times the number of the action before it."""


class Shades(Predictor):
    """Paints `share` of the right level, for the action `late` steps ago."""

    def __init__(self, share: float = 1.0, late: int = 0) -> None:
        super().__init__()
        self.share, self.late = share, late

    def predict(self, past: torch.Tensor, actions: torch.Tensor, draw: Draw) -> torch.Tensor:
        level = (self.share * STEP * actions[:, -1 - self.late]).round() / 127.5 - 1
        return level[:, None, None, None].expand_as(past[:, -1]).clone()


@pytest.fixture
def shades(data: dict[str, EpisodeSet]) -> np.ndarray:  # noqa: F811
    """Held-out episodes of such frames. Returns the levels of all rows."""
    heldout = data["heldout"]
    actions = torch.from_numpy(np.random.default_rng(1).integers(0, 4, len(heldout.frames)))
    levels = STEP * torch.roll(actions, 1)
    data["heldout"] = replace(
        heldout, actions=actions, frames=levels[:, None, None, None].expand(-1, 3, 16, 16).to(torch.uint8).contiguous()
    )
    return levels.numpy()


def measured(folder: Path, world: Predictor, monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    found = numbers(evaluate(folder, world, monkeypatch, CONTROL))
    return found["action_gain", ""], found["action_delta_psnr", ""]


def test_a_perfect_world_gains_all_of_it(shades: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(tmp_path / "e", Shades(), monkeypatch) == (1.0, np.inf)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_a_world_that_ignores_actions_gains_nothing(
    noise: float, shades: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both of its rollouts have the same noise, so the errors are equal, however noisy it is."""
    assert measured(tmp_path / "e", Predictor(noise=noise), monkeypatch) == (0.0, 0.0)


def test_half_of_the_effect_is_as_computed_from_the_kept_frames(
    shades: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gain, difference = measured(tmp_path / "e", Shades(share=0.5), monkeypatch)
    own, other = (np.load(tmp_path / "e" / f"{name}.npy")[:, :4, 0, 0, 0].astype(float) for name in ("frames", "altered"))
    true = 2 * own  # what it imagines is half of the truth
    errors, wrong = (own - true) ** 2, (other - true) ** 2
    assert gain == pytest.approx(1 - errors.mean() / wrong.mean())
    assert difference == pytest.approx(10 * np.log10(wrong[:, -1].mean() / errors[:, -1].mean()))
    assert 0 < gain < 1


def test_a_world_that_is_one_action_late_is_below_zero_as_derived_by_hand(
    data: dict[str, EpisodeSet],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The true actions alternate between 0 and 3, so with them every late frame is wrong by three steps: 9 squared steps. Random actions
    leave the first late frame as it is. Each later one is wrong by 0, 1, 2 or 3 steps, 3.5 squared steps on average. So the gain is near
    1 - 9 / ((9 + 3 * 3.5) / 4) = -0.85."""
    actions = 3 * (torch.arange(len(data["heldout"].frames)) % 2)
    levels = STEP * torch.roll(actions, 1)
    frames = levels[:, None, None, None].expand(-1, 3, 16, 16).to(torch.uint8).contiguous()
    data["heldout"] = replace(data["heldout"], actions=actions, frames=frames)
    gain, _ = measured(tmp_path / "e", Shades(late=1), monkeypatch)
    own, other = (np.load(tmp_path / "e" / f"{name}.npy")[:, :4, 0, 0, 0].astype(float) for name in ("frames", "altered"))
    true = 3 * STEP - own
    wrong = ((other - true) / STEP) ** 2
    assert wrong[:, 0].tolist() == [9] * len(wrong)
    assert gain == pytest.approx(1 - 9 / wrong.mean())
    assert gain == pytest.approx(-0.85, abs=0.35)


@pytest.mark.parametrize("fault", ["true actions twice", "other noise", "frames one step late"])
def test_a_fault_in_the_metric_moves_it_as_computed_from_the_kept_frames(
    fault: str, shades: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a fault a perfect world has 1, and one that ignores actions has 0 under any noise. One with half of the effect is wrong by
    0.875 squared steps under the true actions and by 2.125 under random ones, on average, so it is near 0.59. With true actions twice the
    two errors are equal. With other noise they differ by chance. Frames one step late are wrong under the true actions too."""
    world, unfaulty = {
        "true actions twice": (Shades(share=0.5), 0.59),
        "other noise": (Predictor(noise=0.3), 0.0),
        "frames one step late": (Shades(), 1.0),
    }[fault]
    right = action_gain._measure
    measured(tmp_path / "perfect", Shades(), monkeypatch)
    true = np.load(tmp_path / "perfect" / "frames.npy")[:, :4].astype(float)

    def faulty(play: WindowBatch, spec: ActionSpec, keys: Sequence[Key]) -> WindowBatch:
        if fault == "true actions twice":
            return play
        monkeypatch.setattr(parts, "ROLLOUT_STREAM", 1000)  # that of the play under random actions, which is imagined next
        return with_random_actions(play, spec, keys)

    if fault == "frames one step late":
        monkeypatch.setattr(action_gain, "_measure", lambda batch: right(replace(batch, frames=batch.frames.roll(1, dims=1))))
    else:
        monkeypatch.setattr(parts, "with_random_actions", faulty)
    gain, _ = measured(tmp_path / "e", world, monkeypatch)
    frames = [np.load(tmp_path / "e" / f"{name}.npy").astype(float) for name in ("frames", "altered")]
    late = 1 if fault == "frames one step late" else 0
    error, wrong = (((np.roll(played, late, axis=1)[:, :4] - true) ** 2).mean() for played in frames)
    assert gain == pytest.approx(1 - error / wrong, abs=1e-6)
    assert abs(gain - unfaulty) > 1e-4, "a hundred times the tolerance above"
    if fault == "true actions twice":
        assert gain == 0


@pytest.mark.parametrize("spec", [ActionSpec.discrete(3), ActionSpec.columns((2, 5)), ActionSpec.continuous((-1.0, 0.0), (1.0, 4.0))])
def test_random_actions_are_uniform_and_begin_with_the_one_after_the_context(spec: ActionSpec) -> None:
    dtype = getattr(torch, spec.dtype)
    frames = torch.zeros(200, 7, 3, 1, 1, dtype=torch.uint8)
    play = WindowBatch(frames, torch.full((200, 7, *spec.shape), spec.bounds[0][0], dtype=dtype), context=3)
    drawn = with_random_actions(play, spec, [(0, row) for row in range(200)])
    assert torch.equal(drawn.actions[:, :2], play.actions[:, :2])
    assert drawn.actions.dtype == dtype
    for column in range(len(spec.sizes)):
        low, high = (ends[column] for ends in spec.bounds)
        values = drawn.actions[:, 2:].reshape(1000, -1)[:, column].double()
        assert low <= values.min()
        assert values.max() <= high
        spread = (high - low) / 12**0.5 if spec.low else ((high - low + 1) ** 2 - 1) ** 0.5 / 12**0.5
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=5 * spread / 1000**0.5)
        assert values.std().item() == pytest.approx(spread, rel=0.1)


def test_too_short_rollouts_are_refused() -> None:
    with pytest.raises(UserError, match=r"evaluation\.horizon=3: the metric action_gain compares the first 4 imagined frames; set"):
        plan_study("sampling_steps", ["scale=tiny", "evaluation.horizon=3", "metrics=[drift,action_gain]"])
