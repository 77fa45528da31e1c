"""FID with its real network, from nothing to the table: minutes of features, so it is slow."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import diamond_bench

IMAGES = 2048
"""The fewest that FID is measured with."""


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fid_from_the_fetched_weights_to_the_table(tmp_path: Path) -> None:
    """A clean environment, one variant, one seed, hardly any training: the cost is 6,144 images, each about 0.2 s on a CPU thread."""
    places = {"XDG_CACHE_HOME": "cache", "TORCH_HOME": "torch", "DIAMOND_BENCH_WEIGHTS": "weights"}
    env = {name: str(tmp_path / folder) for name, folder in places.items()}
    size = ("data.num_references=32", "data.reference_horizon=64", "evaluation.num_trajectories=32", "evaluation.horizon=64")
    words = ("sweep", "sampling_steps", "scale=tiny", "seeds=1", "metrics=[drift,fid]", f"data.num_train_frames={IMAGES}", *size)

    refused = diamond_bench(*words, "sampler.num_steps=1", cwd=tmp_path, env=env, exit_code=2)
    assert "diamond-bench weights fetch fid" in refused.stderr
    fetched = diamond_bench("weights", "fetch", "fid", cwd=tmp_path, env=env).stdout.strip()
    assert fetched == str(tmp_path / "weights" / "inception.safetensors")
    done = diamond_bench(*words, "sampler.num_steps=1", cwd=tmp_path, env=env)
    print(done.stdout, done.stderr)
    assert "4/4 jobs done" in done.stderr

    (study,) = (tmp_path / "outputs" / "studies" / "sampling_steps").iterdir()
    table = pd.read_parquet(study / "results.parquet")
    value = table.set_index(["metric", "variant"])["value"]
    assert value["fid_images", "n=1"] == IMAGES
    print(value[["fid", "kid"]])
    assert value["fid", "n=1"] > 3 * value["fid", "true-frames"] > 0  # a network of 12 updates imagines nothing like the game
    assert value["kid", "n=1"] > 0.01 + value["kid", "true-frames"]

    (folder,) = (tmp_path / "outputs" / "extract_features").iterdir()
    with np.load(folder / "features.npz") as stored:
        true, other = stored["true"].astype(float), stored["other"].astype(float)
    assert true.shape == other.shape == (IMAGES, 2048)
    covariances = [np.cov(features, rowvar=False) for features in (other, true)]
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real.clip(0)).sum()
    by_hand = ((other.mean(0) - true.mean(0)) ** 2).sum() + sum(np.trace(covariance) for covariance in covariances) - 2 * roots
    assert value["fid", "true-frames"] == pytest.approx(by_hand, rel=1e-3)

    dry = diamond_bench(*words, "sampler.num_steps=1,2", "--dry-run", "--json", cwd=tmp_path, env=env)
    jobs = {job["id"]: job for job in json.loads(dry.stdout)}
    (second,) = (job for job in jobs.values() if job["state"] != "done")
    assert (second["kind"], second["variants"]) == ("evaluate_world_model", ["n=2"])
    assert [jobs[need]["state"] for need in second["needs"] if jobs[need]["kind"] == "extract_features"] == ["done"]
