"""What a choice means for each array and operation of a program: specs, constraint sites, collectives."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from compiler.hlo.collectives import Kind
from compiler.sharding.cost import Choice, evaluate_batch, unit_codes
from compiler.sharding.flatten import LITERAL
from compiler.sharding.labels import WHOLE
from compiler.sharding.model import Model
from compiler.sharding.parts import Edge, merged_edges
from compiler.sharding.plan import Cut, Leaf, Plan, Spec
from compiler.sharding.reshard import NONE, moves, stations
from compiler.sharding.units import codes


class Predicted(NamedTuple):
    """A collective that a plan is expected to lead to.

    Attributes:
        site: of the operation that needs it.
        kind: what it does.
        axes: mesh axes that it runs over.
        devices: of a group.
        result_bytes: of its result on one device.
        repeat: how often it runs.
    """

    site: str
    kind: Kind
    axes: tuple[str, ...]
    devices: int
    result_bytes: float
    repeat: float


@dataclasses.dataclass(frozen=True)
class Layout:
    """A program cut as a choice says.

    Attributes:
        model: the program.
        cuts: of each unit, the entry that each mesh axis cuts; -1 for none.
        mesh: which of the model's meshes.
    """

    model: Model
    cuts: tuple[tuple[int, ...], ...]
    mesh: int

    def value(self, value: int) -> Spec:
        """Returns where an array of the program is."""
        placed = self.model.values[value]
        return self._spec(placed.entries, self.cuts[placed.unit])

    def operand(self, operation: int, labels: Sequence[int]) -> Spec:
        """Returns where an operation wants an array that has these labels."""
        nest = self.model.operations[operation]
        entries = [nest.entries[x] if x != WHOLE else -1 for x in labels]
        return self._spec(entries, self.cuts[nest.unit])

    def _spec(self, entries: Sequence[int], cut: Sequence[int]) -> Spec:
        mesh = self.model.meshes[self.mesh]
        axes = list(zip(mesh.names, mesh.sizes, cut))
        return tuple(
            tuple(name for name, size, e in axes if size > 1 and e == entry >= 0)
            for entry in entries
        )

    def placements(self, edge: Edge) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns how a moving value is made, and how it is wanted."""
        ours, nest = (self.cuts[unit] for unit in edge.ends)
        theirs = tuple(edge.wanted[e] if e >= 0 else NONE for e in nest)
        return (theirs, ours) if edge.result else (ours, theirs)

    def way(self, edge: Edge) -> tuple[Spec, ...]:
        """Returns the specs that a moving value goes through."""
        sizes = self.model.meshes[self.mesh].sizes
        placed = self.model.values[edge.value]
        return tuple(
            self._spec(placed.entries, stop)
            for stop in stations(sizes, *self.placements(edge))
        )


def layout(model: Model, choice: Choice) -> Layout:
    """Returns the program as a choice cuts it."""
    found = np.asarray(jax.jit(unit_codes)(model.tables, choice)).tolist()
    axes = len(model.meshes[0].sizes)
    cuts = tuple(
        list(codes(unit, axes))[code] for unit, code in zip(model.units, found)
    )
    return Layout(model, cuts, int(choice.mesh))


def collectives(cut: Layout) -> tuple[Predicted, ...]:
    """Returns the collectives to expect, in program order; what is wanted twice is moved once."""
    model = cut.model
    program = model.names.program
    mesh = model.meshes[cut.mesh]
    found = []
    for edges in merged_edges(model.edges):
        op = program.operations[edges[0].operation]
        size = program.values[edges[0].value].num_bytes
        for move in moves(mesh.sizes, *cut.placements(edges[0])):
            axes = tuple(mesh.names[a] for a in move.axes)
            found.append(
                Predicted(
                    op.site,
                    move.kind,
                    axes,
                    move.devices,
                    move.share * size,
                    op.repeat,
                )
            )
    return tuple(found)


