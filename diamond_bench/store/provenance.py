"""The versions and the commit that produced an artifact. They are recorded with it and never enter an identity."""

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = (
    "diamond-bench",
    "torch",
    "torchvision",
    "numpy",
    "gymnasium",
    "ale-py",
    "opencv-python-headless",
    "minari",
    "safetensors",
    "torchmetrics",
    "torch-fidelity",
    "lpips",
)


@functools.cache
def provenance() -> dict[str, Any]:
    """Versions of Python and of the libraries that affect numbers, and the commit of this package if it is a checkout."""
    return {"python": platform.python_version(), "versions": _versions(), "commit": _commit()}


def source_digest() -> str:
    """A digest of the package's code, 12 hex digits. It distinguishes installations of one version that have no commit."""
    package, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _versions() -> dict[str, str]:
    installed = {}
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def _commit() -> str | None:
    """The checkout's commit, with `-dirty` if files differ. Empty for an installed package, even inside somebody's repository."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
