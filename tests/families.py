"""What every family of world models must keep to: a test of a new family makes a `Case` of it and calls the checks."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diamond_bench.config.worlds import WorldCost
from diamond_bench.data.segments import Segments
from diamond_bench.evaluation.rollouts import seeded_draw
from diamond_bench.worlds.contract import Draw, State, Step, Trainable, WorldModel

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A family's world and real play of b rows to start from."""

    open: Callable[[], WorldModel]
    """The same world each time, bound to its sampler."""
    frames: Tensor
    """(b, s, 3, h, w) in [-1, 1]."""
    actions: Tensor
    """(b, s + T, ...): what was done in the real play, and what is to be done next."""
    origin: Tensor
    cost: WorldCost
    tolerance: float = 0.0
    """Share of pixels that may differ where a batch of another size rounds otherwise."""

    @property
    def seen(self) -> int:
        """s."""
        return self.frames.shape[1]

    def start(self, world: WorldModel, draw: Draw, rows: slice = slice(None)) -> State:
        """The state after the real play of some rows."""
        frames, actions = self.frames[rows], self.actions[rows, : self.seen]
        return world.start(frames, actions, torch.ones(frames.shape[:2], dtype=torch.bool), draw, self.origin[rows])


def draw(rows: range, stream: int = 0) -> Draw:
    """Row i's noise comes from its own generator."""
    return seeded_draw([(stream, i) for i in rows], CPU)


def rolled(case: Case, world: WorldModel, state: State, actions: Tensor, of: Draw) -> list[tuple[State, Step]]:
    """The states and steps that these actions (b, T) lead to."""
    found = []
    for action in actions.unbind(1):
        state, step = world.step(state, action, of)
        found.append((state, step))
    return found


def check_contract(case: Case) -> None:
    """Shapes, the 8-bit grid, no gradient, and states whose shapes never change."""
    world, b = case.open(), len(case.frames)
    state = case.start(world, draw(range(b)))
    for after, step in rolled(case, world, state, case.actions[:, case.seen - 1 :], draw(range(b), 1)):
        assert step.frame.shape == (b, 3, *world.spec.frames.sides)
        assert not step.frame.requires_grad
        levels = (step.frame + 1) * 127.5
        assert (levels - levels.round()).abs().max() < 1e-3
        assert [(t.shape, t.dtype) for t in after] == [(t.shape, t.dtype) for t in state]
        assert (step.reward_logits is not None) == world.spec.rewards
        assert (step.end_logits is not None) == world.spec.ends
    assert all(len(tensor) == b for tensor in state)


def check_later_actions_change_nothing_before(case: Case) -> None:
    """Outputs of a step depend on its own action and earlier ones, and no step changes the state that it was given."""
    world, b = case.open(), len(case.frames)
    state = case.start(world, draw(range(b)))
    kept = [tensor.clone() for tensor in state]
    actions = case.actions[:, case.seen - 1 :]
    other = torch.cat((actions[:, :2], (actions[:, 2:] + 1) % world.spec.actions.sizes[0]), dim=1)
    one, two = (rolled(case, world, state, taken, draw(range(b), 1)) for taken in (actions, other))
    assert all(torch.equal(a, b) for a, b in zip(kept, state, strict=True))
    for (_, a), (_, b_) in zip(one[:2], two[:2], strict=True):
        assert torch.equal(a.frame, b_.frame)


def check_a_row_is_its_own(case: Case) -> None:
    """A row alone, with the same random numbers, is what it was among others."""
    world, b = case.open(), len(case.frames)
    actions = case.actions[:, case.seen - 1 :]
    together = rolled(case, world, case.start(world, draw(range(b))), actions, draw(range(b), 1))
    for i in (0, b - 1):
        row = slice(i, i + 1)
        alone = rolled(case, world, case.start(world, draw(range(i, i + 1)), row), actions[row], draw(range(i, i + 1), 1))
        for (_, a), (_, b_) in zip(together, alone, strict=True):
            assert ((a.frame[row] - b_.frame).abs() > 1e-5).float().mean() <= case.tolerance


def check_saved_and_resumed(case: Case) -> None:
    """A state written to a file goes on in a world that was opened again."""
    world, b = case.open(), len(case.frames)
    actions = case.actions[:, case.seen - 1 :]
    half = actions.shape[1] // 2
    (state, _) = rolled(case, world, case.start(world, draw(range(b))), actions[:, :half], draw(range(b), 1))[-1]
    file = io.BytesIO()
    torch.save(list(state), file)
    file.seek(0)
    again = tuple(torch.load(file, weights_only=True))
    opened = case.open()
    case.start(opened, draw(range(b)))
    one, two = (rolled(case, w, s, actions[:, half:], draw(range(b), 2)) for w, s in ((world, state), (opened, again)))
    for (_, a), (_, b_) in zip(one, two, strict=True):
        assert torch.equal(a.frame, b_.frame)


def check_cost(case: Case) -> None:
    """One row of cost is a counted step and a counted start; the state takes what it says, at most."""
    world = case.open()
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        state = case.start(world, draw(range(1)), slice(1))
    assert counter.get_total_flops() == case.cost.start_flops
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # the counter does not see into fused attention
        world.step(state, case.actions[:1, case.seen - 1], draw(range(1), 1))
    assert counter.get_total_flops() == case.cost.flops_per_frame == world.flops_per_frame
    assert world.calls_per_frame == case.cost.calls_per_frame
    assert sum(p.numel() for network in world.networks.values() for p in network.parameters()) == case.cost.parameters
    assert sum(tensor.numel() * tensor.element_size() for tensor in state) <= case.cost.state_bytes


def check_learns_actions(trainable: Trainable, segments: Segments) -> None:
    """With the same noise, the loss of the right actions is below that of another row's: the network reads actions at their frames."""
    wrong = Segments(segments.frames, segments.actions.roll(1, 0), segments.mask)
    assert not torch.equal(wrong.actions, segments.actions)
    with torch.no_grad():
        right, other = (float(trainable.loss(given, torch.Generator().manual_seed(3))[0]) for given in (segments, wrong))
    assert right < 0.9 * other, f"loss {right:.4f} with the right actions, {other:.4f} with wrong ones"


CHECKS = (check_contract, check_later_actions_change_nothing_before, check_a_row_is_its_own, check_saved_and_resumed, check_cost)
