"""Proven optima of small problems by CP-SAT of OR-Tools: the optional exact solver.

Two things come of it: a floor below which the runtime simulator puts no mapping that `validate` accepts,
and a mapping, simulated like every other. Where the two meet, the mapping is optimal.

What the solver is told is in `mallocgame.optimum_model`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from mallocgame import game, relaxation, rollout, validate
from mallocgame.instance import Problem
from mallocgame.mapping import Mapping
from mallocgame.optimum_model import Model
from mallocgame.types import COPY, DROP, NO_COPY
from solvers import cpsat

MEET = 1e-4  # So near to each other floor and mapping are the same but for rounding.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proof:
    """What is known of the least simulated time of a problem.

    Attributes:
        floor: seconds below which no mapping is.
        mapping: the best that the solver found, None if it found none that is valid.
        seconds: simulated, of that mapping; inf if there is none.
    """

    floor: float
    mapping: Mapping | None
    seconds: float

    def is_optimal(self, seconds: float) -> bool:
        """Tells whether a mapping of that simulated time can't be improved upon."""
        return seconds <= self.floor * (1 + MEET)


def prove(
    problem: Problem, *, seconds: float, workers: int = 1, seed: int = 0
) -> Proof:
    """Returns what CP-SAT can say of a problem within a time.

    Args:
        problem: small: the model grows with the square of the number of instructions.
        seconds: to solve for; the model itself takes a few more.
        workers: threads.
        seed: of the solver.

    Raises:
        Failure: status 2, if OR-Tools is not installed.
    """
    cp_model = cpsat.load("exact optima need")
    built = Model(problem, cp_model.CpModel())
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = seconds
    solver.parameters.num_workers = workers
    solver.parameters.random_seed = seed % (1 << 31)
    status = solver.solve(built.model)
    floor = solver.best_objective_bound * built.unit
    # Without a model that was solved as far as that, the closed bound.
    floor = max(floor, relaxation.lower_bound(problem))
    found, least = None, math.inf
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        found = built.mapping(solver)
        if validate.check(problem, found):
            found = None
        else:
            least = simulated(problem, found)
    return Proof(floor=floor, mapping=found, seconds=least)


def simulated(problem: Problem, found: Mapping) -> float:
    """Returns the simulated seconds of a mapping, wherever it comes from."""
    instance = problem.instance
    n, count = instance.order.shape[0], len(problem.accesses)
    numbers = {"NoCopy": NO_COPY, "Copy": COPY, "Drop": DROP}
    action = np.full(n, DROP, np.int8)
    columns = {name: np.full(n, -1, np.int32) for name in ("copy", "evict", "due")}
    for decision in found.decisions:
        action[decision.access] = numbers[decision.action]
        for name, point in (
            ("copy", decision.copy_point),
            ("evict", decision.evict_point),
            ("due", decision.evict_due),
        ):
            if point is not None:
                columns[name][decision.access] = point
    fast = (action[:count] != DROP) * problem.columns["saving"]
    saved = np.zeros(instance.trip.shape[0], np.float32)
    np.add.at(saved, problem.columns["time"], fast)
    state = jax.eval_shape(game.init, instance)
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state)._replace(
        action=jnp.asarray(action),
        copy_point=jnp.asarray(columns["copy"]),
        evict_point=jnp.asarray(columns["evict"]),
        evict_end=jnp.asarray(np.maximum(columns["due"], 0)),
        saved=jnp.asarray(saved),
    )
    return float(_timeline(instance, state).total)


_timeline = jax.jit(rollout.timeline)


__all__ = ["MEET", "Proof", "prove", "simulated"]
