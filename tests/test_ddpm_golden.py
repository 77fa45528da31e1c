"""DDPM: schedule, noise prediction, loss, gradients and ancestral trajectories against the authors' (variance-preserving there)."""

import numpy as np
import pytest
import torch
from golden_files import assert_frames_near, assert_gradient_norms, assert_near, ddpm_denoiser, golden, golden_json
from presets import objective as objective_preset

from diamond_bench.config import AncestralSampler
from diamond_bench.diffusion.objectives import Draws
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.diffusion.samplers import sample
from diamond_bench.diffusion.schedules import alphas_cumprod, leading_timesteps, nfe


def test_alphas_and_timesteps():
    d, c = golden("ddpm.npz"), objective_preset("ddpm")
    alphas = alphas_cumprod(c.num_train_timesteps, c.beta_start, c.beta_end)
    np.testing.assert_allclose(alphas, d["alphas_cumprod"], rtol=1e-5, atol=1e-5)
    for n in (1, 2, 3, 5, 10, 20):
        # for n = 1 the scheduler would visit 0; the authors go round it with one prediction at T // 2
        assert leading_timesteps(n, 1000) == (d[f"timesteps_n{n}"].tolist() if n > 1 else [500])


def test_every_timestep_is_found_again_from_its_level():
    objective = ddpm_denoiser().objective
    assert torch.equal(objective.nearest_timestep(objective.sigmas), torch.arange(1000))
    assert objective.nearest_timestep(torch.tensor([1e-4, 1e4])).tolist() == [0, 999]


@torch.no_grad()
def test_noise_prediction():
    d, denoiser = golden("ddpm.npz"), ddpm_denoiser()
    past, t = from_bytes(d["prev_obs_u8"]), d["timesteps"]
    alpha = d["alphas_cumprod"][t][:, None, None, None]
    sigma = denoiser.objective.sigmas[t]
    x = d["noisy_next_obs"] / alpha.sqrt()
    denoised = denoiser.denoise(x, sigma, past, d["act"])
    # compared as the authors' noise; dividing by sigma, at least 0.01, magnifies rounding
    assert_near((x - denoised) / sigma[:, None, None, None], d["predicted_noise"], 1e-4, 2e-4)


def test_training_loss_and_gradients():
    d, denoiser = golden("ddpm.npz"), ddpm_denoiser()
    mask = d["loss_mask_padding"]
    frames = from_bytes(d["loss_obs_u8"]) * mask[:, :, None, None, None]
    draws = Draws(denoiser.objective.sigmas[d["loss_timesteps"]], d["loss_offset_noise"], d["loss_gauss_noise"])
    reported = []
    hook = denoiser.network.register_forward_pre_hook(lambda module, inputs: reported.append(inputs[1]))
    (step,) = denoiser.unroll(frames, d["loss_act"], mask, lambda clean: draws)
    hook.remove()
    assert_near(reported[0], d["loss_c_noise"], 1e-5, 1e-5)
    assert_near(step.prediction, d["loss_predicted_noise"])
    assert_near(step.loss, d["loss"][0], 1e-5, 1e-5)
    step.loss.backward()
    assert_gradient_norms(denoiser, golden_json("ddpm_grad_norms.json"), "noise_model.")


@pytest.mark.parametrize("n", [1, 3, 10])
@torch.no_grad()
def test_free_running_trajectory(n):
    d = golden("ddpm.npz")
    trajectory = d[f"n{n}_trajectory"]
    b = len(trajectory)
    draws = iter([trajectory[:, 0], *d.get(f"n{n}_variance_noise", torch.empty(b, 0)).unbind(1)])
    predicted = d.get(f"n{n}_predicted_noise")
    calls = []

    def callback(x, denoised, sigma):
        step = len(calls)
        calls.append(sigma)
        assert_near(x / (1 + sigma**2) ** 0.5, trajectory[:, step], 0, 2e-4)
        if predicted is not None:
            assert_near((x - denoised) / sigma, predicted[:, step], 1e-3, 5e-4)

    sampler = AncestralSampler(num_steps=n)
    past, actions = from_bytes(d["traj_prev_obs_u8"][:b]), d["traj_act"][:b]
    frame = sample(ddpm_denoiser(), past, actions, sampler, lambda: next(draws), callback)
    assert_frames_near(frame, d[f"n{n}_final"])
    assert len(calls) == nfe(sampler) == n
    assert next(draws, None) is None
