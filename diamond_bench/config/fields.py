"""Config fields with a neutral value, a range, and their part in a job's identity."""

import dataclasses
from collections.abc import Mapping
from typing import Any


def setting(
    default: Any,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    recorded: bool = False,
    identity: str | None = None,
    former: Mapping[str, str] | None = None,
) -> Any:
    """A dataclass field with a neutral value and an inclusive range.

    recorded: the field is stored but does not enter identities, since it cannot change results.
    identity: the name before a renaming. The field enters identities under it, so that job ids stay, and stored configs that use it are
    still read.
    former: words that were renamed, by their former spelling. They enter identities and are read in that spelling.

    Infinity is accepted only if it is the neutral value or the maximum.
    """
    limits = {"default": default, "minimum": minimum, "maximum": maximum}
    return dataclasses.field(default=default, metadata={**limits, "recorded": recorded, "identity": identity, "former": former or {}})
