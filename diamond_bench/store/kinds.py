"""The table of job kinds: the config and the artifacts that each takes, and the revision of its code."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    Resources,
    RewardEndConfig,
    Sampler,
    TrainingConfig,
    WorldSettings,
    imported,
    predicts_outcomes,
    setting,
    world_family,
)
from diamond_bench.store.cost import JobCost
from diamond_bench.store.dataset_kinds import ExtractClipFeatures as ExtractClipFeatures
from diamond_bench.store.dataset_kinds import ExtractFeatures as ExtractFeatures
from diamond_bench.store.dataset_kinds import TrainInverseDynamics as TrainInverseDynamics
from diamond_bench.store.dataset_kinds import TrainStateProbe as TrainStateProbe
from diamond_bench.store.profiled import PACKING_PAIRS, PROFILED
from diamond_bench.typed import identity_fields


@dataclass(frozen=True)
class CollectDataset:
    """Config of `collect_dataset`: plays a policy in a game and writes a training and a held-out Minari dataset. If the policy is an agent
    of the store, it is the input `agent`, and data.policy its name (kind/id)."""

    game: str
    env: EnvConfig = EnvConfig()
    data: DataConfig = DataConfig()


@dataclass(frozen=True)
class ImportDataset:
    """Config of `import_dataset`: the same artifact from the user's own Minari dataset (`data.dataset`)."""

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
    """The family of the world model. None is diamond, whose settings are the three groups after the seed."""


@dataclass(frozen=True)
class GivenFrames:
    """Frames that somebody imagined elsewhere, in a folder that `diamond-bench score` reads."""

    digest: str
    """SHA-256 over the files of frames."""
    starts: str
    """SHA-256 over the starts, actions and true frames for which they were imagined."""
    plays: tuple[str, ...]
    """The kinds of play in the folder."""
    folder: str = setting("", recorded=True)
    """The path of the folder."""


@dataclass(frozen=True)
class EvaluateWorldModel:
    """Config of `evaluate_world_model`. Its inputs are `dataset` and `world_model` (a training, or an agent with a world model; missing if
    the family is not trained, or the frames are given), `state_probe` for the metric state, `inverse_dynamics` for action_accuracy,
    `true_features` for fid and kid, and `true_clips` for fvd and kvd."""

    sampler: Sampler = OdeSampler()
    evaluation: EvaluationConfig = EvaluationConfig()
    execution: ExecutionConfig = ExecutionConfig()
    family: WorldSettings | None = None
    """The family of the world model. None is diamond. A family that is not trained has no input `world_model`."""
    given: GivenFrames | None = None
    """The frames to measure in place of imagined ones. None imagines them."""


@dataclass(frozen=True)
class TrainAgent:
    """Config of `train_agent`: play, learn a world model, learn to act in it (method section 6). `training` provides only the optimiser's
    settings, and `agent` the numbers of updates."""

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
    """The family of the world model in which the policy learns. None is diamond."""

    @property
    def trains_world_model(self) -> bool:
        """Whether a world model is trained."""
        return not self.agent.model_free and world_family(self.family).trained

    @property
    def trains_reward_end(self) -> bool:
        """Whether a separate model of rewards and ends is trained."""
        return self.trains_world_model and not predicts_outcomes(self)


@dataclass(frozen=True)
class ImportAgent:
    """Config of `import_agent`: an agent from a checkpoint file in the authors' format."""

    digest: str
    """SHA-256 of the file."""
    game: str
    file: str = setting("", recorded=True)
    """The path of the file."""
    frame_size: int | None = setting(None, minimum=1)
    """Side of its frames, if the file's tensors fit several. None derives it from the tensors."""
    sigma_data: float = setting(FRAME_RMS, minimum=1e-6)
    sigma_offset_noise: float = setting(FactoredObjective().sigma_offset_noise, minimum=0.0)
    """Constants of the objective that the file does not contain, although the meaning of its weights depends on them."""

    @property
    def objective(self) -> FactoredObjective:
        """The objective of its denoiser's training, as far as it is known."""
        return FactoredObjective(sigma_data=self.sigma_data, sigma_offset_noise=self.sigma_offset_noise)


