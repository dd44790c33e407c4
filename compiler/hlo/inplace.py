"""Operations whose result is written over one of their operands.

The pairs are those that XLA's alias analysis demands: the operand and the
output of a pair are always the same memory.
"""

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from compiler.hlo.module import Node
from compiler.hlo.shapes import ShapeIndex


class InPlace(NamedTuple):
    """Output `output_index` overwrites operand `operand` at `operand_index`."""

    operand: int
    operand_index: ShapeIndex
    output_index: ShapeIndex


# Results for fusions already seen, so that deep nests are looked at only once.
Memo: TypeAlias = dict[Node, tuple[InPlace, ...]]


def in_place_pairs(node: Node, memo: Memo) -> tuple[InPlace, ...]:
    """Returns the pairs of operand and output that share memory."""
    match node.opcode:
        case "dynamic-update-slice":
            return (InPlace(0, (), ()),)
        case "scatter" | "all-reduce-start":
            outputs = [index for index, _ in node.shape.leaves()]
            return tuple(
                InPlace(i, (), index)
                for i, index in enumerate(outputs)
                if i < len(node.operands)
            )
        case "fusion":
            if node not in memo:
                memo[node] = tuple(_declared(node)) or tuple(_fusion_pairs(node, memo))
            return memo[node]
        case "custom-call":
            return tuple(_declared(node))
    return ()


def _declared(node: Node) -> Iterator[InPlace]:
    for pair in node.attributes.output_operand_aliasing:
        yield InPlace(
            pair.operand_index,
            tuple(pair.operand_shape_index),
            tuple(pair.output_shape_index),
        )


def _fusion_pairs(fusion: Node, memo: Memo) -> Iterator[InPlace]:
    """Pairs that an in-place operation at the fusion's root brings about."""
    for output_index, _ in fusion.shape.leaves():
        source, index = _source(fusion.called[0].root, output_index)
        for pair in in_place_pairs(source, memo):
            if pair.output_index != index:
                continue
            read, read_index = _source(
                source.operands[pair.operand], pair.operand_index
            )
            if read.opcode == "fusion":
                read, read_index = _through(read, read_index, memo)
            if read.opcode == "parameter":
                yield InPlace(
                    read.attributes.parameter_number, read_index, output_index
                )


def _through(fusion: Node, index: ShapeIndex, memo: Memo) -> tuple[Node, ShapeIndex]:
    """What a nested fusion overwrites to make its output `index`."""
    for pair in in_place_pairs(fusion, memo):
        if pair.output_index == index:
            return _source(fusion.operands[pair.operand], pair.operand_index)
    return fusion, index


def _source(node: Node, index: ShapeIndex) -> tuple[Node, ShapeIndex]:
    """Follows tuples and bitcasts back to where an array comes from."""
    while True:
        if node.opcode == "tuple" and index:
            node, index = node.operands[index[0]], index[1:]
        elif node.opcode == "get-tuple-element":
            node, index = node.operands[0], (node.attributes.tuple_index, *index)
        elif node.opcode == "bitcast":
            node = node.operands[0]
        else:
            return node, index
