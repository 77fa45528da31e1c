"""Training of the reward/end model: two cross-entropies, and the model's accuracy (method section 4; golden README 2.4)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from diamond_bench.data.segments import RewardEndSegments, transition_frames
from diamond_bench.models.reward_end_model import RewardEndModel


def reward_end_loss(model: RewardEndModel, segments: RewardEndSegments) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the reward's sign plus that of the end, each a mean over the real steps of segments of t frames, and metrics.

    The model learns steps 0..t-2, each from its frame, its action and the next frame (`transition_frames`). A step counts if its own frame
    is real. The LSTM starts from zeros and runs over padding too. Without any step the loss is 0.

    Metrics, detached and on the device: `loss`, `loss_reward`, `loss_end`, and the confusion matrices `confusion_reward` (3, 3) and
    `confusion_end` (2, 2), float32 counts, row = true class, column = predicted class. Their sums over batches are the input of
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
    """Mean cross-entropy over the counted rows, and the confusion matrix (k, k), of logits (..., k)."""
    logits, truth = logits.flatten(0, -2), truth.flatten()
    loss = (F.cross_entropy(logits, truth, reduction="none") * counted).sum() / counted.sum().clamp(min=1)
    classes = torch.arange(logits.shape[1], device=logits.device)
    predicted = logits.detach().argmax(dim=1)
    # a product of indicators, since counting waits for the device
    true_class = (truth[:, None] == classes).float() * counted[:, None]
    return loss, true_class.T @ (predicted[:, None] == classes).float()


def precision_recall_f1(confusion: Tensor) -> Tensor:
    """Precision, recall and F1 of each class in [0, 1], (3, k), from a confusion matrix (k, k) of `reward_end_loss`.

    NaN if undefined: the precision of a class that was never predicted, the recall of a class that never occurred, the F1 if neither
    happened.
    """
    right, predicted, occurred = confusion.diagonal(), confusion.sum(dim=0), confusion.sum(dim=1)
    return torch.stack((right / predicted, right / occurred, 2 * right / (predicted + occurred)))
