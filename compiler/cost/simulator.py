"""The runtime simulator: how long a program takes with its asynchronous copies.

XLA's memory-space-assignment simulator as one scan over the schedule. Two FIFO queues of copies,
reads into and writes out of fast memory, are served while instructions leave the slow memory's
bandwidth idle; both share it evenly while both are busy. An instruction that needs a copy waits
until the queue has served it. (XLA's own code halves the bandwidth again on every turn of its
draining loop while both queues are busy; this is the corrected model.)

Times are seconds; a copy's size is the time that it takes alone at full slow bandwidth.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Copies(NamedTuple):
    """K asynchronous copies; entries with `seconds` 0 are none."""

    point: Int[Array, " K"]  # Starts after instruction point - 1.
    due: Int[
        Array, " K"
    ]  # Instruction that waits for it; behind the last: nobody does.
    seconds: Float[Array, " K"]
    is_write: Bool[Array, " K"]
    from_last_run: Bool[
        Array, " K"
    ]  # Cross-program prefetch: `point` is in the run before.
    outside: Bool[
        Array, " K"
    ]  # Waited for behind instruction due - 1: `due` begins a called computation, whose
    # caller waits, not each execution; or it is the program's end.


class Timeline(NamedTuple):
    """What the simulation says of one run."""

    total: Float[Array, ""]
    cold_total: Float[
        Array, ""
    ]  # The first run, cross-program prefetches at its start.
    wait: Float[
        Array, " T"
    ]  # Seconds waited in front of each instruction, per execution.
    late: Float[
        Array, " T"
    ]  # And behind it, for what the next called computation needs.


class _Queues(NamedTuple):
    """Seconds of copying pushed onto and served from each queue since the start."""

    pushed: Float[Array, " 2"]
    served: Float[Array, " 2"]


class _Events(NamedTuple):
    push: Float[Array, " 2"]
    before: Float[
        Array, " 2"
    ]  # Served seconds that must be reached before the instruction,
    behind: Float[Array, " 2"]  # and behind it.
    idle: Float[Array, ""]


def pack(rows: Sequence[tuple[int, int, float, bool, bool, bool]]) -> Copies:
    """Returns copies given row by row, fields in order, padded to a multiple of 256."""
    size = -(-max(len(rows), 1) // 256) * 256
    padded = [*rows, *[(0, 0, 0.0, False, False, False)] * (size - len(rows))]
    columns = list(zip(*padded, strict=True))
    return Copies(
        point=jnp.asarray(columns[0], jnp.int32),
        due=jnp.asarray(columns[1], jnp.int32),
        seconds=jnp.asarray(columns[2], jnp.float32),
        is_write=jnp.asarray(columns[3], bool),
        from_last_run=jnp.asarray(columns[4], bool),
        outside=jnp.asarray(columns[5], bool),
    )


def simulate(
    elapsed: Float[Array, " T"],
    slow_busy: Float[Array, " T"],
    trip: Float[Array, " T"],
    copies: Copies,
) -> Timeline:
    """Simulates a program that runs back to back with itself, and returns its second run.

    Args:
        elapsed: seconds of each instruction, per execution.
        slow_busy: of these, seconds in which it keeps the slow memory busy itself.
        trip: executions of each instruction; waits count as often.
        copies: the asynchronous copies; each runs as often as what it is in front of.
    """
    wait, late, _ = _play(elapsed, slow_busy, copies)
    totals = jnp.sum(trip * (elapsed + wait + late), axis=1)
    return Timeline(totals[1], totals[0], wait[1], late[1])


def copying(
    elapsed: Float[Array, " T"], slow_busy: Float[Array, " T"], copies: Copies
) -> Float[Array, "T 2"]:
    """Returns the seconds of reads and of writes that are served while each instruction runs or is waited with.

    Of the second run, as `simulate` has it; arguments likewise.
    """
    _, _, served = _play(elapsed, slow_busy, copies)
    return jnp.diff(served.reshape(-1, 2), axis=0, prepend=0.0)[elapsed.shape[0] :]


def _play(
    elapsed: Float[Array, " T"], slow_busy: Float[Array, " T"], copies: Copies
) -> tuple[Float[Array, "2 T"], Float[Array, "2 T"], Float[Array, "2 T 2"]]:
    """Returns by run and instruction: waits in front, waits behind, seconds served since the start."""
    times = elapsed.shape[0]
    idle = jnp.maximum(elapsed - slow_busy, 0.0)
    runs = 2
    push, before, behind = _events(copies, times, runs)
    events = _Events(push, before, behind, jnp.tile(idle, runs))
    empty = _Queues(jnp.zeros(2), jnp.zeros(2))
    _, (wait, late, served) = jax.lax.scan(_run, empty, events)
    shape = (runs, times)
    return wait.reshape(shape), late.reshape(shape), served.reshape(*shape, 2)


def _events(
    copies: Copies, times: int, runs: int
) -> tuple[Float[Array, "R 2"], Float[Array, "R 2"], Float[Array, "R 2"]]:
    """Lays the copies out over consecutive runs: seconds pushed and demanded per instruction."""
    length, nobody = runs * times, runs * times + 1
    # Prefetches for the run behind the last still take bandwidth in the last.
    spread = [_in_run(copies, run, times, nobody) for run in range(runs + 1)]
    everything = jax.tree.map(lambda *columns: jnp.concatenate(columns), *spread)
    # Queue order: by start, then by due time, then as listed.
    order = jnp.lexsort((everything.due, everything.point))
    point, due, seconds, is_write, _, outside = jax.tree.map(
        lambda column: column[order], everything
    )
    push, before, behind = [], [], []
    nothing = jnp.zeros(length)
    for lane in range(2):
        mine = jnp.where(is_write == (lane == 1), seconds, 0.0)
        # In a first-come-first-served queue a copy is done when all up to it are.
        done = jnp.where(mine > 0, jnp.cumsum(mine), 0.0)
        push.append(nothing.at[point].add(mine, mode="drop"))
        inside = jnp.where(outside, length, due)
        before.append(nothing.at[inside].max(done, mode="drop"))
        around = jnp.where(outside, jnp.maximum(due - 1, 0), length)
        behind.append(nothing.at[around].max(done, mode="drop"))
    return jnp.stack(push, 1), jnp.stack(before, 1), jnp.stack(behind, 1)


def _in_run(copies: Copies, run: int, times: int, nobody: int) -> Copies:
    shift = run * times
    # A prefetch from the last run is started there; in the first run, at its own start.
    start = 0 if run == 0 else copies.point + shift - times
    point = jnp.where(copies.from_last_run, start, copies.point + shift)
    awaited = (copies.seconds > 0) & (copies.due - copies.outside < times)
    awaited &= shift + times < nobody
    return copies._replace(
        point=jnp.where(copies.seconds > 0, point, nobody),
        due=jnp.where(awaited, copies.due + shift, nobody),
    )


def _run(
    queues: _Queues, events: _Events
) -> tuple[_Queues, tuple[Float[Array, ""], Float[Array, ""], Float[Array, " 2"]]]:
    """One instruction: wait for its copies, start new ones, serve while it leaves room."""
    served, waited = _wait(queues.pushed, queues.served, events.before)
    pushed = queues.pushed + events.push
    pending = pushed - served
    both = jnp.minimum(jnp.min(pending), events.idle / 2)
    left = events.idle - 2 * both
    served = served + both + jnp.clip(pending - both, 0.0, left)
    served, late = _wait(pushed, served, events.behind)
    return _Queues(pushed, served), (waited, late, served)


def _wait(
    pushed: Float[Array, " 2"], served: Float[Array, " 2"], demand: Float[Array, " 2"]
) -> tuple[Float[Array, " 2"], Float[Array, ""]]:
    """Serves the queues until the demand is met; returns what is served then, and seconds."""
    waited = jnp.float32(0.0)
    for lane in range(2):
        need = jnp.maximum(demand[lane] - served[lane], 0.0)
        # A copy that is due where it starts is served before it is pushed.
        pending = jnp.maximum(pushed[1 - lane] - served[1 - lane], 0.0)
        other = jnp.minimum(need, pending)
        waited += need + other
        served = served.at[lane].add(need).at[1 - lane].add(other)
    return served, waited
