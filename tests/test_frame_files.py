"""HDF5 files of frames in the layout of Pearce and Zhu: read, split by name, linked, written, and refused."""

import os
import re
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import pytest
import torch
from command_line import in_this_process
from test_import_dataset import foreign
from test_sources import CONFIG, TRAINING, built

from diamond_bench.config import DataConfig, EnvConfig
from diamond_bench.data import frame_writer
from diamond_bench.data.foreign import dataset_digest, find_dataset
from diamond_bench.data.foreign_lengths import check_length
from diamond_bench.data.frame_actions import NAMES, Mapped, decode, encode
from diamond_bench.data.frame_files import find_places, lengths, read_frames
from diamond_bench.data.linked import INDEX
from diamond_bench.data.segments import segment_places, tensors_of
from diamond_bench.data.sources import content_digest, load_rows, open_source
from diamond_bench.data.static import load_info, load_split
from diamond_bench.envs.first_person import ACTIONS, MOUSE_X, MOUSE_Y
from diamond_bench.errors import UserError
from diamond_bench.jobs import extract_clip_features, extract_features, train_world_model
from diamond_bench.jobs.context import Interrupted, JobContext
from diamond_bench.jobs.import_dataset import run
from diamond_bench.launch.attempt import run_job
from diamond_bench.metrics import perceptual
from diamond_bench.metrics.perceptual import LearnedMetric
from diamond_bench.spaces import ActionSpec
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobSpec
from diamond_bench.store.kinds import ExtractClipFeatures, ExtractFeatures, ImportDataset
from diamond_bench.stored import datasets as stored_datasets
from diamond_bench.studies.plan import plan_study

SIDES = (30, 56)
COUNT = 12
"""Frames of a file. One has 1,000 in the published data."""
CPU = torch.device("cpu")


