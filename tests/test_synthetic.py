"""The synthetic games: their state is told exactly from what is seen, they do what they say, and every job plays them."""

from collections import Counter, defaultdict
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import StandIn
from torch import Tensor

from diamond_bench.config import EnvConfig
from diamond_bench.data.references import Windows
from diamond_bench.data.static import EpisodeSet
from diamond_bench.envs.games import actions as actions_of
from diamond_bench.envs.games import family_of, make_env, num_actions, vector_env
from diamond_bench.envs.play import Player, State, play_test_games
from diamond_bench.envs.saves import load_env, save_env
from diamond_bench.envs.synthetic import EPISODE_STEPS, WORLDS, SyntheticEnv, decode, next_frames
from diamond_bench.envs.synthetic import State as WalkerState
from diamond_bench.errors import UserError
from diamond_bench.evaluation.rollouts import imagine
from diamond_bench.jobs import collect_dataset, evaluate_agent, evaluate_world_model, play_random, train_agent, train_world_model
from diamond_bench.jobs.context import JobContext, Result
from diamond_bench.metrics.forks import find_forks, measure_forks, mode_rows
from diamond_bench.metrics.modes import THRESHOLDS
from diamond_bench.metrics.play import Forks, window_batch
from diamond_bench.studies.plan import Plan, plan_study
from diamond_bench.studies.single import plan_train
from diamond_bench.worlds.contract import Draw

GAMES = pytest.mark.parametrize("game", WORLDS)
CONFIG = EnvConfig(frame_size=16)
_TINY = (
    "network.channels=[8,8,8]",
    "training.num_steps=6",
    "data.num_train_frames=200",
    "data.num_references=3",
    "evaluation.num_one_step=12",
)
_SHORT = ("evaluation.num_trajectories=2", "evaluation.horizon=3", "evaluation.num_sample_starts=2", "evaluation.num_samples=3")


