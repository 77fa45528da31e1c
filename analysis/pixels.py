"""Frame-by-frame fidelity of imagined frames: pure functions of tensors in [0, 1].

Frames are float32 or float64, (..., 3, h, w), in [0, 1], and two sets have the same shape. A score has the shape of the leading dimensions.
Another range, shape or dtype raises ValueError: nothing is guessed from the values.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

SSIM_WINDOW = 11
"""Side of SSIM's Gaussian window in pixels, and minimum side of a frame."""

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""

_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2
_MEDIAN_OF_ABSOLUTE_NORMAL = 0.6744897501960817


def check_frames(frames: Tensor, name: str = "frames") -> None:
    """Raises ValueError unless `frames` are float (..., 3, h, w) in [0, 1]."""
    if frames.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name}: expected float32 or float64 in [0, 1], got {frames.dtype}")
    if frames.ndim < 4 or frames.shape[-3] != 3 or 0 in frames.shape:
        raise ValueError(f"{name}: expected shape (..., 3, h, w) with at least one frame, got {tuple(frames.shape)}")
    low, high = (float(x) for x in torch.aminmax(frames))
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(f"{name}: expected values in [0, 1], got [{low:g}, {high:g}]")


def absolute_error(imagined: Tensor, true: Tensor) -> Tensor:
    """Mean absolute pixel error of each frame, in [0, 1]. At frame t of a rollout it is the drift. (..., 3, h, w) -> (...)."""
    _check_pair(imagined, true)
    return (imagined - true).abs().mean(dim=(-3, -2, -1))


def squared_error(imagined: Tensor, true: Tensor) -> Tensor:
    """Mean squared pixel error of each frame, in [0, 1]. (..., 3, h, w) -> (...)."""
    _check_pair(imagined, true)
    return (imagined - true).square().mean(dim=(-3, -2, -1))


def psnr(mean_squared_error: Tensor | float) -> Tensor:
    """Peak signal-to-noise ratio in dB of frames in [0, 1]: 10 log10(1 / MSE), infinite at 0. Any shape, float64.

    Pass the mean of `squared_error` over all frames pooled: the mean of PSNRs is infinite as soon as one still frame is exact.
    """
    mse = torch.as_tensor(mean_squared_error, dtype=torch.float64)
    if not bool(((mse >= 0) & (mse <= 1)).all()):
        raise ValueError(f"mean squared error of frames in [0, 1]: expected values in [0, 1], got {mse}")
    return -10.0 * torch.log10(mse)


def ssim(imagined: Tensor, true: Tensor, chunk_size: int = 256) -> Tensor:
    """Structural similarity (Wang et al. 2004, equation 13) of each frame, at most 1. (..., 3, h, w) -> (...).

    Gaussian window of 11 pixels, sigma 1.5, data range 1, each colour separately and averaged, frames reflected at their borders. The
    numbers are those of torchmetrics, bit for bit. `chunk_size` frames are scored at once.
    """
    _check_pair(imagined, true)
    if min(true.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs frames of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, got {tuple(true.shape[-2:])}")
    offsets = torch.arange(SSIM_WINDOW, dtype=true.dtype, device=true.device) - SSIM_WINDOW // 2
    bell = torch.exp(-(offsets / 1.5).square() / 2)
    bell = (bell / bell.sum())[:, None]
    window = (bell @ bell.T).expand(3, 1, SSIM_WINDOW, SSIM_WINDOW)
    pairs = zip(imagined.flatten(0, -4).split(chunk_size), true.flatten(0, -4).split(chunk_size), strict=True)
    return torch.cat([_ssim(a, b, window) for a, b in pairs]).reshape(true.shape[:-3])


def _ssim(a: Tensor, b: Tensor, window: Tensor) -> Tensor:
    """(n, 3, h, w) and a window (3, 1, k, k) with the sum 1 -> (n,)."""
    a, b = (F.pad(frames, 4 * (SSIM_WINDOW // 2,), mode="reflect") for frames in (a, b))
    means = F.conv2d(torch.cat((a, b, a * a, b * b, a * b)), window, groups=3)
    mean_a, mean_b, mean_aa, mean_bb, mean_ab = means.split(len(a))
    squares_a, squares_b, product = mean_a * mean_a, mean_b * mean_b, mean_a * mean_b
    variance_a, variance_b, covariance = (mean_aa - squares_a).clamp(min=0), (mean_bb - squares_b).clamp(min=0), mean_ab - product
    above = (2 * product + _SSIM_C1) * (2 * covariance + _SSIM_C2)
    below = (squares_a + squares_b + _SSIM_C1) * (variance_a + variance_b + _SSIM_C2)
    scores: Tensor = (above / below).flatten(1).mean(dim=1)
    return scores


def sharpness(frames: Tensor) -> Tensor:
    """Mean squared gradient of each frame's luminance, per pixel (forward differences). (..., 3, h, w) -> (...).

    An edge blurred over w pixels has 1 / w of the sharp edge's value. (The mean gradient magnitude, which is total variation, would not
    change.) Noise raises it too: see `noise_level`. Report the ratio of imagined to true frames (1 is as sharp as the truth).
    """
    check_frames(frames)
    luminance = _luminance(frames)
    corner = luminance[..., :-1, :-1]
    across, down = luminance[..., :-1, 1:] - corner, luminance[..., 1:, :-1] - corner
    return (across.square() + down.square()).mean(dim=(-2, -1))


def noise_level(frames: Tensor) -> Tensor:
    """Standard deviation of the noise in each frame's luminance, in grey levels of [0, 1]. (..., 3, h, w) -> (...).

    It uses Immerkaer's mask (Fast Noise Variance Estimation, 1996), the difference of two Laplacians. Its response to noise of deviation s
    has deviation 6 s, and it does not respond to ramps or to horizontal and vertical edges. The deviation is computed from the median of
    its absolute response, not the mean: other edges and corners are few, so they hardly change the median. Noise in less than half of a
    frame is not detected.
    """
    check_frames(frames)
    if min(frames.shape[-2:]) < 3:
        raise ValueError(f"the noise level needs frames of at least 3 x 3 pixels, got {tuple(frames.shape[-2:])}")
    luminance = _luminance(frames)
    across = luminance[..., :-2] - 2 * luminance[..., 1:-1] + luminance[..., 2:]
    response = across[..., :-2, :] - 2 * across[..., 1:-1, :] + across[..., 2:, :]
    return response.abs().flatten(-2).median(dim=-1).values / (6 * _MEDIAN_OF_ABSOLUTE_NORMAL)


def _luminance(frames: Tensor) -> Tensor:
    """(..., 3, h, w) -> (..., h, w)."""
    weights = torch.tensor(LUMINANCE, dtype=frames.dtype, device=frames.device)
    return (frames * weights[:, None, None]).sum(dim=-3)


def _check_pair(imagined: Tensor, true: Tensor) -> None:
    check_frames(imagined, "imagined frames")
    check_frames(true, "true frames")
    if imagined.shape != true.shape or imagined.dtype != true.dtype:
        raise ValueError(
            f"imagined and true frames differ: {tuple(imagined.shape)} {imagined.dtype} against {tuple(true.shape)} {true.dtype}"
        )
