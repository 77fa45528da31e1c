"""What the denoiser is told of past frames and actions, for every way in which they can enter."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from golden_files import small_agent
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diamond_bench.config import (
    ACTION_CONDITIONINGS,
    FRAME_CONDITIONINGS,
    WITHHELD,
    ConditioningConfig,
    FactoredObjective,
    NetworkConfig,
    OdeSampler,
    RunConfig,
)
from diamond_bench.diffusion.denoiser import Denoiser
from diamond_bench.diffusion.objectives import Factored
from diamond_bench.diffusion.quantization import quantize
from diamond_bench.diffusion.samplers import sample
from diamond_bench.errors import UserError
from diamond_bench.models.authors_checkpoint import authors_state
from diamond_bench.models.conditioning import Told
from diamond_bench.models.denoiser_network import DenoiserNetwork, FourierFeatures
from diamond_bench.models.flops import denoiser_flops, denoiser_parameters
from diamond_bench.models.shape import check_network
from diamond_bench.models.unet import UNet
from diamond_bench.studies.check import check_run
from diamond_bench.world_model import build_world_model, load_world_model, save_world_model

L, ACTIONS = 3, 5
NETWORK = NetworkConfig(depths=(1, 1), channels=(8, 16), attention=(False, True), cond_channels=12)
LIGHT = ConditioningConfig(L, history_depths=(1, 2), history_channels=(8, 12), attended_levels=(False, True))
WAYS = [replace(LIGHT, frames=frames, actions=actions) for frames, actions in product(FRAME_CONDITIONINGS, ACTION_CONDITIONINGS)]
ATTENDING = [replace(LIGHT, frames=frames) for frames in ("cross_attention", "both")]
EVERYTHING = replace(LIGHT, frames="both", action_width=5, action_dropout=0.5, frame_noise=0.5)


def named(conditioning: ConditioningConfig) -> str:
    return f"{conditioning.frames}-{conditioning.actions}"


def awake(conditioning: ConditioningConfig, network: NetworkConfig = NETWORK) -> DenoiserNetwork:
    """A network without the zeros it starts with."""
    torch.manual_seed(0)
    built = DenoiserNetwork(network, conditioning, ACTIONS)
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.2)
    return built


def denoiser_of(conditioning: ConditioningConfig, network: nn.Module | None = None, **objective: object) -> Denoiser:
    c = conditioning
    return Denoiser(network or awake(c), Factored(FactoredObjective(**objective)), c.num_frames, "fp32", c.action_dropout, c.frame_noise)


def inputs(size: tuple[int, int] = (8, 8), b: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, past = torch.randn(b, 3, *size, generator=generator), torch.randn(b, 3 * L, *size, generator=generator)
    return x, torch.linspace(-1, 1, b), past, torch.arange(L).repeat(b, 1)


def segments(b: int = 4, steps: int = 2, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(b, L + steps, 3, size, size, generator=generator) * 2 - 1
    return frames, torch.randint(ACTIONS, (b, L + steps), generator=generator), torch.ones(b, L + steps, dtype=torch.bool)


class Recorder(nn.Module):
    """Keeps what it was told, and says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.past: list[Tensor] = []
        self.actions: list[Tensor] = []
        self.frame_noise: list[Tensor | None] = []

    def forward(self, x: Tensor, c_noise: Tensor, past: Tensor, actions: Tensor, frame_noise: Tensor | None = None) -> Tensor:
        self.past.append(past)
        self.actions.append(actions)
        self.frame_noise.append(frame_noise)
        return torch.zeros_like(x)


def test_the_default_network_draws_its_start_in_the_order_of_earlier_models():
    torch.manual_seed(3)
    cond, width = NETWORK.cond_channels, NETWORK.channels[0]
    parts = {
        "noise_features": FourierFeatures(cond),
        "action_embedding": nn.Embedding(ACTIONS, cond // L),
        "condition": nn.Sequential(nn.Linear(cond, cond), nn.SiLU(), nn.Linear(cond, cond)),
        "conv_in": nn.Conv2d(3 * (L + 1), width, 3, padding=1),
        "unet": UNet(NETWORK),
        "norm_out": nn.GroupNorm(1, width),
        "conv_out": nn.Conv2d(width, 3, 3, padding=1),
    }
    after = torch.randn(1)
    parts["conv_out"].weight.data.zero_()
    expected = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    torch.manual_seed(3)
    state = DenoiserNetwork(NETWORK, ConditioningConfig(L), ACTIONS).state_dict()
    assert torch.equal(torch.randn(1), after)
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in state)


