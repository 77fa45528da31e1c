"""Settings of objectives, noise schedules and samplers, and the registries that name them."""

import importlib
import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from diamond_bench.config.fields import setting

Quantization = Literal["truncate", "round"]
FRAME_RMS = 0.5
"""The authors' sigma_data: the assumed root mean square of frames in [-1, 1]."""


@dataclass(frozen=True)
class FactoredObjective:
    """A denoising objective in its separate factors. A named objective (conf/objective/) is a preset of them.

    The network receives c_in * x, with x = clean + sigma * noise. Its output F stands for the clean frame c_skip * x + c_out * F. The
    neutral values are the authors' EDM (Karras et al. 2022, table 1; paper section 3.1, method section 2).
    """

    name: str = "edm"
    """The preset, or the entry of OBJECTIVES whose code reads the fields in its own way."""
    parameterization: Literal["edm", "noise", "velocity", "clean", "flow"] = setting("edm")
    """What F is: EDM's preconditioned mixture, the noise (Ho et al. 2020), the velocity (Salimans and Ho 2022), the clean frame, or the
    flow noise - clean (Liu et al. 2023)."""
    input_scaling: Literal["edm", "variance_preserving", "flow", "none"] = setting("edm")
    """c_in: 1 / sqrt(sigma^2 + sigma_data^2), 1 / sqrt(1 + sigma^2), 1 / (1 + sigma), or 1."""
    noise_conditioning: Literal["log_sigma", "timestep", "flow_time"] = setting("log_sigma", identity="noise_told")
    """c_noise: log(sigma) / 4, DDPM's (t + 1) / T with the timestep t nearest in log sigma, or sigma / (1 + sigma)."""
    loss_weight: Literal["output", "clean", "noise", "edm", "min_snr"] = setting("output")
    """The squared error that is the loss: of the network's output, of the clean frame, of the noise, of the clean frame with EDM's weight,
    or of the clean frame with the weight min(1 / sigma^2, min_snr) (Hang et al. 2023)."""
    min_snr: float = setting(5.0, minimum=1e-3)
    """The upper bound of the loss weight `min_snr`."""
    noise_levels: Literal["log_normal", "log_uniform", "cosine", "timesteps", "flow_time"] = setting("log_normal")
    """Distribution of sigma in training: log-normal (clipped), uniform in log sigma, uniform in atan sigma (Nichol and Dhariwal's cosine
    schedule), uniform over DDPM's timesteps, or uniform in flow time sigma / (1 + sigma). Log-normal is logit-normal in flow time."""
    loc: float = setting(-0.4)
    """Mean of log sigma (log_normal)."""
    scale: float = setting(1.2, minimum=0.0)
    """Standard deviation of log sigma (log_normal)."""
    sigma_min: float = setting(2e-3, minimum=1e-6)
    """Training noise levels lie in [sigma_min, sigma_max]. noise_levels=timesteps has its own levels."""
    sigma_max: float = setting(20.0, minimum=1e-6)
    """The largest noise level in training."""
    num_train_timesteps: int = setting(1000, minimum=2)
    """T, the number of timesteps, with linear betas from beta_start to beta_end."""
    beta_start: float = setting(1e-4, minimum=0.0, maximum=1.0)
    """Beta of the first timestep."""
    beta_end: float = setting(0.02, minimum=0.0, maximum=1.0)
    """Beta of the last timestep."""
    coordinate: Literal["frame", "change"] = setting("frame")
    """Origin of x and of the clean frame: 0 (frame), or the last past frame (change). With change, the network predicts the difference to
    the last frame."""
    sigma_data: float | Literal["measured"] = setting(0.5, minimum=1e-6)
    """Assumed root mean square of frames in [-1, 1] in this coordinate: a number, or measured once from the training data. It enters c_in,
    c_skip, c_out and EDM's loss weight."""
    sigma_offset_noise: float = setting(0.3, minimum=0.0)
    """Standard deviation of the offset noise, which is constant over an image channel."""
    offset_noise: Literal["added", "scaled"] = setting("added")
    """added: offset noise has one standard deviation at every level and enters the coefficients (the authors' EDM). scaled: it is
    multiplied by sigma, as a part of the unit noise (the authors' DDPM)."""
    rescale_past_frames: bool = setting(True)
    """Divide past frames by sigma_data before they enter the network. The divisor is 0.5 if sigma_data is measured or describes changes."""
    quantization: Literal["truncate", "round", "none"] = setting("truncate")
    """8-bit quantisation of frames fed back between autoregressive training steps (the authors truncate)."""

    @property
    def uses_timesteps(self) -> bool:
        """Whether the objective uses DDPM's table of timesteps."""
        return self.noise_levels == "timesteps" or self.noise_conditioning == "timestep"

    @property
    def past_scale(self) -> float:
        """The divisor of past frames: sigma_data if it is a number that describes frames, else the authors' 0.5."""
        if self.sigma_data == "measured" or self.coordinate == "change":
            return FRAME_RMS
        return self.sigma_data


