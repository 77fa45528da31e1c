"""Recorded actions: written, read and replayed to the same bytes, or in other lanes; files that are no recordings."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_play_session import lane, session_of, setting, shown
from test_worlds import ENV, TURN, played

from diamond_bench.envs.games import spec
from diamond_bench.errors import UserError
from diamond_bench.play.lanes import Lane, Real
from diamond_bench.play.recording import Recording, read_recording, recorded, replay, same_bytes, write_recording
from diamond_bench.play.session import Session
from diamond_bench.play.sources import untrained
from diamond_bench.spaces import ActionSpec
from diamond_bench.worlds.copy_last_frame import CopyLastFrame
from diamond_bench.worlds.families import open_world


def both(**options: int) -> Session:
    return session_of(replace(lane("model"), source="train_world_model/0123456789abcdef"), Lane("game", Real(played())), **options)


def rich() -> Session:
    """A session with a branch that was left, and with changes of n and of the seed."""
    session = both(seed=5)
    for action in (0, 1, 2, 2):
        session.step(action)
    session.rewind(2)
    session.change(0, setting(1))
    session.step(0)
    session.seed = 9
    session.step(1)
    return session


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_recording(tmp_path / "actions.json", recorded(rich()))
    return tmp_path / "actions.json"


def test_a_recording_replays_to_the_same_bytes(file: Path) -> None:
    recording, again = read_recording(file), both(seed=5)
    assert recording == recorded(rich())
    assert [step.action for step in recording.steps] == [0, 1, 0, 1]
    assert [step.seed for step in recording.steps] == [5, 5, 5, 9]
    assert recording.sources == ("train_world_model/0123456789abcdef", "")
    assert len(list(replay(again, recording))) == 4
    assert same_bytes(again, recording) == (True, True)
    for which in range(2):
        assert all(np.array_equal(a, b) for a, b in zip(shown(again, which), shown(rich(), which), strict=True))


def test_other_settings_show_other_bytes() -> None:
    """The real game has no settings, and its random numbers are those of the start."""
    recording, again = recorded(rich()), both(seed=5)
    list(replay(again, recording, as_recorded=False))
    assert same_bytes(again, recording) == (False, True)


def test_actions_replay_in_other_lanes() -> None:
    recording = recorded(rich())
    copies = session_of(Lane("copy", untrained(open_world(CopyLastFrame(), spec(TURN, ENV), torch.device("cpu")))))
    with pytest.raises(UserError, match=r"settings of 2 lanes \(model; game\), and 1 are open"):
        replay(copies, recording)
    assert [int(moment.action) for moment in replay(copies, recording, as_recorded=False)] == [0, 1, 0, 1]
    with pytest.raises(UserError, match=r"the recorded actions are Discrete\(4\), but the game's are Discrete\(3\)"):
        replay(copies, replace(recording, actions=ActionSpec.discrete(4)), as_recorded=False)


def test_numbers_of_a_box_are_written_exactly(tmp_path: Path) -> None:
    step = recorded(rich()).steps[0]
    action = np.array([0.1, 1 / 3], np.float32)
    recording = Recording(
        ActionSpec.continuous((0.0, 0.0), (1.0, 1.0)), (0, 3), 0, ("a", "b"), ("", ""), (replace(step, action=action.tolist()),), ("", "")
    )
    write_recording(tmp_path / "box.json", recording)
    assert np.array_equal(np.array(read_recording(tmp_path / "box.json").steps[0].action, np.float32), action)


def without(*path: Any) -> Callable[[dict[str, Any]], None]:
    def remove(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]

    return remove


def with_value(value: Any, *path: Any) -> Callable[[dict[str, Any]], None]:
    def put(content: dict[str, Any]) -> None:
        inner: Any = content
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return put


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("format"), "the key 'format'"),
        (with_value("diamond-bench actions 2", "format"), "expected 'diamond-bench actions 1'"),
        (without("steps", 0, "settings"), r"steps\[0\].settings: expected 2, one per lane, got 0"),
        (with_value("left", "steps", 1, "action"), r"steps\[1\].action: expected a number"),
        (with_value(-1, "start", "seed"), "start.seed: expected a whole number from 0"),
        (with_value([0], "start", "place"), "start.place: expected a list of 2"),
        (with_value({"name": "eulr"}, "steps", 0, "settings", 0, "sampler"), r"steps\[0\].settings\[0\].sampler.*euler"),
        (with_value("Space", "actions", "kind"), "Space"),
    ],
)
def test_files_that_are_no_recordings_are_refused(file: Path, damage: Callable[[dict[str, Any]], None], message: str) -> None:
    content = json.loads(file.read_text())
    damage(content)
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"^{file}: not a recording of actions: .*{message}"):
        read_recording(file)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"steps": NaN}'])
def test_files_that_are_no_json_objects_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match="not a recording of actions"):
        read_recording(tmp_path / "x.json")
    with pytest.raises(UserError, match="not a recording of actions"):
        read_recording(tmp_path / "missing.json")
