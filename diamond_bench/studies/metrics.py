"""The metrics an evaluation may ask for."""

METRICS: dict[str, str | None] = {
    "drift": None,
    "psnr": None,
    "ssim": None,
    "lpips": "lpips-alex",
    "lpips_vgg": "lpips-vgg",
    "fid": "inception",
}
"""Each with the weights it needs (evaluation/weights.py). `lpips` is AlexNet's, `fid` is FID and KID."""
