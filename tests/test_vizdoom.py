"""First-person games: actions and their signs, episodes that follow from their seed, and what is refused."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import cv2
import gymnasium
import numpy as np
import pytest
from command_line import in_this_process

from diamond_bench.config import DataConfig, EnvConfig
from diamond_bench.data.minari_io import read_own_episodes
from diamond_bench.data.ram import load_ram
from diamond_bench.envs import games, packages
from diamond_bench.envs.first_person import ACTIONS, MOUSE_X, MOUSE_Y, no_motion
from diamond_bench.envs.poses import read_poses, read_variable
from diamond_bench.envs.vizdoom_maps import MAPS, SCENARIOS
from diamond_bench.errors import UserError
from diamond_bench.jobs.collect_dataset import run
from diamond_bench.jobs.context import JobContext
from diamond_bench.play import opening
from diamond_bench.play.keys import key_map
from diamond_bench.play.naming import request
from diamond_bench.store.artifacts import Store
from diamond_bench.store.kinds import KINDS, CollectDataset
from diamond_bench.stored import imagination

pytest.importorskip("vizdoom")

Env = gymnasium.Env
HOME = "vizdoom/my_way_home"


def action(**values: int) -> np.ndarray:
    """Columns by name. Motion is given in counts of a bin."""
    found = no_motion()
    for name, value in values.items():
        bins = {"mouse_x": MOUSE_X, "mouse_y": MOUSE_Y}.get(name)
        found[ACTIONS.names.index(name)] = value if bins is None else bins.index(value)
    return found


def played(env: Env, seed: int, steps: int, game: str = HOME) -> tuple[np.ndarray, np.ndarray]:
    """Frames and memories of the explorer's play."""
    policy = games.make_policy("expert", game, np.random.default_rng(seed))
    frame, info = env.reset(seed=seed)
    frames, rams, taken = [frame], [info["ram"]], no_motion()
    for _ in range(steps):
        taken = policy(info["ram"], taken)
        frame, _, ended, _, info = env.step(taken)
        frames.append(frame)
        rams.append(info["ram"])
        if ended:
            break
    return np.stack(frames), np.stack(rams)


def test_the_actions_are_the_51_numbers_of_the_csgo_data() -> None:
    binary, bins = ACTIONS.sizes[:13], ACTIONS.sizes[13:]
    assert (len(binary), set(binary), bins) == (13, {2}, (23, 15))
    assert len(binary) + sum(bins) == 51
    assert tuple(-count for count in reversed(MOUSE_X)) == MOUSE_X
    assert tuple(-count for count in reversed(MOUSE_Y)) == MOUSE_Y
    assert [name for name, size in zip(ACTIONS.names, ACTIONS.sizes, strict=True) if size == 2][:4] == ["forward", "left", "back", "right"]
    assert len(MAPS) == 68
    assert len(SCENARIOS) == 12


@pytest.fixture(scope="module")
def small() -> Iterator[Env]:
    env = games.make_env(HOME, EnvConfig())
    yield env
    env.close()


@pytest.fixture(scope="module")
def large() -> Iterator[Env]:
    env = games.make_env(HOME, EnvConfig(frame_height=180, frame_width=320))
    yield env
    env.close()


def test_an_episode_follows_from_its_seed_whatever_was_played_before(small: Env, large: Env) -> None:
    first, second, again, elsewhere = played(small, 1, 40), played(small, 2, 25), played(small, 1, 40), played(large, 1, 40)
    np.testing.assert_array_equal(first[0], again[0])
    for same in (again, elsewhere):
        np.testing.assert_array_equal(first[1], same[1])
    assert not np.array_equal(first[0][0], second[0][0])
    assert len(np.unique(first[0].reshape(len(first[0]), -1), axis=0)) > 20, "the explorer moves"
    means = elsewhere[0].reshape(-1, 36, 5, 64, 5, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(first[0], means, atol=0.51, err_msg="small frames are means of the engine's pixels")


def test_turns_and_steps_have_the_stated_signs_and_sizes(large: Env) -> None:
    frame, info = large.reset(seed=3)
    for name, value, variable, change in (
        ("mouse_x", 100, "angle", -5.5),
        ("mouse_x", -100, "angle", 5.5),
        ("mouse_y", 100, "pitch", 5.5),
        ("mouse_y", -100, "pitch", -5.5),
    ):
        before = read_variable(info["ram"], variable)
        seen = frame
        frame, _, _, _, info = large.step(action(**{name: value}))
        turned = (read_variable(info["ram"], variable) - before + 180) % 360 - 180
        assert turned == pytest.approx(change, abs=0.02), name
        grey = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY).astype(np.float32)[20:140] for each in (seen, frame)]
        moved = np.array(cv2.phaseCorrelate(*grey)[0])[0 if name == "mouse_x" else 1]
        assert np.sign(moved) == -np.sign(value), f"{name}={value} moves the picture by {moved} pixels"
    start = read_poses(info["ram"])
    for _ in range(4):
        frame, _, _, _, info = large.step(action(forward=1))
    walked = read_poses(info["ram"]).positions - start.positions
    assert np.dot(walked, (np.cos(start.angles), np.sin(start.angles))) > 20


