"""An independent check of an offload plan: plain NumPy on the written plan and the program.

It shares no code with the search but what an access costs. It works out itself when each buffer is touched, walks the program
instruction by instruction with a clock of its own, and returns what is wrong, in words.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.cost.instruction import instruction_costs
from compiler.hlo import Buffer, Node, Program
from compiler.hlo.buffers import BufferAssignment
from compiler.targets import Target
from mallocgame.offload.costs import read_bytes, write_bytes

_QUIET = {"bitcast", "get-tuple-element", "tuple", "parameter", "optimization-barrier"}
_RUNS = {"while", "conditional", "call"}
_TOLERANCE = 1e-6
_MOST_REASONS = 20

Span = tuple[int, int]
"""Closed range of times."""


def check(
    plan: Mapping[str, Any],
    program: Program,
    assignment: BufferAssignment,
    target: Target,
    seconds: NDArray[np.float64],
) -> list[str]:
    """Returns what is wrong with a plan, nothing if it is right.

    Args:
        plan: content of a `mapping.json`.
        program: that it was made for.
        assignment: XLA's, which says what may share a place.
        target: the chip.
        seconds: of each instruction per execution with everything in HBM, [T].
    """
    checker = _Checker(plan, program, target, seconds)
    reasons = [
        *checker.heap(),
        *checker.sharing(assignment),
        *checker.presence(),
        *checker.clock(),
    ]
    return reasons[:_MOST_REASONS]


def check_packing(
    offsets: Sequence[int],
    parts: Sequence[Sequence[tuple[int, int, int]]],
    height: int,
    alignment: int,
) -> list[str]:
    """Returns what is wrong with offsets in one heap.

    Args:
        offsets: of each item, bytes.
        parts: of each item, `(start, end, size)`, half-open.
        height: that nothing may exceed.
        alignment: bytes that offsets are multiples of.
    """
    reasons = []
    rows = [
        (start, end, int(offset), int(offset) + size, number)
        for number, (offset, item) in enumerate(zip(offsets, parts, strict=True))
        for start, end, size in item
    ]
    table = np.array(rows, np.int64).reshape(-1, 5)
    for number, offset in enumerate(offsets):
        if offset < 0 or offset % alignment:
            reasons.append(f"item {number} is at {offset}, not aligned to {alignment}")
    if len(table) and table[:, 3].max() > height:
        reasons.append(f"the heap reaches {table[:, 3].max()}, beyond {height}")
    for k, (start, end, low, high, number) in enumerate(table):
        rest = table[k + 1 :]
        clash = (rest[:, 0] < end) & (rest[:, 1] > start)
        clash &= (rest[:, 2] < high) & (rest[:, 3] > low) & (rest[:, 4] != number)
        for other in rest[clash, 4]:
            reasons.append(f"items {number} and {other} overlap in time and in memory")
    return reasons


class _Checker:
    def __init__(
        self,
        plan: Mapping[str, Any],
        program: Program,
        target: Target,
        seconds: NDArray[np.float64],
    ) -> None:
        self.plan = plan
        self.program = program
        self.target = target
        self.seconds = seconds
        self.end = len(program.instructions)
        self.costs = instruction_costs(program)
        self.away = {d["buffer"]: d for d in plan["decisions"]}
        self.rectangles = plan["heap"]["rectangles"]
        self.region_of = np.array([i.region for i in program.instructions], int)

    # ---- Memory

    def heap(self) -> list[str]:
        """No two rectangles overlap; what stays and the heap's top fit the budget."""
        heap = self.plan["heap"]
        reasons = check_packing(
            [r["offset"] for r in self.rectangles],
            [[tuple(part) for part in r["parts"]] for r in self.rectangles],
            heap["height_bytes"],
            heap["alignment"],
        )
        total = heap["fixed_bytes"] + heap["height_bytes"]
        if total != self.plan["peak_bytes"]:
            reasons.append(f"the peak is {total}, not {self.plan['peak_bytes']}")
        if total > self.plan["budget_bytes"]:
            reasons.append(f"{total} bytes exceed the budget")
        level = np.full(self.end + 2, heap["fixed_bytes"], np.int64)
        for start, end, size in (p for r in self.rectangles for p in r["parts"]):
            level[start:end] += size
        over = np.flatnonzero(level > self.plan["budget_bytes"])
        if len(over):
            reasons.append(
                f"{level[over[0]]} bytes at time {over[0]} exceed the budget"
            )
        stays: dict[Any, int] = {}
        for buffer in self.program.buffers:
            if self._is_whole_run(buffer) and buffer.id not in self.away:
                stays[buffer.id] = buffer.size
        if sum(stays.values()) > heap["fixed_bytes"]:
            reasons.append(
                f"arguments, results and constants take {sum(stays.values())} bytes, "
                f"not {heap['fixed_bytes']}"
            )
        return reasons

    def sharing(self, assignment: BufferAssignment) -> list[str]:
        """What is in one place at the same time, XLA put into one place."""
        where: dict[str, set[tuple[int, int]]] = {}
        for allocation in assignment.allocations:
            for entry in allocation.buffers:
                where.setdefault(entry.name, set()).add(
                    (allocation.number, entry.offset)
                )
        reasons = []
        for rectangle in self.rectangles:
            members = [self.program.buffers[b] for b in rectangle["buffers"]]
            known = [
                set().union(*(where.get(v.node.name, set()) for v in b.values))
                for b in members
            ]
            for k, (a, ours) in enumerate(zip(members, known)):
                partners = [
                    (b, theirs)
                    for b, theirs in zip(members, known)
                    if b is not a and _meet(_lifetime(a), _lifetime(b))
                ]
                if partners and not any(ours & theirs for _, theirs in partners):
                    reasons.append(
                        f"{a.name} shares a place with {partners[0][0].name} (item {k})"
                    )
        return reasons

    def presence(self) -> list[str]:
        """Every buffer is in HBM as long as it lives, or away with nothing touching it."""
        held: dict[int, NDArray[np.int64]] = {}
        staged: dict[int, list[tuple[int, int, int]]] = {}
        for rectangle in self.rectangles:
            for number in rectangle["buffers"]:
                room = held.setdefault(number, np.zeros(self.end + 2, np.int64))
                for start, end, size in rectangle["parts"]:
                    room[start:end] = np.maximum(room[start:end], size)
            if rectangle["staging"] is not None:
                staged.setdefault(rectangle["staging"], []).extend(
                    tuple(part) for part in rectangle["parts"]
                )
        reasons = []
        for buffer in self.program.buffers:
            decision = self.away.get(buffer.id)
            if decision is None and self._is_whole_run(buffer):
                continue
            if not buffer.size or not buffer.values:
                continue
            must = np.zeros(self.end + 2, bool)
            start, end = _lifetime(buffer)
            must[start : end + 1] = True
            if decision is not None:
                reasons += self._is_away(buffer, decision, must, staged)
            room = held.get(buffer.id, np.zeros(self.end + 2, np.int64))
            missing = np.flatnonzero(must & (room < buffer.size))
            if len(missing):
                reasons.append(f"{buffer.name} is not in HBM at time {missing[0]}")
        return reasons

    def _is_away(
        self,
        buffer: Buffer,
        decision: Mapping[str, Any],
        must: NDArray[np.bool_],
        staged: Mapping[int, Sequence[tuple[int, int, int]]],
    ) -> list[str]:
        """Clears the times at which a buffer is away; returns what contradicts that."""
        kind, gone, back = decision["kind"], decision["gone"], decision["back"]
        touches = self._touches(buffer)
        if kind == "stack":
            must[:] = False
            return [
                *self._made_by_slices(buffer),
                *self._slices_fit(buffer, staged.get(buffer.id, ())),
            ]
        if kind == "gap":
            free = [(gone, back - 1)]
        else:
            must[: min(a for a, _ in touches)] = False
            must[max(b for _, b in touches) + 1 :] = False
            must[back:gone] = True
            free = [(0, back - 1), (gone, self.end)]
        for start, end in free:
            for a, b in touches:
                if start <= end and a <= end and start <= b:
                    return [f"{buffer.name} is touched at {a}..{b} while it is away"]
            must[start : end + 1] = False
        return []

    def _made_by_slices(self, buffer: Buffer) -> list[str]:
        """Outside loops a stack is only filled, or copied from or to another stack on the host."""
        for value in buffer.values:
            node = value.node
            if value.is_phi or node.opcode in _QUIET | _RUNS:
                continue
            if self.program.regions[self.region_of[value.time]].kind == "body":
                continue
            filled = _root(node, value.index).opcode in ("broadcast", "custom-call")
            if not filled and not self._is_relayout(node):
                return [f"{buffer.name} is written as a whole by {node.name}"]
        return []

    def _is_relayout(self, node: Node) -> bool:
        """Whether an instruction copies one stack on the host to another in another layout."""
        inner = node.called[0].nodes if node.opcode == "fusion" else (node,)
        moves = {"bitcast", "copy", "parameter", "transpose"}
        if node.shape.is_tuple or any(n.opcode not in moves for n in inner):
            return False
        ends = (node.operands[0], node) if node.operands else ()
        return bool(ends) and all(
            self.away.get(self.program.value_at(n).buffer, {}).get("kind") == "stack"
            for n in ends
        )

    def _slices_fit(
        self, buffer: Buffer, staged: Sequence[tuple[int, int, int]]
    ) -> list[str]:
        """Every access to an array on the host has room for its slice."""
        left = list(staged)
        for time, count, is_write in self._slices(buffer):
            region = self.program.regions[self.region_of[time]]
            span = (time, region.end) if is_write else (region.start, time)
            fits = [
                p for p in left if p[0] <= span[0] and span[1] < p[1] and p[2] >= count
            ]
            if not fits:
                return [f"{buffer.name} has no room for its slice at time {time}"]
            left.remove(min(fits, key=lambda p: p[2]))
        return []

    def _slices(self, buffer: Buffer) -> list[tuple[int, int, bool]]:
        """Accesses inside loops: time, bytes, whether it writes."""
        found = []
        for value in buffer.values:
            inside = self.program.regions[self.region_of[value.time]].kind == "body"
            if inside and not value.is_phi and value.node.opcode not in _QUIET | _RUNS:
                count = round(
                    write_bytes(self.costs, value.node, value.time, value.index)
                )
                found.append((value.time, count, True))
        for use in buffer.uses:
            if use.node.opcode not in _QUIET | _RUNS:
                if self._is_relayout(use.node):
                    continue
                count = round(
                    read_bytes(self.costs, use.node, use.time, use.operand, use.index)
                )
                if count:
                    found.append((use.time, count, False))
        return found

    # ---- Time

    def clock(self) -> list[str]:
        """Walks the program with all copies; it must not take longer than the plan says."""
        busy = np.zeros((2, self.end))
        seconds = self.seconds.copy()
        pieces: dict[int, list[tuple[int, int, float, int]]] = {}
        for number, decision in self.away.items():
            if decision["kind"] == "stack":
                for time, count, is_write in self._slices(self.program.buffers[number]):
                    region = self.program.regions[self.region_of[time]]
                    first = time + 1 - region.start if is_write else 0
                    due = (region.end if is_write else time) - region.start
                    pieces.setdefault(int(self.region_of[time]), []).append(
                        (first, due, self._link(count), int(is_write))
                    )
        for number in reversed(range(1, len(self.program.regions))):
            region = self.program.regions[number]
            if region.caller is None or region.parent is None or region.kind == "async":
                continue
            own = self.region_of[region.start : region.end] == number
            step = np.where(own, seconds[region.start : region.end], 0.0)
            taken = np.where(own, busy[:, region.start : region.end], 0.0)
            copies = pieces.get(number, [])
            trip = float(step.sum()) + _walk(step, taken, copies)
            trips = region.trip_count / self.program.regions[region.parent].trip_count
            caller = self.program.times[region.caller.name]
            seconds[caller] += trips * trip
            for lane in (0, 1):
                use = taken[lane].sum() + sum(c[2] for c in copies if c[3] == lane)
                busy[lane, caller] += trips * use
        entry = self.region_of == 0
        seconds, busy = np.where(entry, seconds, 0.0), np.where(entry, busy, 0.0)
        copies, reasons = self._copies()
        total = float(seconds.sum()) + _walk(seconds, busy, copies)
        if total > self.plan["seconds"] * (1 + _TOLERANCE):
            reasons.append(f"it takes {total:.9g} s, not {self.plan['seconds']:.9g} s")
        for lane in (0, 1):
            asked = float(busy[lane].sum()) + sum(c[2] for c in copies if c[3] == lane)
            if asked > self.plan["seconds"] * (1 + _TOLERANCE):
                reasons.append(f"lane {lane} of the link is asked for {asked:.9g} s")
        return reasons

    def _copies(self) -> tuple[list[tuple[int, int, float, int]], list[str]]:
        """Copies of whole tensors: start, due, seconds, lane (0 to the device, 1 to the host)."""
        copies, reasons = [], []
        for number, decision in self.away.items():
            buffer = self.program.buffers[number]
            gone, back = decision["gone"], decision["back"]
            touches = self._touches(buffer)
            cost = self._link(buffer.size)
            if decision["kind"] == "gap":
                before = max((b for _, b in touches if b < gone), default=-1)
                behind = min((a for a, _ in touches if a >= back), default=self.end)
                copies += [(before + 1, gone, cost, 1), (back, behind, cost, 0)]
                if not before < gone <= back <= behind:
                    reasons.append(f"{buffer.name} has no room for its copies")
            elif decision["kind"] == "argument":
                first = min(a for a, _ in touches)
                last = max(b for _, b in touches)
                copies.append((back, first, cost, 0))
                if not back <= first <= last < gone:
                    reasons.append(f"{buffer.name} is away when it is needed")
                if buffer.is_live_out:
                    copies.append((last + 1, min(gone, self.end), cost, 1))
        inside = [
            t
            for *span, _, _ in copies
            for t in span
            if t < self.end and self.region_of[t]
        ]
        if any(not self._starts_loop(t) for t in inside):
            reasons.append("a copy of the program starts or ends inside a loop")
        return copies, reasons

    def _starts_loop(self, time: int) -> bool:
        """Whether a time is the first of all that one instruction of the entry runs."""
        return time == 0 or self._outermost(time)[0] == time

    def _link(self, size: float) -> float:
        return size / self.target.slow_bandwidth

    # ---- The program

    def _is_whole_run(self, buffer: Buffer) -> bool:
        return buffer.is_parameter or buffer.is_live_out or buffer.is_constant

    def _touches(self, buffer: Buffer) -> list[Span]:
        """Times of the entry in which a buffer is read or written; a loop counts as a whole."""
        times = {
            v.time
            for v in buffer.values
            if not v.is_phi and v.node.opcode not in _QUIET | _RUNS
        }
        times |= {u.time for u in buffer.uses if u.node.opcode not in _QUIET}
        return [self._outermost(time) for time in sorted(times)]

    def _outermost(self, time: int) -> Span:
        """The span of the entry's instruction that runs what happens at a time."""
        region = self.program.regions[self.region_of[time]]
        at = time
        while region.parent is not None and region.caller is not None:
            at = self.program.times[region.caller.name]
            region = self.program.regions[region.parent]
        start = min(
            (r.start for r in self.program.regions if r.caller is self._node(at)),
            default=at,
        )
        return min(start, at), at

    def _node(self, time: int) -> Node:
        return self.program.instructions[time].node


