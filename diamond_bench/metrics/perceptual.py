"""The networks of learned metrics: LPIPS, Inception and I3D. Their weights are verified before they are read.

All run in float32, also in runs of another precision. So a metric does not change with the model that it measures.
"""

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diamond_bench.errors import UserError
from diamond_bench.metrics.weights import checked, command, digest_of
from diamond_bench.models.i3d import I3d
from diamond_bench.models.i3d_cost import MIN_FRAMES, SIDE

BATCH_SIZE = 64
"""Images per forward pass, whatever the number of images."""
_INCEPTION_BATCH_ON_CPU = 16
"""With 64 images, a layer takes 350 MB, and memory allocation takes a fifth of the time."""

_CLIPS_PER_PASS = {"cpu": 1, "cuda": 16}
"""A clip of 16 frames takes about 0.1 GB in I3D."""

_HEADS = {
    "alex": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "vgg": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
}
"""SHA-256 of the learned linear heads (v0.1) in the lpips package."""


@dataclass(frozen=True)
class LearnedMetric:
    """A network as a function of tensors, and the SHA-256 of its weights file for the record."""

    function: Callable[..., Tensor]
    sha256: str
    differentiable: Callable[[Tensor, Tensor], Tensor] | None = None
    """LPIPS for a loss: (a, b) -> distances (n,), with a gradient, at any range of values."""

    def __call__(self, *images: Tensor) -> Tensor:
        return self.function(*images)


def lpips_network(
    net: Literal["alex", "vgg"] = "alex", device: str | torch.device = "cpu", path: Path | None = None, sha256: str | None = None
) -> LearnedMetric:
    """LPIPS v0.1 (Zhang et al. 2018) with its learned heads: (a, b), each float (n, 3, h, w) in [-1, 1], -> distances (n,), float32.

    `path` and `sha256` choose another file for the backbone. Raises UserError if weights are missing or not the expected ones. The function
    raises ValueError for another shape, range or dtype.
    """
    import lpips

    path, digest = checked(f"lpips-{net}", path, sha256)
    heads = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    if not heads.is_file() or digest_of(heads) != _HEADS[net]:
        raise UserError(f"{heads} does not hold the learned heads of LPIPS v0.1: reinstall the package lpips (0.1.4)")
    with warnings.catch_warnings(), torch.device("meta"):  # no random weights: weights that are not loaded below have no values at all
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        network = lpips.LPIPS(pretrained=False, pnet_rand=True, net=net, version="0.1", verbose=False)
    backbone = _read_state(path, f"lpips-{net}")
    state = {key: backbone.get(f"features.{key.split('.', 1)[1]}", value) for key, value in network.net.state_dict().items()}
    learned = _read_state(heads, f"lpips-{net}")
    _load(network.net, state, path)
    for i, head in enumerate(network.lins):
        _load(head, {"model.1.weight": learned[f"lin{i}.model.1.weight"]}, heads)
    network = network.eval().requires_grad_(False).to(device)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        _check_images(a, "a")
        _check_images(b, "b")
        if a.shape != b.shape:
            raise ValueError(f"LPIPS: images differ in shape: {tuple(a.shape)} against {tuple(b.shape)}")
        with _full_precision(device):
            pairs = zip(a.split(BATCH_SIZE), b.split(BATCH_SIZE), strict=True)
            return torch.cat([network(x.to(device).float(), y.to(device).float()).reshape(len(x)) for x, y in pairs])

    return LearnedMetric(distance, digest, lambda a, b: network(a, b).reshape(len(a)))


