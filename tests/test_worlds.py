"""The families of world models: what each keeps to (see families.py), where the oracle meets the truth, and their place in plans."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import CHECKS, CPU, Case, check_learns_actions, draw
from test_report import finish
from test_train_agent import stopping_at
from torch import Tensor

from diamond_bench import api
from diamond_bench.agent import load_agent
from diamond_bench.config import (
    CascadeSampler,
    ConditioningConfig,
    EnvConfig,
    FactoredObjective,
    NetworkConfig,
    OdeSampler,
    Sampler,
    TrainingConfig,
    WorldSettings,
    imported,
)
from diamond_bench.config.worlds import WORLD_FAMILIES, WorldCost, families_table, world_family
from diamond_bench.costs.world_model import frame_flops
from diamond_bench.data.minari_io import read_seeds
from diamond_bench.data.replay import Replay
from diamond_bench.data.segments import Segments
from diamond_bench.data.static import load_split
from diamond_bench.diffusion.quantization import from_bytes, to_bytes
from diamond_bench.envs.games import make_env, spec
from diamond_bench.envs.synthetic import next_frames
from diamond_bench.errors import UserError
from diamond_bench.evaluation.rollouts import seeded_draw
from diamond_bench.jobs import train_agent
from diamond_bench.jobs.agent_learners import Learners
from diamond_bench.jobs.agent_play import RealPlay
from diamond_bench.jobs.context import Interrupted, JobContext, Result
from diamond_bench.models.frame_transformer_cost import FrameTransformerConfig
from diamond_bench.models.token_transformer_cost import TransformerConfig
from diamond_bench.models.vq_tokenizer_cost import TokenizerConfig
from diamond_bench.report.comparison import compare_study
from diamond_bench.report.facts import gather
from diamond_bench.report.figures import study_figures
from diamond_bench.results.table import collect
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef
from diamond_bench.store.kinds import KINDS, EvaluateWorldModel, TrainAgent, TrainWorldModel, job_id
from diamond_bench.studies.plan import Plan, plan_study, save_plan
from diamond_bench.studies.single import plan_train
from diamond_bench.training.means import Means
from diamond_bench.typed import build
from diamond_bench.worlds.cascade import Cascade, LowResolution, Upsampler
from diamond_bench.worlds.contract import TrainedWorld, WorldModel, imagined_frames
from diamond_bench.worlds.copy_last_frame import CopyLastFrame
from diamond_bench.worlds.diamond.world import Description, build_diamond
from diamond_bench.worlds.families import open_world
from diamond_bench.worlds.oracle import Oracle
from diamond_bench.worlds.oracle.packing import pack, unpack
from diamond_bench.worlds.recorded import recorded
from diamond_bench.worlds.recordings import recorded_episodes
from diamond_bench.worlds.tokens import Tokens
from diamond_bench.worlds.transformer import Transformer

TURN, ENV = "synthetic/turn", EnvConfig(frame_size=16)
NETWORK = NetworkConfig(depths=(1, 1), channels=(8, 8), attention=(False, True), cond_channels=8)


@dataclass(frozen=True)
class Played:
    """Recorded play in memory: recording i began with the seed i."""

    game: str
    env: EnvConfig
    frames: np.ndarray  # (n, T + 1, 3, h, w)
    actions: np.ndarray  # (n, T)
    continues = False

    def name(self, number: int) -> str:
        return f"recording {number}"

    def seed(self, number: int) -> int:
        return number

    def action(self, number: int, step: int) -> Any:
        return self.actions[number, step]

    def frame(self, number: int, step: int) -> np.ndarray:
        return self.frames[number, step]


@cache
def played(game: str = TURN, env: EnvConfig = ENV, steps: int = 16, number: int = 3) -> Played:
    actions = np.random.default_rng(0).integers(3, size=(number, steps))
    rows = []
    for seed in range(number):
        built = make_env(game, env)
        frames = [np.array(built.reset(seed=seed)[0])]
        frames += [np.array(built.step(int(action))[0]) for action in actions[seed]]
        rows.append(np.stack(frames).transpose(0, 3, 1, 2))
    return Played(game, env, np.stack(rows), actions)


def case(family: str) -> Case:
    play, seen = played(), 4
    frames = from_bytes(torch.from_numpy(play.frames[:, :seen].copy()))
    origin = torch.stack((torch.arange(len(frames)), torch.full((len(frames),), seen - 1)), dim=1)
    actions = torch.from_numpy(play.actions[:, : seen + 5])
    if family in TRAINED:
        return trained_case(family, frames, actions, origin)
    if family != "diamond":
        settings = WORLD_FAMILIES[family].settings_type()()
        cost = world_family(settings).cost(settings, spec(TURN, ENV), OdeSampler())
        return Case(lambda: open_world(settings, spec(TURN, ENV), CPU, play), frames, actions, origin, cost)
    objective, conditioning, sampler = FactoredObjective(), ConditioningConfig(num_frames=2), OdeSampler(num_steps=2)

    def opened() -> WorldModel:
        torch.manual_seed(0)
        world = build_diamond(Description(objective, conditioning, NETWORK, 3), FrameSpec.square(16)).bound(sampler)
        for parameter in world.denoiser.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        return world

    producer = TrainWorldModel(0, objective, conditioning, NETWORK)
    number = sum(p.numel() for p in opened().networks["denoiser"].parameters())  # held against its formula in test_models.py
    cost = WorldCost(number, frame_flops(producer, sampler, FrameSpec.square(16)), 2, 2 * (16 * 16 * 3 * 4 + 8))
    return Case(opened, frames, actions, origin, cost, tolerance=0.05)


CASCADE = Cascade(
    factor=2,
    inner=LowResolution(conditioning=replace(LowResolution().conditioning, num_frames=2), network=NETWORK),
    upsampler=Upsampler(network=NETWORK),
)
"""Two small stages, for frames of 16 pixels."""


TOKENS = Tokens(
    tokenizer=TokenizerConfig(8, levels=4, depth=1, attention=(8,), latent_channels=8, code_width=8, codes=8, perceptual=False),
    transformer=TransformerConfig(2, 2, 16, num_frames=4),
)
"""Four tokens per frame of 16 pixels, and a memory of four frames."""
TRANSFORMER = Transformer(network=FrameTransformerConfig(2, 2, 8, patch=8, num_frames=4), num_frames=3)
"""Four patches per frame of 16 pixels, and a memory of three frames."""
TRAINED: dict[str, tuple[WorldSettings, Sampler]] = {
    "cascade": (CASCADE, CascadeSampler(num_steps=2)),
    "tokens": (TOKENS, OdeSampler()),
    "transformer": (TRANSFORMER, OdeSampler(num_steps=2)),
}


def trained_case(family: str, frames: Tensor, actions: Tensor, origin: Tensor) -> Case:
    (settings, sampler), of = TRAINED[family], spec(TURN, ENV)

    def opened() -> WorldModel:
        torch.manual_seed(0)
        world: TrainedWorld = imported(world_family(settings).build)(settings, of, "fp32", CPU)
        for network in world.networks.values():
            for parameter in network.parameters():
                torch.nn.init.normal_(parameter, std=0.2)
        return world.bound(sampler)

    return Case(opened, frames, actions, origin, world_family(settings).cost(settings, of, sampler), tolerance=0.05)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("family", ["diamond", *WORLD_FAMILIES])
def test_every_family_keeps_to(family: str, check: Callable[[Case], None]) -> None:
    check(case(family))


def test_diamond_learns_which_action_leads_to_which_frame() -> None:
    """A game whose frame shows the action before it."""
    torch.manual_seed(0)
    network = NetworkConfig(depths=(1,), channels=(8,), attention=(False,), cond_channels=8)
    description = Description(FactoredObjective(), ConditioningConfig(num_frames=2), network, 3)
    training = TrainingConfig(num_autoregressive_steps=0)
    (trainable,) = build_diamond(description, FrameSpec.square(8)).trainables(training)
    draws = torch.Generator().manual_seed(0)

    def segments(b: int = 16) -> Segments:
        actions = torch.randint(3, (b, trainable.segment_length), generator=draws)
        shown = torch.cat((torch.zeros(b, 1, dtype=torch.int64), actions[:, :-1]), dim=1) * 100 + 20
        frames = shown.to(torch.uint8)[..., None, None, None].expand(*shown.shape, 3, 8, 8)
        return Segments(frames, actions, torch.ones(shown.shape, dtype=torch.bool))

    optimizer = torch.optim.AdamW(trainable.network.parameters(), 1e-2)
    for _ in range(50):
        loss, _ = trainable.loss(segments(), draws)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    check_learns_actions(trainable, segments(64))


def imagined(play: Played, seen: int = 4, seed: int = 0) -> np.ndarray:
    """What the oracle makes of the recorded actions: frames (n, T + 1 - seen, 3, h, w)."""
    world = open_world(Oracle(), spec(play.game, play.env), CPU, play)
    n = len(play.frames)
    origin = torch.stack((torch.arange(n), torch.full((n,), seen - 1)), dim=1)
    past = from_bytes(torch.from_numpy(play.frames[:, :seen].copy()))
    frames = imagined_frames(world, past, torch.from_numpy(play.actions), seeded_draw([(seed, i) for i in range(n)], CPU), origin)
    return torch.stack([to_bytes(frame) for frame in frames], dim=1).numpy()


def test_the_oracle_is_the_truth_where_nothing_is_random() -> None:
    play = played(env=replace(ENV, minority_share=0.0))
    assert np.array_equal(imagined(play), play.frames[:, 4:])


def test_the_oracle_differs_from_the_truth_only_where_the_game_is_random() -> None:
    """One step from every place of the recorded play, and whole futures."""
    play = played(steps=24)
    world = open_world(Oracle(), spec(TURN, ENV), CPU, play)
    places = [(n, t) for n in range(3) for t in range(1, 24)]
    past = from_bytes(torch.from_numpy(np.stack([play.frames[n, t - 1 : t + 1] for n, t in places])))
    taken = torch.tensor([[play.actions[n, t - 1], play.actions[n, t]] for n, t in places])
    state = world.start(past, taken, torch.ones(taken.shape, dtype=torch.bool), draw(range(len(places))), torch.tensor(places))
    _, step = world.step(state, taken[:, 1], draw(range(len(places))))
    certain = different = 0
    for (n, t), frame in zip(places, to_bytes(step.frame).numpy(), strict=True):
        modes, _ = next_frames(TURN, play.frames[n, : t + 1], play.actions[n, t], 0.2)
        assert any(np.array_equal(frame, mode) for mode in modes), "not a frame that the game can lead to"
        same = np.array_equal(frame, play.frames[n, t + 1])
        assert same or len(modes) == 2
        certain, different = certain + (len(modes) == 1), different + (not same)
    assert certain > 3
    assert different > 3, "its random numbers are its own, not those of the recorded play"
    frames = imagined(play)
    assert not np.array_equal(frames, imagined(play, seed=1))
    assert np.array_equal(frames, imagined(play))


def test_an_oracle_of_atari_plays_on_from_a_replayed_game() -> None:
    play = played("Boxing", EnvConfig(frame_size=16), steps=12, number=2)
    assert np.array_equal(imagined(play), play.frames[:, 4:])


def test_play_that_cannot_be_replayed_is_refused() -> None:
    play = played()
    changed = play.frames.copy()
    changed[1, 3] ^= 1
    with pytest.raises(UserError, match=r"recording 1 gave another frame at step 3"):
        imagined(replace(play, frames=changed))
    with pytest.raises(UserError, match="no recorded play"):
        open_world(Oracle(), spec(TURN, ENV), CPU)
    world = open_world(Oracle(), spec(TURN, ENV), CPU, play)
    with pytest.raises(UserError, match="seed and actions are recorded"):
        world.start(torch.zeros(1, 1, 3, 16, 16), torch.zeros(1, 1), torch.ones(1, 1), draw(range(1)))
    with pytest.raises(ValueError, match="pure"):
        recorded(world)


def test_packed_states_come_back() -> None:
    saved = {"a": torch.arange(6, dtype=torch.uint8).reshape(2, 3), "b": [1, "two", None, {"c": torch.ones(2)}], "d": {}}
    back = unpack(pack(saved) + b"\0\0")
    assert torch.equal(back["a"], saved["a"])  # type: ignore[arg-type]
    assert torch.equal(back["b"].pop()["c"], torch.ones(2))
    assert (back["b"], back["d"]) == ([1, "two", None], {})


def test_the_table_of_families_in_the_docs_is_that_of_the_registry() -> None:
    assert families_table() in (Path(__file__).parents[1] / "docs" / "worlds.md").read_text()


# In plans and jobs

TINY = (
    *("scale=tiny", "metrics=[drift,psnr]", "evaluation.num_one_step=12", "evaluation.horizon=12", "data.num_references=4"),
    *("data.reference_horizon=12", "data.num_train_frames=60", "evaluation.num_trajectories=3"),
    *("evaluation.num_sample_starts=2", "evaluation.num_samples=2"),
)
STUDY = """
question: Which?
protocol: {protocol}
games: [{game}]
seeds: 2
primary: {{metric: {metric}}}
set: {{{settings}}}
arms: {{{arms}}}
"""


def study(folder: Path, arms: str, settings: str = "", game: str = TURN, protocol: str = "world_model") -> str:
    file = folder / "mine.yaml"
    metric = "drift" if protocol == "world_model" else "test_return"
    file.write_text(STUDY.format(arms=arms, settings=settings, game=game, protocol=protocol, metric=metric))
    return str(file)


def built(plan: Plan, root: Path) -> dict[JobRef, Result]:
    """Every job of a plan, run here in a store's folders."""
    store, found = Store(root, say=lambda text: None), {}
    for ref, of in plan.jobs.items():
        store.prepare(of)
        inputs = {name: store.folder(need) for name, need in of.inputs.items()}
        found[ref] = imported(KINDS[ref.kind].run)(of.config, JobContext(store.folder(ref), inputs))
    return found


