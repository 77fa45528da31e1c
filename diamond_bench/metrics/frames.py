"""Metrics that compare an imagined frame with the true one. A function of pairs of frames defines all of their columns."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from diamond_bench.config import EvaluationConfig, RunConfig
from diamond_bench.errors import UserError
from diamond_bench.metrics.baselines import COPY_LAST, RECONSTRUCTED, UNRELATED
from diamond_bench.metrics.header import ROLLOUT_SIZES, SAMPLE_SIZES, Column, Figure, PerReference, pairs_compared
from diamond_bench.metrics.metric import Metric
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from torch import Tensor

    from diamond_bench.metrics.play import Arrays, Batch, Measured, Meter, Setting

Score = Callable[["Tensor", "Tensor"], "Tensor"]
"""A metric of pairs: imagined and true frames, both (n, 3, h, w) uint8 -> (n,)."""
_CHUNK = 512


def pair_scores(scores: Mapping[str, Score], imagined: "Tensor", true: "Tensor") -> "Arrays":
    """Scores of imagined against true frames, both (n, t, 3, h, w) uint8 -> arrays (n, t) by name.

    Raises UserError if a score is not one number per pair of frames.
    """
    import torch

    from diamond_bench.models.precision import arithmetic

    found: dict[str, list[Tensor]] = {name: [] for name in scores}
    arithmetic(imagined.device.type, "fp32")  # SSIM convolves, and an earlier network may have left TF32 enabled
    for a, b in zip(imagined.flatten(0, 1).split(_CHUNK), true.flatten(0, 1).split(_CHUNK), strict=True):
        for name, score in scores.items():
            numbers = score(a, b)
            if numbers.shape != (len(a),):
                raise UserError(
                    f"metric {name}: its function returned the shape {tuple(numbers.shape)} for {len(a)} pairs of frames; "
                    f"return one number per pair, the shape ({len(a)},)"
                )
            found[name].append(numbers)
    return {name: torch.cat(parts).double().reshape(imagined.shape[:2]).cpu().numpy() for name, parts in found.items()}


def measure_pairs(scores: Mapping[str, Score], batch: "Batch") -> "Arrays":
    """Arrays (n, t) of rollouts and baselines. For samples, means over t, (n, K)."""
    if batch.kind == "samples":
        n, k = batch.frames.shape[:2]
        errors = pair_scores(scores, batch.frames.flatten(0, 1), batch.play.repeated(k).true)
        return {name: values.mean(axis=1).reshape(n, k) for name, values in errors.items()}
    if batch.kind == "rollouts" and batch.shown != "true":
        return pair_scores(scores, batch.frames, batch.play.true)
    return {}


def of_frames(
    name: str,
    column: Column,
    score: Score | None = None,
    *,
    network: "Callable[[Setting], tuple[Score, str]] | None" = None,
    of_mean: Callable[[float], float] | None = None,
    array: str = "",
    weights: str = "",
    always: bool = False,
    check: Callable[[RunConfig], None] = lambda config: None,
    seconds: Callable[[EvaluationConfig], float] | None = None,
    pairs_per_second: float | None = None,
    curve: str = "",
) -> Metric:
    """A metric of pairs of frames: its mean over trajectories and t, its mean at the last t, and best and mean of K samples.

    Args:
        name: its name in `evaluation.metrics`, in the results and of its array.
        column: the column of its mean over trajectories and t. The other columns are derived from it.
        score: the function of pairs, or
        network: a function that loads one, and also returns the SHA-256 of its weights.
        of_mean: maps a mean of scores to the reported number, such as a mean squared error to PSNR. Such a column is no mean over
            references.
        array: name of its array, by default its own name.
        pairs_per_second: pairs of 64 x 64 frames that two CPU cores compare per second, if that matters for an estimate.
        curve: the title of a figure of its array against t in reports, or empty.
    """
    array = array or name

    def open_(setting: "Setting") -> "Meter":
        from diamond_bench.metrics.play import Meter

        assert score is not None or network is not None
        function, sha256 = network(setting) if network is not None else (score, "")
        assert function is not None
        return Meter(lambda batch: measure_pairs({array: function}, batch), sha256)

    def row(part: str, values: NDArray[Any], baseline: str = "") -> Row:
        mean = float(values.mean())
        return Row(f"{name}{part}", mean if of_mean is None else of_mean(mean), baseline=baseline)

    def reduce(measured: "Measured") -> dict[str, list[Row]]:
        found = {}
        for stage, shown, baseline in _STAGES:
            errors = measured.shown(shown)
            if array in errors:
                found[stage] = [row("", errors[array], baseline), row("_final", errors[array][:, -1], baseline)]
        if array not in measured.samples:
            return found
        k = measured.samples[array]
        least = (column.better == "higher") == (of_mean is not None)  # PSNR is best where its squared error is least
        best = k.min(axis=1) if least else k.max(axis=1)
        return {**found, "samples": [row("_best_of_k", best), row("_mean_of_k", k)]}

    rate = pairs_per_second
    return Metric(
        name,
        _columns(name, column, None if of_mean else array),
        open_,
        reduce,
        always=always,
        play=("rollouts", "samples"),
        spares=("samples",),
        weights=weights,
        check=check,
        seconds=seconds or (lambda evaluation: pairs_compared(evaluation) / rate if rate else 0.0),
        figures=(Figure("curve", curve, name, array, name, _axis(column)),) if curve else (),
    )


def _axis(column: Column) -> str:
    return f"{column.title} ({column.unit})" if column.unit else column.title


_STAGES: tuple[tuple[str, Literal["", "copy", "unrelated", "reconstructed"], str], ...] = (
    ("rollouts", "", ""),
    ("reconstructed", "reconstructed", RECONSTRUCTED),
    ("copy", "copy", COPY_LAST),
    ("unrelated", "unrelated", UNRELATED),
)


def _columns(name: str, column: Column, array: str | None) -> dict[str, Column]:
    def values(over: Literal["mean", "last"]) -> PerReference | None:
        return None if array is None else PerReference(array, "episodes", over)

    detail = replace(column, detail=True, headline=False, compared=False, drawn=False)
    return {
        name: replace(column, sizes=ROLLOUT_SIZES, values=values("mean")),
        f"{name}_final": replace(detail, title=f"{column.title} at the last frame", sizes=ROLLOUT_SIZES, values=values("last")),
        f"{name}_best_of_k": replace(detail, title=f"{column.title}, best of K", sizes=SAMPLE_SIZES, copyable=False),
        f"{name}_mean_of_k": replace(detail, title=f"{column.title}, mean of K", sizes=SAMPLE_SIZES, copyable=False),
    }
