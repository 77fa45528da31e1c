"""Planned looks at the results of a study: a group-sequential design, registered before the study runs. No torch, no pandas."""

from collections.abc import Sequence
from itertools import pairwise

from diamond_bench.errors import UserError

ALPHA = 0.05
"""Family-wise level of a study, over all of its looks."""
FEWEST = 3
"""Seeds below which there is no test, so that a look could find nothing."""


def read_looks(value: object, where: str) -> tuple[int, ...]:
    """The numbers of seeds at which the results are looked at, ascending. Raises UserError naming the value otherwise."""
    numbers = value if isinstance(value, (list, tuple)) else ()
    valid = all(type(n) is int and n >= FEWEST for n in numbers)
    if not numbers or not valid or any(a >= b for a, b in pairwise(numbers)):
        raise UserError(
            f"{where}={value!r}: expected an ascending list of numbers of seeds, each at least {FEWEST} (fewer allow no test), such as "
            "[3, 5, 10]"
        )
    return tuple(numbers)


def check_seeds(looks: Sequence[int], seeds: Sequence[int]) -> None:
    """Raises UserError where there are more seeds than the last look has: they could belong to no look."""
    if looks and len(seeds) > looks[-1]:
        listed = ", ".join(map(str, looks))
        raise UserError(
            f"seeds: there are {len(seeds)}, and the last of the planned looks (primary.looks: [{listed}]) is at {looks[-1]} seeds; use at "
            "most so many, or plan a later look"
        )


def look_level(looks: Sequence[int], seeds: int) -> float:
    """The level of the look at this number of seeds: ALPHA times the share of all seeds that this look adds.

    This is the alpha-spending function of Kim and DeMets (1987, Biometrika 74(1)) with rho = 1. Each look uses only the level that it
    spends, so the levels sum to ALPHA, and the union bound holds it without any assumption about the looks' joint distribution.
    Raises ValueError where `seeds` is not one of the looks.
    """
    if seeds not in looks:
        raise ValueError(f"seeds={seeds}: expected one of the looks {list(looks)}")
    before = [0, *looks][list(looks).index(seeds)]
    return ALPHA * (seeds - before) / looks[-1]
