"""XLA:CPU through the same interface: no extra, no accelerator."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from compiler import backends


def chain(ws: list[jax.Array], x: jax.Array) -> jax.Array:
    for w in ws:
        x = jnp.tanh(x @ w)
    return x


ARGS = (
    [jax.ShapeDtypeStruct((128, 128), jnp.float32)] * 3,
    jax.ShapeDtypeStruct((8, 128), jnp.float32),
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> backends.Cache:
    return backends.Cache(tmp_path_factory.mktemp("cache"))


def test_compile_twice_costs_one(cache: backends.Cache) -> None:
    source = backends.from_function(chain, *ARGS, topology="cpu")
    first = backends.compile_source(source, "cpu", cache=cache)
    second = backends.compile_source(source, "cpu", cache=cache)
    assert (first.is_cached, second.is_cached) == (False, True)
    assert first.key == second.key
    assert first.schedule and first.schedule == second.schedule
    assert first.memory.argument == 4 * (3 * 128 * 128 + 8 * 128)
    assert first.memory.output == 4 * 8 * 128
    assert "ENTRY" in first.text()
    assert first.buffer_assignment()
    assert first.tables == {}


def test_a_rejected_option_is_named(cache: backends.Cache) -> None:
    source = backends.from_function(chain, *ARGS, topology="cpu")
    with pytest.raises(backends.CompilerError, match="xla_nonsense") as caught:
        backends.compile_source(source, "cpu", {"xla_nonsense": True}, cache=cache)
    assert caught.value.reason == "rejected-option"


def test_a_dump_recompiles_to_the_same_schedule(
    cache: backends.Cache, tmp_path: Path
) -> None:
    made = backends.dump(chain, *ARGS, topology="cpu", out=tmp_path, cache=cache)
    again = backends.compile_source(backends.from_dump(tmp_path), "cpu", cache=cache)
    assert again.schedule == made.schedule
