"""What would make the host wait for a GPU, or break a CUDA graph, told without one (see fake_cuda.py)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import CUDA, Seen, counted, fake_cuda
from small_agents import small_agent_config
from torch import Tensor

from diamond_bench.config import AncestralSampler, MultistepSampler, OdeSampler, Sampler
from diamond_bench.data.replay import Replay
from diamond_bench.data.static import DatasetInfo, EpisodeSet
from diamond_bench.envs.play import Steps
from diamond_bench.evaluation.rollouts import imagine
from diamond_bench.jobs import train_agent, train_world_model
from diamond_bench.jobs.agent_learners import Learners
from diamond_bench.jobs.context import JobContext
from diamond_bench.jobs.execution import Execution
from diamond_bench.metrics.drift import drift
from diamond_bench.metrics.frames import pair_scores
from diamond_bench.metrics.play import WindowBatch
from diamond_bench.metrics.psnr import squared
from diamond_bench.models import graphs
from diamond_bench.models.graphs import Graphed, Outputs, Recording
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.store.kinds import TrainAgent, TrainWorldModel
from diamond_bench.training import checkpoint
from diamond_bench.training.actor_critic import actor_critic_loss
from diamond_bench.training.means import Means
from diamond_bench.training.rollout import collect_rollout, start
from diamond_bench.worlds.recorded import recorded

SIZE, STEPS = 16, 2
FEW = (
    *("training.num_autoregressive_steps=0", "reward_end.segment_length=6", "actor_critic.horizon=3"),
    *(f"actor_critic.steps_per_update={STEPS}", "actor_critic.batch_size=3"),
)
"""A fake operation takes a millisecond."""
CONDITIONINGS = (
    ("training.num_autoregressive_steps=1",),
    ("conditioning.action_dropout=0.1", "conditioning.frame_noise=0.3"),
    (
        "conditioning.frames=both",
        "conditioning.history_depths=[1]",
        "conditioning.history_channels=[8]",
        "conditioning.attended_levels=[true]",
    ),
)
OBJECTIVES = (("objective=ddpm", "sampler=ddpm_ancestral"), ("objective=flow", "sampler=flow_euler"))
SAMPLERS: tuple[Sampler, ...] = (
    OdeSampler(num_steps=3),
    OdeSampler(num_steps=2, s_churn=1.0, churn_sigma="sigma_hat", start_noise="sigma_max", quantize="final"),
    OdeSampler(name="heun", num_steps=3, guidance=2.0),
    MultistepSampler(num_steps=3),
    AncestralSampler(num_steps=3, eta=0.5, clip_denoised=True),
)


def config(*tokens: str) -> TrainAgent:
    given = {token.partition("=")[0] for token in tokens}
    few = (token for token in FEW if token.partition("=")[0] not in given)
    return small_agent_config("execution.num_threads=1", *few, *tokens)


def replay(device: torch.device, episodes: int = 6, length: int = 20) -> Replay:
    built = Replay(episodes * length, SIZE, device)
    for _ in range(episodes):
        add_episode(built, length)
    return built


def add_episode(to: Replay, length: int = 20) -> None:
    frames, ends = np.zeros((length, SIZE, SIZE, 3), np.uint8), np.arange(length) == length - 1
    to.append(0, Steps(frames, np.zeros(length, np.int64), np.zeros(length, np.float32), ends, np.zeros(length, bool), frames))


def learners(settings: TrainAgent, device: torch.device = CUDA, execution: Execution = Execution()) -> Learners:
    return Learners(settings, device, replay(device), torch.Generator(device), execution)


@pytest.fixture
def gpu() -> Iterator[None]:
    with fake_cuda():
        yield


def assert_all_on_device(seen: Seen) -> None:
    assert seen.on_device > 50, "nothing was looked at"
    assert seen.waits == []
    assert seen.on_host == []


def tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


class Captures:
    """Records work as `record_cuda_graph` does, as far as a capture forbids things: it is done once, with everything counted."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def __call__(self, work: Callable[[], Outputs], generators: Sequence[torch.Generator] = ()) -> Recording:
        with counted() as seen:
            outputs = work()
        self.seen.append(seen)
        return lambda: outputs


