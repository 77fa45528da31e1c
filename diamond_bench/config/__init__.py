"""The typed configuration of a run: one frozen dataclass a Hydra group, without torch.

Every field's dataclass default is its *neutral value*: a job's identity leaves out fields that stand at it, so a field added
later, neutral at the old behaviour, changes no existing identity. Therefore a default here is never edited; what a user gets by
default is said in conf/*.yaml. Fields marked `recorded` never enter an identity (they cannot change a result).
"""

import importlib
import math
from dataclasses import dataclass
from typing import Any, Literal

from diamond_bench.config.agent import ActorCriticConfig, AgentConfig, AgentEvaluationConfig, RewardEndConfig
from diamond_bench.config.fields import setting


@dataclass(frozen=True)
class EnvConfig:
    """Atari preprocessing (paper appendix, method section 6)."""

    frame_skip: int = setting(4, least=1)
    """Emulator frames per step; the last two are max-pooled."""
    frame_size: int = setting(64, least=16)
    """Side of the square RGB observation in pixels, resized by area."""
    max_noops: int = setting(30, least=0)
    """At reset, a number of no-op frames drawn from 1..max_noops is played; 0 plays none."""
    sticky_actions: float = setting(0.0, least=0.0, most=1.0)
    """Probability that the emulator repeats the previous action."""


@dataclass(frozen=True)
class DataConfig:
    """The static dataset: where its episodes come from and how many there are."""

    dataset: str | None = setting(None, recorded=True)
    """Minari id or folder of your own episodes (its content is what is hashed); none collects with `policy`."""
    policy: str = setting("expert")
    """Collection policy: random, expert (scripted), or the job id of an agent in the store (train_agent/..., import_agent/...)."""
    epsilon: float = setting(0.05, least=0.0, most=1.0)
    """Share of uniformly random actions while collecting."""
    random_start_steps: int = setting(60, least=0)
    """Each episode starts with 0..this many uniformly random actions, so that scripted episodes diverge."""
    num_train_frames: int = setting(100_000, least=16)
    """Frames in the training split; the last episode is cut (truncated) to meet it."""
    num_references: int = setting(400, least=1)
    """Disjoint held-out reference trajectories."""
    reference_context: int = setting(8, least=1)
    """Frames of each reference before its first imagined frame: the most past frames a variant may condition on."""
    reference_horizon: int = setting(1000, least=1)
    """Frames of each reference after its context: the longest horizon an evaluation may ask for."""
    seed: int = setting(0, least=0)
    """Seed of the collection, apart from the run's: one dataset a game for all runs."""


@dataclass(frozen=True)
class EdmObjective:
    """EDM (Karras et al. 2022; paper section 3.1, method section 2)."""

    name: str = "edm"
    loc: float = setting(-0.4)
    """Mean of log sigma of the training noise."""
    scale: float = setting(1.2, least=0.0)
    """Standard deviation of log sigma of the training noise."""
    sigma_min: float = setting(2e-3, least=1e-6)
    """Training noise levels are clipped to [sigma_min, sigma_max]."""
    sigma_max: float = setting(20.0, least=1e-6)
    sigma_data: float = setting(0.5, least=1e-6)
    """Assumed standard deviation of frames in [-1, 1]."""
    sigma_offset_noise: float = setting(0.3, least=0.0)
    """Standard deviation of the noise that is constant over an image channel; also enters the preconditioners."""
    rescale_past_frames: bool = setting(True)
    """Past frames enter the network divided by sigma_data."""
    quantization: Literal["truncate", "round", "none"] = setting("truncate")
    """8-bit quantisation of frames fed back between autoregressive training steps (the authors truncate)."""


@dataclass(frozen=True)
class DdpmObjective:
    """DDPM noise prediction (Ho et al. 2020; paper section 5.1, method section 3)."""

    name: str = "ddpm"
    num_train_timesteps: int = setting(1000, least=2)
    beta_start: float = setting(1e-4, least=0.0, most=1.0)
    beta_end: float = setting(0.02, least=0.0, most=1.0)
    sigma_data: float = setting(0.5, least=1e-6)
    """Divides past frames where rescale_past_frames is on; DDPM itself does not use it."""
    sigma_offset_noise: float = setting(0.3, least=0.0)
    """Standard deviation of the per-channel constant added to the unit noise."""
    rescale_past_frames: bool = setting(False)
    quantization: Literal["truncate", "round", "none"] = setting("truncate")


@dataclass(frozen=True)
class ConditioningConfig:
    """What the denoiser is told of the past."""

    num_frames: int = setting(4, least=1)
    """L, the number of past frames (and actions), stacked on channels."""


