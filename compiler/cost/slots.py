"""Bytes that an instruction moves through each of its operands and outputs.

Counted as XLA's HLO cost analysis does on a TPU, with the sizes that layouts
pad to. What an instruction only slices counts with the slice, what it gathers
with the padded rows, what it updates in place with the update.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from compiler.cost.kernels import kernel_estimate
from compiler.hlo import Computation, Node, Shape, ShapeIndex, padded_bytes

# Plumbing, control flow (counted in the computations that it runs) and
# transfers (which have a time of their own).
_FREE = frozenset(
    {
        "add-dependency",
        "after-all",
        "bitcast",
        "call",
        "conditional",
        "constant",
        "domain",
        "get-dimension-size",
        "get-tuple-element",
        "infeed",
        "optimization-barrier",
        "outfeed",
        "parameter",
        "partition-id",
        "recv",
        "replica-id",
        "send",
        "set-dimension-size",
        "tuple",
        "while",
    }
)
_ASYNC = ("-start", "-done", "-update")
# Library calls whose bytes count; a kernel's count if it brings an estimate.
_COUNTED_CALLS = frozenset({"TopK"})
# Elements of a vector register of a TPU: sublanes and lanes.
_TILE = (8, 128)


OperandBytes: TypeAlias = dict[tuple[int, ShapeIndex], float]


class Slots(NamedTuple):
    """Bytes by slot.

    Attributes:
        operands: `(operand, index)` -> bytes read. A slot that is missing
            counts nothing.
        outputs: index -> bytes written, likewise.
        total: bytes read and written in all, slots or not.
    """

    operands: OperandBytes
    outputs: dict[ShapeIndex, float]
    total: float


Users: TypeAlias = dict[Node, list[tuple[Node, int]]]


@dataclasses.dataclass(frozen=True)
class _Memo:
    """What has been found out about fused computations."""

    users: dict[Computation, Users] = dataclasses.field(default_factory=dict)
    read: dict[Node, float] = dataclasses.field(default_factory=dict)


def all_slots(nodes: Iterable[Node]) -> tuple[Slots, ...]:
    """Returns the bytes that instructions move, slot by slot."""
    memo = _Memo()
    return tuple(_slots(node, memo) for node in nodes)


def is_free(node: Node) -> bool:
    """Whether an instruction moves no bytes that count."""
    if node.opcode == "custom-call":
        counted = node.attributes.custom_call_target in _COUNTED_CALLS
        return not counted and kernel_estimate(node) is None
    return node.opcode in _FREE or node.opcode.endswith(_ASYNC)


def _slots(node: Node, memo: _Memo) -> Slots:
    if is_free(node):
        return Slots({}, {}, 0.0)
    estimate = kernel_estimate(node)
    if estimate is not None:
        return _plain(node, {})._replace(total=estimate.bytes_accessed)
    match node.opcode:
        case "slice" | "dynamic-slice":
            return _plain(node, {0: _bytes(node)})
        case "gather":
            return _plain(node, {0: _gathered(node)})
        case "dynamic-update-slice":
            return _plain(node, {0: 0.0}, output=_bytes(node.operands[1]))
        case "scatter":
            return _plain(node, {0: _scattered(node)}, output=_scattered(node))
        case "fusion":
            return _custom_fusion(node) or _fusion(node, memo)
    return _plain(node, {})


def _bytes(node: Node) -> float:
    return float(padded_bytes(node.shape))


def _plain(node: Node, instead: dict[int, float], output: float | None = None) -> Slots:
    """Slots of one operation, some of them with other bytes than their shape's.

    The results of an operation with several are only counted together.
    """
    operands: OperandBytes = {
        (i, ()): instead.get(i, _bytes(operand))
        for i, operand in enumerate(node.operands)
    }
    written = _bytes(node) if output is None else output
    return Slots(operands, {(): written}, sum(operands.values()) + written)


# ---- Fusions ----------------------------------------------------------------


def _fusion(fusion: Node, memo: _Memo) -> Slots:
    inside = fusion.called[0]
    operands: OperandBytes = {}
    for i, parameter in enumerate(inside.parameters):
        for index, leaf in parameter.shape.leaves():
            operands[i, index] = (
                float(padded_bytes(leaf)) if index else _read(parameter, inside, memo)
            )
    outputs = {
        index: _written(inside.root, index) for index, _ in fusion.shape.leaves()
    }
    return Slots(operands, outputs, sum(operands.values()) + sum(outputs.values()))


def _read(parameter: Node, inside: Computation, memo: _Memo) -> float:
    """Bytes that a fused computation reads of one of its array parameters.

    Slices count one by one, even if they overlap; all other uses together
    count as one reading of the whole; a fusion inside counts as its own.
    """
    if parameter not in memo.read:
        total, whole = 0.0, False
        for user, operand in _users(inside, memo).get(parameter, []):
            if user.opcode in ("slice", "dynamic-slice") and operand == 0:
                total += _bytes(user)
            elif user.opcode == "gather" and operand == 0:
                total += _gathered(user)
            elif user.opcode == "dynamic-update-slice" and operand == 0:
                continue
            elif user.opcode == "fusion":
                callee = user.called[0]
                custom = user.attributes.fusion_kind == "kCustom"
                total += (
                    0.0 if custom else _read(callee.parameters[operand], callee, memo)
                )
            else:
                whole = True
        memo.read[parameter] = total + _bytes(parameter) if whole else total
    return memo.read[parameter]


def _users(computation: Computation, memo: _Memo) -> Users:
    if computation not in memo.users:
        users: Users = {}
        for node in computation.nodes:
            for i, operand in enumerate(node.operands):
                users.setdefault(operand, []).append((node, i))
        memo.users[computation] = users
    return memo.users[computation]


def _written(root: Node, index: ShapeIndex) -> float:
    """Bytes that a fused computation writes of output `index`."""
    if root.opcode == "tuple" and index:
        return _written(root.operands[index[0]], index[1:])
    if root.opcode == "dynamic-update-slice":
        return _bytes(root.operands[1])
    return float(padded_bytes(root.shape.at(index)))


def _custom_fusion(fusion: Node) -> Slots | None:
    """Slots of a fusion that is a gather or scatter with its preparations."""
    if fusion.attributes.fusion_kind != "kCustom":
        return None
    inside = fusion.called[0]
    core = next(
        (node for node in inside.nodes if node.opcode in ("gather", "scatter")), None
    )
    if core is None:
        return None
    rows = _gathered(core) if core.opcode == "gather" else _scattered(core)
    instead = {0: rows} | {
        i: _bytes(operand) for i, operand in enumerate(core.operands) if i
    }
    operands: OperandBytes = {
        (i, ()): _bytes(operand) for i, operand in enumerate(fusion.operands)
    }
    for number, bytes_read in instead.items():
        for parameter in _parameters_behind(core.operands[number]):
            operands[parameter.attributes.parameter_number, ()] = bytes_read
    written = rows if core.opcode == "scatter" else _bytes(core)
    outputs = {index: written for index, _ in fusion.shape.leaves()}
    return Slots(operands, outputs, sum(operands.values()) + sum(outputs.values()))


def _parameters_behind(node: Node) -> Sequence[Node]:
    """Returns the parameters from which a value is prepared."""
    found, seen, stack = [], {node}, [node]
    while stack:
        node = stack.pop()
        if node.opcode == "parameter":
            found.append(node)
        for operand in node.operands:
            if operand not in seen:
                seen.add(operand)
                stack.append(operand)
    return found


# ---- Gather and scatter -------------------------------------------------------


def _gathered(gather: Node) -> float:
    """Bytes of the rows that a gather reads, each padded to tiles by itself."""
    sizes = tuple(gather.attributes.gather_slice_sizes)
    return _rows(gather.operands[0].shape, sizes, gather.shape)


def _scattered(scatter: Node) -> float:
    """Bytes of the rows that a scatter updates, each padded by itself."""
    arrays = (len(scatter.operands) - 1) // 2
    table, updates = scatter.operands[0].shape, scatter.operands[arrays + 1].shape
    numbers = scatter.attributes.scatter_dimension_numbers
    single = {*numbers.inserted_window_dims, *numbers.input_batching_dims}
    window = iter(numbers.update_window_dims)
    sizes = []
    for d in range(len(table.dimensions)):
        update = next(window, -1) if d not in single else -1
        sizes.append(
            updates.dimensions[update] if 0 <= update < len(updates.dimensions) else 1
        )
    return _rows(table, tuple(sizes), updates)


def _rows(table: Shape, sizes: tuple[int, ...], moved: Shape) -> float:
    """Bytes to move `moved`, which is rows of a table, through whole tiles.

    A row that is one element wide in a tiled dimension moves all of the tile
    along that dimension; a table of one dimension has tiles of `_TILE` too.
    """
    bytes_moved = float(padded_bytes(moved))
    if len(sizes) != len(table.dimensions) or not table.tiles:
        return bytes_moved
    tile = table.tiles[0] if len(table.tiles[0]) > 1 else (math.prod(_TILE),)
    for extent, dimension in zip(reversed(tile), table.minor_to_major, strict=False):
        if sizes[dimension] == 1:
            bytes_moved *= extent
    return bytes_moved
