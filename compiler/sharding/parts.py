"""The parts of a model before its numbers: what may be cut, in which units, and where values may have to move."""

import collections
import dataclasses
import itertools
from collections.abc import Sequence

from compiler.sharding import work
from compiler.sharding.flatten import LITERAL, Operation, Program
from compiler.sharding.labels import WHOLE
from compiler.sharding.machine import Machine
from compiler.sharding.mesh import MeshShape
from compiler.sharding.names import Names
from compiler.sharding.reshard import NONE, PARTIAL
from compiler.sharding.units import Placed, Unit, Units

MAX_CLASSES = 16
MAX_PINS = 8
_SUMS = ("add", "add_any")


@dataclasses.dataclass(frozen=True)
class Edge:
    """A value on its way into an operation, or out of it.

    Attributes:
        value: that moves.
        operation: whose it is.
        result: whether it comes out.
        ends: units of the value and of the operation.
        wanted: of each entry of the operation's unit, the value's entry that it cuts; `NONE`, or `PARTIAL` for a sum.
    """

    value: int
    operation: int
    result: bool
    ends: tuple[int, int]
    wanted: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Parts:
    """A program, taken apart.

    Attributes:
        names: its named dimensions.
        machine: what runs it.
        meshes: to choose from; all have as many axes.
        classes: indices of the classes that may be cut, in order of actions.
        conflicts: indices of the conflicts that matter.
        pins: units that may be pinned.
        units: all units.
        values: of each value, its unit.
        operations: of each operation, its unit.
        edges: where values may have to move.
        flows: where its arrays are in memory.
    """

    names: Names
    machine: Machine
    meshes: tuple[MeshShape, ...]
    classes: tuple[int, ...]
    conflicts: tuple[int, ...]
    pins: tuple[int, ...]
    units: tuple[Unit, ...]
    values: tuple[Placed, ...]
    operations: tuple[Placed, ...]
    edges: tuple[Edge, ...]
    flows: work.Flow


def parts_of(
    names: Names,
    machine: Machine,
    meshes: Sequence[MeshShape],
    *,
    max_classes: int = MAX_CLASSES,
    max_pins: int = MAX_PINS,
) -> Parts:
    """Returns the parts of a program on a machine.

    Args:
        names: the program's dimensions.
        machine: chip and links.
        meshes: to choose from.
        max_classes: how many classes may be cut, the largest.
        max_pins: how many units may be pinned, the largest.

    Raises:
        ValueError: no mesh axis divides any dimension.
    """
    meshes = tuple(meshes)
    if len({len(mesh.sizes) for mesh in meshes}) != 1:
        raise ValueError("meshes to choose from have equally many axes")
    classes = _cuttable(names, meshes, max_classes)
    place = {c: i for i, c in enumerate(classes)}
    conflicts = tuple(i for i, c in enumerate(names.conflicts) if c.klass in place)
    units = Units(place, {c: i for i, c in enumerate(conflicts)})
    values = tuple(units.add(loop) for loop in names.values)
    operations = tuple(units.add(loop) for loop in names.operations)
    flows = work.flow(names.program)
    edges = _edges(names, values, operations, units.units)
    pins = _pins(names, values, units.units, flows, max_pins)
    return Parts(
        names,
        machine,
        meshes,
        classes,
        conflicts,
        pins,
        tuple(units.units),
        values,
        operations,
        edges,
        flows,
    )


def _cuttable(names: Names, meshes: Sequence[MeshShape], limit: int) -> tuple[int, ...]:
    sizes = sorted({n for mesh in meshes for n in mesh.sizes if n > 1})
    found = [
        i
        for i, c in enumerate(names.classes)
        if c.cuttable and any(c.size % n == 0 for n in sizes)
    ]
    if not found:
        extents = sorted({c.size for c in names.classes}, reverse=True)
        raise ValueError(
            f"nothing to cut: no dimension ({', '.join(map(str, extents)) or 'there are none'}) is divisible by "
            f"a mesh axis ({', '.join(map(str, sizes))})"
        )
    return tuple(found[:limit])


def _edges(
    names: Names,
    values: Sequence[Placed],
    operations: Sequence[Placed],
    units: Sequence[Unit],
) -> tuple[Edge, ...]:
    """Returns the ways on which some plan moves a value."""
    found: list[Edge] = []
    for k, (op, nest) in enumerate(zip(names.program.operations, operations)):
        ends = [
            *zip(op.operands, op.rule.operands, itertools.repeat(False)),
            *zip(op.results, op.rule.results, itertools.repeat(True)),
        ]
        summed = _summed(op)
        for value, labels, result in ends:
            if value == LITERAL or not (units[values[value].unit] or units[nest.unit]):
                continue
            wanted = [NONE] * len(units[nest.unit])
            for label, entry in enumerate(nest.entries):
                if entry >= 0 and result and label in summed:
                    wanted[entry] = PARTIAL
            for label, theirs in zip(labels, values[value].entries):
                if label != WHOLE and theirs >= 0:
                    wanted[nest.entries[label]] = theirs
            same = values[value].unit == nest.unit
            if same and wanted == list(range(len(wanted))):
                continue
            if not units[values[value].unit] and PARTIAL not in wanted:
                continue
            found.append(
                Edge(value, k, result, (values[value].unit, nest.unit), tuple(wanted))
            )
    return tuple(found)


def merged_edges(edges: Sequence[Edge]) -> list[list[Edge]]:
    """Returns the edges together that need one move: of one value, wanted alike by several operations."""
    merged: dict[tuple[object, ...], list[Edge]] = {}
    for edge in edges:
        where = edge.operation if edge.result else -1
        key = (edge.value, where, edge.ends, edge.wanted)
        merged.setdefault(key, []).append(edge)
    return list(merged.values())


def joined_sums(program: Program) -> list[list[int]]:
    """Returns the operations, in groups, whose sums the compiler completes by one all-reduce if they are cut alike.

    Their results are added to one another and used nowhere else: it adds first, where each device still has a part of
    each sum. Queries, keys and values lead to one such gradient; so do the two products of a gated perceptron.
    """
    users = collections.Counter(
        v for op in program.operations for v in op.operands if v != LITERAL
    )
    users.update(v for v in program.outputs if v != LITERAL)
    leaves: dict[int, list[int]] = {}
    groups: dict[int, list[int]] = {}
    for k, op in enumerate(program.operations):
        value = op.results[0]
        if op.rule.work == "dot" and _summed(op):
            leaves[value] = [k]
        elif op.primitive in _SUMS and len(op.operands) == 2:
            parts = [leaves.get(v, []) for v in op.operands if users[v] == 1]
            if len(parts) == 2 and all(parts):
                leaves[value] = [*parts[0], *parts[1]]
                for v in op.operands:
                    groups.pop(v, None)
                groups[value] = leaves[value]
    return list(groups.values())


def _summed(op: Operation) -> set[int]:
    """Returns the labels that are summed over."""
    kept = {label for labels in op.rule.results for label in labels}
    return set(range(len(op.rule.sizes))) - kept


def _pins(
    names: Names,
    values: Sequence[Placed],
    units: Sequence[Unit],
    flows: work.Flow,
    limit: int,
) -> tuple[int, ...]:
    """Returns the units of arrays in memory that two classes compete for, the largest first."""
    size = [0] * len(units)
    for v, array in enumerate(names.program.values):
        if flows.sources[v] == {v} and v in flows.death:
            size[values[v].unit] += array.num_bytes
    rows = [u for u, unit in enumerate(units) if len(unit) > 1 and size[u]]
    return tuple(sorted(rows, key=lambda u: -size[u])[:limit])
