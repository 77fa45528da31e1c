"""The specification of a job: its kind, its config, and the artifacts it needs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from diamond_bench.errors import UserError
from diamond_bench.store.kinds import job_id

ID = re.compile(r"[0-9a-f]{16}")


class JobRef(NamedTuple):
    """The name of a job and of its artifact: `kind/id`, its folder below the store's root."""

    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.id}"

    @classmethod
    def parse(cls, text: Any) -> "JobRef":
        """Parses a reference of the form `kind/id`. Raises UserError for anything else."""
        kind, _, identity = str(text).partition("/")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", kind) or not ID.fullmatch(identity):
            raise UserError(f"{text!r} names no job: expected <kind>/<16 hex digits>")
        return cls(kind, identity)


@dataclass(frozen=True)
class JobSpec:
    """One job of a plan. Two specs with the same `id` are the same job."""

    kind: str
    config: Any
    """The dataclass of the kind (`KINDS[kind].config`)."""
    inputs: Mapping[str, JobRef] = field(default_factory=dict, hash=False)
    """The artifact for each of the kind's input names."""
    revision: int | None = None
    """Revision of the kind's code. None is the present one. Artifacts of earlier revisions are read with theirs."""
    of_family: int | None = None
    """Revision of the code of the world model's family in the config. None is the present one."""

    @cached_property
    def id(self) -> str:
        """The identity, 16 hex digits (see `kinds.job_id`), computed once."""
        inputs = {name: ref.id for name, ref in self.inputs.items()}
        return job_id(self.kind, self.config, inputs, self.revision, self.of_family)

    @cached_property
    def ref(self) -> JobRef:
        return JobRef(self.kind, self.id)
