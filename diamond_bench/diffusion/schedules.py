"""Noise levels: sampling schedules, the range that an objective was trained on, and whether the two fit. Without torch, for planning.

A level is always the sigma of EDM's variance-exploding coordinates, x = clean + sigma * noise. A variance-preserving level with cumulative
product a has sigma = sqrt((1 - a) / a).
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diamond_bench.config import (
    DdpmLeadingSchedule,
    FlowSchedule,
    KarrasSchedule,
    Objective,
    OdeSampler,
    OpenLoopSampler,
    RangeSchedule,
    Sampler,
    SamplerSettings,
    chosen,
    imported,
    option_of,
)
from diamond_bench.errors import UserError

Sigmas = NDArray[np.float64]


def alphas_cumprod(num_train_timesteps: int, beta_start: float, beta_end: float) -> Sigmas:
    """(T,) cumulative products of 1 - beta with linear betas (Ho et al. 2020). Raises UserError unless 0 < beta_start <= beta_end < 1."""
    if not 0 < beta_start <= beta_end < 1:
        raise UserError(f"beta_start={beta_start:g}, beta_end={beta_end:g}: need 0 < beta_start <= beta_end < 1")
    return np.cumprod(1.0 - np.linspace(beta_start, beta_end, num_train_timesteps), dtype=np.float64)


def timestep_sigmas(num_train_timesteps: int, beta_start: float, beta_end: float) -> Sigmas:
    """(T,) strictly increasing sigmas of DDPM's timesteps 0..T-1. Raises UserError if the betas are too small or too many for that."""
    alphas = alphas_cumprod(num_train_timesteps, beta_start, beta_end)
    with np.errstate(divide="ignore", over="ignore"):
        levels: Sigmas = np.sqrt((1.0 - alphas) / alphas)
    if not _strictly_decreasing(np.append(levels[::-1], 0.0)):
        raise UserError(
            f"beta_start={beta_start:g}, beta_end={beta_end:g}, num_train_timesteps={num_train_timesteps}: these do not give every "
            f"timestep a noise level of its own (sigma {levels[0]:.4g} to {levels[-1]:.4g}); DDPM's are 0.0001, 0.02, 1000"
        )
    return levels


