"""Rewards and ends in imagination: scores by hand, and worlds that predict them all, always the same, or late."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import CountingReward, CountingWorld, counting_frames, ends_at, reward_of
from test_evaluation import CONFIG, CONTEXT, HORIZON, SETTINGS, STARTS, Predictor, evaluate, numbers
from test_evaluation import data as data  # a fixture

from analysis.outcomes import before_end, class_scores
from diamond_bench.config import DataConfig, RunConfig
from diamond_bench.data import outcomes as data_outcomes
from diamond_bench.data.outcomes import Outcomes
from diamond_bench.data.static import EpisodeSet
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.errors import UserError
from diamond_bench.evaluation.outcomes import OutcomeModel
from diamond_bench.metrics.outcomes import METRIC
from diamond_bench.metrics.play import WindowBatch
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.studies.plan import plan_study
from diamond_bench.worlds.contract import Draw, State, Step
from diamond_bench.worlds.oracle import Oracle

OUTCOMES = replace(CONFIG, evaluation=replace(SETTINGS, metrics=("drift", "outcomes")))


def test_scores_of_classes_are_as_computed_by_hand() -> None:
    probabilities = [[0.7, 0.2, 0.1], [0.6, 0.4, 0.0], [0.1, 0.8, 0.1], [0.2, 0.25, 0.55]]
    first, second, third = class_scores(probabilities, [0, 1, 1, 1])
    assert (first.precision, first.recall, first.occurrences) == (0.5, 1.0, 1)
    assert (second.precision, second.recall, second.occurrences) == (1.0, 1 / 3, 3)
    assert (third.precision, third.occurrences) == (0.0, 0)
    assert np.isnan(third.recall)
    # of the first class each probability has a bin of its own: |0.7 - 1|, |0.6 - 0|, 0.1 and 0.2
    assert first.calibration_error == pytest.approx((0.3 + 0.6 + 0.1 + 0.2) / 4)
    # 0.2 and 0.25 share a bin: |0.225 - 0.5| twice
    assert second.calibration_error == pytest.approx((2 * 0.275 + 0.6 + 0.2) / 4)
    with pytest.raises(ValueError, match="sum to 1"):
        class_scores([[0.5, 0.4]], [0])
    with pytest.raises(ValueError, match="shapes"):
        class_scores([[0.5, 0.5]], [0, 1])


def test_steps_count_up_to_the_first_end() -> None:
    assert before_end([[0, 0, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).tolist() == [
        [True, True, True, False, False],
        [True] * 5,
        [True, False, False, False, False],
    ]


def counted_play() -> tuple[WindowBatch, torch.Tensor]:
    """Frames that show a count, to which each action is added, and the counts after the context."""
    actions = torch.tensor([[1, 2, 0, 1, 2, 2, 1, 0, 1, 2], [2, 1, 1, 2, 1, 0, 2, 2, 1, 1]])
    counts = torch.cat((torch.ones(2, 1, dtype=torch.int64), 1 + actions.cumsum(1)), dim=1)[:, :10]
    return WindowBatch(counting_frames(counts), actions, context=4), counts[:, 4:]


class Skipping(CountingWorld):
    """Imagines one more than it should."""

    def predict(self, past: torch.Tensor, actions: torch.Tensor, draw: Draw) -> torch.Tensor:
        return from_bytes(counting_frames((past[:, -1, 0, 0, 0] * 127.5 + 127.5).round().long() + actions[:, -1] + 1, past.shape[-1]))


@pytest.mark.parametrize("forced", [False, True])
def test_an_agents_model_sees_each_transition_with_its_action(forced: bool) -> None:
    """`CountingReward` asserts that the action is that of its frames, and its memory began with the context."""
    play, counts = counted_play()
    model = OutcomeModel(CountingWorld(), CountingReward())
    found = (model.teacher_forced if forced else model.free_running)(play, [(0, 1), (0, 2)])
    assert torch.equal(found.rewards.argmax(dim=-1) - 1, reward_of(counts).sign().long())
    assert torch.equal(found.ends > 0.5, ends_at(counts))


def test_a_world_that_drifts_misleads_the_model_along_its_own_frames_only() -> None:
    play, counts = counted_play()

    def after(frames: torch.Tensor, actions: torch.Tensor, following: torch.Tensor, state: object) -> object:
        return CountingReward()(frames, following_counts(following) - following_counts(frames), following, None)

    def following_counts(frames: torch.Tensor) -> torch.Tensor:
        return (frames[:, :, 0, 0, 0] * 127.5 + 127.5).round().long()

    model = OutcomeModel(Skipping(), after)  # type: ignore[arg-type]
    forced, free = (way(play, [(0, 1), (0, 2)]) for way in (model.teacher_forced, model.free_running))
    assert torch.equal(forced.rewards.argmax(dim=-1) - 1, reward_of(counts).sign().long())
    assert torch.equal(free.rewards.argmax(dim=-1) - 1, reward_of(counts + torch.arange(1, 7)).sign().long())


class Paying(Predictor):
    """Predicts the reward (action % 3) - 1 and an end after action 3, each as sure as `logit`. `late`: those of the action before."""

    def __init__(self, logit: float = 1e4, late: bool = False) -> None:
        super().__init__()
        self.spec = WorldSpec(FrameSpec(16, 16), ActionSpec.discrete(4))
        self.logit, self.late = logit, late

    def step(self, state: State, action: torch.Tensor, draw: Draw) -> tuple[State, Step]:
        shown = state[1][:, 0] if self.late else action
        after, step = super().step(state, action, draw)
        rewards = self.logit * torch.nn.functional.one_hot(shown % 3, 3).float()
        ends = self.logit * torch.nn.functional.one_hot((shown == 3).long(), 2).float()
        return after, Step(step.frame, rewards, ends)


@pytest.fixture
def paid(data: dict[str, EpisodeSet], monkeypatch: pytest.MonkeyPatch) -> Outcomes:
    actions = np.random.default_rng(2).integers(0, 4, len(data["heldout"].frames))
    data["heldout"] = replace(data["heldout"], actions=torch.from_numpy(actions))
    found = Outcomes((actions % 3 - 1).astype(np.float32) * 5, actions == 3)  # rewards count by their sign
    monkeypatch.setattr(data_outcomes, "load_outcomes", lambda folder, split, lives: found)
    return found


def measured(folder: Path, world: Predictor, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    found = numbers(evaluate(folder, world, monkeypatch, OUTCOMES))
    return {name: value for (name, _), value in found.items() if name.startswith(("reward_", "end_", "imagined_return", "outcome"))}


def counted(paid: Outcomes) -> tuple[np.ndarray, np.ndarray]:
    """The signs and ends of all steps that count."""
    order = np.random.default_rng(SETTINGS.seed).permutation(len(STARTS))[: SETTINGS.num_trajectories]
    rows = np.array([STARTS[i] + CONTEXT - 1 + np.arange(HORIZON) for i in order])
    count = before_end(paid.ends[rows])
    return np.sign(paid.rewards[rows])[count], paid.ends[rows][count]


def test_a_world_that_predicts_the_truth_is_perfect(paid: Outcomes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(tmp_path / "e", Paying(), monkeypatch)
    signs, ends = counted(paid)
    assert (found["outcome_steps"], found["outcome_rewards"], found["outcome_ends"]) == (len(signs), (signs != 0).sum(), ends.sum())
    assert ends.any()
    for end in ("", "_forced"):
        for name in ("reward_minus", "reward_zero", "reward_plus", "end"):
            assert found[f"{name}_precision{end}"] == found[f"{name}_recall{end}"] == 1, name
            assert found[f"{name}_calibration{end}"] == pytest.approx(0, abs=1e-9)
        assert found[f"imagined_return_error{end}"] == pytest.approx(0, abs=1e-9)
    arrays = np.load(tmp_path / "e" / "arrays.npz")
    assert arrays["outcomes_true_reward_plus"].shape == (SETTINGS.num_trajectories, HORIZON)


def test_a_world_that_always_says_the_same_has_values_derived_by_hand(
    paid: Outcomes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With equal logits each sign has probability 1/3, and the first one is predicted."""
    found = measured(tmp_path / "e", Paying(logit=0.0), monkeypatch)
    signs, ends = counted(paid)
    assert (found["reward_minus_precision"], found["reward_minus_recall"]) == (pytest.approx((signs == -1).mean()), 1)
    assert np.isnan(found["reward_plus_precision"])
    assert (found["reward_plus_recall"], found["end_recall"]) == (0, 0)
    assert found["reward_plus_calibration"] == pytest.approx(abs(1 / 3 - (signs == 1).mean()))
    assert found["end_calibration"] == pytest.approx(abs(0.5 - ends.mean()))
    assert found["imagined_return_bias"] == pytest.approx(-signs.sum() / SETTINGS.num_trajectories)


