"""Features of true frames, computed once per dataset: which frames they are of, who shares them, and who refuses them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_evaluation import CONFIG, CONTEXT, HORIZON, SETTINGS, STARTS, Predictor
from test_evaluation import data as data  # a fixture

from diamond_bench.data import sources
from diamond_bench.data.sources import MemorySource
from diamond_bench.data.static import EpisodeSet
from diamond_bench.errors import UserError
from diamond_bench.jobs import evaluate_world_model, extract_features, loaded_world
from diamond_bench.jobs.context import Interrupted, JobContext, Result
from diamond_bench.metrics import perceptual
from diamond_bench.metrics.fid import distribution_distances, fid_positions, load_features
from diamond_bench.metrics.perceptual import LearnedMetric
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import ExtractFeatures
from diamond_bench.studies.estimate import estimate, job_work
from diamond_bench.studies.plan import plan_study

IMAGES = 20
FEATURES = ExtractFeatures(SETTINGS.seed, SETTINGS.num_trajectories, HORIZON, IMAGES)
EVALUATION = replace(CONFIG, evaluation=replace(SETTINGS, metrics=("drift", "fid"), num_fid_images=IMAGES))


def eight_features(images: torch.Tensor) -> torch.Tensor:
    """In place of Inception: means of the first column in eight parts, and so different for each frame of the fixture."""
    assert images.dtype == torch.uint8
    return images[:, 0].float().mean(2).unflatten(1, (8, 2)).mean(2)


@pytest.fixture
def network(data: dict[str, EpisodeSet], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(extract_features, "load_split", evaluate_world_model.load_split)
    monkeypatch.setattr(sources, "load_rows", lambda folder: data["train"])
    monkeypatch.setattr(extract_features, "open_source", lambda name, *where: MemorySource(*where))
    monkeypatch.setattr(extract_features, "load_info", evaluate_world_model.load_info)
    monkeypatch.setattr(perceptual, "inception_features", lambda device: LearnedMetric(eight_features, "a" * 64))
    return


def extract(folder: Path, config: ExtractFeatures = FEATURES, **context: object) -> Result:
    folder.mkdir(exist_ok=True)
    return extract_features.run(config, JobContext(folder, {"dataset": folder}, **context))  # type: ignore[arg-type]


def test_the_features_are_those_of_the_frames_that_the_imagined_ones_stand_for(
    network: None, data: dict[str, EpisodeSet], tmp_path: Path
) -> None:
    result = extract(tmp_path / "f")
    true, other = load_features(tmp_path / "f", "a" * 64)
    assert true.shape == other.shape == (IMAGES, 8)
    assert result.info["images"] == 2 * IMAGES
    order = np.random.default_rng(SETTINGS.seed).permutation(len(STARTS))[: SETTINGS.num_trajectories]
    frames = data["heldout"].frames
    expected = torch.stack([frames[STARTS[i] + CONTEXT :][:HORIZON] for i in order])
    positions = torch.from_numpy(fid_positions(SETTINGS.seed, SETTINGS.num_trajectories, HORIZON, IMAGES))
    assert int(positions.sum()) == IMAGES
    assert np.array_equal(true, eight_features(expected[positions]).numpy())
    known = eight_features(data["train"].frames).numpy()
    rows = [int((known == row).all(1).nonzero()[0][0]) for row in other]
    assert len(rows) == IMAGES


def test_an_evaluation_compares_its_frames_with_them(network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both models share the features, and so the floor."""
    extract(tmp_path / "f")
    true, other = load_features(tmp_path / "f", "a" * 64)

    def run(predictor: Predictor, name: str) -> dict[tuple[str, str], float]:
        monkeypatch.setattr(loaded_world, "load_world_model", lambda *_: predictor)
        folder = tmp_path / name
        folder.mkdir()
        inputs = {"dataset": folder, "world_model": folder, "true_features": tmp_path / "f"}
        result = evaluate_world_model.run(EVALUATION, JobContext(folder, inputs))
        return {(row.metric, row.baseline): row.value for row in result.rows}

    one, two = run(Predictor(), "one"), run(Predictor(noise=0.1), "two")
    floor = distribution_distances(other, true, SETTINGS.seed)
    for found in (one, two):
        assert (found["fid", "true-frames"], found["kid", "true-frames"]) == pytest.approx(floor)
        assert found["fid_images", ""] == IMAGES
    assert one["fid", ""] != two["fid", ""]


