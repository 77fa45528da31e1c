"""The paper's world model in bf16: how close it comes to the rate of a matrix product, and what takes the rest of the time.

    THP_MEM_ALLOC_ENABLE=1 python tests/benchmarks/share_of_peak.py [OPTIONS] [KEY=VALUE ...]

Three ways take turns in one process, six rounds, every other round backwards: compiled bf16, eager bf16 and eager fp32. The eager ways have
PyTorch's own weight layout and an optimiser that is not fused, as `profile --compare plain` does. Then the operators of one update and of
one frame are profiled, convolutions with prepacked weights are compared with ordinary ones, and three ways of getting memory from the
system take turns. The variable lets torch ask for huge pages. The kernel grants them only where the script allows it.
"""

import argparse
import ctypes
import math
import os
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch._inductor import config as inductor
from torch.profiler import ProfilerActivity, profile

from diamond_bench.jobs.execution import Execution
from diamond_bench.launch.devices import device_name
from diamond_bench.launch.memory import MMAP_THRESHOLD, TRIM_THRESHOLD
from diamond_bench.models.precision import Precision, arithmetic
from diamond_bench.profiling.parts import Parts, flop_of, random_replay
from diamond_bench.profiling.timing import Spread, Work, alternate, ratios, spread, warm_up
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.studies.single import plan_train

CPU = torch.device("cpu")
Clock = Callable[[], float]
PROFILED_CALLS = 4
WAYS = {
    "compiled bf16": Execution(compile="all", precision="bf16"),
    "eager bf16": Execution(fused=False, precision="bf16"),
    "eager fp32": Execution(fused=False),
}
GROUPS = {
    "compiled kernels": ("cpp_fused",),
    "convolution, backward": ("convolution_backward",),
    "convolution, forward": ("mkldnn_convolution", "_convolution", "convolution"),
    "attention": ("scaled_dot", "flash_attention", "bmm"),
    "matrix products": ("addmm", "aten::mm", "linear"),
    "optimiser and clipping": ("adam", "_foreach", "norm.Tensor", "clip"),
    "copies and casts": ("copy_", "_to_copy", "contiguous", "clone"),
}
"""Operators by the words in their names. An operator belongs to the first group that fits."""


LIBC = ctypes.CDLL("libc.so.6", use_errno=True)
NO_HUGE_PAGES = 41
"""An option of prctl."""
MIB = 2**20
MEMORY = {
    "glibc's default": (32 * MIB, 64 * MIB, False),
    "huge pages": (32 * MIB, 64 * MIB, True),
    "memory is kept": (1024 * MIB, -1, False),
}
"""Sizes from which glibc maps an allocation and returns free memory (its own settle at the first row after large arrays), and whether the
kernel may use huge pages. Jobs keep memory."""


def set_memory(name: str) -> None:
    """Changes how this process gets memory."""
    mapped, trimmed, huge = MEMORY[name]
    assert LIBC.mallopt(MMAP_THRESHOLD, mapped) == LIBC.mallopt(TRIM_THRESHOLD, trimmed) == 1
    assert LIBC.prctl(NO_HUGE_PAGES, 0 if huge else 1, 0, 0, 0) == 0
    LIBC.malloc_trim(0)


def print_memory(name: str, work: Work, clock: Clock) -> None:
    """One part with each way of getting memory, in turn. A way's first call after a change is not timed."""
    faults: dict[str, int] = {}

    def before(way: str, calls: int) -> None:
        set_memory(way)
        work.call()
        faults[way] = resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    def call(way: str) -> None:
        work.call()
        faults[way] = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults[way]

    works = [Work(partial(call, way), partial(before, way), most_calls=1) for way in MEMORY]
    timings = alternate(works, [1.0] * len(works), wait, clock=clock, enough=1e-3)
    for way, seconds in zip(MEMORY, timings.seconds, strict=True):
        faster = spread([first / own for first, own in zip(timings.seconds[0], seconds, strict=True)])
        print(f"{name}, {way}: {shown(spread(seconds))} s, {faults[way]} page faults, {shown(faster)} times as fast", flush=True)
    set_memory("memory is kept")


