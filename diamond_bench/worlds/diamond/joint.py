"""Rewards and ends of a diffusion world model (`NetworkConfig.heads`): labels in training, features in sampling."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diamond_bench.data.segments import Segments, to_float
from diamond_bench.diffusion.denoiser import Denoiser
from diamond_bench.models.outcome_heads import OutcomeHeads, outcome_losses
from diamond_bench.models.reward_end_model import RewardEndModel


@dataclass(frozen=True)
class Keeping:
    """A denoiser that keeps the deepest features of its calls (`SupportsDenoise`)."""

    denoiser: Denoiser
    actions: Tensor
    """The actions of the step. Guidance makes calls without them, too, whose features are not kept."""
    kept: list[Tensor]

    def denoise(self, x: Tensor, sigma: Tensor, past: Tensor, actions: Tensor, past_sigma: Tensor | None = None) -> Tensor:
        """See `Denoiser.denoise`."""
        return self.denoiser.denoise(x, sigma, past, actions, past_sigma, self.kept if actions is self.actions else None)

    def centre(self, past: Tensor) -> Tensor | None:
        """See `Denoiser.centre`."""
        return self.denoiser.centre(past)


def joint_loss(
    heads: OutcomeHeads, denoising: Tensor, features: Sequence[Tensor], segments: Segments
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The loss of denoising and heads together, and its three parts.

    Args:
        heads: of the denoiser.
        denoising: the denoiser's own loss.
        features: those of each predicted frame, the last frames of the segments, (b, channels, h, w) each.
        segments: with rewards and ends. A predicted frame counts if an action led to it. Without rewards and ends, no frame counts.
    """
    memory, logits = heads.start(len(segments.mask), denoising), []
    for read in features:
        rewards, ends, memory = heads(read if heads.config.gradient else read.detach(), memory)
        logits.append((rewards, ends))
    stacked = [torch.stack(of_steps, dim=1).flatten(0, 1) for of_steps in zip(*logits, strict=True)]
    of_rewards, of_ends = outcome_losses(stacked[0], stacked[1], *_labels(segments, len(features)))
    loss = heads.joint_loss(denoising, of_rewards, of_ends)
    parts = {"loss_denoising": denoising, "loss_reward": of_rewards, "loss_end": of_ends}
    return loss, {name: part.detach() for name, part in {"loss": loss, **parts}.items()}


def separate_loss(model: RewardEndModel, segments: Segments) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The loss of the separate network over all transitions of segments. Its LSTM starts from zeros and runs over padding, too."""
    frames = to_float(segments)
    out = model(frames[:, :-1], segments.actions[:, :-1], frames[:, 1:])
    labels = _labels(segments, frames.shape[1] - 1)
    of_rewards, of_ends = outcome_losses(out.reward_logits.flatten(0, 1), out.end_logits.flatten(0, 1), *labels)
    parts = {"loss": of_rewards + of_ends, "loss_reward": of_rewards, "loss_end": of_ends}
    return parts["loss"], {name: part.detach() for name, part in parts.items()}


def _labels(segments: Segments, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, ends, and whether they count, of the actions that led to the last frames of the segments, (b * steps,) each."""
    rewards, ends, acted = (values[:, -1 - steps : -1].flatten() for values in segments.outcomes)
    return rewards, ends, acted


def burnt_in(model: RewardEndModel, frames: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
    """The memory of the separate network, (b, k) each, after real play of frames (b, s, 3, h, w) and the actions after them."""
    if frames.shape[1] == 1:
        return tuple(frames.new_zeros((len(frames), model.lstm.hidden_size)) for _ in range(2))
    return tuple(memory[0] for memory in model(frames[:, :-1], actions[:, :-1], frames[:, 1:]).state)
