"""FVD (Unterthiner et al. 2018) as in StyleGAN-V, and KVD: I3D features of imagined clips compared with those of true ones."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diamond_bench.config import EvaluationConfig, ExecutionConfig, RunConfig
from diamond_bench.errors import UserError
from diamond_bench.metrics.baselines import COPY_LAST, FROZEN_FIRST, RECONSTRUCTED, SHUFFLED_TIME, TRUE_FRAMES
from diamond_bench.metrics.header import Column
from diamond_bench.metrics.metric import Metric
from diamond_bench.models.i3d_cost import LOGITS, MIN_FRAMES, i3d_cost
from diamond_bench.store.kinds import ExtractClipFeatures
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from analysis.aggregates import Estimate
    from diamond_bench.metrics.play import Arrays, Batch, Measured, Meter, Setting

MIN_CLIPS = LOGITS + 1
"""With fewer, the covariance of the features is singular."""
ENOUGH_CLIPS = 1024
"""The number of the paper. FVD of fewer clips is marked as biased."""
KERNEL = "bilinear"
"""The kernel that resizes frames to those of I3D."""
FEATURES_FILE = "clip_features.npz"
"""The artifact of a job `extract_clip_features`."""
FEATURE_BYTES = LOGITS * 4
REFERENCES = {"other": TRUE_FRAMES, "copied": COPY_LAST, "frozen": FROZEN_FIRST, "shuffled": SHUFFLED_TIME}
"""Baselines whose clips depend on no model, by their array of features."""
_BATCH = 4
"""Clips per unit of progress."""
_FLOPS_PER_SECOND = 6e10
"""Speed of I3D on two CPU cores."""


def load_clip_features(folder: Path, weights: str = "") -> Mapping[str, NDArray[Any]]:
    """The arrays that `extract_clip_features` wrote to `folder` (jobs/extract_clip_features.py).

    Raises UserError if they cannot be read, or were computed with a weights file other than the one whose SHA-256 is `weights`.
    """
    from diamond_bench.store.files import read_arrays

    file = folder / FEATURES_FILE
    try:
        stored = read_arrays(file)
        found = str(stored["weights"])
        stored = {name: stored[name] for name in ("true", *REFERENCES, "episodes", "other_episodes")}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} cannot be read ({error}); remove {folder} and run the sweep again") from error
    if weights and found != weights:
        raise UserError(
            f"{file}: its features were computed with the weights {found}, this machine has {weights}; use the same file of weights "
            f"(`diamond-bench weights list` shows it), or remove {folder} and run the sweep again"
        )
    return stored


def open_clips(setting: "Setting") -> "Meter":
    """Measures the features of each rollout's first `evaluation.clip_frames` frames: an array (n, 400)."""
    from diamond_bench.metrics import perceptual
    from diamond_bench.metrics.play import Meter

    network = perceptual.i3d_features(setting.device)
    load_clip_features(setting.inputs["true_clips"], network.sha256)  # refuses other weights before any imagination
    length = setting.evaluation.clip_frames

    def measure(batch: "Batch") -> "Arrays":
        if batch.kind != "rollouts" or batch.shown not in ("", "reconstructed"):
            return {}
        out = []
        for clips in batch.frames[:, :length].split(_BATCH):
            out.append(network(clips).cpu().numpy())
            batch.tick()
        return {"clip_features": np.concatenate(out)}

    return Meter(measure, network.sha256, lambda rows: -(-len(rows) // _BATCH))


Distance = Callable[[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]], float]
Interval = Callable[[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]], "Estimate"]


def distance_rows(name: str, distance: Distance, interval: Interval, measured: "Measured") -> list[Row]:
    """Rows of one distance: that of the imagined clips with its interval, if there is one, and those of the references.

    Both functions take features (n, 400) of two sets of clips, and the episodes (n,) of each.
    """
    stored = load_clip_features(measured.inputs["true_clips"])
    true, episodes = stored["true"], stored["episodes"]
    found = interval(measured.rollouts["clip_features"], true, episodes, episodes)
    ends = {} if np.isnan(found.low) else {f"{name}_low": found.low, f"{name}_high": found.high}
    rows = [Row(name, found.value), *(Row(end, value) for end, value in ends.items())]
    for array, baseline in REFERENCES.items():
        of = stored["other_episodes"] if array == "other" else episodes
        rows.append(Row(name, distance(stored[array], true, of, episodes), baseline=baseline))
    if "clip_features" in (compressed := measured.shown("reconstructed")):
        rows.append(Row(name, distance(compressed["clip_features"], true, episodes, episodes), baseline=RECONSTRUCTED))
    return rows


def size_rows(measured: "Measured") -> list[Row]:
    """The number and the length of the clips, on which all distances depend."""
    e = measured.evaluation
    return [Row("clips", float(e.num_trajectories)), Row("clip_frames", float(e.clip_frames))]


def _reduce(measured: "Measured") -> Mapping[str, list[Row]]:
    from analysis.video_distance import frechet_interval, frechet_video_distance, kernel_interval, kernel_video_distance

    rows = distance_rows("fvd", lambda a, b, *_: frechet_video_distance(a, b), frechet_interval, measured)
    return {"after": [*rows, *distance_rows("kvd", kernel_video_distance, kernel_interval, measured), *size_rows(measured)]}


