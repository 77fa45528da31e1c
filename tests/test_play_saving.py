"""What play saves: whole folders, lossless datasets, marks of imagined frames, and recordings of the real game that a study takes."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio.v3
import minari
import numpy as np
import pytest
import torch
from command_line import in_this_process
from minari.dataset.minari_storage import MinariStorage
from small_agents import small_agent_config
from test_import_dataset import config
from test_play_recording import both, rich
from test_play_session import lane, session_of, shown, start_of
from test_worlds import ENV, played

from diamond_bench.agent import build_agent
from diamond_bench.config import EnvConfig
from diamond_bench.data.foreign import find_dataset, read_metadata
from diamond_bench.data.foreign_episodes import read_foreign
from diamond_bench.data.minari_io import Episode, open_dataset, read_own_episodes
from diamond_bench.data.static import load_split
from diamond_bench.envs.games import actions, make_env
from diamond_bench.errors import UserError
from diamond_bench.jobs.agent_learners import describe
from diamond_bench.jobs.context import JobContext
from diamond_bench.jobs.import_dataset import run as import_dataset
from diamond_bench.play import saving
from diamond_bench.play.headless import run_headless
from diamond_bench.play.joining import join_datasets
from diamond_bench.play.lanes import Lane, Memory, Real, Shown
from diamond_bench.play.naming import Named
from diamond_bench.play.opened import LaneFacts, Opened
from diamond_bench.play.opening import _title
from diamond_bench.play.options import PlayOptions
from diamond_bench.play.recording import Recording, read_recording, recorded, replay, same_bytes
from diamond_bench.play.saver import Played
from diamond_bench.play.saving import lane_episode, save_session
from diamond_bench.play.session import Session
from diamond_bench.play.video import pictures

JOB = "train_world_model/0123456789abcdef"
NOON = datetime(2026, 11, 29, 12, 0, 5, tzinfo=UTC)


def saved(out: Path, session: Session, player: str = "human") -> Path:
    return save_session(Played(session, session.now, player), out, "synthetic/turn", now=NOON)


def only(folder: Path) -> Episode:
    (episode,) = read_own_episodes(folder / "data")
    return episode


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A session of a model and the real game, in which n and the seed change."""
    return saved(tmp_path_factory.mktemp("play"), rich())


def test_a_session_is_saved_with_all_that_was_shown(folder: Path) -> None:
    session = rich()
    assert folder.parts[-2:] == ("synthetic-turn", "20261129T120005Z-human")
    assert {path.name for path in folder.iterdir()} == {"actions.json", "play.mp4", "session.json", "model", "game"}
    assert read_recording(folder / "actions.json") == recorded(session)
    for number, name in enumerate(("model", "game")):
        episode = only(folder / name)
        assert np.array_equal(episode.frames.transpose(0, 3, 1, 2), np.stack(shown(session, number)))
        assert episode.actions.tolist() == [0, 1, 0, 1]
        assert (episode.terminated, episode.truncated) == (False, True)
    assert only(folder / "model").rewards is None
    rewards = only(folder / "game").rewards
    assert rewards is not None
    assert rewards.tolist() == [moment.shown[1].reward for moment in session.now.path[1:]]
    facts = json.loads((folder / "session.json").read_text())
    assert facts["lanes"][1] == {"name": "game", "folder": "game", "real": True}
    assert (facts["game"], facts["player"], facts["steps"], facts["start"]) == ("synthetic/turn", "human", 4, {"place": [0, 3], "seed": 5})
    video = np.stack(list(imageio.v3.imiter(folder / "play.mp4")))
    expected = np.stack(list(pictures(session.lanes, session.now.path)))
    assert np.abs(video[:, : expected.shape[1], : expected.shape[2]].astype(int) - expected).mean() < 4


def test_imagined_frames_name_what_imagined_them(folder: Path) -> None:
    imagined = json.loads((folder / "model" / "data" / "metadata.json").read_text())["imagined"]
    assert (imagined["by"], imagined["seed"]) == (JOB, 5)
    changes = [(each["from_step"], each["seed"], each["sampler"]["num_steps"], each["milestone"]) for each in imagined["settings"]]
    assert changes == [(1, 5, 2, None), (3, 5, 1, None), (4, 9, 1, None)]
    dataset = minari.MinariDataset(folder / "model" / "data")
    assert [bytes(name) for name in dataset[0].infos["imagined_by"]] == [bytes(len(JOB)), *[JOB.encode()] * 4]


