"""IRIS's tokenizer (Micheli et al. 2023, appendix A): a VQ autoencoder that turns a frame into a grid of codes and back.

Frames are in [-1, 1], (n, 3, h, w). Tokens are int64, (n, K), in the order of rows of the grid.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diamond_bench.models.shape import IMAGE_CHANNELS
from diamond_bench.models.vq_tokenizer_cost import NORM_EPS, TokenizerConfig, level_heights, norm_groups, padded
from diamond_bench.spaces import FrameSpec

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""perceptual(a, b) -> distances (n,) of images in [-1, 1], with a gradient for both."""


class Encoded(NamedTuple):
    """Frames as codes."""

    latents: Tensor
    """(n, K, code_width), before quantisation."""
    tokens: Tensor
    """(n, K) int64, the nearest codes."""


class VqTokenizer(nn.Module):
    """Encoder, code book and decoder."""

    def __init__(self, config: TokenizerConfig, frames: FrameSpec) -> None:
        super().__init__()
        heights, self._reconstruction = level_heights(config, frames), config.reconstruction
        whole = padded(config, frames)
        self.frames, self._padding = frames, (0, whole.width - frames.width, 0, whole.height - frames.height)
        self.grid = heights[-1], whole.width >> (config.levels - 1)
        c, z = config.channels, config.latent_channels
        attended = [height in config.attention for height in heights]

        def level(depth: int, attention: bool) -> Iterator[nn.Module]:
            for _ in range(depth):
                yield _Residual(c)
                if attention:
                    yield _Attention(c)

        def middle() -> list[nn.Module]:
            return [_Residual(c), _Attention(c), _Residual(c)]

        down: list[nn.Module] = [nn.Conv2d(IMAGE_CHANNELS, c, 3, padding=1)]
        for number, attention in enumerate(attended):
            down += level(config.depth, attention)
            if number < config.levels - 1:
                down.append(_Downsample(c))
        self.encoder = nn.Sequential(*down, *middle(), _norm(c), nn.SiLU(), nn.Conv2d(c, z, 3, padding=1))
        self.before = nn.Conv2d(z, config.code_width, 1)
        self.codes = nn.Embedding(config.codes, config.code_width)
        nn.init.uniform_(self.codes.weight, -1 / config.codes, 1 / config.codes)
        self.after = nn.Conv2d(config.code_width, z, 1)
        up: list[nn.Module] = [nn.Conv2d(z, c, 3, padding=1), *middle()]
        for number in reversed(range(config.levels)):
            up += level(config.depth + 1, attended[number])
            if number > 0:
                up += [nn.Upsample(scale_factor=2.0, mode="nearest"), nn.Conv2d(c, c, 3, padding=1)]
        self.decoder = nn.Sequential(*up, _norm(c), nn.SiLU(), nn.Conv2d(c, IMAGE_CHANNELS, 3, padding=1))

    def encode(self, frames: Tensor) -> Encoded:
        """The latents of frames, and the code nearest to each by squared distance. Frames whose sides are no multiples of a token's
        pixels are padded to the right and below with their last pixels."""
        if any(self._padding):
            frames = F.pad(frames, self._padding, mode="replicate")
        latents = self.before(self.encoder(frames)).flatten(2).transpose(1, 2)
        book = self.codes.weight
        flat = latents.reshape(-1, book.shape[1])
        distances = torch.addmm(flat.square().sum(1, keepdim=True) + book.square().sum(1), flat, book.T, alpha=-2)
        return Encoded(latents, distances.argmin(1).reshape(latents.shape[:2]))

    def decode(self, tokens: Tensor) -> Tensor:
        """Frames of tokens, not clamped."""
        return self._decode(self.codes(tokens))

    def _decode(self, quantized: Tensor) -> Tensor:
        shown: Tensor = self.decoder(self.after(quantized.transpose(1, 2).unflatten(2, self.grid)))
        return shown[:, :, : self.frames.height, : self.frames.width]

    def loss(self, frames: Tensor, perceptual: Perceptual | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the terms, and the terms: the mean absolute or squared error, the distances of codes to latents and of latents to
        codes, and the perceptual distance if there is one, all with weight 1. The gradient passes the quantisation straight through. The
        usage of the codes in this batch follows the terms."""
        latents, tokens = self.encode(frames)
        quantized = self.codes(tokens)
        codebook = F.mse_loss(quantized, latents.detach())
        commitment = F.mse_loss(latents, quantized.detach())
        shown = self._decode(latents + (quantized - latents).detach())
        error = F.l1_loss if self._reconstruction == "absolute" else F.mse_loss
        terms = {"reconstruction": error(shown, frames), "codebook": codebook, "commitment": commitment}
        if perceptual is not None:
            terms["perceptual"] = perceptual(shown, frames).mean()
        usage = code_usage(code_counts(tokens, len(self.codes.weight)).sum(0))
        return torch.stack(list(terms.values())).sum(), {**{name: term.detach() for name, term in terms.items()}, **usage}


def code_counts(tokens: Tensor, codes: int) -> Tensor:
    """How often each code occurs in each row of tokens (n, K): (n, codes) int64."""
    return tokens.new_zeros(len(tokens), codes).scatter_add_(1, tokens, torch.ones_like(tokens))


def code_usage(counts: Tensor) -> dict[str, Tensor]:
    """`code_perplexity`, exp of the entropy of the codes, and `codes_used`, the share of those that occur, of counts (codes,)."""
    shares = counts.double() / counts.sum()
    return {"code_perplexity": torch.special.entr(shares).sum().exp().float(), "codes_used": (counts > 0).float().mean()}


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(norm_groups(channels), channels, eps=NORM_EPS)


class _Residual(nn.Module):
    """Twice norm, SiLU and 3x3 convolution, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(_norm(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)),
            *(_norm(channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y


class _Attention(nn.Module):
    """Self-attention over pixels with one head, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)[:, None].chunk(3, dim=3)
        y = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).unflatten(2, x.shape[2:])
        added: Tensor = self.out(y)
        return x + added


class _Downsample(nn.Module):
    """A 3x3 convolution of stride 2. One pixel of zeros lies to the right and below."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out