@dataclass(frozen=True)
class KarrasSchedule:
    """sigma_k interpolated in sigma^(1/rho) (Karras et al. 2022, equation 5)."""

    name: str = "karras"
    sigma_min: float = setting(2e-3, minimum=1e-6)
    """The last noise level before 0."""
    sigma_max: float = setting(5.0, minimum=1e-6)
    """The first noise level."""
    rho: float = setting(7.0, minimum=1e-3)
    """Exponent of the interpolation. Larger values put more levels near sigma_min."""


@dataclass(frozen=True)
class RangeSchedule:
    """Levels from sigma_max to sigma_min, evenly spaced in sigma (linear), log sigma (log_linear) or atan sigma (cosine)."""

    name: str = "linear"
    sigma_min: float = setting(2e-3, minimum=1e-6)
    """The last noise level before 0."""
    sigma_max: float = setting(5.0, minimum=1e-6)
    """The first noise level."""


@dataclass(frozen=True)
class FlowSchedule:
    """Levels evenly spaced in flow time sigma / (1 + sigma), from that of sigma_max to 0, as in rectified flow (Liu et al. 2023)."""

    name: str = "flow"
    sigma_max: float = setting(5.0, minimum=1e-6)
    """The first noise level."""


@dataclass(frozen=True)
class DdpmLeadingSchedule:
    """DDPM's timesteps k * (T // n), k = n-1..0 ('leading'). For n = 1 the authors use t = T // 2."""

    name: str = "ddpm_leading"
    num_train_timesteps: int = setting(1000, minimum=2)
    """T, the number of timesteps in training."""
    beta_start: float = setting(1e-4, minimum=0.0, maximum=1.0)
    """Beta of the first timestep."""
    beta_end: float = setting(0.02, minimum=0.0, maximum=1.0)
    """Beta of the last timestep."""


Schedule = KarrasSchedule | RangeSchedule | FlowSchedule | DdpmLeadingSchedule


@dataclass(frozen=True)
class SamplerSettings:
    """Settings that all samplers share."""

    name: str = "euler"
    num_steps: int = setting(3, minimum=1, maximum=1000)
    """n, the number of denoising steps."""
    schedule: Schedule = KarrasSchedule()
    start_noise: Literal["unit", "sigma_max", "variance_preserving"] = setting("unit")
    """Scale of the initial x: 1 (the authors), the first sigma (textbook), or sqrt(1 + sigma^2) (DDPM's unit noise)."""
    quantize: Literal["every_call", "final"] = setting("every_call")
    """When a denoised frame is clamped and quantised to 8 bits: after each denoiser call (the authors), or once when the frame is
    finished."""
    quantization: Quantization = setting("truncate")
    """How a denoised frame is quantised to 8 bits."""
    guidance: float = setting(1.0, minimum=0.0)
    """w of classifier-free guidance on actions (Ho and Salimans 2022): unguided + w * (conditioned - unguided). 1 is no guidance. Any other
    value needs two denoiser calls per step and a model trained with conditioning.action_dropout."""


@dataclass(frozen=True)
class OdeSampler(SamplerSettings):
    """Euler or Heun in EDM's variance-exploding coordinates, with optional churn (Karras et al. 2022, algorithm 2)."""

    s_churn: float = setting(0.0, minimum=0.0)
    """Noise added over all steps. Each step raises sigma by at most the factor sqrt(2)."""
    s_tmin: float = setting(0.0, minimum=0.0)
    """The lowest noise level at which noise is added."""
    s_tmax: float = setting(math.inf, minimum=0.0)
    """The highest noise level at which noise is added."""
    s_noise: float = setting(1.0, minimum=0.0)
    """Standard deviation of the added noise."""
    churn_sigma: Literal["sigma", "sigma_hat"] = setting("sigma")
    """The noise level that the network receives in a churned step: sigma (the authors) or the raised sigma_hat (textbook)."""
    s_cond: float = setting(0.0, minimum=0.0)
    """Standard deviation of the noise that each step adds to the past frames. It needs a model with conditioning.past_noise=training, and
    the network receives this level. With family=transformer it replaces family.context_noise, unless it is 0."""
    s_cond_rule: Literal["accumulating", "constant"] = setting("accumulating")
    """accumulating: each step adds its noise to the past frames of the step before, so after k steps their noise is s_cond * sqrt(k) (the
    authors). constant: each step adds its noise to the true past frames, so the network receives the right level."""


