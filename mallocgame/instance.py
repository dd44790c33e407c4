"""Builds the arrays of the game from a program, its costs and a target."""

import dataclasses
from collections.abc import Set

import jax.numpy as jnp
import numpy as np

from compiler.cost.model import CostModel
from compiler.hlo import Program
from compiler.targets import Target
from mallocgame.accesses import Access, list_accesses
from mallocgame.types import Accesses, Instance

_SMALLEST_BUCKET = 64
# Prefix sums of ticks stay below this, so that sums of two fit int32.
_MAX_TICKS = 1 << 29
# The TPU compiler makes prefetches from this size on in slices (seen in libtpu 0.0.52's compiles).
_SLICED_BYTES = 1 << 20
# More than a whole program offers; the sum with its time fits int32 too.
_MAX_COPY_TICKS = 1 << 30
# More than any memory has.
_MAX_GRANULES = 1 << 29


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """A program to be mapped: the game's instance and what its numbers stand for.

    Attributes:
        program: the scheduled program.
        costs: of its instructions, on the target.
        accesses: the decision points; entry i is access i of `instance`.
        columns: `instance.accesses` without padding, as NumPy arrays.
        instance: padded arrays.
        capacity: bytes of fast memory to be used.
    """

    program: Program
    costs: CostModel
    accesses: tuple[Access, ...]
    columns: dict[str, np.ndarray]
    instance: Instance
    capacity: int


