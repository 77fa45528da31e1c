"""Imagining, saving and reading back."""

import dataclasses
import json

import pytest
import torch
from presets import objective as objective_preset

from diamond_bench.config import AncestralSampler, ConditioningConfig, FactoredObjective, NetworkConfig, OdeSampler
from diamond_bench.diffusion.quantization import from_bytes, to_bytes
from diamond_bench.diffusion.samplers import SupportsDenoise, trajectory_noise
from diamond_bench.errors import UserError
from diamond_bench.spaces import FrameSpec
from diamond_bench.worlds.contract import imagined_frames
from diamond_bench.worlds.diamond.world import Description, DiamondWorld, build_diamond, load_diamond

TINY = NetworkConfig(depths=(1, 1), channels=(8, 16), attention=(False, False), cond_channels=16)
L = 4
FRAMES = FrameSpec.square(8)


def draw_of(seeds, size=8):
    noise = trajectory_noise([torch.Generator().manual_seed(seed) for seed in seeds], (3, size, size), "cpu")
    return lambda like: noise()


def imagine(model, past, actions, sampler, draw):
    return torch.stack(list(imagined_frames(model.bound(sampler), past, actions, draw)))


def tiny(objective=FactoredObjective(), num_frames=L, seed=0):
    """A small world model without the zeros it starts with."""
    torch.manual_seed(seed)
    model = build_diamond(Description(objective, ConditioningConfig(num_frames), TINY, num_actions=6), FRAMES)
    for parameter in model.denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def start(b=2, size=8):
    generator = torch.Generator().manual_seed(9)
    return torch.rand(b, L, 3, size, size, generator=generator) * 2 - 1, torch.randint(6, (b, L - 1 + 5), generator=generator)


class Counter(SupportsDenoise):
    """An oracle of a game whose frame shows the sum of the actions so far; strict about which actions go with which frames."""

    def for_one_frame(self):
        return self

    def denoise(self, x, sigma, past, actions):
        pixels = to_bytes(past).long()[:, :, 0, 0, 0]
        # every frame but the first must be the one before plus the action taken between them
        assert torch.equal(pixels[:, 1:] - pixels[:, :-1], actions[:, :-1])
        clean = from_bytes((pixels[:, -1] + actions[:, -1]).to(torch.uint8))
        return clean[:, None, None, None].expand_as(x)


@pytest.mark.parametrize("sampler", [OdeSampler(quantization="round"), OdeSampler(name="heun", num_steps=2, quantization="round")])
def test_imagined_frames_count_the_actions(sampler):
    description = Description(FactoredObjective(), ConditioningConfig(L), TINY, num_actions=6)
    actions = torch.tensor([[1, 0, 2, 3, 5, 4, 1, 0], [0, 2, 1, 1, 0, 5, 5, 3]])
    counts = 70 + torch.cat((torch.zeros(2, 1, dtype=torch.long), actions.cumsum(1)), dim=1)  # counts[:, t] is shown by frame t
    past = from_bytes(counts[:, :L].to(torch.uint8))[:, :, None, None, None].expand(2, L, 3, 8, 8)
    frames = imagine(DiamondWorld(Counter(), description, FRAMES), past, actions, sampler, draw_of([0, 1]))
    assert len(frames) == actions.shape[1] - L + 1
    shown = torch.stack([to_bytes(frame)[:, 0, 0, 0].long() for frame in frames], dim=1)
    assert torch.equal(shown, counts[:, L:])


def test_a_trajectory_does_not_depend_on_its_batch_or_on_chance_elsewhere():
    model = tiny()
    past, actions = start(3)
    together = imagine(model, past, actions, OdeSampler(), draw_of([5, 6, 7]))
    torch.manual_seed(123)
    alone = imagine(model, past[1:2], actions[1:2], OdeSampler(), draw_of([6]))
    # another batch size may round differently and so move a pixel by a level
    assert ((together[:, 1:2] - alone).abs() < 1e-5).float().mean() > 0.95
    again = imagine(model, past, actions, OdeSampler(), draw_of([5, 6, 7]))
    assert torch.equal(together, again)
    other = imagine(model, past, actions, OdeSampler(), draw_of([15, 16, 17]))
    assert not torch.equal(together, other)


