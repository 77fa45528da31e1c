"""How the actions enter the denoiser: `conditioning.actions`."""

import torch
from torch import Tensor, nn

from diamond_bench.config import WITHHELD, ConditioningConfig, NetworkConfig
from diamond_bench.models.conditioning import Told
from diamond_bench.models.shape import action_rows, action_width


class _ActionTable(nn.Embedding):
    """An embedding of each action; with action dropout its last row stands for an action that is withheld."""

    def __init__(self, network: NetworkConfig, conditioning: ConditioningConfig, num_actions: int) -> None:
        super().__init__(action_rows(conditioning, num_actions), action_width(network, conditioning))
        self.withheld_row = num_actions if conditioning.action_dropout > 0 else None

    def forward(self, actions: Tensor) -> Tensor:
        """(b, L) to (b, L, width). A table without that row has none for WITHHELD and fails on it."""
        if self.withheld_row is not None:
            actions = torch.where(actions == WITHHELD, self.withheld_row, actions)
        return super().forward(actions)


class EmbeddedActions(_ActionTable):
    """Embeddings side by side in the condition vector, which steers all adaptive group norms (paper section 3.1).

    The authors' fill it exactly; those of a width of their own are mapped to it. The table is the module itself, so that its weight
    keeps the name it has in every stored model.
    """

    num_planes = 0
    history_widths: tuple[int, ...] = ()

    def __init__(self, network: NetworkConfig, conditioning: ConditioningConfig, num_actions: int, image_channels: int) -> None:
        super().__init__(network, conditioning, num_actions)
        width = conditioning.num_frames * self.embedding_dim
        self.projection = nn.Linear(width, network.cond_channels) if conditioning.action_width else nn.Identity()

    def tell(self, past: Tensor, actions: Tensor) -> Told:
        """See `Conditioning`."""
        return Told(vector=self.projection(self(actions).flatten(1)))


class ActionPlanes(_ActionTable):
    """Embeddings as planes of the input, each constant over the picture."""

    history_widths: tuple[int, ...] = ()

    def __init__(self, network: NetworkConfig, conditioning: ConditioningConfig, num_actions: int, image_channels: int) -> None:
        super().__init__(network, conditioning, num_actions)
        self.num_planes = conditioning.num_frames * self.embedding_dim

    def tell(self, past: Tensor, actions: Tensor) -> Told:
        """See `Conditioning`."""
        return Told(planes=self(actions).flatten(1)[:, :, None, None].expand(-1, -1, *past.shape[-2:]))


class NoActions(nn.Module):
    """Nothing is told of the actions: how far a model gets that only sees frames."""

    num_planes = 0
    history_widths: tuple[int, ...] = ()

    def __init__(self, network: NetworkConfig, conditioning: ConditioningConfig, num_actions: int, image_channels: int) -> None:
        super().__init__()

    def tell(self, past: Tensor, actions: Tensor) -> Told:
        """See `Conditioning`."""
        return Told()
