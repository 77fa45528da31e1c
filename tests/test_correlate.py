"""Rank correlations of world models' metrics with agents' returns: values by hand, clusters, refusals, and the command on a store."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import in_this_process
from test_report import finish

from analysis.correlation import rank_correlations, spearman
from diamond_bench.config import AgentEvaluationConfig, EnvConfig, EvaluationConfig, OdeSampler
from diamond_bench.errors import UserError
from diamond_bench.report.correlation import correlate
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import CollectDataset, EvaluateAgent, EvaluateWorldModel, TrainAgent
from diamond_bench.worlds.oracle import Oracle


def table(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"cluster": range(len(columns["score"])), **columns})


def test_ranks_by_hand() -> None:
    """A swap of two neighbours among ten has rho = 1 - 6 * 2 / (10 * 99). Of 10! orders only few are as extreme, so that of the 9,999 with
    the observed one it is the only one. Holm's correction over four metrics multiplies it by 4, and keeps the others at least there."""
    rising = np.arange(10.0)
    swapped = rising[[1, 0, *range(2, 10)]]
    agents = table(score=np.exp(rising), same=rising, opposite=-rising, swapped=swapped, constant=np.ones(10))
    found = rank_correlations(agents, ["same", "opposite", "swapped", "constant"], "score").set_index("metric")
    assert found["rho"].tolist() == pytest.approx([1, -1, 1 - 12 / 990, np.nan], nan_ok=True)
    assert found["p"].tolist() == pytest.approx([1e-4, 1e-4, 1e-4, np.nan], nan_ok=True)
    assert found["p_holm"].tolist() == pytest.approx([4e-4, 4e-4, 4e-4, np.nan], nan_ok=True)
    assert found.loc["same", ["low", "high"]].tolist() == pytest.approx([1, 1])
    assert found.loc["swapped", "low"] < 0.98 < found.loc["swapped", "high"] <= 1
    assert found["clusters"].tolist() == [10] * 4


def test_ties_have_their_mean_rank() -> None:
    """Ranks 1.5, 1.5, 3 against 1, 2, 3: 1.5 / sqrt(1.5 * 2)."""
    assert spearman(np.array([[5.0, 5.0, 9.0]]), np.array([[1.0, 2.0, 7.0]])) == pytest.approx(0.75**0.5)


def test_agents_of_one_world_count_once() -> None:
    """Thirty agents of three worlds. Their means rise with the metric, and two of six orders of three worlds are as extreme: p = 1/3. The
    agents of a world differ more than the worlds: over agents rho would be about 0.3, and over copies of the worlds p would be 0.0001."""
    cluster = np.repeat([0, 1, 2], 10)
    agents = pd.DataFrame({"cluster": cluster, "metric": cluster * 1.0, "score": cluster + np.tile(np.linspace(-4.5, 4.5, 10), 3)})
    (row,) = rank_correlations(agents, ["metric"], "score").to_dict("records")
    assert (row["agents"], row["clusters"]) == (30, 3)
    assert row["rho"] == pytest.approx(1)
    assert row["p"] == pytest.approx(1 / 3)


def test_too_few_agents_and_metrics_that_are_not_known_everywhere() -> None:
    with pytest.raises(ValueError, match="9 agents, expected at least 10"):
        rank_correlations(table(score=np.arange(9.0), metric=np.arange(9.0)), ["metric"], "score")
    for number in (9, 10):
        known = np.where(np.arange(12) < number, np.arange(12.0), np.inf)
        (row,) = rank_correlations(table(score=np.arange(12.0), metric=known), ["metric"], "score").to_dict("records")
        assert row["clusters"] == number
        assert row["rho"] == (pytest.approx(1) if number == 10 else pytest.approx(np.nan, nan_ok=True)), "ten agents must have the metric"
    assert row["p"] < 0.001


# Of a store

GAME, ENV = "synthetic/seek", EnvConfig(frame_size=16)
DATASET = JobSpec("collect_dataset", CollectDataset(GAME, ENV))


