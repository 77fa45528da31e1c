"""The typed configuration of a run: one frozen dataclass a Hydra group, without torch.

Every field's dataclass default is its *neutral value*: a job's identity leaves out fields that stand at it, so a field added
later, neutral at the old behaviour, changes no existing identity. Therefore a default here is never edited; what a user gets by
default is said in conf/*.yaml. Fields marked `recorded` never enter an identity (they cannot change a result).
"""

from dataclasses import dataclass
from typing import Literal

from diamond_bench.config.agent import ActorCriticConfig, AgentConfig, AgentEvaluationConfig, RewardEndConfig
from diamond_bench.config.cluster import Cluster, LocalCluster, Resources, SlurmCluster
from diamond_bench.config.conditioning import ACTION_CONDITIONINGS, FRAME_CONDITIONINGS, WITHHELD, ConditioningConfig, ConditioningOption
from diamond_bench.config.diffusion import (
    FRAME_RMS,
    OBJECTIVES,
    OPTIONS,
    SAMPLERS,
    SCHEDULES,
    AncestralSampler,
    DdpmLeadingSchedule,
    FactoredObjective,
    FlowSchedule,
    KarrasSchedule,
    MultistepSampler,
    Objective,
    OdeSampler,
    Option,
    RangeSchedule,
    Sampler,
    SamplerSettings,
    Schedule,
    chosen,
    imported,
    option_of,
)
from diamond_bench.config.fields import setting
from diamond_bench.config.probe import ProbeConfig
from diamond_bench.config.sources import SEGMENT_SOURCES
from diamond_bench.config.worlds import REGISTRIES, WORLD_FAMILIES, WorldSettings, world_family

__all__ = [
    "ACTION_CONDITIONINGS",
    "FRAME_CONDITIONINGS",
    "FRAME_RMS",
    "OBJECTIVES",
    "OPTIONS",
    "REGISTRIES",
    "SAMPLERS",
    "SCHEDULES",
    "SEGMENT_SOURCES",
    "WITHHELD",
    "WORLD_FAMILIES",
    "ActorCriticConfig",
    "AgentConfig",
    "AgentEvaluationConfig",
    "AncestralSampler",
    "Cluster",
    "ConditioningConfig",
    "ConditioningOption",
    "DataConfig",
    "DdpmLeadingSchedule",
    "EnvConfig",
    "EvaluationConfig",
    "ExecutionConfig",
    "FactoredObjective",
    "FlowSchedule",
    "KarrasSchedule",
    "LocalCluster",
    "MultistepSampler",
    "NetworkConfig",
    "Objective",
    "OdeSampler",
    "Option",
    "ProbeConfig",
    "RangeSchedule",
    "Resources",
    "RewardEndConfig",
    "RunConfig",
    "Sampler",
    "SamplerSettings",
    "Schedule",
    "SlurmCluster",
    "TrainingConfig",
    "WorldSettings",
    "chosen",
    "imported",
    "option_of",
    "setting",
    "world_family",
]


@dataclass(frozen=True)
class EnvConfig:
    """Atari preprocessing (paper appendix, method section 6), and the one setting of the synthetic games."""

    frame_skip: int = setting(4, minimum=1)
    """Emulator frames per step; the last two are max-pooled."""
    pooling: Literal["raw", "in_place"] = setting("raw")
    """What is kept as the last screen: the raw screen, or its maximum with the one before (the authors). The two differ only in the final
    observation of a game that ends on the last frame of a skip. An evaluation of an agent shows the policy no such observation."""
    frame_size: int = setting(64, minimum=16, maximum=1024)
    """Side of the square RGB observation in pixels, resized by area."""
    max_noops: int = setting(30, minimum=0)
    """At reset, a number of no-op frames drawn from 1..max_noops is played; 0 plays none."""
    sticky_actions: float = setting(0.0, minimum=0.0, maximum=1.0)
    """Probability that the emulator repeats the previous action."""
    minority_share: float = setting(0.2, minimum=0.0, maximum=0.5)
    """Of a synthetic game: probability of the less likely of the two ways on. Atari has none."""


