"""FID, KID and SSIM against closed forms, hand-made cases and torchmetrics."""

import numpy as np
import pytest
import torch

from analysis import frechet
from analysis.frechet import FeatureStatistics, frechet_distance, gaussian_frechet_distance, kernel_distance
from analysis.pixels import ssim

DIMENSIONS = 6


def gathered(*batches: np.ndarray) -> FeatureStatistics:
    statistics = FeatureStatistics(batches[0].shape[1])
    for batch in batches:
        statistics.update(batch)
    return statistics


def known_gaussians() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """Two Gaussians whose covariances share their axes, so that the distance is that of their axes' deviations."""
    generator = np.random.default_rng(0)
    axes = np.linalg.qr(generator.normal(size=(DIMENSIONS, DIMENSIONS)))[0]
    deviations_a, deviations_b = generator.uniform(0.5, 2.0, size=(2, DIMENSIONS))
    mean_a, mean_b = generator.normal(size=(2, DIMENSIONS))
    distance = ((mean_a - mean_b) ** 2).sum() + ((deviations_a - deviations_b) ** 2).sum()
    return mean_a, (axes * deviations_a**2) @ axes.T, mean_b, (axes * deviations_b**2) @ axes.T, float(distance)


def test_fid_of_known_gaussians():
    *gaussians, distance = known_gaussians()
    assert gaussian_frechet_distance(*gaussians) == pytest.approx(distance, rel=1e-10)


def test_fid_of_covariances_that_do_not_commute():
    a, b = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    root_trace = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))  # Cayley-Hamilton, 2 x 2
    expected = np.trace(a) + np.trace(b) - 2 * root_trace
    assert gaussian_frechet_distance(np.zeros(2), a, np.zeros(2), b) == pytest.approx(expected, rel=1e-10)


def test_fid_of_samples_of_known_gaussians():
    mean_a, covariance_a, mean_b, covariance_b, distance = known_gaussians()
    generator = np.random.default_rng(1)
    a = gathered(generator.multivariate_normal(mean_a, covariance_a, size=100_000))
    b = gathered(generator.multivariate_normal(mean_b, covariance_b, size=100_000))
    assert frechet_distance(a, b) == pytest.approx(distance, rel=0.02)


def test_statistics_do_not_depend_on_the_batches():
    features = np.random.default_rng(0).normal(loc=1000.0, size=(50, 4))  # a mean that cancels badly in E[x^2] - E[x]^2
    whole, parts = gathered(features), gathered(features[:1], features[1:30], features[30:])
    assert whole.count == parts.count == 50
    assert parts.mean == pytest.approx(features.mean(axis=0), rel=1e-12)
    assert parts.covariance == pytest.approx(np.cov(features, rowvar=False), abs=1e-10)
    assert whole.covariance == pytest.approx(parts.covariance, abs=1e-10)


def test_fid_with_fewer_images_than_features():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 10, 40))
    assert frechet_distance(gathered(a), gathered(a)) == pytest.approx(0.0, abs=1e-6)
    shifted = frechet_distance(gathered(a), gathered(a + 0.5))
    assert shifted == pytest.approx(40 * 0.25, rel=1e-6)
    assert np.isfinite(frechet_distance(gathered(a), gathered(b)))


class RandomFeatures(torch.nn.Module):
    """A fixed random network of uint8 images."""

    num_features = 16

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.projection = torch.nn.Parameter(torch.randn(3 * 8 * 8, self.num_features, generator=generator))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tanh(images.flatten(1).float() / 255 @ self.projection)


def random_images(seed: int, n: int = 60) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(0, 256, (n, 3, 8, 8), generator=generator) // (1 + seed)).to(torch.uint8)


