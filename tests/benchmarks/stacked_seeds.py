"""Two seeds in one process, their convolutions stacked as one of two groups, against one after the other: why runs are packed as processes.

    python tests/benchmarks/stacked_seeds.py [cpu|cuda]

Four 3x3 convolutions with SiLU, forward and backward, as wide as the networks of scale smoke and of the paper. Ten pairs, in turn and every
other pair backwards.
"""

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

SEEDS, BATCH, LAYERS, PAIRS = 2, 32, 4, 10


def tower(x: Tensor, kernels: Tensor, groups: int) -> None:
    """Forward and backward pass of LAYERS convolutions with these kernels."""
    kernels = kernels.contiguous(memory_format=torch.channels_last).requires_grad_()
    for _ in range(LAYERS):
        x = F.silu(F.conv2d(x, kernels, padding=1, groups=groups))
    x.sum().backward()


def seconds(work: Callable[[], None], device: str) -> float:
    """Of a call."""
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main(device: str = "cpu") -> None:
    """Prints a line for each width."""
    torch.manual_seed(0)
    for threads in (1, 2) if device == "cpu" else (1,):
        torch.set_num_threads(threads)
        for channels, size in ((16, 64), (64, 32)):
            x = torch.randn(SEEDS, BATCH, channels, size, size, device=device)
            kernels = torch.randn(SEEDS, channels, channels, 3, 3, device=device) * 0.05
            apart = [part.contiguous(memory_format=torch.channels_last) for part in x]
            together = x.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)

            def in_turn(apart: list[Tensor] = apart, kernels: Tensor = kernels) -> None:
                for part, own in zip(apart, kernels, strict=True):
                    tower(part, own.clone(), 1)

            def stacked(together: Tensor = together, kernels: Tensor = kernels) -> None:
                tower(together, kernels.flatten(0, 1).clone(), SEEDS)

            ratios = []
            for pair in range(-2, PAIRS):  # the first two warm up
                ways = (in_turn, stacked) if pair % 2 == 0 else (stacked, in_turn)
                took = {way: seconds(way, device) for way in ways}
                ratios += [took[in_turn] / took[stacked]] if pair >= 0 else []
            low, median, high = statistics.quantiles(ratios, n=4)
            print(
                f"{threads} threads, {channels} channels, {size} x {size}: stacked is {median:.2f} ({low:.2f} to {high:.2f}) times as fast"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
