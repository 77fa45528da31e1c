"""objective.coordinate=change and objective.sigma_data=measured."""

import math
from dataclasses import replace

import pytest
import torch
from appearing import CHANGE_RMS, LAST, LENGTH, OBJECT, SHARE, expected_share, share_of_objects
from presets import objective as objective_preset
from presets import sampler as sampler_preset

from diamond_bench.config import EvaluationConfig, FactoredObjective, KarrasSchedule, OdeSampler, RunConfig, TrainingConfig
from diamond_bench.data.replay import ReplayEpisodes
from diamond_bench.data.rms import change_rms, frame_rms
from diamond_bench.data.static import EpisodeSet
from diamond_bench.diffusion.denoiser import Denoiser
from diamond_bench.diffusion.objectives import Draws, Factored
from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.diffusion.samplers import sample
from diamond_bench.errors import UserError
from diamond_bench.studies.check import check_run
from diamond_bench.studies.unread import check_read, in_effect
from diamond_bench.training.average import WeightAverage
from diamond_bench.typed import build, identity_fields, to_plain

PRESETS = ["edm", "edm_clean", "ddpm", "ddpm_velocity", "ddpm_clean", "flow"]
CHANGE = {"coordinate": "change", "sigma_offset_noise": 0.0, "quantization": "round"}


def frames_of(*shape, seed=0):
    """Frames on the 8-bit grid."""
    return from_bytes(torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)))


def textbook_output(parameterization, change, noise, s, d):
    """What the network should say of a clean change under s * noise, from the papers' definitions."""
    return {
        "noise": lambda: noise,
        "velocity": lambda: (noise - s * change) / math.sqrt(1 + s**2),
        "clean": lambda: change,
        "flow": lambda: noise - change,
        "edm": lambda: (change - d**2 / (s**2 + d**2) * (change + s * noise)) * math.sqrt(s**2 + d**2) / (s * d),
    }[parameterization]()


