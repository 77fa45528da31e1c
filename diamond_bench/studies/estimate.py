"""What a plan would cost: device hours and disk, from counted arithmetic and a rate that is measured where it can be."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from diamond_bench.diffusion.schedules import nfe
from diamond_bench.models.flops import denoiser_flops, denoiser_parameters
from diamond_bench.studies.jobspec import JobRef, JobSpec
from diamond_bench.studies.kinds import CollectDataset, EvaluateWorldModel, ImportDataset, TrainWorldModel
from diamond_bench.studies.store import Store

ASSUMED = {"cpu": 6e10, "cuda": 3e13}
"""FLOP/s assumed where the store holds no finished job of a kind: two laptop cores, a data-centre GPU. Orders of magnitude."""
_EMULATOR_STEPS_PER_SECOND = 1500.0
_MOST_ACTIONS = 18


@dataclass(frozen=True)
class Estimate:
    """The cost of jobs still to run."""

    jobs: int
    device_hours: float
    gigabytes: float
    basis: str
    """Where the rates come from."""


def estimate(specs: Mapping[JobRef, JobSpec], missing: Iterable[JobRef], store: Store) -> Estimate:
    """Sums what the missing jobs of a plan take, at rates measured in this store or, failing that, assumed."""
    device = "cuda" if Path("/dev/nvidia0").exists() else "cpu"
    seconds, size, count = 0.0, 0.0, 0
    rates: dict[str, float | None] = {}
    for ref in missing:
        spec = specs[ref]
        work = job_work(spec, specs)
        if spec.kind not in rates:
            rates[spec.kind] = _measured_rate(spec.kind, store)
        default = _EMULATOR_STEPS_PER_SECOND if not spec.inputs else ASSUMED[device]
        seconds += work / (rates[spec.kind] or default)
        size += _bytes(spec, specs)
        count += 1
    measured = sorted(kind for kind, rate in rates.items() if rate)
    assumed = sorted(kind for kind, rate in rates.items() if not rate)
    parts = []
    if measured:
        parts.append(f"rates of {', '.join(measured)} measured on jobs in this store")
    if assumed:
        rate = f"{ASSUMED[device]:.0e} FLOP/s, {_EMULATOR_STEPS_PER_SECOND:.0f} game steps/s"
        parts.append(f"rates of {', '.join(assumed)} assumed ({rate})")
    basis = "; ".join(parts)
    return Estimate(count, seconds / 3600, size / 1e9, basis)


def job_work(spec: JobSpec, specs: Mapping[JobRef, JobSpec]) -> float:
    """The work of a job: frames for a dataset, floating-point operations for all else."""
    config = spec.config
    if isinstance(config, (CollectDataset, ImportDataset)):
        data = config.data
        return data.num_train_frames + data.num_references * (data.reference_context + data.reference_horizon) * 1.5
    training = _training(spec, specs)
    forward = denoiser_flops(training.network, training.conditioning.num_frames, _frame_size(spec, specs))
    if isinstance(config, TrainWorldModel):
        terms = config.training.num_autoregressive_steps + 1
        return 3 * forward * terms * config.training.batch_size * config.training.num_steps
    assert isinstance(config, EvaluateWorldModel)
    evaluation = config.evaluation
    sampled = evaluation.num_sample_starts * evaluation.num_samples * evaluation.sample_horizon
    return forward * nfe(config.sampler) * (evaluation.num_trajectories * evaluation.horizon + evaluation.num_one_step + sampled)


def _bytes(spec: JobSpec, specs: Mapping[JobRef, JobSpec]) -> float:
    config, frame = spec.config, 3 * _frame_size(spec, specs) ** 2
    if isinstance(config, (CollectDataset, ImportDataset)):
        return job_work(spec, specs) * (frame + 200)
    training = _training(spec, specs)
    weights = 4 * denoiser_parameters(training.network, training.conditioning.num_frames, _MOST_ACTIONS)
    if isinstance(config, TrainWorldModel):
        return weights * (len(config.training.milestones) + 2 * 3)  # each resumable state holds Adam's two moments too
    assert isinstance(config, EvaluateWorldModel)
    evaluation = config.evaluation
    steps = evaluation.num_trajectories * evaluation.horizon
    return steps * (8 * 4 + (frame if evaluation.keep_frames else 0)) + 50 * frame


def _training(spec: JobSpec, specs: Mapping[JobRef, JobSpec]) -> TrainWorldModel:
    config = spec.config if isinstance(spec.config, TrainWorldModel) else specs[spec.inputs["world_model"]].config
    assert isinstance(config, TrainWorldModel)
    return config


def _frame_size(spec: JobSpec, specs: Mapping[JobRef, JobSpec]) -> int:
    dataset = spec if not spec.inputs else specs[spec.inputs["dataset"]]
    return dataset.config.env.frame_size


def _measured_rate(kind: str, store: Store, most: int = 20) -> float | None:
    """Median work per second of finished jobs of a kind, as they recorded it in their facts (`work`, `work_seconds`)."""
    rates = []
    for ref in [ref for ref, state in store.states().items() if ref.kind == kind and state.status == "done"][:most]:
        info = store.result(ref).info
        if info.get("work_seconds"):
            rates.append(info["work"] / info["work_seconds"])
    return statistics.median(rates) if rates else None
