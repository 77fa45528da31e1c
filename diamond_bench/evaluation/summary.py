"""From arrays of per-frame errors to the rows of the results table."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.pixels import psnr
from diamond_bench.evaluation.measures import distribution_distances
from diamond_bench.store.rows import Row
from diamond_bench.studies.baselines import COPY_LAST, TRUE_FRAMES

Arrays = Mapping[str, NDArray[np.floating]]

_AVERAGED = ("drift", "ssim", "lpips", "lpips_vgg")


def rollout_rows(metrics: Sequence[str], errors: Arrays, baseline: str = "") -> list[Row]:
    """Means over trajectories and the horizon, and at its last step (`_final`), of errors (n, t).

    PSNR is that of the mean squared error. Sharpness is the ratio of imagined to true frames, noise their difference.
    """
    rows = []
    for name in metrics:
        if name in _AVERAGED:
            rows += [Row(name, float(errors[name].mean()), baseline=baseline)]
            rows += [Row(f"{name}_final", float(errors[name][:, -1].mean()), baseline=baseline)]
        elif name == "psnr":
            rows += [Row("psnr", float(psnr(float(errors["mse"].mean()))), baseline=baseline)]
            rows += [Row("psnr_final", float(psnr(float(errors["mse"][:, -1].mean()))), baseline=baseline)]
    if not baseline:
        true = float(errors["true_sharpness"].mean())
        rows.append(Row("sharpness_ratio", float(errors["sharpness"].mean()) / true if true > 0 else math.nan))
        rows.append(Row("noise_excess", float(errors["noise"].mean() - errors["true_noise"].mean())))
    return rows


def one_step_rows(errors: Arrays) -> list[Row]:
    """PSNR of one step from true frames, of the squared error pooled over all windows; the model's and copy-last-frame's."""
    return [
        Row("one_step_psnr", float(psnr(float(errors["mse"].mean())))),
        Row("one_step_psnr", float(psnr(float(errors["copy_mse"].mean()))), baseline=COPY_LAST),
    ]


def sample_rows(metrics: Sequence[str], errors: Arrays) -> list[Row]:
    """Best and mean of K futures of one start, (n, K) errors averaged over starts: one true future rewards blur, the best of K does not."""
    rows = []
    for name in metrics:
        if name in _AVERAGED:
            best = errors[name].max(axis=1) if name == "ssim" else errors[name].min(axis=1)
            rows += [Row(f"{name}_best_of_k", float(best.mean())), Row(f"{name}_mean_of_k", float(errors[name].mean()))]
        elif name == "psnr":
            rows.append(Row("psnr_best_of_k", float(psnr(float(errors["mse"].min(axis=1).mean())))))
            rows.append(Row("psnr_mean_of_k", float(psnr(float(errors["mse"].mean())))))
    return rows


def fid_rows(imagined: NDArray[np.floating], true: NDArray[np.floating], other_true: NDArray[np.floating], seed: int) -> list[Row]:
    """FID and KID of imagined against true frames, and their floor: other true frames against the same; all of one size."""
    fid, kid = distribution_distances(imagined, true, seed)
    fid_floor, kid_floor = distribution_distances(other_true, true, seed)
    return [
        Row("fid", fid),
        Row("kid", kid),
        Row("fid_images", float(len(true))),
        Row("fid", fid_floor, baseline=TRUE_FRAMES),
        Row("kid", kid_floor, baseline=TRUE_FRAMES),
    ]
