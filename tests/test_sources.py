"""Segments streamed from disk: the bits of those in memory, bounded memory, and clear refusals of files that cannot be read."""

import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from diamond_bench.config import NetworkConfig, TrainingConfig
from diamond_bench.data.minari_io import MAIN_FILE, Episode, write_dataset, write_episode
from diamond_bench.data.rms import change_rms, frame_rms
from diamond_bench.data.segments import segment_places, tensors_of
from diamond_bench.data.sources import Feed, content_digest, open_source
from diamond_bench.data.static import INFO_FILE, load_episodes, spec_facts
from diamond_bench.data.streamed import StreamedSource
from diamond_bench.errors import UserError
from diamond_bench.jobs import train_world_model
from diamond_bench.jobs.context import Interrupted, JobContext
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.store.files import write_json
from diamond_bench.store.kinds import TrainWorldModel
from diamond_bench.studies.plan import plan_study

CPU = torch.device("cpu")
DISCRETE = WorldSpec(FrameSpec.square(16), ActionSpec.discrete(4))
WIDE = WorldSpec(FrameSpec(12, 20), ActionSpec.continuous((-1.0, -2.0), (1.0, 2.0)))
LENGTHS = (70, 5, 33, 32)
"""Frames of the episodes: more and less than a chunk, and exactly one."""


def make_dataset(folder: Path, spec: WorldSpec, lengths: tuple[int, ...] = LENGTHS) -> Path:
    """A dataset artifact whose first episode is noise, which does not compress; of the others each frame has one colour."""
    dice, files = np.random.default_rng(0), []
    folder.mkdir()
    for number, length in enumerate(lengths):
        shape = (length, *spec.frames.sides, 3)
        colours = np.broadcast_to(dice.integers(0, 256, (length, 1, 1, 1), np.uint8), shape)
        frames = dice.integers(0, 256, shape, np.uint8) if number == 0 else np.ascontiguousarray(colours)
        low = spec.actions.low
        actions = dice.uniform(low, spec.actions.high, (length - 1, 2)).astype(np.float32) if low else dice.integers(0, 4, length - 1)
        files.append(folder / f"{number}.h5")
        with h5py.File(files[-1], "w") as file:
            write_episode(file.create_group("episode"), Episode(frames, actions, np.zeros(length - 1, np.float32), True, False))
    for split in ("train", "heldout"):
        write_dataset(folder / split / "data", f"test/{split}-v0", files, "episode", spec)
    heldout = {"reference_starts": [], "reference_context": 1, "reference_horizon": 1}
    counts = {"train": {"frames": sum(lengths)}, "heldout": {"frames": sum(lengths), **heldout}}
    write_json(folder / INFO_FILE, {**spec_facts(spec), **counts})
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "dataset", DISCRETE)


@pytest.mark.parametrize(("sides", "rows"), [((64, 64), 32), ((180, 320), 6), ((1024, 1024), 1)])
def test_a_chunk_holds_at_most_32_frames_and_a_megabyte_where_it_holds_more_than_one(
    tmp_path: Path, sides: tuple[int, int], rows: int
) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        frames = np.zeros((40 if rows > 1 else 2, *sides, 3), np.uint8)
        steps = len(frames) - 1
        write_episode(file.create_group("episode"), Episode(frames, np.zeros(steps, np.int64), None, True, False))
        assert file["episode/observations"].chunks == (rows, *sides, 3)


