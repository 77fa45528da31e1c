"""All columns of the results table with title, unit and better side, from the metrics' headers and from other values that jobs record."""

from dataclasses import replace
from typing import TYPE_CHECKING

from diamond_bench.errors import joined
from diamond_bench.metrics import all_metrics
from diamond_bench.metrics.header import Column

if TYPE_CHECKING:
    import pandas as pd

_RECORDED: dict[str, Column] = {
    "train_loss": Column("training loss", low=0.0, definition="mean loss over the last logged updates; not comparable between objectives"),
    "dataset_return": Column(
        "return of the dataset",
        unit="game score",
        of_game=True,
        definition="of the dataset: mean return of its whole games; no row where it has none",
    ),
    "test_return": Column("return", "higher", "game score", protocol="agent", of_game=True, headline=True, compared=True),
    "hns": Column("human-normalised score", "higher", protocol="agent", headline=True, compared=True),
    "normalised_return": Column(
        "normalised return",
        "higher",
        protocol="agent",
        headline=True,
        compared=True,
        definition="reward per step, scaled so that random play has 0 and the best policy that knows the state has 1",
    ),
    "test_length": Column("episode length", unit="steps", protocol="agent", low=0.0, headline=True),
    "real_steps": Column("real environment steps", protocol="agent", headline=True),
    "denoiser_loss": Column("denoising loss, last epoch", protocol="agent", low=0.0),
    "reward_end_loss": Column("reward/end loss, last epoch", protocol="agent", low=0.0),
    "reward_f1": Column("F1 of non-zero rewards, test episodes", "higher", protocol="agent", low=0.0, high=1.0),
    "end_f1": Column("F1 of ends, test episodes", "higher", protocol="agent", low=0.0, high=1.0),
    "nfe_per_frame": Column(
        "network calls a frame (NFE)",
        "lower",
        cost=True,
        low=0.0,
        headline=True,
        definition="network calls for one frame: of denoisers n, for Heun 2n - 1, with guidance twice that; do not compare families by it",
    ),
    "parameters": Column("parameters", cost=True, low=0.0, definition="trained parameters of all networks of the world model"),
    "frames_per_second": Column(
        "imagined frames a second", "higher", cost=True, low=0.0, headline=True, definition="measured: imagined frames a second of part 1"
    ),
    "imagination_seconds": Column("imagination", "lower", "s", cost=True, low=0.0, definition="measured: the time that part 1 took"),
    "training_seconds": Column(
        "training", "lower", "s", cost=True, low=0.0, definition="measured: time of the training, interruptions left out"
    ),
    "updates_per_second": Column("updates a second", "higher", cost=True, low=0.0, definition="measured: updates of the training a second"),
    "peak_memory_mb": Column(
        "peak memory",
        "lower",
        "MB",
        cost=True,
        low=0.0,
        definition="measured: most memory held at once by the evaluation: tensors on a GPU, the whole process on the CPU",
    ),
}
"""Values that jobs record in addition to their metrics."""
_RECORDED_BY = {
    **dict.fromkeys(("train_loss", "training_seconds", "updates_per_second"), "training"),
    "dataset_return": "dataset of whole games",
}
"""The jobs that record such a value, if they are not the evaluations of world models."""


def _of_metrics() -> dict[str, Column]:
    found: dict[str, Column] = {}
    for metric in all_metrics().values():
        for name, column in metric.columns.items():
            needs = column.needs or ((*found[name].needs, metric.name) if name in found else (metric.name,) if metric.asked else ())
            found[name] = replace(column, needs=needs)
    return found


METRIC_INFO: dict[str, Column] = {**_of_metrics(), **_RECORDED}
"""All columns, in the order of the report."""


def headlines() -> tuple[str, ...]:
    """The columns that are shown first. The whole table is in results.parquet and in the output of `results --csv`."""
    return tuple(name for name, column in METRIC_INFO.items() if column.headline)


