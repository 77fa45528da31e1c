"""The ways in which actions enter the denoiser: `conditioning.actions`."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diamond_bench.config import WITHHELD, ConditioningConfig, NetworkConfig
from diamond_bench.models.conditioning import ConditioningInputs
from diamond_bench.models.shape import action_rows, action_width, active_bits
from diamond_bench.spaces import ActionSpec


class _ActionTable(nn.Embedding):
    """An embedding of each action. With action dropout, its last row stands for a withheld action.

    Discrete actions have one row per action. For other action spaces, the embedding is a linear map of the action's concatenated columns,
    divided by the square root of their number, so that its initial variance is 1. A MultiDiscrete column has one row per value. A Box
    column has one row, and its number is first mapped from its bounds to [-1, 1].
    """

    offsets: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, rows: Sequence[int] = ()) -> None:
        """`rows`: of each column. () is one per value."""
        rows = rows or [size or 1 for size in actions.sizes]
        super().__init__(action_rows(conditioning, sum(rows)), action_width(network, conditioning))
        self.actions, self.divisor = actions, math.sqrt(len(actions.sizes))
        self.withheld_row = sum(rows) if conditioning.action_dropout > 0 else None
        if actions.trailing:
            first_rows = torch.tensor([0, *rows[:-1]]).cumsum(0)
            for name, values in {"offsets": first_rows, "low": torch.tensor(actions.low), "high": torch.tensor(actions.high)}.items():
                self.register_buffer(name, values, persistent=False)

    def forward(self, actions: Tensor) -> Tensor:
        """(b, L), or (b, L, k) for several columns, to (b, L, width).

        A table without the last row cannot embed a withheld action: it raises an error for WITHHELD, and returns NaN for NaN.
        """
        if not self.actions.trailing:
            if self.withheld_row is not None:
                actions = torch.where(actions == WITHHELD, self.withheld_row, actions)
            return super().forward(actions)
        missing = actions.isnan() if self.actions.kind == "Box" else actions == WITHHELD
        if self.withheld_row is not None:
            actions = torch.where(missing, 0, actions)
        embedded = self._of_columns(actions, missing) / self.divisor
        return embedded if self.withheld_row is None else torch.where(missing.any(-1, keepdim=True), self.weight[-1], embedded)

    def _of_columns(self, actions: Tensor, missing: Tensor) -> Tensor:
        if self.actions.kind == "Box":
            scaled = (actions - self.low) / (self.high - self.low) * 2 - 1
            return scaled @ self.weight[: len(self.actions.sizes)]
        rows = actions + self.offsets
        if self.withheld_row is None:
            rows = torch.where(missing, WITHHELD, rows)  # must not index a row of another column
        return super().forward(rows).sum(-2)


class EmbeddedActions(_ActionTable):
    """Embeddings concatenated in the condition vector, which controls all adaptive group norms (paper section 3.1).

    The authors' embeddings fill the vector exactly. Embeddings with their own width are projected to it. The module itself is the table, so
    that its weight keeps its name in all stored models.
    """

    num_planes = 0
    history_widths: tuple[int, ...] = ()

    def __init__(
        self,
        network: NetworkConfig,
        conditioning: ConditioningConfig,
        actions: ActionSpec,
        image_channels: int,
        rows: Sequence[int] = (),
    ) -> None:
        super().__init__(network, conditioning, actions, rows)
        width = conditioning.num_frames * self.embedding_dim
        self.projection = nn.Linear(width, network.cond_channels) if conditioning.action_width else nn.Identity()

    def encode(self, past: Tensor, actions: Tensor) -> ConditioningInputs:
        """See `Conditioning`."""
        return ConditioningInputs(vector=self.projection(self(actions).flatten(1)))


class ActiveBits(EmbeddedActions):
    """Embedded actions of the authors' CS:GO model: the sum of the embeddings of all active bits, not scaled.

    A MultiDiscrete column of two values is a key with one embedding, which is added if the key is pressed. A column of more values is a
    choice with one embedding per value. Discrete actions are embedded as in `EmbeddedActions`. The number of a Box column, mapped to [-1,
    1], multiplies the column's embedding.
    """

    is_key: Tensor

    def __init__(self, network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, image_channels: int) -> None:
        super().__init__(network, conditioning, actions, image_channels, active_bits(actions))
        self.divisor = 1.0
        self.register_buffer("is_key", torch.tensor([size == 2 for size in actions.sizes]), persistent=False)

    def _of_columns(self, actions: Tensor, missing: Tensor) -> Tensor:
        if self.actions.kind == "Box":
            return super()._of_columns(actions, missing)
        rows = torch.where(self.is_key, self.offsets, actions + self.offsets)
        if self.withheld_row is None:
            rows = torch.where(missing, WITHHELD, rows)
        active = torch.where(self.is_key, actions, 1)
        return (nn.Embedding.forward(self, rows) * active[..., None]).sum(-2)


class ActionPlanes(_ActionTable):
    """Embeddings as planes of the input, each constant over the frame."""

    history_widths: tuple[int, ...] = ()

    def __init__(self, network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, image_channels: int) -> None:
        super().__init__(network, conditioning, actions)
        self.num_planes = conditioning.num_frames * self.embedding_dim

    def encode(self, past: Tensor, actions: Tensor) -> ConditioningInputs:
        """See `Conditioning`."""
        return ConditioningInputs(planes=self(actions).flatten(1)[:, :, None, None].expand(-1, -1, *past.shape[-2:]))


class NoActions(nn.Module):
    """Withholds all actions, to show how far a model gets with frames alone."""

    num_planes = 0
    history_widths: tuple[int, ...] = ()

    def __init__(self, network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, image_channels: int) -> None:
        super().__init__()

    def encode(self, past: Tensor, actions: Tensor) -> ConditioningInputs:
        """See `Conditioning`."""
        return ConditioningInputs()
