"""A causal diffusion transformer over frames: patches as tokens, attention within a frame and to earlier frames, and a noise level of its
own for each frame (diffusion forcing, Chen et al. 2024; blocks as in DiT, Peebles and Xie 2023).

A memory of b rows holds the keys and values of the last L - 1 frames in all layers, (b, layers, 2, L - 1, tokens, width). It is a ring:
frame i lies at place i mod (L - 1).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diamond_bench.models.action_table import ActionTable
from diamond_bench.models.conditioning import withheld
from diamond_bench.models.denoiser_network import FourierFeatures
from diamond_bench.models.frame_transformer_cost import EXPANSION, MODULATED, FrameTransformerConfig, FrameTransformerShape


class FrameTransformer(nn.Module):
    """F in the paper's equation 4, for all frames of a segment at once or for the next one."""

    def __init__(self, shape: FrameTransformerShape) -> None:
        super().__init__()
        config, self.shape = shape.config, shape
        width = config.width
        self.patches = nn.Linear(shape.patch_values, width)
        self.places = nn.Parameter(torch.randn(shape.grid[0] * shape.grid[1], width) * 0.02)
        self.level_features = FourierFeatures(width)
        self.level = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.actions = ActionTable(shape.actions, width, withheld=True)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.last_modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, shape.patch_values)
        for layer in (self.last_modulation, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, c_noise: Tensor, actions: Tensor) -> Tensor:
        """The outputs for a segment. Frame t depends on frames t - L + 1 to t, and on their levels and actions.

        Args:
            x: noisy frames as the objective scales them, (b, t, 3, h, w), t at most L.
            c_noise: the noise level of each frame as the objective encodes it, (b, t).
            actions: the action that led to each frame, withheld for a game's first frame, (b, t, ...).

        Returns:
            (b, t, 3, h, w).
        """
        tokens, level, acted = self._embedded(x, c_noise, actions)
        for block in self.blocks:
            tokens = block(tokens, level, acted)
        return self._frames(tokens, level)

    def next_frame(self, x: Tensor, c_noise: Tensor, action: Tensor, memory: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """The output for the frame after the memory's, (b, 3, h, w), and the frame's own keys and values, (b, layers, 2, tokens, width).

        Args:
            x: (b, 3, h, w).
            c_noise: (b,).
            action: the action that led to the frame, (b, ...).
            memory: of b rows.
            position: number of frames before this one, (b,) int64. 0 means an empty memory.
        """
        tokens, level, acted = self._embedded(x[:, None], c_noise[:, None], action[:, None])
        size = self.shape.config.num_frames - 1
        lag = (position[:, None] - 1 - torch.arange(size, device=x.device)) % size + 1
        kept = []
        for number, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            tokens, own = block.next_frame(tokens, level, acted, memory[:, number], lag, lag <= position[:, None])
            kept.append(own)
        return self._frames(tokens, level)[:, 0], torch.stack(kept, dim=1)

    def memory(self, rows: int, like: Tensor) -> Tensor:
        """An empty memory of `rows` rows, with the type and device of `like`."""
        config = self.shape.config
        return like.new_zeros((rows, config.layers, 2, config.num_frames - 1, self.shape.tokens, config.width))

    @staticmethod
    def remembered(memory: Tensor, own: Tensor, position: Tensor) -> Tensor:
        """The memory with the keys and values of the frame at `position`. The given memory is not changed."""
        place = (position % memory.shape[3])[:, None, None, None, None, None].expand(-1, *own.shape[1:3], 1, *own.shape[3:])
        written: Tensor = memory.scatter(3, place, own[:, :, :, None])
        return written

    def _embedded(self, x: Tensor, c_noise: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (b, t, tokens, width), and the vectors of level and action, (b, t, width)."""
        b, t = x.shape[:2]
        (rows, columns), side = self.shape.grid, self.shape.config.patch
        patches = x.reshape(b, t, -1, rows, side, columns, side).permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)
        tokens = self.patches(patches) + self.places
        level = self.level(self.level_features(c_noise.flatten())).unflatten(0, (b, t))
        acted = self.actions(actions)
        match self.shape.config.actions:
            case "adaln":
                level = level + acted
            case "additive":
                tokens = tokens + acted[:, :, None]
            case "token":
                tokens = torch.cat((tokens, acted[:, :, None]), dim=2)
            case _:
                pass
        return tokens, F.silu(level), acted

    def _frames(self, tokens: Tensor, level: Tensor) -> Tensor:
        shift, scale = self.last_modulation(level)[:, :, None].chunk(2, dim=3)
        (rows, columns), side = self.shape.grid, self.shape.config.patch
        patches = self.out(_norm(tokens[:, :, : rows * columns]) * (1 + scale) + shift)
        b, t = tokens.shape[:2]
        grid = patches.reshape(b, t, rows, columns, -1, side, side).permute(0, 1, 4, 2, 5, 3, 6)
        frames: Tensor = grid.reshape(b, t, -1, rows * side, columns * side)
        return frames


class _Block(nn.Module):
    """Attention within a frame, attention of each token to the tokens at its place in earlier frames, and an MLP. Each is modulated by
    the level's vector, and its gate starts at zero."""

    def __init__(self, config: FrameTransformerConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.modulation = nn.Linear(width, 3 * MODULATED * width)
        self.inside, self.inside_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.earlier, self.earlier_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.lag_bias = nn.Parameter(torch.zeros(config.heads, config.num_frames))
        self.mlp = nn.Sequential(nn.Linear(width, EXPANSION * width), nn.GELU(), nn.Linear(EXPANSION * width, width))
        self.film = nn.Linear(width, 2 * width) if config.actions == "film" else None
        self.cross = _ActionAttention(width, config.heads) if config.actions == "cross_attention" else None
        for layer in (self.modulation, *([self.film] if self.film else [])):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, level: Tensor, acted: Tensor) -> Tensor:
        x, (shift, scale, gate), mlp = self._within(x, level, acted)
        q, k, v = self._earlier(_norm(x) * (1 + scale) + shift)  # each (b, tokens, heads, t, c)
        steps = x.shape[1]
        lag = torch.arange(steps, device=x.device)[:, None] - torch.arange(steps, device=x.device)
        bias = self.lag_bias[:, lag.clamp(min=0)].masked_fill(lag < 0, -torch.inf)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self._after(x, y, gate, mlp)

    def next_frame(self, x: Tensor, level: Tensor, acted: Tensor, memory: Tensor, lag: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
        """x (b, 1, tokens, width), after the frames of a layer's memory (b, 2, L - 1, tokens, width) at the lags (b, L - 1). `held`: which
        places hold a frame. Also returns the frame's own keys and values, (b, 2, tokens, width)."""
        x, (shift, scale, gate), mlp = self._within(x, level, acted)
        q, k, v = self._earlier(_norm(x) * (1 + scale) + shift)
        own = torch.stack((k, v), dim=1)[:, :, :, :, 0].flatten(3)
        keys, values = memory.unflatten(4, (self.heads, -1)).permute(1, 0, 3, 4, 2, 5)  # each (b, tokens, heads, L - 1, c)
        bias = self.lag_bias[:, lag].transpose(0, 1).masked_fill(~held[:, None], -torch.inf)
        bias = torch.cat((bias, self.lag_bias[None, :, :1].expand(len(x), -1, -1)), dim=2)[:, None, :, None]
        y = F.scaled_dot_product_attention(q, torch.cat((keys, k), dim=3), torch.cat((values, v), dim=3), attn_mask=bias)
        return self._after(x, y, gate, mlp), own

    def _within(self, x: Tensor, level: Tensor, acted: Tensor) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """x after the attention within each frame, and the modulations of the two other sublayers."""
        if self.film is not None:
            scale, shift = self.film(acted)[:, :, None].chunk(2, dim=3)
            x = x * (1 + scale) + shift
        if self.cross is not None:
            x = x + self.cross(_norm(x), acted)
        parts = self.modulation(level)[:, :, None].chunk(3 * MODULATED, dim=3)
        shift, scale, gate = parts[:3]
        q, k, v = self.inside(_norm(x) * (1 + scale) + shift).unflatten(3, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        y = F.scaled_dot_product_attention(q, k, v)
        added: Tensor = gate * self.inside_out(y.transpose(2, 3).flatten(3))
        return x + added, parts[3:6], parts[6:]

    def _earlier(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values over time, each (b, tokens, heads, t, c), of (b, t, tokens, width)."""
        q, k, v = self.earlier(x).unflatten(3, (3, self.heads, -1)).permute(3, 0, 2, 4, 1, 5).unbind()
        return q, k, v

    def _after(self, x: Tensor, y: Tensor, gate: Tensor, mlp: tuple[Tensor, ...]) -> Tensor:
        """x plus the attention to earlier frames, y (b, tokens, heads, t, c), and then the MLP."""
        x = x + gate * self.earlier_out(y.permute(0, 3, 1, 2, 4).flatten(3))
        shift, scale, gate = mlp
        added: Tensor = gate * self.mlp(_norm(x) * (1 + scale) + shift)
        return x + added


class _ActionAttention(nn.Module):
    """Attention of every token to the action and to a learned token, so that it can attend to nothing."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.nothing = heads, nn.Parameter(torch.zeros(width))
        self.query, self.key_value, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, acted: Tensor) -> Tensor:
        q = self.query(x).unflatten(3, (self.heads, -1)).transpose(2, 3)
        shown = torch.stack((acted, self.nothing.expand_as(acted)), dim=2)
        k, v = self.key_value(shown).unflatten(3, (2, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        y: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).transpose(2, 3).flatten(3))
        return y


def led_to(actions: Tensor) -> Tensor:
    """The action that led to each frame, withheld for the first one, from the actions after each frame, (b, t, ...)."""
    return torch.cat((torch.full_like(actions[:, :1], withheld(actions)), actions[:, :-1]), dim=1)


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])