@dataclass(frozen=True)
class DataConfig:
    """The static dataset: where its episodes come from and how many there are."""

    dataset: str | None = setting(None, recorded=True)
    """Minari id or folder of your own episodes (its content is what is hashed); none collects with `policy`."""
    policy: str = setting("expert")
    """Collection policy: random, expert (scripted), or the job id of an agent in the store (train_agent/..., import_agent/...)."""
    epsilon: float = setting(0.05, minimum=0.0, maximum=1.0)
    """Share of uniformly random actions while collecting."""
    random_start_steps: int = setting(60, minimum=0)
    """Each episode starts with 0..this many uniformly random actions, so that scripted episodes diverge."""
    num_train_frames: int = setting(100_000, minimum=16)
    """Frames in the training split; the last episode is cut (truncated) to meet it."""
    num_references: int = setting(400, minimum=1)
    """Disjoint held-out reference trajectories."""
    reference_context: int = setting(8, minimum=1)
    """Frames of each reference before its first imagined frame: the most past frames a variant may condition on."""
    reference_horizon: int = setting(1000, minimum=1)
    """Frames of each reference after its context: the longest horizon an evaluation may ask for."""
    windows_per_episode: int | None = setting(None, minimum=1)
    """At most so many references are taken from one held-out episode, spread over it; none takes every window, one after the other."""
    stacked_frames: Literal["refuse", "newest"] = setting("refuse")
    """Whether data of your own whose channels are three stacked grey frames is refused, or the newest of the three is taken."""
    seed: int = setting(0, minimum=0)
    """Seed of the collection, apart from the run's: one dataset a game for all runs."""


@dataclass(frozen=True)
class NetworkConfig:
    """The denoiser's U-Net (method section 1)."""

    depths: tuple[int, ...] = setting((2, 2, 2, 2), minimum=1)
    """Residual blocks per level."""
    channels: tuple[int, ...] = setting((64, 64, 64, 64), minimum=1)
    """Channels per level; no resampling at the first."""
    attention: tuple[bool, ...] = setting((False, False, False, False))
    """Whether a level's residual blocks have self-attention (the middle always has)."""
    cond_channels: int = setting(256, minimum=4)
    """Width of the condition vector; even, and divisible by the number of past frames."""


@dataclass(frozen=True)
class TrainingConfig:
    """Denoiser training (method section 5, optimiser)."""

    num_steps: int = setting(100_000, minimum=1)
    """Optimiser updates."""
    batch_size: int = setting(32, minimum=1)
    """Windows of frames per update."""
    learning_rate: float = setting(1e-4, minimum=0.0)
    """Learning rate of AdamW after the warm-up."""
    weight_decay: float = setting(1e-2, minimum=0.0)
    """Decoupled weight decay of AdamW."""
    adam_epsilon: float = setting(1e-8, minimum=0.0)
    """Epsilon in the denominator of AdamW."""
    adam_beta2: float = setting(0.999, minimum=0.0, maximum=0.99999)
    """Decay of the average of squared gradients; the authors keep PyTorch's."""
    warmup_steps: int = setting(100, minimum=0)
    """Linear from exactly 0: the first update changes only the optimiser's state."""
    cooldown: float = setting(0.0, minimum=0.0, maximum=1.0)
    """Last share of the updates over which the rate falls linearly to 0; the authors keep it constant."""
    max_grad_norm: float = setting(1.0, minimum=0.0)
    """Gradients are clipped to this norm."""
    num_autoregressive_steps: int = setting(1, minimum=0)
    """k further steps trained on the model's own quantised frames: k + 1 loss terms."""
    ema: float | None = setting(None, minimum=0.0, maximum=0.999999)
    """Decay of a bias-corrected exponential average of the weights, kept next to the last ones for evaluation; none keeps no average.
    A training of a world model has one, an agent none."""
    milestones: tuple[float, ...] = setting((0.25, 0.5, 1.0), minimum=0.0, maximum=1.0)
    """Fractions of num_steps at which a model is kept for evaluation; the last is 1."""
    checkpoint_every: int = setting(1000, minimum=1, recorded=True)
    """Updates between resumable checkpoints."""
    log_every: int = setting(50, minimum=1, recorded=True)
    """Updates between lines of metrics.jsonl."""
    segments: str = setting("memory", recorded=True)
    """Where segments are read from: memory (the whole training split lies on the device) or streamed (its frames stay on disk). The
    numbers are the same."""

    def milestone_step(self, milestone: float) -> int:
        """The update after which the model of a milestone is kept."""
        return max(1, round(milestone * self.num_steps))


