"""Recordings of people who play Freedoom become a dataset, drawn by a separate program. Most tests have a stand-in for that program."""

import hashlib
import itertools
import json
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diamond_bench.data.foreign import read_metadata
from diamond_bench.data.minari_io import Episode, read_own_episodes
from diamond_bench.datasets import doom_tool, freedoom_demos, wads
from diamond_bench.datasets.demo_lumps import parse_demo
from diamond_bench.datasets.doom_actions import ACTIONS, COLUMNS, encode
from diamond_bench.datasets.freedoom_demos import GAP, OPENING, SOURCES, Source, fetch, finished
from diamond_bench.envs.first_person import DOOM_TURNS
from diamond_bench.errors import UserError
from diamond_bench.play.keys import key_map

TOOL = """
import json, os, pathlib, sys, time
class Pixels:
    def __init__(self, *color): self.color = bytes(color)
    def __getitem__(self, where): return self
    def tobytes(self):
        garbage = bytes([os.getpid() % 256] * 3) if (pathlib.Path(__file__).parent / "garbage").exists() else self.color
        return self.color * 700 + garbage + self.color * (320 * 200 - 701)
def init(width, height, draw, **more): globals()["draw"] = draw
def main(argv):
    lump = argv[argv.index("-timedemo") + 1]
    wad = pathlib.Path(argv[argv.index("-iwad") + 1]).stem
    number, extra = json.loads((pathlib.Path(__file__).parent / "tics.json").read_text())[wad + lump]
    (pathlib.Path(__file__).parent / "log").open("a").write(wad + lump + "\\n")
    print("Doom says something", flush=True)
    for _ in range(OPENING): draw(Pixels(9, 9, 9))
    for tic in range(number + extra): draw(Pixels(tic % 256, tic // 256, 200))
    print(f"timed {number} gametics in 1 realtics", file=sys.stderr, flush=True)
    while (pathlib.Path(__file__).parent / "never ends").exists(): time.sleep(0.01)
    sys.exit(1)
"""
"""A module in place of cydoomgeneric: the frame of tic k shows k in blue and green, and 200 in red. The real one never ends by itself."""


def lump(commands: np.ndarray, view: int = 0, footer: bytes = b"") -> bytes:
    """A demo of the players of `commands` (tics, players, 4)."""
    flags = [int(player < commands.shape[1]) for player in range(4)]
    return bytes([109, 3, 1, 7, 0, 0, 0, 0, view, *flags]) + commands.tobytes() + b"\x80" + footer


def inputs(tics: int, players: int = 1, seed: int = 0) -> np.ndarray:
    """Random commands whose first byte is never the end marker."""
    commands = np.random.default_rng(seed).integers(0, 127, (tics, players, 4), dtype=np.uint8)
    commands[..., 3] &= 0b00011111  # weapons 0 to 3
    return commands


def wad(lumps: dict[str, bytes]) -> bytes:
    body, directory = b"", b""
    for name, content in lumps.items():
        directory += struct.pack("<ii8s", 12 + len(body), len(content), name.encode())
        body += content
    return struct.pack("<4sii", b"IWAD", len(lumps), 12 + len(body)) + body + directory


# Lumps and actions


def test_a_lump_is_read_to_its_end_whatever_follows() -> None:
    commands = inputs(40, players=2)
    demo = parse_demo(lump(commands, view=1, footer=b"\xe2a footer of another program"), "DEMO1")
    np.testing.assert_array_equal(demo.commands, commands)
    np.testing.assert_array_equal(demo.viewer, commands[:, 1])
    assert (demo.skill, demo.episode, demo.map, demo.players, demo.view) == (3, 1, 7, (0, 1), 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "DEMO1: truncated: 0 bytes, and the header of a demo has 13"),
        (lump(inputs(40))[:12], "DEMO1: truncated: 12 bytes"),
        (lump(inputs(40, players=2))[:-1], "DEMO1: truncated: no end after 40 tics of 2 players"),
        (lump(inputs(40))[:-3], "DEMO1: truncated: no end after 39 tics of 1 players"),
        (b"\x6e" + lump(inputs(4))[1:], "DEMO1: a demo of version 110; expected 109"),
        (lump(inputs(4), view=2), "DEMO1: the view is that of player 2, and the players in the game are [1, 0, 0, 0]"),
        (bytes([109, *[0] * 12, 0x80]), "the players in the game are [0, 0, 0, 0]"),
    ],
)
def test_a_damaged_lump_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_demo(content, "DEMO1")
    assert message in str(error.value)


