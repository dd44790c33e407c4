"""The engines that need no training, and the command kit. They know no domain.

    result = solvers.search(problem, "predicted", Budget(measurements=200), key=0)

docs/engine.md is the guide. Importing this package imports no JAX: commands answer `--help` first.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from solvers.adapters import evolved, played
    from solvers.engine import search, watch
    from solvers.problem import Problem
    from solvers.spaces import ChoiceSpace

_HOMES = {
    "ChoiceSpace": "solvers.spaces",
    "Problem": "solvers.problem",
    "evolved": "solvers.adapters",
    "played": "solvers.adapters",
    "search": "solvers.engine",
    "watch": "solvers.engine",
}

__all__ = ["ChoiceSpace", "Problem", "evolved", "played", "search", "watch"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
