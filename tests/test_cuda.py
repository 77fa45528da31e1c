"""On a real GPU: what no machine without one can tell. Skipped without; the first thing to run where there is one (a few minutes)."""

import copy
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import diamond_bench
from small_agents import small_agent_config
from torch import Tensor

from diamond_bench.data.replay import Replay
from diamond_bench.diffusion.samplers import sample
from diamond_bench.envs.play import Steps
from diamond_bench.jobs.agent_learners import Learners
from diamond_bench.jobs.execution import Execution
from diamond_bench.jobs.memory import peak_bytes, reset_peak
from diamond_bench.models.graphs import Graphed
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.worlds.recorded import recorded

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
NETWORKS = ("denoiser", "reward_end", "actor_critic")
UPDATES = Graphed.WARM_UP + 4
"""So many that recorded updates are replayed, and not only warmed up and recorded."""
RECORDED, COMPILED, BOTH = Execution(cuda_graphs="all"), Execution(compile="all"), Execution(compile="all", cuda_graphs="all")
STREAMS = replace(RECORDED, sampling_streams=2)


def devices() -> list[str]:
    """The first GPU and, where there are several, the last: what names no device means the first."""
    count = torch.cuda.device_count()
    return list(dict.fromkeys(["cuda:0", f"cuda:{max(count - 1, 0)}"]))


def config(precision: str = "fp32") -> TrainAgent:
    return small_agent_config(f"execution.precision={precision}", "actor_critic.warmup_steps=0", "reward_end.warmup_steps=0")


def replay(device: torch.device) -> Replay:
    built, rng = Replay(180, 16, device), np.random.default_rng(0)
    for _ in range(6):
        frames, ends = rng.integers(256, size=(30, 16, 16, 3), dtype=np.uint8), np.arange(30) == 29
        rewards = rng.choice([-1.0, 0.0, 1.0], 30).astype(np.float32)
        built.append(0, Steps(frames, rng.integers(4, size=30), rewards, ends, np.zeros(30, bool), frames))
    return built


def learners(device: str, execution: Execution = Execution(), precision: str = "fp32") -> Learners:
    torch.manual_seed(0)
    on = torch.device(device)
    execution = replace(execution, precision=precision)
    return Learners(config(precision), on, replay(on), torch.Generator(on).manual_seed(7), execution)


def losses(built: Learners, names: tuple[str, ...] = NETWORKS) -> dict[str, list[float]]:
    """The losses of some updates of each network."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for _ in range(UPDATES):
        for name in names:
            found[name].append(built.update(name)[name]["loss"])
    return {name: torch.stack(values).tolist() for name, values in found.items()}


@pytest.fixture
def raises_on_waits() -> Iterator[Callable[[], None]]:
    """Call it, and from then on torch raises where the host waits for the device."""
    try:
        yield lambda: torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Numbers


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_updates_are_the_updates_done_in_turn(device: str, precision: str) -> None:
    """A graph that was captured empty, on another stream or device, or with a number of the host frozen into it, ends here."""
    eager, recorded = learners(device, precision=precision), learners(device, RECORDED, precision)
    one, other = losses(eager), losses(recorded)
    for name in NETWORKS:
        assert other[name] == pytest.approx(one[name], rel=1e-3 if precision == "fp32" else 3e-2, abs=1e-5), name
        assert len(set(other[name][Graphed.WARM_UP :])) > 1, f"{name}: a replay does nothing, or draws the same noise again"
    for (name, a), (_, b) in zip(weights(eager), weights(recorded), strict=True):
        torch.testing.assert_close(
            a, b, rtol=1e-2, atol=1e-3 if precision == "fp32" else 1e-2, msg=lambda text, name=name: f"{name}: {text}"
        )


def weights(built: Learners) -> list[tuple[str, Tensor]]:
    return [(f"{part}.{name}", p.detach()) for part, network in built.agent.networks.items() for name, p in network.named_parameters()]


@pytest.mark.parametrize("device", devices())
def test_random_numbers_of_a_recorded_update_go_on_where_those_of_an_eager_one_do(device: str) -> None:
    """Generators registered with a graph: after as many updates both stand at the same place, so that checkpoints agree."""
    eager, recorded = learners(device), learners(device, RECORDED)
    for built in (eager, recorded):
        losses(built)
    assert torch.equal(eager.generator.get_state(), recorded.generator.get_state())


@pytest.mark.parametrize("execution", [COMPILED, BOTH], ids=["compiled", "compiled and recorded"])
def test_compiled_updates_are_near_eager_ones(execution: Execution) -> None:
    """Inductor's kernels, forward and backward, alone and inside a capture (a compilation inside a capture raises)."""
    eager, compiled = losses(learners("cuda:0")), learners("cuda:0", execution)
    found = losses(compiled)
    for name in NETWORKS:
        assert found[name] == pytest.approx(eager[name], rel=2e-2, abs=1e-3), name
    for network in compiled.compilable:
        assert network.compiled is not None
        assert network.compiled.calls["compiled"] > 0, "the compiled way was never taken"


