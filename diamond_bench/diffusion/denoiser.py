"""The denoiser: a network, the objective that gives its output a meaning, and the precision it runs in."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from diamond_bench.diffusion.objectives import Draws, Objective, ObjectiveStep
from diamond_bench.models.compilation import Compilable
from diamond_bench.models.conditioning import withheld
from diamond_bench.models.precision import Precision, arithmetic

__all__ = ["Denoiser", "Precision"]


@dataclass(frozen=True)
class FrameNoise:
    """Noise that is added to the past frames of a training batch."""

    level: Tensor  # (b,), standard deviation: one per example, for all its autoregressive steps
    gauss: Callable[[Tensor], Tensor]  # of past frames (b, L, 3, h, w): fresh N(0, 1) of their shape


class Denoiser(Compilable):
    """Predicts the clean next frame from a noisy one, L past frames and L actions.

    `network` holds all trained weights. Only its forward pass runs in `precision` (bf16 through autocast). Preconditioning, loss,
    quantisation and the solver's state are float32. In training, the actions of a share `action_dropout` of the examples are withheld, and
    noise of up to `frame_noise` is added to the past frames (`ConditioningConfig`). The network must have been built for both.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        num_frames: int,
        precision: Precision = "fp32",
        action_dropout: float = 0.0,
        frame_noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        self.num_frames = num_frames
        self.precision = precision
        self.action_dropout = action_dropout
        self.frame_noise = frame_noise

    @property
    def core(self) -> nn.Module:
        """The network."""
        return self.network

    def _run(self, x: Tensor, c_noise: Tensor, past: Tensor, actions: Tensor, **inputs: Tensor) -> Tensor:
        with arithmetic(x.device.type, self.precision):
            return self.run_core(x, c_noise, past, actions, **inputs).float()

    def denoise(self, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """The model's estimate of the clean frame, unclamped, (b, 3, h, w) float32.

        Args:
            x: clean + sigma * noise, (b, 3, h, w).
            sigma: (b,), or 0-d.
            past: in [-1, 1], oldest first, (b, L, 3, h, w).
            actions: taken after each past frame, (b, L) or (b, L, k). Withheld ones need a network trained with action dropout.
        """
        return self.objective.denoise(self._run, x, sigma, past, actions)

    def centre(self, past: Tensor) -> Tensor | None:
        """The frame to which sampling adds its first noise (`Objective.centre`)."""
        return self.objective.centre(past)

    def training_loss(
        self, frames: Tensor, actions: Tensor, mask: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the k + 1 autoregressive prediction steps of a batch of segments, and metrics (detached, on the device).

        Each later step conditions on the model's own quantised prediction (paper section 3.2, method section 2). The loss is the mean of
        the steps' losses. A step without any real frame to predict counts as 0.

        Args:
            frames: (b, L + 1 + k, 3, h, w) in [-1, 1], exactly 0 where padded.
            actions: (b, L + 1 + k), or with a last axis of columns. Action t is taken after frame t, and the last one is not used.
            mask: (b, L + 1 + k), 1 (or True) where the frame is real.
            generator: on the frames' device.
        """
        if self.action_dropout > 0:  # without action dropout nothing is drawn, so that earlier models keep their stream of random numbers
            dropped = torch.rand(len(frames), generator=generator, device=frames.device) < self.action_dropout
            actions = torch.where(dropped.view(-1, *[1] * (actions.dim() - 1)), withheld(actions), actions)
        noise = self._draw_frame_noise(frames, generator) if self.frame_noise > 0 else None
        steps = self.unroll(frames, actions, mask, lambda clean: self.objective.draw(clean, generator), noise)
        loss = torch.stack([step.loss for step in steps]).mean()
        return loss, {f"loss_step_{i}": step.loss.detach() for i, step in enumerate(steps)} | {"loss": loss.detach()}

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
        frame_noise: FrameNoise | None = None,
    ) -> list[ObjectiveStep]:
        """The prediction steps of `training_loss`. `draw(clean)` gives the noise of each, and `frame_noise` that of past frames, if any.

        Padding frames get no noise. They are exactly 0 in sampling too, which is how the network recognises them.
        """
        n = self.num_frames
        if frames.shape[1] <= n:
            raise ValueError(f"a segment of {frames.shape[1]} frames leaves none to predict after {n} past frames")
        run = self._run if frame_noise is None else partial(self._run, frame_noise=frame_noise.level)
        past = frames[:, :n]
        steps = []
        for i in range(frames.shape[1] - n):
            clean, shown = frames[:, n + i], past
            if frame_noise is not None:
                scale = frame_noise.level[:, None] * mask[:, i : n + i]
                shown = past + scale[:, :, None, None, None] * frame_noise.gauss(past)
            counts = mask[:, n + i]
            # The step from padding to a game's first frame is no change, and no model has to predict it.
            if self.centre(shown) is not None:
                counts = counts * mask[:, n + i - 1]
            step = self.objective.step(run, clean, shown, actions[:, i : n + i], counts, draw(clean))
            steps.append(step)
            past = torch.cat((past[:, 1:], step.denoised[:, None]), dim=1)
        return steps
