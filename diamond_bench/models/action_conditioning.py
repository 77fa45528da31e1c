"""How the actions enter the denoiser: `conditioning.actions`."""

import math

import torch
from torch import Tensor, nn

from diamond_bench.config import WITHHELD, ConditioningConfig, NetworkConfig
from diamond_bench.models.conditioning import ConditioningInputs
from diamond_bench.models.shape import action_rows, action_width
from diamond_bench.spaces import ActionSpec


class _ActionTable(nn.Embedding):
    """An embedding of each action; with action dropout its last row stands for an action that is withheld.

    Discrete: a row per action. Otherwise a linear map of the action's concatenated columns, divided by the square root of their number so
    that the variance at the start is 1: a row per value of a MultiDiscrete column, and a row per Box column, whose number is first mapped
    from its bounds to [-1, 1].
    """

    offsets: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec) -> None:
        super().__init__(action_rows(conditioning, actions.width), action_width(network, conditioning))
        self.actions = actions
        self.withheld_row = actions.width if conditioning.action_dropout > 0 else None
        if actions.trailing:
            first_rows = torch.tensor([0, *actions.sizes[:-1]]).cumsum(0)
            for name, values in {"offsets": first_rows, "low": torch.tensor(actions.low), "high": torch.tensor(actions.high)}.items():
                self.register_buffer(name, values, persistent=False)

    def forward(self, actions: Tensor) -> Tensor:
        """(b, L), or (b, L, k) of several columns, to (b, L, width).

        A table without the last row has none for a withheld action: it fails on WITHHELD, and gives NaN for NaN.
        """
        if not self.actions.trailing:
            if self.withheld_row is not None:
                actions = torch.where(actions == WITHHELD, self.withheld_row, actions)
            return super().forward(actions)
        missing = actions.isnan() if self.actions.kind == "Box" else actions == WITHHELD
        if self.withheld_row is not None:
            actions = torch.where(missing, 0, actions)
        embedded = self._of_columns(actions, missing) / math.sqrt(len(self.actions.sizes))
        return embedded if self.withheld_row is None else torch.where(missing.any(-1, keepdim=True), self.weight[-1], embedded)

    def _of_columns(self, actions: Tensor, missing: Tensor) -> Tensor:
        if self.actions.kind == "Box":
            scaled = (actions - self.low) / (self.high - self.low) * 2 - 1
            return scaled @ self.weight[: len(self.actions.sizes)]
        rows = actions + self.offsets
        if self.withheld_row is None:
            rows = torch.where(missing, WITHHELD, rows)  # no row of another column
        return super().forward(rows).sum(-2)


class EmbeddedActions(_ActionTable):
    """Embeddings side by side in the condition vector, which steers all adaptive group norms (paper section 3.1).

    The authors' fill it exactly; those of a width of their own are mapped to it. The table is the module itself, so that its weight
    keeps the name it has in every stored model.
    """

    num_planes = 0
    history_widths: tuple[int, ...] = ()

    def __init__(self, network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, image_channels: int) -> None:
        super().__init__(network, conditioning, actions)
        width = conditioning.num_frames * self.embedding_dim
        self.projection = nn.Linear(width, network.cond_channels) if conditioning.action_width else nn.Identity()

    def encode(self, past: Tensor, actions: Tensor) -> ConditioningInputs:
        """See `Conditioning`."""
        return ConditioningInputs(vector=self.projection(self(actions).flatten(1)))


class ActionPlanes(_ActionTable):
    """Embeddings as planes of the input, each constant over the picture."""

    history_widths: tuple[int, ...] = ()

    def __init__(self, network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, image_channels: int) -> None:
        super().__init__(network, conditioning, actions)
        self.num_planes = conditioning.num_frames * self.embedding_dim

    def encode(self, past: Tensor, actions: Tensor) -> ConditioningInputs:
        """See `Conditioning`."""
        return ConditioningInputs(planes=self(actions).flatten(1)[:, :, None, None].expand(-1, -1, *past.shape[-2:]))


class NoActions(nn.Module):
    """Nothing is told of the actions: how far a model gets that only sees frames."""

    num_planes = 0
    history_widths: tuple[int, ...] = ()

    def __init__(self, network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, image_channels: int) -> None:
        super().__init__()

    def encode(self, past: Tensor, actions: Tensor) -> ConditioningInputs:
        """See `Conditioning`."""
        return ConditioningInputs()
