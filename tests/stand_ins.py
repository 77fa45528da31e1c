"""Stand-ins for a world model, a reward/end model and start segments that imagination and rollouts are tested with."""

from dataclasses import dataclass, field
from typing import Any

import torch
from golden_files import golden
from torch import Tensor

from diamond_bench.data.segments import Segments
from diamond_bench.diffusion.quantization import from_bytes, to_bytes
from diamond_bench.imagination import GeneratorDraws
from diamond_bench.models.reward_end_model import RewardEndOutput
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.worlds.contract import Draw
from diamond_bench.worlds.stacked import StackedWorld

NO, YES = -1e4, 1e4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class ListedStarts:
    """Start segments in the order of a list, over and over; place i of segment n is n * length + i, -1 where padded."""

    def __init__(self, frames: Tensor, actions: Tensor, mask: Tensor) -> None:
        self.segments = Segments(frames * mask[:, :, None, None, None], actions * mask, mask)
        self.drawn: list[int] = []
        self.next = 0

    def draw(self, count: int) -> Tensor:
        numbers = torch.arange(self.next, self.next + count) % len(self.segments.mask)
        self.next += count
        self.drawn.append(count)
        length = self.segments.mask.shape[1]
        return torch.where(self.segments.mask[numbers], numbers[:, None] * length + torch.arange(length), -1)

    def read(self, places: Tensor) -> Segments:
        numbers = places[:, -1] // self.segments.mask.shape[1]
        return Segments(self.segments.frames[numbers], self.segments.actions[numbers], self.segments.mask[numbers])

    def origin(self, last: Tensor) -> Tensor:
        return torch.stack((torch.zeros_like(last), last), dim=1)

    def manual_seed(self, seed: int) -> None:
        self.next = 0

    def get_state(self) -> Tensor:
        return torch.tensor(self.next)

    def set_state(self, state: Tensor) -> None:
        self.next = int(state)


class GoldenDraws(GeneratorDraws):
    """The injected draws of imagination.npz."""

    def __init__(self) -> None:
        super().__init__(generator())
        self.step = 0

    def noise(self, like: Tensor) -> Tensor:
        return golden("imagination.npz")["x_noise"][self.step]

    def reward_class(self, logits: Tensor) -> Tensor:
        return golden("imagination.npz")["rew_class"][:, self.step]

    def end(self, logits: Tensor) -> Tensor:
        self.step += 1
        return golden("imagination.npz")["end_flag"][:, self.step - 1].bool()


class StandIn(StackedWorld):
    """A world model without a network."""

    context = 4
    pure = True
    device = torch.device("cpu")
    calls_per_frame = 3
    flops_per_frame = 0.0
    networks: dict[str, Any] = {}  # noqa: RUF012
    compilable = ()

    def __init__(self, size: int = 8, num_actions: int = 3) -> None:
        self.spec = WorldSpec(FrameSpec.square(size), ActionSpec.discrete(num_actions), rewards=False, ends=False)


class SavedFrames(StandIn):
    """Predicts the frames of imagination.npz, whatever it is asked."""

    def __init__(self) -> None:
        super().__init__(32, 6)
        self.steps = 0

    def predict(self, past: Tensor, actions: Tensor, draw: Draw) -> Tensor:
        self.steps += 1
        return golden("imagination.npz")["next_obs"][:, self.steps - 1]


def counting_frames(counts: Tensor, size: int = 8) -> Tensor:
    """Bytes of frames (..., 3, size, size) that show a count in every pixel."""
    return counts.to(torch.uint8)[..., None, None, None].expand(*counts.shape, 3, size, size)


class CountingWorld(StandIn):
    """An oracle of `CounterEnv`: the next frame shows the last one's count plus the last action; strict about the earlier ones."""

    def __init__(self, context: int = 4) -> None:
        super().__init__()
        self.context, self.calls = context, 0  # type: ignore[misc]

    def predict(self, past: Tensor, actions: Tensor, draw: Draw) -> Tensor:
        self.calls += 1
        counts = to_bytes(past).long()[:, :, 0, 0, 0]
        real = (past != 0).flatten(2).any(dim=2)  # padding is exactly 0.0, which no byte is
        both = real[:, :-1] & real[:, 1:]
        assert torch.equal((counts[:, 1:] - counts[:, :-1])[both], actions[:, :-1][both]), "actions are not those of their frames"
        return from_bytes(counting_frames(counts[:, -1] + actions[:, -1], past.shape[-1]))


@dataclass
class CountingReward:
    """An oracle of `CounterEnv`'s rewards and ends, told by the frames; its memory counts the steps it has been told of."""

    batches: list[int] = field(default_factory=list)

    def __call__(self, frames: Tensor, actions: Tensor, next_frames: Tensor, state: tuple[Tensor, ...] | None) -> RewardEndOutput:
        self.batches.append(len(frames))
        before, after = (to_bytes(f).long()[:, :, 0, 0, 0] for f in (frames, next_frames))
        real = (frames != 0).flatten(2).any(dim=2) & (next_frames != 0).flatten(2).any(dim=2)
        assert torch.equal((after - before)[real], actions[real]), "an action is not that of its frames"
        reward_class = reward_of(after).sign() + 1
        rewards = torch.where(torch.nn.functional.one_hot(reward_class.long(), 3).bool(), YES, NO)
        ends = torch.where(torch.nn.functional.one_hot(ends_at(after).long(), 2).bool(), YES, NO)
        count = torch.zeros(1, len(frames), 1) if state is None else state[0]
        seen = torch.zeros_like(count) if state is None else state[1]
        return RewardEndOutput(rewards, ends, (count + frames.shape[1], seen + real.sum(dim=1)[None, :, None]))


def reward_of(count: Tensor) -> Tensor:
    """The reward for reaching a count: 1 at multiples of 3, -1 at those of 5."""
    return (count % 3 == 0).float() - (count % 5 == 0).float()


def ends_at(count: Tensor) -> Tensor:
    """Whether the game is over at a count."""
    return count % 16 >= 13
