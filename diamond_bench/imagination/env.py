"""The world model as a standard environment: any library that trains in a gymnasium VectorEnv can train in it (paper section 3.2)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, cast

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from diamond_bench.data.segments import Segments, to_float
from diamond_bench.imagination.starts import Start, StartRing, StartSegments
from diamond_bench.models.graphs import Graphed, Outputs
from diamond_bench.worlds.contract import CostlyStart, State, Step, WorldModel


class RewardEndPrediction(Protocol):
    """See `RewardEndOutput`."""

    @property
    def reward_logits(self) -> Tensor:
        """(b, t, 3) for the rewards -1, 0, +1."""
        ...

    @property
    def end_logits(self) -> Tensor:
        """(b, t, 2) for no, yes."""
        ...

    @property
    def state(self) -> Any:
        """Memory after the last step."""
        ...


RewardEnd = Callable[[Tensor, Tensor, Tensor, Any], RewardEndPrediction]
"""A `RewardEndModel`: (frames, actions, next frames, memory) -> logits and memory, (1, b, k) each."""


class Draws(Protocol):
    """All randomness of an imagination environment, except its start segments."""

    def noise(self, like: Tensor) -> Tensor:
        """N(0, 1) of the shape and on the device of `like`, for the world model."""
        ...

    def reward_class(self, logits: Tensor) -> Tensor:
        """Draws rewards -1, 0, +1: logits (b, 3) -> (b,) int64."""
        ...

    def end(self, logits: Tensor) -> Tensor:
        """Draws ends: logits (b, 2) -> (b,) bool."""
        ...

    def manual_seed(self, seed: int) -> object:
        """Restarts from a seed."""
        ...

    def get_state(self) -> Tensor:
        """For `set_state`."""
        ...

    def set_state(self, state: Tensor) -> object:
        """Continues from the state that `get_state` returned."""
        ...


class GeneratorDraws:
    """Draws from one generator, on its device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.manual_seed = generator.manual_seed
        self.get_state = generator.get_state
        self.set_state = generator.set_state

    def noise(self, like: Tensor) -> Tensor:
        """See `Draws.noise`."""
        return torch.randn(like.shape, generator=self.generator, device=like.device)

    def reward_class(self, logits: Tensor) -> Tensor:
        """See `Draws.reward_class`."""
        return categorical(logits, self.generator)

    def end(self, logits: Tensor) -> Tensor:
        """See `Draws.end`."""
        return categorical(logits, self.generator) == 1


