"""The metrics' part of planning: refusals, required jobs, and cost. Without torch."""

import difflib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from diamond_bench.config import EvaluationConfig, ExecutionConfig, RunConfig
from diamond_bench.diffusion.schedules import check_closed_loop
from diamond_bench.errors import UserError, listed, nearest
from diamond_bench.metrics import all_metrics, measured, selectable
from diamond_bench.metrics.columns import METRIC_INFO, source_of
from diamond_bench.metrics.header import PLAYED, Play, without
from diamond_bench.metrics.metric import Metric
from diamond_bench.metrics.weights import fault_of, status_of


def check_metrics(config: RunConfig) -> None:
    """Raises UserError for unknown or repeated metrics, and for all that do not fit the config or the game."""
    metrics, refused = config.evaluation.metrics, dict[str, UserError]()
    check_names(metrics)
    for metric in measured(metrics).values():
        if metric.name in metrics or not metric.asked:
            try:
                metric.check(config)
                if any(kind in PLAYED for kind in metric.play):
                    check_closed_loop(config.sampler, f"the player of metric {metric.name}")
            except UserError as error:
                refused[metric.name] = error
    if refused:
        raise refusal(refused, metrics)


def check_names(metrics: Sequence[str]) -> None:
    """Raises UserError for names that `evaluation.metrics` may not contain, and for repeated ones."""
    unknown = {name: UserError(f"metrics: {_not_selectable(name)}") for name in metrics if name not in selectable()}
    if unknown:
        raise refusal(unknown, metrics)
    if twice := next((name for name in metrics if metrics.count(name) > 1), None):
        raise UserError(f"metrics: {twice} is given twice; use metrics=[{','.join(dict.fromkeys(metrics))}]")


def refusal(refused: Mapping[str, UserError], metrics: Sequence[str]) -> UserError:
    """One error for the refusals of several metrics, by their names, with the override that measures the others of `metrics`.

    There is no such override if a name is no metric: it is probably mistyped, and its message says what it may mean.
    """
    refused = {name: refused[name] for name in (*metrics, *refused) if name in refused}  # in the user's order
    lines = [str(error) for error in refused.values()]
    asked = [name for name in refused if name in metrics]
    if asked and refused.keys() <= all_metrics().keys():
        lines.append(f"To leave {listed(asked)} out, use {without(metrics, asked)}")
    text = ("\n" if len(refused) > 1 else ". ").join(lines)
    return UserError(text, keys=dict.fromkeys(key for error in refused.values() for key in error.keys))


def _not_selectable(name: str) -> str:
    if name in all_metrics():
        return f"{name} is measured wherever it can be, so it cannot be requested"
    return f"unknown metric {name!r}: {meant(name)}"


def meant(name: str) -> str:
    """A clause for a name that is no metric: the column that it is, or the nearest names that are valid."""
    return source_of(name) or _near_column(name) or nearest(name, selectable())


def _near_column(name: str) -> str:
    """A clause with the nearest column and its metric, if `name` is nearer to it than to every metric. Empty otherwise."""
    near = difflib.get_close_matches(name, [*selectable(), *METRIC_INFO], n=1, cutoff=0.8)
    source = source_of(near[0]) if near and near[0] not in selectable() else ""
    return f"did you mean {near[0]}? {source[0].upper()}{source[1:]}" if source else ""


def input_jobs(config: RunConfig, execution: ExecutionConfig) -> Iterator[tuple[str, str, Any]]:
    """(role, kind, config) of the jobs that create the metrics' required artifacts from the dataset."""
    for metric in measured(config.evaluation.metrics).values():
        for role, job in metric.inputs.items() if metric.name in config.evaluation.metrics else ():
            yield (role, *job(config, execution))


def roles() -> tuple[str, ...]:
    """All roles of such jobs."""
    return tuple(role for metric in all_metrics().values() for role in metric.inputs)


def measures(metrics: Sequence[str], play: Play) -> bool:
    """Whether an evaluation with these metrics imagines this kind of play."""
    return any(play in metric.play for metric in measured(tuple(metrics)).values())


def lacking(metric: Metric, plays: Collection[Play]) -> tuple[Play, ...]:
    """The kinds of play that a metric needs and that are not among `plays`."""
    return tuple(kind for kind in metric.play if kind not in plays and kind not in metric.spares)


def measuring_seconds(evaluation: EvaluationConfig) -> float:
    """Seconds of measurement on two CPU cores."""
    return sum(metric.seconds(evaluation) for metric in measured(evaluation.metrics).values())


def part_bytes(evaluation: EvaluationConfig) -> float:
    """Bytes of disk for the metrics' finished parts while the job runs, in addition to its curves and pictures."""
    return sum(metric.part_bytes(evaluation) for metric in measured(evaluation.metrics).values())


def require_weights(metrics: Sequence[str]) -> None:
    """Raises UserError for an unknown metric, and for missing or corrupt weights. Needs no torch, since planning calls it."""
    check_names(metrics)
    needed = {metric: status_of(name) for metric in metrics if (name := all_metrics()[metric].weights)}
    wanting = {metric: s for metric, s in needed.items() if s.state != "found"}
    if wanting:
        lines = [
            f"metric {metric} needs the weights {s.name}, which are {fault_of(s)}: get them with `{s.command}`"
            for metric, s in wanting.items()
        ]
        raise UserError("\n".join([*lines, f"To leave {listed([*wanting])} out, use {without(metrics, wanting)}"]))
