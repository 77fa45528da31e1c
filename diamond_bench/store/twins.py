"""Finished jobs that differ from another one only in settings that do not change some of their files. No torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diamond_bench.errors import UserError
from diamond_bench.store.artifacts import Store, StoredResult, check_files
from diamond_bench.store.files import DamagedFile
from diamond_bench.store.jobspec import ID, JobRef, JobSpec
from diamond_bench.typed import identity_fields


@dataclass(frozen=True)
class Twin:
    """A finished job, with the files that another job may read in place of making them."""

    ref: JobRef
    folder: Path
    result: StoredResult


def find_twin(
    store: Store, spec: JobSpec, place: Mapping[str, Any], same: Callable[[Any], Any], inputs: Sequence[str], files: Sequence[str]
) -> Twin | None:
    """A finished job of the kind and revision of `spec` that equals it in what `same` leaves of its config, and in these inputs.

    Args:
        place: what its record must say of where it ran, since the bits of its files depend on that.
        same: the config without the settings that do not change the files.
        files: the first must be there. Those that are there are read and checked against their SHA-256.

    None where there is none; a damaged one is named to `store.say`.
    """
    found = sorted(_finished(store, spec, place, same, inputs, files[0]), key=lambda twin: -len(set(files) & set(twin.result.files)))
    for twin in found:
        try:
            check_files(twin.folder, {name: listed for name, listed in twin.result.files.items() if name in files}, contents=True)
            return twin
        except (DamagedFile, OSError) as error:
            store.say(f"frames kept by {twin.ref} are not used: {error}")
    return None


def _finished(
    store: Store, spec: JobSpec, place: Mapping[str, Any], same: Callable[[Any], Any], inputs: Sequence[str], file: str
) -> Iterator[Twin]:
    wanted = identity_fields(same(spec.config))
    for path in sorted((store.root / spec.kind).glob(f"*/{file}")):
        if not ID.fullmatch(path.parent.name) or path.parent.name == spec.id:
            continue
        ref = JobRef(spec.kind, path.parent.name)
        try:
            other, result = store.spec(ref), store.result(ref)
        except (UserError, OSError):  # unfinished, damaged, of another version or another user: no twin
            continue
        ran: dict[str, Any] = {"device": str(result.recorded.get("device")).partition(":")[0]}
        ran |= {key: result.recorded.get(key) for key in ("device_name", "num_threads")}
        ran["torch"] = result.recorded.get("versions", {}).get("torch")
        alike = other.revision == spec.revision and all(other.inputs.get(name) == spec.inputs.get(name) for name in inputs)
        if alike and file in result.files and ran == dict(place) and identity_fields(same(other.config)) == wanted:
            yield Twin(ref, path.parent, result)
