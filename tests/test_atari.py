"""The Atari environments against the authors' recordings, and behaviours that a wrong one would not show."""

import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import ale_py
import ale_py.roms
import cv2
import numpy as np
import pytest

from diamond_bench.config import EnvConfig
from diamond_bench.envs.atari import AtariEnv, SavedState
from diamond_bench.envs.games import actions, games, num_actions, vector_env
from diamond_bench.envs.lives import LifeLossEnds
from diamond_bench.errors import UserError
from diamond_bench.spaces import ActionSpec

GOLDEN = Path(__file__).parent / "golden_atari"


@pytest.mark.parametrize(("game", "file"), [("Breakout", "atari_breakout"), ("Pong", "atari_pong"), ("Breakout", "atari_gameover")])
def test_every_step_equals_the_authors(game: str, file: str) -> None:
    golden = np.load(GOLDEN / f"{file}.npz")
    env = AtariEnv(game, EnvConfig(max_noops=0))
    frame, info = env.reset(seed=123)
    later_resets = iter(golden["obs_after_later_resets"]) if "obs_after_later_resets" in golden else iter(())
    np.testing.assert_array_equal(env.render(), golden["original_reset"])
    for t, action in enumerate(golden["action"]):
        assert frame.dtype == np.uint8
        np.testing.assert_array_equal(frame, golden["obs"][t])
        assert zlib.crc32(env.render().tobytes()) == golden["original_crc32"][t]
        assert info["lives"] == golden["lives"][t]
        if golden["reset_before_step"][t]:
            np.testing.assert_array_equal(env.reset()[0], next(later_resets))
        frame, reward, terminated, truncated, info = env.step(action)
        outcome = (reward, terminated, truncated, info["life_loss"])
        assert outcome == tuple(golden[key][t] for key in ("reward", "terminated", "truncated", "life_loss")), t
        if t in (9, 39):
            np.testing.assert_array_equal(env.render(), golden[f"original_step{t}"])
    np.testing.assert_array_equal(frame, golden["obs"][-1])


@pytest.mark.parametrize("game", ["Breakout", "Pong"])
def test_noops_equal_the_authors(game: str) -> None:
    golden = np.load(GOLDEN / f"atari_{game.lower()}.npz")
    env = AtariEnv(game, EnvConfig(max_noops=30))
    for i, seed in enumerate(range(1000, 1004)):
        frame, info = env.reset(seed=seed)
        np.testing.assert_array_equal(frame, golden["noop30_obs"][i])
        assert info["frame_number"] == golden["noop30_frames"][i]


def test_noops_are_no_ops() -> None:
    env = AtariEnv("Breakout", EnvConfig(max_noops=30))
    by_hand = AtariEnv("Breakout", EnvConfig(max_noops=0, frame_skip=1))
    counts = []
    for seed in range(4):
        frame, info = env.reset(seed=seed)
        expected, _ = by_hand.reset(seed=seed)
        for _ in range(info["frame_number"]):
            expected, *_, expected_info = by_hand.step(0)
        np.testing.assert_array_equal(frame, expected)
        np.testing.assert_array_equal(info["ram"], expected_info["ram"])
        counts.append(info["frame_number"])
    assert min(counts) >= 1
    assert len(set(counts)) > 2


def test_observation_is_the_maximum_of_the_last_two_frames_of_a_skip() -> None:
    env = AtariEnv("Pong", EnvConfig(max_noops=0))
    single = AtariEnv("Pong", EnvConfig(max_noops=0, frame_skip=1))
    env.reset(seed=0)
    single.reset(seed=0)
    differed = False
    for _ in range(60):
        env.step(3)
        screens = []
        for _ in range(4):
            single.step(3)
            screens.append(single.render())
        np.testing.assert_array_equal(env.render(), np.maximum(screens[2], screens[3]))
        differed |= not np.array_equal(screens[2], screens[3])
    assert differed


def test_rewards_are_raw() -> None:
    rng = np.random.default_rng(0)
    env = AtariEnv("MsPacman", EnvConfig())
    env.reset(seed=0)
    rewards = [env.step(int(rng.integers(env.action_space.n)))[1] for _ in range(100)]  # type: ignore[attr-defined]
    assert max(rewards) >= 10.0


