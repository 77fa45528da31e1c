"""A dataset that names sets of its episodes, and has neither rewards nor ends."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from diamond_bench.config import DataConfig, EnvConfig
from diamond_bench.data.foreign import dataset_digest, heldout_set
from diamond_bench.data.foreign_lengths import check_length
from diamond_bench.data.minari_io import Episode, write_dataset, write_episode
from diamond_bench.data.references import reference_windows
from diamond_bench.data.static import load_info, load_split
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import JobContext
from diamond_bench.jobs.import_dataset import run
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.store.kinds import ImportDataset
from diamond_bench.studies.cells import dataset_job
from diamond_bench.studies.check import check_run
from diamond_bench.studies.plan import run_config

SPEC = WorldSpec(FrameSpec(18, 30), ActionSpec.columns((3, 4), ("keys", "turn")), rewards=False, ends=False)
LENGTHS = (30, 41, 17, 25, 33, 21)
SETS = {"train": [4, 1], "heldout": [0, 5], "out_of_map": [3]}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def dataset(folder: Path, sets: dict[str, Any] | None = None) -> Path:
    """Episode i has LENGTHS[i] frames, whose red is i and whose green counts."""
    files = []
    for number, length in enumerate(LENGTHS):
        frames = np.zeros((length, 18, 30, 3), np.uint8)
        frames[..., 0], frames[..., 1] = number, np.arange(length).reshape(-1, 1, 1)
        actions = np.random.default_rng(number).integers(0, 3, (length - 1, 2))
        files.append(folder.with_name(f"{folder.name}-{number}.h5"))
        with h5py.File(files[-1], "w") as file:
            write_episode(file.create_group("episode"), Episode(frames, actions, None, terminated=False, truncated=True))
    write_dataset(
        folder / "data", "wide", files, "episode", SPEC, {"action_names": ["keys", "turn"], **({} if sets is None else {"sets": sets})}
    )
    return folder


def settings(source: Path, **more: Any) -> ImportDataset:
    data = {"num_train_frames": 60, "num_references": 3, "reference_context": 4, "reference_horizon": 6, "seed": 3}
    config = DataConfig(dataset=str(source), **{**data, **more})
    return ImportDataset(dataset_digest(source / "data", source / "cache"), EnvConfig(frame_size=16), config)


def imported(source: Path, job: Path, **more: Any) -> Path:
    job.mkdir()
    run(settings(source, **more), JobContext(job))
    return job


def episodes_of(job: Path, split: str) -> set[int]:
    return set(load_split(job, split).frames[:, 0, 0, 0].tolist())  # type: ignore[arg-type]


def test_only_the_named_sets_are_used(tmp_path: Path) -> None:
    source = dataset(tmp_path / "source", SETS)
    for heldout, references in (("heldout", 4), ("out_of_map", 2)):
        job = imported(source, tmp_path / heldout, heldout=heldout, num_references=references)
        assert episodes_of(job, "train") == {1, 4}
        assert episodes_of(job, "heldout") == set(SETS[heldout])
        info = load_info(job)
        assert info.content["heldout"]["set"] == heldout
        assert info.num_train_frames == 60
        starts = info.content["heldout"]["reference_starts"]
        windows = reference_windows(load_split(job, "heldout"), references, 4, 6, seed=0, starts=starts)
        assert len(windows.episode_numbers()) == references
    with pytest.raises(UserError, match=r"the 2 episodes of the set heldout hold 5 usable held-out windows of 10 frames, but 6 are"):
        imported(source, tmp_path / "refused", heldout="heldout", num_references=6)


def test_nothing_is_invented(tmp_path: Path) -> None:
    job = imported(dataset(tmp_path / "source"), tmp_path / "job")
    assert load_info(job).spec == WorldSpec(FrameSpec(16, 16), SPEC.actions, rewards=False, ends=False)
    assert load_split(job, "train").rewards is None


def test_rewards_that_contradict_the_metadata_are_refused(tmp_path: Path) -> None:
    source = dataset(tmp_path / "source")
    with h5py.File(source / "data" / "main_data.hdf5", "r+") as file:
        file["episode_2/rewards"][3] = 0.5
    with pytest.raises(UserError, match=r"episode 2: its rewards are .* such as 0.5 at step 3; expected NaN, since metadata.json says"):
        imported(source, tmp_path / "job")


def test_a_plan_names_the_set(tmp_path: Path) -> None:
    source = dataset(tmp_path / "source", SETS)

    def planned(*tokens: str) -> Any:
        config = run_config({"scale": "tiny"}, {"data.dataset": str(source), **dict(token.split("=") for token in tokens)})
        return dataset_job(config)

    default, explicit, other = planned(), planned("data.heldout=heldout"), planned("data.heldout=out_of_map")
    assert default.ref == explicit.ref != other.ref


@pytest.mark.parametrize(
    ("sets", "wanted", "message"),
    [
        (SETS, "out_of_mop", "data.heldout=out_of_mop: .* has no such set of held-out episodes .did you mean out_of_map?"),
        (SETS, "train", "data.heldout=train: .* has no such set of held-out episodes .valid: heldout, out_of_map"),
        (None, "heldout", "data.heldout=heldout: .* names no sets of episodes; leave data.heldout out"),
        ({"heldout": [1]}, None, "its sets of episodes are heldout; expected train and at least one other"),
        ({"train": [1], "heldout": [2, 1]}, None, "its sets name an episode twice, or one that is not there .0 to 5"),
        ({"train": [1], "heldout": [6]}, None, "its sets name an episode twice, or one that is not there .0 to 5"),
        ({"train": [1], "heldout": []}, None, "expected .* of at least 1|at least 1|from 1"),
        ({"train": 1, "heldout": [2]}, None, "sets.train: expected a list"),
    ],
)
def test_a_set_that_is_not_there_is_refused(tmp_path: Path, sets: Any, wanted: str | None, message: str) -> None:
    source = dataset(tmp_path / "source")
    file = source / "data" / "metadata.json"
    if sets is not None:
        file.write_text(json.dumps({**json.loads(file.read_text()), "sets": sets}))
    with pytest.raises(UserError, match=message):
        heldout_set(source / "data", wanted)


def test_a_set_that_is_too_short_is_refused_at_planning(tmp_path: Path) -> None:
    data = dataset(tmp_path / "source", SETS) / "data"
    check_length(data, 5, 10, None, "heldout")
    with pytest.raises(UserError, match=r"The 2 of the set heldout hold at most 5 windows of 10 frames"):
        check_length(data, 6, 10, None, "heldout")
    check_length(data, 2, 10, None, "out_of_map")


@pytest.mark.parametrize(
    ("reads", "rewards", "words"),
    [("last", False, "has no rewards and no ends; use network.heads.reads=none"), ("frames", True, "square frames and Discrete actions")],
)
def test_heads_that_cannot_learn_from_a_dataset_are_refused_at_planning(
    reads: str, rewards: bool, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SPEC", replace(SPEC, rewards=rewards))
    source = dataset(tmp_path / "source")
    with pytest.raises(UserError, match=rf"network\.heads\.reads={reads}: .*{words}"):
        check_run(run_config({"scale": "tiny"}, {"data.dataset": str(source), "network.heads.reads": reads}))
