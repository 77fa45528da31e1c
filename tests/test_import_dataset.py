"""Somebody's Minari dataset becomes the same artifact, or is refused in one message."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import MinariStorage

from diamond_bench.config import DataConfig, EnvConfig
from diamond_bench.data.foreign import dataset_digest
from diamond_bench.data.references import count_leaks, reference_windows
from diamond_bench.data.static import load_info, load_split
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import Interrupted, JobContext
from diamond_bench.jobs.import_dataset import run
from diamond_bench.studies.kinds import ImportDataset

LENGTHS = (30, 45, 12, 60, 33, 21)


def foreign(
    folder: Path,
    shape: tuple[int, ...] = (48, 40, 3),
    lengths: tuple[int, ...] = LENGTHS,
    action_space: spaces.Space[Any] | None = None,
    observation_space: spaces.Space[Any] | None = None,
    change: Any = None,
) -> Path:
    """A dataset written by Minari itself, lossless; episode i is drawn from seed i. Returns its folder."""
    storage = MinariStorage.new(
        data_path=_made(folder / "data"),
        observation_space=observation_space or spaces.Box(0, 255, shape, np.uint8),
        action_space=action_space or spaces.Discrete(5, start=2),
        jpeg_encoding=False,
    )
    episodes = []
    for i, steps in enumerate(lengths):
        rng = np.random.default_rng(i)
        episode: dict[str, Any] = {
            "observations": list(rng.integers(0, 256, (steps + 1, *shape), dtype=np.uint8)),
            "actions": list(rng.integers(2, 7, steps)),
            "rewards": list(rng.normal(size=steps)),
            "terminations": [False] * (steps - 1) + [i % 2 == 0],
            "truncations": [False] * (steps - 1) + [i % 2 == 1],
        }
        if change is not None:
            change(i, episode)
        episodes.append(EpisodeBuffer(id=None, seed=None, **episode))
    storage.update_episodes(episodes)
    return folder


def _made(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder


def config(source: Path, **data: Any) -> ImportDataset:
    defaults = {"num_train_frames": 90, "num_references": 5, "reference_context": 4, "reference_horizon": 11, "seed": 3}
    digest = dataset_digest(source / "data", source / "cache")
    return ImportDataset(digest, EnvConfig(frame_size=16), DataConfig(dataset=str(source), **{**defaults, **data}))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("shape", [(48, 40, 3), (3, 48, 40), (48, 40), (48, 40, 1), (1, 48, 40), (16, 16, 3)])
def test_images_of_every_layout_become_square_rgb(tmp_path: Path, shape: tuple[int, ...]) -> None:
    source = foreign(tmp_path / "source", shape)
    (tmp_path / "job").mkdir()
    run(config(source), JobContext(tmp_path / "job"))
    train, heldout = load_split(tmp_path / "job", "train"), load_split(tmp_path / "job", "heldout")
    assert train.frames.shape == (90, 3, 16, 16)
    order = np.random.default_rng(3).permutation(6).tolist()
    assert heldout.lengths.tolist() == [LENGTHS[i] + 1 for i in order[: len(heldout)]]
    for part, indices in ((heldout, order), (train, order[len(heldout) :])):
        for k in range(len(part)):
            rng = np.random.default_rng(indices[k])
            steps = LENGTHS[indices[k]]
            frames = rng.integers(0, 256, (steps + 1, *shape), dtype=np.uint8)
            actions, start, rows = rng.integers(2, 7, steps), int(part.starts[k]), int(part.lengths[k])
            np.testing.assert_array_equal(part.actions[start : start + rows - 1], actions[: rows - 1] - 2)
            for t in (0, rows - 1):
                picture = frames[t].transpose(1, 2, 0) if shape[0] in (1, 3) else frames[t]
                expected = cv2.resize(np.ascontiguousarray(picture), (16, 16), interpolation=cv2.INTER_AREA)
                rgb = np.broadcast_to(expected.reshape(16, 16, -1), (16, 16, 3)).transpose(2, 0, 1)
                np.testing.assert_array_equal(part.frames[start + t], rgb)
    assert bool(train.truncations[-2]), "the last training episode is cut"
    info = load_info(tmp_path / "job")
    assert (info.num_actions, info.action_meanings) == (5, None)
    assert count_leaks(train, reference_windows(heldout, 5, 4, 11, seed=0, train=train)) == 0


def test_interrupted_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    source = foreign(tmp_path / "source")
    folders = [tmp_path / "straight", tmp_path / "resumed"]
    for folder in folders:
        folder.mkdir()
    run(config(source), JobContext(folders[0]))
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        run(config(source), JobContext(folders[1], should_stop=lambda: next(calls) >= 3))
    assert len(list((folders[1] / "partial").glob("*.h5"))) == 3
    run(config(source), JobContext(folders[1]))
    read = [{p.relative_to(f).as_posix(): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders]
    assert read[0] == read[1]


def test_references_from_several_episodes(tmp_path: Path) -> None:
    source = foreign(tmp_path / "source")
    (tmp_path / "job").mkdir()
    result = run(config(source, num_references=3, windows_per_episode=1, reference_horizon=7), JobContext(tmp_path / "job"))
    heldout = load_split(tmp_path / "job", "heldout")
    windows = reference_windows(heldout, 3, 4, 7, seed=0, starts=result.info["heldout"]["reference_starts"])
    assert sorted(windows.episode_numbers().tolist()) == [0, 1, 2]


def repeat(i: int, episode: dict[str, Any]) -> None:
    if i == 4:
        rng = np.random.default_rng(1)
        episode["observations"] = list(rng.integers(0, 256, (46, 48, 40, 3), dtype=np.uint8))
        episode["actions"] = list(rng.integers(2, 7, 45))
        episode.update(rewards=[0.0] * 45, terminations=[False] * 45, truncations=[False] * 44 + [True])


def contained(i: int, episode: dict[str, Any]) -> None:
    if i in (0, 5):  # episode 5 is the end of episode 0
        rng = np.random.default_rng(100)
        frames, actions = rng.integers(0, 256, (31, 48, 40, 3), dtype=np.uint8), rng.integers(2, 7, 30)
        skipped = 0 if i == 0 else 9
        episode["observations"], episode["actions"] = list(frames[skipped:]), list(actions[skipped:])


def goes_on(i: int, episode: dict[str, Any]) -> None:
    episode["terminations"][5] = True


def outside(i: int, episode: dict[str, Any]) -> None:
    episode["actions"][0] = 7


def one_short(i: int, episode: dict[str, Any]) -> None:
    episode["observations"].pop()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"change": repeat}, "episodes 1 and 4 are the same"),
        ({"change": goes_on}, "episode 0 goes on after its end at step 5"),
        ({"change": outside}, "actions outside its action space"),
        ({"change": one_short}, "30 observations and 30 rewards for 30 actions; expected one observation more"),
        ({"action_space": spaces.MultiDiscrete([3, 3])}, "only discrete actions"),
        ({"observation_space": spaces.Box(0, 1, (4,), np.float32)}, "expected uint8 images"),
        ({"shape": (48, 40, 4)}, "expected uint8 images"),
        ({"lengths": (100,)}, "1 episodes hold 0 usable held-out windows"),
        (
            {"lengths": (14, 15, 16, 17)},
            "hold 3 usable held-out windows of 15 frames beside at least one episode to train on, 5 are",
        ),
    ],
)
def test_what_cannot_be_imported_is_refused(tmp_path: Path, made: dict[str, Any], message: str) -> None:
    source = foreign(tmp_path / "source", **made)
    (tmp_path / "job").mkdir()
    with pytest.raises(UserError, match=message):
        run(config(source), JobContext(tmp_path / "job"))
    assert not (tmp_path / "job" / "dataset.json").exists()


@pytest.mark.parametrize(("seed", "refused"), [(0, True), (1, False)])
def test_a_part_of_another_episode_is_never_held_out_from_it(tmp_path: Path, seed: int, refused: bool) -> None:
    source = foreign(tmp_path / "source", change=contained, lengths=(30, 45, 12, 60, 33, 21))
    (tmp_path / "job").mkdir()
    planned = config(source, seed=seed, num_train_frames=1000)
    if refused:
        with pytest.raises(UserError, match="episode_00005 of the dataset occurs as a part of another episode"):
            run(planned, JobContext(tmp_path / "job"))
        return
    run(planned, JobContext(tmp_path / "job"))
    train, heldout = load_split(tmp_path / "job", "train"), load_split(tmp_path / "job", "heldout")
    assert count_leaks(train, reference_windows(heldout, 5, 4, 11, seed=0, train=train)) == 0


def test_damage_and_change_are_refused(tmp_path: Path) -> None:
    source = foreign(tmp_path / "source")
    planned = config(source)
    file = source / "data" / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:5000])
    (tmp_path / "job").mkdir()
    with pytest.raises(UserError, match="has changed since"):
        run(planned, JobContext(tmp_path / "job"))
    with pytest.raises(UserError, match="cannot be read"):
        run(config(source), JobContext(tmp_path / "job"))
