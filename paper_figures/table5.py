"""Table 5: where the time of a training goes, as the paper measured it."""

from paper_figures.parts import Inputs, Lack, Made, paper_source
from paper_figures.tables import Head, Table, Value, number, words

_ROWS: tuple[tuple[str, Value, str], ...] = (
    ("One update of the denoiser", 88.0, "ms"),
    ("One update of the reward/end model", 115.0, "ms"),
    ("One update of the actor-critic", 340.0, "ms"),
    ("  of which 15 imagination steps, each", 20.4, "ms"),
    ("    next frame", 12.7, "ms"),
    ("      of which 3 denoising steps, each", 4.2, "ms"),
    ("    reward and end", 7.0, "ms"),
    ("    action", 0.7, "ms"),
    ("  of which loss and backward", 34.0, "ms"),
    ("One epoch", 217.0, "s"),
    ("One run", 2.9, "days"),
)


def make(inputs: Inputs) -> Made:
    """The printed numbers. A column of one's own needs a profile of a training, which no job measures yet."""
    rows = []
    for what, value, unit in _ROWS:
        level = (len(what) - len(what.lstrip())) // 2
        rows.append((words("– " * level + what.strip()), number(float(value or 0.0), 1 if unit != "s" else 0), words(unit)))
    heads = (Head("What"), Head("RTX 4090\n(as printed)", "printed_rtx_4090"), Head("Unit"))
    notes = ("An epoch has 400 updates of each of the three networks. The parts are printed rounded and do not add up exactly.",)
    lack = Lack("a column of this machine: no kind of job profiles a training by part yet")
    return Made(table=Table(heads, tuple(rows), frozenset({9}), notes), sources=(paper_source("Table 5"),), lacks=(lack,))