def result_metrics(protocol: str) -> tuple[str, ...]:
    """The metrics that a study of this protocol may choose for its primary comparison."""
    return tuple(name for name, column in METRIC_INFO.items() if column.protocol == protocol)


def measured_with(name: str) -> tuple[str, ...]:
    """The metrics of which an evaluation must measure one, so that its results contain the number `name`. Empty if every evaluation has
    it."""
    return METRIC_INFO[name].needs if name in METRIC_INFO else ()


def source_of(name: str) -> str:
    """A clause that names the metric behind a column. Empty if `name` is no column of an evaluation."""
    if name in _RECORDED and METRIC_INFO[name].protocol == "world_model":
        return f"every {_RECORDED_BY.get(name, 'evaluation that imagines frames')} records this column, so leave it out"
    if needs := measured_with(name):
        return f"it is a column of the metric {' or '.join(needs)}, so write metrics=[...,{needs[0]}]"
    always = [metric.name for metric in all_metrics().values() if name in metric.columns]
    return f"it is a column of {always[0]}, which every evaluation measures" if always else ""


def columns_of(name: str) -> str:
    """A clause that names the columns of a metric. Empty if `name` is no metric."""
    metric = all_metrics().get(name)
    if metric is None:
        return ""
    return (
        f"it is a metric, and its columns are {joined(list(dict.fromkeys(c.listed_as or column for column, c in metric.columns.items())))}"
    )


def inputs_of(name: str) -> tuple[str, ...]:
    """The artifacts, by role, from which the column `name` is measured, in addition to the dataset and the world model."""
    return tuple(dict.fromkeys(role for metric in measured_with(name) for role in all_metrics()[metric].inputs))


def unused_settings(name: str) -> frozenset[str]:
    """Keys of `answerable.measured_settings` that cannot change the number `name`, such as `evaluation.horizon` or the job `true_features`.

    Empty for a cost and for a number that METRIC_INFO lacks.
    """
    if name not in METRIC_INFO or METRIC_INFO[name].cost or METRIC_INFO[name].protocol != "world_model":
        return frozenset()
    sizes = {size for column in METRIC_INFO.values() for size in column.sizes} - {*METRIC_INFO[name].sizes}
    roles = {role for metric in all_metrics().values() for role in metric.inputs} - {*inputs_of(name)}
    return frozenset({*(f"evaluation.{size}" for size in sizes), *roles})


def pools(name: str) -> bool:
    """Whether a number may cover several games: human-normalised scores may, raw game scores may not."""
    return name not in METRIC_INFO or not METRIC_INFO[name].of_game


def metric_label(name: str) -> str:
    """The label of a metric on axes and in columns. A metric that the table lacks is labelled with its own name."""
    return METRIC_INFO[name].label if name in METRIC_INFO else name


def within_bounds(means: "pd.DataFrame") -> "pd.DataFrame":
    """Means with intervals (columns metric, mean, low, high), clipped to the metric's range, but never beyond the mean."""
    known = {name: METRIC_INFO[name] for name in set(means["metric"]) if name in METRIC_INFO}
    lows = means["metric"].map({name: column.low for name, column in known.items() if column.low is not None}).astype("float64")
    highs = means["metric"].map({name: column.high for name, column in known.items() if column.high is not None}).astype("float64")
    low, high = means["low"].clip(lower=lows), means["high"].clip(upper=highs)
    return means.assign(low=low.clip(upper=means["mean"]), high=high.clip(lower=means["mean"]))  # a mean may exceed a bound by rounding


def comparable(name: str, values: "pd.Series[float]") -> "tuple[pd.Series[float], bool] | None":
    """Values for a comparison, and whether higher is better. None if the metric has no better side.

    If the best value is 1, the comparison uses the distance to it, and lower is better.
    """
    better = METRIC_INFO[name].better if name in METRIC_INFO else ""
    if not better:
        return None
    return ((values - 1.0).abs(), False) if better == "near 1" else (values, better == "higher")
