"""Compiles loops with numba, which is an optional extra.

Nothing here is imported before a search asks for compiled code: `import numba` takes half a second.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, TypeVar

from solvers.command import Exit, Failure, cache_dir

Function = TypeVar("Function", bound=Callable[..., Any])

HINT = "numba is not installed: pip install 'schedule-zero[solvers]'"


def available() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


def require(what: str) -> None:
    """Raises a `Failure` of status 2 that says what to install, if numba is missing."""
    if not available():
        raise Failure("no_numba", f"{what} needs compiled code; {HINT}", Exit.USAGE)


def compiled(function: Function) -> Function:
    """Returns the function compiled at its first call, without the interpreter's lock.

    Machine code is kept in the user's cache folder, never beside the source.
    """
    numba: Any = importlib.import_module("numba")
    config: Any = importlib.import_module("numba.core.config")
    before = config.CACHE_DIR
    config.CACHE_DIR = str(cache_dir() / "numba")  # Read while decorating only.
    try:
        result: Function = numba.njit(cache=True, nogil=True)(function)
    finally:
        config.CACHE_DIR = before
    return result
