"""Memory and speed of a training on 150,000 frames of 150 x 280 pixels that stay in the user's HDF5 files of frames.

    python tests/benchmarks/frame_files.py [FILES] [HEIGHT] [WIDTH]

Makes FILES (150) files of 1,000 frames in the layout of Pearce and Zhu. Frames are virtual arrays: each file stores 8 pictures, and its
frames are these in turn, so 19 GB of frames take 0.5 GB of disk. Then one process imports them with data.link_frames=true and one trains a
small denoiser on them. Frames have HEIGHT x WIDTH pixels in the dataset (default 150 x 280, as in the files).

Prints one line each for the import, the training, and reading batches with 0, 1 and 4 readers: peak resident memory in MB and the speed.
The files lie in the system's cache, so reading takes no time of a disk. The exit code is 1 if a process took 2 GB or more.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import torch

from diamond_bench.config import DataConfig, EnvConfig, NetworkConfig, TrainingConfig
from diamond_bench.data.foreign import dataset_digest
from diamond_bench.data.frame_actions import encode
from diamond_bench.data.segments import segment_places
from diamond_bench.data.sources import open_source
from diamond_bench.envs.first_person import ACTIONS
from diamond_bench.jobs import import_dataset, train_world_model
from diamond_bench.jobs.context import JobContext
from diamond_bench.store.kinds import ImportDataset, TrainWorldModel

SIDES = (150, 280)
FRAMES, PICTURES = 1000, 8
BATCH, SEGMENT, BATCHES, UPDATES = 16, 9, 20, 4
LIMIT_MB = 2000


def make_files(folder: Path, files: int) -> None:
    """The first file is written frame by frame. The others are copies of it with other pictures and actions."""
    folder.mkdir()
    first = folder / "hdf5_virtual_1.hdf5"
    with h5py.File(first, "w") as file:
        for name, shape, dtype in (("pictures", (*SIDES, 3), np.uint8), ("choices", (51,), np.float64)):
            file.create_dataset(name, data=np.zeros((PICTURES, *shape), dtype))
        for i in range(FRAMES):
            for key, name in (("x", "pictures"), ("y", "choices")):
                layout = h5py.VirtualLayout(file[name].shape[1:], file[name].dtype)
                layout[...] = h5py.VirtualSource(".", name, file[name].shape, file[name].dtype)[i % PICTURES]
                file.create_virtual_dataset(f"frame_{i}_{key}", layout)
    for number in range(1, files + 1):
        path = folder / f"hdf5_virtual_{number}.hdf5"
        if number > 1:
            shutil.copyfile(first, path)
        dice = np.random.default_rng(number)
        with h5py.File(path, "r+") as file:
            file["pictures"][...] = dice.integers(0, 256, (PICTURES, *SIDES, 3), np.uint8)
            file["choices"][...] = encode(np.stack([dice.integers(0, size, PICTURES) for size in ACTIONS.sizes], axis=1))
    (folder / "test_split.txt").write_text(first.name)


def bring_in(folder: Path, files: Path, height: int, width: int) -> dict[str, float]:
    """Imports all files but the held-out one."""
    data = DataConfig(
        dataset=str(files), link_frames=True, num_train_frames=10**6, num_references=2, reference_context=4, reference_horizon=12
    )  # fmt: skip
    started = time.perf_counter()
    config = ImportDataset(dataset_digest(files), EnvConfig(frame_height=height, frame_width=width), data)
    found = import_dataset.run(config, JobContext(folder))
    frames = int(found.info["train"]["frames"])
    return {"frames": frames, "frames_per_second": frames / (time.perf_counter() - started)}


def train(folder: Path, dataset: Path) -> dict[str, float]:
    """Trains a small denoiser for a few updates."""
    network = NetworkConfig(depths=(1,) * 4, channels=(8,) * 4, attention=(False,) * 4, cond_channels=8)
    settings = TrainingConfig(num_steps=UPDATES, batch_size=4, milestones=(1.0,), segments="streamed", log_every=1, warmup_steps=1)
    started = time.perf_counter()
    found = train_world_model.run(TrainWorldModel(0, network=network, training=settings), JobContext(folder, {"dataset": dataset}))
    loss = next(row.value for row in found.rows if row.metric == "train_loss")
    return {"updates": UPDATES, "loss": loss, "seconds": time.perf_counter() - started}


def read(dataset: Path, readers: int) -> dict[str, float]:
    """Reads batches of random segments, one after the other."""
    with closing(open_source("streamed", dataset / "train", "cpu", readers)) as source:
        generator = torch.Generator().manual_seed(0)
        source.read(segment_places(source, BATCH, SEGMENT, generator))
        started = time.perf_counter()
        for _ in range(BATCHES):
            source.read(segment_places(source, BATCH, SEGMENT, generator))
        return {"readers": readers, "segments_per_second": BATCH * BATCHES / (time.perf_counter() - started)}


def one(what: str, folder: Path, height: int, width: int, readers: int) -> None:
    """Does one part in this process and prints what it found and its peak memory."""
    torch.set_num_threads(1)
    os.environ["HOME"] = str(folder)  # for the cache of the digest
    (folder / what).mkdir(exist_ok=True)
    if what == "import":
        found = bring_in(folder / what, folder / "files", height, width)
    elif what == "train":
        found = train(folder / what, folder / "import")
    else:
        found = read(folder / "import", readers)
    print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, **found}))


def main(files: int = 150, height: int = SIDES[0], width: int = SIDES[1]) -> int:
    """Runs the parts, each in a process of its own. Returns the exit code."""
    peak = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder / "files", files)
        stored = sum(path.stat().st_size for path in (folder / "files").iterdir()) / 1e6
        total = files * FRAMES * SIDES[0] * SIDES[1] * 3 / 1e9
        print(f"{files * FRAMES} frames of {SIDES[0]} x {SIDES[1]}: {total:.1f} GB, {stored:.0f} MB stored", flush=True)
        for what, readers in (("import", 0), ("train", 0), ("read", 0), ("read", 1), ("read", 4)):
            words = [sys.executable, __file__, "--one", what, name, str(height), str(width), str(readers)]
            found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            peak = max(peak, found["peak_mb"])
            print(f"{what:7}", "  ".join(f"{key} {value:.4g}" for key, value in found.items()), flush=True)
    return int(peak >= LIMIT_MB)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        what, name, *numbers = sys.argv[2:]
        one(what, Path(name), *map(int, numbers))
    else:
        sys.exit(main(*map(int, sys.argv[1:])))