def test_two_tics_are_one_action() -> None:
    def pair(*commands: tuple[int, int, int, int]) -> dict[str, int]:
        signed = [(*(value % 256 for value in command[:3]), command[3]) for command in commands]
        return dict(zip(COLUMNS, encode(np.array(signed, np.uint8))[0].tolist(), strict=True))

    still = {**dict.fromkeys(COLUMNS, 0), "mouse_x": DOOM_TURNS.index(0)}
    assert pair((0, 0, 0, 0), (0, 0, 0, 0)) == still
    assert pair((50, -40, 0, 0), (-25, 0, 0, 1)) == still | {"forward": 1, "left": 1, "fire": 1}
    assert pair((-50, 40, 0, 2), (50, 0, 0, 0)) == still | {"right": 1, "use": 1}
    assert pair((0, 0, 0, 4 | 2 << 3), (0, 0, 0, 4 | 6 << 3)) == still | {"weapon": 7}
    assert pair((0, 0, 0, 4 | 2 << 3), (0, 0, 0, 0)) == still | {"weapon": 3}
    assert pair((0, 0, 0, 3 << 3), (0, 0, 0, 0x80 | 1)) == still, "a number without a change of weapon, and a pause"
    assert pair((-50, -40, 0, 0), (0, 0, 0, 0)) == still | {"back": 1, "left": 1}
    for left, right in ((-3, 3), (3, -3), (-5, 4), (5, -4), (-15, 16), (-127, 48), (127, -48)):  # 5 is as near to 4 as to 6
        assert pair((0, 0, left, 0), (0, 0, 0, 0)) == still | {"mouse_x": DOOM_TURNS.index(right)}, left
    assert pair((0, 0, -100, 0), (0, 0, -100, 0)) == still | {"mouse_x": DOOM_TURNS.index(48)}, "the sum does not wrap around"
    with pytest.raises(UserError, match="chooses weapon 8"):
        pair((0, 0, 0, 4 | 7 << 3), (0, 0, 0, 0))


def test_the_actions_have_the_keys_of_first_person_games() -> None:
    keys = key_map(ACTIONS)
    still = [0] * 7 + [DOOM_TURNS.index(0)]
    assert keys.mouse
    assert keys.action([]).tolist() == still
    assert keys.action(["KeyW", "KeyD", "Mouse0", "Digit3"]).tolist() == [1, 0, 0, 1, 0, 1, 3, still[-1]]
    assert DOOM_TURNS[keys.action(["ArrowRight"])[-1]] == 2, "60 counts, 3.3 degrees, are nearest to 2.8"
    assert DOOM_TURNS[keys.action([], motion=(-100.0, 0.0))[-1]] == -8, "200 counts, 11 degrees, to the left"


def test_the_real_demos_have_their_known_lengths() -> None:
    pytest.importorskip("vizdoom")
    files, players = wads.find_wads(), {}
    for source in SOURCES:
        demo = parse_demo(wads.read_lumps(files[source.wad], [source.lump])[source.lump], source.lump)
        assert len(demo.commands) == source.tics, source
        place = f"E{demo.episode}M{demo.map}" if source.wad == "freedoom1" else f"MAP{demo.map:02d}"
        assert place == source.map
        players[source.map] = len(demo.players), demo.view + 1
        actions = encode(demo.viewer[1 : source.tics - (source.tics - 1) % 2])
        assert ((actions >= 0) & (actions < ACTIONS.sizes)).all()
        assert (actions > 0).any(axis=0)[[0, 1, 2, 3, 7]].all()
    assert sum(source.tics for source in SOURCES) == 38_897
    assert players == {
        "E1M6": (1, 1), "E2M4": (3, 1), "E3M9": (3, 3), "E4M6": (3, 2), "MAP03": (1, 1), "MAP10": (2, 2), "MAP22": (1, 1), "MAP23": (2, 1)
    }  # fmt: skip