def test_features_of_another_file_of_weights_are_refused(network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extract(tmp_path / "f")
    with pytest.raises(UserError, match=f"computed with the weights {'a' * 64}, this machine has {'b' * 64}"):
        load_features(tmp_path / "f", "b" * 64)
    (tmp_path / "f" / "features.npz").write_bytes(b"cut short")
    with pytest.raises(UserError, match="cannot be read"):
        load_features(tmp_path / "f", "a" * 64)
    with pytest.raises(UserError, match=r"num_fid_images=61: .* training data, which has 60"):
        extract(tmp_path / "g", replace(FEATURES, num_images=61))


def test_finished_parts_survive_an_interruption(network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_features, "_PART", 8)
    monkeypatch.setattr(extract_features, "_BATCH", 4)
    asked = iter([False] * 3 + [True])
    with pytest.raises(Interrupted):
        extract(tmp_path / "f", should_stop=lambda: next(asked))
    seen: list[int] = []
    monkeypatch.setattr(
        perceptual,
        "inception_features",
        lambda device: LearnedMetric(lambda images: seen.append(len(images)) or eight_features(images), "a" * 64),
    )
    extract(tmp_path / "f")
    assert sum(seen) == 2 * IMAGES - 8  # the first part was kept
    extract(tmp_path / "whole")
    for resumed, whole in zip(load_features(tmp_path / "f", "a" * 64), load_features(tmp_path / "whole", "a" * 64), strict=True):
        assert np.array_equal(resumed, whole)


def test_a_plan_has_one_job_of_features_per_game(tmp_path: Path) -> None:
    plan = plan_study("sampling_steps", ["games=[Breakout,Pong]", "seeds=3", f"output_dir={tmp_path}"])
    features = [spec for spec in plan.jobs.values() if spec.kind == "extract_features"]
    assert [spec.config.num_images for spec in features] == [20_000, 20_000]
    for point in plan.points:
        evaluation = plan.jobs[point.jobs["evaluation"]]
        assert evaluation.inputs["true_features"] == point.jobs["true_features"]
        assert plan.jobs[point.jobs["true_features"]].inputs == {"dataset": point.jobs["dataset"]}
    assert len({point.jobs["true_features"] for point in plan.points}) == 2
    refs = [spec.ref for spec in features]
    assert job_work(features[0], plan.jobs) == 2 * 20_000 * 1.14e10
    assert estimate(plan.jobs, refs, Store(tmp_path)).gigabytes == pytest.approx(2 * 2 * 20_000 * 2048 * 4 / 1e9)


@pytest.mark.parametrize("tokens", [["scale=smoke"], ["scale=tiny"], ["metrics=[drift,lpips]"]])
def test_fid_and_its_features_are_left_out(tokens: list[str]) -> None:
    """2048 images cost minutes on a CPU: the scales for a laptop and for tests measure no FID."""
    plan = plan_study("sampling_steps", tokens)
    assert "fid" not in plan.metrics
    assert not any(ref.kind == "extract_features" for ref in plan.jobs)
    assert all("true_features" not in point.jobs for point in plan.points)


def test_the_features_do_not_depend_on_the_precision_asked_for() -> None:
    ids: set[JobRef] = set()
    for precision in ("fp32", "bf16"):
        plan = plan_study("sampling_steps", ["games=[Breakout]", "seeds=1", f"execution.precision={precision}"])
        ids |= {ref for ref in plan.jobs if ref.kind == "extract_features"}
    assert len(ids) == 1
