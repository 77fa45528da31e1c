"""A metric added to a finished evaluation measures the frames that it kept, and imagines nothing again."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_evaluation import CONFIG, SETTINGS, Predictor, evaluate
from test_evaluation import data as data  # a fixture

from diamond_bench.config import OdeSampler
from diamond_bench.data.static import EpisodeSet
from diamond_bench.jobs import evaluate_world_model as job
from diamond_bench.jobs.context import JobContext, Result
from diamond_bench.launch.attempt import plain
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import EvaluateWorldModel
from diamond_bench.store.twins import Twin, find_twin

PLACE = {"device": "cpu", "device_name": "a CPU", "num_threads": 2, "torch": "2"}
INPUTS = {"dataset": JobRef("collect_dataset", "0" * 16), "world_model": JobRef("train_world_model", "1" * 16)}
KEEPING = replace(CONFIG, evaluation=replace(SETTINGS, metrics=("drift",), keep_frames=True))
MORE = replace(CONFIG, evaluation=replace(SETTINGS, metrics=("ssim", "drift", "psnr")))


def finished(store: Store, config: EvaluateWorldModel, monkeypatch: pytest.MonkeyPatch) -> JobSpec:
    """The evaluation of a predictor, done in a store."""
    spec = JobSpec("evaluate_world_model", config, INPUTS)
    store.prepare(spec)
    claim = store.claim(spec.ref)
    assert claim is not None
    result = evaluate(claim.folder, Predictor(noise=0.1), monkeypatch, config)
    recorded = {**PLACE, "revision": 2, "versions": {"torch": "2"}}
    claim.finish({"rows": [asdict(row) for row in result.rows], "info": plain(result.info), "recorded": recorded})
    return store.spec(spec.ref)


def looked_up(store: Store, config: EvaluateWorldModel, place: dict[str, Any] = PLACE) -> Twin | None:
    spec = JobSpec("evaluate_world_model", config, INPUTS, 2)
    return find_twin(store, spec, place, job._without_metrics, ("dataset", "world_model"))


def measured(folder: Path, config: EvaluateWorldModel, twin: Callable[[Any, Sequence[str]], Twin | None]) -> Result:
    folder.mkdir()
    return job.run(config, JobContext(folder, {"dataset": folder, "world_model": folder}, twin=twin))


def test_kept_frames_are_measured_and_nothing_is_imagined(
    data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "outputs", say=lambda text: None)
    kept = finished(store, KEEPING, monkeypatch)
    imagined = evaluate(tmp_path / "imagined", Predictor(noise=0.1), monkeypatch, MORE)

    def fail(*_: object) -> None:
        raise AssertionError("a world model was loaded")

    monkeypatch.setattr(job, "loaded_world", fail)
    spec = JobSpec("evaluate_world_model", MORE, INPUTS, 2)
    read = measured(tmp_path / "read", MORE, partial(find_twin, store, spec, PLACE))
    assert [row for row in read.rows if not row.measured] == [row for row in imagined.rows if not row.measured]
    assert (tmp_path / "read" / "arrays.npz").read_bytes() == (tmp_path / "imagined" / "arrays.npz").read_bytes()
    assert read.info["frames_read"] == {"kept_by": str(kept.ref), "files": ["frames.npy", "one_step.npy", "samples.npy"]}
    assert "work" not in read.info, "nothing was imagined, so nothing says how fast"
    prices = {row["metric"]: row["value"] for row in store.result(kept.ref).rows if row["measured"]}
    assert {row.metric: row.value for row in read.rows if row.measured} == prices


def test_play_that_was_not_kept_is_imagined(data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after somebody removed a part of the kept frames."""
    store = Store(tmp_path / "outputs", say=lambda text: None)
    finished(store, KEEPING, monkeypatch)
    twin = looked_up(store, MORE)
    assert twin is not None
    some = replace(twin, files={"frames.npy": twin.files["frames.npy"]})
    imagined = evaluate(tmp_path / "imagined", Predictor(noise=0.1), monkeypatch, MORE)
    read = measured(tmp_path / "read", MORE, lambda *_: some)
    assert [row for row in read.rows if not row.measured] == [row for row in imagined.rows if not row.measured]
    assert read.info["frames_read"]["files"] == ["frames.npy"]


def test_only_the_same_play_is_read(data: dict[str, EpisodeSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    store = Store(tmp_path / "outputs", say=said.append)
    kept = finished(store, KEEPING, monkeypatch)
    twin = looked_up(store, MORE)
    assert twin is not None
    assert twin.ref == kept.ref
    assert looked_up(store, replace(MORE, sampler=OdeSampler(num_steps=7))) is None
    assert looked_up(store, replace(MORE, evaluation=replace(MORE.evaluation, seed=1))) is None
    assert looked_up(store, MORE, {**PLACE, "device": "cuda"}) is None
    assert looked_up(store, MORE, {**PLACE, "torch": "3"}) is None
    assert looked_up(store, KEEPING) is None, "a job is no twin of its own"
    file = store.folder(kept.ref) / "samples.npy"
    content = np.fromfile(file, np.uint8)
    content[-1] ^= 1
    content.tofile(file)
    twin = looked_up(store, MORE)
    assert twin is not None
    assert set(twin.files) == {"frames.npy", "one_step.npy"}
    assert "samples.npy" in said[-1]