@dataclass(frozen=True)
class CascadeSampler(OdeSampler):
    """The samplers of a cascade's two stages. The fields of `OdeSampler` belong to the next frame at low resolution, which is sampled with
    Euler's method. The others belong to the upsampler. The neutral values are the authors' sampler `fast` of their CS:GO model."""

    name: str = "fast"
    num_steps: int = setting(1, minimum=1, maximum=1000)
    """Denoising steps of the frame at low resolution."""
    s_cond: float = setting(0.005, minimum=0.0)
    """Standard deviation of the noise that each step adds to the past frames at low resolution (`OdeSampler.s_cond`)."""
    upsampling_steps: int = setting(1, minimum=1, maximum=1000)
    """Denoising steps of the upsampler."""
    upsampling_solver: Literal["euler", "heun"] = setting("heun")
    """The solver of the upsampler. They are equal for one step."""
    upsampling_sigma_min: float = setting(1.0, minimum=1e-6)
    """The upsampler's last noise level before 0."""
    upsampling_sigma_max: float = setting(5.0, minimum=1e-6)
    """The upsampler's first noise level."""
    upsampling_rho: float = setting(7.0, minimum=1e-3)
    """Exponent of the interpolation of the upsampler's levels (`KarrasSchedule`)."""
    upsampling_churn: float = setting(10.0, minimum=0.0)
    """Noise added over all steps of the upsampler (`OdeSampler.s_churn`)."""
    upsampling_tmin: float = setting(1.0, minimum=0.0)
    """The lowest noise level at which noise is added to the upsampler's frame."""
    upsampling_tmax: float = setting(5.0, minimum=0.0)
    """The highest noise level at which noise is added to the upsampler's frame."""
    upsampling_noise: float = setting(0.9, minimum=0.0)
    """Standard deviation of this noise."""
    upsampling_churn_sigma: Literal["sigma", "sigma_hat"] = setting("sigma")
    """The noise level that the upsampler receives in a churned step: sigma (the authors) or the raised sigma_hat (textbook)."""

    @property
    def frame(self) -> OdeSampler:
        """The sampler of the frame at low resolution."""
        return OdeSampler(**{f.name: getattr(self, f.name) for f in fields(OdeSampler)} | {"name": "euler"})

    @property
    def upsampling(self) -> OdeSampler:
        """The sampler of the upsampler, which has no actions and so no guidance."""
        return OdeSampler(
            self.upsampling_solver,
            self.upsampling_steps,
            KarrasSchedule(sigma_min=self.upsampling_sigma_min, sigma_max=self.upsampling_sigma_max, rho=self.upsampling_rho),
            self.start_noise,
            self.quantize,
            self.quantization,
            s_churn=self.upsampling_churn,
            s_tmin=self.upsampling_tmin,
            s_tmax=self.upsampling_tmax,
            s_noise=self.upsampling_noise,
            churn_sigma=self.upsampling_churn_sigma,
        )


@dataclass(frozen=True)
class HigherQualitySampler(CascadeSampler):
    """`CascadeSampler` with the authors' neutral values of `higher_quality`."""

    name: str = "higher_quality"
    num_steps: int = setting(3, minimum=1, maximum=1000)
    """Denoising steps of the frame at low resolution."""
    upsampling_steps: int = setting(10, minimum=1, maximum=1000)
    """Denoising steps of the upsampler."""
    upsampling_solver: Literal["euler", "heun"] = setting("euler")
    """The solver of the upsampler."""


@dataclass(frozen=True)
class MultistepSampler(SamplerSettings):
    """DPM-Solver++(2M): second order with as many calls as a first-order solver (Lu et al. 2022)."""

    name: str = "dpm_solver_pp_2m"


@dataclass(frozen=True)
class AncestralSampler(SamplerSettings):
    """DDPM's ancestral sampler, 'fixed small' variance (Ho et al. 2020, algorithm 2; method section 3), and DDIM."""

    name: str = "ddpm_ancestral"
    schedule: Schedule = DdpmLeadingSchedule()
    start_noise: Literal["unit", "sigma_max", "variance_preserving"] = setting("variance_preserving")
    quantize: Literal["every_call", "final"] = setting("final")
    clip_denoised: bool = setting(True)
    """Clip each predicted clean frame to [-1, 1]."""
    eta: float = setting(1.0, minimum=0.0, maximum=1.0)
    """Noise of a step relative to ancestral sampling: 1 is DDPM, 0 is deterministic DDIM (Song et al. 2021, equation 16)."""


