"""What the time of a mapping consists of, instruction by instruction, and who has the slow memory when."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from compiler.cost.simulator import copying, simulate
from mallocgame import game, rollout
from mallocgame.instance import Problem
from mallocgame.mapping import ACTION_NAMES, Mapping
from mallocgame.types import Instance, State

_ACTION_NUMBERS = {name: number for number, name in ACTION_NAMES.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Account:
    """Seconds per execution of T instructions, as simulated; waits aside unless said otherwise.

    Attributes:
        total: of one run, in the steady state.
        trip: executions of each instruction in one run, [T].
        floor: what placement can't shorten, [T].
        elapsed: of the instruction, [T].
        wait: in front of it, for copies that it needs, [T].
        late: behind it, for copies that the next called computation needs, [T].
        own: of the slow memory's time, for what the instruction itself reads and writes there, [T].
        reads: for copies into fast memory while the instruction runs or is waited with, [T].
        writes: for copies out of it, [T].
    """

    total: float
    trip: NDArray[np.float64]
    floor: NDArray[np.float64]
    elapsed: NDArray[np.float64]
    wait: NDArray[np.float64]
    late: NDArray[np.float64]
    own: NDArray[np.float64]
    reads: NDArray[np.float64]
    writes: NDArray[np.float64]

    @property
    def waits(self) -> NDArray[np.float64]:
        """In front of each instruction and behind it, [T]."""
        return self.wait + self.late

    @property
    def span(self) -> NDArray[np.float64]:
        """From the first wait in front of each instruction to the last behind it, [T]."""
        return self.elapsed + self.waits


def account(problem: Problem, mapping: Mapping) -> Account:
    """Returns the account of a valid mapping of a problem."""
    columns = _simulate(problem.instance, _position(problem, mapping))
    times = len(problem.program.instructions)
    total, *rest = (np.asarray(column, np.float64) for column in columns)
    elapsed, wait, late, busy, served = (column[:times] for column in rest)
    return Account(
        total=float(total),
        trip=np.asarray(problem.costs.counts.trip_count, np.float64),
        floor=problem.costs.floor,
        elapsed=elapsed,
        wait=wait,
        late=late,
        own=np.minimum(busy, elapsed),
        reads=served[:, 0],
        writes=served[:, 1],
    )


@jax.jit
def _simulate(instance: Instance, state: State) -> tuple[jax.Array, ...]:
    told = rollout.load(instance, state)
    line = simulate(told.elapsed, told.slow_busy, instance.trip, told.copies)
    served = copying(told.elapsed, told.slow_busy, told.copies)
    return line.total, told.elapsed, line.wait, line.late, told.slow_busy, served


def _position(problem: Problem, mapping: Mapping) -> State:
    """Returns a terminated position with all of a mapping that its time depends on; the rest is zeros."""
    blank = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(game.init, problem.instance),
    )
    size = problem.instance.order.shape[0]
    action, none = np.full(size, -1, np.int8), np.full(size, -1, np.int32)
    copy, evict, due = none.copy(), none.copy(), np.zeros(size, np.int32)
    saved = np.zeros(problem.instance.trip.shape[0], np.float32)
    for decision in mapping.decisions:
        at = decision.access
        action[at] = _ACTION_NUMBERS[decision.action]
        if decision.action != "Drop":
            saved[problem.accesses[at].time] += problem.columns["saving"][at]
        if decision.copy_point is not None:
            copy[at] = decision.copy_point
        if decision.evict_point is not None and decision.evict_due is not None:
            evict[at], due[at] = decision.evict_point, decision.evict_due
    return blank._replace(
        action=jnp.asarray(action),
        copy_point=jnp.asarray(copy),
        evict_point=jnp.asarray(evict),
        evict_end=jnp.asarray(due),
        saved=jnp.asarray(saved),
        terminated=jnp.bool_(True),
    )