@pytest.mark.parametrize("extras", [{}, {"action_dropout": 0.5, "frame_noise": 0.5}, {"action_width": 7}])
@pytest.mark.parametrize("conditioning", WAYS, ids=named)
def test_a_training_step_reaches_every_parameter(conditioning, extras):
    if conditioning.actions == "none":
        extras = extras | {"action_dropout": 0.0}
    conditioning = replace(conditioning, **extras)
    denoiser = denoiser_of(conditioning)
    loss, _ = denoiser.training_loss(*segments(), torch.Generator().manual_seed(1))
    loss.backward()
    assert loss.isfinite()
    for name, parameter in denoiser.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    fresh = denoiser_of(conditioning, DenoiserNetwork(NETWORK, conditioning, ACTIONS))
    loss, _ = fresh.training_loss(*segments(), torch.Generator().manual_seed(1))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fresh.parameters())


@pytest.mark.parametrize("conditioning", WAYS, ids=named)
@torch.no_grad()
def test_each_past_frame_and_action_matters_where_it_is_told(conditioning):
    network, (x, c_noise, past, actions) = awake(conditioning), inputs()
    base = network(x, c_noise, past, actions)
    assert base.shape == x.shape
    for i in range(L):
        changed, other = past.clone(), actions.clone()
        changed[:, 3 * i + 1] += 1
        other[:, i] = ACTIONS - 1
        assert (network(x, c_noise, changed, actions) - base).abs().max() > 1e-4
        moved = (network(x, c_noise, past, other) - base).abs().max()
        assert moved == 0 if conditioning.actions == "none" else moved > 1e-4


