"""A small way to write modules down, for constructs that no golden dump has."""

from collections.abc import Callable, Sequence

import pytest

from compiler.hlo import Module
from compiler.hlo import hlo_pb2 as pb
from compiler.hlo.checks import check

F32, S32, PRED, TUPLE, TOKEN = 11, 4, 1, 13, 17


class Writer:
    """Writes a module, computation by computation, in the order of execution.

    Instructions are named; `*` in front of a name makes it the root.
    """

    def __init__(self) -> None:
        self.proto = pb.Module(name="test")

    def shape(
        self, kind: int = F32, *dimensions: int, of: Sequence[pb.Shape] = ()
    ) -> pb.Shape:
        shape = pb.Shape(element_type=kind, dimensions=dimensions, tuple_shapes=of)
        shape.layout.minor_to_major.extend(reversed(range(len(dimensions))))
        return shape

    def tuple_of(self, *shapes: pb.Shape) -> pb.Shape:
        return self.shape(TUPLE, of=shapes)

    def computation(
        self, name: str, *instructions: tuple, scheduled: bool = True
    ) -> int:
        """Adds a computation of `(name, opcode, shape, operands, fields)`; returns its id."""
        number = len(self.proto.computations) + 1
        computation = self.proto.computations.add(name=name, id=number)
        ids: dict[str, int] = {}
        parameters = 0
        for text, opcode, shape, operands, *rest in instructions:
            label = text.removeprefix("*")
            node = computation.instructions.add(name=label, opcode=opcode, shape=shape)
            node.id = ids[label] = (number << 32) | len(ids)
            node.operand_ids.extend(ids[operand] for operand in operands)
            if opcode == "parameter":
                node.parameter_number, parameters = parameters, parameters + 1
            for field, value in (rest[0] if rest else {}).items():
                if isinstance(value, list):
                    getattr(node, field).extend(value)
                else:
                    setattr(node, field, value)
            if text.startswith("*"):
                computation.root_id = node.id
        if scheduled:
            self.proto.schedule.sequences[number].instruction_ids.extend(ids.values())
        self.proto.entry_computation_id = number
        return number

    def module(self) -> Module:
        return check(self.proto, "test")


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def new_writer() -> Callable[[], Writer]:
    return Writer
