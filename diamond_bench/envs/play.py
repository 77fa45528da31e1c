"""Playing real games with a policy: collection that can be saved and resumed exactly, and test episodes."""

import json
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from diamond_bench.envs.copies import CopiedFrames, copy_frames
from diamond_bench.envs.lives import Frame, LifeLossEnds
from diamond_bench.envs.saves import layers, load_env, save_env

BLOCK = 100
"""Steps that are passed to the sink together."""

State = tuple[Tensor, ...]
"""A policy's memory: tensors whose row i belongs to game i."""


class Player(Protocol):
    """A policy with memory."""

    def initial_state(self, num_games: int) -> State:
        """The memory at the start of an episode, one row per game."""
        ...

    def __call__(self, frames: npt.NDArray[np.uint8], state: State) -> tuple[Tensor, State]:
        """Action logits (n, actions) and the memory after these frames, (n, h, w, 3) uint8."""
        ...


@dataclass(frozen=True)
class Steps:
    """n consecutive steps of one environment, across episodes."""

    frames: npt.NDArray[np.uint8]
    """(n, h, w, 3), the frame before each action."""
    actions: npt.NDArray[np.int64]
    """(n,), taken after the frame."""
    rewards: npt.NDArray[np.float32]
    """(n,), raw."""
    ends: npt.NDArray[np.bool_]
    """(n,), by the environment's rule. In training a lost life is an end."""
    truncations: npt.NDArray[np.bool_]
    """(n,)."""
    next_frames: npt.NDArray[np.uint8]
    """(n, h, w, 3), the frame after each action: at the end of an episode, its true final frame."""


class Sink(Protocol):
    """The receiver of steps, such as `Replay`."""

    def append(self, env: int, steps: Steps) -> None:
        """Receives steps of environment `env` that follow its previous steps."""
        ...


@dataclass(frozen=True)
class Game:
    """A game that ended or was truncated."""

    score: float
    """Sum of raw rewards over the whole game, across lost lives."""
    length: int
    """Steps."""


@dataclass(frozen=True)
class Collected:
    """The result of a call of `Collector.collect`."""

    steps: int
    """Real environment steps."""
    reward_signs: tuple[int, int, int]
    """Number of negative, zero and positive rewards."""
    episodes: int
    """Episodes that ended or were truncated."""
    games: tuple[Game, ...]
    """Games that ended."""


class Scoreboard:
    """Raw scores of the running games in a vector environment, across lost lives."""

    def __init__(self, num_envs: int) -> None:
        self._scores, self._lengths = np.zeros(num_envs), np.zeros(num_envs, np.int64)

    def count(self, rewards: npt.NDArray[Any], done: npt.NDArray[np.bool_], infos: dict[str, Any]) -> list[Game]:
        """Adds a step's rewards. Returns the games that ended, which infos["final_info"]["game_over"] distinguishes from lost lives."""
        self._scores += rewards
        self._lengths += 1
        games = []
        for i in np.flatnonzero(done):
            final = infos.get("final_info", {})
            if "game_over" not in final or final["game_over"][i]:
                games.append(Game(float(self._scores[i]), int(self._lengths[i])))
                self._scores[i] = self._lengths[i] = 0
        return games

    def save(self) -> list[Any]:
        """Plain data for `restore`."""
        return [self._scores.tolist(), self._lengths.tolist()]

    def restore(self, saved: list[Any]) -> None:
        """Continues from `save`."""
        self._scores, self._lengths = np.array(saved[0]), np.array(saved[1])


