"""Biased random-key genetic search: an elite, its children, and strangers (Gonçalves, Resende 2011)."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from solvers import pareto, spaces
from solvers.problem import Problem
from solvers.protocols import Genome, SearchSpace
from solvers.strategies import population
from solvers.strategies.population import Breeder, Population


@dataclass(frozen=True, kw_only=True)
class RandomKey(Breeder):
    """One generation at a time; every member but the elite is replaced.

    Genes are inherited one by one, choices like keys; nothing is mutated but by strangers.

    Attributes:
        size: of the population, P.
        elite: share that stays.
        strangers: share drawn anew each generation.
        bias: probability that a gene comes from the elite parent.
    """

    size: int = 48
    elite: float = 0.2
    strangers: float = 0.15
    bias: float = 0.7

    def children(
        self, space: SearchSpace, key: PRNGKeyArray, parents: Population
    ) -> Genome:
        """Returns the members of the next generation that are not elite."""
        return _generation(self, space, key, parents)

    def tell(
        self, problem: Problem, state: Population, genomes: Genome, costs: np.ndarray
    ) -> Population:
        """The elite stays, the others go."""
        return _join(self, state, genomes, jnp.asarray(costs, jnp.float32))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generation(
    settings: RandomKey, space: SearchSpace, key: PRNGKeyArray, members: Population
) -> Genome:
    elite = _elite(settings)
    strangers = max(1, round(settings.strangers * settings.size))
    children = settings.size - elite - strangers
    keys = jax.random.split(key, 4)
    order = jnp.argsort(pareto.rank(members.costs))
    one = order[jax.random.randint(keys[0], (children,), 0, elite)]
    other = order[jax.random.randint(keys[1], (children,), elite, settings.size)]
    cross = lambda k, a, b: space.repair(spaces.mix(k, a, b, settings.bias))  # noqa: E731
    born = jax.vmap(cross)(
        jax.random.split(keys[2], children),
        jax.tree.map(lambda column: column[one], members.genomes),
        jax.tree.map(lambda column: column[other], members.genomes),
    )
    new = jax.vmap(space.sample)(jax.random.split(keys[3], strangers))
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), born, new)


@functools.partial(jax.jit, static_argnums=0)
def _join(
    settings: RandomKey,
    members: Population,
    genomes: Genome,
    costs: Float[Array, "B M"],
) -> Population:
    order = jnp.argsort(pareto.rank(members.costs))
    place = jnp.arange(settings.size)
    stays = members.costs[order]
    stays = jnp.where((place < _elite(settings))[:, None], stays, jnp.inf)
    elite = Population(
        jax.tree.map(lambda column: column[order], members.genomes),
        stays,
        members.told,
    )
    return population.keep_best(elite, genomes, costs)


def _elite(settings: RandomKey) -> int:
    return max(1, round(settings.elite * settings.size))
