"""Meshes: the shapes into which the devices of a topology may be put."""

import itertools
import math
from typing import NamedTuple

from compiler.backends.meshes import num_devices

AXIS_NAMES = ("x", "y", "z")


class MeshShape(NamedTuple):
    """Axes of a mesh.

    Attributes:
        sizes: devices along each axis; those of size 1 stand for axes that are not there.
        names: as many.
    """

    sizes: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def axes(self) -> tuple[tuple[str, int], ...]:
        """Names and sizes of the axes of more than one device."""
        pairs = zip(self.names, self.sizes)
        return tuple((name, size) for name, size in pairs if size > 1)


def factorisations(devices: int, max_axes: int = 2) -> tuple[MeshShape, ...]:
    """Returns the meshes of so many devices, each as sizes in ascending order.

    The order of axes says nothing that the assignment of classes to them does not: 4 x 2 is 2 x 4 with the axes named
    the other way round.

    Args:
        devices: more than one.
        max_axes: of a mesh; all have as many, the missing ones of size 1.

    Raises:
        ValueError: there is nothing to cut over, or a mesh has more axes than names.
    """
    if devices < 2:
        raise ValueError(f"a plan needs at least 2 devices, not {devices}")
    if not 1 <= max_axes <= len(AXIS_NAMES):
        raise ValueError(f"a mesh has 1 to {len(AXIS_NAMES)} axes, not {max_axes}")
    divisors = [d for d in range(1, devices + 1) if devices % d == 0]
    shapes = [
        sizes
        for sizes in itertools.combinations_with_replacement(divisors, max_axes)
        if math.prod(sizes) == devices
    ]
    # Axes of size 1 come last, so that names are used in order.
    rows = [
        tuple(sorted(sizes, key=lambda size: (size == 1, size))) for sizes in shapes
    ]
    return tuple(MeshShape(row, AXIS_NAMES[:max_axes]) for row in rows)


def of_topology(topology: str, max_axes: int = 2) -> tuple[MeshShape, ...]:
    """Returns the meshes of all devices of a topology such as `v5e:2x4` or `cpu:8`.

    Raises:
        ValueError: as `factorisations`.
        CompilerError: "unknown-topology".
    """
    return factorisations(num_devices(topology), max_axes)


def shape(sizes: tuple[int, ...], names: tuple[str, ...] = ()) -> MeshShape:
    """Returns one mesh.

    Raises:
        ValueError: the names do not fit the sizes.
    """
    names = names or AXIS_NAMES[: len(sizes)]
    if len(names) != len(sizes) or len(set(names)) != len(names) or min(sizes) < 1:
        raise ValueError(f"axes of sizes {sizes} cannot be named {names}")
    return MeshShape(tuple(sizes), tuple(names))
