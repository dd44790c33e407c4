"""A checked HLO module: a graph in which every reference leads somewhere.

`Module` is what the rest of the package may rely on: operands come before
their users, callees before their callers (so nothing is cyclic), every
computation in the schedule lists each of its instructions once and after its
operands, and tuples have the elements that others ask for.
"""

import dataclasses
from collections.abc import Iterator

from compiler.hlo import hlo_pb2 as pb
from compiler.hlo.shapes import Shape, ShapeIndex

# Opcodes whose called computations run as part of the schedule. All others
# (fusion, reduce, sort, ...) call computations that describe one operation.
_CONTROL_FLOW = frozenset({"while", "conditional", "call", "async-start"})


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One HLO instruction as the module defines it.

    Attributes:
        name: unique in the module, without `%`.
        opcode: XLA's name of the operation, such as `"dynamic-slice"`.
        shape: of the result.
        operands: in order; an instruction may appear more than once.
        control_predecessors: what must run before, besides the operands.
        called: computations, in order (while: body, condition).
        attributes: the message, for what only some operations have.
        position: in the module; XLA numbers the values of a program in this
            order.
    """

    name: str
    opcode: str
    shape: Shape
    operands: tuple["Node", ...]
    control_predecessors: tuple["Node", ...]
    called: tuple["Computation", ...]
    attributes: pb.Instruction
    position: int

    def __repr__(self) -> str:
        return f"<{self.opcode} {self.name}>"

    @property
    def waits_for_arguments(self) -> bool:
        """Whether this starts an offload to another core before its arguments are there.

        A later async-update has them, and there the schedule runs what is called.
        """
        is_start = self.opcode == "async-start" and not self.operands
        return is_start and any(called.parameters for called in self.called)

    @property
    def runs(self) -> tuple["Computation", ...]:
        """The computations that run as part of the schedule, before this instruction itself."""
        if self.opcode == "async-update" and self.operands[0].waits_for_arguments:
            return self.operands[0].called
        if self.opcode not in _CONTROL_FLOW or self.waits_for_arguments:
            return ()
        return self.called


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Computation:
    """A function of the module.

    Attributes:
        name: unique in the module.
        nodes: operands before users. If `is_scheduled`, the order of
            execution.
        root: whose value the computation returns.
        parameters: by parameter number.
        is_scheduled: whether the module gives an order of execution.
    """

    name: str
    nodes: tuple[Node, ...]
    root: Node
    parameters: tuple[Node, ...]
    is_scheduled: bool

    def __repr__(self) -> str:
        return f"<computation {self.name}>"


@dataclasses.dataclass(frozen=True, slots=True)
class Alias:
    """A result of the program that takes over the memory of an argument."""

    output_index: ShapeIndex
    parameter: int
    parameter_index: ShapeIndex
    must: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Module:
    """A whole program.

    Attributes:
        name: the module's name.
        computations: callees before callers.
        entry: the computation that the program starts with.
        aliases: which results share memory with which arguments.
        donated: `(parameter, index)` of arguments whose memory the program
            may use for anything.
    """

    name: str
    computations: tuple[Computation, ...]
    entry: Computation
    aliases: tuple[Alias, ...]
    donated: tuple[tuple[int, ShapeIndex], ...]

    def nodes(self) -> Iterator[Node]:
        """Yields every instruction of every computation."""
        for computation in self.computations:
            yield from computation.nodes
