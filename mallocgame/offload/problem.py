"""One offload problem: what lies in HBM when, and what may go to the host in between.

HBM is the fast memory, the host's memory the slow one. Times are those of the program's flattened
schedule, T instructions; a loop's body is on it once.

Three kinds of tensors can leave:

- a *gap*: a temporary with nothing touching it between two times of the entry computation (a
  forward activation that waits for its use in the backward pass). It is copied out behind the
  first, and back in front of the second.
- an *argument*: it lives on the host between runs. It is copied in before its first use and, if
  the program overwrites it (optimizer state), copied out behind its last.
- a *stack*: an array that loops write and read slice by slice (`lax.scan`'s stacked residuals). It
  lives on the host; HBM holds only the slice in use.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from compiler.cost.instruction import instruction_costs
from compiler.hlo import Buffer, Node, Program, Region
from compiler.hlo.buffers import BufferAssignment, rectangles
from compiler.targets import Target
from mallocgame.offload import costs

# They hand a value on, or run others that touch it.
PLUMBING = frozenset(
    {
        "bitcast",
        "call",
        "conditional",
        "get-tuple-element",
        "optimization-barrier",
        "parameter",
        "tuple",
        "while",
    }
)
IN, OUT = 0, 1  # Lanes of the link: to the device, to the host. It is full duplex.
_SMALLEST_SHARE = 1e-3  # Of the peak: smaller tensors stay.
_SLICE_SHARE = 0.5  # Of the array: what touches more is no slice.


@dataclasses.dataclass(frozen=True, slots=True)
class Slice:
    """One access of a loop's body to a stack: `bytes` once per trip at `time`, over one lane."""

    time: int
    region: int
    bytes: int
    lane: int


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A tensor that may go to the host.

    Attributes:
        kind: `"gap"`, `"argument"` or `"stack"`.
        buffer: position in `program.buffers`.
        size: bytes.
        first: gap: last touch before it. argument: first touch. stack: start of its live range.
        last: gap: first touch behind it. argument: last touch. stack: end of its live range.
        copies_out: whether the host's copy must be written.
        slices: of a stack.
        name: what a user calls it: the `checkpoint_name` of a gap or stack, the path of an argument
            (`state['m']`), or None. Candidates of one name go to the host together or not at all.
        pair: of a stack that a loop writes and a second one, a copy of it in another layout, that a
            loop reads: the first one's buffer; else -1. On the host they are one.
    """

    kind: str
    buffer: int
    size: int
    first: int
    last: int
    copies_out: bool
    slices: tuple[Slice, ...] = ()
    name: str | None = None
    pair: int = -1


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """A candidate that goes to the host, and when it is not in HBM.

    Attributes:
        candidate: position in `Problem.candidates`.
        gone: gap, argument: the copy to the host must be done before this instruction; from here
            on its HBM is free.
        back: the copy to the device starts in front of this instruction and takes HBM from here on.
    """

    candidate: int
    gone: int = 0
    back: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What to decide on. Bytes, seconds.

    Attributes:
        program: scheduled.
        target: the chip; its slow bandwidth is the host link's, per direction.
        elapsed: of each instruction with everything in HBM, per execution, [T].
        usage: bytes in HBM at each time if nothing goes to the host, [T + 1].
        candidates: by descending size.
        floor: the last time in front of which a copy of the entry computation can start or end, not
            later than each time: a loop's start for what the loop runs, [T + 1].
        ceil: the first one not earlier than each time: behind the loop, [T + 1].
        budget: bytes of HBM.
        places: buffers by the place in HBM that they share.
    """

    program: Program
    target: Target
    elapsed: NDArray[np.float64]
    usage: NDArray[np.int64]
    candidates: tuple[Candidate, ...]
    floor: NDArray[np.int64]
    ceil: NDArray[np.int64]
    budget: int
    places: tuple[tuple[Buffer, ...], ...]

    @property
    def peak(self) -> int:
        """Bytes needed if nothing goes to the host."""
        return int(self.usage.max(initial=0))

    def link_seconds(self, size: float) -> float:
        """Seconds of a copy over the host link."""
        return size / self.target.slow_bandwidth


def build(
    program: Program,
    target: Target,
    budget: int,
    assignment: BufferAssignment | None = None,
) -> Problem:
    """Returns the problem of a scheduled program.

    Args:
        program: as compiled for the GPU.
        target: the chip.
        budget: bytes of HBM that the program may use.
        assignment: XLA's, if the dump has it: then buffers that XLA lets share one place (an
            elementwise result over its operand) are counted once.
    """
    places = _sharing(program, assignment)
    usage = _usage(program, places)
    smallest = _SMALLEST_SHARE * float(usage.max(initial=0))
    moved = _Touches(program)
    together = {buffer.id: place for place in places for buffer in place}
    found = [
        candidate
        for buffer in program.buffers
        if buffer.size >= smallest and not buffer.is_constant
        for candidate in moved.candidates(buffer)
        if not _is_shared(candidate, together[buffer.id])
    ]
    floor, ceil = _entry_times(program)
    return Problem(
        program=program,
        target=target,
        floor=floor,
        ceil=ceil,
        elapsed=costs.seconds(program, target),
        usage=usage,
        candidates=tuple(sorted(found, key=lambda c: (-c.size, c.first, c.buffer))),
        budget=budget,
        places=places,
    )


