"""The evaluation job, with predictors whose errors are known beforehand in place of a trained model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stand_ins import StandIn

from analysis.pixels import noise_level
from diamond_bench.config import EvaluationConfig
from diamond_bench.data.static import EpisodeSet
from diamond_bench.diffusion.quantization import from_bytes, quantize, to_bytes
from diamond_bench.errors import UserError
from diamond_bench.jobs import evaluate_world_model as job
from diamond_bench.jobs import loaded_world
from diamond_bench.jobs.context import Interrupted, JobContext, Result
from diamond_bench.metrics.drift import drift
from diamond_bench.metrics.low_resolution import FACTOR, low_resolution_drift, upsampled
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.store.kinds import EvaluateWorldModel
from diamond_bench.worlds.cascade import Cascade
from diamond_bench.worlds.cascade.world import build_world
from diamond_bench.worlds.contract import Draw

CONTEXT, HORIZON = 3, 6
STARTS = [row + offset for row in (0, 20, 40) for offset in (0, 9)]
SETTINGS = EvaluationConfig(
    metrics=("drift", "psnr", "ssim"),
    num_trajectories=5,
    horizon=HORIZON,
    batch_size=2,
    num_one_step=7,
    num_samples=2,
    num_sample_starts=3,
    sample_horizon=2,
)
CONFIG = EvaluateWorldModel(evaluation=SETTINGS)


def episodes(num: int, rows: int, first: int) -> EpisodeSet:
    """Videos of a square that moves one pixel a frame, its level telling the episode: every frame is its own."""
    frames = torch.zeros(num * rows, 3, 16, 16, dtype=torch.uint8)
    for e in range(num):
        for t in range(rows):
            x = t % 12
            frames[e * rows + t, :, x : x + 4, 2:9] = 40 + 5 * (first + e) + t % 3
    flags = torch.zeros(len(frames), dtype=torch.bool)
    actions = torch.arange(len(frames)) % 4
    return EpisodeSet(frames, actions, torch.zeros(len(frames)), flags, flags, torch.arange(num) * rows, torch.full((num,), rows))


class Predictor(StandIn):
    """In place of a trained world model: each frame is a function of the last one and of the noise."""

    context = 2

    def __init__(self, level: float = 0.0, noise: float = 0.0) -> None:
        super().__init__(16, 4)
        self.level, self.noise = level, noise

    def bound(self, sampler: object) -> "Predictor":
        return self

    def predict(self, past: torch.Tensor, actions: torch.Tensor, draw: Draw) -> torch.Tensor:
        assert past.shape[1] == 2
        return quantize(past[:, -1] + self.level + self.noise * draw(past[:, -1]), "round")


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> dict[str, EpisodeSet]:
    splits = {"train": episodes(2, 30, first=20), "heldout": episodes(3, 20, first=0)}
    info = type(
        "Info",
        (),
        {
            "spec": WorldSpec(FrameSpec(16, 16), ActionSpec.discrete(4)),
            "content": {
                "heldout": {"reference_context": CONTEXT, "reference_horizon": HORIZON, "reference_starts": STARTS, "refused_as_leaks": 0}
            },
        },
    )
    monkeypatch.setattr(job, "load_split", lambda folder, split: splits[split])
    monkeypatch.setattr(job, "load_info", lambda folder: info)
    monkeypatch.setattr(loaded_world, "load_info", lambda folder: info)
    return splits


def evaluate(
    folder: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch, config: EvaluateWorldModel = CONFIG, **context: Any
) -> Result:
    monkeypatch.setattr(loaded_world, "load_world_model", lambda *_: predictor)
    folder.mkdir(exist_ok=True)
    return job.run(config, JobContext(folder, {"dataset": folder, "world_model": folder}, **context))


def numbers(result: Result) -> dict[tuple[str, str], float]:
    return {(row.metric, row.baseline): row.value for row in result.rows if not row.measured}


def test_a_model_that_repeats_the_last_frame_scores_as_the_baseline_does(
    data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = numbers(evaluate(tmp_path / "e", Predictor(), monkeypatch))
    for metric in ("drift", "drift_final", "psnr", "ssim", "one_step_psnr"):
        assert found[metric, ""] == found[metric, "copy-last-frame"]
    assert found["sharpness_ratio", ""] == pytest.approx(1.0, abs=0.1)
    assert found["noise_excess", ""] == pytest.approx(0.0, abs=1e-3)
    assert found["drift_best_of_k", ""] == found["drift_mean_of_k", ""]
    assert found["drift", "unrelated-frames"] > 0


def test_noise_is_reported_apart_from_sharpness(data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, evaluation=replace(SETTINGS, metrics=("drift",), keep_frames=True))
    found = numbers(evaluate(tmp_path / "e", Predictor(noise=0.1), monkeypatch, config))
    imagined = torch.from_numpy(np.load(tmp_path / "e" / "frames.npy")).double() / 255
    true = data["heldout"].frames.double() / 255
    levels = {i: noise_level(true[start + CONTEXT : start + CONTEXT + HORIZON]).mean() for i, start in enumerate(STARTS)}
    order = np.random.default_rng(SETTINGS.seed).permutation(len(STARTS))[: SETTINGS.num_trajectories]
    by_hand = noise_level(imagined).mean() - torch.stack([levels[int(i)] for i in order]).mean()
    assert found["noise_excess", ""] == pytest.approx(float(by_hand), abs=1e-5)
    assert by_hand > 0.01


def test_drift_and_psnr_are_what_they_are_by_hand(data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(tmp_path / "e", Predictor(), monkeypatch)
    arrays = np.load(tmp_path / "e" / "arrays.npz")
    frames = data["heldout"].frames.double() / 255
    by_hand = {}
    for start in STARTS:
        last = frames[start + CONTEXT - 1]
        errors = [float((frames[start + CONTEXT + t] - last).abs().mean()) for t in range(HORIZON)]
        by_hand[tuple(round(error, 5) for error in errors)] = start
    assert arrays["drift"].shape == (5, HORIZON)
    seen = [by_hand[tuple(round(float(error), 5) for error in row)] for row in arrays["drift"]]
    assert len(set(seen)) == 5
    result = numbers(evaluate(tmp_path / "e", Predictor(), monkeypatch))
    assert result["psnr", ""] == pytest.approx(10 * np.log10(1 / arrays["mse"].mean()), abs=1e-3)
    assert result["drift_final", ""] == pytest.approx(arrays["drift"][:, -1].mean(), abs=1e-6)


def test_drift_at_low_resolution_sees_no_details() -> None:
    """A checkerboard of levels 0 and 100 has the mean of a plain frame of level 50. One white block of 8 is an error of an eighth."""
    board = (torch.arange(8)[:, None] + torch.arange(16)) % 2 * 100
    white = torch.zeros(8, 16)
    white[4:, 8:12] = 255
    true = torch.stack((board, white)).to(torch.uint8)[:, None].expand(2, 3, 8, 16)
    imagined = torch.tensor([50, 0], dtype=torch.uint8)[:, None, None, None].expand_as(true)
    assert low_resolution_drift(imagined, true).tolist() == [0.0, 0.125]
    assert drift(imagined, true).tolist() == pytest.approx([50 / 255, 0.125])


def test_the_last_frame_without_its_details_is_a_baseline_one_step_ahead(
    data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the frame that a cascade with this factor enlarges, on the windows of the other one-step scores."""
    config = replace(CONFIG, evaluation=replace(SETTINGS, metrics=("drift", "low_resolution_drift"), num_one_step=0))
    found = numbers(evaluate(tmp_path / "e", Predictor(), monkeypatch, config))
    frames = data["heldout"].frames
    targets = torch.tensor([start + CONTEXT + t for start in STARTS for t in range(HORIZON)])
    last = from_bytes(frames[targets - 1])[:, None]
    world = build_world(Cascade(factor=FACTOR), WorldSpec(FrameSpec.square(16), ActionSpec.discrete(4)))
    enlarged = to_bytes(world.enlarged(world.shrunk(last, torch.ones(len(last), 1)))[:, 0])
    assert torch.equal(enlarged, upsampled(frames[targets - 1]))
    mse = ((enlarged.double() - frames[targets].double()) / 255).square().mean()
    assert found["one_step_psnr", "copy-last-frame-upsampled"] == pytest.approx(10 * np.log10(1 / float(mse)), abs=1e-5)
    assert upsampled(torch.full((1, 3, 9, 14), 77, dtype=torch.uint8)).unique().tolist() == [77]