def test_agrees_with_torchmetrics():
    from torchmetrics.image import FrechetInceptionDistance, KernelInceptionDistance

    network, true, imagined = RandomFeatures(), random_images(0), random_images(1)
    fid = FrechetInceptionDistance(feature=network, normalize=False)
    kid = KernelInceptionDistance(feature=network, subsets=1, subset_size=len(true), normalize=False)
    for metric in (fid, kid):
        metric.update(true, real=True)
        metric.update(imagined, real=False)
    a, b = (network(images).detach().numpy() for images in (true, imagined))
    assert frechet_distance(gathered(a), gathered(b)) == pytest.approx(fid.compute().item(), rel=1e-3)
    assert kernel_distance(a, b, num_subsets=1)[0] == pytest.approx(kid.compute()[0].item(), rel=1e-3)


def test_kid_by_hand():
    """Kernel (xy + 1)^3: within {0, 1} 1, within {1, 2} 27, across (1 + 1 + 8 + 27) / 4."""
    a, b = np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])
    assert kernel_distance(a, b, subset_size=2, num_subsets=3) == pytest.approx((1 + 27 - 2 * 9.25, 0.0))


def test_kid_is_unbiased_and_seeded():
    a, b, far = np.random.default_rng(0).normal(size=(3, 400, 8)) + np.array([0.0, 0.0, 1.0])[:, None, None]
    mean, deviation = kernel_distance(a, b, subset_size=50, num_subsets=200)
    assert abs(mean) < 0.2 * deviation + 0.02  # a biased estimate would add about 2 k(x, x) / 50 = 0.3
    assert kernel_distance(a, far, subset_size=50)[0] > 1.0
    assert kernel_distance(a, b, subset_size=50, seed=3) == kernel_distance(a, b, subset_size=50, seed=3)
    assert kernel_distance(a, b, subset_size=50, seed=3) != kernel_distance(a, b, subset_size=50, seed=4)


def test_equal_subsets_are_computed_once(monkeypatch):
    calls = []
    counted = lambda x, y: calls.append(len(x)) or unbiased_mmd(x, y)  # noqa: E731
    unbiased_mmd = frechet._unbiased_mmd
    monkeypatch.setattr(frechet, "_unbiased_mmd", counted)
    a, b = np.random.default_rng(0).normal(size=(2, 40, 8))
    assert kernel_distance(a, b) == (pytest.approx(unbiased_mmd(a, b), rel=1e-9), 0.0)
    assert calls == [40]
    for sides in ((a, b[:30]), (a[:30], b)):
        calls.clear()
        assert kernel_distance(*sides, num_subsets=5)[1] > 0
        assert calls == [30] * 5, "rows of the larger side differ between subsets"


def test_refusals():
    good = np.zeros((3, 4))
    statistics = FeatureStatistics(4)
    for wrong, message in [(good[:, :3], "expected 4 a row"), (good.astype(int), "floats"), (good[0], "floats"), (good * np.nan, "finite")]:
        with pytest.raises(ValueError, match=message):
            statistics.update(wrong)
    statistics.update(good[:1])
    with pytest.raises(ValueError, match="at least 2"):
        _ = statistics.covariance
    with pytest.raises(ValueError, match="width"):
        kernel_distance(good, good[:, :3])
    with pytest.raises(ValueError, match="2 rows"):
        kernel_distance(good, good[:1])
    with pytest.raises(ValueError, match="of one d"):
        gaussian_frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 11, 11), (2, 24, 40)])
def test_ssim_is_that_of_torchmetrics_bit_for_bit(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Numbers that were stored by an earlier version came from torchmetrics. Noise, near frames, equal ones, and ones of one colour."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    generator = torch.Generator().manual_seed(0)
    count, height, width = shape
    true, noise = (torch.rand(count, 3, height, width, generator=generator, dtype=dtype) for _ in range(2))
    for imagined in (noise, 0.9 * true + 0.1 * noise, true, torch.full_like(true, 0.3)):
        expected = structural_similarity_index_measure(imagined, true, data_range=1.0, reduction="none")
        assert torch.equal(ssim(imagined, true), expected)
    flat = torch.full_like(true, 0.7)
    assert torch.equal(ssim(flat, flat), structural_similarity_index_measure(flat, flat, data_range=1.0, reduction="none"))