def agent(store: Store, number: int, score: float, family: Oracle | None, times: int = 1, game: str = GAME, steps: int = 3) -> JobSpec:
    """A finished agent with evaluations of this return, which learned with this number of denoising steps."""
    trained = JobSpec("train_agent", TrainAgent(game, number, ENV, sampler=OdeSampler(num_steps=steps), family=family))
    finish(store, trained)
    for seed in range(times):
        evaluation = JobSpec("evaluate_agent", EvaluateAgent(ENV, games_of(seed)), {"agent": trained.ref})
        store.prepare(evaluation)
        claim = store.claim(evaluation.ref)
        assert claim is not None
        rows = [{"metric": "test_return", "value": score, "measured": False, "baseline": ""}]
        info = {"protocol_record": {"environment": game, "real_steps": 100}}
        claim.finish({"rows": rows, "info": info, "recorded": {"revision": 1, "device": "cpu"}})
    return trained


def games_of(seed: int) -> AgentEvaluationConfig:
    return AgentEvaluationConfig(seed=seed)


def world(
    store: Store,
    family: Oracle | None,
    drift: float,
    model: JobRef | None = None,
    scores: dict[str, float] | None = None,
    steps: int = 3,
    **settings: Any,
) -> JobSpec:
    inputs = {"dataset": DATASET.ref} | ({} if model is None else {"world_model": model})
    config = EvaluateWorldModel(OdeSampler(num_steps=steps), EvaluationConfig(**settings), family=family)
    spec = JobSpec("evaluate_world_model", config, inputs)
    finish(store, spec, scores=scores or {"drift": drift, "psnr": 1 / drift, "train_loss": 0.0})
    return spec


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Five learned agents with their own world models, and six in three damaged oracles. Drift falls as the return rises."""
    store = Store(tmp_path / "out", say=lambda text: None)
    finish(store, DATASET)
    for number in range(5):
        learned = agent(store, number, 10.0 + number, None, times=2)
        world(store, None, 1.0 / (10 + number), learned.ref)
    for number, blur in enumerate((0.0, 1.0, 2.0)):
        family = Oracle(blur=blur)
        for seed in range(2):
            agent(store, 10 + seed, 9.0 - number + 0.1 * seed, family)
        world(store, family, 1.0 / (9 - number))
    return store


def test_agents_meet_the_world_models_in_which_they_learned(store: Store) -> None:
    """Drift is one over the return of a world's first agent, so its rank correlation over the 8 worlds is -1, and that of psnr 1."""
    found = correlate(store, store.refs())
    rows = found.table.set_index("metric")
    assert set(rows.index) == {"drift", "psnr"}, "neither costs nor numbers without a better side"
    assert rows.loc["drift", ["agents", "clusters"]].tolist() == [11, 8]
    assert rows["rho"].to_dict() == pytest.approx({"drift": -1, "psnr": 1})
    assert rows["p"].to_dict() == pytest.approx({"drift": 2 / 40_320, "psnr": 2 / 40_320})
    assert rows["p_holm"].to_dict() == pytest.approx({"drift": 4 / 40_320, "psnr": 4 / 40_320})
    of_oracle = found.agents[found.agents["group"] == "oracle"]
    assert of_oracle.groupby("cluster")["test_return"].mean().tolist() == pytest.approx([9.05, 8.05, 7.05])


def test_a_store_with_no_other_game_than_one_of_two_conditions_is_refused(store: Store) -> None:
    world(store, Oracle(blur=3.0), 0.3, horizon=7)
    with pytest.raises(UserError, match=r"synthetic/seek: world models were evaluated under different conditions.*horizon=7"):
        correlate(store, store.refs())


