"""The typed configuration of a run: one frozen dataclass per Hydra group, without torch.

The default of each field is its *neutral value*. A job's identity leaves out fields at their neutral value, so that a new field whose
neutral value is the old behaviour changes no existing identity. So never edit a default here. The files conf/*.yaml set what users get by
default. Fields marked `recorded` cannot change a result and never enter an identity.
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
    CascadeSampler,
    DdpmLeadingSchedule,
    FactoredObjective,
    FlowSchedule,
    KarrasSchedule,
    MultistepSampler,
    Objective,
    OdeSampler,
    OpenLoopSampler,
    Option,
    PyramidSampler,
    RangeSchedule,
    Sampler,
    SamplerSettings,
    Schedule,
    chosen,
    imported,
    option_of,
)
from diamond_bench.config.fields import setting
from diamond_bench.config.heads import HeadsConfig
from diamond_bench.config.inverse_dynamics import InverseDynamicsConfig
from diamond_bench.config.probe import ProbeConfig
from diamond_bench.config.sources import SEGMENT_SOURCES
from diamond_bench.config.worlds import REGISTRIES, WORLD_FAMILIES, WorldSettings, predicts_outcomes, world_family
from diamond_bench.spaces import FrameSpec

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
    "CascadeSampler",
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
    "HeadsConfig",
    "InverseDynamicsConfig",
    "KarrasSchedule",
    "LocalCluster",
    "MultistepSampler",
    "NetworkConfig",
    "Objective",
    "OdeSampler",
    "OpenLoopSampler",
    "Option",
    "ProbeConfig",
    "PyramidSampler",
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
    "predicts_outcomes",
    "setting",
    "world_family",
]


@dataclass(frozen=True)
class EnvConfig:
    """Atari preprocessing (paper appendix, method section 6), and the settings of other families."""

    frame_skip: int = setting(4, minimum=1)
    """Emulator frames per step; the last two are max-pooled."""
    pooling: Literal["raw", "in_place"] = setting("raw")
    """The screen that is kept as the last one: the raw screen, or its maximum with the one before (the authors). They differ only in the
    final observation of a game that ends on the last frame of a skip. The policy of an evaluated agent never sees such an observation."""
    frame_size: int = setting(64, minimum=16, maximum=1024)
    """Side of the square RGB observation in pixels, resized by area."""
    frame_height: int | None = setting(None, minimum=16, maximum=1024)
    """Height of the RGB observation in pixels, resized by area, of first-person games (with none, the family's own) and of your own data
    (with none, frame_size)."""
    frame_width: int | None = setting(None, minimum=16, maximum=1024)
    """Width of the RGB observation, in the same cases."""
    max_noops: int = setting(30, minimum=0)
    """At reset, a number of no-op frames drawn from 1..max_noops is played. 0 plays none."""
    sticky_actions: float = setting(0.0, minimum=0.0, maximum=1.0)
    """Probability that the emulator repeats the previous action."""
    minority_share: float = setting(0.2, minimum=0.0, maximum=0.5)
    """Synthetic games: probability of the less likely of the two outcomes. Atari has no such setting."""

    @property
    def frames(self) -> FrameSpec:
        """Height and width of an observation of your own data."""
        return FrameSpec(self.frame_height or self.frame_size, self.frame_width or self.frame_size)


@dataclass(frozen=True)
class DataConfig:
    """The static dataset: its source and its size."""

    dataset: str | None = setting(None, recorded=True)
    """Minari id or folder of your own episodes; the hash of their content enters the identity. With none, episodes are collected with
    `policy`."""
    link_frames: bool = setting(False, recorded=True)
    """Your own HDF5 files of frames: training frames stay in your files and are read from there. By default they are copied."""
    policy: str = setting("expert")
    """Collection policy: random, expert (scripted), look_around (scripted, first-person games), or the job id of an agent in the store
    (train_agent/..., import_agent/...)."""
    epsilon: float = setting(0.05, minimum=0.0, maximum=1.0)
    """Share of uniformly random actions during collection."""
    random_start_steps: int = setting(60, minimum=0)
    """Each episode starts with a random number of uniformly random actions, from 0 to this, so that scripted episodes diverge."""
    num_train_frames: int = setting(100_000, minimum=16)
    """Frames in the training split. The last episode is truncated to reach exactly this number."""
    num_references: int = setting(400, minimum=1)
    """Disjoint held-out reference trajectories."""
    reference_context: int = setting(8, minimum=1)
    """Frames of each reference before its first imagined frame: the most past frames that a variant may condition on."""
    reference_horizon: int = setting(1000, minimum=1)
    """Frames of each reference after its context: the longest horizon that an evaluation may have."""
    windows_per_episode: int | None = setting(None, minimum=1)
    """Maximum number of references from one held-out episode, spread over it. With none, all its windows are used, one after the other."""
    heldout: str | None = setting(None)
    """If your own data name sets of episodes: the set to hold out, by default `heldout`. Only the set `train` is trained on."""
    stacked_frames: Literal["refuse", "newest"] = setting("refuse")
    """If the channels of your own data are three stacked grey frames: refuse the data, or take the newest frame."""
    seed: int = setting(0, minimum=0)
    """Seed of the collection. It is independent of the run's seed, so that all runs share one dataset per game."""


@dataclass(frozen=True)
class NetworkConfig:
    """The denoiser's U-Net (method section 1)."""

    depths: tuple[int, ...] = setting((2, 2, 2, 2), minimum=1)
    """Residual blocks per level."""
    channels: tuple[int, ...] = setting((64, 64, 64, 64), minimum=1)
    """Channels per level. The first level does not resample."""
    attention: tuple[bool, ...] = setting((False, False, False, False))
    """Whether the residual blocks of a level have self-attention. The middle blocks always have it."""
    cond_channels: int = setting(256, minimum=4)
    """Width of the condition vector: an even number, divisible by the number of past frames."""
    heads: HeadsConfig = HeadsConfig()


@dataclass(frozen=True)
class TrainingConfig:
    """Denoiser training (method section 5, optimiser)."""

    num_steps: int = setting(100_000, minimum=1)
    """Optimiser updates."""
    batch_size: int = setting(32, minimum=1)
    """Windows of frames per batch."""
    accumulation: int = setting(1, minimum=1)
    """Batches per update. Their gradients are averaged before the optimiser's step, so an update learns from batch_size * accumulation
    windows with the memory of batch_size. With more than one, each batch draws its noise from a seed of its own, so that it does not matter
    which process computes it."""
    learning_rate: float = setting(1e-4, minimum=0.0)
    """Learning rate of AdamW after the warm-up."""
    weight_decay: float = setting(1e-2, minimum=0.0)
    """Decoupled weight decay of AdamW."""
    adam_epsilon: float = setting(1e-8, minimum=0.0)
    """Epsilon in the denominator of AdamW."""
    adam_beta2: float = setting(0.999, minimum=0.0, maximum=0.99999)
    """Decay of the average of squared gradients. The authors use PyTorch's default."""
    warmup_steps: int = setting(100, minimum=0)
    """Updates over which the learning rate rises linearly from exactly 0. The first update changes only the optimiser's state."""
    cooldown: float = setting(0.0, minimum=0.0, maximum=1.0)
    """Last share of the updates, over which the learning rate falls linearly to 0. The authors keep it constant."""
    max_grad_norm: float = setting(1.0, minimum=0.0)
    """Gradients are clipped to this norm."""
    num_autoregressive_steps: int = setting(1, minimum=0)
    """k further steps that are trained on the model's own quantised frames: k + 1 loss terms."""
    action_shift: int = setting(0, minimum=0, maximum=1)
    """Planted fault, for tests of metrics of control. With 1, a world model learns with each frame the action of the next step in place of
    its own. Evaluations give it the right actions."""
    ema: float | None = setting(None, minimum=0.0, maximum=0.999999)
    """Decay of a bias-corrected exponential moving average of the weights, which is stored next to the last weights for evaluation. None
    keeps no average. A training of a world model can have one, an agent cannot."""
    milestones: tuple[float, ...] = setting((0.25, 0.5, 1.0), minimum=0.0, maximum=1.0)
    """Fractions of num_steps at which a model is kept for evaluation. The last is 1."""
    checkpoint_every: int = setting(1000, minimum=1, recorded=True)
    """Updates between checkpoints for resuming."""
    log_every: int = setting(50, minimum=1, recorded=True)
    """Updates between lines of metrics.jsonl."""
    segments: str = setting("memory", recorded=True)
    """Where segments are read from: memory (the whole training split lies on the device) or streamed (its frames stay on disk). The results
    are identical."""
    readers: int = setting(4, minimum=0, maximum=64, recorded=True)
    """Threads that read streamed segments during an update. 0 reads between updates. The results are identical."""

    @property
    def examples(self) -> int:
        """Windows of frames per update."""
        return self.batch_size * self.accumulation

    def milestone_step(self, milestone: float) -> int:
        """The update after which the model of a milestone is kept."""
        return max(1, round(milestone * self.num_steps))


@dataclass(frozen=True)
class EvaluationConfig:
    """What an evaluation imagines and measures (paper section 5 and appendix K)."""

    metrics: tuple[str, ...] = setting(("drift", "psnr", "ssim", "lpips", "fid"))
    """The metrics to measure. A study sets them with `metrics=`."""
    num_trajectories: int = setting(400, minimum=1)
    """Number of imagined held-out reference trajectories."""
    horizon: int = setting(1000, minimum=1)
    """T, frames imagined after the context."""
    batch_size: int = setting(100, minimum=1)
    """Trajectories imagined at once. An interrupted evaluation resumes after the last complete batch."""
    milestone: float = setting(1.0, minimum=0.0, maximum=1.0)
    """The milestone of the training whose model is evaluated."""
    weights: Literal["last", "ema"] = setting("last")
    """The model's last weights, or their average if training.ema keeps one."""
    num_one_step: int = setting(0, minimum=0)
    """Held-out windows predicted one step ahead from true frames. 0 takes all."""
    num_samples: int = setting(8, minimum=2)
    """K, the number of samples per start for the stochastic quality (best and mean of K)."""
    num_sample_starts: int = setting(100, minimum=1)
    """Starts from which samples are drawn, and from which actions are held."""
    sample_horizon: int = setting(10, minimum=1)
    """Frames imagined per sample."""
    num_fid_images: int = setting(10_000, minimum=2)
    """Images on each side of FID and KID. Fewer available images are an error."""
    clip_frames: int = setting(16, minimum=1)
    """Frames of each clip of FVD and KVD, from the first imagined frame of a trajectory."""
    fixed_actions: bool = setting(False)
    """Also imagine the first reference under each of up to eight fixed actions, for a figure."""
    hold_frames: int | None = setting(None, minimum=1)
    """Frames imagined under each held action, for the metric idle_decay. None is evaluation.horizon."""
    seed: int = setting(0, minimum=0)
    """Seed of the choice of references and of each trajectory's own noise. It is independent of the run's seed."""
    world_model: str | None = setting(None, recorded=True)
    """The job id of an agent in the store whose world model is evaluated. The id enters the identity. None trains a world model."""
    keep_frames: bool = setting(False, recorded=True)
    """Keep all imagined frames (frames.npy and others), so that an evaluation with other metrics reads them and need not imagine again."""


@dataclass(frozen=True)
class ExecutionConfig:
    """How the arithmetic is done."""

    precision: Literal["fp32", "tf32", "bf16", "auto"] = setting("fp32")
    """Precision of the networks. It enters a job's identity. The solver, losses and quantisation always use fp32. auto is bf16 on a device
    with units for it, and fp32 on others. A result records which one it was."""
    compile: Literal["auto", "none", "imagination", "all"] = setting("auto")
    """Which forward passes use torch.compile: none, those of the imagination, or those of the updates too. Compiling changes the last bits
    of numbers, so this setting enters the identity. auto compiles all in jobs that are long enough for compiling to pay off, and nothing in
    others."""
    cuda_graphs: Literal["none", "imagination", "all"] = setting("none", recorded=True)
    """What is recorded once as a CUDA graph and replayed: the sampling of a frame, or whole updates. The kernels and their order are the
    same, so this setting does not enter the identity."""
    sampling_streams: int = setting(1, minimum=1)
    """Groups of imagined games whose frames are sampled at once, each on its own CUDA stream. Smaller batches round differently, so this
    setting enters the identity."""
    encode_past: Literal["every_call", "once"] = setting("every_call")
    """How often the encoder of past frames (conditioning.frames=cross_attention or both) runs while a frame is sampled: at every denoiser
    call, or once for all of them. Compiled networks then round differently, so this setting enters the identity."""
    device: str = setting("auto", recorded=True)
    """auto (cuda if available), cpu, cuda or cuda:N."""
    num_threads: int = setting(2, minimum=1, maximum=1024, recorded=True)
    """CPU threads of a process of a job. The number is fixed and independent of the free cores, because it changes the last bits of
    numbers."""
    num_processes: int = setting(1, minimum=1, maximum=64)
    """Processes that train one world model together, each on its own GPU, on one machine or on the nodes of a SLURM job. They share the
    training.accumulation batches of an update equally. Sums of gradients round differently, so this setting enters the identity."""


@dataclass(frozen=True)
class RunConfig:
    """One point of a study: the full configuration of a run."""

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
    inverse_dynamics: InverseDynamicsConfig = InverseDynamicsConfig()
    execution: ExecutionConfig = ExecutionConfig()
    cluster: Cluster = LocalCluster()
    family: WorldSettings | None = None
    """The family of world models (`WORLD_FAMILIES`). None is diamond."""
