"""The actor-critic, its lambda-returns and its loss: golden parity, episode ends, memory, initialisation, cost."""

import dataclasses

import pytest
import torch
from golden_files import assert_near, golden, golden_json, small_agent
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diamond_bench.config import ActorCriticConfig
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.errors import UserError
from diamond_bench.models.actor_critic import ActorCritic
from diamond_bench.models.actor_critic_cost import actor_critic_cost
from diamond_bench.models.authors_names import authors_names
from diamond_bench.models.shape import actor_critic_features
from diamond_bench.spaces import ActionSpec, FrameSpec
from diamond_bench.training.actor_critic import Rollout, actor_critic_loss, lambda_returns
from diamond_bench.training.optimizer import make_optimizer, set_learning_rate

UNEVEN = ActorCriticConfig(channels=(8, 16, 64), down=(True, False, True), lstm_dim=12)


def awake(config: ActorCriticConfig, frame_size: int, **options) -> ActorCritic:
    """A network without the zeros it starts with."""
    torch.manual_seed(0)
    network = ActorCritic(config, 5, frame_size, **options)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network


def frames(t: int, size: int, b: int = 2) -> Tensor:
    return torch.rand((b, t, 3, size, size), generator=torch.Generator().manual_seed(1)) * 2 - 1


def golden_rollout() -> Rollout:
    g = golden("actor_critic.npz")
    names = ("loss_logits", "loss_value", "loss_act", "loss_rew", "loss_end", "loss_trunc", "loss_val_bootstrap")
    logits, values, actions, rewards, ends, truncations, bootstraps = (g[name].clone() for name in names)
    logits.requires_grad_()
    values.requires_grad_()
    return Rollout(logits, values, actions, rewards, ends.bool(), truncations.bool(), bootstraps)


@torch.no_grad()
@pytest.mark.parametrize("case", ["zero", "given"])
def test_outputs_and_states_are_golden(case):
    g, network = golden("actor_critic.npz"), small_agent().actor_critic
    state = (g["hx0"], g["cx0"]) if case == "given" else network.initial_state(4)
    seen = from_bytes(g["obs_u8"])
    for t in range(5):
        out = network(seen[:, t], state)
        state = out.state
        assert_near(out.logits, g[f"{case}_logits"][:, t])
        assert_near(out.value, g[f"{case}_value"][:, t])
        assert_near(state[0], g[f"{case}_hx"][:, t])
        assert_near(state[1], g[f"{case}_cx"][:, t])


@torch.no_grad()
def test_encoder_output_is_golden():
    g = golden("actor_critic.npz")
    assert_near(small_agent().actor_critic.encoder(from_bytes(g["obs_u8"])[:1, 0]), g["encoder_output_first"])


@pytest.mark.parametrize("case", range(5))
def test_lambda_returns_are_golden(case):
    g = golden("actor_critic.npz")
    rewards, ends, truncations, bootstraps = (g[f"lam{case}_{name}"] for name in ("rew", "end", "trunc", "val_bootstrap"))
    returns = lambda_returns(rewards, ends.bool(), truncations.bool(), bootstraps, *g[f"lam{case}_gamma_lambda"].tolist())
    assert_near(returns, g[f"lam{case}_returns"], rtol=1e-5, atol=1e-5)


def returns_of(end: tuple[int, ...] = (), cut: tuple[int, ...] = (), discount: float = 0.5, trace_decay: float = 1.0) -> list[float]:
    """Of four steps of raw rewards 3, 0, -2, 1 and bootstraps 10, 20, 40, 80."""
    ends, truncations = (torch.tensor([[t in where for t in range(4)]]) for where in (end, cut))
    rewards, bootstraps = torch.tensor([[3.0, 0.0, -2.0, 1.0]]), torch.tensor([[10.0, 20.0, 40.0, 80.0]])
    return lambda_returns(rewards, ends, truncations, bootstraps, discount, trace_decay)[0].tolist()


def test_lambda_returns_by_hand():
    assert returns_of() == [1 + (0 + (-1 + 41 / 2) / 2) / 2, (-1 + 41 / 2) / 2, -1 + 41 / 2, 1 + 80 / 2]
    assert returns_of(trace_decay=0.0) == [1 + 5, 10, -1 + 20, 1 + 40], "one step, then the value"
    assert returns_of(trace_decay=0.5)[2:] == [-1 + (40 + 41) / 4, 41]
    assert returns_of(discount=0.0) == [1, 0, -1, 1], "signs of the rewards"


