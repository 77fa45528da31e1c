"""Agents in the authors' checkpoint format: read, refused in one message, and written back the same."""

import dataclasses
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from golden_files import GOLDEN, golden_json, small_agent, small_network
from presets import objective as objective_preset
from torch import Tensor

from diamond_bench.agent import AgentDescription, build_agent, import_agent, load_agent
from diamond_bench.cli import agent_commands
from diamond_bench.config import (
    ActorCriticConfig,
    ConditioningConfig,
    FactoredObjective,
    NetworkConfig,
    RewardEndConfig,
)
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import JobContext
from diamond_bench.jobs.import_agent import run
from diamond_bench.models import tensor_file
from diamond_bench.models.authors_checkpoint import authors_state, read_authors_checkpoint, write_authors_checkpoint
from diamond_bench.store.files import sha256
from diamond_bench.store.kinds import ImportAgent

CHECKPOINT = GOLDEN / "agent_small.pt"
State = dict[str, Any]

ODD = AgentDescription(
    FactoredObjective(),
    ConditioningConfig(3),
    NetworkConfig((1, 2, 1), (8, 24, 16), (True, False, True), 12),
    RewardEndConfig((2, 1), (8, 16), (True, False), 6, 10),
    ActorCriticConfig((8, 16, 8, 8), (True, False, True, False), 12),
    num_actions=4,
    frame_size=24,
    model_free=False,
    game="Breakout",
)


def authors() -> State:
    return torch.load(CHECKPOINT, weights_only=True)


def saved(folder: Path, content: Any, **options: Any) -> Path:
    file = folder / "checkpoint.pt"
    torch.save(content, file, **options)
    return file


def refusal(file: Path, game: str = "Pong") -> str:
    with pytest.raises(UserError) as error:
        import_agent(file, game)
    message = str(error.value)
    assert str(file) in message
    assert "\n" not in message
    return message


def test_sizes_are_inferred():
    config, d = golden_json("config_small.json"), small_agent().description
    assert (d.num_actions, d.frame_size, d.conditioning.num_frames) == (6, 32, 4)
    assert d.network == small_network()
    assert d.objective == FactoredObjective()
    assert list(d.reward_end.depths) == config["rew_end_model"]["depths"]
    assert (d.reward_end.cond_channels, d.reward_end.lstm_dim) == (32, 32)
    assert list(d.actor_critic.channels) == config["actor_critic"]["channels"]
    assert d.actor_critic.down == (True, True)
    assert (d.model_free, d.game) == (False, "Pong")


def test_the_authors_file_comes_back_tensor_by_tensor(tmp_path: Path):
    original = authors()
    assert write_authors_checkpoint(small_agent(), tmp_path / "again.pt") == []
    again = torch.load(tmp_path / "again.pt", weights_only=True)
    assert list(again) == list(original), "names, in the authors' order"
    for name, tensor in original.items():
        assert again[name].dtype == tensor.dtype
        assert again[name].is_contiguous()
        assert torch.equal(again[name], tensor), name
    assert [p.name for p in tmp_path.iterdir()] == ["again.pt"]


def test_the_job_stores_it_and_it_comes_back_from_the_store(tmp_path: Path):
    said: list[str] = []
    result = run(ImportAgent(sha256(CHECKPOINT), "Pong", str(CHECKPOINT)), JobContext(tmp_path, say=said.append))
    assert result.info["parameters"] == golden_json("config_small.json")["parameter_counts"]
    assert (result.info["num_actions"], result.info["frame_size"], result.info["stored_as"]) == (6, 32, "float32")
    assert result.info["assumed"] == {"sigma_data": 0.5, "sigma_offset_noise": 0.3}
    assert not said
    write_authors_checkpoint(load_agent(tmp_path / "agent"), tmp_path / "again.pt")
    again, original = torch.load(tmp_path / "again.pt", weights_only=True), authors()
    assert list(again) == list(original)
    assert all(torch.equal(again[name], original[name]) for name in original)


