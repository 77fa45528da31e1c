"""One look for each variant of a study, in all its figures."""

from typing import TYPE_CHECKING

from diamond_bench.studies.answerable import baselines
from diamond_bench.studies.plan import Point, SavedPlan

if TYPE_CHECKING:
    from analysis.looks import Style

_STEPS = "sampler.num_steps"


def variant_looks(plan: SavedPlan) -> "dict[str, Style]":
    """The look of every variant of a plan: arms and axes have a colour each, and numbers of denoising steps (or the values of the first
    axis, if they are numbers) have a shade and marker each. Baselines of the study's comparison are marked."""
    from analysis.looks import crossed_styles

    inner = _inner_axis(plan)
    cells = {point.variant: (_line(point, inner), point.axes.get(inner) if inner else None) for point in plan.points}
    return crossed_styles(cells, baseline_names(plan))


def baseline_names(plan: SavedPlan) -> set[str]:
    """The variants that others are compared with."""
    return set(baselines(plan.points, plan.axes, plan.primary.get("baseline", {})).values())


def _inner_axis(plan: SavedPlan) -> str | None:
    steps = next((name for name, axis in plan.axes.items() if axis["key"] == _STEPS), None)
    if steps is not None:
        return steps
    first = next(iter(plan.axes), None)
    numeric = first is not None and all(isinstance(point.axes[first], (int, float)) for point in plan.points)
    return first if numeric else None


def _line(point: Point, inner: str | None) -> str:
    return str([point.arm, *(value for name, value in point.axes.items() if name != inner)])
