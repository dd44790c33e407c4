"""A scheduled program as memory mapping sees it: times, values and buffers.

Made by `compiler.hlo.build.build`. Names are those that XLA prints.
"""

import dataclasses
from functools import cached_property

from compiler.hlo.module import Alias, Module, Node
from compiler.hlo.schedule import Instruction, Region
from compiler.hlo.shapes import Shape, ShapeIndex


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """A place in an instruction's result where a value is to be found."""

    time: int
    node: Node
    index: ShapeIndex

    def __str__(self) -> str:
        return _with_index(self.node, self.index)


@dataclasses.dataclass(frozen=True, slots=True)
class Use:
    """An operand through which an instruction gets at a value.

    Attributes:
        time: of the instruction.
        node: the instruction.
        operand: which operand.
        index: where in the operand, `()` if that is an array.
    """

    time: int
    node: Node
    operand: int
    index: ShapeIndex

    def __str__(self) -> str:
        text = f"{self.node.name}, operand {self.operand}"
        return (
            f"{text} {format_index(self.index)}"
            if self.node.operands[self.operand].shape.is_tuple
            else text
        )


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Value:
    """Data that one instruction makes at one index of its result.

    Attributes:
        id: position in `Program.values`.
        time: when it is defined.
        node: the defining instruction.
        index: where in its result.
        is_phi: whether it stands for several values that meet there.
        shape: of the data; that of a tuple is the table of its pointers.
        size: bytes with padding.
        live: first and last time at which it is needed. Where a value follows
            another one in the same buffer, it starts as the other one ends.
        buffer: position of its buffer in `Program.buffers`.
        positions: everywhere it can be found, by time, the definition first.
        uses: by time, then as XLA orders their names.
    """

    id: int
    time: int
    node: Node
    index: ShapeIndex
    is_phi: bool
    shape: Shape
    size: int
    live: tuple[int, int]
    buffer: int
    positions: tuple[Position, ...]
    uses: tuple[Use, ...]

    @property
    def name(self) -> str:
        """`instruction` or, for a part of a tuple, `instruction{1}`."""
        return _with_index(self.node, self.index)

    def __repr__(self) -> str:
        return f"<value {self.name}>"


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Buffer:
    """Values that must share one piece of memory.

    Attributes:
        id: position in `Program.buffers`.
        name: of the first value.
        size: bytes with padding.
        values: in order of their live ranges.
        definition_time: of the first value.
        uses: of all values, by time, then as XLA orders their names.
        is_parameter: whether it holds an argument of the program.
        is_constant: whether it holds a constant.
        is_live_out: whether it holds a result of the program.
        never_fast_reason: why it can never be in fast memory, or None.
    """

    id: int
    name: str
    size: int
    values: tuple[Value, ...]
    definition_time: int
    uses: tuple[Use, ...]
    is_parameter: bool
    is_constant: bool
    is_live_out: bool
    never_fast_reason: str | None

    def __repr__(self) -> str:
        return f"<buffer {self.name}, {self.size} bytes>"


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A scheduled program.

    Attributes:
        name: of the module.
        module: what it was built from.
        instructions: by time.
        regions: the computations that run, parents before children.
        values: in the order of XLA's ids: that of the module, phis last.
        buffers: by time of definition.
        aliases: results that take over the memory of arguments.
        donated: arguments whose memory may be used for anything.
    """

    name: str
    module: Module
    instructions: tuple[Instruction, ...]
    regions: tuple[Region, ...]
    values: tuple[Value, ...]
    buffers: tuple[Buffer, ...]
    aliases: tuple[Alias, ...]
    donated: tuple[tuple[int, ShapeIndex], ...]

    @cached_property
    def times(self) -> dict[str, int]:
        """Name of an instruction -> its time."""
        return {instruction.name: instruction.time for instruction in self.instructions}

    @cached_property
    def _value_at(self) -> dict[tuple[Node, ShapeIndex], Value]:
        return {
            (p.node, p.index): value for value in self.values for p in value.positions
        }

    def value_at(self, node: Node, index: ShapeIndex = ()) -> Value:
        """Returns the value at an index of a scheduled instruction's result.

        Raises:
            KeyError: the instruction has no such index, or is not scheduled.
        """
        return self._value_at[node, index]


def format_index(index: ShapeIndex) -> str:
    """Returns a shape index as XLA prints it, such as `{1,0}`."""
    return "{" + ",".join(map(str, index)) + "}"


def _with_index(node: Node, index: ShapeIndex) -> str:
    return node.name + (format_index(index) if node.shape.is_tuple else "")
