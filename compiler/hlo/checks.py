"""From an unchecked message to a `Module`, or to one clear error.

XLA writes callees before callers and operands before users. Demanding the same
here makes every cycle a dangling reference, so one pass over the module finds
all that could make a later stage fail or loop.
"""

from collections.abc import Iterable, Mapping, Sequence

from compiler.hlo import hlo_pb2 as pb
from compiler.hlo.errors import ModuleError, UnscheduledError
from compiler.hlo.module import Alias, Computation, Module, Node
from compiler.hlo.shape_rules import check_node, has_index
from compiler.hlo.shapes import from_proto

# An instruction id is unique in its computation by its low 32 bits; in newer
# modules the high bits repeat the computation's id.
_LOCAL = 0xFFFFFFFF
_MAX_CONTROL_DEPTH = 200


def check(proto: pb.Module, where: str) -> Module:
    """Returns the module that a message describes.

    Args:
        proto: the message.
        where: name of the file, for the text of errors.

    Raises:
        UnscheduledError: the entry computation has no schedule.
        ModuleError: a reference that leads nowhere, a shape that does not fit
            or a schedule that breaks an order.
    """
    try:
        return _module(proto)
    except ModuleError as error:
        raise type(error)(f"{where}: {error}") from None


def _module(proto: pb.Module) -> Module:
    computations: dict[int, Computation] = {}
    names: set[str] = set()
    for message in proto.computations:
        if message.id in computations:
            raise ModuleError(f"two computations have the id {message.id}")
        sequence = (
            proto.schedule.sequences[message.id].instruction_ids
            if message.id in proto.schedule.sequences
            else None
        )
        computations[message.id] = _computation(message, sequence, computations, names)
    entry = computations.get(proto.entry_computation_id)
    if entry is None:
        raise ModuleError(
            f"the entry computation {proto.entry_computation_id} does not exist"
        )
    if not entry.is_scheduled:
        raise UnscheduledError(
            "the module has no schedule; use the dump made after scheduling"
        )
    _check_control_flow(entry)
    return Module(
        name=proto.name,
        computations=tuple(computations.values()),
        entry=entry,
        aliases=tuple(_alias(e, entry) for e in proto.input_output_alias.entries),
        donated=tuple(
            (_parameter(e, entry), tuple(e.parameter_shape_index))
            for e in proto.buffer_donor.entries
        ),
    )


def _computation(
    proto: pb.Computation,
    sequence: Sequence[int] | None,
    callees: Mapping[int, Computation],
    names: set[str],
) -> Computation:
    by_id: dict[int, Node] = {}
    for message in proto.instructions:
        key = message.id & _LOCAL
        if key in by_id or message.name in names:
            raise ModuleError(
                f"instruction {message.name!r} of {proto.name} appears twice"
            )
        names.add(message.name)
        by_id[key] = _node(message, len(names), by_id, callees)
    nodes = tuple(by_id.values())
    root = by_id.get(proto.root_id & _LOCAL)
    if root is None:
        raise ModuleError(f"computation {proto.name} has no root instruction")
    if sequence is not None:
        nodes = _sequence(proto.name, sequence, by_id)
    return Computation(
        proto.name, nodes, root, _parameters(proto.name, nodes), sequence is not None
    )


def _node(
    proto: pb.Instruction,
    position: int,
    before: Mapping[int, Node],
    callees: Mapping[int, Computation],
) -> Node:
    name = proto.name

    def find(ids: Iterable[int], what: str) -> tuple[Node, ...]:
        found = [before.get(i & _LOCAL) for i in ids]
        if any(node is None for node in found):
            raise ModuleError(f"instruction {name}: {what} does not exist before it")
        return tuple(node for node in found if node is not None)

    called = [callees.get(i) for i in proto.called_computation_ids]
    if any(computation is None for computation in called):
        raise ModuleError(
            f"instruction {name}: a called computation does not exist before it"
        )
    node = Node(
        name=name,
        opcode=proto.opcode,
        shape=from_proto(proto.shape, f"instruction {name}"),
        operands=find(proto.operand_ids, "an operand"),
        control_predecessors=find(
            proto.control_predecessor_ids, "a control predecessor"
        ),
        called=tuple(computation for computation in called if computation is not None),
        attributes=proto,
        position=position,
    )
    check_node(node)
    return node


def _parameters(name: str, nodes: Iterable[Node]) -> tuple[Node, ...]:
    parameters = {
        n.attributes.parameter_number: n for n in nodes if n.opcode == "parameter"
    }
    count = sum(n.opcode == "parameter" for n in nodes)
    if sorted(parameters) != list(range(count)):
        raise ModuleError(
            f"computation {name}: its parameters are not numbered 0 to {count - 1}"
        )
    return tuple(parameters[i] for i in range(count))


def _sequence(
    name: str, ids: Sequence[int], by_id: Mapping[int, Node]
) -> tuple[Node, ...]:
    """Returns the instructions in scheduled order."""
    keys = [i & _LOCAL for i in ids]
    if len(keys) != len(by_id) or set(keys) != by_id.keys():
        raise ModuleError(
            f"computation {name}: the schedule does not list each instruction once"
        )
    done: set[Node] = set()
    for key in keys:
        node = by_id[key]
        if not done.issuperset(node.operands) or not done.issuperset(
            node.control_predecessors
        ):
            raise ModuleError(
                f"computation {name}: the schedule runs {node.name} before what it depends on"
            )
        done.add(node)
    return tuple(by_id[key] for key in keys)


def _alias(entry: pb.InputOutputAlias.Entry, computation: Computation) -> Alias:
    parameter, index = _parameter(entry, computation), tuple(entry.output_shape_index)
    if not has_index(computation.root.shape, index):
        raise ModuleError(
            f"input_output_alias: the program has no output {list(index)}"
        )
    return Alias(index, parameter, tuple(entry.parameter_shape_index), entry.kind == 2)


def _parameter(
    entry: pb.InputOutputAlias.Entry | pb.BufferDonor.Entry, computation: Computation
) -> int:
    number = entry.parameter_number
    if not 0 <= number < len(computation.parameters):
        raise ModuleError(
            f"an alias or donation names parameter {number}, which does not exist"
        )
    if not has_index(computation.parameters[number].shape, entry.parameter_shape_index):
        raise ModuleError(
            f"an alias or donation names an element that parameter {number} does not have"
        )
    return number


def _check_control_flow(entry: Computation) -> None:
    """Every computation that is run has a schedule and one caller."""
    callers: dict[Computation, Node] = {}
    stack = [(entry, 0)]
    while stack:
        computation, depth = stack.pop()
        if not computation.is_scheduled:
            raise UnscheduledError(
                f"computation {computation.name} is run but has no schedule"
            )
        if depth > _MAX_CONTROL_DEPTH:
            raise ModuleError(
                f"control flow nested more than {_MAX_CONTROL_DEPTH} deep"
            )
        for node in computation.nodes:
            for callee in node.runs:
                if callee in callers:
                    raise ModuleError(
                        f"computation {callee.name} is run by {callers[callee].name} and by {node.name}"
                    )
                callers[callee] = node
                stack.append((callee, depth + 1))
