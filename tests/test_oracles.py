"""Objectives and samplers with the exact denoiser of a known distribution: the samples must follow it.

Every pixel is drawn from a mixture of two Gaussians. Its posterior mean is exact, and is put into each objective as the network that would
say it, found by undoing what a network is fed and told. All is textbook: no offset noise, a start of the first level's noise, quantisation
(rounding) of the finished frame alone.

The statistic is Kolmogorov and Smirnov's at the 255 edges between bytes, where rounding does not move the distribution function. Of
N = 49,152 pixels it is above sqrt(ln(2 / 0.001) / 2N) = 0.0088 with probability at most 0.001 (Massart 1990), and above it with a
probability of at least 0.95 where a mode's share is off by 0.03 or the modes' width by 10% (`test_the_statistic_has_its_level_and_power`).
"""

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from presets import objective as objective_preset
from presets import sampler as sampler_preset

from diamond_bench.config import WITHHELD, FactoredObjective, chosen
from diamond_bench.diffusion.objectives import Factored
from diamond_bench.diffusion.quantization import to_bytes
from diamond_bench.diffusion.samplers import SupportsDenoise, ancestral, dpm_solver_pp_2m, euler, heun, sample
from diamond_bench.diffusion.schedules import check_sampler, sigmas

LOW, HIGH, WIDTH, SHARE = -0.55, 0.45, 0.2, 0.7  # the modes' means and standard deviation, and the share of the higher one
SHAPE = (16, 3, 32, 32)
CRITICAL = math.sqrt(math.log(2 / 0.001) / (2 * math.prod(SHAPE)))
PAST, ACTIONS = torch.zeros(SHAPE[0], 1, 3, 1, 1), torch.zeros(SHAPE[0], 1, dtype=torch.long)
EDGES = (torch.arange(255) + 0.5).double() / 255 * 2 - 1


def belief(x, sigma, share=SHARE, width=WIDTH):
    """E[clean | clean + sigma * noise = x] under the mixture."""
    variance = width**2 + sigma**2
    mean = LOW + (HIGH - LOW) * torch.sigmoid(math.log(share / (1 - share)) + (HIGH - LOW) / variance * (x - (LOW + HIGH) / 2))
    return mean + width**2 / variance * (x - mean)


def belief_of_mode(x, sigma, mode):
    return mode + WIDTH**2 / (WIDTH**2 + sigma**2) * (x - mode)


def distribution(x, sigma=0.0, share=SHARE):
    """P(clean + sigma * noise <= x), float64."""
    spread = math.sqrt(WIDTH**2 + sigma**2)
    return (1 - share) * torch.special.ndtr((x - LOW) / spread) + share * torch.special.ndtr((x - HIGH) / spread)


def distance(frames, share=SHARE):
    """Kolmogorov and Smirnov's statistic of frames against the rounded mixture."""
    found = to_bytes(frames).flatten().long().bincount(minlength=256).cumsum(0)[:-1] / frames.numel()
    return (found - distribution(EDGES, share=share)).abs().max().item()


def randn(seed=0, shape=SHAPE, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator, dtype=dtype)


# What networks are fed, told and say, as the papers have it; nothing here comes from diffusion/objectives.py.
SIGMA_DATA = 0.5
TABLE = torch.from_numpy(np.sqrt(1 / np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)) - 1))
FED = {
    "edm": lambda x, s: x / (s**2 + SIGMA_DATA**2) ** 0.5,
    "variance_preserving": lambda x, s: x / (1 + s**2) ** 0.5,
    "flow": lambda x, s: (1 - s / (1 + s)) * x,
    "none": lambda x, s: x,
}
HEARD = {
    "log_sigma": lambda c: (4 * c).exp(),
    "timestep": lambda c: TABLE.to(c.dtype)[(c * 1000).round().long() - 1],
    "flow_time": lambda c: c / (1 - c),
}
SAID = {
    "noise": lambda clean, noise, s: noise,
    "velocity": lambda clean, noise, s: (noise - s * clean) / (1 + s**2) ** 0.5,  # alpha * noise - sigma * clean, variance-preserving
    "clean": lambda clean, noise, s: clean,
    "flow": lambda clean, noise, s: noise - clean,
    "edm": lambda clean, noise, s: (
        (clean - SIGMA_DATA**2 / (s**2 + SIGMA_DATA**2) * (clean + s * noise)) * (s**2 + SIGMA_DATA**2) ** 0.5 / (s * SIGMA_DATA)
    ),
}


