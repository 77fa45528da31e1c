"""The family `transformer`: its memory against the whole segment, its training, its samplers and its place in plans."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from families import check_learns_actions, draw
from stand_ins import ListedStarts, generator
from test_training import artifact, data, train
from test_worlds import TINY, TRANSFORMER, study
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diamond_bench.config import OdeSampler, Sampler, TrainingConfig
from diamond_bench.data.segments import Segments
from diamond_bench.data.static import EpisodeSet
from diamond_bench.diffusion.quantization import quantize
from diamond_bench.errors import UserError
from diamond_bench.imagination import GeneratorDraws, ImaginationEnv, ImaginationSettings
from diamond_bench.jobs.context import Interrupted
from diamond_bench.models.frame_transformer import FrameTransformer, led_to
from diamond_bench.models.frame_transformer_cost import ActionWay, FrameTransformerConfig, FrameTransformerShape, network_cost
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.store.kinds import TrainWorldModel
from diamond_bench.studies.plan import plan_study
from diamond_bench.worlds.families import load_world_model
from diamond_bench.worlds.transformer import Transformer
from diamond_bench.worlds.transformer.world import TransformerWorld, build_world

__all__ = ["data"]
SPEC = WorldSpec(FrameSpec(16, 24), ActionSpec.discrete(3))
WAYS = get_args(ActionWay)


def network(way: ActionWay = "adaln", layers: int = 2, frames: int = 4) -> FrameTransformer:
    torch.manual_seed(0)
    built = FrameTransformer(FrameTransformerShape(FrameTransformerConfig(layers, 2, 8, 8, frames, way), SPEC.frames, SPEC.actions))
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return built


def segment(b: int = 2, t: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(1)
    x, level = torch.randn(b, t, 3, 16, 24, generator=draws), torch.randn(b, t, generator=draws)
    return x, level, led_to(torch.randint(3, (b, t), generator=draws))


def one_by_one(of: FrameTransformer, x: Tensor, level: Tensor, actions: Tensor) -> Tensor:
    """The outputs frame by frame, through the memory."""
    memory, outs = of.memory(len(x), x), []
    for t in range(x.shape[1]):
        position = torch.full((len(x),), t)
        outs.append(of.next_frame(x[:, t], level[:, t], actions[:, t], memory, position))
    return torch.stack(outs, dim=1)


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_the_memory_gives_the_outputs_of_the_whole_segment(way: ActionWay) -> None:
    of, (x, level, actions) = network(way), segment()
    torch.testing.assert_close(one_by_one(of, x, level, actions), of(x, level, actions), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_each_frame_has_its_own_level_and_action_and_depends_on_no_later_one(way: ActionWay) -> None:
    of, (x, level, actions) = network(way), segment()
    out = of(x, level, actions)
    for which, changed in enumerate((x.clone(), level.clone(), actions.clone())):
        changed[:, 2] = (changed[:, 2] + 1) % 3
        given = [changed if i == which else same for i, same in enumerate((x, level, actions))]
        differs = (of(*given) != out).flatten(2).any(2).all(0)
        assert differs.tolist() == [False, False, True, True]


@torch.no_grad()
def test_a_ring_forgets_frames_older_than_its_length() -> None:
    """One layer that sees 4 frames: frame 5 depends on frames 2 to 5."""
    of, (x, level, actions) = network(layers=1), segment(t=6)
    out = one_by_one(of, x, level, actions)
    for t in range(6):
        changed = x.clone()
        changed[:, t] += 1
        assert torch.equal(one_by_one(of, changed, level, actions)[:, 5], out[:, 5]) == (t < 2), t
    torch.testing.assert_close(out[:, 5], of(x[:, 2:], level[:, 2:], actions[:, 2:])[:, 3], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_the_cost_is_counted(way: ActionWay) -> None:
    of = network(way)
    cost = network_cost(of.shape)
    assert cost.parameters == sum(p.numel() for p in of.parameters())
    counter = FlopCounterMode(display=False)
    x, level, actions = segment(1, 1)
    with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        of.next_frame(x[:, 0], level[:, 0], actions[:, 0], of.memory(1, x), torch.zeros(1, dtype=torch.int64))
    assert counter.get_total_flops() == cost.flops


def world(settings: Transformer = TRANSFORMER, sampler: Sampler | None = None) -> TransformerWorld:
    torch.manual_seed(0)
    built = build_world(settings, WorldSpec(FrameSpec.square(16), ActionSpec.discrete(3)))
    for parameter in built.network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return built.bound(sampler or OdeSampler(num_steps=1, quantization="round"))


@torch.no_grad()
def test_a_frame_is_sampled_by_the_objective_and_remembered_with_context_noise() -> None:
    """One step of Euler's method by the formulas of EDM, with the network called on the whole segment."""
    model = world()
    frames, taken = torch.rand(1, 3, 3, 16, 16) * 2 - 1, torch.tensor([[2, 0, 1]])
    noise = [torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    given = iter(noise)
    state = model.start(frames, taken, torch.ones(1, 3, dtype=torch.bool), lambda like: next(given))
    _, step = model.step(state, torch.tensor([1]), lambda like: next(given))
    sigma, context = 5.0, torch.tensor(0.05)
    start = noise[3]  # the authors' start noise has scale 1
    shown = torch.cat((frames[0] + context * torch.cat(noise[:3]), start))[None]
    levels = torch.tensor([[0.05, 0.05, 0.05, sigma]])
    scale = (levels.square() + 0.25).rsqrt()
    out = model.network(shown * scale[:, :, None, None, None], levels.log() / 4, led_to(torch.tensor([[2, 0, 1, 1]])))
    clean = 0.25 / (sigma**2 + 0.25) * start + sigma * 0.5 / (sigma**2 + 0.25) ** 0.5 * out[:, -1]
    assert torch.equal(led_to(torch.tensor([[2, 0, 1, 1]])), torch.tensor([[-1, 2, 0, 1]]))
    torch.testing.assert_close(step.frame, quantize(clean, "round"), atol=1.01 / 127.5, rtol=0)
    assert (step.frame == quantize(clean, "round")).float().mean() > 0.95


@torch.no_grad()
def test_history_guidance_extrapolates_from_the_estimate_without_a_memory() -> None:
    frames, taken = torch.rand(1, 3, 3, 16, 16) * 2 - 1, torch.tensor([[2, 0, 1]])
    mask, sampler = torch.ones(1, 3, dtype=torch.bool), OdeSampler(num_steps=1, quantization="none")

    def shown(w: float) -> Tensor:
        model = world(replace(TRANSFORMER, history_guidance=w), sampler)
        assert model.calls_per_frame == (2 if w == 1 else 3)
        seen: list[Tensor] = []
        watched = model.watched(lambda x, clean, sigma: seen.append(clean))
        state = watched.start(frames, taken, mask, draw(range(1)))
        watched.step(state, torch.tensor([1]), draw(range(1), 1))
        return seen[0]

    alone, once, twice = (shown(w) for w in (0.0, 1.0, 2.0))
    assert not torch.equal(alone, once)
    torch.testing.assert_close(twice, 2 * once - alone, atol=1e-5, rtol=1e-5)


def test_a_sampler_may_set_the_context_noise() -> None:
    """The same frames as with that context noise in the settings, and one training for both."""
    frames, taken = torch.rand(1, 3, 3, 16, 16) * 2 - 1, torch.tensor([[2, 0, 1]])
    steps = []
    for settings, sampler in ((0.05, OdeSampler(1, s_cond=0.3)), (0.3, OdeSampler(1)), (0.05, OdeSampler(1))):
        model = world(replace(TRANSFORMER, context_noise=settings), replace(sampler, name="euler", num_steps=1))
        state = model.start(frames, taken, torch.ones(1, 3, dtype=torch.bool), draw(range(1)))
        steps.append(model.step(state, torch.tensor([1]), draw(range(1), 1))[1].frame)
    assert torch.equal(steps[0], steps[1])
    assert not torch.equal(steps[0], steps[2])


class _Ending:
    """A reward/end model: a game ends with a probability of 0.27."""

    reward_logits, end_logits, state = torch.zeros(3, 1, 3), torch.tensor([0.0, -1.0]).expand(3, 1, 2), ()

    def __call__(self, *given: object) -> "_Ending":
        return self


class _Other:
    """The same world model, without `skip_start`."""

    def __init__(self, world: TransformerWorld) -> None:
        self.spec, self.device, self.context, self.step, self.pure = world.spec, world.device, world.context, world.step, True
        self.calls_per_frame, self.start = world.calls_per_frame, world.start


def test_games_are_started_only_when_one_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    draws, started = torch.Generator().manual_seed(3), []
    shown = torch.randint(256, (20, 3, 3, 16, 16), generator=draws, dtype=torch.uint8)
    starts = ListedStarts(shown, torch.randint(3, (20, 3), generator=draws), torch.ones(20, 3, dtype=torch.bool))
    inner = TransformerWorld.start
    monkeypatch.setattr(TransformerWorld, "start", lambda *given: (started.append(1), inner(*given))[1])
    found = []
    for wrap in (lambda model: model, _Other):
        env = ImaginationEnv(wrap(world()), _Ending(), starts, GeneratorDraws(generator(1)), ImaginationSettings(3, 4, preload=2))
        starts.manual_seed(0)
        steps = [(env.reset(seed=0)[0],), *(env.step(torch.tensor([0, 1, 2])) for _ in range(8))]
        found.append([torch.stack([step[i] for step in steps[1:]]) for i in range(4)] + list(env.state_dict()["world"]))
        found[-1].append(torch.tensor(len(started)))
    (*one, few), (*two, many) = found
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    begun = (one[2] | one[3]).any(1).sum()
    assert 0 < begun < 8
    assert few == 1 + begun
    assert many - few == 9


@torch.no_grad()
def test_padding_before_the_first_frame_changes_nothing() -> None:
    model = world()
    frames, actions = torch.rand(1, 3, 3, 16, 16) * 2 - 1, torch.tensor([[2, 1, 0]])
    mask = torch.tensor([[False, True, True]])
    other = frames.clone()
    other[:, 0] = 0.7
    steps = []
    for given in (frames, other):
        state = model.start(given, actions, mask, draw(range(1)))
        assert state[1].tolist() == [2]
        steps.append(model.step(state, torch.tensor([1]), draw(range(1), 1))[1].frame)
    assert torch.equal(*steps)
    two = replace(model, settings=replace(TRANSFORMER, num_frames=2))
    alone = two.start(frames[:, 1:], actions[:, 1:], mask[:, 1:], draw(range(1)))
    torch.testing.assert_close(two.step(alone, torch.tensor([1]), draw(range(1), 1))[1].frame, steps[0])


@pytest.mark.parametrize(("noise", "frames"), [("per_frame", (0, 1, 2)), ("last_frame", (2,))])
def test_which_frames_count_in_training(noise: Any, frames: tuple[int, ...]) -> None:
    """Padding never counts. With last_frame, one frame per row does, and the others have the context noise."""
    model = build_world(replace(TRANSFORMER, noise=noise), WorldSpec(FrameSpec.square(16), ActionSpec.discrete(3)))
    (trainable,) = model.trainables(TrainingConfig())
    seen: list[Tensor] = []
    inner = model.network.forward
    model.network.forward = lambda x, c, a: (seen.append(c), inner(x, c, a))[1]  # type: ignore[method-assign]
    shown = torch.full((1, 4, 3, 16, 16), 255, dtype=torch.uint8)
    mask = torch.tensor([[False, True, True, True]])
    given = Segments(shown * mask[..., None, None, None], torch.tensor([[0, 1, 2, 0]]), mask)
    loss, _ = trainable.loss(given, torch.Generator().manual_seed(0))
    levels = (seen[0] * 4).exp()
    assert ((levels - 0.05).abs() < 1e-4).sum() == (0 if noise == "per_frame" else 3)
    counting = []
    for t in range(4):
        raised = torch.zeros(4).index_fill(0, torch.tensor([t]), 5.0)[:, None, None, None]
        model.network.forward = lambda x, c, a, raised=raised: inner(x, c, a) + raised  # type: ignore[method-assign]
        again, _ = trainable.loss(given, torch.Generator().manual_seed(0))
        counting.append(again.item() != loss.item())
    assert counting == [frame in frames for frame in range(4)], "the padding lies last"


@pytest.mark.parametrize("way", ["adaln", "token"])
def test_it_learns_which_action_leads_to_which_frame(way: ActionWay) -> None:
    """A game whose frame shows the action before it."""
    torch.manual_seed(0)
    settings = Transformer(network=FrameTransformerConfig(1, 2, 16, 8, 3, way))
    (trainable,) = build_world(settings, WorldSpec(FrameSpec.square(8), ActionSpec.discrete(3))).trainables(TrainingConfig())
    draws = torch.Generator().manual_seed(0)

    def segments(b: int = 32) -> Segments:
        actions = torch.randint(3, (b, 3), generator=draws)
        shown = torch.cat((torch.randint(3, (b, 1), generator=draws), actions[:, :-1]), dim=1) * 100 + 20
        frames = shown.to(torch.uint8)[..., None, None, None].expand(*shown.shape, 3, 8, 8)
        return Segments(frames, actions, torch.ones(shown.shape, dtype=torch.bool))

    optimizer = torch.optim.AdamW(trainable.network.parameters(), 1e-2)
    for _ in range(120):
        loss, _ = trainable.loss(segments(), draws)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    check_learns_actions(trainable, segments(128))


def test_an_interruption_changes_no_byte(data: EpisodeSet, tmp_path: Path) -> None:
    training = TrainingConfig(num_steps=4, batch_size=2, learning_rate=1e-3, milestones=(1.0,), log_every=2)
    config = TrainWorldModel(0, training=training, family=TRANSFORMER)
    train(tmp_path / "whole", config=config)
    with pytest.raises(Interrupted, match="update 2 of 4"):
        train(tmp_path / "parts", 2, config)
    train(tmp_path / "parts", config=config)
    assert artifact(tmp_path / "parts") == artifact(tmp_path / "whole")
    assert isinstance(load_world_model(tmp_path / "whole" / "models" / "1", FrameSpec.square(16)), TransformerWorld)


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ("family.network.heads: 5", ["family.network.width=384", "family.network.heads=5"]),
        ("family.history_guidance: 2, family.noise: last_frame", ["family.history_guidance", "per_frame"]),
        ("family.num_frames: 16", ["family.num_frames=16", "family.num_frames=15"]),
        ("family.network.patch: 5", ["family.network.patch=5", "does not divide"]),
        ("family.objective.coordinate: change", ["family.objective.coordinate=change", "frame"]),
        ("family.objective.sigma_data: measured", ["family.objective.sigma_data=measured", "number"]),
        ("family.context_noise: 50", ["family.context_noise=50", "0.002 to 20"]),
        ("sampler.guidance: 2", ["sampler.guidance=2", "sampler.guidance=1"]),
        ("sampler.s_cond: 50", ["sampler.s_cond=50", "0.002 to 20"]),
        ("sampler.s_cond: 0.1, family.noise: last_frame", ["sampler.s_cond=0.1", "family.context_noise"]),
        ("sampler.s_cond: 0.1, sampler.s_cond_rule: constant", ["sampler.s_cond_rule=constant", "leave it out"]),
        ("sampler: fast", ["sampler=fast", "two stages"]),
        ("family.network.actions: adalm", ["adalm", "adaln"]),
    ],
)
def test_settings_that_do_not_fit_are_refused_at_planning(arm: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        plan_study(study(tmp_path, f"a: {{family: transformer, {arm}}}"), list(TINY))
    for word in words:
        assert word in str(error.value)
