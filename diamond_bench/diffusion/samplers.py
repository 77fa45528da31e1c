"""Samplers: plain functions of one signature over a denoiser and decreasing noise levels that end in 0.

The state x is float32 in EDM's variance-exploding coordinates. Levels are Python floats, so that nothing waits for the device.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from diamond_bench.config import AncestralSampler, MultistepSampler, OdeSampler, Sampler, chosen
from diamond_bench.diffusion.quantization import quantize
from diamond_bench.diffusion.schedules import churn_factor, denoiser_sigmas, sigmas
from diamond_bench.models.conditioning import withheld

Denoise = Callable[[Tensor, float], Tensor]
"""denoise(x, sigma) -> the clean frames, of x's shape."""
Noise = Callable[[], Tensor]
"""noise() -> fresh N(0, 1) of x's shape."""
Callback = Callable[[Tensor, Tensor, float], None]
"""callback(x, denoised, sigma), called at every denoiser call with the denoiser's unquantised output."""


Sampling = Callable[["SupportsDenoise", Tensor, Tensor, Sampler, Noise], Tensor]
"""(denoiser, past, actions, sampler, noise) -> the next frames, with the signature of `sample`."""


class DenoisesNoisyPast(Protocol):
    """A denoiser that receives the level of the noise in its past frames (`Denoiser.denoise`)."""

    def denoise(self, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor, past_sigma: Tensor | None = None) -> Tensor:
        """The clean frame, (b, 3, h, w)."""
        ...


class SupportsDenoise(Protocol):
    """A denoiser, or an oracle that replaces it (`Denoiser.denoise`)."""

    def denoise(self, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """The clean frame, (b, 3, h, w)."""
        ...

    def centre(self, past: Tensor) -> Tensor | None:
        """The frame to which sampling adds its first noise, (b, 3, h, w). None means a frame of zeros."""
        return None


def euler(denoise: Denoise, x: Tensor, sigmas: Sequence[float], settings: OdeSampler, noise: Noise) -> Tensor:
    """Euler's method on the probability-flow ODE (Karras et al. 2022, algorithm 2 without its correction).

    In these coordinates it equals deterministic DDIM, and Euler's method on the straight paths of rectified flow. They differ only in their
    levels.
    """
    return _solve_ode(denoise, x, sigmas, settings, noise, correct=False)


def heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float], settings: OdeSampler, noise: Noise) -> Tensor:
    """Heun's second-order method, with a final Euler step to 0 (Karras et al. 2022, algorithms 1 and 2)."""
    return _solve_ode(denoise, x, sigmas, settings, noise, correct=True)


def _solve_ode(denoise: Denoise, x: Tensor, sigmas: Sequence[float], settings: OdeSampler, noise: Noise, correct: bool) -> Tensor:
    for sigma, following in itertools.pairwise(sigmas):
        sigma_hat = sigma * (1 + churn_factor(settings, sigma))
        if sigma_hat > sigma:
            x = x + noise() * (settings.s_noise * math.sqrt(sigma_hat**2 - sigma**2))
        slope = (x - denoise(x, sigma_hat if settings.churn_sigma == "sigma_hat" else sigma)) / sigma_hat
        if correct and following > 0:
            euler_x = x + slope * (following - sigma_hat)
            slope = (slope + (euler_x - denoise(euler_x, following)) / following) / 2
        x = x + slope * (following - sigma_hat)
    return x


