"""From a checked module to a program: times, values, buffers."""

import dataclasses
from collections.abc import Iterable, Sequence

from compiler.hlo.aliasing import group
from compiler.hlo.dataflow import Dataflow, analyse
from compiler.hlo.liveness import Lifetimes, without_overlap
from compiler.hlo.module import Module, Node
from compiler.hlo.program import Buffer, Position, Program, Use, Value
from compiler.hlo.schedule import Instruction, flatten
from compiler.hlo.shapes import Shape, ShapeIndex, padded_bytes

# What the pointers of a tuple take, whatever their number.
_TABLE_BYTES = 512


def build(module: Module) -> Program:
    """Returns the program that a module describes.

    Args:
        module: made by `compiler.hlo.load.load`.
    """
    instructions, regions = flatten(module)
    flow = analyse(module.entry)
    drafts = _values(flow, instructions, Lifetimes(module, instructions, regions))
    stands_for = group(module, flow)
    members: dict[int, list[Value]] = {}
    for key, value in sorted(
        drafts.items(), key=lambda item: (item[1].live, item[1].id)
    ):
        members.setdefault(stands_for[key], []).append(value)
    in_order = sorted(members.values(), key=lambda group: (group[0].time, group[0].id))
    buffers = tuple(_buffer(i, values, module) for i, values in enumerate(in_order))
    values = sorted(
        (value for buffer in buffers for value in buffer.values),
        key=lambda value: value.id,
    )
    return Program(
        name=module.name,
        module=module,
        instructions=instructions,
        regions=regions,
        values=tuple(values),
        buffers=buffers,
        aliases=module.aliases,
        donated=module.donated,
    )


def _values(
    flow: Dataflow, instructions: Sequence[Instruction], lifetimes: Lifetimes
) -> dict[int, Value]:
    """Returns the values by their number in `flow`, not yet in buffers."""
    positions: dict[int, list[Position]] = {}
    uses: dict[int, list[Use]] = {}
    roots = {lifetimes.root_of(node) for node in (i.node for i in instructions)}
    for instruction in instructions:
        time, node = instruction.time, instruction.node
        for index, value in flow.at(node):
            positions.setdefault(value, []).append(Position(time, node, index))
        returned = frozenset(flow.values[node]) if node in roots else frozenset()
        for i, operand in enumerate(node.operands):
            for index, value in flow.at(operand):
                if _reads(node, index) or value in returned:
                    uses.setdefault(value, []).append(Use(time, node, i, index))
    order = sorted(positions, key=lambda value: _xla_order(flow, value))
    return {
        value: _value(i, value, flow, positions[value], uses.get(value, []), lifetimes)
        for i, value in enumerate(order)
    }


def _xla_order(flow: Dataflow, value: int) -> tuple[bool, int, ShapeIndex]:
    definition = flow.definitions[value]
    return definition.is_phi, definition.node.position, definition.index


def _value(
    number: int,
    key: int,
    flow: Dataflow,
    positions: list[Position],
    uses: list[Use],
    lifetimes: Lifetimes,
) -> Value:
    definition = flow.definitions[key]
    node, index = definition.node, definition.index
    first = next(p for p in positions if p.node is node and p.index == index)
    shape = node.shape.at(index)
    return Value(
        id=number,
        time=first.time,
        node=node,
        index=index,
        is_phi=definition.is_phi,
        shape=shape,
        size=_size(shape),
        live=lifetimes.of(
            node, ((p.node, p.index) for p in positions), (use.node for use in uses)
        ),
        buffer=-1,
        positions=(first, *(p for p in positions if p is not first)),
        uses=_in_order(uses),
    )


def _size(shape: Shape) -> int:
    if shape.is_tuple:
        return _TABLE_BYTES if shape.elements else 0
    return padded_bytes(shape)


def _in_order(uses: Iterable[Use]) -> tuple[Use, ...]:
    """Returns uses as XLA's tables list them: by time, then by printed name."""
    return tuple(sorted(uses, key=lambda use: (use.time, str(use))))


def _reads(node: Node, index: ShapeIndex) -> bool:
    """Whether an instruction itself gets at the part `index` of its operand."""
    match node.opcode:
        case "tuple":
            return False
        case "get-tuple-element" | "copy":
            return not index
    return True


def _buffer(number: int, drafts: Sequence[Value], module: Module) -> Buffer:
    live = without_overlap([value.live for value in drafts])
    values = tuple(
        dataclasses.replace(v, live=r, buffer=number)
        for v, r in zip(drafts, live, strict=True)
    )
    parameters, root = module.entry.parameters, module.entry.root
    return Buffer(
        id=number,
        name=values[0].name,
        size=max(value.size for value in values),
        values=values,
        definition_time=values[0].time,
        uses=_in_order(use for value in values for use in value.uses),
        is_parameter=any(value.node in parameters for value in values),
        is_constant=any(value.node.opcode == "constant" for value in values),
        is_live_out=any(
            position.node is root for value in values for position in value.positions
        ),
        never_fast_reason=next(filter(None, map(_never_fast_reason, values)), None),
    )


def _never_fast_reason(value: Value) -> str | None:
    """Why XLA never puts a value in fast memory, or None if it may."""
    if value.shape.is_tuple:
        return "pointers of a tuple"
    if not value.shape.is_array:
        return "not an array"
    if value.size == 0:
        return "empty"
    if value.shape.is_effective_scalar:
        return "a scalar"
    if any(
        position.node.shape.at(position.index).memory_space != 0
        for position in value.positions
    ):
        return "its memory space is fixed"
    touching = [p.node for p in value.positions] + [u.node for u in value.uses]
    if any(node.attributes.is_host_transfer for node in touching):
        return "transferred to or from the host"
    if value.node.opcode in ("send", "recv") and value.index != (0,):
        return "handle of a transfer"
    return None
