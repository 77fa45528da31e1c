"""What `diamond-bench play` opens: jobs of every kind, studies, families and games, next to each other; refusals; the command itself."""

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ale_py
import numpy as np
import pytest
import torch
from command_line import in_this_process
from episode_sets import episode_set
from small_agents import small_agent_config
from test_commands import TOKENS, swept
from test_imagined_games import ENV, GAME, STEPS, Stored, stored  # noqa: F401
from test_report import finished
from test_worlds import NETWORK

from diamond_bench.config import CascadeSampler, ConditioningConfig, FactoredObjective, TrainingConfig
from diamond_bench.data.replay import Replay
from diamond_bench.data.static import DatasetInfo, load_info, load_split
from diamond_bench.envs.games import make_env, spec
from diamond_bench.envs.maze import LAYOUTS
from diamond_bench.errors import UserError
from diamond_bench.evaluation.player import UniformPlayer
from diamond_bench.play import naming, opening
from diamond_bench.play.naming import request
from diamond_bench.play.opened import Opened
from diamond_bench.play.opening import _fitting, open_sources
from diamond_bench.play.options import PlayOptions
from diamond_bench.play.recording import Recording, recorded, replay, same_bytes, write_recording
from diamond_bench.play.session import Session
from diamond_bench.play.sources import places, start_at
from diamond_bench.spaces import ActionSpec
from diamond_bench.store.jobspec import JobSpec
from diamond_bench.store.kinds import TrainWorldModel
from diamond_bench.stored import kept_play
from diamond_bench.stored.imagination import How, _first_fitting, _played
from diamond_bench.studies.plan import load_plan, plan_study
from diamond_bench.worlds.cascade import Cascade, LowResolution, Upsampler
from diamond_bench.worlds.families import build_world_model


@pytest.fixture(autouse=True)
def _few_start_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (opening, kept_play, sys.modules["diamond_bench.stored.imagination"]):
        monkeypatch.setattr(module, "START_STEPS", 30)


def opened(stored: Stored, *names: str, policy: str | None = None, **options: Any) -> Opened:  # noqa: F811
    words = [stored.jobs[name].id if name in stored.jobs else name for name in names]
    return open_sources(stored.store, request(stored.store, words, policy), **options)


@pytest.mark.parametrize(
    ("source", "predicts", "policy", "samplers", "notes"),
    [
        ("world model", False, False, True, ""),
        ("evaluation", False, False, True, ""),
        ("agent", True, True, True, ""),
        ("agent's evaluation", True, True, True, ""),
        ("agent of the oracle", True, True, False, ""),
        ("import", True, True, True, "its policy played 30 steps"),
        ("oracle's evaluation", True, False, False, ""),
        ("copies' evaluation", False, False, False, ""),
        ("copies in an import", False, False, False, "No real game"),
    ],
)
def test_a_job_of_every_kind_is_a_lane(stored: Stored, source: str, predicts: bool, policy: bool, samplers: bool, notes: str) -> None:  # noqa: F811
    found = opened(stored, source)
    (facts,) = found.facts
    assert facts.source == str(stored.jobs[source])
    assert (facts.rewards, facts.ends, facts.policy, bool(facts.samplers)) == (predicts, predicts, policy, samplers)
    assert (facts.real, found.reference, found.compared) == (False, None, None)
    assert notes in " ".join(found.notes)
    session = found.session(found.starts[-1], seed=3)
    assert np.array_equal(session.now.shown[0].frame, found.thumbnail(found.starts[-1]))
    moment = session.step(1)
    assert (moment.shown[0].reward_probabilities is not None) == predicts
    assert (moment.shown[0].policy is not None) == policy
    again = found.session(found.starts[-1], seed=3).step(1)
    assert np.array_equal(again.shown[0].frame, moment.shown[0].frame)


