"""Hostile input from other programs: checkpoints, datasets, and agents that a forger put into the store."""

import hashlib
import json
import pickle
import random
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from soak_classes import SWEEP, Template
from soak_inputs import NUMBERS, TEXTS, damage_bytes, dump, mutate, other_kind, value
from soak_run import JOB, Case, replace_file

from diamond_bench.store.files import sealed

GOLDEN = Path(__file__).parent / "golden" / "agent_small.pt"


class Evil:
    """Unpickled freely, it would leave a file."""

    def __reduce__(self) -> Any:
        return (open, ("outside/owned", "w"))


@cache
def golden() -> dict[str, Any]:
    return dict(torch.load(GOLDEN, weights_only=True))


def tensor(dice: random.Random, like: Any) -> Any:
    """In place of a tensor: another shape, type, layout, or no tensor."""
    found: list[Callable[[], Any]] = [
        lambda: torch.zeros(0), lambda: like.double(), lambda: like.to(torch.int32), lambda: like * float("nan"), lambda: like.flatten(),
        lambda: like[None], lambda: like.to(torch.complex64), lambda: like.bool(), lambda: like.half(), lambda: None, lambda: 1,
        lambda: "x", lambda: [],
        lambda: torch.zeros(1).expand(100_000_000), lambda: torch.zeros(like.shape).to_sparse(), lambda: {},
        lambda: torch.empty(like.shape, device="meta"),
        lambda: like.new_full(like.shape, float("inf")), lambda: like[..., :1],
        lambda: torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
    ]  # fmt: skip
    return dice.choice(found)()


def checkpoint(case: Case, template: Template) -> None:
    dice = case.dice
    file = case.folder / "Pong.pt"
    state: Any = dict(golden())
    draw = dice.random()
    if draw < 0.55:
        for _ in range(dice.choice([1, 1, 3])):
            key = dice.choice(list(state))
            how = dice.choice(["value", "value", "remove", "rename", "add"])
            if how == "value":
                state[key] = tensor(dice, golden()[key]) if key in golden() else 1
            elif how == "remove":
                del state[key]
            elif how == "rename":
                state[dice.choice(TEXTS)] = state.pop(key)
            else:
                state[
                    dice.choice([dice.choice(TEXTS), 7, None, (1, 2), "denoiser.inner_model.unet.d_blocks.99.resnets.0.conv1.weight"])
                ] = torch.zeros(2)
            case.what += f"{how} {key}; "
        torch.save(state, file, _use_new_zipfile_serialization=dice.random() < 0.8)
    elif draw < 0.8:
        data, case.what = damage_bytes(GOLDEN.read_bytes(), dice)
        file.write_bytes(data)
    elif draw < 0.9:
        content = dice.choice(
            [Evil(), {"a": Evil()}, [1] * 1000, {}, 5, None, {1: 2}, set(), {"denoiser": {}}, b"x", torch.zeros(3), torch.nn.Linear(2, 2)]
        )
        case.what = f"torch.save of {type(content).__name__}"
        if dice.random() < 0.5:
            torch.save(content, file)
        else:
            file.write_bytes(pickle.dumps(content))
    elif draw < 0.95:
        case.what = "zip " + dice.choice(["of zeros", "with odd names"])
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as built:
            built.writestr("x/data.pkl" if "zeros" in case.what else "../../owned", bytes(50_000_000 if "zeros" in case.what else 10))
            built.writestr("x/version", "3")
    else:
        case.what = other_kind(file, case.folder / "outside", dice)
    game = dice.choice(["game=Pong", "game=Pong", "game=Breakout", f"game={dice.choice(TEXTS[:4])}".replace("\0", "")])
    case.commands = [["import", str(file), game, *([f"frame_size={dice.choice(NUMBERS)}"] * (dice.random() < 0.3))]]


def agent(case: Case, template: Template) -> None:
    """A forger's agent in the store: its files are other ones, and every checksum fits."""
    dice = case.dice
    job = template.jobs["train_agent"][0]
    file = dice.choice(sorted(path for path in (case.store / job / "agent").rglob("*") if path.is_file()))
    if file.suffix == ".json" and dice.random() < 0.8:
        content, case.what = mutate(json.loads(file.read_text()), dice)
        data = dump(content)
    else:
        data, case.what = damage_bytes(file.read_bytes(), dice)
    replace_file(file, data)
    result = json.loads((case.store / job / "result.json").read_text())
    name = file.relative_to(case.store / job).as_posix()
    result["files"][name] = [len(data), hashlib.sha256(data).hexdigest()]
    replace_file(case.store / job / "result.json", dump(sealed(result)))
    case.touched = {job}
    case.what = f"{name}, with all checksums: {case.what}"
    case.commands = [["export", job, "exported.pt"], ["evaluate", job, "scale=tiny", "--dry-run"]]


def dataset(case: Case, template: Template) -> None:
    """A Minari dataset with other metadata, arrays or files; planned, and imported by the job itself."""
    dice = case.dice
    data = case.folder / "mine" / "data"
    data.mkdir(parents=True)
    source = case.store / template.jobs["collect_dataset"][0] / "train" / "data"
    for file in source.iterdir():
        (data / file.name).write_bytes(file.read_bytes())
    draw = dice.random()
    if draw < 0.5:
        content = json.loads((data / "metadata.json").read_text())
        for _ in range(dice.choice([1, 1, 2])):
            content, how = mutate(content, dice)
            case.what += f"{how}; "
        if dice.random() < 0.3 and isinstance(content, dict):
            key = dice.choice(["observation_space", "action_space", "total_episodes", "total_steps"])
            content[key] = dice.choice(
                [json.dumps(value(dice)), value(dice), '{"type": "Discrete", "dtype": "int64", "start": 0, "n": 1000000000}']
            )
            case.what += f"{key} is {str(content[key])[:60]}"
        (data / "metadata.json").write_bytes(dump(content))
    elif draw < 0.75:
        case.what = changed_hdf5(data / "main_data.hdf5", dice)
    else:
        file = dice.choice([data / "main_data.hdf5", data / "metadata.json"])
        content, case.what = damage_bytes(file.read_bytes(), dice)
        file.write_bytes(content)
        if dice.random() < 0.3:
            case.what = other_kind(dice.choice([data, file]), case.folder / "outside", dice)
    tokens = [f"data.dataset={case.folder / 'mine'}"]
    case.commands = [[*SWEEP, *tokens, "--dry-run"], [JOB, "import_dataset", *SWEEP[1:], *tokens]]


def changed_hdf5(path: Path, dice: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        episode = file[dice.choice(list(file))]
        name = dice.choice([name for name in ("observations", "actions", "rewards", "terminations", "truncations") if name in episode])
        old = episode[name][()] if isinstance(episode[name], h5py.Dataset) else np.zeros(3)
        built = {
            "removed": None, "floats": np.asarray(old, np.float64) + 0.5, "NaN": np.full(np.shape(old), np.nan), "short": old[:-1],
            "empty": old[:0],
            "one value": np.float32(1), "infinite": np.full(np.shape(old), np.inf), "texts": np.array([b"a"] * len(old)),
            "negative": -np.asarray(old, np.int64) - 1,
            "one axis more": np.asarray(old)[None], "huge": np.full(np.shape(old), 2**62, np.int64),
        }  # fmt: skip
        how = dice.choice(list(built))
        del episode[name]
        if how == "removed" and dice.random() < 0.5:
            episode.create_group(name)
        elif built[how] is not None:
            episode.create_dataset(name, data=built[how])
        return f"{episode.name} {name}: {how}"
