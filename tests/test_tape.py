"""The stand-in for CUDA graphs does what one does: the same work again in the same memory, with the host's numbers as they were."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from small_denoisers import ACTIONS, L, denoiser_of
from tape import NotRecordableError, record_tape
from torch import Tensor

from diamond_bench.config import ConditioningConfig, TrainingConfig
from diamond_bench.diffusion.denoiser import Denoiser
from diamond_bench.models.graphs import Graphed, Outputs
from diamond_bench.training.learner import Learner

RATES = TrainingConfig(learning_rate=2.0**-10, warmup_steps=8)  # every rate of the warm-up is a float32: recorded, they are tensors


def test_work_is_done_again_on_what_the_memory_holds() -> None:
    x = torch.ones(3)
    replay = record_tape(lambda: ((x * 2).relu().view(1, 3).sum(dim=1),))
    assert replay()[0] == 6
    first = replay()[0]
    x.fill_(5)
    (second,) = replay()
    assert second == 30
    assert first.data_ptr() == second.data_ptr()


def test_what_the_host_decided_stays() -> None:
    x, factor = torch.ones(3), [2.0]
    replay = record_tape(lambda: (x * factor[0],))
    factor[0] = 100.0
    assert torch.equal(replay()[0], torch.full((3,), 2.0))


def test_recording_has_no_effect() -> None:
    generator = torch.Generator().manual_seed(1)
    weights, untold, before = torch.zeros(3), torch.get_rng_state(), generator.get_state()

    def work() -> Outputs:
        weights.add_(torch.randn(3, generator=generator)).add_(torch.randn(3))
        return (weights,)

    replay = record_tape(work, [generator])
    assert torch.equal(weights, torch.zeros(3))
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(torch.get_rng_state(), untold)
    expected = torch.randn(3, generator=torch.Generator().manual_seed(1)) + torch.randn(3)
    torch.set_rng_state(untold)
    replay()
    assert torch.equal(weights, expected)


def test_random_numbers_go_on() -> None:
    generator, same = (torch.Generator().manual_seed(2) for _ in range(2))
    replay = record_tape(lambda: (torch.randn(4, generator=generator),), [generator])
    for _ in range(3):
        assert torch.equal(replay()[0], torch.randn(4, generator=same))


def test_views_and_what_is_written_through_them() -> None:
    x = torch.zeros(2, 3)

    def work() -> Outputs:
        y = x.t().contiguous().reshape(6)  # both copies and views
        y[2:4].mul_(10)
        x[0].add_(1)
        return y.view(3, 2), x.sum()

    replay = record_tape(work)
    replay()
    y, total = replay()
    assert total == 6
    assert torch.equal(y, torch.tensor([[1.0, 0.0], [10.0, 0.0], [1.0, 0.0]]))


def test_in_inference_mode_too() -> None:
    x, weight = torch.arange(6.0).reshape(2, 3), torch.nn.Parameter(torch.eye(3))
    with torch.inference_mode():
        replay = record_tape(lambda: (torch.nn.functional.linear(x, weight).reshape(3, 2).t().reshape(6),))
    x.mul_(2)
    assert torch.equal(replay()[0], torch.tensor([0.0, 4.0, 8.0, 2.0, 6.0, 10.0]))


x_of_refusals, mask_of_refusals = torch.arange(4.0), torch.tensor([True, False, True, True])
REFUSED: dict[str, Callable[[], Any]] = {
    "a number": lambda: x_of_refusals.sum().item(),
    "a condition": lambda: bool(mask_of_refusals.any()),
    "a list": lambda: x_of_refusals.tolist(),
    "an array": lambda: x_of_refusals.numpy(),
    "positions": lambda: mask_of_refusals.nonzero(),
    "a mask": lambda: x_of_refusals[mask_of_refusals],
    "masked_select": lambda: x_of_refusals.masked_select(mask_of_refusals),
    "values put by a mask": lambda: x_of_refusals.clone().__setitem__(mask_of_refusals, torch.ones(3)),
    "distinct values": lambda: x_of_refusals.unique(),
    "a tensor made of numbers of the host": lambda: x_of_refusals * torch.tensor([1.0, 2.0, 3.0, 4.0]),
    "an unknown generator": lambda: torch.randn(3, generator=torch.Generator()),
}


@pytest.mark.parametrize("work", REFUSED.values(), ids=REFUSED.keys())
def test_what_a_capture_forbids_is_refused(work: Callable[[], Any]) -> None:
    with pytest.raises(NotRecordableError):
        record_tape(lambda: (x_of_refusals + 1, work()))


def test_what_a_capture_takes_is_not_refused() -> None:
    x, mask, index = torch.arange(4.0), torch.tensor([True, False, True, True]), torch.tensor([3, 0])

    def work() -> Outputs:
        y = x.clone()
        y[mask] = 7.0  # one value, no count
        return y[index], torch.where(mask, x, -1)

    a, b = record_tape(work)()
    assert (a.tolist(), b.tolist()) == ([7.0, 7.0], [0.0, -1.0, 2.0, 3.0])


def test_work_that_fails_leaves_nothing_changed() -> None:
    x = torch.zeros(3)
    with pytest.raises(NotRecordableError):
        record_tape(lambda: (x.add_(1), x.sum().item()))  # type: ignore[arg-type, return-value]
    assert torch.equal(x, torch.zeros(3))


def test_graphed_on_a_tape_calls_the_function_no_more_than_it_must() -> None:
    calls = []
    graphed = Graphed(lambda x: (calls.append(1) or x * 2,), record=record_tape)  # type: ignore[func-returns-value]
    outputs = [graphed(torch.full((2,), float(i)))[0] for i in range(8)]
    assert [output[0].item() for output in outputs] == [0, 2, 4, 6, 8, 10, 12, 14]
    assert len(calls) == Graphed.WARM_UP + 1


# A training by a tape against the same in turn.


class Course:
    """A denoiser being trained on batches of its own stream of random numbers."""

    def __init__(self, settings: TrainingConfig = RATES, **learner: Any) -> None:
        self.denoiser: Denoiser = denoiser_of(ConditioningConfig(L))
        self.generator = torch.Generator().manual_seed(3)
        self.learner = Learner(self.denoiser, settings, **learner)

    def batch(self) -> tuple[Tensor, ...]:
        frames = torch.rand(4, L + 2, 3, 8, 8, generator=self.generator) * 2 - 1
        return frames, torch.randint(ACTIONS, (4, L + 2), generator=self.generator), torch.ones(4, L + 2, dtype=torch.bool)

    def loss_of(self, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, _ = self.denoiser.training_loss(*batch, self.generator)
        return loss, {"loss": loss.detach()}

    def run(self, updates: int) -> list[tuple[float, ...]]:
        found = [self.learner.learn(self.loss_of, self.batch(), [self.generator]) for _ in range(updates)]
        return [tuple(value.item() for value in values.values()) for values in found]

    def weights(self) -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.denoiser.parameters()])


@pytest.fixture(scope="module")
def in_turn() -> tuple[list[tuple[float, ...]], Tensor]:
    course = Course()
    return course.run(20), course.weights()


def test_recorded_updates_equal_sequential_ones(in_turn: tuple[list[tuple[float, ...]], Tensor]) -> None:
    course = Course(recorded=True, record=record_tape)
    assert course.run(20) == in_turn[0]  # bit for bit, over the warm-up of the rate and past it
    assert torch.equal(course.weights(), in_turn[1])


def test_a_recorded_rate_that_is_a_number_is_noticed(in_turn: tuple[list[tuple[float, ...]], Tensor]) -> None:
    def with_a_number(work: Callable[[], Outputs], generators: Sequence[torch.Generator]) -> Callable[[], Outputs]:
        for group in course.learner._optimizer.param_groups:
            group["lr"] = float(group["lr"])
        return record_tape(work, generators)

    course = Course(recorded=True, record=with_a_number)
    losses = course.run(20)
    assert losses[:4] == in_turn[0][:4]
    assert losses != in_turn[0]


@pytest.mark.parametrize("at", [2, 7])
def test_a_checkpoint_in_the_middle(in_turn: tuple[list[tuple[float, ...]], Tensor], at: int) -> None:
    before, after = (Course(recorded=True, record=record_tape) for _ in range(2))
    losses = before.run(at)
    after.learner.load_state_dict(before.learner.state_dict())
    after.generator.set_state(before.generator.get_state())
    assert losses + after.run(20 - at) == in_turn[0]
    assert torch.equal(after.weights(), in_turn[1])


def test_resuming_from_a_checkpoint_records_again(in_turn: tuple[list[tuple[float, ...]], Tensor]) -> None:
    course = Course(recorded=True, record=record_tape)
    course.run(6)
    saved = course.learner.state_dict()
    kept = {"network": {k: v.clone() for k, v in saved["network"].items()}, "optimizer": _copied(saved["optimizer"]), "updates": 6}
    state = course.generator.get_state()
    course.run(5)
    course.learner.load_state_dict(kept)
    course.generator.set_state(state)
    assert course.run(14) == in_turn[0][6:]


def _copied(optimizer: dict[str, Any]) -> dict[str, Any]:
    state = {number: {name: value.clone() for name, value in kept.items()} for number, kept in optimizer["state"].items()}
    groups = [{**group, "lr": float(group["lr"])} for group in optimizer["param_groups"]]
    return {"state": state, "param_groups": groups}
