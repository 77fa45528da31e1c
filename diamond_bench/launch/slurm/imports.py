"""Imports submitit without its logging."""

import contextlib
import os
from collections.abc import Iterator

_LEVEL = "SUBMITIT_LOG_LEVEL"


@contextlib.contextmanager
def without_logging() -> Iterator[None]:
    """A context in which `import submitit` does not configure Python's logging, unless the user has chosen a level in SUBMITIT_LOG_LEVEL.

    To configure it, logging closes every handler that the program has, and a closed handler drops messages without an error.
    """
    if _LEVEL in os.environ:
        yield
        return
    os.environ[_LEVEL] = "NOCONFIG"
    try:
        yield
    finally:
        os.environ.pop(_LEVEL, None)  # another thread may have left the context first
