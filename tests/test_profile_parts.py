"""`profile`: what is timed, what is counted, and what it comes to."""

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_agents import small_agent_config
from torch.utils.flop_counter import FlopCounterMode

from diamond_bench.costs.train_agent import agent_work
from diamond_bench.data.replay import Replay
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import Interrupted, JobContext
from diamond_bench.jobs.execution import Execution
from diamond_bench.models.actor_critic_cost import actor_critic_cost
from diamond_bench.models.compilation import Compiled
from diamond_bench.models.denoiser_cost import denoiser_cost
from diamond_bench.models.reward_end_cost import reward_end_cost
from diamond_bench.models.reward_end_model import RewardEndModel
from diamond_bench.profiling import machine
from diamond_bench.profiling import parts as profile_parts
from diamond_bench.profiling import profile as profile_job
from diamond_bench.profiling.lines import LABELS, ProfileReport, notes, per_epoch, per_run
from diamond_bench.profiling.machine import host_synchronisations, product_peak
from diamond_bench.profiling.parts import Parts, Recorded, flop_of, random_replay
from diamond_bench.profiling.timing import MAX_CALLS, MAX_ROUNDS, Timings, Work, alternate, spread
from diamond_bench.spaces import ActionSpec, FrameSpec
from diamond_bench.store.kinds import Profile, TrainAgent
from diamond_bench.store.profiled import COMPARED, PROFILED, Compared
from diamond_bench.studies.single import plan_train
from diamond_bench.training import rollout as rollout_module
from diamond_bench.training.rollout import Carry, collect_rollout, start

CPU = torch.device("cpu")
PARTS = tuple(name for name in PROFILED if name in LABELS)


# What is timed


@pytest.fixture(scope="module")
def small() -> TrainAgent:
    return small_agent_config("execution.num_threads=1")


@pytest.fixture(scope="module")
def replay(small: TrainAgent) -> Replay:
    return random_replay(small, CPU)


