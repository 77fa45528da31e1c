"""One attempt at one job: it is taken from the store and run, and its outcome is recorded. Every launcher runs jobs through this module."""

import contextlib
import gc
import hashlib
import importlib
import math
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from diamond_bench.config import ExecutionConfig
from diamond_bench.errors import UserError
from diamond_bench.jobs.context import Interrupted, JobContext, Result
from diamond_bench.launch.devices import device_name, processor
from diamond_bench.launch.events import Event, ignore
from diamond_bench.launch.leave import Leave
from diamond_bench.launch.scratch import DATASETS, on_node
from diamond_bench.store.artifacts import COMPILED, Store
from diamond_bench.store.claims import Claim, last_line
from diamond_bench.store.files import encodable, require_folders
from diamond_bench.store.jobspec import JobRef, JobSpec
from diamond_bench.store.kinds import family_revision
from diamond_bench.store.locks import ClaimLost
from diamond_bench.store.provenance import provenance
from diamond_bench.store.twins import find_twin

_PROGRESS_EVERY_SECONDS = 0.5


def run_job(
    store: Store,
    ref: JobRef,
    device: str,
    *,
    on_event: Callable[[Event], None] = ignore,
    should_stop: Callable[[], bool] = lambda: False,
    scratch: Path | None = None,
    leave: Leave | None = None,
) -> Event:
    """Runs a prepared job on a resolved `device` (see `resolve_device`) and returns its outcome as an event.

    The outcome is one of the following, and the state in the store agrees with it:

    - done
    - failed: a mistake that the user can correct, such as an input that is not done or is damaged, or a UserError of the job
    - crashed: any other exception. The process should be replaced before it runs another job.
    - interrupted: `should_stop` became true, and the job has saved its progress
    - taken: another process is running the job or has finished it

    While the job runs, all output of this process and its children goes to the job's log.txt. `on_event` receives the start, the progress
    and lines to show. If `scratch` is given, datasets are read from a copy there. `leave` learns when the job can be left. Raises UserError
    if the store is not writable.
    """
    leave = leave or Leave()
    claim = store.claim(ref)
    if claim is None:
        if store.state(ref).status == "missing":
            return Event("failed", ref, text=f"job {ref} is not in {store.root}: is this folder the one the job was prepared in?")
        return Event("taken", ref)
    try:
        with claim, _printing_to(claim.folder / "log.txt"):
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            print(f"--- {now} attempt {claim.attempt} on {platform.node()}, pid {os.getpid()}, {device}", flush=True)
            on_event(Event("started", ref, text=device))
            leave.begin(claim)
            end = _attempt(store, claim, device, on_event, should_stop, scratch, leave)
            leave.register(lambda: False)
            if end.name == "interrupted":
                claim.release()
            elif end.name != "done":
                claim.fail(end.text)
            return end
    except ClaimLost:
        return Event("taken", ref)
    except OSError as error:
        return Event("crashed", ref, text=f"the job's state could not be written: {last_line(error)}")


def _attempt(
    store: Store,
    claim: Claim,
    device: str,
    on_event: Callable[[Event], None],
    should_stop: Callable[[], bool],
    scratch: Path | None,
    leave: Leave,
) -> Event:
    """Runs the job's code. If it succeeds, the result is already published. The caller records every other outcome. Raises ClaimLost."""
    ref = claim.ref
    try:
        spec = store.spec(ref)
        _check_revision(store, spec)
        inputs = _inputs(store, spec, scratch)
        module, _, function = store.kinds[spec.kind].run.partition(":")
        run = getattr(importlib.import_module(module), function)
        threads = _set_threads(spec)
        _use_device(device)
        _share_compiled(store, threads)
        producer, name = provenance(), device_name(device)
        place = {
            "device": device.partition(":")[0],
            "device_name": name,
            "num_threads": threads,
            "torch": producer["versions"].get("torch"),
        }
        context = JobContext(
            folder=claim.folder,
            inputs=inputs,
            device=device,
            progress=_throttled(claim, on_event, leave),
            should_stop=lambda: should_stop() or claim.lost,
            say=_message_sender(ref, on_event),
            check_owner=claim.check,
            losing_nothing=leave.register,
            twin=partial(find_twin, store, spec, place),
        )
        result: Result = run(spec.config, context)
        recorded = {
            **producer,
            "revision": spec.revision,
            "device": device,
            "device_name": name,
            "host": platform.node(),
            **_allocation(),
            "num_threads": threads,
            "seconds": claim.seconds,
            "attempts": claim.attempt,
        }
        rows = [{**asdict(row), "value": plain(float(row.value))} for row in result.rows]
        content = {"rows": rows, "info": plain(result.info), "recorded": recorded}
        claim.finish(content, keep_checkpoint=store.kinds[spec.kind].keeps_checkpoint)
        return Event("done", ref)
    except Interrupted as stop:
        print(f"--- interrupted: {stop}", flush=True)
        return Event("interrupted", ref, text=str(stop))
    except ClaimLost:
        raise
    except UserError as error:
        traceback.print_exc()
        return Event("failed", ref, text=" ".join(str(error).split()))
    except (Exception, SystemExit) as error:  # whatever the job's code does, the job ends in a state with its error
        traceback.print_exc()
        memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        return Event("crashed", ref, text=("out of memory: " if memory else "") + last_line(error))
    finally:
        _clean_up()


