"""The parts of an evaluation: each imagines a batch of play, or reads it, and measures it."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch

from diamond_bench.config import EvaluationConfig
from diamond_bench.data.references import Windows
from diamond_bench.diffusion.quantization import from_bytes, to_bytes
from diamond_bench.evaluation.estimates import estimates
from diamond_bench.evaluation.fixed_actions import as_arrays, fixed_actions, imagine_fixed
from diamond_bench.evaluation.outcomes import OutcomeModel
from diamond_bench.evaluation.play import Frames
from diamond_bench.jobs.held_actions import HeldPlay
from diamond_bench.jobs.parts import Arrays, Parts
from diamond_bench.jobs.true_play import true_play
from diamond_bench.metrics.header import ALTERED_FRAMES, PICTURED, Play
from diamond_bench.metrics.metric import Metric
from diamond_bench.metrics.play import (
    ALTERED_STREAM,
    ESTIMATES_STREAM,
    MODES_STREAM,
    ONE_STEP_STREAM,
    ROLLOUT_STREAM,
    SAMPLES_STREAM,
    Batch,
    Forks,
    Key,
    Meter,
    Shown,
    WindowBatch,
    copy_last,
    window_batch,
    with_random_actions,
)
from diamond_bench.models.vq_tokenizer import code_counts
from diamond_bench.spaces import ActionSpec
from diamond_bench.store.kinds import EvaluateWorldModel
from diamond_bench.store.twins import Twin
from diamond_bench.worlds.contract import Estimating, Reconstructing, WorldModel
from diamond_bench.worlds.oracle.world import OracleWorld

_ONE_STEP_BATCH = 64
_ESTIMATES_BATCH = 16


@dataclass(frozen=True)
class Work:
    """The data that all parts share."""

    config: EvaluateWorldModel
    parts: Parts
    world: WorldModel | None
    """None if all frames are read or given."""
    reconstructs: bool
    """Whether `world` has a tokenizer."""
    twin: Twin | None
    """The evaluation whose frames are read in place of imagining them."""
    frames: Mapping[Play, Frames]
    """The source of the frames of each kind of play."""
    batches: Mapping[Play, Sequence[range]]
    """The rows of each part, by kind of play."""
    metrics: Mapping[str, Metric]
    meters: Sequence[Meter]
    references: Windows
    one_step: Windows
    estimated: Windows
    """The one-step windows with estimates of the clean frame."""
    forks: Forks | None
    """Present if a metric measures forks."""
    held: HeldPlay | None
    """Present if a metric measures held play."""
    outcomes: OutcomeModel | None
    """Present if a metric measures predicted rewards and ends."""
    actions: ActionSpec
    game: OracleWorld | None
    """The game itself. Present if a metric compares altered play with it, and it can be replayed."""

    @property
    def settings(self) -> EvaluationConfig:
        """The settings of the evaluation."""
        return self.config.evaluation

    def keys(self, stream: int, rows: range, num_samples: int | None = None) -> list[Key]:
        """The seeds of the noise of these rows, or of K samples of each."""
        seed = self.settings.seed
        if num_samples is None:
            return [(seed, stream, i) for i in rows]
        return [(seed, stream, i, k) for i in rows for k in range(num_samples)]

    def measure(self, batch: Batch) -> Arrays:
        """The arrays of all metrics. Held play and outcomes are measured by the metrics that name them."""
        pairs = zip(self.metrics.values(), self.meters, strict=True)
        asked = [meter for metric, meter in pairs if batch.kind not in ("held", "outcomes") or batch.kind in metric.play]
        return {name: values for meter in asked for name, values in meter.measure(batch).items()}

    def kept(self, frames: torch.Tensor) -> Arrays:
        """The frames of a part, if all imagined frames are to be kept."""
        return {"frames": frames.cpu().numpy()} if self.settings.keep_frames else {}


def _batches(total: int, size: int) -> list[range]:
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


def kind_batches(settings: EvaluationConfig, kinds: Collection[Play], one_step: int, forks: int, estimated: int) -> dict[Play, list[range]]:
    """The batches of each kind of play. A kind that is not among `kinds` has none."""
    references, starts = settings.batch_size, max(1, settings.batch_size // settings.num_samples)
    sizes: dict[Play, tuple[int, int]] = {
        "rollouts": (settings.num_trajectories, references),
        "one_step": (one_step, _ONE_STEP_BATCH),
        "samples": (settings.num_sample_starts, starts),
        "forks": (forks, starts),
        "altered": (settings.num_trajectories, references),
        "estimates": (estimated, _ESTIMATES_BATCH),
        "outcomes": (settings.num_trajectories, references),
    }
    return {kind: _batches(*size) if kind in kinds else [] for kind, size in sizes.items()}


def count_ticks(settings: EvaluationConfig, batches: Mapping[Play, Sequence[range]], meters: Sequence[Meter]) -> int:
    """Progress of the whole job: one tick per imagined batch of frames, and those of the metrics."""
    rollouts = sum(settings.horizon + 1 + _metric_ticks(meters, rows) for rows in batches["rollouts"])
    frames: dict[Play, int] = {"samples": settings.sample_horizon, "one_step": 1, "forks": 1, "altered": ALTERED_FRAMES, "estimates": 1}
    frames["outcomes"] = 2 * settings.horizon
    return rollouts + sum(n * len(batches[kind]) for kind, n in frames.items()) + (settings.horizon if settings.fixed_actions else 0)


def _metric_ticks(meters: Sequence[Meter], rows: range) -> int:
    return sum(meter.ticks(rows) for meter in meters)


def rollout_part(work: Work, rows: range) -> Arrays:
    """Measurements of a batch of references imagined to the horizon, its seconds, and the kept frames."""

    def compute() -> Arrays:
        play, keys = window_batch(work.references, rows, work.settings.horizon), work.keys(ROLLOUT_STREAM, rows)
        started = time.perf_counter()
        frames = work.frames["rollouts"](rows, play, keys)
        if frames.is_cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        kept = len(rows) if work.settings.keep_frames else max(0, min(rows.stop, PICTURED) - rows.start)
        extra = {"seconds": np.array([seconds]), "frames": frames[:kept].cpu().numpy()}
        return work.measure(Batch("rollouts", frames, play, rows, keys, tick=work.parts.tick)) | extra

    ticks = work.settings.horizon + _metric_ticks(work.meters, rows)
    return work.parts.get(f"rollout-{rows.start:06d}", "imagining references", ticks, compute)


def baselines_part(work: Work, rows: range) -> Arrays:
    """The same measurements for the copied last frame, for unrelated true frames and for the true frames themselves."""

    def compute() -> Arrays:
        play = window_batch(work.references, rows, work.settings.horizon)
        shown: dict[Shown, torch.Tensor] = {"copy": copy_last(play)}
        if work.settings.num_trajectories > 1:  # with one reference, no other is unrelated
            others = [(i + 1) % work.settings.num_trajectories for i in rows]
            shown["unrelated"] = window_batch(work.references, others, work.settings.horizon).true
        shown["true"] = play.true
        keys = work.keys(ROLLOUT_STREAM, rows)
        found = {
            f"{name}_{key}": values
            for name, frames in shown.items()
            for key, values in work.measure(Batch("rollouts", frames, play, rows, keys, name)).items()
        }
        work.parts.tick()
        return found

    return work.parts.get(f"baselines-{rows.start:06d}", "measuring baselines", 1, compute)


def reconstructions_part(work: Work, rows: range) -> Arrays:
    """The same measurements for the true frames after the model's tokenizer, and the counts of its codes, (n, codes)."""

    def compute() -> Arrays:
        play, keys = window_batch(work.references, rows, work.settings.horizon), work.keys(ROLLOUT_STREAM, rows)
        world = cast(Reconstructing, work.world)
        shown = [world.reconstruct(from_bytes(frames)) for frames in play.true]
        frames = torch.stack([to_bytes(one.frames) for one in shown])
        counts = torch.stack([code_counts(one.tokens, world.num_codes).sum(0) for one in shown])
        found = work.measure(Batch("rollouts", frames, play, rows, keys, "reconstructed")) | {"code_counts": counts.cpu().numpy()}
        work.parts.tick()
        return {f"reconstructed_{name}": values for name, values in found.items()}

    return work.parts.get(f"reconstructions-{rows.start:06d}", "measuring the tokenizer", 1, compute)


