"""An IRIS-style world model (Micheli et al. 2023): frames as tokens, predicted one after the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from diamond_bench.config import TrainingConfig
from diamond_bench.data.segments import Segments, to_float
from diamond_bench.diffusion.quantization import quantize
from diamond_bench.metrics.perceptual import lpips_network
from diamond_bench.models.precision import Precision
from diamond_bench.models.token_transformer import TokenTransformer, dropout
from diamond_bench.models.vq_tokenizer import Perceptual, VqTokenizer
from diamond_bench.spaces import WorldSpec
from diamond_bench.worlds.contract import Draw, Reconstructed, State, Step, Trainable
from diamond_bench.worlds.padding import first_frames, moved_to_front, seen_last
from diamond_bench.worlds.tokens import Tokens, check_frames
from diamond_bench.worlds.trained import BuiltWorld


@dataclass(frozen=True)
class TokenWorld(BuiltWorld):
    """A `TrainedWorld`. Its state is the newest frame's tokens (b, K), the memory of the transformer, and the number of positions that each
    row's memory holds (b,). Of the passes of a step, K predict tokens, and the last one only fills the memory. A step that begins a new
    memory makes one more pass, over a frame's tokens, which its cost does not count."""

    settings: Tokens
    spec: WorldSpec
    tokenizer: VqTokenizer
    transformer: TokenTransformer

    pure = False
    """A step asks the device whether a memory is full, so it cannot be recorded."""

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """See `WorldModel.networks`."""
        return {"tokenizer": self.tokenizer, "transformer": self.transformer}

    @torch.no_grad()
    def start(self, frames: Tensor, actions: Tensor, mask: Tensor, draw: Draw, origin: Tensor | None = None) -> State:
        """See `WorldModel.start`. Only the last frames are used, as many as the settings say."""
        frames, actions, first = seen_last(self.context, frames, actions, mask)
        tokens = self.encode(frames)
        memory = self.transformer.memory(len(frames), frames)
        sequence = self.transformer.sequence(tokens, actions)[:, :-1]
        self.transformer.extend(sequence, memory, torch.zeros_like(first))
        position = (self.context - first) * self.transformer.shape.block - 1  # the newest frame's action comes with the first step
        newest = tokens[torch.arange(len(tokens), device=tokens.device), self.context - 1 - first]
        return newest, memory, position

    def skip_start(self, frames: Tensor, draw: Draw) -> None:
        """See `CostlyStart.skip_start`: there is nothing to draw."""

    @torch.no_grad()
    def step(self, state: State, action: Tensor, draw: Draw) -> tuple[State, Step]:
        """See `WorldModel.step`. A memory without room for another block is replaced by that of the newest frame alone, as in IRIS."""
        tokens, memory, position = state
        network, shape = self.transformer, self.transformer.shape
        memory, full = memory.clone(), position + shape.block > shape.positions
        if bool(full.any()):
            again, begun = network.memory(int(full.sum()), memory), torch.zeros_like(position[full])
            network.extend(network.tokens(tokens[full]), again, begun)
            memory[full], position = again, torch.where(full, shape.tokens, position)
        read = network.extend(network.actions(action)[:, None], memory, position)[:, 0]
        rewards, ends = network.reward_head(read), network.end_head(read)
        found: list[Tensor] = []
        for number in range(1, shape.block):
            found.append(self._sampled(network.token_head(read), draw))
            read = network.extend(network.tokens(found[-1])[:, None], memory, position + number)[:, 0]
        newest = torch.stack(found, dim=1)
        step = Step(
            quantize(self.tokenizer.decode(newest), "round"),
            rewards if self.spec.rewards else None,
            ends if self.spec.ends else None,
        )
        return (newest, memory, position + shape.block), step

    def encode(self, frames: Tensor) -> Tensor:
        """The tokens (b, t, K) of frames (b, t, 3, h, w) in [-1, 1]."""
        tokens: Tensor = self.tokenizer.encode(frames.flatten(0, 1)).tokens.unflatten(0, frames.shape[:2])
        return tokens

    @property
    def num_codes(self) -> int:
        """See `Reconstructing.num_codes`."""
        return self.settings.tokenizer.codes

    @torch.no_grad()
    def reconstruct(self, frames: Tensor) -> Reconstructed:
        """See `Reconstructing.reconstruct`."""
        tokens = self.tokenizer.encode(frames).tokens
        return Reconstructed(quantize(self.tokenizer.decode(tokens), "round"), tokens)

    def trainables(self, training: TrainingConfig) -> Sequence[Trainable]:
        """See `TrainedWorld.trainables`: the tokenizer, and then the transformer on the tokens of the trained tokenizer."""

        def compress(segments: Segments, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
            return self.tokenizer.loss(to_float(segments)[:, 0], self._perceptual)

        def predict(segments: Segments, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
            with torch.no_grad():
                tokens = self.encode(to_float(segments))
            first = first_frames(segments.mask)
            rewards, ends, acted = segments.outcomes
            given = (moved_to_front(values, first) for values in (tokens, segments.actions, segments.mask, acted, rewards, ends))
            return self.transformer.loss(*given, drop=dropout(self.settings.transformer.dropout, generator))

        frames = self.settings.transformer.num_frames
        return (
            Trainable("tokenizer", self.tokenizer, 1, compress, self.settings.tokenizer.batch_size, ("code_perplexity", "codes_used")),
            Trainable("transformer", self.transformer, frames, predict),
        )

    @torch.no_grad()
    def call(self, state: State) -> None:
        """See `TrainedWorld.call`: a pass over one token."""
        tokens, memory, position = state
        last = self.transformer.shape.positions - 1
        self.transformer.extend(self.transformer.tokens(tokens[:, :1]), memory.clone(), position.clamp(max=last))

    @cached_property
    def _perceptual(self) -> Perceptual | None:
        return lpips_network("vgg", self.device).differentiable if self.settings.tokenizer.perceptual else None

    def _sampled(self, logits: Tensor, draw: Draw) -> Tensor:
        """One token per row, (b,). A normal draw becomes a uniform one, which the cumulative probabilities are compared with."""
        cumulative = running_sum((logits / self.settings.temperature).softmax(1))
        uniform = torch.special.ndtr(draw(logits[:, 0])) * cumulative[:, -1]
        return torch.searchsorted(cumulative, uniform[:, None]).clamp(max=logits.shape[1] - 1)[:, 0]


def running_sum(x: Tensor) -> Tensor:
    """The cumulative sum of each row of (b, n). On a GPU, torch's own has no fixed order of additions, so sums of 1, 2, 4, ... elements are
    added there."""
    return x.cumsum(1) if x.device.type == "cpu" else doubled_sum(x)


def doubled_sum(x: Tensor) -> Tensor:
    """The cumulative sum of each row of (b, n) by elementwise additions, whose order never changes."""
    width = 1
    while width < x.shape[1]:
        x = x + functional.pad(x[:, :-width], (width, 0))
        width *= 2
    return x


def build_world(settings: Tokens, spec: WorldSpec, precision: Precision = "fp32", device: torch.device | str = "cpu") -> TokenWorld:
    """A token world with fresh weights. They are drawn from torch's global CPU generator on every device.

    It predicts rewards and ends if the game has them. Raises UserError if the frames have no grid of tokens.
    """
    check_frames(settings, spec.frames)
    tokenizer = VqTokenizer(settings.tokenizer, spec.frames).to(device)
    transformer = TokenTransformer(settings.shape(spec)).to(device)
    if torch.device(device).type == "cpu":
        tokenizer.to(memory_format=torch.channels_last)
    return TokenWorld(settings, spec, tokenizer, transformer)
