"""The family `cascade`: its low resolution, its training and its place in plans, studies and play."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import check_learns_actions
from test_change import play_of
from test_training import artifact, data, train
from test_worlds import CASCADE, NETWORK, TINY, study
from torch import Tensor

from diamond_bench.compose import base
from diamond_bench.config import CascadeSampler, FactoredObjective, RunConfig, TrainingConfig, world_family
from diamond_bench.data.segments import Segments
from diamond_bench.data.static import EpisodeSet
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import Interrupted
from diamond_bench.launch.attempt import run_job
from diamond_bench.play.naming import request
from diamond_bench.play.opening import open_sources
from diamond_bench.play.session import Session
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.store.artifacts import Store
from diamond_bench.store.kinds import KINDS, TrainWorldModel
from diamond_bench.studies.plan import plan_study, save_plan
from diamond_bench.typed import build
from diamond_bench.worlds.cascade import Cascade
from diamond_bench.worlds.cascade.world import CascadeWorld, build_world
from diamond_bench.worlds.families import load_world_model

__all__ = ["data"]
SPEC = WorldSpec(FrameSpec.square(16), ActionSpec.discrete(4))


CHANGES = FactoredObjective(coordinate="change", sigma_data="measured", sigma_offset_noise=0.0, quantization="round")
MEASURED = replace(CASCADE, inner=replace(CASCADE.inner, objective=CHANGES), upsampler=replace(CASCADE.upsampler, objective=CHANGES))
"""A cascade that measures the sigma_data of both stages."""


def config(family: Cascade = CASCADE) -> TrainWorldModel:
    training = TrainingConfig(num_steps=3, batch_size=2, accumulation=2, learning_rate=1e-3, milestones=(1.0,), log_every=2)
    return TrainWorldModel(0, training=training, family=family)


def csgo() -> Cascade:
    """The preset family=csgo."""
    family = build(RunConfig, base((("family", "csgo"), ("scale", "paper")))).family
    assert isinstance(family, Cascade)
    return family


def test_the_presets_have_the_authors_constants() -> None:
    """The values are those of the CS:GO branch of the authors' code.

    Samplers and networks are compared in test_cascade_parity.py and test_cascade_import.py.
    """
    run = build(RunConfig, base((("training", "csgo"), ("family", "csgo"), ("scale", "paper"))))
    training, family = run.training, run.family
    assert isinstance(family, Cascade)
    assert (training.learning_rate, training.weight_decay, training.adam_epsilon, training.adam_beta2) == (1e-4, 1e-2, 1e-8, 0.999)
    assert (training.warmup_steps, training.cooldown, training.max_grad_norm) == (100, 0, 10)
    assert (training.examples, family.upsampler.batch_size * training.accumulation) == (16 * 8, 4 * 8)
    assert (training.num_autoregressive_steps, family.upsampler.num_autoregressive_steps) == (4, 1)
    for objective in (family.inner.objective, family.upsampler.objective):
        assert (objective.loc, objective.scale, objective.sigma_min, objective.sigma_max) == (-1.2, 1.2, 2e-3, 20)
        assert (objective.sigma_data, objective.sigma_offset_noise, objective.quantization) == (0.5, 0.1, "truncate")
    assert (family.inner.conditioning.past_noise, family.upsampler.past_noise) == ("training", "constant")
    assert (family.factor, family.low_resolution_rounding) == (5, "truncate")


def edge() -> Tensor:
    """A black and a white half, (1, 1, 3, 16, 16)."""
    return torch.ones(1, 1, 3, 16, 16) * torch.linspace(-1, 1, 16).sign()


def test_low_resolution_is_clamped_on_the_grid_and_exactly_zero_where_padded() -> None:
    """Antialiased bicubic resizing overshoots at an edge (1.026), which wraps around in the authors' bytes."""
    world = build_world(CASCADE, SPEC)
    raw = torch.nn.functional.interpolate(edge()[0], (8, 8), mode="bicubic", antialias=True)
    assert raw.max() > 1.02
    mask = torch.ones(1, 1, dtype=torch.bool)
    low = world.shrunk(edge(), mask)
    assert low.shape == (1, 1, 3, 8, 8)
    assert low[..., 0].unique().tolist() == [-1.0]
    assert low[..., 7].unique().tolist() == [1.0]
    levels = (low + 1) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-3
    assert not world.shrunk(torch.zeros(1, 1, 3, 16, 16), ~mask).any()
    grey = torch.full((1, 1, 3, 16, 16), 0.4 / 127.5)  # level 127.9
    truncating = replace(world, settings=replace(CASCADE, low_resolution_rounding="truncate"))
    assert [round(float((w.shrunk(grey, mask)[0, 0, 0, 0, 0] + 1) * 127.5)) for w in (world, truncating)] == [128, 127]


