"""The published methods of the paper's score tables: where their scores are from, and what the paper printed under them."""

from collections.abc import Sequence
from dataclasses import dataclass

from diamond_bench.errors import UserError, nearest

TABLE1, TABLE6, TABLE7 = (f"DIAMOND paper Table {n}" for n in (1, 6, 7))
_IRIS_REPO = "IRIS repo results/data"
SUPERHUMAN, MEAN, IQM = "superhuman", "mean", "iqm"


@dataclass(frozen=True)
class Method:
    """One method: the source of its cells (a number a game), that of its runs where they are published, the aggregates as printed."""

    name: str
    cells: str
    runs: str
    """Source of one score a run; empty where only means were published."""
    superhuman: int | None = None
    mean: float | None = None
    iqm: float | None = None
    iqm_of_means: bool = False
    """The printed IQM is that of the 26 game means, which is another quantity than that of all runs."""

    @property
    def printed(self) -> dict[str, float | None]:
        """The aggregates printed in the DIAMOND paper."""
        return {SUPERHUMAN: self.superhuman, MEAN: self.mean, IQM: self.iqm}


DIAMOND = Method("DIAMOND", TABLE1, "DIAMOND repo results/data", 11, 1.459, 0.641)
WORLD_MODELS = (
    Method("SimPLe", TABLE1, _IRIS_REPO, 1, 0.332, 0.130),
    Method("TWM", TABLE1, "", 8, 0.956, 0.459),
    Method("IRIS", TABLE1, _IRIS_REPO, 10, 1.046, 0.501),
    Method("DreamerV3", TABLE1, "DreamerV3 repo scores 2023-05 (last point)", 9, 1.097, 0.497),
    Method("STORM", TABLE1, "STORM repo results", 10, 1.266, 0.636),
    DIAMOND,
)
"""Table 1."""
OTHERS = (
    Method("MuZero", TABLE6, "", 5, 0.562, 0.288, iqm_of_means=True),
    Method("EfficientZero", TABLE6, "", 14, 1.943, 1.047, iqm_of_means=True),
    Method("CURL", TABLE6, _IRIS_REPO, 2, 0.261, 0.113),
    Method("SPR", TABLE6, _IRIS_REPO, 6, 0.616, 0.337),
    Method("SR-SPR", TABLE6, "", 9, 1.271, 0.700, iqm_of_means=True),
    Method("BBF", TABLE6, "", 12, 2.247, 1.139, iqm_of_means=True),
)
"""Table 6, which repeats DIAMOND."""
ONE_STEP = Method("DIAMOND (n=1)", TABLE7, "", None, 1.962, None)
"""Table 7, ten games; the mean of the same games is 3.052 with three steps."""
_HARMONY_REPO = "HarmonyDream repo dreamerv3-jax/scores"
MORE_RUNS = (
    Method("DrQ(eps)", "", _IRIS_REPO),
    Method("Delta-IRIS", "", "Delta-IRIS repo results"),
    Method("TWM", "", "TWM repo results"),
    Method("REM", "", "REM repo results/data"),
    Method("Simulus", "", "Simulus repo results/data/atari"),
    Method("DreamerV3 (HarmonyDream reproduction)", "", _HARMONY_REPO),
    Method("HarmonyDream (DreamerV3)", "", _HARMONY_REPO),
)
"""Published run by run, but not in the paper (which has means of TWM). Wider comparisons show them, and others where `--method` asks."""
WITH_RUNS = (*(m for m in (*WORLD_MODELS, *OTHERS) if m.runs), *MORE_RUNS)
ALL_RUNS = (*(m for m in (*WORLD_MODELS, *OTHERS) if m.runs or m.name not in {more.name for more in MORE_RUNS}), *MORE_RUNS)
"""Every method once, by its runs where any source has them."""

KNOWN = tuple(dict.fromkeys(m.name for m in (DIAMOND, *WORLD_MODELS, *OTHERS, *MORE_RUNS)))
"""The name of every method once. A method's place decides how it looks in every figure."""


def asked_for(names: Sequence[str]) -> tuple[tuple[Method, ...], tuple[str, ...]]:
    """The methods outside the paper that `--method` names, and those of the names that have curves of training episodes alone.

    Raises UserError for a name that is neither.
    """
    from analysis.score_curves import training_only

    more, curves = {method.name: method for method in MORE_RUNS}, training_only()
    for name in names:
        if name not in more and name not in curves:
            raise UserError(f"--method {name}: unknown published method: {nearest(name, [*more, *curves])}")
    wanted = dict.fromkeys(names)
    return tuple(more[name] for name in wanted if name in more), tuple(name for name in wanted if name in curves)