@pytest.fixture(autouse=True)
def _small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products of a few milliseconds are as fast as those of seconds."""
    monkeypatch.setitem(machine._SIDES, "cpu", (256, 512))


def parts(config: TrainAgent, replay: Replay, execution: Execution | None = None, contiguous: bool = False) -> Parts:
    return Parts(config, CPU, replay, execution, contiguous)


def test_the_replay_is_as_large_as_a_whole_run_s_and_random(small: TrainAgent, replay: Replay) -> None:
    assert replay.num_rows == small.agent.budget
    frames = replay.episodes.frames
    assert frames.dtype == torch.uint8
    assert len(frames.unique()) == 256
    assert set(replay.episodes.actions.tolist()) == set(range(4))


def test_a_timed_step_is_a_step_of_the_rollout(small: TrainAgent, replay: Replay) -> None:
    one, other = parts(small, replay), parts(small, replay)
    for _ in range(small.actor_critic.horizon - 1):
        one.imagine()
    rolled, after = collect_rollout(other._policy, other._env, other._carry, small.actor_critic.horizon - 1, other._draw)
    torch.testing.assert_close(one._carry.frames, after.frames, rtol=0, atol=0)
    assert not rolled.truncations.any()


def test_no_imagined_episode_ends_and_no_timed_update_loads_start_segments(small: TrainAgent, replay: Replay) -> None:
    settings = replace(small.actor_critic, preload=256)
    built = parts(replace(small, actor_critic=settings), replay)
    work, ends = built.works["actor_critic_update"], []
    ring: Any = built.learners._imagination._ring  # type: ignore[union-attr]
    work.before(1)
    work.call()  # the very first also resets the environment
    for _ in range(MAX_ROUNDS):
        work.before(MAX_CALLS)
        loaded = ring._loaded
        ends += [built.learners.update("actor_critic")["imagined"]["end"] for _ in range(MAX_CALLS)]
        assert ring._loaded == loaded
    assert not any(ends)
    assert ring._size < settings.preload * settings.batch_size, "a whole ring would be burnt in for nothing"
    rest, (places, memories) = built.rest_of_the_ring(), (ring._slots.places, ring._slots.memories)
    segment = sum(one[0].nbytes for one in (places, *memories))
    assert rest.nbytes == (settings.preload - settings.steps_per_update) * settings.batch_size * segment
    torch.manual_seed(0)
    fresh = RewardEndModel(small.reward_end, 4, 16)
    frames = torch.rand(8, 1, 3, 16, 16)
    said = fresh(frames, torch.zeros(8, 1, dtype=torch.int64), frames).end_logits.softmax(-1)[..., 1]
    assert said.mean() > 0.2, "what never_end is there for"


@pytest.mark.parametrize(("num_envs", "discard"), [(2, False), (2, True), (20, False), (20, True)])
def test_a_reset_loads_the_start_segments_its_time_is_divided_by(small: TrainAgent, replay: Replay, num_envs: int, discard: bool) -> None:
    settings = replace(small.actor_critic, batch_size=num_envs, discard_left_overs=discard)
    built = parts(replace(small, actor_critic=settings), replay)
    built.prepare(MAX_CALLS)
    built.works["start_segments"].call()
    ring: Any = built._env._ring
    assert built.each["start_segments"] * ring._loaded == num_envs * settings.steps_per_update / settings.horizon


def test_the_policy_s_loss_alone_is_of_whole_rollouts(small: TrainAgent, replay: Replay) -> None:
    built = parts(small, replay)
    step = built._env.step(torch.zeros(small.actor_critic.batch_size, dtype=torch.int64))
    carry = Carry(step[0], built._policy.initial_state(small.actor_critic.batch_size))
    steps = small.actor_critic.steps_per_update
    rollout, _ = collect_rollout(built._policy, Recorded(step, small.actor_critic.horizon), carry, steps, built._draw)
    assert rollout.logits.shape == (small.actor_critic.batch_size, steps, 4)
    assert rollout.logits.requires_grad
    assert rollout.truncations.any(dim=0).tolist() == [(t + 1) % small.actor_critic.horizon == 0 for t in range(steps)]
    work = built.works["loss_and_backward"]
    work.before(1)
    before = [p.detach().clone() for p in built._policy.parameters()]
    for _ in range(2):  # the warm-up's first rate is 0
        work.before(1)
        work.call()
    assert any(not torch.equal(a, b) for a, b in zip(before, built._policy.parameters(), strict=True))


def test_plain_is_eager_fp32_in_the_plain_layout(small: TrainAgent, replay: Replay) -> None:
    fast = replace(small, execution=replace(small.execution, precision="bf16", num_threads=3))
    precision, execution = COMPARED["plain"].precision, Execution(COMPARED["plain"].compile, fused=COMPARED["plain"].fused)
    assert execution == Execution("none", "none", fused=False)
    plain_config = replace(fast, execution=replace(fast.execution, precision=precision))
    as_plain = parts(plain_config, replay, execution, True)
    configured = parts(fast, replay)
    assert {as_plain._policy.precision, as_plain._reward_end.precision, as_plain._world.denoiser.precision} == {"fp32"}  # type: ignore[attr-defined]
    assert configured._policy.precision == "bf16"
    convolutions = [(a, b) for a, b in zip(weights(as_plain), weights(configured), strict=True) if a.dim() == 4 and a.shape[2] > 1]
    assert all(a.is_contiguous() for a, _ in convolutions)
    assert not any(b.is_contiguous() for _, b in convolutions if b.shape[1] > 1)
    assert all(torch.equal(a, b) for a, b in convolutions)
    for name in ("denoiser", "reward_end", "actor_critic"):
        as_plain.learners.update(name)
    assert all(a.is_contiguous() for a in weights(as_plain) if a.dim() == 4), "training keeps it"


def weights(built: Parts) -> list[torch.Tensor]:
    return [p.detach() for network in built.learners.agent.networks.values() for p in network.parameters()]


def test_flop_are_those_of_the_networks_costs() -> None:
    config = next(spec.config for spec in plan_train(["game=Breakout"]).jobs.values() if isinstance(spec.config, TrainAgent))
    found, on_cuda = flop_of(config, "cpu"), flop_of(config, "cuda")
    given = ActionSpec.discrete(4), FrameSpec.square(64)
    denoise = denoiser_cost(config.network, config.conditioning, *given).flops
    rewarder, act = reward_end_cost(config.reward_end, *given).flops, actor_critic_cost(config.actor_critic, *given).flops
    assert found["denoiser_update"] == 3 * 32 * 2 * denoise
    assert found["reward_end_update"] == 3 * 32 * 18 * rewarder
    # on the CPU memories are renewed where a horizon ends: a final value and three frames burnt in, here at a rollout's last step
    assert found["renewal"] == pytest.approx(32 * 4 * act / 15)
    assert found["loss_and_backward"] == pytest.approx(32 * 15 * 2 * act)
    assert on_cuda["renewal"] == 32 * 4 * act
    assert on_cuda["loss_and_backward"] == pytest.approx(32 * 2 * act * (15 + 14 * 3))
    for of in (found, on_cuda):
        inside = 15 * (of["imagination_step"] + of["renewal"]) + of["loss_and_backward"]
        assert of["actor_critic_update"] == pytest.approx(inside + 32 * act), "and the value of the last frame"
    assert found["imagination_step"] == 32 * (3 * denoise + rewarder + act)
    assert found["start_segments"] == 32 * 3 * rewarder
    # a denoiser pass at batch 32 is 195 GFLOP, the reward/end model 14, the actor-critic 4
    assert [found[name] / 1e9 for name in ("denoiser_call", "reward_and_end", "action")] == pytest.approx([195, 14, 4], rel=0.06)
    run = per_run(config)
    updates = sum(times * found[name] for name, times in run.items() if name not in ("real_step", "start_segments"))
    assert updates == pytest.approx(agent_work(config), rel=5e-3)  # which counts 18 actions, and no renewal
    assert run["real_step"] == 100_000
    assert per_epoch(config) == dict.fromkeys(("denoiser_update", "reward_end_update", "actor_critic_update", "start_segments"), 400) | {
        "real_step": 100
    }


@pytest.mark.parametrize("steps", [3, 4])
def test_flop_of_the_policy_s_parts_are_what_torch_counts(replay: Replay, small: TrainAgent, steps: int) -> None:
    config = replace(small, actor_critic=replace(small.actor_critic, steps_per_update=steps, horizon=2, batch_size=8))
    built, found = parts(config, replay), flop_of(config, "cpu")
    for name, calls in (("renewal", 2), ("loss_and_backward", 1)):
        total, rounds = 0, math.lcm(steps, 2) // steps
        for _ in range(rounds):
            built.works[name].before(1)
            with FlopCounterMode(display=False) as counted:
                built.works[name].call()
            total += counted.get_total_flops() / rounds
        if name == "renewal":
            assert total == pytest.approx(calls * found[name], rel=0.02)
        else:  # the gradient of the first convolution's input is not asked for
            assert 0.6 < total / found[name] <= 1.0


def test_renewals_are_those_of_a_rollout_s_horizon(small: TrainAgent, replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[bool], bool]] = []
    for module in (profile_parts, rollout_module):
        original = module.reset_memory

        def spy(policy: Any, state: Any, done: torch.Tensor, *rest: Any, original: Any = original) -> Any:
            seen.append((done.tolist(), torch.is_grad_enabled()))
            return original(policy, state, done, *rest)

        monkeypatch.setattr(module, "reset_memory", spy)
    built, horizon = parts(small, replay), small.actor_critic.horizon
    seen.clear()
    built.works["renewal"].call()
    ours = list(seen)
    assert built.each["renewal"] * horizon == 1
    built._carry = start(built._policy, built._env)
    seen.clear()
    collect_rollout(built._policy, built._env, built._carry, horizon, built._draw)
    assert ours == seen


def test_synchronisations_are_not_counted_on_the_cpu() -> None:
    def never() -> None:
        raise AssertionError

    assert host_synchronisations(never, 3, CPU) is None


def test_synchronisations_are_what_torch_warns_of(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[Any] = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: "as it was")
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step() -> None:
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    assert host_synchronisations(step, 3, torch.device("cuda")) == 2
    assert modes == ["warn", "as it was"]


def test_a_profile_of_another_gpu_is_refused(small: TrainAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "another GPU")
    with pytest.raises(UserError, match="this profile is of a GPU, and cuda:0 here is another GPU"):
        profile_job.run(Profile("a GPU", "y", small), JobContext(tmp_path, device="cuda:0"))


def test_one_real_step_is_one(small: TrainAgent, replay: Replay) -> None:
    built = parts(small, replay)
    work = built.works["real_step"]
    work.call()
    collected = work.call.__closure__  # type: ignore[attr-defined]
    (play,) = (cell.cell_contents for cell in collected if hasattr(cell.cell_contents, "real_steps"))
    assert play.real_steps * built.each["real_step"] == 1


def test_no_network_is_faster_than_the_product_it_is_held_against(small: TrainAgent, replay: Replay) -> None:
    ticks: list[float] = []
    peak = product_peak(CPU, "bf16", lambda: None, ticks.append)
    assert ticks
    in_fp32 = product_peak(CPU, "fp32", lambda: None)
    assert in_fp32.precision == "fp32"
    assert peak.flop_per_second > 0.5 * in_fp32.flop_per_second, "where bf16 has no units, fp32 is the measure"
    wide = replace(small, network=replace(small.network, channels=(32,)), execution=replace(small.execution, precision="bf16"))
    built = parts(wide, replay)
    took = spread(alternate([built.works["denoiser_call"]], [0.1], lambda: None).seconds[0]).median
    assert flop_of(wide, "cpu")["denoiser_call"] / took < peak.flop_per_second

    def stop(share: float) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        product_peak(CPU, "bf16", lambda: None, stop)


def profiling(small: TrainAgent, folder: Path, compare: str = "", parts: str = "") -> Any:
    return profile_job._Profiling(Profile("x", "y", small, compare, parts), JobContext(folder))


def test_what_is_compared_is_built_last_and_as_it_is_described(small: TrainAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[Any] = []

    class Spied(Parts):
        def __init__(self, config: TrainAgent, device: Any, replay: Any, execution: Any = None, contiguous: bool = False) -> None:
            super().__init__(config, device, replay, execution, contiguous)
            tight = all(p.is_contiguous() for p in weights(self) if p.dim() == 4)
            happened.append((config.execution.precision, self.learners.execution, tight))

    monkeypatch.setattr(profile_job, "Parts", Spied)
    monkeypatch.setattr(profile_job, "peak_bytes", lambda device: happened.append("memory") or 1)
    fast = replace(small, execution=replace(small.execution, precision="bf16"))
    result = profiling(fast, tmp_path, "plain", "action,peak_memory").run()
    configured = Execution("none", "none", fused=True, precision="bf16")
    assert happened == [("bf16", configured, False), "memory", ("fp32", Execution(fused=False), True)]
    assert result.info["ways"] == [
        {"precision": "bf16", "compile": "none", "cuda_graphs": "none"},
        {"precision": "fp32", "compile": "none", "cuda_graphs": "none"},
    ]
    lines = {line["name"]: line for line in result.info["lines"]}
    assert list(lines) == ["action", "product_peak", "peak_memory"]
    assert any("Epoch and run are left out: --parts leaves out denoiser_update" in note for note in result.info["notes"])
    assert any(note.startswith("Executed: configured: bf16, compile none") for note in result.info["notes"])


def test_memory_is_that_of_updates_with_all_moments_there(small: TrainAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = profiling(small, tmp_path)
    built._build(random_replay(small, CPU), "fp32")
    built.peak = product_peak(CPU, "fp32", built._wait)
    built._expect()
    learners, held = built.ways[0].learners, []
    original = learners.update

    def update(name: str) -> Any:
        held.append((name, [bool(one._optimizer.state) for one in learners._learners.values()]))
        return original(name)

    learners.update = update
    for name in ("denoiser", "reward_end", "actor_critic"):
        built.ways[0].works[f"{name}_update"] = Work(lambda name=name: learners.update(name))
    built._memory()
    assert {name for name, moments in held if all(moments)} >= {"actor_critic", "reward_end"}
    assert [name for name, _ in held].count("denoiser") >= 2, "the second has its own moments"
    assert held[-1] == ("actor_critic", [True, True, True])


def test_a_compilation_within_a_timing_is_no_result(small: TrainAgent, tmp_path: Path) -> None:
    built = profiling(small, tmp_path, parts="action")
    built._build(random_replay(small, CPU), "fp32")
    policy, b = built.ways[0]._policy, small.actor_critic.batch_size
    policy.compiled = Compiled(policy.core, {b}, backend="eager")
    timings = built._timed("action")
    assert len(timings.order) >= 6, "its first call was in the warm-up"
    assert policy.compiled.calls["compiled"] > 6
    assert built.ways[0].compile_seconds() == policy.compiled.seconds > 0
    (line,) = built._compile_seconds()
    assert (line.name, line.unit, line.median) == ("compile_seconds", "s", policy.compiled.seconds)
    policy.compiled._seen.clear()
    built.warm["action"] = [0.1]  # as if it had been warmed up
    with pytest.raises(AssertionError, match="action: a network was compiled within a timing"):
        built._timed("action")


def test_the_other_way_is_compiled_where_authors_are_meant() -> None:
    assert COMPARED["authors"] == Compared("tf32", "imagination", fused=True)
    config = Profile("x", "y", small_agent_config(), "authors")
    said = notes(config, [{"precision": "bf16", "compile": "all"}, {"precision": "tf32", "compile": "imagination"}], (0.0, 0.0))
    assert "Executed: configured: bf16, compile all; authors: tf32, compile imagination." in said
    assert any(note.startswith("Authors: ") and "reduce-overhead" in note for note in said)
    assert not any("Other work" in note for note in said)
    assert any("Other work" in note for note in notes(config, [], (9.0, 0.0)))


def test_lines_are_what_the_timings_come_to(small: TrainAgent) -> None:
    times = {name: 1.0 + number for number, name in enumerate(PARTS)}
    timings = {name: Timings(((t, 1.2 * t, 0.8 * t, t), (3 * t, 3 * t, 2 * t, 5 * t)), (0, 1, 1, 0) * 2) for name, t in times.items()}
    lines = {line.name: line for line in ProfileReport(Profile("x", "y", small, "authors"), timings, {}, 1e9).lines()}
    assert [name for name in lines if lines[name].unit == "s"] == list(LABELS)
    epoch, rate, b = lines["epoch"], lines["frames_per_second"], small.actor_critic.batch_size
    assert epoch.ratio == epoch.other / epoch.median == pytest.approx(3.0)  # type: ignore[operator]
    step = lines["imagination_step"]
    assert (rate.low, rate.high) == (b / step.high, b / step.low)  # type: ignore[operator]
    assert rate.low < rate.median < rate.high  # type: ignore[operator]
    assert (step.other_low, step.other_high) == (2.75 * times["imagination_step"], 3.5 * times["imagination_step"])
    steps = small.actor_critic.steps_per_update
    assert lines["remainder"].median == pytest.approx(
        times["actor_critic_update"] - steps * (times["imagination_step"] + times["renewal"]) - times["loss_and_backward"]
    )
    recorded = replace(small, execution=replace(small.execution, cuda_graphs="all"))
    assert "remainder" not in [line.name for line in ProfileReport(Profile("x", "y", recorded), timings, {}, 1e9).lines()]
    concurrent = replace(small, agent=replace(small.agent, collection="concurrent"))
    assert any("agent.collection=concurrent" in note for note in notes(Profile("x", "y", concurrent), [], (0.0, 0.0)))
    assert any("one CUDA graph" in note for note in notes(Profile("x", "y", recorded), [], (0.0, 0.0)))
    del timings["real_step"], timings["renewal"]
    left = [line.name for line in ProfileReport(Profile("x", "y", small), timings, {}, 1e9).lines()]
    assert not {"epoch", "run", "remainder", "renewal"} & set(left)


@pytest.mark.parametrize("stop_after", [0, 2, 6])
def test_an_interrupted_profile_leaves_nothing(small: TrainAgent, tmp_path: Path, stop_after: int) -> None:
    asked = iter(range(1000))
    context = JobContext(tmp_path, should_stop=lambda: next(asked) >= stop_after)
    with pytest.raises(Interrupted):
        profile_job.run(Profile("x", "y", small), context)
    assert not list(tmp_path.iterdir())
