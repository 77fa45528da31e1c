"""The authors' CS:GO checkpoint: names and shapes of all tensors, import and export, and refusals."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import in_this_process
from safetensors.torch import save_file
from test_cascade import csgo
from test_worlds import TINY, study
from torch import Tensor
from wide_games import _family

from diamond_bench.api import load_world_model
from diamond_bench.config import CascadeSampler, NetworkConfig, world_family
from diamond_bench.envs import games
from diamond_bench.errors import UserError
from diamond_bench.launch.attempt import run_job
from diamond_bench.models.tensor_file import matched
from diamond_bench.play.naming import request
from diamond_bench.play.opening import open_sources
from diamond_bench.play.session import Session
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import sha256
from diamond_bench.store.jobspec import JobSpec
from diamond_bench.store.kinds import ImportWorldModel
from diamond_bench.stored.imagination import How, imagination_of
from diamond_bench.studies.plan import plan_study
from diamond_bench.worlds.cascade import CSGO_OBJECTIVE, Cascade, LowResolution, Upsampler
from diamond_bench.worlds.cascade.checkpoint import CSGO_ACTIONS, PREFIXES, _described, _places, cascade_state
from diamond_bench.worlds.cascade.world import CascadeWorld, build_world

FRAMES = FrameSpec(16, 24)
TRUNCATING = Cascade(factor=4, low_resolution_rounding="truncate")
DIGEST = "b91ea7e814c6cec16d71d3afc026ccffb79271cc3a30ccd23c6a70c100c0bdd6"
"""SHA-256 of the lines "name,shape" of the 573 tensors in the order of the authors' file."""


def on_meta() -> CascadeWorld:
    with torch.device("meta"):
        return build_world(csgo(), WorldSpec(FrameSpec(150, 280), CSGO_ACTIONS), device="meta")


def test_the_preset_has_the_names_shapes_and_parameters_of_the_published_model() -> None:
    world = on_meta()
    places = _places(world)
    lines = [f"{name},{'x'.join(map(str, shape))}\n" for name, (_, _, shape) in places.items()]
    assert [sum(name.startswith(prefix) for name in places) for prefix in PREFIXES.values()] == [303, 270]
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == DIGEST
    numbers = {name: sum(p.numel() for p in network.parameters()) for name, network in world.networks.items()}
    assert numbers == {"denoiser": 330_489_219, "upsampler": 51_149_187}
    cost = world_family(world.settings).cost(world.settings, world.spec, CascadeSampler())
    assert (cost.parameters, cost.calls_per_frame) == (381_638_406, 2)
    settings, spec = _described({name: shape for name, (_, _, shape) in places.items()}, FrameSpec(150, 280), 5)
    assert settings == csgo(), "the sizes that a file shows are those of the preset"
    assert spec.actions == CSGO_ACTIONS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda s: s.pop("denoiser.inner_model.unet.mid_blocks.resblocks.1.attn.qkv_proj.bias"),
            ["missing", "mid_blocks.resblocks.1.attn.qkv_proj.bias"],
        ),
        (
            lambda s: s.update({"upsampler.inner_model.cond_prj.0.bias": s["upsampler.inner_model.cond_proj.0.bias"]}),
            ["unknown", "cond_prj", "cond_proj"],
        ),
        (lambda s: s.update({"upsampler.inner_model.conv_out.bias": torch.empty(4, device="meta")}), ["conv_out.bias", "[4]", "[3]"]),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(change: Callable[[dict[str, Tensor]], object], words: list[str]) -> None:
    places = _places(on_meta())
    state = {name: torch.empty(shape, device="meta") for name, (_, _, shape) in places.items()}
    change(state)
    with pytest.raises(UserError) as error:
        matched(state, places)
    for word in words:
        assert word in str(error.value)


def small_state(bits: int = 5) -> dict[str, Tensor]:
    """A random state dict in the authors' format."""
    torch.manual_seed(0)
    network = NetworkConfig((1, 1), (8, 16), (False, True), 16)
    settings = replace(TRUNCATING, inner=LowResolution(network=network), upsampler=Upsampler(network=network))
    world = build_world(settings, WorldSpec(FRAMES, ActionSpec.columns((2,) * bits)))
    return {name: torch.randn(tensor.shape) for name, tensor in cascade_state(world).items()}


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_checkpoint_is_imported_plays_and_is_exported_to_identical_tensors(suffix: str, tmp_path: Path) -> None:
    state, file = small_state(), tmp_path / f"mine.{suffix}"
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    done = in_this_process("import", str(file), "height=16", "width=24", "factor=4", cwd=tmp_path)
    assert "height=16 width=24 factor=4" in done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    kind, job, *rest = folder.parts[-4:]
    assert (kind, rest) == ("import_world_model", ["models", "1"])
    world = load_world_model(job, output_dir=tmp_path / "outputs").bound(CascadeSampler())
    assert world.spec.actions == ActionSpec.columns((2,) * 5)
    frames = torch.zeros(1, 4, 3, 16, 24)
    begun = world.start(frames, torch.zeros(1, 4, 5, dtype=torch.int64), torch.ones(1, 4, dtype=torch.bool), torch.randn_like)
    _, step = world.step(begun, torch.ones(1, 5, dtype=torch.int64), torch.randn_like)
    assert step.frame.isfinite().all()

    in_this_process("export", job[:8], "back.pt", cwd=tmp_path)
    exported = torch.load(tmp_path / "back.pt", weights_only=True)
    assert list(exported) == list(state)
    assert all(torch.equal(exported[name], state[name]) for name in state)


