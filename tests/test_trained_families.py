"""Families of world models that are trained: that of docs/extending.md, and one of two networks."""

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from families import CHECKS, Case, check_learns_actions
from test_training import artifact, data, train
from test_worlds import ENV, TINY, TURN, case, study

from diamond_bench import compose
from diamond_bench.config import OdeSampler, TrainingConfig
from diamond_bench.config.diffusion import Option
from diamond_bench.config.worlds import WORLD_FAMILIES
from diamond_bench.data.segments import Segments, to_float
from diamond_bench.data.static import EpisodeSet
from diamond_bench.envs.games import spec
from diamond_bench.errors import UserError
from diamond_bench.jobs import train_world_model as job
from diamond_bench.jobs.context import Interrupted
from diamond_bench.report.facts import _leaves
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import KINDS, EvaluateWorldModel, TrainWorldModel, job_id
from diamond_bench.stored.models import training_behind
from diamond_bench.studies.plan import plan_study
from diamond_bench.worlds.contract import Trainable
from diamond_bench.worlds.families import build_world_model, load_world_model

__all__ = ["data"]
MODULE = "diamond_bench.worlds.regression"
PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The page's module, registered as the family `regression`."""
    found = re.search(r"```python\n# diamond_bench/worlds/regression/__init__.py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    module = ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)
    exec(compile(found[1], str(PAGE), "exec"), module.__dict__)
    monkeypatch.setitem(WORLD_FAMILIES, "regression", Option(f"{MODULE}:Regression", f"{MODULE}:FAMILY"))
    compose.groups.cache_clear()
    yield module
    compose.groups.cache_clear()


def config(page: ModuleType, **training: Any) -> TrainWorldModel:
    settings = {"num_steps": 6, "batch_size": 2, "learning_rate": 1e-3, "milestones": (0.5, 1.0), "log_every": 2, "warmup_steps": 2}
    return TrainWorldModel(0, training=TrainingConfig(**{**settings, **training}), family=page.Regression(channels=4))


def test_the_page_s_family_keeps_to_what_every_family_does(page: ModuleType) -> None:
    described, of = config(page), spec(TURN, ENV)
    likes = case("copy_last_frame")

    def opened() -> Any:
        torch.manual_seed(0)
        return build_world_model(described, of).bound(OdeSampler())

    cost = page.FAMILY.cost(described.family, of, OdeSampler())
    for check in CHECKS:
        check(Case(opened, likes.frames, likes.actions, likes.origin, cost))


def test_the_page_s_family_learns_which_action_leads_to_which_frame(page: ModuleType) -> None:
    torch.manual_seed(0)
    (trainable,) = build_world_model(config(page), WorldSpec(FrameSpec.square(8), ActionSpec.discrete(3))).trainables(TrainingConfig())
    draws = torch.Generator().manual_seed(0)

    def segments(b: int = 16) -> Segments:
        actions = torch.randint(3, (b, 2), generator=draws)
        shown = torch.stack((torch.zeros(b, dtype=torch.int64), actions[:, 0]), dim=1) * 100 + 20
        frames = shown.to(torch.uint8)[..., None, None, None].expand(b, 2, 3, 8, 8)
        return Segments(frames, actions, torch.ones(b, 2, dtype=torch.bool))

    optimizer = torch.optim.AdamW(trainable.network.parameters(), 3e-2)
    for _ in range(80):
        loss, _ = trainable.loss(segments(), draws)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    check_learns_actions(trainable, segments(64))


def test_what_was_trained_is_saved_and_read_back_by_its_name(page: ModuleType, data: EpisodeSet, tmp_path: Path) -> None:
    train(tmp_path / "t", config=config(page))
    folder, frames = tmp_path / "t" / "models" / "1", FrameSpec.square(16)
    half, whole = (load_world_model(tmp_path / "t" / "models" / name, frames) for name in ("0.5", "1"))
    assert whole.description == half.description == (page.Regression(channels=4), WorldSpec(frames, ActionSpec.discrete(4), False, False))
    weights = [world.networks["network"].state_dict()["0.weight"] for world in (half, whole)]
    assert not torch.equal(*weights)
    with pytest.raises(UserError, match="frames 16 x 16 and actions Discrete"):
        load_world_model(folder, FrameSpec.square(8))
    described = (folder / "model.json").read_text()
    (folder / "model.json").write_text(described.replace('"regression"', '"regresion"'))
    with pytest.raises(UserError, match=r"model\.json: .*regresion.*regression"):
        load_world_model(folder, frames)
    (folder / "model.json").write_text(described.replace('"channels": 4', '"channels": 5'))
    with pytest.raises(UserError, match="its tensors are not those"):
        load_world_model(folder, frames)


def two_networks(page: ModuleType) -> None:
    """Adds a second network, which learns the error of the first."""
    one = page.build

    def build(*given: Any) -> Any:
        world = one(*given)
        second = torch.nn.Conv2d(3, 3, 1)

        class Two(type(world)):  # type: ignore[misc]
            @property
            def networks(self) -> dict[str, torch.nn.Module]:
                return {"network": world.network, "second": second}

            def error(self, segments: Segments, generator: torch.Generator) -> Any:
                with torch.no_grad():
                    shown = self.predict(to_float(segments)[:, :1], segments.actions[:, :1], torch.zeros_like)
                left = to_float(segments)[:, 1] - shown - second(shown)
                return left.square().mean(), {}

            def trainables(self, training: TrainingConfig) -> list[Trainable]:
                return [*super().trainables(training), Trainable("second", second, 3, self.error)]

        return Two(world.settings, world.spec, world.network)

    page.build = build  # type: ignore[attr-defined]


@pytest.mark.parametrize("stop_after", [4, 6, 9])
def test_networks_are_trained_one_after_the_other_and_an_interruption_changes_no_byte(
    page: ModuleType, data: EpisodeSet, tmp_path: Path, stop_after: int
) -> None:
    """Stopped within the first network, between the two, and within the second."""
    two_networks(page)
    described = config(page, ema=0.5)
    assert train(tmp_path / "whole", config=described)[-1] == 12
    with pytest.raises(Interrupted, match=f"update {stop_after} of 12"):
        train(tmp_path / "parts", stop_after, described)
    train(tmp_path / "parts", config=described)
    whole = artifact(tmp_path / "whole")
    assert artifact(tmp_path / "parts") == whole
    assert {"models/0.5/model.safetensors", "models/1/ema/model.safetensors"} <= set(whole)
    half, full = (load_world_model(job.model_folder(tmp_path / "whole", share), FrameSpec.square(16)).networks for share in (0.5, 1.0))
    first = [world["network"].state_dict() for world in (half, full)]
    assert all(torch.equal(first[0][name], first[1][name]) for name in first[0]), "the first network was done at the first milestone"
    assert not torch.equal(half["second"].weight, full["second"].weight)  # type: ignore[arg-type]


ARMS = "learned: {}, regression: {family: regression}, wide: {family: regression, family.channels: 32}"


def test_a_study_trains_it_once_for_each_of_its_settings(page: ModuleType, tmp_path: Path) -> None:
    name = study(tmp_path, f"{ARMS}, same: {{family: regression, sampler.num_steps: 7}}", "sampler.num_steps: 2, objective.loc: -0.3")
    plan = plan_study(name, list(TINY))
    trainings = {ref: of.config for ref, of in plan.jobs.items() if ref.kind == "train_world_model"}
    assert sorted(of.family.channels if of.family else 0 for of in trainings.values()) == [0, 0, 16, 16, 32, 32]
    for point in plan.points:
        trained, evaluated = trainings[point.jobs["world_model"]], plan.jobs[point.jobs["evaluation"]].config
        assert evaluated.family == trained.family
        if trained.family is not None:
            assert evaluated.sampler == OdeSampler()
            assert trained == TrainWorldModel(point.seed, training=trained.training, execution=trained.execution, family=trained.family)
    ref, wide = next((ref, of) for ref, of in trainings.items() if of.family is not None and of.family.channels == 32)
    cost, inputs = KINDS["train_world_model"].costs, {"dataset": plan.jobs[plan.jobs[ref].inputs["dataset"]].config}
    pixels = inputs["dataset"].env.frame_size ** 2
    call = 2 * 9 * pixels * (4 * 32 + 32 * 3)
    assert cost.work(wide, inputs) == 3 * call * wide.training.batch_size * wide.training.num_steps
    assert cost.arithmetic(wide, inputs).network == '{"channels": 32, "name": "regression"}'
    jobs = {"train_world_model": wide, "evaluate_world_model": EvaluateWorldModel(family=wide.family)}
    ids = {job_id(kind, of, {}) for kind, of in jobs.items()}
    page.FAMILY = replace(page.FAMILY, revision=2)
    assert not ids & {job_id(kind, of, {}) for kind, of in jobs.items()}, "of a training and of its evaluation"


@pytest.mark.parametrize(
    ("arms", "tokens", "words"),
    [
        ("a: {family: regression}", ("sampler.num_steps=5",), ["sampler.num_steps", "has no effect", "family=regression"]),
        ("a: {family: regression, objective: ddpm}", (), ["objective", "has no effect", "family=regression"]),
        ("a: {family: regression}", ("training.num_autoregressive_steps=2",), ["num_autoregressive_steps", "has no effect"]),
        ("a: {family: regression}", ("execution.precision=bf16",), ["execution.precision", "has no effect"]),
        ("a: {family: regression, family.chanels: 3}", (), ["family.chanels", "channels"]),
        ("a: {family: regression}", ("evaluation.world_model=train_agent/0",), ["evaluation.world_model", "no agent"]),
    ],
)
def test_what_it_cannot_do_or_does_not_read_is_refused_at_planning(
    arms: str, tokens: tuple[str, ...], words: list[str], page: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as error:
        plan_study(study(tmp_path, arms), [*TINY, *tokens])
    for word in words:
        assert word in str(error.value)


def test_a_report_distinguishes_variants_by_the_settings_of_their_family(page: ModuleType) -> None:
    found = [dict(_leaves(of, "")) for of in (EvaluateWorldModel(), EvaluateWorldModel(family=page.Regression(channels=4)))]
    assert [{key: of[key] for key in of if key.startswith("family")} for of in found] == [
        {"family": "diamond"},
        {"family": "regression", "family.channels": 4},
    ]


def test_a_family_that_needs_more_frames_than_there_are_is_refused(page: ModuleType, tmp_path: Path) -> None:
    page.FAMILY = replace(page.FAMILY, context=lambda settings: 9)
    with pytest.raises(UserError, match=r"frames that family=regression predicts from=9: .*data\.reference_context=8"):
        plan_study(study(tmp_path, "a: {family: regression}"), list(TINY))


def test_agents_of_it_are_planned(page: ModuleType, tmp_path: Path) -> None:
    plan = plan_study(study(tmp_path, "a: {family: regression, family.channels: 4}", protocol="agent"), ["scale=tiny"])
    trainings = [of.config for ref, of in plan.jobs.items() if ref.kind == "train_agent"]
    assert [config.family for config in trainings] == [page.Regression(channels=4)] * 2
    assert all(config.trains_world_model and config.trains_reward_end for config in trainings)


def test_the_api_finds_the_training_behind_an_evaluation_of_it(page: ModuleType, tmp_path: Path) -> None:
    store, training = Store(tmp_path, say=lambda text: None), JobRef("train_world_model", "1" * 16)
    inputs = {"dataset": JobRef("collect_dataset", "0" * 16), "world_model": training}
    evaluation = JobSpec("evaluate_world_model", EvaluateWorldModel(family=page.Regression(channels=4)), inputs)
    store.prepare(evaluation)
    assert training_behind(store, evaluation.ref) == (training, evaluation.config.evaluation)