def test_one_refused_game_does_not_stop_the_others(store: Store) -> None:
    for number in range(10):
        learned = agent(store, number, float(number), None, game="synthetic/turn")
        world(store, None, 1.0 + number, learned.ref, horizon=7 if number == 9 else 50)
    found = correlate(store, store.refs())
    assert set(found.table["game"]) == {GAME}
    (note,) = found.notes
    assert note.startswith("synthetic/turn: world models were evaluated under different conditions")
    assert "horizon=7" in note
    done = in_this_process("correlate", f"output_dir={store.root}", "--json", cwd=store.root)
    assert {row["game"] for row in json.loads(done.stdout)} == {GAME}
    assert "note: synthetic/turn: world models were evaluated under different conditions" in done.stderr


def test_a_ratio_is_ranked_by_its_distance_from_one(tmp_path: Path) -> None:
    """The ratios 1, 0.9, 1.2, 0.7, 1.4, ... with falling returns: rho of the distance is -1."""
    store = Store(tmp_path / "out", say=lambda text: None)
    finish(store, DATASET)
    for number in range(10):
        ratio = 1 + 0.1 * number * (-1) ** number
        world(store, None, 0.0, agent(store, number, -number, None).ref, {"sharpness_ratio": ratio, "drift": number})
    rows = correlate(store, store.refs()).table.set_index("metric").loc[["drift", "sharpness_ratio"]]
    assert rows["rho"].tolist() == pytest.approx([-1, -1])
    assert rows["ranked"].tolist() == ["value", "distance from 1"]


def test_an_agent_is_paired_with_the_evaluation_of_its_own_sampler(tmp_path: Path) -> None:
    """Each world model is evaluated with one and three denoising steps. The drift with three rises with the return, that with one falls."""
    store = Store(tmp_path / "out", say=lambda text: None)
    finish(store, DATASET)
    for number in range(10):
        learned = agent(store, number, number, None, steps=3)
        world(store, None, 1.0 + number, learned.ref, steps=3)
        world(store, None, 100.0 - 10 * number, learned.ref, steps=1)
    other = agent(store, 10, 10.0, None, steps=2)
    world(store, None, 0.1, other.ref, steps=1)
    found = correlate(store, store.refs())
    rows = found.table.set_index("metric")
    assert rows.loc["drift", ["rho", "agents"]].tolist() == [pytest.approx(1), 10]
    (note,) = found.notes
    assert f"{other.ref} is left out: it learned with sampler euler num_steps=2" in note
    assert note.endswith("its world model was evaluated with sampler euler num_steps=1")


def test_the_command_prints_a_table_and_writes_a_figure(store: Store) -> None:
    where = f"output_dir={store.root}"
    done = in_this_process("correlate", where, "--json", cwd=store.root)
    rows = json.loads(done.stdout)
    assert {row["metric"]: round(row["rho"], 6) for row in rows} == {"drift": -1, "psnr": 1}
    (folder,) = (store.root / "correlations").iterdir()
    assert {file.name for file in folder.iterdir()} >= {"correlations.csv", "agents.csv", "correlation-synthetic-seek.png"}
    assert len(pd.read_csv(folder / "agents.csv")) == 11
    assert "drift" in in_this_process("correlate", where, cwd=store.root).stdout


def test_fewer_than_ten_agents_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "out", say=lambda text: None)
    finish(store, DATASET)
    for number in range(9):
        world(store, None, 1.0 + number, agent(store, number, number, None, times=2).ref)
    done = in_this_process("correlate", f"output_dir={store.root}", cwd=tmp_path, exit_code=2)
    assert "synthetic/seek: 9 agents with both evaluations, and a rank correlation needs 10" in done.stderr
    assert not (store.root / "correlations").exists()
    empty = in_this_process("correlate", f"output_dir={tmp_path}/none", cwd=tmp_path, exit_code=2)
    assert "no agent has both evaluations, and" in empty.stderr
    alone = Store(tmp_path / "alone", say=lambda text: None)
    agent(alone, 0, 1.0, None)
    with pytest.raises(UserError, match=r"no agent has both evaluations \(1 agent with final games alone\), and a rank"):
        correlate(alone, alone.refs())
