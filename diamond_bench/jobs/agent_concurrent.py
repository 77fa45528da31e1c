"""Real steps during training: while an epoch trains, a copy of the policy plays the next epoch's steps in a thread.

The epoch's steps form one round of play. Its policy has the weights of the moment at which the round began. The steps enter the replay when
`collect` waits for the round. Play draws from its own generator, so the numbers do not depend on which thread is faster. A checkpoint holds
the state from before the running round, and a resumed run plays that round again.
"""

import copy
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diamond_bench.data.replay import Replay
from diamond_bench.envs.games import vector_env
from diamond_bench.envs.play import Collected, Collector, Player, State, Steps
from diamond_bench.evaluation.player import PolicyPlayer
from diamond_bench.jobs.agent_learners import Learners
from diamond_bench.store.kinds import TrainAgent
from diamond_bench.training.means import Means


class _Stopped(Exception):
    """The thread was asked to stop."""


@dataclass(frozen=True)
class _Round:
    num_steps: int
    before: dict[str, Any]
    """The collector's state when the round began: the only one that can be saved while the thread plays."""
    playing: Future[Collected]


class ConcurrentPlay:
    """Plays as `RealPlay` does, but in a thread. If `begin` was not called, `collect` plays the steps itself.

    On a GPU the thread has a stream of high priority, so that an action does not wait for the queued training.
    """

    def __init__(self, config: TrainAgent, learners: Learners, replay: Replay, device: torch.device) -> None:
        self._live, self._replay, self._steps = learners.agent.actor_critic, replay, _StepBuffer()
        # Eager: compiling does not pay off for single frames, and two threads must not compile one network. Without gradients: autocast
        # keeps casts of weights that have gradients, and the thread never leaves autocast, so a new round would play with old weights.
        self._policy = copy.deepcopy(self._live, {id(self._live.compiled): None}).requires_grad_(False)
        self._round: _Round | None = None
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1, "play", _keep_casts)
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        player = _Stoppable(PolicyPlayer(self._policy), self._stop)
        with self._on_stream():
            env = vector_env(config.game, config.env, 1)
            self._collector = Collector(env, player, self._steps, config.seed, config.agent.epsilon, config.agent.temperature)

    @property
    def real_steps(self) -> int:
        """See `Play.real_steps`. The steps of a running round do not count."""
        return self._collector.real_steps if self._round is None else int(self._round.before["real_steps"])

    def begin(self, num_steps: int) -> None:
        """See `Play.begin`. The round uses the policy's present weights."""
        if num_steps > 0:
            self._policy.load_state_dict(self._live.state_dict())
            self._start(num_steps)

    def collect(self, num_steps: int, means: Means) -> Collected:
        """See `Play.collect`. Raises any exception of the thread."""
        if self._round is None:
            self.begin(num_steps)
        current, self._round = self._round, None
        assert current is not None
        assert current.num_steps == num_steps, f"{current.num_steps} steps begun, {num_steps} asked for"
        collected = current.playing.result()
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        for env, steps in self._steps.drain():
            self._replay.append(env, steps)
        return collected

    def close(self) -> None:
        """See `Play.close`. Asks the thread to stop at its next step and waits for it."""
        self._stop.set()
        self._thread.shutdown()
        error = None if self._round is None else self._round.playing.exception()
        if error is not None and not isinstance(error, _Stopped):
            print(f"the real steps during training had failed: {error!r}", flush=True)

    def state_dict(self) -> dict[str, Any]:
        """See `Play.state_dict`."""
        if self._round is None:
            with self._on_stream():
                return {"collector": self._collector.save(), "stretch": None}
        return {"collector": self._round.before, "stretch": {"num_steps": self._round.num_steps, "policy": self._policy.state_dict()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Play.load_state_dict`. Restarts a round that was running."""
        assert self._round is None, "a round is being played"
        with self._on_stream():
            self._collector.restore(state["collector"])
        if state["stretch"] is not None:
            self._policy.load_state_dict(state["stretch"]["policy"])
            self._start(state["stretch"]["num_steps"])

    def _start(self, num_steps: int) -> None:
        assert self._round is None, "a round is being played"
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))  # for the copy of the weights
        with self._on_stream():
            before = self._collector.save()
        self._round = _Round(num_steps, before, self._thread.submit(self._play, num_steps))

    def _play(self, num_steps: int) -> Collected:
        with self._on_stream():
            return self._collector.collect(num_steps)

    def _on_stream(self) -> AbstractContextManager[object]:
        """The context in which the collector works, whichever thread calls. Also makes the stream's device the thread's current one."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


class _StepBuffer:
    """A sink for the steps of one round."""

    def __init__(self) -> None:
        self._blocks: list[tuple[int, Steps]] = []

    def append(self, env: int, steps: Steps) -> None:
        self._blocks.append((env, steps))

    def drain(self) -> list[tuple[int, Steps]]:
        """Returns the collected steps and empties the buffer."""
        blocks, self._blocks = self._blocks, []
        return blocks


@dataclass(frozen=True)
class _Stoppable:
    """A player that another thread can stop."""

    player: Player
    stop: threading.Event

    def initial_state(self, num_games: int) -> State:
        return self.player.initial_state(num_games)

    def __call__(self, frames: npt.NDArray[np.uint8], state: State) -> tuple[Tensor, State]:
        if self.stop.is_set():
            raise _Stopped
        return self.player(frames, state)


def _keep_casts() -> None:
    """Called once in the thread.

    Autocast's cache of casts belongs to the process. A thread that leaves its outermost autocast clears the cache, even during a forward
    pass of another thread, whose gradients would then be summed in another order. So this thread never leaves its outermost autocast. For
    torch's other settings per thread: `PolicyPlayer` disables gradients, and the number of threads follows the main thread's.
    """
    torch.autocast_increment_nesting()
