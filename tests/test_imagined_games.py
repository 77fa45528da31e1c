"""`api.imagination_env`: games of every source, held to gymnasium's rules; the documentation's page; refusals."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from command_line import ROOT
from episode_sets import episode_set
from gymnasium.error import ClosedEnvironmentError, InvalidAction, ResetNeeded, UnsupportedMode
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics
from small_agents import small_agent_config
from stand_ins import CountingReward, CountingWorld, ListedStarts, counting_frames, generator
from test_worlds import NETWORK

from diamond_bench import api
from diamond_bench.agent import build_agent, save_agent
from diamond_bench.config import ConditioningConfig, DataConfig, EnvConfig, TrainingConfig
from diamond_bench.data.replay import Replay
from diamond_bench.data.static import load_split
from diamond_bench.diffusion.quantization import to_bytes
from diamond_bench.envs.games import spec
from diamond_bench.envs.synthetic import decode
from diamond_bench.errors import UserError
from diamond_bench.evaluation.player import UniformPlayer
from diamond_bench.imagination import GeneratorDraws, ImaginationEnv, ImaginationSettings
from diamond_bench.imagination.games import ImaginedGames
from diamond_bench.imagination.starts import EpisodeStarts
from diamond_bench.jobs import collect_dataset
from diamond_bench.jobs.agent_learners import describe
from diamond_bench.jobs.context import JobContext
from diamond_bench.jobs.train_world_model import model_folder
from diamond_bench.models.threads import torch_threads
from diamond_bench.spaces import ActionSpec
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import CollectDataset, EvaluateAgent, EvaluateWorldModel, ImportAgent, ImportDataset, TrainWorldModel
from diamond_bench.stored.imagination import How, _played
from diamond_bench.worlds.copy_last_frame import CopyLastFrame
from diamond_bench.worlds.families import build_world_model
from diamond_bench.worlds.oracle import Oracle

GAME, ENV = "synthetic/opponent", EnvConfig(frame_size=16)
STEPS = 60
"""Real steps of the stored agent."""


@dataclass(frozen=True)
class Stored:
    """A store with a finished job of every kind that imagines, made at once: nothing was trained."""

    store: Store
    jobs: dict[str, JobRef]

    def open(self, source: str, **options: Any) -> ImaginedGames:
        """Games of a job by its name here, or of a family."""
        given = {"num_envs": 3, "horizon": 4, "output_dir": self.store.root, "threads": 1, **options}
        return api.imagination_env(self.jobs[source].id if source in self.jobs else source, **given)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    store, jobs = Store(tmp_path_factory.mktemp("imagined"), say=lambda text: None), {}

    def finish(name: str, job: JobSpec, make: Callable[[Path], object] = lambda folder: None, **info: Any) -> None:
        store.prepare(job)
        claim = store.claim(job.ref)
        assert claim is not None
        make(claim.folder)
        claim.finish({"rows": [], "info": info, "recorded": {"revision": 1}})
        jobs[name] = job.ref

    torch.manual_seed(0)
    config = small_agent_config(f"game={GAME}")

    def agent_of(config: Any) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            save_agent(build_agent(describe(config)), folder / "agent")
            if not config.agent.model_free:
                replay = _played(GAME, ENV, UniformPlayer(3), How(start_steps=STEPS))
                assert replay.save(folder / "checkpoint") == STEPS

        return make

    free = replace(config, agent=replace(config.agent, model_free=True))
    finish("agent", JobSpec("train_agent", config), agent_of(config), real_steps=STEPS)
    finish("model-free agent", JobSpec("train_agent", free), agent_of(free), real_steps=STEPS)
    true = replace(config, family=Oracle())
    finish("agent of the oracle", JobSpec("train_agent", true), agent_of(true), real_steps=STEPS)
    finish("import", JobSpec("import_agent", ImportAgent("0" * 64, GAME)), agent_of(config))
    finish("agent's evaluation", JobSpec("evaluate_agent", EvaluateAgent(), {"agent": jobs["agent"]}))

    data = DataConfig(policy="random", num_train_frames=64, num_references=2, reference_context=4, reference_horizon=8)
    collected = CollectDataset(GAME, ENV, data)
    finish("dataset", JobSpec("collect_dataset", collected), lambda folder: collect_dataset.run(collected, JobContext(folder)))
    training = TrainWorldModel(0, config.objective, ConditioningConfig(num_frames=2), NETWORK, TrainingConfig(milestones=(1.0,)))

    def save_model(folder: Path) -> None:
        model_folder(folder, 1.0).mkdir(parents=True)
        build_world_model(training, spec(GAME, ENV)).save(model_folder(folder, 1.0))

    finish("world model", JobSpec("train_world_model", training, {"dataset": jobs["dataset"]}), save_model)
    inputs = {"dataset": jobs["dataset"], "world_model": jobs["world model"]}
    sampler = api.sampler("euler", num_steps=1)
    finish("evaluation", JobSpec("evaluate_world_model", EvaluateWorldModel(sampler), inputs))
    for name, family in (("oracle's evaluation", Oracle()), ("copies' evaluation", CopyLastFrame())):
        finish(name, JobSpec("evaluate_world_model", EvaluateWorldModel(family=family), {"dataset": jobs["dataset"]}))

    def copy_dataset(folder: Path) -> None:
        shutil.copytree(store.folder(jobs["dataset"]), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.yaml", "result.json"))

    finish("imported dataset", JobSpec("import_dataset", ImportDataset("0" * 64, ENV)), copy_dataset)
    for name, family in (("oracle in an import", Oracle()), ("copies in an import", CopyLastFrame())):
        finish(name, JobSpec("evaluate_world_model", EvaluateWorldModel(family=family), {"dataset": jobs["imported dataset"]}))
    return Stored(store, jobs)


def no_reward(before: Any, actions: Any, after: Any) -> Any:
    return np.zeros(len(actions))


SOURCES: dict[str, dict[str, Any]] = {
    "agent": {},
    "agent's evaluation": {},
    "agent of the oracle": {},
    "import": {"start_steps": 20},
    "world model": {"reward": no_reward, "sampler": "euler"},
    "evaluation": {"reward": no_reward},
    "oracle's evaluation": {},
    "copies' evaluation": {"reward": no_reward},
    "copies in an import": {"reward": no_reward},
    "oracle": {"game": GAME, "start_steps": 20},
    "copy_last_frame": {"game": GAME, "start_steps": 20, "reward": no_reward},
}


class OneGame(gymnasium.Env[Any, Any]):
    """One imagined game as an environment that is not a vector, for gymnasium's checker."""

    def __init__(self, games: ImaginedGames) -> None:
        self.games, self.render_mode, self.metadata = games, games.render_mode, games.metadata
        self.observation_space, self.action_space = games.single_observation_space, games.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        frames, infos = self.games.reset(seed=seed, options=options)
        return frames[0], infos

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        _, rewards, ended, cut, infos = self.games.step([action])
        return infos["final_obs"][0], float(rewards[0]), bool(ended[0]), bool(cut[0]), {}

    def render(self) -> Any:
        return self.games.render()[0]


