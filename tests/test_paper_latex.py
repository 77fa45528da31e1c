"""The LaTeX of the paper's tables: escapes, and that pdflatex takes all of it (Debian: texlive-latex-base, texlive-latex-recommended)."""

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from analysis.scores import human_random
from diamond_bench.report.latex import escape
from diamond_bench.store.artifacts import Store
from paper_figures.build import build_paper
from paper_figures.tables import MAX_ROWS, Table, number, to_latex, words
from paper_figures.tables import Head as H

NASTY = "50%_of $x^2$ & #1 {a} ~b \\c <d> |e| é ñ ø ö 中 ε≥½ 'q'"

needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed (texlive-latex-recommended)")


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b & 50%", r"a\_b \& 50\%"),
        ("\\x{y}", r"\textbackslash{}x\{y\}"),
        ("<é> ñ", r"\textless{}\'{e}\textgreater{} \~{n}"),
        ("ï", r"\"{\i}"),
        ("σ ≥ −1", r"$\sigma$ $\geq$ $-$1"),
        ("中", "[U+4E2D]"),
        ("a\tb\nc\x00d", "a b c d"),
        ("ą", "[U+0105]"),
        ('"q"', "''q''"),
        ("--out a - b---c", r"-{}-out a - b-{}-{}-c"),
        ("10–20 — x", "10--20 --- x"),
        ("''", "'{}'"),
    ],
)
def test_escapes(text: str, latex: str) -> None:
    assert escape(text) == latex


def test_a_long_table_goes_on_in_another_tabular() -> None:
    table = Table((H("n"), H("value")), tuple((words(f"row {i}"), number(i, 0)) for i in range(MAX_ROWS + 1)))
    text = to_latex(table)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\toprule") == 2
    assert text.count("row ") == MAX_ROWS + 1


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables and a figure with a method whose name tries everything."""
    folder = tmp_path_factory.mktemp("latex")
    rows = [
        {"method": NASTY, "game": game, "seed": seed, "score": 100.0 + seed, "source": "a_b"}
        for game in human_random().index
        for seed in range(3)
    ]
    pd.DataFrame(rows).to_csv(folder / "my.csv", index=False)
    store, quiet = Store(folder / "none"), lambda *anything: None
    tables = [
        "table1",
        "table4",
        "table5",
        "table6",
        "table7",
        "table8",
        "figure2",
        "figure7",
        "probability_of_improvement",
        "paired_differences",
    ]
    build_paper(tables, [], folder / "my.csv", folder / "paper", store, quiet, quiet)
    return folder / "paper"


@needs_latex
def test_everything_compiles(document: Path) -> None:
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=document, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (document / "all.pdf").stat().st_size > 10_000
    log = (document / "all.log").read_text(errors="replace")
    too_wide = [float(points) for points in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
    assert all(points < 5 for points in too_wide), "something runs off the page"
    assert "Missing character" not in log
    assert "undefined" not in log


@needs_latex
def test_a_fragment_compiles_in_a_document_of_one_s_own(document: Path, tmp_path: Path) -> None:
    shutil.copy(document / "table6.tex", tmp_path)
    (tmp_path / "mine.tex").write_text(
        "\\documentclass[twocolumn]{article}\\usepackage{booktabs,graphicx}\\begin{document}"
        "\\begin{table*}\\caption{Scores}\\input{table6}\\end{table*}\\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "mine.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-3000:]
