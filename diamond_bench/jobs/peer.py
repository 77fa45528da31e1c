"""A further process of a training: `python -P -m diamond_bench.jobs.peer`, started by `peers`.

It reads two JSON lines from stdin: what to train and where, and the state at which the training begins. It ends with the training, or when
stdin ends, which also happens if the first process dies.
"""

import json
import os
import queue
import signal
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from diamond_bench.data.segments import tensors_of
from diamond_bench.data.sources import open_source
from diamond_bench.data.static import load_info
from diamond_bench.errors import UserError
from diamond_bench.jobs.execution import Execution
from diamond_bench.jobs.gradients import Gradients
from diamond_bench.jobs.precision import check_peer
from diamond_bench.store.kinds import TrainWorldModel
from diamond_bench.training.processes import REFUSED, Processes, meeting_point
from diamond_bench.typed import build


def main() -> None:
    """Computes this process's share of every update. Raises UserError if this node's device does not support the first one's precision."""
    for request in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(request, signal.SIG_IGN)  # the first process decides when the training stops
    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(messages,), daemon=True).start()
    what = messages.get()
    config, device, dataset = build(TrainWorldModel, what["config"]), torch.device(what["device"]), Path(what["dataset"])
    torch.set_num_threads(config.execution.num_threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    processes = Processes(what["rank"], what["size"], meeting_point(what["size"], what["port"], what["host"]), device)
    state = messages.get()
    execution = Execution(**state["execution"])
    check_peer(config.execution.precision, execution.precision, device)
    with closing(open_source(config.training.segments, dataset / "train", device, config.training.readers)) as source:
        own = Gradients(config, load_info(dataset).spec, source, execution, device, processes)
        own.generator.set_state(torch.tensor(state["generator"], dtype=torch.uint8))
        for learner, updates in zip(own.learners, state["updates"], strict=True):
            learner.updates = updates
        processes.copy_from_first(own.state())
        losses = [own.loss_of(number) for number in range(len(own.learners))]
        while (number := processes.order()) is not None:
            own.learners[number].follow(losses[number], tensors_of(next(own.feeds[number])))
        for feed in own.feeds:
            feed.close()
    processes.close()
    os._exit(0)  # the other thread still reads stdin


def _listen(messages: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """Ends this process when the first one has ended, even while it waits for something else."""
    for line in sys.stdin:
        messages.put(json.loads(line))
    os._exit(1)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(REFUSED)
