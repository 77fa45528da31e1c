"""agent.collection=concurrent: a thread plays real steps during training, with the policy from before; thread speeds change nothing."""

import copy
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import in_this_process
from test_train_agent import journal, run_through, same, small_agent_config, stopping_at, values

from diamond_bench.data.replay import Replay
from diamond_bench.envs.games import vector_env
from diamond_bench.envs.play import Collector
from diamond_bench.envs.synthetic import SyntheticEnv
from diamond_bench.evaluation.player import PolicyPlayer
from diamond_bench.jobs import train_agent
from diamond_bench.jobs.agent_concurrent import ConcurrentPlay
from diamond_bench.jobs.agent_learners import Learners
from diamond_bench.jobs.context import Interrupted, JobContext, Result
from diamond_bench.jobs.execution import Execution
from diamond_bench.models.actor_critic import ActorCritic
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.studies.single import plan_train
from diamond_bench.training.checkpoint import load_checkpoint
from diamond_bench.training.means import Means

CPU = torch.device("cpu")
INITIAL, A_STRETCH, BUDGET = 30, 10, 57
"""Real steps: the last stretch is a shorter one."""
AN_EPOCH = 5
"""Updates; of the first epoch there are 8."""
SEEN = [INITIAL] * 8 + [40] * AN_EPOCH + [50] * AN_EPOCH + [57] * 2 * AN_EPOCH
"""Rows of the replay at each update."""
_QUICK_TO_CHANGE = ("actor_critic.learning_rate=0.05", "actor_critic.warmup_steps=0", "agent.epsilon=0.1")


def config(*tokens: str, collection: str = "concurrent") -> TrainAgent:
    """A policy that changes much at each of its few updates."""
    loop = ("game=synthetic/turn", f"agent.collection={collection}", f"agent.budget={BUDGET}", "agent.initial_rare_rewards=0")
    chosen = {token.partition("=")[0]: token for token in (*loop, *_QUICK_TO_CHANGE, *tokens)}
    return small_agent_config(*chosen.values())


def replay_of(folder: Path) -> Replay:
    """That of a job's newest checkpoint."""
    found = load_checkpoint(folder / "checkpoint", print)
    assert found is not None
    return Replay.load(folder / "checkpoint", found[1]["replay_rows"], BUDGET, 16)


def played(replay: Replay) -> list[torch.Tensor]:
    """All there is to know of its steps."""
    e = replay.episodes
    finals = e.finals[: replay.num_episodes]
    return [e.frames, e.actions, e.rewards, e.terminations, e.truncations, e.starts, e.lengths, finals]


def alike(one: Replay, other: Replay) -> bool:
    pairs = list(zip(played(one), played(other), strict=True))
    return all(torch.equal(a, b) for a, b in pairs)


def before_each_update(monkeypatch: pytest.MonkeyPatch, reported: Callable[[Learners], object]) -> None:
    update = Learners.update

    def watched(self: Learners, name: str) -> Any:
        reported(self)
        return update(self, name)

    monkeypatch.setattr(Learners, "update", watched)


def before_each_step(monkeypatch: pytest.MonkeyPatch, reported: Callable[[], object]) -> None:
    step = SyntheticEnv.step

    def watched(self: SyntheticEnv, action: int) -> Any:
        reported()
        return step(self, action)

    monkeypatch.setattr(SyntheticEnv, "step", watched)


def threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """The job of `config()`, run without a stop."""
    folder = tmp_path_factory.mktemp("whole")
    return run_through(config(), folder)[0], folder


def ends_as(whole: tuple[Result, Path], result: Result, folder: Path) -> None:
    assert same(whole[1], folder)
    assert values(result) == values(whole[0])
    assert journal(folder) == journal(whole[1])
    assert alike(replay_of(whole[1]), replay_of(folder))


def test_the_neutral_value_changes_no_identity_and_the_other_does() -> None:
    plain, neutral, concurrent = (
        {ref for ref in plan_train(["scale=tiny", *more]).jobs if ref.kind == "train_agent"}
        for more in ([], ["agent.collection=sequential"], ["agent.collection=concurrent"])
    )
    assert plain == neutral != concurrent


