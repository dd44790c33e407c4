"""The memory-mapping game as pure functions: `init` and `step` of one game; batch with `vmap`.

The player decides access after access, in `instance.order`: NO_COPY (stay in, or be produced in,
fast memory), COPY (be prefetched into it) or DROP (be served from slow memory). Offsets, copy
starts and write-backs are the environment's. The return of an episode, summed rewards, is the
fraction of the all-slow time that the mapping saves by the analytic cost model; waits for copies
are the runtime simulator's business (`compiler.cost.simulator`).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mallocgame import backup, heap, moves, queue
from mallocgame.types import (
    COPY,
    DROP,
    NO_COPY,
    NUM_ACTIONS,
    UNDECIDED,
    Instance,
    Outcome,
    State,
)


def init(instance: Instance) -> State:
    """Returns the first position: nothing decided, cursor on the first access in order."""
    n = instance.order.shape[0]
    times = instance.trip.shape[0]
    nothing = jnp.zeros(n, jnp.int32)
    none = jnp.full(n, -1, jnp.int32)
    zero, no = jnp.int32(0), jnp.bool_(False)
    state = State(
        cursor=zero,
        action=jnp.full(n, UNDECIDED, jnp.int8),
        offset=none,
        start=nothing,
        until=none,
        owner=none,
        copy_point=none,
        evict_point=none,
        evict_end=nothing,
        copy_late=jnp.zeros(n, bool),
        evict_late=jnp.zeros(n, bool),
        stale_since=none,
        slow_point=nothing,
        banned=jnp.zeros(n, bool),
        heap=heap.empty(n, times),
        reads=queue.empty(instance.before_ticks),
        writes=queue.empty(instance.before_ticks),
        saved=jnp.zeros(times, jnp.float32),
        num_cross_program=zero,
        num_backups=zero,
        outcome=Outcome(zero, no, no, zero, no, zero, no),
        legal_action_mask=jnp.ones(NUM_ACTIONS, bool),
        reward=jnp.float32(0.0),
        terminated=instance.num_accesses == 0,
    )
    # Where nothing has been decided there is no dead end.
    return _look(instance, state)


def step(instance: Instance, state: State, action: Int[Array, ""]) -> State:
    """Plays one action.

    Args:
        instance: the problem.
        state: a position; terminated ones stay as they are, with reward 0.
        action: NO_COPY, COPY or DROP, legal by `state.legal_action_mask`; an illegal one is
            taken as DROP, which is always legal (Drop-backup sees to that).

    Returns:
        The next position. Its reward is the change of the analytic time saved, as a fraction of
        the all-slow time, including what a Drop-backup handed back.
    """
    action = jnp.where(state.legal_action_mask[action], action, DROP).astype(jnp.int8)
    after = _look_ahead(instance, _decide(instance, state, action))
    # Nothing is decided in a terminated position, so its reward is 0 by itself.
    reward = (
        seconds(instance, state) - seconds(instance, after)
    ) / instance.all_slow_seconds
    return after._replace(reward=reward)


def seconds(instance: Instance, state: State) -> Float[Array, ""]:
    """Analytic time of the decisions so far, undecided accesses slow, no waits for copies."""
    return jnp.sum(instance.trip * elapsed(instance, state))


def elapsed(instance: Instance, state: State) -> Float[Array, " T"]:
    """Seconds of each instruction, per execution, by the decisions so far."""
    return jnp.maximum(instance.floor_seconds, instance.base_seconds - state.saved)


def _decide(instance: Instance, state: State, action: Int[Array, ""]) -> State:
    now = moves.turn(instance, state)
    row, result = now.row, state.outcome
    # A terminated position stays as it is: no access is at its cursor.
    access = jnp.where(state.terminated, -1, now.access)
    fast = moves.is_fast(action) & ~state.terminated
    stays = fast & ~result.enclosed
    extends = stays & (action == NO_COPY) & result.extends
    copies = stays & (action == COPY)
    placed = stays & ~extends

    # The value goes back to slow memory first where the action needs it there.
    evicts = (result.evict_end > 0) & (copies | (action == DROP)) & row.needs_value
    evicts &= ~state.terminated
    evict_point = jnp.where(evicts, state.stale_since[now.previous], -1)
    until = state.until[now.previous]
    keep = jnp.where(evicts, result.evict_end - 1, jnp.where(extends, row.end, until))
    # Looking `previous` up in a padded row is harmless: nothing is extended there.
    room = heap.extend(state.heap, state.owner[now.previous], until, keep, row.size)
    start = jnp.where(copies, result.copy_point, row.time)
    start = jnp.where(extends, until + 1, start)
    room = heap.insert(
        room, access, start, jnp.where(placed, row.end, -1), result.offset, row.size
    )
    offset = jnp.where(extends, state.offset[now.previous], result.offset)

    point = jnp.where(copies, result.copy_point, -1)
    prefetch = jnp.where(row.cross_program, -1, point)
    before = instance.before_ticks
    rewritten = jnp.where(row.writes, row.end + 1, -1)
    was_stale = now.stale & ~evicts & (action == NO_COPY)
    stale = jnp.where(
        fast,
        jnp.where(
            row.writes,
            rewritten,
            jnp.where(was_stale, state.stale_since[now.previous], -1),
        ),
        -1,
    )
    stale = jnp.where(result.enclosed, -1, stale)
    slow_point = jnp.where(evicts, result.evict_end, now.slow_point)
    slow_point = jnp.where(row.writes, row.end + 1, slow_point)

    slots = jnp.arange(state.action.shape[0])
    here = slots == access
    behind = (slots == now.previous) & evicts

    # Selecting beats scattering: under `vmap` a scatter would copy the column.
    def put(column: Array, value: Array) -> Array:
        return jnp.where(here, value.astype(column.dtype), column)

    return state._replace(
        cursor=state.cursor + jnp.where(state.terminated, 0, 1),
        action=put(state.action, action),
        offset=put(state.offset, jnp.where(fast, offset, -1)),
        start=put(state.start, start),
        until=put(state.until, jnp.where(fast, row.end, -1)),
        owner=put(state.owner, jnp.where(extends, state.owner[now.previous], access)),
        copy_point=put(state.copy_point, point),
        evict_point=jnp.where(behind, evict_point, state.evict_point),
        evict_end=jnp.where(behind, result.evict_end, state.evict_end),
        copy_late=put(state.copy_late, (prefetch >= 0) & result.copy_late),
        evict_late=jnp.where(behind, result.evict_late, state.evict_late),
        stale_since=put(state.stale_since, stale),
        slow_point=put(state.slow_point, slow_point),
        heap=room,
        reads=queue.add(
            state.reads,
            before,
            prefetch,
            row.time,
            jnp.where(result.copy_late, 0, row.copy_ticks),
        ),
        writes=queue.add(
            state.writes,
            before,
            evict_point,
            result.evict_end,
            jnp.where(result.evict_late, 0, row.copy_ticks),
        ),
        saved=state.saved
        + jnp.where(
            (jnp.arange(state.saved.shape[0]) == row.time) & fast, row.saving, 0.0
        ),
        num_cross_program=state.num_cross_program
        + (copies & row.cross_program).astype(jnp.int32),
    )


def _look_ahead(instance: Instance, state: State) -> State:
    """Fills in the outcome and the legal actions at the cursor, backing up out of a dead end."""

    def back_up(state: State) -> State:
        return _look(instance, backup.release(instance, state))

    # Not a `cond`: under `vmap` that would back up every game at every step.
    return jax.lax.while_loop(
        lambda state: ~jnp.any(state.legal_action_mask), back_up, _look(instance, state)
    )


def _look(instance: Instance, state: State) -> State:
    """Fills in the outcome and the legal actions at the cursor: in a dead end there are none."""
    over = state.cursor >= instance.num_accesses
    outcome, mask = moves.outcome(instance, state)
    return state._replace(
        outcome=outcome, legal_action_mask=mask | over, terminated=over
    )


__all__ = [
    "COPY",
    "DROP",
    "NO_COPY",
    "NUM_ACTIONS",
    "elapsed",
    "init",
    "seconds",
    "step",
]
