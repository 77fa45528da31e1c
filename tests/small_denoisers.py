"""A small denoiser of any conditioning, and what it is shown."""

import torch
from torch import Tensor, nn

from diamond_bench.config import ConditioningConfig, FactoredObjective, NetworkConfig
from diamond_bench.diffusion.denoiser import Denoiser
from diamond_bench.diffusion.objectives import Factored
from diamond_bench.models.denoiser_network import DenoiserNetwork
from diamond_bench.spaces import ActionSpec

L, ACTIONS = 3, 5
NETWORK = NetworkConfig(depths=(1, 1), channels=(8, 16), attention=(False, True), cond_channels=12)
LIGHT = ConditioningConfig(L, history_depths=(1, 2), history_channels=(8, 12), attended_levels=(False, True))


def awake(conditioning: ConditioningConfig, network: NetworkConfig = NETWORK, actions: ActionSpec | int = ACTIONS) -> DenoiserNetwork:
    """A network without the zeros it starts with."""
    torch.manual_seed(0)
    built = DenoiserNetwork(network, conditioning, actions)
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.2)
    return built


def denoiser_of(conditioning: ConditioningConfig, network: nn.Module | None = None, **objective: object) -> Denoiser:
    c = conditioning
    return Denoiser(network or awake(c), Factored(FactoredObjective(**objective)), c.num_frames, "fp32", c.action_dropout, c.frame_noise)


def inputs(size: tuple[int, int] = (8, 8), b: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, past = torch.randn(b, 3, *size, generator=generator), torch.randn(b, 3 * L, *size, generator=generator)
    return x, torch.linspace(-1, 1, b), past, torch.arange(L).repeat(b, 1)


def segments(b: int = 4, steps: int = 2, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(b, L + steps, 3, size, size, generator=generator) * 2 - 1
    return frames, torch.randint(ACTIONS, (b, L + steps), generator=generator), torch.ones(b, L + steps, dtype=torch.bool)
