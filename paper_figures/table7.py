"""Table 7: DIAMOND with three denoising steps and with one, on the ten games where three do best."""

from dataclasses import replace

from paper_figures.columns import own, published
from paper_figures.methods import DIAMOND, MEAN, ONE_STEP
from paper_figures.parts import Inputs, Output
from paper_figures.score_tables import score_table

_TEN_GAMES_MEAN = 3.052


def make(inputs: Inputs) -> Output:
    """Three steps (Table 1's cells), one step, then the user's own."""
    one = published(ONE_STEP, iqm=False)
    ten = replace(DIAMOND, superhuman=None, mean=_TEN_GAMES_MEAN, iqm=None)
    columns = [replace(published(ten, iqm=False), label="DIAMOND\n(n=3)"), replace(one, label="DIAMOND\n(n=1)"), *own(inputs)]
    table = score_table(columns, sorted(one.cells), "Table 7", aggregates=(MEAN,))
    lack = inputs.lack("sampling_steps_agent", "several runs with one step", "table7", scale="paper")
    has = any(column.method is None for column in columns)
    return replace(table, lacks=() if has else (lack,))
