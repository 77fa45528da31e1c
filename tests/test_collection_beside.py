"""`agent.collection=beside`: real steps that a thread plays while the networks train, and that depend on no timing."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from test_agent_wiring import CPU, learners
from test_train_agent import journal, run_through, same, small_agent_config, stopped_ends_as, stopping_at, values

from diamond_bench.data.replay import Replay
from diamond_bench.envs.play import Collector
from diamond_bench.errors import UserError
from diamond_bench.jobs import train_agent
from diamond_bench.jobs.agent_beside import BesidePlay
from diamond_bench.jobs.agent_play import RealPlay
from diamond_bench.jobs.context import Interrupted, JobContext, Result
from diamond_bench.studies.kinds import TrainAgent
from diamond_bench.studies.single import plan_train

BESIDE = "agent.collection=beside"
FAST = ("actor_critic.learning_rate=0.05", "actor_critic.warmup_steps=0", "agent.temperature=0.001")
"""So that a policy of another epoch acts otherwise."""


def config(*tokens: str) -> TrainAgent:
    return small_agent_config(*FAST, *tokens)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    folder = tmp_path_factory.mktemp("beside")
    result, _, _ = run_through(config(BESIDE), folder)
    return result, folder


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "real play"]


def test_a_policy_that_does_not_change_makes_it_the_training_in_turn(tmp_path: Path) -> None:
    """Every update of the models sees the same steps, no fewer and none too early; budget and epochs are the same."""
    still = ("agent.first_actor_critic_updates=0", "agent.actor_critic_updates=0", "agent.budget=57")
    found = {way: run_through(config(f"agent.collection={way}", *still), tmp_path / way)[0] for way in ("in_turn", "beside")}
    assert same(tmp_path / "in_turn", tmp_path / "beside")
    assert values(found["in_turn"]) == values(found["beside"])
    assert journal(tmp_path / "in_turn") == journal(tmp_path / "beside")
    assert values(found["beside"])["real_steps"] == 57


def test_with_a_policy_that_learns_it_is_another_training_of_the_same_size(whole: tuple[Result, Path], tmp_path: Path) -> None:
    in_turn, _, _ = run_through(config(), tmp_path / "in_turn")
    result, folder = whole
    assert not same(folder, tmp_path / "in_turn")
    for fact in ("real_steps", "initial_steps", "epochs", "updates"):
        assert result.info[fact] == in_turn.info[fact], fact


def test_a_stretch_is_what_the_policy_of_its_beginning_plays(tmp_path: Path) -> None:
    settings = config(BESIDE)
    found: dict[str, list[torch.Tensor]] = {}
    for way in ("beside", "in turn", "in turn, by the newest policy"):
        replay = Replay(60, 16)
        ours = learners(settings, replay)
        play: Any = BesidePlay(settings, ours, replay, CPU) if way == "beside" else RealPlay(settings, ours, replay)
        play.collect(20, None)
        play.begin(40)
        if way != "in turn":
            with torch.no_grad():  # stands for updates
                ours.agent.actor_critic.actor.bias += torch.arange(len(ours.agent.actor_critic.actor.bias)) * 3.0
        assert (replay.num_rows, play.real_steps) == (20, 20), "nobody sees a stretch before it is asked for"
        collected = play.collect(40, None)
        assert (replay.num_rows, play.real_steps, collected.steps) == (60, 60, 40)
        found[way] = [replay.episodes.frames, replay.episodes.actions, replay.episodes.rewards]
    assert all(torch.equal(a, b) for a, b in zip(found["beside"], found["in turn"], strict=True))
    assert not torch.equal(found["beside"][1], found["in turn, by the newest policy"][1]), "or else this would show nothing"


def test_stopped_anywhere_it_goes_on_to_the_same_agent(whole: tuple[Result, Path], tmp_path: Path) -> None:
    stopped_ends_as(whole, config(BESIDE), tmp_path / "stopped", [1, 4, 6, 9, 12, 15])


@pytest.mark.parametrize("slow", ["play", "training"])
def test_timing_changes_nothing(whole: tuple[Result, Path], tmp_path: Path, slow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Collector.collect

    def late(self: Collector, num_steps: int) -> Any:
        time.sleep(0.3)
        return original(self, num_steps)

    if slow == "play":
        monkeypatch.setattr(Collector, "collect", late)
    pause = 0.15 if slow == "training" else 0.0
    run_through(config(BESIDE), tmp_path / "job", lambda: bool(time.sleep(pause)))
    assert same(whole[1], tmp_path / "job")


def test_nothing_is_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, begun = Collector.collect, threading.Event()

    def slow(self: Collector, num_steps: int) -> Any:
        if threading.current_thread().name == "real play":
            begun.set()
            time.sleep(0.2)
        return original(self, num_steps)

    monkeypatch.setattr(Collector, "collect", slow)
    with pytest.raises(Interrupted):
        train_agent.run(config(BESIDE), JobContext(tmp_path, should_stop=stopping_at([5])))
    assert begun.is_set()
    assert threads() == []


def test_an_error_of_the_game_ends_the_training_with_that_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = Collector.collect, []

    def failing(self: Collector, num_steps: int) -> Any:
        calls.append(num_steps)
        if len(calls) == 5:
            raise RuntimeError("the emulator is gone")
        return original(self, num_steps)

    monkeypatch.setattr(Collector, "collect", failing)
    with pytest.raises(RuntimeError, match="the emulator is gone"):
        run_through(config(BESIDE), tmp_path / "job")
    assert threads() == []


def test_the_copy_that_plays_has_no_compiled_code_and_leaves_the_policy_its_own() -> None:
    ours = learners(config(BESIDE), Replay(60, 16))
    policy, compiled = ours.agent.actor_critic, object()
    policy.compiled = compiled  # type: ignore[assignment]
    copy = ours.policy_of_its_own()
    assert copy.compiled is None
    assert policy.compiled is compiled
    assert all(a.data_ptr() != b.data_ptr() and torch.equal(a, b) for a, b in zip(policy.parameters(), copy.parameters(), strict=True))


def test_it_is_part_of_an_identity_and_refused_where_it_would_change_nothing() -> None:
    def agent(*tokens: str) -> str:
        return next(ref.id for ref in plan_train(["scale=tiny", *tokens]).jobs if ref.kind == "train_agent")

    assert agent() == agent("agent.collection=in_turn") != agent(BESIDE)
    with pytest.raises(UserError, match=r"agent.collection: a model-free agent .* has no use for it"):
        plan_train(["scale=tiny", "agent.model_free=true", BESIDE])
    with pytest.raises(UserError, match="beside"):
        plan_train(["scale=tiny", "agent.collection=besides"])
