"""Every way to execute the networks gives the numbers of plain fp32: outputs, gradients, courses of training, sampled frames.

Bounds. What only reorders fp32 sums (layout, fused AdamW, compiling, recording) may differ by rounding: 2^-24 an operation, some 40 of
them in a row, summed up over rows of about 100: 6e-6 at most over eight seeds, bounded by 2e-5; of a sampler's states 2.5e-7 and 2e-6.
bf16 rounds to 2^-9 = 0.2%. The most over eight seeds was 0.4% of the denoiser's output, 2.5% of the reward/end model's, 1.6% of the
policy's, 0.8%, 3% and 5% of their gradients (max-pooling picks other pixels), 0.25% of a sampler's states, and over two trainings
0.6% of their windows' losses; about twice that is the bound. Rounding has next to no direction: the scale along the true output and
gradient, averaged over the seeds, is held more tightly. TF32 rounds to 2^-11: half of bf16's bounds, derived, not measured.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from execution_options import (
    ACTIONS,
    BATCH,
    PLAIN,
    TWO_LEVELS,
    Distance,
    Islands,
    L,
    Option,
    denoiser,
    executed,
    gradients,
    played,
    policy,
    reward_end_model,
    segments,
    train,
    world_model,
)
from torch import Tensor

from diamond_bench.config import ActorCriticConfig, AncestralSampler, OdeSampler, Sampler
from diamond_bench.data.segments import RewardEndSegments
from diamond_bench.diffusion.quantization import to_bytes
from diamond_bench.diffusion.samplers import sample
from diamond_bench.training.actor_critic import Rollout, actor_critic_loss
from diamond_bench.training.reward_end import reward_end_loss
from diamond_bench.worlds.contract import imagined_frames


@dataclass(frozen=True)
class Near:
    """The most that a network's outputs and gradients may be off: norms, and means of `Distance.scale`."""

    outputs: float
    scale: float
    gradients: float
    slope: float


@dataclass(frozen=True)
class Bounds:
    """The most that an option may differ from plain fp32."""

    networks: dict[str, Near]
    curve: float
    """Mean relative difference of the losses' means over windows of 50 updates."""
    trajectory: float
    """Of the solver's states, relative."""
    levels: float
    """Mean difference of frames, in levels of 8 bits."""


_NAMES = ("denoiser", "reward and end", "policy")
_SAME = dict.fromkeys(_NAMES, Near(outputs=2e-5, scale=2e-6, gradients=2e-5, slope=2e-6))
_LOW = dict(zip(_NAMES, (Near(0.008, 0.001, 0.016, 0.002), Near(0.05, 0.008, 0.06, 0.012), Near(0.03, 0.003, 0.11, 0.006)), strict=True))
_HALF = {name: Near(n.outputs / 2, n.scale / 2, n.gradients / 2, n.slope / 2) for name, n in _LOW.items()}
ROUNDING = Bounds(_SAME, curve=1e-5, trajectory=2e-6, levels=0.005)
BF16 = Bounds(_LOW, curve=0.0125, trajectory=0.005, levels=0.3)
TF32 = Bounds(_HALF, curve=0.00625, trajectory=0.0025, levels=0.15)
NOTHING = Bounds({}, 0.0, 0.0, levels=1e-9)

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
COMPILED = Option(compile=True)
"""With inductor, which takes half a minute for each network: its tests are slow. test_compilation.py compiles with another backend."""
LAYOUTS = [
    pytest.param(Option(precision="bf16"), BF16, id="bf16"),
    pytest.param(Option(channels_last=True), ROUNDING, id="channels-last"),
    pytest.param(Option(precision="bf16", channels_last=True), BF16, id="bf16, channels-last"),
    pytest.param(Option(precision="tf32", device="cuda"), TF32, id="tf32", marks=cuda),
]
TRAININGS = [
    LAYOUTS[0],
    pytest.param(Option(channels_last=True), ROUNDING, id="channels-last", marks=pytest.mark.slow),
    pytest.param(Option(fused=True), ROUNDING, id="fused"),
    pytest.param(Option(fused=True, recorded=True), ROUNDING, id="recorded", marks=pytest.mark.slow),
    pytest.param(COMPILED, ROUNDING, id="compiled", marks=pytest.mark.slow),
    LAYOUTS[3],
]
SAMPLINGS = [LAYOUTS[0], LAYOUTS[1], pytest.param(COMPILED, ROUNDING, id="compiled", marks=pytest.mark.slow), LAYOUTS[3]]
SEEDS = {"denoiser": range(4), "reward and end": range(8), "policy": range(8)}


