"""The margin of a study: the smallest difference that matters, absolute or as a share of copy-last-frame's error. Without torch and
pandas."""

import math
import re
from dataclasses import dataclass

from diamond_bench.errors import UserError
from diamond_bench.metrics.columns import METRIC_INFO

COPYABLE = tuple(name for name, column in METRIC_INFO.items() if column.copyable)
"""Errors that copy-last-frame also has, so that a margin may be a share of its error."""
LARGEST_SHARE = 0.5
"""Maximum margin as a share of copy-last-frame's error."""
_COPY = "copy-last-frame's error"


@dataclass(frozen=True)
class Margin:
    """The smallest difference that matters."""

    value: float
    """In the metric's unit, at least 0. For a relative margin a share, 0.1 for 10%."""
    relative: bool = False
    """Whether the margin is a share of copy-last-frame's error for the same game and horizon."""

    def plain(self) -> float | str:
        """The margin in JSON and YAML: 0.01 or "10%"."""
        return f"{self.value * 100:.12g}%" if self.relative else self.value

    def words(self) -> str:
        """The margin for people: "0.01" or "10% of copy-last-frame's error"."""
        return f"{self.plain()} of {_COPY}" if self.relative else f"{self.value:g}"


DEFAULT = Margin(0.1, relative=True)
"""The margin of the metrics in COPYABLE if a study's file states none."""


def parse_margin(value: object, where: str) -> Margin:
    """Parses a margin: a number from 0, or a text like "10%".

    `where` names the value in messages. Raises UserError for anything else, for NaN and infinity, and for a relative margin above
    LARGEST_SHARE.
    """
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*", value)
        if found:
            share = float(found[1]) / 100
            if share > LARGEST_SHARE:
                raise UserError(
                    f"{where}={value!r}: expected at most {LARGEST_SHARE:.0%}: half of {_COPY} is no small difference, and within such a "
                    "margin a good model and copying would be called equivalent"
                )
            return Margin(share, relative=True)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf:
        return Margin(float(value))
    raise UserError(f"{where}={value!r}: expected a number, at least 0, in the metric's unit, or a share of {_COPY} such as '10%'")


def stated_margin(metric: str, value: object, where: str) -> Margin:
    """The margin that a study's file states for its primary metric. `value` is None if it states none.

    The default is DEFAULT for the metrics in COPYABLE and 0 for the others. Raises UserError, see `parse_margin`, and also for a relative
    margin of a metric that is not in COPYABLE.
    """
    if value is None:
        return DEFAULT if metric in COPYABLE else Margin(0.0)
    margin = parse_margin(value, where)
    if margin.relative and metric not in COPYABLE:
        raise UserError(
            f"{where}={value!r}: {metric} has no copy-last-frame error to take a share of (only {', '.join(COPYABLE)} have); "
            "write a number in the metric's unit"
        )
    return margin