class Perfect(SupportsDenoise):
    """A denoiser of an objective whose network says what follows from the exact posterior mean."""

    def __init__(self, config: FactoredObjective, believes: Callable = lambda x, s, actions: belief(x, s)) -> None:
        self.config, self.objective, self.believes = config, Factored(config), believes

    def network(self, fed, c_noise, past, actions):
        s = HEARD[self.config.noise_conditioning](c_noise)[:, None, None, None]
        x = fed / FED[self.config.input_scaling](torch.ones_like(s), s)
        clean = self.believes(x, s, actions)
        return SAID[self.config.parameterization](clean, (x - clean) / s, s)

    def denoise(self, x, sigma, past, actions):
        return self.objective.to(x.dtype).denoise(self.network, x, sigma, past, actions)


def preset(name: str, **values) -> FactoredObjective:
    """Without offset noise, under which the exact denoiser is another; trained far above the data's scale."""
    wide = {} if "ddpm" in name else {"sigma_max": 200.0}
    return objective_preset(name, sigma_offset_noise=0.0, **wide, **values)


@pytest.mark.parametrize("noise_conditioning", HEARD)
@pytest.mark.parametrize("input_scaling", FED)
@pytest.mark.parametrize("parameterization", SAID)
def test_every_factored_objective_finds_the_posterior_mean(parameterization, input_scaling, noise_conditioning):
    config = FactoredObjective(
        parameterization=parameterization, input_scaling=input_scaling, noise_conditioning=noise_conditioning, sigma_offset_noise=0.0
    )
    levels = TABLE[[0, 50, 300, 700, 999]]
    x = torch.linspace(-2, 2, 5 * 48, dtype=torch.float64).reshape(48, 5).T.reshape(5, 3, 4, 4) * (1 + levels[:, None, None, None])
    denoised = Perfect(config).denoise(x, levels, PAST[:5].double(), ACTIONS[:5])
    torch.testing.assert_close(denoised, belief(x, levels[:, None, None, None]), rtol=0, atol=1e-6)  # c_noise passes through float32


@pytest.mark.parametrize("noise_conditioning", HEARD)
@pytest.mark.parametrize("offset_noise", ["added", "scaled"])
def test_offset_noise_enters_the_conversion_only_where_it_is_added(offset_noise, noise_conditioning):
    """Added at every level it makes the network hear and undo sqrt(sigma^2 + 0.3^2)."""
    config = FactoredObjective(offset_noise=offset_noise, noise_conditioning=noise_conditioning, sigma_offset_noise=0.3)
    heard = []
    level, x = TABLE[300], torch.linspace(-2, 2, 48, dtype=torch.float64).reshape(1, 3, 4, 4)
    objective = Factored(config).double()
    objective.denoise(lambda fed, c, *_: heard.append((fed, c)) or fed, x, level[None], PAST[:1].double(), ACTIONS[:1])
    raised = (level**2 + 0.09).sqrt() if offset_noise == "added" else level
    fed, c_noise = heard[0]
    torch.testing.assert_close(fed, FED["edm"](x, raised), rtol=1e-6, atol=0)
    reported = raised if noise_conditioning == "log_sigma" else level
    torch.testing.assert_close(HEARD[noise_conditioning](c_noise)[0], reported, rtol=1e-5, atol=0)


KARRAS = {"name": "karras", "sigma_min": 0.0101, "sigma_max": 150.0}
# by preset: the most steps tried, so many that the solver's own error is below the critical value, and what is not the preset's
SETTINGS = {
    "euler": (400, {"schedule": KARRAS}),
    "heun": (100, {"schedule": KARRAS}),
    "churn": (100, {"schedule": KARRAS | {"sigma_max": 100.0}, "s_churn": 20.0, "s_noise": 1.0, "s_tmin": 0.0}),
    "dpm_solver_pp_2m": (100, {"schedule": KARRAS}),
    "ddpm_ancestral": (1000, {"clip_denoised": False}),
    "ddim": (500, {"clip_denoised": False}),
    "flow_euler": (250, {"schedule": {"name": "flow", "sigma_max": 150.0}}),
}


def textbook(name: str, num_steps: int, **values):
    common = {"num_steps": num_steps, "start_noise": "sigma_max", "quantize": "final", "quantization": "round"}
    return sampler_preset(name, **common | SETTINGS[name][1] | values)


