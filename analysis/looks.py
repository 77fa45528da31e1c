"""How variants and methods look in figures: they differ in colour and marker for readers of every colour vision, and in print."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
"""Colours that people of every colour vision can tell apart (Okabe and Ito, Color Universal Design, 2008)."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*", "h", "d")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
MAX_LOOKS = len(OKABE_ITO) * len(MARKERS)
"""Names that can have different looks in one figure. The numbers of colours and markers share no factor, so no pair comes twice before."""
_DARKEST, _LIGHTEST = 0.35, 0.4
"""Share of black in the first shade of a colour, and of white in its last one."""


@dataclass(frozen=True)
class Style:
    """How one variant or method looks in every figure."""

    color: Any
    linestyle: Any
    marker: str
    baseline: bool = False
    """Whether the study compares other variants with it. Its markers have a black outline and its name says so."""

    @property
    def point(self) -> dict[str, Any]:
        """The options of `Axes.plot` for its markers."""
        edge = {"markeredgecolor": "black", "markeredgewidth": 1.2} if self.baseline else {}
        return {"color": self.color, "marker": self.marker, **edge}

    @property
    def line(self) -> dict[str, Any]:
        """The options of `Axes.plot` for its line with markers."""
        return {**self.point, "linestyle": self.linestyle}

    def label(self, name: str) -> str:
        """Its name in a legend."""
        return f"{name} (baseline)" if self.baseline else name


def styles(names: Sequence[str], ordered: bool = False) -> dict[str, Style]:
    """A look for each name, by its place: the colours of Okabe and Ito, or cividis from dark to light for `ordered` names.

    No two names share both colour and marker. Raises ValueError above MAX_LOOKS names.
    """
    names = list(dict.fromkeys(names))
    if len(names) > MAX_LOOKS:
        raise ValueError(f"{len(names)} names do not fit into one figure: there are {MAX_LOOKS} different looks")
    if ordered:
        colors: list[Any] = [matplotlib.colormaps["cividis"](place) for place in np.linspace(0.0, 0.85, len(names))]
    else:
        colors = [*OKABE_ITO] * len(MARKERS)
    return {name: Style(colors[i], LINES[i % len(LINES)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)}


def crossed_styles(cells: Mapping[str, tuple[str, Any]], baselines: Collection[str] = ()) -> dict[str, Style]:
    """A look for each variant of a study, the same in every figure of it.

    `cells` has the place of each variant: its line, and its step within the line (such as the number of denoising steps). Lines differ in
    colour, and steps of one line in shade and marker. Where lines have a single step each, their markers differ too. `baselines` are
    marked as such.
    """
    lines = list(dict.fromkeys(line for line, _ in cells.values()))
    steps = list(dict.fromkeys(step for _, step in cells.values()))
    if all(isinstance(step, (int, float)) for step in steps):
        steps = sorted(steps)
    found = {}
    for name, (line, step) in cells.items():
        i, k = lines.index(line), steps.index(step)
        if len(lines) == 1 and len(steps) > 1:
            color: Any = matplotlib.colormaps["cividis"](0.85 * k / (len(steps) - 1))
            mark = k
        elif len(steps) == 1:
            color, mark = OKABE_ITO[i % len(OKABE_ITO)], i
        else:
            color = _shade(OKABE_ITO[i % len(OKABE_ITO)], k / (len(steps) - 1))
            mark = k + len(steps) * (i // len(OKABE_ITO))
        linestyle = LINES[(i if len(steps) == 1 else k) % len(LINES)]
        found[name] = Style(color, linestyle, MARKERS[mark % len(MARKERS)], name in baselines)
    return found


def _shade(color: str, place: float) -> tuple[float, ...]:
    """A colour from dark (place 0) over itself to light (1); black has shades of grey."""
    rgb = np.asarray(to_rgb(color if color != "#000000" else "#595959"))
    mixed = rgb * (1 - _DARKEST * (1 - 2 * place)) if place < 0.5 else rgb + (1 - rgb) * _LIGHTEST * (2 * place - 1)
    return tuple(float(part) for part in mixed)
