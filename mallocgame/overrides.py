"""From a mapping to what the TPU compiler is told (docs/overrides.md has the evidence)."""

from collections import defaultdict
from collections.abc import Set

from compiler.backends.overrides import (
    Keep,
    Override,
    Pin,
    PositionAt,
    Prefetch,
    SortOverride,
    UseAt,
    options,
)
from compiler.hlo import Use, Value
from mallocgame.accesses import Access
from mallocgame.instance import Problem
from mallocgame.mapping import Decision, Mapping

# Copies that may be under way at a time: more than a mapping has.
_OUTSTANDING = 1000


def overrides(
    problem: Problem, mapping: Mapping, leave_out: Set[int] = frozenset()
) -> list[Override]:
    """Returns the compiler's overrides for a mapping, one per decision that needs one.

    A use that finds its buffer in fast memory already needs none; a buffer that is never there, one
    for each of its values; a cross-program prefetch is chosen by `cross_program`. Buffers in
    `leave_out` are left to the compiler.
    """
    by_buffer: dict[int, list[Decision]] = defaultdict(list)
    for decision in mapping.decisions:
        by_buffer[problem.accesses[decision.access].buffer].append(decision)
    found: list[Override] = []
    for buffer, decisions in by_buffer.items():
        if buffer in leave_out or _is_cross_program(problem, decisions):
            continue
        values = problem.program.buffers[buffer].values
        if all(decision.action == "Drop" for decision in decisions):
            found.extend(
                Override(_position(value), Keep()) for value in values if _named(value)
            )
            continue
        for decision in decisions:
            found.extend(_of_access(problem, decision))
    # A value may be named by the access of a region and by one inside it.
    return list({_place(override): override for override in reversed(found)}.values())


def compile_options(problem: Problem, mapping: Mapping) -> dict[str, str]:
    """Returns what a mapping comes to as options of `jax.jit`."""
    order = cross_program(problem, mapping)
    return options(overrides(problem, mapping), order, len(order), _OUTSTANDING)


def _place(override: Override) -> tuple[object, ...]:
    where = override.where
    return where[:3] if isinstance(where, UseAt) else (*where, None, None)


def cross_program(problem: Problem, mapping: Mapping) -> list[SortOverride]:
    """Returns what makes the compiler choose the mapping's cross-program prefetches, one each."""
    buffers = {
        problem.accesses[decision.access].buffer
        for decision in mapping.fast()
        if problem.accesses[decision.access].cross_program
    }
    return [
        SortOverride(
            _position(problem.program.buffers[b].values[0]), -1, cross_program=True
        )
        for b in sorted(buffers)
    ]


def _is_cross_program(problem: Problem, decisions: list[Decision]) -> bool:
    return any(
        problem.accesses[d.access].cross_program and d.action != "Drop"
        for d in decisions
    )


def _of_access(problem: Problem, decision: Decision) -> list[Override]:
    access = problem.accesses[decision.access]
    if access.must_drop or access.cross_program:
        return []
    size = problem.program.buffers[access.buffer].size
    if decision.action == "Copy" and decision.copy_point is not None:
        # A point is behind its instruction; the compiler counts from that instruction.
        return [
            Override(_use(use, size), Prefetch(decision.copy_point - 1))
            for use in access.uses[:1]
        ]
    if decision.action == "NoCopy":
        return [
            Override(_position(value), Pin())
            for value in access.values
            if not access.uses
        ]
    if access.needs_value and access.uses:
        if access.writes:
            # An override of a use hits the result of its instruction too, which here is the same
            # buffer, and its later uses could not be prefetched. So name the value that is read.
            read = _value_before(problem, access)
            return [] if read is None else [Override(_position(read), Keep())]
        return [Override(_use(use, size), Keep()) for use in access.uses]
    return [Override(_position(value), Keep()) for value in access.values]


def _value_before(problem: Problem, access: Access) -> Value | None:
    """Returns the value that an in-place update reads, if it is read by nothing else."""
    buffer = problem.program.buffers[access.buffer]
    read = [v for v in buffer.values if any(use in v.uses for use in access.uses)]
    if len(read) == 1 and len(read[0].uses) == len(access.uses):
        return read[0]
    return None


def _use(use: Use, size: int) -> UseAt:
    return UseAt(use.node.name, use.operand, use.index, size)


def _position(value: Value) -> PositionAt:
    return PositionAt(value.node.name, value.index)


def _named(value: Value) -> bool:
    return value.shape.is_array
