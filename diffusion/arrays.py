"""One formula for two libraries: NumPy in float64 on the host, JAX where it is traced."""

from types import ModuleType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

# A float, a NumPy array or a JAX array; what goes in decides what comes out.
Numeric: TypeAlias = Any


def namespace(*values: Numeric) -> ModuleType:
    """Returns `jax.numpy` if any of the values is JAX's (traced or not), else `numpy`."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def is_traced(*values: Numeric) -> bool:
    """Tells whether any value is unknown now, so that it can't be checked."""
    return any(isinstance(value, jax.core.Tracer) for value in values)
