"""How often are verdicts wrong? Simulated studies whose truth is known, through the code that reports use.

    python tests/benchmarks/verdicts.py                    # 2,000 studies per cell, about half an hour on two cores
    python tests/benchmarks/verdicts.py --repetitions 200  # a quick look
    python tests/benchmarks/verdicts.py --write            # also updates analysis/attained.csv, which reports quote

A simulated study has three variants and a baseline (one family of Holm's correction), on 1 to 3 games, with 3, 5 or 10 seeds. Runs have
mean 0 and variance 1 and are drawn from a normal, a t3 or a lognormal distribution (skewness 6.2); in the cells `unequal` the variants'
variance is 16 times the baseline's, and in `3 against 10` they have 3 runs besides. In paired cells the *differences* have that
distribution. In `references` cells runs are crossed with references from several episodes, all of which are random, in equal parts of the
variance.

Columns: `family-wise`, the share of studies in which any variant is called better or worse although none differs; `coverage`, of the
interval of the difference; `equivalent`, the share of comparisons
called equivalent although the difference is exactly the margin (4 standard deviations: smaller margins are less often reached);
`detected`, the share of comparisons called better or worse where the variants differ by 2 standard deviations.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.attained import FILE, skewed
from analysis.comparison import BETTER, COLUMNS, UNDECIDED, WORSE, Test, compare_matched, decide
from analysis.matching import Game, Matched

Array = NDArray[np.float64]
TESTS: tuple[Test, ...] = ("t", "permutation")
VARIANTS = 3
POWERED = 400
"""Studies per cell in which `detected` is measured."""
MARGIN = 4.0
FAMILY_WISE, COVERAGE, EQUIVALENT = 0.05, (0.93, 0.97), 0.05
_DRAWS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "normal": lambda g, shape: g.standard_normal(shape),
    "t3": lambda g, shape: g.standard_t(3, shape) / np.sqrt(3.0),
    "lognormal": lambda g, shape: (np.exp(g.standard_normal(shape)) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e),
}


@dataclass(frozen=True)
class Cell:
    """One kind of study."""

    distribution: str
    design: str
    """unpaired, paired, unequal (variances), or unbalanced (unequal variances, and 3 runs against the baseline's)."""
    seeds: int
    games: int
    episodes: int = 0
    """Episodes of two references each; 0 scores a run as a whole."""


def cells() -> Iterator[Cell]:
    """Every cell of the table; each is measured with both tests."""
    for games in (1, 2, 3):
        for seeds in (3, 5, 10):
            for distribution in _DRAWS:
                for design in ("unpaired", "paired", "unequal", *(["unbalanced"] if seeds == 10 else [])):
                    yield Cell(distribution, design, seeds, games)
            for episodes in (5, 8, 16):
                for design in ("unpaired", "paired"):
                    yield Cell("normal", design, seeds, games, episodes)


def study(cell: Cell, generator: np.random.Generator) -> list[Matched]:
    """The comparisons of one simulated study without any true difference."""
    draw = _DRAWS[cell.distribution]
    runs = 3 if cell.design == "unbalanced" else cell.seeds
    factor = 4.0 if cell.design in ("unequal", "unbalanced") else 1.0
    games: list[list[Game]] = [[] for _ in range(VARIANTS)]
    for number in range(cell.games):
        references = 2 * cell.episodes if cell.episodes else 1
        numbers = np.repeat(np.arange(cell.episodes), 2) if cell.episodes else None

        def side(n: int, references: int = references) -> Array:
            values = draw(generator, (n, 1)) + np.zeros((n, references))
            if cell.episodes:
                of_episodes = np.repeat(draw(generator, (1, cell.episodes)), 2, axis=1) * np.sqrt(cell.episodes / cell.seeds)
                values = values + of_episodes + draw(generator, (n, references)) * np.sqrt(references)
            return values

        base = np.zeros((runs, references)) if cell.design == "paired" else side(cell.seeds)
        for variant in range(VARIANTS):
            games[variant].append(Game(str(number), factor * side(runs), base, numbers))
    return [Matched(tuple(of_variant), cell.design == "paired", True, ()) for of_variant in games]


def shifted(data: Matched, by: float) -> Matched:
    """The same runs with a true difference of `by`."""
    return replace(data, games=tuple(replace(game, variant=game.variant + by) for game in data.games))


def measure(cell: Cell, repetitions: int) -> list[dict[str, object]]:
    """Two rows of the table, one for each test."""
    generator = np.random.default_rng([cell.seeds, cell.games, cell.episodes, *map(ord, cell.distribution + cell.design)])
    scale = 4.0 if cell.design in ("unequal", "unbalanced") else 1.0  # of a variant's runs
    wrong, equivalent, detected, covered = Counter[str](), Counter[str](), Counter[str](), 0
    powered = min(repetitions, POWERED)
    for number in range(repetitions):
        studies = study(cell, generator)
        without = _verdicts(studies, 0.0)
        covered += without["inside"]
        edge = _verdicts([shifted(data, MARGIN * scale) for data in studies], MARGIN * scale)
        present = _verdicts([shifted(data, 2.0 * scale) for data in studies], 0.0) if number < powered else {}
        for test in TESTS:
            wrong[test] += bool(without[test, BETTER] + without[test, WORSE])
            equivalent[test] += edge[test, "equivalent"]
            detected[test] += present.get((test, BETTER), 0)
    return [
        {
            "test": test, **vars(cell), "family-wise": wrong[test] / repetitions, "coverage": covered / (VARIANTS * repetitions),
            "equivalent": equivalent[test] / (VARIANTS * repetitions), "detected": detected[test] / (VARIANTS * powered),
        }
        for test in TESTS
    ]  # fmt: skip


def _verdicts(data: list[Matched], margin: float) -> Counter[Any]:
    """How often each test gives each verdict, and how many intervals hold 0.

    The default test takes the larger of two p-values, one of which is that of `t`. So where `t` gives no verdict it gives none either, and
    its permutations are skipped.
    """
    found: Counter[Any] = Counter()
    for test in TESTS:
        compared = [compare_matched(str(i), "base", one, margin, True, test) for i, one in enumerate(data)]
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in decide(compared, margin, True, test, 0.05, False)]
        found["inside"] = sum(row["low"] <= 0.0 <= row["high"] for row in rows)  # type: ignore[operator]
        kinds = [row["verdict"] if row["verdict"] in (BETTER, WORSE, UNDECIDED) else "equivalent" for row in rows]
        found.update((test, kind) for kind in kinds)
        if set(kinds) == {UNDECIDED}:
            break
    return found


