"""The reward/end model and its loss: golden parity, what a step is told, initialisation, cost."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from golden_files import assert_component_gradient_norms, assert_near, golden, golden_json, small_agent
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diamond_bench.config import RewardEndConfig
from diamond_bench.data.segments import RewardEndSegments
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.errors import UserError
from diamond_bench.models.authors_names import authors_names
from diamond_bench.models.reward_end_cost import reward_end_cost
from diamond_bench.models.reward_end_model import RewardEndModel
from diamond_bench.models.shape import reward_end_features, reward_end_stages
from diamond_bench.spaces import ActionSpec, FrameSpec
from diamond_bench.training.optimizer import make_optimizer
from diamond_bench.training.reward_end import precision_recall_f1, reward_end_loss

UNEVEN = RewardEndConfig(depths=(1, 2, 1), channels=(16, 24, 64), attention=(False, True, False), cond_channels=10, lstm_dim=12)


def small_model() -> RewardEndModel:
    model = small_agent().reward_end
    assert model is not None
    return model


def awake(config: RewardEndConfig, frame_size: int, **options) -> RewardEndModel:
    """A model without the zeros it starts with."""
    torch.manual_seed(0)
    model = RewardEndModel(config, 5, frame_size, **options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def steps(config_frame_size: int, b: int = 2, t: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand((2, b, t, 3, config_frame_size, config_frame_size), generator=generator) * 2 - 1
    return frames[0], torch.randint(5, (b, t), generator=generator), frames[1]


def golden_segments() -> RewardEndSegments:
    g = golden("rew_end.npz")
    ends = g["loss_end"].bool()
    return RewardEndSegments(
        frames=g["loss_obs_u8"],
        actions=g["loss_act"],
        rewards=g["loss_rew"],
        ends=ends,
        mask=g["loss_mask_padding"].bool(),
        final_frames=g["loss_final_obs_u8"],
        final_steps=ends,
    )


@torch.no_grad()
@pytest.mark.parametrize("case", ["zero", "given"])
def test_logits_and_states_are_golden(case):
    g, model = golden("rew_end.npz"), small_model()
    state = (g["hx0"], g["cx0"]) if case == "given" else None
    out = model(from_bytes(g["obs_u8"]), g["act"], from_bytes(g["next_obs_u8"]), state)
    assert_near(out.reward_logits, g[f"{case}_logits_rew"])
    assert_near(out.end_logits, g[f"{case}_logits_end"])
    assert_near(out.state[0], g[f"{case}_hx"])
    assert_near(out.state[1], g[f"{case}_cx"])


@torch.no_grad()
def test_encoder_output_is_golden():
    g, model = golden("rew_end.npz"), small_model()
    pair = torch.cat((from_bytes(g["obs_u8"])[:1, 0], from_bytes(g["next_obs_u8"])[:1, 0]), dim=1)
    assert_near(model.encoder(pair, model.action_embedding(g["act"][:1, 0])), g["encoder_output_first"])


def test_loss_gradients_and_confusions_are_golden():
    g, model = golden("rew_end.npz"), small_model()
    segments = golden_segments()
    assert torch.equal(segments.final_steps[:, :-1], g["loss_next_obs_changed"].bool()), "the final frame stands where an end occurs"
    assert segments.mask[4].sum() < 9, "row 4 is cut: the last real step leads to grey padding"
    assert not segments.final_steps[4].any()
    loss, metrics = reward_end_loss(model, segments)
    assert loss.item() == pytest.approx(g["loss_value_total"].item(), rel=1e-5, abs=1e-5)
    assert metrics["loss_reward"].item() == pytest.approx(g["loss_value_rew"].item(), rel=1e-5, abs=1e-5)
    assert metrics["loss_end"].item() == pytest.approx(g["loss_value_end"].item(), rel=1e-5, abs=1e-5)
    assert torch.equal(metrics["confusion_reward"].long(), g["loss_confusion_rew"])
    assert torch.equal(metrics["confusion_end"].long(), g["loss_confusion_end"])
    assert metrics["confusion_end"].sum() == g["loss_num_terms"]
    loss.backward()
    assert_component_gradient_norms(model, golden_json("grad_norms.json")["rew_end_model"], "rew_end_model")


@torch.no_grad()
def test_one_step_at_a_time_says_what_all_at_once_says():
    """The state carries over: imagination steps one by one through what training reads as a segment."""
    model, (frames, actions, next_frames) = awake(UNEVEN, 24), steps(24, t=4)
    whole = model(frames, actions, next_frames)
    state = None
    for t in range(4):
        out = model(frames[:, t : t + 1], actions[:, t : t + 1], next_frames[:, t : t + 1], state)
        state = out.state
        assert_near(out.reward_logits[:, 0], whole.reward_logits[:, t])
        assert_near(out.end_logits[:, 0], whole.end_logits[:, t])
    fresh = model(frames[:, 3:], actions[:, 3:], next_frames[:, 3:])
    assert (fresh.reward_logits[:, 0] - whole.reward_logits[:, 3]).abs().max() > 1e-3, "what came before is not told by the state"


@torch.no_grad()
@pytest.mark.parametrize("changed", ["frame", "next frame", "action"])
def test_a_step_depends_on_its_own_frames_and_action_and_on_earlier_ones(changed):
    model, (frames, actions, next_frames) = awake(UNEVEN, 24), steps(24, t=4)
    before = model(frames, actions, next_frames).reward_logits
    if changed == "action":
        actions[:, 2] = (actions[:, 2] + 1) % 5
    else:
        (frames if changed == "frame" else next_frames)[:, 2] *= -1
    difference = (model(frames, actions, next_frames).reward_logits - before).abs().amax(dim=(0, 2))
    assert (difference[:2] == 0).all()
    assert (difference[2:] > 1e-6).all()


class Oracle(torch.nn.Module):
    """Sees in a frame of brightness n that n steps were taken, and in the action what was done: it is right wherever a step's action,
    reward and end belong to its own two frames, and nowhere else."""

    def forward(self, frames: Tensor, actions: Tensor, next_frames: Tensor, state=None):
        counter = ((frames[:, :, 0, 0, 0] + 1) / 2 * 255).round().long()
        reached = ((next_frames[:, :, 0, 0, 0] + 1) / 2 * 255).round().long()
        assert torch.equal(actions[reached == counter + 1], counter[reached == counter + 1] % 4)
        sign = torch.where(reached == counter + 1, counter % 3, 0)  # of reward counter % 3 - 1
        logits = 20.0 * torch.nn.functional.one_hot(sign, 3)
        end = 20.0 * torch.nn.functional.one_hot((counter % 10 == 9).long(), 2)
        return type("Out", (), {"reward_logits": logits, "end_logits": end, "state": None})()


def counting_segments() -> RewardEndSegments:
    """Frame n has brightness n, action n is n % 4, its reward 5 * (n % 3 - 1), and it ends the episode where n % 10 = 9."""
    t = 8
    first = torch.tensor([3, 7, 21, 35, 60])
    number = first[:, None] + torch.arange(t)  # (b, t)
    last = number // 10 * 10 + 9
    mask = number <= last[:, :1]
    ends = (number % 10 == 9) & mask
    return RewardEndSegments(
        frames=(number * mask).to(torch.uint8)[:, :, None, None, None].expand(-1, -1, 3, 2, 2),
        actions=number % 4 * mask,
        rewards=5.0 * (number % 3 - 1) * mask,
        ends=ends,
        mask=mask,
        final_frames=(last[:, 0] + 1).to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2),
        final_steps=ends,
    )


def test_an_oracle_of_each_step_has_no_loss():
    """A reward, action, end or next frame of the step before or after would be wrong somewhere."""
    segments = counting_segments()
    loss, metrics = reward_end_loss(Oracle(), segments)
    assert loss < 1e-6
    assert metrics["confusion_reward"].diagonal().sum() == metrics["confusion_reward"].sum() == segments.mask[:, :-1].sum()
    assert metrics["confusion_end"][1, 1] == segments.ends[:, :-1].sum() > 0
    for name in ("rewards", "ends"):
        shifted = dataclasses.replace(segments, **{name: getattr(segments, name).roll(1, dims=1)})
        assert reward_end_loss(Oracle(), shifted)[0] > 1, f"{name} of another step went unnoticed"


def test_rewards_count_by_their_sign_and_padding_not_at_all():
    model, segments = small_model(), golden_segments()
    loss, _ = reward_end_loss(model, segments)
    for factor in (7, 0.1):
        assert torch.equal(loss, reward_end_loss(model, dataclasses.replace(segments, rewards=segments.rewards * factor))[0])
    noisy = dataclasses.replace(segments, rewards=torch.where(segments.mask, segments.rewards, 1.0), ends=segments.ends | ~segments.mask)
    assert torch.equal(loss, reward_end_loss(model, noisy)[0])
    none, metrics = reward_end_loss(model, dataclasses.replace(segments, mask=torch.zeros_like(segments.mask)))
    assert none == 0
    assert metrics["confusion_reward"].sum() == 0


def test_nothing_is_read_back_by_the_host():
    """Tensors without values cannot be: where one is read, torch raises."""
    segments, model = golden_segments(), small_model().to("meta")
    on_meta = {field.name: getattr(segments, field.name).to("meta") for field in dataclasses.fields(segments)}
    loss, metrics = reward_end_loss(model, RewardEndSegments(**on_meta))
    loss.backward()
    assert precision_recall_f1(metrics["confusion_reward"]).shape == (3, 3)


def test_precision_recall_and_f1():
    confusion = torch.tensor([[8.0, 2.0, 0.0], [4.0, 6.0, 0.0], [0.0, 0.0, 0.0]])
    scores = precision_recall_f1(confusion)
    np.testing.assert_allclose(scores[0], [8 / 12, 6 / 8, math.nan])
    np.testing.assert_allclose(scores[1], [0.8, 0.6, math.nan])
    np.testing.assert_allclose(scores[2], [2 * 8 / 22, 2 * 6 / 18, math.nan])
    np.testing.assert_allclose(precision_recall_f1(torch.tensor([[5.0, 0.0], [3.0, 0.0]]))[:, 1], [math.nan, 0, 0])


def test_it_learns_what_it_is_shown():
    """A reward and an end that the frames show are told apart after a few updates."""
    torch.manual_seed(0)
    config = RewardEndConfig((1, 1), (8, 8), (False, False), 8, 16, learning_rate=3e-3)
    model, segments = RewardEndModel(config, 4, 8), counting_segments()
    bright = segments.rewards > 0
    frames = (60 + 150 * bright).to(torch.uint8)[:, :, None, None, None].expand(-1, -1, 3, 8, 8)
    ending = torch.zeros_like(bright)
    segments = dataclasses.replace(
        segments, frames=frames, ends=bright, final_steps=ending, final_frames=frames[:, 0], rewards=bright.float()
    )
    optimizer = make_optimizer(model, config)
    losses = []
    for _ in range(60):
        loss, metrics = reward_end_loss(model, segments)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.4
    assert losses[-1] < 0.2
    assert metrics["confusion_end"].diagonal().sum() == metrics["confusion_end"].sum()


@pytest.mark.parametrize("num_actions", [4, 18])
def test_names_shapes_and_parameters_of_the_published_model(num_actions):
    facts = golden_json("state_dict_shapes_full.json")[f"num_actions_{num_actions}"]
    expected = [(e["name"], e["shape"]) for e in facts["state_dict"] if e["name"].startswith("rew_end_model.")]
    with torch.device("meta"):
        model = RewardEndModel(RewardEndConfig(), num_actions, 64)
    state = model.state_dict()
    found = [(f"rew_end_model.{theirs}", list(state[ours].shape)) for theirs, ours in authors_names("rew_end_model", state).items()]
    assert found == expected, "names, shapes and order"
    counted = sum(p.numel() for p in model.parameters())
    cost = reward_end_cost(RewardEndConfig(), ActionSpec.discrete(num_actions), FrameSpec.square(64))
    assert counted == cost.parameters == facts["parameter_counts"]["rew_end_model"]


def test_counted_parameters_and_flops_of_an_uneven_shape():
    model, seen = awake(UNEVEN, 27), FrameSpec.square(27)
    cost = reward_end_cost(UNEVEN, ActionSpec.discrete(5), seen)
    assert sum(p.numel() for p in model.parameters()) == cost.parameters
    frames, actions, next_frames = steps(27, b=1, t=2)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.encoder(torch.cat((frames, next_frames), dim=2).flatten(0, 1), model.action_embedding(actions).flatten(0, 1))
        model.head(torch.zeros(2, UNEVEN.lstm_dim))
    lstm = 2 * 4 * UNEVEN.lstm_dim * (reward_end_features(UNEVEN, seen) + UNEVEN.lstm_dim)  # fused kernels are not in torch's table
    assert counter.get_total_flops() == 2 * (cost.flops - lstm)


def test_a_stage_of_another_width_begins_with_a_projection():
    assert [[(b.in_channels, b.out_channels, b.attention) for b in stage] for stage in reward_end_stages(UNEVEN)] == [
        [(16, 16, False)],
        [(16, 24, True), (24, 24, True)],
        [(24, 64, False)],
        [(64, 64, True), (64, 64, True)],
    ]


@torch.no_grad()
def test_channels_last_gives_the_same_numbers():
    model, inputs = awake(UNEVEN, 24), steps(24)
    expected = model(*inputs)
    out = model.to(memory_format=torch.channels_last)(*inputs)
    assert_near(out.reward_logits, expected.reward_logits, atol=1e-4)
    assert_near(out.state[0], expected.state[0], atol=1e-4)


def test_bf16_runs_the_convolutions_alone():
    config = RewardEndConfig((1, 1), (8, 8), (False, False), 8, 16)
    exact, model, inputs = awake(config, 16), awake(config, 16, precision="bf16"), steps(16)
    expected, out = exact(*inputs), model(*inputs)
    assert out.reward_logits.dtype == out.state[0].dtype == torch.float32
    assert 0 < (out.reward_logits - expected.reward_logits).abs().max() < 0.05 * expected.reward_logits.abs().max()
    out.reward_logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for n, p in model.named_parameters() if "head" not in n)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (RewardEndConfig(depths=(2, 2)), "reward_end.depths has 2"),
        (RewardEndConfig(channels=(32, 32, 32, 65)), "reward_end.channels=(32, 32, 32, 65)"),
        (RewardEndConfig(channels=(32, 32, 32, 21)), "not divisible by its 2 heads"),
    ],
)
def test_models_that_cannot_be_built_are_refused(config, says):
    with pytest.raises(UserError) as refusal:
        RewardEndModel(config, 4, 64)
    assert says in str(refusal.value)