def test_constants_that_the_file_does_not_hold_are_those_of_the_import(tmp_path: Path):
    """Computed here from the formula of the golden README, 2.1, for each pair of constants."""
    config = ImportAgent(sha256(CHECKPOINT), "Pong", str(CHECKPOINT), sigma_data=0.4, sigma_offset_noise=0.1)
    result = run(config, JobContext(tmp_path))
    assert result.info["assumed"] == {"sigma_data": 0.4, "sigma_offset_noise": 0.1}
    agent = load_agent(tmp_path / "agent")
    assert agent.description.objective == FactoredObjective(sigma_data=0.4, sigma_offset_noise=0.1)
    assert agent.world_model is not None
    x, past = torch.randn(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).unbind(), torch.zeros(1, 4, 3, 32, 32)
    sigma, actions = torch.tensor([1.5]), torch.zeros(1, 4, dtype=torch.int64)
    s = (1.5**2 + 0.1**2) ** 0.5
    c_in, c_skip, c_out = 1 / (s**2 + 0.4**2) ** 0.5, 0.4**2 / (s**2 + 0.4**2), s * 0.4 / (s**2 + 0.4**2) ** 0.5
    denoiser: Any = agent.world_model.denoiser
    with torch.no_grad():
        output = denoiser.network(c_in * x[0], sigma.new_tensor([s]).log() / 4, past.flatten(1, 2), actions)
        found = denoiser.denoise(x[0], sigma, past, actions)
    assert torch.allclose(found, c_skip * x[0] + c_out * output, atol=1e-5)


def test_the_command_says_once_what_it_assumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run_jobs(plan: Any, store: Any) -> Any:
        (spec,) = plan.jobs.values()
        run(spec.config, JobContext(tmp_path))
        return SimpleNamespace(exit_code=1)

    monkeypatch.setattr(agent_commands, "run_jobs", run_jobs)
    with pytest.raises(typer.Exit):
        agent_commands.import_(CHECKPOINT, ["game=Pong", "sigma_data=0.4", f"output_dir={tmp_path / 'outputs'}"])
    shown = capsys.readouterr()
    said = " ".join(f"{shown.out}{shown.err}".split())
    assert said.count("does not hold two constants") == 1
    assert "the import uses sigma_data=0.4 and sigma_offset_noise=0.3 (in the paper 0.5 and 0.3)" in said


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"actor_critic": ActorCriticConfig((8,), (True,), 12)},
        {"actor_critic": ActorCriticConfig((8,), (False,), 12)},
        {"actor_critic": ActorCriticConfig((8, 8, 16), (True, True, True), 12), "frame_size": 64},
        {"reward_end": RewardEndConfig((1,), (8,), (False,), 6, 10)},
    ],
)
def test_our_own_agents_come_back(tmp_path: Path, changes: dict[str, Any]):
    torch.manual_seed(0)
    agent = build_agent(dataclasses.replace(ODD, **changes))
    write_authors_checkpoint(agent, tmp_path / "agent.pt")
    again, _ = import_agent(tmp_path / "agent.pt", "Breakout")
    assert again.description == agent.description
    for component, network in agent.networks.items():
        state = again.networks[component].state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_a_file_that_fits_several_frame_sizes_needs_frame_size(tmp_path: Path):
    agent = build_agent(dataclasses.replace(ODD, frame_size=25))
    write_authors_checkpoint(agent, tmp_path / "agent.pt")
    assert "fit frames of side 25 or 26: " in refusal(tmp_path / "agent.pt", "Breakout")
    assert import_agent(tmp_path / "agent.pt", "Breakout", frame_size=25)[0].description == agent.description
    with pytest.raises(UserError, match="fit frames of side 32, not 64"):
        read_authors_checkpoint(CHECKPOINT, frame_size=64)


