"""Tables from which the cost of a plan is looked up: all that Python has to work out, done once.

Axes of the arrays: K classes that may be cut, R conflicts, P pins, A mesh axes, M meshes, U units, E entries of the
largest unit, T events in program order, W work tables, V moves (of a value into or out of an operation).
"""

import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from compiler.cost.links import price
from compiler.sharding import work
from compiler.sharding.flatten import LITERAL
from compiler.sharding.parts import Edge, Parts, joined_sums, merged_edges
from compiler.sharding.reshard import NONE, local_share, moves
from compiler.sharding.units import codes, parts, shares

MIB = float(1 << 20)
# Columns of a row of `Tables.move_table`, per MiB of the value but for the calls.
ASYNC, SYNC, ASYNC_CALLS, SYNC_CALLS, COPY, SUMMED = range(6)
_COLUMNS = 6


class Tables(NamedTuple):
    """The numbers. Bytes are in MiB, times in cycles.

    Attributes:
        class_size: extent of each class.
        mesh_sizes: devices along each axis.
        together: whether two classes meet in a unit.
        unit_class, unit_conflict, unit_side: of each entry; K, R for none.
        unit_pin: the pin of each unit, P for none.
        unit_share: where a unit's shares begin in `share`.
        share: the part of an array on one device, by mesh.
        work_unit, work_offset: whose code looks up which table.
        work: cycles, by mesh.
        work_gate: a move without which it takes no time, being part of a product; V for work that always does.
        work_events: how often each is done in each event.
        move_value, move_op: the units at both ends of a move.
        move_offset: where its table begins.
        move_mib: of the whole value.
        move_table: by mesh, rows of six (see the columns); SUMMED numbers the axes of a move that is one all-reduce.
        joins: pairs of moves: the first comes for nothing where both are all-reduces over the same axes.
        early: how often a move from an argument runs for an event: it may start before.
        late: the same of a move of a value that was just made.
        after: the same of a move of a result, which its event waits for.
        copies: events at which a moved value's copy is in memory.
        loop_start: whether an event is the first of a loop, which nothing is fetched across.
        argument_mib: of the arguments of each unit.
        live_mib: of the arrays of each unit in memory, by event.
        conflict_class: of each conflict.
    """

    class_size: Int[Array, " K"]
    mesh_sizes: Int[Array, "M A"]
    together: Bool[Array, "K K"]
    unit_class: Int[Array, "U E"]
    unit_conflict: Int[Array, "U E"]
    unit_side: Int[Array, "U E"]
    unit_pin: Int[Array, " U"]
    unit_share: Int[Array, " U"]
    share: Float[Array, "M S"]
    work_unit: Int[Array, " W"]
    work_offset: Int[Array, " W"]
    work: Float[Array, "M Q"]
    work_gate: Int[Array, " W"]
    work_events: Float[Array, "W T"]
    move_value: Int[Array, " V"]
    move_op: Int[Array, " V"]
    move_offset: Int[Array, " V"]
    move_mib: Float[Array, " V"]
    move_table: Float[Array, "M X 6"]
    joins: Int[Array, "J 2"]
    early: Float[Array, "V T"]
    late: Float[Array, "V T"]
    after: Float[Array, "V T"]
    copies: Float[Array, "V T"]
    loop_start: Bool[Array, " T"]
    argument_mib: Float[Array, " U"]
    live_mib: Float[Array, "U T"]
    conflict_class: Int[Array, " R"]


def _typed(array: np.ndarray) -> Array:
    kinds = {"b": np.bool_, "i": np.int32, "u": np.int32, "f": np.float32}
    return jnp.asarray(array, kinds[array.dtype.kind])


def tables_of(model: Parts) -> Tables:
    """Returns the tables of a program's parts."""
    return _Builder(model).tables()


