"""What the shapes of an instruction and of its operands must have in common.

Only the structure of tuples counts here: whoever follows values through a
program relies on every element being there.
"""

from collections.abc import Iterable, Sequence

from compiler.hlo.errors import ModuleError
from compiler.hlo.module import Computation, Node
from compiler.hlo.shapes import Shape

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


def same_leaves(a: Shape, b: Shape) -> bool:
    """Whether two shapes have leaves at the same indices."""
    if a.is_tuple != b.is_tuple or len(a.elements) != len(b.elements):
        return False
    return all(same_leaves(x, y) for x, y in zip(a.elements, b.elements, strict=True))


def _require(holds: bool, node: Node, what: str) -> None:
    if not holds:
        raise ModuleError(f"instruction {node.name} ({node.opcode}): {what}")


def check_node(node: Node) -> None:
    """Checks the operands of an instruction and the shapes that must fit.

    Raises:
        ModuleError: with the name of the instruction and what is wrong.
    """
    operands, shape = node.operands, node.shape
    _require(
        len(operands) >= _ARITY.get(node.opcode, 0),
        node,
        f"has only {len(operands)} operands",
    )
    match node.opcode:
        case "get-tuple-element":
            elements, i = operands[0].shape.elements, node.attributes.tuple_index
            _require(
                0 <= i < len(elements),
                node,
                "takes an element that the tuple does not have",
            )
            _require(
                same_leaves(shape, elements[i]),
                node,
                "its shape is not that of the element",
            )
        case "tuple":
            _require(
                same_leaves(shape, _tuple_of(operands)),
                node,
                "its shape is not that of its operands",
            )
        case (
            "bitcast"
            | "optimization-barrier"
            | "add-dependency"
            | "domain"
            | "set-dimension-size"
            | "copy"
        ):
            _require(
                same_leaves(shape, operands[0].shape),
                node,
                "its shape is not that of its operand",
            )
        case "while":
            _require(len(node.called) == 2, node, "needs a body and a condition")
            body, condition = node.called
            _require(
                len(condition.parameters) == len(body.parameters) == 1,
                node,
                "bad number of parameters",
            )
            for other in (
                body.parameters[0],
                body.root,
                condition.parameters[0],
                operands[0],
            ):
                _require(
                    same_leaves(shape, other.shape),
                    node,
                    f"its shape is not that of {other.name}",
                )
            _require(
                condition.root.shape.is_array,
                node,
                "its condition does not return an array",
            )
        case "conditional":
            _require(
                len(node.called) == len(operands) - 1,
                node,
                "needs one operand for each branch",
            )
            for branch, operand in zip(node.called, operands[1:], strict=True):
                _require(
                    len(branch.parameters) == 1,
                    node,
                    f"branch {branch.name} needs one parameter",
                )
                _require(
                    same_leaves(operand.shape, branch.parameters[0].shape),
                    node,
                    "bad operand of a branch",
                )
                _require(
                    same_leaves(shape, branch.root.shape),
                    node,
                    f"its shape is not that of {branch.root.name}",
                )
        case "call" | "fusion":
            _require(len(node.called) == 1, node, "needs one computation")
            _check_arguments(node, operands, node.called[0], shape)
        case "async-start":
            _require(len(node.called) == 1, node, "needs one computation")
            _require(
                len(shape.elements) >= 2, node, "needs a tuple of arguments and result"
            )
            if not node.waits_for_arguments:
                _check_async(node, operands, node.called[0])
        case "async-update" if operands[0].waits_for_arguments:
            _require(
                len(shape.elements) >= 2, node, "needs a tuple of arguments and result"
            )
            _check_async(node, operands[1:], operands[0].called[0])
        case "async-update":
            _require(
                same_leaves(shape, operands[0].shape),
                node,
                "its shape is not that of its operand",
            )
        case "async-done":
            _require(
                len(operands[0].shape.elements) >= 2,
                node,
                "its operand is not an async operation",
            )
            _require(
                same_leaves(shape, operands[0].shape.elements[1]),
                node,
                "its shape is not the result's",
            )
        case (
            "copy-start"
            | "all-gather-start"
            | "collective-permute-start"
            | "send"
            | "recv"
        ):
            _require(len(shape.elements) >= 2, node, "needs a tuple as its shape")
        case "copy-done" | "all-gather-done" | "collective-permute-done" | "recv-done":
            _require(
                len(operands[0].shape.elements) >= 2,
                node,
                "its operand is not an async operation",
            )
    _check_output_aliasing(node)


def _tuple_of(operands: Iterable[Node]) -> Shape:
    return Shape("tuple", elements=tuple(operand.shape for operand in operands))


def _check_async(
    node: Node, arguments: Sequence[Node], computation: Computation
) -> None:
    _require(
        same_leaves(node.shape.elements[0], _tuple_of(arguments)),
        node,
        "its arguments do not fit",
    )
    _check_arguments(node, arguments, computation, node.shape.elements[1])


def _check_arguments(
    node: Node, arguments: Sequence[Node], computation: Computation, result: Shape
) -> None:
    parameters = computation.parameters
    _require(
        len(parameters) == len(arguments), node, "passes a wrong number of arguments"
    )
    for operand, parameter in zip(arguments, parameters, strict=True):
        _require(
            same_leaves(operand.shape, parameter.shape),
            node,
            f"argument for {parameter.name} does not fit",
        )
    _require(
        same_leaves(result, computation.root.shape),
        node,
        "its shape is not that of the result",
    )


def has_index(shape: Shape, index: Iterable[int]) -> bool:
    for i in index:
        if not 0 <= i < len(shape.elements):
            return False
        shape = shape.elements[i]
    return True


def _check_output_aliasing(node: Node) -> None:
    for pair in node.attributes.output_operand_aliasing:
        exists = 0 <= pair.operand_index < len(node.operands)
        exists = exists and has_index(
            node.operands[pair.operand_index].shape, pair.operand_shape_index
        )
        _require(
            exists and has_index(node.shape, pair.output_shape_index),
            node,
            "bad aliasing of its output",
        )
