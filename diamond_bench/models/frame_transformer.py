"""A causal diffusion transformer over frames: patches as tokens, attention within a frame and to earlier frames, and a noise level of its
own for each frame (diffusion forcing, Chen et al. 2024; blocks as in DiT, Peebles and Xie 2023).

A memory of b rows holds the keys and values of frames in all layers, (b, tokens, layers, 2, heads, L, width / heads). It is a ring of L
places: frame i lies at place i mod L. Before frame i, the ring holds the L - 1 frames before it, and place i mod L is free. Every call for
frame i writes the frame's own keys and values there, in place, so no call copies the memory.
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

    def next_frame(
        self, x: Tensor, c_noise: Tensor, action: Tensor, memory: Tensor, position: Tensor, seen: Tensor | None = None
    ) -> Tensor:
        """The output for the frame after the memory's, (b, 3, h, w). Writes its keys and values into the free place of the memory.

        Args:
            x: (b, 3, h, w).
            c_noise: (b,).
            action: the action that led to the frame, (b, ...).
            memory: of b rows.
            position: number of frames before this one, (b,) int64. 0 means an empty memory.
            seen: number of frames of the memory that the frame attends to, (b,) int64. None is all of them.
        """
        tokens, level, acted = self._embedded(x[:, None], c_noise[:, None], action[:, None])
        length = self.shape.config.num_frames
        lag = (position[:, None] - torch.arange(length, device=x.device)) % length
        hidden = lag > (position if seen is None else seen)[:, None]
        for number, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            tokens = block.next_frame(tokens, level, acted, memory[:, :, number], position % length, lag, hidden)
        return self._frames(tokens, level)[:, 0]

    def frames_after(self, x: Tensor, c_noise: Tensor, actions: Tensor, memory: Tensor, position: Tensor, seen: bool = True) -> Tensor:
        """The outputs for k frames after the memory's at once, (b, k, 3, h, w). Each attends to the frames before it, in the memory and
        among the k, and to L frames at most. The memory is not changed.

        Args:
            x: (b, k, 3, h, w).
            c_noise: (b, k).
            actions: the action that led to each frame, (b, k, ...).
            memory: of b rows.
            position: number of frames before the first of them, (b,) int64.
            seen: whether a frame attends to others at all.
        """
        tokens, level, acted = self._embedded(x, c_noise, actions)
        length, new = self.shape.config.num_frames, torch.arange(x.shape[1], device=x.device)
        first = (position[:, None] - torch.arange(length, device=x.device)) % length
        kept = first[:, None] + new[:, None]  # (b, k, L)
        among = (new[:, None] - new).expand(len(x), -1, -1)  # (b, k, k)
        unheld = ((first == 0) | (first > position[:, None]))[:, None] | (kept >= length)
        hidden = torch.cat((unheld, (among < 0) | (among >= length)), dim=2)
        lag = torch.cat((kept, among), dim=2)
        if not seen:
            hidden = hidden | (lag != 0)
        for number, block in enumerate(self.blocks):
            assert isinstance(block, _Block)
            tokens = block.frames_after(tokens, level, acted, memory[:, :, number], lag.clamp(0, length - 1), hidden)
        return self._frames(tokens, level)

    def memory(self, rows: int, like: Tensor) -> Tensor:
        """An empty memory of `rows` rows, with the type and device of `like`."""
        config = self.shape.config
        sides = config.layers, 2, config.heads, config.num_frames, config.width // config.heads
        return like.new_zeros((rows, self.shape.tokens, *sides))

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

    def next_frame(self, x: Tensor, level: Tensor, acted: Tensor, memory: Tensor, place: Tensor, lag: Tensor, hidden: Tensor) -> Tensor:
        """x (b, 1, tokens, width), whose keys and values are written at `place` (b,) of a layer's memory (b, tokens, 2, heads, L, c).

        `lag`: of the frame at each place of the memory, (b, L). `hidden`: the places that are not attended to, (b, L).
        """
        x, (shift, scale, gate), mlp = self._within(x, level, acted)
        q, k, v = self._earlier(_norm(x) * (1 + scale) + shift)
        memory[torch.arange(len(x), device=x.device), :, :, :, place] = torch.stack((k[:, :, :, 0], v[:, :, :, 0]), dim=2)
        keys, values = memory.unbind(2)
        return self._after(x, _attended(q, keys, values, self._bias(lag[:, None], hidden[:, None])), gate, mlp)

    def frames_after(self, x: Tensor, level: Tensor, acted: Tensor, memory: Tensor, lag: Tensor, hidden: Tensor) -> Tensor:
        """x (b, k, tokens, width) after a layer's memory (b, tokens, 2, heads, L, c). `lag`, `hidden`: of the L + k frames for each of the
        k, (b, k, L + k)."""
        x, (shift, scale, gate), mlp = self._within(x, level, acted)
        q, k, v = self._earlier(_norm(x) * (1 + scale) + shift)
        keys, values = (torch.cat(pair, dim=3) for pair in zip(memory.unbind(2), (k, v), strict=True))
        return self._after(x, _attended(q, keys, values, self._bias(lag, hidden)), gate, mlp)

    def _bias(self, lag: Tensor, hidden: Tensor) -> Tensor:
        """What is added to the attention's logits, (b, heads, queries, keys), from (b, queries, keys)."""
        return self.lag_bias[:, lag].transpose(0, 1).masked_fill(hidden[:, None], -torch.inf)

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


def _attended(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Attention over time at each place of the frame, (b, tokens, heads, queries, c), with a bias (b, heads, queries, keys)."""
    b, tokens = q.shape[:2]
    bias = bias[:, None].expand(-1, tokens, -1, -1, -1).flatten(0, 1)
    q, keys, values = (given.flatten(0, 1) for given in (q, keys, values))
    y: Tensor = F.scaled_dot_product_attention(q, keys, values, attn_mask=bias).unflatten(0, (b, tokens))
    return y


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])