def test_a_saved_state_continues_exactly() -> None:
    env, other = games.make_env("vizdoom/MAP01", EnvConfig()), games.make_env("vizdoom/MAP01", EnvConfig())
    played(env, 4, 20, "vizdoom/MAP01")
    state = env.unwrapped.save_state()
    further = [action(forward=1, fire=1), action(mouse_x=300), action(forward=1)] * 4

    def following(of: Env) -> list[bytes]:
        return [of.step(each)[0].tobytes() for each in further]

    expected = following(env)
    assert len(set(expected)) > 6
    for one in (env, other):  # one must go back, the other plays all from the start
        one.unwrapped.load_state(state)
        assert following(one) == expected
    env.close()
    other.close()


def test_a_scenario_is_truncated_after_its_own_time() -> None:
    env = games.make_env("vizdoom/basic", EnvConfig())
    env.reset(seed=0)
    for _ in range(149):
        _, reward, ended, cut, _ = env.step(no_motion())
        assert (reward, ended, cut) == (-2.0, False, False), "a living reward of -1 for each of the two tics"
    assert env.step(no_motion())[2:4] == (False, True)
    env.close()


DATA = DataConfig(
    policy="expert", epsilon=0.0, num_train_frames=120, num_references=1, reference_context=4, reference_horizon=20, random_start_steps=0
)

CONFIG = CollectDataset("vizdoom/basic", EnvConfig(), DATA)


def collect(folder: Path, killed_at: int | None = None) -> None:
    """Collects in this process. The process kills itself with signal 9 at that step."""
    steps = iter(range(10**6))
    context = JobContext(folder, should_stop=lambda: next(steps) == killed_at and os.kill(os.getpid(), signal.SIGKILL))
    run(CONFIG, context)


def test_a_collection_killed_within_an_episode_gives_the_same_bytes_and_leaves_no_engine(tmp_path: Path) -> None:
    def engines() -> set[str]:
        commands = ((process, process / "cmdline") for process in Path("/proc").iterdir() if process.name.isdigit())
        return {process.name for process, file in commands if file.exists() and b"vizdoom" in file.read_bytes().split(b"\0")[0]}

    before = engines()
    for folder, kill in ((tmp_path / "whole", None), (tmp_path / "killed", 50)):
        if kill is not None:
            pid = os.fork()
            if pid == 0:
                collect(folder, kill)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        collect(folder)
    one, other = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "whole", tmp_path / "killed")
    )
    assert one == other
    episode = next(read_own_episodes(tmp_path / "whole" / "train" / "data"))
    assert episode.frames.shape[1:] == (36, 64, 3)
    assert episode.actions.shape[1:] == (15,)
    planned = KINDS["collect_dataset"].costs.disk(CONFIG, {})
    assert 0.3 < sum(map(len, one.values())) / planned < 3, "the disk that a plan announces"
    rams = load_ram(tmp_path / "whole", "train")
    assert rams.shape == (120, 128)
    assert (read_variable(rams, "health") == 100).all()
    assert engines() <= before, "an engine outlived its process"


def test_a_missing_package_is_named_before_anything_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    for game, package in ((HOME, "vizdoom"), ("highway/exit-v1", "highway-env")):
        done = in_this_process("sweep", "sampling_steps", "scale=tiny", f"games=[{game}]", cwd=tmp_path, exit_code=2)
        assert f"{game}: it needs the package {package}; get it with: pip install '.[envs3d]'" in done.stderr
        assert not list(tmp_path.iterdir())


def test_the_real_game_is_played_and_rewound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (opening, imagination):
        monkeypatch.setattr(module, "START_STEPS", 30)
    store = Store(tmp_path, say=lambda text: None)
    found = opening.open_sources(store, request(store, [HOME, "env.frame_height=90", "env.frame_width=160"]))
    assert (found.game, [lane.real for lane in found.facts], found.actions) == (HOME, [True], ACTIONS)
    assert len(found.starts) == 30
    session = found.session(found.starts[10], seed=1)
    assert session.now.shown[0].frame.shape == (3, 90, 160)
    keys = key_map(found.actions)
    turned = session.step(keys.action(["ArrowRight"])).shown[0].frame
    session.step(keys.action(["KeyW"]))
    assert np.array_equal(found.session(found.starts[10], seed=2).step(keys.action(["ArrowRight"])).shown[0].frame, turned)
    with pytest.raises(UserError, match=r"env.frame_skip=3: vizdoom/my_way_home has none"):
        opening.open_sources(store, request(store, [HOME, "env.frame_skip=3"]))
    with pytest.raises(UserError, match=r"env.frame_height=180: set env.frame_width too.*env.frame_height=180 env.frame_width=320$"):
        opening.open_sources(store, request(store, [HOME, "env.frame_height=180"]))
    with pytest.raises(UserError, match="chooses a part of a study"):
        opening.open_sources(store, request(store, [HOME, "scale=tiny"]))
