"""What the denoiser is told of past frames and actions, for every way in which they can enter."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from golden_files import small_agent
from small_denoisers import ACTIONS, LIGHT, NETWORK, L, awake, denoiser_of, inputs, segments
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diamond_bench.config import (
    ACTION_CONDITIONINGS,
    FRAME_CONDITIONINGS,
    ConditioningConfig,
    ConditioningOption,
    FactoredObjective,
    OdeSampler,
)
from diamond_bench.errors import UserError
from diamond_bench.models.authors_checkpoint import authors_state
from diamond_bench.models.conditioning import ConditioningInputs, withheld
from diamond_bench.models.cost import ConditioningCost, embedding
from diamond_bench.models.denoiser_cost import denoiser_cost
from diamond_bench.models.denoiser_network import DenoiserNetwork, FourierFeatures
from diamond_bench.models.shape import check_network
from diamond_bench.models.unet import UNet
from diamond_bench.spaces import ActionSpec, FrameSpec
from diamond_bench.worlds.diamond.world import Description, build_diamond
from diamond_bench.worlds.families import load_world_model

WAYS = [replace(LIGHT, frames=frames, actions=actions) for frames, actions in product(FRAME_CONDITIONINGS, ACTION_CONDITIONINGS)]
ATTENDING = [replace(LIGHT, frames=frames) for frames in ("cross_attention", "both")]
COLUMNS, CONTINUOUS = ActionSpec.columns((2, 3)), ActionSpec.continuous((-1.0, 0.0), (1.0, 4.0))
GIVEN = ActionSpec.discrete(ACTIONS), FrameSpec(9, 14)
EVERYTHING = replace(LIGHT, frames="both", action_width=5, action_dropout=0.5, frame_noise=0.5)


def named(conditioning: ConditioningConfig) -> str:
    return f"{conditioning.frames}-{conditioning.actions}"


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


@pytest.mark.parametrize("extras", [{}, {"action_dropout": 0.5, "frame_noise": 0.5, "action_width": 7}], ids=["plain", "extras"])
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
def test_each_past_frame_and_action_matters_where_it_is_an_input(conditioning):
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
def test_the_order_of_attended_frames_matters():
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
    check_cost(conditioning)


@pytest.mark.parametrize("actions", ACTION_CONDITIONINGS)
def test_counted_flops_and_parameters_of_columns_of_actions(actions):
    for spec in (COLUMNS, CONTINUOUS):
        check_cost(replace(LIGHT, actions=actions, action_width=7), spec)


def check_cost(conditioning, spec=ActionSpec.discrete(ACTIONS)):
    """The stated cost is what torch counts of the network: FLOP of two rows, and parameters."""
    built = DenoiserNetwork(NETWORK, conditioning, spec)
    x, c_noise, past, actions = inputs((9, 14))
    if spec.trailing:
        actions = torch.ones(*actions.shape, 2).to(torch.float32 if spec.low else torch.int64)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        built(x, c_noise, past, actions)
    cost = denoiser_cost(NETWORK, conditioning, spec, FrameSpec(9, 14))
    assert counter.get_total_flops() == 2 * cost.flops
    assert sum(p.numel() for p in built.parameters()) == cost.parameters


def test_the_encoder_ends_at_the_deepest_attended_level():
    shallow = DenoiserNetwork(NETWORK, replace(LIGHT, frames="both", attended_levels=(True, False)), ACTIONS)
    assert len(shallow.frame_conditioning.down) == 1
    attending = {name.rpartition(".")[0] for name, module in shallow.named_modules() if name.endswith("cross_attention")}
    assert {name.rpartition(".blocks")[0] for name in attending} == {"unet.down.0", "unet.up.1"}
    deep = DenoiserNetwork(NETWORK, replace(LIGHT, frames="both"), ACTIONS)
    attending = {name.partition(".cross")[0] for name, module in deep.named_modules() if name.endswith("cross_attention")}
    assert {name.rpartition(".blocks")[0] or name.rpartition(".")[0] for name in attending} == {"unet.down.1", "unet.middle", "unet.up.0"}


@pytest.mark.parametrize("conditioning", [EVERYTHING, replace(EVERYTHING, actions="planes", frames="cross_attention")], ids=named)
def test_kept_and_read_back(conditioning, tmp_path):
    model = build_diamond(Description(FactoredObjective(), conditioning, NETWORK, ACTIONS), FrameSpec.square(8))
    for parameter in model.denoiser.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.save(tmp_path)
    back = load_world_model(tmp_path, FrameSpec.square(8))
    assert back.description == model.description
    assert (back.denoiser.action_dropout, back.denoiser.frame_noise) == (0.5, 0.5)
    given, sampler = (torch.rand(2, L, 3, 8, 8), torch.ones(2, L).long(), torch.ones_like), OdeSampler(guidance=1.5)
    assert torch.equal(back.bound(sampler).predict(*given), model.bound(sampler).predict(*given))


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
    "changes",
    [
        {"frames": "both"},
        {"actions": "planes"},
        {"action_width": 8},
        {"action_dropout": 0.1},
        {"frame_noise": 0.1},
        {"past_noise": "training"},
    ],
)
def test_what_the_authors_format_cannot_say_is_not_exported(changes):
    agent = small_agent()
    states = {component: network.state_dict() for component, network in agent.networks.items()}
    conditioning = replace(agent.description.conditioning, **changes)
    with pytest.raises(UserError, match=f"cannot be exported: .*conditioning.{next(iter(changes))}="):
        authors_state(replace(agent.description, conditioning=conditioning), states)
    unused = replace(agent.description.conditioning, history_depths=(2, 2))  # of no use where frames are stacked
    assert authors_state(replace(agent.description, conditioning=unused), states).keys()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@torch.no_grad()
def test_columns_of_actions_enter_as_a_linear_map_of_their_one_hots_or_numbers(dropout: float) -> None:
    """Computed again from the definition; every column of every past action changes the network's output, and so does withholding it."""
    discrete, numbers = torch.tensor([[1, 0], [0, 2], [1, 1]]), torch.tensor([[-1.0, 1.0], [0.5, 4.0], [1.0, 0.0]])
    one_hots = torch.tensor([[0.0, 1, 1, 0, 0], [1, 0, 0, 0, 1], [0, 1, 0, 1, 0]])
    scaled = torch.tensor([[-1.0, -0.5], [0.5, 1.0], [1.0, -1.0]])
    for spec, actions, rows in ((COLUMNS, discrete, one_hots), (CONTINUOUS, numbers, scaled)):
        for ways in ("group_norm", "planes"):
            conditioning = replace(LIGHT, actions=ways, action_dropout=dropout)
            network = awake(conditioning, actions=spec)
            table = network.action_embedding
            assert len(table.weight) == spec.width + (dropout > 0)
            expected = rows @ table.weight[: spec.width] / 2**0.5
            torch.testing.assert_close(table(actions[None])[0], expected)
            x, c_noise, past, _ = inputs(size=(24, 40), b=1)
            base = network(x, c_noise, past, actions[None])
            assert base.shape == x.shape
            for step, column in product(range(L), range(2)):
                changed = actions.clone()
                changed[step, column] = spec.low[column] + 0.1 if spec.low else (actions[step, column] + 1) % spec.sizes[column]
                assert (network(x, c_noise, past, changed[None]) - base).abs().max() > 1e-4, (ways, step, column)
            missing = actions.clone()
            missing[1] = withheld(actions)
            if dropout:
                torch.testing.assert_close(table(missing[None])[0, 1], table.weight[-1])
            elif spec.low:
                assert network(x, c_noise, past, missing[None]).isnan().any()
            else:
                with pytest.raises(IndexError):
                    network(x, c_noise, past, missing[None])