def _share_compiled(store: Store, threads: int) -> None:
    """Shares compiled code among the store's jobs on the same kind of processor with the same number of threads, on which it depends. torch
    reads this folder when it compiles. A folder that the user has chosen is left as it is."""
    require_folders(store.root, store.root / COMPILED)
    root = str((store.root / COMPILED).resolve())
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR", root).startswith(root):
        platform_key = f"{platform.machine()} {processor()} {threads}"
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(root) / hashlib.sha256(platform_key.encode()).hexdigest()[:16])


def _use_device(device: str) -> None:
    """Makes the job's device the default of CUDA calls that name none, such as streams and graphs."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.init()
        torch.cuda.set_device(torch.device(device if ":" in device else "cuda:0"))


def _check_revision(store: Store, spec: JobSpec) -> None:
    """Refuses a job that another revision of the code prepared: the result would be stored under the wrong identity."""
    ours = store.kinds[spec.kind].revision
    if spec.revision not in (None, ours):
        raise UserError(
            f"job {spec.ref} was prepared for revision {spec.revision} of {spec.kind}, and this diamond-bench has revision {ours}: run the "
            "same command again with this version, which creates a separate job"
        )
    if spec.of_family != family_revision(spec.config):
        raise UserError(
            f"job {spec.ref} was prepared for revision {spec.of_family} of family={spec.config.family.name}, and this diamond-bench has "
            f"revision {family_revision(spec.config)}: run the same command again with this version, which creates a separate job"
        )


def _inputs(store: Store, spec: JobSpec, scratch: Path | None) -> dict[str, Path]:
    """The folders of the job's inputs, after checking that each is done and undamaged. Datasets are copied to `scratch`. Raises
    UserError."""
    kind = store.kinds[spec.kind]
    expected = kind.needs(spec.config)
    if set(spec.inputs) - set(kind.optional) != set(expected):
        raise UserError(f"job {spec.ref} has the inputs {sorted(spec.inputs)}, its kind needs {sorted(expected)}")
    for name, ref in spec.inputs.items():
        state = store.state(ref)
        if state.status != "done":
            raise UserError(f"its input {name} ({ref}) is not done but {state.status}")
        damage = store.damage(ref, contents=True)
        if damage:
            aside = store.set_aside(ref, damage)
            mend = "it was set aside; repeat the sweep, train or import that made it" if aside else "another process is using it"
            raise UserError(f"its input {name} is damaged: {damage}; {mend}")
    return {
        name: on_node(store, ref, scratch, print) if scratch is not None and ref.kind in DATASETS else store.folder(ref)
        for name, ref in spec.inputs.items()
    }


def _set_threads(spec: JobSpec) -> int:
    """Sets the number of CPU threads. It depends on the config alone, because it changes the last bits of results."""
    threads = getattr(spec.config, "execution", ExecutionConfig()).num_threads
    torch: Any = sys.modules.get("torch")
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for a torch that is imported later, and for children
    if torch is not None:
        torch.set_num_threads(threads)
    return int(threads)


def _allocation() -> dict[str, str]:
    """SLURM's id of the current task and its GPUs. Empty outside SLURM."""
    array, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_JOB_ID")
    if job is None:
        return {}
    task = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else job
    return {"slurm_job": task, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")}


def _throttled(claim: Claim, on_event: Callable[[Event], None], leave: Leave) -> Callable[[int, int, str], None]:
    last = -math.inf

    def progress(done: int, total: int, text: str = "") -> None:
        nonlocal last
        leave.progressed()
        claim.progress(done, total, text)
        now = time.monotonic()
        if now - last >= _PROGRESS_EVERY_SECONDS or 0 < total <= done:
            last = now
            on_event(Event("progress", claim.ref, done, total, text))

    return progress


def _message_sender(ref: JobRef, on_event: Callable[[Event], None]) -> Callable[[str], None]:
    def say(text: str) -> None:
        print(text, flush=True)
        on_event(Event("said", ref, text=text))

    return say


def plain(value: Any) -> Any:
    """`value` in a form that JSON can hold: NaN and infinities as text, arrays and array scalars as lists and numbers, paths as text."""
    if isinstance(value, Mapping):
        return {encodable(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, (str, Path)):
        return encodable(str(value))
    return value


@contextlib.contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Appends everything written to descriptors 1 and 2 to `log`, including output of native code and child processes."""
    saved = [os.dup(1), os.dup(2)]
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    with os.fdopen(descriptor, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        for number, stream in enumerate((sys.stdout, sys.stderr)):
            with contextlib.suppress(OSError):  # a full disk costs the log, not the job's state
                stream.flush()
            os.dup2(saved[number], number + 1)
            os.close(saved[number])


def _clean_up() -> None:
    """Frees the job's memory before the next job of this process."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()  # otherwise this job's compiled code would count towards torch's limits
