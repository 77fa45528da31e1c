"""Named choices of conf/ as the commands compose them."""

from typing import Any

from diamond_bench.compose import base
from diamond_bench.config import Objective, RunConfig, Sampler
from diamond_bench.typed import build


def _run(group: str, name: str, values: dict[str, Any]) -> RunConfig:
    composed = base(((group, name), ("scale", "paper")))
    return build(RunConfig, composed | {group: composed[group] | values})


def objective(name: str, **values: Any) -> Objective:
    """The objective of conf/objective/<name>.yaml, with some of its values changed."""
    return _run("objective", name, values).objective


def sampler(name: str, **values: Any) -> Sampler:
    """The sampler of conf/sampler/<name>.yaml, with some of its values changed (plain data)."""
    return _run("sampler", name, values).sampler
