"""The family `tokens`: its networks against independent references, its memory, its training and its place in plans."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import check_learns_actions, draw
from test_training import artifact, data, train
from test_worlds import TINY, TOKENS, study
from torch import Tensor
from torch.nn import functional as F

from diamond_bench.config import OdeSampler, TrainingConfig
from diamond_bench.data.segments import Segments
from diamond_bench.data.static import EpisodeSet
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import Interrupted
from diamond_bench.metrics import weights
from diamond_bench.models.token_transformer import TokenTransformer
from diamond_bench.models.token_transformer_cost import TransformerConfig, TransformerShape, sequence_flops
from diamond_bench.models.vq_tokenizer import VqTokenizer
from diamond_bench.models.vq_tokenizer_cost import TokenizerConfig, decoder_cost, encoder_cost, num_tokens, search_cost
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.store.kinds import TrainWorldModel
from diamond_bench.studies.plan import plan_study
from diamond_bench.worlds.families import load_world_model
from diamond_bench.worlds.tokens import FAMILY, Tokens
from diamond_bench.worlds.tokens.world import TokenWorld, build_world, doubled_sum, running_sum

__all__ = ["data"]
SPEC = WorldSpec(FrameSpec.square(16), ActionSpec.discrete(3), rewards=True, ends=True)


def numbers(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize(("levels", "tokens", "tokenizer", "transformer"), [(5, 16, 4_027_523, 8_447_493), (4, 64, 3_583_107, 8_693_253)])
def test_the_neutral_sizes_are_those_of_the_authors(levels: int, tokens: int, tokenizer: int, transformer: int) -> None:
    settings = Tokens(tokenizer=TokenizerConfig(levels=levels))
    with torch.device("meta"):
        world = build_world(settings, WorldSpec(FrameSpec.square(64), ActionSpec.discrete(4)), device="meta")
    assert world.transformer.shape.tokens == tokens
    assert numbers(world.tokenizer) == tokenizer
    assert numbers(world.transformer) == transformer
    if levels == 5:
        assert (numbers(world.tokenizer.encoder), numbers(world.tokenizer.decoder)) == (1_418_240, 1_821_827)
    assert FAMILY.cost(settings, world.spec, OdeSampler()).parameters == tokenizer + transformer


def small(tokens: int = 4, frames: int = 3) -> TokenTransformer:
    torch.manual_seed(0)
    network = TokenTransformer(TransformerShape(TransformerConfig(2, 2, 16, 0.1, frames), 8, tokens, ActionSpec.discrete(3)))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def blocks(network: TokenTransformer, b: int = 2, frames: int = 3) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(1)
    return torch.randint(8, (b, frames, network.shape.tokens), generator=draws), torch.randint(3, (b, frames), generator=draws)


@torch.no_grad()
def reference(network: TokenTransformer, tokens: Tensor, actions: Tensor) -> Tensor:
    """The last layer at every position, (b, positions, width) float64, by torch's own encoder layers under a triangular mask."""
    state = {name: value.double() for name, value in network.state_dict().items()}
    width, heads = network.shape.config.width, network.shape.config.heads
    rows = [
        [*state["tokens.weight"][t].unbind(), state["actions.weight"][a]]
        for t, a in zip(tokens.flatten(0, 1), actions.flatten(), strict=True)
    ]
    x = torch.stack([vector for row in rows for vector in row]).reshape(len(tokens), -1, width)
    x = x + state["positions.weight"][: x.shape[1]]
    names = {"norm1": "norm1", "norm2": "norm2", "out": "self_attn.out_proj", "mlp.0": "linear1", "mlp.2": "linear2"}
    later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    for number in range(network.shape.config.layers):
        layer = torch.nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, F.gelu, batch_first=True, norm_first=True, dtype=torch.float64
        )
        ours = {f"{names[n]}.{kind}": state[f"blocks.{number}.{n}.{kind}"] for n in names for kind in ("weight", "bias")}
        ours |= {f"self_attn.in_proj_{kind}": state[f"blocks.{number}.qkv.{kind}"] for kind in ("weight", "bias")}
        layer.load_state_dict(ours)
        x = layer(x, src_mask=later)
    return F.layer_norm(x, (width,), state["last_norm.weight"], state["last_norm.bias"])


