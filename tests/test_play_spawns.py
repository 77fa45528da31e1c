"""Start states in the authors' layout: what is read, what is refused, and how an imported cascade plays from them and replays actions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import in_this_process
from play_stand_ins import driven
from test_cascade_import import small_state

from diamond_bench.envs.first_person import ACTIONS, MOUSE_X, MOUSE_Y
from diamond_bench.errors import UserError
from diamond_bench.launch.attempt import run_job
from diamond_bench.play.naming import request
from diamond_bench.play.opened import Opened
from diamond_bench.play.opening import open_sources
from diamond_bench.play.spawns import read_spawns
from diamond_bench.spaces import ActionSpec, FrameSpec, WorldSpec
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import sha256
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import ImportWorldModel

HEIGHT, WIDTH = 24, 40
KEYS = WorldSpec(FrameSpec(HEIGHT, WIDTH), ActionSpec.columns((2, 2)), rewards=False, ends=False)


def spawn(folder: Path, level: int, following: int = 2, height: int = HEIGHT, **arrays: Any) -> None:
    """A state whose four frames have the levels `level` to `level` + 3, and whose keys alternate."""
    folder.mkdir(parents=True)
    keys = np.array([[step % 2, 1 - step % 2] for step in range(4 + following)], np.uint8)
    frames = np.full((4, 3, height, WIDTH), level, np.uint8) + np.arange(4, dtype=np.uint8)[:, None, None, None]
    written = {"full_res": frames, "low_res": frames[..., ::4, ::4] + 100, "act": keys[:4], "next_act": keys[4:], **arrays}
    for name, array in written.items():
        if array is not None:
            np.save(folder / f"{name}.npy", array)
    (folder / "info.json").write_text('{"original_file_id": "3001-3200/hdf5_dm_july2021_3120.hdf5", "timestep_start": 500}')


def imported(tmp_path: Path) -> tuple[Store, JobRef]:
    """A store with a small cascade of two keys, and the job of its import."""
    torch.save(small_state(bits=2), tmp_path / "mine.pt")
    store = Store(tmp_path / "outputs", say=lambda text: None)
    job = JobSpec("import_world_model", ImportWorldModel(sha256(tmp_path / "mine.pt"), str(tmp_path / "mine.pt"), HEIGHT, WIDTH, 4))
    store.prepare(job)
    assert run_job(store, job.ref, "cpu").name == "done"
    return store, job.ref


def opened(tmp_path: Path) -> Opened:
    store, ref = imported(tmp_path)
    for name, level, following in (("10", 80, 0), ("9", 60, 2), ("0", 40, 2)):
        spawn(tmp_path / "spawn" / name, level, following)
    return open_sources(store, request(store, [str(ref)]), spawn=tmp_path / "spawn")


def test_an_imported_cascade_plays_from_spawn_folders_and_replays_their_actions(tmp_path: Path) -> None:
    found = opened(tmp_path)
    assert found.starts == ((0, 3), (1, 3), (2, 3))
    assert [int(found.thumbnail(place)[0, 0, 0]) for place in found.starts] == [43, 63, 83], "in the order of the numbers 0, 9, 10"
    start = found.start((1, 3))
    assert start.frames[:, 0, 0, 0].tolist() == [60, 61, 62, 63]
    assert start.actions.tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]

    driver, page, clock = driven(tmp_path / "saved", found)
    first = page.last("frame")["lanes"][0]
    assert page.last("welcome")["lanes"][0]["two_stages"]
    assert len(page.pictures) == first["bytes"] + first["low_bytes"]
    page.say("player", who="recording")
    page.say("run")
    for _ in range(5):
        clock.now += 0.1
        driver.turn()
        page.read()
    assert page.last("state")["over"] == "the recording ends after 3 steps"
    actions = [message["action"] for message in page.got if message["kind"] == "frame" and message["step"]]
    assert actions == [[1, 0], [0, 1], [1, 0]], "the last of act.npy, then next_act.npy"
    page.say("reset", start=2)
    page.say("step")
    driver.turn()
    assert page.last("state")["over"] == "the recording ends after 0 steps", "this state has no recorded actions"


def test_the_inset_is_the_frame_at_low_resolution_that_the_upsampler_enlarged(tmp_path: Path) -> None:
    session = opened(tmp_path).session((1, 3))
    begun = session.now.shown[0].low
    assert begun is not None
    assert begun.shape == (3, HEIGHT // 4, WIDTH // 4)
    assert set(begun.flatten().tolist()) == {163}, "the last frame of low_res.npy"
    world = session.lanes[0].dynamics.world(session.settings[0])  # type: ignore[attr-defined]
    moment = session.step([1, 0])
    low = moment.shown[0].low
    assert low is not None
    assert low.shape == (3, HEIGHT // 4, WIDTH // 4)
    assert moment.memories is not None
    inner = moment.memories[0].world[0][0, -1]
    assert np.array_equal(low, ((inner + 1) * 127.5).round().byte().numpy())
    assert world.low_frame(moment.memories[0].world).shape == (1, 3, HEIGHT // 4, WIDTH // 4)


def test_without_low_res_the_frames_at_low_resolution_follow_from_the_others(tmp_path: Path) -> None:
    store, ref = imported(tmp_path)
    spawn(tmp_path / "spawn" / "0", 60, low_res=None)
    begun = open_sources(store, request(store, [str(ref)]), spawn=tmp_path / "spawn").session((0, 3)).now.shown[0].low
    assert begun is not None
    assert set(begun.flatten().tolist()) <= {62, 63}, "the last real frame, made smaller and truncated"
    np.save(tmp_path / "spawn" / "0" / "low_res.npy", np.zeros((4, 3, 6, 9), np.uint8))
    with pytest.raises(UserError, match=r"low_res\.npy: frames of 6 x 9, and .* has 6 x 10 at low resolution"):
        open_sources(store, request(store, [str(ref)]), spawn=tmp_path / "spawn")


def test_the_command_replays_the_recorded_actions_of_a_start(tmp_path: Path) -> None:
    _, ref = imported(tmp_path)
    spawn(tmp_path / "spawn" / "0", 40)
    words = ("play", str(ref), "--spawn", "spawn", "--headless", "--player", "recording", "--out", "saved")
    assert "recording: 3 steps" in in_this_process(*words, cwd=tmp_path).stderr
    refused = in_this_process("play", str(ref), "--headless", "--out", "saved", cwd=tmp_path, exit_code=2)
    assert "--spawn FOLDER" in refused.stderr
    refused = in_this_process(*words[:4], "--real", "--headless", "--out", "saved", cwd=tmp_path, exit_code=2)
    assert "no game" in refused.stderr


def test_bits_of_csgo_are_keys_and_bins(tmp_path: Path) -> None:
    """W, the left mouse button, 60 counts to the right and 4 counts up are bits 0, 11, 13 + 17 and 36 + 5 (csgo's 51 bits)."""
    bits = np.zeros((4, 51), np.uint8)
    bits[:, [0, 11, 13 + 17, 36 + 5]] = 1
    spawn(tmp_path / "spawn" / "0", 0, 0, act=bits, next_act=bits[:1])
    (state,) = read_spawns(tmp_path / "spawn", WorldSpec(KEYS.frames, ACTIONS, rewards=False, ends=False))
    action = dict(zip(ACTIONS.names, state.actions[0].tolist(), strict=True))
    assert [name for name, value in action.items() if value] == ["forward", "fire", "mouse_x", "mouse_y"]
    assert (MOUSE_X[action["mouse_x"]], MOUSE_Y[action["mouse_y"]]) == (60, -4)
    assert state.following == (state.actions[0].tolist(),)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda f: None, ["spawn", "No such file"]),
        (lambda f: f.mkdir(), ["0 folders"]),
        (lambda f: spawn(f / "0", 40, height=20), ["full_res.npy", "(4, 3, 20, 40)", "(frames, 3, 24, 40)"]),
        (
            lambda f: spawn(f / "0", 40, low_res=np.zeros((3, 3, 6, 10), np.uint8)),
            ["low_res.npy", "(3, 3, 6, 10)", "(4, 3, h"],
        ),
        (lambda f: spawn(f / "0", 40, act=None), ["act.npy", "No such file"]),
        (lambda f: spawn(f / "0", 40, act=np.zeros((3, 2), np.uint8)), ["act.npy", "3 actions for 4 frames"]),
        (lambda f: spawn(f / "0", 40, act=np.zeros((4, 51), np.uint8)), ["act.npy", "(4, 51)", "(steps, 2)"]),
        (lambda f: spawn(f / "0", 40, next_act=np.full((1, 2), 2, np.uint8)), ["next_act.npy", "only 0 and 1"]),
        (lambda f: spawn(f / "0", 40, full_res=np.array([{}], object)), ["full_res.npy", "cannot be read"]),
    ],
)
def test_what_is_no_start_state_is_refused_with_its_file(broken: Callable[[Path], None], words: list[str], tmp_path: Path) -> None:
    broken(tmp_path / "spawn")
    with pytest.raises(UserError) as error:
        read_spawns(tmp_path / "spawn", KEYS)
    for word in words:
        assert word in str(error.value)


def test_one_bin_of_each_choice_must_be_set(tmp_path: Path) -> None:
    spawn(tmp_path / "spawn" / "0", 40, act=np.zeros((4, 51), np.uint8), next_act=None)
    with pytest.raises(UserError, match="step 0: 0 of the 23 values of mouse_x are set"):
        read_spawns(tmp_path / "spawn", WorldSpec(KEYS.frames, ACTIONS, rewards=False, ends=False))
