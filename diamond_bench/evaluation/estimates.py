"""Estimates of the clean next frame from true past frames, at fixed noise levels, with the true actions and with one of them replaced."""

from collections.abc import Sequence

from torch import Tensor

from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.evaluation.rollouts import seeded_draw
from diamond_bench.metrics.header import ESTIMATE_LEVELS
from diamond_bench.metrics.play import Key, WindowBatch, other_actions
from diamond_bench.spaces import ActionSpec
from diamond_bench.worlds.contract import Estimating


def estimates(world: Estimating, play: WindowBatch, spec: ActionSpec, keys: Sequence[Key]) -> Tensor:
    """Estimates of the frame after each row's context, (n, 1 + L, levels, 3, h, w) float32, unclamped.

    Slot 0 has the true actions. In slot 1 + k another action replaces the one of lag k, where lag 0 is the action that leads to the frame.
    A row has the same noise in all slots and at all levels. `keys` are the seeds of each row's noise and actions.
    """
    length = world.context
    seen = slice(play.context - length, play.context)
    past, actions, clean = from_bytes(play.frames[:, seen]), play.actions[:, seen], from_bytes(play.true[:, 0])
    others, noise = other_actions(actions, spec, keys), seeded_draw(keys, clean.device)(clean)
    found = clean.new_empty(len(play), 1 + length, len(ESTIMATE_LEVELS), *clean.shape[1:])
    for slot in range(1 + length):
        given = actions.clone()
        if slot:
            given[:, -slot] = others[:, -slot]
        for i, sigma in enumerate(ESTIMATE_LEVELS):
            found[:, slot, i] = world.estimate(past, given, clean + sigma * noise, sigma)
    return found
