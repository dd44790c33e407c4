"""Seconds per instruction, by where its operands and outputs are.

    elapsed(A) = max(floor, base - sum of the savings of the slots that A puts in fast memory)

`analytic` takes floor, base and savings from counted flops and bytes (XLA's cost model without its
pipeline overhead), by which XLA ranks buffers. `calibrated` has the same counts as the compiler's
backend usually prices them, for a program of which it has said nothing. Where its estimates for
some placements are known, `fit` bends base and savings to them: what placements were seen comes out
nearly as observed, and what was not seen stays close to the counts.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from compiler.cost.instruction import InstructionCosts, compute_seconds
from compiler.hlo import ShapeIndex
from compiler.targets import Target

Operand = tuple[int, ShapeIndex]

# By the compiler's estimates an instruction that reads slow memory itself gets along more slowly
# than a copy does. What `fit` expects of one slot, as a multiple of the bytes' time.
DIRECT_ACCESS = 1.38
# Weight of that expectation for one slot against one observation of the whole instruction.
_PRIOR_WEIGHT = 0.05


class Backend(NamedTuple):
    """How the compiler's estimates of emitted code depend on the counts.

    elapsed = cycles / clock + max(arithmetic * compute, direct_access * slow + fast)

    Attributes:
        cycles: of any instruction that moves data, whatever its size.
        arithmetic: multiple of the time at the chip's peak.
        direct_access: multiple of the slow memory's time for the bytes.
    """

    cycles: float
    arithmetic: float
    direct_access: float


# Fitted to programs of the tuning half on v5e: `python -m benchmarks.tune_costs`.
BACKEND = Backend(cycles=3574, arithmetic=1.68, direct_access=1.99)


class Slots(NamedTuple):
    """Seconds by slot of one instruction."""

    operands: Mapping[Operand, float]
    outputs: Mapping[ShapeIndex, float]


class Placement(NamedTuple):
    """Which slots of one instruction are in fast memory."""

    operands: frozenset[Operand] = frozenset()
    outputs: frozenset[ShapeIndex] = frozenset()


class Observation(NamedTuple):
    """What the compiler estimates for one instruction under one placement."""

    time: int
    placement: Placement
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CostModel:
    """Costs of T instructions on a target. Seconds per execution.

    Attributes:
        target: the chip.
        counts: flops and bytes.
        floor: what placement cannot shorten, [T].
        base: with everything in slow memory, floor aside, [T].
        savings: by slot, what putting it in fast memory saves, [T].
        source: `"analytic"`, `"calibrated"`, or `"compiler"` after `fit`.
        covered: share of the all-slow time in instructions with observations.
    """

    target: Target
    counts: InstructionCosts
    floor: NDArray[np.float64]
    base: NDArray[np.float64]
    savings: tuple[Slots, ...]
    source: str = "analytic"
    covered: float = 0.0

    @property
    def all_slow(self) -> NDArray[np.float64]:
        """Seconds with everything in slow memory, [T]."""
        return np.maximum(self.floor, self.base)

    @property
    def traffic(self) -> NDArray[np.float64]:
        """Seconds for which all slots' bytes keep the slow memory busy, [T]."""
        return self.counts.bytes_total / self.target.slow_bandwidth

    def slot_traffic(self, time: int) -> Slots:
        """Seconds for which each slot's bytes keep the slow memory busy."""
        slots, bandwidth = self.counts.slots[time], self.target.slow_bandwidth
        return Slots(
            {slot: count / bandwidth for slot, count in slots.operands.items()},
            {index: count / bandwidth for index, count in slots.outputs.items()},
        )

    def elapsed(self, time: int, placement: Placement) -> float:
        """Seconds of one instruction under a placement."""
        saved = _saved(self.savings[time], placement)
        return float(max(self.floor[time], self.base[time] - saved))


def analytic(counts: InstructionCosts, target: Target) -> CostModel:
    """Returns the model by counts alone."""
    read = 1 / target.slow_bandwidth - 1 / target.fast_read_bandwidth
    write = 1 / target.slow_bandwidth - 1 / target.fast_write_bandwidth
    return CostModel(
        target=target,
        counts=counts,
        floor=np.where(counts.is_control, 0.0, compute_seconds(counts, target)),
        base=counts.bytes_total / target.slow_bandwidth,
        savings=tuple(
            Slots(
                {slot: count * read for slot, count in slots.operands.items()},
                {index: count * write for index, count in slots.outputs.items()},
            )
            for slots in counts.slots
        ),
    )