@pytest.mark.parametrize("sigma_data", [0.5, 0.1, "measured"])
@pytest.mark.parametrize("name", PRESETS)
def test_output_and_target_are_those_of_the_change_from_the_last_frame(name, sigma_data):
    config = objective_preset(name, **CHANGE, sigma_data=sigma_data)
    objective, d, s = Factored(config), 0.04 if sigma_data == "measured" else sigma_data, 0.7
    if sigma_data == "measured":
        objective.set_sigma_data(d)
    past, clean = frames_of(2, 3, 3, 4, 4), frames_of(2, 3, 4, 4, seed=1)
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    said, fed = textbook_output(config.parameterization, clean - past[:, -1], noise, s, d), []

    def network(x, c_noise, shown, actions):
        fed.append((x, shown))
        return said

    actions, level = torch.zeros(2, 3, dtype=torch.long), torch.full((2,), s)
    denoised = objective.denoise(network, clean + s * noise, level, past, actions)
    torch.testing.assert_close(denoised, clean, rtol=0, atol=1e-5)
    step = objective.step(network, clean, past, actions, torch.ones(2), Draws(level, torch.ones(2, 3, 1, 1), noise))
    torch.testing.assert_close(step.target, said, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(step.denoised, clean, rtol=0, atol=1e-6)
    scale = {"edm": math.sqrt(s**2 + d**2), "variance_preserving": math.sqrt(1 + s**2), "flow": 1 + s}[config.input_scaling]
    for x, shown in fed:
        torch.testing.assert_close(x, (clean - past[:, -1] + s * noise) / scale, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(shown, past.flatten(1, 2) * (2 if config.rescale_past_frames else 1))


@pytest.mark.parametrize("name", ["euler", "heun", "dpm_solver_pp_2m", "ddim"])
def test_a_network_that_says_nothing_copies_the_last_frame(name):
    objective = Factored(objective_preset("edm", **CHANGE, sigma_data="measured"))
    objective.set_sigma_data(1e-3)
    past, calls = frames_of(2, 3, 3, 8, 8), []
    denoiser = Denoiser(SaysNothing(), objective, 3)
    sampler = sampler_preset(name, num_steps=3, quantization="round", start_noise="unit", schedule={"name": "karras"})
    first = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    frame = sample(denoiser, past, torch.zeros(2, 3, dtype=torch.long), sampler, lambda: first, lambda *call: calls.append(call))
    torch.testing.assert_close(calls[0][0], past[:, -1] + first)  # the start noise is centred on the last frame
    torch.testing.assert_close(frame, past[:, -1], rtol=0, atol=1e-6)


class SaysNothing(torch.nn.Module):
    """A network as it is before training."""

    def forward(self, x, c_noise, past, actions):
        return torch.zeros_like(x)


def test_an_unmeasured_sigma_data_is_not_a_number_and_a_measured_one_lies_with_the_weights():
    objective = Factored(FactoredObjective(sigma_data="measured"))
    assert objective.coefficients(torch.tensor(1.0)).c_in.isnan()
    for wrong in (0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="sigma_data"):
            objective.set_sigma_data(wrong)
    objective.set_sigma_data(0.25)
    again = Factored(FactoredObjective(sigma_data="measured"))
    again.load_state_dict(objective.state_dict())
    number = Factored(FactoredObjective(sigma_data=0.25))
    for level in (torch.tensor(0.1), torch.tensor([0.1, 3.0])):
        for ours, theirs in zip(again.coefficients(level), number.coefficients(level), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert not number.state_dict()
    with pytest.raises(ValueError, match="measured"):
        number.set_sigma_data(0.25)


# An object appears, or nothing does: the share of the rarer outcome with an exact denoiser

NUM_STEPS, COUNT = 15, 50

EXACT = OdeSampler(num_steps=NUM_STEPS, start_noise="sigma_max", quantize="final", quantization="round")


def start_at(sigma_max):
    return replace(EXACT, schedule=KarrasSchedule(sigma_max=sigma_max, sigma_min=0.02))


@pytest.mark.parametrize(
    ("sigma_max", "sigma_data", "share"),
    [(0.42, "measured", 0.0), (2.0, "measured", 0.10), (5.0, "measured", 0.16), (5.0, 0.5, 0.16), (20.0, "measured", 0.19)],
)
def test_the_rare_object_needs_start_noise_of_its_own_size(sigma_max, sigma_data, share):
    assert expected_share(sigma_max) == pytest.approx(share, abs=0.01)
    config = FactoredObjective(**CHANGE, sigma_data=sigma_data)
    assert share_of_objects(config, start_at(sigma_max), COUNT) == pytest.approx(expected_share(sigma_max), abs=1.5 / COUNT)
    assert pytest.approx(0.013, abs=1e-3) == CHANGE_RMS  # what sigma_data=measured would be: sigma_max 0.42 is 32 times that


def test_the_expected_share_rises_with_sigma_max_towards_the_true_one():
    found = [expected_share(sigma) for sigma in (0.42, 1.0, 2.0, 5.0, 20.0, 150.0)]
    assert found == sorted(found)
    assert found[0] < 1e-3
    assert found[3] == pytest.approx(0.16, abs=0.005)
    assert found[-1] == pytest.approx(SHARE, abs=2e-3)


def test_in_the_usual_coordinate_the_share_depends_on_the_picture():
    """Start noise around grey is biased towards a light object on a dark picture."""
    offset = float((-LAST * OBJECT).sum()) / LENGTH
    expected = expected_share(5.0, offset)
    assert expected > 1.5 * SHARE
    found = share_of_objects(FactoredObjective(sigma_offset_noise=0.0), start_at(5.0), COUNT)
    assert found == pytest.approx(expected, abs=1.5 / COUNT)


# Settings


def test_sigma_data_is_a_number_or_measured():
    plain = to_plain(FactoredObjective(coordinate="change", sigma_data="measured"))
    assert build(FactoredObjective, plain) == FactoredObjective(coordinate="change", sigma_data="measured")
    assert identity_fields(FactoredObjective(sigma_data="measured")) == {"name": "edm", "sigma_data": "measured"}
    assert identity_fields(FactoredObjective(sigma_data=0.4)) == {"name": "edm", "sigma_data": 0.4}
    older = {key: value for key, value in to_plain(FactoredObjective(sigma_data=0.4)).items() if key != "coordinate"}
    assert build(FactoredObjective, older) == FactoredObjective(sigma_data=0.4)
    for wrong, said in (("measurd", "expected a number, or measured"), (-1.0, "must be at least 1e-06, or measured")):
        with pytest.raises(UserError, match=f"sigma_data={wrong!r}: {said}"):
            build(FactoredObjective, {"sigma_data": wrong})


def test_changes_are_refused_with_offset_noise_and_truncation():
    config = RunConfig(objective=FactoredObjective(coordinate="change"))
    with pytest.raises(UserError, match=r"add objective.sigma_offset_noise=0 objective.quantization=round sampler.quantization=round$"):
        check_run(config)
    check_run(replace(config, objective=FactoredObjective(**CHANGE), sampler=OdeSampler(quantization="round")))
    alone = replace(config, training=TrainingConfig(num_autoregressive_steps=0), sampler=OdeSampler(quantization="round"))
    check_run(replace(alone, objective=replace(FactoredObjective(**CHANGE), quantization="truncate")))  # it trains on no frames of its own


def test_a_sigma_data_that_nothing_reads_is_refused_and_in_no_identity():
    noise = RunConfig(objective=objective_preset("ddpm", sigma_data="measured"))
    with pytest.raises(UserError, match=r"objective.sigma_data: it has no effect with objective.parameterization=noise"):
        check_read(["objective.sigma_data"], noise)
    assert in_effect(noise) == in_effect(RunConfig(objective=objective_preset("ddpm")))
    read = RunConfig(objective=objective_preset("edm_clean", sigma_data="measured"))
    check_read(["objective.sigma_data"], read)
    assert in_effect(read).objective.sigma_data == "measured"


# Measuring


def play_of(*episodes):
    """Episodes of frames (T, 3, 8, 8) uint8, one after the other."""
    lengths = torch.tensor([len(frames) for frames in episodes])
    frames = torch.cat(episodes)
    none = torch.zeros(len(frames), dtype=torch.bool)
    return EpisodeSet(
        frames, torch.zeros(len(frames), dtype=torch.long), torch.zeros(len(frames)), none, none, lengths.cumsum(0) - lengths, lengths
    )


def test_what_is_measured_is_the_root_mean_square_about_the_coordinates_origin():
    """Episodes longer than a chunk; between two of them there is no change."""
    generator = torch.Generator().manual_seed(0)
    episodes = [torch.randint(0, top, (t, 3, 8, 8), dtype=torch.uint8, generator=generator) for t, top in ((600, 40), (257, 256), (1, 256))]
    values = [from_bytes(frames).double() for frames in episodes]
    changes = torch.cat([(frames[1:] - frames[:-1]).flatten() for frames in values])
    assert change_rms(play_of(*episodes)) == pytest.approx(changes.square().mean().sqrt().item(), rel=1e-6)
    assert frame_rms(play_of(*episodes)) == pytest.approx(torch.cat(values).square().mean().sqrt().item(), rel=1e-6)
    with pytest.raises(UserError, match="no two frames in a row that differ"):
        change_rms(play_of(episodes[0][:1].expand(4, -1, -1, -1)))


def test_rows_of_a_replay_take_turns():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=generator) for _ in range(2))
    rows = torch.stack((a, b), dim=1).flatten(0, 1)
    columns = vars(play_of(rows)) | {"starts": torch.tensor([0, 1]), "lengths": torch.tensor([5, 4])}
    replay = ReplayEpisodes(**columns, finals=rows[:2], offsets=torch.tensor([0, 5]), num_rows=9, stride=2)
    assert change_rms(replay) == change_rms(play_of(a, b[:4]))
    assert frame_rms(replay) == frame_rms(play_of(a, b[:4]))


def test_a_change_from_padding_is_not_trained_on():
    """The first target's last frame is padding, so only the second step counts."""
    denoiser = Denoiser(SaysNothing(), Factored(FactoredObjective(**CHANGE)), 3)
    frames, actions = frames_of(2, 5, 3, 8, 8), torch.zeros(2, 5, dtype=torch.long)
    mask = torch.tensor([[0, 0, 0, 1, 1]]).expand(2, 5)
    _, found = denoiser.training_loss(frames * mask[:, :, None, None, None], actions, mask, torch.Generator().manual_seed(0))
    assert found["loss_step_0"] == 0
    assert found["loss_step_1"] > 0
    _, found = replace_coordinate(denoiser).training_loss(frames, actions, mask, torch.Generator().manual_seed(0))
    assert found["loss_step_0"] > 0


def replace_coordinate(denoiser):
    """The same denoiser of frames."""
    return Denoiser(denoiser.network, Factored(FactoredObjective()), denoiser.num_frames)


def test_averages_are_refused_where_none_is_kept():
    config = RunConfig(evaluation=EvaluationConfig(weights="ema"))
    with pytest.raises(UserError, match=r"evaluation.weights=ema: the training keeps no average of its weights; add training.ema=0.999"):
        check_run(config)
    averaged = replace(config, training=TrainingConfig(ema=0.9))
    check_run(averaged)
    with pytest.raises(UserError, match=r"evaluation.weights=ema: an agent \(evaluation.world_model\) keeps no average"):
        check_run(replace(averaged, evaluation=replace(averaged.evaluation, world_model="an agent")))
    with pytest.raises(UserError, match=r"training.ema=0.9: an agent keeps no average"):
        check_run(averaged, "agent")


def test_an_average_weighs_updates_exponentially_without_the_first_weights():
    layer, decay = torch.nn.Linear(2, 1), 0.75
    average, seen = WeightAverage(layer, decay), []
    generator = torch.Generator().manual_seed(0)
    for update in range(1, 6):
        with torch.no_grad():
            layer.weight.copy_(torch.randn(1, 2, generator=generator))
        seen.append(layer.weight.detach().clone())
        average.update(update)
        weights = [decay ** (update - i) for i in range(1, update + 1)]
        expected = sum(w * x for w, x in zip(weights, seen, strict=True)) / sum(weights)
        with average.in_place():
            torch.testing.assert_close(layer.weight.detach(), expected)
        assert torch.equal(layer.weight, seen[-1])