@dataclass(frozen=True)
class ImportWorldModel:
    """Config of `import_world_model`: a cascade from a checkpoint file in the format of the authors' CS:GO model."""

    digest: str
    """SHA-256 of the file."""
    file: str = setting("", recorded=True)
    """The path of the file."""
    height: int = setting(150, minimum=2)
    width: int = setting(280, minimum=2)
    """Sides of its frames in pixels, which the file does not contain."""
    factor: int = setting(5, minimum=2)
    """Sides of a frame, divided by those at low resolution. The file does not contain it either."""


@dataclass(frozen=True)
class EvaluateAgent:
    """Config of `evaluate_agent`. Its input `agent` is trained or imported, and states its game."""

    env: EnvConfig = EnvConfig()
    evaluation: AgentEvaluationConfig = AgentEvaluationConfig()
    sampler: Sampler = OdeSampler()
    """The sampler for the imagination in the video. Neutral if there is no video."""
    execution: ExecutionConfig = ExecutionConfig()


@dataclass(frozen=True)
class PlayRandom:
    """Config of `play_random`: games in which every action is drawn uniformly, under the conditions of an agent's final games.

    The score of an agent is compared with them. They depend on no agent, so agents of one game and protocol share them."""

    game: str
    env: EnvConfig = EnvConfig()
    evaluation: AgentEvaluationConfig = AgentEvaluationConfig()
    """Temperature, epsilon and video are at their neutral values, since they change nothing."""


@dataclass(frozen=True)
class Profile:
    """Config of `profile`: how long the parts of a training take on one device, with random data. It is the only kind whose identity
    contains the device, the host, the software and the whole execution: they change its times, but no other result."""

    device_name: str
    """Model of the device, as named by the system or the driver."""
    executed: str
    """All settings of training.execution except the device, as name=value, separated by spaces."""
    training: TrainAgent = TrainAgent("Breakout", 0)
    """The training whose parts are measured. Its seed is that of the random data and weights."""
    compare: str = ""
    """The execution against which the configured one is timed, in turn: plain, authors, or empty."""
    parts: str = ""
    """The measured parts of PROFILED, in its order, separated by commas. Empty for all."""
    software: str = ""
    """Versions of torch and diamond-bench, and the commit if this is a checkout, else a digest of the code."""
    host: str = ""
    """Name of the machine, and the number of its cores that the profile could use."""
    packed: tuple[int, ...] | None = None
    """Numbers of trainings to run at once, compared with a single one. Empty measures the parts of one training."""
    mps: bool = False
    """Whether CUDA's Multi-Process Service is on during the measurement."""
    pairs: int = PACKING_PAIRS
    """Pairs of measurements of a packed profile."""
    scale: str = setting("", recorded=True)
    """The scale's name, for tables."""

    @property
    def execution(self) -> ExecutionConfig:
        """The execution of the training."""
        return self.training.execution

    @property
    def measures(self) -> tuple[str, ...]:
        """The measured parts of PROFILED."""
        return tuple(self.parts.split(",")) if self.parts else PROFILED


@dataclass(frozen=True)
class Kind:
    """One kind of job."""

    config: type
    run: str
    """ "module:function" of its code, run(config, context) -> Result."""
    revision: int
    """Raised by hand when the code of the kind changes its results. It enters every identity."""
    inputs: tuple[str, ...] = ()
    """Names of the artifacts it needs, in the order of display."""
    optional: tuple[str, ...] = ()
    """Names of artifacts it uses if they are given."""
    keeps_checkpoint: bool = False
    """Whether a done job keeps its checkpoint/ until `gc`. Only that of a training is of use: it contains the optimiser."""
    cost: str = "diamond_bench.store.cost:NOTHING"
    """ "module:object", a `JobCost` without torch: work, disk, speed, and how often the job saves. Used by planning and launching."""
    unit: str = "steps"
    """The unit of its progress, for the throughput that a sweep shows. Empty if the progress counts no work, such as thousandths."""
    resources: Resources = Resources()
    """What its jobs request from a cluster, unless the profile has a group for the kind. It replaces the profile's general values."""

    def needs(self, config: Any) -> tuple[str, ...]:
        """Names of the artifacts that a job with this config needs."""
        trained = world_family(getattr(config, "family", None)).trained and getattr(config, "given", None) is None
        return tuple(name for name in self.inputs if trained or name != "world_model")

    @property
    def costs(self) -> JobCost:
        """The object that `cost` names."""
        found: JobCost = imported(self.cost)
        return found