def test_a_model_alone_has_the_names_of_its_datasets_actions(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """W A S D follow from the names, which a saved model does not know."""
    named = ActionSpec.discrete(3, ("NOOP", "UP", "DOWN"))

    def info(folder: Path) -> DatasetInfo:
        found = load_info(folder)
        return replace(found, spec=replace(found.spec, actions=named))

    monkeypatch.setattr("diamond_bench.stored.imagination.load_info", info)
    assert opened(stored, "world model").actions == named


def test_lanes_begin_with_the_sampler_of_their_job_and_the_changes_of_the_command(stored: Stored) -> None:  # noqa: F811
    found = opened(stored, "world model", "evaluation", "sampler.s_churn=0.5")
    samplers = [lane.dynamics.first.sampler for lane in found.lanes()]
    assert [sampler.num_steps for sampler in samplers] == [3, 1]
    assert [sampler.s_churn for sampler in samplers] == [0.5, 0.5]
    assert [lane.dynamics.first.milestone for lane in found.lanes()] == [1.0, 1.0]
    (lane,) = opened(stored, "evaluation", "sampler=heun", "sampler.num_steps=2").lanes()
    assert (lane.dynamics.first.sampler.name, lane.dynamics.first.sampler.num_steps) == ("heun", 2)


def test_the_real_game_is_next_to_models_of_collected_play_and_stays_with_the_oracle(stored: Stored) -> None:  # noqa: F811
    found = opened(stored, "world model", "oracle's evaluation", "oracle", real=True)
    assert [facts.name for facts in found.facts][-1] == "real game"
    assert found.reference == 3
    first, second = found.session(seed=5), found.session(seed=6)
    for action in (0, 1, 2, 1) * 4:
        first.step(action)
        second.step(action)  # a session of its own
        for lane in (1, 2):
            assert first.drift(lane, 3).squared_error == 0
    shown = [[moment.shown[3].frame.tobytes() for moment in session.now.path] for session in (first, second)]
    assert shown[0] != shown[1]
    assert opened(stored, "agent", real=True).compared == 0
    with pytest.raises(UserError, match="nobody recorded their seeds"):
        opened(stored, "copies in an import", real=True)


def test_starts_lie_in_the_play_of_the_first_job(stored: Stored) -> None:  # noqa: F811
    replay = Replay.load(stored.store.folder(stored.jobs["agent"]) / "checkpoint", STEPS, STEPS, 16)
    heldout = load_split(stored.store.folder(stored.jobs["dataset"]), "heldout")
    for names, frames in ((("agent", "world model"), replay.episodes.frames), (("world model", "agent"), heldout.frames)):
        found = opened(stored, *names)
        known = {frame.numpy().tobytes() for frame in frames}
        assert {found.thumbnail(place).tobytes() for place in found.starts} <= known
        assert len(set(found.starts)) == len(found.starts) > 5
        assert any("start from the real play of" in note for note in found.notes)
        lengths = {len(found.start(place).frames) for place in found.starts}
        assert len(lengths) == 1


def test_words_without_a_model_are_the_real_game(stored: Stored) -> None:  # noqa: F811
    for source, policy in ((GAME, False), ("dataset", False), ("model-free agent", True)):
        found = opened(stored, source)
        assert [(facts.real, facts.policy) for facts in found.facts] == [(True, policy)]
        assert found.starts[0] == (0, 0)
        assert (found.env is None) is False
        session = found.session()
        session.step(0)
        if policy:
            session.step(session.policy_action(0))
    both = opened(stored, "agent", GAME)
    assert [facts.real for facts in both.facts] == [False, True]
    assert both.env == ENV  # the agent's


def test_a_game_without_rewards_and_ends_shows_none(stored: Stored) -> None:  # noqa: F811
    (facts,) = opened(stored, next(iter(LAYOUTS))).facts
    assert (facts.real, facts.rewards, facts.ends) == (True, False, False)


def test_an_agent_s_policy_plays_in_pictures_without_one(stored: Stored) -> None:  # noqa: F811
    agent = stored.jobs["agent"].id
    found = opened(stored, "world model", "agent", "oracle", policy=agent, real=True)
    assert [facts.policy for facts in found.facts] == [True] * 4
    session = found.session()
    opinions = [shown.policy for shown in session.now.shown]
    assert opinions[0] == opinions[1] == opinions[2] == opinions[3]  # all watched the same real frames
    session.step(session.policy_action(0))
    assert [facts.policy for facts in opened(stored, GAME, policy=agent).facts] == [True]
    for words, policy, message in (
        (["world model"], "dataset", "not an agent"),
        (["Pong"], "agent", "one session plays one game, and these are of different ones: Pong: Pong; synthetic/opponent: agent"),
    ):
        with pytest.raises(UserError, match=message):
            opened(stored, *words, policy=stored.jobs[policy].id)


def test_an_imported_agent_plays_its_start_once(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    folder, said = stored.store.root / "played", list[str]()
    shutil.rmtree(folder, ignore_errors=True)
    first = opened(stored, "import", say=said.append)
    assert said == [f"{stored.jobs['import']}: its policy plays 30 real steps to start from"]
    with monkeypatch.context() as patch:
        patch.setattr(kept_play, "agent_play", None)
        again = opened(stored, "import", real=True, say=said.append)
    assert [again.thumbnail(place).tolist() for place in first.starts] == [first.thumbnail(place).tolist() for place in first.starts]
    again.session(again.starts[-1]).step(0)  # the real game replays the kept steps
    assert len(said) == 1
    (file,) = folder.glob("*/*")
    file.write_bytes(file.read_bytes()[:-9])
    opened(stored, "import", say=said.append)
    assert said[1].startswith(f"removed: {file}: ")
    assert opened(stored, "import", say=said.append)
    assert len(said) == 3
    shutil.rmtree(folder)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Replay, "save", full)
    assert opened(stored, "import", say=said.append).facts == first.facts
    assert said[-1] == "these steps are not kept: [Errno 28] No space left on device"
    assert list(folder.iterdir()) == []


def test_a_dataset_starts_from_its_own_episodes_also_if_an_agent_collected_it(stored: Stored) -> None:  # noqa: F811
    store, agent = stored.store, stored.jobs["agent"]
    config = store.spec(stored.jobs["dataset"]).config
    job = JobSpec("collect_dataset", replace(config, data=replace(config.data, policy=str(agent))), {"agent": agent})
    store.prepare(job)
    claim = store.claim(job.ref)
    assert claim is not None
    ignored = shutil.ignore_patterns("*.yaml", "result.json")
    shutil.copytree(store.folder(stored.jobs["dataset"]), claim.folder, dirs_exist_ok=True, ignore=ignored)
    claim.finish({"rows": [], "info": {}, "recorded": {"revision": 1}})
    assert opened(stored, job.ref.id).starts == opened(stored, "dataset").starts


def test_starts_in_a_replay_and_in_episodes() -> None:
    replay = _played(GAME, ENV, UniformPlayer(3), How(start_steps=40), life_loss_ends=False)
    start = start_at(replay, 0, 20, 3)
    assert torch.equal(start.frames, replay.storage.frames[18:21])
    assert start.place == (0, 20)
    assert start_at(replay, 0, 1, 3).mask.tolist() == [False, True, True]
    for recording, step, message in ((1, 0, "one recording"), (0, 40, "steps 0 to 39")):
        with pytest.raises(UserError, match=message):
            start_at(replay, recording, step, 3)
    assert places(replay, 40, 1) == tuple((0, step) for step in range(40))
    assert places(replay, 4, 1, first_steps=8) == ((0, 0), (0, 2), (0, 4), (0, 6))
    episodes = episode_set(5, 1)  # 6 and 2 rows, the last of which no action follows
    assert places(episodes, 9, 3) == ((0, 2), (0, 3), (0, 4), (1, 0))
    assert places(episodes, 2, 3) == ((0, 2), (0, 4))


def test_a_model_of_changes_is_sampled_with_rounding() -> None:
    """The paper's sampler truncates, which such a model refuses."""
    objective = replace(small_agent_config().objective, coordinate="change", sigma_data=0.2, quantization="round")
    training = TrainWorldModel(0, objective, ConditioningConfig(num_frames=2), NETWORK, TrainingConfig(milestones=(1.0,)))
    sampler = _first_fitting(build_world_model(training, spec(GAME, ENV)))
    assert (sampler.name, sampler.quantization) == ("euler", "round")
    training = replace(training, objective=replace(objective, coordinate="frame"))
    assert _first_fitting(build_world_model(training, spec(GAME, ENV))) == replace(sampler, quantization="truncate")
    noisy = replace(training, objective=FactoredObjective(), conditioning=ConditioningConfig(num_frames=2, past_noise="training"))
    assert _first_fitting(build_world_model(noisy, spec(GAME, ENV))) == replace(sampler, quantization="truncate", s_cond=0.005)


def test_a_cascade_without_noise_on_past_frames_is_sampled_without_it() -> None:
    conditioning = ConditioningConfig(num_frames=2, actions="active_bits")
    family = Cascade(factor=2, inner=LowResolution(conditioning=conditioning, network=NETWORK), upsampler=Upsampler(network=NETWORK))
    world = build_world_model(TrainWorldModel(0, training=TrainingConfig(milestones=(1.0,)), family=family), spec(GAME, ENV))
    sampler = _first_fitting(world)
    assert sampler == CascadeSampler(s_cond=0.0)
    assert _fitting(world, sampler) == (("fast", "higher_quality"), False)


def test_variants_of_a_study_play_next_to_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, store = swept(tmp_path, True, "seeds=2", "games=[Breakout,Pong]")
    found = request(store, ["sampling_steps", "game=Pong", "sampler.guidance=1.0"])
    points = [point for point in plan.points if (point.game, point.seed) == ("Pong", 0)]
    assert [(one.name, one.source) for one in found.named] == [(point.variant, str(point.jobs["evaluation"])) for point in points]
    assert {one.game for one in found.named} == {"Pong"}
    assert "training seed 0; seed=1 takes another one" in found.notes[0]
    assert [override.key for override in found.sampler] == ["sampler.guidance"]
    (one,) = request(store, ["sampling_steps", "game=Pong", "seed=1", "variant=n=3"]).named
    assert one.job == next(p.jobs["evaluation"] for p in plan.points if (p.game, p.seed, p.axes["n"]) == ("Pong", 1, 3))
    training = points[0].jobs["world_model"]
    (one,) = request(store, [training.id]).named
    assert one.sampler.num_steps == points[0].axes["n"]  # of the first evaluation of it
    with monkeypatch.context() as patch:
        read: list[Path] = []
        patch.setattr(naming, "load_plan", lambda folder: read.append(folder) or load_plan(folder))  # type: ignore[func-returns-value]
        both = request(store, [training.id, next(p.jobs["world_model"].id for p in plan.points if (p.game, p.seed) == ("Pong", 1))])
        assert [found.sampler.num_steps for found in both.named] == [points[0].axes["n"]] * 2
        assert len(read) == 1
    assert request(store, [str(store.folder(training) / "config.yaml")]).named == (one,)
    for words, message in (
        (["sampling_steps"], "several games, and one session plays one; name one of them with game=: Breakout, Pong"),
        (["sampling_steps", "game=Pang"], "game=Pang: sampling_steps has none such; did you mean Pong"),
        (["sampling_steps", "game=Pong", "seed=7"], "seed=7: sampling_steps has none such; valid: 0, 1"),
        (["sampling_steps", "game=Pong", "variant=n=2"], "variant=n=2: sampling_steps has no such variant; did you mean n="),
        ([training.id, "seed=1"], "seed=1: chooses a part of a study, and no study is named"),
        ([training.id, "scale=tiny"], "scale=tiny: chooses a part of a study"),
        ([training.id, "family.num_frames=2"], "family.num_frames=2: the settings of a family are those of its training"),
        (["samplingsteps"], "'samplingsteps': neither a job's id nor a study, a family or a game; did you mean sampling_steps"),
        (["ffff"], ", n=3). `diamond-bench status` lists the studies"),
        ([], "play: name a job, a study or a game"),
        (["oracle"], "oracle: say in which game, such as game=Breakout"),
        (["oracle", "game=Pang"], "unknown game"),
        (["diamond"], "models of this family are trained"),
        ([training.id, "sampler.num_stps=1"], "unknown key 'sampler.num_stps': did you mean sampler.num_steps"),
        ([training.id, "sampler.num_steps=0"], "sampler.num_steps"),
        ([training.id, "nonsense=1"], "unknown key 'nonsense'"),
        ([training.id, "game=Pong", "game=Pong"], "game: given twice"),
        (["Pong", "Breakout"], "one session plays one game, and these are of different ones: Pong: Pong; Breakout: Breakout"),
    ):
        with pytest.raises(UserError) as refused:
            request(store, words)
        assert message in str(refused.value), words
    (tmp_path / "seven").mkdir()
    _, store = finished(tmp_path / "seven", plan_study("sampling_steps", [*TOKENS[:-1], "sampler.num_steps=1,2,3,4,5,6,7"]))
    with pytest.raises(UserError, match=r"has 7 variants, and 6 fit .* 'variant=n=1': n=1, n=2, n=3, n=4, n=5, n=6, n=7"):
        request(store, ["sampling_steps"])
    (tmp_path / "none").mkdir()
    plan, store = swept(tmp_path / "none", False)
    with pytest.raises(UserError, match=re.escape(f"no variant is finished at scale tiny; run: {plan.command}")):
        request(store, ["sampling_steps"])


def test_jobs_of_different_preparation_are_refused(tmp_path: Path) -> None:
    plan, store = swept(tmp_path, True)
    other, _ = swept(tmp_path, True, "env.frame_size=32")
    jobs = [found.points[0].jobs["world_model"].id for found in (plan, other)]
    with pytest.raises(UserError, match=r"has env\.frame_size=\d+ and model \w+ env\.frame_size=32; they see different games"):
        request(store, jobs)


def command(stored: Stored, monkeypatch: pytest.MonkeyPatch, cwd: Path, *words: str, exit_code: int = 0) -> tuple[list[Any], str]:  # noqa: F811
    """The arguments of `serve`, and what the command said."""
    served: list[Any] = []
    monkeypatch.setitem(sys.modules, "diamond_bench.play.server", SimpleNamespace(serve=lambda *given: served.append(given)))
    monkeypatch.setattr("diamond_bench.cli.play_commands.find_spec", lambda name: object())
    named = [stored.jobs[word].id if word in stored.jobs else word for word in words]
    done = in_this_process("play", *named, f"output_dir={stored.store.root}", cwd=cwd, exit_code=exit_code)
    return served, done.stderr


def test_the_command_serves_what_it_opened(stored: Stored, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # noqa: F811
    words = ["--real", "--player", "policy", "--start", "0:7", "--seed", "4", "--fps", "7.5", "--horizon", "50", "--pictures", "webp"]
    ((found, recording, options, _),), _ = command(
        stored, monkeypatch, tmp_path, "agent", *words, "--no-browser", "--port", "8765", "--out", "mine"
    )
    assert [facts.real for facts in found.facts] == [False, True]
    assert recording is None
    assert options == PlayOptions(
        player="policy", seed=4, place=(0, 7), fps=7.5, horizon=50, pictures="webp", out=Path("mine"), port=8765, browser=False
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["agent", "--player", "polcy"], "--player polcy: did you mean policy"),
        (["world model", "--player", "policy"], "nothing that is named has a policy; name an agent"),
        (["agent", "--player", "recording"], "name the file of recorded actions with --actions FILE"),
        (["agent", "--start", "7"], "--start 7: expected EPISODE:STEP"),
        (["agent", "--start", "0:5000"], "the play has the steps 0 to 59"),
        (["agent", "--pictures", "gif"], "--pictures gif"),
        (["agent", "--port", "x"], "--port"),
        (["agent", "--port", "70000"], "65535"),
        (["agent", "--headless", "--out", "file.mp4"], "--out file.mp4: exists already"),
        (["agent", "--headless", "--out", "file"], "--out file: is a file; expected a folder, or a file such as rollout.mp4 or steps.png"),
        (["agent", "--headless", "--out", "none/a.mp4"], "there is no folder none"),
        (
            ["agent", "--headless", "--out", "vid.gif"],
            "--out vid.gif: expected a video such as vid.mp4, a picture such as vid.png, or a folder",
        ),
        (["agent", "--actions", "none.json"], "none.json: not a recording of actions"),
        (["agent", "--milestone", "0.5"], "kept 1.0 alone"),
        (["agent", "--device", "cuda:99"], "--device=cuda:99: "),
        (["agent", "--device", "gpu"], "--device='gpu': expected auto, cpu, cuda or cuda:N"),
        (["agent", "--headless", "--actions", "a.json", "--player", "policy"], "--player policy: --headless with --actions replays"),
        (["agent", "--headless", "--out", "a.MP4"], "--out a.MP4: write the ending in small letters, .mp4"),
        (["oracle's evaluation", "sampler.num_steps=1"], "samples nothing"),
        (["agent", "--out", "file"], "--out file: is a file; expected a folder"),
    ],
)
def test_mistakes_of_the_command(
    stored: Stored,  # noqa: F811
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for name in ("file", "file.mp4"):
        (tmp_path / name).touch()
    served, said = command(stored, monkeypatch, tmp_path, *words, exit_code=2)
    assert message in said
    assert "Traceback" not in said
    assert served == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "file.mp4"]