def _root(node: Node, index: Sequence[int]) -> Node:
    """The operation that makes an instruction's result, inside a fusion."""
    at = node.called[0].root if node.opcode == "fusion" else node
    for number in index if node.opcode == "fusion" else ():
        at = at.operands[number] if at.opcode == "tuple" else at
    while at.opcode in ("bitcast", "copy", "convert") and at.operands:
        at = at.operands[0]
    return at


def _lifetime(buffer: Buffer) -> Span:
    return min(v.live[0] for v in buffer.values), max(v.live[1] for v in buffer.values)


def _meet(a: Span, b: Span) -> bool:
    return a[0] <= b[1] and b[0] <= a[1]


def _walk(
    seconds: NDArray[np.float64],
    busy: NDArray[np.float64],
    copies: Sequence[tuple[int, int, float, int]],
) -> float:
    """Returns the seconds that a sequence of instructions waits for its copies.

    Args:
        seconds: of each instruction, [N].
        busy: of these, seconds that each lane works on something else, [2, N].
        copies: start, due, seconds, lane; a lane serves first come first served.
    """
    starts: dict[int, list[int]] = {}
    dues: dict[int, list[int]] = {}
    for number in sorted(range(len(copies)), key=lambda n: _queue_key(copies[n])):
        starts.setdefault(copies[number][0], []).append(number)
        dues.setdefault(copies[number][1], []).append(number)
    left = [copy[2] for copy in copies]
    lanes: tuple[list[int], list[int]] = ([], [])

    def serve(lane: int, time: float) -> None:
        while lanes[lane] and time > 0:
            first = lanes[lane][0]
            step = min(time, left[first])
            left[first] -= step
            time -= step
            if left[first] <= 0:
                lanes[lane].pop(0)

    waited = 0.0
    for time in range(len(seconds) + 1):
        for number in starts.get(time, ()):
            lanes[copies[number][3]].append(number)
        late = [n for n in dues.get(time, ()) if left[n] > 0]
        wait = 0.0
        for lane in (0, 1):
            mine = [k for k, n in enumerate(lanes[lane]) if n in late]
            if mine:
                wait = max(
                    wait, math.fsum(left[n] for n in lanes[lane][: mine[-1] + 1])
                )
        if wait:
            waited += wait
            for lane in (0, 1):
                serve(lane, wait)
        if time < len(seconds):
            for lane in (0, 1):
                serve(lane, max(0.0, float(seconds[time] - busy[lane, time])))
    return waited


def _queue_key(copy: tuple[int, int, float, int]) -> tuple[int, int, float]:
    return copy[0], copy[1], -copy[2]
