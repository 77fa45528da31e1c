"""Builds artifacts by name. Everything is made in memory first, so that a mistake leaves nothing half done."""

import importlib.metadata
import io
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diamond_bench.errors import UserError
from diamond_bench.report import latex
from diamond_bench.spreadsheet import csv_text
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import require_writable, write_atomic
from diamond_bench.store.provenance import provenance
from paper_figures.index import Entry, as_json, as_markdown, read_index
from paper_figures.inputs import load_inputs
from paper_figures.parts import Output
from paper_figures.registry import ARTIFACTS, refuse_training_episodes, wanted
from paper_figures.tables import markdown_escape, sentence, to_csv, to_latex, to_markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Progress = Callable[[int, int, str], None]


def build_paper(
    artifacts: Sequence[str],
    results: Sequence[str],
    scores: Path | None,
    out: Path,
    store: Store,
    say: Callable[[str], None],
    progress: Progress,
    methods: Sequence[str] = (),
    captions: bool = False,
) -> list[Path]:
    """Makes tables and figures of the paper in `out`. Returns the files of the artifacts, then all.tex and the index.

    `artifacts` are names of the registry; `all`, or none, means every one. `results` are swept studies (STUDY or STUDY:SCALE) whose
    finished jobs are shown next to the published numbers. `scores` is a CSV file with a user's own methods. `methods` are published methods
    that the paper lacks. `captions` writes captions into the PNG and PDF files instead of NAME.md and NAME.tex. `progress` is called with
    (done, total, what comes next). Artifacts that an earlier call left in `out` stay, also in all.tex and the index.

    Raises UserError, with nothing written, for an unknown artifact or method, scores of training episodes in a ranking, a study that is
    unknown or was never swept, a damaged file, malformed scores, or a folder that cannot be written.
    """
    names = wanted(artifacts)
    _require_writable(out)
    entries = read_index(out)
    inputs = load_inputs(results, scores, store, methods)
    refuse_training_episodes(names, inputs.curves)
    for flag in () if inputs.scores is None else inputs.scores.flags:
        say(f"--scores {scores}: {flag}")
    command = _command(artifacts, results, scores, methods, captions)
    contents: dict[str, bytes] = {}
    stale: set[str] = set()
    for done, name in enumerate(names):
        progress(done, len(names), ARTIFACTS[name].title)
        output = ARTIFACTS[name].make(inputs)
        files = _files(name, output, captions)
        stale |= set(entries.get(name, {"files": []})["files"])
        entries[name] = _entry(name, output, command, list(files))
        contents |= files
        for lack in output.lacks:
            say(f"{name}: {lack.what}" + (f"; make it with: {lack.command}" if lack.command else ""))
    progress(len(names), len(names), "writing")
    entries = {name: entries[name] for name in ARTIFACTS if name in entries}
    contents["all.tex"] = latex.document([(e["title"], name) for name, e in entries.items() if f"{name}.tex" in e["files"]]).encode()
    contents["index.json"], contents["index.md"] = as_json(entries), as_markdown(entries)
    return _write(out, contents, stale - set(contents))


def _require_writable(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; name a folder")
    try:
        require_writable(out.absolute())
    except UserError as error:
        raise UserError(f"--out {out}: {str(error).partition(':')[0]}; choose another folder") from None


def _command(artifacts: Sequence[str], results: Sequence[str], scores: Path | None, methods: Sequence[str], captions: bool) -> str:
    asked = [word for study in results for word in ("--results", study)] + ([] if scores is None else ["--scores", str(scores)])
    asked += [word for method in methods for word in ("--method", method)] + (["--captions"] if captions else [])
    return shlex.join(["diamond-bench", "paper", *(artifacts or ["all"]), *asked])


def _files(name: str, output: Output, captions: bool) -> dict[str, bytes]:
    """The files of one artifact, by name."""
    if output.empty:
        return {}
    title = ARTIFACTS[name].title
    files: dict[str, bytes] = {}
    drawn = {f"{name}-{suffix}" if suffix else name: figure for suffix, figure in output.figures.items()}
    for stem, one in drawn.items():
        one.finish(captions)
        files |= {f"{stem}.{kind}": rendered(one.figure, kind) for kind in ("png", "pdf")}
        files[f"{stem}-plotted.csv"] = csv_text(one.figure.numbers(), lineterminator="\n").encode()
    if output.table is not None:
        files[f"{name}.csv"] = to_csv(output.table)
    elif output.data is not None:
        files[f"{name}.csv"] = csv_text(output.data, float_format="%.12g", lineterminator="\n").encode()
    below = {stem: "" if captions else sentence(one.caption) for stem, one in drawn.items()}
    pictures = "\n".join(f"![{title}]({stem}.png)\n" + (f"\n{markdown_escape(text)}\n" if text else "") for stem, text in below.items())
    table = "" if output.table is None else to_markdown(output.table)
    notes = "".join(f"- {markdown_escape(note)}\n" for note in output.footnotes)
    files[f"{name}.md"] = "\n".join(part for part in (f"# {markdown_escape(title)}\n", pictures, table, notes) if part).encode()
    needs = f"% {title}. Needs booktabs and graphicx.\n"
    shown = "\n".join(latex.picture(f"{stem}.pdf", float(one.figure.get_figwidth()), below[stem]) for stem, one in drawn.items())
    tabular = "" if output.table is None else to_latex(output.table)
    files[f"{name}.tex"] = (needs + shown + tabular + latex.notes([latex.escape(note) for note in output.footnotes])).encode()
    return files


def rendered(figure: "Figure", kind: str) -> bytes:
    """The bytes of a figure as png or pdf, see `analysis.chart.write_figure`."""
    from analysis.chart import write_figure

    buffer = io.BytesIO()
    write_figure(figure, buffer, kind)
    return buffer.getvalue()


def _entry(name: str, output: Output, command: str, files: list[str]) -> Entry:
    captions = [f"{suffix or name}: {sentence(one.caption)}" for suffix, one in output.figures.items()]
    footnotes = [*captions, *([] if output.table is None else output.table.all_notes()), *output.footnotes]
    entry: dict[str, Any] = {
        "title": ARTIFACTS[name].title,
        "command": command,
        "made_by": _provenance(),
        "files": files,
        "sources": [dict(source) for source in output.sources],
        "footnotes": footnotes,
        "lacks": [{"what": lack.what, "command": lack.command} for lack in output.lacks],
    }
    return entry


def _provenance() -> str:
    commit = provenance()["commit"]
    return f"diamond-bench {importlib.metadata.version('diamond-bench')}" + (f", commit {commit}" if commit else "")


def _write(out: Path, contents: dict[str, bytes], stale: set[str]) -> list[Path]:
    """Writes the files that differ, and removes files that the artifacts had before and no longer have."""
    try:
        for name, data in contents.items():
            path = out / name
            if not path.is_file() or path.read_bytes() != data:
                write_atomic(path, data, durable=False)
        for name in stale:
            if Path(name).name == name:  # an index edited by hand names nothing outside its folder
                (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror or error}); choose another folder") from None
    return [out / name for name in contents]