def wait() -> None:
    """Does nothing: on the CPU a call returns when its work is done."""


def shown(value: Spread) -> str:
    """A median with its quartiles."""
    return f"{value.median:.3g} ({value.low:.3g} to {value.high:.3g})"


def product(precision: Precision, clock: Clock) -> float:
    """FLOP per second of the fastest square matrix product in this precision."""
    found = []
    for side in (512, 1024, 1536):
        a, b = (torch.randn(side, side).to(torch.bfloat16 if precision == "bf16" else torch.float32) for _ in range(2))
        with arithmetic("cpu", precision), torch.no_grad():
            work = Work(partial(torch.mm, a, b))
            timings = alternate([work], [warm_up(work, wait, clock=clock)], wait, clock=clock, enough=0.5)
        found.append(2.0 * side**3 / spread(timings.seconds[0]).median)
    return max(found)


def by_group(work: Callable[[], object]) -> Mapping[str, dict[str, float]]:
    """Seconds of each operator itself in one call, by group: the least of several calls, since other work only adds to them."""
    least: dict[str, float] = {}
    for _ in range(PROFILED_CALLS):
        with profile(activities=[ProfilerActivity.CPU]) as found:
            work()
        for event in found.key_averages():
            least[event.key] = min(least.get(event.key, math.inf), event.self_cpu_time_total / 1e6)
    groups: dict[str, dict[str, float]] = defaultdict(dict)
    for operator, seconds in least.items():
        words = operator.lower()
        group = next((name for name, parts in GROUPS.items() if any(part in words for part in parts)), "other")
        groups[group][operator] = seconds
    return groups


def print_groups(name: str, flop: float, peak: float, work: Callable[[], object]) -> None:
    """The operators of one call, and the rate of its convolutions if they did all of its arithmetic."""
    groups = by_group(work)
    total = sum(seconds for operators in groups.values() for seconds in operators.values())
    print(f"operators of {name}, {total:.3f} s:", flush=True)
    for group, operators in sorted(groups.items(), key=lambda item: -sum(item[1].values())):
        seconds = sum(operators.values())
        most = sorted(operators.items(), key=lambda item: -item[1])[:3]
        print(
            f"  {group}: {seconds:.3f} s, {seconds / total:.1%}; most: {', '.join(f'{key} {took:.3f}' for key, took in most)}", flush=True
        )
    convolutions = sum(sum(groups[group].values()) for group in GROUPS if group.startswith("convolution") and group in groups)
    if convolutions:
        rate = flop / convolutions
        print(f"  all FLOP in the time of convolutions: {rate / 1e9:.0f} GFLOP/s, {rate / peak:.0%} of the matrix product", flush=True)


def print_packed(batch: int, channels: int, size: int, clock: Clock) -> None:
    """One convolution, forward, with weights in oneDNN's own order and in channels-last order."""
    x = torch.randn(batch, channels, size, size).to(torch.bfloat16, memory_format=torch.channels_last)
    weight = (0.05 * torch.randn(channels, channels, 3, 3)).to(memory_format=torch.channels_last)
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight.to(torch.bfloat16), [1, 1], [1, 1], [1, 1], 1, list(x.shape))
    ready = partial(torch.ops.mkldnn._convolution_pointwise, x, packed, None, [1, 1], [1, 1], [1, 1], 1, "none", [], "")
    cast = lambda: torch.nn.functional.conv2d(x, weight.to(torch.bfloat16), padding=1)  # noqa: E731
    with torch.no_grad():
        assert torch.equal(ready(), cast()), "the same bits"
        works = [Work(ready), Work(cast)]
        timings = alternate(works, [warm_up(work, wait, clock=clock) for work in works], wait, clock=clock)
    packed_ms, cast_ms = (1e3 * spread(seconds).median for seconds in timings.seconds)
    print(
        f"convolution {channels} channels, {size} x {size}, batch {batch}: cast and reordered {cast_ms:.3g} ms, prepacked {packed_ms:.3g} "
        f"ms, times as fast {shown(ratios(timings))}",
        flush=True,
    )