def test_copying_as_an_arm_scores_exactly_as_the_baseline_and_the_oracle_is_measured(tmp_path: Path) -> None:
    name = study(tmp_path, "copy: {family: copy_last_frame}, oracle: {family: oracle}", "env.frame_size: 16, data: random")
    plan = plan_study(name, [*TINY, f"output_dir={tmp_path}/out"])
    assert [ref.kind for ref in plan.jobs] == ["collect_dataset", "evaluate_world_model", "evaluate_world_model"], "seeds change nothing"
    results = built(plan, tmp_path / "out")
    rows = {
        plan.jobs[ref].config.family.name: {(row.metric, row.baseline): row.value for row in result.rows if not row.measured}
        for ref, result in results.items()
        if ref.kind == "evaluate_world_model"
    }
    copy, oracle = rows["copy_last_frame"], rows["oracle"]
    shared = [metric for metric, baseline in copy if baseline == "copy-last-frame"]
    assert {"drift", "psnr", "one_step_psnr"} <= set(shared)
    assert {metric: copy[metric, ""] for metric in shared} == {metric: copy[metric, "copy-last-frame"] for metric in shared}
    assert oracle["drift", "copy-last-frame"] == copy["drift", ""] != oracle["drift", ""]
    assert {family[metric, ""] for family in rows.values() for metric in ("nfe_per_frame", "parameters")} == {0.0}
    evaluation = next(ref for ref in results if ref.kind == "evaluate_world_model")
    with pytest.raises(UserError, match="which is not trained: it has no model to load"):
        api.load_world_model(str(evaluation), output_dir=tmp_path / "out")
    (dataset,) = (ref for ref in results if ref.kind == "collect_dataset")
    folder = tmp_path / "out" / dataset.kind / dataset.id
    assert None not in read_seeds(folder / "heldout" / "data")
    heldout = load_split(folder, "heldout")
    unseeded = replace(recorded_episodes(folder, heldout), seeds=(None,) * len(heldout))
    with pytest.raises(UserError, match="its seed was not recorded"):
        unseeded.seed(0)


