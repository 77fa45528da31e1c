"""Actions that are withheld, guidance by them, and noise on past frames: what training draws, and what sampling is told."""

from dataclasses import replace

import pytest
import torch
from small_denoisers import ACTIONS, LIGHT, NETWORK, L, awake, denoiser_of, inputs, segments
from torch import Tensor, nn

from diamond_bench.config import WITHHELD, ConditioningConfig, FactoredObjective, OdeSampler, RunConfig
from diamond_bench.diffusion.quantization import quantize
from diamond_bench.diffusion.samplers import sample
from diamond_bench.errors import UserError
from diamond_bench.models.denoiser_network import DenoiserNetwork
from diamond_bench.spaces import FrameSpec
from diamond_bench.studies.check import check_run
from diamond_bench.worlds.diamond.world import Description, build_diamond


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


@pytest.mark.parametrize("actions", ["group_norm", "planes"])
@pytest.mark.parametrize("width", [0, 5])
@torch.no_grad()
def test_withheld_actions_have_a_row_of_their_own(actions, width):
    network, (x, c_noise, past, _) = awake(replace(LIGHT, actions=actions, action_width=width, action_dropout=0.1)), inputs()
    outputs = [network(x, c_noise, past, torch.full((2, L), action)) for action in (WITHHELD, *range(ACTIONS))]
    assert network.action_embedding.num_embeddings == ACTIONS + 1
    assert min((outputs[0] - reported).abs().max() for reported in outputs[1:]) > 1e-4
    plain = awake(replace(LIGHT, actions=actions, action_width=width))
    assert plain.action_embedding.num_embeddings == ACTIONS
    with pytest.raises(IndexError):
        plain(x, c_noise, past, torch.full((2, L), WITHHELD))


def test_actions_are_withheld_from_whole_examples():
    recorder, (frames, actions, mask) = Recorder(), segments(b=400, steps=3, size=2)
    denoiser_of(replace(LIGHT, action_dropout=0.3), recorder).training_loss(frames, actions, mask, torch.Generator().manual_seed(0))
    withheld = recorder.actions[0][:, 0] == WITHHELD
    assert abs(withheld.float().mean() - 0.3) < 4 * (0.3 * 0.7 / 400) ** 0.5
    for i, reported in enumerate(recorder.actions):
        assert torch.equal(reported, torch.where(withheld[:, None], WITHHELD, actions[:, i : L + i]))
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


def test_frame_noise_is_added_to_past_frames_alone_and_its_level_is_an_input():
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
def test_sampling_uses_frame_noise_level_zero():
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
    reported = denoiser.denoise(x, sigma, past, actions)
    free = denoiser.denoise(x, sigma, past, torch.full_like(actions, WITHHELD))
    assert (reported - free).abs().max() > 1e-3
    expected = reported if w == 1 else free + w * (reported - free)
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
    model = build_diamond(Description(FactoredObjective(), LIGHT, NETWORK, ACTIONS), FrameSpec.square(8))
    with pytest.raises(UserError, match=r"conditioning\.action_dropout"):
        model.bound(run.sampler)