def dpm_solver_pp_2m(denoise: Denoise, x: Tensor, sigmas: Sequence[float], settings: MultistepSampler, noise: Noise) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), in lambda = -log sigma. It extrapolates the clean frame from the last two calls.

    The first step and the step to 0 are of first order.
    """
    before: Tensor | None = None
    last_h = math.inf
    for sigma, following in itertools.pairwise(sigmas):
        denoised = denoise(x, sigma)
        h = math.log(sigma / following) if following > 0 else math.inf
        ahead = denoised if before is None or following == 0 else denoised + (denoised - before) * (h / (2 * last_h))
        x = ahead + (x - ahead) * (following / sigma)
        before, last_h = denoised, h
    return x


def ancestral(denoise: Denoise, x: Tensor, sigmas: Sequence[float], settings: AncestralSampler, noise: Noise) -> Tensor:
    """DDPM's ancestral sampler with the posterior ('fixed small') variance (Ho et al. 2020, algorithm 2), for any decreasing levels. With
    eta below 1 it is DDIM (Song et al. 2021, equations 12 and 16).

    In variance-exploding coordinates, the posterior of the next level p given the level s, x and the clean frame d is N(d + (p/s)^2 (x -
    d), p^2 (1 - (p/s)^2)). Multiplied by 1 / sqrt(1 + p^2), it is Ho et al.'s equation 7. DDIM adds noise of eta times that standard
    deviation. It keeps more of x - d, so that the marginal variance is p^2.
    """
    for sigma, following in itertools.pairwise(sigmas):
        denoised = denoise(x, sigma)
        if settings.clip_denoised:
            denoised = denoised.clamp(-1, 1)
        ratio = following / sigma
        added = settings.eta**2 * (1 - ratio**2)  # share of the next level's variance that comes from new noise
        kept = 1 - settings.eta**2 + (settings.eta * ratio) ** 2  # 1 - added, computed without cancellation if eta is 1
        x = denoised + (x - denoised) * (ratio * math.sqrt(kept))
        if following > 0 and added > 0:
            x = x + noise() * (following * math.sqrt(added))
    return x


class NoisyPast:
    """The past frames of one sample, to which each step adds noise (`OdeSampler.s_cond`). Both calls of a step of Heun's method see the
    same frames."""

    def __init__(self, denoiser: SupportsDenoise, past: Tensor, sampler: OdeSampler, noise: Noise) -> None:
        self._denoiser = cast(DenoisesNoisyPast, denoiser)
        self._clean = self._past = past
        self._sampler, self._noise, self._calls = sampler, noise, 0
        self._calls_per_step = math.ceil(len(denoiser_sigmas(sampler)) / sampler.num_steps)

    def begin_call(self) -> None:
        """Adds the noise of a step if its first call begins."""
        if self._calls % self._calls_per_step == 0:
            base = self._past if self._sampler.s_cond_rule == "accumulating" else self._clean
            added = torch.stack([self._noise() for _ in range(base.shape[1])], dim=1)
            self._past = base + self._sampler.s_cond * added
        self._calls += 1

    def denoise(self, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """The denoiser's output, given the noisy frames in place of `past`, and the level `s_cond`."""
        return self._denoiser.denoise(x, sigma, self._past, actions, torch.full_like(sigma, self._sampler.s_cond))


def sample(
    denoiser: SupportsDenoise, past: Tensor, actions: Tensor, sampler: Sampler, noise: Noise, callback: Callback | None = None
) -> Tensor:
    """Samples the next frames, (b, 3, h, w) float32 on the 8-bit grid of [-1, 1].

    Args:
        denoiser: its noise range must contain the sampler's (`check_sampler`). Guidance needs one that accepts withheld actions.
        past: frames in [-1, 1], oldest first, (b, L, 3, h, w).
        actions: taken after each past frame, (b, L) or (b, L, k).
        sampler: the sampler and its settings.
        noise: returns fresh N(0, 1) of shape (b, 3, h, w), on the device of `past`. It is called once for the start, then for each
            stochastic step. With s_cond, each step also calls it once per past frame, after its churn.
        callback: called after every denoiser call. Guidance makes two calls in place of one.
    """
    levels: list[float] = sigmas(sampler).tolist()
    every_call = sampler.quantize == "every_call"

    noisy = NoisyPast(denoiser, past, sampler, noise) if isinstance(sampler, OdeSampler) and sampler.s_cond > 0 else None
    no_actions = torch.full_like(actions, withheld(actions)) if sampler.guidance != 1 else actions

    def call(x: Tensor, sigma: float, given_actions: Tensor) -> Tensor:
        # torch.full writes the number on the device. A tensor made from it on the host would have to be copied there.
        level = torch.full((len(x),), sigma, device=x.device)
        denoised = (noisy or denoiser).denoise(x, level, past, given_actions)
        if callback is not None:
            callback(x, denoised, sigma)
        return denoised

    def denoise(x: Tensor, sigma: float) -> Tensor:
        if noisy is not None:
            noisy.begin_call()
        denoised = call(x, sigma, actions)
        if sampler.guidance != 1:
            free = call(x, sigma, no_actions)
            denoised = free + sampler.guidance * (denoised - free)
        return quantize(denoised, sampler.quantization) if every_call else denoised

    start, centre = noise() * start_scale(sampler, levels), denoiser.centre(past)
    x = chosen(sampler)(denoise, start if centre is None else centre + start, levels, sampler, noise)
    # A frame composed of quantised parts lies on the grid up to rounding errors. Truncation would turn these into whole levels.
    return quantize(x, "round" if every_call else sampler.quantization)


def start_scale(sampler: Sampler, levels: Sequence[float]) -> float:
    """The scale of the noise that sampling starts from (`SamplerSettings.start_noise`)."""
    return {"unit": 1.0, "sigma_max": levels[0], "variance_preserving": math.sqrt(1 + levels[0] ** 2)}[sampler.start_noise]


def trajectory_noise(generators: Sequence[torch.Generator], shape: tuple[int, ...], device: torch.device | str) -> Noise:
    """Noise whose row i comes from generator i alone, so that a trajectory does not depend on the rest of its batch.

    Generators on the CPU give the same numbers for every device.
    """

    def noise() -> Tensor:
        rows = [torch.randn(shape, generator=g, device=g.device) for g in generators]
        return torch.stack(rows).to(device, non_blocking=True)

    return noise