def leading_timesteps(num_steps: int, num_train_timesteps: int) -> list[int]:
    """The timesteps of n steps: k * (T // n), k = n-1..0. For n = 1 it is T // 2, since T - 1 was useless for the authors (method section
    3)."""
    if not 1 <= num_steps <= num_train_timesteps:
        raise UserError(
            f"sampler.num_steps={num_steps}: the schedule has {num_train_timesteps} timesteps (sampler.schedule.num_train_timesteps), "
            "and each step uses one"
        )
    if num_steps == 1:
        return [num_train_timesteps // 2]
    return [k * (num_train_timesteps // num_steps) for k in reversed(range(num_steps))]


def karras(schedule: KarrasSchedule, num_steps: int) -> Sigmas:
    """(n + 1,) levels from sigma_max to sigma_min, evenly spaced in sigma^(1/rho), then 0 (Karras et al. 2022, equation 5)."""
    return _evenly_spaced(schedule, num_steps, lambda sigma: sigma ** (1 / schedule.rho), lambda even: even**schedule.rho)


def linear(schedule: RangeSchedule, num_steps: int) -> Sigmas:
    """(n + 1,) levels from sigma_max to sigma_min, evenly spaced, then 0."""
    return _evenly_spaced(schedule, num_steps, lambda sigma: sigma, lambda even: even)


def log_linear(schedule: RangeSchedule, num_steps: int) -> Sigmas:
    """(n + 1,) levels from sigma_max to sigma_min, evenly spaced in log sigma, then 0."""
    return _evenly_spaced(schedule, num_steps, np.log, np.exp)


def cosine(schedule: RangeSchedule, num_steps: int) -> Sigmas:
    """(n + 1,) levels from sigma_max to sigma_min, evenly spaced in atan sigma, then 0 (the angle of Nichol and Dhariwal 2021)."""
    return _evenly_spaced(schedule, num_steps, np.arctan, np.tan)


def _evenly_spaced(
    schedule: KarrasSchedule | RangeSchedule, num_steps: int, forth: Callable[[Any], Any], back: Callable[[Any], Any]
) -> Sigmas:
    """(n + 1,) levels, evenly spaced after `forth` and mapped back by `back`. For n = 1 the only level is sigma_max. Raises UserError
    unless sigma_min < sigma_max."""
    if schedule.sigma_min >= schedule.sigma_max:
        raise UserError(
            f"sampler.schedule.sigma_min={schedule.sigma_min:g}: must be below sampler.schedule.sigma_max={schedule.sigma_max:g}"
        )
    first, last = (forth(np.float64(sigma)) for sigma in (schedule.sigma_max, schedule.sigma_min))
    levels = back(np.linspace(first, last, num_steps))
    levels[0] = schedule.sigma_max  # exact ends, whatever the functions rounded to
    if num_steps > 1:
        levels[-1] = schedule.sigma_min
    return np.append(levels, 0.0)


def flow(schedule: FlowSchedule, num_steps: int) -> Sigmas:
    """(n + 1,) levels evenly spaced in flow time sigma / (1 + sigma), from that of sigma_max to 0 (Liu et al. 2023)."""
    time = np.linspace(schedule.sigma_max / (1 + schedule.sigma_max), 0.0, num_steps + 1)
    levels = time / (1 - time)
    levels[0] = schedule.sigma_max
    return levels


def ddpm_leading(schedule: DdpmLeadingSchedule, num_steps: int) -> Sigmas:
    """(n + 1,) levels of the leading timesteps, then 0. Raises UserError if there are more steps than timesteps."""
    levels = timestep_sigmas(schedule.num_train_timesteps, schedule.beta_start, schedule.beta_end)
    return np.append(levels[leading_timesteps(num_steps, schedule.num_train_timesteps)], 0.0)


def sigmas(sampler: Sampler) -> Sigmas:
    """(n + 1,) strictly decreasing float64 levels of a sampler, the last exactly 0. Raises UserError if its schedule has none."""
    with np.errstate(all="ignore"):  # overflow is refused below
        levels: Sigmas = chosen(sampler.schedule)(sampler.schedule, sampler.num_steps)
    if not _strictly_decreasing(levels):
        values = ", ".join(f"{f.name}={getattr(sampler.schedule, f.name)}" for f in fields(sampler.schedule) if f.name != "name")
        raise UserError(
            f"sampler.schedule {sampler.schedule.name} ({values}) has no {sampler.num_steps} different finite levels that fall to 0; "
            f"choose less extreme values, or fewer sampler.num_steps"
        )
    return levels


def _strictly_decreasing(levels: Sigmas) -> bool:
    return bool(np.isfinite(levels).all() and (np.diff(levels) < 0).all())


def churn_factor(sampler: OdeSampler, sigma: float) -> float:
    """gamma >= 0 by which a step at `sigma` raises its level to sigma * (1 + gamma) (Karras et al. 2022, algorithm 2)."""
    return most_churn(sampler) if sampler.s_tmin <= sigma <= sampler.s_tmax else 0.0


def most_churn(sampler: OdeSampler) -> float:
    """gamma of a step at a level in [s_tmin, s_tmax]."""
    return min(sampler.s_churn / sampler.num_steps, math.sqrt(2) - 1)


def one_call_per_step(sampler: SamplerSettings, levels: Sequence[float]) -> list[float]:
    """The levels except the last, for a sampler that calls the denoiser once per step, at the step's level."""
    return list(levels[:-1])


def churned_calls(sampler: OdeSampler, levels: Sequence[float]) -> list[float]:
    """One call per step; with churn_sigma=sigma_hat, at the level that churn raises it to."""
    calls = one_call_per_step(sampler, levels)
    return calls if sampler.churn_sigma == "sigma" else [sigma * (1 + churn_factor(sampler, sigma)) for sigma in calls]


def heun_calls(sampler: OdeSampler, levels: Sequence[float]) -> list[float]:
    """Two calls per step, at its level and at the next. The last step is Euler's, with one call."""
    pairs = zip(churned_calls(sampler, levels), levels[1:], strict=True)
    return [sigma for pair in pairs for sigma in pair][:-1]


def denoiser_sigmas(sampler: Sampler) -> list[float]:
    """The noise level that the denoiser receives at each of its calls, in call order. Guidance's second calls are not listed."""
    levels: list[float] = imported(option_of(sampler).call_levels)(sampler, sigmas(sampler).tolist())
    return levels


def nfe(sampler: Sampler) -> int:
    """Denoiser calls per frame: n, 2n - 1 for Heun, and twice that with guidance."""
    return len(denoiser_sigmas(sampler)) * (1 if sampler.guidance == 1 else 2)


def check_closed_loop(sampler: Sampler, player: str) -> None:
    """Raises UserError if the sampler needs all actions in advance. `player`: who chooses them one by one."""
    if isinstance(sampler, OpenLoopSampler):
        raise UserError(
            f"sampler={sampler.name}: it denoises the frames of a horizon together, so it needs all actions in advance, but {player} "
            "chooses them one by one; use another sampler, such as sampler=euler"
        )


def trained_sigma_range(objective: Objective) -> tuple[float, float]:
    """The lowest and the highest level that an objective trains on. Raises UserError if its settings leave none."""
    if getattr(objective, "uses_timesteps", False):  # settings of a user's own objective may have no such fields
        levels = timestep_sigmas(objective.num_train_timesteps, objective.beta_start, objective.beta_end)
        if objective.noise_levels == "timesteps":
            return float(levels[0]), float(levels[-1])
    if objective.sigma_min >= objective.sigma_max:
        raise UserError(f"objective.sigma_min={objective.sigma_min:g}: must be below objective.sigma_max={objective.sigma_max:g}")
    if math.isinf(objective.sigma_max):
        raise UserError("objective.sigma_max=inf: training noise needs a highest level, such as 20")
    return objective.sigma_min, objective.sigma_max


@functools.lru_cache(maxsize=1024)
def check_sampler(sampler: Sampler, objective: Objective) -> None:
    """Refuses a sampler with a level outside the range of the objective's training, or with settings that contradict each other.

    Raises UserError with the level, the range, and overrides that would fit.
    """
    low, high = trained_sigma_range(objective)
    if getattr(objective, "coordinate", "frame") == "change" and sampler.quantization == "truncate":
        raise UserError(
            "sampler.quantization=truncate: with objective.coordinate=change each frame is the last one plus a change, so truncation would "
            "darken a rollout by half a level per frame; use sampler.quantization=round"
        )
    if isinstance(sampler, OdeSampler) and sampler.s_tmin > sampler.s_tmax:
        raise UserError(f"sampler.s_tmin={sampler.s_tmin:g}: must be at most sampler.s_tmax={sampler.s_tmax:g}")
    outside = [sigma for sigma in denoiser_sigmas(sampler) if not _within(sigma, low, high)]
    if outside:
        raised = " (a level raised by churn)" if outside[0] not in sigmas(sampler) else ""
        raise UserError(
            f"sampler {sampler.name} asks for sigma {outside[0]:.4g}{raised}, but objective {objective.name} was trained on "
            f"sigma {low:.4g} to {high:.4g}; {_advice(sampler, low, high)}"
        )


def _within(sigma: float, low: float, high: float) -> bool:
    """Whether a level is in the range, with a relative tolerance of 1e-4: a user may write DDPM's lowest level, 0.0100005, as 0.01."""
    return low * (1 - 1e-4) <= sigma <= high * (1 + 1e-4)


def _fits(sampler: Sampler, low: float, high: float) -> bool:
    try:
        return all(_within(sigma, low, high) for sigma in denoiser_sigmas(sampler))
    except UserError:  # it has no levels
        return False


def _advice(sampler: Sampler, low: float, high: float) -> str:
    """Overrides that make the sampler fit. Each was tried."""
    fitting = dict.fromkeys(text for fixed, text in _fixes(sampler, low, high) if _fits(fixed, low, high))
    return f"{', or '.join(fitting)} would fit" if fitting else "that range is too narrow for any of its schedules"


def _fixes(sampler: Sampler, low: float, high: float) -> Iterator[tuple[Sampler, str]]:
    """Similar samplers that may fit, with the overrides that lead to them."""
    raises = isinstance(sampler, OdeSampler) and sampler.churn_sigma == "sigma_hat"
    top = high / (1 + most_churn(sampler)) if isinstance(sampler, OdeSampler) and raises else high
    near = [(sampler, "")]
    if not isinstance(sampler.schedule, DdpmLeadingSchedule):
        moved, text = _moved(sampler.schedule, low, top)
        near.append((replace(sampler, schedule=moved), text))
    for changed, text in near:
        yield changed, text
        # among schedules with a sigma_min, only those of a single step leave it out
        if not isinstance(sampler.schedule, KarrasSchedule | RangeSchedule) and not _fits(changed, low, high):
            fewer = _most_steps_that_fit(changed, low, high)
            if fewer is not None:
                yield fewer, f"{text} sampler.num_steps={fewer.num_steps}".strip()
    if not isinstance(sampler.schedule, KarrasSchedule | RangeSchedule):
        moved, text = _moved(KarrasSchedule(), low, top)
        yield replace(sampler, schedule=moved), f"sampler/schedule=karras {text}".strip()


def _most_steps_that_fit(sampler: Sampler, low: float, high: float) -> Sampler | None:
    fits, too_many = 0, sampler.num_steps
    while too_many - fits > 1:  # fewer steps have less extreme levels
        middle = (fits + too_many) // 2
        if _fits(replace(sampler, num_steps=middle), low, high):
            fits = middle
        else:
            too_many = middle
    return replace(sampler, num_steps=fits) if fits else None


def _moved(
    schedule: KarrasSchedule | RangeSchedule | FlowSchedule, low: float, high: float
) -> tuple[KarrasSchedule | RangeSchedule | FlowSchedule, str]:
    """The schedule with its ends moved inside the range, and the overrides for that."""
    ends: dict[str, Any] = {}
    if not low < schedule.sigma_max <= high:
        ends["sigma_max"] = _rounded_inside(high, low, high)
    if isinstance(schedule, KarrasSchedule | RangeSchedule) and not low <= schedule.sigma_min < ends.get("sigma_max", schedule.sigma_max):
        ends["sigma_min"] = _rounded_inside(low, low, high)
    return replace(schedule, **ends), " ".join(f"sampler.schedule.{name}={value}" for name, value in ends.items())


def _rounded_inside(end: float, low: float, high: float) -> float:
    """An end of the range in four digits, rounded to the inside."""
    digit = 10.0 ** (math.floor(math.log10(end)) - 3)
    near = (float(f"{v:.4g}") for v in (end, end + digit, end - digit))
    return next((v for v in near if _within(v, low, high)), end)
