"""Playing the real game: what is collected, exact continuation, test games."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor
from toy_game import CountGame, toy_vector_env

from diamond_bench.config import EnvConfig
from diamond_bench.envs.atari import AtariEnv
from diamond_bench.envs.games import vector_env
from diamond_bench.envs.lives import LifeLossEnds
from diamond_bench.envs.play import Collected, Collector, Game, State, Steps, TestGame, draw_actions, play_test_games
from diamond_bench.training.checkpoint import load_checkpoint, save_checkpoint
from diamond_bench.training.rollout import RealEnv

GOLDEN_ATARI = Path(__file__).parent / "golden_atari"


class Shelf:
    """A sink that keeps everything, joined per environment."""

    def __init__(self) -> None:
        self.steps: dict[int, list[Steps]] = {}

    def append(self, env: int, steps: Steps) -> None:
        self.steps.setdefault(env, []).append(steps)

    def column(self, env: int, name: str) -> npt.NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in self.steps[env]])


class Watcher:
    """A policy whose memory is the number of frames seen since it was emptied, and a running mix of them; logits depend on both."""

    def __init__(self, num_actions: int = 3) -> None:
        self.num_actions = num_actions
        self.ages: list[list[int]] = []

    def initial_state(self, num_games: int) -> State:
        return torch.zeros(num_games, 1), torch.zeros(num_games, 3)

    def __call__(self, frames: npt.NDArray[np.uint8], state: State) -> tuple[Tensor, State]:
        age, mix = state
        self.ages.append(age[:, 0].int().tolist())
        mix = mix * 0.7 + torch.from_numpy(frames).float().mean(dim=(1, 2))
        return torch.sin(mix[:, :1] * torch.arange(1, self.num_actions + 1)), (age + 1, mix)


class Scripted:
    """Plays given actions."""

    def __init__(self, actions: npt.NDArray[np.int64], num_actions: int) -> None:
        self.actions, self.num_actions = iter(actions), num_actions

    def initial_state(self, num_games: int) -> State:
        return (torch.zeros(num_games, 1),)

    def __call__(self, frames: npt.NDArray[np.uint8], state: State) -> tuple[Tensor, State]:
        return torch.nn.functional.one_hot(torch.from_numpy(next(self.actions)), self.num_actions) * 1e6, state


def test_collection_equals_the_authors_training_environment() -> None:
    """Fault 5 as far as what is stored goes: raw rewards, lost lives as ends, the game going on, true final frames."""
    golden = np.load(GOLDEN_ATARI / "atari_train_env.npz")
    shelf = Shelf()
    collector = Collector(vector_env("Breakout", EnvConfig(), 1), Scripted(golden["action"], 4), shelf, seed=123)
    collected = collector.collect(len(golden["action"]))
    frames = golden["obs"][:, 0].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(shelf.column(0, "frames"), frames[:-1])
    np.testing.assert_array_equal(shelf.column(0, "actions"), golden["action"][:, 0])
    np.testing.assert_array_equal(shelf.column(0, "rewards"), golden["reward"][:, 0])
    np.testing.assert_array_equal(shelf.column(0, "ends"), golden["end"][:, 0].astype(bool))
    following = frames[1:].copy()
    for (step, _), final in zip(golden["final_obs_step_env"], golden["final_obs"], strict=True):
        following[step] = final.transpose(1, 2, 0)
    np.testing.assert_array_equal(shelf.column(0, "next_frames"), following)
    assert collected.steps == collector.real_steps == 280
    assert collected.episodes == golden["end"].sum() == 9
    over = np.flatnonzero(golden["end"][:, 0] & (golden["life_loss"][:, 0] == 0))
    cuts = np.split(golden["reward"][:, 0], over + 1)[:-1]
    assert collected.games == tuple(Game(float(cut.sum()), len(cut)) for cut in cuts)
    positive = int((golden["reward"] > 0).sum())
    assert collected.reward_signs == (0, 280 - positive, positive)


def test_real_games_give_what_their_rules_say() -> None:
    shelf = Shelf()
    player = Watcher()
    collector = Collector(toy_vector_env(2, life_loss_ends=True), player, shelf, seed=3)
    total = [collector.collect(n) for n in (130, 1, 69)]
    assert collector.real_steps == 400 == sum(part.steps for part in total)
    ends = games = 0
    for env in range(2):
        game = LifeLossEnds(CountGame())
        frame, _ = game.reset(seed=3 + env)
        age, score = 0, 0.0
        columns = (shelf.column(env, name) for name in ("frames", "actions", "rewards", "ends", "truncations", "next_frames"))
        for t, (seen, action, reward, end, cut, following) in enumerate(zip(*columns, strict=True)):
            assert player.ages[t][env] == age, "memory is kept within an episode and emptied after it"
            np.testing.assert_array_equal(seen, frame)
            frame, expected, terminated, truncated, info = game.step(int(action))
            np.testing.assert_array_equal(following, frame)
            assert (reward, end, cut) == (np.float32(expected), terminated, truncated)
            age, score = age + 1, score + expected
            if end or cut:
                ends, age = ends + 1, 0
                if info["game_over"]:
                    assert any(g.score == score for part in total for g in part.games)
                    games, score = games + 1, 0.0
                frame, _ = game.reset()
    assert ends == sum(part.episodes for part in total) > games == sum(len(part.games) for part in total) > 0


def played(collector: Collector, shelf: Shelf, num_steps: int) -> tuple[Collected, list[npt.NDArray[Any]]]:
    collected = collector.collect(num_steps)
    names = ("frames", "actions", "rewards", "ends", "next_frames")
    return collected, [shelf.column(env, name)[-num_steps:] for env in shelf.steps for name in names]


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("game", ["Breakout", "toy"])
def test_a_restored_collector_goes_on_bit_for_bit(game: str, num_envs: int, tmp_path: Path) -> None:
    """In another collector with a history of its own, through a checkpoint that is read without unpickling code."""

    def make(seed: int) -> tuple[Collector, Shelf]:
        shelf = Shelf()
        env = toy_vector_env(num_envs, life_loss_ends=True) if game == "toy" else vector_env(game, EnvConfig(frame_size=16), num_envs)
        return Collector(env, Watcher(env.single_action_space.n), shelf, seed, epsilon=0.2, temperature=0.8), shelf

    collector, shelf = make(0)
    collector.collect(57)
    save_checkpoint(tmp_path, 57, {"collector": collector.save()})
    expected = played(collector, shelf, 120)
    other, other_shelf = make(5)
    other.collect(31)
    loaded = load_checkpoint(tmp_path, pytest.fail)
    assert loaded is not None
    other.restore(loaded[1]["collector"])
    assert other.real_steps == 57 * num_envs
    collected, columns = played(other, other_shelf, 120)
    assert collected == expected[0]
    for one, two in zip(columns, expected[1], strict=True):
        np.testing.assert_array_equal(one, two)
    assert collected.episodes > 0
    assert other.real_steps == collector.real_steps


def test_a_lost_life_waiting_for_its_reset_is_saved_too() -> None:
    """As a vector environment never leaves it: a life was lost, and the reset that goes on with the game has not come yet."""
    from diamond_bench.envs.saves import load_env, save_env

    env, other = LifeLossEnds(CountGame()), LifeLossEnds(CountGame())
    env.reset(seed=0)
    other.reset(seed=9)
    while not env.step(2)[2]:
        pass
    assert env.resume is not None
    load_env(other, save_env(env))
    frame, info = env.reset()
    again, info_again = other.reset()
    np.testing.assert_array_equal(frame, again)
    assert info == info_again
    assert env.step(1)[1:4] == other.step(1)[1:4]


def test_restoring_what_does_not_fit_is_refused() -> None:
    saved = Collector(toy_vector_env(2), Watcher(), Shelf(), 0).save()
    with pytest.raises(ValueError, match="2 environments, restored with 1"):
        Collector(toy_vector_env(1), Watcher(), Shelf(), 0).restore(saved)
    next_step = SyncVectorEnv([CountGame], autoreset_mode=AutoresetMode.NEXT_STEP)
    with pytest.raises(ValueError, match="SAME_STEP"):
        Collector(next_step, Watcher(), Shelf(), 0)


class Stubborn(Watcher):
    """Wants action 0, by far."""

    def __call__(self, frames: npt.NDArray[np.uint8], state: State) -> tuple[Tensor, State]:
        logits, state = super().__call__(frames, state)
        return torch.zeros_like(logits) + torch.tensor([50.0, 0.0, 0.0]), state


def test_epsilon_is_one_coin_for_all_environments() -> None:
    shelf = Shelf()
    Collector(toy_vector_env(3), Stubborn(), shelf, seed=1, epsilon=0.3).collect(1000)
    actions = np.stack([shelf.column(env, "actions") for env in range(3)])
    at_random = actions.any(axis=0)  # with three uniform actions, 26 of 27 of the steps whose coin said so
    assert abs(at_random.mean() - 0.3 * 26 / 27) < 0.04
    assert abs(actions[:, at_random].mean() - 27 / 26) < 0.06
    shelf = Shelf()
    Collector(toy_vector_env(3), Stubborn(), shelf, seed=1).collect(300)
    assert not shelf.column(0, "actions").any()


def test_temperature_divides_the_logits() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0]]).repeat(20_000, 1)
    for temperature in (0.5, 1.0, 2.0):
        shares = np.bincount(draw_actions(logits, temperature, np.random.default_rng(0)), minlength=3) / 20_000
        np.testing.assert_allclose(shares, (logits[0] / temperature).softmax(0), atol=0.015)


def test_a_test_game_is_a_whole_game_scored_raw() -> None:
    """Fault 5: lost lives end nothing in test, rewards are not clipped, every game is counted, and once."""
    watched: list[tuple[int, Any, int, float]] = []
    shelf = Shelf()
    games = play_test_games(CountGame, Watcher(), 7, 3, seed=0, watch=lambda *step: watched.append(step), sink=shelf, max_steps=22)
    assert [game.index for game in games] == list(range(7))
    for game in games:
        steps = [step for step in watched if step[0] == game.index]
        assert game.length == len(steps)
        assert game.score == sum(step[3] for step in steps)
        lives = [int(step[1][0, 0, 2]) for step in steps]
        assert lives[0] == 3
        assert len(steps) == 22 if game.cut else (len(steps) <= 22 and lives[-1] == 1)
    assert max(game.score for game in games) > 20
    assert {game.cut for game in games} == {True, False}
    assert sum(shelf.column(env, "ends").sum() + shelf.column(env, "truncations").sum() for env in range(3)) == 7
    assert sum(len(shelf.column(env, "actions")) for env in range(3)) == sum(game.length for game in games)


@pytest.mark.parametrize("num_envs", [2, 3, 10])
def test_a_test_game_does_not_depend_on_how_many_are_played_together(num_envs: int) -> None:
    def play(num_envs: int) -> list[Any]:
        return play_test_games(CountGame, Watcher(), 5, num_envs, seed=4, epsilon=0.1, temperature=0.9)

    assert play(num_envs) == play(1)
    assert len({game.score for game in play(1)}) > 1


def test_test_games_of_atari() -> None:
    def breakout() -> AtariEnv:
        return AtariEnv("Breakout", EnvConfig(frame_size=16))

    def play(num_envs: int, seed: int) -> tuple[list[TestGame], dict[int, list[int]]]:
        actions: dict[int, list[int]] = {0: [], 1: []}

        def watch(index: int, frame: Any, action: int, reward: float) -> None:
            actions[index].append(action)

        return play_test_games(breakout, Watcher(4), 2, num_envs, seed, max_steps=80, watch=watch), actions

    one = play(1, seed=0)
    assert one == play(2, seed=0)
    assert one != play(2, seed=1)
    assert all(game.length > 30 for game in one[0])
    with pytest.raises(ValueError, match="when a life is lost"):
        play_test_games(lambda: LifeLossEnds(breakout()), Watcher(4), 1, 1, seed=0)


def test_saving_changes_nothing() -> None:
    runs = []
    for save in (False, True):
        shelf = Shelf()
        collector = Collector(toy_vector_env(2), Watcher(), shelf, seed=0, epsilon=0.1)
        for _ in range(5):
            collector.collect(20)
            if save:
                copy.deepcopy(collector.save())
        runs.append(shelf.column(1, "frames"))
    np.testing.assert_array_equal(*runs)


class SameArray(CountGame):
    """Writes every observation into one array, as many environments do."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = np.zeros((8, 8, 3), np.uint8)

    def _frame(self) -> Any:
        self._shown[:] = super()._frame()
        return self._shown


