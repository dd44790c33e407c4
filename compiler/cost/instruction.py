"""Cost inputs of every instruction of a program, and what memory is worth.

The counts are those of XLA's HLO cost analysis; `memory_boundedness` is the
figure by which XLA's memory-space assignment orders buffers.
"""

import dataclasses
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from compiler.cost.arithmetic import Memo, work
from compiler.cost.slots import Slots, all_slots
from compiler.hlo import Buffer, Instruction, Program, ShapeIndex, Use
from compiler.hlo.intervals import heap_intervals

# Executions that memory-space assignment assumes for the body of any loop.
ASSUMED_TRIP_COUNT = 5.0


class Roofline(Protocol):
    """The figures of a chip that costs are computed from.

    Bandwidths are bytes per second, peaks operations per second.
    """

    @property
    def slow_bandwidth(self) -> float: ...
    @property
    def fast_read_bandwidth(self) -> float: ...
    @property
    def fast_write_bandwidth(self) -> float: ...
    @property
    def peak_flops(self) -> float: ...
    @property
    def peak_transcendentals(self) -> float: ...


@dataclasses.dataclass(frozen=True, eq=False)
class InstructionCosts:
    """Counts of T instructions, by time.

    Attributes:
        flops: floating-point operations, [T].
        transcendentals: operations such as tanh, [T].
        bytes_total: bytes read and written, [T].
        while_nest: enclosing loops, [T].
        trip_count: executions, [T].
        is_control: whether it runs other instructions and costs nothing
            itself, [T].
        slots: bytes by operand and output, one entry for each instruction.
    """

    flops: NDArray[np.float64]
    transcendentals: NDArray[np.float64]
    bytes_total: NDArray[np.float64]
    while_nest: NDArray[np.int32]
    trip_count: NDArray[np.float64]
    is_control: NDArray[np.bool_]
    slots: tuple[Slots, ...]

    def operand_bytes(self, time: int, operand: int, index: ShapeIndex = ()) -> float:
        """Returns the bytes that are read through one operand."""
        return self.slots[time].operands.get((operand, index), 0.0)

    def output_bytes(self, time: int, index: ShapeIndex = ()) -> float:
        """Returns the bytes that are written to one output."""
        return self.slots[time].outputs.get(index, 0.0)


def instruction_costs(program: Program) -> InstructionCosts:
    """Counts the work and the bytes of every instruction of a program."""
    memo: Memo = {}
    counted = [work(i.node, memo) for i in program.instructions]
    moved = all_slots(i.node for i in program.instructions)
    instructions = program.instructions
    return InstructionCosts(
        flops=np.array([w.flops for w in counted]),
        transcendentals=np.array([w.transcendentals for w in counted]),
        bytes_total=np.array([s.total for s in moved]),
        while_nest=np.array([i.while_nest for i in instructions], dtype=np.int32),
        trip_count=np.array([i.trip_count for i in instructions]),
        is_control=np.array([_is_control(i) for i in instructions]),
        slots=moved,
    )


def compute_seconds(costs: InstructionCosts, target: Roofline) -> NDArray[np.float64]:
    """Returns the time that arithmetic alone takes, [T] seconds."""
    return np.maximum(
        costs.flops / target.peak_flops,
        costs.transcendentals / target.peak_transcendentals,
    )


def memory_boundedness(
    program: Program, costs: InstructionCosts, target: Roofline
) -> NDArray[np.float32]:
    """Returns what fast memory is worth to each buffer, as XLA ranks it.

    For each use the time that would be saved by serving it from fast memory,
    times `ASSUMED_TRIP_COUNT` for each enclosing loop, if the instruction is
    bound by memory; otherwise (a number below 0) how far it is from that.
    Positive ones are added up, else the largest counts; the sum is divided by
    the square root of the size. XLA computes in single precision; so does
    this, because its ranking depends on it among nearly equal buffers.

    Args:
        program: B buffers.
        costs: of the program's instructions.
        target: the chip.

    Returns:
        Seconds per square root of a byte, [B].
    """
    benefit = _Benefit(costs, target)
    result = np.zeros(len(program.buffers), np.float32)
    for buffer in program.buffers:
        first = buffer.values[0]
        total = benefit(first.time, written=costs.output_bytes(first.time, first.index))
        for use in _costly_uses(buffer):
            gain = benefit(
                use.time, read=costs.operand_bytes(use.time, use.operand, use.index)
            )
            total = total + gain if total > 0 and gain > 0 else max(total, gain)
        result[buffer.id] = (
            total / np.sqrt(np.float32(buffer.size)) if buffer.size else total
        )
    return result


def msa_order(program: Program, boundedness: NDArray[np.float32]) -> list[int]:
    """Returns the buffers in the order in which XLA gives them fast memory.

    Most bounded by memory first; then the larger, the longer on the heap
    simulator's clock, the one whose first value is used up earlier, the one
    allocated earlier.

    Args:
        program: B buffers.
        boundedness: by `memory_boundedness`, [B].

    Returns:
        Positions in `program.buffers`, [B]; those that can never be in fast
        memory are among them.
    """
    intervals = heap_intervals(program)

    def key(number: int) -> tuple[float, int, int, int, int, int]:
        buffer, (allocated, freed) = program.buffers[number], intervals[number]
        first = buffer.values[0]
        latest_use = max((use.time for use in first.uses), default=0)
        return (
            -float(boundedness[number]),
            -buffer.size,
            allocated - freed,
            latest_use,
            allocated,
            first.id,
        )

    return sorted(range(len(program.buffers)), key=key)


class _Benefit:
    """Time that fast memory saves one slot of an instruction, in seconds."""

    def __init__(self, costs: InstructionCosts, target: Roofline) -> None:
        with np.errstate(over="ignore"):
            self._compute = np.maximum(
                costs.flops.astype(np.float32) / np.float32(target.peak_flops),
                costs.transcendentals.astype(np.float32)
                / np.float32(target.peak_transcendentals),
            )
            self._bytes = costs.bytes_total.astype(np.float32)
            self._scale = (ASSUMED_TRIP_COUNT**costs.while_nest).astype(np.float32)
        self._slow = np.float32(target.slow_bandwidth)
        self._read = np.float32(target.fast_read_bandwidth)
        self._write = np.float32(target.fast_write_bandwidth)

    def __call__(
        self, time: int, read: float = 0.0, written: float = 0.0
    ) -> np.float32:
        slow = self._bytes[time] / self._slow
        if slow <= self._compute[time]:
            return np.float32(slow - self._compute[time])
        fast_read, fast_written = np.float32(read), np.float32(written)
        rest = (self._bytes[time] - (fast_read + fast_written)) / self._slow
        fast = fast_read / self._read + fast_written / self._write
        return np.float32((slow - (fast + rest)) * self._scale[time])


def _costly_uses(buffer: Buffer) -> Iterator[Use]:
    """Yields the uses that cost something where they are, value by value."""
    for value in buffer.values:
        for use in value.uses:
            if use.node.opcode not in ("while", "conditional"):
                yield use


def _is_control(instruction: Instruction) -> bool:
    return instruction.opcode in ("while", "conditional", "call")
