"""Counted costs against the compiler's own figures."""

import dataclasses
import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.cost.arithmetic import valid_positions
from compiler.cost.instruction import (
    InstructionCosts,
    compute_seconds,
    instruction_costs,
    memory_boundedness,
    msa_order,
)
from compiler.hlo import Module, Program, build, load, tables

GOLDEN = Path(__file__).parents[2] / "golden"
PROGRAMS = sorted(path.parent.name for path in GOLDEN.glob("*/scheduled.hlo.pb.gz"))
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class V5e:
    """What the compiler's tables for v5e imply, to their last digit."""

    slow_bandwidth: float = 687 * GIB
    fast_read_bandwidth: float = 22.5 * 687 * GIB
    fast_write_bandwidth: float = 22.5 * 687 * GIB
    peak_flops: float = 197e12
    peak_transcendentals: float = 1.536e12


@cache
def loaded(name: str) -> tuple[Program, InstructionCosts]:
    program = build(load(GOLDEN / name / "scheduled.hlo.pb.gz"))
    return program, instruction_costs(program)


@cache
def compiled(name: str) -> Module:
    return load(GOLDEN / name / "compiled.hlo.pb.gz")


@cache
def rows(name: str) -> list[tables.BufferRow]:
    return tables.read_buffers(GOLDEN / name / "bufferinfo.csv.gz")


@pytest.mark.parametrize("name", PROGRAMS)
def test_benefits_are_those_of_the_compiler(name: str) -> None:
    program, costs = loaded(name)
    boundedness = memory_boundedness(program, costs, V5e())
    ours = {buffer.name: float(boundedness[buffer.id]) for buffer in program.buffers}
    digits = 0
    for row in rows(name):
        assert ours[row.name] == pytest.approx(row.benefit, rel=0.01, abs=1e-18), (
            row.name
        )
        digits += f"{ours[row.name]:.6g}" == f"{row.benefit:.6g}"
    # The order in which single-precision numbers are added is not known.
    assert digits >= 0.98 * len(rows(name))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_order_is_that_of_the_compiler(name: str) -> None:
    """Apart from what a copy or slice pulls forward as its source."""
    program, costs = loaded(name)
    order = msa_order(program, memory_boundedness(program, costs, V5e()))
    listed = list(dict.fromkeys(row.name for row in rows(name)))
    linked = {b.name for b in program.buffers if _is_linked(program, b.id)}
    expected = [buffer for buffer in listed if buffer not in linked]
    ours = [
        program.buffers[i].name
        for i in order
        if program.buffers[i].name in set(expected)
    ]
    same = sum(a == b for a, b in zip(ours, expected, strict=True))
    if name == "gpt2_train":  # One sum differs in its last bit.
        assert same >= 0.95 * len(ours)
    else:
        assert same == len(ours)


def _is_linked(program: Program, number: int) -> bool:
    """Whether a buffer is source or result of a copy or slice."""
    buffer = program.buffers[number]
    made = any(value.node.opcode in ("copy", "slice") for value in buffer.values)
    return made or any(use.node.opcode in ("copy", "slice") for use in buffer.uses)


@pytest.mark.parametrize("name", PROGRAMS)
def test_counts_are_consistent(name: str) -> None:
    program, costs = loaded(name)
    times = len(program.instructions)
    for counts in (costs.flops, costs.transcendentals, costs.bytes_total):
        assert counts.shape == (times,)
        assert np.all(np.isfinite(counts)) and np.all(counts >= 0)
    assert np.all(costs.bytes_total[costs.is_control] == 0)
    assert compute_seconds(costs, V5e()).shape == (times,)
    for time, slots in enumerate(costs.slots):
        node = program.instructions[time].node
        assert all(0 <= operand < len(node.operands) for operand, _ in slots.operands)
        for (operand, index), count in slots.operands.items():
            assert costs.operand_bytes(time, operand, index) == count
    assert costs.operand_bytes(0, 99) == 0.0


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    kernel=st.integers(1, 6),
    data=st.integers(0, 9),
    result=st.integers(0, 9),
    stride=st.integers(1, 3),
    low=st.integers(-3, 4),
    base_dilation=st.integers(1, 3),
    window_dilation=st.integers(1, 3),
)
def test_valid_positions_equal_counting(
    kernel: int,
    data: int,
    result: int,
    stride: int,
    low: int,
    base_dilation: int,
    window_dilation: int,
) -> None:
    occupied = {i * base_dilation for i in range(data)}
    counted = sum(
        o * stride + k * window_dilation - low in occupied
        for o, k in itertools.product(range(result), range(kernel))
    )
    assert counted == valid_positions(
        kernel,
        data,
        result,
        stride=stride,
        low=low,
        base_dilation=base_dilation,
        window_dilation=window_dilation,
    )
