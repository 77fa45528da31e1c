"""IRIS's transformer (Micheli et al. 2023, section 2.2): it predicts the tokens of the next frame one after the other, rewards and ends.

A frame is K tokens. A block is these tokens and then the action taken after the frame. A memory of b rows is the keys and values of all
layers, (b, layers, 2, heads, positions, width / heads), preallocated.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diamond_bench.models.action_table import ActionTable
from diamond_bench.models.shape import NUM_ENDS, NUM_REWARDS
from diamond_bench.models.token_transformer_cost import EXPANSION, TransformerShape

_IGNORED = -100
"""The label of a position without a label."""
Drop = Callable[[Tensor], Tensor]
"""Sets a share of the values to 0 and scales the others, in training."""


def dropout(share: float, generator: torch.Generator) -> Drop:
    """Dropout whose random numbers come from a generator, so that a training resumes bit for bit."""

    def drop(x: Tensor) -> Tensor:
        kept = torch.rand(x.shape, generator=generator, device=x.device) >= share
        return x * kept / (1 - share)

    return drop if share > 0 else lambda x: x


class Predictions(NamedTuple):
    """Logits for a segment of b rows and t frames."""

    tokens: Tensor
    """(b, t * K, codes). Number i, in the order of time, predicts token i + 1 of the segment."""
    rewards: Tensor
    """(b, t, 3), for the action after each frame."""
    ends: Tensor
    """(b, t, 2), for the action after each frame."""


class TokenTransformer(nn.Module):
    """Pre-norm blocks over tokens and actions, with learned positions and three heads."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        config, self.shape = shape.config, shape
        width = config.width
        self.tokens = nn.Embedding(shape.codes, width)
        self.actions = ActionTable(shape.actions, width)
        self.positions = nn.Embedding(shape.positions, width)
        self.blocks = nn.ModuleList(_Block(width, config.heads) for _ in range(config.layers))
        self.last_norm = nn.LayerNorm(width)
        self.token_head = _head(width, shape.codes)
        self.reward_head = _head(width, NUM_REWARDS)
        self.end_head = _head(width, NUM_ENDS)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def sequence(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """The vectors of t blocks, without positions, (b, t * (K + 1), width), of tokens (b, t, K) and actions (b, t, ...)."""
        return torch.cat((self.tokens(tokens), self.actions(actions)[:, :, None]), dim=2).flatten(1, 2)

    def forward(self, tokens: Tensor, actions: Tensor, drop: Drop = lambda x: x) -> Predictions:
        """All predictions for tokens (b, t, K) and actions (b, t, ...). Each depends on earlier positions only."""
        sequence = self.sequence(tokens, actions)
        x = drop(sequence + self.positions.weight[: sequence.shape[1]])
        for block in self.blocks:
            x = block(x, drop)
        x = self.last_norm(x).unflatten(1, (-1, self.shape.block))
        # the last token of a frame predicts nothing: the next frame depends on the action that follows it
        reads = torch.cat((x[:, :, : self.shape.tokens - 1], x[:, :, -1:]), dim=2).flatten(1, 2)
        return Predictions(self.token_head(reads), self.reward_head(x[:, :, -1]), self.end_head(x[:, :, -1]))

    def loss(
        self, tokens: Tensor, actions: Tensor, mask: Tensor, acted: Tensor, rewards: Tensor, ends: Tensor, *, drop: Drop = lambda x: x
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of three mean cross-entropies, and these, of segments that are padded at their end.

        Args:
            tokens: (b, t, K).
            actions: action i was taken after frame i, (b, t, ...).
            mask: false where padded, (b, t).
            acted: whether an action was taken after each frame, (b, t). Others have no reward and no end.
            rewards: after each action, raw, (b, t). Their signs are the classes.
            ends: after each action, (b, t).
            drop: see `dropout`.
        """
        found = self(tokens, actions, drop)
        shown = tokens.masked_fill(~mask[:, :, None], _IGNORED).flatten(1)
        signs, over = ((values.masked_fill(~acted, _IGNORED)) for values in (rewards.sign().long() + 1, ends.long()))
        terms = {
            "tokens": _cross_entropy(found.tokens[:, :-1], shown[:, 1:]),
            "rewards": _cross_entropy(found.rewards, signs),
            "ends": _cross_entropy(found.ends, over),
        }
        return torch.stack(list(terms.values())).sum(), {name: term.detach() for name, term in terms.items()}

    def memory(self, rows: int, like: Tensor) -> Tensor:
        """An empty memory of `rows` rows, with the type and device of `like`."""
        config = self.shape.config
        sides = config.layers, 2, config.heads, self.shape.positions, config.width // config.heads
        return like.new_zeros((rows, *sides))

    def extend(self, vectors: Tensor, memory: Tensor, position: Tensor) -> Tensor:
        """Writes n further positions into the memory, in place, and returns their last layer, (b, n, width).

        Args:
            vectors: of tokens or actions, (b, n, width).
            memory: of b rows.
            position: number of positions of each row that the memory holds, (b,) int64.
        """
        places = position[:, None] + torch.arange(vectors.shape[1], device=position.device)
        seen = places[:, :, None] >= torch.arange(self.shape.positions, device=position.device)
        x = vectors + self.positions(places)
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            x = block.extend(x, memory[:, layer], places, seen[:, None])
        normed: Tensor = self.last_norm(x)
        return normed


class _Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, EXPANSION * width), nn.GELU(), nn.Linear(EXPANSION * width, width))

    def forward(self, x: Tensor, drop: Drop) -> Tensor:
        q, k, v = self._split(x)
        weights = (q @ k.transpose(2, 3)) * q.shape[3] ** -0.5
        later = torch.ones(weights.shape[2:], dtype=torch.bool, device=x.device).triu(1)
        y = drop(weights.masked_fill(later, -torch.inf).softmax(3)) @ v
        return self._add(x, y, drop)

    def extend(self, x: Tensor, memory: Tensor, places: Tensor, seen: Tensor) -> Tensor:
        """x (b, n, width) at `places` (b, n), of which each attends to what it has `seen` (b, 1, n, positions)."""
        q, k, v = self._split(x)
        index = places[:, None, :, None].expand_as(k)
        memory[:, 0].scatter_(2, index, k)
        memory[:, 1].scatter_(2, index, v)
        y = F.scaled_dot_product_attention(q, memory[:, 0], memory[:, 1], attn_mask=seen)
        return self._add(x, y, lambda x: x)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (b, heads, n, width / heads)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        return q, k, v

    def _add(self, x: Tensor, y: Tensor, drop: Drop) -> Tensor:
        x = x + drop(self.out(y.transpose(1, 2).flatten(2)))
        return x + drop(self.mlp(self.norm2(x)))


def _head(width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over all labels, or 0 if there are none, as in a batch of short episodes."""
    summed = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=_IGNORED, reduction="sum")
    return summed / (labels != _IGNORED).sum().clamp(min=1)
