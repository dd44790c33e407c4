"""Predictor-guided search in stages, as S³ does it (Liu et al. 2023, "A Unified Sampling Framework
for Solver Searching of Diffusion Probabilistic Models"), for any space.

Measure some; train the predictor on all that was measured; evolve against it from the best that was
measured; measure the most promising; repeat. What is promising is said by the members of an
ensemble: one drawn for each proposal (Thompson sampling), or all by their lower confidence bound.
"""

import functools
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from solvers import pareto, spaces
from solvers.predictor import Ensemble
from solvers.problem import Problem
from solvers.protocols import Genome, Predictor, Proposal, SearchSpace
from solvers.strategies import population
from solvers.strategies.population import Population

_BUCKET = 64  # Rows are padded to this times a power of four: one compilation for each.


class Measured(NamedTuple):
    """All that was measured, and the predictor as it was last trained."""

    genomes: list[Genome]
    costs: list[np.ndarray]
    seen: set[bytes]
    params: Any


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Predictor-guided search.

    Attributes:
        initial: random schedules measured first.
        batch: measured between two trainings.
        predictor: the ensemble.
        acquisition: "thompson" or "ucb".
        beta: of the confidence bound: mean - beta x deviation.
        parents: best measured that evolution starts from.
        size: of each population evolved against the predictor.
        generations: of that evolution.
        entrants: of its tournaments.
        crossing: share of children with two parents.
    """

    initial: int = 16
    batch: int = 4
    predictor: Predictor = field(default_factory=Ensemble)
    acquisition: Literal["thompson", "ucb"] = "thompson"
    beta: float = 1.0
    parents: int = 16
    size: int = 48
    generations: int = 16
    entrants: int = 3
    crossing: float = 0.5

    def init(self, problem: Problem, key: PRNGKeyArray) -> Measured:
        """Nothing measured, nothing learnt."""
        example = spaces.sample(problem.space, key, 1)
        tokens = spaces.encode(problem.space, example)[0]
        params = self.predictor.init(key, tokens, problem.oracle.num_objectives)
        return Measured([], [], set(), params)

    def ask(
        self, problem: Problem, state: Measured, key: PRNGKeyArray
    ) -> tuple[Proposal, Measured]:
        """Trains, evolves, and returns the most promising that was not measured."""
        keys = jax.random.split(key, 3)
        count = len(state.seen)
        if count < self.initial:
            return Proposal(self._sample(problem, key, self.initial - count)), state
        rows = spaces.concatenate(state.genomes)
        costs = np.concatenate(state.costs)
        padded, padded_costs = _padded(rows, costs)
        params = self.predictor.fit(
            keys[0],
            state.params,
            spaces.encode(problem.space, padded),
            padded_costs,
            jnp.int32(len(costs)),
        )
        found = _evolve(self, problem.space, keys[1], params, padded, padded_costs)
        genomes = _unseen(spaces.host(found), state.seen, self.batch)
        missing = self.batch - len(genomes.choices)
        if missing:  # Evolution came to nothing new: look elsewhere.
            drawn = self._sample(problem, keys[2], missing)
            genomes = spaces.concatenate([genomes, drawn])
        draws = found.choices.shape[0] // self.size
        spent = draws * self.size * (self.generations + 1)
        return Proposal(genomes, predictions=spent), state._replace(params=params)

    def tell(
        self, problem: Problem, state: Measured, genomes: Genome, costs: np.ndarray
    ) -> Measured:
        """Adds to what was measured."""
        genomes = spaces.host(genomes)
        names = spaces.keys(genomes)
        fresh = [k for k, name in enumerate(names) if name not in state.seen]
        if not fresh:
            return state
        return Measured(
            [*state.genomes, spaces.take(genomes, fresh)],
            [*state.costs, np.asarray(costs, np.float32)[fresh]],
            state.seen | set(names),
            state.params,
        )

    def _sample(self, problem: Problem, key: PRNGKeyArray, count: int) -> Genome:
        # Always as many, so that it compiles once.
        drawn = spaces.sample(problem.space, key, max(self.initial, self.batch))
        return spaces.take(spaces.host(drawn), np.arange(count))


def _padded(genomes: Genome, costs: np.ndarray) -> tuple[Genome, np.ndarray]:
    """Returns the rows padded to a bucket; those that pad are failures."""
    size = _BUCKET
    while size < len(costs):
        size *= 4
    short = ((0, size - len(costs)), (0, 0))
    padded = Genome(*(np.pad(column, short) for column in genomes))
    return padded, np.pad(costs, short, constant_values=np.inf)


def _unseen(genomes: Genome, seen: set[bytes], count: int) -> Genome:
    """Returns the first `count` different genomes that are not in `seen`."""
    chosen: dict[bytes, int] = {}
    for row, name in enumerate(spaces.keys(genomes)):
        if name not in seen:
            chosen.setdefault(name, row)
        if len(chosen) == count:
            break
    return spaces.take(genomes, list(chosen.values()))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _evolve(
    settings: Predicted,
    space: SearchSpace,
    key: PRNGKeyArray,
    params: Any,
    genomes: Genome,
    costs: Float[Array, "B M"],
) -> Genome:
    """Returns what evolution against the predictor came to, most promising first.

    Thompson sampling evolves a population for each member and goes round them; the bound evolves
    one.
    """
    best = jnp.argsort(pareto.rank(costs))[: settings.parents]
    # Padding and failures are no parents: the best stands in for them.
    good = jnp.isfinite(costs[best]).all(axis=1)
    best = jnp.where(good, best, best[0])
    measured = settings.predictor.score(params, jax.vmap(space.encode)(genomes))
    valid = jnp.isfinite(costs).all(axis=1)

    def judge(draw: Int[Array, ""], candidates: Genome) -> Float[Array, "B M"]:
        tokens = jax.vmap(space.encode)(candidates)
        scores = settings.predictor.score(params, tokens)
        if settings.acquisition == "thompson":
            return scores[draw]
        # Each member has its own scale: its scores of what was measured make it one.
        mean, deviation = _moments(measured, valid)
        scores = (scores - mean) / deviation
        return scores.mean(axis=0) - settings.beta * scores.std(axis=0)

    def run(draw: Int[Array, ""], key: PRNGKeyArray) -> Population:
        keys = jax.random.split(key, settings.generations + 2)
        founders = jnp.concatenate([best, best])[
            jnp.arange(settings.size) % (2 * settings.parents)
        ]
        mutants = jax.tree.map(lambda column: column[founders], genomes)
        mutants = jax.vmap(space.mutate)(
            jax.random.split(keys[0], settings.size), mutants
        )
        first = Population(mutants, judge(draw, mutants), jnp.int32(0))

        def generation(
            members: Population, key: PRNGKeyArray
        ) -> tuple[Population, None]:
            children = population.breed(
                space,
                key,
                members,
                settings.size,
                entrants=settings.entrants,
                crossing=settings.crossing,
            )
            again = population.repeats(children, members.genomes)
            scores = jnp.where(again[:, None], jnp.inf, judge(draw, children))
            return population.keep_best(members, children, scores), None

        return jax.lax.scan(generation, first, keys[1:])[0]

    draws = measured.shape[0] if settings.acquisition == "thompson" else 1
    found = jax.vmap(run)(jnp.arange(draws), jax.random.split(key, draws)).genomes
    count = draws * settings.size
    return jax.tree.map(
        lambda column: jnp.swapaxes(column, 0, 1).reshape(count, column.shape[-1]),
        found,
    )


def _moments(
    scores: Float[Array, "E B M"], valid: Array
) -> tuple[Float[Array, "E 1 M"], Float[Array, "E 1 M"]]:
    weight = valid[None, :, None] / jnp.maximum(jnp.sum(valid), 1)
    mean = jnp.sum(weight * scores, axis=1, keepdims=True)
    variance = jnp.sum(weight * (scores - mean) ** 2, axis=1, keepdims=True)
    return mean, jnp.sqrt(variance) + 1e-6
