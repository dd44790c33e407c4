"""Programs for several devices: lowering without them, their order, real compiles for eight CPU devices."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from compiler import backends
from compiler.backends import jaxlib_adapter, meshes
from compiler.backends.errors import CompilerError, classify
from compiler.hlo.collectives import collective, groups

TOPOLOGY = "cpu:8"


class Chip(NamedTuple):
    """A device as far as its place goes."""

    id: int
    coords: tuple[int, ...]
    core_on_chip: int = 0


def product(x: jax.Array, w: jax.Array) -> jax.Array:
    return x @ w


def arguments(mesh: Any, *specs: PartitionSpec) -> list[jax.ShapeDtypeStruct]:
    return [
        jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=NamedSharding(mesh, spec))
        for spec in specs
    ]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> backends.Cache:
    return backends.Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def source() -> backends.Source:
    mesh = backends.mesh(TOPOLOGY, (2, 4), ("x", "y"))
    args = arguments(mesh, PartitionSpec("x", "y"), PartitionSpec("y"))
    out = NamedSharding(mesh, PartitionSpec("x"))
    return backends.from_function(product, *args, topology=TOPOLOGY, out_shardings=out)


@pytest.fixture(scope="module")
def compiled(source: backends.Source, cache: backends.Cache) -> backends.Compiled:
    return backends.compile_source(source, TOPOLOGY, cache=cache)


@pytest.mark.parametrize(
    ("topology", "devices"),
    [
        ("v5e:2x4", 8),
        ("v5e:1x1", 1),
        ("v4:2x2x1", 8),
        ("tpu7x:2x2x2", 16),
        ("v5p:4x4x4", 64),
        ("cpu:8", 8),
        ("cpu", 1),
    ],
)
def test_how_many_devices(topology: str, devices: int) -> None:
    assert meshes.num_devices(topology) == devices


def test_what_is_no_mesh() -> None:
    with pytest.raises(
        ValueError, match=r"v5e:2x4 has 8 devices; no mesh of .*\(2, 2\)"
    ):
        backends.mesh("v5e:2x4", (2, 2), ("x", "y"))
    with pytest.raises(ValueError, match="cannot be named"):
        backends.mesh("v5e:2x4", (2, 4), ("x", "x"))
    with pytest.raises(CompilerError, match="no topology 'v5e:2xfour'"):
        backends.mesh("v5e:2xfour", (8,), ("x",))


def test_the_module_says_its_mesh(source: backends.Source) -> None:
    assert (source.partitions, source.mesh) == (8, (2, 4))
    single = backends.from_function(
        product, *[jnp.zeros((8, 8))] * 2, topology=TOPOLOGY
    )
    assert (single.partitions, single.mesh) == (1, ())


def test_meshes_of_several_shapes_are_refused() -> None:
    one = backends.mesh(TOPOLOGY, (2, 4), ("x", "y"))
    other = backends.mesh(TOPOLOGY, (8,), ("z",))
    args = [*arguments(one, PartitionSpec("x")), *arguments(other, PartitionSpec("z"))]
    with pytest.raises(ValueError, match=r"mesh"):
        backends.from_function(product, *args, topology=TOPOLOGY)


def test_a_compile_for_eight_devices(compiled: backends.Compiled) -> None:
    reductions = [n for n in compiled.module.nodes() if n.opcode == "all-reduce"]
    assert [groups(node) for node in reductions] == [((0, 1, 2, 3), (4, 5, 6, 7))]
    # x is cut eight ways, w four ways, the result two ways.
    assert compiled.memory.argument == 64 * 64 * 4 * (1 / 8 + 1 / 4)
    assert compiled.memory.output == 64 * 64 * 4 / 2
    assert compiled.memory.peak
    assert compiled.coordinates == ()


def test_what_is_free_is_the_partitioners_to_choose(cache: backends.Cache) -> None:
    """As in `jax.jit`: a result without a sharding stays cut, where a given one is gathered."""
    mesh = backends.mesh(TOPOLOGY, (8,), ("x",))
    args = arguments(mesh, PartitionSpec("x"), PartitionSpec())
    sizes = {}
    for name, kwargs in (
        ("free", {}),
        ("whole", {"out_shardings": NamedSharding(mesh, PartitionSpec())}),
    ):
        source = backends.from_function(product, *args, topology=TOPOLOGY, **kwargs)
        found = backends.compile_source(source, TOPOLOGY, cache=cache)
        sizes[name] = found.memory.output
        gathers = [n for n in found.module.nodes() if collective(n)]
        assert bool(gathers) == (name == "whole")
    assert sizes["whole"] == 8 * sizes["free"]


def test_the_mesh_is_part_of_the_key(
    source: backends.Source, compiled: backends.Compiled, cache: backends.Cache
) -> None:
    again = backends.compile_source(source, TOPOLOGY, cache=cache)
    other = backends.compile_source(source._replace(mesh=(4, 2)), TOPOLOGY, cache=cache)
    assert again.is_cached and again.key == compiled.key
    assert other.key != compiled.key


def test_a_sharded_dump_recompiles_to_the_same(
    compiled: backends.Compiled, cache: backends.Cache, tmp_path: Path
) -> None:
    mesh = backends.mesh(TOPOLOGY, (2, 4), ("x", "y"))
    args = arguments(mesh, PartitionSpec("x", "y"), PartitionSpec("y"))
    out = NamedSharding(mesh, PartitionSpec("x"))
    backends.dump(
        product, *args, topology=TOPOLOGY, out=tmp_path, cache=cache, out_shardings=out
    )
    again = backends.compile_source(backends.from_dump(tmp_path), TOPOLOGY, cache=cache)
    assert again.schedule == compiled.schedule


def test_a_program_for_more_devices_than_there_are(
    source: backends.Source, cache: backends.Cache
) -> None:
    with pytest.raises(CompilerError, match="4 devices, the program's mesh") as caught:
        backends.compile_source(source, "cpu:4", cache=cache)
    assert caught.value.reason == "unknown-topology"


def test_abstract_and_real_meshes_lower_to_the_same_module() -> None:
    real = jax.sharding.Mesh(np.array(jax.devices("cpu")[:1]), ("x",))
    abstract = jax.sharding.AbstractMesh((1,), ("x",))
    lowered = [
        jaxlib_adapter.lower(
            product, arguments(mesh, PartitionSpec("x"), PartitionSpec()), {}, "tpu"
        )
        for mesh in (real, abstract)
    ]
    texts = [str(jaxlib_adapter.parse_stablehlo(data)) for data in lowered]
    assert texts[0] == texts[1]


# ---- The order of devices -----------------------------------------------------

SLICE = [Chip(i, (i % 2, i // 2, 0)) for i in range(8)]  # 2 x 4, first axis fastest.


def test_axes_along_the_torus() -> None:
    rows = meshes.arrange(SLICE, (4, 2), (1, 0))
    assert [chip.coords[:2] for chip in rows] == [
        (x, y) for y in range(4) for x in range(2)
    ]
    columns = meshes.arrange(SLICE, (2, 4), (0, 1))
    assert [chip.coords[:2] for chip in columns] == [
        (x, y) for x in range(2) for y in range(4)
    ]
    assert meshes.arrange(SLICE, (1,)) == SLICE[:1]


@pytest.mark.parametrize(
    ("shape", "torus"), [((2, 4), (1, 0)), ((4, 2), (1, 1)), ((8,), (5,))]
)
def test_axes_that_do_not_fit_the_torus(
    shape: tuple[int, ...], torus: tuple[int, ...]
) -> None:
    with pytest.raises(CompilerError, match=r"does not fit along axes") as caught:
        meshes.arrange(SLICE, shape, torus)
    assert caught.value.reason == "unknown-topology"


# ---- Out of memory ------------------------------------------------------------

OUT_OF_MEMORY = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
    "temporaries (24.00G) exceeds available HBM (15.75G). HLO module: jit_f."
)


def test_out_of_memory_says_how_much() -> None:
    reason = classify(OUT_OF_MEMORY)
    error = CompilerError(reason, OUT_OF_MEMORY)
    assert (reason, error.exit_status) == ("out-of-memory", 4)
    assert error.shortage == (24 << 30, 15.75 * 2**30)
    assert CompilerError("failed", OUT_OF_MEMORY).shortage is None
    assert CompilerError("out-of-memory", "no figures").shortage is None
