"""What reaches terminals, spreadsheets and figures: no control characters, no formulas, no mathtext of a user's name."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table

from analysis.figures import RC
from diamond_bench import cli
from diamond_bench.errors import UserError
from diamond_bench.spreadsheet import csv_text, with_mark
from diamond_bench.store.artifacts import Store
from diamond_bench.studies.plan import plan_study
from diamond_bench.terminal import SafeConsole, visible
from paper_figures.build import rendered
from paper_figures.tables import Cell, Head, to_csv
from paper_figures.tables import Table as PaperTable

HOSTILE = "a\x1b[2J\x9b31mb\u202ec\u2066d\re"


def command(*words: str, out: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    stdout = Path(out).open("w") if out else subprocess.PIPE  # noqa: SIM115 - closed with the process
    return subprocess.run(
        [sys.executable, "-m", "diamond_bench", *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | environment,
    )


@given(st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_no_text_brings_control_characters_to_a_console(text: str) -> None:
    file = io.StringIO()
    console = SafeConsole(file=file, soft_wrap=True, highlight=False)
    table = Table(text and "head", box=None)
    table.add_row(console.render_str(text, markup=False))
    console.print(table)
    console.print(text, markup=False)
    assert not [c for c in file.getvalue() if (c < " " and c != "\n") or "\x7f" <= c <= "\x9f" or "\u202a" <= c <= "\u202e"]


def test_hidden_characters_are_shown_as_escapes() -> None:
    assert visible(HOSTILE) == r"a\x1b[2J\x9b31mb\u202ec\u2066d\x0de"
    assert visible("é ∞\n\t─") == "é ∞\n\t─"
    file = io.StringIO()
    SafeConsole(file=file, force_terminal=True, color_system="standard", highlight=False).print("[red]x\x1b[2J[/red]")
    assert file.getvalue() == "\x1b[31mx\\x1b[2J\x1b[0m\n"  # our own colours pass


def test_no_line_in_a_pipe_ends_in_spaces() -> None:
    table = Table("name", "number", box=None, pad_edge=False)
    table.add_row("[bold]a  b[/]", "1")
    table.add_row("longer than the head", "12345")
    pipe, terminal = io.StringIO(), io.StringIO()
    for console in (SafeConsole(file=pipe, width=60), SafeConsole(file=terminal, width=60, force_terminal=True, color_system=None)):
        console.print(table, "two  \n words ", "", end=".")
    lines = ["name                  number", "a  b                  1", "longer than the head  12345", "two", " words  ."]
    assert pipe.getvalue().splitlines() == lines
    assert {len(line) for line in terminal.getvalue().splitlines()[:3]} == {28}  # columns are filled


def test_a_full_device_and_a_narrow_encoding_are_no_tracebacks(tmp_path: Path) -> None:
    if Path("/dev/full").exists():
        for words in (["studies"], ["--version"]):
            full = command(*words, out="/dev/full")
            assert "the output cannot be written: No space left on device" in full.stderr
            assert "Traceback" not in full.stderr
            assert "Exception ignored" not in full.stderr
            assert full.returncode in (1, 2)
    narrow = command("status", f"output_dir={tmp_path}/é", PYTHONIOENCODING="ascii")
    assert narrow.returncode == 2
    assert r"\xe9" in narrow.stderr


def test_printing_in_a_narrow_encoding_shows_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, jobs = Store(tmp_path / "é"), plan_study("sampling_steps", ["scale=tiny"]).jobs
    ref, spec = next(iter(jobs.items()))
    store.prepare(spec)
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stdout)
    monkeypatch.setattr("sys.argv", ["diamond-bench", "show", str(ref), f"output_dir={store.root}"])
    with contextlib.suppress(SystemExit):
        cli.main()
    stdout.flush()
    assert f"{tmp_path}/\\xe9/{ref}".encode() in stdout.buffer.getvalue()  # type: ignore[attr-defined]


def test_hostile_and_overlong_arguments_are_one_message(tmp_path: Path) -> None:
    done = command("results", "a\x1b[2Jb", f"output_dir={tmp_path}")
    assert (done.returncode, "\x1b" in done.stderr) == (2, False)
    assert r"a\x1b[2Jb" in done.stderr
    done = command("show", "0", f"output_dir={'x' * 5000}")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@given(st.text(max_size=20) | st.sampled_from(["=cmd|'/C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "'x", "-", "-1.5", "+inf", "\t=1", "'"]))
@settings(max_examples=100, deadline=None)
def test_a_text_in_csv_is_no_formula_and_comes_back(text: str) -> None:
    written = with_mark(text)
    assert written.removeprefix("'") == text
    if written[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") and written[:1]:
        assert len(written) == 1 or float(written) is not None


def test_every_csv_export_marks_formulas() -> None:
    frame = pd.DataFrame({"=name": ["=cmd|'/C calc'!A0", "plain", "-0.5"], "value": [-1.5, 2.0, 3.0]})
    assert csv_text(frame) == "'=name,value\n'=cmd|'/C calc'!A0,-1.5\nplain,2.0\n-0.5,3.0\n"
    assert with_mark(-1.5) == -1.5
    table = PaperTable([Head("Game"), Head("=m()")], [[Cell("@x"), Cell(-0.25)]])
    assert to_csv(table).decode() == "Game,'=m()\n'@x,-0.25\n"
    package = Path(csv_text.__code__.co_filename).parent
    sources = [file for top in (package, package.parent / "paper_figures") for file in top.rglob("*.py") if ".to_csv(" in file.read_text()]
    assert {file.name for file in sources} == {"spreadsheet.py", "write.py"}  # write.py's is hashed, not written


def test_a_name_with_dollar_signs_is_drawn_as_it_is() -> None:
    import matplotlib
    from matplotlib.figure import Figure

    name = r"$\frac{1}{0$"
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(2, 2), layout="constrained")
        ax = figure.subplots()
        ax.plot([0, 1], [0, 1], label=name)
        ax.set(title=name, xlabel=name)
        ax.set_yticks([0, 1], labels=[name, "b"])
        ax.legend()
    assert rendered(figure, "png").startswith(b"\x89PNG")


def test_a_name_between_colons_is_no_emoji() -> None:
    for markup in (False, True):
        SafeConsole(file=(shown := io.StringIO()), soft_wrap=True).print("root:x:0 :smile:", markup=markup)
        assert shown.getvalue() == "root:x:0 :smile:\n"


def test_output_that_cannot_be_written_is_a_user_error() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="the output cannot be written: No space left on device"):
        SafeConsole(file=Full()).print("x")
    with pytest.raises(UserError, match="the output cannot be written: No space left on device"):  # JSON
        SafeConsole(file=Full()).write("x")
