"""How often a while loop runs, where the program says so.

Either the compiler has written `known_trip_count` into the loop's
configuration, or the loop counts from a constant by a constant up to a
constant, with the counter and the limit in the loop's tuple or in the
condition itself.
"""

import json
import math
from typing import NamedTuple

from compiler.hlo import hlo_pb2 as pb
from compiler.hlo.module import Node

_TRANSPARENT = frozenset(
    {"copy", "bitcast", "reshape", "convert", "optimization-barrier"}
)
_MAX_STEPS = 1000


class _Carried(NamedTuple):
    """Element `element` of the loop's tuple at the start of an iteration."""

    element: int


def trip_count(loop: Node) -> float | None:
    """Returns how often the body of a `while` runs, or None if that is unknown."""
    config = backend_config(loop)
    known = config.get("known_trip_count")
    if isinstance(known, dict):
        try:
            return float(max(int(known["n"]), 0))
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
    return _counted(loop)


def backend_config(node: Node) -> dict[str, object]:
    """Returns an instruction's configuration, `{}` if it is no JSON object."""
    raw = node.attributes.backend_config
    if not raw.startswith(b"{"):
        return {}
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _counted(loop: Node) -> float | None:
    body, condition = loop.called
    compare = condition.root
    if compare.opcode != "compare" or compare.attributes.comparison_direction != "LT":
        return None
    if len(compare.operands) != 2:
        return None
    counter = _origin(compare.operands[0], condition.parameters[0])
    if not isinstance(counter, _Carried):
        return None
    start = _initial(loop, counter.element)
    limit = _origin(compare.operands[1], condition.parameters[0])
    if isinstance(limit, _Carried):
        limit = (
            _initial(loop, limit.element)
            if _is_invariant(body.root, body.parameters[0], limit.element)
            else None
        )
    step = _step(_element(body.root, counter.element), body.parameters[0], counter)
    if start is None or not isinstance(limit, int) or not step or step < 0:
        return None
    return float(max(math.ceil((limit - start) / step), 0))


def _origin(node: Node | None, parameter: Node) -> _Carried | int | None:
    """Follows a value back to the loop's tuple or to a constant."""
    for _ in range(_MAX_STEPS):
        if node is None:
            return None
        if node.opcode in _TRANSPARENT and node.operands:
            node = node.operands[0]
        elif node.opcode == "get-tuple-element":
            source, index = node.operands[0], node.attributes.tuple_index
            if source is parameter:
                return _Carried(index)
            node = _element(source, index)
        else:
            return _constant(node)
    return None


def _element(source: Node, index: int) -> Node | None:
    while source.opcode in ("copy", "optimization-barrier"):
        source = source.operands[0]
    if source.opcode == "tuple" and index < len(source.operands):
        return source.operands[index]
    return None


def _initial(loop: Node, index: int) -> int | None:
    origin = _origin(_element(loop.operands[0], index), loop)
    return origin if isinstance(origin, int) else None


def _is_invariant(root: Node, parameter: Node, index: int) -> bool:
    return _origin(_element(root, index), parameter) == _Carried(index)


def _step(node: Node | None, parameter: Node, counter: _Carried) -> int | None:
    while node is not None and node.opcode in _TRANSPARENT:
        node = node.operands[0]
    if node is None or node.opcode != "add" or len(node.operands) != 2:
        return None
    a, b = (_origin(operand, parameter) for operand in node.operands)
    if a == counter and isinstance(b, int):
        return b
    if b == counter and isinstance(a, int):
        return a
    return None


def _constant(node: Node) -> int | None:
    literal: pb.Literal = node.attributes.literal
    if node.opcode != "constant":
        return None
    for values in (literal.s32s, literal.s64s, literal.u32s, literal.u64s):
        if len(values) == 1:
            return int(values[0])
    return None
