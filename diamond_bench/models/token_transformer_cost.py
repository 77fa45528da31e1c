"""The settings and the cost of token_transformer.py, without torch."""

from dataclasses import dataclass

from diamond_bench.config.fields import setting
from diamond_bench.models.cost import Cost, attention, embedding, linear, norm, total
from diamond_bench.models.shape import NUM_ENDS, NUM_REWARDS
from diamond_bench.spaces import ActionSpec

EXPANSION = 4
"""Width of the hidden layer of a block's MLP, divided by that of the block."""


@dataclass(frozen=True)
class TransformerConfig:
    """The autoregressive transformer of a token world model. The neutral values are those of IRIS (Micheli et al. 2023, appendix A)."""

    layers: int = setting(10, minimum=1)
    """Number of blocks."""
    heads: int = setting(4, minimum=1)
    """Attention heads per block."""
    width: int = setting(256, minimum=1)
    """Length of the vector of a token."""
    dropout: float = setting(0.1, minimum=0.0, maximum=0.9)
    """Share of embeddings, attention weights and outputs of sublayers that training sets to 0."""
    num_frames: int = setting(20, minimum=2)
    """Maximum number of frames in memory, each with its action, and frames per training segment."""


@dataclass(frozen=True)
class TransformerShape:
    """All that a transformer's size depends on."""

    config: TransformerConfig
    codes: int
    tokens: int
    """K, tokens per frame."""
    actions: ActionSpec

    @property
    def block(self) -> int:
        """Positions per frame: its tokens, and its action."""
        return self.tokens + 1

    @property
    def positions(self) -> int:
        """Positions in memory."""
        return self.config.num_frames * self.block


def parameters(shape: TransformerShape) -> int:
    """Trained numbers."""
    width, config = shape.config.width, shape.config
    tables = embedding(shape.codes, width) + embedding(shape.actions.width, width) + embedding(shape.positions, width)
    heads = [linear(width, width) + linear(width, classes) for classes in (shape.codes, NUM_REWARDS, NUM_ENDS)]
    return total([tables, *[_block(width, 1, 0)] * config.layers, norm(width), *heads]).parameters


def frame_flops(shape: TransformerShape) -> float:
    """FLOP to imagine the tokens of a frame: one pass per position of a block, each of which attends to the whole memory. A pass after a
    full memory begins a new one, which costs a further pass over the tokens of a frame and is not counted."""
    width = shape.config.width
    passes = _block(width, 1, shape.positions).repeated(shape.config.layers * shape.block)
    observation = _head(width, shape.codes).repeated(shape.tokens)
    return total([passes, observation, _embedding(shape), _head(width, NUM_REWARDS), _head(width, NUM_ENDS)]).flops


def start_flops(shape: TransformerShape, frames: int) -> float:
    """FLOP to write this many frames and the actions between them into an empty memory."""
    block = _block(shape.config.width, frames * shape.block - 1, shape.positions)
    return total([block.repeated(shape.config.layers), _embedding(shape).repeated(frames)]).flops


def sequence_flops(shape: TransformerShape) -> float:
    """FLOP of a forward pass over a training segment."""
    width, config, rows = shape.config.width, shape.config, shape.positions
    heads = [_head(width, shape.codes).repeated(config.num_frames * shape.tokens)]
    heads += [_head(width, classes).repeated(config.num_frames) for classes in (NUM_REWARDS, NUM_ENDS)]
    return total([_block(width, rows, rows).repeated(config.layers), _embedding(shape).repeated(config.num_frames), *heads]).flops


def _block(width: int, rows: int, keys: int) -> Cost:
    """One block for `rows` positions, each of which attends to `keys`."""
    hidden = EXPANSION * width
    maps = [linear(width, 3 * width, rows), linear(width, width, rows), linear(width, hidden, rows), linear(hidden, width, rows)]
    return total([norm(width), norm(width), *maps, attention(rows, keys, width)])


def _head(width: int, classes: int) -> Cost:
    return linear(width, width) + linear(width, classes)


def _embedding(shape: TransformerShape) -> Cost:
    """Reading rows of a table costs nothing. The numbers of a Box are multiplied by its rows."""
    return Cost(0, 2.0 * len(shape.actions.sizes) * shape.config.width if shape.actions.kind == "Box" else 0.0)