def clip_features(config: RunConfig, execution: ExecutionConfig) -> tuple[str, Any]:
    """The job that computes the features of true clips."""
    e = config.evaluation
    return "extract_clip_features", ExtractClipFeatures(e.seed, e.num_trajectories, e.clip_frames, execution)


def check_clips(config: RunConfig, title: str) -> None:
    """Raises UserError if clips are too short for the network or longer than a rollout, or if the training data hold too few."""
    e = config.evaluation
    if e.clip_frames < MIN_FRAMES:
        raise UserError(
            f"evaluation.clip_frames={e.clip_frames}: the network of {title} takes clips of at least {MIN_FRAMES} frames; set "
            f"evaluation.clip_frames={MIN_FRAMES} or more (16 is usual)",
            keys=("evaluation.clip_frames",),
        )
    if e.clip_frames > e.horizon:
        raise UserError(
            f"evaluation.horizon={e.horizon}: {title} needs clips of {e.clip_frames} frames (evaluation.clip_frames), which start at the "
            f"first imagined one; set evaluation.horizon={e.clip_frames} or more",
            keys=("evaluation.horizon", "evaluation.clip_frames"),
        )
    if e.num_trajectories < 2:
        raise UserError(
            f"evaluation.num_trajectories={e.num_trajectories}: {title} compares clips of several episodes; raise it",
            keys=("evaluation.num_trajectories",),
        )
    if (needed := e.num_trajectories * e.clip_frames) > config.data.num_train_frames:
        raise UserError(
            f"evaluation.num_trajectories={e.num_trajectories}: the floor of {title} takes as many clips of the training data, "
            f"{needed} frames, and there are {config.data.num_train_frames} (data.num_train_frames); raise that",
            keys=("evaluation.num_trajectories", "data.num_train_frames"),
        )


def _check(config: RunConfig) -> None:
    e, data = config.evaluation, config.data
    if e.num_trajectories < MIN_CLIPS:
        references = "" if data.num_references >= MIN_CLIPS else f" and data.num_references={MIN_CLIPS}"
        raise UserError(
            f"evaluation.num_trajectories={e.num_trajectories}: FVD needs at least {MIN_CLIPS} clips on each side, one per trajectory "
            f"(with fewer, the covariance of its {LOGITS} features is singular); set evaluation.num_trajectories={MIN_CLIPS}{references} "
            "or more, or measure the metric kvd instead, which has no such bias",
            keys=("evaluation.num_trajectories", "data.num_references"),
        )
    check_clips(config, "FVD")


def clip_seconds(evaluation: EvaluationConfig) -> float:
    """Seconds of I3D for the imagined clips."""
    return evaluation.num_trajectories * i3d_cost(evaluation.clip_frames).flops / _FLOPS_PER_SECOND


SIZES = ("num_trajectories", "clip_frames")
_COUNTED = ("clips", "clip_frames")
_JACKKNIFE = "95% interval over held-out episodes, from a jackknife that leaves one out at a time. No row with fewer than 20 episodes"
KVD_COLUMNS = {
    "kvd": Column(
        "KVD",
        "lower",
        counted=_COUNTED,
        definition="unbiased MMD² of the same features, cubic kernel, over pairs of clips of different episodes; may be slightly negative",
        headline=True,
        sizes=SIZES,
    ),
    "kvd_low": Column("KVD, lower end", definition=_JACKKNIFE, detail=True, sizes=SIZES),
    "kvd_high": Column("KVD, upper end", definition=_JACKKNIFE, detail=True, sizes=SIZES),
    "clips": Column("clips", definition="clips on each side", headline=True, sizes=("num_trajectories",)),
    "clip_frames": Column("frames a clip", definition="frames of each clip, from the first imagined one", sizes=("clip_frames",)),
}
METRIC = Metric(
    "fvd",
    {
        "fvd": Column(
            "FVD",
            "lower",
            low=0.0,
            counted=_COUNTED,
            biased_below=ENOUGH_CLIPS,
            definition=f"Fréchet distance of the 400 logits of I3D (Kinetics-400), frames resized to 224 x 224 ({KERNEL}), covariances "
            f"divided by the number of clips, as in StyleGAN-V. It is biased by that number, so compare at equal `clips` and "
            f"`clip_frames` only. Fewer than {MIN_CLIPS} clips are refused, and fewer than {ENOUGH_CLIPS} get a note",
            headline=True,
            compared=True,
            drawn=True,
            sizes=SIZES,
        ),
        "fvd_low": Column("FVD, lower end", low=0.0, definition=_JACKKNIFE, detail=True, sizes=SIZES),
        "fvd_high": Column("FVD, upper end", low=0.0, definition=_JACKKNIFE, detail=True, sizes=SIZES),
        **KVD_COLUMNS,
    },
    open_clips,
    _reduce,
    weights="i3d",
    inputs={"true_clips": clip_features},
    check=_check,
    seconds=clip_seconds,
    part_bytes=lambda evaluation: 1.0 * FEATURE_BYTES * evaluation.num_trajectories,
)
