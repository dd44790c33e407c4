"""Drop-backup: undoes a stay in fast memory that has run into a dead end.

A value that lives in fast memory only, whose place cannot be kept and which cannot be written back
in time, leaves its next access with no legal action. Then the accesses of that stay, back to the
one at which the slow copy was last good, become Drop, their rectangles and copies are released, and
the buffer is banned from fast memory. Taking rectangles and copies away never invalidates others,
so all other decisions stand as recorded. Each backup bans a buffer: there are at most as many as
buffers, and every episode ends with a valid mapping.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from mallocgame import moves, queue
from mallocgame.types import DROP, UNDECIDED, Instance, State


def release(instance: Instance, state: State) -> State:
    """Returns the position with the stay in front of the cursor dropped and its buffer banned.

    Which actions are legal then has to be looked up anew.
    """
    accesses = instance.accesses
    access = instance.order[state.cursor]

    def more(walk: tuple[Int[Array, ""], State]) -> Array:
        link, state = walk
        return (link >= 0) & moves.is_fast(state.action[jnp.maximum(link, 0)])

    def undo(walk: tuple[Int[Array, ""], State]) -> tuple[Int[Array, ""], State]:
        link, state = walk
        return accesses.previous[link], _undo(instance, state, link)

    _, state = jax.lax.while_loop(more, undo, (accesses.previous[access], state))
    return state._replace(
        banned=state.banned | (accesses.buffer == accesses.buffer[access]),
        num_backups=state.num_backups + 1,
    )


def _undo(instance: Instance, state: State, access: Int[Array, ""]) -> State:
    """Makes one fast access, with those that it encloses, a dropped one."""
    accesses, before = instance.accesses, instance.before_ticks
    times = jnp.arange(state.saved.shape[0])
    inside = accesses.buffer == accesses.buffer[access]
    inside &= (accesses.time >= accesses.time[access]) & (
        accesses.end <= accesses.end[access]
    )
    inside &= state.action != UNDECIDED
    fast = inside & moves.is_fast(state.action)

    heap = state.heap
    gone = (heap.access == access) & (heap.end >= 0)
    start = jnp.sum(jnp.where(gone, heap.start, 0))
    end = jnp.sum(jnp.where(gone, heap.end + 1, 0)) - 1
    height = jnp.sum(jnp.where(gone, heap.top - heap.offset, 0))
    return state._replace(
        action=jnp.where(inside, DROP, state.action).astype(state.action.dtype),
        copy_point=jnp.where(inside, -1, state.copy_point),
        evict_point=jnp.where(inside, -1, state.evict_point),
        copy_late=state.copy_late & ~inside,
        evict_late=state.evict_late & ~inside,
        stale_since=jnp.where(inside, -1, state.stale_since),
        slow_point=jnp.where(inside, accesses.end + 1, state.slow_point),
        heap=heap._replace(
            end=jnp.where(gone, -1, heap.end),
            access=jnp.where(gone, -1, heap.access),
            usage=heap.usage - jnp.where((times >= start) & (times <= end), height, 0),
        ),
        reads=queue.remove(
            state.reads,
            before,
            jnp.where(accesses.cross_program[access], -1, state.copy_point[access]),
            accesses.time[access],
            jnp.where(state.copy_late[access], 0, accesses.copy_ticks[access]),
        ),
        writes=queue.remove(
            state.writes,
            before,
            state.evict_point[access],
            state.evict_end[access],
            jnp.where(state.evict_late[access], 0, accesses.copy_ticks[access]),
        ),
        saved=state.saved.at[accesses.time].add(-jnp.where(fast, accesses.saving, 0.0)),
        num_cross_program=state.num_cross_program
        - (accesses.cross_program[access]).astype(jnp.int32),
    )
