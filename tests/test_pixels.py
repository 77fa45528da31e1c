"""Pixel scores against values one can check by hand, and refusal of frames in another range."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from analysis.pixels import absolute_error, noise_level, psnr, sharpness, squared_error, ssim

PAIRED = [absolute_error, squared_error, ssim]


def frames(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_errors_of_each_frame():
    true = torch.full((2, 3, 3, 16, 16), 0.5)
    imagined = true.clone()
    imagined[1, 2] += 0.25
    imagined[0, 0, 0] -= 0.3  # one of three colours
    expected = torch.tensor([[0.1, 0.0, 0.0], [0.0, 0.0, 0.25]])
    assert torch.allclose(absolute_error(imagined, true), expected)
    assert torch.allclose(squared_error(imagined, true), torch.tensor([[0.03, 0.0, 0.0], [0.0, 0.0, 0.0625]]))


def test_psnr_is_of_the_mean_error():
    assert psnr(0.01).item() == pytest.approx(20.0)
    assert psnr(torch.tensor([0.0, 0.02]).mean()).item() == pytest.approx(20.0)  # a still frame does not make it infinite
    assert psnr(0.0).item() == math.inf
    for wrong in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            psnr(wrong)


@pytest.mark.parametrize("contrast", [1.0, 0.1])
def test_ssim_equals_its_definition(contrast):
    """Against scipy's Gaussian windows; at low contrast a range guessed from the batch would move it."""
    a, b = (0.5 + contrast * (frames(4, 3, 20, 24, seed=s) - 0.5) for s in (1, 2))
    b = 0.7 * a + 0.3 * b
    expected = [reference_ssim(x, y) for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    assert ssim(a, b).numpy() == pytest.approx(expected, abs=1e-4)


def reference_ssim(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)

    def blur(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, sigma=(0, 1.5, 1.5), mode="mirror", radius=(0, 5, 5))

    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, cov = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    return float((((2 * mean_a * mean_b + c1) * (2 * cov + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())


def test_ssim_keeps_the_leading_shape_and_knows_no_chunks():
    a, b = frames(2, 3, 3, 16, 16), frames(2, 3, 3, 16, 16, seed=1)
    whole = ssim(a, b)
    assert whole.shape == (2, 3)
    assert torch.allclose(ssim(a, b, chunk_size=4), whole, atol=1e-6)
    assert torch.allclose(ssim(a, a), torch.ones(2, 3))
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(a[..., :8, :8], b[..., :8, :8])


def test_sharpness_is_the_squared_slope_of_a_ramp():
    ramp = torch.linspace(0, 0.5, 11).expand(2, 3, 11, 11)
    assert torch.allclose(sharpness(ramp), torch.tensor([0.0025, 0.0025]))
    assert torch.allclose(sharpness(ramp.transpose(-1, -2)), torch.tensor([0.0025, 0.0025]))
    green = ramp.clone()
    green[:, [0, 2]] = 0.0
    assert torch.allclose(sharpness(green), torch.full((2,), (0.587 * 0.05) ** 2))


def edge(width: int, size: int = 64) -> torch.Tensor:
    """A vertical edge from 0 to 1 that rises linearly over `width` pixels."""
    return (torch.arange(size, dtype=torch.float64) - 20).div(width).clamp(0, 1).expand(1, 3, size, size)


@pytest.mark.parametrize("width", [3, 9, 21])
def test_a_blurred_edge_is_as_much_less_sharp(width):
    assert (sharpness(edge(width)) / sharpness(edge(1))).item() == pytest.approx(1 / width)


def smooth(size: int = 64) -> torch.Tensor:
    """A smooth grey image with values from 0.3 to 0.7."""
    y, x = torch.meshgrid(torch.arange(size, dtype=torch.float64), torch.arange(size, dtype=torch.float64), indexing="ij")
    return (0.5 + 0.2 * torch.sin(x / 15) * torch.cos(y / 19)).expand(1, 3, size, size)


@pytest.mark.parametrize("level", [0.01, 0.05])
def test_the_noise_of_a_smooth_image_is_recovered(level):
    noise = level * torch.randn(64, 1, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = noise_level((smooth() + noise).clamp(0, 1))
    assert found.shape == (64,)
    assert found.mean().item() == pytest.approx(level, rel=0.02)
    assert noise_level(smooth()).item() < 2e-4


@pytest.mark.parametrize("width", [1, 5, 21])
def test_edges_are_no_noise(width):
    straight = edge(width)
    size = straight.shape[-1]
    y, x = torch.meshgrid(torch.arange(size, dtype=torch.float64), torch.arange(size, dtype=torch.float64), indexing="ij")
    oblique = ((x - 0.6 * y - 10) / width).clamp(0, 1).expand(1, 3, size, size)
    assert noise_level(straight).item() < 1e-9
    assert noise_level(oblique).item() < 1e-9


@pytest.mark.parametrize(
    "score", [*PAIRED, lambda a, b: sharpness(a), lambda a, b: noise_level(a)], ids=["absolute", "squared", "ssim", "sharpness", "noise"]
)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: 2 * x - 1, r"values in \[0, 1\], got \[-"),
        (lambda x: 255 * x, r"values in \[0, 1\]"),
        (lambda x: (255 * x).byte(), "float32 or float64"),
        (lambda x: x.half(), "float32 or float64"),
        (lambda x: torch.where(x > 0.5, x, math.nan), r"values in \[0, 1\]"),
        (lambda x: x.movedim(-3, -1), "shape"),
        (lambda x: x[0], "shape"),
        (lambda x: x[:0], "shape"),
    ],
)
def test_refuses_another_range_dtype_or_shape(score, change, message):
    a = frames(2, 3, 16, 16)
    with pytest.raises(ValueError, match=message):
        score(change(a), change(a))


@pytest.mark.parametrize("score", PAIRED)
def test_refuses_a_pair_that_does_not_match(score):
    a = frames(2, 3, 16, 16)
    with pytest.raises(ValueError, match="differ"):
        score(a, a[:1])
    with pytest.raises(ValueError, match="true frames: expected values"):
        score(a, 2 * a - 1)