def test_one_training_environment_equals_the_authors() -> None:
    golden = np.load(GOLDEN / "atari_train_env.npz")
    envs = vector_env("Breakout", EnvConfig(), 1)
    frames, _ = envs.reset(seed=123)
    finals: list[Any] = []
    for t, action in enumerate(golden["action"]):
        np.testing.assert_array_equal(frames.transpose(0, 3, 1, 2), golden["obs"][t])
        frames, reward, end, truncated, info = envs.step(action)
        assert (reward[0], end[0], truncated[0]) == (golden["reward"][t, 0], golden["end"][t, 0], golden["trunc"][t, 0])
        if end[0]:
            assert golden["life_loss"][t, 0] == (not info["final_info"]["game_over"][0])
            finals.append(info["final_obs"][0])
            assert t == golden["final_obs_step_env"][len(finals) - 1, 0]
    np.testing.assert_array_equal(frames.transpose(0, 3, 1, 2), golden["obs"][-1])
    np.testing.assert_array_equal(np.stack(finals).transpose(0, 3, 1, 2), golden["final_obs"])


def test_several_environments_equal_single_ones_up_to_the_final_observation() -> None:
    actions, config = np.random.default_rng(1).integers(0, 4, (150, 3)), EnvConfig(frame_size=32)
    together = vector_env("Breakout", config, 3)
    alone = [vector_env("Breakout", config, 1) for _ in range(3)]
    first, _ = together.reset(seed=7)
    for i, env in enumerate(alone):
        np.testing.assert_array_equal(env.reset(seed=7 + i)[0][0], first[i])
    ends = 0
    for action in actions:
        frames, rewards, ended, _, info = together.step(action)
        for i, env in enumerate(alone):
            one_frame, one_reward, one_ended, _, one_info = env.step(action[i : i + 1])
            np.testing.assert_array_equal(frames[i], one_frame[0])
            assert (rewards[i], ended[i]) == (one_reward[0], one_ended[0])
            if ended[i]:
                ends += 1
                np.testing.assert_array_equal(info["final_obs"][i], one_info["final_obs"][0])
    assert ends > 4


def test_a_lost_life_does_not_reset_the_game() -> None:
    env = LifeLossEnds(AtariEnv("Breakout", EnvConfig(max_noops=0)))
    env.reset(seed=0)
    lives = []
    while True:
        final, _, ended, _, info = env.step(1)
        if not ended:
            continue
        frame, next_info = env.reset()
        lives.append(next_info["lives"])
        if info["game_over"]:
            break
        np.testing.assert_array_equal(frame, final)
        assert next_info["frame_number"] == info["frame_number"]
    assert lives == [4, 3, 2, 1, 5]


def test_a_life_lost_after_one_was_won_is_noticed() -> None:
    env = AtariEnv("Breakout", EnvConfig(max_noops=0))
    env.reset(seed=0)
    lives = iter([6, 5, 5])
    real = env._ale

    class Lives:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def lives(self) -> int:
            return next(lives)

    env._ale = Lives()  # type: ignore[assignment]
    assert [env.step(0)[4]["life_loss"] for _ in range(3)] == [False, True, False]


def test_a_game_over_inside_a_skip_leaves_the_screens_as_they_were() -> None:
    env = AtariEnv("Pong", EnvConfig(max_noops=0))
    env.reset(seed=0)
    for _ in range(30):
        before = env.step(3)[0]
    real, frames = env._ale, []

    class OverAfterTwoFrames:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def act(self, action: Any) -> float:
            frames.append(action)
            return float(real.act(action))

        def game_over(self, with_truncation: bool = True) -> bool:
            return len(frames) >= 2

    env._ale = OverAfterTwoFrames()  # type: ignore[assignment]
    frame, _, terminated, *_ = env.step(2)
    assert terminated
    assert len(frames) == 2
    np.testing.assert_array_equal(frame, before)


