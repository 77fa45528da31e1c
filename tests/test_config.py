"""The typed config: what is refused, with which words, and what makes an identity."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import replace

import hydra
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from diamond_bench import compose
from diamond_bench import config as c
from diamond_bench.compose import base, parse, with_values
from diamond_bench.config import DataConfig, RunConfig
from diamond_bench.errors import UserError
from diamond_bench.store.kinds import KINDS, CollectDataset, EvaluateWorldModel, TrainWorldModel, job_id
from diamond_bench.studies.spec import SCALES
from diamond_bench.typed import build, identity_fields, to_plain
from diamond_bench.worlds.oracle import Oracle


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"sampler.num_step": 3}, ["sampler.num_step", "num_steps"]),
        ({"sampler.num_steps": 0}, ["sampler.num_steps=0", "between 1"]),
        ({"execution.num_threads": 100_000}, ["execution.num_threads=100000", "between 1 and 1024"]),
        ({"sampler.num_steps": [1, 2]}, ["sampler.num_steps=[1, 2]", "whole number"]),
        ({"sampler.num_steps": "three"}, ["'three'", "whole number"]),
        ({"sampler.num_steps": True}, ["True", "whole number"]),
        ({"sampler.num_steps": 2.5}, ["2.5", "whole number"]),
        ({"training.learning_rate": "fast"}, ["training.learning_rate", "a number"]),
        ({"training.learning_rate": math.nan}, ["training.learning_rate", "a finite number"]),
        ({"execution.precision": "fp61"}, ["execution.precision", "fp32"]),
        ({"sampler.start_noise": "units"}, ["sampler.start_noise", "did you mean unit?"]),
        ({"network.depths": 2}, ["network.depths=2", "list"]),
        ({"network.depths": []}, ["network.depths=[]", "not empty", "[2,2,2,2]"]),
        ({"network.attention": []}, ["network.attention=[]", "[false,false,false,false]"]),
        ({"evaluation.metrics": []}, ["evaluation.metrics=[]", "[drift,psnr,ssim,lpips]"]),
        ({"cluster": {"name": "slurm", "setup": []}}, ["cluster.setup=[]", "[text,text]"]),
        ({"network.depths": [2, "x"]}, ["network.depths[1]", "whole number"]),
        ({"data.epsilon": 1.5}, ["data.epsilon=1.5", "between 0.0 and 1.0"]),
        ({"sampler.name": "eule"}, ["sampler.name", "did you mean euler"]),
        ({"execution.sampling_stream": 2}, ["unknown key 'execution.sampling_stream'", "did you mean execution.sampling_streams?"]),
        ({"sampler": 3}, ["sampler", "expected a group"]),
        ({"evaluation": None}, ["evaluation", "expected a group"]),
        ({"samplr.num_steps": 3}, ["samplr.num_steps", "sampler.num_steps"]),
    ],
)
def test_wrong_values_are_named(values: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        build(RunConfig, with_values(base((("scale", "tiny"),)), values))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("scal=smoke", ["scal", "scale"]),
        ("scale=smok", ["scale=smok", "smoke"]),
        ("objective=emd", ["objective=emd", "edm"]),
        ("nonsense", ["nonsense", "key=value"]),
        ("+a.b=1", ["+a.b=1"]),
        ("~scale", ["~scale"]),
        ("hydra.run.dir=x", ["hydra"]),
        ("data.dataset=${oc.env:HOME}", ["interpolations"]),
        ("sampler._target_=os.system", ["_target_"]),
        ("sampler={a:1}", ["one by one"]),
        ("sampler.num_steps=[1", ["cannot be read"]),
        ("seed=3", ["seeds="]),
        ("game=Pong", ["games="]),
    ],
)
def test_wrong_overrides_are_named(token: str, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        parse([token])
    for word in words:
        assert word in str(error.value)


def test_an_override_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="given twice"):
        parse(["scale=tiny", "scale=smoke"])


def test_sweeps_and_lists_are_distinguished() -> None:
    found = {o.key: o.values for o in parse(["sampler.num_steps=1,3", "network.channels=[8,8]", "data.policy=random"])}
    assert found == {"sampler.num_steps": (1, 3), "network.channels": ([8, 8],), "data.policy": ("random",)}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("sampler", ["euler", "heun", "ddpm_ancestral"])
@pytest.mark.parametrize("objective", ["edm", "ddpm"])
def test_plain_data_and_back(scale: str, sampler: str, objective: str) -> None:
    config = build(RunConfig, base((("objective", objective), ("sampler", sampler), ("scale", scale))))
    assert build(RunConfig, to_plain(config)) == config
    assert config.objective.name == objective
    assert config.sampler.name == sampler


@pytest.mark.parametrize(
    "choices",
    [
        (),
        (("scale", "laptop"), ("data", "random"), ("conditioning", "cross_attention")),
        (("sampler/schedule", "cosine"), ("objective", "ddpm_clean"), ("sampler", "ddim"), ("scale", "tiny")),
    ],
)
def test_choices_are_composed_one_by_one_as_hydra_composes_all_at_once(choices: tuple[tuple[str, str], ...]) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(compose.CONF), version_base="1.3"):
        whole = hydra.compose("config", overrides=[f"{group}={option}" for group, option in choices])
    assert base(choices) == OmegaConf.to_container(whole)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A sampler and a schedule, each a line in its registry and no file in conf/."""

    def forget() -> None:
        for remembered in (compose.groups, compose.known_keys, compose.base):
            remembered.cache_clear()

    forget()
    monkeypatch.setitem(c.SAMPLERS, "mine", c.Option(c.AncestralSampler, "diamond_bench.diffusion.samplers:ancestral"))
    monkeypatch.setitem(c.SCHEDULES, "even", c.Option(c.RangeSchedule, "diamond_bench.diffusion.schedules:linear"))
    yield
    forget()


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["sampler=mine"], c.AncestralSampler(name="mine")),
        (["sampler=mine", "sampler/schedule=linear"], c.AncestralSampler(name="mine", schedule=c.RangeSchedule())),
        (["sampler=mine", "sampler/schedule=flow"], c.AncestralSampler(name="mine", schedule=c.FlowSchedule(sigma_max=999.0))),
        (["sampler=mine", "sampler/schedule=even"], c.AncestralSampler(name="mine", schedule=c.RangeSchedule(name="even"))),
        (["sampler=heun", "sampler/schedule=even"], c.OdeSampler(name="heun", schedule=c.RangeSchedule(name="even"))),
    ],
    ids=[
        "alone",
        "a schedule like its neutral one",
        "a schedule with values of its own",
        "neither has a file",
        "a schedule without a file",
    ],
)
def test_a_registered_name_without_a_file_is_neutral_but_for_what_is_chosen(tokens: list[str], expected: c.Sampler) -> None:
    choices = tuple((override.key, str(override.value)) for override in parse(tokens))
    for order in (choices, choices[::-1]):
        assert build(RunConfig, base(order)).sampler == expected


