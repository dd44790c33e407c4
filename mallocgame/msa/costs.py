"""What memory-space assignment wants to know of an instruction's cost: seconds and bytes."""

from collections.abc import Iterable

import numpy as np

from compiler.cost.instruction import InstructionCosts, Roofline, compute_seconds
from compiler.hlo import Program, ShapeIndex, Use
from mallocgame.msa.clock import Clock, Seconds


class Costs:
    """XLA's cost model without its pipeline overhead, in single precision as there."""

    def __init__(self, counts: InstructionCosts, target: Roofline) -> None:
        self._counts = counts
        self._compute = compute_seconds(counts, target).astype(np.float32)
        self._bytes = counts.bytes_total.astype(np.float32)
        self._slow = np.float32(target.slow_bandwidth)
        self._read = np.float32(target.fast_read_bandwidth)
        self._write = np.float32(target.fast_write_bandwidth)
        self.elapsed: Seconds = np.where(
            counts.is_control,
            np.float32(0),
            np.maximum(self._compute, self._bytes / self._slow),
        ).astype(np.float32)

    def clock(self, program: Program) -> Clock:
        """Returns the clock of the program's schedule."""
        regions = program.regions
        return Clock(
            self.elapsed,
            [i.while_nest for i in program.instructions],
            [regions[i.region].depth for i in program.instructions],
        )

    def reduction(self, use: Use) -> float:
        """Returns by how many seconds an instruction is faster with one operand in fast memory."""
        time = use.time
        fast = np.float32(self.read(use))
        memory = fast / self._read + (self._bytes[time] - fast) / self._slow
        slow = max(self._compute[time], self._bytes[time] / self._slow)
        return float(slow - max(self._compute[time], memory))

    def idle(
        self,
        time: int,
        operands: Iterable[tuple[int, ShapeIndex]],
        outputs: Iterable[ShapeIndex],
    ) -> float:
        """Returns for how many seconds an instruction leaves slow memory alone.

        Args:
            time: of the instruction.
            operands: those in fast memory.
            outputs: those in fast memory.
        """
        read = sum(self._counts.operand_bytes(time, *operand) for operand in operands)
        written = sum(self._counts.output_bytes(time, index) for index in outputs)
        slow = (float(self._bytes[time]) - read - written) / float(self._slow)
        fast = read / float(self._read) + written / float(self._write)
        return max(float(self._compute[time]), fast + slow) - slow

    def read(self, use: Use) -> float:
        """Returns the bytes that an instruction reads through an operand."""
        return self._counts.operand_bytes(use.time, use.operand, use.index)

    def written(self, time: int, index: ShapeIndex) -> float:
        """Returns the bytes that an instruction writes to an output."""
        return self._counts.output_bytes(time, index)
