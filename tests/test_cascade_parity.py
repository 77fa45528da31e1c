"""The authors' CS:GO model against formulas in float64, written here with numpy alone: noise on past frames, churn, the order of
operations, the upsampler's inputs, and the loss."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diamond_bench.config import SAMPLERS, CascadeSampler, ConditioningConfig, FactoredObjective, NetworkConfig
from diamond_bench.diffusion.denoiser import Denoiser, LevelledNoise
from diamond_bench.diffusion.objectives import Draws, Factored
from diamond_bench.diffusion.samplers import sample
from diamond_bench.models.denoiser_network import DenoiserNetwork
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.worlds.cascade import Cascade, LowResolution, Upsampler
from diamond_bench.worlds.cascade.world import CascadeWorld, build_world

B, L, LOW, FACTOR = 2, 4, (3, 4), 5
FULL = (LOW[0] * FACTOR, LOW[1] * FACTOR)
OFFSET, SIGMA_DATA = 0.1, 0.5
OBJECTIVE = FactoredObjective(loc=-1.2, sigma_offset_noise=OFFSET)
Array = np.ndarray[Any, np.dtype[np.float64]]


@pytest.fixture(autouse=True)
def _float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in float64, also the network's output."""
    monkeypatch.setattr(Denoiser, "_run", lambda self, *given, kept=None, **more: self.network(*given, **more))
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def formula(x: Any, c_noise: Any, past: Any, c_cond: Any, tanh: Callable[[Any], Any]) -> Any:
    """A stand-in for the network that reads every input at its own place: the same expression for numpy and torch."""
    weights = [0.3 + 0.1 * i for i in range(past.shape[1])]
    mixed = sum(w * past[:, i : i + 1] for i, w in enumerate(weights))
    return tanh(0.7 * x + 0.2 * mixed + 0.4 * c_noise[:, None, None, None] - 0.3 * c_cond[:, None, None, None])


class Network(nn.Module):
    """`formula` with the arguments of `DenoiserNetwork.forward`."""

    def forward(self, x: Tensor, c_noise: Tensor, past: Tensor, actions: Tensor, frame_noise: Tensor | None = None) -> Tensor:
        c_cond = torch.zeros_like(c_noise) if frame_noise is None else frame_noise.log() / 4
        return formula(x, c_noise, past, c_cond, torch.tanh)


# The reference


def coefficients(sigma: float) -> tuple[float, float, float, float]:
    """c_in, c_skip, c_out, c_noise with the offset noise in the level (csgo.md, sections 3 and 4)."""
    raised = math.sqrt(sigma**2 + OFFSET**2)
    total = raised**2 + SIGMA_DATA**2
    return 1 / math.sqrt(total), SIGMA_DATA**2 / total, raised * SIGMA_DATA / math.sqrt(total), math.log(raised) / 4


def truncated(frame: Array) -> Array:
    return np.trunc((np.clip(frame, -1, 1) + 1) / 2 * 255) / 255 * 2 - 1


def output(x: Array, sigma: Array, past: Array, sigma_cond: Array | None) -> tuple[Array, Array]:
    """The network's output and the clean frame that it stands for."""
    c_in, c_skip, c_out, c_noise = (np.array(c) for c in zip(*(coefficients(s) for s in sigma), strict=True))
    c_cond = np.zeros(len(x)) if sigma_cond is None else np.log(sigma_cond) / 4

    def wide(c: Array) -> Array:
        return c[:, None, None, None]

    stacked = past.reshape(len(past), -1, *past.shape[-2:]) / SIGMA_DATA
    found = formula(wide(c_in) * x, c_noise, stacked, c_cond, np.tanh)
    return found, wide(c_skip) * x + wide(c_out) * found


def levels(n: int, low: float, high: float, rho: float) -> Array:
    steps = np.linspace(0, 1, n)
    return np.append((high ** (1 / rho) + steps * (low ** (1 / rho) - high ** (1 / rho))) ** rho, 0.0)


