"""Kinds of jobs for tests of the store and the launchers: they count, slowly if asked to, and keep a ledger of what they did."""

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from diamond_bench.config import setting
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import Interrupted, JobContext, Result, Row
from diamond_bench.store.files import write_atomic
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import Kind


@dataclass(frozen=True)
class Count:
    """Counts to `steps`, a line of the ledger each, and then does what `end` says."""

    name: str
    steps: int = 3
    pause: float = setting(0.0, recorded=True)
    ledger: str = setting("", recorded=True)
    end: str = setting("well", recorded=True)
    weight: int = setting(0, minimum=0, recorded=True)
    """Bytes of a checkpoint, besides the step it is of."""


KINDS: dict[str, Kind] = {
    "count": Kind(Count, "fake_jobs:run", 1, keeps_checkpoint=True),
    "add": Kind(Count, "fake_jobs:run", 1, ("left",)),
}
LATER: dict[str, Kind] = {name: replace(kind, revision=2) for name, kind in KINDS.items()}
"""The same kinds in another version of the code."""


def run(config: Count, context: JobContext) -> Result:
    """A job that resumes from its checkpoint after every step."""
    checkpoint = context.folder / "checkpoint" / "step"
    checkpoint.parent.mkdir(exist_ok=True)
    start = int(checkpoint.read_text().strip()) if checkpoint.exists() else 0
    if start:
        context.say(f"resumed after step {start}")
    for step in range(start, config.steps):
        note(config, step)
        time.sleep(config.pause)
        context.check_owner()
        if config.end != "forgetful":
            write_atomic(checkpoint, str(step + 1).encode().ljust(config.weight), durable=False)
        context.progress(step + 1, config.steps, f"counting {config.name}")
        if context.should_stop() and step + 1 < config.steps:
            raise Interrupted(f"saved after step {step + 1}")
    print(f"{config.name} counted")
    os.system("echo a child printed this")
    print(f"OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY')}")
    endings = {"user": UserError("steps=3: too few"), "exception": ValueError("two\nlines"), "memory": MemoryError()}
    if config.end in endings and not (context.folder / "mended").exists():
        raise endings[config.end]
    if config.end == "orphan" and os.fork() == 0:
        note(config, config.steps)
        time.sleep(600)
    if config.end == "hungry" and not (context.folder / "mended").exists():
        kept = [b"1" * 2**20 for _ in range(4000)]  # 4 GB, where a limit of the system does not end it before
        raise MemoryError(len(kept))
    if config.end in ("killed", "orphan"):
        os.kill(os.getpid(), signal.SIGKILL)
    if config.end == "stuck":
        time.sleep(600)
    (context.folder / "media").mkdir(exist_ok=True)
    (context.folder / "media" / "text.txt").write_text(config.name)
    (context.folder / "frames.npy").write_bytes(b"0" * 1000)
    total = config.steps + sum(int((folder / "total").read_text()) for folder in context.inputs.values())
    (context.folder / "total").write_text(str(total))
    return Result([Row("total", total), Row("infinite", float("inf")), Row("seconds", 1.5, measured=True)], {"nan": float("nan")})


def note(config: Count, step: int) -> None:
    """Writes a line of the ledger: name, step, process."""
    if config.ledger:
        with Path(config.ledger).open("a") as ledger:
            ledger.write(f"{config.name} {step} {os.getpid()}\n")


def count(name: str, **values: object) -> JobSpec:
    """A job without inputs."""
    return JobSpec("count", Count(name, **values), {}, revision=1)  # type: ignore[arg-type]


def add(name: str, left: JobRef, **values: object) -> JobSpec:
    """A job with one input."""
    inputs: Mapping[str, JobRef] = {"left": left}
    return JobSpec("add", Count(name, **values), inputs, revision=1)  # type: ignore[arg-type]
