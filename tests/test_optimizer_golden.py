"""Six AdamW updates of the denoiser, number by number against the authors' optimiser (optimizer_trace.json)."""

import pytest
import torch
from golden_files import edm_denoiser, golden, golden_json

from diamond_bench.config import TrainingConfig
from diamond_bench.diffusion.objectives import Draws
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.models.authors_names import network_state
from diamond_bench.training.optimizer import make_optimizer, set_learning_rate


def test_six_updates_follow_the_golden_trace() -> None:
    trace, e = golden_json("optimizer_trace.json"), golden("edm.npz")
    denoiser = edm_denoiser()
    settings = TrainingConfig(
        learning_rate=trace["optimizer"]["lr"], weight_decay=trace["optimizer"]["weight_decay"], warmup_steps=trace["warmup_steps"]
    )
    optimizer = make_optimizer(denoiser, settings)
    parameters = dict(denoiser.network.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    mask = e["seq1_mask_padding"]
    frames = from_bytes(e["seq1_obs_u8"]) * mask[:, :, None, None, None]
    draws = Draws(e["seq1_sigma"][:, 0], e["seq1_offset_noise"][:, 0], e["seq1_gauss_noise"][:, 0])
    for number, expected in enumerate(trace["steps"]):
        assert set_learning_rate(optimizer, settings, number) == pytest.approx(expected["lr_used"], rel=1e-5)
        (step,) = denoiser.unroll(frames, e["seq1_act"], mask, lambda clean: draws)
        optimizer.zero_grad(set_to_none=True)
        step.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(denoiser.parameters(), trace["max_grad_norm"])
        optimizer.step()
        assert step.loss.item() == pytest.approx(expected["loss"], rel=1e-3)
        assert float(norm) == pytest.approx(expected["grad_norm_before_clip"], rel=1e-3)
    norms = network_state(trace["param_l2_after"], "inner_model.")
    changes = network_state(trace["param_l2_change"], "inner_model.")
    for name, parameter in parameters.items():
        assert parameter.norm().item() == pytest.approx(norms[name], rel=1e-3), name
        assert (parameter - before[name]).norm().item() == pytest.approx(changes[name], rel=1e-3, abs=1e-7), name


def test_the_decay_of_squared_gradients_is_a_setting() -> None:
    layer = torch.nn.Linear(2, 2)
    assert make_optimizer(layer, TrainingConfig()).defaults["betas"] == (0.9, 0.999)
    assert make_optimizer(layer, TrainingConfig(adam_beta2=0.9)).param_groups[0]["betas"] == (0.9, 0.9)
