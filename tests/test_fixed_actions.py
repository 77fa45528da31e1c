"""The same start under different fixed actions: which actions, what is imagined, and the figures of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import StandIn
from test_evaluation import CONFIG, CONTEXT, HORIZON, SETTINGS, STARTS, evaluate
from test_evaluation import data as data  # a fixture
from test_paper_figures import build, index
from test_paper_results import swept

from diamond_bench.data.static import EpisodeSet
from diamond_bench.diffusion.quantization import quantize
from diamond_bench.evaluation.fixed_actions import fixed_actions
from diamond_bench.spaces import ActionSpec
from diamond_bench.worlds.contract import Draw


def test_the_paper_s_five_driving_actions() -> None:
    spec = ActionSpec.continuous((-1.0, -2.0), (1.0, 2.0), ("acceleration", "steering"))
    found = {name: action.tolist() for name, action in fixed_actions(spec).items()}
    assert found == {
        "neutral": [0, 0],
        "acceleration −": [-0.5, 0],
        "acceleration +": [0.5, 0],
        "steering −": [0, -1],
        "steering +": [0, 1],
    }


def test_bins_come_before_keys_and_keys_are_pressed_alone() -> None:
    spec = ActionSpec.columns((2, 2, 23), ("forward", "fire", "mouse_x"))
    found = {name: action.tolist() for name, action in fixed_actions(spec).items()}
    assert found == {
        "neutral": [0, 0, 11],
        "mouse_x −": [0, 0, 6],
        "mouse_x +": [0, 0, 16],
        "forward": [1, 0, 11],
        "fire": [0, 1, 11],
    }
    assert list(fixed_actions(spec, 2)) == ["neutral", "mouse_x −"]
    assert fixed_actions(spec)["fire"].dtype == torch.int64
    discrete = fixed_actions(ActionSpec.discrete(3, ("noop", "up", "down")))
    assert [(name, int(action)) for name, action in discrete.items()] == [("noop", 0), ("up", 1), ("down", 2)]


class Brighter(StandIn):
    """Each frame is the last one, brighter by ten levels for each number of the action."""

    context = 2

    def __init__(self) -> None:
        super().__init__(16, 4)

    def bound(self, sampler: object) -> "Brighter":
        return self

    def predict(self, past: torch.Tensor, actions: torch.Tensor, draw: Draw) -> torch.Tensor:
        step = actions[:, -1].float()[:, None, None, None] * 20 / 255
        return quantize((past[:, -1] + step).clamp(-1, 1), "round")


def test_an_evaluation_holds_each_action_from_one_start(
    data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, evaluation=replace(SETTINGS, metrics=("drift",), fixed_actions=True))
    result = evaluate(tmp_path / "e", Brighter(), monkeypatch, config)  # type: ignore[arg-type]
    with np.load(tmp_path / "e" / "media" / "fixed_actions.npz") as stored:
        names, frames = stored["names"].tolist(), stored["frames"]
    assert names == [f"action {i}" for i in range(4)]
    assert frames.shape == (4, HORIZON, 16, 16, 3)
    first = STARTS[int(np.random.default_rng(SETTINGS.seed).permutation(len(STARTS))[0])]
    last = data["heldout"].frames[first + CONTEXT - 1].permute(1, 2, 0).numpy().astype(int)
    for action in range(4):
        for t in range(HORIZON):
            assert np.array_equal(frames[action, t], np.minimum(last + 10 * action * (t + 1), 255))
    without = evaluate(tmp_path / "f", Brighter(), monkeypatch, replace(CONFIG, evaluation=replace(SETTINGS, metrics=("drift",))))  # type: ignore[arg-type]
    assert not (tmp_path / "f" / "media" / "fixed_actions.npz").exists()
    assert {(r.metric, r.baseline): r.value for r in without.rows if not r.measured} == {
        (r.metric, r.baseline): r.value for r in result.rows if not r.measured
    }


def test_figures_show_the_actions_of_keys_and_of_numbers_apart(tmp_path: Path, unrendered: None) -> None:
    _, _, store = swept(tmp_path, "evaluation.fixed_actions=true", "seeds=1")
    out = tmp_path / "paper"
    build(out, "figure10", "figure11", "figure12", results=["mine"], store=store.root)
    shown = {name: {file for file in entry["files"] if file.endswith(".png")} for name, entry in index(out).items()}
    assert shown["figure10"] == {"figure10-mine-tiny-Boxing.png"}
    for name, n in (("figure11", 1), ("figure12", 3)):
        assert shown[name] == {f"{name}-mine-tiny-Boxing-{arm}-n-{n}.png" for arm in ("edm", "ddpm")}
    assert "each action held" in " ".join(index(out)["figure11"]["footnotes"])
    build(tmp_path / "none", "figure12", store=store.root)
    assert "different fixed keys" in index(tmp_path / "none")["figure12"]["lacks"][0]["what"]