def test_a_study_of_trained_and_untrained_families(tmp_path: Path) -> None:
    name = study(tmp_path, "learned: {}, oracle: {family: oracle}, named: {family: diamond}", "training.num_steps: 7")
    plan = plan_study(name, list(TINY))
    assert [ref.kind for ref in plan.jobs].count("train_world_model") == 2, "two seeds; diamond is what none is"
    roles = {point.arm: set(point.jobs) for point in plan.points}
    assert roles == {arm: {"dataset", "evaluation"} | ({"world_model"} if arm != "oracle" else set()) for arm in roles}
    evaluations = [of for ref, of in plan.jobs.items() if ref.kind == "evaluate_world_model"]
    (oracle,) = (of for of in evaluations if of.config.family is not None)
    cost, inputs = KINDS["evaluate_world_model"].costs, {"dataset": plan.jobs[oracle.inputs["dataset"]].config}
    e = oracle.config.evaluation
    assert cost.work(oracle.config, inputs) == 3 * 12 + 12 + 2 * 2 * e.sample_horizon, "frames"
    assert cost.arithmetic(oracle.config, inputs).network == ""
    assert oracle.config.sampler == OdeSampler()


def test_a_network_that_reads_frames_pairs_no_runs(tmp_path: Path) -> None:
    """All runs share the network of action_accuracy. The oracle's runs share one evaluation too."""
    name = study(tmp_path, "learned: {}, oracle: {family: oracle}")
    plan = plan_study(name, [*TINY[:1], "metrics=[drift,action_accuracy]", *TINY[2:], f"output_dir={tmp_path}/out"])
    store = Store(tmp_path / "out", say=lambda text: None)
    for of in plan.jobs.values():
        finish(store, of, scores={"action_accuracy": 0.5, "drift": 0.1} if of.kind == "evaluate_world_model" else None)
    saved = save_plan(plan, store.root)
    (row,) = compare_study(saved, store, gather(saved, store), ["action_accuracy"], {"arm": "oracle"}, 0.0).table.to_dict("records")
    assert (row["variant"], row["difference"], row["runs"]) == ("learned", 0.0, 2)