def altered_part(work: Work, rows: range) -> Arrays:
    """The first frames of the same references with the same noise, under random actions."""

    def compute() -> Arrays:
        play = window_batch(work.references, rows, ALTERED_FRAMES)
        other = with_random_actions(play, work.actions, work.keys(ALTERED_STREAM, rows))
        frames = work.frames["altered"](rows, other, keys := work.keys(ROLLOUT_STREAM, rows))
        return work.measure(Batch("altered", frames, other, rows, keys)) | work.kept(frames)

    return work.parts.get(f"altered-{rows.start:06d}", "imagining other actions", ALTERED_FRAMES, compute)


def altered_truth_part(work: Work, rows: range) -> Arrays:
    """The game itself from the same references and under the same random actions. Names of its arrays begin with `true_`."""

    def compute() -> Arrays:
        assert work.game is not None
        play, keys = window_batch(work.references, rows, ALTERED_FRAMES), work.keys(ROLLOUT_STREAM, rows)
        other = with_random_actions(play, work.actions, work.keys(ALTERED_STREAM, rows))
        imposed = other.actions[:, play.context - 1 : -1].cpu().numpy()
        frames, lengths = true_play(work.game, other, list(imposed), ALTERED_FRAMES, keys, work.parts.tick)
        found = work.measure(Batch("altered", frames.to(other.frames.device), other, rows, keys, "true", lengths=lengths))
        return {f"true_{name}": values for name, values in found.items()}

    return work.parts.get(f"altered-true-{rows.start:06d}", "playing other actions", len(rows), compute)


