"""Memory: how much better a model predicts what comes into view again than what comes into view for the first time, by the gap in between.

A game states which thing each cell of a frame shows (`envs.sights`). So the steps since a thing was last visible are known for every cell,
and so is the error of the best guess without memory.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diamond_bench.config import RunConfig
from diamond_bench.envs.games import check_sights, read_sights
from diamond_bench.envs.sights import find_gaps
from diamond_bench.errors import UserError
from diamond_bench.metrics.baselines import COPY_LAST
from diamond_bench.metrics.header import ROLLOUT_SIZES, Column, Figure, Play, pairs_compared
from diamond_bench.metrics.metric import Metric
from diamond_bench.store.rows import Row

if TYPE_CHECKING:
    from torch import Tensor

    from diamond_bench.metrics.play import Arrays, Batch, Measured, Meter, Setting, WindowBatch

GAPS = (2, 4, 8, 16, 32)
"""The last gap of each bin, in steps. The first gap is 2: what was visible one step before is in view. One more bin holds longer gaps."""
BINS = (*(str(gap) for gap in GAPS), "more")
"""Names of the bins."""
_NEVER = 0
"""The index of things that were never seen, before those of the bins."""
_PAIRS_PER_SECOND = 5000.0
WAYS: dict[str, Play] = {"memory": "one_step", "memory_free": "rollouts"}
"""The play of each group of columns: one step from true frames, and free-running."""


def cell_errors(imagined: NDArray[np.float64], true: NDArray[np.float64], guesses: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 minus the projection of the imagined colour on the true one, both as differences from the best guess: (...), from 0 to 2.

    It is 0 for the true colour, 1 for the best guess, and 1 in expectation for a colour drawn at random. The squared error of a random draw
    would be twice that of the best guess, so it would mistake blur for memory.

    Args:
        imagined: mean colours of cells in [0, 1], (..., 3).
        true: the same of the true frames.
        guesses: the best guess for each cell, (..., 3).
    """
    along = true - guesses
    share = ((imagined - guesses) * along).sum(axis=-1) / np.square(along).sum(axis=-1).clip(min=1e-12)
    errors: NDArray[np.float64] = 1 - share.clip(-1, 1)
    return errors


