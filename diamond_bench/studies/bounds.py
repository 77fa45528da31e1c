"""Limits on the size of a study, checked before anything is expanded."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diamond_bench.errors import UserError

MAX_SEEDS = 10_000
MAX_VALUES = 1000
"""Maximum number of values of one axis."""
MAX_VARIANTS = 10_000
MAX_EVALUATIONS = 200_000
"""Maximum of variants times games times seeds."""
MAX_NAME = 100
"""Maximum number of characters in the name of a study, an arm or an axis. Names become parts of file names, which have at most 255
bytes."""
MAX_TEXT = 10_000
"""Maximum number of characters in a question or a note."""


def is_study_name(name: str) -> bool:
    """Whether a study can have this name: its results lie in a folder of that name."""
    return len(name) <= MAX_NAME and re.fullmatch(r"\w[\w .+,=()-]*", name) is not None


def study_name(file: Path) -> str:
    """The name of the study in a YAML file: the file's name without its suffix. Raises UserError if no study can have it."""
    if not is_study_name(file.stem):
        raise UserError(
            f"study {file}: {file.stem!r} cannot be a study's name: rename the file to at most {MAX_NAME} letters, digits and "
            "spaces or any of . _ + , = ( ) - that begin with a letter or digit"
        )
    return file.stem


def check_key(key: str, where: str) -> None:
    """Raises UserError if a key of a study is too long or has characters that cannot be shown, such as control characters."""
    if len(key) > MAX_NAME or not key.isprintable():
        raise UserError(f"study {where}: the key {key!r}: expected at most {MAX_NAME} characters, all of them printable")


def check_text(value: Any, where: str) -> str:
    """Returns the value if it is a text of at most MAX_TEXT characters. Otherwise raises UserError."""
    if not isinstance(value, str):
        raise UserError(f"study {where}: expected a text, got {value!r}")
    if len(value) > MAX_TEXT:
        raise UserError(f"study {where}: {len(value):,} characters; expected at most {MAX_TEXT:,}")
    return value


def check_variants(arms: Mapping[str, Mapping[str, Any]], axes: Mapping[str, Sequence[Any]], where: str, each: int = 1) -> None:
    """Raises UserError if arms and axes ({key: values}) make too many variants, or evaluations (`each` per variant)."""
    for key, values in axes.items():
        if len(values) > MAX_VALUES:
            raise UserError(f"{where}: {key} has {len(values):,} values; expected at most {MAX_VALUES:,}")
    variants = sum(
        math.prod(len(values) for key, values in axes.items() if not isinstance(keys, Mapping) or key not in keys) for keys in arms.values()
    )
    if variants > MAX_VARIANTS:
        raise UserError(f"{where}: its arms and axes make {variants:,} variants; expected at most {MAX_VARIANTS:,}")
    if variants * each > MAX_EVALUATIONS:
        raise UserError(
            f"{where}: {variants:,} variants on all games with all seeds are {variants * each:,} evaluations; expected at most "
            f"{MAX_EVALUATIONS:,}"
        )


def seeds_of(value: Any) -> tuple[int, ...]:
    """seeds=3 is (0, 1, 2); seeds=[0,7] is (0, 7). Raises UserError."""
    if isinstance(value, int) and not isinstance(value, bool) and value > MAX_SEEDS:
        raise UserError(f"seeds={value}: more than {MAX_SEEDS} seeds; to use a certain one, write seeds=[{value}]")
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return tuple(range(value))
    if isinstance(value, (list, tuple)) and len(value) > MAX_SEEDS:
        raise UserError(f"seeds: a list of {len(value):,}; expected at most {MAX_SEEDS:,} seeds")
    if isinstance(value, (list, tuple)) and value and all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in value):
        ascending = sorted(value)
        twice = next((seed for seed, following in itertools.pairwise(ascending) if seed == following), None)
        if twice is not None:
            raise UserError(f"seeds={value}: {twice} is given twice; a seed run again gives the same result, not another one")
        return tuple(value)
    raise UserError(f"seeds={value}: expected a number of seeds (at least 1) or a list of them, such as seeds=3 or seeds=[0,7]")
