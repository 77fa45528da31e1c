"""Planned looks at the results of a study: a group-sequential design, registered before the study runs. Without torch and pandas."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from diamond_bench.errors import UserError

ALPHA = 0.05
"""Family-wise level of a study, over all of its looks."""
MIN_LOOK_SEEDS = 3
"""Minimum number of seeds of a look. With fewer there is no test."""


def read_looks(value: object, where: str) -> tuple[int, ...]:
    """The numbers of seeds at which the results are looked at, ascending. Raises UserError with the value if it is invalid."""
    numbers = value if isinstance(value, (list, tuple)) else ()
    valid = all(type(n) is int and n >= MIN_LOOK_SEEDS for n in numbers)
    if not numbers or not valid or any(a >= b for a, b in pairwise(numbers)):
        raise UserError(
            f"{where}={value!r}: expected an ascending list of numbers of seeds, each at least {MIN_LOOK_SEEDS} (fewer allow no test), "
            "such as [3, 5, 10]"
        )
    return tuple(numbers)


def check_seeds(looks: Sequence[int], seeds: Sequence[int]) -> None:
    """Raises UserError if there are more seeds than at the last look, since they could belong to no look."""
    if looks and len(seeds) > looks[-1]:
        listed = ", ".join(map(str, looks))
        raise UserError(
            f"seeds: there are {len(seeds)}, and the last of the planned looks (primary.looks: [{listed}]) is at {looks[-1]} seeds; use at "
            "most so many, or plan a later look"
        )


def look_level(looks: Sequence[int], seeds: int) -> float:
    """The level of the look at this number of seeds: ALPHA times the share of all seeds that this look adds.

    This is the alpha-spending function of Kim and DeMets (1987, Biometrika 74(1)) with rho = 1. Each look uses only the level that it
    spends, so the levels sum to ALPHA. The union bound then guarantees ALPHA without any assumption about the looks' joint distribution.
    Raises ValueError if `seeds` is not one of the looks.
    """
    if seeds not in looks:
        raise ValueError(f"seeds={seeds}: expected one of the looks {list(looks)}")
    before = [0, *looks][list(looks).index(seeds)]
    return ALPHA * (seeds - before) / looks[-1]


def seed_order(stated: Mapping[str, Any]) -> list[int]:
    """The seeds of all looks in order, from a registration's `seeds` and `primary`: the registered seeds, then the integers after the
    largest of them, so that seeds cannot be selected by their results. Empty without looks."""
    seeds, looks = stated["seeds"], stated["primary"].get("looks", [])
    return [*seeds, *range(max(seeds) + 1, max(seeds) + 1 + looks[-1])][: looks[-1]] if looks else []


def look_words(looks: Sequence[int]) -> str:
    """The planned looks and their levels: "at 3, 5 and 10 seeds, tested at levels of 1.5%, 1% and 2.5%, 5% in all"."""
    numbers = [str(n) for n in looks]
    levels = [f"{100 * look_level(looks, n):.3g}%" for n in looks]
    if len(looks) == 1:
        return f"at {numbers[0]} seeds, tested at a level of {levels[0]}"
    of_numbers, of_levels = (f"{', '.join(each[:-1])} and {each[-1]}" for each in (numbers, levels))
    return f"at {of_numbers} seeds, tested at levels of {of_levels}, 5% in all"
