"""CUDA graphs, as far as a CPU can tell: what is recorded and replayed gives the numbers of doing it in turn (see tape.py)."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from small_agents import small_agent_config
from tape import record_tape
from test_agent_wiring import CPU, replay

from diamond_bench.config import AncestralSampler, MultistepSampler, OdeSampler, Sampler
from diamond_bench.jobs.agent_learners import Learners
from diamond_bench.jobs.execution import Execution
from diamond_bench.models import graphs
from diamond_bench.models.graphs import Graphed
from diamond_bench.worlds.recorded import recorded


def built(execution: Execution) -> Learners:
    torch.manual_seed(0)
    return Learners(small_agent_config("actor_critic.warmup_steps=3"), CPU, replay(), torch.Generator().manual_seed(7), execution)


def unrecorded() -> Learners:
    """The same in turn, with optimisers whose learning rate lies on the device as theirs does: it is rounded there."""
    learners = built(Execution(cuda_graphs="all"))
    for learner in learners._learners.values():
        learner._recorded = False
    return learners


@pytest.fixture(autouse=True)
def tape(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What would be CUDA graphs, on the tests' tape; without oneDNN, whose LSTM hands memory from the forward to the
    backward pass that a replay of single calls does not get."""
    monkeypatch.setattr(graphs, "record_cuda_graph", record_tape)
    with torch.backends.mkldnn.flags(enabled=False):
        yield


def test_a_training_through_graphs_is_the_same_training() -> None:
    eager, graphed = unrecorded(), built(Execution(cuda_graphs="all"))
    for _ in range(Graphed.WARM_UP + 3):
        for name in ("denoiser", "reward_end", "actor_critic"):
            one, other = eager.update(name), graphed.update(name)
            assert one.keys() == other.keys()
            for group, values in one.items():
                assert {k: float(v) for k, v in values.items()} == {k: float(v) for k, v in other[group].items()}
    for ours, theirs in zip(eager.compilable, graphed.compilable, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    used = {name: learner._graphed is not None and learner._graphed._recording is not None for name, learner in graphed._learners.items()}
    assert used == {"denoiser": True, "reward_end": True, "actor_critic": True}


def test_imagined_steps_alone_through_a_graph_are_the_same_training() -> None:
    """`cuda_graphs=imagination`: updates in turn, around recorded steps."""
    eager, graphed = built(Execution()), built(Execution(cuda_graphs="imagination"))
    for _ in range(Graphed.WARM_UP + 2):
        assert float(eager.update("actor_critic")["actor_critic"]["loss"]) == float(graphed.update("actor_critic")["actor_critic"]["loss"])
    step: Any = graphed._imagination.advance  # type: ignore[union-attr]
    assert step._recording is not None
    assert graphed._learners["actor_critic"]._graphed is None


def test_a_recorded_update_of_the_policy_is_recorded_again_if_start_segments_moved() -> None:
    """The ring that is enlarged lies elsewhere; a replay on the old memory would go on with segments that were used before."""
    eager, graphed = unrecorded(), built(Execution(cuda_graphs="all"))
    recordings: list[Any] = []
    for updates in (Graphed.WARM_UP + 2, Graphed.WARM_UP + 1):
        for _ in range(updates):
            one, other = eager.update("actor_critic"), graphed.update("actor_critic")
            assert {k: float(v) for k, v in one["actor_critic"].items()} == {k: float(v) for k, v in other["actor_critic"].items()}
            assert {k: float(v) for k, v in one["imagined"].items()} == {k: float(v) for k, v in other["imagined"].items()}
        recordings.append(graphed._learners["actor_critic"]._graphed._recording)  # type: ignore[union-attr]
        for learners in (eager, graphed):
            learners.prepare(50)
    assert None not in recordings
    assert len({id(recording) for recording in recordings}) == 2
    for a, b in zip(eager._imagination.position, graphed._imagination.position, strict=True):  # type: ignore[union-attr]
        assert torch.equal(a, b)


def test_a_graphed_training_goes_on_from_a_checkpoint_of_an_eager_one_and_back() -> None:
    eager, graphed = unrecorded(), built(Execution(cuda_graphs="all"))
    names = ("denoiser", "actor_critic")
    for _ in range(Graphed.WARM_UP + 2):
        for name in names:
            eager.update(name)
    graphed.load_state_dict(copy.deepcopy(eager.state_dict()))
    graphed.generator.set_state(eager.generator.get_state())
    for _ in range(Graphed.WARM_UP + 2):
        for name in names:
            assert float(eager.update(name)[name]["loss"]) == float(graphed.update(name)[name]["loss"])
    back = unrecorded()
    back.load_state_dict(copy.deepcopy(graphed.state_dict()))
    back.generator.set_state(graphed.generator.get_state())
    for _ in range(2):
        for name in names:
            losses = {float(one.update(name)[name]["loss"]) for one in (eager, graphed, back)}
            assert len(losses) == 1


@pytest.mark.parametrize(
    "sampler",
    [
        OdeSampler(num_steps=3),
        OdeSampler(num_steps=2, s_churn=1.0),
        AncestralSampler(num_steps=3),
        MultistepSampler(num_steps=3),
        OdeSampler(num_steps=2, quantize="every_call"),
    ],
    ids=["euler", "churn", "ancestral", "multistep", "quantised"],
)
def test_sampling_through_a_graph_gives_the_same_frames_from_the_same_noise(sampler: Sampler) -> None:
    model = built(Execution()).agent.world_model
    assert model is not None
    with torch.no_grad():
        for parameter in model.networks["denoiser"].parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())))
    draws = torch.Generator().manual_seed(3)
    eager, taped = (torch.Generator().manual_seed(5) for _ in range(2))
    in_turn = model.bound(sampler)
    through = recorded(in_turn, record_tape)
    frames = []
    for _ in range(Graphed.WARM_UP + 4):
        past = torch.rand(2, model.context, 3, 16, 16, generator=draws) * 2 - 1
        actions = torch.randint(4, (2, model.context), generator=draws)
        (after, wanted), (after_taped, found) = (
            world.step((past, actions), actions[:, -1], lambda like, of=of: torch.randn(like.shape, generator=of))  # type: ignore[misc]
            for world, of in ((in_turn, eager), (through, taped))
        )
        assert torch.equal(wanted.frame, found.frame)
        assert all(torch.equal(a, b) for a, b in zip(after, after_taped, strict=True))
        frames.append(found.frame)
    assert len({frame.sum().item() for frame in frames}) == len(frames), "an output is never overwritten by a later one"
    assert torch.equal(eager.get_state(), taped.get_state())


def test_other_shapes_are_refused() -> None:
    graphed = Graphed(lambda x: (x + 1,), record=record_tape)
    graphed(torch.zeros(2))
    with pytest.raises(ValueError, match="recorded for inputs of"):
        graphed(torch.zeros(3))
