"""The metrics of an evaluation. Each metric is one file, and this is their registry. Planning imports the headers, which need no torch."""

import importlib
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diamond_bench.metrics.metric import Metric

METRICS: dict[str, str] = {
    "one_step": "diamond_bench.metrics.one_step:METRIC",
    "drift": "diamond_bench.metrics.drift:METRIC",
    "low_resolution_drift": "diamond_bench.metrics.low_resolution:METRIC",
    "psnr": "diamond_bench.metrics.psnr:METRIC",
    "ssim": "diamond_bench.metrics.ssim:METRIC",
    "lpips": "diamond_bench.metrics.lpips:METRIC",
    "lpips_vgg": "diamond_bench.metrics.lpips_vgg:METRIC",
    "proper_scores": "diamond_bench.metrics.proper_scores:METRIC",
    "state": "diamond_bench.metrics.state:METRIC",
    "pose": "diamond_bench.metrics.pose:METRIC",
    "action_gain": "diamond_bench.metrics.action_gain:METRIC",
    "action_accuracy": "diamond_bench.metrics.action_accuracy:METRIC",
    "action_sensitivity": "diamond_bench.metrics.action_sensitivity:METRIC",
    "memory_gain": "diamond_bench.metrics.memory_gain:METRIC",
    "idle_decay": "diamond_bench.metrics.idle_decay:METRIC",
    "outcomes": "diamond_bench.metrics.outcomes:METRIC",
    "modes": "diamond_bench.metrics.modes:METRIC",
    "fid": "diamond_bench.metrics.fid:METRIC",
    "kid": "diamond_bench.metrics.kid:METRIC",
    "fvd": "diamond_bench.metrics.fvd:METRIC",
    "kvd": "diamond_bench.metrics.kvd:METRIC",
    "code_usage": "diamond_bench.metrics.code_usage:METRIC",
    "sharpness": "diamond_bench.metrics.sharpness:METRIC",
}
""""module:object" of each metric's header (metric.Metric) by name, in the order of tables, figures and docs."""


@cache
def all_metrics() -> dict[str, "Metric"]:
    """All headers, in the order of the registry."""
    found = {}
    for name, place in METRICS.items():
        module, _, attribute = place.partition(":")
        found[name] = getattr(importlib.import_module(module), attribute)
    return found


def selectable() -> tuple[str, ...]:
    """The metrics that `evaluation.metrics` may name."""
    return tuple(name for name, metric in all_metrics().items() if metric.asked)


def measured(asked: tuple[str, ...]) -> dict[str, "Metric"]:
    """The metrics that an evaluation measures if these are requested, in the order of the registry."""
    return {name: metric for name, metric in all_metrics().items() if name in asked or metric.always or not metric.asked}
