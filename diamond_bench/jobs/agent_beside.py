"""Real play beside training: the next epoch's steps are played by a thread, with the policy as it stood when they were begun."""

import threading
from contextlib import nullcontext
from typing import Any

import torch

from diamond_bench.data.replay import Replay
from diamond_bench.envs.games import vector_env
from diamond_bench.envs.play import Collected, Collector, Steps, together
from diamond_bench.evaluation.player import PolicyPlayer
from diamond_bench.jobs.agent_learners import Learners
from diamond_bench.studies.kinds import TrainAgent
from diamond_bench.training.means import Means

_CHUNK = 10
"""Steps between two looks at whether to stop."""


class BesidePlay:
    """`Play` of stretches that a thread plays: begun early, they go on while the networks train, and nobody sees their steps before
    `collect`. What a stretch is depends on nothing but its beginning: the play's state and the policy's weights, both in a checkpoint.
    """

    def __init__(self, config: TrainAgent, learners: Learners, replay: Replay, device: torch.device) -> None:
        self._learned, self._policy = learners.agent.actor_critic, learners.policy_of_its_own()
        self._replay, self._blocks = replay, _Blocks()
        env, player, agent = vector_env(config.game, config.env, 1), PolicyPlayer(self._policy), config.agent
        self._collector = Collector(env, player, self._blocks, config.seed, agent.epsilon, agent.temperature)
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._stretch: _Stretch | None = None
        self._begun: dict[str, Any] = {}
        self.real_steps = 0
        """As `Play.real_steps`."""

    def begin(self, num_steps: int) -> None:
        """As `Play.begin`."""
        if num_steps:
            self._policy.load_state_dict(self._learned.state_dict())
            self._play(num_steps)

    def collect(self, num_steps: int, means: Means) -> Collected:
        """As `Play.collect`: the stretch that was begun, or else one that is begun now."""
        if self._stretch is None:
            self.begin(num_steps)
        assert self._stretch is not None
        collected, self._stretch = self._stretch.join(), None
        assert collected.steps == num_steps, f"begun for {collected.steps} steps, and {num_steps} are asked for"
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
        for env, steps in self._blocks.taken():
            self._replay.append(env, steps)
        self.real_steps += num_steps
        return collected

    def _play(self, num_steps: int) -> None:
        weights = {name: tensor.cpu().clone() for name, tensor in self._policy.state_dict().items()}
        self._begun = {"collector": self._collector.save(), "policy": weights, "num_steps": num_steps}
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        self._stretch = _Stretch(self._collector, num_steps, self._stream)

    def state_dict(self) -> dict[str, Any]:
        """As `Play.state_dict`; of a stretch that is being played, what it was begun from."""
        return {**self._begun} if self._stretch is not None else {"collector": self._collector.save(), "policy": {}, "num_steps": 0}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Play.load_state_dict`; a stretch is played anew."""
        self.close()
        self._collector.restore(state["collector"])
        self.real_steps = self._collector.real_steps
        if state["num_steps"]:
            self._policy.load_state_dict(state["policy"])
            self._play(state["num_steps"])

    def close(self) -> None:
        """As `Play.close`: the thread ends after a few more steps."""
        if self._stretch is not None:
            self._stretch.stop()
            self._stretch = None
        self._blocks.taken()


class _Blocks:
    """A sink that keeps steps until they are taken."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, Steps]] = []

    def append(self, env: int, steps: Steps) -> None:
        self._kept.append((env, steps))

    def taken(self) -> list[tuple[int, Steps]]:
        kept, self._kept = self._kept, []
        return kept


class _Stretch:
    """Steps that a thread plays; on a GPU on a stream of its own, so that an action does not wait for all queued training."""

    def __init__(self, collector: Collector, num_steps: int, stream: torch.cuda.Stream | None) -> None:
        self._collector, self._num_steps, self._stream = collector, num_steps, stream
        self._stopping = threading.Event()
        self._parts: list[Collected] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="real play", daemon=True)
        self._thread.start()

    def join(self) -> Collected:
        """Waits for its end. Raises what the thread raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return together(self._parts)

    def stop(self) -> None:
        """Ends it early, waiting for a few steps at most; what it raised is nobody's concern any more."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
                for done in range(0, self._num_steps, _CHUNK):
                    if self._stopping.is_set():
                        return
                    self._parts.append(self._collector.collect(min(_CHUNK, self._num_steps - done)))
        except BaseException as error:
            self._error = error
