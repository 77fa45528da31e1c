"""The layers of i3d.py and its cost, without torch."""

from collections.abc import Iterator
from dataclasses import dataclass

from diamond_bench.models.cost import Cost, total

SIDE = 224
"""Height and width of its input in pixels."""
MIN_FRAMES = 9
"""The shortest clip: time is halved three times, rounding up, and the last pool needs two steps."""
LOGITS = 400
"""Classes of Kinetics-400, the number of its outputs."""
EPSILON = 1e-3
"""Added to the variance in batch norms."""


@dataclass(frozen=True)
class Unit:
    """A 3-D convolution with cubic kernels, batch norm and ReLU."""

    kernel: int
    inputs: int
    outputs: int
    stride: int = 1


@dataclass(frozen=True)
class Pool:
    """A max-pool over `time` steps and `side` x `side` pixels, with these strides."""

    time: int
    side: int
    time_stride: int
    side_stride: int


_STEM = {"Conv3d_1a_7x7": Unit(7, 3, 64, 2), "Conv3d_2b_1x1": Unit(1, 64, 64), "Conv3d_2c_3x3": Unit(3, 64, 192)}
_MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""Channels of each mixed block: branch 0, branch 1 (reduced, out), branch 2 (reduced, out), branch 3."""
POOLS = {
    "Conv3d_1a_7x7": Pool(1, 3, 1, 2),
    "Conv3d_2c_3x3": Pool(1, 3, 1, 2),
    "Mixed_3c": Pool(3, 3, 2, 2),
    "Mixed_4f": Pool(2, 2, 2, 2),
}
"""The pool after a unit or block."""
LAYERS = (*_STEM, *_MIXED)
"""Units of the stem and mixed blocks, in the order of execution."""


def _units() -> Iterator[tuple[str, Unit]]:
    yield from _STEM.items()
    inputs = _STEM["Conv3d_2c_3x3"].outputs
    for name, (zero, one, one_out, two, two_out, three) in _MIXED.items():
        yield f"{name}.Branch_0.Conv3d_0a_1x1", Unit(1, inputs, zero)
        yield f"{name}.Branch_1.Conv3d_0a_1x1", Unit(1, inputs, one)
        yield f"{name}.Branch_1.Conv3d_0b_3x3", Unit(3, one, one_out)
        yield f"{name}.Branch_2.Conv3d_0a_1x1", Unit(1, inputs, two)
        yield f"{name}.Branch_2.Conv3d_0b_3x3", Unit(3, two, two_out)
        yield f"{name}.Branch_3.Conv3d_0b_1x1", Unit(1, inputs, three)
        inputs = zero + one_out + two_out + three


UNITS = dict(_units())
"""All units, with the names of DeepMind's kinetics-i3d."""
WIDTH = sum(_MIXED["Mixed_5c"][i] for i in (0, 2, 4, 5))
"""Features before the logits."""


def i3d_cost(frames: int) -> Cost:
    """One forward pass of `I3d` for one clip of `frames` frames."""
    steps, side, parts = frames, SIDE, []
    for layer in LAYERS:
        units = [unit for name, unit in UNITS.items() if name.partition(".")[0] == layer]
        steps, side = (-(-size // units[0].stride) for size in (steps, side))
        parts += [_convolution(unit, steps * side**2) for unit in units]
        if layer in POOLS:
            steps, side = -(-steps // POOLS[layer].time_stride), -(-side // POOLS[layer].side_stride)
    logits = (side - 6) ** 2 * (steps - 1)
    return total(parts) + Cost((WIDTH + 1) * LOGITS, 2.0 * WIDTH * LOGITS * logits)


def _convolution(unit: Unit, voxels: int) -> Cost:
    """`voxels`: of its output. The batch norm has a shift and no scale."""
    weights = unit.kernel**3 * unit.inputs * unit.outputs
    return Cost(weights + unit.outputs, 2.0 * weights * voxels)
