"""Schedules of the family `transformer`: frames one after the other, in a pyramid, or all together; and who refuses the last two."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import draw
from test_report import finish
from test_transformer import world
from test_worlds import TRANSFORMER, study
from torch import Tensor

from diamond_bench import api
from diamond_bench.config import EnvConfig, OdeSampler, OpenLoopSampler, PyramidSampler, Sampler
from diamond_bench.diffusion.schedules import sigmas
from diamond_bench.errors import UserError
from diamond_bench.models.frame_transformer import led_to
from diamond_bench.play.lanes import Setting
from diamond_bench.play.naming import request
from diamond_bench.play.opening import _fitting
from diamond_bench.play.sources import trained
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.stored import imagination
from diamond_bench.studies import single
from diamond_bench.studies.plan import plan_study, save_plan
from diamond_bench.studies.single import plan_train
from diamond_bench.worlds.contract import Draw, OpenLoop, imagined_frames
from diamond_bench.worlds.transformer.world import TransformerWorld

SETTINGS = replace(TRANSFORMER, network=replace(TRANSFORMER.network, num_frames=8), num_frames=2)
"""A memory of 7 frames, so that 2 real frames and 5 imagined ones fit into one segment."""
WAYS: Any = {"quantization": "none"}
SAMPLERS: dict[str, Sampler] = {
    "sequential": OdeSampler(num_steps=3, **WAYS),
    "pyramid": PyramidSampler(num_steps=3, **WAYS),
    "steep pyramid": PyramidSampler(num_steps=3, delay=2, **WAYS),
    "whole_sequence": OpenLoopSampler(num_steps=3, **WAYS),
}
TOGETHER = [name for name in SAMPLERS if name != "sequential"]
T = 5


def noise(number: int, like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(number))


def numbered(changed: int = 10**9) -> Draw:
    """Each draw is that of its number. Those from `changed` on are others."""
    numbers = iter(range(10**6))

    def drawn(like: Tensor) -> Tensor:
        number = next(numbers)
        return noise(number + 1000 * (number >= changed), like)

    return drawn


def play(rows: int = 2, steps: int = T) -> tuple[Tensor, Tensor]:
    """Two real frames, and the actions after the first one."""
    draws = torch.Generator().manual_seed(1)
    frames = torch.rand(rows, 2, 3, 16, 16, generator=draws) * 2 - 1
    return frames, torch.randint(3, (rows, 1 + steps), generator=draws)


def imagine(model: TransformerWorld, frames: Tensor, actions: Tensor, of: Draw) -> Tensor:
    return torch.stack(list(imagined_frames(model, frames, actions, of)), dim=1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_frame_depends_on_its_action_and_on_no_later_action_or_noise(name: str) -> None:
    model, (frames, actions) = world(SETTINGS, SAMPLERS[name]), play()
    assert isinstance(model, OpenLoop) == (name != "sequential")
    found = imagine(model, frames, actions, numbered())
    assert found.shape == (2, T, 3, 16, 16)
    later = actions.clone()
    later[:, 3:] = (later[:, 3:] + 1) % 3
    for other in (imagine(model, frames, later, numbered()), imagine(model, frames, actions, numbered(2 + 2 * 2))):
        assert (other != found).flatten(2).any(2).all(0).tolist() == [False, False, True, True, True]


def reference(model: TransformerWorld, sampler: OpenLoopSampler, frames: Tensor, actions: Tensor) -> Tensor:
    """The frames by the formulas of EDM, with all frames so far given to the network at every step, and no memory."""
    n, behind, levels = sampler.num_steps, sampler.steps_behind, sigmas(sampler).tolist()
    past = [frames[:, i] + 0.05 * noise(i, frames[:, i]) for i in range(2)]
    x = {i: noise(2 + 2 * i, past[0]) for i in range(T)}
    for m in range(n + (T - 1) * behind):
        steps = [m - i * behind for i in range(T) if m >= i * behind]
        sigma = [0.05, 0.05, *(levels[step] if step < n else 0.05 for step in steps)]
        shown = [x[i] + 0.05 * noise(3 + 2 * i, x[i]) * (step >= n) for i, step in enumerate(steps)]
        level = torch.tensor(sigma)
        fed = torch.stack([*past, *shown], dim=1) * (level.square() + 0.25).rsqrt()[:, None, None, None]
        out = model.network(fed, (level.log() / 4).expand(2, -1), led_to(torch.cat((actions, actions[:, :1]), dim=1))[:, : len(sigma)])
        for i, step in enumerate(steps):
            if step < n:
                s, following = levels[step], levels[step + 1]
                clean = 0.25 / (s**2 + 0.25) * x[i] + s * 0.5 / (s**2 + 0.25) ** 0.5 * out[:, 2 + i]
                x[i] = x[i] + (x[i] - clean) / s * (following - s)
            if step == n - 1:
                x[i] = x[i].clamp(-1, 1)
    return torch.stack(list(x.values()), dim=1)


@pytest.mark.parametrize("name", TOGETHER)
@torch.no_grad()
def test_frames_are_those_of_the_formulas_without_a_memory(name: str) -> None:
    sampler = SAMPLERS[name]
    assert isinstance(sampler, OpenLoopSampler)
    model, (frames, actions) = world(SETTINGS, replace(sampler, quantize="final")), play()
    found = imagine(model, frames, actions, numbered())
    torch.testing.assert_close(found, reference(model, sampler, frames, actions), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("delay", [3, 7])
def test_a_pyramid_as_steep_as_its_steps_is_sequential(delay: int) -> None:
    frames, actions = play()
    one, other = (world(SETTINGS, of) for of in (SAMPLERS["sequential"], PyramidSampler(num_steps=3, delay=delay, **WAYS)))
    torch.testing.assert_close(*(imagine(model, frames, actions, numbered()) for model in (one, other)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", TOGETHER)
def test_a_row_and_a_frame_depend_on_no_size(name: str) -> None:
    """A row alone is what it was among others. The first frames are those of a longer horizon, also where the memory is full."""
    model, (frames, actions) = world(SETTINGS, SAMPLERS[name]), play(steps=9)
    found = imagine(model, frames, actions, draw(range(2)))
    torch.testing.assert_close(imagine(model, frames[1:], actions[1:], draw(range(1, 2))), found[1:], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(imagine(model, frames, actions[:, :4], draw(range(2))), found[:, :3], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.parametrize("w", [1.0, 0.0])
def test_every_call_of_every_frame_counts(name: str, w: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the weight 0 of the memory, frames depend on no other frame."""
    model, (frames, actions) = world(replace(SETTINGS, history_guidance=w), SAMPLERS[name]), play()
    counted = []

    def counting(method: Callable[..., Tensor], number: Callable[[Tensor], int]) -> Callable[..., Tensor]:
        return lambda x, *given: (counted.append(number(x)), method(x, *given))[1]

    monkeypatch.setattr(model.network, "frames_after", counting(model.network.frames_after, lambda x: x.shape[1]))
    monkeypatch.setattr(model.network, "next_frame", counting(model.network.next_frame, lambda x: 1))
    found = imagine(model, frames, actions, numbered())
    assert sum(counted) - model.context == model.calls_per_frame * T
    assert model.calls_per_frame == 3 * (1 if w == 1 else 2) + (name != "whole_sequence")
    assert torch.equal(imagine(model, -frames, actions, numbered()), found) == (w == 0)


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ("sampler: pyramid", ["sampler=pyramid", "family=transformer"]),
        ("family: transformer, sampler: whole_sequence, family.noise: last_frame", ["sampler=whole_sequence", "per_frame"]),
        (
            "family: transformer, sampler: pyramid, evaluation.metrics: [idle_decay], evaluation.hold_frames: 10",
            ["sampler=pyramid", "idle_decay", "sampler=euler"],
        ),
        ("family: transformer, sampler: pyramid, execution.cuda_graphs: imagination", ["execution.cuda_graphs", "none"]),
        ("family: transformer, sampler: pyramid, sampler.delay: 0", ["delay", "0"]),
        ("family: transformer, sampler: whole_sequence, sampler.guidance: 2", ["sampler.guidance=2", "sampler.guidance=1"]),
        ("family: tokens, family.tokenizer.perceptual: false, sampler: pyramid", ["sampler", "family=tokens"]),
    ],
)
def test_studies_that_cannot_use_it_are_refused_at_planning(arm: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        plan_study(study(tmp_path, f"a: {{{arm}}}"), ["scale=tiny"])
    for word in words:
        assert word in str(error.value)


def test_an_evaluation_of_an_agent_and_imagined_games_refuse_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    match = r"sampler=pyramid: .* all actions in advance, but .*sampler=euler"
    monkeypatch.setattr(single, "find_agent", lambda store, name: JobRef("train_agent", "0" * 16))
    monkeypatch.setattr(single, "trained_with", lambda store, agent: ("Pong", 0, EnvConfig()))
    monkeypatch.setattr(single, "trained_at", lambda store, agent: "tiny")
    with pytest.raises(UserError, match=match):
        single.plan_evaluate("x", ["sampler=pyramid", f"output_dir={tmp_path}"], None, False)
    opened = SimpleNamespace(sampler=PyramidSampler(), rewarded=True)
    monkeypatch.setattr(imagination, "imagination_of", lambda store, source, how: opened)
    with pytest.raises(UserError, match=match):
        api.imagination_env("0000", output_dir=tmp_path)


def test_no_agent_and_no_player_takes_it(tmp_path: Path) -> None:
    sampler, small = PyramidSampler(), world(SETTINGS, OdeSampler())
    match = r"sampler=pyramid: .* all actions in advance, but .*sampler=euler"
    with pytest.raises(UserError, match=match):
        plan_train(["game=synthetic/turn", "scale=tiny", "family=transformer_small", "sampler=pyramid", f"output_dir={tmp_path}"])
    with pytest.raises(UserError, match=match):
        request(Store(tmp_path), ["synthetic/turn", "sampler=pyramid"])
    with pytest.raises(UserError, match=match):
        trained(lambda milestone: small, Setting(sampler), sampler)
    assert "euler" in (names := _fitting(small, OdeSampler())[0])
    assert not {"pyramid", "whole_sequence"} & set(names)
    model, (frames, actions) = small.bound(sampler), play()
    state = model.start(frames, actions[:, :2], torch.ones(2, 2, dtype=torch.bool), numbered())
    with pytest.raises(UserError, match=match):
        model.step(state, actions[:, 1], numbered())
    assert not list(tmp_path.iterdir())


def test_play_of_a_study_leaves_out_the_variants_that_nobody_can_play(tmp_path: Path) -> None:
    arms = "a: {family: transformer_small}, b: {family: transformer_small, sampler: pyramid}"
    plan = plan_study(study(tmp_path, arms), ["scale=tiny", "seeds=1", f"output_dir={tmp_path / 'outputs'}"])
    store = Store(tmp_path / "outputs", say=lambda text: None)
    for spec in plan.jobs.values():
        finish(store, spec)
    save_plan(plan, store.root)
    asked = request(store, ["mine", "scale=tiny"])
    assert [one.name for one in asked.named] == ["a"]
    assert any("need all in advance: b." in note for note in asked.notes)
    assert [one.name for one in request(store, ["mine", "scale=tiny", "variant=b"]).named] == ["b"]