def test_as_many_steps_epochs_and_updates_as_in_turn_and_none_is_seen_early(
    whole: tuple[Result, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each update takes so long that the round of play is over before it ends."""
    seen: dict[str, list[int]] = {"sequential": [], "concurrent": []}
    facts = {}
    for collection, rows in seen.items():
        with monkeypatch.context() as patch:
            before_each_update(patch, lambda learners, rows=rows: (time.sleep(0.03), rows.append(learners.replay.num_rows)))  # type: ignore[misc]
            result, _, _ = run_through(config(collection=collection), tmp_path / collection)
        facts[collection] = {key: result.info[key] for key in ("real_steps", "initial_steps", "epochs", "updates")}
    assert seen["concurrent"] == seen["sequential"] == SEEN
    assert facts["concurrent"] == facts["sequential"]
    assert facts["concurrent"]["real_steps"] == replay_of(tmp_path / "concurrent").num_rows == BUDGET
    steps = [[line["real_steps"] for line in journal(tmp_path / collection)] for collection in seen]
    assert steps == [[30, 40, 50, 57, 57]] * 2
    assert same(whole[1], tmp_path / "concurrent")
    assert not same(tmp_path / "sequential", tmp_path / "concurrent"), "an older policy plays"


def test_a_round_is_played_by_the_policy_from_before_the_concurrent_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policies: dict[int, ActorCritic] = {}

    def note(learners: Learners) -> None:
        rows = learners.replay.num_rows
        if rows not in policies:
            policies[rows] = copy.deepcopy(learners.agent.actor_critic)

    before_each_update(monkeypatch, note)
    settings = config()
    run_through(settings, tmp_path / "job")
    assert list(policies) == [30, 40, 50, 57]

    def by_hand(stretches: list[tuple[int, int]]) -> Replay:
        """(steps, rows that the replay had when the policy that plays them was as it is)."""
        replay, playing = Replay(BUDGET, 16), copy.deepcopy(policies[30])
        env = vector_env(settings.game, settings.env, 1)
        collector = Collector(env, PolicyPlayer(playing), replay, settings.seed, settings.agent.epsilon, settings.agent.temperature)
        for steps, rows in stretches:
            playing.load_state_dict(policies[rows].state_dict())
            collector.collect(steps)
        return replay

    assert alike(replay_of(tmp_path / "job"), by_hand([(30, 30), (10, 30), (10, 40), (7, 50)]))
    assert not alike(by_hand([(30, 30), (10, 30), (10, 40), (7, 50)]), by_hand([(30, 30), (10, 40), (10, 50), (7, 57)])), "it must matter"


def test_a_copy_plays_what_is_learned_meanwhile_changes_nothing() -> None:
    settings = config("agent.epsilon=0.0", "agent.temperature=0.001")
    learners = Learners(settings, CPU, Replay(1, 16), torch.Generator())
    policy, replay = learners.agent.actor_critic, Replay(BUDGET, 16)
    play = ConcurrentPlay(settings, learners, replay, CPU)
    preferred: list[int] = []

    def prefer(action: int) -> None:
        with torch.no_grad():
            policy.actor.bias.copy_(torch.nn.functional.one_hot(torch.tensor(action), 3).float())

    for first, meanwhile, begun in ((0, 1, True), (2, 0, True), (1, 1, False)):
        prefer(first)
        play.begin(A_STRETCH if begun else 0)
        assert (replay.num_rows, play.real_steps) == (len(preferred), len(preferred)), "not before the border"
        prefer(meanwhile)
        assert play.collect(A_STRETCH, Means(CPU)).steps == A_STRETCH
        preferred += [first] * A_STRETCH
        assert replay.episodes.actions.tolist() == preferred
        assert play.real_steps == len(preferred)
    play.close()


@pytest.mark.parametrize("slow", ["play", "training", pytest.param("neither", marks=pytest.mark.slow)])
def test_stopped_anywhere_and_however_the_threads_run_the_agent_is_the_same(
    slow: str, whole: tuple[Result, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if slow == "play":
        before_each_step(monkeypatch, lambda: time.sleep(0.02))
    if slow == "training":
        before_each_update(monkeypatch, lambda learners: time.sleep(0.03))
    stops = list(range(1, 60, 3))
    result, attempts, said = run_through(config(), tmp_path / "job", stopping_at(stops))
    assert attempts > 10
    assert any("resumed in epoch 2, after 40 real steps" in line for line in said), "a stretch was being played"
    ends_as(whole, result, tmp_path / "job")


def test_steps_lost_in_a_crash_are_played_again(whole: tuple[Result, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in training, at any update, with a checkpoint every third unit; no thread is left."""
    settings, before = config("agent.checkpoint_units=3"), threads()
    (tmp_path / "job").mkdir()
    for last in (10, 7, 4):
        built = iter(range(last))

        def fails(learners: Learners, built: Any = built) -> None:
            if next(built, None) is None:
                raise RuntimeError("no more")

        with monkeypatch.context() as patch:
            before_each_update(patch, fails)
            before_each_step(patch, lambda: time.sleep(0.002))
            with pytest.raises(RuntimeError, match="no more"):
                train_agent.run(settings, JobContext(tmp_path / "job"))
        assert threads() == before
    result, _, said = run_through(settings, tmp_path / "job")
    assert any("resumed" in line for line in said)
    ends_as(whole, result, tmp_path / "job")


def test_an_error_in_the_game_ends_the_run_where_the_steps_were_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, updates, before = iter(range(INITIAL + 3)), [], threads()

    def breaks() -> None:
        if next(steps, None) is None:
            raise RuntimeError("the joystick broke")

    before_each_step(monkeypatch, breaks)
    before_each_update(monkeypatch, lambda learners: updates.append(learners.replay.num_rows))
    with pytest.raises(RuntimeError, match="the joystick broke") as error:
        run_through(config(), tmp_path / "job")
    assert any(frame.name == "breaks" for frame in traceback.extract_tb(error.tb)), "where it broke is told"
    assert updates == SEEN[:8]
    assert threads() == before


@pytest.mark.timeout(60)
def test_a_run_that_is_stopped_leaves_no_thread_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stretch would take hours: it is stopped at its next step, and loses nothing that is saved."""
    steps, before, reported = iter(range(INITIAL + 2)), threads(), threading.Event()

    def slows() -> None:
        if next(steps, None) is None:
            reported.set()
            time.sleep(1.0)

    before_each_step(monkeypatch, slows)
    settings = config("agent.steps_per_epoch=10000", "agent.budget=10030")
    with pytest.raises(Interrupted, match="saved in epoch 1, after 30 real steps"):
        train_agent.run(settings, JobContext(tmp_path, should_stop=reported.is_set))
    assert threads() == before


@pytest.mark.timeout(60)
def test_ctrl_c_while_the_border_waits_leaves_no_thread_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, before = iter(range(INITIAL + 2)), threads()
    before_each_step(monkeypatch, lambda: time.sleep(0.0 if next(steps, None) is not None else 0.5))
    monkeypatch.setattr("diamond_bench.jobs.agent_concurrent.ConcurrentPlay.collect", _interrupted_at_the_second(ConcurrentPlay.collect))
    with pytest.raises(KeyboardInterrupt):
        train_agent.run(config("agent.steps_per_epoch=10000", "agent.budget=10030"), JobContext(tmp_path))
    assert threads() == before


def _interrupted_at_the_second(collect: Any) -> Any:
    calls = iter([False])

    def interrupted(self: ConcurrentPlay, num_steps: int, means: Means) -> Any:
        if next(calls, True):
            raise KeyboardInterrupt
        return collect(self, num_steps, means)

    return interrupted


def test_a_failure_in_the_thread_is_reported_if_the_run_ends_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps, broken = iter(range(INITIAL)), threading.Event()

    def breaks() -> None:
        if next(steps, None) is None:
            broken.set()
            raise RuntimeError("the joystick broke")

    before_each_step(monkeypatch, breaks)
    with pytest.raises(Interrupted):
        train_agent.run(config(), JobContext(tmp_path, should_stop=broken.is_set))
    assert "the joystick broke" in capsys.readouterr().out


def test_stopped_within_the_initial_collection_which_is_in_turn(tmp_path: Path) -> None:
    settings = config("agent.initial_rare_rewards=10000")
    for name, stops in (("whole", []), ("stopped", [1, 2])):
        result, attempts, _ = run_through(settings, tmp_path / name, stopping_at(stops))
        assert (attempts, result.info["initial_steps"]) == (1 + len(stops), 40)
    assert same(tmp_path / "whole", tmp_path / "stopped")
    assert alike(replay_of(tmp_path / "whole"), replay_of(tmp_path / "stopped"))


def test_the_thread_computes_as_the_main_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many threads of torch, OpenMP and MKL, which decide how sums are split."""
    seen: list[str] = []
    player, threads_before = PolicyPlayer.__call__, torch.get_num_threads()
    counted = ("at::get_num_threads()", "omp_get_max_threads()", "mkl_get_max_threads()")

    def reported() -> str:
        return "\n".join(line.strip() for line in torch.__config__.parallel_info().splitlines() if line.strip().startswith(counted))

    def noted(self: PolicyPlayer, *given: Any) -> Any:
        seen.append(reported())
        return player(self, *given)

    monkeypatch.setattr(PolicyPlayer, "__call__", noted)
    settings = config()
    try:
        torch.set_num_threads(3)
        play = ConcurrentPlay(settings, Learners(settings, CPU, Replay(1, 16), torch.Generator()), Replay(BUDGET, 16), CPU)
        play.collect(1, Means(CPU))
        play.close()
        assert seen == [reported()]
    finally:
        torch.set_num_threads(threads_before)


def test_the_thread_forgets_none_of_the_casts_that_autocast_remembers_for_training() -> None:
    """A gradient through one cast is summed in bf16, through two in fp32: it must not depend on when the thread leaves its autocast."""
    settings = config("execution.precision=bf16")
    learners = Learners(settings, CPU, Replay(1, 16), torch.Generator())
    play = ConcurrentPlay(settings, learners, Replay(BUDGET, 16), CPU)
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        first = weight @ weight
        play.collect(1, Means(CPU))
        second = weight @ weight
    casts = {function[0] for output in (first, second) for function in output.grad_fn.next_functions}  # type: ignore[union-attr]
    play.close()
    assert len(casts) == 1


def test_a_compiled_policy_is_copied_and_its_copy_is_not_compiled() -> None:
    settings = config()
    learners = Learners(settings, CPU, Replay(1, 16), torch.Generator(), Execution(compile="all"))
    play = ConcurrentPlay(settings, learners, Replay(BUDGET, 16), CPU)
    assert learners.agent.actor_critic.compiled is not None
    assert play._policy.compiled is None
    assert play.collect(1, Means(CPU)).steps == 1
    assert learners.agent.actor_critic.compiled.calls == {"compiled": 0, "eager": 0}
    play.close()


def test_a_model_free_agent_is_refused_it(tmp_path: Path) -> None:
    done = in_this_process("train", "scale=tiny", "agent.model_free=true", "agent.collection=concurrent", cwd=tmp_path, exit_code=2)
    (line,) = done.stderr.splitlines()
    assert "agent.collection" in line
    assert "model-free" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("graphs", ["none", "all"])
def test_on_a_gpu_the_threads_timing_changes_nothing(graphs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run plays the same steps, as its replay tells; weights too, where the device's sums come in one order."""
    folders = [tmp_path / name for name in ("plain", "slow", "stopped")]
    for folder in folders:
        folder.mkdir()
        with monkeypatch.context() as patch:
            if folder.name == "slow":
                before_each_step(patch, lambda: time.sleep(0.02))
            asked = iter([3, 7, 12, 20]) if folder.name == "stopped" else iter([])
            should_stop = stopping_at(list(asked))
            while True:
                try:
                    settings = config(f"execution.cuda_graphs={graphs}", "actor_critic.learning_rate=0.0")
                    train_agent.run(settings, JobContext(folder, device="cuda", should_stop=should_stop))
                    break
                except Interrupted:
                    continue
    assert alike(replay_of(folders[0]), replay_of(folders[1]))
    assert alike(replay_of(folders[0]), replay_of(folders[2]))
    assert np.isfinite([line["denoiser/loss"] for line in journal(folders[0])]).all()