def sampled(
    past: Array,
    noise: Callable[[], Array],
    ladder: Array,
    churn: float,
    bounds: tuple[float, float],
    s_noise: float,
    s_cond: float,
    heun: bool,
) -> Array:
    """One frame, in the order of section 5."""
    n, (low, high) = len(ladder) - 1, bounds
    x = noise()
    for sigma, following in pairwise(ladder):
        gamma = min(churn / n, math.sqrt(2) - 1) if low - 1e-9 <= sigma <= high + 1e-9 else 0.0
        hat = sigma * (1 + gamma)
        if gamma > 0:
            x = x + s_noise * noise() * math.sqrt(hat**2 - sigma**2)
        if s_cond > 0:
            past = past + s_cond * np.stack([noise() for _ in range(past.shape[1])], axis=1)
        sigma_cond = None if s_cond == 0 else np.full(len(x), s_cond)
        slope = (x - truncated(output(x, np.full(len(x), sigma), past, sigma_cond)[1])) / hat
        if heun and following > 0:
            ahead = x + slope * (following - hat)
            second = (ahead - truncated(output(ahead, np.full(len(x), following), past, sigma_cond)[1])) / following
            slope = (slope + second) / 2
        x = x + slope * (following - hat)
    return x


def cubic(size: int, factor: int) -> Array:
    """The matrix (size * factor, size) of bicubic interpolation with a = -0.75, edges repeated (align_corners=False)."""
    matrix = np.zeros((size * factor, size))
    for row in range(size * factor):
        place = (row + 0.5) / factor - 0.5
        first = math.floor(place)
        for tap in range(first - 1, first + 3):
            d, a = abs(place - tap), -0.75
            weight = (a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            matrix[row, min(max(tap, 0), size - 1)] += weight
    return matrix


def enlarged(low: Array) -> Array:
    rows, columns = (cubic(side, FACTOR) for side in LOW)
    return np.einsum("ij,kl,bcjl->bcik", rows, columns, low)


# Sampling


def tape(seed: int) -> Callable[[tuple[int, ...]], Array]:
    rng = np.random.default_rng(seed)
    return lambda shape: rng.standard_normal(shape)


def world(sampler: CascadeSampler) -> CascadeWorld:
    """A cascade whose two networks are `formula`."""
    small = NetworkConfig((1,), (8,), (False,), 8)
    inner = LowResolution(OBJECTIVE, ConditioningConfig(L, actions="active_bits", past_noise="training"), small)
    settings = Cascade(factor=FACTOR, inner=inner, upsampler=Upsampler(OBJECTIVE, small))
    built = build_world(settings, WorldSpec(FrameSpec(*FULL), ActionSpec.columns((2, 3))))
    built.inner.denoiser.network = built.upsampler.network = Network()
    return CascadeWorld(settings, built.spec, built.inner, built.upsampler).bound(sampler)


@pytest.mark.parametrize("changes", [{}, {"num_steps": 10}, {"upsampling_steps": 10}, {"upsampling_solver": "euler"}])
@pytest.mark.parametrize("name", ["fast", "higher_quality"])
def test_a_step_of_both_stages_equals_the_formulas(name: str, changes: dict[str, Any]) -> None:
    sampler = SAMPLERS[name].settings_type()(name=name, **changes)
    rng = np.random.default_rng(7)
    low, full = truncated(rng.uniform(-1, 1, (B, L, 3, *LOW))), truncated(rng.uniform(-1, 1, (B, 1, 3, *FULL)))
    state = (torch.from_numpy(low), torch.zeros(B, L, 2, dtype=torch.int64), torch.from_numpy(full))
    drawn = tape(1)
    played = world(sampler)
    after, step = played.step(state, torch.ones(B, 2, dtype=torch.int64), lambda like: torch.from_numpy(drawn(tuple(like.shape))))

    again = tape(1)
    n, m = {"fast": (1, 1), "higher_quality": (3, 10)}[name]
    n, m = changes.get("num_steps", n), changes.get("upsampling_steps", m)
    frame = sampled(low, lambda: again((B, 3, *LOW)), levels(n, 0.002, 5, 7), 0, (0, math.inf), 1, 0.005, heun=False)
    shown = np.concatenate((full, enlarged(frame)[:, None]), axis=1)
    heun = changes.get("upsampling_solver", "heun" if name == "fast" else "euler") == "heun"
    expected = sampled(shown, lambda: again((B, 3, *FULL)), levels(m, 1, 5, 7), 10, (1, 5), 0.9, 0, heun)
    assert np.abs(frame - low[:, -1]).max() > 0.1
    np.testing.assert_allclose(after[0][:, -1].numpy(), frame, atol=1e-9)
    np.testing.assert_allclose(step.frame.numpy(), expected, atol=1e-9)
    assert played.calls_per_frame == n + (2 * m - 1 if heun else m)


def test_the_levels_and_the_churn_of_ten_upsampling_steps() -> None:
    """The numbers of csgo.md, section 5."""
    assert np.round(levels(10, 1, 5, 7), 3).tolist() == [5.0, 4.254, 3.605, 3.043, 2.558, 2.141, 1.784, 1.478, 1.219, 1.0, 0.0]
    starts: list[float] = []

    class Seen(Network):
        def forward(self, x: Tensor, c_noise: Tensor, past: Tensor, actions: Tensor, frame_noise: Tensor | None = None) -> Tensor:
            sigma = math.sqrt(math.exp(4 * float(c_noise[0])) ** 2 - OFFSET**2)
            starts.append(sigma)
            return super().forward(x, c_noise, past, actions, frame_noise)

    denoiser = Denoiser(Seen(), Factored(OBJECTIVE), 1)
    drawn = tape(0)
    sampler = SAMPLERS["higher_quality"].settings_type()().upsampling
    sample(denoiser, torch.zeros(B, 2, 3, *LOW), torch.zeros(B, 2), sampler, lambda: torch.from_numpy(drawn((B, 3, *LOW))))
    np.testing.assert_allclose(starts, levels(10, 1, 5, 7)[:-1], rtol=1e-6, err_msg="the network receives sigma, not sigma_hat")


@pytest.mark.parametrize(("rule", "stds"), [("accumulating", [1.0, math.sqrt(2), math.sqrt(3)]), ("constant", [1.0, 1.0, 1.0])])
def test_noise_on_past_frames_accumulates_over_the_steps_or_stays(rule: str, stds: list[float]) -> None:
    seen: list[Tensor] = []

    class Seen(Network):
        def forward(self, x: Tensor, c_noise: Tensor, past: Tensor, actions: Tensor, frame_noise: Tensor | None = None) -> Tensor:
            assert frame_noise is not None
            assert (frame_noise == 0.2).all()
            seen.append(past * SIGMA_DATA)
            return super().forward(x, c_noise, past, actions, frame_noise)

    drawn = tape(0)
    for name, calls in (("euler", [0, 1, 2]), ("heun", [0, 2, 4])):
        seen.clear()
        of = SAMPLERS[name].settings_type()(name, num_steps=3, s_cond=0.2, s_cond_rule=rule)
        past, denoiser = torch.zeros(8, L, 3, 20, 20), Denoiser(Seen(), Factored(OBJECTIVE), L)
        sample(denoiser, past, torch.zeros(8, L), of, lambda: torch.from_numpy(drawn((8, 3, 20, 20))))
        np.testing.assert_allclose([float(seen[call].std()) / 0.2 for call in calls], stds, rtol=0.02)
        if name == "heun":
            assert torch.equal(seen[0], seen[1]), "both calls of a step see the same past"


# Training


def drawn_noise(rng: Any, channels: int, sides: tuple[int, int]) -> Draws:
    level = np.clip(np.exp(-1.2 + 1.2 * rng.standard_normal(B)), 2e-3, 20)
    shapes = (B, channels, 1, 1), (B, channels, *sides)
    return Draws(torch.from_numpy(level), *(torch.from_numpy(rng.standard_normal(shape)) for shape in shapes))


def added(draws: Draws) -> Array:
    level, offset, gauss = (tensor.numpy() for tensor in (draws.level, draws.offset, draws.gauss))
    return OFFSET * offset + level[:, None, None, None] * gauss


@pytest.mark.parametrize("upsampling", [False, True])
def test_the_loss_of_each_stage_equals_the_formulas(upsampling: bool) -> None:
    """Two autoregressive steps: the second is conditioned on the model's own quantised frame, and new noise is added to all past frames."""
    n, sides, rng = (1, FULL, np.random.default_rng(3)) if upsampling else (L, LOW, np.random.default_rng(4))
    frames = truncated(rng.uniform(-1, 1, (B, n + 2, 3, *sides)))
    guide = np.stack([enlarged(truncated(rng.uniform(-1, 1, (B, 3, *LOW)))) for _ in range(n + 2)], axis=1)
    mask = np.ones((B, n + 2))
    mask[0, n + 1] = 0
    draws = [drawn_noise(rng, 3, sides) for _ in range(2)]
    of_past = [drawn_noise(rng, 3 * n, sides) for _ in range(2)]

    objective, queue, past_queue = Factored(OBJECTIVE), iter(draws), iter(of_past)
    denoiser = Denoiser(Network(), objective, n, past_noise="constant" if upsampling else "training")
    noise = None if upsampling else LevelledNoise(objective, lambda past: next(past_queue))
    given = torch.from_numpy(frames), torch.zeros(B, n + 2), torch.from_numpy(mask)
    steps = denoiser.unroll(*given, lambda clean: next(queue), noise, torch.from_numpy(guide) if upsampling else None)

    past, losses = frames[:, :n], []
    for i in range(2):
        clean, shown, sigma_cond = frames[:, n + i], past, None
        if upsampling:
            shown = np.concatenate((past, guide[:, n + i][:, None]), axis=1)
        else:
            shown, sigma_cond = past + added(of_past[i]).reshape(past.shape), of_past[i].level.numpy()
        sigma = draws[i].level.numpy()
        noisy = clean + added(draws[i])
        found, denoised = output(noisy, sigma, shown, sigma_cond)
        skip, out = (np.array([coefficients(s)[place] for s in sigma])[:, None, None, None] for place in (1, 2))
        error = ((found - (clean - skip * noisy) / out) ** 2).reshape(B, -1).mean(1)
        losses.append((error * mask[:, n + i]).sum() / mask[:, n + i].sum())
        past = np.concatenate((past[:, 1:], truncated(denoised)[:, None]), axis=1)
    np.testing.assert_allclose([float(step.loss) for step in steps], losses, rtol=1e-9)


def test_the_condition_is_both_noise_features_and_the_sum_of_the_active_rows() -> None:
    torch.manual_seed(0)
    actions = ActionSpec.columns((2, 2, 3))
    network = DenoiserNetwork(
        NetworkConfig((1,), (8,), (False,), 16), ConditioningConfig(2, actions="active_bits", past_noise="training"), actions
    )
    assert network.action_embedding.weight.shape == (5, 8), "a row for each key, and for each value of the choice"
    given: list[Tensor] = []
    network.condition.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    taken = torch.tensor([[[1, 0, 2], [1, 1, 0]], [[0, 0, 1], [0, 1, 2]]])
    c_noise, level = torch.tensor([0.3, -0.2]), torch.tensor([0.05, 0.4])
    frames = torch.zeros(2, 6, 8, 8)
    network(frames[:, :3], c_noise, frames, taken, level)
    network(frames[:, :3], c_noise, frames, taken)

    one, two = (f.frequencies.numpy() for f in (network.noise_features, network.past_noise_features))
    table = network.action_embedding.weight.detach().numpy()

    def features(c: Array, w: Array) -> Array:
        angle = 2 * math.pi * c[:, None] * w
        return np.concatenate((np.cos(angle), np.sin(angle)), axis=1)

    bits = np.array([[[1, 0, 0, 0, 1], [1, 1, 1, 0, 0]], [[0, 0, 0, 1, 0], [0, 1, 0, 0, 1]]])
    embedded = (bits @ table).reshape(2, -1)
    np.testing.assert_allclose(
        given[0].detach().numpy(), features(c_noise.numpy(), one) + features(np.log(level.numpy()) / 4, two) + embedded
    )
    without = np.concatenate((np.ones((2, 8)), np.zeros((2, 8))), axis=1)  # the features of 0
    np.testing.assert_allclose(given[1].detach().numpy(), features(c_noise.numpy(), one) + without + embedded)
    assert not np.allclose(one, two), "two random vectors"
