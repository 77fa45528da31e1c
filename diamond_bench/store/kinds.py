"""The table of job kinds: what config each takes, what artifacts it needs, and the revision of its code."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from diamond_bench.config import (
    FRAME_RMS,
    ActorCriticConfig,
    AgentConfig,
    AgentEvaluationConfig,
    ConditioningConfig,
    DataConfig,
    EnvConfig,
    EvaluationConfig,
    ExecutionConfig,
    FactoredObjective,
    NetworkConfig,
    Objective,
    OdeSampler,
    ProbeConfig,
    Resources,
    RewardEndConfig,
    Sampler,
    TrainingConfig,
    WorldSettings,
    imported,
    setting,
    world_family,
)
from diamond_bench.store.cost import JobCost
from diamond_bench.typed import identity_fields


@dataclass(frozen=True)
class CollectDataset:
    """Config of `collect_dataset`: play a policy in a game, write a train and a held-out Minari dataset. Where the policy is an agent of
    the store, it is the input `agent`, and data.policy its name (kind/id)."""

    game: str
    env: EnvConfig = EnvConfig()
    data: DataConfig = DataConfig()


@dataclass(frozen=True)
class ImportDataset:
    """Config of `import_dataset`: the same artifact from somebody's Minari dataset (`data.dataset`)."""

    digest: str
    """SHA-256 over the foreign dataset's files."""
    env: EnvConfig = EnvConfig()
    data: DataConfig = DataConfig()


@dataclass(frozen=True)
class TrainWorldModel:
    """Config of `train_world_model`; its input `dataset` is a collected or imported dataset."""

    seed: int
    objective: Objective = FactoredObjective()
    conditioning: ConditioningConfig = ConditioningConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    execution: ExecutionConfig = ExecutionConfig()
    family: WorldSettings | None = None
    """The family of the world model; none is diamond, whose settings are the three groups after the seed."""


@dataclass(frozen=True)
class EvaluateWorldModel:
    """Config of `evaluate_world_model`; its inputs are `dataset` and `world_model` (a training, or an agent that has one; none where the
    family is not trained), and for the metric state `state_probe`, for fid `true_features`."""

    sampler: Sampler = OdeSampler()
    evaluation: EvaluationConfig = EvaluationConfig()
    execution: ExecutionConfig = ExecutionConfig()
    family: WorldSettings | None = None
    """The family of the world model; none is diamond. One that is not trained has no input `world_model`."""


@dataclass(frozen=True)
class TrainStateProbe:
    """Config of `train_state_probe`; its input `dataset` is a collected one, which says which game it is of. Always in fp32."""

    probe: ProbeConfig = ProbeConfig()
    execution: ExecutionConfig = ExecutionConfig()


@dataclass(frozen=True)
class ExtractFeatures:
    """Config of `extract_features`: the settings of an evaluation that choose the true frames of FID and KID. Its input is `dataset`.
    The network always runs in fp32."""

    seed: int
    num_trajectories: int
    horizon: int
    num_images: int
    execution: ExecutionConfig = ExecutionConfig()


@dataclass(frozen=True)
class TrainAgent:
    """Config of `train_agent`: play, learn a world model, learn to act in it (method section 6). Of `training` the optimiser alone counts:
    how many updates there are is said by `agent`."""

    game: str
    seed: int
    env: EnvConfig = EnvConfig()
    objective: Objective = FactoredObjective()
    conditioning: ConditioningConfig = ConditioningConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    sampler: Sampler = OdeSampler()
    reward_end: RewardEndConfig = RewardEndConfig()
    actor_critic: ActorCriticConfig = ActorCriticConfig()
    agent: AgentConfig = AgentConfig()
    execution: ExecutionConfig = ExecutionConfig()
    family: WorldSettings | None = None
    """A family that is not trained, in which the policy learns; none learns a world model."""


