"""Frames per second of the families with a memory of keys and values, with the memory and without it, at the size of the paper.

    python tests/benchmarks/bench_memory.py

Both ways give the same frames (tests/test_tokens.py, tests/test_transformer.py). Without the memory, every pass runs over all frames that
the model attends to. Pairs alternate, and the median of their ratios is reported. Times are CPU seconds of one thread, so other programs on
the machine hardly change them.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from diamond_bench.config import OdeSampler
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.worlds.tokens import Tokens
from diamond_bench.worlds.tokens.world import build_world as token_world
from diamond_bench.worlds.transformer import Transformer
from diamond_bench.worlds.transformer.world import build_world as transformer_world

SPEC = WorldSpec(FrameSpec.square(64), ActionSpec.discrete(4))
PAIRS, ROWS = 5, 1


def tokens() -> tuple[Callable[[], object], Callable[[], object]]:
    """A frame of a full memory of IRIS: 17 passes over one position, or 16 over the whole sequence."""
    settings = Tokens()
    world = token_world(settings, SPEC)
    blocks = settings.transformer.num_frames - 1
    shown = torch.randint(settings.tokenizer.codes, (ROWS, blocks, world.transformer.shape.tokens))
    actions = torch.zeros(ROWS, blocks + 1, dtype=torch.int64)
    memory = world.transformer.memory(ROWS, world.tokenizer.codes.weight.detach())
    position = torch.full((ROWS,), blocks * world.transformer.shape.block - 1)
    state = (shown[:, -1], memory, position)

    def uncached() -> Tensor:
        frame = torch.zeros_like(shown[:, :1])
        for number in range(world.transformer.shape.tokens):
            read = world.transformer(torch.cat((shown, frame), dim=1), actions).tokens
            frame[:, 0, number] = read[:, (blocks - 1) * world.transformer.shape.tokens + number].argmax(1)
        return world.tokenizer.decode(frame[:, 0])

    return lambda: world.step(state, actions[:, 0], torch.randn_like), uncached


def transformer() -> tuple[Callable[[], object], Callable[[], object]]:
    """A frame with n = 3: 4 calls over one frame, or 3 over a whole segment."""
    settings, sampler = Transformer(), OdeSampler(num_steps=3)
    world = transformer_world(settings, SPEC).bound(sampler)
    length = settings.network.num_frames
    state = world.network.memory(ROWS, world.network.places.detach()), torch.full((ROWS,), length)
    frames, actions = torch.zeros(ROWS, length, 3, 64, 64), torch.zeros(ROWS, length, dtype=torch.int64)
    levels = torch.zeros(ROWS, length)

    def uncached() -> None:
        for _ in range(sampler.num_steps):
            world.network(frames, levels, actions)

    return lambda: world.step(state, actions[:, 0], torch.randn_like), uncached


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    call()
    return time.process_time() - started


@torch.no_grad()
def main() -> None:
    """Prints a line per family."""
    torch.set_num_threads(1)
    for name, ways in {"tokens": tokens(), "transformer": transformer()}.items():
        for way in ways:
            way()
        pairs = [tuple(seconds(way) for way in ways) for _ in range(PAIRS)]
        cached, uncached = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(without / with_memory for with_memory, without in pairs)
        print(f"{name}: {ROWS / cached:.2f} frames per CPU second with the memory, {ROWS / uncached:.2f} without, {ratio:.1f} times")


if __name__ == "__main__":
    main()