# The command


class Setup:
    """Two small WADs in a stand-in of the package vizdoom, and a stand-in of the tool."""

    sources = (Source("freedoom1", 1, "E1M1", 131), Source("freedoom1", 2, "E1M2", 140), Source("freedoom2", 1, "MAP01", 61, True))

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.package, self.tool, self.out = folder / "packages" / "vizdoom", folder / "tool", folder / "out"
        self.commands = {source: inputs(source.tics, 2, number) for number, source in enumerate(self.sources)}
        self.commands[self.sources[1]][121:, 1] = 0  # the viewed player dies after tic 120
        self.package.mkdir(parents=True)
        (self.package / "__init__.py").touch()
        known = {}
        for name in wads.WADS:
            lumps = {source.lump: lump(commands, view=1) for source, commands in self.commands.items() if source.wad == name}
            content = wad(lumps)
            (self.package / f"{name}.wad").write_bytes(content)
            known[name] = wads.Wad(len(content), hashlib.sha256(content).hexdigest())
        monkeypatch.setattr(wads, "WADS", known)
        monkeypatch.setattr(freedoom_demos, "SOURCES", self.sources)
        monkeypatch.setattr(freedoom_demos, "RENDERINGS", 1)
        monkeypatch.delitem(sys.modules, "vizdoom", raising=False)
        monkeypatch.syspath_prepend(folder / "packages")
        (self.tool / "cydoomgeneric-0.1.0.dist-info").mkdir(parents=True)
        (self.tool / "cydoomgeneric-0.1.0.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: cydoomgeneric\nVersion: 0.1.0\n"
        )
        (self.tool / "cydoomgeneric.py").write_text(TOOL.replace("OPENING", str(OPENING)))
        self.python = self.tool / "python"
        self.python.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={self.tool} exec {sys.executable} "$@"\n')
        self.python.chmod(0o755)
        self.draws()

    def draws(self, **extra: int) -> None:
        """What the tool draws: each demo, and more or fewer frames of the named ones."""
        names = {source: f"{source.wad}{source.lump.lower()}" for source in self.sources}
        (self.tool / "tics.json").write_text(json.dumps({name: [s.tics, extra.get(name, 0)] for s, name in names.items()}))
        (self.tool / "log").write_text("")

    @property
    def drawn(self) -> list[str]:
        return (self.tool / "log").read_text().split()

    def fetch(self, name: str = "demos", divisor: int = 5) -> freedoom_demos.Fetched:
        return fetch(divisor, self.out / name, self.python, say=lambda text: None)


@pytest.fixture
def doom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return Setup(tmp_path, monkeypatch)


