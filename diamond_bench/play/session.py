"""A session of play: lanes next to each other under the same actions, with a past that can be rewound and continued in another way."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from analysis.pixels import psnr
from diamond_bench.diffusion.quantization import to_bytes
from diamond_bench.errors import UserError
from diamond_bench.models.threads import torch_threads
from diamond_bench.play.lanes import Frame, Imagined, Lane, Memory, Setting, Shown, Start, absolute_difference
from diamond_bench.spaces import ActionSpec
from diamond_bench.worlds.contract import Watchable

MOST_LANES = 7
"""Six variants and the real game."""
_MEMORY_BYTES = 2**28
"""Bytes of memories that a session keeps. Older ones are computed again when a player rewinds to them."""
_FRAME_BYTES = 2**31
"""Bytes of pictures that a session keeps: about 20 minutes of seven lanes at 64 x 64 and 15 frames per second."""


@dataclass(eq=False)
class Moment:
    """One frame of all lanes. Moments form a tree: a player who rewinds and acts otherwise begins another branch."""

    number: int
    """In the order in which they were played."""
    before: "Moment | None" = field(repr=False)
    """None for the first one."""
    step: int
    """Actions since the start."""
    action: NDArray[np.int64] | NDArray[np.float32] | None
    """The action that led here."""
    seed: int
    """The session's seed when it was played."""
    settings: tuple[Setting, ...]
    """The settings with which each lane made it."""
    shown: tuple[Shown, ...]
    """The pictures and numbers, one per lane."""
    seconds: float
    """Time that the lanes took."""
    memories: tuple[Memory, ...] | None = field(repr=False)
    """None if they were dropped."""
    following: list["Moment"] = field(default_factory=list, repr=False)
    """Moments that were played from here."""

    @property
    def path(self) -> list["Moment"]:
        """The moments from the start up to this one."""
        found = [self]
        while found[-1].before is not None:
            found.append(found[-1].before)
        return found[::-1]


@dataclass(frozen=True)
class Drift:
    """How far two lanes have come apart."""

    difference: Frame
    """Absolute difference of their pictures."""

    @property
    def squared_error(self) -> float:
        """Mean squared error of pixels in [0, 1]."""
        return float(np.square(self.difference / 255).mean())

    @property
    def psnr(self) -> float:
        """In dB. Infinite for equal pictures."""
        return float(psnr(self.squared_error))


@dataclass(frozen=True)
class DenoisingStep:
    """One network call of a sampler."""

    sigma: float
    """Noise level."""
    noisy: Frame
    """The input, clamped to [-1, 1]."""
    clean: Frame
    """The estimate of the clean frame, clamped to [-1, 1]."""


