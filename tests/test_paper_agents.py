"""A study's agents in the paper's tables and figures: sizes and times of training, what their runs came to, their scores along training."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_agents import small_agent_config
from test_family_agents import RUN, SMALL

from analysis.scores import human_random
from diamond_bench.agent import build_agent
from diamond_bench.envs.games import num_actions
from diamond_bench.errors import UserError
from diamond_bench.jobs.agent_learners import describe
from diamond_bench.models.description import AgentDescription
from diamond_bench.results.table import COLUMNS
from diamond_bench.store.artifacts import Store, StoredResult
from diamond_bench.store.files import write_json
from diamond_bench.store.jobspec import JobSpec
from diamond_bench.studies.plan import Plan, as_saved, plan_study, save_plan
from diamond_bench.typed import to_plain
from paper_figures.build import build_paper
from paper_figures.parts import Inputs, StudyResults
from paper_figures.registry import ARTIFACTS
from paper_figures.tables import to_csv
from paper_figures.training import _parameters

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("unrendered")]

STEPS = np.array([100.0, 200.0, 300.0, 300.0])  # the last epochs train on what is there


def description(spec: JobSpec) -> AgentDescription:
    c: Any = spec.config
    networks = (c.objective, c.conditioning, c.network, c.reward_end, c.actor_critic)
    return AgentDescription(*networks, num_actions(c.game), c.env.frame_size, c.agent.model_free, c.game)


def returns(game: str, seed: int, n: int) -> np.ndarray:
    """Of the rounds of test games: of human play, less and less of it missing."""
    norm = human_random().loc[game]
    share = np.array([0.1, 0.4, 0.5, 0.6]) + 0.05 * seed + (0.1 if n == 3 else 0.0)
    return np.asarray(norm["random"] + share * (norm["human"] - norm["random"]))


def finish(store: Store, spec: JobSpec, steps: np.ndarray = STEPS, tests: bool = True, revision: int = 1) -> None:
    """Makes a job of an agent done, with the files and facts of its kind."""
    store.prepare(spec)
    claim = store.claim(spec.ref)
    assert claim is not None
    config: Any = spec.config
    if spec.kind == "train_agent":
        n, seed = config.sampler.num_steps, config.seed
        curves = {"test_real_steps": steps, "test_return": returns(config.game, seed, n), "test_epoch": np.arange(1.0, 5.0)}
        np.savez(claim.folder / "arrays.npz", **(curves if tests else {}))  # type: ignore[arg-type]
        (claim.folder / "agent").mkdir()
        write_json(claim.folder / "agent" / "agent.json", to_plain(description(spec)))
        rows = [("training_seconds", 86400.0 * (1 + seed), True)]
        info = {}
    else:
        (agent,) = spec.inputs.values()
        number = int(agent.id[:4], 16)
        rows = [("test_return", 5.0, False), ("hns", 0.5, False)]
        record = {"environment": f"{CONFIGS[agent.id].game}NoFrameskip-v4", "sticky_actions": 0.0, "episodes": 100}
        info = {"protocol_record": {**record, "episodes_cut": number % 7, "real_steps": 99_000 + number % 100}}
    plain = [{"metric": m, "value": v, "measured": measured, "baseline": ""} for m, v, measured in rows]
    recorded = {"revision": revision, "device": "cpu", "device_name": "a CPU", "commit": "c0ffee"}
    claim.finish({"rows": plain, "info": info, "recorded": recorded})


CONFIGS: dict[str, Any] = {}


def swept(folder: Path, seeds: int = 3, leave_out: int | None = None, **odd: Any) -> tuple[Plan, Store]:
    """A study of agents on two games; `odd` are the options of `finish` for the first training; point `leave_out` is not finished."""
    (folder / "mine.yaml").write_text(
        f"question: x\nprotocol: agent\ngames: [Pong, Boxing]\nseeds: {seeds}\nset: {{objective: edm, sampler: euler}}\n"
        "primary: {metric: hns, baseline: {n: 1}, margin: 0.05}\naxes: {n: {key: sampler.num_steps, values: [1, 3]}}\n"
    )
    plan = plan_study(str(folder / "mine.yaml"), ["scale=tiny", "env.frame_size=16", "agent.test_every=1", "agent.test_episodes=2"])
    store = Store(folder / "outputs", say=lambda text: None)
    left = set(plan.points[leave_out].jobs.values()) if leave_out is not None else set()
    CONFIGS.update({ref.id: spec.config for ref, spec in plan.jobs.items()})
    for ref, spec in plan.jobs.items():
        if ref not in left:
            finish(store, spec, **(odd if ref == plan.points[0].jobs["agent"] else {}))
    save_plan(plan, store.root)
    return plan, store


def build(out: Path, store: Store, *artifacts: str) -> dict[str, dict]:
    build_paper(artifacts, ["mine"], None, out, store, lambda text: None, lambda done, total, text: None)
    return json.loads((out / "index.json").read_text())["artifacts"]


def test_sizes_and_times_of_own_agents(tmp_path: Path) -> None:
    plan, store = swept(tmp_path)
    build(tmp_path / "paper", store, "table4")
    row = pd.read_csv(tmp_path / "paper" / "table4.csv").set_index("Method").loc["mine n=3 (scale tiny*)"]
    trainings = {spec.config.game: spec for spec in plan.jobs.values() if spec.kind == "train_agent"}  # type: ignore[attr-defined]
    sizes = [
        sum(p.numel() for network in build_agent(description(spec)).networks.values() for p in network.parameters()) / 1e6
        for spec in trainings.values()
    ]
    assert len(set(sizes)) == 2
    assert row["parameters_million"] == pytest.approx(np.mean(sizes))
    assert float(row["days"]) == pytest.approx(2.0)
    text = (tmp_path / "paper" / "table4.md").read_text()
    assert "6 trainings on a CPU, 1 to 3 days, here their mean; test games included" in text
    assert "by the game's number of actions" in text


def test_a_token_agent_has_the_parameters_of_its_own_networks(tmp_path: Path) -> None:
    """Its transformer predicts rewards and ends, so it has no reward/end model."""
    described = describe(small_agent_config(*RUN, "family=tokens", *SMALL["tokens"]))
    (tmp_path / "agent").mkdir()
    write_json(tmp_path / "agent" / "agent.json", to_plain(described))
    store, point = SimpleNamespace(folder=lambda ref: tmp_path), SimpleNamespace(jobs={"agent": None})
    networks = build_agent(described).networks
    assert _parameters(store, point) == sum(p.numel() for network in networks.values() for p in network.parameters())  # type: ignore[arg-type]


def test_a_damaged_description_is_refused(tmp_path: Path) -> None:
    plan, store = swept(tmp_path)
    file = store.folder(plan.points[0].jobs["agent"]) / "agent" / "agent.json"
    file.write_bytes(b"{" + b" " * (file.stat().st_size - 1))
    with pytest.raises(UserError, match=r"agent.json is damaged"):
        build(tmp_path / "paper", store, "table4")


def test_what_the_runs_came_to_is_a_footnote_with_its_range(tmp_path: Path) -> None:
    plan, store = swept(tmp_path)
    entries = build(tmp_path / "paper", store, "table1")
    numbers = [int(p.jobs["agent"].id[:4], 16) for p in plan.points if p.variant == "n=1"]
    cut, steps = [n % 7 for n in numbers], [n % 100 for n in numbers]
    notes = " ".join(entries["table1"]["footnotes"])
    assert f"mine: n=1 (scale tiny*): episodes cut at the most steps: {min(cut)} to {max(cut)} of 100 a run." in notes
    assert f"real steps of training: 99,{min(steps):03} to 99,{max(steps):03}." in notes


def test_scores_along_training_are_the_iqm_of_what_each_run_last_scored(tmp_path: Path) -> None:
    _, store = swept(tmp_path, steps=np.array([150.0, 200.0, 250.0, 300.0]))
    entries = build(tmp_path / "paper", store, "sample_efficiency")
    assert "sample_efficiency-mine-tiny-changed.png" in entries["sample_efficiency"]["files"]
    found = pd.read_csv(tmp_path / "paper" / "sample_efficiency.csv").query("study == 'mine'")
    assert set(found["games"]) == {2}
    assert set(found["runs"]) == {3}
    three = found[found["variant"] == "n=3"].set_index("real_steps")
    assert three.index.tolist() == [100, 200, 300]
    assert three["iqm"].tolist() == pytest.approx([0.25, 0.55, 0.75])  # at 300 the last of two rounds; seeds add 0, 0.05, 0.1
    assert (three["low"] < three["iqm"]).all()
    assert (three["high"] > three["iqm"]).all()
    one = found[found["variant"] == "n=1"].set_index("real_steps")
    assert one.index.tolist() == [150, 200, 250, 300]  # not before every run was tested
    # at 250 the odd run, of seed 0, has its third score, the others still their second: the middle four of 0.4, 0.45 x 2, 0.5 x 3
    assert one.loc[250, "iqm"] == pytest.approx((0.45 * 2 + 0.5 * 2) / 4)
    notes = " ".join(entries["sample_efficiency"]["footnotes"])
    assert "a round is 2 test games" in notes
    assert "2 games, 3 runs of each" in notes
    assert [lack["command"] for lack in entries["sample_efficiency"]["lacks"]] == [""]
    assert len(entries["sample_efficiency"]["sources"][0]["jobs"]) == 12


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"leave_out": 0}, "its games have unequal numbers of finished trainings (2 to 3)"),
        ({"leave_out": 0, "seeds": 1}, "it has no finished training of 1 of its 2 games (Pong)"),
        ({"tests": False}, "1 of its 6 trainings played no test games on the way"),
        ({"revision": 2}, "its trainings are of several revisions (1, 2)"),
        ({"steps": np.array([400.0, 500.0, 600.0, 700.0])}, "its trainings share no number of real steps"),
    ],
)
def test_curves_that_cannot_be_pooled_are_left_out(how: dict[str, Any], why: str, tmp_path: Path) -> None:
    _, store = swept(tmp_path, **how)
    entries = build(tmp_path / "paper", store, "sample_efficiency")
    assert why in " ".join(entries["sample_efficiency"]["footnotes"])
    assert set(pd.read_csv(tmp_path / "paper" / "sample_efficiency.csv").query("study == 'mine'")["variant"]) == {"n=3"}


def test_few_runs_have_a_curve_and_no_band(tmp_path: Path) -> None:
    _, store = swept(tmp_path, seeds=2)
    entries = build(tmp_path / "paper", store, "sample_efficiency")
    found = pd.read_csv(tmp_path / "paper" / "sample_efficiency.csv").query("study == 'mine'")
    assert found[["low", "high"]].isna().all(axis=None)
    assert found["iqm"].notna().all()
    assert "no band: it needs at least 3 runs a game" in " ".join(entries["sample_efficiency"]["footnotes"])


# Agents beside published methods


def agents(folder: Path, rows: Sequence[tuple[str, str, int, float]], scale: str = "smoke*") -> StudyResults:
    """Results of agents: (variant, game, seed, return)."""
    plan = replace(as_saved(plan_study("sampling_steps", ["scale=tiny"]), folder), study="my_agents", scale=scale, protocol="agent")
    constant = {"study": "my_agents", "scale": scale, "protocol": "agent", "metric": "test_return", "measured": False, "arm": ""}
    table = pd.DataFrame(rows, columns=["variant", "game", "seed", "value"]).assign(
        **constant, kind="evaluate_agent", revision=1, precision="fp32", compiled="none"
    )
    table["job"] = [f"{i:016x}" for i in range(len(table))]
    results = {job: StoredResult([], {}, {"commit": "c0ffee"}, {}) for job in table["job"]}
    return StudyResults(plan, table.astype({"seed": "Int64"})[list(COLUMNS)], results, ())


def test_agents_are_one_more_column_of_the_score_tables(tmp_path: Path) -> None:
    norm = human_random()
    human = [("human-like", game, seed, float(norm["human"][game])) for game in norm.index for seed in range(3)]
    some = [("two games", game, seed, 10.0) for game in ("Pong", "Boxing") for seed in range(2)]
    inputs = Inputs(Store(tmp_path), (agents(tmp_path, human + some),))
    for name in ("table1", "table6"):
        built = ARTIFACTS[name].make(inputs)
        assert built.table is not None
        (tmp_path / "t.csv").write_bytes(to_csv(built.table))
        found = pd.read_csv(tmp_path / "t.csv").set_index("Game")
        full, partial = found["my_agents human-like (scale smoke*)"], found["my_agents two games (scale smoke*)"]
        assert full[["Superhuman games", "Mean HNS", "IQM HNS"]].tolist() == pytest.approx([26, 1.0, 1.0])
        assert full["Alien"] == norm["human"]["Alien"]
        assert partial["Pong"] == 10.0
        assert partial.drop(["Pong", "Boxing"]).isna().all()
        assert any("lacks 24 of 26 games" in note for note in built.table.all_notes())
        bold = {
            row[0].text: [head.text for head, cell in zip(built.table.heads, row, strict=True) if cell.bold] for row in built.table.rows
        }
        assert bold["Alien"] == [{"table1": "STORM", "table6": "BBF"}[name]]  # another scale than the paper's does not compete
    built = ARTIFACTS["figure2"].make(inputs)
    assert built.table is not None
    row = next(row for row in built.table.rows if "human-like" in row[0].text)
    assert [cell.value for cell in row[1:4]] == pytest.approx([3, 1.0, 1.0])
    assert [source["commits"] for source in built.sources if source["kind"] == "study"] == [["c0ffee"]] * 2


@pytest.mark.parametrize(("sticky", "refused_for"), [(0.0, ""), (0.25, "protocol_record")])
def test_scores_of_mixed_protocols_have_no_aggregate(sticky: float, refused_for: str, tmp_path: Path) -> None:
    games = list(human_random().index)
    found = agents(tmp_path, [("one", game, 0, 1.0) for game in games])
    records = {
        job: {"environment": f"{game}NoFrameskip-v4", "sticky_actions": sticky if game == "Pong" else 0.0, "real_steps": 99_000 + i}
        for i, (job, game) in enumerate(zip(found.results, games, strict=True))
    }
    results = {job: StoredResult([], {"protocol_record": record}, {}, {}) for job, record in records.items()}
    built = ARTIFACTS["table1"].make(Inputs(Store(tmp_path), (replace(found, results=results),)))
    assert built.table is not None
    mean = next(row for row in built.table.rows if row[0].text == "Mean HNS")[-1]
    assert (mean.value is None) == bool(refused_for)
    assert refused_for in " ".join(mean.notes)
    assert any("environment: <game>NoFrameskip-v4; sticky actions: 0.0" in note for note in built.table.all_notes())


def test_agents_of_the_paper_s_scale_compete(tmp_path: Path) -> None:
    inputs = Inputs(Store(tmp_path), (agents(tmp_path, [("best", "Pong", 0, 21.0)], scale="paper"),))
    built = ARTIFACTS["table1"].make(inputs)
    assert built.table is not None
    pong = next(row for row in built.table.rows if row[0].text == "Pong")
    assert [cell.text for cell in pong if cell.bold] == ["21.0"]


def test_two_runs_of_a_game_have_no_interval(tmp_path: Path) -> None:
    rows = [(variant, "Pong", seed, float(seed)) for variant, runs in (("two", 2), ("three", 3)) for seed in range(runs)]
    built = ARTIFACTS["per_game"].make(Inputs(Store(tmp_path), (agents(tmp_path, rows),)))
    assert built.data is not None
    found = built.data[built.data["method"].str.startswith("my_agents")].set_index("runs")
    assert found.loc[2, ["low", "high"]].isna().all()
    assert found.loc[3, "low"] < found.loc[3, "mean"] < found.loc[3, "high"]


@pytest.mark.parametrize("name", ["figure2", "figure7", "per_game", "optimality_gap", "probability_of_improvement"])
def test_no_warning_stands_above_published_numbers(name: str, tmp_path: Path) -> None:
    rows = [("all", game, seed, 10.0 + seed) for game in human_random().index for seed in range(3)]
    (drawn,) = ARTIFACTS[name].make(Inputs(Store(tmp_path), (agents(tmp_path, rows),))).figures.values()
    figure = drawn.figure
    assert drawn.warning == ""
    assert "Scale smoke* trains small networks briefly: its results hold for them alone." in drawn.caption
    legends = [*figure.legends, *(legend for ax in figure.axes if (legend := ax.get_legend()))]
    texts = [text.get_text() for ax in figure.axes for text in ax.get_yticklabels()]
    texts += [text.get_text() for legend in legends for text in legend.get_texts()]
    assert any("my_agents all (scale smoke*): no finding" in text.replace("\n", " ") for text in texts)