def plain_of(option: Option) -> Option:
    return replace(PLAIN, device=option.device)


def noisy(frames: Tensor, sigma: float) -> Tensor:
    return frames + sigma * torch.randn(frames.shape, generator=torch.Generator().manual_seed(9)).to(frames.device)


# Outputs and gradients: of an option and a seed, what a network says of a batch and the gradient of a loss.

Said = Callable[[Option, int], tuple[Tensor, Tensor]]


def denoised(option: Option, seed: int) -> tuple[Tensor, Tensor]:
    model, (frames, actions, mask) = denoiser(option, seed, TWO_LEVELS), segments(seed, option.device)
    with torch.no_grad():
        levels = [torch.full((BATCH,), sigma, device=option.device) for sigma in (0.1, 1.0, 5.0)]
        clean = [model.denoise(noisy(frames[:, L], float(s[0])), s, frames[:, :L], actions[:, :L]) for s in levels]
    loss, _ = model.training_loss(frames, actions, mask, torch.Generator(option.device).manual_seed(seed))
    return torch.stack(clean), gradients(model, loss)


def predicted(option: Option, seed: int) -> tuple[Tensor, Tensor]:
    model, (frames, actions, _) = reward_end_model(option, seed), segments(seed, option.device, batch=BATCH // 2)
    out = model(frames[:, :-1], actions[:, :-1], frames[:, 1:])
    said = torch.cat((out.reward_logits, out.end_logits), dim=-1)
    return said, gradients(model, said.square().mean())


def acted(option: Option, seed: int) -> tuple[Tensor, Tensor]:
    model, (frames, _, _) = policy(option, seed), segments(seed, option.device)
    out = model(frames[:, 0], model.initial_state(BATCH))
    said = torch.cat((out.logits, out.value[:, None]), dim=1)
    return said, gradients(model, said.square().mean())


NETWORKS = dict(zip(_NAMES, (denoised, predicted, acted), strict=True))


@cache
def distances(name: str, option: Option, seeds: range) -> tuple[list[Distance], list[Distance]]:
    """Of outputs and of gradients, for each seed."""
    said = NETWORKS[name]
    pairs = [(said(plain_of(option), seed), said(option, seed)) for seed in seeds]
    return [Distance.of(a[0], b[0]) for a, b in pairs], [Distance.of(a[1], b[1]) for a, b in pairs]


def assert_near(name: str, option: Option, bounds: Bounds, seeds: range) -> None:
    (outputs, slopes), most = distances(name, option, seeds), bounds.networks[name]
    assert max(d.relative for d in outputs) < most.outputs
    assert abs(sum(d.scale for d in outputs) / len(outputs)) < most.scale
    assert max(d.relative for d in slopes) < most.gradients
    assert max(1 - d.cosine for d in slopes) < most.gradients**2
    assert abs(sum(d.scale for d in slopes) / len(slopes)) < most.slope


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("option", "bounds"), LAYOUTS)
def test_outputs_and_gradients(option: Option, bounds: Bounds, name: str) -> None:
    assert_near(name, option, bounds, SEEDS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_of_what_is_compiled(name: str) -> None:
    assert_near(name, COMPILED, ROUNDING, range(1))


@pytest.mark.parametrize("name", NETWORKS)
def test_bf16_is_really_used(name: str) -> None:
    outputs, _ = distances(name, Option(precision="bf16"), SEEDS[name])
    assert min(d.relative for d in outputs) > 1e-4


# A training. The default tests look at its first 100 updates, the slow ones at all 200.


@pytest.mark.parametrize("steps", [100, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("option", "bounds"), TRAININGS)
def test_losses_over_a_training(option: Option, bounds: Bounds, steps: int) -> None:
    plain = train(plain_of(option), 200)[0]
    assert plain[-50:].mean() < 0.4 * plain[:50].mean(), "a training that learns nothing proves nothing"
    found = train(option, steps)[0].unflatten(0, (-1, 50)).mean(1)
    expected = plain[:steps].unflatten(0, (-1, 50)).mean(1)
    assert ((found - expected).abs() / expected).mean() < bounds.curve


def test_recorded_updates_differ_in_nothing_from_those_in_turn() -> None:
    assert torch.equal(train(Option(fused=True), 40)[0], train(Option(fused=True, recorded=True), 40)[0])


# Sampling and imagination with a model that has learned something

SAMPLERS: dict[str, Sampler] = {
    "euler, n=3": OdeSampler(num_steps=3, quantize="final", quantization="round"),
    "euler, n=10": OdeSampler(num_steps=10, quantize="final", quantization="round"),
    "churn": OdeSampler(num_steps=3, s_churn=1.0, quantize="final", quantization="round"),
    "ancestral": AncestralSampler(num_steps=3, schedule=OdeSampler().schedule, start_noise="sigma_max"),
    "heun": OdeSampler(name="heun", num_steps=3, quantize="final", quantization="round"),
}


@cache
def learned(option: Option) -> Any:
    model = world_model(option)
    model.denoiser.load_state_dict(train(PLAIN, 200)[1])
    return model


def draws(seed: int, device: str = "cpu") -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(BATCH, 3, 16, 16, generator=generator).to(device)


def trajectory(option: Option, sampler: Sampler) -> tuple[Tensor, Tensor]:
    """The solver's states and what the denoiser said, call by call; and the frame."""
    frames, actions, _ = segments(7, option.device)
    model, noise = learned(option).denoiser, draws(11, option.device)
    met: list[Tensor] = []
    with torch.inference_mode():
        frame = sample(model, frames[:, :L], actions[:, :L], sampler, noise, lambda x, d, _: met.extend((x, d)))
    return torch.stack(met), frame


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
@pytest.mark.parametrize(("option", "bounds"), SAMPLINGS)
def test_trajectories_of_a_sampler(option: Option, bounds: Bounds, sampler: Sampler) -> None:
    """Heun's second slope divides what a call is off by the next level, 0.002 in the end: its steps were off ten times as much."""
    (plain, frame), (found, ours) = trajectory(plain_of(option), sampler), trajectory(option, sampler)
    larger = 20 if sampler.name == "heun" else 1
    assert len(plain) == len(found) >= 6
    for a, b in zip(plain, found, strict=True):
        assert Distance.of(a, b).relative < larger * bounds.trajectory
    assert (to_bytes(frame).float() - to_bytes(ours).float()).abs().mean() < larger * bounds.levels


def imagined(option: Option, sampler: Sampler, steps: int = 7) -> Tensor:
    frames, _, _ = segments(8, option.device)
    actions = torch.randint(ACTIONS, (BATCH, L - 1 + steps), generator=torch.Generator().manual_seed(2)).to(option.device)
    world, noise = executed(option, learned(option).bound(sampler)), draws(12, option.device)
    return torch.stack(list(imagined_frames(world, frames[:, :L], actions, lambda like: noise())), dim=1)


ROLLOUTS = [
    *SAMPLINGS,
    pytest.param(Option(recorded=True), NOTHING, id="recorded"),
    pytest.param(Option(streams=3), ROUNDING, id="streams"),
    pytest.param(Option(streams=2, recorded=True), ROUNDING, id="streams, recorded"),
]


@pytest.mark.parametrize("name", ["euler, n=3", "churn"])
@pytest.mark.parametrize(("option", "bounds"), ROLLOUTS)
def test_imagined_rollouts(option: Option, bounds: Bounds, name: str) -> None:
    plain, found = (to_bytes(imagined(o, SAMPLERS[name])).float() for o in (plain_of(option), option))
    assert plain.std() > 10, "frames that show nothing tell nothing"
    assert (plain - found).abs().mean() < 2 * bounds.levels, (
        "seven frames, each made from those before; the last was off twice as much as the first"
    )


# Islands of fp32

LOW = Option(precision="bf16")
CAST_BACK = {"float"}
"""The network's output, made fp32 while autocast is on."""
STATISTICS = {f"aten.{name}" for name in ("mean", "sum", "var", "var_mean", "square", "pow", "sqrt", "rsqrt", "exp", "_softmax", "log")}
"""What norms and attention come to: inside the networks torch's own kernels do it, which sum in fp32 whatever they are given."""


def test_sampling_and_the_loss_of_the_denoiser_are_fp32_islands() -> None:
    model, (frames, actions, mask) = denoiser(LOW), segments(0)
    points: list[Tensor] = []
    with Islands(model) as seen:
        loss, _ = model.training_loss(frames, actions, mask, torch.Generator().manual_seed(0))
        for sampler in (OdeSampler(name="heun", num_steps=2, s_churn=1.0), AncestralSampler(num_steps=2)):
            frame = sample(model, frames[:, :L], actions[:, :L], sampler, draws(0), lambda x, d, _: points.extend((x, d)))
    loss.backward()
    assert {point.dtype for point in (*points, loss, frame)} == {torch.float32}
    assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {torch.float32}
    assert seen.calls > 100
    assert seen.low == set()
    assert seen.under_autocast <= CAST_BACK
    assert "aten.convolution" in seen.low_inside
    assert not seen.low_inside & STATISTICS


def test_memories_heads_and_losses_are_fp32_islands() -> None:
    reward_end, actor, (frames, actions, mask) = reward_end_model(LOW), policy(LOW), segments(0)
    with Islands(reward_end, actor) as seen:
        given = RewardEndSegments(*(to_bytes(frames), actions, torch.zeros(BATCH, L + 1), ~mask, mask, to_bytes(frames[:, 0]), ~mask))
        loss, _ = reward_end_loss(reward_end, given)
        out = actor(frames[:, 0], actor.burn_in(frames, actor.initial_state(BATCH)))
        logits, values = out.logits[:, None], out.value[:, None]
        never = torch.zeros(BATCH, 1, dtype=torch.bool)
        rollout = Rollout(logits, values, actions[:, :1], torch.ones(BATCH, 1), never, never, values.detach())
        learned_by, _ = actor_critic_loss(rollout, ActorCriticConfig())
    assert {t.dtype for t in (loss, learned_by, out.logits, out.value, *out.state)} == {torch.float32}
    assert seen.low == set()
    assert seen.under_autocast <= CAST_BACK | {"cat", "flatten", "embedding"}
    assert "aten.convolution" in seen.low_inside
    assert not seen.low_inside & STATISTICS


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_autocast_around_the_solver_is_noticed(precision: Any) -> None:
    model, (frames, actions, _) = denoiser(Option(precision=precision)), segments(0)
    with Islands(model) as seen, torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        sample(model, frames[:, :L], actions[:, :L], OdeSampler(num_steps=2), draws(0))
    assert not seen.under_autocast <= CAST_BACK


def test_an_lstm_under_autocast_is_noticed() -> None:
    actor, frames = policy(LOW), played()[0][:BATCH]
    with Islands(actor) as seen, torch.autocast("cpu", torch.bfloat16):
        out = actor(frames, actor.initial_state(BATCH))
    assert seen.low
    assert out.logits.dtype == torch.bfloat16