OBJECTIVES = ("edm", "edm_clean", "ddpm", "ddpm_velocity", "ddpm_clean", "flow")
OF_ONE_PAPER = (("ddpm", "ddpm_ancestral"), ("ddpm_velocity", "ddim"), ("flow", "flow_euler"))
PAIRS = [
    pytest.param(
        *(objective, sampler),
        id=f"{objective}-{sampler}",
        marks=() if objective == "edm" or sampler == "heun" or (objective, sampler) in OF_ONE_PAPER else pytest.mark.slow,
    )
    for objective in OBJECTIVES
    for sampler in SETTINGS
]
"""Every objective with every sampler. The default tests have one objective with every sampler, and one sampler with every objective."""


@pytest.mark.parametrize(("objective_name", "sampler_name"), PAIRS)
@torch.no_grad()
def test_samples_follow_the_distribution_as_the_steps_grow(objective_name, sampler_name):
    config, most = preset(objective_name), SETTINGS[sampler_name][0]
    if sampler_name == "flow_euler" and "ddpm" in objective_name:
        most = 95  # more steps would ask for less noise than DDPM's least
    found = []
    for n in (most // 25, most // 5, most):
        settings = textbook(sampler_name, n)
        check_sampler(settings, config)
        found.append(distance(sample(Perfect(config), PAST, ACTIONS, settings, randn(1))))
    assert found[0] > found[1] > found[2]
    assert found[2] < CRITICAL


def solved(solver, settings, believes=belief, seed=1, share=SHARE):
    levels, noise = sigmas(settings).tolist(), randn(seed)
    return distance(solver(believes, noise() * levels[0], levels, settings, noise), share)


def test_the_statistic_has_its_level_and_power():
    def drawn(seed, share=SHARE, width=WIDTH):
        generator = torch.Generator().manual_seed(seed)
        modes = torch.where(torch.rand(SHAPE, generator=generator) < share, HIGH, LOW)
        return distance(modes + width * torch.randn(SHAPE, generator=generator))

    assert max(drawn(seed) for seed in range(100)) < CRITICAL
    for wrong in ({"share": SHARE + 0.03}, {"share": SHARE - 0.03}, {"width": 1.1 * WIDTH}, {"width": 0.9 * WIDTH}):
        assert sum(drawn(seed, **wrong) > CRITICAL for seed in range(100)) >= 95 + 4  # 95% power, with 95% confidence


def churned_but_not_raised(denoise, x, levels, settings, noise):
    """Churn's fault: noise is added, and the step taken as if it had not been."""
    for sigma, following in itertools.pairwise(levels):
        x = x + noise() * sigma * math.sqrt(1.2**2 - 1)
        x = denoise(x, sigma) + (x - denoise(x, sigma)) * following / sigma
    return x


def multistep_with_its_ratio_inverted(denoise, x, levels, settings, noise):
    last, last_h = None, math.inf
    for sigma, following in itertools.pairwise(levels):
        denoised, h = denoise(x, sigma), math.log(sigma / following) if following else math.inf
        ahead = denoised if last is None or not following else denoised + (denoised - last) * last_h / (2 * h)
        x, last, last_h = ahead + (x - ahead) * following / sigma, denoised, h
    return x


def ddim_that_adds_noise_and_keeps_all(denoise, x, levels, settings, noise):
    for sigma, following in itertools.pairwise(levels):
        denoised = denoise(x, sigma)
        x = denoised + (x - denoised) * following / sigma + noise() * following * 0.5 * math.sqrt(1 - (following / sigma) ** 2)
    return x


def ancestral_with_the_variance_for_the_deviation(denoise, x, levels, settings, noise):
    for sigma, following in itertools.pairwise(levels):
        denoised, ratio = denoise(x, sigma), following / sigma
        x = denoised + (x - denoised) * ratio**2 + noise() * following * (1 - ratio**2)
    return x


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("churn", churned_but_not_raised),
        ("dpm_solver_pp_2m", multistep_with_its_ratio_inverted),
        ("ddim", ddim_that_adds_noise_and_keeps_all),
        ("ddpm_ancestral", ancestral_with_the_variance_for_the_deviation),
    ],
)
def test_a_wrong_solver_is_found_out(name, wrong):
    schedule = {"schedule": {"name": "linear", "sigma_min": 0.0101, "sigma_max": 20.0}} if name == "dpm_solver_pp_2m" else {}
    settings = textbook(name, SETTINGS[name][0], **schedule)
    assert solved(wrong, settings) > 1.5 * CRITICAL
    if not schedule:
        assert solved(chosen(settings), settings) < CRITICAL