def test_figures_against_network_calls_leave_out_worlds_without_a_network(tmp_path: Path) -> None:
    name = study(tmp_path, "learned: {}, oracle: {family: oracle}")
    Path(name).write_text(Path(name).read_text() + "axes: {n: {key: sampler.num_steps, values: [1, 3]}}\n")
    plan = plan_study(name, [*TINY, f"output_dir={tmp_path}/out"])
    store = Store(tmp_path / "out", say=lambda text: None)
    for of in plan.jobs.values():
        untrained = of.kind == "evaluate_world_model" and of.config.family is not None
        finish(store, of, scores={"nfe_per_frame": 0.0, "drift": 0.1} if untrained else None)
    saved = save_plan(plan, store.root)
    offered = study_figures(saved, store, collect(saved, store), plan.jobs.keys())
    (quality,) = (figure for figure in offered if figure.kind == "quality")
    drawn = quality.draw()
    assert drawn is not None
    assert "without a network, so not drawn: oracle" in drawn.caption
    lines = [line for ax in drawn.figure.axes for line in ax.get_lines() if not str(line.get_label()).startswith("_")]
    assert {str(line.get_label()) for line in lines} == {"learned", "copy last frame"}
    (row,) = compare_study(saved, store, gather(saved, store), ["drift"], {"arm": "oracle"}).table.head(1).to_dict("records")
    assert "oracle, n=1: one evaluation stands for all seeds, so it does not vary between runs" in row["missing"]
    assert "learned, n=1:" not in row["missing"]
    configs = gather(saved, store).configs
    assert {"network.channels", "sampler.num_steps"} <= configs["learned, n=1"].keys()
    assert not {"network.channels", "sampler.num_steps"} & configs["oracle, n=1"].keys(), "an oracle reads none of them"


