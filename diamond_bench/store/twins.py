"""Finished jobs that differ from another one only in settings without effect on some of their files. Without torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diamond_bench.errors import UserError
from diamond_bench.store.artifacts import Store, StoredResult
from diamond_bench.store.claims import KEPT_FRAMES
from diamond_bench.store.files import not_a_folder, sha256
from diamond_bench.store.jobspec import ID, JobRef, JobSpec
from diamond_bench.typed import identity_fields


@dataclass(frozen=True)
class Twin:
    """A finished job, and its kept frames, which another job may read in place of imagining them."""

    ref: JobRef
    result: StoredResult
    files: Mapping[str, Path]
    """The kinds of KEPT_FRAMES that exist and have the right checksum, by name."""


def find_twin(store: Store, spec: JobSpec, place: Mapping[str, Any], same: Callable[[Any], Any], inputs: Sequence[str]) -> Twin | None:
    """The finished job that kept the most kinds of frames, among those of the kind and revision of `spec` that have the same inputs and the
    same config after `same`. None if there is none.

    `place`: facts about where it ran that its record must contain, since the bits of its frames depend on them. Frames without a checksum
    in the job's facts, as in earlier versions, are not used. A wrong checksum is reported to `store.say`.
    """
    found = [Twin(ref, result, _whole(store, ref, result)) for ref, result in _finished(store, spec, place, same, inputs)]
    return max((twin for twin in found if twin.files), key=lambda twin: len(twin.files), default=None)


def _finished(
    store: Store, spec: JobSpec, place: Mapping[str, Any], same: Callable[[Any], Any], inputs: Sequence[str]
) -> Iterator[tuple[JobRef, StoredResult]]:
    wanted = identity_fields(same(spec.config))
    for path in sorted((store.root / spec.kind).glob(f"*/{KEPT_FRAMES[0]}")):
        ref = JobRef(spec.kind, path.parent.name)
        if not ID.fullmatch(ref.id) or ref.id == spec.id or not_a_folder(store.folder(ref)):
            continue
        try:
            other, result = store.spec(ref), store.result(ref)
        except (UserError, OSError):  # unfinished, damaged, of another version or another user: not usable
            continue
        ran: dict[str, Any] = {"device": str(result.recorded.get("device")).partition(":")[0]}
        ran |= {key: result.recorded.get(key) for key in ("device_name", "num_threads")}
        ran["torch"] = result.recorded.get("versions", {}).get("torch")
        same_code = (other.revision, other.of_family) == (spec.revision, spec.of_family)
        alike = same_code and all(other.inputs.get(name) == spec.inputs.get(name) for name in inputs)
        if alike and ran == dict(place) and identity_fields(same(other.config)) == wanted:
            yield ref, result


def _whole(store: Store, ref: JobRef, result: StoredResult) -> dict[str, Path]:
    listed, found = result.info.get("kept_frames", {}), {}
    for name in KEPT_FRAMES:
        path = store.folder(ref) / name
        if name not in listed or path.is_symlink() or not path.is_file():
            continue
        if sha256(path) == listed[name]:
            found[name] = path
        else:
            store.say(f"{path} is not used: its content is not what the job wrote (SHA-256 differs)")
    return found
