"""The compiler's own mapping as a plan, so that a search can go on from it.

What memory-space assignment decided is read from the tables that it wrote: for each access whether
its buffer is in fast memory, and if it was copied there, when the copy started. Played out in the
game this gives the same decisions, unless the game forbids one (it keeps the copies in one queue
and offsets by best fit), and from there the search changes what is worth changing.
"""

import jax.numpy as jnp
import numpy as np

from compiler.backends.honour import Placement, Span
from compiler.backends.overrides import PositionAt, UseAt
from compiler.hlo import Program
from mallocgame import priority, rollout
from mallocgame.accesses import Access
from mallocgame.instance import Problem
from mallocgame.rollout import Plan
from mallocgame.types import COPY, DROP, NO_COPY


def plan(problem: Problem, placement: Placement) -> Plan:
    """Returns the compiler's decisions, played in the order in which it took the buffers.

    Args:
        problem: the game.
        placement: what the compiler made of the same program.
    """
    size = problem.instance.order.shape[0]
    advice = np.full(size, DROP, np.int8)
    eagerness = np.array(problem.instance.accesses.eagerness)
    spans: dict[int, Span] = {}
    for access in problem.accesses:
        span = _span(problem, access, placement)
        if span is None:
            continue
        spans[access.number] = span
        advice[access.number] = _action(access, span, spans)
        if advice[access.number] == COPY and not access.cross_program:
            eagerness[access.number] = _eagerness(problem, access, span)
    last = len(placement.order)
    places = np.array(
        [
            min((placement.order.get(v.name, last) for v in b.values), default=last)
            for b in problem.program.buffers
        ]
    )
    order = jnp.asarray(priority.buffer_order(problem, places))
    bare = rollout.plan(problem.instance, order)
    return Plan(bare.rank, jnp.asarray(eagerness, jnp.float32), jnp.asarray(advice))


def cross_program(program: Program, placement: Placement) -> frozenset[int]:
    """Returns the buffers that the compiler prefetched across programs."""
    return frozenset(
        buffer.id
        for buffer in program.buffers
        if any(value.node.name in placement.crossing for value in buffer.values)
    )


def _span(problem: Problem, access: Access, placement: Placement) -> Span | None:
    """The stay in fast memory that serves an access, if one does."""
    buffer = problem.program.buffers[access.buffer]
    if access.cross_program:
        crosses = any(v.node.name in placement.crossing for v in buffer.values)
        return Span(access.time, access.end) if crosses else None
    if access.must_drop:
        return None
    if access.is_region:
        found = (
            placement.spanning(
                PositionAt(v.node.name, v.index), access.time, access.end
            )
            for v in buffer.values
        )
        return next((span for span in found if span is not None), None)
    places: list[UseAt | PositionAt] = [
        UseAt(use.node.name, use.operand, use.index, buffer.size) for use in access.uses
    ]
    places += [PositionAt(v.node.name, v.index) for v in access.values]
    return next(
        (span for span in map(placement.span, places) if span is not None), None
    )


def _action(access: Access, span: Span, spans: dict[int, Span]) -> int:
    if access.cross_program:
        return COPY
    before = spans.get(access.previous.number) if access.previous else None
    # A buffer that is updated in place goes on under another value's name.
    if not access.needs_value or (before is not None and span.start <= before.end):
        return NO_COPY
    return COPY


def _eagerness(problem: Problem, access: Access, span: Span) -> float:
    """The overlap that makes the game's picker start the copy where the compiler did."""
    ticks = np.asarray(problem.instance.picker_ticks)
    row = {name: column[access.number] for name, column in problem.columns.items()}
    overlap = (ticks[access.time] - ticks[min(span.start, access.time)]) // row[
        "nest_scale"
    ]
    return float(overlap) / max(float(row["copy_ticks"]), 1.0)
