"""The finished evaluations of a store: the evaluated training, its seed, and the time of completion. Without torch and pandas."""

import os
import re
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diamond_bench.store.files import DamagedFile, read_bytes, read_json
from diamond_bench.store.jobspec import ID, JobRef

_KINDS = ("evaluate_world_model", "evaluate_agent")
_INPUT = re.compile(rb"^  (?:world_model|agent): ([a-z_]+/[0-9a-f]{16})$", re.MULTILINE)
_SEED = re.compile(rb"^  seed: (\d+)$", re.MULTILINE)
"""Both are lines of a config.yaml as `Store.prepare` writes it. Parsing the YAML of 10,000 jobs would take half a minute."""


def now() -> str:
    """The present time in the format of results and registrations, such as 2026-11-28T12:00:00.123456Z."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def training_of(root: Path, evaluation: JobRef) -> JobRef | None:
    """The training or agent of an evaluation in the store at `root`. None if its config does not state it."""
    found = _INPUT.search(_config(root, evaluation))
    return JobRef.parse(found[1].decode()) if found else None


def seed_of(root: Path, training: JobRef) -> int | None:
    """The seed of a training in the store at `root`. None if it has none (an imported agent) or does not exist."""
    found = _SEED.search(_config(root, training))
    return int(found[1]) if found else None


def evaluations_of(root: Path, trainings: Collection[JobRef]) -> set[JobRef]:
    """The finished evaluations of any of these trainings, in the store at `root`."""
    folders = (folder for kind in _KINDS for folder in (root / kind).glob("*") if ID.fullmatch(folder.name))
    refs = (JobRef(folder.parent.name, folder.name) for folder in folders if os.path.exists(folder / "result.json"))  # noqa: PTH110 - false, and no error, in a folder that may not be entered
    return {ref for ref in refs if training_of(root, ref) in trainings}


def finish_time(root: Path, ref: JobRef) -> datetime | None:
    """The time at which a job finished, by the clock of its machine. None if it is not recorded.

    Older results have it in state.json.
    """
    folder = root / ref.kind / ref.id
    try:
        if recorded := _object(read_json(folder / "result.json").get("recorded")).get("finished"):
            return read_time(recorded)
        state = read_json(folder / "state.json")
        return datetime.fromtimestamp(float(state["updated"]), UTC) if state.get("status") == "done" else None
    except (FileNotFoundError, NotADirectoryError, PermissionError, DamagedFile, KeyError, TypeError, ValueError):
        return None


def read_time(text: Any) -> datetime:
    """A recorded time. Raises ValueError for anything else."""
    found = datetime.fromisoformat(str(text))
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _config(root: Path, ref: JobRef) -> bytes:
    try:
        return read_bytes(root / ref.kind / ref.id / "config.yaml")
    except (FileNotFoundError, NotADirectoryError, PermissionError, DamagedFile):
        return b""


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