# Imagination and the policy


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("discard", [False, True])
def test_an_imagined_step_waits_for_nothing(discard: bool) -> None:
    built = learners(config(f"actor_critic.discard_left_overs={str(discard).lower()}"))
    env: Any = built._imagination
    env.reset()
    env.prepare(STEPS)
    with counted() as seen:
        reported = [env.step(torch.zeros(3, dtype=torch.int64, device=CUDA)) for _ in range(STEPS)]
    assert_all_on_device(seen)
    assert {tensor.device for tensor in tensors(reported)} == {CUDA}
    assert len(tensors(reported)) == STEPS * (4 + 10)


@pytest.mark.usefixtures("gpu")
def test_loading_start_segments_reads_one_number_for_many_steps() -> None:
    built = learners(config("actor_critic.preload=4"))
    env: Any = built._imagination
    env.reset()
    for steps in (10, 30):
        with counted() as seen:
            env.prepare(steps)
        assert seen.places == {"starts.prepare": 1}
        assert seen.on_host == []


@pytest.mark.usefixtures("gpu")
def test_an_update_of_the_policy_waits_for_nothing() -> None:
    built = learners(config())
    policy, env = built.agent.actor_critic, built._imagination
    built.update("actor_critic")
    assert env is not None
    env.prepare(STEPS)
    with counted() as seen:
        logged = built.update("actor_critic")
    assert_all_on_device(seen)
    assert {tensor.device for tensor in tensors(logged)} == {CUDA}
    assert all(p.grad is not None and p.grad.device == CUDA for p in policy.parameters()), "the backward pass was reached"


def test_what_follows_a_rollout_waits_for_nothing() -> None:
    """Rollout, loss, backward pass, clipping and optimiser, with numbers and on the CPU: operations that wait are the same there."""
    built = learners(config(), torch.device("cpu"))
    policy, env = built.agent.actor_critic, built._imagination
    assert env is not None
    carry = start(policy, env)
    env.prepare(2 * STEPS)
    before = [parameter.detach().clone() for parameter in policy.parameters()]
    with counted(any_device=True) as seen:
        for _ in range(2):  # the first rate of the warm-up is 0
            rollout, carry = collect_rollout(policy, env, carry, STEPS, built._draw, all_rows=True)
            loss, _ = actor_critic_loss(rollout, built.config.actor_critic)
            built._learners["actor_critic"].update(loss)
    assert seen.operations > 500
    assert seen.waits == []
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.parameters(), strict=True))


# The other two networks


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("tokens", [*CONDITIONINGS, *OBJECTIVES], ids=["plain", "dropout and noise", "attended", "ddpm", "flow"])
def test_an_update_of_a_model_waits_for_nothing(tokens: tuple[str, ...]) -> None:
    built = learners(config(*tokens))
    names = ("denoiser", "reward_end") if tokens == CONDITIONINGS[0] else ("denoiser",)
    for name in names:
        built.replay.episodes  # noqa: B018  told to the device once after each collection
        with counted() as seen:
            logged = built.update(name)
        assert_all_on_device(seen)
        assert {tensor.device for tensor in tensors(logged)} == {CUDA}


@pytest.mark.usefixtures("gpu")
def test_a_collection_costs_three_copies_before_the_next_update_and_no_more() -> None:
    built = learners(config())
    built.update("denoiser")
    add_episode(built.replay)
    for copies in (3, 0):
        with counted() as seen:
            built.update("reward_end")
        assert seen.places == ({"replay.episodes": copies} if copies else {})