def calibrated(
    counts: InstructionCosts, target: Target, backend: Backend = BACKEND
) -> CostModel:
    """Returns the model by counts as the compiler's backend usually prices them."""
    moves = (counts.bytes_total > 0) & ~counts.is_control
    start = np.where(moves, backend.cycles / target.clock_hz, 0.0)
    slow = backend.direct_access / target.slow_bandwidth
    read, write = 1 / target.fast_read_bandwidth, 1 / target.fast_write_bandwidth
    compute = np.where(counts.is_control, 0.0, compute_seconds(counts, target))
    return CostModel(
        target=target,
        counts=counts,
        floor=start + backend.arithmetic * compute,
        base=start + slow * counts.bytes_total,
        savings=tuple(
            Slots(
                {slot: count * (slow - read) for slot, count in slots.operands.items()},
                {
                    index: count * (slow - write)
                    for index, count in slots.outputs.items()
                },
            )
            for slots in counts.slots
        ),
        source="calibrated",
    )


def fit(model: CostModel, observations: Sequence[Observation]) -> CostModel:
    """Returns the analytic model bent to the compiler's estimates.

    For each instruction, least squares over its base and its slots' savings: one equation per
    observation, and one weak one per slot that expects `DIRECT_ACCESS` times its analytic saving.

    Args:
        model: made by `analytic`.
        observations: any number per instruction; instructions with none stay analytic.
    """
    by_time: dict[int, list[Observation]] = {}
    for observation in observations:
        by_time.setdefault(observation.time, []).append(observation)
    floor, base, savings = model.floor.copy(), model.base.copy(), list(model.savings)
    for time, seen in by_time.items():
        base[time], savings[time] = _fit_one(model.savings[time], seen)
        floor[time] = min(floor[time], min(observation.seconds for observation in seen))
    bent = dataclasses.replace(
        model, floor=floor, base=base, savings=tuple(savings), source="compiler"
    )
    weight = bent.all_slow * bent.counts.trip_count
    known = float(weight[sorted(by_time)].sum()) if by_time else 0.0
    return dataclasses.replace(
        bent, covered=known / float(weight.sum()) if weight.any() else 0.0
    )


def _fit_one(slots: Slots, seen: list[Observation]) -> tuple[float, Slots]:
    operands, outputs = list(slots.operands), list(slots.outputs)
    expected = DIRECT_ACCESS * np.array(
        [*slots.operands.values(), *slots.outputs.values()], np.float64
    )
    rows = [
        [1.0]
        + [-float(slot in o.placement.operands) for slot in operands]
        + [-float(index in o.placement.outputs) for index in outputs]
        for o in seen
    ]
    prior = np.hstack([np.zeros((len(expected), 1)), np.eye(len(expected))])
    # In units of what is expected, so that small slots bend no more than large ones.
    unit = np.maximum(expected, max(float(expected.max(initial=0.0)) * 1e-3, 1e-12))
    scale = np.concatenate([[unit.max(initial=1e-12)], unit])
    weights = np.concatenate(
        [np.ones(len(seen)), _PRIOR_WEIGHT * unit.max(initial=1e-12) / unit]
    )
    matrix = np.vstack([np.array(rows), prior]) * weights[:, None]
    right = np.concatenate([[o.seconds for o in seen], expected]) * weights
    solution = np.linalg.lstsq(matrix * scale, right, rcond=None)[0] * scale
    saved = np.maximum(solution[1:], 0.0)
    observed = np.array(rows)[:, 1:] @ saved
    base = float(np.mean([o.seconds for o in seen] - observed))
    return base, Slots(
        dict(zip(operands, saved[: len(operands)].tolist(), strict=True)),
        dict(zip(outputs, saved[len(operands) :].tolist(), strict=True)),
    )


def _saved(slots: Slots, placement: Placement) -> float:
    saved = sum(slots.operands.get(slot, 0.0) for slot in placement.operands)
    return saved + sum(slots.outputs.get(index, 0.0) for index in placement.outputs)