class _Builder:
    """Fills the tables."""

    def __init__(self, model: Parts) -> None:
        self.model = model
        self.flows = model.flows
        self.program = model.names.program
        self.axes = len(model.meshes[0].sizes)
        self.events, self.starts = self._events()

    def _events(self) -> tuple[list[int], list[bool]]:
        """Returns the event of each operation: a new one where a value may move."""
        moving = {edge.operation for edge in self.model.edges if not edge.result}
        leaving = {edge.operation for edge in self.model.edges if edge.result}
        event, before, events, starts = -1, "", [], []
        entered: set[str] = set()
        fresh = True
        for k, op in enumerate(self.program.operations):
            enters = op.scope != before and op.scope not in entered and op.scope != ""
            if fresh or k in moving or op.scope != before:
                event += 1
                starts.append(enters)
            entered.add(op.scope)
            before = op.scope
            events.append(event)
            fresh = k in leaving
        return events, starts

    def tables(self) -> Tables:
        """Returns all numbers."""
        model = self.model
        names, units = model.names, model.units
        count, conflicts = len(model.classes), len(model.conflicts)
        width = max(1, *map(len, units)) if units else 1
        unit_class = np.full((len(units), width), count, np.int32)
        unit_conflict = np.full((len(units), width), conflicts, np.int32)
        unit_side = np.zeros((len(units), width), np.int32)
        together = np.zeros((count, count), bool)
        for u, unit in enumerate(units):
            for i, (klass, conflict, side, _) in enumerate(unit):
                unit_class[u, i] = klass
                unit_conflict[u, i] = conflict if conflict >= 0 else conflicts
                unit_side[u, i] = side
            met = [entry[0] for entry in unit]
            together[np.ix_(met, met)] = True
        np.fill_diagonal(together, False)
        pin = {u: p for p, u in enumerate(model.pins)}
        share = [[shares(unit, m.sizes) for unit in units] for m in model.meshes]
        lengths = [len(row) for row in share[0]]
        moved, summing = self._moves()
        arrays = dict(
            class_size=np.array([names.classes[c].size for c in model.classes]),
            mesh_sizes=np.array([mesh.sizes for mesh in model.meshes]),
            together=together,
            unit_class=unit_class,
            unit_conflict=unit_conflict,
            unit_side=unit_side,
            unit_pin=np.array([pin.get(u, len(pin)) for u in range(len(units))]),
            unit_share=np.cumsum([0, *lengths])[:-1],
            share=np.array([np.concatenate(rows) for rows in share]),
            loop_start=np.array(self.starts, bool),
            conflict_class=np.array(
                [
                    model.classes.index(names.conflicts[c].klass)
                    for c in model.conflicts
                ],
                np.int32,
            ),
            **moved,
            **self._work(summing, len(moved["move_mib"])),
            **self._memory(),
        )
        return Tables(**{name: _typed(array) for name, array in arrays.items()})

    def _row(self) -> np.ndarray:
        return np.zeros(len(self.starts))

    def _work(self, summing: dict[int, int], always: int) -> dict[str, np.ndarray]:
        """Returns the cycles of operations, by the code of their unit.

        Args:
            summing: the move of the result of each operation that has one.
            always: the gate of work that no move excuses.
        """
        model = self.model
        known: dict[tuple[int, int, bytes], int] = {}
        rows: list[np.ndarray] = []
        tables: list[np.ndarray] = []
        for k, op in enumerate(self.program.operations):
            if op.rule.work == "free" or not op.repeat:
                continue
            product = work.product_of(self.program, self.flows, k)
            if product >= 0 and product not in summing:
                continue
            gate = summing[product] if product >= 0 else always
            table = self._cycles(k)
            key = (model.operations[k].unit, gate, table.tobytes())
            index = known.setdefault(key, len(known))
            if index == len(rows):
                rows.append(self._row())
                tables.append(table)
            rows[index][self.events[k]] += op.repeat
        if not rows:
            rows, tables = [self._row()], [np.zeros((len(model.meshes), 1))]
            known[0, always, b""] = 0
        lengths = [table.shape[1] for table in tables]
        return {
            "work_unit": np.array([unit for unit, _, _ in known]),
            "work_gate": np.array([gate for _, gate, _ in known]),
            "work_offset": np.cumsum([0, *lengths])[:-1],
            "work": np.concatenate(tables, axis=1),
            "work_events": np.stack(rows),
        }

    def _cycles(self, k: int) -> np.ndarray:
        """Returns the cycles [M, codes] of an operation."""
        model, op = self.model, self.program.operations[k]
        nest = model.operations[k]
        unit = model.units[nest.unit]
        touched = {
            v for x in op.operands if x != LITERAL for v in self.flows.sources[x]
        }
        touched |= {*op.results}
        classes = {
            v: {entry[0] for entry in model.units[model.values[v].unit]}
            for v in touched
        }
        rows = []
        for mesh in model.meshes:
            row = []
            for cut in codes(unit, self.axes):
                split = [
                    parts(cut, mesh.sizes, e) if e >= 0 else 1 for e in nest.entries
                ]
                share = {
                    v: local_share(
                        mesh.sizes,
                        tuple(e if e >= 0 and unit[e][0] in met else NONE for e in cut),
                    )
                    for v, met in classes.items()
                }
                row.append(
                    work.cycles(
                        op, self.program, self.flows, split, share, model.machine
                    )
                )
            rows.append(row)
        return np.array(rows)

    def _moves(self) -> tuple[dict[str, np.ndarray], dict[int, int]]:
        """Returns what moves cost, and the move of each operation's result.

        A value that several operations want alike is moved once.
        """
        model = self.model
        offsets: dict[tuple[object, ...], int] = {}
        tables: list[np.ndarray] = [np.zeros((len(model.meshes), 1, _COLUMNS))]
        size = 1
        names = ("early", "late", "after", "copies")
        matrices: dict[str, list[np.ndarray]] = {name: [] for name in names}
        columns: list[tuple[int, int, int, float]] = []
        summing: dict[int, int] = {}
        for edges in merged_edges(model.edges):
            first, last = edges[0], edges[-1]
            op = self.program.operations[first.operation]
            key = (first.ends, first.wanted, first.result)
            if key not in offsets:
                offsets[key] = size
                tables.append(self._move_table(first))
                size += tables[-1].shape[1]
            mib = self.program.values[first.value].num_bytes / MIB
            if first.result:
                summing[first.operation] = len(columns)
            columns.append((*first.ends, offsets[key], mib))
            event = self.events[first.operation]
            kind = "after" if first.result else self._when(first)
            for name in names[:3]:
                row = self._row()
                row[event] = op.repeat if name == kind else 0.0
                matrices[name].append(row)
            row = self._row()
            end = self.events[last.operation]
            # A copy fetched ahead is there while the event before runs.
            row[max(event - (kind == "early"), 0) : end + 1] = 1.0
            matrices["copies"].append(row)
        if not columns:
            columns.append((0, 0, 0, 0.0))
            for rows in matrices.values():
                rows.append(self._row())
        value, nest, offset, mib_ = zip(*columns)
        arrays = dict(
            move_value=np.array(value),
            move_op=np.array(nest),
            move_offset=np.array(offset),
            move_mib=np.array(mib_),
            move_table=np.concatenate(tables, axis=1),
            joins=self._joins(summing),
            **{name: np.stack(rows) for name, rows in matrices.items()},
        )
        return arrays, summing

    def _joins(self, summing: dict[int, int]) -> np.ndarray:
        """Returns pairs of moves [J, 2], of which the second may make the first superfluous.

        Args:
            summing: the move of the result of each operation that has one.
        """
        pairs = [
            (summing[one], summing[other])
            for group in joined_sums(self.program)
            for one, other in itertools.combinations(sorted(group), 2)
            if one in summing and other in summing
        ]
        # A move does not join itself: the row says that there are none.
        return np.array(pairs or [(0, 0)], np.int32)

    def _when(self, edge: Edge) -> str:
        """Returns whether a value can be fetched ahead: arguments, constants, and what a loop is given."""
        sources = self.flows.sources[edge.value]
        op = self.program.operations[edge.operation]
        makers = [self.flows.birth[v] for v in sources]
        inside = any(
            k >= 0
            and self.program.operations[k].scope == op.scope
            and self.program.operations[k].rule.work != "free"
            for k in makers
        )
        return "late" if inside else "early"

    def _move_table(self, edge: Edge) -> np.ndarray:
        """Returns the rows [M, codes of the value x codes of the operation, 6] of a move."""
        model = self.model
        value, nest = (model.units[u] for u in edge.ends)
        rows = []
        for mesh in model.meshes:
            row = []
            for ours in codes(value, self.axes):
                for cut in codes(nest, self.axes):
                    theirs = tuple(edge.wanted[e] if e >= 0 else NONE for e in cut)
                    row.append(self._move(mesh.sizes, ours, theirs, edge.result))
            rows.append(row)
        return np.array(rows)

    def _move(
        self,
        sizes: tuple[int, ...],
        value: tuple[int, ...],
        nest: tuple[int, ...],
        result: bool,
    ) -> tuple[float, ...]:
        source, target = (nest, value) if result else (value, nest)
        machine = self.model.machine
        spent = [0.0] * _COLUMNS
        found = moves(sizes, source, target)
        for move in found:
            wait = move.kind not in machine.asynchronous
            dimensions = min(machine.all_reduce_dimensions, len(move.axes))
            spent[SYNC if wait else ASYNC] += price(
                machine.links,
                move.kind,
                move.share * MIB,
                move.devices,
                dimensions=dimensions,
            )
            spent[SYNC_CALLS if wait else ASYNC_CALLS] += 1
        if [move.kind for move in found] == ["all-reduce"]:
            spent[SUMMED] = sum(2**axis for axis in found[0].axes)
        if found:
            spent[COPY] = local_share(sizes, source if result else target)
        return tuple(spent)

    def _memory(self) -> dict[str, np.ndarray]:
        """Returns what is in memory, by unit."""
        model, values = self.model, self.program.values
        arguments = np.zeros(len(model.units))
        live = np.zeros((len(model.units), len(self.starts)))
        for v in self.program.inputs:
            arguments[model.values[v].unit] += values[v].num_bytes / MIB
        for v, death in self.flows.death.items():
            start = self.flows.birth[v]
            begin = self.events[start] if start >= 0 else 0
            last = len(self.events) - 1
            end = self.events[min(death, last)]
            live[model.values[v].unit, begin : end + 1] += values[v].num_bytes / MIB
        return {"argument_mib": arguments, "live_mib": live}
