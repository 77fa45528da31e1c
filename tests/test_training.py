"""Training: the optimiser's groups and warm-up, checkpoints, logs, and exact resume."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_files import GOLDEN
from torch import nn

from diamond_bench.config import FactoredObjective, NetworkConfig, TrainingConfig
from diamond_bench.data.rms import change_rms
from diamond_bench.data.static import DatasetInfo, EpisodeSet
from diamond_bench.errors import UserError
from diamond_bench.jobs import train_world_model as job
from diamond_bench.jobs.context import Interrupted, JobContext
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.store.kinds import TrainWorldModel
from diamond_bench.training.checkpoint import load_checkpoint, save_checkpoint
from diamond_bench.training.log import NotFinite, TrainingLog
from diamond_bench.training.optimizer import make_optimizer, parameter_groups, set_learning_rate
from diamond_bench.worlds.families import load_world_model

TRAINING = TrainingConfig(
    num_steps=9, batch_size=2, learning_rate=1e-3, milestones=(0.5, 1.0), checkpoint_every=3, log_every=2, warmup_steps=4
)
CONFIG = TrainWorldModel(
    seed=0, network=NetworkConfig(depths=(1, 1), channels=(8, 8), attention=(False, False), cond_channels=8), training=TRAINING
)


def test_decay_is_for_weights_of_linear_convolution_and_lstm_layers_alone() -> None:
    from diamond_bench.config import ConditioningConfig
    from diamond_bench.models.authors_names import network_name
    from diamond_bench.spaces import FrameSpec
    from diamond_bench.worlds.diamond.world import Description, build_diamond

    expected = json.loads((GOLDEN / "optimizer_groups.json").read_text())["denoiser"]
    model = build_diamond(Description(FactoredObjective(), ConditioningConfig(), NetworkConfig(), 4), FrameSpec.square(64))
    network = model.denoiser.network  # type: ignore[attr-defined]
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, 0.01)
    for group, key in zip(groups, ("decay", "no_decay"), strict=True):
        theirs = {network_name(name.removeprefix("inner_model.")) for name in expected[key]}
        assert {names[p] for p in group["params"]} == theirs  # type: ignore[attr-defined]
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0]
    lstm = parameter_groups(nn.LSTM(3, 4), 1.0)
    assert len(lstm[0]["params"]) == 2  # type: ignore[arg-type]


def test_warm_up_starts_from_exactly_zero() -> None:
    layer = nn.Linear(2, 2)
    optimizer = make_optimizer(layer, TRAINING)
    before = layer.weight.detach().clone()
    rates = []
    for step in range(6):
        rates.append(set_learning_rate(optimizer, TRAINING, step))
        layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        if step == 0:
            assert torch.equal(layer.weight, before)
    assert rates == pytest.approx([0, 2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3])
    assert not torch.equal(layer.weight, before)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, {"x": torch.full((2,), float(step))})
    newest = sorted(tmp_path.glob("step-*.pt"))
    assert len(newest) == 2
    content = bytearray(newest[-1].read_bytes())
    content[len(content) // 2] ^= 1
    newest[-1].write_bytes(content)
    said: list[str] = []
    found = load_checkpoint(tmp_path, said.append)
    assert found is not None
    assert found[0] == 2
    assert found[1]["x"].tolist() == [2.0, 2.0]
    assert "damaged" in said[0]
    assert newest[-1].with_suffix(".damaged").exists()


def test_a_pipe_or_a_folder_among_the_checkpoints_is_set_aside(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 3, {"a": torch.ones(2)})
    os.mkfifo(tmp_path / f"step-000000005-{'0' * 16}.pt")
    (tmp_path / f"step-000000004-{'0' * 16}.pt").mkdir()
    said: list[str] = []
    found = load_checkpoint(tmp_path, said.append)
    assert found is not None
    assert found[0] == 3
    assert len([line for line in said if "not a plain file" in line]) == 2
    assert len(list(tmp_path.glob("*.damaged"))) == 2


def test_the_log_is_cut_to_the_checkpoint_and_goes_on_where_it_was(tmp_path: Path) -> None:
    def log(step: int, pending: torch.Tensor) -> TrainingLog:
        return TrainingLog(tmp_path, ("loss",), 3, step, pending)

    first = log(0, torch.zeros(0, 1))
    for step in range(1, 5):
        first.add({"loss": torch.tensor(float(step))})
    pending = first.pending()
    for step in range(5, 8):
        first.add({"loss": torch.tensor(float(step))})
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    second = log(4, pending)
    for step in range(5, 8):
        second.add({"loss": torch.tensor(float(step))})
    second.write()
    second.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 3, "loss": 2.0}, {"step": 6, "loss": 5.0}, {"step": 7, "loss": 7.0}]


def test_the_log_names_the_update_that_was_not_finite(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, ("loss", "grad_norm"), 10, 20, torch.zeros(0, 2))
    for loss, norm in ((1.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0)):
        log.add({"loss": torch.tensor(loss), "grad_norm": torch.tensor(norm)})
    with pytest.raises(NotFinite, match=r"update 22: .*grad_norm inf"):
        log.pending()
    log.close()


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> EpisodeSet:
    """40 frames of noise in two episodes, in place of a dataset on disk."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (40, 3, 16, 16), generator=generator, dtype=torch.uint8)
    flags = torch.zeros(40, dtype=torch.bool)
    episodes = EpisodeSet(
        frames,
        torch.randint(0, 4, (40,), generator=generator),
        torch.zeros(40),
        flags,
        flags,
        torch.tensor([0, 25]),
        torch.tensor([25, 15]),
    )
    monkeypatch.setattr("diamond_bench.data.sources.load_episodes", lambda folder: episodes)
    spec = WorldSpec(FrameSpec.square(16), ActionSpec.discrete(4))
    monkeypatch.setattr(job, "load_info", lambda folder: DatasetInfo(spec, 40, 0, {}))
    return episodes