@pytest.mark.parametrize("spec", [DISCRETE, WIDE])
def test_streamed_segments_are_those_in_memory(tmp_path: Path, spec: WorldSpec) -> None:
    folder = make_dataset(tmp_path / "dataset", spec) / "train"
    memory, disk = (open_source(name, folder, CPU) for name in ("memory", "streamed"))
    assert content_digest(disk) == content_digest(memory)
    episodes = load_episodes(folder)
    for rms in (frame_rms, change_rms):
        assert rms(disk) == rms(episodes)
    places = segment_places(memory, 200, 6, torch.Generator().manual_seed(1))
    assert torch.equal(segment_places(disk, 200, 6, torch.Generator().manual_seed(1)), places)
    assert (places < 0).any(), "segments before an episode's start were to be among them"
    for one, other in zip(tensors_of(memory.read(places)), tensors_of(disk.read(places)), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    disk.close()


TRAINING = TrainingConfig(
    num_steps=5, batch_size=3, learning_rate=1e-3, milestones=(0.5, 1.0), checkpoint_every=100, log_every=2, warmup_steps=2
)
CONFIG = TrainWorldModel(
    seed=0, network=NetworkConfig(depths=(1, 1), channels=(8, 8), attention=(False, False), cond_channels=8), training=TRAINING
)


def train(folder: Path, dataset: Path, segments: str, stop_after: int | None = None) -> None:
    folder.mkdir(exist_ok=True)
    calls = iter(range(1, 100))
    context = JobContext(folder, {"dataset": dataset}, should_stop=lambda: next(calls) == stop_after, say=lambda text: None)
    train_world_model.run(replace(CONFIG, training=replace(TRAINING, segments=segments)), context)


def built(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in (*folder.glob("models/*/*"), folder / "metrics.jsonl")}


def test_a_training_on_streamed_segments_ends_as_one_in_memory_interrupted_or_not(dataset: Path, tmp_path: Path) -> None:
    """Stopped with a batch read ahead, it goes on as if that had never been drawn, whichever source it goes on with."""
    train(tmp_path / "whole", dataset, "memory")
    for then in ("streamed", "memory"):
        with pytest.raises(Interrupted):
            train(tmp_path / then, dataset, "streamed", stop_after=3)
        train(tmp_path / then, dataset, then)
        assert built(tmp_path / then) == built(tmp_path / "whole")


def test_reading_ahead_keeps_the_state_before_it(dataset: Path) -> None:
    source, generator = open_source("streamed", dataset / "train", CPU), torch.Generator().manual_seed(3)
    feed = Feed(source, 4, 5, generator)
    next(feed)
    before = generator.get_state()
    feed.read_ahead()
    assert torch.equal(feed.generator_state(), before)
    assert not torch.equal(generator.get_state(), before)
    drawn = next(feed)
    assert torch.equal(feed.generator_state(), generator.get_state())
    generator.set_state(before)
    assert torch.equal(next(feed).frames, drawn.frames), "drawn again, it is the same batch"
    feed.close()
    source.close()


def test_memory_is_that_of_a_few_chunks_however_long_the_episodes_are(tmp_path: Path) -> None:
    spec = WorldSpec(FrameSpec.square(64), ActionSpec.discrete(4))
    readers = 4
    source = StreamedSource(make_dataset(tmp_path / "dataset", spec, (2, 600, 600)) / "train", CPU, readers)
    frames, chunk = source.num_frames * 64 * 64 * 3, 32 * 64 * 64 * 3
    places = segment_places(source, 64, 6, torch.Generator().manual_seed(0))
    source.read(places)
    tracemalloc.start()
    for _ in range(3):
        source.read(places)  # the batch itself is torch's, which is not traced
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    source.close()
    # each thread holds a chunk as it is stored, and its frames
    assert peak < (2 * readers + 1) * chunk < frames / 4
    assert held < chunk / 4


def test_files_that_cannot_be_read_are_refused_naming_them(dataset: Path) -> None:
    file = dataset / "train" / "data" / MAIN_FILE
    source = open_source("streamed", dataset / "train", CPU)
    everything = torch.arange(source.num_frames)[:, None]
    file.rename(file.with_suffix(".moved"))
    assert source.read(everything).mask.all(), "a file that is removed meanwhile stays open"
    with pytest.raises(UserError, match="train/data: not a readable Minari dataset"):
        open_source("streamed", dataset / "train", CPU)
    file.with_suffix(".moved").rename(file)
    size = file.stat().st_size
    os.truncate(file, size // 2)
    feed = Feed(source, 500, 1, torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match=rf"{MAIN_FILE}: the frames from row \d+ on cannot be read .*was the file changed"):
        next(feed)
    feed.close()
    source.close()
    with pytest.raises(UserError, match=rf"{MAIN_FILE}"):
        open_source("streamed", dataset / "train", CPU)


def test_frames_stored_in_another_way_are_refused(dataset: Path) -> None:
    with h5py.File(dataset / "train" / "data" / MAIN_FILE, "r+") as file:
        frames = file["episode_1/observations"][()]
        del file["episode_1/observations"]
        file["episode_1/observations"] = frames
    with pytest.raises(UserError, match=r"episode_1/observations is not stored as gzip chunks of whole frames"):
        open_source("streamed", dataset / "train", CPU)


def test_the_source_is_in_no_identity_and_a_mistyped_one_is_refused_and_one_of_an_agent_too() -> None:
    ids = [set(plan_study("sampling_steps", ["scale=tiny", f"training.segments={name}"]).jobs) for name in ("memory", "streamed")]
    assert ids[0] == ids[1]
    with pytest.raises(UserError, match=r"training.segments='stream'.*streamed"):
        plan_study("sampling_steps", ["scale=tiny", "training.segments=stream"])
    with pytest.raises(UserError, match=r"training.segments"):
        plan_study("sampling_steps_agent", ["scale=tiny", "training.segments=streamed"])