def test_one_step_psnr_pools_the_error_over_all_windows(
    data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, evaluation=replace(SETTINGS, num_one_step=0))
    result = evaluate(tmp_path / "e", Predictor(), monkeypatch, config)
    frames = data["heldout"].frames.double() / 255
    targets = torch.tensor([start + CONTEXT + t for start in STARTS for t in range(HORIZON)])
    mse = (frames[targets] - frames[targets - 1]).square().mean()
    assert numbers(result)["one_step_psnr", ""] == pytest.approx(float(10 * torch.log10(1 / mse)), abs=1e-4)
    assert result.info["one_step_windows"] == len(STARTS) * HORIZON


@pytest.mark.parametrize("batch_size", [1, 3, 5])
def test_no_number_depends_on_the_batch_size(
    data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    predictor = Predictor(noise=0.2)
    two = evaluate(tmp_path / "two", predictor, monkeypatch)
    other = evaluate(tmp_path / "other", predictor, monkeypatch, replace(CONFIG, evaluation=replace(SETTINGS, batch_size=batch_size)))
    assert numbers(two) == pytest.approx(numbers(other), rel=1e-12)
    assert np.array_equal(np.load(tmp_path / "two" / "arrays.npz")["drift"], np.load(tmp_path / "other" / "arrays.npz")["drift"])


def test_trajectories_and_samples_have_noise_of_their_own(
    data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data["heldout"].frames[:] = 100 + torch.arange(60, dtype=torch.uint8)[:, None, None, None]  # the context tells rows apart, barely
    found = numbers(evaluate(tmp_path / "e", Predictor(noise=0.2), monkeypatch))
    arrays = np.load(tmp_path / "e" / "arrays.npz")
    assert len({round(float(value), 7) for value in arrays["samples_drift"].flatten()}) == arrays["samples_drift"].size
    assert found["drift_best_of_k", ""] < found["drift_mean_of_k", ""]
    other = replace(CONFIG, evaluation=replace(SETTINGS, seed=1))
    assert numbers(evaluate(tmp_path / "o", Predictor(noise=0.2), monkeypatch, other)) != found


def test_an_interrupted_evaluation_ends_with_the_same_numbers_and_redoes_no_finished_part(
    data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(tmp_path / "whole", Predictor(noise=0.1), monkeypatch)
    for stop in (2, 9, 14, 22):
        ticks: list[int] = []
        with pytest.raises(Interrupted):
            evaluate(
                tmp_path / "parts",
                Predictor(noise=0.1),
                monkeypatch,
                progress=lambda done, total, text, ticks=ticks: ticks.append(done),
                should_stop=lambda stop=stop, ticks=ticks: ticks[-1] >= stop,
            )
    (tmp_path / "parts" / "checkpoint" / "cpu" / "one-step-000000.npz").write_bytes(b"half a file")
    said: list[str] = []
    parts = evaluate(tmp_path / "parts", Predictor(noise=0.1), monkeypatch, say=said.append)
    assert any("damaged" in line for line in said)
    assert numbers(parts) == numbers(whole)
    assert (tmp_path / "parts" / "arrays.npz").read_bytes() == (tmp_path / "whole" / "arrays.npz").read_bytes()
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts" / "checkpoint").glob("cpu/*.npz")}
    evaluate(tmp_path / "parts", Predictor(noise=0.1), monkeypatch)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "parts" / "checkpoint").glob("cpu/*.npz")} == kept


def test_progress_adds_up(data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    evaluate(tmp_path / "e", Predictor(), monkeypatch, progress=lambda done, total, text: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen[1:]] == list(range(1, seen[-1][1] + 1))


def test_more_references_than_the_data_holds_are_refused(
    data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"7 reference trajectories .* hold 6"):
        evaluate(tmp_path / "e", Predictor(), monkeypatch, replace(CONFIG, evaluation=replace(SETTINGS, num_trajectories=7)))


def test_kept_frames_and_pictures(data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, evaluation=replace(SETTINGS, keep_frames=True))
    evaluate(tmp_path / "e", Predictor(), monkeypatch, config)
    frames = np.load(tmp_path / "e" / "frames.npy")
    assert frames.shape == (5, HORIZON, 3, 16, 16)
    pictured = np.load(tmp_path / "e" / "media" / "frames.npz")
    assert pictured["true"].shape == pictured["imagined"].shape == (4, HORIZON, 16, 16, 3)
    assert np.array_equal(pictured["imagined"], frames[:4].transpose(0, 1, 3, 4, 2))
    assert (tmp_path / "e" / "media" / "rollout.mp4").stat().st_size > 0


def test_each_number_knows_the_episode_it_comes_from(data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = evaluate(tmp_path / "e", Predictor(), monkeypatch)
    arrays = np.load(tmp_path / "e" / "arrays.npz")
    frames = data["heldout"].frames.double() / 255
    for row, episode in zip(arrays["drift"], arrays["episodes"], strict=True):
        levels = [start for start in STARTS if start // 20 == episode]
        curves = [[float((frames[s + CONTEXT + t] - frames[s + CONTEXT - 1]).abs().mean()) for t in range(HORIZON)] for s in levels]
        assert any(np.allclose(row, curve, atol=1e-6) for curve in curves)
    assert arrays["episodes"].dtype == np.int64
    assert arrays["sample_episodes"].tolist() == arrays["episodes"][:3].tolist()
    assert result.info["reference_episodes"] == len(set(arrays["episodes"].tolist()))


def test_one_reference_has_no_unrelated_frames(data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, evaluation=replace(SETTINGS, num_trajectories=1))
    found = numbers(evaluate(tmp_path / "e", Predictor(), monkeypatch, config))
    assert ("drift", "copy-last-frame") in found
    assert ("drift", "unrelated-frames") not in found
    assert not any(name.startswith("unrelated_") for name in np.load(tmp_path / "e" / "arrays.npz").files)


def test_equal_samples_score_their_distance_as_copying_does(
    data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = numbers(evaluate(tmp_path / "e", Predictor(), monkeypatch))
    arrays = np.load(tmp_path / "e" / "arrays.npz")
    for name in ("energy_score", "luminance_crps"):
        assert found[name, ""] == pytest.approx(found[name, "copy-last-frame"])
        assert found[name, ""] > 0
        assert arrays[f"samples_{name}"].shape == arrays[f"copy_samples_{name}"].shape == (3,)
    assert arrays["samples_ranks"].shape == (3, 3)
    assert arrays["samples_ranks"].sum() == 3 * 2 * 16