@pytest.mark.parametrize("name", ["denoiser", "reward_end"])
def test_what_follows_a_model_s_forward_pass_waits_for_nothing(name: str) -> None:
    built = learners(config("conditioning.action_dropout=0.1", "conditioning.frame_noise=0.3"), torch.device("cpu"))
    built.update(name)
    with counted(any_device=True) as seen:
        built.update(name)
    assert seen.operations > 500
    assert seen.waits == []


# What is recorded


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: f"{sampler.name}-{sampler.start_noise}")
def test_sampling_holds_nothing_that_a_capture_forbids(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Graphed, "WARM_UP", 0)  # a stream of its own is nothing that can be had here
    built = learners(config("conditioning.action_dropout=0.1"))
    captures = Captures()
    world = recorded(built.agent.world_model.bound(sampler), captures)  # type: ignore[union-attr]
    past = torch.zeros(3, world.context, 3, SIZE, SIZE, device=CUDA)
    actions = torch.zeros(3, world.context, dtype=torch.int64, device=CUDA)
    with counted() as seen:
        for _ in range(3):
            _, step = world.step((past, actions), actions[:, 0], lambda like: torch.randn(like.shape, device=CUDA))
    frame = step.frame
    assert_all_on_device(seen)
    assert len(captures.seen) == 1, "recorded once"
    assert_all_on_device(captures.seen[0])
    assert (frame.device, frame.shape) == (CUDA, past[:, 0].shape)
    assert not frame.is_inference()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("name", ["denoiser", "reward_end", "actor_critic"])
def test_a_recorded_update_holds_nothing_that_a_capture_forbids(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Graphed, "WARM_UP", 0)
    built = learners(config(), execution=Execution(cuda_graphs="all"))
    learner, captures = built._learners[name], Captures()
    learner._record = captures
    built.replay.episodes  # noqa: B018
    built.update(name)  # begins the imagination
    built.prepare(4)
    captures.seen.clear()
    learner._graphed = None
    with counted() as seen:
        for _ in range(3):
            logged = built.update(name)
    assert_all_on_device(seen)
    assert len(captures.seen) == 1
    assert_all_on_device(captures.seen[0])
    assert {tensor.device for tensor in tensors(logged)} == {CUDA}
    for group in learner._optimizer.param_groups:
        assert group["capturable"]
        assert group["lr"].device == CUDA, "a number of the host would be frozen into the graph"
    assert {state["step"].device for state in learner._optimizer.state.values() if state} <= {CUDA}


@pytest.mark.usefixtures("gpu")
def test_a_recorded_step_holds_nothing_that_a_capture_forbids_and_is_recorded_again_if_its_memory_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    captures = Captures()
    monkeypatch.setattr(Graphed, "WARM_UP", 0)
    monkeypatch.setattr(graphs, "record_cuda_graph", captures)
    built = learners(config("actor_critic.preload=4"), execution=Execution(cuda_graphs="imagination"))
    env: Any = built._imagination
    env.reset()
    actions = torch.zeros(3, dtype=torch.int64, device=CUDA)
    for recordings, steps in ((1, 3), (2, 40)):  # so many that the ring of start segments is made anew, larger
        env.prepare(steps)
        with counted() as seen:
            for _ in range(2):
                env.step(actions)
        assert_all_on_device(seen)
        assert len(captures.seen) == recordings
        assert_all_on_device(captures.seen[-1])


# Between two updates


@pytest.mark.usefixtures("gpu")
def test_means_are_read_once_an_epoch() -> None:
    means, value = Means(CUDA), torch.ones((), device=CUDA)
    with counted() as seen:
        for _ in range(5):
            means.add("denoiser", loss=value, grad_norm=value)
    assert seen.on_device >= 10
    assert seen.waits == []
    with counted() as seen:
        means.read()
    assert len(seen.waits) <= 2, "one stack of all means"


