"""Datasets on disk: lossless, readable by plain Minari, found and identified without it."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
import torch
from episode_sets import episode, episode_set

from diamond_bench.data.foreign import dataset_digest, find_dataset
from diamond_bench.data.minari_io import Episode, open_dataset, read_own_episodes, write_dataset, write_episode
from diamond_bench.data.segments import read_segments
from diamond_bench.data.static import load_info, load_split
from diamond_bench.errors import UserError
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec

DISCRETE = ActionSpec.discrete(4)


def written(folder: Path, episodes: list[Episode], actions: ActionSpec = DISCRETE) -> Path:
    files = []
    for i, one in enumerate(episodes):
        files.append(folder / f"{i}.h5")
        with h5py.File(files[-1], "w") as file:
            write_episode(file.create_group("episode"), one)
    spec = WorldSpec(FrameSpec(*episodes[0].frames.shape[1:3]), actions)
    write_dataset(folder / "train" / "data", "diamond_bench/test-train-v0", files, "episode", spec)
    return folder / "train" / "data"


def noisy_episode(seed: int, steps: int) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        frames=rng.integers(0, 256, (steps + 1, 64, 64, 3), dtype=np.uint8),
        actions=rng.integers(0, 4, steps),
        rewards=rng.normal(size=steps).astype(np.float32),
        terminated=seed % 2 == 0,
        truncated=seed % 2 == 1,
        life_losses=rng.random(steps) < 0.3,
        ram=rng.integers(0, 256, (steps + 1, 128), dtype=np.uint8),
        seed=seed,
    )


def test_what_is_read_equals_what_was_written(tmp_path: Path) -> None:
    episodes = [noisy_episode(seed, steps) for seed, steps in ((0, 70), (1, 1), (2, 33))]
    for expected, got in zip(episodes, read_own_episodes(written(tmp_path, episodes)), strict=True):
        for field in dataclasses.fields(Episode):
            if field.name != "seed":
                np.testing.assert_array_equal(getattr(got, field.name), getattr(expected, field.name))


@pytest.mark.parametrize("actions", [ActionSpec.columns((2, 5)), ActionSpec.continuous((-1.0, 0.1), (1.0, 0.3))], ids=str)
def test_other_actions_wide_frames_and_no_rewards_come_back(tmp_path: Path, actions: ActionSpec) -> None:
    space = actions.space()
    episodes = []
    for seed, steps in ((0, 5), (1, 3)):
        space.seed(seed)
        frames = np.random.default_rng(seed).integers(0, 256, (steps + 1, 24, 40, 3), dtype=np.uint8)
        taken = np.stack([space.sample() for _ in range(steps)])
        episodes.append(Episode(frames, taken, None, terminated=True, truncated=False))
    folder = written(tmp_path, episodes, actions)
    assert [str(one.rewards.dtype) for one in minari.MinariDataset(folder).iterate_episodes()] == ["float32"] * 2
    split = load_split(tmp_path, "train")
    assert split.rewards is None
    assert split.frames.shape == (10, 3, 24, 40)
    assert split.actions.shape == (10, 2)
    for one, start in zip(episodes, split.starts.tolist(), strict=True):
        steps = len(one.actions)
        np.testing.assert_array_equal(split.actions[start : start + steps], one.actions)
        assert not split.actions[start + steps].any()
    segments = read_segments(split, torch.tensor([[-1, 0, 1], [6, 7, 8]]))
    assert segments.actions.dtype == split.actions.dtype
    padded = split.actions[[0, 0, 1]] * torch.tensor([[0], [1], [1]])
    np.testing.assert_array_equal(segments.actions, torch.stack([padded, split.actions[6:9]]))


def test_plain_minari_reads_it(tmp_path: Path) -> None:
    episodes = [noisy_episode(seed, steps) for seed, steps in ((0, 70), (1, 12))]
    dataset = minari.MinariDataset(written(tmp_path, episodes))
    assert (dataset.total_episodes, dataset.total_steps, dataset.env_spec) == (2, 82, None)
    for expected, got in zip(episodes, dataset.iterate_episodes(), strict=True):
        np.testing.assert_array_equal(got.observations, expected.frames)
        np.testing.assert_array_equal(got.actions, expected.actions)
        assert got.terminations.tolist() == [False] * (len(expected.actions) - 1) + [expected.terminated]
        assert got.truncations.tolist() == [False] * (len(expected.actions) - 1) + [expected.truncated]
        assert got.infos["life_loss"].tolist() == [False, *expected.life_losses]  # type: ignore[misc]
        np.testing.assert_array_equal(got.infos["ram"], expected.ram)


def test_minari_finds_it_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made").mkdir()
    data_folder = written(tmp_path / "made", [noisy_episode(0, 5)])
    shutil.copytree(data_folder, tmp_path / "root" / "diamond_bench" / "test-train-v0" / "data")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    assert minari.load_dataset("diamond_bench/test-train-v0").total_steps == 5
    assert find_dataset("diamond_bench/test-train-v0") == (tmp_path / "root/diamond_bench/test-train-v0/data").resolve()
    with pytest.raises(UserError, match="did you mean diamond_bench/test-train-v0"):
        find_dataset("diamond_bench/test-trian-v0")
    assert minari.list_local_datasets().keys() == {"diamond_bench/test-train-v0"}


def test_game_frames_are_stored_small(tmp_path: Path) -> None:
    file = written(tmp_path, [episode(0, 250, size=64)]) / "main_data.hdf5"
    assert file.stat().st_size < 251 * 64 * 64 * 3 / 20


def test_equal_episodes_give_equal_files(tmp_path: Path) -> None:
    digests = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        digests.add(dataset_digest(written(tmp_path / name, [noisy_episode(3, 40)]), tmp_path / "cache"))
    assert len(digests) == 1


def test_a_cut_episode_is_marked_truncated() -> None:
    whole = noisy_episode(0, 20)
    cut = whole.cut(8)
    assert len(cut.frames) == len(cut.ram) == 8  # type: ignore[arg-type]
    assert len(cut.actions) == len(cut.rewards) == len(cut.life_losses) == 7  # type: ignore[arg-type]
    assert (cut.terminated, cut.truncated) == (False, True)
    assert whole.cut(21) is whole


def test_a_split_in_memory_keeps_the_final_observation(tmp_path: Path) -> None:
    written(tmp_path, [episode(0, 4), episode(1, 2), episode(2, 6)])
    loaded, expected = load_split(tmp_path, "train"), episode_set(4, 2, 6)
    for name, tensor in vars(loaded).items():
        assert torch.equal(tensor, getattr(expected, name)), name
        assert tensor.dtype == getattr(expected, name).dtype, name
    assert loaded.frames.is_contiguous()
    assert loaded.frames[4, 0, 0, 0] == 4, "the final observation"
    assert loaded.rewards[3] == 3
    assert loaded.terminations.nonzero().flatten().tolist() == [3, 13]
    assert loaded.truncations.nonzero().flatten().tolist() == [6]


def test_damage_is_one_message(tmp_path: Path) -> None:
    data_folder = written(tmp_path, [noisy_episode(0, 50)])
    file = data_folder / "main_data.hdf5"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="episode 0 cannot be read"):
        load_split(tmp_path, "train")
    (data_folder / "metadata.json").write_text("{")
    with pytest.raises(UserError, match="not the metadata of a Minari dataset"):
        load_split(tmp_path, "train")
    with pytest.raises(UserError, match="not the metadata of a Minari dataset"):
        load_split(tmp_path, "heldout")
    with pytest.raises(UserError, match=r"dataset\.json: missing or damaged"):
        load_info(tmp_path)


def test_an_environment_is_never_built(tmp_path: Path) -> None:
    data_folder = written(tmp_path, [noisy_episode(0, 5)])
    metadata = json.loads((data_folder / "metadata.json").read_text())
    del metadata["action_space"]
    metadata["env_spec"] = '{"id": "builtins:exec-v0"}'
    (data_folder / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(UserError, match="environment is never built"):
        open_dataset(data_folder)


def test_find_dataset_by_folder(tmp_path: Path) -> None:
    data_folder = written(tmp_path, [noisy_episode(0, 5)])
    assert find_dataset(str(tmp_path / "train")) == find_dataset(str(data_folder)) == data_folder.resolve()
    with pytest.raises(UserError, match=r"no dataset there: no data/metadata\.json of Minari"):
        find_dataset(str(tmp_path))


def test_a_dataset_that_is_not_there_gets_the_nearest_one_or_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    (tmp_path / "drives").mkdir()
    (tmp_path / "drives" / "one.mp4").touch()
    for name, said in (
        ("freedoom_demos", "make it with: diamond-bench datasets fetch freedoom_demos$"),
        ("freedoom_demos-50x80", "make it with: diamond-bench datasets fetch freedoom_demos --divisor N$"),
        ("freedom_demos", "did you mean freedoom_demos"),
        (f"{tmp_path}/drivse", f"no such folder; did you mean {tmp_path}/drives"),
        (f"{tmp_path}/drives/one.mp4", f"a file; name the folder that holds it: data.dataset={tmp_path}/drives$"),
        ("cartpole/random-v0", "minari download cartpole/random-v0$"),
    ):
        with pytest.raises(UserError, match=said):
            find_dataset(name)


def _nested(content: dict[str, Any]) -> str:
    return json.dumps({**content, "author": 0}).replace('"author": 0', '"author": ' + "[" * 200_000 + "]" * 200_000)


def _space(**changes: Any) -> str:
    return json.dumps({"type": "Discrete", "dtype": "int64", "start": 0, "n": 4, **changes})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: json.dumps({**c, "total_steps": math.inf}), "Infinity is no number of JSON"),
        (lambda _: "[]", "expected an object, got list"),
        (lambda c: json.dumps({**c, "total_episodes": "1"}), "total_episodes: expected a whole number from 0, got '1'"),
        (lambda c: json.dumps({**c, "total_steps": [5]}), "total_steps: expected a whole number from 0"),
        (lambda c: json.dumps({**c, "jpeg_encoding": "no"}), "jpeg_encoding: expected true or false"),
        (lambda c: json.dumps({**c, "data_format": ["hdf5"]}), "data_format: expected text"),
        (_nested, "more than 64 levels"),
        (lambda c: json.dumps({**c, "action_space": _space(n=10**9)}), "has 1000000000 actions; from 1 to 1,000"),
        (lambda c: json.dumps({**c, "action_space": _space(n=0)}), "has no actions; from 1 to 1,000"),
        (lambda c: json.dumps({**c, "action_space": _space(start="0")}), "start: expected a whole number"),
        (lambda c: json.dumps({**c, "action_space": "[" * 200_000}), "more than 64 levels"),
        (lambda c: json.dumps({**c, "action_space": {}}), "action_space: expected text"),
        (lambda c: json.dumps({**c, "observation_space": '{"type": []}'}), "type: expected text"),
        (lambda c: json.dumps({**c, "observation_space": c["observation_space"].replace("64", "1000000")}), "sides of at most 4096"),
        (lambda c: json.dumps({**c, "total_episodes": 10**9}), "has 1000000000 episodes; from 1 to 1,000,000"),
    ],
)
def test_metadata_that_claims_nonsense_is_refused_at_planning(tmp_path: Path, change: Callable[[dict[str, Any]], str], says: str) -> None:
    data_folder = written(tmp_path, [noisy_episode(0, 5)])
    content = json.loads((data_folder / "metadata.json").read_text())
    (data_folder / "metadata.json").write_text(change(content))
    with pytest.raises(UserError) as error:
        find_dataset(str(data_folder))
    assert says in str(error.value)
    assert len(str(error.value)) < 600


def test_a_pipe_in_a_dataset_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    data_folder = written(tmp_path, [noisy_episode(0, 5)])
    os.mkfifo(data_folder / "more")
    with pytest.raises(UserError, match="more: not a regular file"):
        dataset_digest(data_folder, tmp_path / "cache")
    (data_folder / "main_data.hdf5").unlink()
    os.mkfifo(data_folder / "main_data.hdf5")
    with pytest.raises(UserError, match=r"main_data\.hdf5 is missing, or not a file"):
        find_dataset(str(data_folder))


def test_digest_is_cached_by_path_size_and_time(tmp_path: Path) -> None:
    data_folder, cache = written(tmp_path, [noisy_episode(0, 5)]), tmp_path / "cache"
    first = dataset_digest(data_folder, cache)
    assert len(first) == 64
    stored = json.loads((cache / "digests.json").read_text())
    stored[str(data_folder.resolve())]["digest"] = "remembered"
    (cache / "digests.json").write_text(json.dumps(stored))
    assert dataset_digest(data_folder, cache) == "remembered"
    os.utime(data_folder / "metadata.json", (1, 1))
    assert dataset_digest(data_folder, cache) == first
    (data_folder / "metadata.json").write_text("{}")
    assert dataset_digest(data_folder, cache) != first
    (cache / "digests.json").write_text("not json")
    assert dataset_digest(data_folder, cache) != first


def test_planning_needs_neither_torch_nor_minari() -> None:
    code = "import sys; import diamond_bench.data.foreign; print({'torch', 'minari', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"
