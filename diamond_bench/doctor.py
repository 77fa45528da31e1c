"""Checks what this machine offers to the commands, and says what each missing part costs.

Only a child process imports torch.
"""

import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

from diamond_bench.errors import UserError
from diamond_bench.launch.devices import device_name, has_gpu, processor
from diamond_bench.launch.slurm.client import absent_commands
from diamond_bench.metrics import all_metrics
from diamond_bench.metrics.weights import status as weights_status
from diamond_bench.store.artifacts import Store
from diamond_bench.store.files import free_bytes
from diamond_bench.store.provenance import provenance
from diamond_bench.studies.estimate import estimate, time_range
from diamond_bench.studies.execution import has_compiler, usable_cores
from diamond_bench.studies.plan import StudyPlan, plan_study
from diamond_bench.terminal import has_display

MAIN_JOB = ("sampling_steps", "scale=smoke")
"""The study of the README's first command."""
_PACKAGE = "diamond-bench"
_MIN_MEMORY = 2e9
_EXTRAS = {
    "docs": "the documentation site cannot be built",
    "dev": "the tests and linters cannot be run",
    "bench": "the benchmarks cannot be run",
    "envs3d": "the games vizdoom/... and highway/... cannot be played",
    "play": "`diamond-bench play` cannot serve its page",
    "rl": "the example with stable-baselines3 (docs/imagination.md) cannot be run",
}
"""What is unavailable without each optional group of packages."""
_ASK_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({
    "version": torch.__version__,
    "capability": torch.backends.cpu.get_cpu_capability(),
    "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
}))
"""
_TORCH_SECONDS = 120.0
_SLURM_SECONDS = 5.0


@dataclass(frozen=True)
class Check:
    """One part of the machine."""

    part: str
    state: Literal["ok", "limited", "missing"]
    """`limited`: something works less well, or a part that is not needed by the main job is only partly there."""
    found: str
    without: str = ""
    """What is unavailable or slower; empty if nothing is."""
    get: str = ""
    """The command, or the step, that gets what is missing."""
    required: bool = False
    """Whether the main job needs it."""


def examine(root: Path) -> list[Check]:
    """All checks for a store at `root`. Takes seconds, nearly all of them for the import of torch. Creates nothing."""
    torch = ask_torch()
    plan, problem = main_plan(root)
    return [
        python(),
        *libraries(),
        *devices(torch),
        memory(),
        *compilers(torch),
        *weights(plan),
        video(),
        *store(root, plan, problem),
        slurm(),
        latex(),
        browser(),
    ]


def blocked(checks: Sequence[Check]) -> list[Check]:
    """The checks because of which the main job cannot run."""
    return [check for check in checks if check.required and check.state == "missing"]


def main_plan(root: Path) -> tuple[StudyPlan | None, str]:
    """The plan of the main job in a store, or why it cannot be planned."""
    try:
        return plan_study(MAIN_JOB[0], [*MAIN_JOB[1:], f"output_dir={root}"]), ""
    except UserError as error:
        return None, str(error)


def python() -> Check:
    """The interpreter."""
    enough = sys.version_info >= (3, 11)
    found = f"{platform.python_version()} ({sys.executable})"
    return Check("Python", "ok" if enough else "missing", found, "" if enough else "no command runs", "install Python 3.11 or newer", True)


def libraries() -> Iterator[Check]:
    """The packages that the program requires, and those of its optional groups."""
    try:
        stated = [Requirement(text) for text in importlib.metadata.requires(_PACKAGE) or []]
    except importlib.metadata.PackageNotFoundError:
        yield Check("libraries", "missing", f"{_PACKAGE} is not installed", "no command runs", "pip install .", True)
        return
    groups: dict[str, list[Requirement]] = {"": []}
    for requirement in stated:
        extra = re.search(r"""extra == ['"](\w+)""", str(requirement.marker or ""))
        if extra or requirement.marker is None or requirement.marker.evaluate():
            groups.setdefault(extra[1] if extra else "", []).append(requirement)
    wrong = {group: [problem for one in members if (problem := _problem(one))] for group, members in groups.items()}
    versions = provenance()["versions"]
    shown = ", ".join(f"{name} {versions[name]}" for name in (_PACKAGE, "torch", "numpy", "gymnasium", "ale-py") if name in versions)
    if not wrong[""]:
        yield Check("libraries", "ok", f"all {len(groups[''])} required packages; {shown}", required=True)
    for requirement, found in wrong[""]:
        name = f"library {requirement.name}"
        yield Check(
            name, "missing", found, "jobs fail when they import it", f"pip install '{requirement.name}{requirement.specifier}'", True
        )
    for group in sorted(groups.keys() - {""}):
        names = ", ".join(requirement.name for requirement, _ in wrong[group])
        without = _EXTRAS.get(group, f"what the group {group} offers is unavailable")
        if names:
            yield Check(f"packages [{group}]", "missing", f"without {names}", without, f"pip install '.[{group}]'")
        else:
            yield Check(f"packages [{group}]", "ok", f"all {len(groups[group])} packages")


def _problem(requirement: Requirement) -> tuple[Requirement, str] | None:
    """The requirement, and what is installed in its place, if it is not met."""
    if requirement.name == _PACKAGE:
        return None
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return requirement, "not installed"
    return None if requirement.specifier.contains(version, prereleases=True) else (requirement, f"version {version}")


def ask_torch() -> Mapping[str, Any]:
    """What torch says of itself in a process of its own: version, capability of the CPU, GPUs; or `error`."""
    try:
        done = subprocess.run([sys.executable, "-P", "-c", _ASK_TORCH], capture_output=True, text=True, timeout=_TORCH_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    found: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def devices(torch: Mapping[str, Any]) -> Iterator[Check]:
    """What torch can compute on: GPUs, and the processor with its threads and instruction sets."""
    if "error" in torch:
        yield Check("torch", "missing", f"cannot be imported: {torch['error']}", "no job runs", "pip install --force-reinstall torch", True)
    gpus, slow = torch.get("gpus", []), "jobs run on the CPU: enough for scale smoke, but scales small and paper are meant for a GPU"
    if gpus:
        yield Check("GPU", "ok", ", ".join(gpus))
    elif has_gpu():
        get = "install a build of torch for this GPU's driver (pytorch.org/get-started)"
        yield Check("GPU", "limited", f"the machine shows one, but torch {torch.get('version', '')} cannot use it", slow, get)
    else:
        yield Check("GPU", "missing", "none", slow, "use a machine with a GPU, or cluster=slurm")
    cores, flags = usable_cores(), set(processor().split())
    sets = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    capability = f"; torch uses {torch['capability']}" if "capability" in torch else ""
    found = f"{device_name('cpu')}, {cores} usable {'core' if cores == 1 else 'cores'}, {', '.join(sets) or 'no AVX2'}{capability}"
    lacks = []
    if "x86" in platform.machine() and "avx2" not in flags:
        lacks.append("without AVX2, networks run several times slower than the documented times")
    if cores < 2:
        lacks.append("the documented times of scale smoke are of two cores; one takes about twice as long")
    yield Check("CPU", "limited" if lacks else "ok", found, "; ".join(lacks), "use another machine" if lacks else "")


def memory() -> Check:
    """Main memory that is free for jobs."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free, total = (float(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):
        return Check("memory", "limited", "unknown: /proc/meminfo cannot be read", "nobody can tell whether jobs fit")
    found = f"{free / 1e9:.1f} GB available of {total / 1e9:.1f} GB"
    if free >= _MIN_MEMORY:
        return Check("memory", "ok", found)
    return Check(
        "memory", "limited", found, "jobs may be killed by the system", "end other programs, or run one job: cluster.num_workers=1"
    )


def compilers(torch: Mapping[str, Any]) -> Iterator[Check]:
    """The compilers that torch.compile calls."""
    kinds = [("cpu", "C++ compiler", "g++"), *([("cuda", "C compiler", "gcc")] if torch.get("gpus") else [])]
    for device, part, package in kinds:
        if has_compiler(device):
            yield Check(part, "ok", f"torch.compile can be used on the {'CPU' if device == 'cpu' else 'GPU'}")
        else:
            without = "networks are not compiled, so long jobs are slower; execution.compile=all and =imagination are refused"
            yield Check(part, "missing", "none", without, f"apt install {package}")


def weights(plan: StudyPlan | None) -> Iterator[Check]:
    """The weights of the learned metrics."""
    needed = {all_metrics()[metric].weights for metric in plan.metrics} if plan is not None else set()
    for found in weights_status():
        uses = " and ".join(metric for metric in all_metrics() if all_metrics()[metric].weights == found.name) or found.metric
        part, required = f"weights {found.name}", found.name in needed
        if found.state == "found":
            yield Check(part, "ok", str(found.path), required=required)
        else:
            here = "not on this machine" if found.path is None else f"{found.path} is corrupt"
            without = f"metric {uses} cannot be measured, and studies that ask for it are refused"
            yield Check(part, "missing", here, without, found.command, required)


def video() -> Check:
    """The encoder of videos, which every evaluation of a world model uses."""
    try:
        import imageio_ffmpeg

        return Check("video encoder", "ok", str(imageio_ffmpeg.get_ffmpeg_exe()), required=True)
    except (ImportError, RuntimeError) as error:
        without = "evaluations cannot write their videos, so they fail"
        return Check("video encoder", "missing", str(error), without, "pip install --force-reinstall imageio-ffmpeg", True)


def store(root: Path, plan: StudyPlan | None, problem: str) -> Iterator[Check]:
    """The store and its disk, next to what the main job needs of it."""
    found = Store(root)
    try:
        found.require_writable()
        jobs = f"{len(found.refs())} jobs" if root.is_dir() else "will be created"
        yield Check("store", "ok", f"{found.root} ({jobs})", required=True)
    except (UserError, OSError) as error:
        yield Check("store", "missing", str(error), "nothing can be run", "name another folder with output_dir=FOLDER", True)
        return
    free = free_bytes(found.root) / 1e9
    if plan is None:
        yield Check("main job", "missing", f"cannot be planned: {problem}", "the main job does not run", "mend what the message says", True)
        return
    states = found.states()
    missing = [ref for ref in plan.jobs if ref not in states or states[ref].status != "done"]
    cost = estimate(plan.jobs, missing, found, states)
    size = cost.gigabytes + cost.passing_gigabytes
    if size > free:
        without = "the main job would fill the disk"
        yield Check(
            "disk", "missing", f"{free:.3g} GB free of {size:.3g} GB needed", without, "diamond-bench gc, or output_dir=FOLDER", True
        )
    else:
        yield Check("disk", "ok", f"{free:.3g} GB free", required=True)
    todo = f"{cost.jobs} jobs to run, {time_range(cost.low_hours, cost.high_hours)}, {size:.2g} GB" if cost.jobs else "all jobs are done"
    yield Check("main job", "ok", todo, required=True)


def slurm() -> Check:
    """A cluster's commands, and whether its controller answers."""
    without, get = "cluster=slurm, cancel and retry are unavailable", "run on a login node of the cluster (docs/slurm.md)"
    if absent := absent_commands():
        return Check("SLURM", "missing", f"no {', '.join(absent)} on the PATH", without, get)
    try:
        done = subprocess.run(["sinfo", "-h", "-o", "%P"], capture_output=True, text=True, timeout=_SLURM_SECONDS)
        answer = done.stdout.split() if done.returncode == 0 else None
        said = (done.stderr.strip().splitlines() or ["no answer"])[-1]
    except (OSError, subprocess.TimeoutExpired):
        answer, said = None, f"no answer within {_SLURM_SECONDS:g} seconds"
    if answer is None:
        return Check("SLURM", "limited", f"the commands are here, but the controller does not answer: {said}", without, get)
    return Check("SLURM", "ok", f"partitions {', '.join(answer)}")


def latex() -> Check:
    """LaTeX, for the paper's tables."""
    found = shutil.which("pdflatex")
    without = "the .tex files of `paper` cannot be compiled here; its PNG, PDF and CSV files need no LaTeX"
    if found:
        return Check("LaTeX", "ok", found)
    return Check("LaTeX", "missing", "no pdflatex on the PATH", without, "apt install texlive-latex-base texlive-latex-recommended")


def browser() -> Check:
    """A screen for reports. Reports are made without a browser."""
    if has_display():
        return Check("browser", "ok", "`open` shows reports (making them needs no browser)")
    without = "`open` prints the path of the report in place of showing it; making reports needs no browser"
    return Check("browser", "missing", "no display", without, "copy the page to your computer; it is one self-contained file")
