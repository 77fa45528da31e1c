"""What the network is trained to say: EDM and DDPM noise prediction (method sections 2 and 3).

Every objective can turn its network's output into the clean frame it believes in, given x = clean + sigma * noise in EDM's
variance-exploding coordinates; that is all a sampler needs, so objectives and samplers can be crossed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from diamond_bench.config import DdpmObjective, EdmObjective
from diamond_bench.diffusion.quantization import quantize
from diamond_bench.diffusion.schedules import timestep_sigmas

Network = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""network(x, c_noise, past stacked on channels, actions) -> float32 of x's shape; see `DenoiserNetwork.forward`."""


@dataclass(frozen=True)
class Draws:
    """The random numbers of one training step."""

    level: Tensor  # (b,): EDM's sigma, or DDPM's timestep (int64)
    offset: Tensor  # (b, 3, 1, 1), N(0, 1)
    gauss: Tensor  # (b, 3, h, w), N(0, 1)


@dataclass(frozen=True)
class ObjectiveStep:
    """One prediction step of training."""

    loss: Tensor  # scalar
    denoised: Tensor  # (b, 3, h, w), without gradient, quantised: what the next step conditions on
    prediction: Tensor  # (b, 3, h, w), the network's output
    target: Tensor  # (b, 3, h, w), what it should have been


