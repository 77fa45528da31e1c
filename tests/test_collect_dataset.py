"""Collection: exact sizes, real games, no leaks, and the same bytes however often it is interrupted."""

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from diamond_bench.config import DataConfig, EnvConfig
from diamond_bench.data.leaks import spread_windows
from diamond_bench.data.minari_io import Episode, read_own_episodes
from diamond_bench.data.references import count_leaks, reference_windows
from diamond_bench.data.static import load_info, load_split
from diamond_bench.envs.atari import AtariEnv
from diamond_bench.envs.experts import EXPERTS
from diamond_bench.errors import UserError
from diamond_bench.jobs.collect_dataset import run
from diamond_bench.jobs.context import Interrupted, JobContext
from diamond_bench.jobs.dataset_artifact import EpisodeCache
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.store.kinds import CollectDataset

DATA = DataConfig(
    policy="random", epsilon=1.0, num_train_frames=300, num_references=5, reference_context=4, reference_horizon=26, random_start_steps=10
)
CONFIG = CollectDataset("Breakout", EnvConfig(frame_size=32), DATA)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("collected")
    run(CONFIG, JobContext(folder))
    return folder


def test_sizes_are_exact_and_the_last_episode_is_cut(collected: Path) -> None:
    train, heldout = load_split(collected, "train"), load_split(collected, "heldout")
    assert len(train.frames) == 300
    assert train.frames.shape[1:] == (3, 32, 32)
    assert train.truncations.sum() == 1
    assert train.terminations.sum() == len(train) - 1
    assert train.truncations[train.starts[-1] + train.lengths[-1] - 2]
    assert heldout.truncations[-2], "the last held-out game is cut after its last window"
    assert heldout.truncations.sum() == 1
    assert heldout.lengths[-1] % 30 == 0
    assert count_leaks(train, reference_windows(heldout, 5, 4, 26, seed=0, train=train)) == 0
    info = load_info(collected)
    assert (info.num_train_frames, info.num_heldout_frames) == (300, len(heldout.frames))
    assert info.spec == WorldSpec(FrameSpec(32, 32), ActionSpec.discrete(4, ("NOOP", "FIRE", "RIGHT", "LEFT")))
    assert sorted(path.name for path in collected.iterdir()) == ["dataset.json", "heldout", "train"]


def test_episodes_are_games_as_played(collected: Path) -> None:
    episode = next(read_own_episodes(collected / "train" / "data"))
    assert episode.life_losses is not None
    assert episode.ram is not None
    assert episode.life_losses.sum() == 5
    assert episode.terminated
    with h5py.File(collected / "train" / "data" / "main_data.hdf5") as file:
        seed = int(file["episode_0"].attrs["seed"])
    env = AtariEnv("Breakout", CONFIG.env)
    frame, info = env.reset(seed=seed)
    for t, action in enumerate(episode.actions):
        np.testing.assert_array_equal(frame, episode.frames[t])
        np.testing.assert_array_equal(info["ram"], episode.ram[t])
        frame, reward, _, _, info = env.step(int(action))
        assert (reward, info["life_loss"]) == (episode.rewards[t], episode.life_losses[t])
    np.testing.assert_array_equal(frame, episode.frames[-1])
    np.testing.assert_array_equal(info["ram"], episode.ram[-1])


def test_interrupted_twice_it_gives_the_same_bytes(collected: Path, tmp_path: Path) -> None:
    for steps in (220, 250):
        calls = iter(range(10_000))
        stopping = JobContext(tmp_path, should_stop=lambda calls=calls, steps=steps: next(calls) >= steps)  # type: ignore[misc]
        with pytest.raises(Interrupted):
            run(CONFIG, stopping)
    partial = sorted((tmp_path / "partial").glob("*.h5"))
    assert len(partial) >= 2
    partial[-1].unlink()  # as if the process had been killed before the file was renamed into place
    (tmp_path / "partial" / ".train_00009.h5.1234.tmp").write_bytes(b"half a file")
    for unfinished in (".train.tmp", "train"):
        (tmp_path / unfinished).mkdir()
    played: list[str] = []
    run(CONFIG, JobContext(tmp_path, progress=lambda done, total, text: played.append(text)))
    assert "train game 0" not in played, "finished games are not played again"
    assert content(tmp_path) == content(collected)


def test_a_damaged_game_is_played_again(collected: Path, tmp_path: Path) -> None:
    calls = iter(range(10_000))
    with pytest.raises(Interrupted):
        run(CONFIG, JobContext(tmp_path, should_stop=lambda: next(calls) >= 250))
    (tmp_path / "partial" / "train_00000.h5").write_bytes(b"damaged")
    said: list[str] = []
    run(CONFIG, JobContext(tmp_path, say=said.append))
    assert any("damaged" in line for line in said)
    assert content(tmp_path) == content(collected)


def test_killed_while_publishing_it_is_published_again(collected: Path, tmp_path: Path) -> None:
    def killed() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, JobContext(tmp_path, check_owner=killed))
    assert not (tmp_path / "train").exists()
    (tmp_path / ".train.tmp").rename(tmp_path / "train")
    played: list[str] = []
    run(CONFIG, JobContext(tmp_path, progress=lambda done, total, text: played.append(text)))
    assert played == []
    assert content(tmp_path) == content(collected)
    (tmp_path / "partial").mkdir()
    assert run(CONFIG, JobContext(tmp_path)).info == json.loads((tmp_path / "dataset.json").read_text())
    assert content(tmp_path) == content(collected)


