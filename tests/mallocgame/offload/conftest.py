"""Small programs for the offload search, and a chip on which their copies matter."""

import dataclasses

import pytest

from compiler.hlo import Program, build
from compiler.hlo import hlo_pb2 as pb
from compiler.hlo.checks import check
from compiler.targets import TARGETS, Target

F32 = 11
UNIT = 1000  # Elements of the smallest tensor.


def chain(sizes: list[int], weight: int = 0) -> Program:
    """A forward and a backward chain: each activation is read right after it is made and once more, in reverse order.

    Args:
        sizes: of the activations, in units of 4000 bytes.
        weight: of an argument that the last instruction updates, 0 for none.
    """
    module = pb.Module(name="chain")
    computation = module.computations.add(name="entry", id=1)
    ids: dict[str, int] = {}

    def shape(units: int) -> pb.Shape:
        made = pb.Shape(element_type=F32, dimensions=[units * UNIT])
        made.layout.minor_to_major.append(0)
        return made

    def add(name: str, opcode: str, units: int, *operands: str) -> str:
        node = computation.instructions.add(
            name=name, opcode=opcode, shape=shape(units)
        )
        node.id = ids[name] = len(ids) + 1
        node.operand_ids.extend(ids[operand] for operand in operands)
        if opcode == "parameter":
            node.parameter_number = (
                len([i for i in computation.instructions if i.opcode == "parameter"])
                - 1
            )
            node.metadata.op_name = name
        return name

    last = add("x", "parameter", 1)
    if weight:
        add("weight", "parameter", weight)
    for number, units in enumerate(sizes):
        last = add(f"act{number}", "custom-call", units, last)
    for number in reversed(range(len(sizes))):
        last = add(f"grad{number}", "custom-call", 1, last, f"act{number}")
    if weight:
        last = add("update", "custom-call", weight, "weight", last)
        alias = module.input_output_alias.entries.add(parameter_number=1)
        alias.kind = 1  # May alias.
    for node in computation.instructions:
        if node.opcode == "custom-call":
            node.custom_call_target = "work"
    computation.root_id = ids[last]
    module.entry_computation_id = 1
    module.schedule.sequences[1].instruction_ids.extend(ids.values())
    return build(check(module, "chain"))


@pytest.fixture
def chip() -> Target:
    """Copies a unit over the link in one second."""
    return dataclasses.replace(
        TARGETS["gpu-h100"], slow_bandwidth=4.0 * UNIT, alignment=1
    )
