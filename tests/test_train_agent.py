"""The job `train_agent`: the loop, its budget, and that an interruption changes nothing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_agents import small_agent_config as with_long_segments

from diamond_bench.costs.train_agent import num_epochs, updates
from diamond_bench.data.replay import Replay
from diamond_bench.data.rms import change_rms
from diamond_bench.errors import UserError
from diamond_bench.jobs import train_agent
from diamond_bench.jobs.agent_position import Position
from diamond_bench.jobs.context import Interrupted, JobContext, Result
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.training.checkpoint import load_checkpoints

_SHORT = ("reward_end.segment_length=8", "training.batch_size=2")
_NO_UPDATES = tuple(f"agent.{first}{name}_updates=0" for first in ("first_", "") for name in ("denoiser", "reward_end", "actor_critic"))


def small_agent_config(*tokens: str) -> TrainAgent:
    """The smallest agent, with less to learn from at each update: here only that and when updates are made counts."""
    return with_long_segments(*(() if "agent.model_free=true" in tokens else _SHORT), *tokens)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted((folder / "agent").rglob("*.safetensors"))
    return {f"{file.stem}.{name}": tensor for file in files for name, tensor in load_file(file).items()}


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stopping_at(counts: list[int]) -> Callable[[], bool]:
    """A should_stop that is true at these calls, counted through all attempts."""
    calls = 0

    def should_stop() -> bool:
        nonlocal calls
        calls += 1
        return calls in counts

    return should_stop


def run_through(config: TrainAgent, folder: Path, should_stop: Callable[[], bool] = lambda: False) -> tuple[Result, int, list[str]]:
    """The job, taken up again as often as it is stopped: its result, the number of attempts, what it said."""
    folder.mkdir(exist_ok=True)
    attempts, said = 0, []
    while True:
        attempts += 1
        try:
            context = JobContext(folder, should_stop=should_stop, say=said.append)
            return train_agent.run(config, context), attempts, said
        except Interrupted:
            continue


def values(result: Result) -> dict[str, float]:
    return {row.metric: row.value for row in result.rows if not row.measured}


def journal(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """The job of `small_agent_config()`, run without a stop: its result and its folder, to be read alone."""
    folder = tmp_path_factory.mktemp("whole")
    result, attempts, _ = run_through(small_agent_config(), folder)
    assert attempts == 1
    return result, folder


def stopped_ends_as(whole: tuple[Result, Path], config: TrainAgent, folder: Path, stops: list[int]) -> None:
    stopped, attempts, said = run_through(config, folder, stopping_at(stops))
    assert attempts > 3, "it was to be stopped several times"
    assert any("resumed" in line for line in said)
    assert same(whole[1], folder)
    assert values(stopped) == values(whole[0])
    assert journal(folder) == journal(whole[1])


def test_stopped_anywhere_it_goes_on_to_the_same_agent(whole: tuple[Result, Path], tmp_path: Path) -> None:
    stopped_ends_as(whole, small_agent_config(), tmp_path / "stopped", [1, 4, 6, 9, 15])  # within each phase, and in the second epoch


def test_a_model_free_training_stopped_anywhere_goes_on_to_the_same_agent(tmp_path: Path) -> None:
    config = small_agent_config("agent.model_free=true")
    result, _, _ = run_through(config, tmp_path / "whole")
    stopped_ends_as((result, tmp_path / "whole"), config, tmp_path / "stopped", [1, 2, 4])  # an epoch is one unit


def test_the_budget_is_spent_exactly_and_every_update_runs(tmp_path: Path) -> None:
    config = small_agent_config("agent.budget=57")  # no whole number of epochs
    result, _, _ = run_through(config, tmp_path / "job")
    initial = result.info["initial_steps"]
    assert 30 <= initial <= 40
    assert result.info["real_steps"] == values(result)["real_steps"] == 57
    assert result.info["epochs"] == num_epochs(config, initial)
    if initial == 30:
        assert result.info["updates"] == vars(updates(config))
    steps = [line["real_steps"] for line in journal(tmp_path / "job")]
    assert steps[0] == initial
    assert steps[-1] == 57
    assert max(np.diff(steps)) <= 10


@pytest.mark.parametrize("rare", [0, 10_000])
def test_the_initial_collection_goes_on_until_rare_rewards_were_seen(tmp_path: Path, rare: int) -> None:
    config = small_agent_config(f"agent.initial_rare_rewards={rare}", *_NO_UPDATES)
    result, _, _ = run_through(config, tmp_path / "job")
    assert result.info["initial_steps"] == (30 if rare == 0 else 40)


def test_sigma_data_is_measured_once_from_the_initial_collection(tmp_path: Path) -> None:
    keys = (
        "objective.coordinate=change",
        "objective.sigma_data=measured",
        "objective.sigma_offset_noise=0",
        "objective.quantization=round",
    )
    config = small_agent_config(*keys, "sampler.quantization=round", "agent.budget=50", "agent.initial_rare_rewards=0", *_NO_UPDATES)
    result, attempts, _ = run_through(config, tmp_path, stopping_at([1, 2]))
    assert attempts == 3
    assert result.info["initial_steps"] == 30
    found = result.info["sigma_data"]
    assert found == pytest.approx(change_rms(Replay.load(tmp_path / "checkpoint", 30, 50, 16).episodes))
    assert found != pytest.approx(change_rms(Replay.load(tmp_path / "checkpoint", 50, 50, 16).episodes))
    assert json.loads((tmp_path / "agent" / "denoiser" / "model.json").read_text())["sigma_data"] == found


def test_test_games_select_nothing_and_are_not_counted(whole: tuple[Result, Path], tmp_path: Path) -> None:
    config = small_agent_config()
    tested = replace(config, agent=replace(config.agent, test_every=1, test_episodes=1))
    quiet, folder = whole
    loud, _, _ = run_through(tested, tmp_path / "loud")
    assert same(folder, tmp_path / "loud")
    assert values(loud)["real_steps"] == values(quiet)["real_steps"]
    with np.load(tmp_path / "loud" / "arrays.npz") as curves:
        assert len(curves["test_return"]) == loud.info["epochs"]
        assert (curves["test_length"] > 0).all()
        assert {"test_reward_end_loss", "test_drift"} <= set(curves.files)


def test_a_model_free_agent_has_no_world_model(tmp_path: Path) -> None:
    result, _, _ = run_through(small_agent_config("agent.model_free=true", "agent.budget=20"), tmp_path / "job")
    assert result.info["updates"] == {"actor_critic": 8}  # 3 + 3 + 3 + 1 steps, twice
    assert result.info["real_steps"] == 20
    assert not (tmp_path / "job" / "agent" / "denoiser").exists()


def test_another_seed_is_another_agent(whole: tuple[Result, Path], tmp_path: Path) -> None:
    run_through(small_agent_config("seed=1"), tmp_path / "other")
    assert not same(whole[1], tmp_path / "other")


@pytest.mark.parametrize("done", [0, 1, 2, 5])
def test_the_initial_collection_is_played_in_short_blocks_and_can_be_continued(done: int) -> None:
    sizes = [100, 100, 50, 10, 10, 10, 10, 10]  # no reward is seen, so it takes as many steps as it may
    training = object.__new__(train_agent._Training)
    agent = {"initial_steps": 250, "max_initial_steps": 300, "initial_rare_rewards": 1, "steps_per_epoch": 10, "budget": 1000}
    training.config = SimpleNamespace(agent=SimpleNamespace(**agent, model_free=False))  # type: ignore[assignment]
    training.learners = SimpleNamespace(agent=SimpleNamespace(world_model=None))  # type: ignore[assignment]
    training.play = SimpleNamespace(real_steps=sum(sizes[:done]), begin=lambda steps: None)  # type: ignore[assignment]
    training.at = Position(unit=done)
    played: list[int] = []

    def play(steps: int) -> None:
        played.append(steps)
        training.play.real_steps += steps  # type: ignore[misc]

    assert not any(training.at.run("collect", training.blocks(), play, lambda: None))
    assert played == sizes[done:]
    assert training.at.initial_steps == 300


def damaged_newest(folder: Path) -> Path:
    newest = max((folder / "checkpoint").glob("step-*.pt"))
    _, state, _ = next(load_checkpoints(folder / "checkpoint", print))
    assert set(state) - {"precision"} == {"device", "compile", "position", "means", "generator", "play", "learners", "replay_rows"}, (
        "as in earlier versions"
    )
    newest.write_bytes(newest.read_bytes()[:-100])
    return newest


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(whole: tuple[Result, Path], tmp_path: Path) -> None:
    config = small_agent_config()
    folder, said = tmp_path / "hurt", []
    folder.mkdir()
    for stop in (8, 6):
        with pytest.raises(Interrupted):
            train_agent.run(config, JobContext(folder, should_stop=stopping_at([stop])))
    damaged_newest(folder)
    train_agent.run(config, JobContext(folder, say=said.append))
    assert any("is damaged" in line for line in said)
    assert any("resumed" in line for line in said)
    assert same(whole[1], folder)


def test_a_lost_replay_restarts_the_run_with_a_message(whole: tuple[Result, Path], tmp_path: Path) -> None:
    config, said = small_agent_config(), []
    folder = tmp_path / "job"
    folder.mkdir()
    with pytest.raises(Interrupted):
        train_agent.run(config, JobContext(folder, should_stop=stopping_at([8])))
    (folder / "checkpoint" / "replay.bin").unlink()
    with pytest.raises(Interrupted):
        train_agent.run(config, JobContext(folder, say=said.append, should_stop=stopping_at([5])))
    assert any("replay" in line for line in said)
    assert not any("resumed" in line for line in said)
    train_agent.run(config, JobContext(folder, say=said.append))
    assert any("resumed" in line for line in said), "the useless checkpoints must not pass for newer than those of the new run"
    assert same(whole[1], folder)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_agent_config()
    from diamond_bench.jobs import agent_learners

    original: Any = agent_learners.reward_end_loss

    def broken(*args: Any) -> Any:
        loss, metrics = original(*args)
        return loss * torch.nan, {**metrics, "loss": metrics["loss"] * torch.nan}

    monkeypatch.setattr(agent_learners, "reward_end_loss", broken)
    with pytest.raises(UserError, match=r"not finite.*reward_end/loss|reward_end/loss.* not finite"):
        run_through(config, tmp_path / "job")


def test_the_policy_learns_only_from_what_is_imagined(whole: tuple[Result, Path], tmp_path: Path) -> None:
    """With no updates of the policy its weights are those it started from, however much the models learn."""
    config = small_agent_config("agent.first_actor_critic_updates=0", "agent.actor_critic_updates=0")
    run_through(config, tmp_path / "job")
    assert not weights(tmp_path / "job")["actor_critic.actor.weight"].any(), "heads start at zero"
    assert weights(whole[1])["actor_critic.actor.weight"].any()