@dataclass(frozen=True)
class OpenLoopSampler(SamplerSettings):
    """Denoises all frames of a horizon at once, by Euler's method. So it needs all actions in advance: nobody can play with it."""

    name: str = "whole_sequence"

    @property
    def steps_behind(self) -> int:
        """Denoising steps by which a frame lags behind the frame before it."""
        return 0


@dataclass(frozen=True)
class PyramidSampler(OpenLoopSampler):
    """Denoises several frames at once, each behind the one before it: their noise levels are a staircase (Chen et al. 2024)."""

    name: str = "pyramid"
    delay: int = setting(1, minimum=1)
    """Denoising steps by which a frame lags behind the frame before it. With num_steps or more, frames follow one after the other."""

    @property
    def steps_behind(self) -> int:
        """See `OpenLoopSampler.steps_behind`."""
        return self.delay


Objective = FactoredObjective
"""Settings of an objective: this class, or another class of OBJECTIVES."""
Sampler = OdeSampler | MultistepSampler | AncestralSampler | OpenLoopSampler


@dataclass(frozen=True)
class Option:
    """A named choice: its settings and its code, each as "module:name" and imported on first use. The settings may also be a class. A name
    without a file in conf/ gets the neutral values of its settings."""

    settings: type | str
    function: str
    call_levels: str = "diamond_bench.diffusion.schedules:one_call_per_step"
    """For a sampler: the function that lists the noise levels of its denoiser calls, given its settings and its schedule's levels."""

    def settings_type(self) -> type:
        """The class of its settings."""
        return self.settings if isinstance(self.settings, type) else imported(self.settings)


_FACTORED = Option(FactoredObjective, "diamond_bench.diffusion.objectives:Factored")
OBJECTIVES: dict[str, Option] = {
    "edm": _FACTORED,
    "edm_clean": _FACTORED,
    "ddpm": _FACTORED,
    "ddpm_velocity": _FACTORED,
    "ddpm_clean": _FACTORED,
    "flow": _FACTORED,
}
SCHEDULES: dict[str, Option] = {
    "karras": Option(KarrasSchedule, "diamond_bench.diffusion.schedules:karras"),
    "linear": Option(RangeSchedule, "diamond_bench.diffusion.schedules:linear"),
    "log_linear": Option(RangeSchedule, "diamond_bench.diffusion.schedules:log_linear"),
    "cosine": Option(RangeSchedule, "diamond_bench.diffusion.schedules:cosine"),
    "flow": Option(FlowSchedule, "diamond_bench.diffusion.schedules:flow"),
    "ddpm_leading": Option(DdpmLeadingSchedule, "diamond_bench.diffusion.schedules:ddpm_leading"),
}
SAMPLERS: dict[str, Option] = {
    "euler": Option(OdeSampler, "diamond_bench.diffusion.samplers:euler", "diamond_bench.diffusion.schedules:churned_calls"),
    "heun": Option(OdeSampler, "diamond_bench.diffusion.samplers:heun", "diamond_bench.diffusion.schedules:heun_calls"),
    "dpm_solver_pp_2m": Option(MultistepSampler, "diamond_bench.diffusion.samplers:dpm_solver_pp_2m"),
    "ddpm_ancestral": Option(AncestralSampler, "diamond_bench.diffusion.samplers:ancestral"),
    "ddim": Option(AncestralSampler, "diamond_bench.diffusion.samplers:ancestral"),
    "whole_sequence": Option(OpenLoopSampler, "diamond_bench.diffusion.open_loop:sample_together"),
    "pyramid": Option(PyramidSampler, "diamond_bench.diffusion.open_loop:sample_together"),
    "fast": Option(CascadeSampler, "diamond_bench.diffusion.samplers:euler", "diamond_bench.diffusion.schedules:churned_calls"),
    "higher_quality": Option(
        HigherQualitySampler, "diamond_bench.diffusion.samplers:euler", "diamond_bench.diffusion.schedules:churned_calls"
    ),
}
OPTIONS: dict[str, dict[str, Option]] = {"objective": OBJECTIVES, "schedule": SCHEDULES, "sampler": SAMPLERS}
"""Registries by the name of the field that holds the choice."""


def imported(path: str) -> Any:
    """Imports and returns the object that "module:name" names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def option_of(settings: Objective | Schedule | Sampler) -> Option:
    """The registered option that these settings belong to."""
    registries = (registry for registry in OPTIONS.values() if settings.name in registry)
    return next(r[settings.name] for r in registries if isinstance(settings, r[settings.name].settings_type()))


def chosen(settings: Objective | Schedule | Sampler) -> Any:
    """The class or function of these settings' option. Imports its module."""
    return imported(option_of(settings).function)
