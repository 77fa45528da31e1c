"""FID (Heusel et al. 2017) and KID (Binkowski et al. 2018): Inception features of imagined frames compared with those of true ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diamond_bench.config import EvaluationConfig, ExecutionConfig, RunConfig
from diamond_bench.errors import UserError
from diamond_bench.metrics.baselines import RECONSTRUCTED, TRUE_FRAMES
from diamond_bench.metrics.header import ROLLOUT_SIZES, Column
from diamond_bench.metrics.metric import Metric
from diamond_bench.store.kinds import ExtractFeatures
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from diamond_bench.metrics.play import Arrays, Batch, Measured, Meter, Setting

MIN_IMAGES = 2048
FEATURES_FILE = "features.npz"
"""The artifact of a job `extract_features`."""
FEATURE_BYTES = 2048 * 4
_BATCH = 64
_IMAGES_PER_SECOND = 9.0


def fid_positions(seed: int, num_trajectories: int, horizon: int, num_images: int) -> NDArray[np.bool_]:
    """(num_trajectories, horizon) bool: the references and times whose frames enter FID. `num_images` of them, drawn by `seed`, are
    True."""
    from diamond_bench.metrics.play import FID_STREAM

    positions = np.zeros(num_trajectories * horizon, bool)
    positions[np.random.default_rng([seed, FID_STREAM]).permutation(len(positions))[:num_images]] = True
    return positions.reshape(num_trajectories, horizon)


def load_features(folder: Path, weights: str = "") -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(true, other), features (num_images, 2048) each, as `extract_features` wrote them to `folder`.

    Raises UserError if they cannot be read, or were computed with a weights file other than the one whose SHA-256 is `weights`.
    """
    from diamond_bench.store.files import read_arrays

    file = folder / FEATURES_FILE
    try:
        stored = read_arrays(file)
        true, other, found = stored["true"], stored["other"], str(stored["weights"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} cannot be read ({error}); remove {folder} and run the sweep again") from error
    if weights and found != weights:
        raise UserError(
            f"{file}: its features were computed with the weights {found}, this machine has {weights}; use the same file of weights "
            f"(`diamond-bench weights list` shows it), or remove {folder} and run the sweep again"
        )
    return true, other


def distribution_distances(a: NDArray[Any], b: NDArray[Any], seed: int) -> tuple[float, float]:
    """(FID, KID) between two sets of features of equal size."""
    from analysis.frechet import FeatureStatistics, frechet_distance, kernel_distance

    if len(a) != len(b):
        raise ValueError(f"FID is compared at equal numbers of images, got {len(a)} and {len(b)}")
    statistics = []
    for features in (a, b):
        gathered = FeatureStatistics(features.shape[1])
        gathered.update(features)
        statistics.append(gathered)
    return frechet_distance(*statistics), kernel_distance(a, b, seed=seed)[0]


def _open(setting: "Setting") -> "Meter":
    import torch

    from diamond_bench.metrics import perceptual
    from diamond_bench.metrics.play import Meter

    network = perceptual.inception_features(setting.device)
    load_features(setting.inputs["true_features"], network.sha256)  # refuses other weights before any imagination
    e = setting.evaluation
    positions = fid_positions(e.seed, e.num_trajectories, e.horizon, e.num_fid_images)

    def measure(batch: "Batch") -> "Arrays":
        if batch.kind != "rollouts" or batch.shown not in ("", "reconstructed"):
            return {}
        chosen = torch.from_numpy(positions[list(batch.rows)]).to(batch.frames.device)
        out = []
        for images in batch.frames[chosen].split(_BATCH):
            if len(images):
                out.append(network(images).float().cpu().numpy())
                batch.tick()
        return {"features": np.concatenate(out) if out else np.zeros((0, 2048), np.float32)}

    return Meter(measure, network.sha256, lambda rows: -(-int(positions[list(rows)].sum()) // _BATCH))


def _reduce(measured: "Measured") -> Mapping[str, list[Row]]:
    """FID and KID of imagined against true frames, and their floor: other true frames against the same. All sets have one size."""
    true, other = load_features(measured.inputs["true_features"])
    seed = measured.evaluation.seed
    fid, kid = distribution_distances(measured.rollouts["features"], true, seed)
    fid_floor, kid_floor = distribution_distances(other, true, seed)
    rows = [
        Row("fid", fid),
        Row("kid", kid),
        Row("fid_images", float(len(true))),
        Row("fid", fid_floor, baseline=TRUE_FRAMES),
        Row("kid", kid_floor, baseline=TRUE_FRAMES),
    ]
    if "features" in (compressed := measured.shown("reconstructed")):
        fid, kid = distribution_distances(compressed["features"], true, seed)
        rows += [Row("fid", fid, baseline=RECONSTRUCTED), Row("kid", kid, baseline=RECONSTRUCTED)]
    return {"after": rows}


def _features(config: RunConfig, execution: ExecutionConfig) -> tuple[str, Any]:
    e = config.evaluation
    return "extract_features", ExtractFeatures(e.seed, e.num_trajectories, e.horizon, e.num_fid_images, execution)


def _check(config: RunConfig) -> None:
    evaluation = config.evaluation
    if evaluation.num_fid_images < MIN_IMAGES:
        raise UserError(
            f"evaluation.num_fid_images={evaluation.num_fid_images}: FID needs at least {MIN_IMAGES} images "
            "(with fewer, the covariance of its 2048 features is singular); raise it",
            keys=("evaluation.num_fid_images",),
        )
    check_images(config, "fid", "FID")


def check_images(config: RunConfig, name: str, title: str) -> None:
    """Raises UserError if the rollouts or the training data have fewer frames than the metric takes."""
    evaluation, data = config.evaluation, config.data
    frames = evaluation.num_trajectories * evaluation.horizon
    least = MIN_IMAGES if name == "fid" else 2
    if evaluation.num_fid_images > data.num_train_frames:
        raise UserError(
            f"evaluation.num_fid_images={evaluation.num_fid_images}: the floor of {title} takes as many frames of the training data, "
            f"which has {data.num_train_frames} (data.num_train_frames); raise that",
            keys=("evaluation.num_fid_images", "data.num_train_frames"),
        )
    if evaluation.num_fid_images > frames:
        mend = "lower it" if frames >= least else "raise evaluation.num_trajectories or evaluation.horizon"
        raise UserError(
            f"evaluation.num_fid_images={evaluation.num_fid_images}: {evaluation.num_trajectories} trajectories of {evaluation.horizon} "
            f"frames give {frames}; {mend}",
            keys=("evaluation.num_fid_images",),
        )


def _seconds(evaluation: EvaluationConfig) -> float:
    return evaluation.num_fid_images / _IMAGES_PER_SECOND


_SIZES = (*ROLLOUT_SIZES, "num_fid_images")
METRIC = Metric(
    "fid",
    {
        "fid": Column(
            "FID",
            "lower",
            low=0.0,
            counted=("fid_images",),
            definition="Fréchet distance of Inception-v3 (2015) features. It is biased by the number of images, so compare at equal "
            "`fid_images` only. Fewer than 2048 images are refused",
            headline=True,
            compared=True,
            drawn=True,
            sizes=_SIZES,
        ),
        "kid": Column(
            "KID",
            "lower",
            counted=("fid_images",),
            definition="unbiased MMD² of the same features, cubic kernel; may be slightly negative",
            headline=True,
            sizes=_SIZES,
        ),
        "fid_images": Column("images of FID", definition="images on each side", headline=True, sizes=("num_fid_images",)),
    },
    _open,
    _reduce,
    weights="inception",
    inputs={"true_features": _features},
    check=_check,
    seconds=_seconds,
    part_bytes=lambda evaluation: 1.0 * FEATURE_BYTES * evaluation.num_fid_images,
)
