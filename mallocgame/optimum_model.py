"""The mapping problem in the terms of CP-SAT: what `mallocgame.optimum` has it solve.

Per access the model has what `validate` looks at: kept, copied or dropped; where its stay begins, how long
and at which offset the place is held; whether what was written goes back to slow memory, and by when. Its
cost is that of the simulator, instruction by instruction, and waits for copies. Of the copy queues it
demands only what any order of service would: what starts at or behind point p and is due at or in
front of instruction t has to fit into the time that slow memory is idle between the two, waits included.
First come, first served may wait longer, and slices, limits on the number of copies and prefetches by the
run before cost nothing here, so that the floor may lie below the best mapping; it never lies above.
All seconds are whole numbers of a unit, rounded in the floor's favour.
"""

import math
from typing import Any

import numpy as np

from mallocgame import mapping
from mallocgame.accesses import Access
from mallocgame.instance import Problem
from mallocgame.mapping import Decision, Mapping

_UNITS = 10_000_000  # In the all-slow time.


class Model:
    """Variables and constraints. Literals are 0/1 variables; times are points or instructions.

    Args:
        problem: to be solved.
        model: an empty one, to be filled.
    """

    def __init__(self, problem: Problem, model: Any) -> None:
        self.problem, self.model = problem, model
        self._costs, self._columns = problem.costs, problem.columns
        self._times = len(problem.program.instructions)
        trip = self._costs.counts.trip_count
        self.unit = float((trip * self._costs.all_slow).sum()) / _UNITS
        self._home = [0, *(i.region for i in problem.program.instructions)]
        # Of each access, by number.
        self._keep: list[Any] = []
        self._copy: list[Any] = []
        self._drop: list[Any] = []
        self._extends: list[Any] = []  # The stay of the access before goes on.
        self._start: list[Any] = []
        self._until: list[Any] = []
        self._offset: list[Any] = []
        self._evict: list[Any] = []
        self._dirty: list[Any] = []  # Behind it, the value is in fast memory alone,
        self._good: list[Any] = []  # or from this point on in slow memory too.
        self._starts: list[dict[int, Any]] = []  # Literals by point.
        self._dues: list[dict[int, Any]] = []
        self._writer: list[int] = []  # Last access up to it that wrote; -1.
        self._next: dict[int, Access] = {
            access.previous.number: access
            for access in problem.accesses
            if access.previous is not None
        }
        for access in problem.accesses:
            self._decided(access)
        for access in problem.accesses:
            self._placed(access)
            self._written_back(access)
        crossing = [self._copy[a.number] for a in problem.accesses if a.cross_program]
        model.add(sum(crossing) <= int(problem.instance.max_cross_program))
        self._packed()
        self._timed()

    # ---- Decisions --------------------------------------------------------------

    def _decided(self, access: Access) -> None:
        """Adds the access's own variables; they are those of nothing where a region holds it."""
        m, i = self.model, access.number
        size = int(self._columns["size"][i])
        room = self.problem.capacity // self._costs.target.alignment - size
        keep, copy, drop = (
            m.new_bool_var(f"{k} {i}") for k in ("keep", "copy", "drop")
        )
        outer = access.enclosing
        held = [] if outer is None else [self._drop[outer.number].negated()]
        m.add_exactly_one([keep, copy, drop, *held])
        if room < 0 or access.must_drop:
            m.add(keep + copy == 0)
        if not access.needs_value or not self._columns["copyable"][i]:
            m.add(copy == 0)
        before = access.previous
        extends = m.new_bool_var(f"extends {i}")
        m.add_implication(extends, keep)
        if before is None:
            m.add(extends == 0)
        if access.needs_value:
            m.add(extends == keep)
        points = self._points(access)
        starts = {p: m.new_bool_var(f"start {i} {p}") for p in points}
        m.add(sum(starts.values()) == copy)
        start = m.new_int_var(0, self._times, f"from {i}")
        m.add(
            start == access.time + sum((p - access.time) * x for p, x in starts.items())
        )
        last = self._last(access)
        self._keep.append(keep)
        self._copy.append(copy)
        self._drop.append(drop)
        self._extends.append(extends)
        self._starts.append(starts)
        self._start.append(start)
        self._until.append(m.new_int_var(access.end, last, f"until {i}"))
        self._offset.append(m.new_int_var(0, max(room, 0), f"offset {i}"))
        written = i if access.writes else -1
        if before is not None and written < 0:
            written = self._writer[before.number]
        self._writer.append(written)
        dues = {}
        if written >= 0 and i in self._next:
            # What is due before the access itself is the affair of the one before.
            first = max(self.problem.accesses[written].end + 2, access.time + 1)
            dues = {
                r: m.new_bool_var(f"due {i} {r}")
                for r in range(first, last + 2)
                if self._inside(access, r)
            }
        self._dues.append(dues)
        self._evict.append(m.new_bool_var(f"evict {i}"))
        m.add(sum(dues.values()) == self._evict[i])
        self._dirty.append(m.new_bool_var(f"dirty {i}"))
        self._good.append(m.new_int_var(0, self._times, f"good {i}"))

    def _inside(self, access: Access, point: int) -> bool:
        """Whether a point lies between two instructions of the access's computation, or at its own end."""
        end = self.problem.program.regions[access.region].end
        if access.region == 0 and point == self._times:
            return True
        return point < end and self._home[point] == access.region

    def _points(self, access: Access) -> list[int]:
        """Where its copy may start: of points with nothing but free instructions between, the last."""
        if access.cross_program:
            return [0]
        first = int(self._columns["earliest"][access.number])
        free = self._costs.all_slow == 0
        found = []
        for p in range(first, access.time + 1):
            following = p < access.time and free[p] and self._inside(access, p + 1)
            if self._inside(access, p) and not following:
                found.append(p)
        return found

    def _group(self, point: int) -> int:
        """First point in front of which nothing but free instructions are between."""
        while point > 0 and self._costs.all_slow[point - 1] == 0:
            point -= 1
        return point

    def _last(self, access: Access) -> int:
        """Last time until which there is a reason to hold its place."""
        behind = self._next.get(access.number)
        if behind is None:
            return access.end
        # What leaves the program may be written back until it is over.
        late = behind.must_drop and behind.region == 0
        return max(access.end, behind.time if late else behind.time - 1)

    # ---- What a decision needs --------------------------------------------------

    def _placed(self, access: Access) -> None:
        m, i, before = self.model, access.number, access.previous
        if before is None:
            good, dirty = access.slow_point, None
        else:
            k = before.number
            good, dirty = self._good[k], self._dirty[k]
            on = self._extends[i]
            m.add_bool_or([self._keep[k], self._copy[k]]).only_enforce_if(on)
            m.add(self._until[k] == access.time - 1).only_enforce_if(on)
            m.add(self._offset[i] == self._offset[k]).only_enforce_if(on)
        copy, drop = self._copy[i], self._drop[i]
        if access.needs_value:
            needed = access.end + 1 if access.must_drop else access.time
            m.add(good <= needed).only_enforce_if(drop)
            m.add(good <= self._start[i]).only_enforce_if(copy)
            if dirty is not None:
                m.add_implication(drop, dirty.negated())
                m.add_implication(copy, dirty.negated())
        if access.writes and dirty is not None:
            for does in (self._keep[i], copy, drop):
                # A write-back that is under way reads what would be overwritten.
                m.add(good <= access.time).only_enforce_if([does, dirty.negated()])

    def _written_back(self, access: Access) -> None:
        m, i, before = self.model, access.number, access.previous
        evict, dirty, good = self._evict[i], self._dirty[i], self._good[i]
        for r, x in self._dues[i].items():
            m.add(self._until[i] >= r - 1).only_enforce_if(x)
            m.add(good == r).only_enforce_if(x)
        if access.writes:
            fast = m.new_bool_var(f"own {i}")
            m.add(fast == self._keep[i] + self._copy[i])
            m.add_implication(evict, fast)
            m.add(dirty == fast - evict)
            m.add(good == access.end + 1).only_enforce_if(self._drop[i])
            return
        if before is None:
            m.add(evict == 0)
            m.add(dirty == 0)
            m.add(good == access.slow_point)
            return
        was = m.new_bool_var(f"was dirty {i}")
        m.add_min_equality(was, [self._extends[i], self._dirty[before.number]])
        m.add_implication(evict, was)
        m.add(dirty == was - evict)
        m.add(good == self._good[before.number]).only_enforce_if(evict.negated())

    def _packed(self) -> None:
        """Places don't overlap, and fit."""
        m, times, places, sizes = self.model, [], [], []
        for access in self.problem.accesses:
            i = access.number
            size = int(self._columns["size"][i])
            own = m.new_bool_var(f"placed {i}")
            m.add(own == self._keep[i] + self._copy[i])
            end = m.new_int_var(0, self._times + 1, "")
            m.add(end == self._until[i] + 1)
            length = m.new_int_var(1, self._times + 1, "")
            m.add(length == end - self._start[i])
            times.append(
                m.new_optional_interval_var(self._start[i], length, end, own, "")
            )
            offset = self._offset[i]
            places.append(
                m.new_optional_interval_var(offset, size, offset + size, own, "")
            )
            sizes.append(size)
        m.add_no_overlap_2d(times, places)
        capacity = self.problem.capacity // self._costs.target.alignment
        m.add_cumulative(times, sizes, capacity)

    # ---- Time -------------------------------------------------------------------

    def _timed(self) -> None:
        """The simulator's time, and that copies have the time that they need."""
        m, columns = self.model, self._columns
        down = lambda seconds: math.floor(float(seconds) / self.unit)  # noqa: E731
        up = lambda seconds: math.ceil(float(seconds) / self.unit)  # noqa: E731
        saved: list[Any] = [0] * self._times
        spared: list[Any] = [0] * self._times
        for access in self.problem.accesses:
            i = access.number
            fast = 1 - self._drop[i]
            saved[access.time] += up(columns["saving"][i]) * fast
            spared[access.time] += up(columns["traffic"][i]) * fast
        reads, writes = self._copies(down)
        waits_at = {due for _, due, _ in reads}
        waits_at |= {r for _, dues, _ in writes for r in dues if r < self._times}
        # Where a called computation begins or ends, and at the program's end.
        late_at = {
            t for t in range(self._times - 1) if self._home[t + 1] != self._home[t + 2]
        }
        late_at.add(self._times - 1)
        slots = np.bincount(columns["time"], minlength=self._times)
        idle, elapsed, wait, late = [], [], [], []
        for t in range(self._times):
            floor, base = down(self._costs.floor[t]), down(self._costs.base[t])
            busy = down(self._costs.traffic[t])
            most = max(floor, base)
            took = m.new_int_var(0, most, f"elapsed {t}")
            m.add_max_equality(took, [floor, base - saved[t]])
            own = m.new_int_var(0, busy, f"busy {t}")
            m.add_max_equality(own, [0, busy - spared[t]])
            left = m.new_int_var(0, most, f"idle {t}")
            m.add_max_equality(left, [0, took - own])
            elapsed.append(took)
            # What rounding may have taken.
            idle.append(left + 2 + int(slots[t]))
            wait.append(m.new_int_var(0, _UNITS if t in waits_at else 0, f"wait {t}"))
            late.append(m.new_int_var(0, _UNITS if t in late_at else 0, f"late {t}"))
        trip = self._costs.counts.trip_count
        m.minimize(
            sum(
                math.floor(trip[t]) * (elapsed[t] + wait[t] + late[t])
                for t in range(self._times)
            )
        )
        # Served at most, by the time that instruction t begins.
        served = [
            m.new_int_var(0, 4 * _UNITS, f"served {t}") for t in range(self._times + 1)
        ]
        m.add(served[0] == wait[0])
        for t in range(self._times):
            more = wait[t + 1] if t + 1 < self._times else 0
            m.add(served[t + 1] == served[t] + idle[t] + late[t] + more)
        begin = {q for _, _, by in reads for q in by} | {q for q, _, _ in writes}
        end = {due for _, due, _ in reads} | {r for _, dues, _ in writes for r in dues}
        for t in sorted(end):
            for p in sorted(q for q in begin if q <= t):
                self._fits(reads, writes, p, t, served, wait, late)

    def _copies(self, down: Any) -> tuple[list[Any], list[Any]]:
        """Reads: (units, due, literals by start point); writes: (start point, literals by due, units)."""
        bandwidth = self._costs.target.slow_bandwidth
        reads, writes = [], []
        for access in self.problem.accesses:
            i = access.number
            units = down(self.problem.program.buffers[access.buffer].size / bandwidth)
            if self._starts[i] and not access.cross_program and access.needs_value:
                reads.append((units, access.time, self._starts[i]))
            if self._dues[i]:
                start = self.problem.accesses[self._writer[i]].end + 1
                writes.append((start, self._dues[i], units))
        return reads, writes

    def _fits(
        self,
        reads: list[Any],
        writes: list[Any],
        p: int,
        t: int,
        served: list[Any],
        wait: list[Any],
        late: list[Any],
    ) -> None:
        """What starts at or behind p and is due at or in front of t is served between the two."""
        needs = []
        if p == t:
            # What is due where it starts is waited for, all of it.
            needs = [units * by[p] for units, due, by in reads if due == t and p in by]
            if needs:
                behind = late[t - 1] if t else 0
                self.model.add(sum(needs) <= wait[t] + behind)
            return
        for units, due, by in reads:
            if p < due <= t:
                needs += [units * x for q, x in by.items() if q >= p]
        for q, dues, units in writes:
            if q >= p:
                needs += [units * x for r, x in dues.items() if r <= t]
        if needs:
            self.model.add(sum(needs) <= served[t] - served[self._group(p)])

    # ---- Answer -----------------------------------------------------------------

    def mapping(self, solver: Any) -> Mapping:
        """Returns the mapping of a solution."""
        alignment = self._costs.target.alignment
        decisions: list[Decision] = []
        for access in self.problem.accesses:
            i = access.number
            outer = access.enclosing
            held = outer is not None and decisions[outer.number].action != "Drop"
            if held:
                assert outer is not None
                place = decisions[outer.number].offset
                decisions.append(
                    Decision(access=i, action="NoCopy", enclosed=True, offset=place)
                )
                continue
            if solver.value(self._drop[i]):
                decisions.append(Decision(access=i, action="Drop"))
                continue
            copied = bool(solver.value(self._copy[i]))
            due = next((r for r, x in self._dues[i].items() if solver.value(x)), None)
            prefetched = copied and not access.cross_program
            decisions.append(
                Decision(
                    access=i,
                    action="Copy" if copied else "NoCopy",
                    start=int(solver.value(self._start[i])),
                    end=int(solver.value(self._until[i])),
                    offset=int(solver.value(self._offset[i])) * alignment,
                    copy_point=int(solver.value(self._start[i])) if copied else None,
                    evict_point=None
                    if due is None
                    else self.problem.accesses[self._writer[i]].end + 1,
                    evict_due=due,
                    # Whether it is waited for, the simulator says.
                    copy_late=prefetched,
                    evict_late=due is not None,
                )
            )
        return mapping.Mapping(decisions=tuple(decisions))
