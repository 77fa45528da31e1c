"""The steps of a pure world model through CUDA graphs: the solver's steps and all network calls in a single launch."""

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor

from diamond_bench.models.graphs import Graphed, Outputs, Recorder
from diamond_bench.worlds.contract import Draw, State, Step, WorldModel

_PARTS = ("frame", "reward_logits", "end_logits")


def recorded(world: WorldModel, record: Recorder | None = None) -> WorldModel:
    """The same world model with its steps recorded once per shape. Raises ValueError if its steps are not pure."""
    if not world.pure:
        raise ValueError("only the steps of a pure world model can be recorded")
    return cast(WorldModel, _RecordedWorld(world, record))


class _RecordedWorld:
    """Random numbers are drawn before the graph runs, as many as the step draws, so the results equal those of the step itself."""

    def __init__(self, world: WorldModel, record: Recorder | None) -> None:
        self._world, self._record = world, record
        self._graphs: dict[object, tuple[Graphed, list[Tensor], list[str]]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world, name)

    def step(self, state: State, action: Tensor, draw: Draw) -> tuple[State, Step]:
        """See `WorldModel.step`."""
        shapes = tuple(tensor.shape for tensor in (*state, action))
        if shapes not in self._graphs:
            likes: list[Tensor] = []

            def noted(like: Tensor) -> Tensor:
                likes.append(draw(like))
                return likes[-1]

            after, step = self._world.step(state, action, noted)
            parts = [name for name in _PARTS if getattr(step, name) is not None]
            self._graphs[shapes] = Graphed(self._recordable(len(state), parts), record=self._record), likes, parts
            return after, step
        graphed, likes, parts = self._graphs[shapes]
        outputs = graphed(*state, action, *(draw(like) for like in likes))
        return outputs[: len(state)], Step(**dict(zip(parts, outputs[len(state) :], strict=True)))

    def _recordable(self, size: int, parts: list[str]) -> Callable[..., Outputs]:
        def run(*inputs: Tensor) -> Outputs:
            given = iter(inputs[size + 1 :])
            after, step = self._world.step(inputs[:size], inputs[size], lambda like: next(given))
            return (*after, *(getattr(step, name) for name in parts))

        return run