def sites(cut: Layout) -> dict[str, tuple[Spec, ...]]:
    """Returns where the compiler has to be told: operands and results of products, results in memory, what moves.

    Keys are `"SITE:in0"` for operands and `"SITE:out0"` for results; a value is put through the specs in order.
    """
    model = cut.model
    program = model.names.program
    ways = {(e.operation, e.value, e.result): e for e in model.edges}
    found: dict[str, tuple[Spec, ...]] = {}
    for k, op in enumerate(program.operations):
        if op.rule.work == "free" or op.primitive.startswith("scan_"):
            continue
        for i, (value, labels) in enumerate(zip(op.operands, op.rule.operands)):
            if value == LITERAL or not _constrained(program.values[value].dtype):
                continue
            edge = ways.get((k, value, False))
            moving = edge is not None and len(set(cut.placements(edge))) > 1
            if edge is not None and moving:
                found[f"{op.site}:in{i}"] = cut.way(edge)
            elif op.rule.work == "dot":
                found[f"{op.site}:in{i}"] = (cut.operand(k, labels),)
        for i, value in enumerate(op.results):
            array = program.values[value]
            edge = ways.get((k, value, True))
            if not array.shape or not _constrained(array.dtype):
                continue
            if edge is not None and op.rule.work != "fusible":
                found[f"{op.site}:out{i}"] = cut.way(edge)
            elif op.rule.work != "fusible":
                found[f"{op.site}:out{i}"] = (cut.value(value),)
    return found


def plan_of(
    model: Model, choice: Choice, provenance: Mapping[str, Any] | None = None
) -> Plan:
    """Returns the plan of a choice.

    Args:
        model: the program on its machine.
        choice: what is decided.
        provenance: what to say of how it was found, besides what is predicted.
    """
    cut = layout(model, choice)
    names, mesh = model.names, model.meshes[cut.mesh]
    sizes = dict(mesh.axes)
    levels = np.asarray(choice.levels).tolist()
    cuts = [
        Cut(
            name=names.classes[c].name,
            size=names.classes[c].size,
            axes=tuple(
                (axis, level)
                for axis, level in zip(mesh.names, row)
                if level and axis in sizes
            ),
        )
        for c, row in zip(model.classes, levels)
    ]
    batch = jax.tree.map(lambda x: x[None], choice)
    cost = evaluate_batch(model.tables, batch)
    predicted = {name: float(x[0]) for name, x in cost._asdict().items()}
    return written(cut, {"predicted": predicted, **(provenance or {})}, cuts)


def written(
    cut: Layout, provenance: Mapping[str, Any], cuts: Sequence[Cut] = ()
) -> Plan:
    """Returns the plan of a layout.

    Args:
        cut: the program as it is cut.
        provenance: what to say of how it was found.
        cuts: of classes, which the layout follows from; empty where it follows from none.
    """
    model, names = cut.model, cut.model.names
    program = names.program

    def leaf(path: str, value: int) -> Leaf:
        if value == LITERAL:
            return Leaf(path=path, shape=(), classes=(), spec=())
        found = names.values[value].classes
        return Leaf(
            path=path,
            shape=program.values[value].shape,
            classes=tuple(names.classes[c].name if c >= 0 else "" for c in found),
            spec=cut.value(value),
        )

    return Plan(
        program=program.digest,
        mesh=model.meshes[cut.mesh].axes,
        cuts=tuple(c for c in cuts if c.axes),
        inputs=tuple(map(leaf, program.input_paths, program.inputs)),
        outputs=tuple(map(leaf, program.output_paths, program.outputs)),
        sites=sites(cut),
        compiler_options=model.machine.compiler_options,
        provenance={"generation": model.machine.links.generation, **provenance},
    )


def _constrained(dtype: str) -> bool:
    """Returns whether arrays of this type take constraints: random keys do not."""
    return not dtype.startswith("key<")