def assert_same_columns(expected: Shelf, found: Shelf, env: int) -> None:
    for field in dataclasses.fields(Steps):
        np.testing.assert_array_equal(found.column(env, field.name), expected.column(env, field.name))


def test_a_collector_keeps_what_an_environment_overwrites() -> None:
    shelves = []
    for game in (CountGame, SameArray):
        env = SyncVectorEnv([game] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
        shelves.append(Shelf())
        collected = Collector(env, Watcher(), shelves[-1], seed=0).collect(120)
        assert collected.episodes > 2
    for env_number in (0, 1):
        assert_same_columns(*shelves, env_number)


def test_test_games_keep_what_an_environment_overwrites() -> None:
    shelves = [Shelf(), Shelf()]
    for game, shelf in zip((CountGame, SameArray), shelves, strict=True):
        play_test_games(game, Watcher(), 2, 1, seed=4, sink=shelf)
    assert_same_columns(*shelves, 0)


def test_a_real_environment_of_tensors_keeps_what_an_environment_overwrites() -> None:
    envs = [RealEnv(SyncVectorEnv([game], autoreset_mode=AutoresetMode.SAME_STEP)) for game in (CountGame, SameArray)]
    for env in envs:
        env.reset(seed=0)
    ended = False
    for _ in range(60):
        (*expected, infos), (*found, other) = (env.step(torch.tensor([2])) for env in envs)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        assert torch.equal(infos["final_obs"], other["final_obs"])
        ended |= bool(expected[2].any())
    assert ended