@dataclass(frozen=True)
class ImportAgent:
    """Config of `import_agent`: an agent from a checkpoint file in the authors' format."""

    digest: str
    """SHA-256 of the file."""
    game: str
    file: str = setting("", recorded=True)
    """Where the file lay."""
    frame_size: int | None = setting(None, minimum=1)
    """Side of its frames, where the file's tensors fit several; none tells it from the tensors."""
    sigma_data: float = setting(FRAME_RMS, minimum=1e-6)
    sigma_offset_noise: float = setting(FactoredObjective().sigma_offset_noise, minimum=0.0)
    """Constants of the objective that the file does not hold, though its weights mean something only with them."""

    @property
    def objective(self) -> FactoredObjective:
        """The objective that its denoiser was trained with, as far as it is known."""
        return FactoredObjective(sigma_data=self.sigma_data, sigma_offset_noise=self.sigma_offset_noise)


@dataclass(frozen=True)
class EvaluateAgent:
    """Config of `evaluate_agent`; its input `agent` is trained or imported, and says which game it plays."""

    env: EnvConfig = EnvConfig()
    evaluation: AgentEvaluationConfig = AgentEvaluationConfig()
    sampler: Sampler = OdeSampler()
    """How the imagination beside a video is sampled; neutral where there is no video."""
    execution: ExecutionConfig = ExecutionConfig()


PROFILED_UPDATES = ("denoiser_update", "reward_end_update", "actor_critic_update")
PROFILED = (
    *PROFILED_UPDATES,
    *("imagination_step", "next_frame", "denoiser_call", "reward_and_end", "action", "renewal", "loss_and_backward"),
    *("start_segments", "real_step", "peak_memory", "host_synchronisations"),
)
"""What a profile measures part by part; all else that it says is computed from these."""


@dataclass(frozen=True)
class Compared:
    """A way of execution that a profile is timed against. Device and threads are those of the profile; weights keep PyTorch's layout."""

    precision: Literal["fp32", "tf32", "bf16"]
    compile: Literal["none", "imagination", "all"]
    fused: bool
    """Whether the optimiser updates in few kernels."""


COMPARED: Mapping[str, Compared] = {
    "plain": Compared("fp32", "none", fused=False),
    "authors": Compared("tf32", "imagination", fused=True),
}
"""What a profile can be timed against, by the name that --compare takes."""


@dataclass(frozen=True)
class Profile:
    """Config of `profile`: how long the parts of a training take on one device, with random data. The only kind whose identity holds the
    device, the host, the software and all of how arithmetic is done: they change its times where they change no other result."""

    device_name: str
    """Model of the device, as the system or the driver names it."""
    executed: str
    """Every setting of training.execution but the device, as name=value, apart by spaces."""
    training: TrainAgent = TrainAgent("Breakout", 0)
    """The training whose parts are measured; its seed is that of the random data and weights."""
    compare: str = ""
    """What the configured execution is timed against, in turn: plain, authors, or nothing."""
    parts: str = ""
    """Of PROFILED what is measured, in its order, apart by commas; empty for all."""
    software: str = ""
    """Versions of torch and diamond-bench, and the commit where it is a checkout, else a digest of the code."""
    host: str = ""
    """Name of the machine, and how many of its cores the profile could use."""
    packed: tuple[int, ...] | None = None
    """Numbers of such trainings that are run at once, against one alone; none measures the parts of one."""
    mps: bool = False
    """Whether CUDA's Multi-Process Service is on meanwhile."""
    scale: str = setting("", recorded=True)
    """The scale's name, as tables show it."""

    @property
    def execution(self) -> ExecutionConfig:
        """That of the training."""
        return self.training.execution

    @property
    def measures(self) -> tuple[str, ...]:
        """Of PROFILED what is measured."""
        return tuple(self.parts.split(",")) if self.parts else PROFILED


