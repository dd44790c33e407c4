"""Meshes of chips that are not there.

A function is lowered on an abstract mesh: axis names and sizes. Its module is the same as one lowered on the topology's
own devices, so this process needs no libtpu; the process that compiles puts the devices in order.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compiler.backends.errors import CompilerError

if TYPE_CHECKING:  # JAX takes seconds to import.
    from jax.sharding import AbstractMesh

# Generations whose chips show up as two devices, as `get_topology_desc` of libtpu 0.0.52 lists them.
_TWO_CORES = ("v2", "v3", "v4", "tpu7x")


def devices_per_chip(generation: str) -> int:
    """Returns as how many devices a chip of a generation such as `v5e` shows up."""
    return 2 if generation in _TWO_CORES else 1


def num_devices(topology: str) -> int:
    """Returns how many devices a topology has, by its name.

    Args:
        topology: such as `v5e:2x4` (8), `v4:2x2x1` (8, two for each chip) or `cpu:8`.

    Raises:
        CompilerError: "unknown-topology".
    """
    generation, _, shape = topology.partition(":")
    sizes = shape.partition("_")[0].split("x") if shape else ["1"]
    if not all(size.isdigit() and int(size) for size in sizes):
        raise CompilerError("unknown-topology", f"no topology {topology!r}")
    return math.prod(map(int, sizes)) * devices_per_chip(generation)


def mesh(
    topology: str, shape: Sequence[int], axis_names: Sequence[str]
) -> "AbstractMesh":
    """Returns a mesh of all devices of a topology, to give shardings to the arguments of `from_function`.

    Args:
        topology: such as `v5e:2x4` or `cpu:8`.
        shape: sizes of the axes; their product is the number of devices.
        axis_names: as many.

    Raises:
        ValueError: the shape is not one of all devices, or the names do not fit it.
        CompilerError: "unknown-topology".
    """
    from jax.sharding import AbstractMesh

    sizes, names = tuple(shape), tuple(axis_names)
    if len(sizes) != len(names) or len(set(names)) != len(names):
        raise ValueError(f"axes of sizes {sizes} cannot be named {names}")
    devices = num_devices(topology)
    if min(sizes, default=0) < 1 or math.prod(sizes) != devices:
        raise ValueError(f"{topology} has {devices} devices; no mesh of shape {sizes}")
    return AbstractMesh(sizes, names)


def arrange(
    devices: Sequence[Any], shape: Sequence[int], torus: Sequence[int] = ()
) -> list[Any]:
    """Returns the devices of a mesh in its order, last axis fastest.

    Args:
        devices: of a topology, in its own order.
        shape: of the mesh. One of size 1 takes the first device.
        torus: the torus axis that each mesh axis runs along; empty: in JAX's order.

    Raises:
        CompilerError: "unknown-topology", the mesh does not take all devices, or does not fit the torus.
    """
    from jax.experimental import mesh_utils

    wanted = math.prod(shape)
    if wanted == 1:
        return list(devices[:1])
    if wanted != len(devices):
        raise CompilerError(
            "unknown-topology",
            f"the topology has {len(devices)} devices, the program's mesh {tuple(shape)} has {wanted}",
        )
    if torus:
        return _along(devices, shape, torus)
    try:
        ordered = mesh_utils.create_device_mesh(
            tuple(shape), devices=list(devices), allow_split_physical_axes=True
        )
    except AssertionError:
        # It refuses v4's chips of two devices; these are neighbours in the topology's order.
        return list(devices)
    except (NotImplementedError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        raise CompilerError(
            "unknown-topology", f"no mesh of shape {tuple(shape)}: {first}"
        ) from error
    return list(ordered.flatten())


def _along(
    devices: Sequence[Any], shape: Sequence[int], torus: Sequence[int]
) -> list[Any]:
    places = coordinates(devices)
    axes = list(zip(*places, strict=True))  # One row of coordinates per torus axis.
    sizes = tuple(len(set(axis)) for axis in axes)
    used = [sizes[axis] if 0 <= axis < len(sizes) else 0 for axis in torus]
    if len(set(torus)) != len(torus) or used != list(shape):
        raise CompilerError(
            "unknown-topology",
            f"a mesh {tuple(shape)} does not fit along axes {tuple(torus)} of a torus {sizes}",
        )
    order = sorted(
        range(len(devices)), key=lambda i: [places[i][axis] for axis in torus]
    )
    return [devices[i] for i in order]


def coordinates(devices: Sequence[Any]) -> list[list[int]]:
    """Returns where each device sits: its chip on each axis of the torus, then its core; none for a CPU."""
    if not all(hasattr(device, "coords") for device in devices):
        return []
    return [[*device.coords, device.core_on_chip] for device in devices]