@torch.no_grad()
def head(network: TokenTransformer, name: str, x: Tensor) -> Tensor:
    state = {key: value.double() for key, value in getattr(network, name).state_dict().items()}
    return F.linear(F.linear(x, state["0.weight"], state["0.bias"]).relu(), state["2.weight"], state["2.bias"])


def test_attention_heads_and_losses_equal_an_independent_reference() -> None:
    """Observation logits are read at every position of a block except its last token. Labels are the tokens shifted by one. Padding, and
    the outcome of a segment's last action, have no label."""
    network = small()
    tokens, actions = blocks(network)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    rewards, ends = torch.tensor([[-3.0, 0.5, 9.0], [0.0, 9.0, 9.0]]), torch.tensor([[False, True, True], [False, True, True]])
    x = reference(network, tokens, actions)
    read = [0, 1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14]
    with torch.no_grad():
        found = network(tokens, actions)
    torch.testing.assert_close(found.tokens.double(), head(network, "token_head", x[:, read]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.rewards.double(), head(network, "reward_head", x[:, [4, 9, 14]]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.ends.double(), head(network, "end_head", x[:, [4, 9, 14]]), atol=1e-5, rtol=1e-5)
    of_tokens, of_rewards, of_ends = (head(network, f"{name}_head", x).log_softmax(2) for name in ("token", "reward", "end"))
    follows = {0: (0, 1), 1: (0, 2), 2: (0, 3), 4: (1, 0), 5: (1, 1), 6: (1, 2), 7: (1, 3), 9: (2, 0), 10: (2, 1), 11: (2, 2), 12: (2, 3)}
    shown = [-of_tokens[b, i, tokens[b, t, k]] for b in (0, 1) for i, (t, k) in follows.items() if mask[b, t]]
    outcomes = [(0, 4, 0, 0), (0, 9, 2, 1), (1, 4, 1, 0)]
    signs, over = ([-of[b, i, labels[k]] for b, i, *labels in outcomes] for k, of in ((0, of_rewards), (1, of_ends)))
    expected = {"tokens": shown, "rewards": signs, "ends": over}
    with torch.no_grad():
        acted = torch.tensor([[True, True, False], [True, False, False]])
        loss, terms = network.loss(tokens, actions, mask, acted, rewards, ends)
    for name, values in expected.items():
        assert float(terms[name]) == pytest.approx(float(torch.stack(values).mean()), abs=1e-5), name
    assert float(loss) == pytest.approx(sum(float(term) for term in terms.values()))
    other = tokens.clone()
    other[1, 2] = (other[1, 2] + 1) % 8
    assert network.loss(other, actions, mask, acted, rewards, ends)[0].item() == loss.item(), "padding never enters"


def test_passes_through_the_memory_equal_the_whole_sequence() -> None:
    network = small()
    tokens, actions = blocks(network)
    whole, b = reference(network, tokens, actions), len(tokens)
    sequence = network.sequence(tokens, actions)
    memory, position = network.memory(b, sequence), torch.zeros(b, dtype=torch.int64)
    parts = [network.extend(sequence[:, :6], memory, position)]
    parts += [network.extend(sequence[:, i : i + 1], memory, position + i) for i in range(6, sequence.shape[1])]
    torch.testing.assert_close(torch.cat(parts, dim=1).double(), whole, atol=1e-5, rtol=1e-5)


def world(settings: Tokens, spec: WorldSpec = SPEC, std: float = 0.3) -> TokenWorld:
    torch.manual_seed(0)
    built = build_world(settings, spec)
    for parameter in built.transformer.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return built


def test_a_full_memory_begins_again_with_the_newest_frame() -> None:
    """Blocks of 17 in 340 positions: the 20th step from a fresh start finds 16 + 19 * 17 = 339 of them taken. From there on the model
    equals one that starts from its newest frame."""
    settings = Tokens(tokenizer=replace(TOKENS.tokenizer, levels=3), transformer=TransformerConfig(1, 1, 4))
    model = world(settings)
    assert (model.transformer.shape.block, model.transformer.shape.positions) == (17, 340)
    frames = torch.rand(2, 1, 3, 16, 16) * 2 - 1
    state, held = model.start(frames, torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1, dtype=torch.bool), torch.randn_like), []
    noise = draw(range(2))
    for t in range(21):
        if t == 19:
            tokens = state[0]
            begun = model.transformer.memory(2, frames)
            model.transformer.extend(model.transformer.tokens(tokens), begun, torch.zeros(2, dtype=torch.int64))
            fresh = model.step((tokens, begun.detach(), torch.full((2,), 16)), torch.ones(2, dtype=torch.int64), draw(range(2), 5))
            full = model.step(state, torch.ones(2, dtype=torch.int64), draw(range(2), 5))
            assert torch.equal(fresh[1].frame, full[1].frame)
            assert torch.equal(fresh[0][2], full[0][2])
        held.append(state[2].tolist())
        state, _ = model.step(state, torch.ones(2, dtype=torch.int64), noise)
    assert [held[t] for t in (0, 1, 19, 20)] == [[16, 16], [33, 33], [339, 339], [33, 33]]


def test_tokens_are_sampled_from_the_logits_of_the_whole_past() -> None:
    """The last pass of a frame puts its last token into the memory: without it, the next frame would depend on a stale one."""
    model = world(replace(TOKENS, num_frames=2))
    frames, taken = torch.rand(1, 2, 3, 16, 16) * 2 - 1, torch.tensor([[2, 0]])
    state = model.start(frames, taken, torch.ones(1, 2, dtype=torch.bool), torch.randn_like)
    past = model.encode(frames)
    for action, position in ((1, 14), (2, 19)):
        taken = torch.cat((taken[:, :-1], torch.tensor([[action]])), dim=1)
        state, step = model.step(state, torch.tensor([action]), lambda like: torch.full_like(like, -40.0))  # the first of all codes
        assert state[0].tolist() == [[0, 0, 0, 0]]
        assert state[2].tolist() == [position]
        found = model.transformer(past, taken)
        torch.testing.assert_close(step.reward_logits, found.rewards[:, -1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(step.end_logits, found.ends[:, -1], atol=1e-5, rtol=1e-5)
        past, taken = torch.cat((past, state[0][:, None]), dim=1), torch.cat((taken, torch.tensor([[0]])), dim=1)
    shares = torch.rand(3, 11, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(doubled_sum(shares), shares.double().cumsum(1).float())
    assert torch.equal(running_sum(shares), shares.cumsum(1))
    logits = torch.tensor([[0.0, 1.0, -1.0]]).repeat(4000, 1)
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(model._sampled(logits, lambda like: noise), minlength=3) / 4000
    assert (shares - logits[0].softmax(0)).abs().max() < 0.03


def test_padding_before_the_first_frame_changes_nothing() -> None:
    model = world(replace(TOKENS, num_frames=3))
    frames, actions = torch.rand(1, 3, 3, 16, 16) * 2 - 1, torch.tensor([[2, 1, 0]])
    mask = torch.tensor([[False, True, True]])
    changed = frames.clone()
    changed[:, 0] = 0.7
    states = [model.start(given, actions, mask, torch.randn_like) for given in (frames, changed)]
    steps = [model.step(state, torch.tensor([1]), draw(range(1))) for state in states]
    assert states[0][2].tolist() == [2 * 5 - 1]
    assert torch.equal(steps[0][1].frame, steps[1][1].frame)
    two = world(replace(TOKENS, num_frames=2))
    alone = two.start(frames[:, 1:], actions[:, 1:], mask[:, 1:], torch.randn_like)
    assert torch.equal(two.step(alone, torch.tensor([1]), draw(range(1)))[1].frame, steps[0][1].frame)


def test_the_tokenizer_s_loss_and_its_straight_through_gradient() -> None:
    torch.manual_seed(0)
    tokenizer = VqTokenizer(TOKENS.tokenizer, FrameSpec.square(16))
    frames = torch.rand(3, 3, 16, 16) * 2 - 1
    latents, tokens = tokenizer.encode(frames)
    distances = (latents[:, :, None] - tokenizer.codes.weight).square().sum(3)
    assert torch.equal(tokens, distances.argmin(2)), "the nearest code"
    corner = tokenizer.before(tokenizer.encoder(frames))[:, :, 0, 1]
    torch.testing.assert_close(latents[:, 1], corner)
    loss, terms = tokenizer.loss(frames)
    gap = (latents - tokenizer.codes(tokens)).square().mean()
    torch.testing.assert_close(terms["codebook"], gap.detach())
    torch.testing.assert_close(terms["commitment"], gap.detach())
    shown = tokenizer.decode(tokens)
    torch.testing.assert_close(terms["reconstruction"], (shown - frames).abs().mean().detach())
    torch.testing.assert_close(loss, sum(terms[name] for name in ("reconstruction", "codebook", "commitment")))
    squaring = VqTokenizer(replace(TOKENS.tokenizer, reconstruction="squared"), FrameSpec.square(16))
    squaring.load_state_dict(tokenizer.state_dict())
    torch.testing.assert_close(squaring.loss(frames)[1]["reconstruction"], (shown - frames).square().mean().detach())
    grown = (tokenizer.encode(frames).latents - tokenizer.codes(tokens).detach()).square().mean()
    (straight,) = torch.autograd.grad(tokenizer.loss(frames)[0] - grown, [tokenizer.before.weight])
    assert straight.abs().max() > 1e-5, "the reconstruction alone moves the encoder"


def test_frames_of_other_sides_are_padded() -> None:
    """18 x 32 pixels in tokens of 4 pixels: 5 rows of 8. The last two rows of pixels are copies, which the decoder cuts off."""
    sides, config = FrameSpec(18, 32), replace(TOKENS.tokenizer, levels=3)
    torch.manual_seed(0)
    tokenizer = VqTokenizer(config, sides)
    whole = VqTokenizer(config, FrameSpec(20, 32))
    whole.load_state_dict(tokenizer.state_dict())
    frames = torch.rand(2, 3, 18, 32) * 2 - 1
    tokens = tokenizer.encode(frames).tokens
    assert tokens.shape == (2, num_tokens(config, sides)) == (2, 40)
    assert torch.equal(tokens, whole.encode(torch.cat((frames, frames[:, :, -1:], frames[:, :, -1:]), dim=2)).tokens)
    assert torch.equal(tokenizer.decode(tokens), whole.decode(tokens)[:, :, :18])
    assert encoder_cost(config, sides) == encoder_cost(config, FrameSpec(20, 32))


def test_the_perceptual_term_has_a_gradient_and_needs_its_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = VqTokenizer(TOKENS.tokenizer, FrameSpec.square(16))
    frames = torch.rand(2, 3, 16, 16) * 2 - 1
    _, terms = tokenizer.loss(frames, lambda a, b: (a - b).square().mean((1, 2, 3)))
    assert float(terms["perceptual"]) == pytest.approx(float((tokenizer.decode(tokenizer.encode(frames).tokens) - frames).square().mean()))
    monkeypatch.setattr(weights, "locate", lambda name: None)
    with pytest.raises(UserError, match=r"family\.tokenizer\.perceptual=true needs the weights lpips-vgg.*weights fetch lpips_vgg"):
        plan_study(study(tmp_path, "a: {family: tokens}"), list(TINY))


def test_the_cost_of_an_update_is_counted() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = world(TOKENS)
    counts = {}
    frames, shape = torch.zeros(1, 3, 16, 16), model.transformer.shape
    tokens = torch.zeros(1, shape.config.num_frames, shape.tokens, dtype=torch.int64)
    for name, call in {
        "encode": lambda: model.tokenizer.encode(frames),
        "decode": lambda: model.tokenizer.decode(tokens[:, 0]),
        "segment": lambda: model.transformer(tokens, tokens[:, :, 0]),
    }.items():
        counter = FlopCounterMode(display=False)
        with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            call()
        counts[name] = counter.get_total_flops()
    sides = FrameSpec.square(16)
    encoded = encoder_cost(TOKENS.tokenizer, sides).flops + search_cost(TOKENS.tokenizer, sides).flops
    assert counts == {"encode": encoded, "decode": decoder_cost(TOKENS.tokenizer, sides).flops, "segment": sequence_flops(shape)}


def test_it_learns_which_action_leads_to_which_frame() -> None:
    """A game whose frame shows the action before it. The tokenizer learns four grey levels first."""
    torch.manual_seed(0)
    model = build_world(TOKENS, SPEC)
    draws = torch.Generator().manual_seed(0)
    for trainable, steps in zip(model.trainables(TrainingConfig()), (80, 40), strict=True):

        def segments(b: int = 16, length: int = trainable.segment_length) -> Segments:
            actions = torch.randint(3, (b, length), generator=draws)
            shown = torch.cat((torch.zeros(b, 1, dtype=torch.int64), actions[:, :-1]), dim=1) * 100 + 20
            shown = shown if length > 1 else torch.randint(3, (b, 1), generator=draws) * 100 + 20
            frames = shown.to(torch.uint8)[..., None, None, None].expand(*shown.shape, 3, 16, 16)
            return Segments(frames, actions, torch.ones(shown.shape, dtype=torch.bool))

        optimizer = torch.optim.AdamW(trainable.network.parameters(), 1e-2)
        for _ in range(steps):
            loss, _ = trainable.loss(segments(), draws)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    check_learns_actions(trainable, segments(64))


def config(**training: Any) -> TrainWorldModel:
    settings = {"num_steps": 4, "batch_size": 2, "learning_rate": 1e-3, "milestones": (1.0,), "log_every": 2}
    return TrainWorldModel(0, training=TrainingConfig(**{**settings, **training}), family=TOKENS)


def test_interruptions_change_no_byte(data: EpisodeSet, tmp_path: Path) -> None:
    """Within the tokenizer, between two lines of its log, and within the transformer, whose dropout draws random numbers, too. The log
    shows the usage of codes while the tokenizer is trained."""
    assert train(tmp_path / "whole", config=config())[-1] == 8
    for stop_after in (3, 6):
        with pytest.raises(Interrupted, match=f"update {stop_after} of 8"):
            train(tmp_path / "parts", stop_after, config())
    train(tmp_path / "parts", config=config())
    assert artifact(tmp_path / "parts") == artifact(tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [{*line} & {"code_perplexity", "codes_used"} for line in lines] == [{"code_perplexity", "codes_used"}] * 2 + [set()] * 2
    assert all(1 <= line["code_perplexity"] <= 8 and 1 / 8 <= line["codes_used"] <= 1 for line in lines[:2])
    loaded = load_world_model(tmp_path / "whole" / "models" / "1", FrameSpec.square(16))
    assert isinstance(loaded, TokenWorld)
    assert (loaded.spec.rewards, loaded.spec.ends) == (True, True)


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ("{family: tokens, family.transformer.heads: 3}", ["family.transformer.heads=3", "width=256"]),
        ("{family: tokens, family.num_frames: 20}", ["family.num_frames=20", "family.num_frames=19"]),
        ("{family: tokens, family.tokenizer.levels: 6, env.frame_size: 16}", ["family.tokenizer.levels=6", "only 16 x 16", "32 x 32"]),
        ("{family: tokens, family.tokenizer.code: 3}", ["family.tokenizer.code", "codes"]),
        ("{family: tokens, execution.cuda_graphs: imagination}", ["execution.cuda_graphs=imagination", "none"]),
        ("{family: tokens, training.ema: 0.9}", ["training.ema=0.9", "training.ema=null"]),
        ("{family: tokens, execution.precision: bf16}", ["execution.precision", "no effect", "family=tokens"]),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_planning(arm: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        plan_study(study(tmp_path, f"a: {arm}"), list(TINY))
    for word in words:
        assert word in str(error.value)
