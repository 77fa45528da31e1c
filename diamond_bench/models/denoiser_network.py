"""The trainable part of the denoiser: a U-Net conditioned on the noise level, the past frames and the actions."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diamond_bench.config import ACTION_CONDITIONINGS, FRAME_CONDITIONINGS, ConditioningConfig, NetworkConfig, imported
from diamond_bench.models.blocks import group_norm
from diamond_bench.models.conditioning import Conditioning, ConditioningInputs
from diamond_bench.models.denoiser_cost import joined
from diamond_bench.models.shape import IMAGE_CHANNELS, check_network
from diamond_bench.models.unet import UNet
from diamond_bench.spaces import ActionSpec


class FourierFeatures(nn.Module):
    """Cosine then sine of 2 pi c w, for a fixed random w ~ N(0, 1) that is saved with the weights but not trained."""

    frequencies: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(1, channels // 2))

    def forward(self, c: Tensor) -> Tensor:
        """(b,) to (b, channels)."""
        angle = 2 * math.pi * c[:, None] * self.frequencies
        return torch.cat((angle.cos(), angle.sin()), dim=1)


class FrameNoiseFeatures(nn.Module):
    """The amount of noise added to the past frames of each example, (b,) from 0 to `most`, as a vector (b, channels) that starts at zero.

    The features encode the level itself and not its logarithm. Training draws levels uniformly, so that the level 0 used in sampling has
    close neighbours among them. On a logarithmic scale it would have none.
    """

    def __init__(self, channels: int, most: float) -> None:
        super().__init__()
        self.most = most
        self.features = FourierFeatures(channels)
        self.projection = nn.Linear(channels, channels)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, level: Tensor) -> Tensor:
        out: Tensor = self.projection(self.features(level / self.most))
        return out


class DenoiserNetwork(nn.Module):
    """F in the paper's equation 4. Its output is a plain regression target of the objective.

    The two modules that the conditioning names (`Conditioning`) decide which inputs encode the past, and where they enter. Raises UserError
    if the parts do not fit together (`check_network`).
    """

    def __init__(
        self, network: NetworkConfig, conditioning: ConditioningConfig, actions: ActionSpec | int, image_channels: int = IMAGE_CHANNELS
    ) -> None:
        """`actions`: a number n stands for Discrete(n)."""
        super().__init__()
        check_network(network, conditioning)
        width, cond_channels = network.channels[0], network.cond_channels
        given = (network, conditioning, ActionSpec.discrete(actions) if isinstance(actions, int) else actions, image_channels)
        # The order in which parts are built is the order of their random numbers. Changing it changes what a seed trains.
        self.noise_features = FourierFeatures(cond_channels)
        # stored models use this name for every conditioning
        self.action_embedding = imported(ACTION_CONDITIONINGS[conditioning.actions].module)(*given)
        self.frame_conditioning = imported(FRAME_CONDITIONINGS[conditioning.frames].module)(*given)
        ways: tuple[Conditioning, ...] = (self.frame_conditioning, self.action_embedding)
        self.condition = nn.Sequential(nn.Linear(cond_channels, cond_channels), nn.SiLU(), nn.Linear(cond_channels, cond_channels))
        self.conv_in = nn.Conv2d(sum(way.num_planes for way in ways) + image_channels, width, 3, padding=1)
        self.unet = UNet(network, joined(conditioning, [way.history_widths for way in ways]))
        self.norm_out = group_norm(width)
        self.conv_out = nn.Conv2d(width, image_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        self.frame_noise = FrameNoiseFeatures(cond_channels, conditioning.frame_noise) if conditioning.frame_noise > 0 else None
        self.past_noise_features = FourierFeatures(cond_channels) if conditioning.past_noise != "none" else None
        self.has_heads = network.heads.on_trunk

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        past: Tensor,
        actions: Tensor,
        frame_noise: Tensor | None = None,
        encoded: ConditioningInputs | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """One forward pass.

        Args:
            x: the noisy frame as the objective scales it, (b, 3, h, w).
            c_noise: the noise level as the objective encodes it, (b,).
            past: past frames as the objective scales them, stacked on channels, oldest first, (b, L * 3, h, w).
            actions: taken after each past frame, (b, L) or (b, L, k). Withheld ones need a conditioning with action dropout.
            frame_noise: standard deviation of the noise in the past frames, (b,). With conditioning.frame_noise it goes from 0 to that
                value, and None is 0. With conditioning.past_noise the network receives log(frame_noise) / 4, and 0 for None.
            encoded: what `frame_conditioning` encodes from `past` and `actions`. None encodes them here.

        Returns:
            (b, 3, h, w), with the dtype of autocast if it is enabled. For heads on it, also the deepest features of the U-Net.
        """
        # frames first: their planes come before those of actions
        frames = self.frame_conditioning.encode(past, actions) if encoded is None else encoded
        inputs: list[ConditioningInputs] = [frames, self.action_embedding.encode(past, actions)]
        planes = [part.planes for part in inputs if part.planes is not None]
        histories = [part.history for part in inputs if part.history]
        history = [next((tokens for tokens in level if tokens is not None), None) for level in zip(*histories, strict=True)]
        cond = self.noise_features(c_noise)
        for part in inputs:
            if part.vector is not None:
                cond = cond + part.vector
        if self.frame_noise is not None:
            cond = cond + self.frame_noise(torch.zeros_like(c_noise) if frame_noise is None else frame_noise)
        elif self.past_noise_features is not None:
            cond = cond + self.past_noise_features(torch.zeros_like(c_noise) if frame_noise is None else frame_noise.log() / 4)
        elif frame_noise is not None:
            raise ValueError("noise in the past frames, but this network has no input for its level (conditioning.frame_noise=0)")
        given = self.conv_in(torch.cat((*planes, x), dim=1)), self.condition(cond), history
        if not self.has_heads:
            return self._output(self.unet(*given))
        y, deepest = self.unet.with_deepest(*given)
        return self._output(y), deepest

    def _output(self, y: Tensor) -> Tensor:
        out: Tensor = self.conv_out(F.silu(self.norm_out(y)))
        return out