class Session:
    """Plays lanes in lock-step. Everything it shows depends on the start, the seed, the settings and the actions alone.

    It computes nothing between calls and has no clock, so a paused session is one that nobody calls. It is not safe for several threads.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        start: Start,
        seed: int = 0,
        threads: int = 1,
        memory_bytes: int = _MEMORY_BYTES,
        frame_bytes: int = _FRAME_BYTES,
    ) -> None:
        """Begins.

        Args:
            lanes: 1 to MOST_LANES, of one action space and one size of frames, with different names.
            start: real play, after which all lanes begin.
            seed: of all draws, from 0. In each frame all lanes have the same.
            threads: CPU threads of torch during a call.
            memory_bytes: bound of the memories that are kept for rewinding. The newest is always kept.
            frame_bytes: bound of the pictures that are kept.

        Raises UserError for other lanes, and if a lane cannot begin there.
        """
        _check_lanes(lanes)
        self.lanes, self.start, self.threads = tuple(lanes), start, threads
        self.seed = seed
        self.settings = tuple(lane.dynamics.first for lane in lanes)
        """The settings of the next step, one per lane."""
        self._memory_bytes, self._frame_bytes = memory_bytes, frame_bytes
        self._kept: list[Moment] = []
        """Moments with memories that may be dropped, in the order of their use."""
        began = time.perf_counter()
        with torch_threads(threads):
            found = [lane.begin(start, (seed, 0)) for lane in lanes]
        self.now = self._moment(None, None, found, time.perf_counter() - began)
        self.moments = [self.now]
        """All moments that were played, by number."""

    @property
    def actions(self) -> ActionSpec:
        """The action space."""
        return self.lanes[0].dynamics.actions

    def step(self, action: ArrayLike) -> Moment:
        """Plays one action in all lanes, from the present moment, and returns the moment after it.

        A step that was played before from here, with equal action, seed and settings, is not computed again.

        Raises UserError for an action that the game does not have, and if the session is full. Nothing changes then.
        """
        taken = self._checked(action)
        for known in self.now.following:
            if known.seed == self.seed and known.settings == self.settings and np.array_equal(known.action, taken):  # type: ignore[arg-type]
                return self.go(known.number)
        pictures = sum(shown.frame.nbytes for shown in self.now.shown)
        if (len(self.moments) + 1) * pictures > self._frame_bytes:
            raise UserError(f"this session holds {len(self.moments):,} frames, as many as fit in its memory; save it and reset")
        began = time.perf_counter()
        found = self._played(self.now, taken, self.seed, self.settings)
        moment = self._moment(self.now, taken, found, time.perf_counter() - began)
        self.now.following.append(moment)
        self.moments.append(moment)
        self.now = moment
        return moment

    @property
    def ends(self) -> tuple[Moment, ...]:
        """The last moment of each branch, in the order in which the branches were begun."""
        return tuple(moment for moment in self.moments if not moment.following)

    def go(self, number: int) -> Moment:
        """Goes to a moment that was played: back, forward, or to another branch. The next step continues from there.

        Settings and seed stay as they are. Raises UserError for a number that was not played.
        """
        if not 0 <= number < len(self.moments):
            raise UserError(f"moment {number}: this session has the moments 0 to {len(self.moments) - 1}")
        self.now = self.moments[number]
        return self.now

    def rewind(self, steps: int) -> Moment:
        """Goes back by this number of steps, at most to the start. Raises UserError for a number below 0."""
        if steps < 0:
            raise UserError(f"rewind by {steps}: expected a whole number of steps from 0")
        path = self.now.path
        return self.go(path[max(0, len(path) - 1 - steps)].number)

    def change(self, lane: int, setting: Setting) -> None:
        """Changes the setting of a lane from the next step on. Raises UserError, and changes nothing, if the lane does not take it."""
        dynamics = self.lanes[lane].dynamics
        if not isinstance(dynamics, Imagined):
            raise UserError(f"{self.lanes[lane].name}: the real game has no settings")
        dynamics.world(setting)
        self.settings = (*self.settings[:lane], setting, *self.settings[lane + 1 :])

    def change_all(self, settings: Sequence[Setting]) -> None:
        """As `change`, for each lane whose setting differs. `settings`: one per lane."""
        for lane, (setting, present) in enumerate(zip(settings, self.settings, strict=True)):
            if setting != present:
                self.change(lane, setting)

    def policy_action(self, lane: int) -> NDArray[np.int64]:
        """The action that the policy of a lane takes now, drawn with the seed of this moment. Raises UserError without a policy."""
        opinion = self.now.shown[lane].policy
        if opinion is None:
            raise UserError(f"{self.lanes[lane].name}: there is no policy that could play")
        return opinion.action((self.seed, self.now.step))

    def drift(self, lane: int, reference: int) -> Drift:
        """How far a lane is from another one, such as the real game, in the present moment."""
        return Drift(absolute_difference(*(self.now.shown[which].frame for which in (lane, reference))))

    def denoising(self, lane: int) -> list[DenoisingStep]:
        """The network calls that made the present picture of a lane, in order. The frame is sampled again to see them.

        Raises UserError at the start, and for a lane that samples nothing in steps.
        """
        now, before = self.now, self.now.before
        if before is None or now.action is None:
            raise UserError("the start is real play: nothing was sampled there yet")
        dynamics, steps = self.lanes[lane].dynamics, list[DenoisingStep]()
        world = dynamics.world(now.settings[lane]) if isinstance(dynamics, Imagined) else None
        if not isinstance(world, Watchable):
            raise UserError(f"{self.lanes[lane].name}: it samples nothing in steps")

        def seen(x: torch.Tensor, clean: torch.Tensor, sigma: float) -> None:
            steps.append(DenoisingStep(sigma, *(to_bytes(frame)[0].cpu().numpy() for frame in (x, clean))))

        memory = self._memories(before)[lane]
        with torch_threads(self.threads):
            shown = self.lanes[lane].watch(world.watched(seen), memory, before.shown[lane], now.action, (now.seed, now.step))
        assert np.array_equal(shown.frame, now.shown[lane].frame), "the same step gave another frame"
        return steps

    def _played(
        self, before: Moment, action: NDArray[np.int64] | NDArray[np.float32], seed: int, settings: tuple[Setting, ...]
    ) -> list[tuple[Memory, Shown]]:
        memories = self._memories(before)
        with torch_threads(self.threads):
            return [
                lane.step(memory, shown, action, (seed, before.step + 1), setting)
                for lane, memory, shown, setting in zip(self.lanes, memories, before.shown, settings, strict=True)
            ]

    def _moment(
        self,
        before: Moment | None,
        action: NDArray[np.int64] | NDArray[np.float32] | None,
        found: list[tuple[Memory, Shown]],
        seconds: float,
    ) -> Moment:
        memories, shown = zip(*found, strict=True)
        number, step = (0, 0) if before is None else (len(self.moments), before.step + 1)
        moment = Moment(number, before, step, action, self.seed, self.settings, shown, seconds, memories)
        if before is not None:  # the memories of the start are never dropped
            self._keep(moment)
        return moment

    def _memories(self, moment: Moment) -> tuple[Memory, ...]:
        """The memories of a moment. If they were dropped, they are computed from those of the nearest moment before it that has some."""
        missing = []
        at = moment
        while at.memories is None:
            assert at.before is not None, "the memories of the start are never dropped"
            missing.append(at)
            at = at.before
        for after in reversed(missing):
            assert after.action is not None
            assert after.before is not None
            found = self._played(after.before, after.action, after.seed, after.settings)
            for (_, again), shown in zip(found, after.shown, strict=True):
                assert np.array_equal(again.frame, shown.frame), "the same step gave another frame"
            after.memories = tuple(memory for memory, _ in found)
            self._keep(after)
        assert moment.memories is not None
        return moment.memories

    def _keep(self, moment: Moment) -> None:
        """Drops the memories of other moments until all fit. Later ones and those at every sixteenth step are dropped last."""
        self._kept.append(moment)
        size = sum(memory.size for memory in moment.memories or ())
        most = max(1, self._memory_bytes // size) if size else len(self._kept)
        while len(self._kept) > most:
            dropped = next((kept for kept in self._kept[:-1] if kept.step % _EVERY), self._kept[0])
            dropped.memories = None
            self._kept.remove(dropped)

    def _checked(self, action: ArrayLike) -> NDArray[np.int64] | NDArray[np.float32]:
        spec, taken = self.actions, np.asarray(action)
        low, high = spec.bounds
        if taken.shape != spec.shape or taken.dtype.kind not in spec.dtype_kinds or not np.all((taken >= low) & (taken <= high)):
            raise UserError(f"action {taken.tolist()!r}: expected one of {spec}")
        return taken.astype(spec.dtype)


_EVERY = 16
"""Steps between memories that are kept longer than the others."""


def _check_lanes(lanes: Sequence[Lane]) -> None:
    if not 1 <= len(lanes) <= MOST_LANES:
        raise UserError(f"{len(lanes)} pictures next to each other: expected 1 to {MOST_LANES}")
    names = [lane.name for lane in lanes]
    if len(set(names)) < len(names):
        raise UserError(f"lanes {', '.join(names)}: expected different names")
    first = lanes[0]
    for lane in lanes:
        ours, theirs = lane.dynamics.actions, first.dynamics.actions
        if (ours.sizes, ours.low, ours.high) != (theirs.sizes, theirs.low, theirs.high):
            raise UserError(f"{lane.name} has the actions {ours}, and {first.name} {theirs}; expected models of one game")
