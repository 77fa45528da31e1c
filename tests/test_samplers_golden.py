"""EDM's sampling schedule and trajectories against the authors'."""

import math

import numpy as np
import pytest
import torch
from golden_files import assert_frames_near, assert_near, edm_denoiser, golden, golden_json

from diamond_bench.config import KarrasSchedule, OdeSampler, chosen
from diamond_bench.diffusion.quantization import from_bytes, quantize
from diamond_bench.diffusion.samplers import sample
from diamond_bench.diffusion.schedules import denoiser_sigmas, nfe, sigmas

TRAJECTORIES = ("euler1", "euler3", "euler10", "heun3", "heun3_mild", "churn3", "churn_heun5")


def settings(name: str) -> OdeSampler:
    c = golden_json("edm_sampler_config.json")[name]
    return OdeSampler(
        name="euler" if c["order"] == 1 else "heun",
        num_steps=c["num_steps_denoising"],
        schedule=KarrasSchedule(sigma_min=c["sigma_min"], sigma_max=c["sigma_max"], rho=c["rho"]),
        s_churn=c["s_churn"],
        s_tmin=c["s_tmin"],
        s_tmax=math.inf if c["s_tmax"] == "inf" else c["s_tmax"],
        s_noise=c["s_noise"],
    )


def parts(name: str):
    """Settings, trajectory, denoiser outputs, churn noise, past frames and actions."""
    e = golden("edm_sampler.npz")
    trajectory = e[f"{name}_trajectory"]
    b = len(trajectory)
    eps = e.get(f"{name}_eps", torch.empty(b, 0))
    return settings(name), trajectory, e[f"{name}_denoised"], eps, from_bytes(e["prev_obs_u8"][:b]), e["act"][:b]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 20])
def test_schedule(n):
    np.testing.assert_allclose(sigmas(OdeSampler(num_steps=n)), golden("edm_sampler.npz")[f"sigmas_n{n}"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_levels_that_the_denoiser_receives(name):
    reported = golden("edm_sampler.npz")[f"{name}_denoiser_sigma"].numpy()
    np.testing.assert_allclose(denoiser_sigmas(settings(name)), reported, rtol=1e-5, atol=1e-5)
    assert nfe(settings(name)) == len(reported)


@pytest.mark.parametrize("name", TRAJECTORIES)
@torch.no_grad()
def test_teacher_forced_trajectory(name):
    """Every denoiser call is compared, then answered with the saved frame, so that flips of a level do not add up."""
    sampler, trajectory, saved, eps, past, actions = parts(name)
    denoiser = edm_denoiser()
    calls, churn, starts = iter(saved.unbind(1)), iter(eps.unbind(1)), []

    def denoise(x, sigma):
        starts.append(x)
        answer = next(calls)
        assert_frames_near(quantize(denoiser.denoise(x, torch.tensor(sigma), past, actions), "truncate"), answer)
        return answer

    x = chosen(sampler)(denoise, trajectory[:, 0], sigmas(sampler).tolist(), sampler, lambda: next(churn))
    assert_near(x, trajectory[:, -1], 1e-4, 1e-4)
    if eps.shape[1] == 0:  # a churned x is not what the trajectory holds
        steps = starts[:: 2 if sampler.name == "heun" else 1]  # Heun's second calls are in between
        assert len(steps) == sampler.num_steps
        for step, start in enumerate(steps):
            assert_near(start, trajectory[:, step], 1e-4, 1e-4)
    assert next(calls, None) is None
    assert next(churn, None) is None


@pytest.mark.parametrize("name", TRAJECTORIES)
@torch.no_grad()
def test_free_running_trajectory(name):
    sampler, trajectory, _, eps, past, actions = parts(name)
    draws = iter([trajectory[:, 0], *eps.unbind(1)])
    frame = sample(edm_denoiser(), past, actions, sampler, lambda: next(draws))
    if sampler.name == "euler":
        assert_frames_near(frame, trajectory[:, -1], share=0.99, within=1e-4, most=0.05)
    else:
        assert_frames_near(frame, trajectory[:, -1], share=0.90, within=1e-3, most=0.3)
