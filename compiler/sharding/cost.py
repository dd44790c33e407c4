"""What a choice costs: look-ups in the tables and one pass over the events, compiled, many choices at once.

The clock of the pass knows the computation and the links. Asynchronous collectives queue for the links and are waited
for by the event that needs them; those of arguments may start as soon as the links are free, the others when their
value is there. Synchronous ones stop the computation. Sums that are added up are completed together where they are cut
alike. Not known: what the compiler moves out of loops, and copies between layouts.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from compiler.sharding.model import Model
from compiler.sharding.tables import (
    ASYNC,
    ASYNC_CALLS,
    COPY,
    SUMMED,
    SYNC,
    SYNC_CALLS,
    Tables,
)

_LAST = 1 << 10  # Behind every level.
_NEVER = 1 << 20
_UNROLL = 8


class Choice(NamedTuple):
    """What is decided, in the one form that it has however it was come by.

    Attributes:
        levels: 0 where a class is not cut over an axis; else 1 + the largest level of the classes that were assigned
            to the axis before and meet it somewhere. Where several meet, the lowest is cut.
        bits: side of each conflict.
        pins: 1 where a unit is cut by classes of level 1 only.
        turned: 1 where units with that class are cut by the class assigned last, not first. Experts, say, whose
            arrays lose the axis to the batch, win it in all that has their hidden width.
        mesh: which of the meshes.
    """

    levels: Int[Array, "K A"]
    bits: Int[Array, " R"]
    pins: Int[Array, " P"]
    turned: Int[Array, " K"]
    mesh: Int[Array, ""]


class Cost(NamedTuple):
    """What one device spends. Cycles of the compiler's clock, MiB.

    Attributes:
        time: of one run.
        compute: of it, computing.
        exposed: of it, waiting for collectives.
        communication: of the collectives, hidden or not.
        arguments: memory of the arguments.
        peak: memory at its fullest.
    """

    time: Float[Array, ""]
    compute: Float[Array, ""]
    exposed: Float[Array, ""]
    communication: Float[Array, ""]
    arguments: Float[Array, ""]
    peak: Float[Array, ""]


def nothing(model: Model) -> Choice:
    """Returns the choice that cuts nothing, on the first mesh."""
    tables = model.tables
    axes = tables.mesh_sizes.shape[1]
    return Choice(
        jnp.zeros((len(model.classes), axes), jnp.int8),
        jnp.zeros(len(model.conflicts), jnp.int8),
        jnp.zeros(len(model.pins), jnp.int8),
        jnp.zeros(len(model.classes), jnp.int8),
        jnp.int8(0),
    )


def unit_codes(tables: Tables, choice: Choice) -> Int[Array, " U"]:
    """Returns the code of each unit: what is cut on each axis, as a number (`units.codes`)."""
    levels = jnp.pad(choice.levels.astype(jnp.int32), ((0, 1), (0, 0)))
    bits = jnp.pad(choice.bits.astype(jnp.int32), (0, 1))
    pinned = jnp.pad(choice.pins, (0, 1))[tables.unit_pin] > 0
    turned = jnp.any(jnp.pad(choice.turned, (0, 1))[tables.unit_class] > 0, axis=1)
    axes = levels.shape[1]
    best = jnp.full((tables.unit_class.shape[0], axes), _NEVER)
    cut = jnp.zeros_like(best)
    for entry in range(tables.unit_class.shape[1]):
        level = levels[tables.unit_class[:, entry]]
        other = bits[tables.unit_conflict[:, entry]] != tables.unit_side[:, entry]
        never = (level == 0) | (pinned[:, None] & (level > 1))
        rank = jnp.where(turned[:, None], _LAST - level, level)
        rank = jnp.where(never, _NEVER, 2 * rank + other[:, None])
        cut = jnp.where(rank < best, entry + 1, cut)
        best = jnp.minimum(best, rank)
    base = radix(tables)
    code = jnp.zeros_like(base)
    for axis in reversed(range(axes)):
        code = code * base + cut[:, axis]
    return code


def radix(tables: Tables) -> Int[Array, " U"]:
    """Returns one more than the entries of each unit."""
    return 1 + jnp.sum(tables.unit_class < tables.class_size.shape[0], axis=1)


def evaluate(
    tables: Tables, choice: Choice, latency: float | Float[Array, ""] = 0.0
) -> Cost:
    """Returns what a choice costs.

    Args:
        tables: of the program on the machine.
        choice: what is decided.
        latency: cycles of a collective before its first byte; about 1500 for each hop on v5e.
    """
    code = unit_codes(tables, choice)
    return of_codes(tables, code, choice.mesh.astype(jnp.int32), latency)


def of_codes(
    tables: Tables,
    code: Int[Array, " U"],
    mesh: int | Int[Array, ""],
    latency: float | Float[Array, ""] = 0.0,
) -> Cost:
    """Returns the cost where every unit is cut by itself; a choice says that of all at once.

    Args:
        tables: of the program on the machine.
        code: of each unit (`units.codes`).
        mesh: which of the meshes.
        latency: as of `evaluate`.
    """
    share = tables.share[mesh, tables.unit_share + code]
    # Codes of an operation's unit run fastest in the tables of moves.
    stride = (radix(tables) ** tables.mesh_sizes.shape[1])[tables.move_op]
    row = code[tables.move_value] * stride + code[tables.move_op]
    row = row + tables.move_offset
    moved = tables.move_table[mesh, row]
    stands = jnp.append(moved[:, ASYNC] + moved[:, SYNC] > 0, True)
    cycles = tables.work[mesh, tables.work_offset + code[tables.work_unit]]
    cycles = jnp.where(stands[tables.work_gate], cycles, 0.0)
    first, second = tables.joins[:, 0], tables.joins[:, 1]
    summed = moved[:, SUMMED]
    free = (first != second) & (summed[first] > 0) & (summed[first] == summed[second])
    moved = moved * (1 - jnp.zeros_like(summed).at[first].max(free))[:, None]
    waiting = moved[:, ASYNC] * tables.move_mib + latency * moved[:, ASYNC_CALLS]
    blocking = moved[:, SYNC] * tables.move_mib + latency * moved[:, SYNC_CALLS]
    events = _Events(
        tables.loop_start,
        waiting @ tables.early,
        waiting @ tables.late,
        blocking @ (tables.early + tables.late),
        cycles @ tables.work_events,
        (waiting + blocking) @ tables.after,
    )
    time = _clock(events)
    copies = (moved[:, COPY] * tables.move_mib) @ tables.copies
    communication = jnp.sum(events.early + events.late + events.before + events.after)
    compute = jnp.sum(events.compute)
    return Cost(
        time,
        compute,
        time - compute,
        communication,
        share @ tables.argument_mib,
        jnp.max(share @ tables.live_mib + copies),
    )


class _Events(NamedTuple):
    """Cycles by event."""

    loop_start: Array
    early: Array
    late: Array
    before: Array
    compute: Array
    after: Array


_Clock = tuple[Array, Array, Array]  # Now, when the links are free, start of the loop.


def _clock(events: _Events) -> Float[Array, ""]:
    """Returns when the last event ends."""

    def event(clock: _Clock, e: _Events) -> tuple[_Clock, None]:
        now, links, loop = clock
        loop = jnp.where(e.loop_start, now, loop)
        links = jnp.where(e.early > 0, jnp.maximum(links, loop) + e.early, links)
        links = jnp.where(e.late > 0, jnp.maximum(links, now) + e.late, links)
        now = jnp.where(e.early + e.late > 0, jnp.maximum(now, links), now)
        end = jnp.maximum(now, links) + e.before
        now = jnp.where(e.before > 0, end, now)
        links = jnp.where(e.before > 0, end, links)
        now = now + e.compute
        end = jnp.maximum(now, links) + e.after
        now = jnp.where(e.after > 0, end, now)
        links = jnp.where(e.after > 0, end, links)
        return (now, links, loop), None

    zero = jnp.float32(0)
    (now, _, _), _ = jax.lax.scan(event, (zero, zero, zero), events, unroll=_UNROLL)
    return now


@jax.jit
def evaluate_batch(
    tables: Tables, choices: Choice, latency: float | Float[Array, ""] = 0.0
) -> Cost:
    """Returns the costs of many choices, with a leading axis on all."""
    return jax.vmap(evaluate, (None, 0, None))(tables, choices, latency)


def assigned(
    model: Model,
    order: Mapping[str, Sequence[int]],
    mesh: int = 0,
    bits: tuple[int, ...] = (),
    pins: tuple[int, ...] = (),
    turned: tuple[int, ...] = (),
) -> Choice:
    """Returns the choice in which classes are assigned to axes in an order.

    Args:
        model: of the program.
        order: for each axis, by name, places of classes in `model.classes`.
        mesh: which of the model's meshes.
        bits: conflicts on their second side.
        pins: pins set.
        turned: classes turned.
    """
    names = model.meshes[mesh].names
    together = np.asarray(model.tables.together)
    levels = np.zeros((len(model.classes), len(names)), np.int8)
    for name, classes in order.items():
        axis = names.index(name)
        for k in classes:
            if not levels[k, axis]:
                levels[k, axis] = 1 + max(levels[together[k], axis], default=0)
    start = nothing(model)
    return start._replace(
        levels=jnp.asarray(levels),
        bits=start.bits.at[jnp.asarray(bits, jnp.int32)].set(1),
        pins=start.pins.at[jnp.asarray(pins, jnp.int32)].set(1),
        turned=start.turned.at[jnp.asarray(turned, jnp.int32)].set(1),
        mesh=jnp.int8(mesh),
    )
