"""Quality of an agent's models on test episodes: predicted rewards and ends, imagined frames (method section 5, golden README 3.5)."""

import torch
from torch import Tensor

from diamond_bench.data.replay import ReplayEpisodes
from diamond_bench.data.segments import RewardEndSegments
from diamond_bench.evaluation.rollouts import imagine
from diamond_bench.metrics.play import WindowBatch
from diamond_bench.models.reward_end_model import RewardEndModel
from diamond_bench.training.reward_end import precision_recall_f1, reward_end_loss
from diamond_bench.worlds.contract import WorldModel

_MIN_STEPS = 2


@torch.no_grad()
def reward_end_quality(model: RewardEndModel, episodes: ReplayEpisodes, length: int, batch_size: int) -> dict[str, float]:
    """Loss, and precision, recall and F1 of non-zero rewards and of ends, over whole episodes cut into segments of `length` frames.

    As in the authors' code, segments do not overlap, the last one of an episode is padded, segments of a single step are left out, and the
    step from one segment to the next is not scored. Undefined values (no such event, or none predicted) have no entry.
    """
    rows, device = _segment_places(episodes, length), next(model.parameters()).device
    losses, weights = [], []
    confusion = {"reward": torch.zeros(3, 3), "end": torch.zeros(2, 2)}
    for start in range(0, len(rows), batch_size):
        segments = _segments(episodes, device, *(column[start : start + batch_size] for column in rows.columns))
        loss, metrics = reward_end_loss(model, segments)
        losses.append(loss.item())
        weights.append(float(segments.mask[:, :-1].sum()))
        for name, matrix in confusion.items():
            matrix += metrics[f"confusion_{name}"].cpu()
    if not losses:
        return {}
    found = {"reward_end_loss": sum(a * b for a, b in zip(losses, weights, strict=True)) / sum(weights)}
    signs = confusion["reward"]
    predicted, there = signs[:, [0, 2]].sum(), signs[[0, 2]].sum()
    right = signs[0, 0] + signs[2, 2]
    rewards = torch.stack((right / predicted, right / there, 2 * right / (predicted + there)))
    ends = precision_recall_f1(confusion["end"])[:, 1]
    for prefix, values in (("reward", rewards), ("end", ends)):
        for name, value in zip(("precision", "recall", "f1"), values.tolist(), strict=True):
            if value == value:  # not NaN
                found[f"{prefix}_{name}"] = value
    return found


def drift_quality(
    world: WorldModel,
    episodes: ReplayEpisodes,
    horizon: int,
    device: torch.device,
    most: int = 32,
    seed: int = 0,
) -> float | None:
    """Mean absolute pixel error in [0, 1] of `horizon` imagined frames against the true ones, over windows spread over the episodes.

    None if no episode is long enough. Each window has its own noise seed.
    """
    window = world.context + horizon
    starts = [(e, t) for e, rows in enumerate(episodes.lengths.tolist()) for t in range(0, rows - window + 1, window)]
    starts = starts[:: max(1, -(-len(starts) // most))]
    if not starts:
        return None
    place = torch.tensor(starts, device=episodes.frames.device)
    position = place[:, 1, None] + torch.arange(window, device=place.device)
    index = episodes.starts[place[:, 0], None] + episodes.stride * position
    true = WindowBatch(episodes.frames[index].to(device), episodes.actions[index].to(device), world.context)
    imagined = imagine(world, true, [(seed, i) for i in range(len(starts))])
    return float((imagined.float() - true.true.float()).abs().mean() / 255)


class _Rows:
    """Segments as (episode, first step) columns."""

    def __init__(self, places: list[tuple[int, int]], device: torch.device, length: int) -> None:
        table = torch.tensor(places, dtype=torch.int64, device=device).reshape(-1, 2)
        self.columns = (table[:, 0], table[:, 1][:, None] + torch.arange(length, device=device))

    def __len__(self) -> int:
        return len(self.columns[0])


def _segment_places(episodes: ReplayEpisodes, length: int) -> _Rows:
    places = [
        (episode, first)
        for episode, rows in enumerate(episodes.lengths.tolist())
        for first in range(0, rows, length)
        if rows - first >= _MIN_STEPS
    ]
    return _Rows(places, episodes.frames.device, length)


def _segments(episodes: ReplayEpisodes, device: torch.device, episode: Tensor, position: Tensor) -> RewardEndSegments:
    """Segments, moved to the device of the model. (Whole test games may be long and lie on the CPU.)"""
    rows = episodes.lengths[episode][:, None]
    mask = position < rows
    index = torch.where(mask, episodes.starts[episode][:, None] + episodes.stride * position, 0)
    ends = episodes.terminations[index] & mask
    found = RewardEndSegments(
        frames=episodes.frames[index] * mask[:, :, None, None, None],
        actions=episodes.actions[index] * mask,
        rewards=episodes.rewards[index] * mask,
        ends=ends,
        mask=mask,
        final_frames=episodes.finals[episode],
        final_steps=ends,
    )
    return RewardEndSegments(**{name: tensor.to(device) for name, tensor in vars(found).items()})