def test_a_state_is_the_inner_state_and_the_last_full_frame() -> None:
    world = build_world(CASCADE, SPEC).bound(CascadeSampler())
    frames = torch.rand(2, 5, 3, 16, 16) * 2 - 1
    state = world.start(frames, torch.zeros(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.bool), torch.randn_like)
    assert [tuple(tensor.shape) for tensor in state] == [(2, 2, 3, 8, 8), (2, 2), (2, 1, 3, 16, 16)]
    assert torch.equal(state[2], frames[:, -1:])


def test_the_inner_model_learns_which_action_leads_to_which_frame() -> None:
    torch.manual_seed(0)
    inner = replace(CASCADE.inner, network=replace(NETWORK, depths=(1,), channels=(8,), attention=(False,)))
    world = build_world(replace(CASCADE, inner=inner), WorldSpec(FrameSpec.square(8), ActionSpec.discrete(3)))
    (trainable, upsampler) = world.trainables(TrainingConfig(num_autoregressive_steps=0))
    assert (trainable.segment_length, upsampler.segment_length) == (3, 3)
    draws = torch.Generator().manual_seed(0)

    def segments(b: int = 16) -> Segments:
        actions = torch.randint(3, (b, 3), generator=draws)
        shown = torch.cat((torch.zeros(b, 1, dtype=torch.int64), actions[:, :-1]), dim=1) * 100 + 20
        frames = shown.to(torch.uint8)[..., None, None, None].expand(b, 3, 3, 8, 8)
        return Segments(frames, actions, torch.ones(b, 3, dtype=torch.bool))

    optimizer = torch.optim.AdamW(trainable.network.parameters(), 3e-2)
    for _ in range(60):
        loss, _ = trainable.loss(segments(), draws)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    check_learns_actions(trainable, segments(64))


def test_the_upsampler_sees_the_enlarged_true_frame_of_the_time_that_it_predicts() -> None:
    """A video of one grey level per frame: the picture after the past frame has the level of the frame to predict."""
    world = build_world(CASCADE, SPEC)
    seen: list[Tensor] = []
    world.upsampler.network.register_forward_pre_hook(lambda module, given: seen.append(given[2]))
    shown = (torch.arange(4) * 60 + 20).to(torch.uint8)
    frames = shown[None, :, None, None, None].expand(2, 4, 3, 16, 16)
    segments = Segments(frames, torch.zeros(2, 4, dtype=torch.int64), torch.ones(2, 4, dtype=torch.bool))
    (_, upsampler) = world.trainables(TrainingConfig())
    upsampler.loss(segments, torch.Generator().manual_seed(0))
    pictures = [float(past[0, 3:].mean()) * 0.5 for past in seen]  # the network receives frames divided by sigma_data
    assert pictures == pytest.approx([float(level) / 127.5 - 1 for level in shown[1:]], abs=1e-5)
    assert float(seen[0][0, :3].mean()) * 0.5 == pytest.approx(20 / 127.5 - 1, abs=1e-5)


@pytest.mark.parametrize(("stop_after", "family"), [(1, CASCADE), (4, MEASURED)])
def test_an_interrupted_training_of_both_stages_ends_with_the_same_bytes(
    data: EpisodeSet, tmp_path: Path, stop_after: int, family: Cascade
) -> None:
    """Stopped within the first stage, and within the second. Each update has two batches."""
    assert train(tmp_path / "whole", config=config(family))[-1] == 6
    with pytest.raises(Interrupted, match=f"update {stop_after} of 6"):
        train(tmp_path / "parts", stop_after, config(family))
    train(tmp_path / "parts", config=config(family))
    assert artifact(tmp_path / "parts") == artifact(tmp_path / "whole")
    if stop_after == 4:
        loaded = load_world_model(tmp_path / "whole" / "models" / "1", SPEC.frames)
        assert isinstance(loaded, CascadeWorld)
        assert loaded.settings == family
        assert sorted(loaded.networks) == ["denoiser", "upsampler"]
        fresh = build_world(family, SPEC)
        fresh.measure(data)
        assert loaded.measured == fresh.measured
        assert list(loaded.measured) == ["sigma_data_inner", "sigma_data_upsampler"]


