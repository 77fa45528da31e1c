"""Training of the reward/end model: two cross-entropies, and how often it is right (method section 4; golden README 2.4)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from diamond_bench.data.segments import RewardEndSegments, transition_frames
from diamond_bench.models.reward_end_model import RewardEndModel


def reward_end_loss(model: RewardEndModel, segments: RewardEndSegments) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the reward's sign plus that of the end, each a mean over the real steps of segments of t frames, and metrics.

    Steps 0..t-2 are learned, each from its frame, its action and the frame it led to (`transition_frames`); a step counts where its
    own frame is real. The LSTM starts from zeros and runs over padding too. No step at all counts as 0.

    Metrics, detached and on the device: `loss`, `loss_reward`, `loss_end`, and the confusion matrices `confusion_reward` (3, 3) and
    `confusion_end` (2, 2), float32 counts, row = what was true, column = what was predicted. Summed over batches, they give
    `precision_recall_f1`.
    """
    frames, next_frames = transition_frames(segments)
    out = model(frames, segments.actions[:, :-1], next_frames)
    counted = segments.mask[:, :-1].flatten().float()
    sign = segments.rewards[:, :-1].sign().long() + 1
    loss_reward, confusion_reward = _classified(out.reward_logits, sign, counted)
    loss_end, confusion_end = _classified(out.end_logits, segments.ends[:, :-1].long(), counted)
    loss = loss_reward + loss_end
    return loss, {
        "loss": loss.detach(),
        "loss_reward": loss_reward.detach(),
        "loss_end": loss_end.detach(),
        "confusion_reward": confusion_reward,
        "confusion_end": confusion_end,
    }


def _classified(logits: Tensor, truth: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over what is counted, and the confusion matrix (k, k), of logits (..., k)."""
    logits, truth = logits.flatten(0, -2), truth.flatten()
    loss = (F.cross_entropy(logits, truth, reduction="none") * counted).sum() / counted.sum().clamp(min=1)
    classes = torch.arange(logits.shape[1], device=logits.device)
    predicted = logits.detach().argmax(dim=1)
    # a product of indicators, not a count: counting waits for the device
    true_class = (truth[:, None] == classes).float() * counted[:, None]
    return loss, true_class.T @ (predicted[:, None] == classes).float()


def precision_recall_f1(confusion: Tensor) -> Tensor:
    """Of each class its precision, recall and F1 in [0, 1], (3, k), from a confusion matrix (k, k) as `reward_end_loss` counts it.

    NaN where undefined: a precision of what was never predicted, a recall of what never occurred, the F1 where neither happened.
    """
    right, predicted, occurred = confusion.diagonal(), confusion.sum(dim=0), confusion.sum(dim=1)
    return torch.stack((right / predicted, right / occurred, 2 * right / (predicted + occurred)))
