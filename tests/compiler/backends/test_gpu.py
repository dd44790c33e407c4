"""XLA:GPU for an H100 that is not there."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from compiler import backends

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        importlib.util.find_spec("jax_plugins.xla_cuda12") is None
        if importlib.util.find_spec("jax_plugins")
        else True,
        reason="the CUDA plugin is not installed ([gpu] extra)",
    ),
]


def test_compile_for_an_h100(tmp_path: Path) -> None:
    def fn(w: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ w)

    args = (
        jax.ShapeDtypeStruct((1024, 1024), jnp.bfloat16),
        jax.ShapeDtypeStruct((64, 1024), jnp.bfloat16),
    )
    source = backends.from_function(fn, *args, topology="h100")
    compiled = backends.compile_source(source, "h100", cache=backends.Cache(tmp_path))
    assert compiled.memory.argument == 2 * (1024 * 1024 + 64 * 1024)
    assert compiled.schedule
    assert compiled.buffer_assignment()