def train(folder: Path, stop_after: int | None = None, config: TrainWorldModel = CONFIG) -> list[int]:
    """Runs the job, asked to stop after that many updates; returns the progress it reported."""
    folder.mkdir(exist_ok=True)
    seen: list[int] = []
    context = JobContext(
        folder,
        {"dataset": folder},
        "cpu",
        progress=lambda done, total, text: seen.append(done),
        should_stop=lambda: stop_after is not None and seen[-1] >= stop_after,
        say=lambda text: None,
    )
    job.run(config, context)
    return seen


def artifact(folder: Path) -> dict[str, bytes]:
    files = [*(path for path in folder.glob("models/**/*") if path.is_file()), folder / "metrics.jsonl"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_an_interrupted_training_ends_with_the_same_bytes(data: EpisodeSet, tmp_path: Path) -> None:
    train(tmp_path / "whole")
    whole = artifact(tmp_path / "whole")
    assert set(whole) >= {"models/0.5/model.safetensors", "models/1/model.safetensors", "metrics.jsonl"}
    for stop_after in (1, 4, 5, 8):
        parts = tmp_path / f"stopped after {stop_after}"
        with pytest.raises(Interrupted, match=f"update {stop_after} of 9"):
            train(parts, stop_after)
        assert train(parts)[:2] == [stop_after, stop_after + 1]
        assert artifact(parts) == whole


def test_a_measured_sigma_data_and_averaged_weights_survive_an_interruption(
    data: EpisodeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = FactoredObjective(coordinate="change", sigma_data="measured", sigma_offset_noise=0.0, quantization="round")
    config = replace(CONFIG, objective=objective, training=replace(TRAINING, ema=0.5))
    train(tmp_path / "whole", config=config)
    with pytest.raises(Interrupted, match="update 5 of 9"):
        train(tmp_path / "parts", 5, config)
    with monkeypatch.context() as patched:
        patched.setattr("diamond_bench.worlds.diamond.world.change_rms", lambda episodes: 1 / 0)  # it is not measured again
        train(tmp_path / "parts", config=config)
    whole = artifact(tmp_path / "whole")
    assert artifact(tmp_path / "parts") == whole
    model = load_world_model(tmp_path / "parts" / "models" / "1", FrameSpec.square(16))
    average = load_world_model(job.model_folder(tmp_path / "parts", 1.0, "ema"), FrameSpec.square(16))
    described = json.loads(whole["models/1/model.json"])
    assert described["objective"]["sigma_data"] == "measured"
    assert model.measured == average.measured == {"sigma_data": described["sigma_data"]}
    assert described["sigma_data"] == pytest.approx(change_rms(data))
    first, last = (dict(world.networks["denoiser"].named_parameters()) for world in (average, model))
    assert any(not torch.equal(first[name], last[name]) for name in last)


def test_another_seed_gives_other_weights(data: EpisodeSet, tmp_path: Path) -> None:
    train(tmp_path / "a")
    train(tmp_path / "b", config=replace(CONFIG, seed=1))
    assert artifact(tmp_path / "a")["models/1/model.safetensors"] != artifact(tmp_path / "b")["models/1/model.safetensors"]


def test_a_loss_that_is_no_number_stops_the_job_and_keeps_the_last_good_checkpoint(
    data: EpisodeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diamond_bench.diffusion.denoiser import Denoiser

    sound, calls = Denoiser.training_loss, []

    def breaks(self: Denoiser, *arguments: Any, **named: Any) -> object:
        calls.append(1)
        loss, metrics = sound(self, *arguments, **named)
        return (loss * float("nan") if len(calls) == 5 else loss), metrics

    monkeypatch.setattr(Denoiser, "training_loss", breaks)
    with pytest.raises(UserError, match=r"update 5: not finite .*step-000000004"):
        train(tmp_path / "t")
    found = load_checkpoint(tmp_path / "t" / "checkpoint", print)
    assert found is not None
    assert found[0] == 4  # the milestone at half of 9 updates
    assert all(torch.isfinite(value).all() for value in found[1]["denoiser"].values())


def test_training_lowers_the_loss_on_a_still_picture(data: EpisodeSet, tmp_path: Path) -> None:
    data.frames.copy_(data.frames[:1].expand_as(data.frames))
    config = replace(CONFIG, training=replace(TRAINING, num_steps=60, batch_size=8, log_every=10, checkpoint_every=1000))
    train(tmp_path / "t", config=config)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "t" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0]


def test_train_loss_does_not_depend_on_how_often_lines_are_logged(data: EpisodeSet, tmp_path: Path) -> None:
    losses = []
    for every in (1, 4):
        (tmp_path / str(every)).mkdir()
        result = job.run(
            replace(CONFIG, training=replace(TRAINING, log_every=every)), JobContext(tmp_path / str(every), {"dataset": tmp_path})
        )
        losses.append({row.metric: row.value for row in result.rows if not row.measured})
    assert losses[0] == losses[1]
    lines = [json.loads(line)["loss"] for line in (tmp_path / "1" / "metrics.jsonl").read_text().splitlines()]
    assert losses[0]["train_loss"] == pytest.approx(sum(lines) / len(lines), rel=1e-6)


def test_a_checkpoint_holds_what_earlier_versions_wrote_so_that_theirs_are_resumed(data: EpisodeSet, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path / "t", 4)
    (_, state) = load_checkpoint(tmp_path / "t" / "checkpoint", print) or (0, {})
    assert set(state) - {"precision"} == {"device", "compile", "pending", "recent", "denoiser", "optimizer", "generator", "seconds"}


def test_a_checkpoint_of_another_kind_of_device_is_not_gone_on_with(data: EpisodeSet, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path / "t", 4)
    (step, state) = load_checkpoint(tmp_path / "t" / "checkpoint", print) or (0, {})
    save_checkpoint(tmp_path / "t" / "checkpoint", step + 1, {**state, "device": "cuda"})
    assert train(tmp_path / "t")[:2] == [0, 1]
