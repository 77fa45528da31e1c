"""Samplers: plain functions of one signature over a denoiser and decreasing noise levels that end in 0.

Their state x lives in EDM's variance-exploding coordinates and in float32. Levels are Python floats, so nothing waits for the device.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from diamond_bench.config import AncestralSampler, OdeSampler, Sampler, chosen
from diamond_bench.diffusion.quantization import quantize
from diamond_bench.diffusion.schedules import churn_factor, sigmas

Denoise = Callable[[Tensor, float], Tensor]
"""denoise(x, sigma) -> the clean frames, of x's shape."""
Noise = Callable[[], Tensor]
"""noise() -> fresh N(0, 1) of x's shape."""
Callback = Callable[[int, Tensor, Tensor, float], None]
"""callback(step, x, denoised, sigma) at every denoiser call."""


class SupportsDenoise(Protocol):
    """A denoiser, or an oracle in its place; see `Denoiser.denoise`."""

    def denoise(self, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """The clean frame, (b, 3, h, w)."""
        ...


def _ignore(step: int, x: Tensor, denoised: Tensor, sigma: float) -> None: ...


def euler(denoise: Denoise, x: Tensor, sigmas: Sequence[float], settings: OdeSampler, noise: Noise, callback: Callback = _ignore) -> Tensor:
    """Euler's method on the probability-flow ODE (Karras et al. 2022, algorithm 2 without its correction)."""
    return _solve_ode(denoise, x, sigmas, settings, noise, callback, correct=False)


def heun(denoise: Denoise, x: Tensor, sigmas: Sequence[float], settings: OdeSampler, noise: Noise, callback: Callback = _ignore) -> Tensor:
    """Heun's second-order method, with an Euler step to 0 (Karras et al. 2022, algorithms 1 and 2)."""
    return _solve_ode(denoise, x, sigmas, settings, noise, callback, correct=True)


def _solve_ode(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], settings: OdeSampler, noise: Noise, callback: Callback, correct: bool
) -> Tensor:
    for step, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        sigma_hat = sigma * (1 + churn_factor(settings, sigma))
        if sigma_hat > sigma:
            x = x + noise() * (settings.s_noise * math.sqrt(sigma_hat**2 - sigma**2))
        told = sigma_hat if settings.churn_sigma == "sigma_hat" else sigma
        denoised = denoise(x, told)
        callback(step, x, denoised, told)
        slope = (x - denoised) / sigma_hat
        if correct and following > 0:
            euler_x = x + slope * (following - sigma_hat)
            denoised = denoise(euler_x, following)
            callback(step, euler_x, denoised, following)
            slope = (slope + (euler_x - denoised) / following) / 2
        x = x + slope * (following - sigma_hat)
    return x


def ddpm_ancestral(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], settings: AncestralSampler, noise: Noise, callback: Callback = _ignore
) -> Tensor:
    """DDPM's ancestral sampler with the posterior ('fixed small') variance (Ho et al. 2020, algorithm 2), for any decreasing levels.

    In variance-exploding coordinates the posterior of the next level p given the level s, x and the clean frame d is
    N(d + (p/s)^2 (x - d), p^2 (1 - (p/s)^2)); multiplied by 1 / sqrt(1 + p^2) it is Ho et al.'s equation 7.
    """
    for step, (sigma, following) in enumerate(itertools.pairwise(sigmas)):
        denoised = denoise(x, sigma)
        callback(step, x, denoised, sigma)
        if settings.clip_denoised:
            denoised = denoised.clamp(-1, 1)
        kept = (following / sigma) ** 2
        x = denoised + (x - denoised) * kept
        if following > 0:
            x = x + noise() * (following * math.sqrt(1 - kept))
    return x


def sample(
    denoiser: SupportsDenoise, past: Tensor, actions: Tensor, sampler: Sampler, noise: Noise, callback: Callback = _ignore
) -> Tensor:
    """Next frames, (b, 3, h, w) float32 on the 8-bit grid of [-1, 1].

    Args:
        denoiser: its noise range must hold the sampler's (`check_sampler`).
        past: frames in [-1, 1], oldest first, (b, L, 3, h, w).
        actions: taken after each past frame, (b, L) int64.
        sampler: which sampler, and its settings.
        noise: fresh N(0, 1) of shape (b, 3, h, w), on past's device; called first for the start, then for each stochastic step.
        callback: told of every denoiser call.
    """
    levels: list[float] = sigmas(sampler).tolist()
    every_call = sampler.quantize == "every_call"

    def denoise(x: Tensor, sigma: float) -> Tensor:
        # torch.full writes the number on the device; a tensor made from it on the host would have to be copied there
        denoised = denoiser.denoise(x, torch.full((len(x),), sigma, device=x.device), past, actions)
        return quantize(denoised, sampler.quantization) if every_call else denoised

    start_scale = {"unit": 1.0, "sigma_max": levels[0], "variance_preserving": math.sqrt(1 + levels[0] ** 2)}[sampler.start_noise]
    x = chosen(sampler)(denoise, noise() * start_scale, levels, sampler, noise, callback)
    # A frame made of quantised parts is on the grid but for rounding errors, which truncating would turn into whole levels.
    return quantize(x, "round" if every_call else sampler.quantization)


def trajectory_noise(generators: Sequence[torch.Generator], shape: tuple[int, ...], device: torch.device | str) -> Noise:
    """Noise whose row i comes from generator i alone, so that a trajectory does not depend on which others share its batch.

    Generators on the CPU give every device the same numbers.
    """

    def noise() -> Tensor:
        rows = [torch.randn(shape, generator=g, device=g.device) for g in generators]
        return torch.stack(rows).to(device, non_blocking=True)

    return noise
