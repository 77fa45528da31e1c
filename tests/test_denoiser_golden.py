"""The EDM denoiser, number by number, against the authors'."""

import pytest
import torch
from golden_files import assert_frames_near, assert_gradient_norms, assert_near, edm_denoiser, golden, golden_json

from diamond_bench.diffusion.objectives import Draws
from diamond_bench.diffusion.quantization import from_bytes, quantize, to_bytes


@pytest.fixture(scope="module")
def denoiser():
    return edm_denoiser()


def one_step():
    e = golden("edm.npz")
    return e["noisy_next_obs"], e["sigma"], from_bytes(e["prev_obs_u8"]), e["act"]


def test_condition_vector_and_its_parts(denoiser):
    e, network = golden("edm.npz"), denoiser.network
    noise = network.noise_features(e["c_noise"])
    action = network.action_embedding(e["act"]).flatten(1)
    assert_near(noise, e["noise_embedding"])
    assert_near(action, e["action_embedding"])
    assert_near(network.condition(noise + action), e["cond_vector"])


def test_preconditioners():
    e = golden("edm.npz")
    objective = edm_denoiser().objective
    c = objective.coefficients(e["sigma"])
    for name, value in {"c_in": c.c_in, "c_skip": c.c_skip, "c_out": c.c_out}.items():
        assert_near(value, e[name].flatten(), 1e-5, 1e-5)
    assert_near(c.removed, 1 - c.c_skip, 1e-5, 1e-5)
    assert_near(objective.noise_conditioning(e["sigma"]), e["c_noise"], 1e-5, 1e-5)


@torch.no_grad()
def test_network_output_unet_output_and_denoised_frame(denoiser):
    e = golden("edm.npz")
    seen = {}
    hooks = [
        denoiser.network.unet.register_forward_hook(lambda module, inputs, output: seen.update(unet=output)),
        denoiser.network.register_forward_hook(lambda module, inputs, output: seen.update(network=output)),
    ]
    denoised = denoiser.denoise(*one_step())
    for hook in hooks:
        hook.remove()
    assert_near(seen["unet"][:1, ::8], e["unet_output_first"])
    assert_near(seen["network"], e["model_output"])
    assert_near(denoised, e["denoised_prequant"])
    assert_frames_near(quantize(denoised, "truncate"), e["denoised"])


@torch.no_grad()
def test_one_sigma_for_the_whole_batch(denoiser):
    e = golden("edm.npz")
    x, _, past, actions = (part[:2] for part in one_step())
    denoised = denoiser.denoise(x, e["scalar_sigma"][0], past, actions)
    assert_frames_near(quantize(denoised, "truncate"), e["denoised_scalar_sigma"])


@torch.no_grad()
def test_sides_that_do_not_divide_are_padded_and_cropped(denoiser):
    e = golden("edm.npz")
    assert_near(denoiser.network(e["pad_x"], e["pad_c_noise"], e["pad_obs"], e["pad_act"]), e["pad_output"])


def test_training_noise_levels(denoiser):
    e = golden("edm.npz")
    assert_near(denoiser.objective.log_normal(e["sigma_dist_z"]), e["sigma_dist_sigma"], 1e-5, 1e-5)


def test_quantisation_tables():
    e = golden("edm.npz")
    assert torch.equal(from_bytes(torch.arange(256, dtype=torch.uint8)), e["quant_u8_to_float"])
    assert torch.equal(to_bytes(e["quant_u8_to_float"], "truncate"), e["quant_roundtrip_u8"])
    assert_near(quantize(e["quant_in"], "truncate"), e["quant_out"], 0, 1e-6)
    # what stores imagined frames: bytes of a frame on the grid are its bytes
    assert torch.equal(to_bytes(e["quant_u8_to_float"], "round"), torch.arange(256, dtype=torch.uint8))


@pytest.mark.parametrize("segment", ["seq1", "seq2"])
def test_training_segment_and_its_gradients(denoiser, segment):
    e = {key.removeprefix(f"{segment}_"): value for key, value in golden("edm.npz").items() if key.startswith(segment)}
    mask = e["mask_padding"]
    frames = from_bytes(e["obs_u8"]) * mask[:, :, None, None, None]
    draws = (Draws(e["sigma"][:, i], e["offset_noise"][:, i], e["gauss_noise"][:, i]) for i in range(e["sigma"].shape[1]))
    steps = denoiser.unroll(frames, e["act"], mask, lambda clean: next(draws))
    for i, step in enumerate(steps):
        assert_near(step.prediction, e["model_output"][:, i])
        assert_near(step.target, e["target"][:, i])
        assert_frames_near(step.denoised, e["denoised"][:, i])
        assert not step.denoised.requires_grad
    losses = torch.stack([step.loss for step in steps])
    assert_near(losses, e["loss_per_step"], 1e-5, 1e-5)
    assert_near(losses.mean(), e["loss"][0], 1e-5, 1e-5)
    denoiser.zero_grad()
    losses.mean().backward()
    assert_gradient_norms(denoiser, golden_json("grad_norms.json")[f"denoiser_{segment}"], "inner_model.")