def test_recorded_sampling_gives_the_frames_of_sampling_in_turn() -> None:
    """Also after the denoiser was trained on: the graph must read the weights' own memory."""
    built = learners("cuda:0")
    in_turn: Any = built.world
    graphed = recorded(in_turn)
    shape = (3, in_turn.context)
    for call in range(UPDATES):
        built.update("denoiser")
        generator = torch.Generator("cuda:0").manual_seed(call)
        past = torch.rand(*shape, 3, 16, 16, generator=generator, device="cuda:0") * 2 - 1
        actions, noise = torch.full(shape, call % 4, device="cuda:0"), torch.randn(3, 3, 16, 16, generator=generator, device="cuda:0")
        a, b = (world.step((past, actions), actions[:, 0], lambda like, x=noise: x)[1].frame for world in (in_turn, graphed))
        assert not b.is_inference()
        assert ((a - b).abs() > 1e-6).float().mean() < 0.01, "all but pixels on the edge of a level are equal"
    assert in_turn.sampling is sample


def test_a_gpu_s_update_is_the_cpu_s() -> None:
    """Same weights, same batch: losses and gradients of the reward/end model, with cuDNN's LSTM against the CPU's."""
    from diamond_bench.data.segments import RewardEndSegments, sample_reward_end_segments, tensors_of
    from diamond_bench.training.reward_end import reward_end_loss

    built = learners("cpu")
    settings = built.config.reward_end
    batch = sample_reward_end_segments(built.replay.episodes, settings.batch_size, settings.segment_length, built.generator)
    ours: Any = built.agent.reward_end
    theirs = copy.deepcopy(ours).to("cuda:0")
    loss, _ = reward_end_loss(ours, batch)
    on_gpu, _ = reward_end_loss(theirs, RewardEndSegments(*(tensor.cuda() for tensor in tensors_of(batch))))
    assert on_gpu.item() == pytest.approx(loss.item(), rel=1e-4)
    loss.backward()
    on_gpu.backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(b.grad.cpu(), a.grad, rtol=1e-2, atol=1e-4)


def test_a_training_resumes_from_a_checkpoint_of_another_execution() -> None:
    """`cuda_graphs` is no part of a job's identity: what was saved by eager updates is gone on from by recorded ones, and back."""
    for saves, loads in ((Execution(), RECORDED), (RECORDED, Execution()), (RECORDED, RECORDED)):
        first, second = learners("cuda:0", saves), learners("cuda:0", loads)
        losses(first)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        second.generator.set_state(first.generator.get_state())
        one, other = losses(first), losses(second)
        for name in NETWORKS:
            assert other[name] == pytest.approx(one[name], rel=1e-3, abs=1e-5), name


def test_the_policy_s_update_is_recorded_again_if_start_segments_moved() -> None:
    """A replay on the old memory, or a pool that was let go between two recordings, ends here."""
    eager, recorded = learners("cuda:0"), learners("cuda:0", RECORDED)
    for _ in range(2):
        one, other = losses(eager, ("actor_critic",)), losses(recorded, ("actor_critic",))
        assert other["actor_critic"] == pytest.approx(one["actor_critic"], rel=1e-3, abs=1e-5)
        for built in (eager, recorded):
            built.prepare(200)