@pytest.mark.parametrize("spec", [COLUMNS, CONTINUOUS], ids=str)
def test_columns_of_actions_are_withheld_together(spec: ActionSpec) -> None:
    """With a dropout of nearly 1 the loss is that of withheld actions; without, it depends on every column."""
    frames, _, mask = segments()
    actions = torch.tensor([[1.0, 1.0]]).expand(4, frames.shape[1], 2).to(torch.float32 if spec.low else torch.int64)
    free = torch.full_like(actions, withheld(actions))
    conditioning = replace(LIGHT, action_dropout=0.99)
    denoiser = denoiser_of(conditioning, awake(conditioning, actions=spec))

    def loss(actions: torch.Tensor) -> torch.Tensor:
        return denoiser.training_loss(frames, actions, mask, torch.Generator().manual_seed(1))[0]

    assert torch.equal(loss(actions), loss(free))
    denoiser.action_dropout = 1e-9
    assert not torch.equal(loss(actions), loss(free))
    assert loss(actions).isfinite()


class LastFrame(nn.Module):
    """Somebody's own way: the last frame alone."""

    num_planes = 3
    history_widths: tuple[int, ...] = ()

    def __init__(self, network, conditioning, actions, image_channels):
        super().__init__()

    def encode(self, past, actions):
        return ConditioningInputs(planes=past[:, -3:])


