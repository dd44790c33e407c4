"""Seconds per instruction, by where its operands and outputs are.

    elapsed(A) = max(compute, memory - sum of the savings of the slots that A puts in fast memory)

with `memory` the time for all bytes at slow bandwidth (XLA's cost model without its pipeline
overhead). Figures come from the counts of `compiler.cost.instruction`; where the compiler's own
estimates for one placement are known, `calibrate` bends them to agree there.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from compiler.cost.instruction import InstructionCosts, compute_seconds
from compiler.hlo import ShapeIndex
from compiler.targets import Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Which slots of one instruction are in fast memory."""

    operands: frozenset[tuple[int, ShapeIndex]] = frozenset()
    outputs: frozenset[ShapeIndex] = frozenset()


@dataclasses.dataclass(frozen=True, kw_only=True)
class CostModel:
    """Costs of T instructions on a target.

    Attributes:
        target: the chip.
        counts: flops and bytes.
        compute: seconds per execution that placement cannot shorten, [T].
        memory_scale: factor on the memory time of each instruction, [T].
        source: `"analytic"`, or `"compiler"` after calibration.
        calibrated: share of the instructions' estimated time that the compiler's figures cover.
    """

    target: Target
    counts: InstructionCosts
    compute: NDArray[np.float64]
    memory_scale: NDArray[np.float64]
    source: str = "analytic"
    calibrated: float = 0.0

    @property
    def memory(self) -> NDArray[np.float64]:
        """Seconds of memory time with everything in slow memory, [T]."""
        return self.counts.bytes_total / self.target.slow_bandwidth * self.memory_scale

    @property
    def all_slow(self) -> NDArray[np.float64]:
        """Seconds with everything in slow memory, [T]."""
        return np.maximum(self.compute, self.memory)

    def read_saving(self, time: int, operand: int, index: ShapeIndex) -> float:
        """Seconds of memory time saved when an operand is in fast memory."""
        gain = 1 / self.target.slow_bandwidth - 1 / self.target.fast_read_bandwidth
        return self.counts.operand_bytes(time, operand, index) * gain * self.memory_scale[time]

    def write_saving(self, time: int, index: ShapeIndex) -> float:
        """Seconds of memory time saved when an output is in fast memory."""
        gain = 1 / self.target.slow_bandwidth - 1 / self.target.fast_write_bandwidth
        return self.counts.output_bytes(time, index) * gain * self.memory_scale[time]

    def elapsed(self, time: int, placement: Placement) -> float:
        """Seconds of one instruction under a placement."""
        return float(max(self.compute[time], self._memory(time, placement)))

    def _memory(self, time: int, placement: Placement) -> float:
        saved = sum(self.read_saving(time, *slot) for slot in placement.operands)
        saved += sum(self.write_saving(time, index) for index in placement.outputs)
        return max(float(self.memory[time]) - saved, 0.0)


def analytic(counts: InstructionCosts, target: Target) -> CostModel:
    """Returns the model by counts alone."""
    compute = np.where(counts.is_control, 0.0, compute_seconds(counts, target))
    return CostModel(
        target=target, counts=counts, compute=compute, memory_scale=np.ones_like(compute)
    )


def calibrate(
    model: CostModel, measured: Mapping[int, float], placements: Mapping[int, Placement]
) -> CostModel:
    """Returns the model bent to the compiler's own estimates under one placement.

    An instruction that takes longer than its memory time takes that long at least anywhere; one
    that takes less moves fewer bytes, or faster, than counted: its memory time is scaled.

    Args:
        model: to start from.
        measured: time -> seconds per execution that the compiler estimates.
        placements: time -> the placement under which it does; all slow where missing.
    """
    compute, scale = model.compute.copy(), model.memory_scale.copy()
    for time, seconds in measured.items():
        memory = model._memory(time, placements.get(time, Placement()))
        if seconds >= memory:
            compute[time] = seconds
        else:
            scale[time] *= seconds / memory
            compute[time] = min(compute[time], seconds)
    bent = dataclasses.replace(model, compute=compute, memory_scale=scale, source="compiler")
    total = float((bent.all_slow * bent.counts.trip_count).sum())
    known = sum(bent.all_slow[t] * bent.counts.trip_count[t] for t in measured)
    return dataclasses.replace(bent, calibrated=known / total if total else 0.0)