@pytest.mark.parametrize("source", SOURCES)
def test_games_of_every_source_pass_gymnasium_s_checks(stored: Stored, source: str, recwarn: pytest.WarningsRecorder) -> None:
    options = {"render_mode": "rgb_array", **SOURCES[source]}
    check_env(OneGame(stored.open(source, num_envs=1, **options)), skip_render_check=True)
    assert not [str(warning.message) for warning in recwarn if "gymnasium" in str(warning.filename)]
    env = stored.open(source, **options)
    frames, infos = env.reset(seed=5)
    assert frames in env.observation_space
    assert infos == {}
    env.action_space.seed(1)
    taken = [env.action_space.sample() for _ in range(9)]
    one = [env.step(actions) for actions in taken]
    env.reset(seed=5)
    for actions, (seen, rewards, ended, cut, infos) in zip(taken, one, strict=True):
        again = env.step(actions)
        assert seen in env.observation_space
        assert infos["final_obs"] in env.observation_space
        assert (rewards.dtype, rewards.shape, ended.dtype, cut.dtype) == (np.float32, (3,), np.bool_, np.bool_)
        assert np.array_equal(infos["_final_obs"], ended | cut)
        assert all(np.array_equal(a, b) for a, b in zip(again[:4], (seen, rewards, ended, cut), strict=True))
        assert np.array_equal(infos["final_obs"][~(ended | cut)], seen[~(ended | cut)])
    assert all((a == b).all() for a, b in zip(env.render(), one[-1][0], strict=True))


