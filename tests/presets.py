"""Named choices of conf/ as the commands compose them."""

from itertools import zip_longest
from typing import Any

from diamond_bench.compose import base, groups
from diamond_bench.config import SAMPLERS, CascadeSampler, Objective, OpenLoopSampler, RunConfig, Sampler
from diamond_bench.typed import build

ONE_STAGE = [name for name, option in SAMPLERS.items() if not issubclass(option.settings_type(), CascadeSampler | OpenLoopSampler)]
"""Samplers of one frame. Those of a cascade are tested in test_cascade_parity.py, and those of a whole horizon in test_open_loop.py."""


def _run(group: str, name: str, values: dict[str, Any]) -> RunConfig:
    """The config with this choice. A composition takes 0.15 s, so one serves an objective and a sampler, which do not affect each other."""
    pairs = zip_longest(groups()["objective"], groups()["sampler"])
    pair = next(pair for pair in pairs if pair[group == "sampler"] == name)
    chosen = tuple((kind, option) for kind, option in zip(("objective", "sampler"), pair, strict=True) if option is not None)
    composed = base((*chosen, ("scale", "paper")))
    return build(RunConfig, composed | {group: composed[group] | values})


def objective(name: str, **values: Any) -> Objective:
    """The objective of conf/objective/<name>.yaml, with some of its values changed."""
    return _run("objective", name, values).objective


def sampler(name: str, **values: Any) -> Sampler:
    """The sampler of conf/sampler/<name>.yaml, with some of its values changed (plain data)."""
    return _run("sampler", name, values).sampler
