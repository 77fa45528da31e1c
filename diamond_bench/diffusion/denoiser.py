"""The denoiser: a network, the objective that gives its output a meaning, and the precision it runs in."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from diamond_bench.diffusion.objectives import Draws, Objective, ObjectiveStep
from diamond_bench.models.precision import Precision, arithmetic

__all__ = ["Denoiser", "Precision"]


class Denoiser(nn.Module):
    """Predicts the clean next frame from a noisy one, L past frames and L actions.

    `network` holds everything that is trained. Only its forward pass runs in `precision` (bf16 through autocast); preconditioning,
    loss, quantisation and the solver's state are float32.
    """

    def __init__(self, network: nn.Module, objective: Objective, num_frames: int, precision: Precision = "fp32") -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        self.num_frames = num_frames
        self.precision = precision

    def _run(self, x: Tensor, c_noise: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        with arithmetic(x.device.type, self.precision):
            return self.network(x, c_noise, past, actions).float()

    def denoise(self, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor) -> Tensor:
        """The clean frame the model believes in, unclamped, (b, 3, h, w) float32.

        Args:
            x: clean + sigma * noise, (b, 3, h, w).
            sigma: (b,), or 0-d.
            past: in [-1, 1], oldest first, (b, L, 3, h, w).
            actions: taken after each past frame, (b, L) int64.
        """
        return self.objective.denoise(self._run, x, sigma, past, actions)

    def training_loss(
        self, frames: Tensor, actions: Tensor, mask: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the k + 1 autoregressive prediction steps of a batch of segments, and metrics (detached, on the device).

        Each later step conditions on the model's own quantised prediction (paper section 3.2, method section 2). The loss is the
        mean of the steps' losses; a step without a single real frame to predict counts as 0.

        Args:
            frames: (b, L + 1 + k, 3, h, w) in [-1, 1], exactly 0 where padded.
            actions: (b, L + 1 + k) int64, action t taken after frame t (the last is not used).
            mask: (b, L + 1 + k), 1 (or True) where the frame is real.
            generator: on the frames' device.
        """
        steps = self.unroll(frames, actions, mask, lambda clean: self.objective.draw(clean, generator))
        loss = torch.stack([step.loss for step in steps]).mean()
        return loss, {f"loss_step_{i}": step.loss.detach() for i, step in enumerate(steps)} | {"loss": loss.detach()}

    def unroll(self, frames: Tensor, actions: Tensor, mask: Tensor, draw: Callable[[Tensor], Draws]) -> list[ObjectiveStep]:
        """The prediction steps of `training_loss`, with the noise of each from `draw(clean)`."""
        n = self.num_frames
        if frames.shape[1] <= n:
            raise ValueError(f"a segment of {frames.shape[1]} frames has none to predict after {n} past frames")
        past = frames[:, :n]
        steps = []
        for i in range(frames.shape[1] - n):
            clean = frames[:, n + i]
            step = self.objective.step(self._run, clean, past, actions[:, i : n + i], mask[:, n + i], draw(clean))
            steps.append(step)
            past = torch.cat((past[:, 1:], step.denoised[:, None]), dim=1)
        return steps