def test_a_study_takes_no_imagined_frames(folder: Path, tmp_path: Path) -> None:
    """Also where somebody's tool wrote them to another dataset."""
    with pytest.raises(UserError, match=f"imagined by {JOB}, and a study needs frames of the real game"):
        find_dataset(str(folder / "model"))
    assert find_dataset(str(folder / "game")) == folder / "game" / "data"
    source = open_dataset(folder / "model" / "data")
    for data_format in ("hdf5", "arrow"):
        data = tmp_path / data_format / "data"
        data.parent.mkdir()
        copy = MinariStorage.new(data, source.observation_space, source.action_space, data_format=data_format, jpeg_encoding=False)
        copy.update_from_storage(source)
        assert find_dataset(str(data.parent)) == data
        with pytest.raises(UserError, match=f"episode 0: its frames were imagined by {JOB}"):
            read_foreign(open_dataset(data), read_metadata(data), 0, "")


def test_a_real_game_is_recorded_like_a_collected_one() -> None:
    """The console's memory and lost lives at each frame are those of the game that begins with the same seed and actions."""
    env, actions = replace(ENV, frame_size=64), [1, 0, 2, 1, 1]
    recording = played("Breakout", env, 12, 1)
    session = Session([Lane("game", Real(recording))], start_of(recording))
    for action in actions:
        session.step(action)
    episode = lane_episode(session, session.now.path, 0)
    game = make_env("Breakout", env)
    _, info = game.reset(seed=0)
    rams, losses = [info["ram"]], []
    for action in (*recording.actions[0, :3], *actions):
        *_, info = game.step(int(action))
        rams.append(info["ram"])
        losses.append(info["life_loss"])
    assert episode.ram is not None
    assert episode.life_losses is not None
    assert np.array_equal(episode.ram, rams[3:])
    assert episode.life_losses.tolist() == losses[3:]


def test_an_episode_ends_with_the_first_end_of_its_lane() -> None:
    session = session_of(lane("model"))
    for action in (0, 1, 2, 0):
        session.step(action)
    for moment, ended in zip(session.now.path[1:], (False, True, False, True), strict=True):
        (before,) = moment.shown
        moment.shown = (replace(before, reward=-1.0, ended=ended, reward_probabilities=(1.0, 0.0, 0.0)),)
    episode = lane_episode(session, session.now.path, 0)
    assert (len(episode.frames), episode.terminated, episode.truncated) == (3, True, False)
    assert episode.rewards is not None
    assert episode.rewards.tolist() == [-1, -1]


def fails(error: BaseException) -> Callable[..., None]:
    def fail(*_: Any) -> None:
        raise error

    return fail