_ON_CPU = Resources(gpus=0)
KINDS: dict[str, Kind] = {
    "collect_dataset": Kind(
        CollectDataset,
        "diamond_bench.jobs.collect_dataset:run",
        revision=1,
        unit="frames",
        optional=("agent",),
        cost="diamond_bench.costs.dataset:COST",
        resources=_ON_CPU,
    ),
    "import_dataset": Kind(
        ImportDataset,
        "diamond_bench.jobs.import_dataset:run",
        revision=2,
        unit="episodes",
        cost="diamond_bench.costs.dataset:COST",
        resources=_ON_CPU,
    ),
    "train_world_model": Kind(
        TrainWorldModel,
        "diamond_bench.jobs.train_world_model:run",
        revision=2,
        unit="updates",
        inputs=("dataset",),
        keeps_checkpoint=True,
        cost="diamond_bench.costs.train_world_model:COST",
    ),
    "train_state_probe": Kind(
        TrainStateProbe,
        "diamond_bench.jobs.train_state_probe:run",
        revision=1,
        unit="updates",
        inputs=("dataset",),
        cost="diamond_bench.costs.train_state_probe:COST",
    ),
    "train_inverse_dynamics": Kind(
        TrainInverseDynamics,
        "diamond_bench.jobs.train_inverse_dynamics:run",
        revision=1,
        unit="updates",
        inputs=("dataset",),
        cost="diamond_bench.costs.train_inverse_dynamics:COST",
    ),
    "extract_features": Kind(
        ExtractFeatures,
        "diamond_bench.jobs.extract_features:run",
        revision=1,
        unit="batches",
        inputs=("dataset",),
        cost="diamond_bench.costs.extract_features:COST",
    ),
    "extract_clip_features": Kind(
        ExtractClipFeatures,
        "diamond_bench.jobs.extract_clip_features:run",
        revision=1,
        unit="batches",
        inputs=("dataset",),
        cost="diamond_bench.costs.extract_clip_features:COST",
    ),
    "evaluate_world_model": Kind(
        EvaluateWorldModel,
        "diamond_bench.jobs.evaluate_world_model:run",
        revision=2,
        inputs=("dataset", "world_model"),
        optional=("state_probe", "inverse_dynamics", "true_features", "true_clips"),
        cost="diamond_bench.costs.evaluate_world_model:COST",
    ),
    "train_agent": Kind(
        TrainAgent,
        "diamond_bench.jobs.train_agent:run",
        revision=2,
        unit="",
        keeps_checkpoint=True,
        cost="diamond_bench.costs.train_agent:COST",
    ),
    "import_agent": Kind(ImportAgent, "diamond_bench.jobs.import_agent:run", revision=1, resources=_ON_CPU),
    "import_world_model": Kind(ImportWorldModel, "diamond_bench.jobs.import_world_model:run", revision=1, resources=_ON_CPU),
    "evaluate_agent": Kind(
        EvaluateAgent,
        "diamond_bench.jobs.evaluate_agent:run",
        revision=1,
        unit="episodes",
        inputs=("agent",),
        cost="diamond_bench.costs.evaluate_agent:COST",
    ),
    "play_random": Kind(
        PlayRandom,
        "diamond_bench.jobs.play_random:run",
        revision=1,
        unit="episodes",
        cost="diamond_bench.costs.evaluate_agent:RANDOM_COST",
        resources=_ON_CPU,
    ),
    "profile": Kind(Profile, "diamond_bench.profiling.profile:run", revision=2, unit="", cost="diamond_bench.costs.profile:COST"),
}


def family_revision(config: Any) -> int | None:
    """The present revision of the family of world models in a config. None if it names none."""
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
