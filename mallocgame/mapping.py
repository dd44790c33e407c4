"""A complete mapping on the host: what was decided for every access, in bytes and names."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from compiler.hlo.program import format_index
from mallocgame.instance import Problem
from mallocgame.types import COPY, DROP, NO_COPY, State

ACTION_NAMES = {NO_COPY: "NoCopy", COPY: "Copy", DROP: "Drop"}
SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """What was decided for one access. Times are logical, closed; offsets and sizes bytes.

    Attributes:
        access: number of the access in `Problem.accesses`.
        action: `"NoCopy"`, `"Copy"` or `"Drop"`.
        enclosed: a fast region access around it holds the buffer.
        start, end: its stay in fast memory, if it has one of its own; `end` includes a write-back.
        offset: where, if in fast memory.
        copy_point: a prefetch starts after instruction `copy_point - 1`; due before the access.
        evict_point: a write-back starts after instruction `evict_point - 1`.
        evict_due: it is done before this instruction, or behind the program's last.
        copy_late: no instructions hide all of the prefetch; the access waits for it.
        evict_late: likewise of the write-back.
    """

    access: int
    action: str
    enclosed: bool = False
    start: int | None = None
    end: int | None = None
    offset: int | None = None
    copy_point: int | None = None
    evict_point: int | None = None
    evict_due: int | None = None
    copy_late: bool = False
    evict_late: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mapping:
    """A mapping of a problem: one decision per access, in the problem's order of accesses."""

    decisions: tuple[Decision, ...]

    def fast(self) -> Iterator[Decision]:
        """Yields the decisions that put an access into fast memory."""
        return (decision for decision in self.decisions if decision.action != "Drop")


def all_slow(problem: Problem) -> Mapping:
    """Returns the mapping that leaves everything in slow memory."""
    count = len(problem.accesses)
    return Mapping(
        decisions=tuple(Decision(access=i, action="Drop") for i in range(count))
    )


def from_state(problem: Problem, state: State) -> Mapping:
    """Returns the mapping of a terminated, unbatched position."""
    columns = {
        name: np.asarray(getattr(state, name))
        for name in (
            "action",
            "offset",
            "start",
            "until",
            "copy_point",
            "evict_point",
            "evict_end",
            "copy_late",
            "evict_late",
        )
    }
    alignment = problem.costs.target.alignment
    decisions: list[Decision] = []
    for access in problem.accesses:
        i = access.number
        action = int(columns["action"][i])
        outer = access.enclosing
        enclosed = outer is not None and decisions[outer.number].action != "Drop"
        if action == DROP:
            decisions.append(Decision(access=i, action="Drop"))
            continue
        evicted = columns["evict_point"][i] >= 0
        end = int(columns["until"][i])
        decisions.append(
            Decision(
                access=i,
                action=ACTION_NAMES[action],
                enclosed=enclosed,
                start=None if enclosed else int(columns["start"][i]),
                end=None
                if enclosed
                else max(end, int(columns["evict_end"][i]) - 1 if evicted else end),
                offset=int(columns["offset"][i]) * alignment,
                copy_point=int(columns["copy_point"][i]) if action == COPY else None,
                evict_point=int(columns["evict_point"][i]) if evicted else None,
                evict_due=int(columns["evict_end"][i]) if evicted else None,
                copy_late=action == COPY and bool(columns["copy_late"][i]),
                evict_late=bool(evicted and columns["evict_late"][i]),
            )
        )
    return Mapping(decisions=tuple(decisions))


def to_json(problem: Problem, mapping: Mapping) -> dict[str, Any]:
    """Returns the documented JSON form of a mapping."""
    program = problem.program
    rows = []
    for decision in mapping.decisions:
        access = problem.accesses[decision.access]
        row: dict[str, Any] = {
            "buffer": program.buffers[access.buffer].name,
            "instruction": program.instructions[access.end].name,
            "time": access.time,
            "end": access.end,
            "size": program.buffers[access.buffer].size,
            "operands": [[u.operand, format_index(u.index)] for u in access.uses],
            "outputs": [format_index(v.index) for v in access.values],
        }
        row |= {
            key: value
            for key, value in dataclasses.asdict(decision).items()
            if key != "access" and value is not None and value is not False
        }
        rows.append(row)
    return {
        "schema_version": SCHEMA_VERSION,
        "program": program.name,
        "target": problem.costs.target.name,
        "capacity": problem.capacity,
        "alignment": problem.costs.target.alignment,
        "decisions": rows,
    }