@dataclass(frozen=True)
class Kind:
    """One kind of job."""

    config: type
    run: str
    """ "module:function" of its code, run(config, context) -> Result."""
    revision: int
    """Raised by hand when the code of the kind changes its results; part of every identity."""
    inputs: tuple[str, ...] = ()
    """Names of the artifacts it needs, in the order they are shown."""
    optional: tuple[str, ...] = ()
    """Names of artifacts it takes where they are given."""
    keeps_checkpoint: bool = False
    """Whether a done job keeps its checkpoint/ until `gc` (a training's holds the optimiser; the others' are of no more use)."""
    cost: str = "diamond_bench.store.cost:NOTHING"
    """ "module:object", a `JobCost` without torch: work, disk, speed, and how often the job saves. Planning and launching ask for it."""
    resources: Resources = Resources()
    """What its jobs ask of a cluster in place of the profile's general values. The profile's own group for the kind comes first."""

    def needs(self, config: Any) -> tuple[str, ...]:
        """Names of the artifacts that a job of this config needs."""
        trained = world_family(getattr(config, "family", None)).trained
        return tuple(name for name in self.inputs if trained or name != "world_model")

    @property
    def costs(self) -> JobCost:
        """What `cost` names."""
        found: JobCost = imported(self.cost)
        return found


_ON_CPU = Resources(gpus=0)
KINDS: dict[str, Kind] = {
    "collect_dataset": Kind(
        CollectDataset,
        "diamond_bench.jobs.collect_dataset:run",
        revision=1,
        optional=("agent",),
        cost="diamond_bench.costs.dataset:COST",
        resources=_ON_CPU,
    ),
    "import_dataset": Kind(
        ImportDataset,
        "diamond_bench.jobs.import_dataset:run",
        revision=2,
        cost="diamond_bench.costs.dataset:COST",
        resources=_ON_CPU,
    ),
    "train_world_model": Kind(
        TrainWorldModel,
        "diamond_bench.jobs.train_world_model:run",
        revision=2,
        inputs=("dataset",),
        keeps_checkpoint=True,
        cost="diamond_bench.costs.train_world_model:COST",
    ),
    "train_state_probe": Kind(
        TrainStateProbe,
        "diamond_bench.jobs.train_state_probe:run",
        revision=1,
        inputs=("dataset",),
        cost="diamond_bench.costs.train_state_probe:COST",
    ),
    "extract_features": Kind(
        ExtractFeatures,
        "diamond_bench.jobs.extract_features:run",
        revision=1,
        inputs=("dataset",),
        cost="diamond_bench.costs.extract_features:COST",
    ),
    "evaluate_world_model": Kind(
        EvaluateWorldModel,
        "diamond_bench.jobs.evaluate_world_model:run",
        revision=2,
        inputs=("dataset", "world_model"),
        optional=("state_probe", "true_features"),
        cost="diamond_bench.costs.evaluate_world_model:COST",
    ),
    "train_agent": Kind(
        TrainAgent,
        "diamond_bench.jobs.train_agent:run",
        revision=2,
        keeps_checkpoint=True,
        cost="diamond_bench.costs.train_agent:COST",
    ),
    "import_agent": Kind(ImportAgent, "diamond_bench.jobs.import_agent:run", revision=1, resources=_ON_CPU),
    "evaluate_agent": Kind(
        EvaluateAgent,
        "diamond_bench.jobs.evaluate_agent:run",
        revision=1,
        inputs=("agent",),
        cost="diamond_bench.costs.evaluate_agent:COST",
    ),
    "profile": Kind(Profile, "diamond_bench.profiling.profile:run", revision=2, cost="diamond_bench.costs.profile:COST"),
}


def family_revision(config: Any) -> int | None:
    """The present revision of the family of world models that a config names; None where it names none."""
    family = getattr(config, "family", None)
    return None if family is None else world_family(family).revision


def job_id(kind: str, config: Any, inputs: Mapping[str, str], revision: int | None = None, of_family: int | None = None) -> str:
    """The identity of a job: 16 hex digits of the SHA-256 of everything that can change its result.

    `revision` is that of the kind's code and `of_family` that of the config's family, by default the present ones. Artifacts of earlier
    revisions are checked with theirs.
    """
    revision = KINDS[kind].revision if revision is None else revision
    content: dict[str, Any] = {"kind": kind, "revision": revision, "config": identity_fields(config), "inputs": dict(inputs)}
    family = getattr(config, "family", None)
    if family is not None:
        content["family"] = [family.name, family_revision(config) if of_family is None else of_family]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
