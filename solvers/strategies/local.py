"""Local search: lanes side by side, each from neighbour to neighbour. Hill-climbing with restarts, or annealing."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from solvers.problem import Problem
from solvers.protocols import Genome, Proposal, SearchSpace
from solvers.strategies import population

_NEVER = 2**30  # Rounds.


class Lanes(NamedTuple):
    """B climbers. With several objectives each minimises a weighting of its own."""

    genomes: Genome  # Leading axis B.
    costs: Float[Array, " B"]  # Weighted; infinite where a lane starts anew.
    stale: Int[Array, " B"]  # Rounds without an improvement.
    weights: Float[Array, "B M"]
    scale: Float[
        Array, " M"
    ]  # Of an objective: its spread in the first batch; 0 before.
    rounds: Int[Array, ""]
    slack: Float[Array, " B"]  # What the next move may cost, weighted.


@dataclass(frozen=True, kw_only=True)
class Local:
    """Every round each lane measures one neighbour, and moves there if it is not worse.

    With `heat` it is simulated annealing (Kirkpatrick et al. 1983): what is worse by d is moved to with
    probability exp(-d / temperature).

    Attributes:
        lanes: B.
        patience: rounds without improvement until a lane starts anew from a random schedule; None for never.
        heat: temperature at the start, as a share of the spread of costs in the first batch.
        half_life: rounds in which the temperature halves.
    """

    lanes: int = 8
    patience: int | None = 40
    heat: float = 0.0
    half_life: int = 20

    def init(self, problem: Problem, key: PRNGKeyArray) -> Lanes:
        """All lanes are to start."""
        shape = (self.lanes, problem.oracle.num_objectives)
        weights = jax.random.dirichlet(key, jnp.ones(shape[1]), shape[:1])
        start = population.empty(problem.space, self.lanes, shape[1])
        none = jnp.full(self.lanes, jnp.inf)
        return Lanes(
            start.genomes,
            none,
            stale=jnp.zeros(self.lanes, jnp.int32),
            weights=weights,
            scale=jnp.zeros(shape[1]),
            rounds=jnp.int32(0),
            slack=jnp.zeros(self.lanes),
        )

    def ask(
        self, problem: Problem, state: Lanes, key: PRNGKeyArray
    ) -> tuple[Proposal, Lanes]:
        """Returns a neighbour of each lane, or a sample where it starts."""
        near, luck = jax.random.split(key)
        slack = _slack(self, state.rounds, luck) if self.heat else state.slack
        return Proposal(_neighbours(problem.space, near, state)), state._replace(
            slack=slack
        )

    def tell(
        self, problem: Problem, state: Lanes, genomes: Genome, costs: np.ndarray
    ) -> Lanes:
        """Lanes move; starts given from outside are shared out, the best first."""
        rows = np.arange(self.lanes)
        if len(costs) != self.lanes:
            rows = np.argsort(costs[:, 0], kind="stable")[rows % len(costs)]
        fit = jax.tree.map(lambda column: column[rows], genomes)
        return _move(self, state, fit, jnp.asarray(costs, jnp.float32)[rows])


@functools.partial(jax.jit, static_argnums=0)
def _neighbours(space: SearchSpace, key: PRNGKeyArray, lanes: Lanes) -> Genome:
    keys = jax.random.split(key, (2, lanes.costs.shape[0]))
    near = jax.vmap(space.mutate)(keys[0], lanes.genomes)
    fresh = jax.vmap(space.sample)(keys[1])
    starts = jnp.isinf(lanes.costs)[:, None]
    return jax.tree.map(lambda a, b: jnp.where(starts, a, b), fresh, near)


@functools.partial(jax.jit, static_argnums=0)
def _slack(
    settings: Local, rounds: Int[Array, ""], key: PRNGKeyArray
) -> Float[Array, " B"]:
    """Returns T e with e exponential: a change d <= T e has probability exp(-d / T)."""
    temperature = settings.heat * 0.5 ** (rounds / settings.half_life)
    return temperature * jax.random.exponential(key, (settings.lanes,))


@functools.partial(jax.jit, static_argnums=0)
def _move(
    settings: Local, lanes: Lanes, genomes: Genome, costs: Float[Array, "B M"]
) -> Lanes:
    failed = jnp.any(~jnp.isfinite(costs), axis=1)
    level = jnp.where(failed[:, None], 0.0, costs)
    spread = jnp.max(level, axis=0) - jnp.min(level, axis=0)
    scale = jnp.where(lanes.scale > 0, lanes.scale, spread)
    each = lanes.weights / jnp.where(scale > 0, scale, 1.0)
    weighted = jnp.sum(each * level, axis=1)
    cost = jnp.where(failed, jnp.inf, weighted)
    moves = cost <= lanes.costs + lanes.slack
    stale = jnp.where(cost < lanes.costs, 0, lanes.stale + 1)
    tired = stale >= (settings.patience or _NEVER)
    return Lanes(
        jax.tree.map(
            lambda new, old: jnp.where(moves[:, None], new, old), genomes, lanes.genomes
        ),
        jnp.where(tired, jnp.inf, jnp.where(moves, cost, lanes.costs)),
        jnp.where(tired, 0, stale),
        lanes.weights,
        scale,
        lanes.rounds + 1,
        lanes.slack,
    )
