"""The lanes of a session turn actions into pictures. A lane is a world model or the real game, perhaps with a policy that watches."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diamond_bench.config import Sampler
from diamond_bench.data.segments import Segments, to_float
from diamond_bench.diffusion.quantization import from_bytes, to_bytes
from diamond_bench.envs.games import family_of, make_env, spec
from diamond_bench.envs.saves import load_env, save_env
from diamond_bench.errors import UserError
from diamond_bench.evaluation.rollouts import seeded_draw
from diamond_bench.imagination.env import RewardEnd, burn_in, predict_outcome
from diamond_bench.models.actor_critic import Policy, ViewingPolicy
from diamond_bench.spaces import ActionSpec
from diamond_bench.worlds.contract import RecordedPlay, State, TwoStages, WorldModel
from diamond_bench.worlds.oracle.packing import pack, unpack
from diamond_bench.worlds.oracle.world import OracleWorld

if TYPE_CHECKING:
    from diamond_bench.envs.family import Env

Frame = NDArray[np.uint8]
"""(3, h, w)."""
Seed = tuple[int, ...]
"""The seed of all draws of one frame: that of the session and the number of the frame. All lanes have the same."""


def absolute_difference(one: Frame, other: Frame) -> Frame:
    """The absolute difference of two pictures."""
    return np.maximum(one, other) - np.minimum(one, other)


@dataclass(frozen=True)
class Memory:
    """The state from which a lane continues after a frame. The frame itself is not part of it."""

    world: State
    """The state of the world model, or the saved state of the real game."""
    outcome: State = ()
    """The memory of the reward/end model, (1, 1, k) each."""
    policy: State = ()
    """The memory of the policy, (1, k) each."""

    @property
    def size(self) -> int:
        """Its bytes."""
        return sum(tensor.nbytes for part in (self.world, self.outcome, self.policy) for tensor in part)


@dataclass(frozen=True)
class Start:
    """Real play of s frames, after which all lanes begin."""

    frames: Tensor
    """(s, 3, h, w) uint8, oldest first, on the CPU."""
    actions: Tensor
    """(s, ...): action i was taken after frame i. The last is not used."""
    mask: Tensor
    """(s,) bool, false where padded."""
    place: tuple[int, int] = (0, 0)
    """(recording, step) of the last frame, as in `RecordedPlay`."""
    low: Tensor | None = None
    """The same frames at low resolution, (s, 3, h, w) uint8, for a world model of two stages. None lets it compute them."""

    def segments(self, device: torch.device) -> Segments:
        """One row of segments."""
        return Segments(*(tensor[None].to(device) for tensor in (self.frames, self.actions, self.mask)))

    def origin(self, device: torch.device) -> Tensor:
        """As `WorldModel.start` takes it, (1, 2)."""
        return torch.tensor([self.place], device=device)


@dataclass(frozen=True)
class Setting:
    """The settings of a world model that can be changed in play."""

    sampler: Sampler | None = None
    """None for a world that samples nothing."""
    milestone: float | None = None
    """Share of the training after which the weights were saved. None is the one that was opened."""


@dataclass(frozen=True)
class Shown:
    """The picture and the numbers of a lane after an action."""

    frame: Frame
    reward: float = 0.0
    """Imagined: drawn from the prediction, -1, 0 or 1. Real: the game's own, unclipped."""
    ended: bool = False
    """Imagined: drawn from the prediction. Real: the game is over."""
    cut: bool = False
    """A time limit of the real game was reached."""
    reward_probabilities: tuple[float, ...] | None = None
    """The probabilities of -1, 0 and 1. None where nothing predicts rewards."""
    end_probability: float | None = None
    lives: int | None = None
    """None where they are unknown."""
    policy: "Opinion | None" = None
    """None without a policy."""
    low: Frame | None = None
    """The frame at low resolution from which the frame was made. None for a world model of one stage."""


@dataclass(frozen=True)
class Opinion:
    """The output of a policy for a frame."""

    probabilities: tuple[float, ...]
    """The probability of each action."""
    value: float
    """Expected discounted return."""

    @property
    def entropy(self) -> float:
        """The entropy of the probabilities, in bits."""
        return -sum(p * float(np.log2(p)) for p in self.probabilities if p > 0)

    def action(self, seed: Seed) -> NDArray[np.int64]:
        """An action drawn from the probabilities, ()."""
        return np.array(_drawn(self.probabilities, (*seed, _POLICY)), np.int64)