@pytest.mark.parametrize("graphs", ["none", "imagination", "all"])
def test_frames_sampled_on_several_streams_are_those_of_one(graphs: Any) -> None:
    """Fork and join of streams, in turn and inside a capture: a group that reads noise too early, or is read too early, ends here."""
    one, several = learners("cuda:0"), learners("cuda:0", Execution(cuda_graphs=graphs, sampling_streams=2))
    policy = ("actor_critic",)
    assert losses(several, policy)["actor_critic"] == pytest.approx(losses(one, policy)["actor_critic"], rel=1e-2, abs=1e-4)
    assert torch.equal(one.generator.get_state(), several.generator.get_state())


# Waiting and memory


@pytest.mark.parametrize("execution", [Execution(), RECORDED, BOTH, STREAMS], ids=["eager", "recorded", "compiled and recorded", "streams"])
def test_no_update_waits_for_the_device(execution: Execution, raises_on_waits: Callable[[], None]) -> None:
    """What test_host_sync.py tells of fake tensors, with torch's own eye on the real kernels, backward passes included."""
    built = learners("cuda:0", execution)
    env: Any = built._imagination
    env.reset()
    env.prepare(2 * UPDATES * built.config.actor_critic.steps_per_update)
    losses(built)
    built.replay.episodes  # noqa: B018
    raises_on_waits()
    for name in NETWORKS:
        built.update(name)


@pytest.mark.parametrize("device", devices())
def test_peak_memory_can_be_asked_for_before_anything_else(device: str) -> None:
    """An evaluation asks first thing; in a process of its own, since this one has long begun to use the GPU."""
    asks = (
        f"import torch; from diamond_bench.jobs.memory import peak_bytes, reset_peak; d = torch.device('{device}'); reset_peak(d); "
        "torch.zeros(2**20, device=d); print(peak_bytes(d))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", asks], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 4 * 2**20


def test_recording_holds_no_more_memory_with_every_update() -> None:
    """Replays make no memory: neither outputs nor gradients pile up."""
    built = learners("cuda:0", RECORDED)
    losses(built)
    held = []
    for _ in range(2):
        losses(built)
        torch.cuda.synchronize()
        held.append(torch.cuda.memory_reserved(0))
    assert held[0] == held[1]
    reset_peak(torch.device("cuda:0"))
    assert peak_bytes(torch.device("cuda:0")) > 0


def test_all_graphs_share_one_memory() -> None:
    built = learners("cuda:0", RECORDED)
    losses(built)
    pools = {segment["segment_pool_id"] for segment in torch.cuda.memory_snapshot()} - {(0, 0)}
    assert len(pools) == 1


# The whole


@pytest.mark.parametrize("graphs", ["none", "all"])
def test_a_profile_of_a_tiny_agent(tmp_path: Path, graphs: str) -> None:
    """The command of docs/profile.md: it ends, and no imagined step waits."""
    done = diamond_bench("profile", "scale=tiny", f"execution.cuda_graphs={graphs}", "--compare", "plain", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = {line["name"]: line for line in map(json.loads, done.stdout.splitlines()) if "name" in line}
    assert lines["host_synchronisations"]["median"] == 0
    assert all(lines[f"{name}_update"]["median"] > 0 for name in NETWORKS)


def test_evaluation_on_a_gpu_measures_in_fp32_whatever_ran_before() -> None:
    """SSIM is a convolution: torch's own default, and a network in tf32 before it, would round its inputs."""
    from diamond_bench.metrics.frames import pair_scores
    from diamond_bench.metrics.ssim import similarity

    generator = torch.Generator("cuda:0").manual_seed(0)
    true = torch.randint(256, (2, 3, 3, 32, 32), generator=generator, device="cuda:0", dtype=torch.uint8)
    near = (true.int() + torch.randint(-8, 9, true.shape, generator=generator, device="cuda:0")).clamp(0, 255).to(torch.uint8)
    found = []
    for allowed in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
        found.append(pair_scores({"ssim": similarity}, near, true)["ssim"])
    assert np.abs(found[0] - found[1]).max() < 1e-6