def is_fixed(buffer: Buffer) -> bool:
    """Whether a buffer is an allocation of its own for the whole run."""
    return buffer.is_parameter or buffer.is_live_out or buffer.is_constant


def live(buffer: Buffer) -> tuple[int, int]:
    """Returns the first and last time at which a buffer is needed."""
    return min(v.live[0] for v in buffer.values), max(v.live[1] for v in buffer.values)


def freed(problem: Problem, decision: Decision) -> NDArray[np.int64]:
    """Returns the bytes of HBM that a decision frees at each time, negative for staging, [T + 1]."""
    candidate = problem.candidates[decision.candidate]
    result = np.zeros_like(problem.usage)
    if candidate.kind == "stack":
        result[candidate.first : candidate.last + 1] = candidate.size
        for piece in candidate.slices:
            region = problem.program.regions[piece.region]
            # A slice comes in from the start of the trip, and goes out until its end.
            if piece.lane == IN:
                result[region.start : piece.time + 1] -= piece.bytes
            else:
                result[piece.time : region.end + 1] -= piece.bytes
    elif candidate.kind == "gap":
        result[decision.gone : decision.back] = candidate.size
    else:
        result[: decision.back] = candidate.size
        result[decision.gone :] = candidate.size
    return result


def touch_spans(program: Program, buffer: Buffer) -> list[tuple[int, int]]:
    """Returns the closed spans of entry times in which a buffer must be in HBM, merged, in order.

    What a loop does to it counts for the whole loop.
    """
    spans = []
    for time in _touch_times(buffer):
        region = program.regions[program.instructions[time].region]
        span = (time, time)
        while region.parent is not None:
            span, region = _caller_span(program, region)
        spans.append(span)
    merged: list[tuple[int, int]] = []
    for start, end in sorted(set(spans)):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _caller_span(program: Program, region: Region) -> tuple[tuple[int, int], Region]:
    """Times from the first instruction that a region's caller runs to the caller; and its region."""
    assert region.caller is not None and region.parent is not None
    same = [r.start for r in program.regions if r.caller is region.caller]
    return (min(same), program.times[region.caller.name]), program.regions[
        region.parent
    ]


def _entry_times(program: Program) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    floor = np.arange(len(program.instructions) + 1)
    ceil = floor.copy()
    for region in program.regions:
        if region.parent == 0:
            (start, end), _ = _caller_span(program, region)
            floor[start + 1 : end + 1] = start
            ceil[start + 1 : end + 1] = end + 1
    return floor, ceil


def _touch_times(buffer: Buffer) -> Iterable[int]:
    for value in buffer.values:
        if not value.is_phi and value.node.opcode not in PLUMBING:
            yield value.time
    for use in buffer.uses:
        # What a loop hands through untouched stays where it is as long as the loop runs.
        if use.node.opcode not in PLUMBING or use.node.opcode in (
            "while",
            "conditional",
            "call",
        ):
            yield use.time


