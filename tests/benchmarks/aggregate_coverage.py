"""How often the intervals of aggregates hold the true value: rliable's percentile interval, and the corrected one of the reports.

    python tests/benchmarks/aggregate_coverage.py --repetitions 2000

Runs are simulated around the means of DIAMOND's published scores of 26 games (its five runs), or of 3 of them: those at the lower quartile,
the median and the upper quartile of the means. A game's runs vary by 30% of its mean, the median over games of what was published, or by
that game's own published standard deviation. Runs are normal, of Student's t with 3 degrees of freedom, or lognormal with skewness 1.75.
The printed Markdown table has the levels in percent, percentile interval first, corrected interval second; a star marks a corrected level
outside 93 to 97. With 2,000 repetitions the Monte Carlo standard error is 0.5 points at 95 and 1.0 at 70. It takes one to four minutes.
"""

import argparse
from collections.abc import Iterator

import numpy as np

from analysis.aggregates import CORRECTED, Array
from analysis.coverage import SHAPES, Attained, Method, Shape, batch_intervals, noise, simulate, true_values
from analysis.scores import published, score_matrix, select, with_hns

RUNS = (3, 5, 10)
RELATIVE = 0.3
LEVELS = (0.93, 0.97)


def games() -> dict[str, tuple[Array, Array]]:
    """Means and standard deviations (games,) of each set of games."""
    scores = score_matrix(with_hns(select(published(), "DIAMOND", "DIAMOND repo results/data")))
    mean, deviation = scores.mean(axis=0), scores.std(axis=0, ddof=1)
    three = np.argsort(mean)[[6, 13, 19]]
    found = {}
    for name, chosen in (("26", np.arange(26)), ("3", three)):
        found[f"{name}, 30% of the mean"] = (mean[chosen], RELATIVE * mean[chosen])
        found[f"{name}, as published"] = (mean[chosen], deviation[chosen])
    return found


def coverage(
    mean: Array, deviation: Array, runs: int, shape: Shape, method: Method, repetitions: int, replicates: int
) -> dict[str, Attained]:
    """The attained level of each aggregate's interval in one cell."""
    generator = np.random.default_rng([runs, len(mean), SHAPES.index(shape)])
    truth = true_values(mean, deviation, shape, runs)

    def held(sets: Array) -> Array:
        low, high = batch_intervals(sets, generator, method, replicates)
        return np.asarray((low <= truth) & (truth <= high), dtype=np.float64)

    return simulate(lambda number: mean + deviation * noise((number, runs, len(mean)), generator, shape), held, repetitions, replicates)


def lines(repetitions: int, replicates: int) -> Iterator[str]:
    """The Markdown table, line by line."""
    yield f"| games, spread of a game's runs | runs | shape | {' | '.join(CORRECTED)} |"
    yield "| --- | --- | --- |" + " --- |" * len(CORRECTED)
    for name, (mean, deviation) in games().items():
        for runs in RUNS:
            for shape in SHAPES:
                plain, corrected = (
                    coverage(mean, deviation, runs, shape, method, repetitions, replicates) for method in ("percentile", "corrected")
                )
                cells = [f"{100 * plain[of].level:.0f}, {_level(corrected[of])}" for of in CORRECTED]
                yield f"| {name} | {runs} | {shape} | {' | '.join(cells)} |"


def _level(found: Attained) -> str:
    return f"{100 * found.level:.1f}{'' if LEVELS[0] <= found.level <= LEVELS[1] else '*'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2000, help="simulated experiments in each cell")
    parser.add_argument("--replicates", type=int, default=300, help="bootstrap resamples of each interval")
    options = parser.parse_args()
    for line in lines(options.repetitions, options.replicates):
        print(line, flush=True)


if __name__ == "__main__":
    main()
