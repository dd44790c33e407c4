"""Figures of a mapping over logical time: fast memory, and the copies."""

from collections.abc import Sequence

from compiler.hlo import Buffer, tables
from mallocgame.account import Account
from mallocgame.instance import Problem
from mallocgame.mapping import Decision, Mapping
from mallocgame.verify import Verified
from solvers.report import (
    Cell,
    Interval,
    Lane,
    Lanes,
    Layer,
    Rectangle,
    SpaceTimeMap,
    TimeAxis,
)

# One order for all figures of a page, so that a colour means the same in all.
CATEGORIES = ("stays", "prefetched", "written back", "instruction", "waiting")
STAYS, PREFETCHED, WRITTEN_BACK, INSTRUCTION, WAITING = CATEGORIES
_MOST_USES = 6
# Of the program's time: shorter waits are rounding.
LEAST_WAIT = 1e-6
UNITS = {
    "saves": "s",
    "copy takes": "s",
    "waited": "s",
}


def axis(problem: Problem) -> TimeAxis:
    """Returns the axis of a program's instructions."""
    names = [instruction.name for instruction in problem.program.instructions]
    return TimeAxis(label="logical time", names=names)


def memory(problem: Problem, layers: Sequence[Layer]) -> SpaceTimeMap:
    """Returns the map of fast memory over time."""
    return SpaceTimeMap(
        title="Fast memory over time",
        note="A rectangle is a value's stay in fast memory: from the start of its copy, or from its making, to its last "
        "use there or the end of its write-back.",
        axis=axis(problem),
        layers=layers,
        capacity=problem.capacity,
        categories=CATEGORIES,
        detail_units=UNITS,
    )


def layer(
    name: str, problem: Problem, mapping: Mapping, account: Account, note: str = ""
) -> Layer:
    """Returns a mapping as a layer of `memory`."""
    rectangles = []
    for decision in mapping.fast():
        if decision.start is None or decision.end is None or decision.offset is None:
            continue
        buffer = _buffer(problem, decision)
        rectangles.append(
            Rectangle(
                label=buffer.name,
                start=decision.start,
                end=decision.end + 1,
                offset=decision.offset,
                size=buffer.size,
                category=STAYS if decision.action == "NoCopy" else PREFETCHED,
                details=_details(problem, decision, account),
            )
        )
    return Layer(name=name, rectangles=rectangles, note=note)


def compilers_layer(name: str, verified: Verified, problem: Problem) -> Layer:
    """Returns the compiler's allocations, by its own tables; no rectangles if it wrote none."""
    files = verified.compiled.tables
    if not {"allocinfo", "bufferinfo"} <= files.keys():
        return Layer(name=name, rectangles=[])
    known = {row.buffer_id: row for row in tables.read_buffers(files["bufferinfo"])}
    last = len(problem.program.instructions)
    rectangles = []
    for row in tables.read_allocations(files["allocinfo"]):
        if row.end_time < row.start_time or row.start_time >= last:
            continue
        value = known.get(row.buffer_id)
        made = value is not None and row.start_time <= value.definition_time
        details: dict[str, Cell] = {"decision": STAYS if made else PREFETCHED}
        if value is not None:
            served = [
                use
                for time, use in zip(value.use_times, value.use_names, strict=True)
                if row.start_time <= time <= row.end_time
            ]
            details["uses"] = _some(served)
            details["benefit by XLA's order"] = value.benefit
        rectangles.append(
            Rectangle(
                label=value.name if value else "cross-program prefetch",
                start=max(row.start_time, 0),
                end=min(row.end_time + 1, last),
                offset=row.offset,
                size=row.size,
                category=STAYS if made else PREFETCHED,
                details={**details, "why": "the compiler's own heuristic"},
            )
        )
    return Layer(name=name, rectangles=rectangles)


