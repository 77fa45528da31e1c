"""JSON that others may have changed: one message that names the file, whatever it holds."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_refused_early import dataset

from diamond_bench.data import replay_file
from diamond_bench.data.foreign import find_dataset
from diamond_bench.data.replay_file import DamagedReplay, read_blocks
from diamond_bench.data.static import load_info
from diamond_bench.errors import UserError
from diamond_bench.jobs.final_games import _read
from diamond_bench.report.write import _last_record
from diamond_bench.spaces import FrameSpec
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import ImportAgent
from diamond_bench.studies.agents import trained_with
from diamond_bench.training.log import _cut
from diamond_bench.worlds.families import load_world_model

DEEP = '{"a": ' + "[" * 200_000 + "]" * 200_000 + "}"
ODD = ["", "[]", "3", '{"a": Infinity}', '{"a": 1e999}', DEEP, "{}"]


def replaced(content: dict[str, Any], *keys: str, value: Any) -> str:
    """The content as JSON, with another value at a path of keys."""
    changed = json.loads(json.dumps(content))
    inner = changed
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return json.dumps(changed)


INFO = {
    **{"num_actions": 1, "action_meanings": ["NOOP"], "frame_size": 16},
    **{"train": {"frames": 9}, "heldout": {"frames": 9, "reference_starts": [0]}},
}


@pytest.mark.parametrize(
    "text",
    [
        *ODD,
        replaced(INFO, "num_actions", value="4"),
        replaced(INFO, "action_meanings", value=[1]),
        replaced(INFO, "train", value=[]),
        replaced(INFO, "heldout", "frames", value=1.5),
        replaced(INFO, "heldout", "reference_starts", value=[-1]),
    ],
)
def test_what_a_dataset_says_of_itself(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(INFO))
    assert load_info(tmp_path).num_train_frames == 9
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=r"dataset\.json: missing or damaged"):
        load_info(tmp_path)


@pytest.mark.parametrize("text", ODD)
def test_what_a_world_model_says_of_itself(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(UserError, match=r"model\.json: damaged"):
        load_world_model(tmp_path, FrameSpec.square(8))


@pytest.mark.parametrize("text", [*ODD, '{"frame_size": "64"}', '{"frame_size": 64.5}', '{"frame_size": null}'])
def test_what_an_imported_agent_says_of_itself(tmp_path: Path, text: str) -> None:
    spec = JobSpec("import_agent", ImportAgent("0" * 64, "Pong"))
    store: Any = SimpleNamespace(spec=lambda _: spec, folder=lambda _: tmp_path)
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "agent.json").write_text('{"frame_size": 48}')
    assert trained_with(store, JobRef("import_agent", "0" * 16))[2].frame_size == 48
    (tmp_path / "agent" / "agent.json").write_text(text)
    with pytest.raises(UserError, match=r"agent\.json.*import the checkpoint again"):
        trained_with(store, JobRef("import_agent", "0" * 16))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, "[]"),
        (None, DEEP),
        ("total_episodes", float("inf")),
        ("total_episodes", 10**9),
        ("total_steps", "60"),
        ("action_space", "[]"),
        ("action_space", DEEP),
        ("action_space", '{"type": "Discrete", "n": 1000000000, "start": 0}'),
        ("action_space", '{"type": "Discrete", "n": "4", "start": 0}'),
        ("observation_space", '{"type": "Box", "dtype": "uint8", "shape": [8, 8, Infinity]}'),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_the_metadata_of_own_data_say(tmp_path: Path, key: str | None, value: Any) -> None:
    data = dataset(tmp_path, 30, 30)
    assert find_dataset(str(data)) == data.resolve()
    file = data / "metadata.json"
    file.write_text(value if key is None else replaced(json.loads(file.read_text()), key, value=value))
    with pytest.raises(UserError, match=r"metadata\.json: (not the metadata of a Minari dataset|the dataset has 1000000000 )"):
        find_dataset(str(data))


@pytest.mark.parametrize(
    "text", [*ODD, '{"results": 5, "files": []}', '{"results": "a", "files": 7}', '{"results": "a", "files": [1]}', '{"files": null}']
)
def test_a_report_that_says_something_else_of_itself_is_written_again(tmp_path: Path, text: str) -> None:
    file = tmp_path / "report.json"
    file.write_text('{"results": "a", "files": ["index.html"]}')
    assert _last_record(file)["files"] == ["index.html"]
    file.write_text(text)
    assert _last_record(file) == {"results": "", "files": []}


GAMES = {"games": [{"score": 1.0, "length": 2, "index": 0, "cut": False}]}


@pytest.mark.parametrize(
    "text", [*ODD, replaced(GAMES, "games", value={}), json.dumps({"games": [{**GAMES["games"][0], "score": "1"}]}), '{"games": [[]]}']
)
def test_the_episodes_of_an_unfinished_evaluation(tmp_path: Path, text: str) -> None:
    file, said = tmp_path / "games.json", list[str]()
    file.write_text(json.dumps(GAMES))
    assert [game.score for game in _read(file, said.append)] == [1.0]
    file.write_text(text)
    assert _read(file, said.append) == []
    assert "its episodes are played again" in said[0]


@pytest.mark.parametrize("text", [*ODD, "null", '{"step": "1"}', '{"step": []}'])
def test_lines_of_a_training_that_no_training_wrote_are_dropped(tmp_path: Path, text: str) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(f'{{"step": 1}}\n{text}\n{{"step": 2, "loss": NaN}}\n{{"step": 3}}\n')
    _cut(file, 2)
    assert file.read_text() == '{"step": 1}\n{"step": 2, "loss": NaN}\n'


@pytest.mark.parametrize("header", [*ODD, '{"env": 0, "first": 0, "steps": "1", "finals": 1, "parts": [1, 1, 1]}'])
def test_a_record_of_a_replay(tmp_path: Path, header: str) -> None:
    data = header.encode()
    file = tmp_path / "replay"
    file.write_bytes(replay_file._PREFIX.pack(replay_file._MAGIC, len(data), 0, hashlib.sha256(data).digest()) + data)
    with pytest.raises(DamagedReplay, match="the first 0 steps are sound"):
        list(read_blocks(file, 1, 16))