def actions_of(number: int, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Columns of random actions."""
    dice = np.random.default_rng((number, 1))
    return np.stack([dice.integers(0, size, count) for size in ACTIONS.sizes], axis=1)


def frames_of(number: int, count: int, sides: tuple[int, int] = SIDES) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Random RGB frames."""
    return np.random.default_rng((number, 2)).integers(0, 256, (count, *sides, 3), np.uint8)


def write_file(path: Path, number: int, count: int = COUNT, sides: tuple[int, int] = SIDES) -> None:
    """A file of random play, written as the published ones: one contiguous array per key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for i, (frame, action) in enumerate(zip(frames_of(number, count, sides), encode(actions_of(number, count)), strict=True)):
            file[f"frame_{i}_x"], file[f"frame_{i}_y"] = frame[..., ::-1], action


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten files in two folders; file 10 sorts after file 9."""
    folder = tmp_path_factory.mktemp("files")
    for number in range(1, 11):
        write_file(folder / ("1-5" if number <= 5 else "6-10") / f"hdf5_dm_{number}.hdf5", number)
    return folder


@pytest.fixture
def source(files: Path, tmp_path: Path) -> Path:
    """Copies of the files, which a test may change."""
    return shutil.copytree(files, tmp_path / "source")


def config(source: Path, height: int = 30, width: int = 56, **data: Any) -> ImportDataset:
    defaults = {"num_train_frames": 35, "num_references": 3, "reference_context": 2, "reference_horizon": 4, "seed": 1}
    env = EnvConfig(frame_height=height, frame_width=width)
    return ImportDataset(dataset_digest(find_dataset(str(source))), env, DataConfig(dataset=str(source), **{**defaults, **data}))


def imported(folder: Path, source: Path, **settings: Any) -> Path:
    folder.mkdir()
    run(config(source, **settings), JobContext(folder))
    return folder


def test_the_vector_of_51_numbers_is_the_published_one() -> None:
    vector = np.zeros((1, 51))
    vector[0, [0, 4, 12, 13 + 15, 36 + 4]] = 1  # w and space, right click, mouse x 20, mouse y -10
    columns = decode(vector, "file")
    assert dict(zip(NAMES, columns[0].tolist(), strict=True)) == {
        **dict.fromkeys(NAMES, 0), "forward": 1, "jump": 1, "alt_fire": 1, "mouse_x": 15, "mouse_y": 4
    }  # fmt: skip
    np.testing.assert_array_equal(encode(columns), vector)
    assert ACTIONS.width == 51 + 13, "a key or click is two one-hot numbers of a MultiDiscrete column"


def test_frames_actions_and_the_named_split_are_read(source: Path, tmp_path: Path) -> None:
    (source / "test_split.txt").write_text("hdf5_dm_10.hdf5\nhdf5_dm_3.hdf5\nhdf5_dm_7.hdf5")
    job = imported(tmp_path / "job", source)
    info = load_info(job)
    assert (info.spec.actions, info.spec.frames.sides, info.spec.rewards, info.spec.ends) == (ACTIONS, SIDES, False, False)
    order = [i + 1 for i in np.random.default_rng(1).permutation(10).tolist()]
    kept = [number for number in order if number not in (3, 7, 10)][:3]
    train, heldout = load_split(job, "train"), load_split(job, "heldout")
    assert train.lengths.tolist() == [12, 12, 11]
    assert heldout.lengths.tolist() == [12, 12], "two windows each, three are needed"
    assert train.rewards is None
    for part, numbers in ((train, kept), (heldout, [number for number in order if number in (3, 7, 10)][:2])):
        for start, length, number in zip(part.starts.tolist(), part.lengths.tolist(), numbers, strict=True):
            frames = torch.from_numpy(frames_of(number, COUNT)).permute(0, 3, 1, 2)
            assert torch.equal(part.frames[start : start + length], frames[:length])
            actions = torch.from_numpy(actions_of(number, COUNT))
            assert torch.equal(part.actions[start : start + length - 1], actions[: length - 1])


def test_frames_are_resized_by_area_and_squeezed_if_no_width_is_set(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    run(replace(config(source), env=EnvConfig(frame_size=16)), JobContext(folder))
    number = 1 + np.random.default_rng(1).permutation(10).tolist()[0]
    expected = cv2.resize(frames_of(number, COUNT)[5], (16, 16), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(load_split(folder, "heldout").frames[5].permute(1, 2, 0), expected)


def test_linked_frames_are_those_of_a_copy_and_take_no_disk(source: Path, tmp_path: Path) -> None:
    (source / "test_split.txt").write_text("hdf5_dm_3.hdf5\nhdf5_dm_7.hdf5")
    for name, settings in (("same", {}), ("smaller", {"height": 16, "width": 18})):
        copy = imported(tmp_path / f"{name}-copy", source, **settings)
        linked = imported(tmp_path / f"{name}-linked", source, link_frames=True, **settings)
        assert sorted(path.name for path in (linked / "train").rglob("*")) == ["linked.json", "linked.npz"]
        assert (linked / "dataset.json").read_bytes() == (copy / "dataset.json").read_bytes()
        assert (linked / "heldout/data/main_data.hdf5").read_bytes() == (copy / "heldout/data/main_data.hdf5").read_bytes()
        whole = vars(load_rows(copy / "train"))
        assert all(torch.equal(tensor, whole[key]) for key, tensor in vars(load_rows(linked / "train")).items() if tensor is not None)
        sources = [open_source(kind, folder / "train", CPU) for kind in ("memory", "streamed") for folder in (copy, linked)]
        assert len({content_digest(opened) for opened in sources}) == 1
        places = segment_places(sources[0], 40, 5, torch.Generator().manual_seed(1))
        first, *others = [tensors_of(opened.read(places)) for opened in sources]
        for other in others:
            assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(first, other, strict=True))
        for opened in sources:
            opened.close()
        for folder in (copy, linked):
            for readers in (0, 1):
                with closing(open_source("streamed", folder / "train", CPU, readers)) as opened:
                    assert opened.reads_ahead == (readers > 0)


def train(folder: Path, dataset: Path, readers: int, should_stop: Callable[[], bool] = lambda: False) -> None:
    folder.mkdir(exist_ok=True)
    settings = replace(TRAINING, segments="streamed", readers=readers, checkpoint_every=2)
    context = JobContext(folder, {"dataset": dataset}, should_stop=should_stop, say=lambda text: None)
    train_world_model.run(replace(CONFIG, training=settings), context)


def killed_after(calls: int) -> Callable[[], bool]:
    """Kills the process where it is asked for the given time whether it should stop."""
    left = iter(range(calls))

    def ask() -> bool:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    return ask


def test_batches_are_equal_with_any_number_of_readers_and_across_a_kill(source: Path, tmp_path: Path) -> None:
    datasets = {
        linked: imported(tmp_path / f"linked-{linked}", source, height=16, width=16, link_frames=linked) for linked in (True, False)
    }
    train(tmp_path / "whole", datasets[False], 0)
    for number, (linked, readers, then) in enumerate(((True, 0, 4), (True, 4, 1))):
        folder = tmp_path / f"killed-{number}"
        child = os.fork()
        if child == 0:
            try:
                train(folder, datasets[linked], readers, killed_after(3))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        assert list((folder / "checkpoint").iterdir()), "a checkpoint was to be written before the kill"
        train(folder, datasets[linked], then)
        assert built(folder) == built(tmp_path / "whole")


def test_features_of_linked_frames_are_those_of_a_copy_and_read_no_other_frames(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = LearnedMetric(lambda pictures: pictures.flatten(1)[:, :8].float(), "a" * 64)
    monkeypatch.setattr(perceptual, "inception_features", lambda device: network)
    monkeypatch.setattr(perceptual, "i3d_features", lambda device: network)
    read: list[int] = []
    monkeypatch.setattr("diamond_bench.data.linked.read_frames", lambda *of: read.append(len(of[2])) or read_frames(*of))  # type: ignore[func-returns-value]
    datasets = [imported(tmp_path / f"linked-{link}", source, link_frames=link) for link in (True, False)]
    for name, job, making, frames in (
        ("features.npz", extract_features, ExtractFeatures(seed=0, num_trajectories=3, horizon=4, num_images=10), 10),
        ("clip_features.npz", extract_clip_features, ExtractClipFeatures(seed=0, num_clips=3, clip_frames=3), 9),
    ):
        read.clear()
        written = []
        for i, dataset in enumerate(datasets):
            folder = tmp_path / f"{i}-{name}"
            folder.mkdir()
            job.run(making, JobContext(folder, {"dataset": dataset}))  # type: ignore[attr-defined]
            written.append((folder / name).read_bytes())
        assert sum(read) == frames, "of 35 training frames"
        assert written[0] == written[1]


def test_linked_files_that_changed_are_refused(source: Path, tmp_path: Path) -> None:
    split = imported(tmp_path / "job", source, link_frames=True) / "train"
    os.utime(source / "1-5/hdf5_dm_1.hdf5", (0, 0))
    open_source("streamed", split, CPU).close()  # only the time differs
    (source / "1-5/hdf5_dm_1.hdf5").rename(source / "1-5/hdf5_dm_11.hdf5")
    with pytest.raises(UserError, match=r"source is missing, or has changed since it was imported with data\.link_frames=true"):
        open_source("memory", split, CPU)
    (split / INDEX).write_text("{}")
    with pytest.raises(UserError, match=r"linked\.json: missing or damaged"):
        open_source("streamed", split, CPU)


def test_an_import_that_was_stopped_goes_on_and_reads_only_what_it_needs(source: Path, tmp_path: Path) -> None:
    (source / "test_split.txt").write_text("hdf5_dm_10.hdf5\nhdf5_dm_3.hdf5\nhdf5_dm_7.hdf5\n")
    whole, folder = imported(tmp_path / "whole", source, link_frames=True), tmp_path / "job"
    folder.mkdir()
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        run(config(source, link_frames=True), JobContext(folder, should_stop=lambda: next(calls) >= 3))
    kept = sorted(path.name for path in (folder / "partial").iterdir())
    assert len(kept) == 3
    assert all(name.startswith("linked_") for name in kept)
    run(config(source, link_frames=True), JobContext(folder))
    for name in ("train/linked.npz", "heldout/data/main_data.hdf5", "dataset.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


# Virtual arrays


def write_virtual(path: Path, count: int, sides: tuple[int, int] = SIDES) -> None:
    """A file whose frames and actions are rows of two arrays, in turn."""
    rows = 3
    with h5py.File(path, "w") as file:
        file["pictures"], file["choices"] = frames_of(0, rows, sides)[..., ::-1], encode(actions_of(0, rows))
        for i in range(count):
            for key, name in (("x", "pictures"), ("y", "choices")):
                layout = h5py.VirtualLayout(file[name].shape[1:], file[name].dtype)
                layout[...] = h5py.VirtualSource(".", name, file[name].shape, file[name].dtype)[i % rows]
                file.create_virtual_dataset(f"frame_{i}_{key}", layout)


def test_rows_of_an_array_of_the_same_file_may_stand_in_for_frames(tmp_path: Path) -> None:
    write_virtual(tmp_path / "a_1.hdf5", 7)
    places = find_places(tmp_path / "a_1.hdf5")
    step = SIDES[0] * SIDES[1] * 3
    assert (places.frames - places.frames[0]).tolist() == [i % 3 * step for i in range(7)]
    assert (places.actions - places.actions[0]).tolist() == [i % 3 * 51 * 8 for i in range(7)]


def test_a_user_block_before_the_file_moves_the_places(tmp_path: Path) -> None:
    for block in (0, 512):
        with h5py.File(tmp_path / f"a_{block}.hdf5", "w", userblock_size=block) as file:
            for i in range(2):
                file[f"frame_{i}_x"], file[f"frame_{i}_y"] = np.full((2, 2, 3), 100 + i, np.uint8), encode(actions_of(0, 1))[0]
        places = find_places(tmp_path / f"a_{block}.hdf5")
        data = (tmp_path / f"a_{block}.hdf5").read_bytes()
        assert [data[offset : offset + 12] for offset in places.frames] == [bytes([100 + i]) * 12 for i in range(2)]


# Refusals


def edited(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return edit


def changed(key: str, data: Any, **options: Any) -> Callable[[Path], None]:
    def change(file: h5py.File) -> None:
        del file[key]
        file.create_dataset(key, data=data, **options)

    return edited(change)


def linked_to(link: Any) -> Callable[[Path], None]:
    def change(file: h5py.File) -> None:
        del file["frame_3_x"]
        file["frame_3_x"] = link

    return edited(change)


def outside(path: Path) -> None:
    """Stored in another file, by the old way."""
    (path.parent / "secret").write_bytes(bytes(SIDES[0] * SIDES[1] * 3))
    with h5py.File(path, "r+") as file:
        del file["frame_3_x"]
        file.create_dataset("frame_3_x", (*SIDES, 3), np.uint8, external=[("secret", 0, h5py.h5f.UNLIMITED)])


def virtual_elsewhere(path: Path) -> None:
    layout = h5py.VirtualLayout((*SIDES, 3), np.uint8)
    layout[...] = h5py.VirtualSource("other.hdf5", "frame_0_x", (*SIDES, 3), np.uint8)
    with h5py.File(path, "r+") as file:
        del file["frame_3_x"]
        file.create_virtual_dataset("frame_3_x", layout)


def virtual_of_itself(path: Path) -> None:
    layout = h5py.VirtualLayout((*SIDES, 3), np.uint8)
    layout[...] = h5py.VirtualSource(".", "frame_3_x", (*SIDES, 3), np.uint8)
    with h5py.File(path, "r+") as file:
        del file["frame_3_x"]
        file.create_virtual_dataset("frame_3_x", layout)


def huge(path: Path) -> None:
    """Claims 4 TB and stores nothing."""
    with h5py.File(path, "r+") as file:
        del file["frame_0_x"]
        file.create_dataset("frame_0_x", (2**20, 2**20, 3), np.uint8)


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


TWO_MOVEMENTS = encode(actions_of(0, 1))[0].copy()
TWO_MOVEMENTS[13:36] = 1

REFUSED: list[tuple[Callable[[Path], None], str]] = [
    (edited(lambda file: file.pop("frame_7_x") and None), r"frame_7_x is missing; expected both arrays of frames 0 to"),
    (edited(lambda file: file.pop("frame_11_y") and None), r"frame_11_y is missing"),
    (changed("frame_3_x", np.zeros((30, 55, 3), np.uint8)), r"frame_3_x is uint8 \(30, 55, 3\); expected uint8 \(30, 56, 3\)"),
    (changed("frame_3_x", np.zeros((30, 56, 3), np.float32)), r"frame_3_x is float32"),
    (changed("frame_3_y", np.zeros(50)), r"frame_3_y is float64 \(50,\); expected float64 \(51,\)"),
    (changed("frame_3_y", np.zeros(51, np.float32)), r"frame_3_y is float32"),
    (changed("frame_3_y", TWO_MOVEMENTS), r"frame_3_y is no action"),
    (changed("frame_3_y", np.full(51, np.nan)), r"frame_3_y is no action"),
    (changed("frame_3_x", np.zeros((*SIDES, 3), np.uint8), compression="gzip"), r"frame_3_x is empty, compressed or in chunks"),
    (linked_to(h5py.SoftLink("/frame_4_x")), r"frame_3_x is a link"),
    (linked_to(h5py.ExternalLink("/etc/passwd", "x")), r"frame_3_x is a link"),
    (outside, r"frame_3_x lies in another file"),
    (virtual_elsewhere, r"frame_3_x is a virtual array of other files"),
    (virtual_of_itself, r"not a readable HDF5 file|frame_3_x is a virtual array"),
    (huge, r"frame_0_x (has shape|is uint8) \(1048576, 1048576, 3\)"),
    (cut_off, r"not a readable HDF5 file|ends after the end"),
    (lambda path: path.write_bytes(b"not HDF5"), r"not a readable HDF5 file"),
    (fifo, r"not a regular file"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
@pytest.mark.parametrize("number", [1, 4])  # the first file and another
def test_files_that_are_not_as_described_are_refused_by_name(
    change: Callable[[Path], None], message: str, number: int, files: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "source"
    for i in (1, 2, 4):
        folder.mkdir(exist_ok=True)
        shutil.copyfile(files / "1-5" / f"hdf5_dm_{i}.hdf5", folder / f"hdf5_dm_{i}.hdf5")
    spoilt = folder / f"hdf5_dm_{number}.hdf5"
    change(spoilt)
    (tmp_path / "job").mkdir()
    with pytest.raises(UserError, match=message) as refused:
        run(config(folder, num_references=1), JobContext(tmp_path / "job"))
    assert spoilt.name in str(refused.value)
    assert not list((tmp_path / "job").rglob("*.h5"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("hdf5_dm_3.hdf5\nhdf5_dm_11.hdf5", r"'hdf5_dm_11\.hdf5' is not in the folder: did you mean hdf5_dm_1\.hdf5"),
        ("a\nb", r"It names 2 absent files in all"),
        ("hdf5_dm_3.hdf5\nhdf5_dm_3.hdf5", r"'hdf5_dm_3\.hdf5' occurs twice"),
        ("", r"it names 0 of 10 files"),
        ("\n".join(f"hdf5_dm_{i}.hdf5" for i in range(1, 11)), r"it names 10 of 10 files"),
    ],
)
def test_a_split_that_does_not_fit_is_refused_at_planning(names: str, message: str, source: Path, tmp_path: Path) -> None:
    (source / "test_split.txt").write_text(names)
    done = in_this_process("sweep", "sampling_steps", "scale=tiny", f"data.dataset={source}", cwd=tmp_path, exit_code=2)
    assert "Traceback" not in done.stderr
    with pytest.raises(UserError, match=message):
        check_length(find_dataset(str(source)), 1, 6, None)
    assert not (tmp_path / "outputs").exists()


def test_planning_finds_missing_arrays_short_lists_and_settings_without_effect(source: Path, tmp_path: Path) -> None:
    assert lengths(source) == [12] * 10
    (source / "test_split.txt").write_text("hdf5_dm_3.hdf5")
    check_length(source, 2, 6, None)
    with pytest.raises(UserError, match=r"The 1 of test_split\.txt hold at most 2 windows of 6 frames"):
        check_length(source, 3, 6, None)
    overrides = ["scale=tiny", "data.reference_horizon=10", "evaluation.horizon=8", "evaluation.sample_horizon=8"]
    with pytest.raises(UserError, match=r"data\.stacked_frames: only Minari datasets"):
        plan_study("sampling_steps", [*overrides, f"data.dataset={source}", "data.stacked_frames=newest"])
    minari = foreign(tmp_path / "minari")
    with pytest.raises(UserError, match=r"data\.link_frames: only HDF5 files of frames"):
        plan_study("sampling_steps", [*overrides, f"data.dataset={minari}", "data.link_frames=true"])
    with pytest.raises(UserError, match=r"data\.link_frames: it has no effect with a game"):
        plan_study("sampling_steps", ["scale=tiny", "data.link_frames=true"])
    edited(lambda file: file.pop("frame_7_y") and None)(source / "6-10/hdf5_dm_8.hdf5")
    with pytest.raises(UserError, match=r"hdf5_dm_8\.hdf5: frame_7_y is missing"):
        check_length(source, 1, 6, None)


def test_where_frames_lie_and_who_reads_them_is_in_no_identity(source: Path) -> None:
    given = [
        "scale=tiny",
        f"data.dataset={source}",
        "data.num_references=2",
        "evaluation.num_trajectories=2",
        "evaluation.num_sample_starts=2",
    ]
    given += ["data.reference_context=4", "data.reference_horizon=8", "evaluation.horizon=8", "evaluation.sample_horizon=8"]
    plans = [plan_study("sampling_steps", [*given, *more]) for more in ([], ["data.link_frames=true", "training.readers=0"])]
    assert set(plans[0].jobs) == set(plans[1].jobs)
    assert set(plan_study("sampling_steps", [*given, "env.frame_width=56"]).jobs).isdisjoint(plans[0].jobs)


# Writing

SPEC = ActionSpec.columns((2, 23, 2, 2), ("ahead", "mouse_x", "fire", "hop"))


def test_columns_are_mapped_by_name() -> None:
    mapped = Mapped(SPEC, {"forward": "ahead", "jump": "hop"})
    columns = mapped(np.array([[1, 14, 0, 1]]))[0]
    assert dict(zip(NAMES, columns.tolist(), strict=True)) == {
        **dict.fromkeys(NAMES, 0), "forward": 1, "jump": 1, "mouse_x": 14, "mouse_y": 7
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "renamed", "left_out", "message"),
    [
        (ActionSpec.discrete(3), {}, (), r"the actions of the dataset are Discrete\(3\)"),
        (SPEC, {}, (), r"column 'ahead' has no place"),
        (SPEC, {"jmp": "hop"}, (), r"'jmp' is no column of the layout: did you mean jump"),
        (SPEC, {"forward": "aheads"}, (), r"has no column 'aheads': did you mean ahead"),
        (
            SPEC,
            {"forward": "ahead", "jump": "hop", "mouse_y": "mouse_x"},
            (),
            r"'mouse_x' has 23 values, but 'mouse_y' of the layout has 15",
        ),
        (SPEC, {"forward": "ahead"}, ("hp",), r"--leave-out hp: the dataset has no such column: did you mean hop"),
    ],
)
def test_columns_that_do_not_fit_are_refused(spec: ActionSpec, renamed: dict[str, str], left_out: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mapped(spec, renamed, left_out)
    assert Mapped(SPEC, {"forward": "ahead"}, ("hop",))


def test_a_dataset_is_written_in_the_layout_and_read_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_writer, "FRAMES_PER_FILE", 5)
    monkeypatch.setattr(stored_datasets, "_SAY_EVERY_SECONDS", -1.0)
    store, making = Store(tmp_path / "outputs", say=lambda text: None), config(source, link_frames=True)
    spec = JobSpec("import_dataset", making)
    store.prepare(spec)
    assert run_job(store, spec.ref, "cpu").name == "done"
    words = ("export-dataset", spec.ref.id[:8], "written")
    done = in_this_process(*words, "--column", "forward=back", "--column", "back=forward", cwd=tmp_path)
    said = done.stderr.splitlines()
    assert "train: 8 of 8 files written" in said
    assert "files for training: 8; held-out files, which written/test_split.txt names: 6" in said
    names = [f"hdf5_{number}.hdf5" for number in range(1, 15)]
    assert sorted(path.name for path in (tmp_path / "written").glob("*.hdf5")) == sorted(names)
    assert (tmp_path / "written" / "test_split.txt").read_text() == "".join(f"{name}\n" for name in names[8:])
    train = load_rows(store.folder(spec.ref) / "train")
    with h5py.File(tmp_path / "written" / names[2], "r") as file:  # the last two frames of the first episode
        assert len(file) == 8
        frames = np.stack([file[f"frame_{i}_x"][()] for i in range(2)])[..., ::-1]
        actions = decode(np.stack([file[f"frame_{i}_y"][()] for i in range(2)]), "file")
        past = file["frame_1_xaux"][()].reshape(3, 18)
    np.testing.assert_array_equal(frames, train.frames[10:12].permute(0, 2, 3, 1))
    swapped = train.actions[10:11].numpy().copy()
    swapped[:, [0, 2]] = swapped[:, [2, 0]]
    np.testing.assert_array_equal(actions[:1], swapped)
    assert actions[1].tolist() == [0] * 13 + [11, 7], "nothing follows the last frame"
    np.testing.assert_array_equal(past[0, :13], swapped[0, :13])
    np.testing.assert_allclose(past[0, 13:15], [MOUSE_X[swapped[0, 13]] / 1000, MOUSE_Y[swapped[0, 14]] / 200])
    assert lengths(tmp_path / "written") == [5, 5, 2] * 2 + [5, 5] + [5, 5, 2] * 2
    for more, message in (
        ((), r"exists already"),
        (("--size", "150"), r"--size 150: expected HEIGHTxWIDTH"),
        (("--column", "jump"), r"expected NAME=COL"),
    ):
        target = "written" if not more else "other"
        refused = in_this_process("export-dataset", spec.ref.id, target, *more, cwd=tmp_path, exit_code=2)
        assert re.search(message, refused.stderr)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] == ".") == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_150_000_full_frames_are_imported_and_trained_on_within_2_gb() -> None:
    script = Path(__file__).parent / "benchmarks" / "frame_files.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "150000 frames of 150 x 280: 18.9 GB" in done.stdout
