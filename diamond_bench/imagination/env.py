"""The world model as an environment of the field: any library that trains in a gymnasium VectorEnv can train in it (paper section 3.2)."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from torch import Tensor

from diamond_bench.config import Sampler
from diamond_bench.data.segments import Segments, to_float
from diamond_bench.diffusion.samplers import Noise
from diamond_bench.diffusion.schedules import nfe
from diamond_bench.imagination.starts import StartRing, StartSegments
from diamond_bench.models.graphs import Outputs

State = tuple[Tensor, ...]
"""Memory of the reward/end model, (1, b, k) each."""


class Predictor(Protocol):
    """What imagines frames; `WorldModel` is one."""

    @property
    def num_frames(self) -> int:
        """L, past frames and actions a prediction is made from."""
        ...

    def predict(self, past: Tensor, actions: Tensor, sampler: Sampler, noise: Noise) -> Tensor:
        """As `WorldModel.predict`."""
        ...


class RewardEndPrediction(Protocol):
    """As `RewardEndOutput`."""

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


class Draws(Protocol):
    """Everything an imagination environment leaves to chance, its start segments apart."""

    def noise(self, like: Tensor) -> Tensor:
        """N(0, 1) of the shape and on the device of `like`, for the sampler."""
        ...

    def reward_class(self, logits: Tensor) -> Tensor:
        """(b, 3) -> (b,) int64, of the rewards -1, 0, +1."""
        ...

    def end(self, logits: Tensor) -> Tensor:
        """(b, 2) -> (b,) bool."""
        ...

    def manual_seed(self, seed: int) -> object:
        """Begin anew from a seed."""
        ...

    def get_state(self) -> Tensor:
        """For `set_state`."""
        ...

    def set_state(self, state: Tensor) -> object:
        """Go on from where `get_state` was called."""
        ...


class GeneratorDraws:
    """Draws from one generator, on its device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.manual_seed = generator.manual_seed
        self.get_state = generator.get_state
        self.set_state = generator.set_state

    def noise(self, like: Tensor) -> Tensor:
        """As `Draws.noise`."""
        return torch.randn(like.shape, generator=self.generator, device=like.device)

    def reward_class(self, logits: Tensor) -> Tensor:
        """As `Draws.reward_class`."""
        return categorical(logits, self.generator)

    def end(self, logits: Tensor) -> Tensor:
        """As `Draws.end`."""
        return categorical(logits, self.generator) == 1