@torch.no_grad()
def test_the_order_of_attended_frames_is_told():
    network, (x, c_noise, past, actions) = awake(replace(LIGHT, frames="cross_attention")), inputs()
    swapped = past.unflatten(1, (L, 3))[:, [1, 0, 2]].flatten(1, 2)
    assert (network(x, c_noise, swapped, actions) - network(x, c_noise, past, actions)).abs().max() > 1e-4
    network.frame_conditioning.time_embedding.weight.copy_(network.frame_conditioning.time_embedding.weight[:1].expand(L, -1))
    torch.testing.assert_close(network(x, c_noise, swapped, actions), network(x, c_noise, past, actions), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", FRAME_CONDITIONINGS)
@torch.no_grad()
def test_attention_alone_carries_frames_that_are_not_stacked(frames):
    network, (x, c_noise, past, actions) = awake(replace(LIGHT, frames=frames)), inputs()
    for block in (m for m in network.modules() if hasattr(m, "key_value")):
        block.out.weight.zero_()
    same = torch.equal(network(x, c_noise, past + 1, actions), network(x, c_noise, past, actions))
    assert same == (frames == "cross_attention")


@torch.no_grad()
def test_examples_do_not_see_each_others_history():
    network, given = awake(replace(LIGHT, frames="both")), inputs(b=3)
    together = network(*given)
    alone = torch.cat([network(*(part[i : i + 1] for part in given)) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attention_knows_where_a_pixel_is():
    """Where queries are blind to the picture's content, only its position makes what a pixel is given differ from the others'."""
    network = awake(replace(LIGHT, frames="cross_attention", attended_levels=(True, False)))
    for block in (m for m in network.modules() if hasattr(m, "key_value")):
        block.query.weight[:, : block.norm.num_channels] = 0
    features = {}
    first = network.unet.down[0].blocks[0].cross_attention
    first.register_forward_hook(lambda module, given, out: features.__setitem__("added", out - given[0]))
    x, c_noise, past, actions = inputs()
    network(torch.zeros_like(x), c_noise, past, actions)
    assert features["added"].std(dim=(2, 3)).min() > 1e-3


@pytest.mark.parametrize("size", [(13, 10), (16, 9)])
@pytest.mark.parametrize("conditioning", ATTENDING, ids=named)
@torch.no_grad()
def test_any_frame_size_and_memory_format(conditioning, size):
    network, given = awake(replace(conditioning, attended_levels=(True, True))), inputs(size)
    expected = network(*given)
    assert expected.shape == given[0].shape
    network = network.to(memory_format=torch.channels_last)
    x, c_noise, past, actions = given
    x, past = (t.contiguous(memory_format=torch.channels_last) for t in (x, past))
    torch.testing.assert_close(network(x, c_noise, past, actions), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_frames", [1, 8])
@pytest.mark.parametrize("frames", FRAME_CONDITIONINGS)
def test_from_one_to_eight_past_frames(frames, num_frames):
    conditioning = replace(LIGHT, num_frames=num_frames, frames=frames, action_width=4)  # 12 / 8 would be no width
    network = awake(conditioning)
    out = network(torch.randn(2, 3, 8, 8), torch.zeros(2), torch.randn(2, 3 * num_frames, 8, 8), torch.zeros(2, num_frames).long())
    assert out.isfinite().all()
    assert network.action_embedding.weight.shape == (ACTIONS, 4)


@pytest.mark.parametrize("conditioning", [EVERYTHING, replace(EVERYTHING, actions="planes")], ids=named)
def test_runs_and_trains_under_bf16_autocast(conditioning):
    network, given = awake(conditioning), inputs()
    expected = network(*given)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(*given)
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).std() < 0.1 * expected.std()
    out.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("extras", [{}, {"action_width": 7, "action_dropout": 0.1, "frame_noise": 0.1, "attended_levels": (True, True)}])
@pytest.mark.parametrize("conditioning", WAYS, ids=named)
def test_counted_flops_and_parameters(conditioning, extras):
    conditioning = replace(conditioning, **({**extras, "action_dropout": 0.0} if conditioning.actions == "none" else extras))
    built = DenoiserNetwork(NETWORK, conditioning, ACTIONS)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        built(*inputs((9, 9)))
    assert counter.get_total_flops() == 2 * denoiser_flops(NETWORK, conditioning, 9)
    assert sum(p.numel() for p in built.parameters()) == denoiser_parameters(NETWORK, conditioning, ACTIONS)


def test_the_encoder_ends_at_the_deepest_attended_level():
    shallow = DenoiserNetwork(NETWORK, replace(LIGHT, frames="both", attended_levels=(True, False)), ACTIONS)
    assert len(shallow.frame_conditioning.down) == 1
    attending = {name.rpartition(".")[0] for name, module in shallow.named_modules() if name.endswith("cross_attention")}
    assert {name.rpartition(".blocks")[0] for name in attending} == {"unet.down.0", "unet.up.1"}
    deep = DenoiserNetwork(NETWORK, replace(LIGHT, frames="both"), ACTIONS)
    attending = {name.partition(".cross")[0] for name, module in deep.named_modules() if name.endswith("cross_attention")}
    assert {name.rpartition(".blocks")[0] or name.rpartition(".")[0] for name in attending} == {"unet.down.1", "unet.middle", "unet.up.0"}


@pytest.mark.parametrize("actions", ["group_norm", "planes"])
@pytest.mark.parametrize("width", [0, 5])
@torch.no_grad()
def test_withheld_actions_have_a_row_of_their_own(actions, width):
    network, (x, c_noise, past, _) = awake(replace(LIGHT, actions=actions, action_width=width, action_dropout=0.1)), inputs()
    outputs = [network(x, c_noise, past, torch.full((2, L), action)) for action in (WITHHELD, *range(ACTIONS))]
    assert network.action_embedding.num_embeddings == ACTIONS + 1
    assert min((outputs[0] - told).abs().max() for told in outputs[1:]) > 1e-4
    plain = awake(replace(LIGHT, actions=actions, action_width=width))
    assert plain.action_embedding.num_embeddings == ACTIONS
    with pytest.raises(IndexError):
        plain(x, c_noise, past, torch.full((2, L), WITHHELD))


def test_actions_are_withheld_from_whole_examples():
    recorder, (frames, actions, mask) = Recorder(), segments(b=400, steps=3, size=2)
    denoiser_of(replace(LIGHT, action_dropout=0.3), recorder).training_loss(frames, actions, mask, torch.Generator().manual_seed(0))
    withheld = recorder.actions[0][:, 0] == WITHHELD
    assert abs(withheld.float().mean() - 0.3) < 4 * (0.3 * 0.7 / 400) ** 0.5
    for i, told in enumerate(recorder.actions):
        assert torch.equal(told, torch.where(withheld[:, None], WITHHELD, actions[:, i : L + i]))
    assert recorder.frame_noise == [None] * 3


def test_dropout_and_frame_noise_of_zero_draw_nothing():
    frames, actions, mask = segments(steps=1)
    generator, expected = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    denoiser = denoiser_of(LIGHT, Recorder())
    denoiser.training_loss(frames, actions, mask, generator)
    denoiser.objective.draw(frames[:, L], expected)
    assert torch.equal(generator.get_state(), expected.get_state())
    for conditioning in (replace(LIGHT, action_dropout=0.1), replace(LIGHT, frame_noise=0.1)):
        generator = torch.Generator().manual_seed(0)
        denoiser_of(conditioning, Recorder()).training_loss(frames, actions, mask, generator)
        assert not torch.equal(generator.get_state(), expected.get_state())


def test_frame_noise_is_added_to_past_frames_alone_and_told():
    recorder, (frames, actions, mask) = Recorder(), segments(b=200, steps=2, size=16)
    mask[::2, 0] = False
    frames[::2, 0] = 0
    denoiser = denoiser_of(replace(LIGHT, frame_noise=0.4), recorder, rescale_past_frames=False)
    steps = denoiser.training_loss(frames, actions, mask, torch.Generator().manual_seed(0))[1]
    assert steps["loss"].isfinite()
    level = recorder.frame_noise[0]
    assert level is recorder.frame_noise[1]
    assert 0 <= level.min() < 0.02
    assert 0.38 < level.max() <= 0.4
    assert abs(level.mean() - 0.2) < 0.04
    added = recorder.past[0].unflatten(1, (L, 3)) - frames[:, :L]
    assert not added[::2, 0].any(), "padding stays exactly 0"
    torch.testing.assert_close(added[:, 1:].std(dim=(1, 2, 3, 4)), level, rtol=0.1, atol=1e-3)
    again = recorder.past[1].unflatten(1, (L, 3))[:, :2] - frames[:, 1:L]  # the frames that both steps see
    for place in (0, 1):  # drawn afresh for each step: neither the frame's noise goes with it, nor that of its place
        assert (again[1::2, 0] - added[1::2, place]).abs().max() > 0.1
    torch.testing.assert_close(again.std(dim=(1, 2, 3, 4)), level, rtol=0.1, atol=1e-3)


@torch.no_grad()
def test_frame_noise_reaches_the_models_own_frames_but_not_what_is_kept():
    """A network that says nothing has known predictions: the last past frame of the second step is that plus noise of the told level."""
    recorder, (frames, actions, mask) = Recorder(), segments(b=100, steps=2, size=16)
    denoiser = denoiser_of(replace(LIGHT, frame_noise=0.4), recorder, rescale_past_frames=False)
    generator = torch.Generator().manual_seed(0)
    noise = denoiser._draw_frame_noise(frames, generator)
    steps = denoiser.unroll(frames, actions, mask, lambda clean: denoiser.objective.draw(clean, generator), noise)
    own = recorder.past[1].unflatten(1, (L, 3))[:, -1] - steps[0].denoised
    torch.testing.assert_close(own.std(dim=(1, 2, 3)), noise.level, rtol=0.15, atol=1e-3)


@torch.no_grad()
def test_sampling_is_told_of_no_frame_noise():
    network, given = awake(replace(LIGHT, frame_noise=0.4)), inputs()
    assert torch.equal(network(*given), network(*given, frame_noise=torch.zeros(2)))
    assert (network(*given, frame_noise=torch.full((2,), 0.4)) - network(*given)).abs().max() > 1e-4
    fresh = DenoiserNetwork(NETWORK, replace(LIGHT, frame_noise=0.4), ACTIONS)
    assert not fresh.frame_noise(torch.rand(2)).any()
    with pytest.raises(ValueError, match="frame_noise"):
        awake(LIGHT)(*given, frame_noise=torch.zeros(2))
    recorder = Recorder()
    past = torch.rand(2, L, 3, 8, 8)
    denoiser = denoiser_of(replace(LIGHT, frame_noise=0.4), recorder, rescale_past_frames=False)
    denoiser.denoise(given[0], torch.tensor(1.0), past, given[3])
    assert recorder.frame_noise == [None]
    assert torch.equal(recorder.past[0], past.flatten(1, 2))


@pytest.mark.parametrize("w", [0.0, 0.5, 1.0, 3.0])
@torch.no_grad()
def test_guidance_by_actions(w):
    denoiser, (x, _, _, actions) = denoiser_of(replace(LIGHT, action_dropout=0.1)), inputs()
    past = torch.rand(2, L, 3, 8, 8) * 2 - 1
    sampler, calls = OdeSampler(num_steps=1, guidance=w, quantize="final"), []
    frame = sample(denoiser, past, actions, sampler, lambda: x, lambda *call: calls.append(call))
    sigma = torch.full((2,), calls[0][2])
    told = denoiser.denoise(x, sigma, past, actions)
    free = denoiser.denoise(x, sigma, past, torch.full_like(actions, WITHHELD))
    assert (told - free).abs().max() > 1e-3
    expected = told if w == 1 else free + w * (told - free)
    assert (frame - quantize(expected, "truncate")).abs().max() < 0.0079  # a level, where rounding errors meet its border
    assert (frame - quantize(expected, "truncate")).abs().mean() < 1e-3
    assert len(calls) == (1 if w == 1 else 2)
    calls.clear()
    sample(denoiser, past, actions, replace(sampler, num_steps=3), lambda: x, lambda *call: calls.append(call))
    assert len(calls) == (3 if w == 1 else 6)


def test_guidance_without_action_dropout_is_refused(tmp_path):
    run = RunConfig(sampler=OdeSampler(guidance=2.0))
    with pytest.raises(UserError, match=r"sampler.guidance=2.0: .*conditioning.action_dropout"):
        check_run(run)
    check_run(replace(run, conditioning=ConditioningConfig(action_dropout=0.1)))
    model = build_world_model(FactoredObjective(), LIGHT, NETWORK, ACTIONS)
    with pytest.raises(UserError, match=r"conditioning\.action_dropout"):
        model.predict(torch.zeros(1, L, 3, 8, 8), torch.zeros(1, L).long(), run.sampler, lambda: torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("conditioning", [EVERYTHING, replace(EVERYTHING, actions="planes", frames="cross_attention")], ids=named)
def test_kept_and_read_back(conditioning, tmp_path):
    model = build_world_model(FactoredObjective(), conditioning, NETWORK, ACTIONS)
    for parameter in model.denoiser.parameters():
        nn.init.normal_(parameter, std=0.2)
    save_world_model(model, tmp_path)
    back = load_world_model(tmp_path)
    assert back.description == model.description
    assert (back.denoiser.action_dropout, back.denoiser.frame_noise) == (0.5, 0.5)
    given = (torch.rand(2, L, 3, 8, 8), torch.ones(2, L).long(), OdeSampler(guidance=1.5), lambda: torch.ones(2, 3, 8, 8))
    assert torch.equal(back.predict(*given), model.predict(*given))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"frames": "stak"}, r"conditioning.frames='stak': did you mean stack\?"),
        ({"actions": "plane"}, r"conditioning.actions='plane': did you mean planes\?"),
        ({"actions": "none", "action_dropout": 0.1}, "conditioning.action_dropout=0.1: .*actions=none"),
        ({"frames": "both", "history_depths": (1,)}, "conditioning.history_depths has 1: .*network.channels has 2"),
        ({"frames": "cross_attention", "history_channels": (8, 8, 8)}, "conditioning.history_channels has 3"),
        ({"frames": "both", "attended_levels": (True,) * 4}, "conditioning.attended_levels has 4"),
        ({"frames": "both", "attended_levels": (False, False)}, r"conditioning.attended_levels=\[False, False\]: .*one level at least"),
        ({"frames": "both", "history_channels": (8, 65)}, "conditioning.history_channels=.*65 wide, not divisible by its 2 groups"),
        ({"num_frames": 5}, "network.cond_channels=12: .*conditioning.num_frames=5 .*conditioning.action_width"),
    ],
)
def test_conditionings_that_cannot_be_built_are_refused(changes, says):
    for refuse in (lambda c: check_network(NETWORK, c), lambda c: DenoiserNetwork(NETWORK, c, ACTIONS)):
        with pytest.raises(UserError, match=says):
            refuse(replace(LIGHT, **changes))


