"""`execution.encode_past=once`: the same frames as with every call, from fewer runs of the encoder, and an identity of its own."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from execution_options import Distance
from small_denoisers import ACTIONS, LIGHT, NETWORK, L, awake
from torch import Tensor

from diamond_bench.config import ConditioningConfig, FactoredObjective, OdeSampler, Sampler
from diamond_bench.diffusion.samplers import sample
from diamond_bench.errors import UserError
from diamond_bench.jobs.execution import Execution, apply_to_world_model, facts_of
from diamond_bench.spaces import FrameSpec
from diamond_bench.studies.plan import plan_study
from diamond_bench.worlds.contract import imagined_frames
from diamond_bench.worlds.diamond.world import Description, DiamondWorld, build_diamond

PAST = replace(LIGHT, frames="cross_attention")
ONCE = Execution(encode_past="once")
BATCH, STEPS = 4, 3
EULER = OdeSampler(num_steps=3)
WAYS: dict[str, tuple[ConditioningConfig, Sampler, int]] = {
    "cross_attention": (PAST, EULER, 1),
    "both": (replace(PAST, frames="both"), EULER, 1),
    "heun": (PAST, OdeSampler(name="heun", num_steps=3), 1),
    "guidance": (replace(PAST, action_dropout=0.1), replace(EULER, guidance=2.0), 2),
    "noise on past frames": (replace(PAST, past_noise="training"), OdeSampler(name="heun", num_steps=3, s_cond=0.1), 3),
}
"""Conditioning, sampler, and the runs of the encoder of `once` per frame: with and without actions in guidance, and once
for each step whose past frames get noise of their own."""


def world(conditioning: ConditioningConfig) -> DiamondWorld:
    built = build_diamond(Description(FactoredObjective(), conditioning, NETWORK, ACTIONS), FrameSpec.square(8))
    built.denoiser.network.load_state_dict(awake(conditioning).state_dict())
    return built


def imagined(conditioning: ConditioningConfig, sampler: Sampler, execution: Execution) -> tuple[Tensor, int]:
    """Frames of a few steps, and the runs of the encoder."""
    runs: list[int] = []
    built = world(conditioning).bound(sampler)
    built.denoiser.network.frame_conditioning.conv_in.register_forward_hook(lambda *_: runs.append(1))  # type: ignore[union-attr, operator]
    generator = torch.Generator().manual_seed(0)
    past = torch.rand(BATCH, L, 3, 8, 8, generator=generator) * 2 - 1
    actions = torch.randint(ACTIONS, (BATCH, L - 1 + STEPS), generator=generator)
    executed = apply_to_world_model(execution, built, BATCH)
    found = imagined_frames(executed, past, actions, lambda like: torch.randn(like.shape, generator=generator))
    return torch.stack(list(found)), len(runs)


@pytest.mark.parametrize(("conditioning", "sampler", "expected"), WAYS.values(), ids=WAYS.keys())
def test_the_encoder_runs_less_often_and_no_bit_changes(conditioning: ConditioningConfig, sampler: Sampler, expected: int) -> None:
    (plain, calls), (found, runs) = imagined(conditioning, sampler, Execution()), imagined(conditioning, sampler, ONCE)
    assert plain.std() > 0.05
    assert (plain[0] - plain[1]).abs().max() > 0.05, "the encoding must change from frame to frame"
    assert torch.equal(plain, found)
    assert runs == STEPS * expected
    assert calls == STEPS * {"euler": 3, "heun": 5}[sampler.name] * (2 if sampler.guidance != 1 else 1)


def test_groups_of_games_have_encodings_of_their_own() -> None:
    """Each group's past frames are another tensor: an encoding of the first group would be that of other games."""
    plain, _ = imagined(PAST, EULER, Execution(sampling_streams=2))
    found, runs = imagined(PAST, EULER, replace(ONCE, sampling_streams=2))
    assert torch.equal(plain, found)
    assert runs == 2 * STEPS


def test_compiled_calls_differ_by_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **how: real(function, **{**how, "backend": "eager"}))
    torch.compiler.reset()
    met: dict[str, list[Tensor]] = {}
    for name, execution in {"plain": Execution(), "compiled": replace(ONCE, compile="imagination")}.items():
        built = world(PAST).bound(EULER)
        apply_to_world_model(execution, built, BATCH)
        generator = torch.Generator().manual_seed(1)
        past, noise = (torch.randn(BATCH, *shape, 8, 8, generator=generator) for shape in ((L, 3), (3,)))
        states = met[name] = []
        with torch.inference_mode():
            denoiser, actions = built.denoiser.for_one_frame(), torch.zeros(BATCH, L, dtype=torch.int64)
            sample(denoiser, past, actions, EULER, lambda noise=noise: noise, lambda x, d, _, states=states: states.extend((x, d)))
        if name == "compiled":
            assert built.denoiser.compiled is not None
            assert built.denoiser.compiled.calls == {"compiled": 3, "eager": 0}
    assert all(Distance.of(a, b).relative < 2e-6 for a, b in zip(met["plain"], met["compiled"], strict=True))
    torch.compiler.reset()


def ids(*tokens: str) -> dict[str, set[str]]:
    plan = plan_study("sampling_steps", ["scale=tiny", "seeds=1", "conditioning=cross_attention", *tokens])
    return {kind: {ref.id for ref in plan.jobs if ref.kind == kind} for kind in ("train_world_model", "evaluate_world_model")}


def test_it_is_part_of_the_identity_of_what_samples() -> None:
    neutral, once = ids(), ids("execution.encode_past=once")
    assert ids("execution.encode_past=every_call") == neutral
    assert once["train_world_model"] == neutral["train_world_model"]
    assert not once["evaluate_world_model"] & neutral["evaluate_world_model"]
    assert facts_of(ONCE)["encode_past"] == "once"
    assert "encode_past" not in facts_of(Execution())


def test_where_it_has_no_effect_it_is_refused() -> None:
    with pytest.raises(UserError, match=r"execution.encode_past: it has no effect with conditioning.frames=stack"):
        plan_study("sampling_steps", ["scale=tiny", "execution.encode_past=once"])