def test_each_stage_measures_the_root_mean_square_of_what_it_predicts() -> None:
    """Columns of +-20 levels around a grey that alternates between 100 and 110. At half the size, inner columns have their mean."""
    columns = torch.tensor([-20, 20]).repeat(32)
    greys = torch.tensor([100, 110]).repeat(3)
    frames = (greys[:, None, None, None] + columns.expand(3, 64, 64)).to(torch.uint8)
    play = play_of(frames)
    world = build_world(MEASURED, WorldSpec(FrameSpec.square(64), ActionSpec.discrete(4)))
    world.measure(play)
    assert world.measured["sigma_data_inner"] == pytest.approx(2 * 10 / 255, rel=1e-3), "the grey changes by 10 levels per frame"
    assert world.measured["sigma_data_upsampler"] == pytest.approx(2 * 20 / 255, rel=0.02), "only the columns are lost at low resolution"

    def of_frames(objective: FactoredObjective) -> CascadeWorld:
        frame = replace(objective, coordinate="frame")
        upsampler = replace(MEASURED.upsampler, objective=frame)
        return build_world(replace(MEASURED, inner=replace(MEASURED.inner, objective=frame), upsampler=upsampler), world.spec)

    world = of_frames(CHANGES)
    world.measure(play)
    levels = (2 * greys.double() / 255 - 1).square().mean()
    assert world.measured["sigma_data_inner"] == pytest.approx(float(levels.sqrt()), rel=0.01)
    assert world.measured["sigma_data_upsampler"] == pytest.approx(float((levels + (40 / 255) ** 2).sqrt()), rel=1e-5)