class Dynamics(Protocol):
    """The source of a lane's frames: a world model, or the real game."""

    @property
    def actions(self) -> ActionSpec:
        """The action space."""
        ...

    @property
    def first(self) -> Setting:
        """The setting with which play begins."""
        ...

    def begin(self, start: Start, seed: Seed) -> tuple[Memory, Shown]:
        """After real play. The frame is the last one of the play."""
        ...

    def step(self, memory: Memory, before: Shown, action: NDArray[Any], seed: Seed, setting: Setting) -> tuple[Memory, Shown]:
        """After an action. `memory` is not changed, and equal arguments give equal bytes on the same machine."""
        ...


@dataclass(frozen=True)
class Imagined:
    """A world model, with what predicts rewards and ends."""

    world: Callable[[Setting], WorldModel]
    """world(setting) -> the world with this sampler and these weights. States fit all of its worlds. Raises UserError for a setting that
    the source does not take."""
    actions: ActionSpec
    first: Setting = Setting()
    """See `Dynamics.first`."""
    reward_end: RewardEnd | None = None

    def begin(self, start: Start, seed: Seed) -> tuple[Memory, Shown]:
        """See `Dynamics.begin`."""
        world = self.world(self.first)
        segments = start.segments(world.device)
        draw = seeded_draw([seed], world.device)
        rest = (segments.actions, segments.mask, draw, start.origin(world.device))
        if start.low is not None and isinstance(world, TwoStages):
            state = world.start_from(to_float(segments), from_bytes(start.low[None].to(world.device)), *rest)
        else:
            state = world.start(to_float(segments), *rest)
        outcome = tuple(memory[None] for memory in burn_in(self.reward_end, segments))
        return Memory(state, outcome), Shown(start.frames[-1].numpy(), low=_low(world, state))

    def step(self, memory: Memory, before: Shown, action: NDArray[Any], seed: Seed, setting: Setting) -> tuple[Memory, Shown]:
        """See `Dynamics.step`. The order of draws is that of `ImaginationEnv`: world model, reward, end."""
        return self.step_in(self.world(setting), memory, before, action, seed)

    def step_in(self, world: WorldModel, memory: Memory, before: Shown, action: NDArray[Any], seed: Seed) -> tuple[Memory, Shown]:
        """As `step`, in a world that the caller gives."""
        taken = torch.as_tensor(action, dtype=getattr(torch, self.actions.dtype), device=world.device)[None]
        shown = from_bytes(torch.from_numpy(before.frame).to(world.device))[None]
        state, step = world.step(memory.world, taken, seeded_draw([seed], world.device))
        rewards, ends, outcome = predict_outcome(self.reward_end, shown, taken, step, memory.outcome)
        reward, end = (None if logits is None else tuple(logits[0].double().softmax(0).tolist()) for logits in (rewards, ends))
        return Memory(state, outcome), Shown(
            to_bytes(step.frame)[0].cpu().numpy(),
            0.0 if reward is None else float(_drawn(reward, (*seed, _REWARD)) - 1),
            end is not None and bool(_drawn(end, (*seed, _END))),
            reward_probabilities=reward,
            end_probability=None if end is None else end[1],
            low=_low(world, state),
        )


def _low(world: WorldModel, state: State) -> Frame | None:
    return to_bytes(world.low_frame(state))[0].cpu().numpy() if isinstance(world, TwoStages) else None


