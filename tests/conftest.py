"""What all tests share: one thread, and a store in which the main job was run once at test scale."""

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: at these sizes, two threads on a busy machine take three times as long

import pytest
from command_line import diamond_bench


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which `sampling_steps scale=tiny` was swept, by the real command; read it, and copy it before changing it."""
    folder = tmp_path_factory.mktemp("tiny")
    diamond_bench("sweep", "sampling_steps", "scale=tiny", cwd=folder)
    return folder / "outputs"