class _Touches:
    """Finds the candidates of a program."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._costs = instruction_costs(program)

    def candidates(self, buffer: Buffer) -> list[Candidate]:
        """Returns what a buffer may do, a stack before anything else."""
        if any(v.node.shape.is_tuple and not v.index for v in buffer.values):
            return []  # A table of pointers.
        stack, partner = self._stack(buffer)
        if stack is not None and partner is None:
            return [stack]
        if stack is not None and partner is not None:
            other, back = self._stack(partner)
            one_writes = other is not None and other.copies_out != stack.copies_out
            if back is buffer and one_writes:
                first = min(buffer.id, partner.id)
                return [dataclasses.replace(stack, pair=first)]
        spans = touch_spans(self._program, buffer)
        if not spans:
            return []
        if buffer.is_parameter:
            written = buffer.is_live_out and len(buffer.values) > 1
            if buffer.is_live_out and not written:
                return []  # Handed through.
            return [
                Candidate(
                    "argument",
                    buffer.id,
                    buffer.size,
                    spans[0][0],
                    spans[-1][1],
                    written,
                )
            ]
        node = buffer.values[0].node
        region = self._program.regions[
            self._program.instructions[buffer.definition_time].region
        ]
        if region.parent is not None:
            return []
        if _is_fill(node, buffer.values[0].index):
            spans = spans[1:]  # A fill is made again sooner than copied.
        return [
            Candidate("gap", buffer.id, buffer.size, a[1], b[0], True)
            for a, b in itertools.pairwise(spans)
            if b[0] - a[1] > 2
        ]

    def _stack(self, buffer: Buffer) -> tuple[Candidate | None, Buffer | None]:
        """Returns a buffer as a stack, and the one that it is a copy of or that is a copy of it."""
        slices = []
        partners: set[int] = set()
        for value in buffer.values:
            if value.is_phi or value.node.opcode in PLUMBING:
                continue
            if _is_layout_copy(value.node):
                partners.add(self._program.value_at(value.node.operands[0]).buffer)
                continue
            written = costs.write_bytes(
                self._costs, value.node, value.time, value.index
            )
            if written > _SLICE_SHARE * buffer.size or not self._in_loop(value.time):
                if _is_fill(value.node, value.index):
                    continue  # The host's array need not be filled.
                return None, None
            slices.append(self._slice(value.time, written, OUT))
        for use in buffer.uses:
            if use.node.opcode in PLUMBING:
                continue
            if _is_layout_copy(use.node):
                partners.add(self._program.value_at(use.node).buffer)
                continue
            read = costs.read_bytes(
                self._costs, use.node, use.time, use.operand, use.index
            )
            if read > _SLICE_SHARE * buffer.size or not self._in_loop(use.time):
                return None, None
            if read:
                slices.append(self._slice(use.time, read, IN))
        wrote = any(s.lane == OUT for s in slices)
        if not slices or buffer.is_live_out or len(partners) > 1:
            return None, None
        partner = self._program.buffers[partners.pop()] if partners else None
        if buffer.is_parameter:
            is_stack = not wrote and partner is None
        else:
            is_stack = wrote or partner is not None
        if not is_stack:
            return None, None
        start, end = live(buffer)
        stack = Candidate(
            "stack", buffer.id, buffer.size, start, end, wrote, tuple(slices)
        )
        return stack, partner

    def _slice(self, time: int, count: float, lane: int) -> Slice:
        return Slice(time, self._program.instructions[time].region, round(count), lane)

    def _in_loop(self, time: int) -> bool:
        region = self._program.regions[self._program.instructions[time].region]
        return region.kind == "body"


def _is_layout_copy(node: Node) -> bool:
    """Whether an instruction only writes an array in another order."""
    if node.opcode == "fusion" and not node.shape.is_tuple:
        inner = {n.opcode for n in node.called[0].nodes}
        return len(node.operands) == 1 and inner <= {
            "bitcast",
            "copy",
            "parameter",
            "transpose",
        }
    return node.opcode in ("copy", "transpose")


def _is_fill(node: Node, index: tuple[int, ...]) -> bool:
    """Whether an instruction only fills an array with one number."""
    source = node
    if node.opcode == "fusion":
        source = node.called[0].root
        for i in index:
            if source.opcode != "tuple":
                return False
            source = source.operands[i]
    while source.opcode in ("bitcast", "copy", "convert") and source.operands:
        source = source.operands[0]
    return source.opcode == "broadcast" or (
        node.opcode == "custom-call"
        and node.attributes.custom_call_target == "AllocateBuffer"
    )


def _is_shared(candidate: Candidate, place: Sequence[Buffer]) -> bool:
    """Whether another buffer is in the candidate's place while it would be gone."""
    if candidate.kind == "argument":
        return len(place) > 1
    others = [live(b) for b in place if b.id != candidate.buffer]
    return any(s < candidate.last and candidate.first < e for s, e in others)


def _sharing(
    program: Program, assignment: BufferAssignment | None
) -> tuple[tuple[Buffer, ...], ...]:
    """Returns the buffers, those that XLA puts in one place together."""
    owner = list(range(len(program.buffers)))

    def find(number: int) -> int:
        while owner[number] != number:
            number = owner[number]
        return number

    by_name: dict[str, list[int]] = {}
    for value in program.values:
        if not value.is_phi:
            by_name.setdefault(value.name, []).append(value.buffer)
    for allocation in assignment.packed if assignment else ():
        for rectangle in rectangles(allocation):
            members = [n for name in rectangle.names for n in by_name.get(name, [])]
            for member in members[1:]:
                owner[find(member)] = find(members[0])
    groups: dict[int, list[Buffer]] = {}
    for buffer in program.buffers:
        groups.setdefault(find(buffer.id), []).append(buffer)
    return tuple(map(tuple, groups.values()))


def _usage(program: Program, places: Sequence[Sequence[Buffer]]) -> NDArray[np.int64]:
    last = len(program.instructions)
    usage = np.zeros(last + 1, np.int64)
    for place in places:
        one = np.zeros_like(usage)
        for buffer in place:
            start, end = (0, last) if is_fixed(buffer) else live(buffer)
            window = one[start : end + 1]
            np.maximum(window, buffer.size, out=window)
        usage += one
    return usage
