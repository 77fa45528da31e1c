"""The ways in which actions enter the denoiser: `conditioning.actions`."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diamond_bench.config import WITHHELD, ConditioningConfig, NetworkConfig
from diamond_bench.models.action_table import ActionTable
from diamond_bench.models.conditioning import ConditioningInputs
from diamond_bench.models.shape import action_width, active_bits
from diamond_bench.spaces import ActionSpec


class EmbeddedActions(ActionTable):
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
        super().__init__(actions, action_width(network, conditioning), conditioning.action_dropout > 0, rows)
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


class ActionPlanes(ActionTable):
    """Embeddings as planes of the input, each constant over the frame."""

    history_widths: tuple[int, ...] = ()

    def __init__(self, network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, image_channels: int) -> None:
        super().__init__(actions, action_width(network, conditioning), conditioning.action_dropout > 0)
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