def test_attention_needs_heads_that_divide_the_widths_it_is_given():
    network = replace(NETWORK, channels=(8, 28), attention=(False, False), depths=(1, 1))
    with pytest.raises(UserError, match="an attention is 28 wide"):  # the middle's
        check_network(network, LIGHT)
    network = replace(NETWORK, channels=(28, 16), attention=(False, False))
    check_network(network, LIGHT)
    with pytest.raises(UserError, match="an attention is 28 wide"):
        check_network(network, replace(LIGHT, frames="both", attended_levels=(True, False)))


@pytest.mark.parametrize(
    "changes", [{"num_frames": 5, "action_width": 3}, {"num_frames": 5, "actions": "planes"}, {"num_frames": 8, "actions": "none"}]
)
def test_a_condition_of_any_width_serves_any_number_of_frames(changes):
    check_network(NETWORK, replace(LIGHT, **changes))
    assert DenoiserNetwork(NETWORK, replace(LIGHT, **changes), ACTIONS).conv_out.out_channels == 3


@pytest.mark.parametrize(
    "changes", [{"frames": "both"}, {"actions": "planes"}, {"action_width": 8}, {"action_dropout": 0.1}, {"frame_noise": 0.1}]
)
def test_what_the_authors_format_cannot_say_is_not_exported(changes):
    agent = small_agent()
    states = {component: network.state_dict() for component, network in agent.networks.items()}
    conditioning = replace(agent.description.conditioning, **changes)
    with pytest.raises(UserError, match=f"cannot be exported: .*conditioning.{next(iter(changes))}="):
        authors_state(replace(agent.description, conditioning=conditioning), states)
    unused = replace(agent.description.conditioning, history_depths=(2, 2))  # of no use where frames are stacked
    assert authors_state(replace(agent.description, conditioning=unused), states).keys()