def categorical(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One class per row, drawn from softmax(logits): (..., n) -> (...) int64. Unlike torch.multinomial it never waits for the device."""
    waits = torch.empty_like(logits, dtype=torch.float32).exponential_(generator=generator)
    return (logits.float() - waits.log()).argmax(dim=-1)


@dataclass(frozen=True)
class ImaginationSettings:
    """How to imagine games."""

    num_envs: int
    """b, the number of games imagined at once."""
    horizon: int = 15
    """H, the number of steps after which an episode is truncated."""
    preload: int = 256
    """Batches of b start segments that are loaded and burnt in at once."""
    discard_left_overs: bool = False
    """The authors' rule; see `StartRing`."""
    arrays: Literal["torch", "numpy"] = "torch"
    """The type of actions and observations: tensors on the device, or NumPy arrays."""
    rewards: bool = True
    """Whether rewards must be predicted. If false, every reward is 0 where neither the world model nor a reward/end model predicts one."""


class ImaginationEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """b games imagined in parallel, each for at most `horizon` steps. Frames are (b, 3, h, w) float32 in [-1, 1].

    A step imagines the next frame, then draws reward (-1, 0 or 1) and end from the logits of the reward/end model, which remembers the
    episode, or of the world model itself. terminations: the episode ended by itself. truncations: it reached `horizon` steps. Both may be
    true in one step. The step that ends an episode also begins another one (AutoresetMode.SAME_STEP) from a segment of real play: the
    observation is then the segment's last frame.

    infos of a step:
    - `final_obs` (b, 3, h, w): the frame that each action led to, and `_final_obs` (b,) bool: the episodes that ended.
    - `burn_in` (b, s-1, 3, h, w): for segments of s frames, the frames before the first observation of each new episode, oldest first,
      padded with 0.0, for policies with memory. `_burn_in` masks the new episodes. Rows of other episodes have no meaning.
    - `nfe` (b,) int64: network calls.
    - `reward_logits` (b, 3) and `end_logits` (b, 2).

    In a pure world model no step waits for the device, provided that `prepare` was called for enough steps, and that starts call no network
    (`CostlyStart`) or the steps are recorded. No gradient passes through it.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # type: ignore[misc]

    def __init__(
        self,
        world: WorldModel,
        reward_end: RewardEnd | None,
        starts: StartSegments,
        draws: Draws,
        settings: ImaginationSettings,
        view: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Builds the environment.

        Args:
            world: imagines frames, on its device.
            reward_end: predicts rewards and ends from frames. None if the world model predicts them.
            starts: real play to start from, segments of s >= `world.context` frames (`ReplayStarts`).
            draws: noise, rewards and ends (`GeneratorDraws`).
            settings: the number of games and their length.
            view: what is shown of real frames (n, 3, h, w), such as their reconstruction. None shows them as they are.

        Raises ValueError if nothing predicts rewards, unless `settings.rewards` is false.
        """
        if settings.rewards and reward_end is None and not world.spec.rewards:
            raise ValueError("the world model predicts no rewards, and there is no reward/end model")
        b, frames = settings.num_envs, world.spec.frames
        self.num_envs = b
        self.single_observation_space = spaces.Box(-1.0, 1.0, (3, *frames.sides), np.float32)
        self.single_action_space = world.spec.actions.space()
        self.observation_space = batch_space(self.single_observation_space, b)
        self.action_space = batch_space(self.single_action_space, b)
        self.device = world.device
        self._action_dtype: torch.dtype = getattr(torch, world.spec.actions.dtype)
        self._world, self._reward_end, self._starts, self._draws, self._settings = world, reward_end, starts, draws, settings
        self._view = view
        self._nfe = torch.full((b,), world.calls_per_frame, device=self.device)
        self._ring = StartRing(starts, self._burn_in, b, settings.preload * b, settings.discard_left_overs, self.device)
        self._costly_start = isinstance(world, CostlyStart)
        self._all = torch.ones(b, dtype=torch.bool, device=self.device)
        self._state: State = ()
        self._memory: State = ()
        self.advance: Callable[..., Outputs] = self._advance
        """A function of tensors for `record_steps`: maps actions and a position to the outputs of a step and the next position."""

    @property
    def position(self) -> Outputs:
        """The state of all episodes: their present frames (b, 3, h, w), steps done (b,), start segments taken (), the world model's state,
        and the reward/end model's memory."""
        return (self._shown, self._steps, self._ring.taken, *self._state, *self._memory)

    @position.setter
    def position(self, position: Outputs) -> None:
        self._shown, self._steps, self._ring.taken, *rest = position
        size = len(self._state)
        self._state, self._memory = tuple(rest[:size]), tuple(rest[size:])

    @property
    def held(self) -> Outputs:
        """The tensors that `advance` reads in addition to its inputs and that may move in memory."""
        return self._ring.held

    def prepare(self, num_steps: int) -> None:
        """Loads enough start segments for `num_steps` steps, so that none of them waits for the device.

        Call it between rollouts. It reads one number from the device if the segments might not suffice, and then loads more.
        """
        self._ring.prepare(num_steps)

    def reserve(self, num_steps: int) -> None:
        """The host's part of `num_steps` steps that `ReservedSteps` will take."""
        self._ring.reserve(num_steps)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins all episodes from fresh segments. A seed also restarts all draws, and discards start segments drawn before."""
        super().reset(seed=seed)
        if seed is not None:
            self._draws.manual_seed(seed)
            self._starts.manual_seed(seed + 1)
            self._ring.clear()
        start = self._ring.take(self._all)
        frames = to_float(start.segments)
        self._shown, self._state = self._seen(frames, start)[:, -1].contiguous(), self._begin(frames, start)
        self._memory = tuple(memory[None] for memory in start.memories)
        self._steps = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        return self._out(self._shown), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Imagines one step of every episode; the class describes the outputs. `actions`: (b,) int64, or (b, k) of k columns."""
        self.reserve(1)
        steps, out = ReservedSteps(self, self.position), self._out
        *tensors, infos = steps.step(torch.as_tensor(actions, dtype=self._action_dtype, device=self.device))
        self.position = steps.position
        frames, rewards, terminations, truncations = (out(tensor) for tensor in tensors)
        infos |= {"nfe": self._nfe, "_nfe": self._all, "_reward_logits": self._all, "_end_logits": self._all}
        return frames, rewards, terminations, truncations, {name: out(tensor) for name, tensor in infos.items()}

    @torch.no_grad()
    def _advance(self, actions: Tensor, shown: Tensor, steps: Tensor, segments_taken: Tensor, *rest: Tensor) -> Outputs:
        """The device's part of a step. The order of draws is: world model, reward, end, new starts."""
        size = len(self._state)
        state, step = self._world.step(tuple(rest[:size]), actions, self._draws.noise)
        reward_logits, end_logits, memory = self._predict_outcome(shown, actions, step, tuple(rest[size:]))
        rewards = self._draws.reward_class(reward_logits).float() - 1
        terminations = self._draws.end(end_logits)
        steps = steps + 1
        truncations = steps >= self._settings.horizon

        done = terminations | truncations
        start, segments_taken = self._ring.hand_out(done, segments_taken)
        frames = to_float(start.segments)
        if self._starts_anything(done):
            state = tuple(_where(done, new, old) for new, old in zip(self._begin(frames, start), state, strict=True))
            frames = self._seen(frames, start)
        else:  # no row of `frames` is read
            cast(CostlyStart, self._world).skip_start(frames, self._draws.noise)
        memory = tuple(torch.where(done[:, None], new, old) for new, old in zip(start.memories, memory, strict=True))
        steps = torch.where(done, 0, steps)
        imagined = (step.frame, rewards, terminations, truncations, done, frames[:, :-1], reward_logits, end_logits)
        shown = _where(done, frames[:, -1], step.frame).contiguous()  # the same strides at every call, for compiled code
        return (*imagined, shown, steps, segments_taken, *state, *memory)

    def _predict_outcome(self, shown: Tensor, actions: Tensor, step: Step, memory: State) -> tuple[Tensor, Tensor, State]:
        """Logits of rewards and of ends, and the reward/end model's memory after the step."""
        rewards, ends, memory = predict_outcome(self._reward_end, shown, actions, step, memory)
        if rewards is None:
            rewards = torch.tensor([-math.inf, 0.0, -math.inf], device=self.device).expand(len(shown), 3)
        if ends is None:
            ends = torch.tensor([0.0, -math.inf], device=self.device).expand(len(shown), 2)
        return rewards, ends, memory

    def _seen(self, frames: Tensor, start: Start) -> Tensor:
        """What is shown of start segments. Padding stays 0."""
        if self._view is None:
            return frames
        shown: Tensor = self._view(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return shown * start.segments.mask[:, :, None, None, None]

    def _starts_anything(self, done: Tensor) -> bool:
        """Whether a game begins. If `start` costs less than the answer, or a CUDA graph is recorded, it is true."""
        if not self._costly_start or (self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
            return True
        return bool(done.any())

    def _begin(self, frames: Tensor, start: Start) -> State:
        return self._world.start(frames, start.segments.actions, start.segments.mask, self._draws.noise, start.origin)

    def state_dict(self) -> dict[str, Any]:
        """The complete state as tensors and numbers, without models and replay. Call it after a reset."""
        return {
            "shown": self._shown,
            "world": list(self._state),
            "state": list(self._memory),
            "steps": self._steps,
            "ring": self._ring.state_dict(),
            "draws": self._draws.get_state(),
            "starts": self._starts.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict` without a reset, over the same replay. Raises ValueError for another number of environments."""
        if "world" not in state:  # a checkpoint of an earlier version
            state = {**state, "shown": state["frames"][:, -1].contiguous(), "world": [state["frames"], state["actions"]]}
        if len(state["shown"]) != self.num_envs:
            raise ValueError(f"saved with {len(state['shown'])} environments, restored with {self.num_envs}")
        self._shown, self._steps = state["shown"].to(self.device), state["steps"].to(self.device)
        self._state, self._memory = (tuple(tensor.to(self.device) for tensor in state[key]) for key in ("world", "state"))
        self._ring.load_state_dict(state["ring"])
        self._draws.set_state(state["draws"].cpu())
        self._starts.set_state(state["starts"].cpu())

    def _burn_in(self, segments: Segments) -> State:
        return burn_in(self._reward_end, segments)

    def _out(self, tensor: Tensor) -> Any:
        return tensor if self._settings.arrays == "torch" else tensor.cpu().numpy()


def burn_in(reward_end: RewardEnd | None, segments: Segments) -> State:
    """The reward/end model's memory (n, k) after the transitions of `segments`, padding included. Empty without such a model."""
    if reward_end is None:
        return ()
    frames = to_float(segments)
    if frames.shape[1] == 1:  # no transition: zeros in the shape of the memory
        output = reward_end(frames, segments.actions, frames, None)
        return tuple(torch.zeros_like(state[0]) for state in output.state)
    output = reward_end(frames[:, :-1], segments.actions[:, :-1], frames[:, 1:], None)
    return tuple(state[0] for state in output.state)


def predict_outcome(
    reward_end: RewardEnd | None, shown: Tensor, actions: Tensor, step: Step, memory: State
) -> tuple[Tensor | None, Tensor | None, State]:
    """Logits of rewards (b, 3) and of ends (b, 2) after a step, None where nothing predicts them, and the reward/end model's memory.

    Args:
        reward_end: predicts them in place of the world model.
        shown: the frames before the actions, (b, 3, h, w).
        actions: taken after these frames, (b,).
        step: what the world model predicted.
        memory: of the reward/end model, (1, b, k) each.
    """
    if reward_end is None:
        return step.reward_logits, step.end_logits, memory
    output = reward_end(shown[:, None], actions[:, None], step.frame[:, None], memory)
    return output.reward_logits[:, 0], output.end_logits[:, 0], tuple(output.state)


def _where(rows: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """`new` in the rows where `rows` (b,) is true, `old` in the others."""
    return torch.where(rows.view(-1, *[1] * (old.dim() - 1)), new, old)


def record_steps(env: ImaginationEnv, generators: Sequence[torch.Generator]) -> None:
    """Records the environment's steps as a CUDA graph. `generators`: those of its draws. The memory that its starts read must not move."""
    env.advance = Graphed(env.advance, generators, held=lambda: env.held)


class ReservedSteps:
    """Steps of an `ImaginationEnv` that were reserved before, from one position to the next, as `TensorSteps`.

    They run on the device alone and do not change the environment, so they may be part of a CUDA graph. Afterwards the last position can be
    assigned to the environment.
    """

    def __init__(self, env: ImaginationEnv, position: Outputs) -> None:
        self.position = position
        """The state of all episodes (`ImaginationEnv.position`)."""
        self._env = env

    @property
    def frames(self) -> Tensor:
        """The present frame of each game, (b, 3, h, w)."""
        return self.position[0]

    def prepare(self, num_steps: int) -> None:
        """Does nothing: the steps are reserved."""

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """See `ImaginationEnv.step`, with tensors on the device throughout."""
        outputs = self._env.advance(actions, *self.position)
        frame, rewards, terminations, truncations, done, burn_in, reward_logits, end_logits, *after = outputs
        self.position = tuple(after)
        infos = {"final_obs": frame, "_final_obs": done, "burn_in": burn_in, "_burn_in": done}
        infos |= {"reward_logits": reward_logits, "end_logits": end_logits}
        return self.frames, rewards, terminations, truncations, infos
