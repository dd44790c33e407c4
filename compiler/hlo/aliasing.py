"""Which values must share memory: XLA's alias analysis as a union of sets."""

from collections.abc import Iterable, Iterator

from compiler.hlo.dataflow import Dataflow
from compiler.hlo.inplace import Memo, in_place_pairs
from compiler.hlo.module import Module, Node


def group(module: Module, flow: Dataflow) -> dict[int, int]:
    """Returns for each value of a program one that stands for its buffer.

    Args:
        module: the program.
        flow: its values.

    Returns:
        Value -> value; the same one for all values of a buffer.
    """
    members = {value for values in flow.values.values() for value in values}
    sets = _DisjointSets(members)
    memo: Memo = {}
    for node in flow.values:
        for a, b in _aliased_at(node, flow, memo):
            sets.join(a, b)
    root, parameters = module.entry.root, module.entry.parameters
    for alias in module.aliases:
        outputs = flow.below(root, alias.output_index)
        arguments = flow.below(parameters[alias.parameter], alias.parameter_index)
        for a, b in zip(outputs, arguments, strict=False):
            sets.join(a, b)
    return {value: sets.find(value) for value in members}


class _DisjointSets:
    def __init__(self, members: Iterable[int]) -> None:
        self._parent = {member: member for member in members}

    def find(self, member: int) -> int:
        while self._parent[member] != member:
            self._parent[member] = self._parent[self._parent[member]]
            member = self._parent[member]
        return member

    def join(self, a: int, b: int) -> None:
        self._parent[self.find(a)] = self.find(b)


def _aliased_at(node: Node, flow: Dataflow, memo: Memo) -> Iterator[tuple[int, int]]:
    """Yields pairs of values that an instruction forces into one buffer."""
    values = flow.values
    match node.opcode:
        case "while":
            body, condition = node.called
            for other in (
                node.operands[0],
                body.parameters[0],
                body.root,
                condition.parameters[0],
            ):
                yield from zip(values[node], values[other], strict=True)
        case "conditional":
            for branch in node.called:
                yield from zip(values[node], values[branch.root], strict=True)
        case _:
            for pair in in_place_pairs(node, memo):
                operands = flow.below(node.operands[pair.operand], pair.operand_index)
                yield from zip(
                    flow.below(node, pair.output_index), operands, strict=False
                )