class LastFrame(nn.Module):
    """Somebody's own way: the last frame alone."""

    num_planes = 3
    history_widths: tuple[int, ...] = ()

    def __init__(self, network, conditioning, num_actions, image_channels):
        super().__init__()

    def tell(self, past, actions):
        return Told(planes=past[:, -3:])


class AttendedActions(nn.Module):
    """Somebody's own way: a token an action, for the deepest level to attend to."""

    num_planes = 0

    def __init__(self, network, conditioning, num_actions, image_channels):
        super().__init__()
        self.history_widths = (*[0] * (len(network.channels) - 1), 6)
        self.table = nn.Embedding(num_actions, 6)

    def tell(self, past, actions):
        return Told(history=(*[None] * (len(self.history_widths) - 1), self.table(actions)))


@torch.no_grad()
def test_a_registered_way_is_one_line(monkeypatch):
    monkeypatch.setitem(FRAME_CONDITIONINGS, "last", f"{__name__}:LastFrame")
    monkeypatch.setitem(ACTION_CONDITIONINGS, "attended", f"{__name__}:AttendedActions")
    conditioning = replace(LIGHT, frames="last", actions="attended")
    network, (x, c_noise, past, actions) = awake(conditioning), inputs()
    base = network(x, c_noise, past, actions)
    earlier = past.clone()
    earlier[:, :-3] += 1
    assert torch.equal(network(x, c_noise, earlier, actions), base)
    assert not torch.equal(network(x, c_noise, past + 1, actions), base)
    assert not torch.equal(network(x, c_noise, past, actions + 1), base)
    assert 0 < denoiser_parameters(NETWORK, conditioning, ACTIONS) < sum(p.numel() for p in network.parameters())
    both = awake(replace(LIGHT, frames="both", actions="attended", attended_levels=(True, False)))
    assert not torch.equal(both(x, c_noise, past, actions + 1), both(x, c_noise, past, actions))
    assert not torch.equal(both(x, c_noise, past + 1, actions), both(x, c_noise, past, actions))
    with pytest.raises(UserError, match="same level"):
        DenoiserNetwork(NETWORK, replace(LIGHT, frames="both", actions="attended"), ACTIONS)