class Objective(Protocol):
    """A training objective and the meaning of its network's output."""

    def denoise(self, network: Network, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """The clean frame the model believes in, unclamped, (b, 3, h, w).

        Args:
            network: the network, its output in float32.
            x: clean + sigma * noise, (b, 3, h, w).
            sigma: noise level of each example, (b,), or one of all, 0-d.
            past: frames in [-1, 1], oldest first, (b, L, 3, h, w).
            actions: taken after each past frame, (b, L) int64.
        """
        ...

    def draw(self, clean: Tensor, generator: torch.Generator | None) -> Draws:
        """Noise level, offset noise and Gaussian noise, drawn in this order."""
        ...

    def step(self, network: Network, clean: Tensor, past: Tensor, actions: Tensor, mask: Tensor, draws: Draws) -> ObjectiveStep:
        """The loss of predicting `clean` (b, 3, h, w) under given noise; `mask` (b,) is 1 where clean is a real frame.

        The loss is the mean over the examples whose mask is 1, and 0 (no gradient) where there is none.
        """
        ...


def masked_mean_square(error: Tensor, mask: Tensor) -> Tensor:
    """Mean of error^2 (b, ...) over the examples with mask 1; 0 without any, so that an all-padding step does not make the loss NaN.

    The authors' code gives NaN there. No count reaches the host.
    """
    mask = mask.to(error.dtype)
    return (error.square().flatten(1).mean(1) * mask).sum() / mask.sum().clamp(min=1)


def _per_pixel(value: Tensor, x: Tensor) -> Tensor:
    """(b,) or 0-d to (b, 1, 1, 1)."""
    return value.to(x.dtype).expand(len(x))[:, None, None, None]


def _unit_noise(clean: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    b, c, h, w = clean.shape
    offset = torch.randn(b, c, 1, 1, generator=generator, device=clean.device)
    return offset, torch.randn(b, c, h, w, generator=generator, device=clean.device)


class Edm:
    """EDM's preconditioned denoiser (Karras et al. 2022, table 1; paper equations 4 to 6), with the authors' offset noise."""

    def __init__(self, config: EdmObjective) -> None:
        self.config = config

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_in, c_skip, c_out, c_noise, of sigma's shape. All of them see the level raised by the offset noise, in sampling too."""
        sd = self.config.sigma_data
        s = (sigma.square() + self.config.sigma_offset_noise**2).sqrt()
        total = (s.square() + sd**2).sqrt()
        return 1 / total, sd**2 / total.square(), s * sd / total, s.log() / 4

    def _predict(self, network: Network, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Network output, c_skip * x and c_out."""
        c_in, c_skip, c_out, c_noise = self.coefficients(_per_pixel(sigma, x))
        if self.config.rescale_past_frames:
            past = past / self.config.sigma_data
        return network(c_in * x, c_noise.flatten(), past.flatten(1, 2), actions), c_skip * x, c_out

    def denoise(self, network: Network, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """See `Objective.denoise`."""
        prediction, skip, c_out = self._predict(network, x, sigma, past, actions)
        return skip + c_out * prediction

    def draw(self, clean: Tensor, generator: torch.Generator | None) -> Draws:
        """See `Objective.draw`."""
        z = torch.randn(len(clean), generator=generator, device=clean.device)
        return Draws(self.training_sigma(z), *_unit_noise(clean, generator))

    def training_sigma(self, z: Tensor) -> Tensor:
        """Training noise levels of standard normal draws: log-normal, clipped."""
        return (self.config.loc + self.config.scale * z).exp().clamp(self.config.sigma_min, self.config.sigma_max)

    def step(self, network: Network, clean: Tensor, past: Tensor, actions: Tensor, mask: Tensor, draws: Draws) -> ObjectiveStep:
        """See `Objective.step`."""
        x = clean + self.config.sigma_offset_noise * draws.offset + _per_pixel(draws.level, clean) * draws.gauss
        prediction, skip, c_out = self._predict(network, x, draws.level, past, actions)
        target = (clean - skip) / c_out
        denoised = quantize(skip + c_out * prediction.detach(), self.config.quantization)
        return ObjectiveStep(masked_mean_square(prediction - target, mask), denoised, prediction, target)


class Ddpm(nn.Module):
    """DDPM's noise prediction (Ho et al. 2020), with the authors' offset noise. A module only for its tables to follow the device."""

    sigmas: Tensor
    log_midpoints: Tensor

    def __init__(self, config: DdpmObjective) -> None:
        super().__init__()
        self.config = config
        sigmas = torch.from_numpy(timestep_sigmas(config.num_train_timesteps, config.beta_start, config.beta_end))
        logs = sigmas.log()
        self.register_buffer("sigmas", sigmas.float(), persistent=False)  # (T,), increasing
        self.register_buffer("log_midpoints", ((logs[1:] + logs[:-1]) / 2).float(), persistent=False)

    def nearest_timestep(self, sigma: Tensor) -> Tensor:
        """The timestep whose level is nearest in log sigma, in 0..T-1; of sigma's shape."""
        return torch.bucketize(sigma.log(), self.log_midpoints)

    def _predict(self, network: Network, x: Tensor, sigma: Tensor, timestep: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """The noise in x. The network sees variance-preserving coordinates, sqrt(a) * x with a = 1 / (1 + sigma^2)."""
        if self.config.rescale_past_frames:
            past = past / self.config.sigma_data
        c_noise = (timestep.to(x.dtype) + 1) / self.config.num_train_timesteps
        return network(x / (1 + sigma.square()).sqrt(), c_noise.expand(len(x)), past.flatten(1, 2), actions)

    def denoise(self, network: Network, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """See `Objective.denoise`."""
        level = _per_pixel(sigma, x)
        return x - level * self._predict(network, x, level, self.nearest_timestep(sigma), past, actions)

    def draw(self, clean: Tensor, generator: torch.Generator | None) -> Draws:
        """See `Objective.draw`."""
        timestep = torch.randint(self.config.num_train_timesteps, (len(clean),), generator=generator, device=clean.device)
        return Draws(timestep, *_unit_noise(clean, generator))

    def step(self, network: Network, clean: Tensor, past: Tensor, actions: Tensor, mask: Tensor, draws: Draws) -> ObjectiveStep:
        """See `Objective.step`."""
        noise = self.config.sigma_offset_noise * draws.offset + draws.gauss
        level = _per_pixel(self.sigmas[draws.level], clean)
        x = clean + level * noise
        prediction = self._predict(network, x, level, draws.level, past, actions)
        denoised = quantize(x - level * prediction.detach(), self.config.quantization)
        return ObjectiveStep(masked_mean_square(prediction - noise, mask), denoised, prediction, noise)