def failures(table: pd.DataFrame, repetitions: int, errors: float = 2.0) -> pd.DataFrame:
    """The rows outside the bounds by more than so many Monte Carlo errors."""

    def error(rate: float) -> float:  # comparisons of one study share a baseline, so they are not counted as independent
        return errors * float(np.sqrt(rate * (1.0 - rate) / repetitions))

    low, high = COVERAGE
    return table[
        (table["family-wise"] > FAMILY_WISE + error(FAMILY_WISE))
        | (table["coverage"] < low - error(low))
        | (table["coverage"] > high + error(high))
        | (table["equivalent"] > EQUIVALENT + error(EQUIVALENT))
    ]


def unexpected(table: pd.DataFrame, repetitions: int) -> pd.DataFrame:
    """The rows with too many wrong verdicts or too narrow intervals although differences are symmetric: faults of the method.

    Skewed differences break every method for so few runs; reports print the levels that these cells attain.
    """
    failed = failures(table, repetitions, 4.0)
    return failed[~skewed(failed) & (failed["coverage"] <= COVERAGE[1])]


def main() -> None:
    """Prints the table, and the cells that fail."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000)
    parser.add_argument("--write", action="store_true", help="update analysis/attained.csv")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    planned = list(cells())
    rows = []
    with ProcessPoolExecutor(given.workers) as pool:
        for number, of_cell in enumerate(pool.map(measure, planned, [given.repetitions] * len(planned)), 1):
            rows += of_cell
            print(f"\r{number}/{len(planned)} cells", end="", flush=True)
    table = pd.DataFrame(rows).sort_values("test", kind="stable")
    print("\n" + table.to_string(index=False, float_format="{:.3f}".format))
    print(f"\nOutside the bounds by more than two Monte Carlo errors:\n{failures(table, given.repetitions).to_string(index=False)}")
    if given.write:
        table.round(4).to_csv(FILE, index=False)
    if len(broken := unexpected(table, given.repetitions)):
        raise SystemExit(f"\n{len(broken)} cells with symmetric differences are out of bounds by more than four Monte Carlo errors")


if __name__ == "__main__":
    main()