def categorical(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One class a row, drawn from softmax(logits): (..., n) -> (...) int64. Unlike torch.multinomial it never waits for the device."""
    waits = torch.empty_like(logits, dtype=torch.float32).exponential_(generator=generator)
    return (logits.float() - waits.log()).argmax(dim=-1)


class ImaginationEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """b games imagined side by side, each for at most `horizon` steps; frames (b, 3, h, w) float32 in [-1, 1].

    A step imagines the next frame from the last L frames and actions, then draws reward (-1, 0 or 1) and end from the reward/end
    model, which remembers the episode. terminations: it said the episode ended; truncations: `horizon` steps were done (in one step
    both may be true). Where an episode ends, the same step begins another (AutoresetMode.SAME_STEP) from a segment of real play:
    the observation is then the segment's last frame.

    infos of a step: `final_obs` (b, 3, h, w), the frame each action led to, with `_final_obs` (b,) bool, the episodes that ended;
    `burn_in` (b, s-1, 3, h, w) of segments of s frames, with the mask `_burn_in`, the frames before the first observation of each new
    episode, oldest first, padding 0.0, for policies with memory (rows of other episodes mean nothing); `nfe` (b,) int64, denoiser calls;
    `reward_logits` (b, 3) and `end_logits` (b, 2).

    Nothing in a step waits for the device, as long as `prepare` was called for so many steps. No gradient passes through it.
    """

    metadata: ClassVar[dict[str, Any]] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # type: ignore[misc]

    def __init__(
        self,
        world_model: Predictor,
        reward_end: Callable[[Tensor, Tensor, Tensor, Any], RewardEndPrediction],
        starts: StartSegments,
        draws: Draws,
        sampler: Sampler,
        num_envs: int,
        num_actions: int,
        frame_size: int,
        horizon: int = 15,
        preload: int = 256,
        discard_left_overs: bool = False,
        device: torch.device | str = "cpu",
        arrays: Literal["torch", "numpy"] = "torch",
        recorded: Callable[[Callable[..., Outputs]], Callable[..., Outputs]] | None = None,
    ) -> None:
        """Args:
        world_model: imagines frames.
        reward_end: a `RewardEndModel`: (frames, actions, next frames, state) -> logits and state.
        starts: real play to start from, segments of s >= L frames (`ReplayStarts`); the denoiser sees the last L.
        draws: noise, rewards and ends (`GeneratorDraws`).
        sampler: of frames.
        num_envs: b.
        num_actions: of the game.
        frame_size: h = w.
        horizon: H, steps after which an episode is truncated.
        preload: batches of b start segments that are loaded, and burnt in, at once.
        discard_left_overs: the authors' rule, see `StartRing`.
        device: where everything lies.
        arrays: "torch" takes and gives tensors on the device, "numpy" arrays.
        recorded: makes the device's part of a step a CUDA graph (`Graphed`, told of the generator of `draws`); `starts` must then read
            from memory that stays where it is.
        """
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(-1.0, 1.0, (3, frame_size, frame_size), np.float32)
        self.single_action_space = spaces.Discrete(num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.device = torch.device(device)
        self._world_model, self._reward_end, self._starts, self._draws = world_model, reward_end, starts, draws
        self._sampler, self._horizon, self._arrays = sampler, horizon, arrays
        self._nfe = torch.full((num_envs,), nfe(sampler), device=self.device)
        self._ring = StartRing(starts, self._burn_in, num_envs, preload * num_envs, discard_left_overs, self.device)
        self._all = torch.ones(num_envs, dtype=torch.bool, device=self.device)
        self._recorded = recorded
        self._memory: object = None
        self.advance: Callable[..., Outputs] = self._advance
        """Actions (b,) and a position to what a step tells and the position after it; as a CUDA graph, where steps are recorded."""

    @property
    def num_frames(self) -> int:
        """L."""
        return self._world_model.num_frames

    @property
    def position(self) -> Outputs:
        """Where all episodes are: frames, actions (b, L, ...), steps done (b,), start segments taken (), the reward/end model's state."""
        return (self._frames, self._actions, self._steps, self._ring.taken, *self._state)

    @position.setter
    def position(self, position: Outputs) -> None:
        self._frames, self._actions, self._steps, self._ring.taken, *state = position
        self._state: State = tuple(state)

    def prepare(self, num_steps: int) -> None:
        """Make sure that start segments for `num_steps` steps are loaded, so that none of them waits for the device.

        Call it between rollouts. It reads one number back from the device where the segments might not suffice, and then loads more.
        """
        self._ring.prepare(num_steps)

    def reserve(self, num_steps: int) -> object:
        """The host's part of `num_steps` steps that `ReservedSteps` are to take.

        Returns what stands for the memory that they read beside their position: another thing once it moved, so that what was recorded is
        to be recorded anew.
        """
        memory = self._ring.reserve(num_steps)
        if memory is not self._memory:
            self._memory, self.advance = memory, self._advance if self._recorded is None else self._recorded(self._advance)
        return memory

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin all episodes from fresh segments. A seed also restarts all draws, and drops start segments drawn before."""
        super().reset(seed=seed)
        if seed is not None:
            self._draws.manual_seed(seed)
            self._starts.manual_seed(seed + 1)
            self._ring.clear()
        segments, states = self._ring.take(self._all)
        frames, actions = to_float(segments)[:, -self.num_frames :], segments.actions[:, -self.num_frames :]
        steps = torch.zeros(self.num_envs, dtype=torch.int64, device=self.device)
        self.position = (frames, actions, steps, self._ring.taken, *(state[None] for state in states))
        return self._out(self._frames[:, -1]), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Imagine one step of every episode; see the class for what comes back. `actions`: (b,) int."""
        self.reserve(1)
        steps, out = ReservedSteps(self, self.position), self._out
        *told, infos = steps.step(torch.as_tensor(actions, dtype=torch.int64, device=self.device))
        self.position = steps.position
        frames, rewards, terminations, truncations = (out(tensor) for tensor in told)
        infos |= {"nfe": self._nfe, "_nfe": self._all, "_reward_logits": self._all, "_end_logits": self._all}
        return frames, rewards, terminations, truncations, {name: out(tensor) for name, tensor in infos.items()}

    @torch.no_grad()
    def _advance(self, taken: Tensor, frames: Tensor, actions: Tensor, steps: Tensor, segments_taken: Tensor, *state: Tensor) -> Outputs:
        """The device's part of a step: a function of tensors alone, so that it may be a CUDA graph."""
        acted = torch.cat((actions[:, :-1], taken[:, None]), dim=1)
        frame = self._world_model.predict(frames, acted, self._sampler, lambda: self._draws.noise(frames[:, -1]))
        said = self._reward_end(frames[:, -1:], acted[:, -1:], frame[:, None], state)
        rewards = self._draws.reward_class(said.reward_logits[:, 0]).float() - 1
        terminations = self._draws.end(said.end_logits[:, 0])
        steps = steps + 1
        truncations = steps >= self._horizon

        done = terminations | truncations
        fresh, states, segments_taken = self._ring.hand_out(done, segments_taken)
        fresh_frames = to_float(fresh)
        going_on, last = torch.cat((frames[:, 1:], frame[:, None]), dim=1), slice(-self.num_frames, None)
        frames = torch.where(done[:, None, None, None, None], fresh_frames[:, last], going_on)
        actions = torch.where(done[:, None], fresh.actions[:, last], acted.roll(-1, dims=1))
        state = tuple(torch.where(done[:, None], new, old) for new, old in zip(states, said.state, strict=True))
        steps = torch.where(done, 0, steps)
        imagined = (frame, rewards, terminations, truncations, done, fresh_frames[:, :-1], said.reward_logits[:, 0], said.end_logits[:, 0])
        return (*imagined, frames, actions, steps, segments_taken, *state)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on exactly so, tensors and numbers only; models and replay are not in it. Call it after a reset."""
        return {
            "frames": self._frames,
            "actions": self._actions,
            "state": list(self._state),
            "steps": self._steps,
            "ring": self._ring.state_dict(),
            "draws": self._draws.get_state(),
            "starts": self._starts.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, with no reset, over the same replay. ValueError for another number of environments."""
        if len(state["frames"]) != self.num_envs:
            raise ValueError(f"saved with {len(state['frames'])} environments, restored with {self.num_envs}")
        self._frames, self._actions, self._steps = (state[key].to(self.device) for key in ("frames", "actions", "steps"))
        self._state = tuple(tensor.to(self.device) for tensor in state["state"])
        self._ring.load_state_dict(state["ring"])
        self._draws.set_state(state["draws"].cpu())
        self._starts.set_state(state["starts"].cpu())

    def _burn_in(self, segments: Segments) -> State:
        """The reward/end model's memory (n, k) of the transitions of `segments`, padding included."""
        frames = to_float(segments)
        if frames.shape[1] == 1:  # no transition: the memory of one, emptied
            said = self._reward_end(frames, segments.actions, frames, None)
            return tuple(torch.zeros_like(state[0]) for state in said.state)
        said = self._reward_end(frames[:, :-1], segments.actions[:, :-1], frames[:, 1:], None)
        return tuple(state[0] for state in said.state)

    def _out(self, tensor: Tensor) -> Any:
        return tensor if self._arrays == "torch" else tensor.cpu().numpy()


class ReservedSteps:
    """Steps of an `ImaginationEnv` that were reserved before, from one position to another, as `TensorSteps`.

    Work of the device alone, that leaves the environment itself where it is: it may be part of a CUDA graph, and its last position
    given to the environment afterwards.
    """

    def __init__(self, env: ImaginationEnv, position: Outputs) -> None:
        self.position = position
        """Where all episodes are (`ImaginationEnv.position`)."""
        self._env = env

    @property
    def frames(self) -> Tensor:
        """The frame that each game shows now, (b, 3, h, w)."""
        return self.position[0][:, -1]

    def prepare(self, num_steps: int) -> None:
        """Nothing to do: they are reserved."""

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, dict[str, Any]]:
        """As `ImaginationEnv.step`, tensors on the device throughout."""
        outputs = self._env.advance(actions, *self.position)
        frame, rewards, terminations, truncations, done, burn_in, reward_logits, end_logits, *after = outputs
        self.position = tuple(after)
        infos = {"final_obs": frame, "_final_obs": done, "burn_in": burn_in, "_burn_in": done}
        infos |= {"reward_logits": reward_logits, "end_logits": end_logits}
        return self.frames, rewards, terminations, truncations, infos
