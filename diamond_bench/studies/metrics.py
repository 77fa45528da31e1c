"""The metrics: what an evaluation may be asked for, and of every number of the results table its title, unit and better side."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from diamond_bench.envs.ram_state import OBJECTS

if TYPE_CHECKING:
    import pandas as pd

METRICS: dict[str, str | None] = {
    "drift": None,
    "psnr": None,
    "ssim": None,
    "lpips": "lpips-alex",
    "lpips_vgg": "lpips-vgg",
    "fid": "inception",
    "modes": None,
    "state": None,
}
"""Those an evaluation may be asked for, each with the weights it needs (evaluation/weights.py). `lpips` is AlexNet's, `fid` is FID and
KID, `modes` is of the synthetic games, `state` of those whose memory is known."""

Better = Literal["higher", "lower", "near 1", ""]


@dataclass(frozen=True)
class Metric:
    """What a number of the results table is, for people and for comparisons."""

    title: str
    better: Better = ""
    """The better side; empty where there is none, and then it is in no comparison."""
    unit: str = ""
    protocol: str = "world_model"
    cost: bool = False
    """Whether it is a price (time, memory, size) and no quality."""
    of_game: bool = False
    """Whether its scale is the game's own: numbers of several games do not pool."""
    counted: str = ""
    """The metric that counts the images it is computed from, where its bias depends on their number: other numbers do not compare."""
    low: float | None = None
    """The least value it can have, where there is one; an interval ends there."""
    high: float | None = None
    """The greatest value it can have, where there is one; an interval ends there."""

    @property
    def label(self) -> str:
        """Title, unit and an arrow to the better side, as axes and columns show it."""
        unit = f" ({self.unit})" if self.unit else ""
        return f"{self.title}{unit}{ {'higher': ' ↑', 'lower': ' ↓'}.get(self.better, '') }"


def _of_frames() -> dict[str, Metric]:
    bases = {
        "drift": Metric("drift", "lower", "pixel error", low=0.0),
        "psnr": Metric("PSNR", "higher", "dB"),
        "ssim": Metric("SSIM", "higher", low=-1.0, high=1.0),
        "lpips": Metric("LPIPS, AlexNet", "lower", low=0.0),
        "lpips_vgg": Metric("LPIPS, VGG16", "lower", low=0.0),
    }
    parts = {"": "", "_final": " at the last frame", "_best_of_k": ", best of K", "_mean_of_k": ", mean of K"}
    return {
        f"{name}{part}": replace(metric, title=f"{metric.title}{words}") for name, metric in bases.items() for part, words in parts.items()
    }


def _of_states() -> dict[str, Metric]:
    things = dict.fromkeys(name for table in OBJECTS.values() for name in table)
    whose = {"": "", **{f"_{name}": f", {name}" for name in things}}
    bases = {
        "state_position_error": Metric("object position error", "lower", "pixels", low=0.0),
        "state_presence_error": Metric("objects lost or made up", "lower", low=0.0, high=1.0),
    }
    return {
        f"{base}{of}{part}": replace(metric, title=f"{metric.title}{thing}{words}")
        for base, metric in bases.items()
        for of, thing in whose.items()
        for part, words in {"": "", "_final": " at the last frame"}.items()
    }


METRIC_INFO: dict[str, Metric] = {
    "one_step_psnr": Metric("PSNR one step ahead", "higher", "dB"),
    **_of_frames(),
    "energy_score": Metric("energy score of sampled futures", "lower", "RMS pixel error"),
    "energy_score_lpips": Metric("energy score of sampled futures, sqrt(LPIPS)", "lower"),
    "luminance_crps": Metric("CRPS of block-mean luminance", "lower", "grey level, 0 to 1"),
    "rank_deviation": Metric("ranks of block-mean luminance, distance from uniform", "lower", "share", low=0.0, high=1.0),
    "state_crps": Metric("CRPS of object positions", "lower", "pixels"),
    "state_scored_share": Metric("objects found in all sampled futures", unit="share", low=0.0, high=1.0),
    "state_rank_deviation": Metric("ranks of object positions, distance from uniform", "lower", "share", low=0.0, high=1.0),
    "fid": Metric("FID", "lower", low=0.0, counted="fid_images"),
    "kid": Metric("KID", "lower", counted="fid_images"),
    "fid_images": Metric("images of FID"),
    **_of_states(),
    "probe_presence_accuracy": Metric("presence read rightly by the state probe", unit="share", low=0.0, high=1.0),
    "probe_position_median": Metric("state probe's position error, median", unit="pixels", low=0.0),
    "probe_position_95": Metric("state probe's position error, 95% below", unit="pixels", low=0.0),
    "sharpness_ratio": Metric("sharpness, imagined / true", "near 1", low=0.0),
    "noise_excess": Metric("noise, imagined minus true", unit="grey level, 0 to 1"),
    "mode_cramer_distance": Metric("Cramér distance to the true modes", "lower"),
    "mode_energy_distance": Metric("energy distance to the true next frames", "lower", "distance of the modes"),
    "mode_off_axis": Metric("distance from the axis of the modes (RMS)", "lower", "distance of the modes", low=0.0),
    "mode_commitment": Metric("commitment to a mode", "higher", high=1.0),
    "mode_minority_share": Metric("samples nearest to the less likely mode", unit="share", low=0.0, high=1.0),
    "mode_within_16th": Metric("samples within 1/16 of a mode", "higher", "share", low=0.0, high=1.0),
    "mode_within_8th": Metric("samples within 1/8 of a mode", "higher", "share", low=0.0, high=1.0),
    "mode_windows": Metric("windows of the modes"),
    "train_loss": Metric("training loss", low=0.0),
    "dataset_return": Metric("return of the dataset", unit="game score", of_game=True),
    "test_return": Metric("return", "higher", "game score", protocol="agent", of_game=True),
    "hns": Metric("human-normalised score", "higher", protocol="agent"),
    "test_length": Metric("episode length", unit="steps", protocol="agent", low=0.0),
    "real_steps": Metric("real environment steps", protocol="agent"),
    "denoiser_loss": Metric("denoising loss, last epoch", protocol="agent", low=0.0),
    "reward_end_loss": Metric("reward/end loss, last epoch", protocol="agent", low=0.0),
    "reward_f1": Metric("F1 of non-zero rewards, test episodes", "higher", protocol="agent", low=0.0, high=1.0),
    "end_f1": Metric("F1 of ends, test episodes", "higher", protocol="agent", low=0.0, high=1.0),
    "nfe_per_frame": Metric("denoiser calls a frame (NFE)", "lower", cost=True, low=0.0),
    "parameters": Metric("parameters", cost=True, low=0.0),
    "frames_per_second": Metric("imagined frames a second", "higher", cost=True, low=0.0),
    "imagination_seconds": Metric("imagination", "lower", "s", cost=True, low=0.0),
    "training_seconds": Metric("training", "lower", "s", cost=True, low=0.0),
    "updates_per_second": Metric("updates a second", "higher", cost=True, low=0.0),
    "peak_memory_mb": Metric("peak memory", "lower", "MB", cost=True, low=0.0),
}
"""Every metric of the results table, in the order of the report."""