@dataclass(frozen=True)
class NetworkConfig:
    """The denoiser's U-Net (method section 1)."""

    depths: tuple[int, ...] = setting((2, 2, 2, 2), least=1)
    """Residual blocks per level."""
    channels: tuple[int, ...] = setting((64, 64, 64, 64), least=1)
    """Channels per level; no resampling at the first."""
    attention: tuple[bool, ...] = setting((False, False, False, False))
    """Whether a level's residual blocks have self-attention (the middle always has)."""
    cond_channels: int = setting(256, least=4)
    """Width of the condition vector; even, and divisible by the number of past frames."""


@dataclass(frozen=True)
class TrainingConfig:
    """Denoiser training (method section 5, optimiser)."""

    num_steps: int = setting(100_000, least=1)
    """Optimiser updates."""
    batch_size: int = setting(32, least=1)
    learning_rate: float = setting(1e-4, least=0.0)
    weight_decay: float = setting(1e-2, least=0.0)
    adam_epsilon: float = setting(1e-8, least=0.0)
    adam_beta2: float = setting(0.999, least=0.0, most=0.99999)
    """Decay of the average of squared gradients; the authors keep PyTorch's."""
    warmup_steps: int = setting(100, least=0)
    """Linear from exactly 0: the first update changes only the optimiser's state."""
    cooldown: float = setting(0.0, least=0.0, most=1.0)
    """Last share of the updates over which the rate falls linearly to 0; the authors keep it constant."""
    max_grad_norm: float = setting(1.0, least=0.0)
    num_autoregressive_steps: int = setting(1, least=0)
    """k further steps trained on the model's own quantised frames: k + 1 loss terms."""
    milestones: tuple[float, ...] = setting((0.25, 0.5, 1.0), least=0.0, most=1.0)
    """Fractions of num_steps at which a model is kept for evaluation; the last is 1."""
    checkpoint_every: int = setting(1000, least=1, recorded=True)
    """Updates between resumable checkpoints."""
    log_every: int = setting(50, least=1, recorded=True)
    """Updates between lines of metrics.jsonl."""

    def milestone_step(self, milestone: float) -> int:
        """The update after which the model of a milestone is kept."""
        return max(1, round(milestone * self.num_steps))


@dataclass(frozen=True)
class KarrasSchedule:
    """sigma_k interpolated in sigma^(1/rho) (Karras et al. 2022, equation 5)."""

    name: str = "karras"
    sigma_min: float = setting(2e-3, least=1e-6)
    sigma_max: float = setting(5.0, least=1e-6)
    rho: float = setting(7.0, least=1e-3)


@dataclass(frozen=True)
class DdpmLeadingSchedule:
    """DDPM's timesteps k * (T // n), k = n-1..0 ('leading'); for n = 1 the authors' rule t = T // 2."""

    name: str = "ddpm_leading"
    num_train_timesteps: int = setting(1000, least=2)
    beta_start: float = setting(1e-4, least=0.0, most=1.0)
    beta_end: float = setting(0.02, least=0.0, most=1.0)


@dataclass(frozen=True)
class OdeSampler:
    """Euler or Heun in EDM's variance-exploding coordinates, with optional churn (Karras et al. 2022, algorithm 2)."""

    name: str = "euler"
    num_steps: int = setting(3, least=1, most=1000)
    """n, the number of denoising steps."""
    schedule: KarrasSchedule | DdpmLeadingSchedule = KarrasSchedule()
    start_noise: Literal["unit", "sigma_max", "variance_preserving"] = setting("unit")
    """Scale of the first x: 1 (the authors), the first sigma (textbook), or sqrt(1 + sigma^2) (DDPM's unit noise)."""
    quantize: Literal["every_call", "final"] = setting("every_call")
    """Where a denoised frame is clamped and put on the 8-bit grid: each denoiser call (the authors), or the finished frame."""
    quantization: Literal["truncate", "round"] = setting("truncate")
    s_churn: float = setting(0.0, least=0.0)
    s_tmin: float = setting(0.0, least=0.0)
    s_tmax: float = setting(math.inf, least=0.0)
    s_noise: float = setting(1.0, least=0.0)
    churn_sigma: Literal["sigma", "sigma_hat"] = setting("sigma")
    """The level the network is told in a churned step: sigma (the authors) or the raised sigma_hat (textbook)."""