@dataclass(frozen=True)
class EvaluationConfig:
    """What is imagined and measured (paper section 5 and appendix K)."""

    metrics: tuple[str, ...] = setting(("drift", "psnr", "ssim", "lpips", "fid"))
    """The metrics that are measured. A study sets them with `metrics=`."""
    num_trajectories: int = setting(400, minimum=1)
    """Held-out reference trajectories imagined."""
    horizon: int = setting(1000, minimum=1)
    """T, frames imagined after the context."""
    batch_size: int = setting(100, minimum=1)
    """Trajectories imagined at once; also the unit in which an interrupted evaluation resumes."""
    milestone: float = setting(1.0, minimum=0.0, maximum=1.0)
    """Which of the training's kept models is evaluated."""
    weights: Literal["last", "ema"] = setting("last")
    """Its last weights, or their average, where training.ema keeps one."""
    num_one_step: int = setting(0, minimum=0)
    """Held-out windows predicted one step ahead from true frames; 0 takes all."""
    num_samples: int = setting(8, minimum=2)
    """K, samples drawn from each start for the stochastic quality (best and mean of K)."""
    num_sample_starts: int = setting(100, minimum=1)
    """Starts from which samples are drawn."""
    sample_horizon: int = setting(10, minimum=1)
    """Frames imagined per sample."""
    num_fid_images: int = setting(10_000, minimum=2)
    """Images on each side of FID and KID; fewer available is an error."""
    seed: int = setting(0, minimum=0)
    """Seed of the references drawn and of every trajectory's own noise, apart from the run's."""
    world_model: str | None = setting(None, recorded=True)
    """An agent of the store (its job id) whose world model is evaluated, in place of training one; its id is what is hashed."""
    keep_frames: bool = setting(False, recorded=True)
    """Keep all imagined frames (frames.npy and others), so that an evaluation with other metrics reads them and imagines nothing."""


@dataclass(frozen=True)
class ExecutionConfig:
    """How arithmetic is done."""

    precision: Literal["fp32", "tf32", "bf16"] = setting("fp32")
    """Requested precision of the networks: part of a job's identity; the solver, losses and quantisation stay fp32."""
    compile: Literal["auto", "none", "imagination", "all"] = setting("auto")
    """Which forward passes go through torch.compile: those of the imagination alone, or those of the updates too. It moves the last bits
    of numbers, so what is asked is part of an identity. auto: all in jobs so long that it pays back, none in others."""
    cuda_graphs: Literal["none", "imagination", "all"] = setting("none", recorded=True)
    """What is recorded once as a CUDA graph and replayed: the sampling of a frame, or whole updates.
    The same kernels in the same order, so no part of an identity."""
    sampling_streams: int = setting(1, minimum=1)
    """Groups of imagined games whose frames are sampled at once, each on a CUDA stream of its own. Smaller batches round otherwise, so it
    is part of an identity."""
    device: str = setting("auto", recorded=True)
    """auto (cuda where there is one), cpu, cuda or cuda:N."""
    num_threads: int = setting(2, minimum=1, maximum=1024, recorded=True)
    """CPU threads of a job; fixed, never taken from the free cores, since it moves the numbers' last bits."""


@dataclass(frozen=True)
class RunConfig:
    """One point of a study: everything a run needs to know."""

    game: str = "Breakout"
    """Name of the game, such as `Breakout` or `synthetic/turn`. A study sets it with `games=`."""
    seed: int = setting(0, minimum=0)
    """Seed of the initial weights, of the order of the training data and of an agent's play. A study sets it with `seeds=`."""
    env: EnvConfig = EnvConfig()
    data: DataConfig = DataConfig()
    objective: Objective = FactoredObjective()
    conditioning: ConditioningConfig = ConditioningConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    sampler: Sampler = OdeSampler()
    evaluation: EvaluationConfig = EvaluationConfig()
    reward_end: RewardEndConfig = RewardEndConfig()
    actor_critic: ActorCriticConfig = ActorCriticConfig()
    agent: AgentConfig = AgentConfig()
    agent_evaluation: AgentEvaluationConfig = AgentEvaluationConfig()
    probe: ProbeConfig = ProbeConfig()
    execution: ExecutionConfig = ExecutionConfig()
    cluster: Cluster = LocalCluster()
    family: WorldSettings | None = None
    """What kind of world model there is (`WORLD_FAMILIES`); none is diamond."""