def result_metrics(protocol: str) -> tuple[str, ...]:
    """The metrics that the primary comparison of a study of this protocol may be of."""
    return tuple(name for name, metric in METRIC_INFO.items() if metric.protocol == protocol)


def measured_with(name: str) -> str | None:
    """The metric an evaluation must be asked for so that its results hold the number `name`; None where every evaluation has it."""
    prefixes = {"kid": "fid", "mode_": "modes", "energy_score_lpips": "lpips", "probe_": "state", **{metric: metric for metric in METRICS}}
    found = [prefix for prefix in prefixes if name.startswith(prefix)]
    return prefixes[max(found, key=len)] if found else None


_ROLLOUTS, _SAMPLES = {"num_trajectories", "horizon"}, {"num_samples", "num_sample_starts", "sample_horizon"}
_SIZES = {*_ROLLOUTS, *_SAMPLES, "num_one_step", "num_fid_images"}
_OF_SAMPLES = ("energy_score", "luminance_crps", "rank_deviation", "state_crps", "state_scored_share", "state_rank_deviation")


def unused_settings(name: str) -> frozenset[str]:
    """Keys of `answerable.measured_settings` that cannot change the number `name`, such as `evaluation.horizon` or the job `true_features`.

    Empty for a cost and for a number that METRIC_INFO lacks.
    """
    if name not in METRIC_INFO or METRIC_INFO[name].cost or METRIC_INFO[name].protocol != "world_model":
        return frozenset()
    if name.startswith(_OF_SAMPLES) or name.endswith(("_best_of_k", "_mean_of_k")):
        used = _SAMPLES
    elif name == "one_step_psnr":
        used = {"num_one_step"}
    elif name.startswith("mode_"):
        used = {"num_one_step", "num_samples"}
    else:
        used = {*_ROLLOUTS, "num_fid_images"} if measured_with(name) == "fid" else _ROLLOUTS
    unused = {f"evaluation.{setting}" for setting in _SIZES - used}
    return frozenset(unused if measured_with(name) == "fid" else {*unused, "true_features"})


def pools(name: str) -> bool:
    """Whether one number may speak of several games: game scores may not, human-normalised ones may."""
    return name not in METRIC_INFO or not METRIC_INFO[name].of_game


def metric_label(name: str) -> str:
    """How axes and columns call a metric; one that the table lacks, by its own name."""
    return METRIC_INFO[name].label if name in METRIC_INFO else name


def within_bounds(means: "pd.DataFrame") -> "pd.DataFrame":
    """Means with intervals (columns metric, mean, low, high), cut where the metric's values end, but never before the mean."""
    known = {name: METRIC_INFO[name] for name in set(means["metric"]) if name in METRIC_INFO}
    lows = means["metric"].map({name: metric.low for name, metric in known.items() if metric.low is not None}).astype("float64")
    highs = means["metric"].map({name: metric.high for name, metric in known.items() if metric.high is not None}).astype("float64")
    low, high = means["low"].clip(lower=lows), means["high"].clip(upper=highs)
    return means.assign(low=low.clip(upper=means["mean"]), high=high.clip(lower=means["mean"]))  # a mean may round past a bound


def comparable(name: str, values: "pd.Series[float]") -> "tuple[pd.Series[float], bool] | None":
    """Values as a comparison takes them, and whether higher is better; None where the metric has no better side.

    Where the best value is 1, the distance to it is compared: lower is better.
    """
    better = METRIC_INFO[name].better if name in METRIC_INFO else ""
    if not better:
        return None
    return ((values - 1.0).abs(), False) if better == "near 1" else (values, better == "higher")