def context(folder: Path) -> JobContext:
    return JobContext(
        folder=folder,
        inputs={"dataset": folder},
        device="cuda",
        progress=lambda done, total, text="": None,
        should_stop=lambda: False,
        say=lambda text: None,
        check_owner=lambda: None,
    )


@pytest.mark.usefixtures("gpu")
def test_the_loop_of_an_agent_s_training_waits_for_nothing_between_updates(tmp_path: Path) -> None:
    settings = config("agent.denoiser_updates=9", "agent.reward_end_updates=9", "agent.actor_critic_updates=9")
    training: Any = train_agent._Training(settings, context(tmp_path), Execution(), replay(CUDA), None)
    training.at.epoch = 1
    training.replay.episodes  # noqa: B018
    for number, phase in enumerate(("denoiser", "reward_end", "actor_critic"), start=1):
        training.at.phase, training.at.unit = number, 0
        units = training.units()
        next(units)
        if phase == "actor_critic":
            next(units)
            training.learners._imagination.prepare(STEPS)
        with counted() as seen:
            training.progress()
            next(units)
        assert_all_on_device(seen)
        assert (training.at.phase, training.at.unit) == (number, 2 if phase == "actor_critic" else 1)


@pytest.mark.usefixtures("gpu")
def test_the_loop_of_a_world_model_s_training_waits_at_its_end_and_for_its_log_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = config()
    rows = torch.zeros(60, dtype=torch.int64)
    episodes = EpisodeSet(
        frames=torch.zeros(60, 3, SIZE, SIZE, dtype=torch.uint8),
        actions=rows,
        rewards=rows.float(),
        terminations=rows.bool(),
        truncations=rows.bool(),
        starts=torch.zeros(3, dtype=torch.int64),
        lengths=torch.zeros(3, dtype=torch.int64),
    )
    monkeypatch.setattr("diamond_bench.data.sources.load_episodes", lambda folder: episodes)
    spec = WorldSpec(FrameSpec(SIZE, SIZE), ActionSpec.discrete(4))
    monkeypatch.setattr(train_world_model, "load_info", lambda folder: DatasetInfo(spec, 60, 60, {}))
    monkeypatch.setattr(train_world_model, "_keep", lambda *given: None)
    monkeypatch.setattr(checkpoint, "save_checkpoint", lambda folder, step, state: None)

    def waits(num_steps: int, log_every: int) -> dict[str, int]:
        training = replace(
            agent.training,
            num_steps=num_steps,
            log_every=log_every,
            checkpoint_every=10**6,
            milestones=(1.0,),
            warmup_steps=0,
            cooldown=0.0,
        )
        settings = TrainWorldModel(
            **{f: getattr(agent, f) for f in ("objective", "conditioning", "network", "execution", "seed")}, training=training
        )
        folder = tmp_path / f"{num_steps}-{log_every}"
        folder.mkdir()
        with counted() as seen:
            train_world_model.run(settings, context(folder))
        return seen.places

    few = waits(1, 100)
    assert waits(3, 100) == few
    often = waits(3, 2)
    assert {place for place in few if often[place] != few[place]} == {"log.pending"}, "its log, once a line"


# Evaluation


@pytest.mark.usefixtures("gpu")
def test_imagining_trajectories_reads_back_once_a_batch_and_not_once_a_frame() -> None:
    built = learners(config())
    world: Any = built.world

    def waits(horizon: int) -> dict[str, int]:
        length = world.context + horizon
        frames = torch.zeros(2, length, 3, SIZE, SIZE, dtype=torch.uint8, device=CUDA)
        play = WindowBatch(frames, torch.zeros(2, length, dtype=torch.int64, device=CUDA), world.context)
        with counted() as seen:
            imagined = imagine(world, play, [(0, 1), (0, 2)])
        assert_all_on_device(seen)
        with counted() as seen:
            pair_scores({"drift": drift, "mse": squared}, imagined, play.true)
        return seen.places

    once = waits(1)
    assert once, "it is read back at all"
    assert waits(4) == once