def _screens_of_a_game(noops: int, actions: list[int]) -> list[Any]:
    """The screen after every emulator frame of a Breakout game; the emulator alone, without any preprocessing."""
    emulator = ale_py.ALEInterface()
    emulator.setFloat("repeat_action_probability", 0.0)
    emulator.loadROM(str(ale_py.roms.get_rom_path("breakout")))
    codes, screens = emulator.getMinimalActionSet(), []
    for _ in range(noops):
        emulator.act(0)
    for action in actions:
        for _ in range(4):
            assert not emulator.game_over()
            emulator.act(codes[action])
            screens.append(emulator.getScreenRGB())
    assert emulator.game_over()
    return screens


def test_a_game_that_ends_on_the_last_frame_of_a_skip_ends_as_the_pooling_says() -> None:
    finals, actions = {}, [int(action) for action in np.random.default_rng(150).integers(4, size=224)]
    for pooling in ("raw", "in_place"):
        env = AtariEnv("Breakout", EnvConfig(pooling=pooling))  # type: ignore[arg-type]
        _, info = env.reset(seed=150)
        noops = info["frame_number"]
        steps = [env.step(action) for action in actions]
        assert [step[2] for step in steps] == [False] * 223 + [True]
        finals[pooling] = steps[-1][0]
    screens = _screens_of_a_game(noops, actions)
    before_end, last_kept, before_last = screens[-2], screens[-5], screens[-6]  # the screen of the very last frame is never seen
    expected = {"raw": np.maximum(before_end, last_kept), "in_place": np.maximum.reduce([before_end, last_kept, before_last])}
    for pooling, final in finals.items():
        np.testing.assert_array_equal(final, cv2.resize(expected[pooling], (64, 64), interpolation=cv2.INTER_AREA))
    assert (finals["raw"] != finals["in_place"]).any()


def test_pooling_in_place_changes_no_observation_before_the_end() -> None:
    raw, in_place = (AtariEnv("Breakout", EnvConfig(frame_size=32, pooling=pooling)) for pooling in ("raw", "in_place"))  # type: ignore[arg-type]
    for _ in range(2):
        np.testing.assert_array_equal(raw.reset(seed=4)[0], in_place.reset(seed=4)[0])
        for action in np.random.default_rng(4).integers(4, size=60):
            np.testing.assert_array_equal(raw.step(action)[0], in_place.step(action)[0])


@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_a_saved_state_goes_on_exactly(sticky: float) -> None:
    config = EnvConfig(sticky_actions=sticky)
    actions = np.random.default_rng(2).integers(0, 4, 300)
    env = AtariEnv("Breakout", config)
    env.reset(seed=5)
    for action in actions[:40]:
        env.step(action)
    state = env.save_state()
    fresh = AtariEnv("Breakout", config)
    fresh.reset(seed=99)
    fresh.load_state(SavedState(bytes(state.emulator), state.frames, state.lives, state.random))
    np.testing.assert_array_equal(fresh.render(), env.render())
    games_over = 0
    for action in actions[40:]:
        expected, got = env.step(action), fresh.step(action)
        np.testing.assert_array_equal(expected[0], got[0])
        np.testing.assert_array_equal(expected[4].pop("ram"), got[4].pop("ram"))
        assert expected[1:] == got[1:]
        if expected[2]:
            games_over += 1
            np.testing.assert_array_equal(env.reset()[0], fresh.reset()[0])
    assert games_over >= 1


def test_sticky_actions_repeat() -> None:
    def play(sticky: float, seed: int) -> bytes:
        env = AtariEnv("Pong", EnvConfig(max_noops=0, sticky_actions=sticky))
        env.reset(seed=seed)
        return b"".join(env.step(2 + t % 2)[4]["ram"].tobytes() for t in range(40))

    assert play(0.0, 1) == play(0.0, 2)
    assert play(0.5, 1) != play(0.5, 2)
    assert play(0.5, 1) == play(0.5, 1)


def test_games_and_actions() -> None:
    assert {"Breakout", "Pong", "Freeway", "Boxing", "MsPacman", "UpNDown"} <= set(games())
    assert actions("Breakout") == ActionSpec.discrete(4, ("NOOP", "FIRE", "RIGHT", "LEFT"))
    assert num_actions("Boxing") == 18
    with pytest.raises(UserError, match="did you mean Breakout"):
        AtariEnv("breakuot", EnvConfig())


def test_listing_games_is_cheap() -> None:
    code = "import sys; from diamond_bench.envs import games as g; g.games(); g.num_actions('Pong'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
