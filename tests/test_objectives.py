"""Objectives and the training loss on networks whose answer is known; numbers against the authors' are in test_*_golden.py."""

import math

import pytest
import torch
from golden_files import edm_denoiser
from presets import objective as objective_preset
from torch import nn

from diamond_bench.config import FactoredObjective, chosen
from diamond_bench.diffusion.denoiser import Denoiser
from diamond_bench.diffusion.objectives import Draws, Factored, masked_mean_square
from diamond_bench.diffusion.quantization import from_bytes, quantize

PRESETS = ["edm", "edm_clean", "ddpm", "ddpm_velocity", "ddpm_clean", "flow"]
OBJECTIVES = [Factored(objective_preset(name)) for name in PRESETS]
EDM, _, DDPM, *_ = OBJECTIVES
L = 3


class NextLevel(nn.Module):
    """An oracle for a video in which every frame is one constant, `step` bytes above the one before: says the perfect output.

    It works out the clean frame from the newest past frame alone, so its loss is 0 only where the target is the frame right after.
    """

    def __init__(self, objective, step):
        super().__init__()
        self.objective, self.step = objective, step
        self.calls = []

    def forward(self, x, c_noise, past, actions):
        config = self.objective.config
        past = past * config.sigma_data if config.rescale_past_frames else past
        self.calls.append((past.unflatten(1, (L, 3)), actions))
        clean = past[:, -3:] + self.step * 2 / 255
        sigma = level_input(self.objective, c_noise)[:, None, None, None]
        c = self.objective.coefficients(sigma)
        return (clean - c.c_skip * x / c.c_in) / c.c_out


def level_input(objective, c_noise):
    """The sigma behind what the network is told."""
    config = objective.config
    if config.noise_conditioning == "timestep":
        return objective.sigmas[(c_noise * config.num_train_timesteps).round().long() - 1]
    if config.noise_conditioning == "flow_time":
        return c_noise / (1 - c_noise)
    raised = (4 * c_noise).exp().square()
    return (raised - config.sigma_offset_noise**2 * (config.offset_noise == "added")).clamp(min=0).sqrt()


def video(step=5, t=L + 2, b=4, start=100):
    """Frame t shows the byte start + step * t; action t is t."""
    levels = from_bytes((start + step * torch.arange(t)).to(torch.uint8))
    return levels[None, :, None, None, None].expand(b, t, 3, 8, 8), torch.arange(t).repeat(b, 1), torch.ones(b, t)


@pytest.mark.parametrize("config", [objective_preset(name, quantization="round") for name in PRESETS])
def test_the_target_is_the_very_next_frame_and_the_actions_belong_to_the_past_frames(config):
    objective = chosen(config)(config)
    oracle = NextLevel(objective, step=5)
    frames, actions, mask = video()
    loss, metrics = Denoiser(oracle, objective, L).training_loss(frames, actions, mask, torch.Generator().manual_seed(0))
    assert loss.item() < 2e-5
    assert metrics.keys() == {"loss", "loss_step_0", "loss_step_1"}
    for i, (past, seen) in enumerate(oracle.calls):
        torch.testing.assert_close(past, frames[:, i : i + L], rtol=0, atol=1e-5)
        assert torch.equal(seen, actions[:, i : i + L])
    # the same oracle in a video that moves twice as fast: the loss would be that of a target two frames ahead
    loss, _ = Denoiser(NextLevel(objective, step=5), objective, L).training_loss(*video(step=10), torch.Generator().manual_seed(0))
    assert loss.item() > 1e-5


@pytest.mark.parametrize("mode", ["truncate", "none"])
def test_a_later_step_conditions_on_the_models_own_quantised_frame(mode):
    objective = Factored(FactoredObjective(quantization=mode))
    oracle = NextLevel(objective, step=5.4)  # believes 0.4 of a level more than is true
    frames, actions, mask = video()
    Denoiser(oracle, objective, L).training_loss(frames, actions, mask, torch.Generator().manual_seed(0))
    newest = oracle.calls[1][0][:, -1]
    believed = frames[:, L] + 0.4 * 2 / 255
    torch.testing.assert_close(newest, quantize(believed, mode), rtol=0, atol=1e-4)


