"""Plans of agents: studies of the protocol agent, and one agent by itself."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from diamond_bench.config import (
    ActorCriticConfig,
    AgentConfig,
    DataConfig,
    EnvConfig,
    EvaluationConfig,
    NetworkConfig,
    OdeSampler,
    RewardEndConfig,
    RunConfig,
)
from diamond_bench.errors import UserError
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import ImportAgent, TrainAgent
from diamond_bench.store.states import JobState
from diamond_bench.studies import agents, single
from diamond_bench.studies.job_plan import Plan
from diamond_bench.studies.plan import plan_study, save_plan
from diamond_bench.studies.single import plan_evaluate, plan_import, plan_train, trained_at
from diamond_bench.studies.spec import SCALES


def trainings(plan: Plan) -> list[TrainAgent]:
    return [spec.config for spec in plan.jobs.values() if isinstance(spec.config, TrainAgent)]


def kinds(plan: Plan) -> dict[str, int]:
    found = [spec.kind for spec in plan.jobs.values()]
    return {kind: found.count(kind) for kind in found}


def test_atari_100k_is_26_games_times_5_seeds() -> None:
    plan = plan_study("atari_100k")
    assert kinds(plan) == {"train_agent": 130, "evaluate_agent": 130}
    assert len({config.game for config in trainings(plan)}) == 26
    (config,) = [config for config in trainings(plan) if (config.game, config.seed) == ("Pong", 0)]
    agent = config.agent
    assert (agent.budget, agent.initial_steps, agent.steps_per_epoch, agent.final_epochs) == (100_000, 5000, 100, 50)
    assert (agent.denoiser_updates, agent.reward_end_updates, agent.actor_critic_updates) == (400, 400, 400)
    assert (agent.first_denoiser_updates, agent.first_reward_end_updates, agent.first_actor_critic_updates) == (10_000, 10_000, 5000)


def test_freeway_is_collected_at_a_lower_temperature_by_default() -> None:
    of_game = {config.game: config.agent.temperature for config in trainings(plan_study("atari_100k", ["seeds=1"]))}
    assert of_game["Freeway"] < 1.0 == of_game["Pong"]
    (config,) = trainings(plan_study("atari_100k", ["games=Freeway", "seeds=1", "agent.temperature=0.7"]))
    assert config.agent.temperature == 0.7


def test_studies_and_single_agents_share_trainings() -> None:
    study = plan_study("atari_100k", ["scale=tiny"])
    steps = plan_study("sampling_steps_agent", ["scale=tiny"])
    alone = plan_train(["scale=tiny", "game=Breakout", "seed=0"])
    (at_random,) = (ref for ref in alone.jobs if ref.kind == "play_random")  # a study compares its variants
    assert set(study.jobs) == set(alone.jobs) - {at_random} <= set(steps.jobs)
    assert len(steps.jobs) == 4


def test_the_plan_of_one_agent_is_no_study_and_is_saved_as_ever(tmp_path: Path) -> None:
    plan = plan_train(["game=Pong", "seed=3", "scale=smoke"])
    assert not hasattr(plan, "study")
    save_plan(plan, tmp_path)
    saved = json.loads((tmp_path / "studies" / "train-Pong-seed3" / "smoke" / "plan.json").read_text())
    compared = {"baseline": {}, "holm_equivalence": False, "looks": [], "margin": 0.0, "metric": "test_return", "test": "permutation"}
    assert saved["primary"] == {**compared, "variants": []}
    assert (saved["axes"], saved["note"], saved["protocol"]) == ({}, "", "agent")
    assert saved["question"] == "How well does this agent play?"
    roles = {"agent": ["train_agent", "a1eb4675724f16de"], "evaluation": ["evaluate_agent", "c6ee4b7951e2195e"]}
    (at_random,) = (ref for ref in plan.jobs if ref.kind == "play_random")
    roles["random_play"] = ["play_random", at_random.id]
    assert saved["points"] == [["default", "", [], "Pong", 3, "fp32", roles]]


@pytest.mark.parametrize("scale", SCALES)
def test_an_agent_is_evaluated_at_the_scale_it_was_trained_at(scale: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    (training,) = (spec for spec in plan_train([f"scale={scale}", "game=Breakout"]).jobs.values() if spec.kind == "train_agent")
    store.prepare(training)
    assert trained_at(store, training.ref) == scale


def test_a_sampler_that_an_agents_world_model_cannot_use_is_refused_at_planning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = (
        "objective.coordinate=change",
        "objective.sigma_offset_noise=0",
        "objective.quantization=round",
        "sampler.quantization=round",
    )
    store, planned = Store(tmp_path), plan_train(["scale=tiny", "game=Pong", *changes]).jobs.values()
    (training,) = (spec for spec in planned if spec.kind == "train_agent")
    store.prepare(training)
    monkeypatch.setattr(agents, "find_agent", lambda store, name: training.ref)
    config = RunConfig(game="Pong", env=training.config.env, evaluation=EvaluationConfig(world_model=str(training.ref)))
    with pytest.raises(UserError, match=r"sampler.quantization=truncate: with objective.coordinate=change"):
        agents.with_agents(config, store)
    rounded = replace(config, sampler=OdeSampler(quantization="round"))
    assert agents.with_agents(rounded, store) == rounded


def test_a_dataset_with_other_actions_than_the_agents_is_refused_at_planning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, planned = Store(tmp_path / "outputs"), plan_train(["scale=tiny", "game=Pong"]).jobs.values()
    (training,) = (spec for spec in planned if spec.kind == "train_agent")
    store.prepare(training)
    monkeypatch.setattr(agents, "find_agent", lambda store, name: training.ref)
    for number in (1, 2):
        (tmp_path / f"own_{number}.mp4").touch()
        (tmp_path / f"own_{number}.csv").write_text("time,move:6\n0,0\n1,5\n")
    config = RunConfig(
        env=training.config.env,
        data=DataConfig(dataset=str(tmp_path)),
        evaluation=EvaluationConfig(world_model=str(training.ref)),
        sampler=training.config.sampler,
    )
    assert agents.with_agents(config, store) == config, "Pong has six actions, too"
    for number in (1, 2):
        (tmp_path / f"own_{number}.csv").write_text("time,move:6,fire:2\n0,0,0\n1,5,1\n")
    with pytest.raises(UserError, match=r"plays Pong with Discrete\(6\), but the actions of .* are MultiDiscrete\(\[6, 2\]\)"):
        agents.with_agents(config, store)


def test_an_agent_from_before_env_pooling_keeps_its_scale(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (training,) = (spec for spec in plan_train(["scale=tiny", "env.pooling=raw"]).jobs.values() if spec.kind == "train_agent")
    store.prepare(training)
    assert "pooling: raw" in (store.folder(training.ref) / "config.yaml").read_text()
    assert trained_at(store, training.ref) == "tiny"


def test_what_an_agent_does_not_use_changes_no_identity() -> None:
    (free,) = trainings(plan_train(["scale=tiny", "agent.model_free=true"]))
    assert free.network == NetworkConfig()
    assert free.reward_end == RewardEndConfig()
    assert free.agent.initial_steps == AgentConfig().initial_steps
    assert free.actor_critic.preload == ActorCriticConfig().preload
    assert set(plan_train(["scale=tiny", "objective=ddpm", "sampler=ddpm_ancestral"]).jobs) != set(plan_train(["scale=tiny"]).jobs)


@pytest.mark.parametrize(
    "key", ["agent.epsilon=0.5", "sampler.num_steps=1", "network.depths=[1]", "actor_critic.horizon=3", "objective=ddpm"]
)
def test_a_model_free_agent_refuses_what_it_does_not_use(key: str) -> None:
    with pytest.raises(UserError, match="model-free"):
        plan_train(["scale=tiny", "agent.model_free=true", key])


def test_only_the_horizon_varies_in_imagination_horizon() -> None:
    configs = trainings(plan_study("imagination_horizon", ["games=Pong", "seeds=1"]))
    assert [config.actor_critic.horizon for config in configs] == [5, 10, 15, 30]
    assert {config.reward_end.segment_length for config in configs} == {19}
    assert {config.actor_critic.steps_per_update for config in configs} == {15}


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["game=Brekout"], "did you mean.*Breakout"),
        (["seed=-1"], "seeds"),
        (["game=Breakout,Pong"], "takes one value"),
        (["seed=[0,1]"], "one game, one seed"),
        (["agent.epsilon=0.1,0.2"], "one value a key"),
        (["agent.budget=10", "scale=tiny"], r"agent\.budget=10.*initial_steps=30"),
        (["agent.max_initial_steps=5", "scale=tiny"], "max_initial_steps=5"),
        (["data.policy=random"], r"does not use data\.policy"),
        (["training.num_steps=5"], r"does not use training\.num_steps"),
        (["evaluation.horizon=5"], r"does not use evaluation\.horizon"),
        (["agent.horizon=5"], "unknown key"),
        (["reward_end.segment_length=4", "scale=tiny"], "segment_length=4"),
        (["actor_critic.down=[true]", "scale=tiny"], "actor_critic"),
        (["execution.device=cuda:x"], "cuda:x"),
    ],
)
def test_what_makes_no_agent_is_refused(tokens: list[str], message: str) -> None:
    from diamond_bench.launch.devices import valid_device

    with pytest.raises(UserError, match=message):
        valid_device(plan_train(tokens).execution.device)


def test_agent_keys_are_refused_in_world_model_studies() -> None:
    with pytest.raises(UserError, match=r"world_model does not use agent\.budget"):
        plan_study("sampling_steps", ["agent.budget=7"])


def test_import_takes_the_game_from_the_file_s_name_or_asks(tmp_path: Path) -> None:
    file = tmp_path / "Pong.pt"
    file.write_bytes(b"x")
    (spec,) = plan_import(file, []).jobs.values()
    assert isinstance(spec.config, ImportAgent)
    assert spec.config.game == "Pong"
    renamed = file.rename(tmp_path / "agent.pt")
    with pytest.raises(UserError, match="which game"):
        plan_import(renamed, [])
    (same,) = plan_import(renamed, ["game=Pong"]).jobs
    assert same == spec.ref, "the path enters no identity"
    with pytest.raises(UserError, match="Pnog"):
        plan_import(renamed, ["game=Pnog"])
    with pytest.raises(UserError, match="cannot be read"):
        plan_import(tmp_path / "Pong.pt", [])
    with pytest.raises(UserError, match="import takes game="):
        plan_import(renamed, ["scale=tiny"])


def test_import_takes_the_constants_that_the_file_does_not_hold(tmp_path: Path) -> None:
    file = tmp_path / "Pong.pt"
    file.write_bytes(b"x")
    (paper,) = plan_import(file, []).jobs
    (same,) = plan_import(file, ["sigma_data=0.5", "sigma_offset_noise=0.3"]).jobs
    assert same == paper, "what was assumed before is neutral"
    assert paper.id == "ae4c4a56186e0ec1"
    (other,) = plan_import(file, ["sigma_data=0.4", "sigma_offset_noise=0"]).jobs.values()
    assert other.ref != paper
    assert (other.config.objective.sigma_data, other.config.objective.sigma_offset_noise) == (0.4, 0.0)
    for token, message in (
        ("sigma_data=0", "must be at least"),
        ("sigma_offset_noise=-1", "must be at least"),
        ("sigma_data=half", "sigma_data=half: expected a number"),
        ("sigma_data=nan", "sigma_data=nan: expected a finite number"),
        ("sigma_offset_noise=1e999", "expected a finite number"),
        ("frame_size=" + "9" * 5001, "expected a whole number of pixels"),
    ):
        with pytest.raises(UserError, match=message) as error:
            plan_import(file, [token])
        assert len(str(error.value)) < 300


def test_evaluate_wants_a_finished_agent(tmp_path: Path) -> None:
    (tmp_path / "o" / "studies").mkdir(parents=True)
    for name in ("abc", "train_agent/0123456789abcdef", str(tmp_path / "nothing")):
        with pytest.raises(UserError, match=r"names no agent of|not finished"):
            plan_evaluate(name, [f"output_dir={tmp_path / 'o'}"], None, False)
    assert json.dumps(sorted(p.name for p in (tmp_path / "o").iterdir())) == '["studies"]'


def test_the_agents_offered_for_a_wrong_id_are_finished_ones_nearest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for identity in ("aaaa000000000000", "0123456789abcdef", "0123400000000000"):
        (tmp_path / "train_agent" / identity).mkdir(parents=True)
    store = Store(tmp_path)
    unfinished = JobRef("train_agent", "0123400000000000")
    monkeypatch.setattr(store, "state", lambda ref: JobState("failed" if ref == unfinished else "done"))
    near = r"nearest finished ones: train_agent/0123456789abcdef, train_agent/aaaa000000000000 \("
    for wrong in ("0123499", "train_agent/0123499"):
        with pytest.raises(UserError, match=f"names no agent of .*; {near}"):
            agents.find_agent(store, wrong)
    with pytest.raises(UserError, match=r"names 2 agents of .*; nearest finished ones: train_agent/0123456789abcdef \("):
        agents.find_agent(store, "0123")


def test_a_mistyped_policy_is_named_with_the_nearest(tmp_path: Path) -> None:
    near = r"data\.policy='look_arround': no policy \(did you mean look_around\?\), and 'look_arround' names no agent of "
    with pytest.raises(UserError, match=near):
        plan_study("table8", ["scale=tiny", "data.policy=look_arround", f"output_dir={tmp_path}"])


def test_a_job_of_another_kind_is_no_agent(tmp_path: Path) -> None:
    (tmp_path / "o" / "train_world_model" / "0123456789abcdef").mkdir(parents=True)
    for name in ("0123", "train_world_model/0123456789abcdef"):
        with pytest.raises(UserError, match=f"'{name}' is the job train_world_model/0123456789abcdef, not an agent"):
            plan_evaluate(name, [f"output_dir={tmp_path / 'o'}"], None, False)


def test_how_screens_are_pooled_is_no_part_of_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single, "find_agent", lambda store, name: JobRef("train_agent", "0" * 16))
    monkeypatch.setattr(single, "trained_with", lambda store, agent: ("Pong", 0, EnvConfig(pooling="in_place")))
    monkeypatch.setattr(single, "trained_at", lambda store, agent: "tiny")
    planned = plan_evaluate("x", [f"output_dir={tmp_path}"], None, False).jobs.values()
    assert [spec.kind for spec in planned] == ["evaluate_agent", "play_random"]
    assert [spec.config.env for spec in planned] == [EnvConfig(), EnvConfig()]
    with pytest.raises(UserError, match=r"env\.pooling: it has no effect"):
        plan_evaluate("x", [f"output_dir={tmp_path}", "env.pooling=in_place"], None, False)
