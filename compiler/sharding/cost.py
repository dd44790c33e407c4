"""What a choice costs: look-ups in the tables and one pass over the events, compiled, many choices at once.

The clock of the pass knows the computation and the links. Asynchronous collectives queue for the links and are waited
for by the event that needs them; those of arguments may start as soon as the links are free, the others when their
value is there. Synchronous ones stop the computation. Not known: what the compiler moves out of loops, sums that it
joins, and copies between layouts.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from compiler.sharding.tables import (
    ASYNC,
    ASYNC_CALLS,
    COPY,
    SYNC,
    SYNC_CALLS,
    Model,
    Tables,
)

_NEVER = 1 << 20  # Behind every level.
_UNROLL = 8


class Choice(NamedTuple):
    """What is decided, in the one form that it has however it was come by.

    Attributes:
        levels: 0 where a class is not cut over an axis; else 1 + the largest level of the classes that were assigned
            to the axis before and meet it somewhere. Where several meet, the lowest is cut.
        bits: side of each conflict.
        pins: 1 where arrays of a unit are cut by classes of level 1 only.
        mesh: which of the meshes.
    """

    levels: Int[Array, "K A"]
    bits: Int[Array, " R"]
    pins: Int[Array, " P"]
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
        jnp.int8(0),
    )


def unit_codes(tables: Tables, choice: Choice) -> Int[Array, " U"]:
    """Returns the code of each unit: what is cut on each axis, as a number (`units.codes`)."""
    levels = jnp.pad(choice.levels.astype(jnp.int32), ((0, 1), (0, 0)))
    bits = jnp.pad(choice.bits.astype(jnp.int32), (0, 1))
    pinned = jnp.pad(choice.pins, (0, 1))[tables.unit_pin] > 0
    classes = tables.unit_class.shape[0], choice.levels.shape[0]
    best = jnp.full((classes[0], levels.shape[1]), _NEVER)
    cut = jnp.zeros_like(best)
    for entry in range(tables.unit_class.shape[1]):
        level = levels[tables.unit_class[:, entry]]
        other = bits[tables.unit_conflict[:, entry]] != tables.unit_side[:, entry]
        never = (level == 0) | (pinned[:, None] & (level > 1))
        rank = jnp.where(never, _NEVER, 2 * level + other[:, None])
        cut = jnp.where(rank < best, entry + 1, cut)
        best = jnp.minimum(best, rank)
    radix = 1 + jnp.sum(tables.unit_class < classes[1], axis=1)
    code = jnp.zeros_like(radix)
    for axis in reversed(range(levels.shape[1])):
        code = code * radix + cut[:, axis]
    return code


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
    mesh = choice.mesh.astype(jnp.int32)
    share = tables.share[mesh, tables.unit_share + code]
    cycles = tables.work[mesh, tables.work_offset + code[tables.work_unit]]
    nest = tables.unit_class.shape[1]
    # Codes of an operation's unit run fastest in the tables of moves.
    axes = choice.levels.shape[1]
    sizes = jnp.sum(tables.unit_class < choice.levels.shape[0], axis=1) + 1
    del nest
    row = (
        tables.move_offset
        + code[tables.move_value] * (sizes**axes)[tables.move_op]
        + code[tables.move_op]
    )
    moved = tables.move_table[mesh, row]
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


def _clock(events: _Events) -> Float[Array, ""]:
    """Returns when the last event ends."""

    def event(clock: tuple[Array, Array, Array], e: _Events) -> tuple[object, None]:
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


@functools.partial(jax.jit)
def evaluate_batch(
    tables: Tables, choices: Choice, latency: float | Float[Array, ""] = 0.0
) -> Cost:
    """Returns the costs of many choices, with a leading axis on all."""
    return jax.vmap(evaluate, (None, 0, None))(tables, choices, latency)


def assigned(
    model: Model,
    order: dict[str, list[int]] | dict[str, tuple[int, ...]],
    mesh: int = 0,
    bits: tuple[int, ...] = (),
    pins: tuple[int, ...] = (),
) -> Choice:
    """Returns the choice in which classes are assigned to axes in an order.

    Args:
        model: of the program.
        order: for each axis, by name, places of classes in `model.classes`.
        mesh: which of the model's meshes.
        bits: conflicts on their second side.
        pins: pins set.
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
        mesh=jnp.int8(mesh),
    )