@pytest.mark.parametrize("wrong", [{"share": SHARE + 0.03}, {"share": SHARE - 0.03}, {"width": 1.1 * WIDTH}, {"width": 0.9 * WIDTH}])
@pytest.mark.parametrize("name", ["heun", "ddim"])
def test_a_wrong_belief_is_found_out(name, wrong):
    settings = textbook(name, SETTINGS[name][0])
    assert solved(chosen(settings), settings, lambda x, sigma: belief(x, sigma, **wrong)) > CRITICAL


def quantiles(sigma: float, u):
    """x with P(clean + sigma * noise <= x) = u, by bisection. In one dimension the probability-flow ODE carries quantiles to quantiles."""
    low, high = (torch.full_like(u, end * (1 + 10 * math.hypot(WIDTH, sigma))) for end in (-1, 1))
    for _ in range(200):
        middle = (low + high) / 2
        below = distribution(middle, sigma) < u
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def error(solver, settings, levels):
    u = torch.linspace(0.002, 0.998, 499, dtype=torch.float64)
    x = solver(belief, quantiles(levels[0], u), levels, settings, lambda: 1 / 0)
    return (x - quantiles(levels[-1], u)).abs().mean().item()


SMOOTH = {
    "karras": {"sigma_min": 0.05, "sigma_max": 20.0},
    "log_linear": {"sigma_min": 0.05, "sigma_max": 20.0},
    "cosine": {"sigma_min": 0.05, "sigma_max": 20.0},
    "linear": {"sigma_min": 0.1, "sigma_max": 2.0},
    "flow": {"sigma_max": 20.0},
    "ddpm_leading": {},
}


