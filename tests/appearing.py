"""The exact denoiser of a game in which an object appears with a known probability, or nothing changes, at a real frame's size.

The last frame is a picture r. The next frame is r with probability 1 - SHARE, and r with a 2 x 2 object on it with probability SHARE. Along
the one direction in which the two differ, the probability-flow ODE carries quantiles to quantiles, so the share of samples that show
the object has a closed form at every first noise level (`expected_share`).
"""

import math

import torch
from torch import Tensor

from diamond_bench.config import FactoredObjective, Sampler
from diamond_bench.diffusion.objectives import Factored
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.diffusion.samplers import SupportsDenoise, sample

SHARE = 0.2
SIZE = 64
_BACKGROUND, _OBJECT = 25, 142  # bytes
LAST = from_bytes(torch.full((1, 3, SIZE, SIZE), _BACKGROUND, dtype=torch.uint8))
OBJECT = torch.zeros(1, 3, SIZE, SIZE)
OBJECT[:, :, 30:32, 40:42] = (_OBJECT - _BACKGROUND) * 2 / 255
LENGTH = float(OBJECT.norm())
"""Distance of the two frames: 3.2, while their root mean square difference per pixel is 0.013."""
CHANGE_RMS = math.sqrt(SHARE * LENGTH**2 / OBJECT.numel())


def belief(x: Tensor, sigma: Tensor) -> Tensor:
    """E[next frame | next frame + sigma * noise = x], x (b, 3, 64, 64), sigma (b, 1, 1, 1)."""
    along = ((x - LAST) * OBJECT).flatten(1).sum(1)[:, None, None, None]
    return LAST + OBJECT * torch.sigmoid(math.log(SHARE / (1 - SHARE)) + (along - LENGTH**2 / 2) / sigma.square())


class Exact(SupportsDenoise):
    """An objective whose network says what follows from the exact belief, through the objective's own arithmetic."""

    def __init__(self, config: FactoredObjective) -> None:
        self.objective = Factored(config)
        if config.sigma_data == "measured":
            self.objective.set_sigma_data(CHANGE_RMS)

    def denoise(self, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """See `SupportsDenoise.denoise`."""
        c = self.objective.coefficients(sigma[:, None, None, None])
        centre = self.objective.centre(past)
        shift = torch.zeros(()) if centre is None else centre

        def network(fed: Tensor, c_noise: Tensor, past: Tensor, actions: Tensor) -> Tensor:
            noisy = fed / c.c_in
            return (belief(noisy + shift, sigma[:, None, None, None]) - shift - c.c_skip * noisy) / c.c_out

        return self.objective.denoise(network, x, sigma, past, actions)

    def centre(self, past: Tensor) -> Tensor | None:
        """See `SupportsDenoise.centre`."""
        return self.objective.centre(past)


def _stratified(count: int, seed: int) -> Tensor:
    """`count` draws of Gaussian noise, (count, 3, 64, 64), that hit every 1 / count of the distribution along the object's direction."""
    noise = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
    wanted = torch.special.ndtri((torch.arange(count) + 0.5) / count)
    unit = OBJECT / LENGTH
    return noise + (wanted - (noise * unit).flatten(1).sum(1))[:, None, None, None] * unit


@torch.no_grad()
def share_of_objects(config: FactoredObjective, sampler: Sampler, count: int, seed: int = 0) -> float:
    """Share of `count` frames, sampled by a deterministic sampler from stratified noise, that show the object: chance is below 1 / count.

    Raises AssertionError where a frame is neither of the two.
    """
    past, actions = LAST[:, None].expand(count, 1, 3, SIZE, SIZE), torch.zeros(count, 1, dtype=torch.int64)
    frames = sample(Exact(config), past, actions, sampler, lambda: _stratified(count, seed))
    shown = ((frames - LAST) * OBJECT).flatten(1).sum(1) / LENGTH**2
    assert ((shown - shown.round()).abs() < 0.1).all(), "a frame between the two: too few steps"
    return float(shown.round().mean())


def expected_share(sigma: float, offset: float = 0.0) -> float:
    """Share of samples with the object, of an exact solver that starts from noise of standard deviation `sigma`.

    `offset`: where the start noise is centred along the object's direction, as seen from the last frame.
    """

    def upper(z: float) -> float:
        return 0.5 * math.erfc(z / math.sqrt(2))

    low, high = -10 * sigma, LENGTH + 10 * sigma
    for _ in range(100):
        middle = (low + high) / 2
        above = (1 - SHARE) * upper(middle / sigma) + SHARE * upper((middle - LENGTH) / sigma)
        low, high = (middle, high) if above > SHARE else (low, middle)
    return upper((low - offset) / sigma)