def test_a_world_that_pays_one_step_late_is_caught(paid: Outcomes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(tmp_path / "e", Paying(late=True), monkeypatch)
    assert found["reward_plus_recall"] < 0.8
    assert found["reward_plus_recall_forced"] == found["reward_plus_recall"]
    assert found["imagined_return_error"] > 0


def test_a_world_that_predicts_no_rewards_is_refused_at_planning() -> None:
    with pytest.raises(UserError, match=r"metrics: outcomes .* predicts none\. Name an agent with evaluation\.world_model=AGENT.*oracle"):
        plan_study("sampling_steps", ["scale=tiny", "metrics=[drift,outcomes]"])
    config = RunConfig(game="synthetic/turn", family=Oracle(), evaluation=OUTCOMES.evaluation)
    METRIC.check(config)
    METRIC.check(replace(config, family=None, evaluation=replace(OUTCOMES.evaluation, world_model="train_agent/0123456789abcdef")))
    for refused, words in (
        (replace(config, game="maze/loop", family=Oracle()), "has none"),
        (replace(config, data=DataConfig(dataset="mine")), "your dataset mine is not known to hold them"),
    ):
        with pytest.raises(UserError, match=f"metrics: outcomes needs .*{words}; leave outcomes out with metrics=\\[drift\\]"):
            METRIC.check(refused)