KEYS = _family("keys/two", ActionSpec.columns((2, 2), ("red", "blue")), rewards=False)
"""A game of two keys."""


def test_an_imported_model_is_evaluated_in_a_study_and_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(games.ENV_FAMILIES, "keys/", f"{__name__}:KEYS")
    torch.save(small_state(bits=2), tmp_path / "mine.pt")
    store = Store(tmp_path / "outputs", say=lambda text: None)
    config = ImportWorldModel(sha256(tmp_path / "mine.pt"), str(tmp_path / "mine.pt"), 24, 40, 4)
    imported = JobSpec("import_world_model", config)
    store.prepare(imported)
    assert run_job(store, imported.ref, "cpu").name == "done"
    name = study(tmp_path, "a: {family: cascade, sampler: fast}", f"evaluation.world_model: {imported.ref}", game="keys/two")
    plan = plan_study(name, [*TINY[:1], "metrics=[drift]", "data=random", "seeds=1", f"output_dir={store.root}"])
    assert [ref.kind for ref in plan.jobs] == ["collect_dataset", "evaluate_world_model"]
    for of in plan.jobs.values():
        store.prepare(of)
        end = run_job(store, of.ref, "cpu")
        assert end.name == "done", end.text
    evaluation = plan.points[0].jobs["evaluation"]
    assert plan.jobs[evaluation].config.family.inner.network.channels == (8, 16)
    opened = open_sources(store, request(store, [str(evaluation)]))
    session = Session(opened.lanes(), opened.start(opened.starts[0]))
    assert session.step([1, 0]).shown[0].frame.shape == (3, 24, 40)
    with pytest.raises(UserError, match="evaluate it on a dataset"):
        imagination_of(store, str(imported.ref), How())
    with pytest.raises(UserError, match="add family=cascade"):
        plan_study(study(tmp_path, "a: {}", f"evaluation.world_model: {imported.ref}", game="keys/two"), [f"output_dir={store.root}"])


@pytest.mark.parametrize(
    ("options", "change", "words"),
    [
        (["height=17"], lambda s: None, ["factor=5", "17 x 280"]),
        (["game=Pong"], lambda s: None, ["'game'", "height="]),
        (["factor=x"], lambda s: None, ["factor=x"]),
        (
            [],
            lambda s: s["denoiser.inner_model.norm_out.norm.bias"].fill_(torch.nan),
            ["denoiser.inner_model.norm_out.norm.bias", "not finite"],
        ),
        ([], lambda s: s.pop("denoiser.inner_model.noise_cond_emb.weight"), ["missing", "denoiser.inner_model.noise_cond_emb.weight"]),
        ([], lambda s: [s.pop(name) for name in list(s) if name.startswith("denoiser")], ["no denoiser"]),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_created(
    options: list[str], change: Callable[[dict[str, Tensor]], object], words: list[str], tmp_path: Path
) -> None:
    state = small_state()
    change(state)
    torch.save(state, tmp_path / "mine.pt")
    said = in_this_process("import", "mine.pt", *options, cwd=tmp_path, exit_code=2).stderr
    for word in words:
        assert word in said
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("conditioning", "objective", "upsampler", "key"),
    [
        ({"actions": "group_norm"}, {}, {}, "inner.conditioning.actions='group_norm'"),
        ({"past_noise": "none"}, {}, {}, "inner.conditioning.past_noise='none'"),
        ({"past_noise": "none", "frame_noise": 0.1}, {}, {}, "inner.conditioning.frame_noise=0.1"),
        (
            {"frames": "cross_attention", "history_depths": (1,), "history_channels": (8,), "attended_levels": (True,)},
            {},
            {},
            "inner.conditioning.frames='cross_attention'",
        ),
        ({}, {"sigma_data": 0.4}, {}, "inner.objective.sigma_data=0.4"),
        ({}, {}, {"past_noise": "none"}, "upsampler.past_noise='none'"),
        ({}, {}, {"objective": replace(CSGO_OBJECTIVE, sigma_offset_noise=0.3)}, "upsampler.objective.sigma_offset_noise=0.3"),
    ],
)
def test_a_cascade_that_the_format_cannot_express_is_not_exported(
    conditioning: dict[str, Any], objective: dict[str, Any], upsampler: dict[str, Any], key: str
) -> None:
    network = NetworkConfig((1,), (8,), (False,), 8)
    inner = LowResolution(replace(CSGO_OBJECTIVE, **objective), replace(LowResolution().conditioning, **conditioning), network)
    settings = replace(TRUNCATING, inner=inner, upsampler=replace(Upsampler(network=network), **upsampler))
    world = build_world(settings, WorldSpec(FRAMES, ActionSpec.discrete(3)))
    with pytest.raises(UserError, match=f"this cascade cannot be exported: .*family.{key}"):
        cascade_state(world)


def test_a_cascade_that_rounds_is_not_exported() -> None:
    network = NetworkConfig((1,), (8,), (False,), 8)
    settings = Cascade(factor=4, inner=LowResolution(network=network), upsampler=Upsampler(network=network))
    world = build_world(settings, WorldSpec(FRAMES, ActionSpec.columns((2,) * 5)))
    with pytest.raises(UserError, match=r"no place for family.low_resolution_rounding=round; read back it would be truncate"):
        cascade_state(world)
    assert cascade_state(replace(world, settings=replace(settings, low_resolution_rounding="truncate")))