def built(tokens: Iterable[str], names: Iterable[str]) -> tuple[TrainAgent, dict[str, Parts]]:
    """The config of the training and its parts, by way."""
    plan = plan_train(list(tokens))
    config: TrainAgent = next(spec.config for spec in plan.jobs.values() if spec.kind == "train_agent")
    config = replace(config, agent=replace(config.agent, budget=2000))  # a small replay: its size takes no time
    replay = random_replay(config, CPU)
    ways = {}
    for way in names:
        execution = WAYS[way]
        asked = replace(config, execution=replace(config.execution, precision=execution.precision))
        ways[way] = Parts(asked, CPU, replay, execution, contiguous=not execution.fused)
    return config, ways


def main() -> None:
    """Prints one line per part and way, and one per group of operators."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--parts", default="denoiser_update,next_frame", help="parts of a profile for all comparisons")
    asked.add_argument("--alone", default="", help="parts that only compiled bf16 does")
    asked.add_argument("--packed", default="1,32", help="batch sizes for prepacked weights")
    asked.add_argument("--ways", default=",".join(WAYS), help="the first is profiled")
    asked.add_argument("tokens", nargs="*")
    asked.add_argument("--cpu-time", action="store_true", help="CPU time of this process instead of time, for a machine with other work")
    given = asked.parse_args()
    clock: Clock = time.process_time if given.cpu_time else time.perf_counter
    inductor.cpp.enable_kernel_profile = True  # names the compiled kernels in a profile
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, {device_name('cpu')}, load {os.getloadavg()[0]:.1f}", flush=True)
    set_memory("memory is kept")
    config, ways = built(given.tokens, given.ways.split(","))
    torch.set_num_threads(config.execution.num_threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
    precisions: tuple[Precision, ...] = ("bf16", "fp32")
    products = {precision: product(precision, clock) for precision in precisions}
    flop = flop_of(config, "cpu")
    for name in filter(None, given.parts.split(",")):
        works = [way.works[name] for way in ways.values()]
        warm = [warm_up(work, wait, clock=clock, least=1) for work in works]
        timings = alternate(works, warm, wait, clock=clock, enough=1e-3)
        products = {precision: max(best, product(precision, clock)) for precision, best in products.items()}
        for way, seconds in zip(ways, timings.seconds, strict=True):
            took, peak = spread(seconds), products[WAYS[way].precision]
            faster = spread([other / own for own, other in zip(timings.seconds[0], seconds, strict=True)])
            print(
                f"{name}, {way}: {shown(took)} s, {flop[name] / took.median / 1e9:.0f} GFLOP/s, {flop[name] / took.median / peak:.0%} of "
                f"{peak / 1e9:.0f}; {next(iter(ways))} is {shown(faster)} times as fast; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    peak = products["bf16"]
    label, first = next(iter(ways.items()))
    for name in filter(None, given.parts.split(",")):
        print_groups(name, flop[name], peak, first.works[name].call)
    for batch in filter(None, given.packed.split(",")):
        for size in (64, 8):
            print_packed(int(batch), 64, size, clock)
    for name in filter(None, given.parts.split(",")):
        print_memory(name, first.works[name], clock)
    for name in filter(None, given.alone.split(",")):
        work = first.works[name]
        warm_up(work, wait, clock=clock, least=1)
        took = spread(alternate([work], [1.0], wait, clock=clock, enough=1e-3).seconds[0])
        print(f"{name}, {label} alone: {shown(took)} s, {flop[name] / took.median / peak:.0%} of {peak / 1e9:.0f}", flush=True)
    print(f"load {os.getloadavg()[0]:.1f}, {time.strftime('%H:%M')}", flush=True)


if __name__ == "__main__":
    main()
