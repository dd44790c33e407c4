"""libtpu for several chips that are not there: the order of devices, what does not fit, figures that are known."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import sharded
from compiler import backends
from compiler.backends.wire import module_bytes
from compiler.cost.links import of_topology
from compiler.cost.timeline import simulate

pytestmark = [
    pytest.mark.tpu,
    pytest.mark.xdist_group("libtpu"),
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu is not installed ([tpu] extra)",
    ),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> backends.Cache:
    return backends.Cache(tmp_path_factory.mktemp("cache"))


def ring(topology: str, shape: tuple[int, ...]) -> backends.Source:
    """Hands a buffer on along the last axis."""
    names = ("x", "y", "z")[: len(shape)]
    mesh = backends.mesh(topology, shape, names)
    pairs = [(i, (i + 1) % shape[-1]) for i in range(shape[-1])]

    def hand_on(x: jax.Array) -> jax.Array:
        return jax.lax.ppermute(x, names[-1], pairs)

    spec = PartitionSpec(names)
    fn = jax.shard_map(hand_on, mesh=mesh, in_specs=spec, out_specs=spec)
    x = jax.ShapeDtypeStruct(
        (64 * 8, 128), jnp.float32, sharding=NamedSharding(mesh, spec)
    )
    return backends.from_function(fn, x, topology=topology)


def test_a_mesh_is_a_ring_of_neighbours_unless_it_is_told_the_torus(
    cache: backends.Cache,
) -> None:
    source = ring("v5e:2x4", (2, 4))
    bent = backends.compile_source(source, "v5e:2x4", cache=cache)
    assert len(set(bent.coordinates)) == 8
    straight = backends.compile_source(
        source._replace(torus=(0, 1)), "v5e:2x4", cache=cache
    )
    assert straight.coordinates == tuple(
        (x, y, 0, 0) for x in range(2) for y in range(4)
    )
    assert straight.key != bent.key


@pytest.mark.parametrize("topology", ["v4:2x2x1", "tpu7x:2x2x1"])
def test_chips_of_two_devices(topology: str, cache: backends.Cache) -> None:
    compiled = backends.compile_source(ring(topology, (2, 4)), topology, cache=cache)
    assert len(set(compiled.coordinates)) == 8
    assert {place[-1] for place in compiled.coordinates} == {0, 1}


def test_what_does_not_fit_says_how_much(cache: backends.Cache) -> None:
    def squares(x: jax.Array) -> jax.Array:
        return jnp.sin(x @ x) @ x.T

    x = jax.ShapeDtypeStruct((60_000, 60_000), jnp.bfloat16)
    source = backends.from_function(squares, x, topology="v5e:1x1")
    with pytest.raises(backends.CompilerError) as caught:
        backends.compile_source(source, "v5e:1x1", cache=cache)
    assert caught.value.reason == "out-of-memory"
    shortage = caught.value.shortage
    assert shortage and shortage.available == 15.75 * 2**30 < shortage.needed


@pytest.mark.slow
def test_a_perceptron_has_the_figures_that_are_known(cache: backends.Cache) -> None:
    compiled = sharded.compile_call(sharded.mlp("FSDP"), cache)
    links = of_topology(compiled.topology)
    assert round(simulate(compiled.module, links).total) == 1_215_418
    assert compiled.memory.argument == 10 * 2**20
    # The dumped program, told its mesh, is the same one.
    data = module_bytes(compiled.before.read_bytes())
    again = backends.compile_source(
        backends.Source("hlo", data, 8, (2, 4)),
        compiled.topology,
        compiled.options,
        cache=cache,
    )
    assert again.cycles == compiled.cycles


@pytest.mark.slow
def test_an_expert_layer_has_the_figures_that_are_known(cache: backends.Cache) -> None:
    compiled = sharded.compile_call(sharded.experts(8, 2), cache)
    links = of_topology(compiled.topology)
    assert round(simulate(compiled.module, links).total) == 3_393_699