def bucket(count: int) -> int:
    """Returns the padded size for a count: the next eighth of a power of two, at least 64."""
    step = (1 << max(count - 1, 1).bit_length()) // 16
    step = max(step, _SMALLEST_BUCKET)
    return max(-(-count // step), 1) * step


def build(
    program: Program,
    costs: CostModel,
    *,
    capacity: int | None = None,
    cross_program: frozenset[int] = frozenset(),
    max_cross_program: int = 1,
    not_copied: Set[int] = frozenset(),
    is_sliced: bool = True,
    least_accesses: int = 0,
    least_times: int = 0,
) -> Problem:
    """Returns the game of mapping a program onto a target.

    Args:
        program: the scheduled program.
        costs: of its instructions on the target.
        capacity: bytes of fast memory; the target's by default.
        cross_program: buffers that the run before may prefetch.
        max_cross_program: how many of them at most.
        not_copied: accesses, by number, that may not be prefetched for.
        is_sliced: whether the compiler makes large prefetches in slices.
        least_accesses: pad to so many accesses at least, to share a shape with other programs.
        least_times: the same of instructions.
    """
    target = costs.target
    capacity = target.capacity if capacity is None else capacity
    listed = list_accesses(program, cross_program=cross_program)
    elapsed = costs.all_slow
    nest = np.array([i.while_nest for i in program.instructions], np.int64)
    nested = elapsed * 5.0**nest
    tick = max(float(nested.sum()), 1e-12) / _MAX_TICKS
    trip = np.array([i.trip_count for i in program.instructions], np.float64)
    columns = _columns(program, costs, listed, tick, capacity, not_copied)
    size = bucket(max(len(listed), least_accesses))
    times = bucket(max(len(program.instructions), least_times))
    picker = _prefix(nested / tick, times)
    _set_horizon(columns, listed, picker, target, tick)
    regions = [0] + [i.region for i in program.instructions]
    instance = Instance(
        accesses=Accesses(
            **{k: jnp.asarray(_pad(v, size, k)) for k, v in columns.items()}
        ),
        order=jnp.arange(size, dtype=jnp.int32),
        num_accesses=jnp.int32(len(listed)),
        before_ticks=jnp.asarray(_prefix(elapsed / tick, times)),
        picker_ticks=jnp.asarray(picker),
        point_computation=jnp.asarray(
            _pad(np.array(regions, np.int32), times + 1, "point")
        ),
        floor_seconds=jnp.asarray(_pad(costs.floor, times, ""), jnp.float32),
        base_seconds=jnp.asarray(_pad(costs.base, times, ""), jnp.float32),
        trip=jnp.asarray(_pad(trip, times, ""), jnp.float32),
        capacity=jnp.int32(capacity // target.alignment),
        max_residency_ticks=jnp.int32(_max_residency(target, tick)),
        min_overlap=jnp.float32(target.min_overlap),
        max_outstanding=jnp.int32(target.max_outstanding),
        max_cross_program=jnp.int32(max_cross_program),
        sliced_from=jnp.int32(
            _SLICED_BYTES // target.alignment if is_sliced else _MAX_COPY_TICKS
        ),
        tick_seconds=jnp.float32(tick),
        all_slow_seconds=jnp.float32((trip * elapsed).sum()),
        traffic_seconds=jnp.asarray(_pad(costs.traffic, times, ""), jnp.float32),
        price=jnp.zeros(times, jnp.float32),
        value_to_go=jnp.zeros(size + 1, jnp.float32),
    )
    return Problem(
        program=program,
        costs=costs,
        accesses=tuple(listed),
        columns=columns,
        instance=instance,
        capacity=capacity,
    )


def _max_residency(target: Target, tick: float) -> int:
    # XLA sizes it by the whole fast memory, whatever part of it a mapping may use.
    limit = target.max_overlap * target.capacity / target.slow_bandwidth / tick
    return min(int(limit), 2 * _MAX_TICKS)


def _columns(
    program: Program,
    costs: CostModel,
    listed: list[Access],
    tick: float,
    capacity: int,
    not_copied: Set[int],
) -> dict[str, np.ndarray]:
    target = costs.target
    floor, base, elapsed = costs.floor, costs.base, costs.all_slow
    inside: dict[int, list[Access]] = {}
    for access in listed:
        if access.enclosing is not None:
            inside.setdefault(access.enclosing.number, []).append(access)
    rows = []
    for access in listed:
        size = program.buffers[access.buffer].size
        region = program.regions[access.region]
        saving = traffic = 0.0
        if not access.is_region:
            slots = (costs.savings[access.time], costs.slot_traffic(access.time))
            saving, traffic = (
                sum(
                    kind.operands.get((use.operand, use.index), 0.0)
                    for use in access.uses
                )
                + sum(kind.outputs.get(value.index, 0.0) for value in access.values)
                for kind in slots
            )
        faster = max(floor[access.time], base[access.time] - saving)
        rows.append(
            {
                "buffer": access.buffer,
                "time": access.time,
                "end": access.end,
                "size": min(-(-size // target.alignment), _MAX_GRANULES),
                "copy_ticks": min(
                    int(np.ceil(size / target.slow_bandwidth / tick)), _MAX_COPY_TICKS
                ),
                "saving": saving,
                "traffic": traffic,
                "reduction_ticks": int((elapsed[access.time] - faster) / tick)
                if not access.is_region
                else 0,
                "needs_value": access.needs_value,
                "writes": access.writes,
                "must_drop": access.must_drop,
                "forbid": size > capacity,
                "copyable": access.number not in not_copied,
                "previous": -1 if access.previous is None else access.previous.number,
                "enclosing": -1
                if access.enclosing is None
                else access.enclosing.number,
                "cross_program": access.cross_program,
                "slow_point": access.slow_point,
                "earliest": region.start + 1 if access.region else 0,
                "computation": access.region,
                "nest_scale": 5**region.while_nest,
                "horizon": access.number,
                "eagerness": target.preferred_overlap,
                "first_use": min(
                    (a.time for a in inside.get(access.number, ())), default=0
                ),
                "last_use": max(
                    (a.end for a in inside.get(access.number, ())), default=0
                ),
            }
        )
    return {
        name: np.array([row[name] for row in rows], _dtype(name))
        for name in Accesses._fields
    }


def _dtype(name: str) -> type:
    kind = Accesses.__annotations__[name]
    return {"Int": np.int32, "Float": np.float32, "Bool": np.bool_}[
        kind.__name__.split("[")[0]
    ]


def _set_horizon(
    columns: dict[str, np.ndarray],
    listed: list[Access],
    picker: np.ndarray,
    target: Target,
    tick: float,
) -> None:
    """Fills in how far each stay could go on without a copy, by the residency limit alone."""
    limit = _max_residency(target, tick)
    for access in sorted(listed, key=lambda access: -access.number):
        before = access.previous
        if before is None or access.must_drop:
            continue
        scale = columns["nest_scale"][access.number]
        gap = (int(picker[access.time]) - int(picker[before.end + 1])) // scale
        if gap < limit:
            columns["horizon"][before.number] = columns["horizon"][access.number]


def _prefix(ticks: np.ndarray, times: int) -> np.ndarray:
    total = np.concatenate([[0.0], np.cumsum(ticks)])
    return np.pad(
        np.rint(total).astype(np.int32), (0, times + 1 - len(total)), mode="edge"
    )


def _pad(values: np.ndarray, size: int, name: str) -> np.ndarray:
    fill = {
        "previous": -1,
        "enclosing": -1,
        "forbid": True,
        "nest_scale": 1,
        "point": -1,
    }
    return np.pad(values, (0, size - len(values)), constant_values=fill.get(name, 0))
