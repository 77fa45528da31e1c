"""The ways in which past frames enter the denoiser: `conditioning.frames`."""

import torch
from torch import Tensor, nn

from diamond_bench.config import ConditioningConfig, NetworkConfig
from diamond_bench.models.blocks import Downsample, group_norm, pixel_positions
from diamond_bench.models.conditioning import ConditioningInputs
from diamond_bench.models.shape import down_blocks, history_network, history_widths
from diamond_bench.models.unet import DownLevel, pad_to_levels, residual_blocks
from diamond_bench.spaces import ActionSpec


class StackedFrames(nn.Module):
    """Past frames on channels, before the noisy frame (paper section 3.1)."""

    history_widths: tuple[int, ...] = ()

    def __init__(self, network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, image_channels: int) -> None:
        super().__init__()
        self.num_planes = conditioning.num_frames * image_channels

    def encode(self, past: Tensor, actions: Tensor) -> ConditioningInputs:
        """See `Conditioning`."""
        return ConditioningInputs(planes=past)


class AttendedFrames(nn.Module):
    """A light encoder, like the downward half of the U-Net. The U-Net attends to its activations at its own levels (paper appendix M).

    The L past frames share its parameters. Each frame's relative time step is the condition of its adaptive group norms. The encoder ends
    at the deepest attended level. It runs at every denoiser call, or once per sampled frame (`EncodedOnce`). The tokens of a level are the
    pixels of all frames' normalised activations, concatenated with their positions, since attention has no notion of position.
    """

    num_planes = 0

    def __init__(self, network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, image_channels: int) -> None:
        super().__init__()
        self.network = network
        self.history_widths = history_widths(network, conditioning)
        light = history_network(network, conditioning)
        self.time_embedding = nn.Embedding(conditioning.num_frames, network.cond_channels)
        self.conv_in = nn.Conv2d(image_channels, light.channels[0], 3, padding=1)
        self.down = nn.ModuleList(
            DownLevel(
                Downsample(light.channels[level - 1]) if level else nn.Identity(),
                residual_blocks(down_blocks(light, level), light.cond_channels),
            )
            for level in range(len(light.channels))
        )
        self.norms = nn.ModuleList(
            group_norm(width) if attended else nn.Identity() for width, attended in zip(light.channels, self.history_widths, strict=False)
        )

    def encode(self, past: Tensor, actions: Tensor) -> ConditioningInputs:
        """See `Conditioning`."""
        b, num_frames = len(past), self.time_embedding.num_embeddings
        cond = self.time_embedding.weight.repeat(b, 1)  # (b * L, cond_channels), the frames of an example next to each other
        x = pad_to_levels(self.conv_in(past.unflatten(1, (num_frames, -1)).flatten(0, 1)), self.network)
        history: list[Tensor | None] = [None] * len(self.history_widths)
        for level, (down, norm) in enumerate(zip(self.down, self.norms, strict=True)):
            x = down(x, cond)[-1]
            if self.history_widths[level]:
                history[level] = _tokens(norm(x)).unflatten(0, (b, num_frames)).flatten(1, 2)
        return ConditioningInputs(history=history)


class StackedAndAttendedFrames(AttendedFrames):
    """Both: past frames on channels, and attention to their encoder's activations."""

    def __init__(self, network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec, image_channels: int) -> None:
        super().__init__(network, conditioning, actions, image_channels)
        self.num_planes = conditioning.num_frames * image_channels

    def encode(self, past: Tensor, actions: Tensor) -> ConditioningInputs:
        """See `Conditioning`."""
        return super().encode(past, actions)._replace(planes=past)


def _tokens(x: Tensor) -> Tensor:
    """(n, c, h, w) to (n, h * w, c + POSITION_CHANNELS)."""
    n, _, h, w = x.shape
    return torch.cat((x, pixel_positions(h, w, x).expand(n, -1, -1, -1)), dim=1).flatten(2).transpose(1, 2)