def test_an_end_has_no_bootstrap_and_nothing_after_it_counts():
    assert returns_of(end=(1,)) == [1 + 0 / 2, 0, -1 + 41 / 2, 41]
    assert returns_of(end=(3,)) == [1 + (-1 + 1 / 2) / 4, (-1 + 1 / 2) / 2, -1 + 1 / 2, 1]


def test_a_truncation_bootstraps_with_the_value_of_what_was_reached():
    assert returns_of(cut=(1,)) == [1 + 10 / 2, 20 / 2, -1 + 41 / 2, 41]
    assert returns_of(cut=(1,), trace_decay=0.5)[1] == 10, "in full, not by 1 - lambda"


def test_an_end_wins_over_a_truncation_in_the_same_step():
    assert returns_of(end=(1,), cut=(1,)) == returns_of(end=(1,))
    assert returns_of(end=(3,), cut=(3,)) == returns_of(end=(3,))


def test_loss_parts_and_gradients_are_golden():
    g, rollout = golden("actor_critic.npz"), golden_rollout()
    discount, trace_decay, value_weight, entropy_weight = g["loss_hparams"].tolist()
    config = ActorCriticConfig(discount=discount, trace_decay=trace_decay, value_weight=value_weight, entropy_weight=entropy_weight)
    loss, metrics = actor_critic_loss(rollout, config)
    loss.backward()
    for ours, theirs in {
        "loss": "loss_total",
        "loss_actions": "loss_actions",
        "loss_values": "loss_values",
        "loss_entropy": "loss_entropy",
        "policy_entropy_bits": "loss_policy_entropy_bits",
    }.items():
        assert_near(metrics[ours][None], g[theirs], rtol=1e-5, atol=1e-5)
    assert_near(rollout.logits.grad, g["loss_grad_logits"], rtol=1e-4, atol=1e-7)
    assert_near(rollout.values.grad, g["loss_grad_value"], rtol=1e-4, atol=1e-7)


def test_nothing_is_read_back_by_the_host():
    """Tensors without values cannot be: where one is read, torch raises."""
    rollout, network = golden_rollout(), awake(UNEVEN, 22).to("meta")
    on_meta = {field.name: getattr(rollout, field.name).detach().to("meta") for field in dataclasses.fields(rollout)}
    seen = frames(3, 22, b=4).to("meta")
    out = network(seen[:, 0], network.burn_in(seen, network.initial_state(4)))
    values = on_meta["values"] + out.value[:, None]  # with gradient
    loss, _ = actor_critic_loss(dataclasses.replace(Rollout(**on_meta), values=values), ActorCriticConfig())
    loss.backward()


def test_no_gradient_flows_into_targets():
    rollout = golden_rollout()
    bootstraps = rollout.bootstraps.clone().requires_grad_()
    loss, _ = actor_critic_loss(dataclasses.replace(rollout, bootstraps=bootstraps), ActorCriticConfig())
    loss.backward()
    assert bootstraps.grad is None


@torch.no_grad()
def test_the_state_carries_what_was_seen():
    network, seen = awake(UNEVEN, 22), frames(3, 22)
    first = network(seen[:, 0], network.initial_state(2))
    again = network(seen[:, 0], first.state)
    assert (first.logits - again.logits).abs().max() > 1e-3
    assert (first.value - again.value).abs().max() > 1e-4
    assert (network.initial_state(2)[0] == 0).all()


def test_burning_in_is_seeing_frame_after_frame_with_gradient():
    network, seen = awake(UNEVEN, 22), frames(3, 22)
    state = network.initial_state(2)
    for t in range(3):
        state = network(seen[:, t], state).state
    burnt = network.burn_in(seen, network.initial_state(2))
    assert_near(burnt[0], state[0])
    assert_near(burnt[1], state[1])
    burnt[0].sum().backward()
    assert network.encoder.conv_in.weight.grad.abs().sum() > 0
    assert network.burn_in(seen[:, :0], state) is state, "nothing seen, nothing changed"