def test_stages_that_pool_are_never_guessed(tmp_path: Path):
    """A pooling has no tensors. Blocks numbered 1, 3, 5 and two poolings: the third stage has none, or a writer kept its place."""
    agent = build_agent(dataclasses.replace(ODD, actor_critic=ActorCriticConfig((8, 8, 8), (True, True, False), 12)))
    with pytest.raises(UserError, match=r"cannot be exported: .*which 2 of the 3 stages"):
        write_authors_checkpoint(agent, tmp_path / "agent.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_and_said(tmp_path: Path, dtype: torch.dtype):
    state = {name: tensor.to(dtype) for name, tensor in authors().items()}
    file, said = saved(tmp_path, state), []
    result = run(ImportAgent(sha256(file), "Pong", str(file)), JobContext(tmp_path, say=said.append))
    assert result.info["stored_as"] == str(dtype).removeprefix("torch.")
    assert len(said) == 1
    assert "cast to float32" in said[0]
    weight = load_agent(tmp_path / "agent").actor_critic.actor.weight
    assert torch.equal(weight, state["actor_critic.actor_linear.weight"].float())


def test_a_file_changed_since_planning_is_refused(tmp_path: Path):
    file = tmp_path / "Pong.pt"
    shutil.copy(CHECKPOINT, file)
    with pytest.raises(UserError, match="has changed since"):
        run(ImportAgent("0" * 64, "Pong", str(file)), JobContext(tmp_path))
    assert not (tmp_path / "agent").exists()


class Attack:
    """Unpickled freely, it leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("how", ["beside the tensors", "alone", "a plain pickle", "the old format"])
def test_code_in_a_file_is_refused_and_never_run(tmp_path: Path, how: str):
    attack = Attack(tmp_path / "marker")
    if how == "a plain pickle":
        file = tmp_path / "checkpoint.pt"
        file.write_bytes(pickle.dumps({**authors(), "x": attack}))
    elif how == "alone":
        file = saved(tmp_path, attack)
    else:
        file = saved(tmp_path, {**authors(), "x": attack}, _use_new_zipfile_serialization=how != "the old format")
    says = "damaged, or no checkpoint" if how == "a plain pickle" else "holds more than tensors: it asks for getattr, which is not run"
    assert says in refusal(file)
    assert not (tmp_path / "marker").exists()


def test_the_attack_would_work(tmp_path: Path):
    torch.load(saved(tmp_path, Attack(tmp_path / "marker")), weights_only=False)
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("kept", [0, 1, 100, 5000, 3_000_000, 6_604_000])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int):
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(CHECKPOINT.read_bytes()[:kept])
    assert "damaged, or no checkpoint" in refusal(file)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04 not a zip", "damaged, or no checkpoint"),
        (b"cbuiltins\nprint\n(S'code'\ntR.", "it asks for print, which is not run"),
        (b"just text", "damaged, or no checkpoint"),
        (b"junk\n", "checkpoint.pt: damaged, or no checkpoint"),
        (b"\x80\x02}q\x00.", "damaged, or no checkpoint"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, says: str):
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(content)
    assert says in refusal(file)


def test_what_is_not_there_or_a_folder_is_refused(tmp_path: Path):
    assert "no such file" in refusal(tmp_path / "nothing.pt")
    assert "is a folder" in refusal(tmp_path)
    with pytest.raises(UserError, match="is a folder"):
        write_authors_checkpoint(small_agent(), tmp_path)
    with pytest.raises(UserError, match="cannot be written"):
        write_authors_checkpoint(small_agent(), tmp_path / "nowhere" / "agent.pt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "expected a state dict, names and tensors, got an empty one"),
        ([torch.zeros(2)], "got a list"),
        (torch.zeros(2), "got a Tensor"),
        ({"model": {"weight": torch.zeros(2)}, "epoch": 3}, "'model' is a dict"),
        ({1: torch.zeros(2)}, "1 is a Tensor"),
        ({"weight": torch.zeros(2)}, "no denoiser in it (names under 'denoiser.inner_model.'); its names begin with weight"),
        ({"noise_model.conv_in.weight": torch.zeros(2)}, "DDPM branch alone"),
        ({"a": torch.zeros(2).to_sparse()}, "'a' is not a plain dense one"),
        ({"a": torch.zeros(2, device="meta")}, "'a' is not a plain dense one"),
        ({"a": torch.zeros(1).expand(10**9)}, "claim 4000000000 bytes"),
    ],
)
def test_what_is_not_an_agents_state_dict_is_refused(tmp_path: Path, content: Any, says: str):
    assert says in refusal(saved(tmp_path, content))


def changed(name: str, change: Callable[[Tensor], Any] | None) -> Callable[[State], State]:
    def edit(state: State) -> State:
        if change is None:
            del state[name]
        else:
            state[name] = change(state[name])
        return state

    return edit


def grown(**changes: Any) -> Callable[[State], State]:
    """The actor-critic of another agent in place of the file's own."""

    def edit(state: State) -> State:
        d = small_agent().description
        other = build_agent(dataclasses.replace(d, **changes))
        theirs = authors_state(other.description, {c: n.state_dict() for c, n in other.networks.items()})
        return {**state, **{name: tensor for name, tensor in theirs.items() if name.startswith("actor_critic.")}}

    return edit


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (changed("denoiser.inner_model.conv_out.bias", None), "1 missing tensor, 'denoiser.inner_model.conv_out.bias'"),
        (changed("rew_end_model.lstm.weight_hh_l0", None), "'rew_end_model.lstm.weight_hh_l0' is missing: did you mean"),
        (changed("actor_critic.lstm.bias_ih", lambda t: t[:-1]), "'actor_critic.lstm.bias_ih' has shape [127]; with the others, it should"),
        (changed("denoiser.inner_model.conv_in.weight", lambda t: t[:, :-1]), "14 channels of frames"),
        (changed("denoiser.inner_model.conv_in.weight", lambda t: t[0]), "expected 4 dimensions"),
        (changed("actor_critic.encoder.encoder.3.f.2.weight", None), "'actor_critic.encoder.encoder.3.f.2.weight' is missing"),
        (changed("rew_end_model.lstm.weight_ih_l0", lambda t: t[:, :-5]), "LSTMs fit frames of no size"),
        (changed("actor_critic.lstm.weight_ih", lambda t: t[:, :1000]), "LSTMs fit frames of no size"),
        (changed("actor_critic.critic_linear.bias", lambda t: t / 0), "values that are not finite"),
        (changed("rew_end_model.head.0.bias", lambda t: t * float("nan")), "values that are not finite"),
        (changed("rew_end_model.head.0.bias", lambda t: t.long()), "'rew_end_model.head.0.bias' is int64; expected float32"),
        (changed("rew_end_model.head.0.bias", lambda t: t.double()), "is float64; expected float32"),
        (lambda s: {**s, "actor_critic.extra": torch.zeros(1)}, "1 unknown tensor, 'actor_critic.extra': did you mean"),
        (lambda s: {n: t for n, t in s.items() if not n.startswith("rew_end_model")}, "no rew_end_model in it"),
        (lambda s: {n.removeprefix("denoiser."): t for n, t in s.items()}, "no denoiser in it"),
        (grown(num_actions=5), "6 actions in the denoiser, 5 in tensor 'actor_critic.actor_linear.weight'"),
        (grown(frame_size=48), "LSTMs fit frames of no size"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused(tmp_path: Path, edit: Callable[[State], State], says: str):
    assert says in refusal(saved(tmp_path, edit(authors())))


def test_another_game_is_refused():
    assert "an agent with 6 actions, but Breakout has 4" in refusal(CHECKPOINT, "Breakout")
    with pytest.raises(UserError, match="did you mean Pong"):
        import_agent(CHECKPOINT, "Pomg")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"objective": objective_preset("ddpm")}, "objective.parameterization='noise' determines what its weights mean"),
        ({"objective": FactoredObjective(sigma_data=0.4)}, "objective.sigma_data=0.4 determines what its weights mean"),
        ({"objective": FactoredObjective(coordinate="change")}, "objective.coordinate='change' determines what its weights mean"),
        ({"objective": FactoredObjective(rescale_past_frames=False)}, "objective.rescale_past_frames=False"),
        ({"model_free": True}, "it is model-free"),
    ],
)
def test_what_the_format_cannot_say_is_not_exported(tmp_path: Path, changes: dict[str, Any], says: str):
    with pytest.raises(UserError) as error:
        write_authors_checkpoint(build_agent(dataclasses.replace(ODD, **changes)), tmp_path / "agent.pt")
    assert says in str(error.value)
    assert not list(tmp_path.iterdir())


