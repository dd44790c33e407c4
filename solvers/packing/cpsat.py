"""CP-SAT of OR-Tools on rectangles that must not overlap: the optional method."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from solvers import cpsat
from solvers.packing import sections
from solvers.packing.problem import Buffer, Packing, lower_bound, packing
from solvers.packing.step import Step

_POLL = 0.1  # Seconds between two looks at the clock.


def search(
    buffers: Sequence[Buffer],
    capacity: int | None,
    seed: int,
    done: Callable[[], bool],
    known: Packing | None,
    workers: int = 1,
) -> Iterator[Step]:
    """Yields what is known at the start and at the end; arguments as `exact.search`.

    One worker repeats itself for a seed, if it is not stopped by the clock.

    Raises:
        Failure: status 2, if OR-Tools is not installed.
    """
    cp_model = cpsat.load("the method cpsat needs")
    bound = lower_bound(buffers)
    yield Step(0, known, bound)
    enough = bound if capacity is None else capacity
    if bound > enough or (known is not None and known.height <= enough):
        return
    model, tops, height = _model(buffers, capacity, bound, known)
    solver = cp_model.CpSolver()
    solver.parameters.random_seed = seed % (1 << 31)
    solver.parameters.num_workers = workers
    status = _solve(solver, model, done)
    found = None
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        found = packing(buffers, [solver.value(top) for top in tops], "cpsat")
    if status == cp_model.INFEASIBLE and capacity is not None:
        bound = capacity + 1
    if height is not None and status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        bound = max(bound, round(solver.best_objective_bound))
    if found is not None and known is not None and known.height <= found.height:
        found = known
    yield Step(1, found or known, bound)


def _model(
    buffers: Sequence[Buffer],
    capacity: int | None,
    bound: int,
    known: Packing | None,
) -> tuple[Any, list[Any], Any]:
    """Returns the model, the offsets in it in bytes, and the height or None."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    limit = capacity
    if limit is None:
        assert known is not None
        limit = known.height
    unit = sections.unit(buffers)
    height = model.new_int_var(bound, limit, "height") if capacity is None else None
    offsets = []
    times, places, demands = [], [], []
    for number, b in enumerate(buffers):
        step = b.alignment if b.alignment > 1 else unit
        if any(part.base for part in b.parts):
            step = b.alignment  # It may rest where no whole unit does.
        last = (limit - b.size) // step
        if b.offset is not None:
            offset: Any = model.new_constant(b.offset)
        elif last < 0:
            model.add_bool_or([])  # Too large: nothing fits.
            offset = model.new_constant(0)
        else:
            slot = model.new_int_var(0, last, f"slot {number}")
            hint = b.hint if known is None else int(known.offsets[number])
            if hint is not None:
                model.add_hint(slot, min(max(hint // step, 0), last))
            offset = step * slot
        offsets.append(offset)
        if height is not None:
            model.add(offset + b.size <= height)
        elif b.offset is not None and b.offset + b.size > limit:
            model.add_bool_or([])
        for part in b.parts:
            span, size = part.upper - part.lower, part.size - part.base
            times.append(model.new_fixed_size_interval_var(part.lower, span, ""))
            places.append(
                model.new_fixed_size_interval_var(offset + part.base, size, "")
            )
            demands.append(size)
    model.add_no_overlap_2d(times, places)
    model.add_cumulative(times, demands, limit if height is None else height)
    if height is not None:
        model.minimize(height)
    return model, offsets, height


def _solve(solver: Any, model: Any, done: Callable[[], bool]) -> Any:
    """Solves in a thread, so that the clock and signals are seen."""
    result: list[Any] = []
    thread = threading.Thread(
        target=lambda: result.append(solver.solve(model)), daemon=True
    )
    thread.start()
    while thread.is_alive():
        thread.join(_POLL)
        if done():
            solver.stop_search()
            thread.join()
    if not result:
        raise RuntimeError("CP-SAT ended without a result")
    return result[0]