def test_frames_rewards_and_ends_are_those_of_the_imagination() -> None:
    """Side by side with `ImaginationEnv` itself, in an oracle whose frames, rewards and ends are known."""
    counts = (torch.arange(40) % 9)[:, None].expand(40, 4)

    def inner() -> ImaginationEnv:
        starts = ListedStarts(counting_frames(counts), torch.zeros(40, 4, dtype=torch.int64), torch.ones(40, 4, dtype=torch.bool))
        return ImaginationEnv(CountingWorld(), CountingReward(), starts, GeneratorDraws(generator(1)), ImaginationSettings(3, 5, 2))

    ours, theirs = ImaginedGames(inner(), ActionSpec.discrete(3)), inner()
    ours.reset()
    theirs.reset()
    draws = np.random.default_rng(0)
    episodes = 0
    for _ in range(25):
        actions = draws.integers(3, size=3)
        frames, rewards, ended, cut, infos = ours.step(actions)
        expected, e_rewards, e_ended, e_cut, e_infos = theirs.step(torch.from_numpy(actions))
        assert np.array_equal(frames.transpose(0, 3, 1, 2), to_bytes(expected).numpy())
        assert np.array_equal(infos["final_obs"].transpose(0, 3, 1, 2), to_bytes(e_infos["final_obs"]).numpy())
        assert np.array_equal(rewards, e_rewards.numpy())
        assert np.array_equal(ended, e_ended.numpy())
        assert np.array_equal(cut, e_cut.numpy())
        episodes += int((ended | cut).sum())
    assert episodes > 10


def places(frame: np.ndarray) -> tuple[int, int]:
    """Columns of walker and player."""
    state = decode(GAME, frame.transpose(2, 0, 1)[None])
    return state.column, state.player


@pytest.mark.parametrize("source", ["oracle", "oracle's evaluation", "agent of the oracle"])
def test_the_oracle_plays_the_game_itself(stored: Stored, source: str) -> None:
    env = stored.open(source, **SOURCES[source])
    before, _ = env.reset(seed=0)
    rewarded = 0
    for _ in range(20):
        actions = env.action_space.sample()
        shown, rewards, _, _, infos = env.step(actions)
        for i, action in enumerate(actions):
            (walker, player), (went, moved) = places(before[i]), places(infos["final_obs"][i])
            assert moved == np.clip(player + (0, 1, -1)[action], 0, 7)
            assert (went - walker) % 8 in (1, 7)
            assert rewards[i] == (went == moved)
            rewarded += rewards[i]
        before = shown
    assert rewarded > 0


def test_an_agent_starts_in_its_replay_and_a_world_model_in_held_out_frames(stored: Stored) -> None:
    replay = Replay.load(stored.store.folder(stored.jobs["agent"]) / "checkpoint", STEPS, STEPS, 16)
    heldout = load_split(stored.store.folder(stored.jobs["dataset"]), "heldout")
    for source, episodes in (("agent", replay.episodes), ("world model", heldout)):
        known = {bytes(frame.permute(1, 2, 0).numpy()) for frame in episodes.frames}
        env = stored.open(source, num_envs=20, **SOURCES[source])
        starts = {bytes(frame) for frame in env.reset(seed=0)[0]}
        assert starts <= known
        assert len(starts) > 5