class Real:
    """The real game, from a place in recorded play. A `Dynamics`.

    The game is replayed up to the place (`OracleWorld`). After it, its random numbers come from the session's seed. A game that is over
    stays as it is.
    """

    first = Setting()

    def __init__(self, play: RecordedPlay) -> None:
        """Raises UserError for a game that cannot save its state, which rewinding needs."""
        if not family_of(play.game).saves:
            raise UserError(f"{play.game}: the real game cannot be played here, because its states cannot be saved and rewound to")
        self.play = play
        """The play at whose places it begins."""
        self._env: Env = make_env(play.game, play.env)
        described = spec(play.game, play.env)
        self.actions = described.actions
        self._replayed = OracleWorld(self._env, described, torch.device("cpu"), play)
        self._at: Tensor | None = None
        """The saved state in which the environment is."""

    def begin(self, start: Start, seed: Seed) -> tuple[Memory, Shown]:
        """See `Dynamics.begin`. Raises UserError if the play cannot be replayed frame by frame."""
        cpu = torch.device("cpu")
        segments = start.segments(cpu)
        draw = seeded_draw([seed], cpu)
        (state,) = self._replayed.start(to_float(segments), segments.actions, segments.mask, draw, start.origin(cpu))
        self._at = None
        return Memory((state[0],)), Shown(start.frames[-1].numpy())

    def step(self, memory: Memory, before: Shown, action: NDArray[Any], seed: Seed, setting: Setting) -> tuple[Memory, Shown]:
        """See `Dynamics.step`."""
        (state,) = memory.world
        if before.ended or before.cut:
            return memory, Shown(before.frame, ended=before.ended, cut=before.cut, lives=before.lives)
        if state is not self._at:
            load_env(self._env, unpack(state.numpy().tobytes()))
        frame, reward, ended, cut, info = self._env.step(action)
        self._at = torch.frombuffer(bytearray(pack(save_env(self._env))), dtype=torch.uint8)
        seen = np.ascontiguousarray(np.asarray(frame).transpose(2, 0, 1))
        return Memory((self._at,)), Shown(seen, float(reward), bool(ended), bool(cut), lives=info.get("lives"))


@dataclass(frozen=True)
class Lane:
    """One of the pictures next to each other."""

    name: str
    dynamics: Dynamics
    policy: Policy | None = None
    """Watches the lane's frames, and can play."""
    source: str = ""
    """What was opened, such as a job's id."""
    decoded: bool = False
    """Whether its frames after the first one are decoded from tokens. A policy that sees reconstructions then sees them as they are."""

    @torch.no_grad()
    def begin(self, start: Start, seed: Seed) -> tuple[Memory, Shown]:
        """See `Dynamics.begin`. The policy also watches the play."""
        memory, shown = self.dynamics.begin(start, seed)
        if self.policy is None:
            return memory, shown
        device = self.policy.initial_state(1)[0].device
        state = self.policy.initial_state(1)
        if len(start.frames) > 1:
            segments = start.segments(device)
            state = self.policy.burn_in(to_float(segments)[:, :-1], state, segments.mask[:, :-1])
        return self._watched(self.policy, memory, shown, state)

    @torch.no_grad()
    def step(self, memory: Memory, before: Shown, action: NDArray[Any], seed: Seed, setting: Setting) -> tuple[Memory, Shown]:
        """See `Dynamics.step`."""
        if self.policy is None:
            return self.dynamics.step(memory, before, action, seed, setting)
        after, shown = self.dynamics.step(memory, before, action, seed, setting)
        policy = self.policy.actor_critic if self.decoded and isinstance(self.policy, ViewingPolicy) else self.policy
        return self._watched(policy, after, shown, memory.policy)

    @torch.no_grad()
    def watch(self, world: WorldModel, memory: Memory, before: Shown, action: NDArray[Any], seed: Seed) -> Shown:
        """As `step`, in another world and without the policy. Raises UserError in the real game."""
        if not isinstance(self.dynamics, Imagined):
            raise UserError(f"{self.name}: nothing is sampled there")
        return self.dynamics.step_in(world, memory, before, action, seed)[1]

    def _watched(self, policy: Policy, memory: Memory, shown: Shown, state: State) -> tuple[Memory, Shown]:
        frame = from_bytes(torch.from_numpy(shown.frame).to(state[0].device))[None]
        output = policy(frame, (state[0], state[1]))
        opinion = Opinion(tuple(output.logits[0].double().softmax(0).tolist()), float(output.value[0]))
        return replace(memory, policy=tuple(output.state)), replace(shown, policy=opinion)


_REWARD, _END, _POLICY = 1, 2, 3
"""Streams of random numbers of one frame. The world model's noise has the frame's own seed."""


def _drawn(probabilities: tuple[float, ...], seed: Seed) -> int:
    rising = np.cumsum(probabilities)
    return int(min(np.searchsorted(rising, np.random.default_rng(seed).random() * rising[-1], side="right"), len(rising) - 1))