def _colours(frames: "Tensor", rows: int, columns: int) -> NDArray[np.float64]:
    """The mean colours in [0, 1], (n, T, rows, columns, 3), of the cells of frames (n, T, 3, h, w) uint8."""
    from diamond_bench.metrics.play import unit

    n, steps, channels, height, width = frames.shape
    cells = unit(frames).reshape(n, steps, channels, rows, height // rows, columns, width // columns).mean(dim=(4, 6))
    return cells.permute(0, 1, 3, 4, 2).double().cpu().numpy()


class _Truth:
    """What all held-out frames show, and when it was seen before."""

    def __init__(self, setting: "Setting") -> None:
        from diamond_bench.data.ram import load_ram
        from diamond_bench.data.static import load_info

        dataset, episodes = setting.inputs["dataset"], setting.references.episodes
        info = load_info(dataset)
        sights = read_sights(str(info.content["game"]), load_ram(dataset, "heldout"))
        self.starts, lengths = (values.cpu().numpy() for values in (episodes.starts, episodes.lengths))
        self.gaps, self.kinds = find_gaps(sights.things, lengths.tolist()), sights.kinds.astype(np.int8)
        self.guesses = sights.guesses
        self.actions = info.spec.actions.sizes[0]

    def totals(self, frames: "Tensor", play: "WindowBatch") -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Sums of the errors of new cells, and their numbers, each (n, times, actions, kinds, 1 + bins).

        A cell is new if its thing was not visible in the true frame before. Things whose first sight was imagined are left out: a model
        cannot know how the true ones look. Times are bins by powers of two. The last axis begins with things never seen.
        """
        assert play.origin is not None, "the true play has no place in its episode"
        n, horizon = frames.shape[:2]
        number, step = play.origin.cpu().numpy().T
        at = self.starts[number][:, None] + step[:, None] + 1 + np.arange(horizon)  # (n, horizon), rows of the held-out split
        last, first, kinds = self.gaps.last[at], self.gaps.first[at], self.kinds[at]
        known = first <= step[:, None, None, None]
        new = (last != 1) & (known | (last == 0))
        gap = np.where(last == 0, _NEVER, 1 + np.searchsorted(GAPS, last))
        time = np.floor(np.log2(np.arange(1, horizon + 1))).astype(np.int64)[:, None, None]
        actions = play.actions[:, play.context - 1 : play.context - 1 + horizon].cpu().numpy()[:, :, None, None]
        shape = (n, int(time.max()) + 1, self.actions, len(self.guesses), 1 + len(BINS))
        place = np.ravel_multi_index(np.broadcast_arrays(np.arange(n)[:, None, None, None], time, actions, kinds, gap), shape)[new]
        imagined, true = (_colours(shown, *kinds.shape[2:])[new] for shown in (frames, play.true))
        errors = cell_errors(imagined, true, self.guesses[kinds[new]])
        size = math.prod(shape)
        counts = np.bincount(place, minlength=size).astype(np.int64)
        return np.bincount(place, errors, size).astype(np.float64).reshape(shape), counts.reshape(shape)


def _open(setting: "Setting") -> "Meter":
    from diamond_bench.metrics.play import Meter, copy_last

    truth = _Truth(setting)

    def measure(batch: "Batch") -> "Arrays":
        if batch.kind not in WAYS.values() or batch.shown not in ("", "copy"):
            return {}
        errors, counts = truth.totals(batch.frames, batch.play)
        found = {"memory_errors": errors, "memory_counts": counts}
        if batch.kind == "one_step":
            found["copy_memory_errors"] = truth.totals(copy_last(batch.play), batch.play)[0]
        return found

    return Meter(measure)


def gains(errors: NDArray[np.float64], counts: NDArray[np.int64]) -> tuple[float, NDArray[np.float64]]:
    """The mean error of things never seen, and for each bin of gaps how much smaller the error of things seen is, (bins,).

    Each seen cell is compared with the mean of the unseen cells of the same time, action and kind. Where there are none, it is left out. A
    bin without a comparison is NaN.

    Args:
        errors: sums, (n, times, actions, kinds, 1 + bins).
        counts: numbers of cells, of the same shape.
    """
    total, number = errors.sum(axis=0).reshape(-1, errors.shape[-1]), counts.sum(axis=0).reshape(-1, counts.shape[-1])
    matched = number[:, _NEVER] > 0
    total, number = total[matched], number[matched]
    if not matched.any():
        return math.nan, np.full(len(BINS), np.nan)
    unseen = total[:, _NEVER] / number[:, _NEVER]
    seen = number[:, 1:].sum(axis=0)
    differences = (unseen[:, None] * number[:, 1:] - total[:, 1:]).sum(axis=0)
    return float(total[:, _NEVER].sum() / number[:, _NEVER].sum()), np.where(seen > 0, differences / np.maximum(seen, 1), np.nan)


@dataclass(frozen=True)
class Chance:
    """How far gains deviate from 0 without memory, and the numbers of cells that decide it."""

    mean: float
    """Standard deviation of the mean gain over the bins that occur. NaN if none does."""
    bins: NDArray[np.float64]
    """Standard deviation of the gain of each bin, NaN where `gains` is, (bins,)."""
    seen: NDArray[np.int64]
    """Seen cells of each bin that have an unseen one to compare with, (bins,)."""
    unseen: int
    """Unseen cells."""


def chance(counts: NDArray[np.int64]) -> Chance:
    """The deviation of gains without memory, from the numbers of cells alone. `counts` as in `gains`.

    A colour drawn from the generator has an error with mean 1 and a standard deviation of at most 1, so that is taken for each cell. Cells
    count as independent. The gain of a bin is a weighted mean of unseen cells minus a mean of seen cells. All bins share the unseen cells.
    """
    number = counts.sum(axis=0).reshape(-1, counts.shape[-1])
    number = number[number[:, _NEVER] > 0]
    seen, unseen = number[:, 1:].sum(axis=0), number[:, _NEVER]
    weights = number[:, 1:] / np.maximum(seen, 1)  # of each group in the unseen cells with which a bin is compared
    own = np.where(seen > 0, 1 / np.maximum(seen, 1), np.nan)
    bins = np.sqrt(np.square(weights).T @ (1 / unseen) + own)
    occur = np.flatnonzero(seen)
    if not len(occur):
        return Chance(math.nan, bins, seen, int(unseen.sum()))
    mean = math.sqrt(np.square(weights[:, occur].mean(axis=1)) @ (1 / unseen) + own[occur].sum() / len(occur) ** 2)
    return Chance(mean, bins, seen, int(unseen.sum()))


def _rows(way: str, errors: NDArray[np.float64], counts: NDArray[np.int64], baseline: str = "") -> Iterator[Row]:
    unseen, gain = gains(errors, counts)
    found = {f"{way}_unseen_error": unseen, f"{way}_gain": float(np.mean(gain[np.isfinite(gain)])) if np.isfinite(gain).any() else math.nan}
    found |= {f"{way}_gain_{name}": value for name, value in zip(BINS, gain.tolist(), strict=True)}
    if not baseline:
        by_chance = chance(counts)
        found |= {
            f"{way}_chance": by_chance.mean,
            f"{way}_cells": float(by_chance.seen.sum()),
            f"{way}_unseen_cells": float(by_chance.unseen),
        }
        for name, deviation, seen in zip(BINS, by_chance.bins.tolist(), by_chance.seen.tolist(), strict=True):
            found |= {f"{way}_chance_{name}": deviation, f"{way}_cells_{name}": float(seen)}
    yield from (Row(name, value, baseline=baseline) for name, value in found.items() if math.isfinite(value))


def _reduce(measured: "Measured") -> Mapping[str, Sequence[Row]]:
    one, free, copied = measured.one_step, measured.rollouts, measured.shown("copy")
    rows = [*_rows("memory_free", free["memory_errors"], free["memory_counts"])]
    rows += _rows("memory_free", copied["memory_errors"], copied["memory_counts"], COPY_LAST)
    if one:
        rows += _rows("memory", one["memory_errors"], one["memory_counts"])
        rows += _rows("memory", one["copy_memory_errors"], one["memory_counts"], COPY_LAST)
    return {"after": rows}


def _check(config: RunConfig) -> None:
    if config.data.dataset is not None:
        raise UserError(
            f"metrics: memory_gain needs the things that each frame shows, and your dataset {config.data.dataset} is not known to hold "
            "them; collect a dataset here (data.dataset=null)",
            keys=("metrics", "data.dataset"),
        )
    check_sights(config.game)


_CHANCE = "standard deviation of the gain of a model without memory if cells are independent, from their numbers ([memory.md](memory.md))"
_CELLS = "number of cells that come into view, were seen before, and have a cell never seen to compare with"


def _columns() -> dict[str, Column]:
    found: dict[str, Column] = {}
    words = {"memory": "one step ahead from true frames", "memory_free": "free-running, over the horizon, so with drift"}
    for way, how in words.items():
        sizes = ("num_one_step",) if way == "memory" else ROLLOUT_SIZES
        free = ", free-running" if way == "memory_free" else ""
        found[f"{way}_gain"] = Column(
            f"memory gain{free}",
            "higher",
            definition=f"{how}: mean of the gains of all gaps that occur ([memory.md](memory.md))",
            headline=True,
            compared=True,
            drawn=way == "memory",
            sizes=sizes,
        )
        for name, low in zip(BINS, (2, *(gap + 1 for gap in GAPS)), strict=True):
            gap = f"gap {name}" if name == "2" else f"gaps of {low} or more" if name == "more" else f"gaps {low} to {name}"
            found[f"{way}_gain_{name}"] = Column(
                f"memory gain, {gap}{free}",
                "higher",
                definition=f"{how}: error of things never seen minus error of things seen that many steps ago, for cells that come into "
                "view, at the same time, action and kind of thing: 1 for perfect memory, 0 for none",
                listed_as=f"{way}_gain_<gap>",
                compared=way == "memory",
                detail=way == "memory_free",
                sizes=sizes,
            )
            found[f"{way}_chance_{name}"] = Column(
                f"chance, {gap}{free}",
                low=0.0,
                definition=_CHANCE,
                listed_as=f"{way}_chance_<gap>",
                detail=True,
                sizes=sizes,
            )
            found[f"{way}_cells_{name}"] = Column(
                f"seen cells, {gap}{free}", low=0.0, definition=_CELLS, listed_as=f"{way}_cells_<gap>", detail=True, sizes=sizes
            )
        found[f"{way}_chance"] = Column(
            f"memory gain by chance{free}", low=0.0, definition=_CHANCE, headline=way == "memory", detail=way == "memory_free", sizes=sizes
        )
        found[f"{way}_cells"] = Column(
            f"seen cells{free}", low=0.0, definition=_CELLS, headline=way == "memory", detail=way == "memory_free", sizes=sizes
        )
        found[f"{way}_unseen_cells"] = Column(
            f"cells never seen{free}",
            low=0.0,
            definition="cells that come into view and were never seen",
            detail=True,
            sizes=sizes,
        )
        found[f"{way}_unseen_error"] = Column(
            f"error of things never seen{free}",
            low=0.0,
            definition=f"{how}: mean error of cells that come into view and show a thing that was never seen: 1 for the best guess, for a "
            "draw from the true distribution, and for the game itself",
            high=2.0,
            detail=True,
            sizes=sizes,
        )
    return found


METRIC = Metric(
    "memory_gain",
    _columns(),
    _open,
    _reduce,
    play=("rollouts", "one_step"),
    spares=("one_step",),
    check=_check,
    seconds=lambda evaluation: pairs_compared(evaluation) / _PAIRS_PER_SECOND,
    figures=(Figure("gaps", "Memory gain against the gap", "memory", column="memory_gain"),),
)
