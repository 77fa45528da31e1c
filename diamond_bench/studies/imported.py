"""The import of a world model from a checkpoint file, and cascades of the store that a user names. Without torch."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from diamond_bench.config import WorldSettings
from diamond_bench.errors import UserError
from diamond_bench.store.artifacts import Store
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import ImportWorldModel
from diamond_bench.studies.agents import digest_of
from diamond_bench.studies.job_plan import Plan, Point
from diamond_bench.studies.plan import run_config
from diamond_bench.typed import build

_SIZES = ("height", "width", "factor")


def plan_import_world_model(file: Path, tokens: Sequence[str]) -> Plan:
    """The plan of `diamond-bench import FILE [height=150] [width=280] [factor=5]` for a cascade: one job. Raises UserError."""
    options = dict(token.partition("=")[::2] for token in tokens)
    for key in options:
        if key not in (*_SIZES, "output_dir"):
            raise UserError(f"{key!r}: the import of a world model takes {'=, '.join(_SIZES)}= and output_dir= alone")
    sizes = {key: _whole(key, options[key]) for key in _SIZES if key in options}
    config = build(ImportWorldModel, {"digest": digest_of(file), "file": str(file.absolute()), **sizes})
    spec, run = JobSpec("import_world_model", config), run_config({"scale": "paper"}, {})
    point = Point("imported", "", {}, "", 0, "", {"world_model": spec.ref, "evaluation": spec.ref})
    command = " ".join(["diamond-bench import", shlex.quote(str(file)), *map(shlex.quote, tokens)])
    return Plan("import-world-model", "", "imported", command, {spec.ref: spec}, (point,), run.execution, run.cluster)


def find_cascade(store: Store, name: str) -> JobRef | None:
    """The only job of a cascade (an import, a training or an evaluation) whose id, or kind/id, begins with `name`, or whose folder holds
    this path. None if there is none, or several."""
    path = Path(name).absolute()
    if path.exists() and path.is_relative_to(store.root):
        name = "/".join(path.relative_to(store.root).parts[:2])
    found = [ref for ref in store.refs() if name and ref.kind in _KINDS and (ref.id.startswith(name) or str(ref).startswith(name))]
    cascades = [ref for ref in found if _is_cascade(store, ref)]
    return cascades[0] if len(cascades) == 1 else None


_KINDS = ("import_world_model", "train_world_model", "evaluate_world_model")


def _is_cascade(store: Store, ref: JobRef) -> bool:
    family: WorldSettings | None = getattr(store.spec(ref).config, "family", None)
    return ref.kind == "import_world_model" or (family is not None and family.name == "cascade")


def _whole(key: str, text: str) -> int:
    if not (text.isdecimal() and len(text) < 6):
        raise UserError(
            f"{key}={text[:40]}: expected a whole number of pixels" if key != "factor" else f"factor={text[:40]}: expected a whole number"
        )
    return int(text)
