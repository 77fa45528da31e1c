"""Real steps beside training: while an epoch trains, a copy of the policy plays the next epoch's steps in a thread.

The copy has the weights of the moment at which its stretch of play began, and the steps enter the replay when the stretch is waited for.
Play draws from a generator of its own, so that the numbers are the same whichever thread is faster. A checkpoint holds what the running
stretch began from, and a run that goes on plays it anew.
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
    """The thread was told to stop."""


@dataclass(frozen=True)
class _Stretch:
    num_steps: int
    before: dict[str, Any]
    """The collector's state when it began: while the thread plays, there is no other to be saved."""
    playing: Future[Collected]


class BesidePlay:
    """Plays as `RealPlay` does, in a thread; what `begin` does not begin, `collect` plays in turn.

    On a GPU the thread has a stream of high priority, so that an action does not wait for all the training that is queued.
    """

    def __init__(self, config: TrainAgent, learners: Learners, replay: Replay, device: torch.device) -> None:
        self._live, self._replay, self._steps = learners.agent.actor_critic, replay, _Kept()
        # eager: single frames are never worth compiling, and two threads must not compile one network; without gradients: casts of weights
        # that have them are kept by autocast, which the thread never leaves, and a new stretch would play with the old ones
        self._policy = copy.deepcopy(self._live, {id(self._live.compiled): None}).requires_grad_(False)
        self._stretch: _Stretch | None = None
        self._stop = threading.Event()
        self._thread = ThreadPoolExecutor(1, "play", _keep_casts)
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        player = _Stoppable(PolicyPlayer(self._policy), self._stop)
        with self._on_stream():
            env = vector_env(config.game, config.env, 1)
            self._collector = Collector(env, player, self._steps, config.seed, config.agent.epsilon, config.agent.temperature)

    @property
    def real_steps(self) -> int:
        """As `Play.real_steps`: without those of a running stretch."""
        return self._collector.real_steps if self._stretch is None else int(self._stretch.before["real_steps"])

    def begin(self, num_steps: int) -> None:
        """As `Play.begin`, with the policy as it stands."""
        if num_steps > 0:
            self._policy.load_state_dict(self._live.state_dict())
            self._start(num_steps)

    def collect(self, num_steps: int, means: Means) -> Collected:
        """As `Play.collect`. What went wrong in the thread is raised here."""
        if self._stretch is None:
            self.begin(num_steps)
        stretch, self._stretch = self._stretch, None
        assert stretch is not None
        assert stretch.num_steps == num_steps, f"{stretch.num_steps} steps begun, {num_steps} asked for"
        collected = stretch.playing.result()
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        for env, steps in self._steps.taken():
            self._replay.append(env, steps)
        return collected

    def close(self) -> None:
        """As `Play.close`: the thread stops at its next step, and is waited for."""
        self._stop.set()
        self._thread.shutdown()
        error = None if self._stretch is None else self._stretch.playing.exception()
        if error is not None and not isinstance(error, _Stopped):
            print(f"the real steps beside training had failed: {error!r}", flush=True)

    def state_dict(self) -> dict[str, Any]:
        """As `Play.state_dict`."""
        if self._stretch is None:
            with self._on_stream():
                return {"collector": self._collector.save(), "stretch": None}
        return {"collector": self._stretch.before, "stretch": {"num_steps": self._stretch.num_steps, "policy": self._policy.state_dict()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Play.load_state_dict`; a stretch that was running begins anew."""
        assert self._stretch is None, "a stretch is being played"
        with self._on_stream():
            self._collector.restore(state["collector"])
        if state["stretch"] is not None:
            self._policy.load_state_dict(state["stretch"]["policy"])
            self._start(state["stretch"]["num_steps"])

    def _start(self, num_steps: int) -> None:
        assert self._stretch is None, "a stretch is being played"
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))  # for the copy of the weights
        with self._on_stream():
            before = self._collector.save()
        self._stretch = _Stretch(num_steps, before, self._thread.submit(self._play, num_steps))

    def _play(self, num_steps: int) -> Collected:
        with self._on_stream():
            return self._collector.collect(num_steps)

    def _on_stream(self) -> AbstractContextManager[object]:
        """All that the collector does is done there, whichever thread calls; makes the stream's device the thread's own too."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)


class _Kept:
    """A sink for the steps of one stretch."""

    def __init__(self) -> None:
        self._blocks: list[tuple[int, Steps]] = []

    def append(self, env: int, steps: Steps) -> None:
        self._blocks.append((env, steps))

    def taken(self) -> list[tuple[int, Steps]]:
        """What it had; now it is empty."""
        blocks, self._blocks = self._blocks, []
        return blocks


@dataclass(frozen=True)
class _Stoppable:
    """A player that can be told, from another thread, to play no further."""

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

    The casts that autocast remembers are the process'. Whoever leaves its outermost autocast forgets them all, amid a forward pass of
    another thread too, whose gradients would then be added up in another order; so this thread never leaves its outermost. The rest of what
    torch keeps for each thread: gradients are off in `PolicyPlayer`, the number of threads is the main one's by itself.
    """
    torch.autocast_increment_nesting()
