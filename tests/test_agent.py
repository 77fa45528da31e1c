"""A whole agent: kept and read back, its initialisation, its optimisers' groups."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from golden_files import golden_json, small_agent
from presets import objective as objective_preset
from torch import Tensor

from diamond_bench.agent import Agent, AgentDescription, build_agent, load_agent, save_agent
from diamond_bench.config import (
    ActorCriticConfig,
    ConditioningConfig,
    FactoredObjective,
    NetworkConfig,
    RewardEndConfig,
    TrainingConfig,
)
from diamond_bench.errors import UserError
from diamond_bench.models.actor_critic_cost import actor_critic_cost
from diamond_bench.models.authors_names import PREFIXES, Component, authors_names
from diamond_bench.models.denoiser_cost import denoiser_cost
from diamond_bench.models.reward_end_cost import reward_end_cost
from diamond_bench.spaces import ActionSpec, FrameSpec
from diamond_bench.training.optimizer import OptimizerSettings, make_optimizer, set_learning_rate

FULL = AgentDescription(
    FactoredObjective(),
    ConditioningConfig(),
    NetworkConfig(),
    RewardEndConfig(),
    ActorCriticConfig(),
    num_actions=18,
    frame_size=64,
    model_free=False,
    game="Boxing",
)
TINY = AgentDescription(
    objective_preset("ddpm", num_train_timesteps=50),
    ConditioningConfig(2),
    NetworkConfig((1, 1), (8, 16), (False, True), 8),
    RewardEndConfig((1, 1), (8, 16), (True, False), 6, 10),
    ActorCriticConfig((8, 16, 8), (True, False, True), 12, discount=0.9),
    num_actions=6,
    frame_size=20,
    model_free=False,
    game="Pong",
)
SETTINGS: dict[Component, OptimizerSettings] = {
    "denoiser": TrainingConfig(),
    "rew_end_model": RewardEndConfig(),
    "actor_critic": ActorCriticConfig(),
}


def tensors(agent: Agent) -> dict[str, Tensor]:
    return {f"{component}.{name}": t for component, network in agent.networks.items() for name, t in network.state_dict().items()}


def assert_same(a: Agent, b: Agent) -> None:
    first, second = tensors(a), tensors(b)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_a_saved_agent_comes_back(tmp_path: Path):
    agent = build_agent(TINY)
    save_agent(agent, tmp_path / "agent")
    torch.manual_seed(1)
    again = load_agent(tmp_path / "agent")
    assert again.description == TINY
    assert_same(agent, again)
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert found == [
        "agent/actor_critic.safetensors",
        "agent/agent.json",
        "agent/denoiser/model.json",
        "agent/denoiser/model.safetensors",
        "agent/reward_end.safetensors",
    ]


def test_a_model_free_agent_is_a_policy_alone(tmp_path: Path):
    agent = build_agent(dataclasses.replace(TINY, model_free=True))
    assert agent.world_model is None
    assert agent.reward_end is None
    save_agent(agent, tmp_path / "agent")
    assert sorted(p.name for p in (tmp_path / "agent").iterdir()) == ["actor_critic.safetensors", "agent.json"]
    assert_same(agent, load_agent(tmp_path / "agent"))


def test_saving_again_replaces_the_agent_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first, second = build_agent(TINY), build_agent(dataclasses.replace(TINY, model_free=True))
    save_agent(first, tmp_path / "agent")
    monkeypatch.setattr("diamond_bench.agent.write_json", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="disk is full"):
        save_agent(second, tmp_path / "agent")
    assert_same(first, load_agent(tmp_path / "agent"))
    monkeypatch.undo()
    save_agent(second, tmp_path / "agent")
    assert load_agent(tmp_path / "agent").world_model is None
    assert [p.name for p in tmp_path.iterdir()] == ["agent"], "nothing is left over"


def test_a_seed_gives_the_weights():
    def built(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return tensors(build_agent(TINY))

    first, again, other = built(3), built(3), built(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def truncated(folder: Path, name: str) -> None:
    file = folder / name
    file.write_bytes(file.read_bytes()[:-7])


def removed(folder: Path, name: str) -> None:
    (folder / name).unlink()


def edited(folder: Path, **changes: object) -> None:
    content = json.loads((folder / "agent.json").read_text())
    for key, value in changes.items():
        if value is None:
            del content[key]
        else:
            content[key] = value
    (folder / "agent.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: truncated(f, "agent.json"), "agent.json is damaged: not JSON"),
        (lambda f: truncated(f, "actor_critic.safetensors"), "actor_critic.safetensors: damaged"),
        (lambda f: truncated(f, "reward_end.safetensors"), "reward_end.safetensors: damaged"),
        (lambda f: truncated(f, "denoiser/model.safetensors"), "model.safetensors: damaged"),
        (lambda f: removed(f, "agent.json"), "agent.json: no such file"),
        (lambda f: removed(f, "reward_end.safetensors"), "reward_end.safetensors: no such file"),
        (lambda f: removed(f, "denoiser/model.json"), "model.json: no such file"),
        (lambda f: edited(f, num_actions=5), "reward_end.safetensors: its tensors are not those"),
        (lambda f: edited(f, frame_size=40), "reward_end.safetensors: its tensors are not those"),
        (lambda f: edited(f, game=None), "agent.json: damaged"),
        (lambda f: edited(f, gmae="Pong"), "agent.json: unknown key 'gmae': did you mean game?"),
        (lambda f: edited(f, objective={"name": "edm"}), "denoiser: not the world model that the folder's agent.json"),
        (
            lambda f: (f / "reward_end.safetensors").write_bytes((f / "actor_critic.safetensors").read_bytes()),
            "reward_end.safetensors: its",
        ),
    ],
)
def test_damage_is_named_and_never_loaded(tmp_path: Path, damage, says: str):
    save_agent(build_agent(TINY), tmp_path / "agent")
    damage(tmp_path / "agent")
    with pytest.raises(UserError) as refusal:
        load_agent(tmp_path / "agent")
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_papers_agent_has_13_55_million_parameters():
    counts = golden_json("state_dict_shapes_full.json")["num_actions_18"]["parameter_counts"]
    given = ActionSpec.discrete(18), FrameSpec.square(64)
    counted = {
        "denoiser": denoiser_cost(FULL.network, FULL.conditioning, *given).parameters,
        "rew_end_model": reward_end_cost(FULL.reward_end, *given).parameters,
        "actor_critic": actor_critic_cost(FULL.actor_critic, *given).parameters,
    }
    with torch.device("meta"):
        agent = build_agent(FULL, device="meta")
    built = {component: sum(p.numel() for p in network.parameters()) for component, network in agent.networks.items()}
    assert built == counted == {component: counts[component] for component in counted}
    assert [f"{n / 1e6:.2f}M" for n in (*counted.values(), sum(counted.values()))] == ["4.41M", "5.90M", "3.24M", "13.55M"]


@pytest.fixture(scope="module")
def fresh() -> Agent:
    torch.manual_seed(0)
    return build_agent(FULL)


@pytest.mark.parametrize("component", ["rew_end_model", "actor_critic"])
def test_initialisation(fresh: Agent, component: Component):
    """Every tensor has the spread, range and zeros of the authors' fresh agent (one sample of each); the denoiser's: test_models.py."""
    facts = golden_json("init_stats_full.json")["tensors"]
    state = fresh.networks[component].state_dict()
    for theirs, ours in authors_names(component, state, FULL.actor_critic.down).items():
        expected, tensor = facts[PREFIXES[component] + theirs], state[ours]
        n, constant = tensor.numel(), expected["std"] == 0
        assert bool((tensor == 0).all()) == expected["all_zero"], ours
        if constant:
            assert (tensor == expected["mean"]).all(), ours
        elif n >= 64:
            tolerance = 6 / n**0.5
            assert tensor.std().item() == pytest.approx(expected["std"], rel=tolerance), ours
            assert abs(tensor.mean().item() - expected["mean"]) < tolerance * expected["std"] + 1e-6, ours
        if n >= 1024 and not any(part in ours for part in ("embedding", "resample", "weight_hh")):  # uniform: sharp edges
            assert tensor.abs().max().item() == pytest.approx(max(expected["max"], -expected["min"]), rel=0.01, abs=1e-9), ours


def test_lstms_start_orthogonal_with_open_forget_gates(fresh: Agent):
    assert fresh.reward_end is not None
    for lstm, suffix in ((fresh.reward_end.lstm, "_l0"), (fresh.actor_critic.lstm, "")):
        recurrent = getattr(lstm, f"weight_hh{suffix}")
        torch.testing.assert_close(recurrent.T @ recurrent, torch.eye(512), atol=1e-4, rtol=0)
        bias = getattr(lstm, f"bias_ih{suffix}").reshape(4, 512)
        assert bias.mean(dim=1).tolist() == [0, 1, 0, 0], "of the gates input, forget, cell, output"


@pytest.mark.parametrize("component", ["denoiser", "rew_end_model", "actor_critic"])
def test_optimizer_groups_are_the_authors(fresh: Agent, component: Component):
    facts, network = golden_json("optimizer_groups.json")[component], fresh.networks[component]
    optimizer = make_optimizer(network, SETTINGS[component])
    ours = {id(parameter): name for name, parameter in network.named_parameters()}
    prefix = "inner_model." if component == "denoiser" else ""
    theirs = {o: prefix + t for t, o in authors_names(component, ours.values(), FULL.actor_critic.down).items()}
    for group, kind in zip(optimizer.param_groups, ("decay", "no_decay"), strict=True):
        assert sorted(theirs[ours[id(parameter)]] for parameter in group["params"]) == facts[kind]
        assert group["weight_decay"] == facts[f"weight_decay_of_{kind}_group"]
        assert (group["lr"], list(group["betas"]), group["eps"]) == (facts["lr"], facts["betas"], facts["eps"])


def test_only_a_training_with_an_end_cools_down():
    optimizer = torch.optim.AdamW([torch.zeros(1)])
    for settings in (RewardEndConfig(learning_rate=0.5, warmup_steps=4), ActorCriticConfig(learning_rate=0.5, warmup_steps=4)):
        rates = [set_learning_rate(optimizer, settings, step) for step in (0, 1, 4, 10**6)]
        assert rates == [0, 0.125, 0.5, 0.5]
    ending = TrainingConfig(learning_rate=0.5, warmup_steps=0, cooldown=0.5, num_steps=100)
    assert [set_learning_rate(optimizer, ending, step) for step in (0, 50, 75)] == [0.5, 0.5, 0.25]


def test_the_golden_agent_is_read_whole():
    counts = golden_json("config_small.json")["parameter_counts"]
    agent = small_agent()
    assert {component: sum(p.numel() for p in network.parameters()) for component, network in agent.networks.items()} == counts