def test_every_frame_but_the_last_of_an_episode_is_a_start() -> None:
    episodes = episode_set(3, 1, 5)  # steps: 4, 2 and 6 rows
    starts = EpisodeStarts(episodes, 3, generator(0))
    drawn = starts.draw(9000)
    counts = torch.bincount(drawn[:, -1], minlength=12)
    assert counts.nonzero()[:, 0].tolist() == [0, 1, 2, 4, 6, 7, 8, 9, 10]
    assert (counts[counts > 0] / 1000 - 1).abs().max() < 0.15
    assert {tuple(row) for row in drawn.tolist()} >= {(-1, -1, 0), (-1, 0, 1), (0, 1, 2), (-1, -1, 4), (8, 9, 10)}
    assert starts.origin(torch.tensor([2, 4, 10])).tolist() == [[0, 2], [1, 0], [2, 4]]


def test_a_reward_of_one_s_own_sees_frames_and_actions(stored: Stored) -> None:
    seen: list[Any] = []

    def reward(before: Any, actions: Any, after: Any) -> Any:
        seen.append((before, actions, after))
        return [0.5, 1.5, -2]

    env = stored.open("agent", reward=reward)
    frames, _ = env.reset(seed=0)
    _, rewards, _, _, infos = env.step([0, 1, 2])
    ((before, actions, after),) = seen
    assert np.array_equal(before, frames)
    assert actions.tolist() == [0, 1, 2]
    assert np.array_equal(after, infos["final_obs"])
    assert rewards.tolist() == [0.5, 1.5, -2]
    env = stored.open("agent", reward=lambda before, actions, after: float("nan"))
    env.reset(seed=0)
    with pytest.raises(UserError, match=r"reward: expected 3 finite numbers, one per game; got float64 of shape \(\)"):
        env.step([0, 1, 2])


def test_mistakes_in_calls_are_named_and_move_nothing(stored: Stored) -> None:
    env = stored.open("agent")
    with pytest.raises(ResetNeeded, match="step: call reset first"):
        env.step([0, 0, 0])
    frames, _ = env.reset(seed=0)
    for actions, words in (
        ([0, 3, -1], "game 1 was given 3; expected 0 to 2"),
        ([0, 0], r"whole numbers of shape \(3,\), one row per game; got int64 of shape \(2,\)"),
        (1, r"got int64 of shape \(\)"),
        ([0.0, 1.0, 2.0], "got float64"),
        ([True, False, True], "got bool"),
        ([[0], [1], [2]], r"got int64 of shape \(3, 1\)"),
        (["a", "b", "c"], "got <U1"),
    ):
        with pytest.raises(InvalidAction, match=words):
            env.step(actions)
    with pytest.raises(UnsupportedMode, match='render_mode="rgb_array"'):
        env.render()
    with pytest.raises(gymnasium.error.Error, match="expected none, since imagined games have no options"):
        env.reset(options={"lives": 3})
    for seed in (-1, [1, 2, 3], 1.5, True, 2**63):
        with pytest.raises(gymnasium.error.Error, match="one whole number from 0"):
            env.reset(seed=seed)  # type: ignore[arg-type]
    after, *_ = env.step(torch.tensor([0, 1, 2]))
    env.reset(seed=np.int64(0))  # type: ignore[arg-type]
    frames[:] = 0  # a caller's copy
    assert np.array_equal(env.step([0, 1, 2])[0], after), "a refused call moved a game"
    env.close()
    env.close()
    for call in (env.reset, lambda: env.step([0, 0, 0])):
        with pytest.raises(ClosedEnvironmentError, match="closed"):
            call()


