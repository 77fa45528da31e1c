"""The replay: what goes in comes out, in memory and from disk; it grows after a resume; damage is found."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diamond_bench.config import EnvConfig
from diamond_bench.data.replay import REPLAY_FILE, Replay
from diamond_bench.data.replay_file import DamagedReplay
from diamond_bench.data.segments import read_segments, sample_segments
from diamond_bench.envs.games import vector_env
from diamond_bench.envs.play import Steps

SIZE = 8


def steps(number: int, count: int, done: dict[int, str], seed: int = 0) -> Steps:
    """`count` steps from step `number` of an environment; frames show the step, next frames of `done` steps 200 + step."""
    t = np.arange(number, number + count)
    rng = np.random.default_rng([seed, number])
    frames = np.empty((count, SIZE, SIZE, 3), np.uint8)
    frames[..., 0] = t[:, None, None]
    frames[..., 1] = seed
    frames[..., 2] = rng.integers(256, size=(count, SIZE, SIZE))
    following = frames.copy()
    following[..., 0] += 1
    for step in done:
        following[step - number, ..., 0] = (200 + step) % 256
    ends, truncations = (np.array([done.get(int(step)) == kind for step in t], np.bool_) for kind in ("end", "cut"))
    return Steps(frames, t % 3, t.astype(np.float32) / 2, ends, truncations, following)


def contents(replay: Replay) -> dict[str, Any]:
    """Everything a training can see of a replay, episode by episode."""
    e = replay.episodes
    rows = torch.cat([start + torch.arange(length) * e.stride for start, length in zip(e.starts.tolist(), e.lengths, strict=True)])
    columns = {name: getattr(e, name)[rows] for name in ("frames", "actions", "rewards", "terminations", "truncations")}
    return {
        **columns,
        "starts": e.starts,
        "lengths": e.lengths,
        "offsets": e.offsets,
        "finals": e.finals[: len(e)],
        "rows": torch.tensor(e.num_rows),
    }


def assert_equal(one: Replay, other: Replay) -> None:
    expected = contents(other)
    for name, column in contents(one).items():
        assert torch.equal(column, expected[name]), name


def filled(*boundaries: Path, capacity: int = 100) -> Replay:
    """Two environments; saved into each of the folders after another part."""
    replay = Replay(capacity, SIZE, num_envs=2)
    parts = [
        [(0, 0, 5, {2: "end"}), (1, 0, 5, {4: "cut"})],
        [(0, 5, 4, {}), (1, 5, 4, {6: "end", 7: "end"})],
        [(0, 9, 6, {9: "end"}), (1, 9, 6, {})],
    ]
    for number, part in enumerate(parts[: max(1, len(boundaries)) if boundaries else 3]):
        for env, first, count, done in part:
            replay.append(env, steps(first, count, done, seed=env))
        if boundaries:
            replay.save(boundaries[number])
    return replay


def test_steps_become_episodes_with_their_true_final_frames() -> None:
    e = filled().episodes
    assert e.lengths.tolist() == [3, 7, 5, 2, 1, 7, 5]
    assert e.num_rows == 30
    assert e.offsets.tolist() == [0, 3, 10, 15, 17, 18, 25]
    by_env = {0: [], 1: []}
    for episode in range(len(e)):
        rows = e.starts[episode] + torch.arange(int(e.lengths[episode])) * e.stride
        shown = e.frames[rows][:, :2, 0, 0]
        (env,) = set(shown[:, 1].tolist())
        by_env[env].append((shown[:, 0].tolist(), int(e.finals[episode, 0, 0, 0])))
        t = shown[:, 0].long()
        assert torch.equal(e.actions[rows], t % 3)
        assert torch.equal(e.rewards[rows], t.float() / 2)
        assert not (e.terminations | e.truncations)[rows][:-1].any()
    assert by_env == {
        0: [([0, 1, 2], 202), ([3, 4, 5, 6, 7, 8, 9], 209), ([10, 11, 12, 13, 14], 15)],
        1: [([0, 1, 2, 3, 4], 204), ([5, 6], 206), ([7], 207), ([8, 9, 10, 11, 12, 13, 14], 15)],
    }


def test_it_grows_past_its_capacity_and_no_row_moves() -> None:
    small, large = Replay(2, SIZE, num_envs=2), Replay(4000, SIZE, num_envs=2)
    places = torch.tensor([[0], [1]])  # of a step of either environment
    kept = None
    for number in range(120):
        for replay in (small, large):
            for env in range(2):
                replay.append(env, steps(number, 1, {number: "end"} if number % 2 == env else {}, seed=env))
        kept = read_segments(small.episodes, places).frames if kept is None else kept
    assert_equal(small, large)
    assert kept is not None
    assert torch.equal(read_segments(small.episodes, places).frames, kept)


def test_the_running_episode_counts_in_sampling() -> None:
    replay = Replay(10, SIZE)
    for number in range(4):
        replay.append(0, steps(number, 1, {number: "end"}))
    replay.append(0, steps(4, 3, {}))
    assert len(replay.episodes) == 5
    segments = sample_segments(replay.episodes, 4000, 2, torch.Generator().manual_seed(0), "recency")
    last = segments.frames[:, -1, 0, 0, 0]
    share = (last >= 4).float().mean().item()  # the newest group is episodes 3 and 4, together 0.7
    assert abs(share - 0.35) < 0.03
    assert set(last.tolist()) <= {0, 1, 2, 3, 4, 5, 6}


def test_empty_or_misshapen_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        _ = Replay(10, SIZE).episodes
    with pytest.raises(ValueError, match=r"\(n, 16, 16, 3\) uint8"):
        Replay(10, 16).append(0, steps(0, 1, {}))


def load(folder: Path, rows: int) -> Replay:
    return Replay.load(folder, rows, 100, SIZE, num_envs=2)


def test_every_saved_boundary_comes_back_exactly_and_grows_on(tmp_path: Path) -> None:
    """Fault 6: a resume drops what lies beyond its checkpoint, and the replay goes on growing."""
    whole = filled(tmp_path, tmp_path, tmp_path)
    complete = (tmp_path / REPLAY_FILE).read_bytes()
    assert_equal(load(tmp_path, 30), whole)
    resumed = load(tmp_path, 18)
    assert_equal(resumed, filled(tmp_path / "a", tmp_path / "b"))
    assert resumed.num_rows == 18
    assert_equal(load(tmp_path, 30), whole)  # loading changes nothing on disk
    for env, first, count, done in [(0, 9, 6, {9: "end"}), (1, 9, 6, {})]:
        resumed.append(env, steps(first, count, done, seed=env))
    assert_equal(resumed, whole)
    assert resumed.save(tmp_path) == 30
    assert (tmp_path / REPLAY_FILE).read_bytes() == complete
    early = load(tmp_path, 10)
    early.append(0, steps(50, 2, {}))
    early.save(tmp_path)
    assert early.num_rows == 12
    assert_equal(load(tmp_path, 12), early)
    with pytest.raises(DamagedReplay):
        load(tmp_path, 30)


def test_a_save_writes_only_what_is_new(tmp_path: Path) -> None:
    replay = filled(tmp_path)
    before = (tmp_path / REPLAY_FILE).read_bytes()
    replay.append(0, steps(5, 1, {}))
    replay.save(tmp_path)
    after = (tmp_path / REPLAY_FILE).read_bytes()
    assert after.startswith(before)
    assert len(after) > len(before)
    replay.save(tmp_path)
    assert (tmp_path / REPLAY_FILE).read_bytes() == after


def test_the_tail_of_a_killed_save_is_cut(tmp_path: Path) -> None:
    whole = filled(tmp_path, tmp_path, tmp_path)
    path = tmp_path / REPLAY_FILE
    content = path.read_bytes()
    path.write_bytes(content[:-7])
    with pytest.raises(DamagedReplay, match="ends too early") as error:
        load(tmp_path, 30)
    assert error.value.rows == 24
    replay = load(tmp_path, 18)
    for env, first, count, done in [(0, 9, 6, {9: "end"}), (1, 9, 6, {})]:
        replay.append(env, steps(first, count, done, seed=env))
    replay.save(tmp_path)
    assert path.read_bytes() == content
    assert_equal(load(tmp_path, 30), whole)


def test_every_kind_of_damage_is_found(tmp_path: Path) -> None:
    filled(tmp_path, tmp_path, tmp_path)
    path = tmp_path / REPLAY_FILE
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in [*rng.integers(len(content), size=60).tolist(), 0, 9, 15, len(content) - 1]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(DamagedReplay, match=REPLAY_FILE):
            load(tmp_path, 30)
    path.unlink()
    with pytest.raises(DamagedReplay, match="no such file"):
        load(tmp_path, 30)
    path.write_bytes(content)
    with pytest.raises(DamagedReplay, match="nothing was saved at step 17"):
        load(tmp_path, 17)
    with pytest.raises(DamagedReplay):
        Replay.load(tmp_path, 30, 100, 16, num_envs=2)


def test_a_new_replay_overwrites_the_file(tmp_path: Path) -> None:
    filled(tmp_path, tmp_path, tmp_path)
    replay = filled(tmp_path)
    assert_equal(load(tmp_path, 10), replay)


@pytest.mark.parametrize(("game", "most"), [("Breakout", 60), ("Boxing", 600)])
def test_real_frames_are_compact_and_untouched(game: str, most: int, tmp_path: Path) -> None:
    """`most` bytes a step of 12,288; as saved 100 steps at a time."""
    env, rng = vector_env(game, EnvConfig(), 1), np.random.default_rng(0)
    frame, _ = env.reset(seed=0)
    replay, seen, count = Replay(300, 64), [], 300
    for begin in range(0, count, 100):
        frames, following, actions = np.empty((100, 64, 64, 3), np.uint8), np.empty((100, 64, 64, 3), np.uint8), np.empty(100, np.int64)
        for t in range(100):
            frames[t], actions[t] = frame[0], rng.integers(4)
            frame, *_ = env.step(actions[t : t + 1])
            following[t] = frame[0]
        seen.append(frames)
        zeros = np.zeros(100, np.bool_)
        replay.append(0, Steps(frames, actions, np.zeros(100, np.float32), zeros, zeros, following))
        assert replay.save(tmp_path) == begin + 100
    stored = Replay.load(tmp_path, count, count, 64).episodes.frames.permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(stored, np.concatenate(seen))
    assert (tmp_path / REPLAY_FILE).stat().st_size / count < most
