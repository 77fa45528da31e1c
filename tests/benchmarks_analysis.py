"""Seconds (of this process's CPU) and peak memory of the analysis at full size: 20 methods x 26 games x 100 runs, 2,000 replicates.

Run by hand, or by the slow test of tests/test_aggregates.py: python tests/benchmarks_analysis.py
"""

import resource
import time
from collections.abc import Callable

import numpy as np

from analysis.aggregates import intervals, performance_profile, point_estimates, probability_of_improvement

METHODS, RUNS, GAMES, REPLICATES = 20, 100, 26, 2000


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    generator = np.random.default_rng(0)
    methods = [generator.lognormal(-1.0, 1.0, (RUNS, GAMES)) for _ in range(METHODS)]
    taus = np.linspace(0.0, 8.0, 161)
    aggregates = seconds(lambda: [(point_estimates(m), intervals(m, 0, REPLICATES)) for m in methods])
    profiles = seconds(lambda: [performance_profile(m, taus, 0, REPLICATES) for m in methods])
    improvement = seconds(lambda: [probability_of_improvement(m, methods[0], 0, REPLICATES) for m in methods[1:]])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"aggregates_s={aggregates:.1f} profiles_s={profiles:.1f} improvement_s={improvement:.1f} peak_mib={peak:.0f}")


if __name__ == "__main__":
    main()