def test_actions_of_several_columns_are_checked_against_their_own_ranges() -> None:
    class Columns(CountingWorld):
        def predict(self, past: Any, actions: Any, draw: Any) -> Any:
            taken.append(actions[:, -1])
            return past[:, -1]

    taken: list[Any] = []
    for accepted, good, wrong, words in (
        (ActionSpec.columns((2, 5)), [[1, 4], [0, 0]], [[1, 4], [2, 0]], r"game 1 was given \[2 0\]; expected 0 to 1, 0 to 4"),
        (ActionSpec.continuous((-1.0,), (0.5,)), [[0.5], [-0.25]], [[0.6], [0.0]], r"game 0 was given \[0.6\]; expected -1 to 0.5"),
        (ActionSpec.continuous((-1.0,), (0.5,)), [[0], [-1]], [[np.nan], [0.0]], r"game 0 was given \[nan\]"),
    ):
        world = Columns()
        world.spec = replace(world.spec, actions=accepted)
        segments = torch.zeros(4, 4, *accepted.shape, dtype=getattr(torch, accepted.dtype)), torch.ones(4, 4, dtype=torch.bool)
        starts = ListedStarts(counting_frames(torch.zeros(4, 4)), torch.zeros(4, 4, dtype=torch.int64), segments[1])
        starts.segments = replace(starts.segments, actions=segments[0])
        inner = ImaginationEnv(world, None, starts, GeneratorDraws(generator()), ImaginationSettings(2, 5, 1, rewards=False))
        env = ImaginedGames(inner, accepted)
        env.reset(seed=0)
        env.step(good)
        assert torch.equal(taken[-1], torch.tensor(good, dtype=getattr(torch, accepted.dtype)))
        with pytest.raises(InvalidAction, match=words):
            env.step(wrong)


