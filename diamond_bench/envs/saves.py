"""States of single environments as plain data: numbers, text and tensors, which `torch.load(weights_only=True)` reads."""

import json
from typing import Any

import gymnasium
import numpy as np
import torch

from diamond_bench.envs.atari import AtariEnv, SavedState
from diamond_bench.envs.lives import Frame, LifeLossEnds


def layers(env: gymnasium.Env[Any, Any]) -> list[gymnasium.Env[Any, Any]]:
    """The wrappers from the outside in, and the environment itself."""
    found = [env]
    while isinstance(found[-1], gymnasium.Wrapper):
        found.append(found[-1].env)
    return found


def save_env(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """The state of an environment and of a `LifeLossEnds` around it. Emulators give their own bytes.

    An environment other than Atari needs `save_state()`, which returns plain data, and `load_state(data)`. Raises TypeError without them.
    """
    wrappers: list[Any] = [layer for layer in layers(env) if isinstance(layer, LifeLossEnds)]
    core: Any = env.unwrapped
    if not hasattr(core, "save_state"):
        raise TypeError(f"{core} has no save_state and load_state, so playing in it cannot be taken up again")
    state = core.save_state()
    if isinstance(state, SavedState):
        state = {
            "emulator": torch.frombuffer(bytearray(state.emulator), dtype=torch.uint8),
            "frames": torch.from_numpy(state.frames),
            "lives": state.lives,
            "random": json.dumps(state.random),
        }
    return {"state": state, "resume": [None if wrapper.resume is None else _plain_resume(*wrapper.resume) for wrapper in wrappers]}


def load_env(env: gymnasium.Env[Any, Any], saved: dict[str, Any]) -> None:
    """Continues exactly from `save_env`, in an environment that was created in the same way."""
    wrappers: list[Any] = [layer for layer in layers(env) if isinstance(layer, LifeLossEnds)]
    core: Any = env.unwrapped
    state = saved["state"]
    if isinstance(core, AtariEnv):
        emulator = state["emulator"].numpy().tobytes()
        core.load_state(SavedState(emulator, state["frames"].numpy(), state["lives"], json.loads(state["random"])))
    else:
        core.load_state(state)
    for wrapper, resume in zip(wrappers, saved["resume"], strict=True):
        wrapper.resume = None if resume is None else _resume(resume)


def _plain_resume(frame: Frame, info: dict[str, Any]) -> dict[str, Any]:
    arrays = {name: torch.from_numpy(value.copy()) for name, value in info.items() if isinstance(value, np.ndarray)}
    rest = {name: value for name, value in info.items() if name not in arrays}
    return {"frame": torch.from_numpy(frame.copy()), "arrays": arrays, "info": rest}


def _resume(plain: dict[str, Any]) -> tuple[Frame, dict[str, Any]]:
    return plain["frame"].numpy(), {**plain["info"], **{name: tensor.numpy() for name, tensor in plain["arrays"].items()}}
