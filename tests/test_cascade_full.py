"""The authors' CS:GO model at its full size: one training step of each stage, and one imagined frame. Run with
`pytest -m slow -s tests/test_cascade_full.py`; it needs 12 GB of memory."""

import gc
import resource
import time

import pytest
import torch
from test_cascade import csgo

from diamond_bench.config import SAMPLERS, TrainingConfig
from diamond_bench.data.segments import Segments
from diamond_bench.spaces import FrameSpec, WorldSpec
from diamond_bench.training.learner import Learner
from diamond_bench.worlds.cascade.checkpoint import CSGO_ACTIONS
from diamond_bench.worlds.cascade.world import build_world


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_full_model_trains_a_step_and_imagines_a_frame() -> None:
    torch.manual_seed(0)
    began = time.perf_counter()

    def note(what: str) -> None:
        nonlocal began
        now = time.perf_counter()
        print(f"{what}: {now - began:.1f} s, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
        began = time.perf_counter()

    world = build_world(csgo(), WorldSpec(FrameSpec(150, 280), CSGO_ACTIONS))
    assert sum(p.numel() for network in world.networks.values() for p in network.parameters()) == 381_638_406
    note("built")
    generator = torch.Generator().manual_seed(0)
    frames = torch.zeros(1, 4, 3, 150, 280)
    state = world.start(frames, torch.zeros(1, 4, 15, dtype=torch.int64), torch.ones(1, 4, dtype=torch.bool), torch.randn_like)
    for name in ("fast", "higher_quality"):
        bound = world.bound(SAMPLERS[name].settings_type()(name=name))
        _, step = bound.step(state, torch.zeros(1, 15, dtype=torch.int64), torch.randn_like)
        assert step.frame.shape == (1, 3, 150, 280)
        assert step.frame.isfinite().all()
        note(f"one frame, sampler {name}, {bound.calls_per_frame} calls, {bound.flops_per_frame / 1e9:.0f} GFLOP")
    training = TrainingConfig(num_autoregressive_steps=4, max_grad_norm=10.0, warmup_steps=0)
    for trainable in world.trainables(training):
        t = trainable.segment_length
        shown = torch.randint(256, (1, t, 3, 150, 280), dtype=torch.uint8, generator=generator)
        batch = Segments(shown, torch.zeros(1, t, 15, dtype=torch.int64), torch.ones(1, t, dtype=torch.bool))
        learner = Learner(trainable.network, training)
        loss, _ = trainable.loss(batch, generator)
        norm = learner.update(loss)
        assert loss.isfinite()
        assert norm > 0
        note(f"one update of the {trainable.name}, batch 1, {t} frames")
        del learner, loss
        gc.collect()
