"""A table of embeddings of a game's actions, of any kind."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diamond_bench.config import WITHHELD
from diamond_bench.spaces import ActionSpec


class ActionTable(nn.Embedding):
    """An embedding of each action. If actions may be withheld, its last row stands for a withheld one.

    Discrete actions have one row per action. For other action spaces, the embedding is a linear map of the action's concatenated columns,
    divided by the square root of their number, so that its initial variance is 1. A MultiDiscrete column has one row per value. A Box
    column has one row, and its number is first mapped from its bounds to [-1, 1].
    """

    offsets: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, actions: ActionSpec, width: int, withheld: bool = False, rows: Sequence[int] = ()) -> None:
        """`withheld`: whether an action may be withheld. `rows`: of each column. () is one per value."""
        rows = rows or [size or 1 for size in actions.sizes]
        super().__init__(sum(rows) + withheld, width)
        self.actions, self.divisor = actions, math.sqrt(len(actions.sizes))
        self.withheld_row = sum(rows) if withheld else None
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
