"""A population of measured genomes, as all evolving strategies keep it. P members, B children."""

import abc
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from solvers import pareto, spaces
from solvers.problem import Problem
from solvers.protocols import Genome, Proposal, SearchSpace


class Population(NamedTuple):
    """P places; those not filled yet have infinite costs."""

    genomes: Genome  # Leading axis P.
    costs: Float[Array, "P M"]
    told: Int[Array, ""]  # How many were ever put in.


class Breeder(abc.ABC):
    """What strategies that breed have in common: samples until the population is full, then children."""

    size: int  # P.

    def init(self, problem: Problem, key: PRNGKeyArray) -> Population:
        """Nobody yet."""
        return empty(problem.space, self.size, problem.oracle.num_objectives)

    def ask(
        self, problem: Problem, state: Population, key: PRNGKeyArray
    ) -> tuple[Proposal, Population]:
        """Returns samples until the population is full, then children."""
        if int(state.told) < self.size:
            return Proposal(spaces.sample(problem.space, key, self.samples)), state
        return Proposal(self.children(problem.space, key, state)), state

    @property
    def samples(self) -> int:
        """How many are drawn at a time until the population is full."""
        return self.size

    @abc.abstractmethod
    def children(
        self, space: SearchSpace, key: PRNGKeyArray, parents: Population
    ) -> Genome:
        """Returns what to measure next."""


def empty(space: SearchSpace, size: int, num_objectives: int) -> Population:
    """Returns a population of nobody."""
    return Population(
        Genome(
            jnp.zeros((size, len(space.sizes)), jnp.int32),
            jnp.zeros((size, space.num_values)),
        ),
        jnp.full((size, num_objectives), jnp.inf),
        jnp.int32(0),
    )


def replace_oldest(
    population: Population, genomes: Genome, costs: Float[Array, "B M"]
) -> Population:
    """Returns the population with the newcomers in place of its oldest members.

    Of more newcomers than places the best are taken.
    """
    size, count = (
        population.costs.shape[0],
        min(costs.shape[0], population.costs.shape[0]),
    )
    best = jnp.argsort(pareto.rank(costs))[:count]
    genomes, costs = jax.tree.map(lambda column: column[best], (genomes, costs))
    into = (population.told + jnp.arange(count)) % size
    put = lambda old, new: old.at[into].set(new)  # noqa: E731
    return Population(
        jax.tree.map(put, population.genomes, genomes),
        put(population.costs, costs),
        population.told + count,
    )


def keep_best(
    population: Population, genomes: Genome, costs: Float[Array, "B M"]
) -> Population:
    """Returns the P best of members and newcomers, best first."""
    size = population.costs.shape[0]
    both = jax.tree.map(
        lambda old, new: jnp.concatenate([old, new]), population.genomes, genomes
    )
    all_costs = jnp.concatenate([population.costs, costs])
    order = jnp.argsort(pareto.rank(all_costs))[:size]
    return Population(
        jax.tree.map(lambda column: column[order], both),
        all_costs[order],
        population.told + costs.shape[0],
    )


def repeats(genomes: Genome, others: Genome) -> Bool[Array, " B"]:
    """Returns which of a batch are among the others, or further up in the batch itself."""

    def equal(one: Genome, other: Genome) -> Array:
        return jnp.all(one.choices[:, None] == other.choices[None], -1) & jnp.all(
            one.values[:, None] == other.values[None], -1
        )

    earlier = jnp.tril(equal(genomes, genomes), k=-1)
    return jnp.any(equal(genomes, others), axis=1) | jnp.any(earlier, axis=1)


def tournament(
    key: PRNGKeyArray, rank: Int[Array, " P"], count: int, entrants: int
) -> Int[Array, " B"]:
    """Returns `count` winners, each the best of so many drawn with replacement."""
    drawn = jax.random.randint(key, (count, entrants), 0, rank.shape[0])
    return drawn[jnp.arange(count), jnp.argmin(rank[drawn], axis=1)]


def breed(
    space: SearchSpace,
    key: PRNGKeyArray,
    population: Population,
    count: int,
    *,
    entrants: int,
    crossing: float,
) -> Genome:
    """Returns mutated children of tournament winners, a share `crossing` of them of two parents."""
    keys = jax.random.split(key, (count + 1, 2))
    won = tournament(keys[-1, 0], pareto.rank(population.costs), 2 * count, entrants)
    one, other = (
        Genome(*(column[winners] for column in population.genomes))
        for winners in (won[:count], won[count:])
    )
    crossed = jax.vmap(space.crossover)(keys[:-1, 0], one, other)
    two = jax.random.bernoulli(keys[-1, 1], crossing, (count, 1))
    parents = jax.tree.map(lambda a, b: jnp.where(two, a, b), crossed, one)
    return jax.vmap(space.mutate)(keys[:-1, 1], parents)
