"""The judged figure against the compiler's cycles and its table of allocations."""

from functools import cache
from pathlib import Path

import pytest

from compiler.backends import readback
from compiler.cost.judge import judge, placements
from compiler.hlo import Program, build, load, tables
from compiler.targets import TARGETS

GOLDEN = Path(__file__).parents[2] / "golden"
PROGRAMS = sorted(path.parent.name for path in GOLDEN.glob("*/compiled.hlo.pb.gz"))
V5E = TARGETS["tpu-v5e"]


@cache
def program(name: str, stage: str) -> Program:
    return build(load(GOLDEN / name / f"{stage}.hlo.pb.gz"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_estimated_cycles_are_counted_once_per_execution(name: str) -> None:
    compiled = program(name, "compiled")
    verdict = judge(compiled, V5E)
    cycles = readback.cycles(compiled.module)
    seconds = sum(
        cycles[i.name] * i.trip_count / V5E.clock_hz
        for i in compiled.instructions
        if i.name in cycles and compiled.regions[i.region].kind != "async"
    )
    assert verdict.instructions * verdict.estimated == pytest.approx(seconds, rel=1e-6)
    assert verdict.total >= verdict.instructions * (1 - 1e-5)


@pytest.mark.parametrize("name", PROGRAMS)
def test_outputs_in_fast_memory_have_an_allocation(name: str) -> None:
    scheduled, compiled = program(name, "scheduled"), program(name, "compiled")
    rows = tables.read_buffers(GOLDEN / name / "bufferinfo.csv.gz")
    names = {row.buffer_id: row.name for row in rows}
    allocations = tables.read_allocations(GOLDEN / name / "allocinfo.csv.gz")
    allocated = {names[row.buffer_id] for row in allocations if row.buffer_id in names}
    placed = placements(compiled)
    checked = 0
    for instruction in compiled.instructions:
        if instruction.opcode != "fusion" or instruction.name not in scheduled.times:
            continue
        node = scheduled.instructions[scheduled.times[instruction.name]].node
        for index in placed[instruction.time].outputs:
            buffer = scheduled.buffers[scheduled.value_at(node, index).buffer]
            if buffer.never_fast_reason is None:
                assert buffer.name in allocated
                checked += 1
    assert checked > 0