def test_a_folder_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = both()
    with pytest.raises(UserError, match="nothing was played yet"):
        saved(tmp_path / "play", session)
    assert not (tmp_path / "play").exists()
    session.step(0)
    first, second = saved(tmp_path, session), saved(tmp_path, session)
    assert (first.name, second.name) == ("20261129T120005Z-human", "20261129T120005Z-human-2")
    monkeypatch.setattr(saving, "write_dataset", fails(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        saved(tmp_path, session)
    monkeypatch.setattr(saving, "write_dataset", fails(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match=r"cannot be saved \(No space left on device\); choose another"):
        saved(tmp_path, session)
    assert sorted(first.parent.iterdir()) == [first, second]


def test_an_earlier_moment_is_saved_where_the_player_went_back(tmp_path: Path) -> None:
    session = both()
    for action in (0, 1, 2):
        session.step(action)
    session.rewind(2)
    folder = save_session(Played(session, session.moments[-1], "policy"), tmp_path, "synthetic/turn")
    assert [step.action for step in read_recording(folder / "actions.json").steps] == [0, 1, 2]


def test_branches_that_were_left_are_saved_as_actions_and_the_video_has_the_rate_of_play(tmp_path: Path) -> None:
    session = both()
    for action in (0, 1, 2):
        session.step(action)
    session.rewind(2)
    session.step(2)
    session.rewind(2)
    session.step(1)
    assert [end.number for end in session.ends] == [3, 4, 5]
    folder = save_session(Played(session, session.now, "human", fps=5.0, branches=session.ends[:2]), tmp_path, "synthetic/turn")
    branches = [read_recording(folder / "branches" / f"{number}.json") for number in (1, 2)]
    assert [[step.action for step in branch.steps] for branch in branches] == [[0, 1, 2], [0, 2]]
    again = both()
    list(replay(again, branches[0]))
    assert same_bytes(again, branches[0]) == (True, True)
    facts = json.loads((folder / "session.json").read_text())
    assert (facts["branches"], facts["fps"]) == (2, 5.0)
    assert imageio.v3.immeta(folder / "play.mp4")["fps"] == 5.0


def test_names_become_different_folders(tmp_path: Path) -> None:
    session = session_of(lane("n = 1"), lane("n/1"), lane("session.json"), lane("..."))
    session.step(0)
    facts = json.loads((saved(tmp_path, session, "a/../b") / "session.json").read_text())
    assert [each["folder"] for each in facts["lanes"]] == ["n-1", "n-1-2", "session.json-2", "unnamed"]
    assert [path.name for path in (tmp_path / "synthetic-turn").iterdir()] == ["20261129T120005Z-a-..-b"]


def bright(difference: np.ndarray) -> np.ndarray:
    """As a video and the page show it: four times brighter."""
    return np.minimum(difference.astype(int) * 4, 255).astype(np.uint8).transpose(1, 2, 0)


def test_a_video_shows_each_difference_at_its_lane() -> None:
    one = session_of(lane("model"), Lane("game", Real(played())))
    several = session_of(lane("a"), lane("b", 1), Lane("game", Real(played())))
    alone = session_of(lane("model"))
    for session in (one, several, alone):
        session.step(1)
    caption, frame = 22, 16 * 5
    picture = list(pictures(one.lanes, one.now.path))[-1]
    assert picture.shape == (caption + frame, (3 * 18 - 2) * 5, 3)
    expected = bright(one.drift(0, 1).difference)
    assert np.array_equal(picture[caption::5, 36 * 5 :: 5], expected)
    picture = list(pictures(several.lanes, several.now.path))[-1]
    assert picture.shape == (2 * (caption + frame), (3 * 18 - 2) * 5, 3)
    second = picture[2 * caption + frame :: 5, ::5]
    assert np.array_equal(second[:, 18:34], bright(several.drift(1, 2).difference))
    assert (second[:, 36:] == 48).all()
    assert list(pictures(alone.lanes, alone.now.path))[-1].shape == (caption + frame, frame, 3)


def test_recordings_of_a_game_become_one_dataset(folder: Path, tmp_path: Path) -> None:
    session = both(seed=1)
    session.step(2)
    other = saved(tmp_path, session) / "game"
    done = in_this_process("join", str(folder / "game"), str(other), "--out", "mine", cwd=tmp_path)
    assert done.stderr == "2 recordings in mine. To train on them: diamond-bench sweep STUDY data.dataset=mine\n"
    first, second = read_own_episodes(find_dataset(str(tmp_path / "mine")))
    assert np.array_equal(first.frames, only(folder / "game").frames)
    assert second.actions.tolist() == [2]
    with pytest.raises(UserError, match="it exists already"):
        join_datasets([folder / "game"], tmp_path / "mine")
    metadata = read_metadata(tmp_path / "mine" / "data")
    assert (metadata.game, metadata.actions.names) == ("synthetic/turn", session.actions.names)
    longer = both(seed=1)
    for action in (2, 0):
        longer.step(action)
    long = saved(tmp_path / "long", longer)
    number, notes = join_datasets([other, folder / "game", long / "game"], tmp_path / "whole")
    assert (number, notes) == (2, [f"{other} is left out: it is the first 1 steps of {long / 'game'}"])
    for sources, message in (
        ([folder / "model", other], f"imagined by {JOB}"),
        ([other, other], "is named twice"),
        ([other, tmp_path / "mine"], "not a recording"),
        ([], "expected the folders"),
        ([tmp_path / "missing"], "no recording there"),
    ):
        with pytest.raises(UserError, match=message):
            join_datasets(sources, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def opened(*lanes: Lane, policy: bool = False) -> Opened:
    """The stand-in model next to the real game, or other lanes."""
    shown = lanes or both().lanes
    facts = tuple(LaneFacts(each.name, each.source, real=isinstance(each.dynamics, Real), policy=policy) for each in shown)
    return Opened("synthetic/turn", shown[0].dynamics.actions, facts, lambda: shown, ((1, 3),), lambda place: start_of(played(), place[0]))


def headless(given: Opened, options: PlayOptions, recording: Recording | None = None) -> tuple[Session, list[str]]:
    said: list[str] = []
    return run_headless(given, recording, options, said.append), said


def test_a_recording_replays_without_a_page_to_the_same_bytes(tmp_path: Path) -> None:
    """From the place and with the seed of the recording, whatever the options say."""
    out = tmp_path / "new" / "rollout.mp4"
    session, said = headless(opened(), PlayOptions(place=(2, 3), seed=1, out=out), recorded(rich()))
    assert said == ["model: the recorded bytes", "game: the recorded bytes", f"recording: 4 steps, saved in {out}"]
    assert len(list(imageio.v3.imiter(out))) == 5
    assert recorded(session) == recorded(rich())


def test_actions_replay_in_other_models(tmp_path: Path) -> None:
    options = PlayOptions(seed=5, place=(0, 3), as_recorded=False, out=tmp_path / "x.mp4")
    _, said = headless(opened(), options, recorded(rich()))
    assert said[:2] == ["model: other bytes", "game: the recorded bytes"]
    session, said = headless(opened(lane("other"), *both().lanes), options, recorded(rich()))
    assert said[:3] == ["other: not in the recording", "model: other bytes", "game: the recorded bytes"]
    assert session.now.step == 4
    _, said = headless(opened(), replace(options, horizon=3), recorded(rich()))
    assert said[0] == "the bytes are not compared, because 3 of 4 recorded steps were replayed"


def test_random_actions_play_without_a_page_and_are_saved(tmp_path: Path) -> None:
    session, said = headless(opened(), PlayOptions(horizon=6, out=tmp_path))
    assert (session.now.step, session.start.place) == (6, (1, 3))
    (folder,) = (tmp_path / "synthetic-turn").iterdir()
    assert said == [f"random: 6 steps, saved in {folder}"]
    assert folder.name.endswith("Z-random")
    assert read_recording(folder / "actions.json") == recorded(session)
    assert len({step.action for step in recorded(session).steps}) > 1


def test_a_policy_plays_without_a_page_until_its_game_ends(tmp_path: Path) -> None:
    class Ends(Real):
        def step(self, *given: Any) -> tuple[Memory, Shown]:
            memory, shown = super().step(*given)
            return memory, replace(shown, ended=True)

    torch.manual_seed(0)
    policy = build_agent(describe(small_agent_config("game=synthetic/turn"))).actor_critic
    lanes = replace(lane("model"), policy=policy), Lane("game", Ends(played()))
    options = PlayOptions(player="policy", horizon=4, out=tmp_path / "x.png")
    session, said = headless(opened(*lanes, policy=True), options)
    assert [str(moment.action) for moment in session.now.path[1:]] == [
        str(before.shown[0].policy.action((0, before.step))) for before in session.now.path[:-1]
    ]
    assert said == [f"policy: 4 steps, saved in {tmp_path / 'x.png'}"]
    rows = np.concatenate(list(pictures(session.lanes, session.now.path[1:], steps=True)))
    assert rows[:22].any()  # the number of the step
    assert np.array_equal(imageio.v3.imread(tmp_path / "x.png"), rows)
    session, _ = headless(opened(*lanes[::-1]), replace(options, player="human"))
    assert session.now.step == 1


def recordings(out: Path, game: str, env: EnvConfig, number: int, steps: int) -> Path:
    """A dataset of `number` recordings of the real game, with random actions."""
    play, folders = played(game, env, 8, 1), []
    for seed in range(number):
        session = Session([Lane("real game", Real(play))], start_of(play), seed)
        for action in np.random.default_rng(seed).integers(3, size=steps).tolist():
            session.step(action)
        folders.append(save_session(Played(session, session.now, "human"), out / "play", game, now=NOON) / "real-game")
    join_datasets(folders, out / "mine")
    return out / "mine"


def test_recordings_of_the_real_game_are_data_for_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    source, job = recordings(tmp_path, "synthetic/turn", ENV, 3, 40), tmp_path / "job"
    job.mkdir()
    import_dataset(config(source, num_train_frames=50, num_references=2), JobContext(job))
    played_frames = [each.frames.transpose(0, 3, 1, 2) for each in read_own_episodes(source / "data")]
    imported: Any = SimpleNamespace(folder=lambda ref: job)
    assert _title(imported, Named("model", "source", "import_dataset/0123456789abcdef")) == "synthetic/turn"
    facts = json.loads((job / "dataset.json").read_text())
    assert (facts["played_game"], tuple(facts["action_meanings"])) == ("synthetic/turn", actions("synthetic/turn").names)
    train, heldout = load_split(job, "train"), load_split(job, "heldout")
    order = np.random.default_rng(3).permutation(3)  # by data.seed
    assert np.array_equal(heldout.frames, played_frames[order[0]])
    assert np.array_equal(train.frames[:41], played_frames[order[1]])
    assert np.array_equal(train.frames[41:], played_frames[order[2]][:9])


@pytest.mark.slow
def test_a_study_trains_on_recordings(tmp_path: Path) -> None:
    source = recordings(tmp_path, "Breakout", replace(ENV, frame_size=64), 6, 100)
    done = in_this_process("sweep", "sampling_steps", "scale=tiny", f"data.dataset={source}", "sampler.num_steps=1", cwd=tmp_path)
    assert "3/3 jobs done" in done.stderr
    imagined = next((tmp_path / "outputs" / "evaluate_world_model").iterdir())
    assert (imagined / "result.json").exists()