def test_the_headless_command_plays_recorded_actions(
    stored: Stored,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    played: list[Any] = []
    monkeypatch.setitem(sys.modules, "diamond_bench.play.headless", SimpleNamespace(run_headless=lambda *given: played.append(given)))
    session = opened(stored, "agent").session(seed=3)
    session.step(2)
    write_recording(tmp_path / "actions.json", recorded(session))
    words = ("--actions", "actions.json", "--headless", "--out", "a.mp4")
    command(stored, monkeypatch, tmp_path, "agent", *words)
    ((found, recording, options, _),) = played
    assert [step.action for step in recording.steps] == [2]
    assert (options.out, options.player, options.place) == (Path("a.mp4"), "recording", session.start.place)
    assert same_bytes(_replayed(found.session(recording.place, recording.seed), recording), recording) == (True,)
    _, said = command(stored, monkeypatch, tmp_path, "agent", *words, "--real", exit_code=2)
    assert "recorded with 1 picture (agent" in said
    assert "2 are named: name as many, or --actions-only" in said
    command(stored, monkeypatch, tmp_path, "agent", *words, "--real", "--actions-only")
    assert len(played) == 2


def _replayed(session: Session, recording: Recording) -> Session:
    assert list(replay(session, recording))
    return session


def test_the_emulator_prints_no_banner(capfd: pytest.CaptureFixture[str]) -> None:
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Info)
    make_env("Pong", replace(ENV, frame_size=64))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_a_missing_package_is_named(stored: Stored, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # noqa: F811
    monkeypatch.setattr("diamond_bench.cli.play_commands.find_spec", lambda name: None)
    done = in_this_process("play", stored.jobs["agent"].id, f"output_dir={stored.store.root}", cwd=tmp_path, exit_code=2)
    assert "pip install '.[play]'" in done.stderr
