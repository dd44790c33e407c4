"""Exact search over canonical solutions, after Moffitt, "MiniMalloc" (ASPLOS 2023).

In a canonical solution every buffer rests on another or on the ground; taking buffers by offset,
then by rank, each lies as low as those before it allow. So a solution is an order, and the search
places buffers in it one after another, each at its *floor*: the lowest offset above the placed
buffers that it overlaps. What is cut off:

- a buffer below the one placed before, or level with it and of lower rank (another order of the
  same solution);
- a buffer so high that another would still fit below it (that one could come down);
- a section of time in which what is still to be placed does not fit above its floors, or above the
  lowest offset still allowed;
- the second of two buffers that are exactly alike before the first.

What remains to be placed is divided wherever no buffer crosses from one section to the next; when a
division fails, the search goes back to the placement that made it, past all that was done in other
divisions.

Beyond the paper: the height that a section needs is the makespan of its unplaced buffers with their
floors as release times, not their sum above the lowest floor; and a division whose buffers and
floors were seen to fail before is not searched again, also not after a restart. (Divisions are told
apart by 128 bits of hash.)

The state lies in arrays, so the search can pause after any number of nodes and go on.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from solvers.compiled import compiled
from solvers.packing.sections import Component, Ints

PAUSED, SOLVED, EXHAUSTED = 0, 1, 2

_FAR = np.int64(1) << 62
_TABLE = 1 << 18  # Divisions remembered, a power of two.

# Registers.
_DEPTH, _GOALS, _CANDIDATES, _TRAIL, _STARTED, _STAMP, _NUM_REGISTERS = range(7)


class State(NamedTuple):
    """Where a search stands; everything in units.

    A *goal* is a division: sections `[left, right)` and the last placement before it. A *frame* is
    a goal in work with its candidates. Symbols: D frames, G goals, C candidates, U undo entries.

    Attributes:
        limit: the highest offset allowed, [B].
        top: where the highest section may end, [1].
        floor: lowest offset, of placed buffers the offset, [B].
        placed: [B].
        before, after: neighbours among the unplaced by rank, B stands for the end, [B + 1].
        need: lowest height in which what is unplaced in a section fits above its floors, [S].
        rest: sum of the sizes unplaced in a section, [S].
        crossing: unplaced buffers alive on both sides of the border in front of a section, [S + 1].
        touched: stamp by section, [S].
        division: of each section at the last placement, [S].
        registers: counters.
        frame_*: [D].
        goal_*: [G].
        candidate: [C].
        undo: what was changed, index and old value, [U, 3].
        failed: divisions that failed, as two hashes, [table, 2].
    """

    limit: Ints
    top: Ints
    floor: Ints
    placed: NDArray[np.bool_]
    before: Ints
    after: Ints
    need: Ints
    members: Ints
    rest: Ints
    crossing: Ints
    touched: Ints
    division: Ints
    registers: Ints
    frame_goal: Ints
    frame_next: Ints
    frame_end: Ints
    frame_begin: Ints
    frame_buffer: Ints
    frame_undo: Ints
    frame_goals: Ints
    goal_left: Ints
    goal_right: Ints
    goal_offset: Ints
    goal_rank: Ints
    goal_origin: Ints
    goal_then: Ints
    goal_hash: Ints
    candidate: Ints
    undo: Ints
    failed: Ints


def start(c: Component, capacity: int, failed: Ints | None = None) -> State:
    """Returns the state before the first placement.

    Args:
        c: what to pack.
        capacity: bytes.
        failed: the table of an earlier state for the same component and capacity, or None.
    """
    num, sections = len(c.size), len(c.of_start) - 1
    bytes_ = c.size * c.unit - c.spare
    limit = (capacity - bytes_) // c.unit // c.alignment * c.alignment
    floor = np.where(c.fixed < 0, 0, c.fixed)
    rest = np.bincount(c.sections, weights=c.tops, minlength=sections).astype(np.int64)
    crossing = np.zeros(sections + 1, np.int64)
    for first, last in zip(c.first, c.last):
        crossing[first + 1 : last + 1] += 1
    ring = np.arange(num + 1, dtype=np.int64)

    def ints(*shape: int) -> Ints:
        return np.zeros(shape, np.int64)

    frames, goals = num + 2, 2 * num + sections + 2
    return State(
        limit=limit.astype(np.int64),
        top=np.array([(limit + c.size).max(initial=0)], np.int64),
        floor=floor.astype(np.int64),
        placed=np.zeros(num, np.bool_),
        before=(ring - 1) % (num + 1),
        after=(ring + 1) % (num + 1),
        need=ints(sections),
        members=c.members.copy(),
        rest=rest,
        crossing=crossing,
        touched=ints(sections),
        division=ints(sections),
        registers=ints(_NUM_REGISTERS),
        frame_goal=ints(frames),
        frame_next=ints(frames),
        frame_end=ints(frames),
        frame_begin=ints(frames),
        frame_buffer=ints(frames),
        frame_undo=ints(frames),
        frame_goals=ints(frames),
        goal_left=ints(goals),
        goal_right=ints(goals),
        goal_offset=ints(goals),
        goal_rank=ints(goals),
        goal_origin=ints(goals),
        goal_then=ints(goals),
        goal_hash=ints(goals, 2),
        candidate=ints(frames * (num + 1)),
        undo=ints(len(c.near) + num * (sections + 1) + 1, 3),
        failed=ints(_TABLE, 2) if failed is None else failed,
    )


@compiled
def _mix(rank: int, floor: int, seed: int) -> int:
    """A hash of one unplaced buffer and its floor; int64, wrapping."""
    h = (rank + 1) * 0x1E3779B97F4A7C15 + floor * 0x2545F4914F6CDD1D + seed
    h ^= h >> 31
    h *= 0x3F58476D1CE4E5B9
    h ^= h >> 27
    h *= 0x14D049BB133111EB
    return h ^ (h >> 33)


@compiled
def _open_goals(
    c: Any,
    s: Any,
    left: int,
    right: int,
    offset: int,
    rank: int,
    origin: int,
    then: int,
) -> int:
    """Divides what is unplaced in sections [left, right) into goals.

    Returns the first goal of the list that ends with `then`, or -2 if one of them can't be met.
    """
    num = len(c.size)
    goals = s.registers[_GOALS]
    base = goals
    # Bounds of the divisions; a section with nothing unplaced belongs to none.
    section = left
    while section < right:
        if s.rest[section] == 0:
            section += 1
            continue
        begin = section
        s.division[section] = goals
        section += 1
        while section < right and s.crossing[section] > 0:
            s.division[section] = goals
            section += 1
        s.goal_left[goals] = begin
        s.goal_right[goals] = section
        s.goal_offset[goals] = _FAR  # The lowest offset still allowed.
        s.goal_rank[goals] = 0  # How many buffers.
        s.goal_origin[goals] = origin
        s.goal_hash[goals, 0] = 0
        s.goal_hash[goals, 1] = 0
        goals += 1
    one = s.after[num]
    while one != num:
        if c.first[one] >= left and c.first[one] < right:
            goal = s.division[c.first[one]]
            floor = s.floor[one]
            s.goal_rank[goal] += 1
            if floor < offset or (floor == offset and one < rank):
                floor = (
                    -1
                )  # It waits to be raised; to where, does not depend on its floor.
            elif floor < s.goal_offset[goal]:
                s.goal_offset[goal] = floor
            s.goal_hash[goal, 0] ^= _mix(one, floor, 0x3243F6A8885A308D)
            s.goal_hash[goal, 1] ^= _mix(one, floor, 0x13198A2E03707344)
        one = s.after[one]
    head = then
    kept = base
    for goal in range(base, goals):
        lowest = s.goal_offset[goal]
        if s.goal_rank[goal] == 1:
            continue  # It lies at its floor, which the sections checked.
        if lowest == _FAR:
            return -2
        for section in range(s.goal_left[goal], s.goal_right[goal]):
            if max(s.need[section], lowest + s.rest[section]) > s.top[0]:
                return -2
        slot = s.goal_hash[goal, 0] & (len(s.failed) - 1)
        if (
            s.failed[slot, 0] == s.goal_hash[goal, 0]
            and s.failed[slot, 1] == s.goal_hash[goal, 1]
        ):
            return -2
        # Keep the list dense.
        s.goal_left[kept] = s.goal_left[goal]
        s.goal_right[kept] = s.goal_right[goal]
        s.goal_rank[kept] = s.goal_rank[goal]
        s.goal_origin[kept] = origin
        s.goal_hash[kept, 0] = s.goal_hash[goal, 0]
        s.goal_hash[kept, 1] = s.goal_hash[goal, 1]
        kept += 1
    # The smallest first: if it fails, little was done in vain.
    for _ in range(base, kept):
        largest = -1
        for goal in range(base, kept):
            if s.goal_rank[goal] > 0 and (
                largest < 0 or s.goal_rank[goal] > s.goal_rank[largest]
            ):
                largest = goal
        s.goal_then[largest] = head
        head = largest
        s.goal_rank[largest] = 0
    for goal in range(base, kept):
        s.goal_offset[goal] = offset
        s.goal_rank[goal] = rank
    s.registers[_GOALS] = kept
    return head


@compiled
def _open_frame(c: Any, s: Any, goal: int) -> None:
    """Puts a goal in work: its candidates by floor, then by rank."""
    num = len(c.size)
    frame = s.registers[_DEPTH]
    left, right = s.goal_left[goal], s.goal_right[goal]
    offset, rank = s.goal_offset[goal], s.goal_rank[goal]
    begin = s.registers[_CANDIDATES]
    # No candidate as high as where another, placed at its floor, would end; none above a fixed one.
    lowest_end = _FAR
    one = s.after[num]
    while one != num:
        if c.first[one] >= left and c.first[one] < right:
            if c.fixed[one] < 0:
                lowest_end = min(lowest_end, s.floor[one] + c.size[one])
            else:
                lowest_end = min(lowest_end, c.fixed[one] + 1)
        one = s.after[one]
    end = begin
    one = s.after[num]
    while one != num:
        floor = s.floor[one]
        if (
            c.first[one] >= left
            and c.first[one] < right
            and floor < lowest_end
            and (floor > offset or (floor == offset and one > rank))
            and (c.twin[one] < 0 or s.placed[c.twin[one]])
        ):
            # Ranks come in order: insertion after all that are not higher is stable.
            at = end
            while at > begin and s.floor[s.candidate[at - 1]] > floor:
                s.candidate[at] = s.candidate[at - 1]
                at -= 1
            s.candidate[at] = one
            end += 1
        one = s.after[one]
    s.frame_goal[frame] = goal
    s.frame_begin[frame] = begin
    s.frame_next[frame] = begin
    s.frame_end[frame] = end
    s.frame_buffer[frame] = -1
    s.registers[_CANDIDATES] = end
    s.registers[_DEPTH] = frame + 1


@compiled
def _stacked(c: Any, s: Any, section: int) -> int:
    """Returns the lowest height in which the unplaced buffers of a section fit.

    Floors are release times on one machine, so taking the buffers by floor is optimal.
    """
    begin, end = c.of_start[section], c.of_start[section + 1]
    # The row stays sorted from call to call, but for what has changed.
    for k in range(begin + 1, end):
        one, top = s.members[k, 0], s.members[k, 1]
        floor = s.floor[one]
        at = k
        while at > begin and s.floor[s.members[at - 1, 0]] > floor:
            s.members[at, 0] = s.members[at - 1, 0]
            s.members[at, 1] = s.members[at - 1, 1]
            at -= 1
        s.members[at, 0], s.members[at, 1] = one, top
    height = 0
    for k in range(begin, end):
        one = s.members[k, 0]
        if not s.placed[one]:
            height = max(height, s.floor[one]) + s.members[k, 1]
    return height


@compiled
def _place(c: Any, s: Any, frame: int, one: int) -> bool:
    """Places a buffer at its floor; False if something no longer fits. `_take_back` undoes both."""
    offset = s.floor[one]
    undo = s.registers[_TRAIL]
    s.frame_buffer[frame] = one
    s.frame_undo[frame] = undo
    s.frame_goals[frame] = s.registers[_GOALS]
    s.placed[one] = True
    s.after[s.before[one]] = s.after[one]
    s.before[s.after[one]] = s.before[one]
    s.registers[_STAMP] += 1
    stamp = s.registers[_STAMP]
    for border in range(c.first[one] + 1, c.last[one] + 1):
        s.crossing[border] -= 1
    for k in range(c.in_start[one], c.in_start[one + 1]):
        section = c.sections[k]
        s.rest[section] -= c.tops[k]
    fits = True
    for k in range(c.near_start[one], c.near_start[one + 1]):
        other = c.near[k]
        if s.placed[other]:
            continue
        lowest = offset + c.apart[k]
        if lowest <= s.floor[other]:
            continue
        step = c.alignment[other]
        if step > 1:
            lowest = (lowest + step - 1) // step * step
        if lowest > s.limit[other] or (c.fixed[other] >= 0 and lowest > c.fixed[other]):
            fits = False
            break
        s.undo[undo, 0] = 0
        s.undo[undo, 1] = other
        s.undo[undo, 2] = s.floor[other]
        undo += 1
        s.floor[other] = lowest
        for j in range(c.in_start[other], c.in_start[other + 1]):
            s.touched[c.sections[j]] = stamp
    if fits:
        goal = s.frame_goal[frame]
        for section in range(s.goal_left[goal], s.goal_right[goal]):
            if s.touched[section] == stamp:
                need = _stacked(c, s, section)
                if need > s.need[section]:
                    s.undo[undo, 0] = 1
                    s.undo[undo, 1] = section
                    s.undo[undo, 2] = s.need[section]
                    undo += 1
                    s.need[section] = need
                if need > s.top[0]:
                    fits = False
                    break
    s.registers[_TRAIL] = undo
    return fits


@compiled
def _take_back(c: Any, s: Any, frame: int) -> None:
    """Undoes the placement of the top frame."""
    one = s.frame_buffer[frame]
    undo = s.registers[_TRAIL]
    while undo > s.frame_undo[frame]:
        undo -= 1
        if s.undo[undo, 0] == 0:
            s.floor[s.undo[undo, 1]] = s.undo[undo, 2]
        else:
            s.need[s.undo[undo, 1]] = s.undo[undo, 2]
    s.registers[_TRAIL] = undo
    s.registers[_GOALS] = s.frame_goals[frame]
    for k in range(c.in_start[one], c.in_start[one + 1]):
        s.rest[c.sections[k]] += c.tops[k]
    for border in range(c.first[one] + 1, c.last[one] + 1):
        s.crossing[border] += 1
    s.placed[one] = False
    s.after[s.before[one]] = one
    s.before[s.after[one]] = one
    s.frame_buffer[frame] = -1


@compiled
def search(c: Any, s: Any, max_nodes: int) -> tuple[int, int]:
    """Goes on with the search.

    Args:
        c: a `Component`.
        s: a `State` of it; changed.
        max_nodes: placements to try before it pauses.

    Returns:
        `PAUSED`, `SOLVED` (`s.floor` are the offsets) or `EXHAUSTED` (there is no solution), and
        the placements tried.
    """
    nodes = 0
    if s.registers[_STARTED] == 0:
        for one in range(len(c.size)):
            if s.floor[one] > s.limit[one]:
                return EXHAUSTED, nodes
        for section in range(len(s.rest)):
            if s.rest[section] > s.top[0]:
                return EXHAUSTED, nodes
        head = _open_goals(c, s, 0, len(s.rest), -1, -1, -1, -1)
        if head == -2:
            return EXHAUSTED, nodes
        if head == -1:
            return SOLVED, nodes
        s.registers[_STARTED] = 1
        _open_frame(c, s, head)
    while nodes < max_nodes:
        frame = s.registers[_DEPTH] - 1
        if s.frame_buffer[frame] >= 0:
            _take_back(c, s, frame)
        goal = s.frame_goal[frame]
        if s.frame_next[frame] == s.frame_end[frame]:
            slot = s.goal_hash[goal, 0] & (len(s.failed) - 1)
            s.failed[slot, 0] = s.goal_hash[goal, 0]
            s.failed[slot, 1] = s.goal_hash[goal, 1]
            origin = s.goal_origin[goal]
            if origin < 0:
                return EXHAUSTED, nodes
            # Past all frames of other goals, which this failure does not depend on.
            while frame > origin:
                if s.frame_buffer[frame] >= 0:
                    _take_back(c, s, frame)
                s.registers[_CANDIDATES] = s.frame_begin[frame]
                frame -= 1
            s.registers[_DEPTH] = origin + 1
            continue
        one = s.candidate[s.frame_next[frame]]
        s.frame_next[frame] += 1
        nodes += 1
        if not _place(c, s, frame, one):
            continue
        head = _open_goals(
            c,
            s,
            s.goal_left[goal],
            s.goal_right[goal],
            s.floor[one],
            one,
            frame,
            s.goal_then[goal],
        )
        if head == -2:
            continue
        if head == -1:
            return SOLVED, nodes
        _open_frame(c, s, head)
    return PAUSED, nodes