class AttendedActions(nn.Module):
    """Somebody's own way: a token an action, for the deepest level to attend to."""

    num_planes = 0

    def __init__(self, network, conditioning, actions, image_channels):
        super().__init__()
        self.history_widths = (*[0] * (len(network.channels) - 1), 6)
        self.table = nn.Embedding(actions.width, 6)

    def encode(self, past, actions):
        return ConditioningInputs(history=(*[None] * (len(self.history_widths) - 1), self.table(actions)))


def last_frame_cost(network, conditioning, actions, frames):
    return ConditioningCost(planes=3)


def attended_actions_cost(network, conditioning, actions, frames):
    others = [0] * (len(network.channels) - 1)
    return ConditioningCost(embedding(actions.width, 6), 0, (*others, 6), (*others, conditioning.num_frames))


@torch.no_grad()
def test_a_registered_way_is_one_line(monkeypatch):
    monkeypatch.setitem(FRAME_CONDITIONINGS, "last", ConditioningOption(f"{__name__}:LastFrame", f"{__name__}:last_frame_cost"))
    attended = ConditioningOption(f"{__name__}:AttendedActions", f"{__name__}:attended_actions_cost")
    monkeypatch.setitem(ACTION_CONDITIONINGS, "attended", attended)
    conditioning = replace(LIGHT, frames="last", actions="attended")
    network, (x, c_noise, past, actions) = awake(conditioning), inputs()
    base = network(x, c_noise, past, actions)
    earlier = past.clone()
    earlier[:, :-3] += 1
    assert torch.equal(network(x, c_noise, earlier, actions), base)
    assert not torch.equal(network(x, c_noise, past + 1, actions), base)
    assert not torch.equal(network(x, c_noise, past, actions + 1), base)
    check_cost(conditioning)
    check_cost(replace(LIGHT, frames="both", actions="attended", attended_levels=(True, False)))
    both = awake(replace(LIGHT, frames="both", actions="attended", attended_levels=(True, False)))
    assert not torch.equal(both(x, c_noise, past, actions + 1), both(x, c_noise, past, actions))
    assert not torch.equal(both(x, c_noise, past + 1, actions), both(x, c_noise, past, actions))
    for build in (DenoiserNetwork, denoiser_cost):
        with pytest.raises(UserError, match="same level"):
            build(NETWORK, replace(LIGHT, frames="both", actions="attended"), *((ACTIONS,) if build is DenoiserNetwork else GIVEN))


def test_a_conditioning_that_states_no_cost_is_refused(monkeypatch):
    monkeypatch.setitem(FRAME_CONDITIONINGS, "last", f"{__name__}:LastFrame")
    with pytest.raises(UserError, match=r"conditioning\.frames=last: .*does not state its cost"):
        check_network(NETWORK, replace(LIGHT, frames="last"))
