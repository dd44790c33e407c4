"""A program ready to be searched."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from compiler.sharding import machine as machines
from compiler.sharding import mesh as shapes
from compiler.sharding.flatten import trace
from compiler.sharding.mesh import MeshShape
from compiler.sharding.names import analyse
from compiler.sharding.parts import MAX_CLASSES, MAX_PINS, Parts, parts_of
from compiler.sharding.tables import Tables, tables_of


@dataclasses.dataclass(frozen=True)
class Model(Parts):
    """A program, taken apart, with its numbers.

    Attributes:
        tables: what plans cost is looked up in.
    """

    tables: Tables


def model(
    fn: Callable[..., Any],
    *args: Any,
    topology: str,
    meshes: Sequence[MeshShape] = (),
    donate_argnums: Sequence[int] = (),
    max_axes: int = 2,
    max_classes: int = MAX_CLASSES,
    max_pins: int = MAX_PINS,
) -> Model:
    """Returns the model of a function on a topology.

    Args:
        fn: what `jax.jit` takes: a forward pass, or a whole training step.
        args: arrays or `jax.ShapeDtypeStruct`s, in any pytrees.
        topology: such as `v5e:2x4`; its generation says what things take.
        meshes: to choose from; empty for all of the topology's devices.
        donate_argnums: arguments whose memory the results may take.
        max_axes: of a mesh, if `meshes` is empty.
        max_classes: how many classes may be cut, the largest.
        max_pins: how many units may be pinned, the largest.

    Raises:
        ValueError: the function can't be traced, no mesh axis divides any dimension, or nothing is known of the
            topology's generation.
    """
    names = analyse(trace(fn, *args, donate_argnums=donate_argnums))
    chosen = tuple(meshes) or shapes.of_topology(topology, max_axes)
    parts = parts_of(
        names,
        machines.machine(topology),
        chosen,
        max_classes=max_classes,
        max_pins=max_pins,
    )
    fields = {f.name: getattr(parts, f.name) for f in dataclasses.fields(parts)}
    return Model(**fields, tables=tables_of(parts))
