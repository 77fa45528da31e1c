"""The denoiser: a network, the objective that gives its output a meaning, and the precision it runs in."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from diamond_bench.diffusion.objectives import Draws, Network, Objective, ObjectiveStep
from diamond_bench.models.compilation import Compilable
from diamond_bench.models.conditioning import Conditioning, ConditioningInputs, withheld
from diamond_bench.models.outcome_heads import OutcomeHeads
from diamond_bench.models.precision import Precision, arithmetic

__all__ = ["Denoiser", "Precision"]


class PastNoise(Protocol):
    """Noise that is added to the past frames of a training batch."""

    def __call__(self, past: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy frames, and the noise level of each example, (b,), from frames (b, L, 3, h, w) whose mask (b, L) is 0 where padded."""
        ...


@dataclass(frozen=True)
class FrameNoise:
    """The noise of `ConditioningConfig.frame_noise`. Padding frames get none: they are exactly 0 in sampling too, which is how the network
    recognises them."""

    level: Tensor  # (b,), standard deviation: one per example, for all its autoregressive steps
    gauss: Callable[[Tensor], Tensor]  # of past frames (b, L, 3, h, w): fresh N(0, 1) of their shape

    def __call__(self, past: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `PastNoise`."""
        scale = self.level[:, None] * mask
        return past + scale[:, :, None, None, None] * self.gauss(past), self.level


@dataclass(frozen=True)
class LevelledNoise:
    """The noise of `ConditioningConfig.past_noise`: that of the objective's training, drawn for each example and autoregressive step.

    As in the authors' code, padding frames get it too, in training and in sampling.
    """

    objective: Objective
    draw: Callable[[Tensor], Draws]  # of past frames, stacked on channels (b, L * 3, h, w)

    def __call__(self, past: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """See `PastNoise`."""
        draws = self.draw(past.flatten(1, 2))
        return past + self.objective.noise(draws).view_as(past), draws.level


class Denoiser(Compilable):
    """Predicts the clean next frame from a noisy one, L past frames and L actions.

    `network` holds all trained weights. Only its forward pass runs in `precision` (bf16 through autocast). Preconditioning, loss,
    quantisation and the solver's state are float32. In training, the actions of a share `action_dropout` of the examples are withheld, and
    noise of up to `frame_noise`, or that of `past_noise`, is added to the past frames (`ConditioningConfig`). The network must have been
    built for it.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        num_frames: int,
        precision: Precision = "fp32",
        action_dropout: float = 0.0,
        frame_noise: float = 0.0,
        past_noise: str = "none",
        heads: OutcomeHeads | None = None,
    ) -> None:
        """`heads`: of rewards and ends, on the deepest features of the network (`NetworkConfig.heads`)."""
        super().__init__()
        self.network = network
        self.objective = objective
        self.num_frames = num_frames
        self.precision = precision
        self.action_dropout = action_dropout
        self.frame_noise = frame_noise
        self.past_noise = past_noise
        self.heads = heads

    @property
    def core(self) -> nn.Module:
        """The network."""
        return self.network

    def _run(
        self, x: Tensor, c_noise: Tensor, past: Tensor, actions: Tensor, *, kept: list[Tensor] | None = None, **inputs: Tensor
    ) -> Tensor:
        with arithmetic(x.device.type, self.precision):
            found: Tensor | tuple[Tensor, Tensor] = self.run_core(x, c_noise, past, actions, **inputs)
        out, deepest = found if isinstance(found, tuple) else (found, None)
        if kept is not None and deepest is not None:
            kept.append(deepest)
        return out.float()

    def denoise(
        self,
        x: Tensor,
        sigma: Tensor,
        past: Tensor,
        actions: Tensor,
        past_sigma: Tensor | None = None,
        kept: list[Tensor] | None = None,
    ) -> Tensor:
        """The model's estimate of the clean frame, unclamped, (b, 3, h, w) float32.

        Args:
            x: clean + sigma * noise, (b, 3, h, w).
            sigma: (b,), or 0-d.
            past: in [-1, 1], oldest first, (b, L, 3, h, w).
            actions: taken after each past frame, (b, L) or (b, L, k). Withheld ones need a network trained with action dropout.
            past_sigma: standard deviation of the noise in `past`, (b,). It needs a network with an input for it.
            kept: receives the deepest features of the call, if the network has heads.
        """
        run = partial(self._run, kept=kept) if past_sigma is None else partial(self._run, kept=kept, frame_noise=past_sigma)
        return self.objective.denoise(run, x, sigma, past, actions)

    def centre(self, past: Tensor) -> Tensor | None:
        """The frame to which sampling adds its first noise (`Objective.centre`)."""
        return self.objective.centre(past)

    def for_one_frame(self) -> "Denoiser | EncodedOnce":
        """The denoiser for the calls of one sampled frame."""
        return EncodedOnce(self) if self.encodes_past_once else self

    def training_loss(
        self,
        frames: Tensor,
        actions: Tensor,
        mask: Tensor,
        generator: torch.Generator | None = None,
        guide: Tensor | None = None,
        features: list[Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the k + 1 autoregressive prediction steps of a batch of segments, and metrics (detached, on the device).

        Each later step conditions on the model's own quantised prediction (paper section 3.2, method section 2). The loss is the mean of
        the steps' losses. A step without any real frame to predict counts as 0.

        Args:
            frames: (b, L + 1 + k, 3, h, w) in [-1, 1], exactly 0 where padded.
            actions: (b, L + 1 + k), or with a last axis of columns. Action t is taken after frame t, and the last one is not used.
            mask: (b, L + 1 + k), 1 (or True) where the frame is real.
            generator: on the frames' device.
            guide: see `unroll`.
            features: see `unroll`.
        """
        if self.action_dropout > 0:  # without action dropout nothing is drawn, so that earlier models keep their stream of random numbers
            dropped = torch.rand(len(frames), generator=generator, device=frames.device) < self.action_dropout
            actions = torch.where(dropped.view(-1, *[1] * (actions.dim() - 1)), withheld(actions), actions)
        noise = self._past_noise(frames, generator)
        steps = self.unroll(frames, actions, mask, lambda clean: self.objective.draw(clean, generator), noise, guide, features)
        loss = torch.stack([step.loss for step in steps]).mean()
        return loss, {f"loss_step_{i}": step.loss.detach() for i, step in enumerate(steps)} | {"loss": loss.detach()}

    def _past_noise(self, frames: Tensor, generator: torch.Generator | None) -> PastNoise | None:
        if self.past_noise == "training":
            return LevelledNoise(self.objective, lambda past: self.objective.draw(past, generator))
        return self._draw_frame_noise(frames, generator) if self.frame_noise > 0 else None

    def _draw_frame_noise(self, frames: Tensor, generator: torch.Generator | None) -> FrameNoise:
        def drawn(draw: Callable[..., Tensor], *shape: int) -> Tensor:
            return draw(*shape, generator=generator, device=frames.device)

        level = self.frame_noise * drawn(torch.rand, len(frames))
        return FrameNoise(level, lambda past: drawn(torch.randn, *past.shape))

    def unroll(
        self,
        frames: Tensor,
        actions: Tensor,
        mask: Tensor,
        draw: Callable[[Tensor], Draws],
        past_noise: PastNoise | None = None,
        guide: Tensor | None = None,
        features: list[Tensor] | None = None,
    ) -> list[ObjectiveStep]:
        """The prediction steps of `training_loss`. `draw(clean)` gives the noise of each, and `past_noise` that of past frames, if any.

        `guide`: a picture of each frame, (b, L + 1 + k, 3, h, w), that the network receives after the past frames when it predicts that
        frame.
        `features`: receives those that the heads read at each step.
        """
        n = self.num_frames
        if frames.shape[1] <= n:
            raise ValueError(f"a segment of {frames.shape[1]} frames leaves none to predict after {n} past frames")
        past = frames[:, :n]
        steps = []
        for i in range(frames.shape[1] - n):
            clean, shown = frames[:, n + i], past
            kept: list[Tensor] = []
            run: Network = partial(self._run, kept=kept)
            if past_noise is not None:
                shown, level = past_noise(past, mask[:, i : n + i])
                run = partial(self._run, kept=kept, frame_noise=level)
            if guide is not None:
                shown = torch.cat((shown, guide[:, n + i, None]), dim=1)
            counts = mask[:, n + i]
            # The step from padding to a game's first frame is no change, and no model has to predict it.
            if self.centre(shown) is not None:
                counts = counts * mask[:, n + i - 1]
            step = self.objective.step(run, clean, shown, actions[:, i : n + i], counts, draw(clean))
            steps.append(step)
            if features is not None and self.heads is not None:
                if self.heads.config.reads == "extra":
                    sigma = torch.full_like(counts, self.heads.config.sigma, dtype=clean.dtype)
                    noisy = clean + self.heads.config.sigma * draw(clean).gauss
                    self.objective.denoise(run, noisy, sigma, shown, actions[:, i : n + i])
                features.append(kept[-1])
            past = torch.cat((past[:, 1:], step.denoised[:, None]), dim=1)
        return steps


class EncodedOnce:
    """A denoiser for the calls of one sampled frame. It encodes past frames once for all calls that get the same frames and actions.

    The objective must scale past frames equally at every noise level, as `Factored` does.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self._encoded: list[tuple[Tensor, Tensor, ConditioningInputs]] = []
        """Past frames, actions, and their encoding."""

    def denoise(self, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor, past_sigma: Tensor | None = None) -> Tensor:
        """See `Denoiser.denoise`."""

        def run(x: Tensor, c_noise: Tensor, scaled: Tensor, actions: Tensor) -> Tensor:
            inputs = {} if past_sigma is None else {"frame_noise": past_sigma}
            with arithmetic(x.device.type, self._denoiser.precision):
                encoded = self._of(past, scaled, actions)
                return self._denoiser.run_core(x, c_noise, scaled, actions, encoded=encoded, **inputs).float()

        return self._denoiser.objective.denoise(run, x, sigma, past, actions)

    def centre(self, past: Tensor) -> Tensor | None:
        """See `Denoiser.centre`."""
        return self._denoiser.centre(past)

    def _of(self, past: Tensor, scaled: Tensor, actions: Tensor) -> ConditioningInputs:
        self._encoded = [known for known in self._encoded if known[0] is past]
        for _, given, encoded in self._encoded:
            if given is actions:
                return encoded
        encoded = cast(Conditioning, self._denoiser.network.frame_conditioning).encode(scaled, actions)
        self._encoded.append((past, actions, encoded))
        return encoded