def test_another_seed_is_another_dataset_and_splits_differ(collected: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(DATA, seed=1, num_references=1))
    run(config, JobContext(tmp_path))
    mine, other = load_split(tmp_path, "train"), load_split(collected, "train")
    assert not (mine.actions == other.actions).all()
    heldout = load_split(collected, "heldout")
    assert not (heldout.actions[:100] == other.actions[:100]).all()


def test_games_all_alike_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPERTS, "Breakout", lambda: lambda ram, last_action: 1)
    data = dataclasses.replace(DATA, policy="expert", epsilon=0.0, random_start_steps=0, num_train_frames=200)
    config = CollectDataset("Breakout", EnvConfig(frame_size=16, max_noops=0), data)
    with pytest.raises(UserError, match=r"held-out game 0 of the expert policy occurs in training.*raise data\.epsilon"):
        run(config, JobContext(tmp_path))


def test_windows_that_leak_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get, games = EpisodeCache.get, {}

    def planting(self: EpisodeCache, name: str, make):  # type: ignore[no-untyped-def]
        episode, whole = make()
        games[name] = episode
        if name == "heldout_00000":  # 40 frames of training in the second window of 30
            train: Episode = games["train_00000"]
            frames, actions = episode.frames.copy(), episode.actions.copy()
            frames[30:65], actions[30:65] = train.frames[40:75], train.actions[40:75]
            episode = dataclasses.replace(episode, frames=frames, actions=actions)
        return get(self, name, lambda: (episode, whole))

    monkeypatch.setattr(EpisodeCache, "get", planting)
    result = run(CONFIG, JobContext(tmp_path))
    assert result.info["heldout"]["refused_as_leaks"] == 1
    train, heldout = load_split(tmp_path, "train"), load_split(tmp_path, "heldout")
    assert 30 not in reference_windows(heldout, 5, 4, 26, seed=0, train=train).first.tolist()
    assert sorted(reference_windows(heldout, 5, 4, 26, seed=0, train=train).first.tolist()) == result.info["heldout"]["reference_starts"]


def test_games_shorter_than_a_window_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diamond_bench.jobs.collect_dataset.MAX_REJECTED_GAMES", 2)
    data = dataclasses.replace(DATA, num_train_frames=16, reference_horizon=1004)
    with pytest.raises(UserError, match=r"Breakout games of the random policy last about \d+ steps; a reference needs 1008 frames"):
        run(dataclasses.replace(CONFIG, data=data), JobContext(tmp_path))


def test_a_single_leftover_frame_makes_no_episode(tmp_path: Path, collected: Path) -> None:
    first = int(load_split(collected, "train").lengths[0])
    data = dataclasses.replace(DATA, num_train_frames=first + 1, num_references=1)
    run(dataclasses.replace(CONFIG, data=data), JobContext(tmp_path))
    train = load_split(tmp_path, "train")
    assert train.lengths.tolist() == [first - 1, 2]
    assert train.truncations.sum() == 2


def test_references_from_several_games(tmp_path: Path) -> None:
    data = dataclasses.replace(DATA, num_references=3, reference_horizon=11, windows_per_episode=1)
    result = run(dataclasses.replace(CONFIG, data=data), JobContext(tmp_path))
    heldout = load_split(tmp_path, "heldout")
    windows = reference_windows(heldout, 3, 4, 11, seed=0, starts=result.info["heldout"]["reference_starts"])
    assert sorted(windows.episode_numbers().tolist()) == [0, 1, 2]
    offsets = windows.first.numpy() - heldout.starts.numpy()[windows.episode_numbers()]
    assert (offsets % 15 == 0).all()
    assert offsets.any(), "not every one is the first window of its game"
    assert result.info["heldout"]["windows_per_episode"] == 1
    assert (heldout.lengths <= 4 * 15).all()


def test_spread_windows_are_one_from_each_equal_part() -> None:
    starts = list(range(0, 120, 10))
    for seed in range(20):
        drawn = spread_windows(starts, 3, (seed,))
        assert [start // 40 for start in drawn] == [0, 1, 2]
        assert spread_windows(starts, 3, (seed,)) == drawn
    assert spread_windows(starts[:2], 3, (0,)) == starts[:2]
    assert spread_windows(starts, None, (0,)) == starts


def test_spread_windows_that_do_not_divide_evenly_are_all_different() -> None:
    starts, first = [0, 10, 20, 30, 40], set[int]()
    for seed in range(50):
        drawn = spread_windows(starts, 4, (0, seed))
        assert drawn in ([0, 10, 20, 30], [0, 10, 20, 40]), "stretches of 1, 1, 1 and 2 starts"
        of_seven = spread_windows(range(7), 3, (0, seed))
        assert [of_seven[0] in (0, 1), of_seven[1] in (2, 3), of_seven[2] in (4, 5, 6)] == [True] * 3
        first |= {drawn[-1], *of_seven}
    assert first == {30, 40, *range(7)}, "each start of a stretch is drawn for some seed"
