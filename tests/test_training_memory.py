"""The memory of a training, counted on the meta device."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from test_cascade import csgo
from torch import Tensor, nn

from diamond_bench.compose import base
from diamond_bench.config import RunConfig, TrainingConfig
from diamond_bench.data.segments import Segments, to_float
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.training.memory import training_bytes
from diamond_bench.typed import build
from diamond_bench.worlds.cascade.checkpoint import CSGO_ACTIONS
from diamond_bench.worlds.cascade.world import build_world
from diamond_bench.worlds.contract import Trainable, TrainedWorld


def test_bytes_are_what_they_are_by_hand() -> None:
    """A linear layer keeps its input of 12 numbers, and a square its input of 5 numbers. Weights are not counted twice."""
    network = nn.Linear(12, 5, bias=False, device="meta")

    def loss(segments: Segments, generator: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        frames = to_float(segments)
        return torch.stack([network(frames[:, t].flatten(1)).square().mean() for t in range(2)]).mean(), {}

    spec = WorldSpec(FrameSpec.square(2), ActionSpec.discrete(3), rewards=False, ends=False)
    world = SimpleNamespace(spec=spec, trainables=lambda training: (Trainable("n", network, 2, loss),))
    found = training_bytes(cast(TrainedWorld, world), TrainingConfig(batch_size=7))["n"]
    assert (found.weights, found.gradients, found.moments) == (240, 240, 480)
    inputs = 2 * 12  # both frames lie in one tensor
    assert found.activations == 4 * (inputs + 2 * 5)
    assert found.total == 960 + 7 * found.activations


@pytest.mark.slow
def test_the_csgo_preset_trains_on_a_card_of_24_gb() -> None:
    """The numbers of docs/game_engine.md, in units of 2^30 bytes."""
    config = build(RunConfig, base((("family", "csgo"), ("training", "csgo"), ("scale", "paper"))))
    with torch.device("meta"):
        world = build_world(csgo(), WorldSpec(FrameSpec(150, 280), CSGO_ACTIONS, rewards=False, ends=False), device="meta")
    found = training_bytes(world, config.training)
    sizes = {name: [round(value / 2**30, 2) for value in (b.state, b.activations, b.total)] for name, b in found.items()}
    assert sizes == {"denoiser": [4.92, 0.58, 14.15], "upsampler": [0.76, 2.39, 10.31]}
