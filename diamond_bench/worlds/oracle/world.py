"""The true dynamics: real play is replayed up to the start of imagination, and the game continues from there."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diamond_bench.diffusion.quantization import from_bytes
from diamond_bench.envs.family import Truth
from diamond_bench.envs.games import make_env, truth
from diamond_bench.envs.saves import load_env, save_env
from diamond_bench.errors import UserError
from diamond_bench.spaces import WorldSpec
from diamond_bench.worlds.contract import Draw, RecordedPlay, State, Step
from diamond_bench.worlds.oracle import Oracle
from diamond_bench.worlds.oracle.damage import Damage
from diamond_bench.worlds.oracle.packing import pack, unpack

if TYPE_CHECKING:
    from diamond_bench.envs.family import Env

Played = tuple[NDArray[np.uint8], float, bool]
"""A frame (3, h, w), the reward, and whether the game ended by itself."""
_SMALL = 4096
"""Largest saved state, in bytes, for which a replay keeps every state that it passes."""
_EVERY = 100
"""Steps between two kept states if they are larger. The steps in between are replayed."""
_SURE = 1e4
"""Logit of a certain outcome, against 0 for the others."""


class OracleWorld:
    """A `WorldModel` that plays the game. A state is the saved state of a game, packed in bytes, (b, n) uint8, and that of the damage.

    One environment plays all rows, one after the other: each step restores a row's game, plays the action and saves it again. So rows are
    independent, and `step` does not change its state. After `start` a row's game draws its random numbers from the row's own seed: random
    events of the real play are random again.
    """

    context = 1
    pure = False
    calls_per_frame = 0
    flops_per_frame = 0.0

    def __init__(self, env: "Env", spec: WorldSpec, device: torch.device, play: RecordedPlay, damage: Damage | None = None) -> None:
        """`env`: the environment of the recorded play's game. It can save and load its state. `damage`: that of the frames, or none."""
        self.spec, self.device = spec, device
        self._env, self._play, self._damage = env, play, damage or Damage(Oracle(), Truth())
        self._kept: dict[tuple[int, int], bytes] = {}
        self._at: tuple[int, int] | None = None
        """The recording and step of the environment during a replay."""
        self._furthest: dict[int, int] = {}
        """The last step that a replay reached, by recording."""
        self._env.reset(seed=play.seed(0))
        self._width = (len(pack(save_env(self._env))) * 21 // 20 // 256 + 1) * 256  # numbers in it may gain digits
        self._every = 1 if self._width <= _SMALL else _EVERY

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """See `WorldModel.networks`: none."""
        return {}

    def start(self, frames: Tensor, actions: Tensor, mask: Tensor, draw: Draw, origin: Tensor | None = None) -> State:
        """See `WorldModel.start`. Raises UserError if the recorded play cannot be replayed frame by frame."""
        if origin is None:
            raise UserError("family=oracle: imagination can start only from play whose seed and actions are recorded")
        seeds = draw(torch.empty(len(frames), 2, device=frames.device)).cpu().numpy().view(np.uint32)
        places = [(number, step) for number, step in origin.tolist()]
        reached = {place: self._reached(*place) for place in sorted(set(places))}  # in order, so that no replay goes back
        self._at = None
        games = self._stacked([self._seeded(reached[place], seed.tolist()) for place, seed in zip(places, seeds, strict=True)])
        return (games, *self._damage.start(frames, draw))

    def step(self, state: State, action: Tensor, draw: Draw) -> tuple[State, Step]:
        """See `WorldModel.step`. Only the damage draws, since each game has its own random numbers."""
        self._at = None
        saved, frames, rewards, ends = [], [], [], []
        for row, taken in zip(state[0].cpu().numpy(), action.cpu().numpy(), strict=True):
            load_env(self._env, unpack(row.tobytes()))
            frame, reward, ended, _, _ = self._env.step(taken)
            saved.append(pack(save_env(self._env)))
            frames.append(np.array(frame))
            rewards.append(int(np.sign(float(reward))) + 1)
            ends.append(int(ended))
        true = torch.from_numpy(np.stack(frames)).to(self.device).permute(0, 3, 1, 2).contiguous()
        return (self._stacked(saved), *state[1:]), Step(
            from_bytes(self._damage.shown(true, state[1:], draw)),
            self._certain(rewards, 3) if self.spec.rewards else None,
            self._certain(ends, 2) if self.spec.ends else None,
        )

    def played(self, place: tuple[int, int], actions: Iterable[Any], seed: Sequence[int]) -> Iterator[Played]:
        """Plays on from a recorded place, (recording, step), until the game ends or is truncated, without saving each state.

        Yields what follows each of `actions`. `seed`: of the game's random numbers.
        """
        state = self._reached(*place)
        self._at = None
        self._seeded(state, list(seed))
        for taken in actions:
            frame, reward, terminated, truncated, _ = self._env.step(taken)
            yield np.array(frame).transpose(2, 0, 1), float(reward), terminated
            if terminated or truncated:
                return

    def _certain(self, classes: list[int], number: int) -> Tensor:
        chosen = torch.tensor(classes, device=self.device)
        return _SURE * torch.nn.functional.one_hot(chosen, number).float()

    def _seeded(self, state: bytes, seed: list[int]) -> bytes:
        """The same game with random numbers from a new seed."""
        load_env(self._env, unpack(state))
        self._env.unwrapped.np_random = np.random.default_rng(seed)
        return pack(save_env(self._env))

    def _reached(self, number: int, step: int) -> bytes:
        """The saved state of a recording after this number of steps."""
        if (number, step) in self._kept:
            return self._kept[number, step]
        if self._at is None or self._at[0] != number or self._at[1] > step:
            if number not in self._furthest:
                frame, _ = self._env.reset(seed=self._play.seed(number))
                self._arrived(number, 0, frame)
            else:
                before = min(step, self._furthest[number]) // self._every * self._every
                load_env(self._env, unpack(self._kept[number, before]))
                self._at = (number, before)
        assert self._at is not None
        for at in range(self._at[1], step):
            frame, _, terminated, truncated, _ = self._env.step(self._play.action(number, at))
            if self._play.continues and (terminated or truncated):
                frame, _ = self._env.reset()
            self._arrived(number, at + 1, frame)
        return pack(save_env(self._env))

    def _arrived(self, number: int, step: int, frame: Any) -> None:
        """Checks a replayed frame against the recorded one, and keeps the state at the chosen steps."""
        if not np.array_equal(np.asarray(frame).transpose(2, 0, 1), self._play.frame(number, step)):
            raise UserError(
                f"family=oracle: replaying the seed and the actions of {self._play.name(number)} gave another frame at step {step} than "
                "was recorded: it was played in another version of the game, or its data was changed; collect it again"
            )
        self._at = (number, step)
        self._furthest[number] = max(step, self._furthest.get(number, 0))
        if step % self._every == 0:
            self._kept[number, step] = pack(save_env(self._env))

    def _stacked(self, states: list[bytes]) -> Tensor:
        longest = max(map(len, states))
        assert longest <= self._width, f"a saved state of {longest} bytes, where {self._width} were enough before"
        rows = np.frombuffer(b"".join(state.ljust(self._width, b"\0") for state in states), np.uint8)
        return torch.from_numpy(rows.reshape(len(states), self._width).copy()).to(self.device)


def open_world(settings: Oracle, spec: WorldSpec, device: torch.device, play: RecordedPlay | None) -> OracleWorld:
    """The game of the recorded play. Raises UserError if none is recorded, or if the game cannot save its state."""
    if play is None:
        raise UserError("family=oracle: there is no recorded play of a game to start from")
    env = make_env(play.game, play.env)
    if not hasattr(env.unwrapped, "save_state"):
        raise UserError(f"family=oracle: {play.game} cannot save and load its state (save_state, load_state)")
    return OracleWorld(env, spec, device, play, Damage(settings, truth(play.game)))