def test_it_learns_to_take_the_rewarded_action():
    """The action is the frame's brightness: bright wants 1, dark wants 0."""
    torch.manual_seed(0)
    config = ActorCriticConfig((4,), (True,), 8, learning_rate=1e-2, warmup_steps=0)
    network = ActorCritic(config, 2, 4)
    optimizer = make_optimizer(network, config)
    generator = torch.Generator().manual_seed(0)
    bright = torch.arange(16).reshape(16, 1).remainder(2)
    seen = (bright * 2.0 - 1)[:, :, None, None, None].expand(-1, -1, 3, 4, 4)
    for step in range(150):
        set_learning_rate(optimizer, config, step)
        out = network(seen[:, 0], network.initial_state(16))
        actions = torch.multinomial(out.logits.detach().softmax(1), 1, generator=generator)
        over = torch.ones(16, 1, dtype=torch.bool)
        rollout = Rollout(out.logits[:, None], out.value[:, None], actions, (actions == bright).float(), over, ~over, torch.zeros(16, 1))
        loss, metrics = actor_critic_loss(rollout, config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    chance = network(seen[:, 0], network.initial_state(16)).logits.softmax(1).gather(1, bright)
    assert chance.min() > 0.9
    assert metrics["policy_entropy_bits"] < 0.5
    assert out.value.mean().item() == pytest.approx(1.0, abs=0.2)


@torch.no_grad()
def test_a_fresh_policy_is_uniform_and_values_are_zero():
    network = ActorCritic(UNEVEN, 5, 22)
    out = network(frames(1, 22)[:, 0], network.initial_state(2))
    assert (out.logits == 0).all()
    assert (out.value == 0).all()


@pytest.mark.parametrize("num_actions", [4, 18])
def test_names_shapes_and_parameters_of_the_published_network(num_actions):
    facts = golden_json("state_dict_shapes_full.json")[f"num_actions_{num_actions}"]
    expected = [(e["name"], e["shape"]) for e in facts["state_dict"] if e["name"].startswith("actor_critic.")]
    with torch.device("meta"):
        network = ActorCritic(ActorCriticConfig(), num_actions, 64)
    state = network.state_dict()
    names = authors_names("actor_critic", state, ActorCriticConfig().down)
    assert [(f"actor_critic.{theirs}", list(state[ours].shape)) for theirs, ours in names.items()] == expected, "names, shapes and order"
    counted = sum(p.numel() for p in network.parameters())
    cost = actor_critic_cost(ActorCriticConfig(), ActionSpec.discrete(num_actions), FrameSpec.square(64))
    assert counted == cost.parameters == facts["parameter_counts"]["actor_critic"]


def test_counted_parameters_and_flops_of_an_uneven_shape():
    network, seen = awake(UNEVEN, 27), FrameSpec.square(27)
    cost = actor_critic_cost(UNEVEN, ActionSpec.discrete(5), seen)
    assert sum(p.numel() for p in network.parameters()) == cost.parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.encoder(frames(1, 27)[:, 0])
        network.actor(torch.zeros(2, UNEVEN.lstm_dim))
        network.critic(torch.zeros(2, UNEVEN.lstm_dim))
    lstm = 2 * 4 * UNEVEN.lstm_dim * (actor_critic_features(UNEVEN, seen) + UNEVEN.lstm_dim)  # fused kernels are not in torch's table
    assert counter.get_total_flops() == 2 * (cost.flops - lstm)


@torch.no_grad()
def test_channels_last_gives_the_same_numbers():
    network, seen = awake(UNEVEN, 24), frames(1, 24)[:, 0]
    expected = network(seen, network.initial_state(2))
    out = network.to(memory_format=torch.channels_last)(seen, network.initial_state(2))
    assert_near(out.logits, expected.logits, atol=1e-4)


def test_bf16_runs_the_convolutions_alone():
    exact, network, seen = awake(UNEVEN, 24), awake(UNEVEN, 24, precision="bf16"), frames(1, 24)[:, 0]
    expected, out = exact(seen, exact.initial_state(2)), network(seen, network.initial_state(2))
    assert out.logits.dtype == out.value.dtype == out.state[1].dtype == torch.float32
    assert 0 < (out.logits - expected.logits).abs().max() < 0.05 * expected.logits.abs().max()
    (out.logits.square().mean() + out.value.square().mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (ActorCriticConfig(channels=(32, 32)), "actor_critic.channels has 2, actor_critic.down has 4"),
        (ActorCriticConfig(channels=(32, 32, 64, 65)), "actor_critic.channels=(32, 32, 64, 65)"),
        (ActorCriticConfig(channels=(8,) * 5, down=(True,) * 5), "5 max-poolings are too many for a frame of side 16"),
    ],
)
def test_networks_that_cannot_be_built_are_refused(config, says):
    with pytest.raises(UserError) as refusal:
        ActorCritic(config, 4, 16)
    assert says in str(refusal.value)
