"""Rewards and ends in imagination: scores by hand, and worlds that predict them all, always the same, or late."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import CountingReward, CountingWorld, counting_frames, ends_at, reward_of
from test_evaluation import CONFIG, CONTEXT, HORIZON, SETTINGS, STARTS, Predictor, evaluate, numbers
from test_evaluation import data as data  # a fixture
from test_worlds import ENV, TURN, played

from analysis.outcomes import before_end, class_scores
from diamond_bench.config import DataConfig, RunConfig
from diamond_bench.data import outcomes as data_outcomes
from diamond_bench.data.outcomes import Outcomes
from diamond_bench.data.static import EpisodeSet
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.envs.games import make_env, spec
from diamond_bench.errors import UserError
from diamond_bench.evaluation.outcomes import OutcomeModel
from diamond_bench.metrics.outcomes import METRIC
from diamond_bench.metrics.play import WindowBatch
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.studies.plan import plan_study
from diamond_bench.worlds.contract import Draw, State, Step
from diamond_bench.worlds.oracle import Oracle
from diamond_bench.worlds.oracle.world import OracleWorld

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


def steps() -> np.ndarray:
    """The rows of the held-out split at which the references' actions are taken, (trajectories, T)."""
    order = np.random.default_rng(SETTINGS.seed).permutation(len(STARTS))[: SETTINGS.num_trajectories]
    return np.array([STARTS[i] + CONTEXT - 1 + np.arange(HORIZON) for i in order])


def counted(paid: Outcomes) -> tuple[np.ndarray, np.ndarray]:
    """The signs and ends of all steps that count."""
    rows = steps()
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


@pytest.mark.parametrize("forced", [False, True])
def test_the_game_itself_predicts_every_reward_if_nothing_is_random(forced: bool) -> None:
    """The oracle of a game without minority turns, against the rewards of the same play."""
    env, seen = replace(ENV, minority_share=0.0), 4
    play = played(TURN, env)
    rewards = np.zeros(play.actions.shape)
    for number, actions in enumerate(play.actions):
        built = make_env(TURN, env)
        built.reset(seed=number)
        rewards[number] = [built.step(int(action))[1] for action in actions]
    origin = torch.stack((torch.arange(len(rewards)), torch.full((len(rewards),), seen - 1)), dim=1)
    actions = torch.from_numpy(np.pad(play.actions, ((0, 0), (0, 1))))
    batch = WindowBatch(torch.from_numpy(play.frames.copy()), actions, context=seen, origin=origin)
    model = OutcomeModel(OracleWorld(make_env(TURN, env), spec(TURN, env), torch.device("cpu"), play))
    found = (model.teacher_forced if forced else model.free_running)(batch, [(0, number) for number in range(len(rewards))])
    assert (found.rewards.argmax(dim=-1) - 1).tolist() == np.sign(rewards[:, seen - 1 :]).tolist()
    assert found.rewards.amax(dim=-1).min() == 1
    assert len(set(rewards[:, seen - 1 :].ravel().tolist())) > 1
    assert not found.ends.any()


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


def test_a_world_that_pays_one_step_late_has_values_derived_by_hand(
    paid: Outcomes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its predictions are what happened one step before."""
    found = measured(tmp_path / "e", Paying(late=True), monkeypatch)
    count, (signs, ends) = before_end(paid.ends[steps()]), counted(paid)
    late, ended = np.sign(paid.rewards[steps() - 1])[count], paid.ends[steps() - 1][count]
    for end in ("", "_forced"):
        for name, sign in (("minus", -1), ("zero", 0), ("plus", 1)):
            right = ((late == sign) & (signs == sign)).sum()
            assert found[f"reward_{name}_precision{end}"] == pytest.approx(right / (late == sign).sum())
            assert found[f"reward_{name}_recall{end}"] == pytest.approx(right / (signs == sign).sum())
        assert found[f"end_recall{end}"] == pytest.approx(ended[ends].mean())
        error = ((np.sign(paid.rewards[steps() - 1]) - np.sign(paid.rewards[steps()])) * count).sum(axis=1)
        assert found[f"imagined_return_error{end}"] == pytest.approx(np.abs(error).mean())
    assert found["reward_plus_recall"] < 0.8


def test_a_world_that_blurs_its_predictions_is_right_but_not_calibrated(
    paid: Outcomes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the logit ln 2 the right sign has the probability 1/2 and each other one 1/4. An end is 2/3 or 1/3."""
    found = measured(tmp_path / "e", Paying(logit=float(np.log(2))), monkeypatch)
    signs, _ = counted(paid)
    for name, sign in (("minus", -1), ("zero", 0), ("plus", 1)):
        share = (signs == sign).mean()
        assert found[f"reward_{name}_precision"] == found[f"reward_{name}_recall"] == 1
        assert found[f"reward_{name}_calibration"] == pytest.approx(share / 2 + (1 - share) / 4, abs=1e-6)
    assert found["end_calibration"] == pytest.approx(1 / 3, abs=1e-6)
    signs_of = np.sign(paid.rewards[steps()]) * before_end(paid.ends[steps()])
    assert found["imagined_return_error"] == pytest.approx(0.75 * np.abs(signs_of.sum(axis=1)).mean(), abs=1e-6)


@pytest.mark.parametrize("fault", ["steps after the end", "truth one step late", "classes in reverse"])
def test_a_fault_in_the_metric_makes_the_perfect_world_imperfect(
    fault: str, paid: Outcomes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps_counted = len(counted(paid)[0])
    if fault == "steps after the end":
        monkeypatch.setattr("analysis.outcomes.before_end", lambda ends: np.ones_like(ends, dtype=bool))
    elif fault == "truth one step late":
        late = Outcomes(np.roll(paid.rewards, 1), np.roll(paid.ends, 1))
        monkeypatch.setattr(data_outcomes, "load_outcomes", lambda folder, split, lives: late)
    else:
        monkeypatch.setattr("diamond_bench.metrics.outcomes.REWARDS", ("plus", "zero", "minus"))
    found = measured(tmp_path / "e", Paying(), monkeypatch)
    perfect = found["reward_plus_recall"] == found["reward_minus_recall"] == 1 and found["imagined_return_error"] < 1e-9
    assert not perfect or found["outcome_steps"] > steps_counted


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
        with pytest.raises(UserError, match=f"metrics: outcomes needs .*{words}"):
            METRIC.check(refused)
