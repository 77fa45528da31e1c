"""Damage to the frames of the oracle: values by hand, a game that stays true, and the study that asks whether damage matters."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import CHECKS, CPU, Case
from test_report import finish
from test_worlds import ENV, TINY, TURN, Played, oracle_config, played, study

from diamond_bench.config import OdeSampler
from diamond_bench.config.worlds import world_family
from diamond_bench.diffusion.quantization import from_bytes, to_bytes
from diamond_bench.envs.games import make_env, spec, truth
from diamond_bench.envs.synthetic import FAMILY, WORLDS, State, render, step_rewards, without_objects
from diamond_bench.errors import UserError
from diamond_bench.evaluation.rollouts import seeded_draw
from diamond_bench.jobs import evaluate_agent, train_agent
from diamond_bench.jobs.context import JobContext
from diamond_bench.report.figures import study_figures
from diamond_bench.results.table import collect
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.plan import plan_study, save_plan
from diamond_bench.worlds.contract import State as WorldState
from diamond_bench.worlds.contract import Step
from diamond_bench.worlds.families import open_world
from diamond_bench.worlds.oracle import Oracle
from diamond_bench.worlds.oracle.damage import blurred, tokenised

BLACK = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)


def frames_of(*states: State) -> torch.Tensor:
    return torch.from_numpy(np.stack([render(TURN, state, 16).transpose(2, 0, 1) for state in states]))


def test_a_blurred_point_has_the_weights_of_the_gaussian() -> None:
    """w(k) = exp(-k^2 / 2) / 2.50665 for sigma = 1: 0.39894, 0.24197, 0.05399. A pixel has the product of two of them, times 255."""
    frame = BLACK.clone()
    frame[0, 1, 8, 8] = 255
    shown = blurred(frame, 1.0)
    assert shown[0, 1, 8, 7:11].tolist() == [25, 41, 25, 5]
    assert shown[0, 1, 9, 7:11].tolist() == [15, 25, 15, 3]
    assert not shown[0, [0, 2]].any()
    assert torch.equal(shown[0, 1], shown[0, 1].T)


def test_a_blur_continues_the_edge() -> None:
    """Half of the frame is white. The first column beyond the border has w(1) + w(2) + ... = 0.30054 of 255, the next one 0.05857."""
    frame = BLACK.clone()
    frame[..., 8:] = 255
    shown = blurred(frame, 1.0)
    assert shown[0, 0, 0].tolist() == [0, 0, 0, 0, 0, 1, 15, 77, 178, 240, 254, 255, 255, 255, 255, 255]
    assert torch.equal(blurred(frame, 0.1), frame)


def test_a_token_has_one_of_512_colours() -> None:
    """The walker fills a quarter of a patch of side 4: 63.75 is nearest to the third of the 8 levels, 72.9. The player's 39.5 and 28.75 are
    nearest to the second, 36.4. In a patch of side 8 the largest mean is 15.9, which is nearest to 0: both objects are gone."""
    frame = frames_of(State(1, 2, 0, 5))
    shown = tokenised(frame, 4)
    assert shown[0, :, :4, 4:8].unique().tolist() == [73]
    assert shown[0, 0, 12:, 8:12].unique().tolist() == [0]
    assert shown[0, 1:, 12:, 8:12].unique().tolist() == [36]
    rest = shown.clone()
    rest[0, :, :4, 4:8] = rest[0, :, 12:, 8:12] = 0
    assert not rest.any()
    assert not tokenised(frame, 8).any()
    cells = tokenised(frame, 2)
    assert (cells[0, :, 2, 4].tolist(), cells[0, :, 14, 10].tolist()) == ([255, 255, 255], [0, 146, 109])


def test_objects_are_removed_by_the_truth() -> None:
    frames = frames_of(*[State(3, 4, 0, 4)] * 4)
    shown = without_objects(TURN, frames.numpy(), np.array([[False, False], [True, False], [False, True], [True, True]]))
    assert np.array_equal(shown[0], frames[0])
    assert shown[1].sum() == 4 * (158 + 115)
    assert shown[2].sum() == 4 * 3 * 255
    assert not shown[3].any()
    assert truth(TURN).erasable == ("walker", "player")


@pytest.mark.parametrize("light", [0, 1])
def test_a_light_of_either_colour_is_removed(light: int) -> None:
    game = "synthetic/signal"
    frame = render(game, State(1, 2, 0, 5, light), 16).transpose(2, 0, 1)[None]
    without = render(TURN, State(1, 2, 0, 5), 16).transpose(2, 0, 1)[None]
    assert not np.array_equal(frame, without)
    assert np.array_equal(without_objects(game, frame, np.array([[False, False, True]])), without)
    assert truth(game).erasable == ("walker", "player", "light")


# In imagination


def rolled(settings: Oracle, play: Played, seen: int = 4, copies: int = 1) -> tuple[torch.Tensor, list[Step], WorldState]:
    """Frames (T, n, 3, h, w), steps and the last state of n games under the recorded actions."""
    world = open_world(settings, spec(play.game, play.env), CPU, play)
    rows = np.repeat(np.arange(len(play.frames)), copies)
    origin = torch.stack((torch.from_numpy(rows), torch.full((len(rows),), seen - 1)), dim=1)
    past, actions = from_bytes(torch.from_numpy(play.frames[rows, :seen].copy())), torch.from_numpy(play.actions[rows])
    noise = seeded_draw([(0, i) for i in range(len(rows))], CPU)
    state = world.start(past, actions[:, :seen], torch.ones(past.shape[:2], dtype=torch.bool), noise, origin)
    steps = []
    for t in range(seen - 1, actions.shape[1]):
        state, step = world.step(state, actions[:, t], noise)
        steps.append(step)
    return torch.stack([to_bytes(step.frame) for step in steps]), steps, state


DAMAGES = [Oracle(dropped=0.5), Oracle(flicker=0.5), Oracle(blur=1.0), Oracle(token_side=4)]


@pytest.mark.parametrize("damaged", DAMAGES, ids=lambda damaged: str(vars(damaged)))
def test_damage_changes_frames_and_nothing_else(damaged: Oracle) -> None:
    """The games are random, so damage that took a number of theirs would change them."""
    play = played(steps=24)
    true, steps, state = rolled(Oracle(), play)
    shown, others, after = rolled(damaged, play)
    assert not torch.equal(shown, true)
    assert torch.equal(after[0], state[0])
    for one, other in zip(steps, others, strict=True):
        assert one.reward_logits is not None
        assert other.reward_logits is not None
        assert torch.equal(one.reward_logits, other.reward_logits)


def test_damage_without_a_dose_shows_the_true_frames() -> None:
    play = played(env=replace(ENV, minority_share=0.0))
    whole = torch.from_numpy(play.frames[:, 4:].swapaxes(0, 1).copy())
    for none in (Oracle(), Oracle(dropped=1e-12), Oracle(flicker=1e-12), Oracle(blur=0.01)):
        assert torch.equal(rolled(none, play)[0], whole)


def shares(frames: torch.Tensor) -> np.ndarray[Any, Any]:
    """Whether walker and player are shown, (T, n, 2)."""
    white = (frames[:, :, 0] == 255).flatten(2).any(-1)
    green = (frames[:, :, :2] == torch.tensor([0, 158])[:, None, None]).all(2).flatten(2).any(-1)
    return torch.stack((white, green), dim=-1).numpy()


def test_a_dropped_object_is_missing_from_a_whole_game_and_a_flickering_one_from_single_frames() -> None:
    """Shares of 400 games, or frames, at probability 0.25: within 4 standard errors of 0.75."""
    dropped, _, _ = rolled(Oracle(dropped=0.25), played(steps=6, number=2), copies=200)
    seen = shares(dropped)
    assert (seen == seen[:1]).all()
    assert abs(seen[0].mean(axis=0) - 0.75) == pytest.approx(0, abs=4 * 0.0217)
    flickering = shares(rolled(Oracle(flicker=0.25), played(steps=6, number=2), copies=200)[0])
    assert abs(flickering[0].mean(axis=0) - 0.75) == pytest.approx(0, abs=4 * 0.0217)
    both = (flickering[0] & flickering[1]).mean(axis=0)
    assert both == pytest.approx(0.75**2, abs=4 * 0.0248)
    assert (flickering[0, :, 0] & flickering[0, :, 1]).mean() == pytest.approx(0.75**2, abs=4 * 0.0248)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_damaged_oracle_keeps_the_contract(check: Any) -> None:
    play, seen = played(), 4
    settings = Oracle(dropped=0.5, flicker=0.3, token_side=2)  # the arithmetic of a blur is not counted
    frames = from_bytes(torch.from_numpy(play.frames[:, :seen].copy()))
    origin = torch.stack((torch.arange(len(frames)), torch.full((len(frames),), seen - 1)), dim=1)
    cost = world_family(settings).cost(settings, spec(TURN, ENV), OdeSampler())
    actions = torch.from_numpy(play.actions[:, : seen + 5])
    check(Case(lambda: open_world(settings, spec(TURN, ENV), CPU, play), frames, actions, origin, cost))


# Scores and plans


def test_the_reward_of_random_play_and_of_the_best_policy() -> None:
    """A player that moves at random is in each of 8 columns equally often, wherever the walker is.

    Without chance the walker of `turn` goes round in two columns, so that the player can always be below it. The one of `opponent` crosses
    the board in 8 steps and starts again on the other side. A player that stays with it to the right side and then goes back to meet it
    misses columns 0, 1 and 2. In `seek` the walker then stands still, and nothing is left to gain after the first steps. In `signal` the
    player can come nearer in each step: it follows the walker, and goes to meet it once it enters again.
    """
    assert step_rewards("synthetic/turn", 0.0) == pytest.approx((1 / 8, 1.0))
    assert step_rewards("synthetic/opponent", 0.0) == pytest.approx((1 / 8, 5 / 8))
    assert step_rewards("synthetic/seek", 0.0) == pytest.approx((0.0, 0.0))
    assert step_rewards("synthetic/signal", 0.0) == pytest.approx((0.0, 1.0))


@pytest.mark.parametrize("game", ["synthetic/opponent", "synthetic/seek", "synthetic/signal"])
def test_the_best_policy_is_better_than_one_that_follows_the_walker(game: str) -> None:
    random, best = step_rewards(game, 0.2)
    env, rewards = make_env(game, ENV), []
    _, info = env.reset(seed=0)
    policy = FAMILY.experts[game](np.random.default_rng(0))
    for _ in range(2000):
        _, reward, _, _, info = env.step(policy(info["ram"], 0))
        rewards.append(float(reward))
    error = 4 * float(np.std(rewards)) / 2000**0.5
    assert random + (0.9 * best if game == "synthetic/signal" else 0.1) < np.mean(rewards) < best + error
    assert random == pytest.approx({"synthetic/opponent": 1 / 8}.get(game, 0.0))


def test_seek_rewards_the_columns_by_which_the_player_comes_nearer() -> None:
    """The walker in column 4 moves to 5. The player comes from 2 to 3, from 5 to 6, and stays in 7 at the wall."""
    world = WORLDS["synthetic/seek"]
    rewards = {}
    for player in (2, 5, 7):
        before = State(1, 4, 0, player)
        (moves, after), (stays, other) = world.outcomes(before, 1, 0.2)
        assert (moves, after.column, stays, other.column) == (0.2, 5, 0.8, 4)
        rewards[player] = (world.reward(before, after), world.reward(before, other))
    assert rewards == {2: (1, 1), 5: (-1, -1), 7: (0, 0)}
    assert world.outcomes(State(1, 7, 0, 0), 0, 0.2)[0][1].column == 0


def test_an_evaluation_has_the_normalised_return(tmp_path: Path) -> None:
    plan = plan_study(study(tmp_path, "oracle: {family: oracle}", "env.frame_size: 16", protocol="agent"), ["scale=tiny", "seeds=1"])
    (_, evaluation) = plan.jobs.values()
    train_agent.run(oracle_config(), JobContext(tmp_path / "agent"))
    result = evaluate_agent.run(evaluation.config, JobContext(tmp_path / "evaluation", {"agent": tmp_path / "agent"}))
    rows = {row.metric: row.value for row in result.rows}
    low, high = step_rewards(TURN, 0.2)
    assert rows["normalised_return"] == pytest.approx((rows["test_return"] / rows["test_length"] - low) / (high - low))


@pytest.mark.parametrize(
    ("arms", "game", "words"),
    [
        ("a: {family: oracle, family.blur: -1}", TURN, ["family.blur=-1", "between 0.0 and 100"]),
        ("a: {family: oracle, family.flicker: 1.5}", TURN, ["family.flicker=1.5", "between 0.0 and 1.0"]),
        ("a: {family: oracle, family.blurr: 1}", TURN, ["family.blurr", "blur"]),
        ("a: {family: oracle, family.token_side: 5}", TURN, ["family.token_side=5", "16 x 16"]),
        ("a: {family: oracle, family.dropped: 0.5}", "Breakout", ["family.dropped=0.5", "synthetic/turn", "not of Breakout"]),
        ("a: {family: oracle, family.flicker: 0.5}", "Breakout", ["family.flicker=0.5", "not of Breakout"]),
    ],
)
def test_damage_that_is_not_possible_is_refused_at_planning(arms: str, game: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        plan_study(study(tmp_path, arms, "env.frame_size: 16", game=game), list(TINY))
    for word in words:
        assert word in str(error.value)


def test_the_world_of_an_agent_that_learned_in_an_oracle_can_be_evaluated(tmp_path: Path) -> None:
    """`evaluation.world_model` of such an agent means the damaged oracle that it learned in: the same job as that of the family."""
    store = Store(tmp_path / "out", say=lambda text: None)
    arms = "a: {family: oracle, family.blur: 2}"
    agents = plan_study(study(tmp_path, arms, "env.frame_size: 16", protocol="agent"), ["scale=tiny", "seeds=1"])
    (training, *_) = agents.jobs.values()
    finish(store, training)
    tokens = [*TINY, "seeds=1", f"output_dir={store.root}"]
    of_agent = plan_study(study(tmp_path, f"a: {{evaluation.world_model: {training.ref}}}", "env.frame_size: 16"), tokens)
    of_family = plan_study(study(tmp_path, arms, "env.frame_size: 16"), tokens)
    assert [ref.kind for ref in of_agent.jobs] == ["collect_dataset", "evaluate_world_model"]
    assert of_agent.jobs == of_family.jobs
    with pytest.raises(UserError, match=r"sampler\.num_steps: it has no effect with family=oracle"):
        plan_study(study(tmp_path, f"a: {{evaluation.world_model: {training.ref}, sampler.num_steps: 2}}", "env.frame_size: 16"), tokens)


ARMS = "none: {}, blur: {family.blur: 1}, more: {family.blur: 2}, once: {family.flicker: 1}, both: {family.blur: 3, family.flicker: 1}"


def test_the_figure_of_doses_has_a_panel_for_each_number_that_is_varied_on_its_own(tmp_path: Path) -> None:
    """Three arms with blur alone (0, 1 and 2) are a panel, and two with flicker alone. The arm with both is in none."""
    name = study(tmp_path, ARMS, "family: oracle, env.frame_size: 16", protocol="agent")
    Path(name).write_text(Path(name).read_text().replace("metric: test_return", "metric: normalised_return, baseline: {arm: none}"))
    plan = plan_study(name, ["scale=tiny", "seeds=3"])
    store = Store(tmp_path / "out", say=lambda text: None)
    for of in plan.jobs.values():
        if of.inputs:
            trained = plan.jobs[of.inputs["agent"]].config
            _scored(store, of, 1.0 - 0.2 * trained.family.blur + 0.01 * trained.seed)
        else:
            finish(store, of)
    saved = save_plan(plan, store.root)
    (doses,) = (figure for figure in study_figures(saved, store, collect(saved, store), plan.jobs.keys()) if figure.kind == "doses")
    drawn = doses.draw()
    assert drawn is not None
    numbers = drawn.figure.numbers()
    assert set(numbers["series"]) == {TURN}
    blur, flicker = (numbers[numbers["panel"] == f"family.{name}"] for name in ("blur", "flicker"))
    assert (blur["x"].tolist(), flicker["x"].tolist()) == ([0, 1, 2], [0, 1])
    assert blur["value"].tolist() == pytest.approx([1.01, 0.81, 0.61])
    assert (blur["high"] - blur["value"]).tolist() == pytest.approx([4.3027 * 0.01 / 3**0.5] * 3, rel=1e-4)
    assert set(numbers["panel"]) == {"family.blur", "family.flicker"}
    assert "3 seeds" in drawn.caption


def _scored(store: Store, of: Any, value: float) -> None:
    store.prepare(of)
    claim = store.claim(of.ref)
    assert claim is not None
    rows = [{"metric": "normalised_return", "value": value, "measured": False, "baseline": ""}]
    claim.finish({"rows": rows, "info": {}, "recorded": {"revision": 1, "device": "cpu"}})