def test_frames_and_inputs_are_of_the_same_tics(doom: Setup) -> None:
    (doom.tool / "never ends").touch()
    fetched = doom.fetch()
    sets = dict(read_metadata(fetched.folder / "data").sets)
    assert sets == {"train": (0, 1), "heldout": (2, 3), "out_of_map": (4,)}
    first, second, whole = doom.sources
    expected = [  # frames of the tics 0, 2, 4, ..., of 131 tics, 121 that are played, and 61
        (first, 0, 66 - 6 - GAP), (second, 0, 61 - 6 - GAP), (first, 66 - 6, 6), (second, 61 - 6, 6), (whole, 0, 31)
    ]  # fmt: skip
    for episode, (source, start, number) in zip(read_own_episodes(fetched.folder / "data"), expected, strict=True):
        tics = 2 * np.arange(start, start + number)
        assert episode.frames.shape == (number, 40, 64, 3)
        np.testing.assert_array_equal(episode.frames[:, 0, 0], np.stack([tics * 0 + 200, tics // 256, tics % 256], axis=1))
        assert (episode.frames == episode.frames[:, :1, :1]).all()
        viewed = doom.commands[source][:, 1]
        for t, action in enumerate(episode.actions):
            tic = 2 * (start + t) + 1  # the input of this tic and of the next one lead to the next frame
            np.testing.assert_array_equal(action, encode(viewed[tic : tic + 2])[0])
        assert episode.rewards is None
        assert episode.truncated
    facts = json.loads((fetched.folder / "demos.json").read_text())
    assert [each["first_tic"] for each in facts["episodes"]] == [2 * start for _, start, _ in expected]


def test_it_is_created_once_and_its_bytes_are_always_the_same(doom: Setup) -> None:
    one, other = doom.fetch("one/demos"), doom.fetch("other/demos")
    files = [{file.relative_to(at): file.read_bytes() for file in at.rglob("*") if file.is_file()} for at in (one.folder, other.folder)]
    assert files[0] == files[1]
    assert len(doom.drawn) == 6
    again = doom.fetch("one/demos")
    assert (again.created, again.content_sha256) == (False, one.content_sha256)
    assert len(doom.drawn) == 6
    assert sorted(entry.name for entry in one.folder.parent.iterdir()) == ["demos"], "nothing temporary stays"
    small = doom.fetch("small", divisor=10)
    assert read_metadata(small.folder / "data").frame_shape == (20, 32, 3)


def test_pixels_that_differ_between_processes_are_replaced(doom: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freedoom_demos, "SOURCES", doom.sources[1:])
    expected = doom.fetch("clean").content_sha256
    (doom.tool / "garbage").touch()
    assert doom.fetch("garbage").content_sha256 != expected
    monkeypatch.setattr(freedoom_demos, "RENDERINGS", 3)
    assert doom.fetch("agreed").content_sha256 == expected


def test_a_failure_leaves_finished_demos_and_no_dataset(doom: Setup) -> None:
    doom.draws(freedoom1demo2=-3)
    with pytest.raises(UserError, match=r"freedoom1 demo 2 \(E1M2\), 2 of 3: cydoomgeneric drew 176 frames, expected 179"):
        doom.fetch()
    assert [entry.name for entry in doom.out.iterdir()] == [".demos.5.partial"]
    doom.draws()
    fetched = doom.fetch()
    assert doom.drawn == ["freedoom1demo2", "freedoom2demo1"]
    assert fetched.content_sha256 == doom.fetch("other").content_sha256


@pytest.mark.parametrize("ends", [True, False])
def test_a_tool_that_fails_is_not_waited_for(doom: Setup, monkeypatch: pytest.MonkeyPatch, ends: bool) -> None:
    file = doom.tool / "cydoomgeneric.py"
    file.write_text(file.read_text().replace("timed {number} gametics", "Bad V_DrawPatch"))
    if not ends:
        (doom.tool / "never ends").touch()
        monkeypatch.setattr(doom_tool, "_PATIENCE", 3.0)
    with pytest.raises(UserError, match=r"freedoom1.wad DEMO1: cydoomgeneric did not play its 131 tics: Bad V_DrawPatch in 1 realtics"):
        doom.fetch()


def other_wad(doom: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    file = doom.package / "freedoom2.wad"
    file.write_bytes(file.read_bytes()[:-1] + b"x")


def no_wad(doom: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    (doom.package / "freedoom1.wad").unlink()


def no_package(doom: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def other_tool(doom: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    file = doom.tool / "cydoomgeneric-0.1.0.dist-info" / "METADATA"
    file.write_text(file.read_text().replace("0.1.0", "0.2.0"))


def no_tool(doom: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    (doom.tool / "cydoomgeneric.py").unlink()


def no_python(doom: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    doom.python.unlink()


def something_there(doom: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    (doom.out / "demos").mkdir(parents=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_wad, "freedoom2.wad: another WAD"),
        (no_wad, "freedoom1.wad: No such file"),
        (no_package, "package vizdoom, which is not installed: pip install '.[envs3d]' in the checkout"),
        (other_tool, "it does not have cydoomgeneric 0.1.0 (it has version 0.2.0)"),
        (no_tool, "No module named 'cydoomgeneric'"),
        (no_python, "python: not a Python that can be started (No such file or directory)"),
        (something_there, "demos: it exists already and holds something else"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_created(
    doom: Setup, monkeypatch: pytest.MonkeyPatch, change: Callable[[Setup, pytest.MonkeyPatch], None], message: str
) -> None:
    change(doom, monkeypatch)
    before = sorted(doom.out.rglob("*"))
    with pytest.raises(UserError) as error:
        doom.fetch()
    assert message in str(error.value)
    assert sorted(doom.out.rglob("*")) == before


def test_the_tool_is_installed_only_at_the_users_request(doom: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"which is not installed. --install-tool installs it into .* --tool-python PYTHON takes"):
        fetch(out=doom.out / "demos", say=lambda text: None)
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    with pytest.raises(UserError, match="there is no compiler no-such-compiler"):
        fetch(out=doom.out / "demos", install=True, say=lambda text: None)
    with pytest.raises(UserError, match="--divisor 3: expected one of 1, 2, 4, 5, 8, 10"):
        fetch(3, say=lambda text: None)
    assert not doom.out.exists()
    assert not doom_tool.tool_folder().parent.exists()


def test_two_commands_do_not_make_it_at_once(doom: Setup) -> None:
    with (
        freedoom_demos._alone(doom.out / ".demos.5.partial"),
        pytest.raises(UserError, match="another process is making this dataset"),
    ):
        doom.fetch()
    assert finished(doom.out / "demos", 5) is None


def test_only_the_renderer_imports_the_gpl_tool_and_nothing_imports_the_renderer() -> None:
    root = Path(__file__).parents[1]
    texts = {file.name: file.read_text() for top in ("diamond_bench", "analysis", "paper_figures") for file in (root / top).rglob("*.py")}
    importing = re.compile(r"^\s*(?:import|from)\b.*\b(cydoomgeneric|render_demo)\b", re.MULTILINE)
    assert {(name, found) for name, text in texts.items() for found in importing.findall(text)} == {("render_demo.py", "cydoomgeneric")}
    assert "cydoomgeneric" not in (root / "pyproject.toml").read_text().partition("[tool.")[0], "it is no dependency of an extra"


# The real tool


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_picture_turns_with_the_recorded_input(tmp_path: Path) -> None:
    """The horizontal motion of the picture follows the turn of the same step more than the turns of the steps before and after."""
    pytest.importorskip("vizdoom")
    fetched = fetch(out=tmp_path / "demos", install=True, say=print)
    page = Path(__file__).parents[1] / "docs" / "human_play.md"
    assert fetched.content_sha256 in page.read_text(), "the digest in the docs"
    for number, episode in enumerate(read_own_episodes(fetched.folder / "data")):
        if len(episode.actions) > 1000:
            lags = turn_and_motion(episode)
            print(number, {lag: round(value, 2) for lag, value in lags.items()})
            assert lags[0] > max(0.25, 1.1 * max(value for lag, value in lags.items() if lag)), number


def turn_and_motion(episode: Episode, most: int = 2) -> dict[int, float]:
    """The correlation of each step's turn with the motion of the picture in the step `lag` later."""
    right = np.array(DOOM_TURNS)[episode.actions[:, -1]]
    motion = np.array([shift(before, after) for before, after in itertools.pairwise(episode.frames)])
    inner = slice(most, len(right) - most)
    return {lag: correlation(right[inner], np.roll(motion, -lag)[inner]) for lag in range(-most, most + 1)}


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def shift(before: np.ndarray, after: np.ndarray, most: int = 12) -> int:
    """Columns by which the picture moved to the left, as it does if the player turns right. Weapon and status bar are left out."""
    a, b = (frame[6:24].astype(np.float64).mean(axis=2) for frame in (before, after))
    width = a.shape[1]
    errors = {}
    for moved in range(-most, most + 1):
        kept = slice(max(0, moved), min(width, width + moved)), slice(max(0, -moved), min(width, width - moved))
        errors[moved] = np.square(a[:, kept[0]] - b[:, kept[1]]).mean()
    return min(errors, key=lambda moved: (errors[moved], abs(moved)))
