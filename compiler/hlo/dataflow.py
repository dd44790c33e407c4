"""Which value is where: one value for every part of every instruction's result.

A *value* is a piece of data that some instruction makes: an array, a token, or
the table of pointers of a tuple. Tuples, bitcasts, calls and the plumbing of
asynchronous operations pass on what they are made of; where several values
meet (the parameter of a loop, the result of a conditional) there is a value of
its own, called a *phi*, unless all that meet are the same one. These are the
rules of XLA's data-flow analysis.
"""

import dataclasses
from collections.abc import Iterable, Sequence

from compiler.hlo.module import Computation, Node
from compiler.hlo.shapes import Shape, ShapeIndex, num_parts

_PASSES_OPERAND = frozenset(
    {
        "add-dependency",
        "all-reduce-done",
        "async-update",
        "bitcast",
        "domain",
        "optimization-barrier",
        "set-dimension-size",
    }
)
# Element of the operand that the end of an asynchronous operation passes on.
_DONE = {
    "all-gather-done": 1,
    "async-done": 1,
    "collective-permute-done": 1,
    "copy-done": 0,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Definition:
    """Where a value comes from."""

    node: Node
    index: ShapeIndex
    is_phi: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Dataflow:
    """Where the values of a program are.

    Attributes:
        values: for every scheduled instruction, the value at each part of its
            shape, in the order of `Shape.parts`.
        definitions: by value; what turned out to be another value is not in
            `values`.
    """

    values: dict[Node, tuple[int, ...]]
    definitions: tuple[Definition, ...]

    def at(self, node: Node) -> Iterable[tuple[ShapeIndex, int]]:
        """Yields `(index, value)` for the parts of an instruction's result."""
        return zip(
            (index for index, _ in node.shape.parts()), self.values[node], strict=True
        )

    def below(self, node: Node, index: ShapeIndex) -> list[int]:
        """Returns the values at an index of a result and at all below it."""
        return [value for i, value in self.at(node) if i[: len(index)] == index]


def analyse(entry: Computation) -> Dataflow:
    """Returns the values of an entry computation and of all that it runs."""
    flow = _Flow()
    flow.run(entry, [flow.define(node) for node in entry.parameters])
    values = {
        node: tuple(flow.resolve(v) for v in found)
        for node, found in flow.values.items()
    }
    return Dataflow(values, tuple(flow.definitions))


class _Flow:
    """The analysis while it runs."""

    def __init__(self) -> None:
        self.values: dict[Node, list[int]] = {}
        self.definitions: list[Definition] = []
        self._same_as: list[int] = []  # Forwarding of values found equal.

    def resolve(self, value: int) -> int:
        while self._same_as[value] != value:
            self._same_as[value] = self._same_as[self._same_as[value]]
            value = self._same_as[value]
        return value

    def define(self, node: Node, *, is_phi: bool = False) -> list[int]:
        """Makes a new value for each part of a node's shape."""
        return self._define_below(node, node.shape, (), is_phi)

    def run(
        self, computation: Computation, arguments: Sequence[list[int]]
    ) -> list[int]:
        """Follows the values through a computation; returns those of its root."""
        for node in computation.nodes:
            if node.opcode == "parameter":
                self.values[node] = arguments[node.attributes.parameter_number]
            else:
                self.values[node] = self._results(node)
        return self.values[computation.root]

    def _new(self, node: Node, index: ShapeIndex, is_phi: bool = False) -> int:
        self.definitions.append(Definition(node, index, is_phi))
        self._same_as.append(len(self._same_as))
        return len(self._same_as) - 1

    def _define_below(
        self, node: Node, shape: Shape, index: ShapeIndex, is_phi: bool = False
    ) -> list[int]:
        return [self._new(node, part, is_phi) for part, _ in shape.parts(index)]

    def _results(self, node: Node) -> list[int]:
        operands = [self.values[operand] for operand in node.operands]
        opcode = node.opcode
        if opcode == "async-update" and node.runs:
            return self._async(node, operands[1:])
        if opcode in _PASSES_OPERAND:
            return self._if_fits(node, operands[0])
        if opcode in _DONE:
            return self._if_fits(
                node, _element(operands[0], node.operands[0].shape, _DONE[opcode])
            )
        match opcode:
            case "tuple":
                return [
                    self._new(node, ()),
                    *(value for operand in operands for value in operand),
                ]
            case "copy":
                return [self._new(node, ()), *operands[0][1:]]
            case "get-tuple-element":
                return _element(
                    operands[0], node.operands[0].shape, node.attributes.tuple_index
                )
            case "while":
                return self._while(node, operands[0])
            case "conditional":
                branches = zip(node.called, operands[1:], strict=True)
                return self._meet(
                    node, [self.run(branch, [values]) for branch, values in branches]
                )
            case "call":
                return self.run(node.called[0], operands)
            case "async-start" if node.runs:
                return self._async(node, operands)
            case "copy-start":
                return self._with_elements(node, {1: operands})
            case "all-gather-start" | "collective-permute-start" | "send":
                return self._with_elements(
                    node, {0: operands if opcode != "send" else operands[:1]}
                )
            case "recv-done":
                received = _element(operands[0], node.operands[0].shape, 0)
                return self._with_elements(node, {0: [received]})
        return self.define(node)

    def _async(self, node: Node, arguments: Sequence[list[int]]) -> list[int]:
        root = self.run(node.runs[0], arguments)
        return self._with_elements(node, {0: arguments, 1: [root]})

    def _if_fits(self, node: Node, values: list[int]) -> list[int]:
        return values if len(values) == num_parts(node.shape) else self.define(node)

    def _with_elements(
        self, node: Node, passed: dict[int, Sequence[list[int]]]
    ) -> list[int]:
        """Results of which some elements hold what is passed to them.

        An element is either the one thing passed or a tuple of all of them.
        """
        result = [self._new(node, ())]
        for i, element in enumerate(node.shape.elements):
            given = passed.get(i, ())
            flat = [value for values in given for value in values]
            if given and len(given) == 1 and len(flat) == num_parts(element):
                result += flat
            elif given and len(flat) + 1 == num_parts(element):
                result += [self._new(node, (i,)), *flat]
            else:
                result += self._define_below(node, element, (i,))
        return result

    def _while(self, node: Node, initial: list[int]) -> list[int]:
        body, condition = node.called
        start = self.define(body.parameters[0], is_phi=True)
        after = self.run(body, [start])
        self._drop_trivial(start, initial, after)
        self.run(condition, [self._meet(condition.parameters[0], [initial, after])])
        return self._meet(node, [initial, after])

    def _drop_trivial(
        self, start: list[int], initial: list[int], after: list[int]
    ) -> None:
        """Forwards what a loop only carries along to its initial value."""
        changed = True
        while changed:
            changed = False
            for phi, before, again in zip(start, initial, after, strict=True):
                if self.resolve(phi) == phi and self.resolve(again) in (
                    phi,
                    self.resolve(before),
                ):
                    self._same_as[phi] = self.resolve(before)
                    changed = True

    def _meet(self, node: Node, alternatives: Sequence[list[int]]) -> list[int]:
        result = []
        for (index, _), values in zip(
            node.shape.parts(), zip(*alternatives, strict=True), strict=True
        ):
            different = {self.resolve(value) for value in values}
            result.append(
                different.pop()
                if len(different) == 1
                else self._new(node, index, is_phi=True)
            )
        return result


def _element(values: list[int], shape: Shape, index: int) -> list[int]:
    """Returns the part of a tuple's values that belongs to one element."""
    first = 1 + sum(num_parts(element) for element in shape.elements[:index])
    return values[first : first + num_parts(shape.elements[index])]