def inception_features(
    device: str | torch.device = "cpu",
    path: Path | None = None,
    sha256: str | None = None,
    layer: Literal["64", "192", "768", "2048"] = "2048",
) -> LearnedMetric:
    """The pooled features of FID's Inception (2015, TensorFlow): uint8 images (n, 3, h, w) -> (n, 2048), float32.

    torch-fidelity's network, with TensorFlow's resizing to 299 x 299 (torchmetrics with antialias=False). `layer` chooses a layer by its
    number of features; FID and KID are defined on 2048. `path` and `sha256` give another weights file. Raises UserError if the weights
    are missing or are not the expected ones. The function raises ValueError at another shape or dtype.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path, digest = checked("inception", path, sha256)
    # The package's file has no classifier. Features are taken before it. If they were not, they would be NaN.
    classifier = {"fc.weight": torch.full((1008, 2048), torch.nan), "fc.bias": torch.full((1008,), torch.nan)}
    state = classifier | _read_state(path, "inception")
    with tempfile.TemporaryDirectory() as private, torch.random.fork_rng(devices=[]):
        ours = Path(private) / "inception.pth"  # the library unpickles without restrictions, so it receives a copy written here
        torch.save(state, ours)
        try:
            network = FeatureExtractorInceptionV3("inception-v3-compat", [layer], feature_extractor_weights_path=str(ours))
        except RuntimeError as error:
            raise _misfit(path, error) from error
    network = network.eval().requires_grad_(False).to(device)

    def features(images: Tensor) -> Tensor:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
            raise ValueError(f"Inception: expected uint8 images (n, 3, h, w), got {images.dtype} {tuple(images.shape)}")
        size = _INCEPTION_BATCH_ON_CPU if torch.device(device).type == "cpu" else BATCH_SIZE
        with _full_precision(device):
            return torch.cat([network(batch.to(device))[0] for batch in images.split(size)])

    return LearnedMetric(features, digest)


def i3d_features(device: str | torch.device = "cpu", path: Path | None = None, sha256: str | None = None) -> LearnedMetric:
    """The logits of I3D (Kinetics-400) as StyleGAN-V takes them: uint8 clips (n, t, 3, h, w), t of at least 9, -> (n, 400), float32.

    Frames are resized to 224 x 224 (bilinear, no antialiasing) and scaled to [-1, 1]. `path` and `sha256` give another weights file. Raises
    UserError if the weights are missing or are not the expected ones. The function raises ValueError at another shape or dtype.
    """
    path, digest = checked("i3d", path, sha256)
    with torch.device("meta"):
        network = I3d()
    try:
        network.load_weights(_read_state(path, "i3d"))
    except ValueError as error:
        raise _misfit(path, error) from error
    network = network.eval().requires_grad_(False).to(device)

    def features(clips: Tensor) -> Tensor:
        if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[2] != 3 or clips.shape[1] < MIN_FRAMES or len(clips) == 0:
            raise ValueError(f"I3D: expected uint8 clips (n, t, 3, h, w), t >= {MIN_FRAMES}, got {clips.dtype} {tuple(clips.shape)}")
        with _full_precision(device):
            return torch.cat([network(_resized(some.to(device))) for some in clips.split(_CLIPS_PER_PASS[torch.device(device).type])])

    return LearnedMetric(features, digest)


def _resized(clips: Tensor) -> Tensor:
    """I3D's input (n, 3, t, 224, 224) in [-1, 1] of uint8 clips (n, t, 3, h, w)."""
    frames = F.interpolate(clips.flatten(0, 1).float(), size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    resized: Tensor = (frames / 127.5 - 1).unflatten(0, clips.shape[:2])
    return resized.transpose(1, 2)


def _read_state(path: Path, name: str) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} is not a file of only weights ({error}); fetch them again with `{command(name)}`") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds more than named tensors; fetch them again with `{command(name)}`")
    return state


def _load(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise _misfit(path, error) from error
    if any(value.is_meta for value in module.state_dict().values()):
        raise UserError(f"{path} lacks some of the network's weights")


def _misfit(path: Path, error: Exception) -> UserError:
    return UserError(f"the weights in {path} do not fit the network: {error}")


def _check_images(images: Tensor, name: str) -> None:
    if not images.is_floating_point() or images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise ValueError(f"LPIPS {name}: expected float images (n, 3, h, w) in [-1, 1], got {images.dtype} {tuple(images.shape)}")
    low, high = (float(x) for x in torch.aminmax(images))
    if not (low >= -1.0 and high <= 1.0):
        raise ValueError(f"LPIPS {name}: expected values in [-1, 1], got [{low:g}, {high:g}]")


@contextlib.contextmanager
def _full_precision(device: str | torch.device) -> Iterator[None]:
    kind = torch.device(device).type
    with (
        torch.no_grad(),
        torch.autocast(kind, enabled=False),
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
    ):
        yield