def estimates_part(work: Work, rows: range) -> Arrays:
    """Measurements of estimates of the clean frame, with the true actions and with one of them replaced."""

    def compute() -> Arrays:
        play, keys = window_batch(work.estimated, rows, 1), work.keys(ESTIMATES_STREAM, rows)
        frames = estimates(cast(Estimating, work.world), play, work.actions, keys)
        work.parts.tick()
        return work.measure(Batch("estimates", frames, play, rows, keys))

    return work.parts.get(f"estimates-{rows.start:06d}", "estimating clean frames", 1, compute)


def outcomes_part(work: Work, rows: range) -> Arrays:
    """Measurements of predicted rewards and ends, along the model's own frames and along the true ones."""

    def compute() -> Arrays:
        assert work.outcomes is not None
        play, keys = window_batch(work.references, rows, work.settings.horizon), work.keys(ROLLOUT_STREAM, rows)
        batch = Batch("outcomes", play.frames[:, :0], play, rows, keys)
        own, forced = (predict(play, keys, work.parts.tick) for predict in (work.outcomes.free_running, work.outcomes.teacher_forced))
        true = work.measure(replace(batch, predicted=forced, shown="true"))
        return work.measure(replace(batch, predicted=own)) | {f"true_{name}": values for name, values in true.items()}

    return work.parts.get(f"outcomes-{rows.start:06d}", "predicting rewards and ends", 2 * work.settings.horizon, compute)


def one_step_part(work: Work, rows: range) -> Arrays:
    """Measurements of frames predicted from true ones."""

    def compute() -> Arrays:
        play, keys = window_batch(work.one_step, rows, 1), work.keys(ONE_STEP_STREAM, rows)
        frames = work.frames["one_step"](rows, play, keys)
        return work.measure(Batch("one_step", frames, play, rows, keys)) | work.kept(frames)

    return work.parts.get(f"one-step-{rows.start:06d}", "predicting one step", 1, compute)


def samples_part(work: Work, rows: range) -> Arrays:
    """Measurements of the sampled futures of references."""
    play = window_batch(work.references, rows, work.settings.sample_horizon)
    return _sampled(work, "samples", rows, play, SAMPLES_STREAM, f"samples-{rows.start:06d}", "sampling futures")


def forks_part(work: Work, forks: Forks, rows: range) -> Arrays:
    """Measurements of the samples of forks."""
    return _sampled(
        work, "forks", rows, window_batch(forks.windows, rows, 1), MODES_STREAM, f"modes-{rows.start:06d}", "sampling next frames"
    )


def _sampled(work: Work, kind: Play, rows: range, play: WindowBatch, stream: int, part: str, text: str) -> Arrays:
    """K futures of each row with the same actions, each with its own noise."""
    k = work.settings.num_samples

    def compute() -> Arrays:
        keys = work.keys(stream, rows, k)
        frames = work.frames[kind](rows, play.repeated(k), keys)
        frames = frames.reshape(len(rows), k, *frames.shape[1:])
        return work.measure(Batch(kind, frames, play, rows, keys)) | work.kept(frames)

    return work.parts.get(part, text, play.true.shape[1], compute)


def fixed_actions_part(work: Work) -> Arrays:
    """The first reference under each fixed action of the game."""
    assert work.world is not None
    world = work.world
    actions = torch.stack(list(fixed_actions(world.spec.actions).values()))

    def compute() -> Arrays:
        play = window_batch(work.references, range(1), work.settings.horizon)
        return as_arrays(world.spec.actions, imagine_fixed(world, play, actions, work.keys(ROLLOUT_STREAM, range(1))[0], work.parts.tick))

    return work.parts.get("fixed-actions", "imagining fixed actions", work.settings.horizon, compute)
