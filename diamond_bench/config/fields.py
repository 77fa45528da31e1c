"""How a field of a config says its neutral value, its range, and whether it enters identities."""

import dataclasses
from typing import Any


def setting(default: Any, *, least: float | None = None, most: float | None = None, recorded: bool = False) -> Any:
    """A dataclass field with its range (inclusive); `recorded` fields are kept out of identities.

    Infinity is a value only of a field that has it as its neutral value, or as its `most`.
    """
    return dataclasses.field(default=default, metadata={"default": default, "least": least, "most": most, "recorded": recorded})