def test_gradients_of_several_batches_are_those_of_their_mean(data: EpisodeSet) -> None:
    """The gradient of two batches of 3 is that of their mean loss."""
    from diamond_bench.training.learner import Learner

    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(6, 4, generator=generator)

    def grown(accumulation: int) -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(1)
        network = torch.nn.Linear(4, 1)
        learner = Learner(network, TrainingConfig(warmup_steps=0, max_grad_norm=1e9), accumulation=accumulation)

        def loss_of(part: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            assert len(part) == 6 // accumulation
            loss = network(part).square().mean()
            return loss, {"loss": loss.detach()}

        found = learner.learn(loss_of, (batch,))
        assert network.weight.grad is not None
        return network.weight.grad, found

    (one, found), (two, also) = grown(1), grown(2)
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(found["loss"], also["loss"])
    torch.testing.assert_close(found["grad_norm"], also["grad_norm"])


SMALL = (
    "family.factor: 2, family.inner.conditioning.num_frames: 2, "
    "family.inner.network.depths: [1, 1], family.inner.network.channels: [8, 8], family.inner.network.attention: [false, false], "
    "family.inner.network.cond_channels: 16, family.upsampler.network.depths: [1, 1], family.upsampler.network.channels: [8, 8], "
    "family.upsampler.network.attention: [false, false], family.upsampler.network.cond_channels: 16"
)
ARMS = f"fast: {{family: cascade, sampler: fast, {SMALL}}}, slow: {{family: cascade, sampler: fast, sampler.upsampling_steps: 2, {SMALL}}}"


def test_a_study_trains_a_cascade_once_for_several_samplers_and_its_report_and_play_work(tmp_path: Path) -> None:
    name = study(tmp_path, ARMS, "env.frame_size: 16, data: random")
    plan = plan_study(
        name,
        [
            *(token for token in TINY if not token.startswith("metrics")),
            "seeds=1",
            f"output_dir={tmp_path}/out",
            "training.num_steps=4",
            "metrics=[drift]",
        ],
    )
    kinds = [ref.kind for ref in plan.jobs]
    assert (kinds.count("train_world_model"), kinds.count("evaluate_world_model")) == (1, 2), "samplers share a training"
    ref, trained = next((ref, of) for ref, of in plan.jobs.items() if ref.kind == "train_world_model" and of.config.family is not None)
    cost, inputs = KINDS["train_world_model"].costs, {"dataset": plan.jobs[trained.inputs["dataset"]].config}
    assert cost.work(trained.config, inputs) > 0
    store = Store(tmp_path / "out", say=lambda text: None)
    for of in plan.jobs.values():
        store.prepare(of)
        assert run_job(store, of.ref, "cpu").name == "done"
    rows = {point.arm: store.result(point.jobs["evaluation"]).rows for point in plan.points}
    by_arm = {arm: {(row["metric"], row["baseline"]): row["value"] for row in found} for arm, found in rows.items()}
    assert {arm: rows["nfe_per_frame", ""] for arm, rows in by_arm.items()} == {"fast": 2.0, "slow": 4.0}
    assert (
        by_arm["fast"]["parameters", ""]
        == world_family(trained.config.family).cost(trained.config.family, SPEC3, CascadeSampler()).parameters
    )
    assert store.result(ref).info["updates"] == 8, "of both networks"
    save_plan(plan, store.root)

    opened = open_sources(store, request(store, ["mine", "variant=fast"]), real=True)
    (fast, game) = opened.facts
    assert (fast.samplers, fast.watchable, game.real) == (("fast", "higher_quality"), True, True)
    session = Session(opened.lanes(), opened.start(opened.starts[0]), seed=0)
    moment = session.step(1)
    assert moment.shown[0].frame.shape == (3, 16, 16)
    assert len(session.denoising(0)) == 1, "of the upsampler"


SPEC3 = WorldSpec(FrameSpec.square(16), ActionSpec.discrete(3))


@pytest.mark.parametrize(
    ("arms", "words"),
    [
        ("a: {family: cascade}", ["sampler=euler", "two stages", "sampler=fast"]),
        ("a: {sampler: fast}", ["sampler=fast", "two stages", "family=cascade"]),
        ("a: {family: cascade, sampler: fast, family.factor: 3}", ["family.factor=3", "16 x 16 pixels; valid: 2, 4, 8, 16"]),
        ("a: {family: cascade, sampler: fast, sampler.s_cond: 0}", ["sampler.s_cond=0", "family.inner.conditioning.past_noise"]),
        ("a: {sampler.s_cond: 0.1}", ["sampler.s_cond=0.1", "conditioning.past_noise=training"]),
        ("a: {conditioning.past_noise: training}", ["sampler.s_cond=0", "0.005"]),
        ("a: {conditioning.past_noise: training, conditioning.frame_noise: 0.1}", ["conditioning.past_noise", "frame_noise"]),
        ("a: {family: cascade, sampler: fast, sampler.upsampling_sigma_max: 50}", ["sigma 50", "sampler.upsampling_sigma_max"]),
        ("a: {family: cascade, sampler: fast, family.inner.network.channels: [8]}", ["family.inner.network"]),
        ("a: {family: cascade, sampler: fast, objective.loc: 0}", ["objective.loc", "has no effect", "family=cascade"]),
    ],
)
def test_what_does_not_fit_is_refused_at_planning(arms: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        plan_study(study(tmp_path, arms, "env.frame_size: 16"), list(TINY))
    for word in words:
        assert word in str(error.value)


def test_noise_on_past_frames_works_in_a_model_of_one_stage(tmp_path: Path) -> None:
    arms = "a: {conditioning.past_noise: training, sampler.s_cond: 0.005}, b: {}"
    plan = plan_study(study(tmp_path, arms, "env.frame_size: 16"), list(TINY))
    trained = [of.config.conditioning.past_noise for ref, of in plan.jobs.items() if ref.kind == "train_world_model"]
    assert sorted(trained) == ["none", "none", "training", "training"]


def test_an_agent_does_not_accumulate(tmp_path: Path) -> None:
    name = study(tmp_path, "a: {}", "training.accumulation: 2", protocol="agent")
    with pytest.raises(UserError, match=r"training\.accumulation=2: an agent"):
        plan_study(name, ["scale=tiny"])
