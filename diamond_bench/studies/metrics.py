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

_OF_FRAMES = ("drift", "psnr", "ssim", "lpips", "lpips_vgg")
RESULT_METRICS: tuple[str, ...] = (
    *(f"{metric}{part}" for metric in _OF_FRAMES for part in ("", "_final", "_best_of_k", "_mean_of_k")),
    *("fid", "kid", "fid_images", "one_step_psnr", "sharpness_ratio", "nfe_per_frame", "parameters", "train_loss", "dataset_return"),
    *("frames_per_second", "imagination_seconds", "peak_memory_mb", "training_seconds", "updates_per_second"),
)
"""The metrics of the results table: what a study's primary comparison may be of."""