def test_recorded_fields_stay_out_of_identities() -> None:
    config = RunConfig()
    same = replace(
        config,
        execution=replace(config.execution, device="cuda:3", num_threads=16),
        training=replace(config.training, checkpoint_every=7, log_every=3),
        evaluation=replace(config.evaluation, keep_frames=True),
    )
    assert identity_fields(same) == identity_fields(config)


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_result_changing_field_changes_the_identity(kind: str) -> None:
    start = _example(kind)
    inputs = dict.fromkeys(KINDS[kind].inputs, "0" * 16)
    ids = {job_id(kind, start, inputs)}
    changed = list(_changes(start))
    ids |= {job_id(kind, config, inputs) for config in changed}
    assert len(ids) == len(changed) + 1
    if inputs:
        assert job_id(kind, start, dict.fromkeys(inputs, "1" * 16)) not in ids


def _example(kind: str) -> object:
    required = {
        f.name: {"str": "x", "int": 0}[getattr(f.type, "__name__", f.type)]
        for f in dataclasses.fields(KINDS[kind].config)
        if f.default is dataclasses.MISSING
    }
    return KINDS[kind].config(**required)


def _changes(config: object) -> list[object]:
    """The config with each of its identity's leaves changed in turn."""
    out: list[object] = []
    for f in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, f.name)
        if f.metadata.get("recorded"):
            continue
        if dataclasses.is_dataclass(value):
            out += [replace(config, **{f.name: inner}) for inner in _changes(value)]  # type: ignore[type-var]
        elif isinstance(value, bool):
            out.append(replace(config, **{f.name: not value}))  # type: ignore[type-var]
        elif f.name == "family":
            out.append(replace(config, family=Oracle()))  # type: ignore[call-arg]
        elif value is None or isinstance(value, (int, float)):
            out.append(replace(config, **{f.name: 77 if value != 77 else 78}))  # type: ignore[type-var]
        elif isinstance(value, str):
            out.append(replace(config, **{f.name: value + "x"}))  # type: ignore[type-var]
        elif isinstance(value, tuple):
            out.append(replace(config, **{f.name: value + value[:1]}))  # type: ignore[type-var]
        else:
            raise AssertionError(f"{f.name}: no change known for {value!r}")
    return out


def test_a_field_added_later_at_its_neutral_value_changes_no_identity() -> None:
    @dataclasses.dataclass(frozen=True)
    class Grown(c.TrainingConfig):
        ema_decay: float = c.setting(0.0)

    old, new = TrainWorldModel(seed=3), replace(TrainWorldModel(seed=3), training=Grown())
    assert job_id("train_world_model", new, {"dataset": "a"}) == job_id("train_world_model", old, {"dataset": "a"})
    used = replace(old, training=Grown(ema_decay=0.9))
    assert job_id("train_world_model", used, {"dataset": "a"}) != job_id("train_world_model", old, {"dataset": "a"})


def test_known_identities() -> None:
    """Pinned: a change here orphans every artifact anybody has. Raise a kind's revision instead, and only when its results change."""
    assert job_id("collect_dataset", CollectDataset("Breakout"), {}) == "d83f13bd495bac22"
    spread = CollectDataset("Breakout", data=DataConfig(windows_per_episode=2))
    assert job_id("collect_dataset", spread, {}) != "d83f13bd495bac22"
    assert job_id("train_world_model", TrainWorldModel(seed=1), {"dataset": "0" * 16}) == "dc97c432d8991838"
    assert job_id("evaluate_world_model", EvaluateWorldModel(), {"dataset": "0" * 16, "world_model": "1" * 16}) == "d54026f442743085"


def test_a_renamed_setting_keeps_its_hashed_key_and_old_files_are_read() -> None:
    flow, agent = c.FactoredObjective(noise_conditioning="flow_time"), c.AgentConfig(max_initial_steps=20, collection="concurrent")
    assert identity_fields(flow) == {"name": "edm", "noise_told": "flow_time"}
    assert identity_fields(agent) == {"initial_steps_most": 20, "collection": "beside"}
    assert build(c.AgentConfig, identity_fields(agent)) == agent
    old = to_plain(flow)
    old["noise_told"] = old.pop("noise_conditioning")
    assert build(c.FactoredObjective, old) == flow
    with pytest.raises(UserError, match=r"^'objective.noise_told' was renamed: write 'objective.noise_conditioning'$"):
        build(RunConfig, with_values(base(()), {"objective.noise_told": "timestep"}))
