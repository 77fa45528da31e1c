"""Memory and speed of a world model's training with its segments in memory and streamed from disk, side by side.

    python tests/benchmarks/streamed_segments.py [FRAMES] [UPDATES] [HEIGHT] [WIDTH]

Makes a dataset of so many synthetic frames once, and trains on it in processes of their own, in turn: memory, streamed, memory, ...
A line has the memory that the source adds (resident memory after 50 batches minus that before the source was opened; pages of the HDF5
file that the system caches are not in it), the seconds to open the source, milliseconds per batch when nothing else runs, and updates per
second without the first ten.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import torch

from diamond_bench.config import NetworkConfig, TrainingConfig
from diamond_bench.data.minari_io import Episode, write_dataset, write_episode
from diamond_bench.data.segments import Segments, segment_places, tensors_of
from diamond_bench.data.sources import Feed, open_source
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.store.kinds import TrainWorldModel
from diamond_bench.training.learner import Learner
from diamond_bench.worlds.families import build_world_model

EPISODE = 1000
WARM_UP = 10


def make_split(folder: Path, frames: FrameSpec, num_frames: int) -> None:
    """Episodes in which 40 squares move over a background: about as compressible as an Atari game."""
    dice, files = np.random.default_rng(0), []
    for number in range(num_frames // EPISODE):
        video = np.zeros((EPISODE, *frames.sides, 3), np.uint8)
        video += dice.integers(0, 256, (frames.height, 1, 3), np.uint8)
        for _ in range(40):
            y, x, dy, dx = dice.integers(0, frames.height, 4)
            colour = dice.integers(0, 256, 3, np.uint8)
            for t in range(EPISODE):
                top, left = (y + dy * t // 20) % frames.height, (x + dx * t // 20) % frames.width
                video[t, top : top + 5, left : left + 5] = colour
        files.append(folder / f"{number}.h5")
        actions = dice.integers(0, 4, EPISODE - 1)
        with h5py.File(files[-1], "w") as file:
            write_episode(file.create_group("episode"), Episode(video, actions, np.zeros(EPISODE - 1, np.float32), True, False))
    write_dataset(folder / "train" / "data", "bench/train-v0", files, "episode", WorldSpec(frames, ActionSpec.discrete(4)))


def train(name: str, split: Path, updates: int, frames: FrameSpec) -> dict[str, float]:
    """Updates of a small denoiser (of the paper's size on CUDA)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    channels = 64 if device == "cuda" else 16
    network = NetworkConfig((1, 1, 1, 1), (channels,) * 4, (False,) * 4, 64)
    before, started = resident(), time.perf_counter()
    source = open_source(name, split, device)
    opened = time.perf_counter() - started
    places, waits = torch.Generator(device).manual_seed(1), []
    for _ in range(50):
        started = time.perf_counter()
        source.read(segment_places(source, 32, 5, places))
        waits.append(time.perf_counter() - started)
    added = resident() - before
    spec = WorldSpec(frames, ActionSpec.discrete(4), rewards=False, ends=False)
    world = build_world_model(TrainWorldModel(0, network=network), spec, device=device)
    training, generator = TrainingConfig(batch_size=32, num_autoregressive_steps=0), torch.Generator(device).manual_seed(0)
    (trainable,) = world.trainables(training)
    feed, learner = Feed(source, 32, trainable.segment_length, generator), Learner(trainable.network, training)

    def loss_of(*batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, _ = trainable.loss(Segments(*batch), generator)
        feed.read_ahead()
        return loss, {}

    for number in range(updates):
        if number == WARM_UP:
            begun = time.perf_counter()
        learner.learn(loss_of, tensors_of(next(feed)), [generator])
    if device == "cuda":
        torch.cuda.synchronize()
    rate = (updates - WARM_UP) / (time.perf_counter() - begun)
    feed.close()
    source.close()
    return {"added_mb": added / 2**20, "open_seconds": opened, "batch_ms": 1000 * float(np.median(waits)), "updates_per_second": rate}


def resident() -> int:
    """Bytes of the process' memory that are in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main(num_frames: int = 50_000, updates: int = 60, height: int = 64, width: int = 64) -> None:
    """Prints a line a process."""
    frames = FrameSpec(height, width)
    with tempfile.TemporaryDirectory() as folder:
        make_split(Path(folder), frames, num_frames)
        stored = sum(file.stat().st_size for file in (Path(folder) / "train").rglob("*.hdf5")) / 2**20
        print(f"{num_frames} frames {frames}: {num_frames * frames.pixels * 3 / 2**20:.0f} MB, {stored:.0f} MB on disk", flush=True)
        for name in ("memory", "streamed") * 3:
            words = [sys.executable, __file__, "--one", name, str(Path(folder) / "train"), str(updates), str(height), str(width)]
            found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
            print(f"{name:9}", "  ".join(f"{key} {value:.2f}" for key, value in found.items()), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        name, split, updates, height, width = sys.argv[2:]
        print(json.dumps(train(name, Path(split), int(updates), FrameSpec(int(height), int(width)))))
    else:
        main(*map(int, sys.argv[1:]))
