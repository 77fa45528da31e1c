"""Videos with a CSV file of actions each: read frame by frame, and refused."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
import torch

from diamond_bench.config import DataConfig, EnvConfig
from diamond_bench.data.action_tables import read_table
from diamond_bench.data.foreign import dataset_digest, find_dataset
from diamond_bench.data.foreign_lengths import check_length
from diamond_bench.data.static import load_info, load_split
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import JobContext
from diamond_bench.jobs.import_dataset import run
from diamond_bench.spaces import ActionSpec
from diamond_bench.store.kinds import ImportDataset

SIDES = (32, 48)
FRAMES = 12


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def grey(number: int, t: int) -> int:
    """The brightness of a frame, which tells which one it is."""
    return 20 + (number * 37 + t * 16) % 220


def write_video(path: Path, number: int, count: int = FRAMES, fps: float = 10.0, codec: str = "ffv1") -> None:
    """A video whose frames have one brightness each, with no loss."""
    options = {"pix_fmt_out": "bgr0", "macro_block_size": 1, "codec": codec, "output_params": [], "ffmpeg_log_level": "error"}
    writer = imageio_ffmpeg.write_frames(str(path), (SIDES[1], SIDES[0]), fps=fps, **options)
    writer.send(None)
    for t in range(count):
        writer.send(np.full((*SIDES, 3), grey(number, t), np.uint8).tobytes())
    writer.close()


def write_table(path: Path, rows: list[list[Any]], header: str = "time,fire:2,turn:5", fps: float = 10.0) -> None:
    lines = [",".join(map(str, (f"{i / fps:.4f}", *row))) for i, row in enumerate(rows)]
    path.write_text("\n".join([header, *lines, ""]))


def choices(count: int = FRAMES) -> list[list[Any]]:
    return [[t % 2, t % 5] for t in range(count)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(3):
        write_video(folder / f"drive_{number}.mkv", number)
        write_table(folder / f"drive_{number}.csv", choices())
    return folder


@pytest.fixture
def source(videos: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for path in videos.iterdir():
        os.link(path, folder / path.name)
    return folder


def replaced(path: Path, text: str) -> None:
    path.unlink()  # it is a hard link to the shared one
    path.write_text(text)


def imported(folder: Path, source: Path, **data: Any) -> Path:
    folder.mkdir()
    defaults = {"num_train_frames": 20, "num_references": 1, "reference_context": 2, "reference_horizon": 4}
    found = find_dataset(str(source))
    config = ImportDataset(dataset_digest(found), EnvConfig(frame_size=16), DataConfig(dataset=str(source), **{**defaults, **data}))
    run(config, JobContext(folder))
    return folder


def test_every_frame_is_read_once_with_the_action_taken_after_it(source: Path, tmp_path: Path) -> None:
    (source / "test_split.txt").write_text("drive_1.mkv\n")
    job = imported(tmp_path / "job", source)
    info, heldout, train = load_info(job), load_split(job, "heldout"), load_split(job, "train")
    assert info.spec.actions == ActionSpec.columns((2, 5), ("fire", "turn"))
    assert info.content["decoder"].startswith("ffmpeg ")
    assert (train.lengths.tolist(), heldout.lengths.tolist()) == ([12, 8], [12])
    assert heldout.frames.shape == (12, 3, 16, 16)
    assert heldout.frames.float().mean((1, 2, 3)).tolist() == [grey(1, t) for t in range(12)]
    assert heldout.actions[:11].tolist() == choices(11)
    assert train.rewards is None


@pytest.mark.parametrize(
    ("header", "row", "spec"),
    [
        ("time,steering:-1..1,speed:0..30.5", [0.25, 12], ActionSpec.continuous((-1.0, 0.0), (1.0, 30.5), ("steering", "speed"))),
        ("time, action:18", [17], ActionSpec.discrete(18)),
        ("time,a:2,b:3", [1, "2.0"], ActionSpec.columns((2, 3), ("a", "b"))),
    ],
)
def test_a_header_states_the_actions(header: str, row: list[Any], spec: ActionSpec, tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", [row, row, row], header, fps=25)
    table = read_table(tmp_path / "a.csv")
    assert (table.actions, table.rows) == (spec, [tuple(map(float, row))] * 3)
    assert table.rate == pytest.approx(25)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"its header is ''; expected time and then NAME:N"),
        ("time\n0\n1", r"its header is 'time'"),
        ("t,a:2\n0,1\n1,1", r"its header is 't,a:2'"),
        ("time,a:2,b:-1..1\n0,1,0\n1,1,0", r"its header is 'time,a:2,b:-1\.\.1'"),
        ("time,a:2,a:3\n0,1,0\n1,1,0", r"two columns have one name"),
        ("time,a:0\n0,0\n1,0", r"counts from 1|from 1 to 1,000"),
        ("time,a:5000\n0,0\n1,0", r"it has 5000 values; from 1 to 1,000"),
        ("time,a:1..1\n0,1\n1,1", r"each low below its high"),
        ("time,a:1..nan\n0,1\n1,1", r"its header is"),
        ("time,a:2\n0,1\n1,2", r"line 3: '2' is outside of its column; expected a whole number from 0 to 1"),
        ("time,a:2\n0,1\n1,0.5", r"line 3: '0\.5' is outside of its column; expected a whole number"),
        ("time,a:-1..1\n0,1\n1,1.5", r"line 3: '1\.5' is outside of its column; expected a number from -1\.0 to 1\.0"),
        ("time,a:2\n0,1\n1,x", r"line 3: a is 'x'; expected a number"),
        ("time,a:2\n0,1\n1,nan", r"line 3: a is 'nan'"),
        ("time,a:2\n0,1\n1", r"line 3 has 1 values; expected 2"),
        ("time,a:2\n0,1", r"1 rows of actions"),
        ("time,a:2\n0,1\n0,1", r"line 2 has time 0"),
        ("time,a:2\n0,1\n1,1\n5,1\n7,1", r"line 3 has time 1; expected 2\.33"),
        ("time,a:2\n0,\x00", r"cannot be read|line 2: a"),
    ],
)
def test_tables_that_are_none_are_refused_with_the_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        read_table(tmp_path / "a.csv")
    assert "a.csv" in str(refused.value)


def shorter_table(folder: Path) -> None:
    replaced(folder / "drive_0.csv", "".join((folder / "drive_0.csv").read_text().splitlines(keepends=True)[:-1]))


def longer_table(folder: Path) -> None:
    replaced(folder / "drive_0.csv", (folder / "drive_0.csv").read_text() + "1.2,0,0\n")


def other_rate(folder: Path) -> None:
    (folder / "drive_0.csv").unlink()
    write_table(folder / "drive_0.csv", choices(), fps=12)


def playlist(folder: Path) -> None:
    """Another format, which names a file to read."""
    replaced(folder / "drive_0.mkv", f"ffconcat version 1.0\nfile '{folder / 'drive_1.mkv'}'\n")


def cut_off(folder: Path) -> None:
    data = (folder / "drive_0.mkv").read_bytes()
    (folder / "drive_0.mkv").unlink()
    (folder / "drive_0.mkv").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shorter_table, r"drive_0\.mkv: it has 12 frames, but drive_0\.csv has 11 rows"),
        (longer_table, r"drive_0\.mkv: it has 12 frames, but drive_0\.csv has 13 rows"),
        (other_rate, r"drive_0\.mkv: it has 10 frames per second, but its actions have 11\.9996 rows per second"),
        (playlist, r"drive_0\.mkv: cannot be decoded as \.mp4"),
        (cut_off, r"drive_0\.mkv: it has \d+ frames, but|drive_0\.mkv: cannot be decoded"),
        (lambda folder: replaced(folder / "drive_0.mkv", ""), r"drive_0\.mkv: cannot be decoded"),
        (lambda folder: replaced(folder / "drive_1.csv", "time,fire:2\n0,0\n0.1,0\n"), r"drive_1\.csv: its actions are Discrete\(2\)"),
    ],
)
def test_videos_that_do_not_fit_their_actions_are_refused(
    change: Callable[[Path], None], message: str, source: Path, tmp_path: Path
) -> None:
    change(source)
    with pytest.raises(UserError, match=message):
        imported(tmp_path / "job", source)
    assert not list((tmp_path / "job").rglob("*.h5"))


def test_planning_checks_tables_before_anything_runs(source: Path) -> None:
    check_length(source, 4, 6, None)
    with pytest.raises(UserError, match="at most 4 windows of 6 frames"):
        check_length(source, 5, 6, None)
    (source / "drive_2.csv").rename(source / "drive_3.csv")
    with pytest.raises(UserError, match=r"drive_2\.mkv: its actions drive_2\.csv are missing \(did you mean drive_\d\.csv"):
        check_length(source, 4, 6, None)
    for table in source.glob("*.csv"):
        table.unlink()
    with pytest.raises(UserError, match=r"actions drive_\d\.csv are missing \(the folder has no CSV file\)$"):
        check_length(source, 4, 6, None)


def test_frame_rates_that_ffmpeg_rounds_are_accepted(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(2):
        write_video(source / f"a_{number}.mkv", number, fps=24000 / 1001)
        write_table(source / f"a_{number}.csv", choices(), fps=24000 / 1001)
    job = imported(tmp_path / "job", source)
    assert torch.equal(load_split(job, "heldout").lengths, torch.tensor([12]))
