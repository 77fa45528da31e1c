"""Locates and verifies the weights of the learned metrics. Without torch.

A file is searched in $DIAMOND_BENCH_WEIGHTS (default ~/.cache/diamond_bench/weights), then in torch hub's download folder. Only
weights_download.fetch downloads anything. Every file is checked against a SHA-256 before it is read. For files of torch hub, only the first
eight digits are published, at the end of the file's name. They protect against accidents but not against malice, so such a file is never
unpickled without restrictions, and a result records the full digest.
"""

import functools
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diamond_bench.errors import UserError


@dataclass(frozen=True)
class Weights:
    """The weights of one learned metric: its name, and the files that may contain them, each with (the start of) its SHA-256."""

    metric: str
    files: dict[str, str]


WEIGHTS: dict[str, Weights] = {
    "lpips-alex": Weights(
        "lpips",
        {
            "lpips-alex.safetensors": "9f97fd313f4da83dbe6bbfbe6effca1241de9edfcd7c53386261ed9697286dd9",
            "alexnet-owt-7be5be79.pth": "7be5be79",
        },
    ),
    "lpips-vgg": Weights(
        "lpips_vgg",
        {
            "lpips-vgg.safetensors": "cabd922aeb0dd6d56f2bed33221aee74b7f1e760ddd105c0e0891606cbab6d0d",
            "vgg16-397923af.pth": "397923af",
        },
    ),
    "inception": Weights(
        "fid",
        {
            "inception.safetensors": "1187e428a82651e94409755c27b92440b550fcfcd0a628d7ad802b646edce2ed",
            "weights-inception-2015-12-05-6726825d.pth": "6726825d",
            "pt_inception-2015-12-05-6726825d.pth": "6726825d",
        },
    ),
    "i3d": Weights("fvd", {"i3d.safetensors": "0b0933a23699c462330ad8a6493f430aa8885d55c7c2a823892119600025876e"}),
}


@dataclass(frozen=True)
class WeightsStatus:
    """A weights file, for `diamond-bench weights list`. `command` fetches a missing or corrupt file."""

    name: str
    metric: str
    state: Literal["found", "missing", "corrupt"]
    path: Path | None
    size: int | None
    """Bytes."""
    sha256: str | None
    command: str


def folder() -> Path:
    """The folder where `fetch` stores weights, and which is searched first."""
    chosen = os.environ.get("DIAMOND_BENCH_WEIGHTS")
    return Path(chosen).expanduser() if chosen else _cache_home() / "diamond_bench" / "weights"


def hub_folder() -> Path:
    """Torch hub's download folder: torch.hub.get_dir() / checkpoints."""
    torch_home = os.environ.get("TORCH_HOME")
    return (Path(torch_home).expanduser() if torch_home else _cache_home() / "torch") / "hub" / "checkpoints"


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def locate(name: str) -> Path | None:
    """The file with the weights `name`, unchecked, or None."""
    places = (place / file for place in (folder(), hub_folder()) for file in WEIGHTS[name].files)
    return next((path for path in places if path.is_file()), None)


def checked(name: str, path: Path | None = None, sha256: str | None = None) -> tuple[Path, str]:
    """The file with the weights `name`, and its SHA-256, which begins with `sha256` (default: the pinned digests).

    Raises UserError if there is no file, or another one.
    """
    path = path or locate(name)
    if path is None or not path.is_file():
        raise UserError(f"the weights {name} are not {f'at {path}' if path else 'on this machine'}: get them with `{command(name)}`")
    expected = (sha256,) if sha256 else _pins(name, path)
    found = digest_of(path)
    if not found.startswith(expected):
        raise UserError(
            f"{path} does not hold the weights {name}: its SHA-256 is {found}, expected {' or '.join(expected)}; "
            f"fetch them again with `{command(name)}`"
        )
    return path, found


def _pins(name: str, path: Path) -> tuple[str, ...]:
    files = WEIGHTS[name].files
    return (files[path.name],) if path.name in files else tuple(dict.fromkeys(files.values()))


def command(name: str) -> str:
    """The command that fetches the weights `name`."""
    return f"diamond-bench weights fetch {WEIGHTS[name].metric}"


def digest_of(path: Path) -> str:
    stat = path.stat()
    return _cached_digest(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _cached_digest(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def status() -> list[WeightsStatus]:
    """All weights files: path, size, and whether each is the right one."""
    return [status_of(name) for name in WEIGHTS]


def status_of(name: str) -> WeightsStatus:
    metric, path = WEIGHTS[name].metric, locate(name)
    if path is None:
        return WeightsStatus(name, metric, "missing", None, None, None, command(name))
    digest = digest_of(path)
    state: Literal["found", "corrupt"] = "found" if digest.startswith(_pins(name, path)) else "corrupt"
    return WeightsStatus(name, metric, state, path, path.stat().st_size, digest, command(name))


def require(name: str, user: str, instead: str) -> None:
    """Raises UserError if the weights `name` are missing or corrupt. `user`: the setting that needs them. `instead`: another remedy."""
    found = status_of(name)
    if found.state != "found":
        raise UserError(f"{user} needs the weights {name}, which are {fault_of(found)}: get them with `{found.command}`, {instead}")


def fault_of(found: WeightsStatus) -> str:
    """What is wrong with a missing or corrupt file."""
    return f"corrupt ({found.path})" if found.path else "not on this machine"