def played(game: str, steps: int, seed: int = 0, config: EnvConfig = CONFIG) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames (steps + 1, 3, h, w), random actions and memories of one episode after another, of which none may be cut."""
    env, rng = SyntheticEnv(game, config), np.random.default_rng(seed)
    frame, info = env.reset(seed=seed)
    frames, actions, rams = [frame], [], [info["ram"]]
    for _ in range(steps):
        actions.append(int(rng.integers(3)))
        frame, _, _, truncated, info = env.step(actions[-1])
        assert not truncated
        frames.append(frame)
        rams.append(info["ram"])
    return np.stack(frames).transpose(0, 3, 1, 2), np.array(actions), np.stack(rams)


def test_the_family_names_every_world() -> None:
    assert set(family_of("synthetic/turn").names()) == set(WORLDS)
    assert all(game in family_of(game).experts for game in WORLDS)
    assert actions_of("synthetic/turn").names == ("NOOP", "RIGHT", "LEFT")


@GAMES
@pytest.mark.parametrize("size", [16, 64])
def test_the_state_is_recovered_exactly(game: str, size: int) -> None:
    config = EnvConfig(frame_size=size)
    for seed in range(2):
        frames, _, rams = played(game, 700, seed, config)
        for t in range(2, len(frames)):
            state = decode(game, frames[t - 1 : t + 1])
            assert astuple(state) == tuple(rams[t][:5])


@GAMES
@pytest.mark.parametrize("share", [0.2, 0.35])
def test_what_comes_is_as_often_as_is_said(game: str, share: float) -> None:
    config = EnvConfig(frame_size=16, minority_share=share)
    forks, first, kinds = 0, 0, Counter[int]()
    by_action: dict[int, list[bool]] = defaultdict(list)
    for seed in range(3):
        frames, actions, _ = played(game, 1500, seed, config)
        for t in range(2, len(actions)):
            modes, probabilities = next_frames(game, frames[t - 1 : t + 1], int(actions[t]), share)
            hits = [bool(np.array_equal(mode, frames[t + 1])) for mode in modes]
            assert sum(hits) == 1, "what came is exactly one of the modes"
            assert probabilities.sum() == pytest.approx(1.0)
            kinds[len(modes)] += 1
            if len(modes) == 2:
                assert list(probabilities) == pytest.approx([share, 1 - share])
                forks, first = forks + 1, first + hits[0]
                by_action[int(actions[t])].append(hits[0])
    assert kinds[2] > 0.4 * sum(kinds.values())
    assert (kinds[1] > 0) == (game == "synthetic/turn"), "a wall leaves one way"
    assert first / forks == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / forks))
    for hits in by_action.values():  # the action does not load the dice
        assert np.mean(hits) == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / len(hits)))


def test_left_is_the_less_likely_way() -> None:
    outcomes = WORLDS["synthetic/turn"].outcomes(WalkerState(row=3, column=4, heading=0, player=0), 1, 0.2)
    assert outcomes == [(0.2, WalkerState(3, 3, 3, 1)), (0.8, WalkerState(3, 5, 1, 1))]
    at_the_wall = WORLDS["synthetic/turn"].outcomes(WalkerState(row=6, column=4, heading=1, player=0), 2, 0.2)
    assert at_the_wall == [(1.0, WalkerState(5, 4, 0, 0))], "a turn to the right would leave the field"
    outcomes = WORLDS["synthetic/opponent"].outcomes(WalkerState(row=1, column=0, heading=0, player=7), 1, 0.2)
    assert outcomes == [(0.2, WalkerState(1, 7, 0, 7)), (0.8, WalkerState(1, 1, 0, 7))]


@pytest.mark.parametrize(("column", "player", "blue", "red"), [(2, 5, 2, 1), (5, 2, 1, 2), (4, 4, 0, 2), (0, 0, 0, 1)])
def test_the_expert_goes_to_the_walker_and_flees_it_at_red(column: int, player: int, blue: int, red: int) -> None:
    expert = family_of("synthetic/signal").experts["synthetic/signal"](np.random.default_rng(0))
    rams = [np.array([1, column, 0, player, light, 0], np.uint8) for light in (0, 1)]
    assert [expert(ram, 0) for ram in rams] == [blue, red]


def test_the_light_is_red_as_often_as_stated_and_its_cell_shows_it() -> None:
    at_blue, at_red = (WalkerState(row=1, column=7, heading=0, player=3, light=light) for light in (0, 1))
    assert WORLDS["synthetic/signal"].outcomes(at_blue, 2, 0.2) == [(0.2, WalkerState(1, 0, 0, 2, 1)), (0.8, WalkerState(1, 0, 0, 2, 0))]
    assert WORLDS["synthetic/signal"].outcomes(at_red, 2, 0.2) == [(0.2, WalkerState(1, 7, 0, 2, 1)), (0.8, WalkerState(1, 7, 0, 2, 0))]
    frames, _, rams = played("synthetic/signal", 300)
    colours = frames[:, :, 8, 0]
    assert {tuple(colour) for colour in colours} == {(0, 114, 178), (213, 94, 0)}
    assert np.array_equal(colours[:, 0] == 213, rams[:, 4] == 1)


@GAMES
def test_actions_move_the_player_and_the_reward_follows_from_its_column(game: str) -> None:
    env = SyntheticEnv(game, CONFIG)
    _, info = env.reset(seed=3)
    for t in range(300):
        action, before, stood, red = (t * 7 + t // 5) % 3, int(info["ram"][3]), int(info["ram"][1]), int(info["ram"][4])
        frame, reward, terminated, _, info = env.step(action)
        assert info["ram"][3] == min(7, max(0, before + (0, 1, -1)[action]))
        player = int(info["ram"][3])
        nearer = abs(before - stood) - abs(player - stood)
        expected = {"synthetic/seek": nearer, "synthetic/signal": -nearer if red else nearer}
        assert reward == expected.get(game, float(player == info["ram"][1]))
        assert not terminated
        assert np.argwhere((frame == (0, 158, 115)).all(axis=-1))[0][1] == 2 * info["ram"][3]


@GAMES
def test_an_episode_is_cut_and_a_seed_decides_it(game: str) -> None:
    env, again = make_env(game, CONFIG), make_env(game, CONFIG)
    frames = [env.reset(seed=5)[0]]
    again.reset(seed=5)
    for t in range(EPISODE_STEPS):
        frame, _, _, truncated, _ = env.step(t % 3)
        np.testing.assert_array_equal(frame, again.step(t % 3)[0])
        frames.append(frame)
        assert truncated == (t == EPISODE_STEPS - 1)
    assert len(np.unique(np.stack(frames), axis=0)) > 15


@GAMES
def test_a_saved_state_goes_on_as_it_would_have(game: str) -> None:
    env = vector_env(game, CONFIG, 2)
    env.reset(seed=1)
    for t in range(30):
        env.step(np.array([t % 3, 1]))
    saved = [save_env(one) for one in env.envs]
    expected = [env.step(np.array([t % 3, 2]))[:2] for t in range(50)]
    other = vector_env(game, CONFIG, 2)
    other.reset(seed=9)
    for one, state in zip(other.envs, saved, strict=True):
        load_env(one, state)
    assert [save_env(one)["state"] for one in other.envs] == [state["state"] for state in saved]
    for t, (frames, rewards) in enumerate(expected):
        found = other.step(np.array([t % 3, 2]))
        np.testing.assert_array_equal(found[0], frames)
        np.testing.assert_array_equal(found[1], rewards)


def test_states_that_were_saved_before_there_was_a_light_still_load() -> None:
    env = SyntheticEnv("synthetic/opponent", CONFIG)
    env.reset(seed=0)
    env.load_state({**env.save_state(), "state": [1, 2, 0, 5]})
    assert env.save_state()["state"] == [1, 2, 0, 5, 0]


class Fixed:
    """A player that always draws one action, or any."""

    def __init__(self, action: int | None) -> None:
        self._logits = torch.zeros(3) if action is None else torch.where(torch.arange(3) == action, 0.0, -1e9)

    def initial_state(self, num_games: int) -> State:
        return ()

    def __call__(self, frames: np.ndarray, state: State) -> tuple[torch.Tensor, State]:
        return self._logits.expand(len(frames), 3), state


@GAMES
def test_there_is_something_to_learn(game: str) -> None:
    def mean_return(player: Player) -> float:
        games = play_test_games(lambda: make_env(game, CONFIG), player, 2, 2, seed=0, max_steps=500)
        return float(np.mean([one.score for one in games]))

    env, total = SyntheticEnv(game, CONFIG), 0.0
    _, info = env.reset(seed=0)
    follower = family_of(game).experts[game](np.random.default_rng(0))
    for _ in range(500):
        _, reward, _, _, info = env.step(follower(info["ram"], 0))
        total += reward
    assert total > 2 * max(mean_return(Fixed(None)), *(mean_return(Fixed(action)) for action in range(3)))


def test_frames_of_no_state_are_refused() -> None:
    frames, _, _ = played("synthetic/turn", 5)
    blurred = (frames[3] // 2 + frames[4] // 2)[None]
    for wrong, words in ((blurred, "walkers"), (frames[3:4], "2 frames"), (frames[[1, 3]], "in one step"), (frames[:, :, :15], "h, h")):
        with pytest.raises(ValueError, match=words):
            decode("synthetic/turn", wrong if words != "walkers" else np.concatenate([frames[3:4], wrong]))
    spoilt = frames[3:5].copy()
    spoilt[1, 0, 15, :] = 7
    with pytest.raises(ValueError, match="no state"):
        decode("synthetic/turn", spoilt)
    dark = played("synthetic/signal", 1)[0][:1]
    dark[:, :, 8:10, 0:2] = 0
    with pytest.raises(ValueError, match="no state"):
        decode("synthetic/signal", dark)


def heldout(game: str) -> tuple[Windows, dict[str, object]]:
    frames, actions, _ = played(game, 400)
    flags = torch.zeros(len(frames), dtype=torch.bool)
    followed = torch.from_numpy(np.append(actions, 0))
    starts, lengths = torch.zeros(1, dtype=torch.int64), torch.tensor([len(frames)])
    episodes = EpisodeSet(torch.from_numpy(frames), followed, torch.zeros(len(frames)), flags, flags, starts, lengths)
    return Windows(episodes, torch.arange(0, 390, 2), 4, 1), {"game": game, "minority_share": 0.2}


class Oracle(StandIn):
    """In place of a world model: samples of the true next frame, its mean, or its likelier mode."""

    context = 2

    def __init__(self, forks: Forks, how: str) -> None:
        super().__init__()
        self.forks, self.how, self.at = forks, how, 0

    def predict(self, past: Tensor, actions: Tensor, draw: Draw) -> Tensor:
        rows = len(past) // 4  # K = 4
        modes, p = self.forks.modes[self.at : self.at + rows], self.forks.probabilities[self.at : self.at + rows]
        self.at += rows
        modes = np.repeat(modes, 4, axis=0) / 127.5 - 1
        coin = torch.special.ndtr(draw(past[:, -1])[:, 0, 0, 0]).numpy()  # uniform
        likelier = {"truth": coin >= 0.2, "mean": np.full(len(coin), 0.8), "majority": np.ones(len(coin))}[self.how]
        assert (p[:, 0] == 0.2).all()
        weight = likelier.astype(np.float64)[:, None, None, None]
        return torch.from_numpy(modes[:, 0] * (1 - weight) + modes[:, 1] * weight).float()


@GAMES
@pytest.mark.parametrize("how", ["truth", "mean", "majority"])
def test_oracles_are_scored_from_held_out_windows_alone(game: str, how: str) -> None:
    forks = find_forks(*heldout(game))
    model = Oracle(forks, how)
    parts = []
    for rows in (range(0, 60), range(60, len(forks))):
        keys = [(0, 4, i, k) for i in rows for k in range(4)]
        frames = imagine(model, window_batch(forks.windows, rows, 1).repeated(4), keys)[:, 0].numpy()
        parts.append(measure_forks(forks, rows, frames.reshape(len(rows), 4, *frames.shape[1:]), keys))
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rows = mode_rows(arrays, THRESHOLDS)
    own = {row.metric: row.value for row in rows if not row.baseline}
    truth = {row.metric: row.value for row in rows if row.baseline}
    assert own["mode_windows"] == len(forks) > 60
    assert truth["mode_minority_share"] == pytest.approx(0.2)
    assert (truth["mode_within_16th"], truth["mode_commitment"]) == pytest.approx((1.0, 1.0))
    assert truth["mode_cramer_distance"] == pytest.approx(0.0, abs=0.02)
    if how == "truth":
        assert own["mode_minority_share"] == pytest.approx(0.2, abs=0.06)
        assert (own["mode_within_16th"], own["mode_commitment"]) == pytest.approx((1.0, 1.0), abs=0.01)
        assert own["mode_cramer_distance"] == pytest.approx(0.0, abs=0.02)
    elif how == "mean":
        assert own["mode_within_8th"] == 0
        assert own["mode_commitment"] == pytest.approx(0.0, abs=0.02)
        assert own["mode_cramer_distance"] == pytest.approx(0.16, abs=0.01)
    else:
        assert (own["mode_minority_share"], own["mode_commitment"]) == pytest.approx((0.0, 1.0), abs=0.01)
        assert own["mode_cramer_distance"] == pytest.approx(0.04, abs=0.002)
    assert arrays["modes_cramer"].shape == arrays["modes_energy"].shape == (len(forks),)
    assert own["mode_energy_distance"] == pytest.approx(arrays["modes_energy"].mean())


@GAMES
def test_what_came_next_is_one_of_the_modes(game: str) -> None:
    forks = find_forks(*heldout(game))
    came = forks.windows.frames()[:, -1].numpy()
    assert (forks.modes == came[:, None]).all(axis=(2, 3, 4)).any(axis=1).all()


def test_of_another_game_the_next_frame_is_not_known() -> None:
    windows, info = heldout("synthetic/turn")
    with pytest.raises(UserError, match="dataset is of Breakout"):
        find_forks(windows, {**info, "game": "Breakout"})


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (("games=[synthetic/trun]",), ["synthetic/trun", "did you mean synthetic/turn"]),
        (("games=[Breakout]",), ["metrics: modes", "Breakout", "synthetic/turn"]),
        (("env.frame_size=20",), ["env.frame_size=20", "multiple of 8"]),
        (("env.sticky_actions=0.25",), ["env.sticky_actions=0.25", "leave it out"]),
        (("env.max_noops=5",), ["env.max_noops=5"]),
        (("env.minority_share=0",), ["env.minority_share=0.0", "above 0"]),
        (("env.minority_share=0.6",), ["env.minority_share=0.6", "between 0.0 and 0.5"]),
        (("data.reference_context=1", "conditioning.num_frames=1"), ["data.reference_context=1", "2 frames"]),
        (("games=[Breakout]", "metrics=[drift]", "env.minority_share=0.3"), ["env.minority_share=0.3", "Breakout has none"]),
    ],
)
def test_what_does_not_fit_is_refused_at_planning(tokens: tuple[str, ...], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        plan_study("stochastic_world", ["scale=tiny", *tokens])
    for word in words:
        assert word in str(error.value)


def test_the_study_shares_its_trainings() -> None:
    plan = plan_study("stochastic_world", ["scale=paper"])
    counts = Counter(ref.kind for ref in plan.jobs)
    games, seeds = len(plan.study.games), len(plan.study.seeds)
    assert counts["collect_dataset"] == games
    assert counts["train_world_model"] == 3 * games * seeds, "EDM's two arms are one training, and n trains nothing"
    assert counts["evaluate_world_model"] == 6 * 3 * games * seeds


_JOBS = {"collect_dataset": collect_dataset, "train_world_model": train_world_model, "evaluate_world_model": evaluate_world_model}
_JOBS |= {"train_agent": train_agent, "evaluate_agent": evaluate_agent, "play_random": play_random}


def built(plan: Plan, root: Path) -> dict[str, list[Result]]:
    """Every job of a plan, run here; results by kind."""
    found: dict[str, list[Result]] = defaultdict(list)
    for ref, spec in plan.jobs.items():
        folder = root / ref.kind / ref.id
        folder.mkdir(parents=True)
        inputs = {name: root / need.kind / need.id for name, need in spec.inputs.items()}
        found[ref.kind].append(_JOBS[ref.kind].run(spec.config, JobContext(folder, inputs=inputs)))
    return found


@pytest.mark.parametrize("game", [name if n == 0 else pytest.param(name, marks=pytest.mark.slow) for n, name in enumerate(WORLDS)])
def test_collected_trained_and_evaluated(game: str, tmp_path: Path) -> None:
    plan = plan_study("stochastic_world", ["scale=tiny", f"games=[{game}]", "sampler.num_steps=1", *_TINY, *_SHORT])
    results = built(plan, tmp_path)
    assert results["collect_dataset"][0].info["minority_share"] == 0.2
    assert len(results["evaluate_world_model"]) == 6
    for result in results["evaluate_world_model"]:
        rows = {(row.metric, row.baseline): row.value for row in result.rows}
        assert 0 < rows["mode_windows", ""] <= 12
        assert -0.5 <= rows["mode_cramer_distance", ""] <= 2
        assert rows["mode_within_16th", "true-distribution"] == 1
    with np.load(next((tmp_path / "evaluate_world_model").glob("*/arrays.npz"))) as arrays:
        windows = int(rows["mode_windows", ""])
        assert arrays["modes_distances"].shape == (windows, 3, 2)
        assert arrays["fork_episodes"].shape == arrays["modes_cramer"].shape == (windows,)
        assert (arrays["modes_spread"] > 0).all(), "the samples of a window have noise of their own"


def test_the_expert_is_the_default_policy() -> None:
    plan = plan_study("sampling_steps", ["scale=tiny", "games=[synthetic/turn]", "metrics=[drift]"])
    assert next(spec.config.data.policy for spec in plan.jobs.values() if spec.kind == "collect_dataset") == "expert"


def test_an_agent_is_trained_and_scored_in_it(tmp_path: Path) -> None:
    small = (
        "actor_critic.channels=[8]",
        "actor_critic.down=[true]",
        "network.depths=[1]",
        "network.channels=[8]",
        "network.attention=[false]",
    )
    ends = ("reward_end.depths=[1]", "reward_end.channels=[8]", "reward_end.attention=[false]", "sampler.num_steps=1")
    plan = plan_train(["game=synthetic/turn", "scale=tiny", "env.frame_size=16", *small, *ends])
    (result,) = built(plan, tmp_path)["evaluate_agent"]
    record = result.info["protocol_record"]
    assert record["environment"] == "synthetic/turn, minority share 0.2"
    assert (record["sticky_actions"], record["no_ops"], record["frame_skip"]) == (0.0, "none", 1)
    assert num_actions("synthetic/turn") == 3
    assert {row.metric for row in result.rows} == {"test_return", "test_length", "normalised_return"}
