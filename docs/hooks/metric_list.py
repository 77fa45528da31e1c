"""The list of all metrics in docs/metrics.md, from their registry. `python docs/hooks/metric_list.py` writes it."""

import importlib
from pathlib import Path

from diamond_bench.config import ExecutionConfig, RunConfig
from diamond_bench.metrics import METRICS, all_metrics
from diamond_bench.metrics.columns import METRIC_INFO
from diamond_bench.metrics.metric import Metric
from diamond_bench.metrics.weights import status_of

PAGE = Path(__file__).parents[1] / "metrics.md"
BEGIN, END = "<!-- Metrics: written by docs/hooks/metric_list.py -->", "<!-- End of the metrics -->"


def metric_list() -> str:
    """A table with a row for each metric: what it measures, its columns, and what it needs."""
    lines = ["| Metric | What it measures | Columns of the results table | Needs |", "| --- | --- | --- | --- |"]
    for name, metric in all_metrics().items():
        module = importlib.import_module(METRICS[name].partition(":")[0])
        first = (module.__doc__ or "").strip().splitlines()[0]
        columns = ", ".join(dict.fromkeys(f"`{column.listed_as or key}`" for key, column in metric.columns.items()))
        lines.append(f"| `{name}` | {first} | {columns} | {_needs(metric)} |")
    known = {key for metric in all_metrics().values() for key in metric.columns}
    recorded = ", ".join(f"`{key}`" for key, column in METRIC_INFO.items() if key not in known and column.protocol == "world_model")
    return "\n".join([*lines, f"| none | Numbers of the jobs themselves, such as costs. | {recorded} | always recorded |"])


def _needs(metric: Metric) -> str:
    """Commands for weights, and the kinds of jobs that a sweep adds."""
    found = [f"`{status_of(metric.weights).command}`"] if metric.weights else []
    found += [f"the job `{job(RunConfig(), ExecutionConfig())[0]}`" for job in metric.inputs.values()]
    return ", ".join([*found, *([] if metric.asked else ["always measured, cannot be requested"])]) or "-"


def render(page: str) -> str:
    """The page with the present list between its two marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{metric_list()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text()))