def test_masked_examples_do_not_count_and_no_example_counts_as_zero():
    error = torch.tensor([1.0, 2.0, 100.0])[:, None, None, None].expand(3, 3, 2, 2).clone().requires_grad_()
    assert masked_mean_square(error, torch.tensor([1, 1, 0])).item() == pytest.approx(2.5)
    nothing = masked_mean_square(error, torch.tensor([False, False, False]))
    nothing.backward()
    assert nothing.item() == 0
    assert torch.equal(error.grad, torch.zeros_like(error))


def test_each_step_weighs_the_same_and_uses_the_mask_of_its_target():
    denoiser = edm_denoiser()
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(3, 6, 3, 16, 16, generator=generator) * 2 - 1
    actions, mask = torch.zeros(3, 6, dtype=torch.long), torch.ones(3, 6)
    mask[:, 4] = 0  # the first target is padding in every example
    loss, metrics = denoiser.training_loss(frames, actions, mask, generator)
    assert metrics["loss_step_0"] == 0
    assert metrics["loss_step_1"] > 0
    assert loss.item() == pytest.approx(metrics["loss_step_1"].item() / 2)
    assert not metrics["loss"].requires_grad


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_noise_is_drawn_in_the_order_level_offset_gauss(objective):
    clean = torch.zeros(5, 3, 8, 8)
    draws = objective.draw(clean, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    if objective.config.noise_levels == "log_normal":
        assert torch.equal(draws.level, (-0.4 + 1.2 * torch.randn(5, generator=generator)).exp().clamp(2e-3, 20))
    elif objective.config.noise_levels == "timesteps":
        assert torch.equal(draws.level, objective.sigmas[torch.randint(1000, (5,), generator=generator)])
    else:
        time = 0.001 + 0.998 * torch.rand(5, generator=generator)
        torch.testing.assert_close(draws.level, time / (1 - time), rtol=1e-4, atol=1e-6)
    assert torch.equal(draws.offset, torch.randn(5, 3, 1, 1, generator=generator))
    assert torch.equal(draws.gauss, torch.randn(5, 3, 8, 8, generator=generator))


@pytest.mark.parametrize(
    ("noise_levels", "even"),
    [
        ("log_normal", lambda s: torch.special.ndtr((s.log() + 0.4) / 1.2)),
        ("log_uniform", lambda s: (s.log() - math.log(2e-3)) / math.log(1e4)),
        ("cosine", lambda s: (s.atan() - math.atan(2e-3)) / (math.atan(20) - math.atan(2e-3))),
        ("flow_time", lambda s: (s / (1 + s) - 2e-3 / 1.002) / (20 / 21 - 2e-3 / 1.002)),
    ],
)
def test_training_levels_follow_their_distribution_inside_the_trained_range(noise_levels, even):
    """`even` is the distribution function: levels put through it are uniform."""
    objective = Factored(FactoredObjective(noise_levels=noise_levels))
    level = objective.training_sigma(20_000, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert level.min() >= 2e-3
    assert level.max() <= 20
    uniform = even(level.double()).sort().values
    assert (uniform - torch.linspace(0, 1, 20_000)).abs().max() < 0.0115  # Kolmogorov-Smirnov, 1%


def test_timesteps_are_drawn_alike():
    level = DDPM.training_sigma(100_000, torch.Generator().manual_seed(0), torch.device("cpu"))
    counts = torch.bincount(DDPM.nearest_timestep(level), minlength=1000)
    assert counts.min() > 50
    assert counts.max() < 150


@pytest.mark.parametrize("sigma", [0.01, 0.5, 7.0])
@pytest.mark.parametrize(
    ("parameterization", "said"),
    [
        ("noise", lambda clean, noise, s: noise),
        ("velocity", lambda clean, noise, s: (noise - s * clean) / math.sqrt(1 + s**2)),
        ("clean", lambda clean, noise, s: clean),
        ("flow", lambda clean, noise, s: noise - clean),
    ],
)
def test_the_output_means_what_the_literature_says(parameterization, said, sigma):
    """Both ways: from the textbook's output the clean frame is found, and that output is what training asks for."""
    generator = torch.Generator().manual_seed(0)
    clean, gauss = torch.rand(2, 3, 4, 4, generator=generator) * 2 - 1, torch.randn(2, 3, 4, 4, generator=generator)
    offset = torch.randn(2, 3, 1, 1, generator=generator)
    objective = Factored(FactoredObjective(parameterization=parameterization, offset_noise="scaled"))
    noise, past, actions = gauss + 0.3 * offset, torch.zeros(2, L, 3, 4, 4), torch.zeros(2, L)
    textbook = said(clean, noise, sigma)
    denoised = objective.denoise(lambda *_: textbook, clean + sigma * noise, torch.tensor(sigma), past, actions)
    torch.testing.assert_close(denoised, clean, rtol=0, atol=1e-5)
    draws = Draws(torch.full((2,), sigma), offset, gauss)
    step = objective.step(lambda *_: torch.zeros_like(clean), clean, past, actions, torch.ones(2), draws)
    torch.testing.assert_close(step.target, textbook, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("scaling", "fed"),
    [
        ("edm", lambda x, s: x / math.sqrt(s**2 + 0.25)),
        ("variance_preserving", lambda x, s: x / math.sqrt(1 + s**2)),
        ("flow", lambda x, s: x * (1 - s / (1 + s))),
        ("none", lambda x, s: x),
    ],
)
def test_what_the_network_is_fed(scaling, fed):
    objective, seen = Factored(FactoredObjective(input_scaling=scaling, offset_noise="scaled")), []
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    objective.denoise(lambda given, *_: seen.append(given) or given, x, torch.tensor(1.7), torch.zeros(2, L, 3, 4, 4), torch.zeros(2, L))
    torch.testing.assert_close(seen[0], fed(x, 1.7))


@pytest.mark.parametrize("parameterization", ["edm", "noise", "velocity", "clean", "flow"])
@pytest.mark.parametrize(
    ("weight", "error"),
    [
        ("clean", lambda denoised, clean, x, s: denoised - clean),
        ("noise", lambda denoised, clean, x, s: (denoised - clean) / s),
        ("edm", lambda denoised, clean, x, s: (denoised - clean) * (s.square() + 0.25).sqrt() / (0.5 * s)),
        ("min_snr", lambda denoised, clean, x, s: (denoised - clean) * (1 / s.square()).clamp(max=5.0).sqrt()),
    ],
)
def test_a_loss_weight_means_the_same_error_whatever_the_network_says(parameterization, weight, error):
    objective = Factored(FactoredObjective(parameterization=parameterization, loss_weight=weight, offset_noise="scaled"))
    generator = torch.Generator().manual_seed(0)
    clean, said = torch.rand(4, 3, 4, 4, generator=generator) * 2 - 1, torch.randn(4, 3, 4, 4, generator=generator)
    draws = Draws(torch.tensor([0.05, 0.3, 2.0, 9.0]), torch.zeros(4, 3, 1, 1), torch.randn(4, 3, 4, 4, generator=generator))
    past, actions = torch.zeros(4, L, 3, 4, 4), torch.zeros(4, L)
    loss = objective.step(lambda *_: said, clean, past, actions, torch.tensor([1, 1, 1, 0]), draws).loss
    s = draws.level[:, None, None, None]
    x = clean + s * draws.gauss
    denoised = objective.denoise(lambda *_: said, x, draws.level, past, actions)
    torch.testing.assert_close(loss, error(denoised, clean, x, s)[:3].square().mean(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("sigma", [0.011, 0.1, 1.2345, 50.0])
def test_ddpm_between_its_timesteps(sigma):
    """The conversion uses the level asked for; only what the network is told is the nearest timestep's."""
    objective = DDPM
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.rand(2, 3, 4, 4, generator=generator) * 2 - 1, torch.randn(2, 3, 4, 4, generator=generator)
    reported = []

    def network(x, c_noise, past, actions):
        reported.append((x, c_noise))
        return noise

    past = torch.zeros(2, L, 3, 4, 4)
    denoised = objective.denoise(network, clean + sigma * noise, torch.full((2,), sigma), past, torch.zeros(2, L))
    torch.testing.assert_close(denoised, clean, rtol=0, atol=1e-5 * max(1, sigma))
    x, c_noise = reported[0]
    torch.testing.assert_close(x, (clean + sigma * noise) / (1 + sigma**2) ** 0.5)
    nearest = (objective.sigmas.log() - torch.tensor(sigma).log()).abs().argmin()
    assert torch.allclose(c_noise, (nearest + 1) / 1000)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_level_of_all_equals_the_level_of_each(objective):
    generator = torch.Generator().manual_seed(0)
    x, past = torch.randn(2, 3, 4, 4, generator=generator), torch.randn(2, L, 3, 4, 4, generator=generator)

    def network(x, c_noise, past, actions):
        assert c_noise.shape == (2,)
        return x * c_noise[:, None, None, None] + past.mean()

    one = objective.denoise(network, x, torch.tensor(0.7), past, torch.zeros(2, L))
    each = objective.denoise(network, x, torch.tensor([0.7, 0.7]), past, torch.zeros(2, L))
    assert torch.equal(one, each)


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("name", PRESETS)
def test_past_frames_are_rescaled_when_asked(name, rescale):
    seen = []
    past = torch.rand(2, L, 3, 4, 4)

    def network(x, c_noise, past, actions):
        seen.append(past)
        return x

    objective = Factored(objective_preset(name, rescale_past_frames=rescale))
    objective.denoise(network, torch.zeros(2, 3, 4, 4), torch.tensor(1.0), past, torch.zeros(2, L))
    torch.testing.assert_close(seen[0], past.flatten(1, 2) * (2 if rescale else 1))


class Recorder(nn.Module):
    """Notes whether it runs under autocast."""

    def forward(self, x, c_noise, past, actions):
        self.autocast = torch.is_autocast_enabled("cpu")
        self.dtypes = {x.dtype, c_noise.dtype, past.dtype}
        return x.bfloat16() if self.autocast else x


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_precision_governs_the_network_alone(precision):
    recorder = Recorder()
    denoiser = Denoiser(recorder, EDM, L, precision)
    denoised = denoiser.denoise(torch.zeros(2, 3, 4, 4), torch.tensor(1.0), torch.zeros(2, L, 3, 4, 4), torch.zeros(2, L))
    assert recorder.autocast == (precision == "bf16")
    assert recorder.dtypes == {torch.float32}
    assert denoised.dtype == torch.float32
    (step,) = denoiser.unroll(*video(t=L + 1), lambda clean: denoiser.objective.draw(clean, None))
    assert step.prediction.dtype == step.loss.dtype == step.denoised.dtype == torch.float32
    assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == (precision == "tf32")


def test_a_segment_without_a_frame_to_predict_is_refused():
    frames, actions, mask = video(t=L)
    with pytest.raises(ValueError, match="3 frames"):
        Denoiser(Recorder(), EDM, L).training_loss(frames, actions, mask)


def test_a_diverged_network_shows():
    assert quantize(torch.tensor([float("nan")]), "truncate").isnan().all()
