"""The mazes: what was seen stays as it was, what was never seen is random, and the truth about both is that of the frames."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from test_worlds import Played, imagined

from diamond_bench.config import EnvConfig
from diamond_bench.envs.games import actions as actions_of
from diamond_bench.envs.games import check_env, family_of, make_env, make_policy, read_sights
from diamond_bench.envs.maze import ACTIONS, CELLS, EPISODE_STEPS, LAYOUTS, MazeEnv, Returner
from diamond_bench.envs.saves import load_env, save_env
from diamond_bench.envs.sights import NOTHING, Sights, find_gaps
from diamond_bench.errors import UserError
from diamond_bench.play.keys import key_map

GAMES = pytest.mark.parametrize("game", LAYOUTS)
CONFIG = EnvConfig(frame_size=16)
NOOP, UP, RIGHT, DOWN, LEFT = range(5)


def cells(env: MazeEnv, actions: list[int], seed: int = 0) -> np.ndarray:
    """The colours of the cells after a reset and after each action, (T + 1, 8, 8, 3)."""
    frames = [env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)]
    return np.stack(frames)[:, ::2, ::2]


def played(game: str, steps: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Sights]:
    """Cells (T + 1, 8, 8, 3), actions and sights of an episode of the scripted policy."""
    env, policy = make_env(game, CONFIG), make_policy("expert", game, np.random.default_rng(seed))
    frame, info = env.reset(seed=seed)
    frames, actions, rams = [frame], [0], [info["ram"]]
    for _ in range(steps):
        actions.append(policy(rams[-1], actions[-1]))
        frame, _, _, _, info = env.step(actions[-1])
        frames.append(frame)
        rams.append(info["ram"])
    return np.stack(frames)[:, ::2, ::2], np.array(actions[1:]), read_sights(game, np.stack(rams))


@pytest.mark.parametrize("size", [16, 64])
def test_the_window_moves_one_cell_and_cells_are_squares(size: int) -> None:
    env = MazeEnv("maze/corridor", EnvConfig(frame_size=size))
    first, side = env.reset(seed=0)[0], size // CELLS
    assert first.shape == (size, size, 3)
    assert np.array_equal(first, first[::side, ::side].repeat(side, 0).repeat(side, 1))
    second = env.step(RIGHT)[0]
    assert np.array_equal(second[:, :-side], first[:, side:])
    for blocked in (UP, DOWN, NOOP):
        assert np.array_equal(env.step(blocked)[0], second), "a corridor has one row"
    assert np.array_equal(env.step(LEFT)[0], first)
    assert np.array_equal(env.step(LEFT)[0], first), "there is nothing to the left"


def test_what_was_seen_is_remembered_and_the_rest_is_random() -> None:
    """Two games with the same past and other random numbers."""
    env, other = MazeEnv("maze/corridor", CONFIG), MazeEnv("maze/corridor", CONFIG)
    past = cells(env, [RIGHT] * 5)
    saved = env.save_state()
    other.reset(seed=9)
    other.load_state({**saved, "random": other.save_state()["random"]})
    after, different = (np.stack([one.step(RIGHT)[0] for _ in range(12)])[:, ::2, ::2] for one in (env, other))
    assert np.array_equal(after[0, :, :-1], different[0, :, :-1])
    new = (after[:, :, -1] != different[:, :, -1]).any(axis=-1)
    assert 0.3 < new.mean() < 0.7, "a new cell has either of two colours"
    for one in (env, other):
        back = np.stack([one.step(LEFT)[0] for _ in range(17)])[:, ::2, ::2]
        assert np.array_equal(back[-6:], past[::-1])


def test_a_loop_leads_back_to_what_was_seen() -> None:
    env = MazeEnv("maze/loop", CONFIG)
    ring = [RIGHT] * 4 + [DOWN] * 4 + [LEFT] * 4 + [UP] * 4
    seen = cells(env, ring + ring)
    assert np.array_equal(seen[0], seen[16])
    assert np.array_equal(seen[:17], seen[16:])
    assert len(np.unique(seen[:16].reshape(16, -1), axis=0)) == 16
    assert np.array_equal(cells(env, [RIGHT, DOWN])[1], env.step(UP)[0][::2, ::2]), "between the crossings one cannot turn"


def test_objects_pass_behind_walls_and_come_out_as_they_went_in() -> None:
    """The window stands still. In row 2 the first wall is one cell, at column 4."""
    seen = cells(MazeEnv("maze/wall", CONFIG), [NOOP] * 40)[:, 2]
    wall = np.array((96, 96, 96))
    assert (seen[:, 4] == wall).all()
    assert (seen[:, [0, 1, 2, 3, 5, 6, 7]] != wall).any(axis=-1).all()
    coloured = seen.max(axis=-1) == 224
    assert np.array_equal(coloured[1:, 1:4], coloured[:-1, :3]), "one cell to the right in each step"
    passed = [t for t in range(38) if coloured[t, 3]]
    assert len(passed) >= 7
    assert all(np.array_equal(seen[t, 3], seen[t + 2, 5]) for t in passed)
    assert len({tuple(seen[t, 3]) for t in passed}) == 2


def test_a_counter_goes_on_out_of_view() -> None:
    """The first counter is at columns 10 and 11 and rows 2 and 3, and its colours have a period of 4."""
    seen = cells(MazeEnv("maze/counter", CONFIG), [RIGHT] * 4 + [LEFT] * 5 + [RIGHT] * 5)
    watched = cells(MazeEnv("maze/counter", CONFIG), [RIGHT] * 4 + [NOOP] * 8)[4:, 2, 6]
    assert len(np.unique(watched[:4], axis=0)) == 4, "another colour in each step"
    assert np.array_equal(watched[:5], watched[4:])
    assert np.array_equal(seen[4][2:4, 6:], np.broadcast_to(watched[0], (2, 2, 3)))
    for step, column in ((3, 7), (5, 7), (12, 7), (13, 6), (14, 5)):  # out of view from step 6 to 11
        assert np.array_equal(seen[step][2, column], watched[(step - 4) % 4]), step


@GAMES
def test_a_thing_looks_the_same_wherever_and_whenever_it_is_seen(game: str) -> None:
    seen, _, sights = played(game)
    looks: dict[tuple[int, int], set[tuple[int, ...]]] = {}
    for step, (frame, things, kinds) in enumerate(zip(seen, sights.things, sights.kinds, strict=True)):
        for colour, thing, kind in zip(frame.reshape(-1, 3), things.ravel(), kinds.ravel(), strict=True):
            if thing == NOTHING:
                assert colour.max() < 128, "a wall or an empty lane"
            else:
                looks.setdefault((thing, step % 4 if sights.names[kind] == "counter" else 0), set()).add(tuple(colour))
    assert all(len(colours) == 1 for colours in looks.values())
    assert sights.guesses.tolist() == [[128 / 255] * 3] * 3


@GAMES
def test_the_scripted_policy_returns_after_gaps_of_all_lengths(game: str) -> None:
    _, actions, sights = played(game, EPISODE_STEPS)
    gaps = find_gaps(sights.things, [len(sights.things)])
    last = gaps.last[1:][gaps.last[1:] != 1]
    bins = Counter(np.ceil(np.log2(np.maximum(last, 1))).astype(int)[last > 0].tolist())
    assert all(bins[power] > 50 for power in range(1, 6)), bins
    assert (last == 0).sum() > 500, "things never seen go on to appear"
    assert set(actions.tolist()) == (set(range(5)) if game == "maze/loop" else {NOOP, RIGHT, LEFT})
    again = played(game, 100)[1]
    assert np.array_equal(again, actions[:100])


@GAMES
def test_it_finds_its_way_from_anywhere(game: str) -> None:
    rng, env = np.random.default_rng(1), make_env(game, CONFIG)
    policy, (_, info) = Returner(game, rng), env.reset(seed=1)
    for _ in range(10):
        for _ in range(30):
            _, _, _, _, info = env.step(int(rng.integers(5)))
        still, places = 0, set()
        for _ in range(90):
            action = policy(info["ram"], 0)
            before = tuple(info["ram"][:4])
            _, _, _, _, info = env.step(action)
            assert action == NOOP or tuple(info["ram"][:4]) != before, "it never walks against a wall"
            places.add(tuple(info["ram"][:4]))
            still = still + 1 if action == NOOP else 0
            assert still <= max(Returner.WAITS)
        assert len(places) > 3


def test_gaps_by_hand() -> None:
    """Two episodes of frames with one row of two cells. Thing 5 is hidden for one step and thing 7 for two."""
    things = np.array([[5, 7], [5, NOTHING], [NOTHING, NOTHING], [5, 7], [7, 5], [5, NOTHING], [5, 7]])[:, None]
    gaps = find_gaps(things, [5, 2])
    assert gaps.last[:, 0].tolist() == [[0, 0], [1, 1], [1, 1], [2, 3], [1, 1], [0, 1], [1, 0]]
    assert gaps.first[[0, 3, 4, 6], 0].tolist() == [[0, 0], [0, 0], [0, 0], [0, 1]]


@GAMES
def test_a_saved_game_goes_on_exactly_and_a_seed_decides_all(game: str) -> None:
    env, other = make_env(game, CONFIG), make_env(game, CONFIG)
    moves = np.random.default_rng(3).integers(5, size=60).tolist()
    env.reset(seed=4)
    for action in moves[:20]:
        env.step(action)
    saved = save_env(env)
    after = [env.step(action)[0] for action in moves[20:]]
    load_env(other, saved)
    assert np.array_equal([other.step(action)[0] for action in moves[20:]], after)
    assert np.array_equal(cells(env.unwrapped, moves, 4), cells(other.unwrapped, moves, 4))  # type: ignore[arg-type]
    assert not np.array_equal(cells(env.unwrapped, moves, 4), cells(other.unwrapped, moves, 5))  # type: ignore[arg-type]


def test_the_oracle_remembers_all_and_invents_the_rest() -> None:
    """It continues from the saved state. Content that the recorded play has shown is exact. Other content is drawn again."""
    play = recorded("maze/corridor", [RIGHT] * 8 + [LEFT] * 8 + [RIGHT] * 16)
    shown = imagined(play, seen=17)
    assert np.array_equal(shown[:, :8], play.frames[:, 17:25])
    assert not np.array_equal(shown[:, 8:], play.frames[:, 25:])


def recorded(game: str, actions: list[int]) -> Played:
    """Two recordings of these actions."""
    env = make_env(game, CONFIG)
    rows: list[list[Any]] = []
    for seed in range(2):
        rows.append([np.array(env.reset(seed=seed)[0]), *(np.array(env.step(action)[0]) for action in actions)])
    return Played(game, CONFIG, np.array(rows).transpose(0, 1, 4, 2, 3), np.array([actions] * 2))


def test_the_family_and_its_keys() -> None:
    family = family_of("maze/loop")
    assert set(family.names()) == set(LAYOUTS) == set(family.experts)
    assert family.random({}) is True
    assert actions_of("maze/loop").names == ACTIONS
    keys = key_map(actions_of("maze/loop"))
    assert [int(keys.action([key])) for key in ("", "ArrowUp", "ArrowRight", "ArrowDown", "ArrowLeft", "KeyW")] == [0, 1, 2, 3, 4, 1]
    with pytest.raises(UserError, match=r"env\.frame_size=20: maze/loop shows 8 x 8 cells; use a multiple of 8"):
        check_env("maze/loop", replace(CONFIG, frame_size=20))
    env = MazeEnv("maze/corridor", CONFIG)
    env.reset(seed=0)
    ends = [env.step(NOOP)[2:4] for _ in range(EPISODE_STEPS)]
    assert ends == [(False, False)] * (EPISODE_STEPS - 1) + [(False, True)]
    assert isinstance(save_env(env)["state"]["drawn"], torch.Tensor)
