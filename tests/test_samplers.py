"""What samplers do with denoisers whose answer is known: an oracle, and the exact denoiser of a Gaussian."""

import dataclasses
import itertools
import math

import pytest
import torch

from diamond_bench.config import AncestralSampler, DdpmLeadingSchedule, KarrasSchedule, OdeSampler, chosen
from diamond_bench.diffusion.quantization import from_bytes, quantize
from diamond_bench.diffusion.samplers import ddpm_ancestral, euler, heun, sample, trajectory_noise
from diamond_bench.diffusion.schedules import karras, nfe, sigmas

SCHEDULES = [KarrasSchedule(), DdpmLeadingSchedule()]
SAMPLERS = [
    *(OdeSampler(name=name, schedule=s, s_churn=churn) for name in ("euler", "heun") for s in SCHEDULES for churn in (0.0, 0.5)),
    *(AncestralSampler(schedule=s) for s in SCHEDULES),
]
PAST, ACTIONS = torch.zeros(2, 4, 3, 8, 8), torch.zeros(2, 4, dtype=torch.long)


def randn(seed: int = 0, shape: tuple[int, ...] = (2, 3, 8, 8)):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator)


class Oracle:
    """Answers every question with `clean`."""

    def __init__(self, clean):
        self.clean = clean

    def denoise(self, x, sigma, past, actions):
        assert x.dtype == torch.float32
        return self.clean


class Gaussian:
    """The exact denoiser of pixels ~ N(mean, std^2)."""

    mean, std = 0.2, 0.3

    def __call__(self, x, sigma):
        return self.mean + self.std**2 / (self.std**2 + sigma**2) * (x - self.mean)

    def denoise(self, x, sigma, past, actions):
        return self(x, sigma[:, None, None, None])


@pytest.mark.parametrize("quantize_at", ["every_call", "final"])
@pytest.mark.parametrize("n", [1, 2, 3, 10])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_oracle_denoiser_is_recovered(sampler, n, quantize_at):
    clean = from_bytes(torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)))
    # rounding: truncation would darken dark frames by a level, which is the authors' trait and not the solver's
    sampler = dataclasses.replace(sampler, num_steps=n, quantize=quantize_at, quantization="round")
    calls = []
    frame = sample(Oracle(clean), PAST, ACTIONS, sampler, randn(), lambda step, x, denoised, sigma: calls.append((step, sigma)))
    torch.testing.assert_close(frame, clean, rtol=0, atol=1e-6)
    assert len(calls) == nfe(sampler)
    assert {step for step, _ in calls} == set(range(n))
    assert all(later <= earlier for (_, earlier), (_, later) in itertools.pairwise(calls))


