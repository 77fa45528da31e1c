"""Readers of tests/golden and the tolerances of comparing with it."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from presets import objective as objective_preset
from torch import Tensor

from diamond_bench.agent import Agent, import_agent
from diamond_bench.config import ConditioningConfig, FactoredObjective, NetworkConfig
from diamond_bench.diffusion.denoiser import Denoiser
from diamond_bench.diffusion.objectives import Factored
from diamond_bench.models.authors_names import Component, authors_names, network_state
from diamond_bench.models.denoiser_network import DenoiserNetwork

GOLDEN = Path(__file__).parent / "golden"
ONE_LEVEL = 0.0079  # of 2 / 255


@cache
def golden(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / name) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@cache
def golden_json(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text())


def small_network() -> NetworkConfig:
    inner = golden_json("config_small.json")["denoiser"]["inner_model"]
    return NetworkConfig(
        depths=tuple(inner["depths"]),
        channels=tuple(inner["channels"]),
        attention=tuple(bool(a) for a in inner["attn_depths"]),
        cond_channels=inner["cond_channels"],
    )


def edm_denoiser() -> Denoiser:
    network = DenoiserNetwork(small_network(), ConditioningConfig(), golden_json("config_small.json")["num_actions"])
    network.load_state_dict(network_state(torch.load(GOLDEN / "agent_small.pt", weights_only=True)))
    return Denoiser(network, Factored(FactoredObjective()), num_frames=4)


def ddpm_denoiser() -> Denoiser:
    network = DenoiserNetwork(small_network(), ConditioningConfig(), golden_json("ddpm_config.json")["num_actions"])
    network.load_state_dict(network_state(torch.load(GOLDEN / "ddpm_small.pt", weights_only=True), prefix="noise_model."))
    return Denoiser(network, Factored(objective_preset("ddpm")), num_frames=4)


def small_agent() -> Agent:
    """The agent of all golden vectors but DDPM's, float32 on the CPU: 6 actions, frames of side 32."""
    agent, _ = import_agent(GOLDEN / "agent_small.pt", "Pong")
    return agent


def assert_near(actual: Tensor, expected: Tensor, rtol: float = 1e-4, atol: float = 2e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def assert_frames_near(actual: Tensor, expected: Tensor, share: float = 0.995, within: float = 1e-5, most: float = ONE_LEVEL) -> None:
    """A share of the pixels within `within`, all within `most`."""
    assert actual.shape == expected.shape
    difference = (actual - expected).abs()
    reached = (difference <= within).float().mean().item()
    assert reached >= share, f"only {reached:.4f} of pixels within {within}"
    assert difference.max() <= most, f"a pixel is off by {difference.max():.4f}"


def assert_gradient_norms(denoiser: Denoiser, expected: dict[str, Any], prefix: str) -> None:
    """Every parameter's gradient has the golden norm."""
    norms = {name: p.grad.norm().item() for name, p in denoiser.network.named_parameters() if p.grad is not None}
    wanted = network_state(expected["per_parameter"], prefix)
    assert norms.keys() == wanted.keys()
    for name, norm in norms.items():
        assert abs(norm - wanted[name]) <= 1e-3 * wanted[name] + 1e-7, f"{name}: {norm} instead of {wanted[name]}"


def assert_component_gradient_norms(network: torch.nn.Module, expected: dict[str, Any], component: Component) -> None:
    """Every parameter of the small agent's reward/end model or actor-critic has a gradient of the golden norm."""
    parameters = dict(network.named_parameters())
    norms = {}
    for theirs, ours in authors_names(component, parameters, down=(True, True)).items():
        grad = parameters[ours].grad
        assert grad is not None, f"{ours} has no gradient"
        norms[theirs] = grad.norm().item()
    assert norms.keys() == expected["per_parameter"].keys()
    for name, norm in norms.items():
        wanted = expected["per_parameter"][name]
        assert abs(norm - wanted) <= 1e-3 * wanted + 1e-7, f"{name}: {norm} instead of {wanted}"
    total = sum(norm**2 for norm in norms.values()) ** 0.5
    assert abs(total - expected["total"]) <= 1e-3 * expected["total"]
