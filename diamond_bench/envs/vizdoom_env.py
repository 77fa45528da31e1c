"""ViZDoom as a gymnasium environment. Loads the package vizdoom."""

from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np
import numpy.typing as npt
import vizdoom

from diamond_bench.envs.engine_process import EngineProcess
from diamond_bench.envs.first_person import ACTIONS, DEGREES_PER_COUNT, MOUSE_X, MOUSE_Y
from diamond_bench.envs.lives import Frame
from diamond_bench.envs.poses import pack_variables
from diamond_bench.envs.replayed import ReplayedEnv
from diamond_bench.envs.vizdoom_maps import CAMPAIGN_STEPS, FRAME_SKIP, MAPS
from diamond_bench.spaces import FrameSpec

_BUTTONS = (
    "MOVE_FORWARD",
    "MOVE_LEFT",
    "MOVE_BACKWARD",
    "MOVE_RIGHT",
    "JUMP",
    "CROUCH",
    "SPEED",
    "SELECT_WEAPON1",
    "SELECT_WEAPON2",
    "SELECT_WEAPON3",
    "USE",
    "ATTACK",
    "ALTATTACK",
    "TURN_LEFT_RIGHT_DELTA",
    "LOOK_UP_DOWN_DELTA",
)
"""The engine's buttons, in the order of the columns of ACTIONS."""
_VARIABLES = ("POSITION_X", "POSITION_Y", "POSITION_Z", "ANGLE", "PITCH", "HEALTH", "KILLCOUNT")
"""The engine's variables, in the order of `poses.VARIABLES`."""
_START_TIME = 14
"""Least tics before the first frame of an episode. In the first tics of a level the weapon is raised and inputs have no effect."""
_SKILL = 3


class VizdoomEnv(ReplayedEnv):
    """A map or scenario. Observations (h, w, 3) uint8, RGB, resized by area from 320 x 180. Actions: `first_person.ACTIONS`.

    The rewards of a scenario are its own. A campaign map gives 1 for each kill. An episode ends with death, or when the map or the scenario
    says so, and is truncated after `max_steps` steps. The engine draws no picture after an end, so the last frame is repeated. info has
    `ram` ((128,) uint8, the numbers of `poses.VARIABLES`).

    An episode is a function of its seed and its actions. The engine runs in a process of its own, which `close` ends.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 35 / FRAME_SKIP}  # noqa: RUF012  (gymnasium's own contract)
    render_mode = "rgb_array"

    def __init__(self, name: str, frames: FrameSpec) -> None:
        """`name`: of the map or scenario, without the family's prefix."""
        self._name, self._size = name, frames
        self.action_space = ACTIONS.space()
        self.observation_space = gymnasium.spaces.Box(0, 255, (*frames.sides, 3), np.uint8)
        self._process = EngineProcess("vizdoom")
        self._engine, self.max_steps = _configured(name, self._process.folder)
        self._frame: Frame = np.zeros((*frames.sides, 3), np.uint8)
        self._info: dict[str, Any] = {}

    def begin(self, seed: int) -> tuple[Frame, dict[str, Any]]:
        """See `ReplayedEnv.begin`."""
        self._engine.set_seed(seed)
        if self._engine.is_running():
            self._engine.new_episode()
        else:
            self._process.start(self._engine.init, b"+viz_instance_id")
        self._look()
        return self._frame, self._info

    def advance(self, action: npt.NDArray[Any], shown: bool) -> tuple[Frame, float, bool, dict[str, Any]]:
        """See `ReplayedEnv.advance`."""
        self._engine.set_action(_buttons(action))
        self._engine.advance_action(FRAME_SKIP, True)
        ended = self._engine.is_episode_finished()
        if not ended:
            self._look()
        return self._frame, self._engine.get_last_reward(), ended, self._info

    def render(self) -> Frame:
        """The present frame."""
        return self._frame

    def close(self) -> None:
        """Ends the engine's process."""
        self._engine.close()
        self._process.end()

    def _look(self) -> None:
        state: Any = self._engine.get_state()
        picture = cv2.resize(state.screen_buffer, (self._size.width, self._size.height), interpolation=cv2.INTER_AREA)
        self._frame = picture.astype(np.uint8, copy=False)
        self._info = {"ram": pack_variables([float(value) for value in state.game_variables])}


def _buttons(action: npt.NDArray[Any]) -> list[float]:
    """The values of the buttons at each tic of a step. The engine adds a delta at every tic, in degrees, positive to the right and up."""
    *keys, x, y = (int(value) for value in action)
    per_tic = DEGREES_PER_COUNT / FRAME_SKIP
    return [*(float(key) for key in keys), MOUSE_X[x] * per_tic, -MOUSE_Y[y] * per_tic]


def _configured(name: str, folder: Path) -> tuple[vizdoom.DoomGame, int]:
    """An engine that was not started, and the steps after which an episode is truncated."""
    engine = vizdoom.DoomGame()
    if name in MAPS:
        engine.set_doom_game_path(str(Path(vizdoom.root_path) / MAPS[name]))
        engine.set_doom_map(name)
        engine.set_doom_skill(_SKILL)
        engine.set_kill_reward(1.0)
        steps = CAMPAIGN_STEPS
    else:
        engine.load_config(str(Path(vizdoom.scenarios_path) / f"{name}.cfg"))
        engine.set_doom_game_path(str(Path(vizdoom.root_path) / "freedoom2.wad"))
        steps = -(-engine.get_episode_timeout() // FRAME_SKIP) or CAMPAIGN_STEPS
    engine.set_episode_timeout(0)
    engine.set_episode_start_time(max(engine.get_episode_start_time(), _START_TIME))
    engine.set_doom_config_path(str(folder / "vizdoom.ini"))
    engine.set_mode(vizdoom.Mode.PLAYER)
    engine.set_window_visible(False)
    engine.set_sound_enabled(False)
    engine.set_screen_format(vizdoom.ScreenFormat.RGB24)
    engine.set_screen_resolution(vizdoom.ScreenResolution.RES_320X180)
    engine.set_render_hud(False)
    engine.set_render_messages(False)
    engine.set_available_buttons([getattr(vizdoom.Button, button) for button in _BUTTONS])
    engine.set_available_game_variables([getattr(vizdoom.GameVariable, variable) for variable in _VARIABLES])
    return engine, steps
