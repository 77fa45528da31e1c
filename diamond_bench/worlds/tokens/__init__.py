"""The family `tokens`: an IRIS-style world model. A tokenizer turns frames into tokens, and a transformer predicts the tokens of the next
frame one after the other. Planning imports this file, so it imports no torch."""

from dataclasses import dataclass

from diamond_bench.config import RunConfig, Sampler, TrainingConfig, setting
from diamond_bench.config.worlds import WorldCost, WorldFamily, WorldSettings, always
from diamond_bench.envs.games import spec as spec_of
from diamond_bench.errors import UserError
from diamond_bench.metrics.weights import require
from diamond_bench.models import token_transformer_cost as transformer_cost
from diamond_bench.models import vq_tokenizer_cost as tokenizer_cost
from diamond_bench.models.token_transformer_cost import TransformerConfig, TransformerShape
from diamond_bench.models.vq_tokenizer_cost import TokenizerConfig
from diamond_bench.spaces import FrameSpec, WorldSpec


@dataclass(frozen=True)
class Tokens(WorldSettings):
    """The two networks. The neutral values are those of IRIS (Micheli et al. 2023, appendix A)."""

    name: str = "tokens"
    tokenizer: TokenizerConfig = TokenizerConfig()
    transformer: TransformerConfig = TransformerConfig()
    num_frames: int = setting(1, minimum=1)
    """Real frames in the memory before the first imagined one. The authors begin with one. More is the fair setting next to a family that
    sees several."""
    temperature: float = setting(1.0, minimum=1e-3)
    """Temperature at which tokens are sampled, in training of agents and in evaluation."""

    def shape(self, spec: WorldSpec) -> TransformerShape:
        """The shape of the transformer for a game."""
        return TransformerShape(
            self.transformer, self.tokenizer.codes, tokenizer_cost.num_tokens(self.tokenizer, spec.frames), spec.actions
        )


def check_frames(settings: Tokens, frames: FrameSpec) -> None:
    """Raises UserError if a token covers more than a frame."""
    pixels = 2 ** (settings.tokenizer.levels - 1)
    if any(side < pixels for side in frames.sides):
        raise UserError(
            f"family.tokenizer.levels={settings.tokenizer.levels}: a token covers {pixels} x {pixels} pixels, and frames have only {frames}"
        )


def _check(settings: Tokens, config: RunConfig, protocol: str) -> None:
    transformer = settings.transformer
    if transformer.width % transformer.heads:
        raise UserError(f"family.transformer.heads={transformer.heads}: it does not divide family.transformer.width={transformer.width}")
    if settings.num_frames >= transformer.num_frames:
        raise UserError(
            f"family.num_frames={settings.num_frames}: the memory has room for family.transformer.num_frames={transformer.num_frames} "
            f"frames, of which at least one is imagined; set family.num_frames={transformer.num_frames - 1} or less"
        )
    if config.data.dataset is None:
        check_frames(settings, spec_of(config.game, config.env).frames)
    if config.execution.cuda_graphs != "none":
        raise UserError(f"execution.cuda_graphs={config.execution.cuda_graphs}: family=tokens cannot be recorded; use none")
    if config.training.ema is not None:
        raise UserError(
            f"training.ema={config.training.ema:g}: the transformer of family=tokens learns the tokens of the last tokenizer, not of an "
            "averaged one; use training.ema=null"
        )
    if settings.tokenizer.perceptual:
        require("lpips-vgg", "family.tokenizer.perceptual=true", "or set family.tokenizer.perceptual=false")


def _cost(settings: Tokens, spec: WorldSpec, sampler: Sampler) -> WorldCost:
    tokenizer, frames, shape = settings.tokenizer, spec.frames, settings.shape(spec)
    encoder, decoder, search = (
        cost(tokenizer, frames) for cost in (tokenizer_cost.encoder_cost, tokenizer_cost.decoder_cost, tokenizer_cost.search_cost)
    )
    parameters = transformer_cost.parameters(shape) + encoder.parameters + decoder.parameters + search.parameters
    memory = 4 * 2 * shape.config.layers * shape.positions * shape.config.width
    frame = transformer_cost.frame_flops(shape) + decoder.flops
    start = settings.num_frames * (encoder.flops + search.flops) + transformer_cost.start_flops(shape, settings.num_frames)
    seen = encoder.flops + search.flops + decoder.flops
    return WorldCost(parameters, frame, shape.block, memory + 8 * (shape.tokens + 1), start, seen)


def _update_flops(settings: Tokens, spec: WorldSpec, training: TrainingConfig) -> float:
    """The tokenizer is trained on frames. The transformer is trained on segments, which the tokenizer encodes first."""
    tokenizer, shape = settings.tokenizer, settings.shape(spec)
    encoded = tokenizer_cost.encoder_cost(tokenizer, spec.frames).flops + tokenizer_cost.search_cost(tokenizer, spec.frames).flops
    segment = 3 * transformer_cost.sequence_flops(shape) + settings.transformer.num_frames * encoded
    frames = tokenizer.batch_size * training.accumulation
    return training.examples * segment + frames * tokenizer_cost.update_flops(tokenizer, spec.frames)


def _context(settings: Tokens) -> int:
    return settings.num_frames


FAMILY = WorldFamily(
    about="An IRIS-style world model: a VQ tokenizer, and an autoregressive transformer over its tokens.",
    build="diamond_bench.worlds.tokens.world:build_world",
    cost=_cost,
    update_flops=_update_flops,
    context=_context,
    outcomes=always,
    reconstructs=True,
    check=_check,
    small="tokens_small",
)
