"""The denoiser's network: names, initialisation, cost, memory formats and precision."""

import pytest
import torch
from golden_files import golden_json, small_network
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diamond_bench.config import ConditioningConfig, NetworkConfig
from diamond_bench.errors import UserError
from diamond_bench.models.authors_names import network_name, network_state
from diamond_bench.models.denoiser_cost import denoiser_cost
from diamond_bench.models.denoiser_network import DenoiserNetwork
from diamond_bench.spaces import ActionSpec, FrameSpec

UNEVEN = NetworkConfig(depths=(1, 2, 1), channels=(16, 32, 64), attention=(False, True, True), cond_channels=24)


def batch(network_frames: int, size: tuple[int, int], b: int = 2):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(b, 3, *size, generator=generator)
    past = torch.randn(b, network_frames * 3, *size, generator=generator)
    return x, torch.linspace(-1, 1, b), past, torch.arange(network_frames).repeat(b, 1)


def awake(network: NetworkConfig, num_frames: int = 4) -> DenoiserNetwork:
    """A network without the zeros it starts with."""
    built = DenoiserNetwork(network, ConditioningConfig(num_frames), 8)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return built


@pytest.mark.parametrize("num_actions", [4, 18])
def test_names_shapes_and_parameters_of_the_published_network(num_actions):
    facts = golden_json("state_dict_shapes_full.json")[f"num_actions_{num_actions}"]
    prefix = "denoiser.inner_model."
    expected = {network_name(e["name"].removeprefix(prefix)): e["shape"] for e in facts["state_dict"] if e["name"].startswith(prefix)}
    network = DenoiserNetwork(NetworkConfig(), ConditioningConfig(), num_actions)
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == expected
    trained = sum(p.numel() for p in network.parameters())
    cost = denoiser_cost(NetworkConfig(), ConditioningConfig(), ActionSpec.discrete(num_actions), FrameSpec.square(64))
    assert trained == cost.parameters == facts["parameter_counts"]["denoiser"]


def test_a_foreign_state_dict_is_refused():
    with pytest.raises(KeyError, match=r"denoiser\.inner_model"):
        network_state({"actor_critic.lstm.bias": torch.zeros(1)})


def test_initialisation():
    """Every tensor has the spread, range and zeros of the authors' fresh network (one sample of each)."""
    torch.manual_seed(0)
    state = DenoiserNetwork(NetworkConfig(), ConditioningConfig(), 18).state_dict()
    expected = network_state(golden_json("init_stats_full.json")["tensors"], "denoiser.inner_model.")
    assert expected.keys() == state.keys()
    for name, facts in expected.items():
        tensor = state[name]
        assert bool((tensor == 0).all()) == facts["all_zero"], name
        n = tensor.numel()
        if n >= 64 and facts["std"] > 0:
            tolerance = 6 / n**0.5
            assert tensor.std().item() == pytest.approx(facts["std"], rel=tolerance), name
            assert abs(tensor.mean().item() - facts["mean"]) < tolerance * facts["std"] + 1e-6, name
        if n >= 1024 and "frequencies" not in name and "embedding" not in name and "resample" not in name:  # uniform: sharp edges
            assert tensor.abs().max().item() == pytest.approx(max(facts["max"], -facts["min"]), rel=0.01, abs=1e-9), name
        if tensor.ndim == 1 and n >= 16:
            assert tensor.mean().item() == pytest.approx(facts["mean"], abs=3 * facts["std"] + 1e-9), name


def test_downsampling_starts_orthogonal():
    network = DenoiserNetwork(small_network(), ConditioningConfig(), 6)
    weight = network.unet.down[1].resample.conv.weight.flatten(1)
    torch.testing.assert_close(weight @ weight.T, torch.eye(len(weight)), atol=1e-5, rtol=0)


def test_a_fresh_network_says_a_constant_per_channel():
    out = DenoiserNetwork(small_network(), ConditioningConfig(), 6)(*batch(4, (16, 16)))
    assert torch.equal(out, out[:1, :, :1, :1].expand_as(out))


@pytest.mark.parametrize(("network", "num_frames", "size"), [(small_network(), 4, 32), (UNEVEN, 3, 30), (UNEVEN, 4, 64)])
def test_counted_flops_and_parameters(network, num_frames, size):
    built = DenoiserNetwork(network, ConditioningConfig(num_frames), 8)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        built(*batch(num_frames, (size, size), b=2))
    cost = denoiser_cost(network, ConditioningConfig(num_frames), ActionSpec.discrete(8), FrameSpec.square(size))
    assert counter.get_total_flops() == 2 * cost.flops
    assert sum(p.numel() for p in built.parameters()) == cost.parameters


def test_full_size_cost():
    cost = denoiser_cost(NetworkConfig(), ConditioningConfig(), ActionSpec.discrete(4), FrameSpec.square(64))
    assert 32 * cost.flops == pytest.approx(195e9, rel=0.01)


@torch.no_grad()
def test_channels_last_gives_the_same_numbers():
    network, inputs = awake(UNEVEN, 3), batch(3, (27, 30))
    expected = network(*inputs)
    x, c_noise, past, actions = inputs
    network = network.to(memory_format=torch.channels_last)
    x, past = (t.contiguous(memory_format=torch.channels_last) for t in (x, past))
    torch.testing.assert_close(network(x, c_noise, past, actions), expected, rtol=1e-4, atol=1e-4)


def test_runs_and_trains_under_bf16_autocast():
    network, inputs = awake(UNEVEN, 3), batch(3, (24, 24))
    expected = network(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        out = network(*inputs)
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected).std() < 0.1 * expected.std()
    out.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@torch.no_grad()
def test_every_action_and_past_frame_matters():
    network, (x, c_noise, past, actions) = awake(small_network()), batch(4, (16, 16))
    base = network(x, c_noise, past, actions)
    for i in range(4):
        other = actions.clone()
        other[:, i] = 7
        assert (network(x, c_noise, past, other) - base).abs().max() > 1e-4
        changed = past.clone()
        changed[:, 3 * i] += 1
        assert (network(x, c_noise, changed, actions) - base).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("network", "num_frames", "says"),
    [
        (NetworkConfig(), 3, "network.cond_channels=256"),
        (NetworkConfig(cond_channels=5), 5, "network.cond_channels=5"),
        (NetworkConfig(depths=(2, 2)), 4, "network.depths has 2"),
        (NetworkConfig(channels=(64, 64, 64, 65)), 4, "65"),
    ],
)
def test_networks_that_cannot_be_built_are_refused(network, num_frames, says):
    with pytest.raises(UserError) as refusal:
        DenoiserNetwork(network, ConditioningConfig(num_frames), 4)
    assert says in str(refusal.value)
