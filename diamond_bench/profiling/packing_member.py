"""One of several runs that share a device while `jobs.packing` measures them: `python -P -m diamond_bench.profiling.packing_member`.

Its parent writes JSON lines to stdin and reads JSON lines from stdout. First what it is (`Member`'s fields), answered by `ready`; then
{"start": seconds on the monotonic clock, "cycles": number}, answered by the `seconds` that these cycles took, after which it works on
until {"enough": true}, answered by the `bytes` it held at most. So all that share the device are busy until the last of them was timed.
End of stdin means that the parent wants no more, or is dead.
"""

import itertools
import json
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from diamond_bench.store.kinds import TrainAgent
from diamond_bench.typed import build, to_plain

if TYPE_CHECKING:
    import torch

UPDATES = ("denoiser", "reward_end", "actor_critic")
MOST_UPDATES = 60
"""In a cycle, about: more than a slice of a few seconds could hold twice."""
_TOGETHER = 128
"""Start segments that the imagination burns in at once (`imagination.starts`)."""
_REAL_ROWS = 1024
_LEAVE_SECONDS = 15.0
"""For the piece of work that is being done when the parent wants no more."""


@dataclass(frozen=True)
class Member:
    """What a process is told to be."""

    training: TrainAgent
    device: str
    threads: int
    """Of the CPU."""
    turn: float = 0.0
    """Where in a cycle it begins, in [0, 1): runs that share a device are not at the same point of their epochs."""

    def line(self) -> str:
        """As JSON."""
        return json.dumps({"training": to_plain(self.training), "device": self.device, "threads": self.threads, "turn": self.turn})

    @staticmethod
    def parse(line: str) -> "Member":
        """The inverse of `line`."""
        content = json.loads(line)
        return Member(build(TrainAgent, content["training"]), content["device"], content["threads"], content["turn"])


def mixture(config: TrainAgent) -> Mapping[str, int]:
    """How often each kind of work is done in an epoch after the first that collects; what the config asks for 0 times is left out."""
    agent = config.agent
    counts = (agent.denoiser_updates, agent.reward_end_updates, agent.actor_critic_updates, agent.steps_per_epoch)
    return {name: count for name, count in zip((*UPDATES, "real_step"), counts, strict=True) if count}


def cycles_of(counts: Mapping[str, int]) -> int:
    """Into how many cycles an epoch is cut: as small as the whole numbers of updates allow, and in any case of about MOST_UPDATES."""
    updates = [count for name, count in counts.items() if name in UPDATES]
    return max(math.gcd(*updates), math.ceil(sum(updates) / MOST_UPDATES), 1)


def cycle(counts: Mapping[str, int], number: int, turn: float = 0.0) -> Sequence[tuple[str, int]]:
    """The work of a cycle, (kind, how many at once) in order: kinds by turns, real steps in one go.

    Where a count is no multiple of the number of cycles, some cycles do one more than others, and an epoch of them does the count.
    """
    pieces = cycles_of(counts)
    due = {name: (number + 1) * count // pieces - number * count // pieces for name, count in counts.items()}
    at = [((i + 0.5) / due[name], name, 1) for name in UPDATES for i in range(due.get(name, 0))]
    at += [(0.0, "real_step", due["real_step"])] if due.get("real_step") else []
    work = [(name, times) for _, name, times in sorted(at)]
    first = int(turn * len(work))
    return [*work[first:], *work[:first]]


def loading_often(config: TrainAgent) -> TrainAgent:
    """The same with start segments loaded every few updates: not for hundreds of updates at once, in one cycle and not in the others."""
    settings = config.actor_critic
    blocks = settings.steps_per_update + -(-_TOGETHER // settings.batch_size)  # a rollout's, and what is burnt in at once
    return replace(config, actor_critic=replace(settings, preload=min(settings.preload, blocks)))


def works_of(config: TrainAgent, device: "torch.device") -> Mapping[str, Callable[[int], object]]:
    """What does each kind of work (so many times): fresh networks, a replay as large as that of a finished training, random data."""
    import torch

    from diamond_bench.data.replay import Replay
    from diamond_bench.jobs.agent_learners import Learners
    from diamond_bench.jobs.agent_play import RealPlay
    from diamond_bench.profiling.parts import never_end, random_replay
    from diamond_bench.training.means import Means

    torch.manual_seed(config.seed)
    generator = torch.Generator(device).manual_seed(config.seed)
    learners = Learners(loading_often(config), device, random_replay(config, device), generator)
    assert learners.agent.reward_end is not None
    never_end(learners.agent.reward_end)
    play = RealPlay(config, learners, Replay(_REAL_ROWS, config.env.frame_size, device))
    means = Means(device)

    def update(name: str) -> Callable[[int], object]:
        return lambda times: [learners.update(name) for _ in range(times)]

    return {**{name: update(name) for name in UPDATES}, "real_step": lambda times: play.collect(times, means)}


class _Orders:
    """The parent's lines, read while work goes on."""

    def __init__(self, stream: int) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(stream,), name="orders", daemon=True).start()

    def next(self) -> str:
        """The next order; leaves the process at the end of stdin."""
        line = self._lines.get()
        if not line:
            sys.exit(0)
        return line

    @property
    def waiting(self) -> bool:
        """Whether there is one, or stdin has ended."""
        return not self._lines.empty()

    def _read(self, stream: int) -> None:
        with open(stream, "rb", buffering=0) as lines:  # unbuffered: a buffer's lock would hang the interpreter's exit
            for line in lines:
                self._lines.put(line.decode())
        self._lines.put("")
        time.sleep(_LEAVE_SECONDS)
        os._exit(1)


def main() -> None:
    """Serves orders until stdin ends."""
    orders_from, answers = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    orders = _Orders(orders_from)

    def answer(**values: object) -> None:
        os.write(answers, json.dumps(values).encode() + b"\n")

    member = Member.parse(orders.next())
    import torch

    torch.set_num_threads(member.threads)
    device = torch.device(member.device)
    works = works_of(member.training, device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    answer(ready=True, device_name=torch.cuda.get_device_name(device) if device.type == "cuda" else "")
    numbers = itertools.count()
    while True:
        order = json.loads(orders.next())
        time.sleep(max(0.0, order["start"] - time.monotonic()))
        done = 0
        while not orders.waiting:
            for name, times in cycle(mixture(member.training), next(numbers), member.turn):
                works[name](times)
                if orders.waiting:
                    break
            else:
                wait()
                done += 1
                if done == order["cycles"]:
                    answer(seconds=time.monotonic() - order["start"])
        wait()
        orders.next()
        answer(bytes=_most_bytes(device))


def _most_bytes(device: "torch.device") -> int:
    """On CUDA what torch reserved at most, which no other process can use; on the CPU the peak of the process, libraries included."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


if __name__ == "__main__":
    main()