def test_settings_that_an_export_loses_are_said(tmp_path: Path):
    description = dataclasses.replace(
        ODD, objective=FactoredObjective(loc=-1.0), actor_critic=dataclasses.replace(ODD.actor_critic, discount=0.9, entropy_weight=0.01)
    )
    lost = write_authors_checkpoint(build_agent(description), tmp_path / "agent.pt")
    assert lost == ["objective.loc=-1.0", "actor_critic.discount=0.9", "actor_critic.entropy_weight=0.01"]


def test_an_export_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "agent.pt"
    file.write_bytes(b"old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        write_authors_checkpoint(small_agent(), file)
    assert file.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["agent.pt"]


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "older format"])
def test_a_long_pickle_is_refused_before_it_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: bool):
    monkeypatch.setattr(tensor_file, "MAX_PICKLE", 10_000)
    file, marks = tmp_path / "agent.pt", b"(" * 100_000
    if archive:
        with zipfile.ZipFile(file, "w") as stored:
            stored.writestr("x/data.pkl", b"\x80\x02" + marks)
            stored.writestr("x/version", "3")
    else:
        old = b"".join(pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        file.write_bytes(old + b"\x80\x02" + marks)
    assert "its list of tensors has" in refusal(file)


def test_a_checkpoint_beyond_the_limit_or_a_pipe_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensor_file, "MAX_BYTES", 100)
    assert "it has more than 100 bytes" in refusal(CHECKPOINT)
    os.mkfifo(tmp_path / "agent.pt")
    assert "it is a FIFO, not a regular file" in refusal(tmp_path / "agent.pt")


def test_an_agent_in_the_older_format_is_read(tmp_path: Path):
    file = saved(tmp_path, authors(), _use_new_zipfile_serialization=False)
    assert import_agent(file, "Pong")[0].description == small_agent().description