@pytest.mark.parametrize("schedule", SMOOTH)
@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("ddim", 1), ("heun", 2), ("dpm_solver_pp_2m", 2)])
def test_the_error_falls_with_the_solvers_order(name, order, schedule):
    """Against the exact solution at a level that does not depend on n: the last but 0, or for flow an eighth of its time."""
    errors = []
    for n in (250, 500):
        n = n if schedule == "ddpm_leading" else n // 50 * 64
        settings = textbook(name, n, schedule={"name": schedule} | SMOOTH[schedule])
        levels = sigmas(settings).tolist()
        errors.append(error(chosen(settings), settings, levels[: n * 7 // 8 + 1] if schedule == "flow" else levels[:-1]))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)
    assert errors[0] < 0.01


# Other papers' ways of writing the same steps, in float64.
STATE = randn(3, (4, 3, 2, 2), torch.float64)()


def test_ddim_without_noise_is_euler():
    for schedule in SMOOTH:
        settings = textbook("ddim", 20, schedule={"name": schedule} | SMOOTH[schedule])
        levels = sigmas(settings).tolist()
        straight = euler(belief, 9 * STATE, levels, textbook("euler", 20), lambda: 1 / 0)
        torch.testing.assert_close(ancestral(belief, 9 * STATE, levels, settings, lambda: 1 / 0), straight, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_and_ddpm_in_variance_preserving_coordinates(eta, clip):
    """Song et al. 2021, equations 12 and 16; for eta = 1 also Ho et al. 2020, equations 6 and 7."""
    settings = textbook("ddim", 7, eta=eta, clip_denoised=clip)
    levels, noise, noise_again = sigmas(settings).tolist(), randn(5, STATE.shape, torch.float64), randn(5, STATE.shape, torch.float64)
    ours = ancestral(belief, 9 * STATE, levels, settings, noise)
    alphas = [1 / (1 + sigma**2) for sigma in levels]  # Song et al.'s alpha, Ho et al.'s alpha-bar
    z = other = 9 * STATE * math.sqrt(alphas[0])
    for a, p in itertools.pairwise(alphas):
        sigma = math.sqrt(1 / a - 1)
        draw = noise_again() if p < 1 and eta > 0 else torch.zeros_like(z)

        def clean_of(y, a=a, sigma=sigma):
            clean = belief(y / math.sqrt(a), sigma)
            return clean.clamp(-1, 1) if clip else clean

        clean = clean_of(z)
        noise_of_z = (z - math.sqrt(a) * clean) / math.sqrt(1 - a)
        added = eta * math.sqrt((1 - p) / (1 - a)) * math.sqrt(1 - a / p)
        z = math.sqrt(p) * clean + math.sqrt(1 - p - added**2) * noise_of_z + added * draw
        beta, clean = 1 - a / p, clean_of(other)
        mean = math.sqrt(p) * beta / (1 - a) * clean + math.sqrt(1 - beta) * (1 - p) / (1 - a) * other
        other = mean + math.sqrt((1 - p) / (1 - a) * beta) * draw
    torch.testing.assert_close(ours, z, rtol=1e-9, atol=1e-9)
    if eta == 1:
        torch.testing.assert_close(ours, other, rtol=1e-9, atol=1e-9)
        named = dataclasses.replace(settings, name="ddpm_ancestral")
        assert torch.equal(chosen(named)(belief, 9 * STATE, levels, named, randn(5, STATE.shape, torch.float64)), ours)


def test_euler_on_flow_levels_is_eulers_method_on_straight_paths():
    """Liu et al. 2023 from noise at time t = 1 to data at 0: z <- z - (1 / n) * E[noise - clean | z], z = (1 - t) clean + t noise."""
    settings = textbook("flow_euler", 10, schedule={"name": "flow", "sigma_max": 9.0})
    levels = sigmas(settings).tolist()
    ours = euler(belief, 9 * STATE, levels, settings, lambda: 1 / 0)
    z, t = 0.9 * STATE, 0.9
    for _ in range(10):
        clean = belief(z / (1 - t), t / (1 - t))
        z, t = z - 0.09 * ((z - (1 - t) * clean) / t - clean), t - 0.09
    torch.testing.assert_close(ours, z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", SMOOTH)
def test_dpm_solver_in_variance_preserving_coordinates(schedule):
    """Lu et al. 2022, algorithm 2, literally; where it ends, at the last level but 0, we take the clean frame."""
    settings = textbook("dpm_solver_pp_2m", 9, schedule={"name": schedule} | SMOOTH[schedule])
    levels = sigmas(settings).tolist()
    alpha = [1 / math.sqrt(1 + s**2) for s in levels[:-1]]
    sigma = [s * a for s, a in zip(levels, alpha, strict=False)]
    lam = [math.log(a / s) for a, s in zip(alpha, sigma, strict=True)]
    x, said = alpha[0] * 9 * STATE, []
    for i in range(1, len(alpha)):
        said.append(belief(x / alpha[i - 1], levels[i - 1]))
        h, ahead = lam[i] - lam[i - 1], said[-1]
        if i > 1:
            r = (lam[i - 1] - lam[i - 2]) / h
            ahead = (1 + 1 / (2 * r)) * said[-1] - 1 / (2 * r) * said[-2]
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * (math.exp(-h) - 1) * ahead
    before_last = dpm_solver_pp_2m(belief, 9 * STATE, levels[:-1], settings, lambda: 1 / 0)
    torch.testing.assert_close(before_last, x / alpha[-1], rtol=1e-9, atol=1e-9)
    ours = dpm_solver_pp_2m(belief, 9 * STATE, levels, settings, lambda: 1 / 0)
    torch.testing.assert_close(ours, belief(before_last, levels[-2]), rtol=1e-9, atol=1e-9)


def informed_modes(x, sigma, actions):
    """The action picks the mode; withheld, it is either."""
    newest = actions[:, -1, None, None, None]
    mode = torch.where(newest == 1, HIGH, LOW)
    return torch.where(newest == WITHHELD, belief(x, sigma), belief_of_mode(x, sigma, mode))


@pytest.mark.parametrize("objective_name", ["edm", "ddpm_velocity", "flow"])
@torch.no_grad()
def test_guidance_with_weight_1_is_conditional_with_0_unconditional_and_with_2_the_formula(objective_name):
    denoiser = Perfect(preset(objective_name), informed_modes)
    actions = torch.arange(SHAPE[0])[:, None] % 2
    frames = {w: sample(denoiser, PAST, actions, textbook("heun", 100, guidance=w), randn(1)) for w in (0.0, 1.0, 2.0)}
    half = math.sqrt(2)  # of as many pixels the critical value is so much higher
    assert distance(frames[1.0][::2], share=0.0) < half * CRITICAL
    assert distance(frames[1.0][1::2], share=1.0) < half * CRITICAL
    assert distance(frames[0.0][::2]) < half * CRITICAL
    assert distance(frames[0.0][1::2]) < half * CRITICAL
    assert distance(frames[2.0][::2], share=0.0) > 5 * CRITICAL  # another distribution: sharper

    def guided(x, sigma):
        free = belief(x, sigma)
        modes = torch.where(actions == 1, HIGH, LOW)[:, :, None, None]
        return free + 2 * (belief_of_mode(x, sigma, modes) - free)

    settings = textbook("heun", 100)
    levels, noise = sigmas(settings).tolist(), randn(1)
    by_hand = heun(guided, noise() * levels[0], levels, settings, noise).clamp(-1, 1)
    torch.testing.assert_close(frames[2.0], by_hand, rtol=0, atol=0.02)  # a byte's width, and what DDPM's nearest timestep is off