@dataclass(frozen=True)
class AncestralSampler:
    """DDPM's ancestral sampler, 'fixed small' variance (Ho et al. 2020, algorithm 2; method section 3)."""

    name: str = "ddpm_ancestral"
    num_steps: int = setting(3, least=1, most=1000)
    schedule: KarrasSchedule | DdpmLeadingSchedule = DdpmLeadingSchedule()
    start_noise: Literal["unit", "sigma_max", "variance_preserving"] = setting("variance_preserving")
    quantize: Literal["every_call", "final"] = setting("final")
    quantization: Literal["truncate", "round"] = setting("truncate")
    clip_denoised: bool = setting(True)
    """Clip each predicted clean frame to [-1, 1]."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What is imagined and measured (paper section 5 and appendix K)."""

    metrics: tuple[str, ...] = setting(("drift", "psnr", "ssim", "lpips", "fid"))
    num_trajectories: int = setting(400, least=1)
    """Held-out reference trajectories imagined."""
    horizon: int = setting(1000, least=1)
    """T, frames imagined after the context."""
    batch_size: int = setting(100, least=1)
    """Trajectories imagined at once; also the unit in which an interrupted evaluation resumes."""
    milestone: float = setting(1.0, least=0.0, most=1.0)
    """Which of the training's kept models is evaluated."""
    num_one_step: int = setting(0, least=0)
    """Held-out windows predicted one step ahead from true frames; 0 takes all."""
    num_samples: int = setting(8, least=2)
    """K, samples drawn from each start for the stochastic quality (best and mean of K)."""
    num_sample_starts: int = setting(100, least=1)
    sample_horizon: int = setting(10, least=1)
    """Frames imagined per sample."""
    num_fid_images: int = setting(10_000, least=2)
    """Images on each side of FID and KID; fewer available is an error."""
    seed: int = setting(0, least=0)
    """Seed of the references drawn and of every trajectory's own noise, apart from the run's."""
    world_model: str | None = setting(None, recorded=True)
    """An agent of the store (its job id) whose world model is evaluated, in place of training one; its id is what is hashed."""
    keep_frames: bool = setting(False, recorded=True)
    """Keep all imagined frames (frames.npy) instead of the media alone."""


@dataclass(frozen=True)
class ExecutionConfig:
    """How arithmetic is done."""

    precision: Literal["fp32", "tf32", "bf16"] = setting("fp32")
    """Requested precision of the networks: part of a job's identity; the solver, losses and quantisation stay fp32."""
    device: str = setting("auto", recorded=True)
    """auto (cuda where there is one), cpu, cuda or cuda:N."""
    num_threads: int = setting(2, least=1, recorded=True)
    """CPU threads of a job; fixed, never taken from the free cores, since it moves the numbers' last bits."""


@dataclass(frozen=True)
class ClusterConfig:
    """Where jobs run."""

    name: str = "local"
    num_workers: int = setting(0, least=0, recorded=True)
    """Worker processes, one a device; 0 is one a GPU, or one where there is none."""


@dataclass(frozen=True)
class Option:
    """A named choice: its settings and the function that carries it out ("module:function", imported when used)."""

    settings: type
    function: str


OBJECTIVES: dict[str, Option] = {
    "edm": Option(EdmObjective, "diamond_bench.diffusion.objectives:Edm"),
    "ddpm": Option(DdpmObjective, "diamond_bench.diffusion.objectives:Ddpm"),
}
SCHEDULES: dict[str, Option] = {
    "karras": Option(KarrasSchedule, "diamond_bench.diffusion.schedules:karras"),
    "ddpm_leading": Option(DdpmLeadingSchedule, "diamond_bench.diffusion.schedules:ddpm_leading"),
}
SAMPLERS: dict[str, Option] = {
    "euler": Option(OdeSampler, "diamond_bench.diffusion.samplers:euler"),
    "heun": Option(OdeSampler, "diamond_bench.diffusion.samplers:heun"),
    "ddpm_ancestral": Option(AncestralSampler, "diamond_bench.diffusion.samplers:ddpm_ancestral"),
}
OPTIONS: dict[str, dict[str, Option]] = {"objective": OBJECTIVES, "schedule": SCHEDULES, "sampler": SAMPLERS}
"""Registries by the name of the field that holds the choice."""

Objective = EdmObjective | DdpmObjective
Schedule = KarrasSchedule | DdpmLeadingSchedule
Sampler = OdeSampler | AncestralSampler


def chosen(option: Objective | Schedule | Sampler) -> Any:
    """The class or function that an option's settings name (imports its module)."""
    registry = next(r for r in OPTIONS.values() if option.name in r and isinstance(option, r[option.name].settings))
    module, _, attribute = registry[option.name].function.partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class RunConfig:
    """One point of a study: everything a run needs to know."""

    game: str = "Breakout"
    seed: int = setting(0, least=0)
    env: EnvConfig = EnvConfig()
    data: DataConfig = DataConfig()
    objective: Objective = EdmObjective()
    conditioning: ConditioningConfig = ConditioningConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    sampler: Sampler = OdeSampler()
    evaluation: EvaluationConfig = EvaluationConfig()
    reward_end: RewardEndConfig = RewardEndConfig()
    actor_critic: ActorCriticConfig = ActorCriticConfig()
    agent: AgentConfig = AgentConfig()
    agent_evaluation: AgentEvaluationConfig = AgentEvaluationConfig()
    execution: ExecutionConfig = ExecutionConfig()
    cluster: ClusterConfig = ClusterConfig()