@pytest.mark.parametrize("quantization", ["truncate", "round"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_frames_lie_on_the_8_bit_grid(sampler, quantization):
    grid = from_bytes(torch.arange(256, dtype=torch.uint8))
    for quantize_at in ("every_call", "final"):
        settings = dataclasses.replace(sampler, quantize=quantize_at, quantization=quantization)
        frame = sample(Gaussian(), PAST, ACTIONS, settings, randn())
        assert torch.isin(frame, grid).all()


@pytest.mark.parametrize(("option", "scale"), [("unit", 1.0), ("sigma_max", 5.0), ("variance_preserving", math.sqrt(26))])
def test_start_noise(option, scale):
    starts = []
    sampler = OdeSampler(num_steps=2, start_noise=option)
    sample(Gaussian(), PAST, ACTIONS, sampler, randn(3), lambda step, x, denoised, sigma: starts.append(x))
    torch.testing.assert_close(starts[0], randn(3)() * scale)


def test_quantisation_at_every_call_or_only_at_the_end():
    seen = {}
    for option in ("every_call", "final"):
        sampler = OdeSampler(quantize=option, quantization="truncate")
        seen[option] = []
        keep = seen[option].append
        sample(Gaussian(), PAST, ACTIONS, sampler, randn(), lambda step, x, denoised, sigma, keep=keep: keep((x, denoised)))
    x, denoised = seen["every_call"][0]
    assert torch.equal(denoised, quantize(Gaussian()(x, 5.0), "truncate"))
    assert torch.equal(seen["final"][0][1], Gaussian()(x, 5.0))


def test_truncating_does_not_darken_a_frame_that_was_quantised_in_every_call():
    clean = ((torch.arange(192) + 0.4) / 255 * 2 - 1).reshape(1, 3, 8, 8).expand(2, 3, 8, 8)
    frame = sample(Oracle(clean), PAST, ACTIONS, OdeSampler(num_steps=10), randn())
    assert torch.equal(frame, quantize(clean, "truncate"))


def error_on_a_gaussian(solver, n):
    """Distance to the exact solution of the probability-flow ODE at sigma_min; textbook start, no quantisation."""
    g, levels = Gaussian(), karras(KarrasSchedule(sigma_min=0.02), n)[:-1].tolist()
    spread_first, spread_last = ((g.std**2 + sigma**2) ** 0.5 for sigma in (levels[0], levels[-1]))
    unit = randn()().double()
    solved = solver(g, g.mean + spread_first * unit, levels, OdeSampler(num_steps=n), randn())
    return (solved - g.mean - spread_last * unit).abs().mean().item()


def test_error_falls_with_the_steps_and_with_the_order():
    euler_41, euler_81 = error_on_a_gaussian(euler, 41), error_on_a_gaussian(euler, 81)
    heun_41, heun_81 = error_on_a_gaussian(heun, 41), error_on_a_gaussian(heun, 81)
    assert heun_41 < euler_81 / 5  # for as many denoiser calls
    assert 1.8 < euler_41 / euler_81 < 2.2  # first order
    assert 3.4 < heun_41 / heun_81 < 4.6  # second order


@pytest.mark.parametrize(
    ("solver", "settings"),
    [
        # its posterior variance is a lower bound that is reached with many steps only
        (ddpm_ancestral, AncestralSampler(num_steps=1000, clip_denoised=False)),
        (ddpm_ancestral, AncestralSampler(num_steps=100, clip_denoised=False, schedule=KarrasSchedule())),
        (heun, OdeSampler(num_steps=50)),
        (heun, OdeSampler(num_steps=50, s_churn=20.0, churn_sigma="sigma_hat")),
    ],
)
def test_samples_of_a_gaussian_have_its_mean_and_spread(solver, settings):
    levels, noise = sigmas(settings).tolist(), randn(5, (20_000,))
    x = solver(Gaussian(), noise() * math.sqrt(1 + levels[0] ** 2), levels, settings, noise)
    assert x.mean().item() == pytest.approx(Gaussian.mean, abs=0.02)
    assert x.std().item() == pytest.approx(Gaussian.std, rel=0.05)


def test_churn_tells_the_network_sigma_or_the_raised_level():
    told = {}
    for option in ("sigma", "sigma_hat"):
        settings = OdeSampler(num_steps=3, s_churn=10.0, s_tmin=0.05, churn_sigma=option)
        told[option] = []
        keep = told[option].append
        sample(Gaussian(), PAST, ACTIONS, settings, randn(), lambda step, x, denoised, sigma, keep=keep: keep(sigma))
    low = sigmas(OdeSampler(num_steps=3)).tolist()[:-1]
    assert told["sigma"] == low
    assert told["sigma_hat"] == pytest.approx([low[0] * math.sqrt(2), low[1] * math.sqrt(2), low[2]])


def test_ancestral_clips_the_clean_frame():
    bright = Oracle(torch.full((2, 3, 8, 8), 3.0)).denoise
    for clip, expected in ((True, 1.0), (False, 3.0)):
        settings = AncestralSampler(num_steps=1, clip_denoised=clip)
        x = chosen(settings)(lambda x, sigma: bright(x, sigma, None, None), randn()(), sigmas(settings).tolist(), settings, randn())
        torch.testing.assert_close(x, torch.full_like(x, expected))


@pytest.mark.parametrize("sampler", [OdeSampler(s_churn=1.0), AncestralSampler()])
def test_a_trajectory_does_not_depend_on_its_batch(sampler):
    def rows(seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = trajectory_noise(generators, (3, 8, 8), "cpu")
        return sample(Gaussian(), torch.zeros(len(seeds), 4, 3, 8, 8), torch.zeros(len(seeds), 4), sampler, noise)

    together = rows([7, 8, 9])
    assert torch.equal(together[1:2], rows([8]))
    assert torch.equal(together[[2, 0]], rows([9, 7]))
    assert not torch.equal(together[0], together[1])
