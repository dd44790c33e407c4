"""From an unchecked message to a `Module`, or to one clear error.

XLA writes callees before callers and operands before users. Demanding the same
here makes every cycle a dangling reference, so one pass over the module finds
all that could make a later stage fail or loop.
"""

from collections.abc import Iterable, Mapping, Sequence

from compiler.hlo import hlo_pb2 as pb
from compiler.hlo.errors import ModuleError, UnscheduledError
from compiler.hlo.module import CONTROL_FLOW, Alias, Computation, Module, Node
from compiler.hlo.shapes import Shape, from_proto

# An instruction id is unique in its computation by its low 32 bits; in newer
# modules the high bits repeat the computation's id.
_LOCAL = 0xFFFFFFFF
_MAX_CONTROL_DEPTH = 200
# Number of operands that an operation must have at least.
_ARITY = {
    "while": 1,
    "conditional": 2,
    "get-tuple-element": 1,
    "bitcast": 1,
    "copy": 1,
    "copy-start": 1,
    "copy-done": 1,
    "async-update": 1,
    "async-done": 1,
    "dynamic-slice": 1,
    "dynamic-update-slice": 2,
    "gather": 2,
    "scatter": 3,
    "dot": 2,
    "convolution": 2,
    "reduce": 2,
    "reduce-window": 2,
    "select-and-scatter": 3,
    "optimization-barrier": 1,
    "add-dependency": 1,
    "set-dimension-size": 1,
    "domain": 1,
    "slice": 1,
    "send": 2,
    "send-done": 1,
    "recv": 1,
    "recv-done": 1,
    "all-reduce-start": 1,
    "all-reduce-done": 1,
    "all-gather-start": 1,
    "all-gather-done": 1,
    "collective-permute-start": 1,
    "collective-permute-done": 1,
    "convert": 1,
    "pad": 2,
    "concatenate": 1,
}


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
        sequence = proto.schedule.sequences[message.id].instruction_ids if message.id in proto.schedule.sequences else None
        computations[message.id] = _computation(message, sequence, computations, names)
    entry = computations.get(proto.entry_computation_id)
    if entry is None:
        raise ModuleError(f"the entry computation {proto.entry_computation_id} does not exist")
    if not entry.is_scheduled:
        raise UnscheduledError("the module has no schedule; use the dump made after scheduling")
    _check_control_flow(entry)
    return Module(
        name=proto.name,
        computations=tuple(computations.values()),
        entry=entry,
        aliases=tuple(_alias(e, entry) for e in proto.input_output_alias.entries),
        donated=tuple((_parameter(e, entry), tuple(e.parameter_shape_index)) for e in proto.buffer_donor.entries),
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
            raise ModuleError(f"instruction {message.name!r} of {proto.name} appears twice")
        names.add(message.name)
        by_id[key] = _node(message, len(names), by_id, callees)
    nodes = tuple(by_id.values())
    root = by_id.get(proto.root_id & _LOCAL)
    if root is None:
        raise ModuleError(f"computation {proto.name} has no root instruction")
    if sequence is not None:
        nodes = _sequence(proto.name, sequence, by_id)
    return Computation(proto.name, nodes, root, _parameters(proto.name, nodes), sequence is not None)


def _node(proto: pb.Instruction, position: int, before: Mapping[int, Node], callees: Mapping[int, Computation]) -> Node:
    name = proto.name

    def find(ids: Iterable[int], what: str) -> tuple[Node, ...]:
        found = [before.get(i & _LOCAL) for i in ids]
        if any(node is None for node in found):
            raise ModuleError(f"instruction {name}: {what} does not exist before it")
        return tuple(node for node in found if node is not None)

    called = [callees.get(i) for i in proto.called_computation_ids]
    if any(computation is None for computation in called):
        raise ModuleError(f"instruction {name}: a called computation does not exist before it")
    node = Node(
        name=name,
        opcode=proto.opcode,
        shape=from_proto(proto.shape, f"instruction {name}"),
        operands=find(proto.operand_ids, "an operand"),
        control_predecessors=find(proto.control_predecessor_ids, "a control predecessor"),
        called=tuple(computation for computation in called if computation is not None),
        attributes=proto,
        position=position,
    )
    _check_node(node)
    return node


def _parameters(name: str, nodes: Iterable[Node]) -> tuple[Node, ...]:
    parameters = {n.attributes.parameter_number: n for n in nodes if n.opcode == "parameter"}
    count = sum(n.opcode == "parameter" for n in nodes)
    if sorted(parameters) != list(range(count)):
        raise ModuleError(f"computation {name}: its parameters are not numbered 0 to {count - 1}")
    return tuple(parameters[i] for i in range(count))


def _sequence(name: str, ids: Sequence[int], by_id: Mapping[int, Node]) -> tuple[Node, ...]:
    """Returns the instructions in scheduled order."""
    keys = [i & _LOCAL for i in ids]
    if len(keys) != len(by_id) or set(keys) != by_id.keys():
        raise ModuleError(f"computation {name}: the schedule does not list each instruction once")
    done: set[Node] = set()
    for key in keys:
        node = by_id[key]
        if not done.issuperset(node.operands) or not done.issuperset(node.control_predecessors):
            raise ModuleError(f"computation {name}: the schedule runs {node.name} before what it depends on")
        done.add(node)
    return tuple(by_id[key] for key in keys)


# ---- Shapes that must fit ---------------------------------------------------


def same_leaves(a: Shape, b: Shape) -> bool:
    """Whether two shapes have leaves at the same indices."""
    if a.is_tuple != b.is_tuple or len(a.elements) != len(b.elements):
        return False
    return all(same_leaves(x, y) for x, y in zip(a.elements, b.elements, strict=True))


def _require(holds: bool, node: Node, what: str) -> None:
    if not holds:
        raise ModuleError(f"instruction {node.name} ({node.opcode}): {what}")


def _check_node(node: Node) -> None:
    operands, shape = node.operands, node.shape
    _require(len(operands) >= _ARITY.get(node.opcode, 0), node, f"has only {len(operands)} operands")
    match node.opcode:
        case "get-tuple-element":
            elements, i = operands[0].shape.elements, node.attributes.tuple_index
            _require(0 <= i < len(elements), node, "takes an element that the tuple does not have")
            _require(same_leaves(shape, elements[i]), node, "its shape is not that of the element")
        case "tuple":
            _require(same_leaves(shape, _tuple_of(operands)), node, "its shape is not that of its operands")
        case "bitcast" | "optimization-barrier" | "add-dependency" | "domain" | "set-dimension-size" | "copy":
            _require(same_leaves(shape, operands[0].shape), node, "its shape is not that of its operand")
        case "while":
            _require(len(node.called) == 2, node, "needs a body and a condition")
            body, condition = node.called
            _require(len(condition.parameters) == len(body.parameters) == 1, node, "bad number of parameters")
            for other in (body.parameters[0], body.root, condition.parameters[0], operands[0]):
                _require(same_leaves(shape, other.shape), node, f"its shape is not that of {other.name}")
            _require(condition.root.shape.is_array, node, "its condition does not return an array")
        case "conditional":
            _require(len(node.called) == len(operands) - 1, node, "needs one operand for each branch")
            for branch, operand in zip(node.called, operands[1:], strict=True):
                _require(len(branch.parameters) == 1, node, f"branch {branch.name} needs one parameter")
                _require(same_leaves(operand.shape, branch.parameters[0].shape), node, "bad operand of a branch")
                _require(same_leaves(shape, branch.root.shape), node, f"its shape is not that of {branch.root.name}")
        case "call" | "fusion":
            _require(len(node.called) == 1, node, "needs one computation")
            _check_arguments(node, shape)
        case "async-start":
            _require(len(node.called) == 1, node, "needs one computation")
            _require(len(shape.elements) >= 2, node, "needs a tuple of arguments and result")
            _require(same_leaves(shape.elements[0], _tuple_of(operands)), node, "its arguments do not fit")
            _check_arguments(node, shape.elements[1])
        case "async-update":
            _require(same_leaves(shape, operands[0].shape), node, "its shape is not that of its operand")
        case "async-done":
            _require(len(operands[0].shape.elements) >= 2, node, "its operand is not an async operation")
            _require(same_leaves(shape, operands[0].shape.elements[1]), node, "its shape is not the result's")
        case "copy-start" | "all-gather-start" | "collective-permute-start" | "send" | "recv":
            _require(len(shape.elements) >= 2, node, "needs a tuple as its shape")
        case "copy-done" | "all-gather-done" | "collective-permute-done" | "recv-done":
            _require(len(operands[0].shape.elements) >= 2, node, "its operand is not an async operation")
    _check_output_aliasing(node)


def _tuple_of(operands: Iterable[Node]) -> Shape:
    return Shape("tuple", elements=tuple(operand.shape for operand in operands))


def _check_arguments(node: Node, result: Shape) -> None:
    parameters = node.called[0].parameters
    _require(len(parameters) == len(node.operands), node, "passes a wrong number of arguments")
    for operand, parameter in zip(node.operands, parameters, strict=True):
        _require(same_leaves(operand.shape, parameter.shape), node, f"argument for {parameter.name} does not fit")
    _require(same_leaves(result, node.called[0].root.shape), node, "its shape is not that of the result")


def _has_index(shape: Shape, index: Iterable[int]) -> bool:
    for i in index:
        if not 0 <= i < len(shape.elements):
            return False
        shape = shape.elements[i]
    return True


def _check_output_aliasing(node: Node) -> None:
    for pair in node.attributes.output_operand_aliasing:
        exists = 0 <= pair.operand_index < len(node.operands)
        exists = exists and _has_index(node.operands[pair.operand_index].shape, pair.operand_shape_index)
        _require(exists and _has_index(node.shape, pair.output_shape_index), node, "bad aliasing of its output")


def _alias(entry: pb.InputOutputAlias.Entry, computation: Computation) -> Alias:
    parameter, index = _parameter(entry, computation), tuple(entry.output_shape_index)
    if not _has_index(computation.root.shape, index):
        raise ModuleError(f"input_output_alias: the program has no output {list(index)}")
    return Alias(index, parameter, tuple(entry.parameter_shape_index), entry.kind == 2)


def _parameter(entry: pb.InputOutputAlias.Entry | pb.BufferDonor.Entry, computation: Computation) -> int:
    number = entry.parameter_number
    if not 0 <= number < len(computation.parameters):
        raise ModuleError(f"an alias or donation names parameter {number}, which does not exist")
    if not _has_index(computation.parameters[number].shape, entry.parameter_shape_index):
        raise ModuleError(f"an alias or donation names an element that parameter {number} does not have")
    return number


def _check_control_flow(entry: Computation) -> None:
    """Every computation that is run has a schedule and one caller."""
    callers: dict[Computation, Node] = {}
    stack = [(entry, 0)]
    while stack:
        computation, depth = stack.pop()
        if not computation.is_scheduled:
            raise UnscheduledError(f"computation {computation.name} is run but has no schedule")
        if depth > _MAX_CONTROL_DEPTH:
            raise ModuleError(f"control flow nested more than {_MAX_CONTROL_DEPTH} deep")
        for node in computation.nodes:
            if node.opcode not in CONTROL_FLOW:
                continue
            for callee in node.called:
                if callee in callers:
                    raise ModuleError(f"computation {callee.name} is run by {callers[callee].name} and by {node.name}")
                callers[callee] = node
                stack.append((callee, depth + 1))
