"""Noise levels: sampling schedules, the range an objective was trained on, and whether the two fit. Without torch (planning uses it).

A level is always sigma of EDM's variance-exploding coordinates, x = clean + sigma * noise. A variance-preserving level with
cumulative product a is sigma = sqrt((1 - a) / a).
"""

import functools
import itertools
import math

import numpy as np
from numpy.typing import NDArray

from diamond_bench.config import (
    DdpmLeadingSchedule,
    DdpmObjective,
    KarrasSchedule,
    Objective,
    OdeSampler,
    Sampler,
    chosen,
)
from diamond_bench.errors import UserError

Sigmas = NDArray[np.float64]


def alphas_cumprod(num_train_timesteps: int, beta_start: float, beta_end: float) -> Sigmas:
    """(T,) cumulative products of 1 - beta, betas linear (Ho et al. 2020). Raises UserError unless 0 < beta_start <= beta_end < 1."""
    if not 0 < beta_start <= beta_end < 1:
        raise UserError(f"beta_start={beta_start:g}, beta_end={beta_end:g}: need 0 < beta_start <= beta_end < 1")
    return np.cumprod(1.0 - np.linspace(beta_start, beta_end, num_train_timesteps), dtype=np.float64)


def timestep_sigmas(num_train_timesteps: int, beta_start: float, beta_end: float) -> Sigmas:
    """(T,) increasing sigmas of DDPM's timesteps 0..T-1."""
    alphas = alphas_cumprod(num_train_timesteps, beta_start, beta_end)
    return np.sqrt((1.0 - alphas) / alphas)


def leading_timesteps(num_steps: int, num_train_timesteps: int) -> list[int]:
    """The timesteps of n steps: k * (T // n), k = n-1..0; for n = 1 it is T // 2, as the authors found T - 1 useless (method section 3)."""
    if not 1 <= num_steps <= num_train_timesteps:
        raise UserError(f"sampler.num_steps={num_steps}: the schedule has {num_train_timesteps} timesteps (num_train_timesteps)")
    if num_steps == 1:
        return [num_train_timesteps // 2]
    return [k * (num_train_timesteps // num_steps) for k in reversed(range(num_steps))]


def karras(schedule: KarrasSchedule, num_steps: int) -> Sigmas:
    """(n + 1,) levels from sigma_max to sigma_min, evenly spaced in sigma^(1/rho), then 0 (Karras et al. 2022, equation 5).

    For n = 1 the only level is sigma_max. Raises UserError unless sigma_min < sigma_max.
    """
    if schedule.sigma_min >= schedule.sigma_max:
        raise UserError(f"sampler.schedule.sigma_min={schedule.sigma_min:g}: must be below sigma_max={schedule.sigma_max:g}")
    ramp = np.linspace(schedule.sigma_max ** (1 / schedule.rho), schedule.sigma_min ** (1 / schedule.rho), num_steps) ** schedule.rho
    ramp[0] = schedule.sigma_max  # exactly, whatever the powers rounded to
    if num_steps > 1:
        ramp[-1] = schedule.sigma_min
    return np.append(ramp, 0.0)


def ddpm_leading(schedule: DdpmLeadingSchedule, num_steps: int) -> Sigmas:
    """(n + 1,) levels of the leading timesteps, then 0. Raises UserError when there are more steps than timesteps."""
    levels = timestep_sigmas(schedule.num_train_timesteps, schedule.beta_start, schedule.beta_end)
    return np.append(levels[leading_timesteps(num_steps, schedule.num_train_timesteps)], 0.0)


def sigmas(sampler: Sampler) -> Sigmas:
    """(n + 1,) strictly decreasing float64 levels of a sampler, the last exactly 0."""
    levels: Sigmas = chosen(sampler.schedule)(sampler.schedule, sampler.num_steps)
    return levels


def churn_factor(sampler: OdeSampler, sigma: float) -> float:
    """gamma >= 0 by which a step at `sigma` raises its level to sigma * (1 + gamma) (Karras et al. 2022, algorithm 2)."""
    if not sampler.s_tmin <= sigma <= sampler.s_tmax:
        return 0.0
    return min(sampler.s_churn / sampler.num_steps, math.sqrt(2) - 1)


def denoiser_sigmas(sampler: Sampler) -> list[float]:
    """The level the denoiser is told at each of its calls, in call order."""
    told = []
    for sigma, following in itertools.pairwise(sigmas(sampler).tolist()):
        if isinstance(sampler, OdeSampler) and sampler.churn_sigma == "sigma_hat":
            sigma *= 1 + churn_factor(sampler, sigma)
        told.append(sigma)
        if sampler.name == "heun" and following > 0:
            told.append(following)
    return told


def nfe(sampler: Sampler) -> int:
    """Denoiser calls per frame: n, and 2n - 1 for Heun, whose last step is Euler's."""
    return 2 * sampler.num_steps - 1 if sampler.name == "heun" else sampler.num_steps


def trained_sigma_range(objective: Objective) -> tuple[float, float]:
    """Lowest and highest level an objective trains on. Raises UserError when its settings leave none."""
    if isinstance(objective, DdpmObjective):
        levels = timestep_sigmas(objective.num_train_timesteps, objective.beta_start, objective.beta_end)
        return float(levels[0]), float(levels[-1])
    if objective.sigma_min >= objective.sigma_max:
        raise UserError(f"objective.sigma_min={objective.sigma_min:g}: must be below objective.sigma_max={objective.sigma_max:g}")
    return objective.sigma_min, objective.sigma_max


@functools.lru_cache(maxsize=1024)
def check_sampler(sampler: Sampler, objective: Objective) -> None:
    """Refuses a sampler that asks for a level outside the range the objective was trained on, or whose settings contradict each other.

    Raises UserError naming the level, the range, and settings that would fit.
    """
    low, high = trained_sigma_range(objective)
    if isinstance(sampler, OdeSampler) and sampler.s_tmin > sampler.s_tmax:
        raise UserError(f"sampler.s_tmin={sampler.s_tmin:g}: must be at most s_tmax={sampler.s_tmax:g}")
    told = denoiser_sigmas(sampler)
    outside = [sigma for sigma in told if not _within(sigma, low, high)]
    if outside:
        raise UserError(
            f"sampler {sampler.name} asks for sigma {outside[0]:.4g}, but objective {objective.name} was trained on "
            f"sigma {low:.4g} to {high:.4g}; {_advice(sampler, low, high)}"
        )


def _within(sigma: float, low: float, high: float) -> bool:
    """Whether a level is in the range, but for the rounding of powers and products."""
    return low * (1 - 1e-6) <= sigma <= high * (1 + 1e-6)


def _advice(sampler: Sampler, low: float, high: float) -> str:
    if isinstance(sampler.schedule, KarrasSchedule):
        keep = "" if not _raises(sampler) else f" / {math.sqrt(2):.4g} (churn raises a level by up to that)"
        return f"choose sampler.schedule.sigma_min >= {low:.4g} and sampler.schedule.sigma_max <= {high:.4g}{keep}"
    fitting = [n for n in range(1, sampler.num_steps) if all(_within(s, low, high) for s in ddpm_leading(sampler.schedule, n)[:-1])]
    fits = f"sampler.num_steps={fitting[-1]} would fit" if fitting else "no smaller sampler.num_steps would fit"
    return f"{fits}, or choose sampler.schedule.name=karras with sigma_min >= {low:.4g} and sigma_max <= {high:.4g}"


def _raises(sampler: Sampler) -> bool:
    return isinstance(sampler, OdeSampler) and sampler.churn_sigma == "sigma_hat" and sampler.s_churn > 0
