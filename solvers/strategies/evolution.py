"""Regularised evolution: tournament selection, and the oldest dies (Real et al. 2019, algorithm 1)."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from solvers import spaces
from solvers.problem import Problem
from solvers.protocols import Genome, Proposal, SearchSpace
from solvers.strategies import population
from solvers.strategies.population import Population


@dataclass(frozen=True, kw_only=True)
class Evolution:
    """Ageing evolution, a batch of children at a time.

    Attributes:
        size: of the population, P.
        batch: children between two measurements.
        entrants: of a tournament.
        crossing: share of children with two parents.
    """

    size: int = 24
    batch: int = 8
    entrants: int = 12
    crossing: float = 0.5

    def init(self, problem: Problem, key: PRNGKeyArray) -> Population:
        """Nobody yet."""
        return population.empty(problem.space, self.size, problem.oracle.num_objectives)

    def ask(
        self, problem: Problem, state: Population, key: PRNGKeyArray
    ) -> tuple[Proposal, Population]:
        """Returns samples until the population is full, then children."""
        if int(state.told) < self.size:
            return Proposal(spaces.sample(problem.space, key, self.batch)), state
        return Proposal(_children(self, problem.space, key, state)), state

    def tell(
        self, problem: Problem, state: Population, genomes: Genome, costs: np.ndarray
    ) -> Population:
        """The newcomers take the places of the oldest."""
        return _join(state, genomes, jnp.asarray(costs, jnp.float32))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _children(
    settings: Evolution, space: SearchSpace, key: PRNGKeyArray, parents: Population
) -> Genome:
    return population.breed(
        space,
        key,
        parents,
        settings.batch,
        entrants=settings.entrants,
        crossing=settings.crossing,
    )


@jax.jit
def _join(
    members: Population, genomes: Genome, costs: Float[Array, "B M"]
) -> Population:
    return population.replace_oldest(members, genomes, costs)