def test_nothing_that_imagines_nothing_is_opened(stored: Stored, tmp_path: Path) -> None:
    for source, options, words in (
        ("dataset", {}, "has no world model; name a training of one"),
        ("model-free agent", {}, "learned without a world model"),
        ("world model", {}, "predicts no rewards; pass reward="),
        ("copy_last_frame", {"game": GAME}, "copy_last_frame: predicts no rewards; pass reward="),
        ("orcale", {}, "did you mean oracle?"),
        ("diamond", {}, "models of this family are trained; name a job"),
        ("ffff", {}, "names no job"),
        ("oracle", {}, "oracle: say in which game"),
        ("oracle", {"game": "synthetic/trun"}, "synthetic/turn"),
        ("oracle", {"game": GAME, "sampler": "euler"}, "nothing is sampled there"),
        ("oracle", {"game": GAME, "milestone": 1.0}, "has no milestones"),
        ("oracle", {"game": GAME, "start_steps": 0}, "start_steps=0: expected a whole number from 1 to 1,000,000"),
        ("agent", {"game": GAME}, "only a family takes a game"),
        ("agent", {"milestone": 0.5}, "kept 1.0 alone"),
        ("agent", {"sampler": "eulr"}, "euler"),
        ("agent", {"sampler": 3}, "sampler=3: expected the name of a sampler"),
        ("agent", {"device": "cuda:99"}, "device='cuda:99': torch cannot use it"),
        ("world model", {"device": "gpu"}, "device='gpu': torch cannot use it"),
        ("oracle", {"game": GAME, "device": "gpu"}, "device='gpu': torch cannot use it"),
        ("agent", {"precision": "fp64"}, "precision='fp64': valid: bf16, fp32, tf32"),
        ("agent", {"num_envs": 0}, "num_envs=0: expected a whole number from 1"),
        ("agent", {"horizon": 1.5}, "horizon=1.5: expected a whole number from 1"),
        ("agent", {"threads": True}, "threads=True: expected a whole number from 1"),
        ("agent", {"render_mode": "human"}, "render_mode='human': valid: rgb_array (or None)"),
        ("agent", {"reward": 1.0}, "reward=1.0: expected a function"),
        ("world model", {"start_steps": 10, "reward": no_reward}, "held-out episodes of its dataset"),
        ("oracle's evaluation", {"start_steps": 10}, "held-out episodes of its dataset"),
        ("oracle in an import", {}, "family=oracle: there is no recorded play of a game to start from"),
        ("agent of the oracle", {"sampler": "euler"}, "nothing is sampled there"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            stored.open(source, **options)
    agent = api.load_agent(stored.jobs["agent"].id, output_dir=stored.store.root)
    with pytest.raises(UserError, match="got Agent"):
        stored.open(agent)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="names no job"):
        api.imagination_env("0000", output_dir=tmp_path / "nothing")
    assert not list(tmp_path.iterdir())


def test_an_agent_whose_replay_was_removed_plays_first_where_it_is_asked_to(stored: Stored) -> None:
    file = stored.store.folder(stored.jobs["agent"]) / "checkpoint" / "replay.bin"
    content = file.read_bytes()
    try:
        file.unlink()
        with pytest.raises(UserError, match=r"removed with its checkpoint \(gc\).* start_steps=1000"):
            stored.open("agent")
        env = stored.open("agent", start_steps=10)
        env.reset(seed=0)
        env.step([0, 1, 2])
        file.write_bytes(content[:-5])
        with pytest.raises(UserError, match="replay"):
            stored.open("agent")
    finally:
        file.write_bytes(content)


def test_gymnasium_s_wrappers_and_make_vec_take_it(stored: Stored) -> None:
    env = stored.open("agent", render_mode="rgb_array", horizon=3)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert env.spec is not None
    assert env.spec.max_episode_steps == 3
    again = gymnasium.make_vec(env.spec, num_envs=5)
    assert (again.num_envs, again.render_mode, again.observation_space.shape) == (5, "rgb_array", (5, 16, 16, 3))
    again.reset(seed=0)
    cut = [again.step(np.zeros(5, np.int64))[3].any() for _ in range(3)][-1]
    assert cut, "the horizon was lost"
    listed = DictInfoToList(RecordEpisodeStatistics(env))
    listed.reset(seed=0)
    infos = [listed.step(np.zeros(3, np.int64))[4] for _ in range(6)]
    lengths = [info["episode"]["l"] for step in infos for info in step if "episode" in info]
    assert lengths
    assert max(lengths) <= 3


def test_threads_are_those_asked_for_and_torch_s_own_afterwards(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    inner = ImaginationEnv._advance
    monkeypatch.setattr(ImaginationEnv, "_advance", lambda *given: (seen.append(torch.get_num_threads()), inner(*given))[1])
    env = stored.open("agent", threads=2)
    env.reset(seed=0)
    env.step([0, 1, 2])
    assert seen == [2]
    assert torch.get_num_threads() == 1
    model, seen[:] = api.load_world_model(stored.jobs["world model"].id, output_dir=stored.store.root), []
    predict = type(model).predict
    monkeypatch.setattr(type(model), "predict", lambda *given: (seen.append(torch.get_num_threads()), predict(*given))[1])
    torch.set_num_threads(2)
    past = np.zeros((2, 16, 16, 3), np.uint8)
    api.imagine(model, past, [0, 1, 2])
    api.imagine(model, past, [0, 1], threads=3)
    assert seen == [1, 1, 3]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    with pytest.raises(UserError, match="threads=0: expected a whole number from 1"):
        api.imagine(model, past, [0, 1], threads=0)
    with pytest.raises(ZeroDivisionError), torch_threads(3):
        1 // (torch.get_num_threads() - 3)
    assert torch.get_num_threads() == 1


def test_the_documentation_s_page_runs_and_its_policy_learns(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("stable_baselines3")
    monkeypatch.setenv("DIAMOND_BENCH_OUTPUTS", str(stored.store.root))
    page = (ROOT / "docs" / "imagination.md").read_text().replace('"AGENT"', repr(stored.jobs["agent"].id))
    found: dict[str, Any] = {}
    torch.manual_seed(0)
    for block in re.findall(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        exec(block, found)
    first, last = found["returns"][0], np.mean(found["returns"][-3:])
    assert first < 3
    assert last > 5, f"the policy did not learn: {found['returns']}"
    assert found["model"].num_timesteps == 128
    frames, _ = found["still"].reset(seed=0)
    _, rewards, *_ = found["still"].step(np.zeros(8, np.int64))
    assert np.allclose(rewards, frames[:, :32].mean(axis=(1, 2, 3)) / 255)