def copies(problem: Problem, mapping: Mapping, account: Account) -> Lanes:
    """Returns a mapping's copies from start to the use that needs them, and what is waited for."""
    least = LEAST_WAIT * account.total
    reads, writes, waits = [], [], []
    for decision in mapping.fast():
        access, buffer = problem.accesses[decision.access], _buffer(problem, decision)
        common: dict[str, Cell] = {
            "for": problem.program.instructions[access.time].name,
            "copy takes": buffer.size / problem.costs.target.slow_bandwidth,
        }
        if decision.copy_point is not None and not access.cross_program:
            waited = float(account.wait[access.time])
            reads.append(
                Interval(
                    label=buffer.name,
                    start=decision.copy_point,
                    end=max(access.time, decision.copy_point),
                    amount=buffer.size,
                    wait=(access.time, access.time + 1) if waited > least else None,
                    category=PREFETCHED,
                    details={**common, "waited": waited if waited > least else None},
                )
            )
        if decision.evict_point is not None and decision.evict_due is not None:
            writes.append(
                Interval(
                    label=buffer.name,
                    start=decision.evict_point,
                    end=decision.evict_due,
                    amount=buffer.size,
                    category=WRITTEN_BACK,
                    details=common,
                )
            )
    for time, instruction in enumerate(problem.program.instructions):
        waited = float(account.waits[time])
        if waited > least:
            waits.append(
                Interval(
                    label=instruction.name,
                    start=time,
                    end=time + 1,
                    category=WAITING,
                    details={"waited": waited},
                )
            )
    return Lanes(
        title="Copies of the searched mapping",
        note="From where a copy starts to the instruction that needs it. Prefetches by the run before are left out.",
        axis=axis(problem),
        lanes=[
            Lane(name="slow to fast", intervals=reads),
            Lane(name="fast to slow", intervals=writes),
            Lane(name="waiting", intervals=waits),
        ],
        wait_label="wait at the use",
        categories=CATEGORIES,
        detail_units=UNITS,
    )


def _details(problem: Problem, decision: Decision, account: Account) -> dict[str, Cell]:
    access, buffer = problem.accesses[decision.access], _buffer(problem, decision)
    words = STAYS if decision.action == "NoCopy" else PREFETCHED
    if decision.action == "NoCopy" and not access.needs_value:
        words = "made in fast memory"
    if access.cross_program:
        words = "prefetched by the run before"
    if decision.evict_point is not None:
        words += ", then written back"
    served = [str(use) for use in access.uses]
    served += [f"{value.node.name}, result" for value in access.values]
    return {
        "decision": f"{words} ({decision.action})",
        "why": _why(problem, decision, account),
        "uses": _some(served)
        or f"inside {problem.program.instructions[access.end].name}",
        "uses in all": len(buffer.uses),
        "saves": float(problem.columns["saving"][decision.access]) or None,
    }


def _why(problem: Problem, decision: Decision, account: Account) -> str:
    """Returns in words what a decision saves and what its copy costs."""
    access, buffer = problem.accesses[decision.access], _buffer(problem, decision)
    time, costs = access.time, problem.costs
    saved = float(problem.columns["saving"][decision.access])
    if access.is_region:
        words = "held for all uses inside"
    elif saved > 0:
        words = (
            f"saves {_micro(saved)} in "
            f"{problem.program.instructions[time].name}, which takes {_micro(costs.all_slow[time])} "
            f"with everything there and {_micro(account.elapsed[time])} now"
        )
    else:
        words = "saves nothing here; the value stays for a later use"
    if decision.copy_point is None or access.cross_program:
        return words
    takes = buffer.size / costs.target.slow_bandwidth
    hidden = float(account.span[decision.copy_point : time].sum())
    words += f"; its copy takes {_micro(takes)} alone and has {_micro(hidden)} before the use"
    waited = float(account.wait[time])
    return (
        words + f", which waits {_micro(waited)}"
        if waited > LEAST_WAIT * account.total
        else words
    )


def _buffer(problem: Problem, decision: Decision) -> Buffer:
    return problem.program.buffers[problem.accesses[decision.access].buffer]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_USES
    return "; ".join(names[:_MOST_USES]) + (f" and {more} more" if more > 0 else "")


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} µs"
