"""Atari as DIAMOND plays it (paper appendix; method section 6): preprocessing and saved states.

Throughout this project, a *lost life* means that the emulator's counter of lives is lower after the step than before it. (The authors
compare with the lowest count since the reset, and so miss a life that is lost right after one was won.)
"""

from dataclasses import dataclass
from typing import Any

import ale_py
import cv2
import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from diamond_bench.config import EnvConfig
from diamond_bench.envs.atari_names import environment_id
from diamond_bench.envs.lives import Frame


@dataclass(frozen=True)
class SavedState:
    """The complete state of an `AtariEnv`, as plain bytes, arrays and numbers, without pickles."""

    emulator: bytes
    """ALEState.serialize(), with the emulator's random state."""
    frames: npt.NDArray[np.uint8]
    """(2, 210, 160, 3), the last two screens. With env.pooling=in_place the second one is the maximum of both."""
    lives: int
    random: dict[str, Any]
    """State of the generator that draws the number of no-ops, as JSON data."""


class AtariEnv(gymnasium.Env[Frame, int]):
    """`<Game>NoFrameskip-v4` with its minimal action set, preprocessed.

    A step repeats the action for `frame_skip` emulator frames. The observation is the maximum over the screens after the last two of them,
    resized by area to (frame_size, frame_size, 3), uint8, RGB. Rewards are raw and summed over the skipped frames. As in the authors' code,
    the screen of the frame that ends a game is not read, so a last observation can equal the previous one. If a game ends on the last frame
    of a skip, the observation is the maximum of the screen before that frame and the last screen kept, as set by `pooling`. `terminated`
    means game over. `truncated` is the emulator's own limit of 108,000 frames.

    info: `lives` (int), `life_loss` (bool, by the module's rule; also true on the step that loses the last life), `ram` ((128,) uint8, the
    console's memory after the step), `frame_number` (emulator frames since the game's start).

    Reset plays U{1..max_noops} frames of action 0 (none if max_noops is 0). Without sticky actions a game depends only on the number of
    no-ops and the actions: a seed decides nothing else.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012  (gymnasium's own contract)
    render_mode = "rgb_array"

    def __init__(self, game: str, config: EnvConfig) -> None:
        """Raises UserError with the nearest names for an unknown game."""
        env: Any = gymnasium.make(environment_id(game), repeat_action_probability=config.sticky_actions, disable_env_checker=True)
        self._raw = env.unwrapped
        self._ale: ale_py.ALEInterface = self._raw.ale
        self._actions = self._ale.getMinimalActionSet()
        self._config = config
        height, width = self._ale.getScreenDims()
        self._screens = np.zeros((2, height, width, 3), np.uint8)
        self._lives = 0
        self.action_space = spaces.Discrete(len(self._actions))  # type: ignore[assignment]
        self.observation_space = spaces.Box(0, 255, (config.frame_size, config.frame_size, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """Starts a game. A seed restarts the draws of no-ops and sticky actions. Without a seed they continue."""
        super().reset(seed=seed)
        self._raw.reset(seed=seed)
        if self._config.max_noops > 0:
            for _ in range(int(self._raw.np_random.integers(1, self._config.max_noops + 1))):
                self._ale.act(0)
                if self._ale.game_over():
                    self._ale.reset_game()
        self._screens[0] = 0
        self._ale.getScreenRGB(self._screens[1])
        self._lives = self._ale.lives()
        return self._observe(), self._info(life_loss=False)

    def step(self, action: int) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """Plays one action for frame_skip frames. The class describes the outputs."""
        reward = 0.0
        code, skip = self._actions[int(action)], self._config.frame_skip
        for frame in range(skip):
            reward += self._ale.act(code)
            if self._ale.game_over():
                break
            if frame >= skip - 2:
                self._ale.getScreenRGB(self._screens[frame - skip + 2])
        lives_before, self._lives = self._lives, self._ale.lives()
        terminated, truncated = self._ale.game_over(with_truncation=False), self._ale.game_truncated()
        return self._observe(), reward, terminated, truncated, self._info(life_loss=self._lives < lives_before)

    def render(self) -> Frame:
        """The observation before resizing: (210, 160, 3) uint8, maximum over the last two screens."""
        frame: Frame = self._screens.max(axis=0) if self._config.frame_skip > 1 else self._screens[1].copy()
        return frame

    def save_state(self) -> SavedState:
        """The present state. `load_state` restores it exactly, in this process or another (same game and config)."""
        return SavedState(
            emulator=self._ale.cloneState(include_rng=True).serialize(),
            frames=self._screens.copy(),
            lives=self._lives,
            random=self._raw.np_random.bit_generator.state,
        )

    def load_state(self, state: SavedState) -> None:
        """Restores a saved state. None of it is executed: the emulator reads its own byte format."""
        self._ale.restoreState(ale_py.ALEState(state.emulator))
        self._screens[:] = state.frames
        self._lives = state.lives
        self._raw.np_random.bit_generator.state = state.random

    def close(self) -> None:
        """Frees the emulator."""
        self._raw.close()

    def _observe(self) -> Frame:
        size = self._config.frame_size
        if self._config.pooling == "in_place" and self._config.frame_skip > 1:
            np.maximum(self._screens[0], self._screens[1], out=self._screens[1])
        return np.asarray(cv2.resize(self.render(), (size, size), interpolation=cv2.INTER_AREA), np.uint8)

    def _info(self, life_loss: bool) -> dict[str, Any]:
        return {
            "lives": self._lives,
            "life_loss": life_loss,
            "ram": self._ale.getRAM(),
            "frame_number": self._ale.getEpisodeFrameNumber(),
        }
