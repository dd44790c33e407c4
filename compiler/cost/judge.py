"""The judged figure: how long a compiled program takes, by the compiler's own estimates.

    instructions: estimated cycles of every instruction on the schedule, times its executions
    waits:        what the runtime simulator adds for the asynchronous copies as compiled

It is a steady state: the program runs back to back with itself, so that a cross-program prefetch,
which may start as soon as the buffer is free in the run before, overlaps that run's tail; a cold
single run is reported beside it. The compiler's default and a searched mapping are judged by this
one function, each on the module that the compiler made for it.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from compiler.backends import readback
from compiler.cost.instruction import instruction_costs
from compiler.cost.model import Placement, Slots, analytic
from compiler.cost.simulator import Copies, pack, simulate
from compiler.hlo import Program, padded_bytes
from compiler.targets import Target

_BUCKET = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a compiled program costs. Seconds.

    Attributes:
        total: of one run in the steady state.
        cold: of a single run.
        instructions: of the instructions alone.
        waits: `total - instructions`.
        estimated: share of the instructions' time that comes from the compiler's figures; the rest
            (instructions for which it gives none) from the analytic model.
        num_copies: asynchronous copies, slices counted one by one.
        wait: in front of each instruction of the compiled schedule, per execution, [T].
        elapsed: of each instruction, per execution, [T].
    """

    total: float
    cold: float
    instructions: float
    waits: float
    estimated: float
    num_copies: int
    wait: NDArray[np.float64]
    elapsed: NDArray[np.float64]


def judge(program: Program, target: Target, *, use_estimates: bool = True) -> Verdict:
    """Returns the verdict on a compiled program.

    Args:
        program: built from the compiler's final module, memory spaces and copies in place.
        target: the chip it was compiled for.
        use_estimates: take the compiler's estimated cycles; else the analytic model throughout.
    """
    placed = placements(program)
    model = analytic(instruction_costs(program), target)
    cycles = readback.cycles(program.module) if use_estimates else {}
    times = len(program.instructions)
    elapsed, busy, known = np.zeros(times), np.zeros(times), np.zeros(times, bool)
    for time, instruction in enumerate(program.instructions):
        seconds = model.elapsed(time, placed[time])
        if program.regions[instruction.region].kind == "async":
            continue  # What a copy does is the copy's own affair.
        if instruction.name in cycles:
            seconds, known[time] = cycles[instruction.name] / target.clock_hz, True
        elapsed[time] = seconds
        busy[time] = min(_slow_seconds(model.slot_traffic(time), placed[time]), seconds)
    trip = model.counts.trip_count
    moved = copies(program, target)
    size = -(-times // _BUCKET) * _BUCKET
    timeline = simulate(
        jnp.asarray(np.pad(elapsed, (0, size - times)), jnp.float32),
        jnp.asarray(np.pad(busy, (0, size - times)), jnp.float32),
        jnp.asarray(np.pad(trip, (0, size - times)), jnp.float32),
        moved,
    )
    instructions = float((elapsed * trip).sum())
    return Verdict(
        total=float(timeline.total),
        cold=float(timeline.cold_total),
        instructions=instructions,
        waits=float(timeline.total) - instructions,
        estimated=float((elapsed * trip)[known].sum()) / instructions
        if instructions
        else 0.0,
        num_copies=int((np.asarray(moved.seconds) > 0).sum()),
        wait=np.asarray(timeline.wait, np.float64)[:times],
        elapsed=elapsed,
    )


def placements(program: Program) -> list[Placement]:
    """Returns for each instruction of a compiled program which slots are in fast memory."""
    found = []
    for instruction in program.instructions:
        node = instruction.node
        found.append(
            Placement(
                operands=frozenset(
                    (number, index)
                    for number, operand in enumerate(node.operands)
                    for index, leaf in readback.leaves(operand.shape)
                    if leaf.memory_space == readback.FAST
                ),
                outputs=frozenset(
                    index
                    for index, leaf in readback.leaves(node.shape)
                    if leaf.memory_space == readback.FAST
                ),
            )
        )
    return found


def copies(program: Program, target: Target) -> Copies:
    """Returns a compiled program's asynchronous copies between the memories."""
    rows = []
    for copy in readback.copies(program.module):
        to_fast = copy.target_space == readback.FAST
        if to_fast == (copy.source_space == readback.FAST):
            continue
        seconds = padded_bytes(copy.shape) / target.slow_bandwidth
        start = copy.start_time
        crossing = copy.cross_program_index is not None
        if crossing:
            # Free for the next run's prefetch once nothing uses it any more.
            buffer = program.value_at(program.instructions[copy.done_time].node).buffer
            start = (
                max((use.time for use in program.buffers[buffer].uses), default=start)
                + 1
            )
        # The compiled module has the waiting itself on its schedule, where it belongs.
        rows.append((start, copy.done_time, seconds, not to_fast, crossing, False))
    return pack(rows)


def _slow_seconds(traffic: Slots, placed: Placement) -> float:
    slow = sum(s for slot, s in traffic.operands.items() if slot not in placed.operands)
    return slow + sum(
        s for index, s in traffic.outputs.items() if index not in placed.outputs
    )