@pytest.mark.parametrize(
    ("arms", "tokens", "words"),
    [
        ("a: {family: orcale}", (), ["orcale", "oracle"]),
        ("a: {}", ("family=copy_last",), ["family=copy_last", "copy_last_frame"]),
        ("a: {family: oracle}", ("training.num_steps=5",), ["training.num_steps", "has no effect", "family=oracle"]),
        ("a: {}, b: {family: oracle, sampler.num_steps: 2}", (), ["sampler.num_steps", "has no effect"]),
        ("a: {family: oracle}", ("games=[Breakout]", "env.sticky_actions=0.25"), ["env.sticky_actions=0.25", "sticky_actions=0"]),
    ],
)
def test_what_a_family_cannot_do_is_refused_at_planning(arms: str, tokens: tuple[str, ...], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        plan_study(study(tmp_path, arms), [*TINY, *tokens])
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("arms", "game", "words"),
    [
        ("a: {family: copy_last_frame}", TURN, ["copy_last_frame", "no rewards"]),
        ("a: {family: oracle}", "Breakout", ["family=oracle", "synthetic/turn", "not of Breakout"]),
        ("a: {family: oracle, agent.denoiser_updates: 3}", TURN, ["agent.denoiser_updates", "has no effect"]),
    ],
)
def test_agents_learn_in_the_true_dynamics_of_known_games_alone(arms: str, game: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        plan_study(study(tmp_path, arms, game=game, protocol="agent"), ["scale=tiny"])
    for word in words:
        assert word in str(error.value)


@dataclass(frozen=True)
class _A:
    name: str = "a"


@dataclass(frozen=True)
class _B:
    name: str = "b"
    size: int = 1


@dataclass(frozen=True)
class _Either:
    one: _A | _B | None = None
    two: _B | None = None


def test_one_of_several_groups_or_none_is_built_by_its_name() -> None:
    assert build(_Either, {"one": {"name": "b", "size": 3}, "two": {"size": 2}}) == _Either(_B(size=3), _B(size=2))
    assert build(_Either, {"one": None}) == _Either()
    with pytest.raises(UserError, match="unknown one 'c'"):
        build(_Either, {"one": {"name": "c"}})


def test_a_family_s_revision_is_part_of_its_own_jobs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {"dataset": "0" * 16}
    trained, oracle = EvaluateWorldModel(), EvaluateWorldModel(family=Oracle())
    copy = EvaluateWorldModel(family=CopyLastFrame())
    before = [job_id("evaluate_world_model", config, inputs) for config in (trained, oracle, copy)]
    assert len(set(before)) == 3
    monkeypatch.setattr("diamond_bench.worlds.oracle.FAMILY", replace(world_family(Oracle()), revision=2))
    after = [job_id("evaluate_world_model", config, inputs) for config in (trained, oracle, copy)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]


# Agents in the true dynamics


def oracle_config(*tokens: str) -> TrainAgent:
    plan = plan_train(
        [
            *("game=synthetic/turn", "family=oracle", "scale=tiny", "env.frame_size=16", "agent.test_every=0"),
            *("actor_critic.channels=[8]", "actor_critic.down=[true]", *tokens),
        ]
    )
    return next(of.config for of in plan.jobs.values() if of.kind == "train_agent")


def test_an_agent_in_the_true_dynamics_sees_true_frames_and_rewards() -> None:
    settings = oracle_config("actor_critic.horizon=4", "actor_critic.batch_size=5")
    replay = Replay(60, 16)
    learners = Learners(settings, CPU, replay, torch.Generator().manual_seed(0))
    RealPlay(settings, learners, replay).collect(60, Means(CPU))
    assert learners.counts() == {"actor_critic": 0}
    env: Any = learners._imagination
    shown, _ = env.reset()
    rewarded = 0
    for number in range(12):
        actions = torch.full((5,), number % 3)
        frames, rewards, ends, cuts, infos = env.step(actions)
        assert not ends.any()
        assert torch.equal(cuts, torch.full((5,), number % 4 == 3))
        for before, reached, reward in zip(shown, infos["final_obs"], rewards, strict=True):
            (_, column), (player,) = _places(reached)
            assert float(reward) == float(column == player), "the reward is that of the frame"
            assert abs(player - _places(before)[1][0]) <= 1
            rewarded += int(reward)
        shown = frames
    assert 0 < rewarded < 60
    learners.update("actor_critic")


def _places(frame: torch.Tensor) -> tuple[tuple[int, int], tuple[int]]:
    """Cells of the walker and column of the player."""
    cells = to_bytes(frame).permute(1, 2, 0)[::2, ::2]
    ((row, column),) = (cells == 255).all(dim=-1).nonzero().tolist()
    return (row, column), ((cells[-1] != 0).any(dim=-1).nonzero().item(),)  # type: ignore[return-value]


def test_such_a_training_is_resumed_bit_for_bit_and_keeps_the_policy_alone(tmp_path: Path) -> None:
    settings = oracle_config()
    whole = train_agent.run(settings, JobContext(tmp_path / "whole"))
    for stop in (2, 2):
        with pytest.raises(Interrupted):
            train_agent.run(settings, JobContext(tmp_path / "parts", should_stop=stopping_at([stop])))
    parts = train_agent.run(settings, JobContext(tmp_path / "parts"))
    agents = [load_agent(tmp_path / name / "agent") for name in ("whole", "parts")]
    assert [agent.world_model for agent in agents] == [None, None]
    one, two = (agent.actor_critic.state_dict() for agent in agents)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert whole.info["updates"] == parts.info["updates"]
    assert set(whole.info["updates"]) == {"actor_critic"}
