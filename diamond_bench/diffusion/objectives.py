"""The network's training target and the meaning of its output (method sections 2 and 3).

Given x = clean + sigma * noise in EDM's variance-exploding coordinates, every objective can turn its network's output into an estimate of
the clean frame. A sampler needs nothing else, so objectives and samplers can be combined freely.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from diamond_bench.config import FactoredObjective
from diamond_bench.diffusion.quantization import quantize
from diamond_bench.diffusion.schedules import timestep_sigmas

Network = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""network(x, c_noise, past stacked on channels, actions) -> float32 of x's shape; see `DenoiserNetwork.forward`."""


@dataclass(frozen=True)
class Draws:
    """The random numbers of one training step."""

    level: Tensor  # (b,), sigma
    offset: Tensor  # (b, 3, 1, 1), N(0, 1)
    gauss: Tensor  # (b, 3, h, w), N(0, 1)


@dataclass(frozen=True)
class ObjectiveStep:
    """One prediction step of training."""

    loss: Tensor  # scalar, weighted
    denoised: Tensor  # (b, 3, h, w), without gradient, quantised: the next step conditions on it
    prediction: Tensor  # (b, 3, h, w), the network's output
    target: Tensor  # (b, 3, h, w), the regression target of `prediction`


class Objective(Protocol):
    """A training objective and the meaning of its network's output."""

    def denoise(self, network: Network, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """The model's estimate of the clean frame, unclamped, (b, 3, h, w).

        Args:
            network: the network, its output in float32.
            x: clean + sigma * noise, (b, 3, h, w).
            sigma: noise level of each example, (b,), or of all, 0-d.
            past: frames in [-1, 1], oldest first, (b, L, 3, h, w).
            actions: taken after each past frame, (b, L) int64.
        """
        ...

    def centre(self, past: Tensor) -> Tensor | None:
        """The frame to which sampling adds its first noise, (b, 3, h, w), from past frames (b, L, 3, h, w). None means a frame of zeros."""
        return None

    def draw(self, clean: Tensor, generator: torch.Generator | None) -> Draws:
        """Draws noise level, offset noise and Gaussian noise, in this order."""
        ...

    def noise(self, draws: Draws) -> Tensor:
        """The noise that training adds to a frame, of the shape of `draws.gauss`."""
        ...

    def step(self, network: Network, clean: Tensor, past: Tensor, actions: Tensor, mask: Tensor, draws: Draws) -> ObjectiveStep:
        """The loss of predicting `clean` (b, 3, h, w) under given noise. `mask` (b,) is 1 where clean is a real frame.

        The loss is the mean over the examples with mask 1. If there are none, it is 0 and has no gradient.
        """
        ...


def masked_mean_square(error: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean of error^2 (b, ...), times a weight per example (b,), over the examples with mask 1. It is 0 if there are none, so that an
    all-padding step does not make the loss NaN, as it does in the authors' code. No count reaches the host."""
    mask = mask.to(error.dtype)
    squares = error.square().flatten(1).mean(1)
    return ((squares if weight is None else squares * weight) * mask).sum() / mask.sum().clamp(min=1)


def _per_pixel(value: Tensor, x: Tensor) -> Tensor:
    """Reshapes (b,) or 0-d to (b, 1, 1, 1)."""
    return value.to(x.dtype).expand(len(x))[:, None, None, None]


class Coefficients(NamedTuple):
    """The network's input and output scaling at a noise level: its input is c_in * x, and c_skip * x + c_out * F is the clean frame."""

    c_in: Tensor
    c_skip: Tensor
    removed: Tensor  # 1 - c_skip, computed without cancellation if c_skip is nearly 1
    c_out: Tensor


class Factored(nn.Module):
    """Denoising with any `FactoredObjective`.

    It is a module, so that DDPM's tables follow the device and a measured sigma_data is saved and restored with the weights.
    """

    sigmas: Tensor
    log_midpoints: Tensor
    measured: Tensor

    def __init__(self, config: FactoredObjective) -> None:
        super().__init__()
        self.config = config
        if config.sigma_data == "measured":
            self.register_buffer("measured", torch.tensor(math.nan))  # NaN, so that an unmeasured value cannot pass for a measured one
        if config.uses_timesteps:
            sigmas = torch.from_numpy(timestep_sigmas(config.num_train_timesteps, config.beta_start, config.beta_end))
            logs = sigmas.log()
            self.register_buffer("sigmas", sigmas.float(), persistent=False)  # (T,), increasing
            self.register_buffer("log_midpoints", ((logs[1:] + logs[:-1]) / 2).float(), persistent=False)

    @property
    def sigma_data(self) -> float | Tensor:
        """The configured number, or the measured one, a 0-d tensor that is NaN until `set_sigma_data`."""
        return self.measured if self.config.sigma_data == "measured" else self.config.sigma_data

    def set_sigma_data(self, value: float) -> None:
        """Sets the measured sigma_data. Raises ValueError unless it is finite and above 0, and if the settings have a number."""
        if not 0 < value < math.inf or self.config.sigma_data != "measured":
            raise ValueError(f"sigma_data={value}: expected a number above 0, and settings with sigma_data=measured")
        self.measured.fill_(value)

    def centre(self, past: Tensor) -> Tensor | None:
        """See `Objective.centre`."""
        return past[:, -1] if self.config.coordinate == "change" else None

    def nearest_timestep(self, sigma: Tensor) -> Tensor:
        """The timestep in 0..T-1 whose level is nearest in log sigma, in the shape of sigma."""
        return torch.bucketize(sigma.log(), self.log_midpoints)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Coefficients in the shape of sigma. With offset noise added at every level, they use the raised level, in sampling too."""
        s, sd = self._raised(sigma), self.sigma_data
        total, unit = s.square() + sd**2, 1 + s.square()
        c_in = {
            "edm": lambda: total.rsqrt(),
            "variance_preserving": lambda: unit.rsqrt(),
            "flow": lambda: 1 / (1 + s),
            "none": lambda: torch.ones_like(s),
        }[self.config.input_scaling]()
        match self.config.parameterization:
            case "edm":
                return Coefficients(c_in, sd**2 / total, s.square() / total, s * sd * total.rsqrt())
            case "noise":
                return Coefficients(c_in, torch.ones_like(s), torch.zeros_like(s), -s)
            case "velocity":
                return Coefficients(c_in, 1 / unit, s.square() / unit, -s * unit.rsqrt())
            case "clean":
                return Coefficients(c_in, torch.zeros_like(s), torch.ones_like(s), torch.ones_like(s))
            case "flow":
                return Coefficients(c_in, 1 / (1 + s), s / (1 + s), -s / (1 + s))

    def noise_conditioning(self, sigma: Tensor) -> Tensor:
        """c_noise: the network's input that encodes the noise level, in the shape of sigma."""
        match self.config.noise_conditioning:
            case "log_sigma":
                return self._raised(sigma).log() / 4
            case "timestep":
                return (self.nearest_timestep(sigma).to(sigma.dtype) + 1) / self.config.num_train_timesteps
            case "flow_time":
                return sigma / (1 + sigma)

    def denoise(self, network: Network, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """See `Objective.denoise`."""
        c, centre = self.coefficients(_per_pixel(sigma, x)), self.centre(past)
        if centre is not None:
            x = x - centre
        clean = c.c_skip * x + c.c_out * self._predict(network, c.c_in * x, sigma, past, actions)
        return clean if centre is None else centre + clean

    def draw(self, clean: Tensor, generator: torch.Generator | None) -> Draws:
        """See `Objective.draw`."""
        b, c, h, w = clean.shape
        level = self.training_sigma(len(clean), generator, clean.device)
        offset = torch.randn(b, c, 1, 1, generator=generator, device=clean.device)
        return Draws(level, offset, torch.randn(b, c, h, w, generator=generator, device=clean.device))

    def training_sigma(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Training noise levels, (count,)."""
        o = self.config
        if o.noise_levels == "timesteps":
            return self.sigmas[torch.randint(o.num_train_timesteps, (count,), generator=generator, device=device)]
        if o.noise_levels == "log_normal":
            return self.log_normal(torch.randn(count, generator=generator, device=device))
        u = torch.rand(count, generator=generator, device=device)
        match o.noise_levels:
            case "log_uniform":
                levels = (math.log(o.sigma_min) + u * math.log(o.sigma_max / o.sigma_min)).exp()
            case "cosine":
                levels = (math.atan(o.sigma_min) + u * (math.atan(o.sigma_max) - math.atan(o.sigma_min))).tan()
            case "flow_time":
                first, last = o.sigma_min / (1 + o.sigma_min), o.sigma_max / (1 + o.sigma_max)
                time = first + u * (last - first)
                levels = time / (1 - time)
        return levels.clamp(o.sigma_min, o.sigma_max)

    def log_normal(self, z: Tensor) -> Tensor:
        """Maps standard normal draws to levels of the log-normal distribution, clipped."""
        return (self.config.loc + self.config.scale * z).exp().clamp(self.config.sigma_min, self.config.sigma_max)

    def step(self, network: Network, clean: Tensor, past: Tensor, actions: Tensor, mask: Tensor, draws: Draws) -> ObjectiveStep:
        """See `Objective.step`."""
        centre = self.centre(past)
        if centre is not None:
            clean = clean - centre
        level, noise = _per_pixel(draws.level, clean), self.noise(draws)
        x = clean + noise
        c = self.coefficients(level)
        prediction = self._predict(network, c.c_in * x, draws.level, past, actions)
        target = (c.removed * clean - c.c_skip * noise) / c.c_out  # solves c_skip * x + c_out * target = clean
        estimate = c.c_skip * x + c.c_out * prediction.detach()
        denoised = quantize(estimate if centre is None else centre + estimate, self.config.quantization)
        return ObjectiveStep(masked_mean_square(prediction - target, mask, self._weight(draws.level)), denoised, prediction, target)

    def noise(self, draws: Draws) -> Tensor:
        """See `Objective.noise`."""
        level, offset = _per_pixel(draws.level, draws.gauss), self.config.sigma_offset_noise * draws.offset
        return level * (offset + draws.gauss) if self.config.offset_noise == "scaled" else offset + level * draws.gauss

    def _raised(self, sigma: Tensor) -> Tensor:
        if self.config.offset_noise == "scaled":
            return sigma
        return (sigma.square() + self.config.sigma_offset_noise**2).sqrt()

    def _predict(self, network: Network, fed: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        if self.config.rescale_past_frames:
            past = past / self.config.past_scale
        return network(fed, self.noise_conditioning(sigma.to(fed.dtype)).expand(len(fed)), past.flatten(1, 2), actions)

    def _weight(self, sigma: Tensor) -> Tensor | None:
        """Weight of an example's squared output error, (b,). The output error is the clean frame's error divided by c_out."""
        if self.config.loss_weight == "output":
            return None
        s, sd = self._raised(sigma), self.sigma_data
        clean = {
            "clean": lambda: torch.ones_like(s),
            "noise": lambda: 1 / s.square(),
            "edm": lambda: (s.square() + sd**2) / (s * sd).square(),
            "min_snr": lambda: (1 / s.square()).clamp(max=self.config.min_snr),
        }[self.config.loss_weight]()
        return self.coefficients(sigma).c_out.square() * clean