def test_one_step_prediction_is_the_first_imagined_frame():
    model = tiny()
    past, actions = start()
    first = imagine(model, past, actions, OdeSampler(), draw_of([0, 1]))[0]
    assert torch.equal(first, model.bound(OdeSampler()).predict(past, actions[:, :L], draw_of([0, 1])))
    assert torch.equal(from_bytes(to_bytes(first)), first)


def test_a_predicted_frame_can_be_fed_to_a_network_that_trains():
    past, actions = start()
    frame = tiny().bound(OdeSampler()).predict(past, actions[:, :L], draw_of([0, 1]))
    assert not frame.requires_grad
    assert not frame.is_inference()
    weight = torch.ones(1, requires_grad=True)
    (frame * weight).sum().backward()
    assert weight.grad is not None


def test_wrong_lengths_and_unfit_samplers_are_refused():
    model = tiny()
    past, actions = start()
    with pytest.raises(ValueError, match="4 past frames"):
        model.bound(OdeSampler()).predict(past[:, 1:], actions[:, :L], draw_of([0, 1]))
    with pytest.raises(ValueError, match="at least 4 frames"):
        imagine(model, past[:, 1:], actions, OdeSampler(), draw_of([0, 1]))
    with pytest.raises(UserError, match="sigma"):
        tiny(objective_preset("ddpm")).bound(OdeSampler())
    with pytest.raises(ValueError, match="no sampler is bound"):
        next(imagined_frames(model, past, actions, draw_of([0, 1])))


@pytest.mark.parametrize(
    ("objective", "sampler"), [(FactoredObjective(sigma_max=30.0), OdeSampler()), (objective_preset("ddpm"), AncestralSampler())]
)
def test_saved_and_read_back(tmp_path, objective, sampler):
    model = tiny(objective)
    model.save(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"model.safetensors", "model.json"}
    back = load_diamond(tmp_path, FRAMES)
    assert back.description == model.description
    past, actions = start()
    frames = [imagine(m, past, actions, sampler, draw_of([0, 1])) for m in (model, back)]
    assert torch.equal(*frames)
    assert load_diamond(tmp_path, FRAMES, precision="bf16").denoiser.precision == "bf16"


def test_a_model_stored_before_a_setting_was_renamed_is_read(tmp_path):
    model = tiny(objective_preset("ddpm"))
    model.save(tmp_path)
    description = tmp_path / "model.json"
    description.write_text(description.read_text().replace('"noise_conditioning"', '"noise_told"'))
    assert load_diamond(tmp_path, FRAMES).description == model.description


def test_saved_from_channels_last(tmp_path):
    model = tiny()
    expected = {name: tensor.clone() for name, tensor in model.denoiser.state_dict().items()}
    model.denoiser.to(memory_format=torch.channels_last)
    model.save(tmp_path)
    state = load_diamond(tmp_path, FRAMES).denoiser.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_missing_or_damaged_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"model\.json: no such file"):
        load_diamond(tmp_path, FRAMES)
    tiny().save(tmp_path)
    weights, description = tmp_path / "model.safetensors", tmp_path / "model.json"
    whole, text = weights.read_bytes(), description.read_text()

    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"model\.safetensors: damaged"):
        load_diamond(tmp_path, FRAMES)
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: no such file"):
        load_diamond(tmp_path, FRAMES)
    weights.write_bytes(whole)

    for broken in (text[:50], "[]", text.replace('"edm"', '"emd"'), json.dumps(json.loads(text) | {"surplus": 1})):
        description.write_text(broken)
        with pytest.raises(UserError, match=r"model\.json: damaged"):
            load_diamond(tmp_path, FRAMES)

    description.write_text(text.replace('"num_actions": 6', '"num_actions": 7'))
    with pytest.raises(UserError, match=r"model\.safetensors: its tensors"):
        load_diamond(tmp_path, FRAMES)


def test_networks_that_do_not_fit_the_conditioning_are_refused():
    with pytest.raises(UserError, match="cond_channels"):
        build_diamond(Description(FactoredObjective(), ConditioningConfig(3), TINY, 4), FRAMES)


def test_description_is_plain_data(tmp_path):
    tiny().save(tmp_path)
    reported = json.loads((tmp_path / "model.json").read_text())
    assert reported.keys() == {f.name for f in dataclasses.fields(Description)}