class Collector:
    """Plays in a vector environment, continues where it stopped, and passes every step to the sink.

    With probability epsilon, decided once per step for all environments, all actions are uniformly random. Otherwise each action is drawn
    from softmax(logits / temperature). An environment's memory is reset when its episode ends (in training: with each lost life).
    """

    def __init__(self, env: SyncVectorEnv, player: Player, sink: Sink, seed: int, epsilon: float = 0.0, temperature: float = 1.0) -> None:
        """Resets `env` with `seed`, and wraps its environments in `CopiedFrames`.

        It must reset environments within the step that ends them, as `vector_env` does. Raises ValueError otherwise.
        """
        if env.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
            raise ValueError(f"the environment must have AutoresetMode.SAME_STEP, not {env.metadata.get('autoreset_mode')}")
        copy_frames(env)
        self.epsilon, self.temperature = epsilon, temperature
        self.real_steps = 0
        """Total number of environment steps, over all environments."""
        self._env, self._player, self._sink = env, player, sink
        self._rng = np.random.default_rng(seed)
        self._frames: npt.NDArray[np.uint8] = env.reset(seed=seed)[0]
        self._state = player.initial_state(env.num_envs)
        self._scores = Scoreboard(env.num_envs)

    def collect(self, num_steps: int) -> Collected:
        """Plays `num_steps` steps in each environment."""
        parts = [self._play(min(BLOCK, num_steps - done)) for done in range(0, num_steps, BLOCK)]
        negative, zero, positive = (sum(part.reward_signs[sign] for part in parts) for sign in range(3))
        return Collected(
            sum(part.steps for part in parts),
            (negative, zero, positive),
            sum(part.episodes for part in parts),
            tuple(game for part in parts for game in part.games),
        )

    def _play(self, num_steps: int) -> Collected:
        rows = (self._env.num_envs, num_steps)
        frames, next_frames = (np.empty((*rows, *self._frames.shape[1:]), np.uint8) for _ in range(2))
        actions, rewards = np.empty(rows, np.int64), np.empty(rows, np.float32)
        ends, truncations = np.empty(rows, np.bool_), np.empty(rows, np.bool_)
        games: list[Game] = []
        for t in range(num_steps):
            frames[:, t] = self._frames
            actions[:, t] = self._act()
            self._frames, rewards[:, t], ends[:, t], truncations[:, t], infos = self._env.step(actions[:, t])
            next_frames[:, t] = self._frames
            done = ends[:, t] | truncations[:, t]
            for i in np.flatnonzero(done):
                next_frames[i, t] = infos["final_obs"][i]
            self._forget(done)
            games += self._scores.count(rewards[:, t], done, infos)
        self.real_steps += rewards.size
        for env in range(self._env.num_envs):
            columns = (frames, actions, rewards, ends, truncations, next_frames)
            self._sink.append(env, Steps(*(column[env] for column in columns)))
        signs = (int((rewards < 0).sum()), int((rewards == 0).sum()), int((rewards > 0).sum()))
        return Collected(rewards.size, signs, int((ends | truncations).sum()), tuple(games))

    def _act(self) -> npt.NDArray[np.int64]:
        logits, self._state = self._player(self._frames, self._state)
        if self._rng.random() < self.epsilon:
            return self._rng.integers(logits.shape[1], size=len(logits), dtype=np.int64)
        return draw_actions(logits, self.temperature, self._rng)

    def _forget(self, done: npt.NDArray[np.bool_]) -> None:
        if done.any():
            over = torch.from_numpy(done)
            self._state = _where(over, self._player.initial_state(self._env.num_envs), self._state)

    def save(self) -> dict[str, Any]:
        """The complete state as numbers, text and tensors, which `torch.load(weights_only=True)` reads.

        The emulators' states are their own bytes. The player's weights and the sink are not included.
        """
        return {
            "real_steps": self.real_steps,
            "random": json.dumps(self._rng.bit_generator.state),
            "frames": torch.from_numpy(self._frames.copy()),
            "state": [tensor.detach().cpu().clone() for tensor in self._state],
            "scores": self._scores.save(),
            "envs": [save_env(env) for env in self._env.envs],
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Continues from `save`, in this process or another. Raises ValueError for another number of environments."""
        if len(saved["envs"]) != self._env.num_envs:
            raise ValueError(f"saved with {len(saved['envs'])} environments, restored with {self._env.num_envs}")
        self.real_steps = saved["real_steps"]
        self._rng.bit_generator.state = json.loads(saved["random"])
        self._frames = saved["frames"].numpy().copy()
        device = [tensor.device for tensor in self._state]
        self._state = tuple(tensor.clone().to(at) for tensor, at in zip(saved["state"], device, strict=True))
        self._scores.restore(saved["scores"])
        for env, state in zip(self._env.envs, saved["envs"], strict=True):
            load_env(env, state)


def draw_actions(logits: Tensor, temperature: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """One action per row, drawn from softmax(logits / temperature). (n, actions) -> (n,)."""
    scaled = logits.detach().to("cpu", torch.float64).numpy() / temperature
    actions: npt.NDArray[np.int64] = np.argmax(scaled + rng.gumbel(size=scaled.shape), axis=1)
    return actions


@dataclass(frozen=True)
class TestGame(Game):
    """A test episode: a whole game."""

    __test__ = False  # not a test case, despite its name

    index: int
    """Index of the episode."""
    cut: bool
    """Whether a limit of steps ended it (this function's or the emulator's), and not game over."""


Watch = Callable[[int, Frame, int, float], None]
"""watch(episode, frame before the action, action, raw reward), called at every step."""


def play_test_games(
    make_env: Callable[[], gymnasium.Env[Frame, int]],
    player: Player,
    num_games: int,
    num_envs: int,
    seed: int,
    epsilon: float = 0.0,
    temperature: float = 1.0,
    max_steps: int = 27_000,
    watch: Watch | None = None,
    sink: Sink | None = None,
    skip: Container[int] = (),
    on_game: Callable[[TestGame], None] = lambda game: None,
) -> list[TestGame]:
    """Plays `num_games` whole games, `num_envs` in parallel, and returns them by index, with scores from raw rewards.

    Game i is played in environment i modulo num_envs, each to its end, so that long games are not left out. Its no-ops, random choices and
    actions depend on (seed, i) alone: apart from the rounding of another batch size, the number of parallel games does not matter.
    `make_env` makes an environment without training's rules. One in which a lost life ends the episode is refused (ValueError). A game is
    truncated after `max_steps` steps. `watch` is called at every step. `sink` receives all steps, environment by environment. Games in
    `skip` are not played again. `on_game` is called with each finished game.
    """
    shares = [[game for game in range(i, num_games, num_envs) if game not in skip] for i in range(min(num_envs, num_games))]
    tables = [_Table(make_env(), share, seed, sink, i) for i, share in enumerate(shares) if share]
    scored: list[TestGame] = []
    state = player.initial_state(len(tables))
    while tables:
        logits, state = player(np.stack([table.frame for table in tables]), state)
        over = np.zeros(len(tables), np.bool_)
        for i, table in enumerate(tables):
            coin = table.rng.random() < epsilon
            action = int(table.rng.integers(logits.shape[1]) if coin else draw_actions(logits[i : i + 1], temperature, table.rng)[0])
            seen = table.frame
            reward, terminated, over[i] = table.step(action, max_steps)
            if watch is not None:
                watch(table.index, seen, action, reward)
            if over[i]:
                scored.append(TestGame(table.score, table.length, table.index, cut=not terminated))
                on_game(scored[-1])
                table.next_game()
        state = _where(torch.from_numpy(over), player.initial_state(len(tables)), state)
        left = [i for i, table in enumerate(tables) if not table.closed]
        if len(left) < len(tables):
            tables, state = [tables[i] for i in left], tuple(tensor[left] for tensor in state)
    return sorted(scored, key=lambda game: game.index)


class _Table:
    """An environment and the games to play in it."""

    def __init__(self, env: gymnasium.Env[Frame, int], games: Sequence[int], seed: int, sink: Sink | None, number: int) -> None:
        if any(isinstance(layer, LifeLossEnds) for layer in layers(env)):
            raise ValueError("test games end when the game is over; this environment ends them when a life is lost")
        self._env, self._games, self._seed, self._sink, self._number = CopiedFrames(env), iter(games), seed, sink, number
        self._steps: list[tuple[Frame, int, float, bool, bool, Frame]] = []
        self.closed = False
        self.next_game()

    def next_game(self) -> None:
        self._hand_on()
        index = next(self._games, None)
        if index is None:
            self.closed = True
            self._env.close()
            return
        self.index, self.score, self.length = index, 0.0, 0
        self.rng = np.random.default_rng([self._seed, index])
        self.frame, _ = self._env.reset(seed=int(self.rng.integers(2**31)))

    def step(self, action: int, max_steps: int) -> tuple[float, bool, bool]:
        """Reward, whether the game is over, and whether it is over or truncated."""
        seen = self.frame
        self.frame, raw, terminated, truncated, _ = self._env.step(action)
        reward = float(raw)
        self.score += reward
        self.length += 1
        truncated = truncated or (self.length >= max_steps and not terminated)
        if self._sink is not None:
            self._steps.append((seen, action, reward, terminated, truncated, self.frame))
            if len(self._steps) == BLOCK:
                self._hand_on()
        return reward, terminated, terminated or truncated

    def _hand_on(self) -> None:
        if self._sink is not None and self._steps:
            columns, self._steps = list(zip(*self._steps, strict=True)), []
            dtypes = (np.uint8, np.int64, np.float32, np.bool_, np.bool_, np.uint8)
            arrays: list[Any] = [np.array(column, dtype) for column, dtype in zip(columns, dtypes, strict=True)]
            self._sink.append(self._number, Steps(*arrays))


def _where(rows: Tensor, fresh: State, kept: State) -> State:
    return tuple(torch.where(rows.to(b.device).view(-1, *[1] * (b.dim() - 1)), a, b) for a, b in zip(fresh, kept, strict=True))
