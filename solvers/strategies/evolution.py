"""Regularised evolution: tournament selection, and the oldest dies (Real et al. 2019, algorithm 1)."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from solvers.problem import Problem
from solvers.protocols import Genome, SearchSpace
from solvers.strategies import population
from solvers.strategies.population import Breeder, Population


@dataclass(frozen=True, kw_only=True)
class Evolution(Breeder):
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

    @property
    def samples(self) -> int:
        """A batch."""
        return self.batch

    def children(
        self, space: SearchSpace, key: PRNGKeyArray, parents: Population
    ) -> Genome:
        """Returns mutated children of tournament winners."""
        return _children(self, space, key, parents)

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
