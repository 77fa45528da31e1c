"""index.json and index.md: the source of every artifact, its footnotes, and what is missing."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diamond_bench.errors import UserError
from diamond_bench.store.files import DamagedFile, read_json
from paper_figures.tables import markdown_escape

Entry = Mapping[str, Any]
KEYS = ("title", "command", "made_by", "files", "sources", "footnotes", "lacks")
_MAX_JOBS = 6


def read_index(out: Path) -> dict[str, Entry]:
    """The entries of an earlier call, by artifact. Raises UserError if index.json is something else."""
    file = out / "index.json"
    try:
        content = read_json(file)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (DamagedFile, OSError) as error:
        raise UserError(f"{error}; remove it, or choose another --out") from None
    entries = content.get("artifacts")
    if not isinstance(entries, dict) or not all(isinstance(e, dict) and all(key in e for key in KEYS) for e in entries.values()):
        raise UserError(f"{file} is no index of diamond-bench paper; remove it, or choose another --out")
    return entries


def as_json(entries: Mapping[str, Entry]) -> bytes:
    """The index for programs."""
    return (json.dumps({"artifacts": entries}, indent=1, ensure_ascii=False) + "\n").encode()


def as_markdown(entries: Mapping[str, Entry]) -> bytes:
    """The index for people."""
    lines = ["# Tables and figures", ""]
    complete = {name: entry for name, entry in entries.items() if entry["files"]}
    lacking = {name: entry for name, entry in entries.items() if entry["lacks"]}
    lines += ["| Artifact | What | Files | Lacks |", "| --- | --- | --- | --- |"]
    for name, entry in entries.items():
        files = ", ".join(f"[{file}]({file})" for file in entry["files"]) or "none"
        lacks = f"[{len(entry['lacks'])} {'thing' if len(entry['lacks']) == 1 else 'things'}](#what-lacks-data)" if entry["lacks"] else ""
        lines.append(f"| [{name}](#{name}) | {markdown_escape(entry['title'])} | {files} | {lacks} |")
    if complete:
        lines += ["", "`all.tex` includes every table and figure of this folder: `pdflatex all.tex`."]
    lines += ["", "## What lacks data", ""]
    lines += [f"- {name}: {_lack(lack)}" for name, entry in lacking.items() for lack in entry["lacks"]] or ["Nothing."]
    for name, entry in entries.items():
        lines += ["", f"## {name}", "", markdown_escape(entry["title"]) + ".", ""]
        lines += [f"- Made with: `{entry['command']}`, by {entry['made_by']}"]
        lines += [f"- From {_source(source)}" for source in entry["sources"]]
        lines += [f"- Lacks {_lack(lack)}" for lack in entry["lacks"]]
        if entry["footnotes"]:
            lines += ["- Footnotes:", *(f"  - {markdown_escape(note)}" for note in entry["footnotes"])]
    return ("\n".join(lines) + "\n").encode()


def _lack(lack: Mapping[str, str]) -> str:
    return markdown_escape(lack["what"]) + (f"; make it with `{lack['command']}`" if lack["command"] else "")


def _source(source: Mapping[str, Any]) -> str:
    if source["kind"] == "published scores":
        return markdown_escape(f"published scores: {source['method']}, {source['source']}")
    if source["kind"] == "printed":
        return markdown_escape(f"numbers as printed: {source['source']}")
    if source["kind"] == "scores file":
        return markdown_escape(f"scores file {source['path']} (SHA-256 {source['sha256'][:16]}): {', '.join(source['methods'])}")
    jobs = source["jobs"]
    shown = ", ".join(jobs[:_MAX_JOBS]) + (f" and {len(jobs) - _MAX_JOBS} more (index.json)" if len(jobs) > _MAX_JOBS else "")
    commits = ", ".join(commit[:12] + ("-dirty" if commit.endswith("-dirty") else "") for commit in source["commits"]) or "none recorded"
    number = f"{len(jobs)} {'job' if len(jobs) == 1 else 'jobs'}"
    where = f"study {source['study']}, scale {source['scale']}, {number} ({shown}), commit {commits}"
    return markdown_escape("; ".join([where, *source["notes"]]))
