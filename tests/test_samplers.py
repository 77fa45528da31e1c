"""What samplers do with denoisers whose answer is known; that their samples have the right distribution is in test_oracles.py."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from presets import ONE_STAGE
from presets import sampler as sampler_preset

from diamond_bench.config import (
    SCHEDULES,
    WITHHELD,
    AncestralSampler,
    KarrasSchedule,
    OdeSampler,
    chosen,
)
from diamond_bench.diffusion.quantization import from_bytes, quantize
from diamond_bench.diffusion.samplers import SupportsDenoise, sample, trajectory_noise
from diamond_bench.diffusion.schedules import denoiser_sigmas, nfe, sigmas

PAST, ACTIONS = torch.zeros(2, 4, 3, 8, 8), torch.ones(2, 4, dtype=torch.long)
CROSSED = [
    pytest.param(
        dataclasses.replace(sampler_preset(name), schedule=SCHEDULES[schedule].settings_type()(name=schedule)), id=f"{name}-{schedule}"
    )
    for name in (*ONE_STAGE, "churn")
    for schedule in SCHEDULES
]


def randn(seed: int = 0, shape: tuple[int, ...] = (2, 3, 8, 8)):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator)


class Oracle(SupportsDenoise):
    """Answers every question with `clean`."""

    def __init__(self, clean):
        self.clean = clean

    def denoise(self, x, sigma, past, actions):
        assert x.dtype == torch.float32
        return self.clean


class Gaussian(SupportsDenoise):
    """The exact denoiser of pixels ~ N(mean, std^2); the mean follows the newest action, and withheld actions have one of their own."""

    std = 0.3

    def denoise(self, x, sigma, past, actions):
        mean = 0.2 * actions[:, -1, None, None, None]
        return mean + self.std**2 / (self.std**2 + sigma[:, None, None, None] ** 2) * (x - mean)


def traced(settings, denoiser=None, seed: int = 0):
    """The frame, and (x, what the denoiser said, sigma) of each call."""
    calls = []
    noise = randn(seed)
    return sample(denoiser or Gaussian(), PAST, ACTIONS, settings, noise, lambda *call: calls.append(call)), calls


@pytest.mark.parametrize("quantize_at", ["every_call", "final"])
@pytest.mark.parametrize("n", [1, 2, 3, 10])
@pytest.mark.parametrize("settings", CROSSED)
def test_an_oracle_denoiser_is_recovered(settings, n, quantize_at):
    clean = from_bytes(torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)))
    # rounding: truncation would darken dark frames by a level, which is the authors' trait and not the solver's
    settings = dataclasses.replace(settings, num_steps=n, quantize=quantize_at, quantization="round")
    frame, calls = traced(settings, Oracle(clean))
    torch.testing.assert_close(frame, clean, rtol=0, atol=1e-6)
    assert [sigma for _, _, sigma in calls] == denoiser_sigmas(settings)
    assert len(calls) == nfe(settings) == (2 * n - 1 if settings.name == "heun" else n)


@pytest.mark.parametrize("quantization", ["truncate", "round"])
@pytest.mark.parametrize("settings", CROSSED)
def test_frames_lie_on_the_8_bit_grid(settings, quantization):
    grid = from_bytes(torch.arange(256, dtype=torch.uint8))
    for quantize_at in ("every_call", "final"):
        frame, _ = traced(dataclasses.replace(settings, quantize=quantize_at, quantization=quantization))
        assert torch.isin(frame, grid).all()


@pytest.mark.parametrize("name", ONE_STAGE)
@pytest.mark.parametrize(("option", "scale"), [("unit", 1.0), ("sigma_max", 5.0), ("variance_preserving", math.sqrt(26))])
def test_start_noise(name, option, scale):
    _, calls = traced(dataclasses.replace(sampler_preset(name), schedule=KarrasSchedule(), num_steps=2, start_noise=option), seed=3)
    torch.testing.assert_close(calls[0][0], randn(3)() * scale)


@pytest.mark.parametrize("name", ["euler", "dpm_solver_pp_2m", "ddim"])
@pytest.mark.parametrize("quantization", ["truncate", "round"])
@pytest.mark.parametrize("quantize_at", ["every_call", "final"])
def test_quantisation_at_every_call_reaches_the_solver(name, quantization, quantize_at):
    settings = sampler_preset(name, quantize=quantize_at, quantization=quantization)
    frame, calls = traced(settings)
    used = [quantize(said, quantization) if quantize_at == "every_call" else said for _, said, _ in calls]
    (x, said, sigma), (following_x, _, following) = calls[:2]
    torch.testing.assert_close(said, Gaussian().denoise(x, torch.full((2,), sigma), PAST, ACTIONS))  # the callback hears it unquantised
    torch.testing.assert_close(following_x, used[0] + (x - used[0]) * (following / sigma), rtol=0, atol=1e-5)
    torch.testing.assert_close(frame, used[-1] if quantize_at == "every_call" else quantize(used[-1], quantization), rtol=0, atol=1e-6)


def test_truncating_does_not_darken_a_frame_that_was_quantised_in_every_call():
    clean = ((torch.arange(192) + 0.4) / 255 * 2 - 1).reshape(1, 3, 8, 8).expand(2, 3, 8, 8)
    for name in ("euler", "heun", "dpm_solver_pp_2m"):
        frame, _ = traced(sampler_preset(name, num_steps=10), Oracle(clean))
        assert torch.equal(frame, quantize(clean, "truncate"))


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_the_network_receives_sigma_or_the_raised_level_in_churned_steps(name):
    reported = {}
    for option in ("sigma", "sigma_hat"):
        settings = sampler_preset(name, s_churn=10.0, s_tmin=0.05, churn_sigma=option)
        _, calls = traced(settings)
        reported[option] = [sigma for _, _, sigma in calls]
        assert reported[option] == denoiser_sigmas(settings)
    a, b, c = sigmas(sampler_preset(name)).tolist()[:-1]
    raised = [a * math.sqrt(2), b * math.sqrt(2), c]  # the last level is below s_tmin
    assert reported["sigma"] == ([a, b, c] if name == "euler" else [a, b, b, c, c])
    assert reported["sigma_hat"] == pytest.approx(raised if name == "euler" else [raised[0], b, raised[1], c, c])


def test_churn_noise_raises_the_variance_to_that_of_the_raised_level():
    settings = sampler_preset("euler", num_steps=1, s_churn=10.0, s_noise=1.5, start_noise="sigma_max")
    draws = iter([torch.ones(2, 3, 8, 8), 2 * torch.ones(2, 3, 8, 8)])
    seen = []
    sample(Oracle(torch.zeros(2, 3, 8, 8)), PAST, ACTIONS, settings, lambda: next(draws), lambda x, said, sigma: seen.append(x))
    torch.testing.assert_close(seen[0], torch.full((2, 3, 8, 8), 5 + 1.5 * 2 * 5.0))  # sqrt(2 - 1) * sigma of fresh noise


def test_ancestral_clips_the_clean_frame():
    bright = torch.full((2, 3, 8, 8), 3.0)
    for name in ("ddpm_ancestral", "ddim"):
        for clip, expected in ((True, 1.0), (False, 3.0)):
            settings = sampler_preset(name, num_steps=1, clip_denoised=clip)
            x = chosen(settings)(lambda x, sigma: bright, randn()(), sigmas(settings).tolist(), settings, randn())
            torch.testing.assert_close(x, torch.full_like(x, expected))


@pytest.mark.parametrize("name", ONE_STAGE)
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 2.0])
def test_guidance_extrapolates_from_withheld_actions_before_quantisation(name, weight):
    reported = []

    class Recording(Gaussian):
        def denoise(self, x, sigma, past, actions):
            reported.append(actions.clone())
            return super().denoise(x, sigma, past, actions)

    settings = sampler_preset(name, guidance=weight, num_steps=1, quantize="every_call", quantization="round", schedule={"name": "karras"})
    frame, calls = traced(settings, Recording())
    assert len(calls) == nfe(settings) == (1 if weight == 1 else 2)
    assert torch.equal(reported[0], ACTIONS)
    x = calls[0][0]
    guided, free = (Gaussian().denoise(x, torch.full((2,), 5.0), PAST, torch.full_like(ACTIONS, a)) for a in (1, WITHHELD))
    if weight != 1:
        assert (reported[1] == WITHHELD).all()
        torch.testing.assert_close(calls[1][1], free)
    torch.testing.assert_close(frame, quantize(free + weight * (guided - free), "round"), rtol=0, atol=1e-6)


def test_guidance_counts_twice_in_every_sampler():
    for name in (*ONE_STAGE, "churn"):
        settings = sampler_preset(name, num_steps=4, guidance=3.0)
        assert len(traced(settings)[1]) == nfe(settings) == 2 * nfe(dataclasses.replace(settings, guidance=1.0))


@pytest.mark.parametrize(
    "settings", [OdeSampler(s_churn=1.0), AncestralSampler(), sampler_preset("ddim", eta=0.5), sampler_preset("churn")]
)
def test_a_trajectory_does_not_depend_on_its_batch(settings):
    def rows(seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = trajectory_noise(generators, (3, 8, 8), "cpu")
        return sample(Gaussian(), torch.zeros(len(seeds), 4, 3, 8, 8), torch.zeros(len(seeds), 4), settings, noise)

    together = rows([7, 8, 9])
    assert torch.equal(together[1:2], rows([8]))
    assert torch.equal(together[[2, 0]], rows([9, 7]))
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("settings", CROSSED)
def test_noise_is_drawn_for_the_start_and_the_stochastic_steps_alone(settings):
    drawn = []
    noise = randn()
    settings = dataclasses.replace(settings, num_steps=3)
    sample(Gaussian(), PAST, ACTIONS, settings, lambda: drawn.append(1) or noise())
    levels = sigmas(settings).tolist()
    if isinstance(settings, AncestralSampler):
        steps = sum(settings.eta > 0 and following > 0 for _, following in pairwise(levels))
    else:
        steps = sum(getattr(settings, "s_churn", 0) > 0 and sigma >= settings.s_tmin for sigma in levels[:-1])
    assert len(drawn) == 1 + steps
