"""Plain evolution over genomes, the whole population scored in one jitted call.

The released USF search is of this kind: parents from the best few, crossover, mutation. It is the
search that a predictor has to beat. What is returned is chosen on noise that was not searched on.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from diffusion import metrics
from diffusion.evaluate import Judge
from diffusion.lower import lower
from diffusion.problems import Problem
from diffusion.sampler import sample
from diffusion.schedule import Schedule
from diffusion.space import Genome, ScheduleSpace
from diffusion.table import StepTable

# A failed sampler's score: worse than any that ran, and finite, so that ranking stays simple.
_FAILED = 1e9


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvolutionConfig:
    """How evolution proceeds.

    Attributes:
        evaluations: of schedules, the seeds included.
        children: scored together, per generation.
        survivors: the archive's size.
        parents: of the archive's best, from which both parents are drawn.
        crossover: share of the children that have two.
        finalists: of the archive, that the select set chooses among.
    """

    evaluations: int = 2000
    children: int = 20
    survivors: int = 128
    parents: int = 15
    crossover: float = 0.3
    finalists: int = 32


DEFAULT_EVOLUTION = EvolutionConfig()


class Archive(NamedTuple):
    """The best genomes so far, best first, and their errors on the search set."""

    genome: Genome  # Leaves [survivors, ...].
    score: Float[Array, " survivors"]


class Evolved(NamedTuple):
    """What evolution found."""

    genome: Genome
    schedule: Schedule
    table: StepTable  # Lowered in float64.
    searched: float  # Error on the search set.
    selected: float  # On the select set.
    evaluations: int
    history: tuple[
        tuple[int, float], ...
    ]  # Evaluations, and the best error on the search set.


def evolve(
    space: ScheduleSpace,
    problem: Problem,
    search: Judge,
    select: Judge,
    key: PRNGKeyArray,
    config: EvolutionConfig = DEFAULT_EVOLUTION,
) -> Evolved:
    """Searches the space for the smallest error to the reference.

    Args:
        space: of schedules.
        problem: whose model to sample from.
        search: the noise to search on.
        select: the noise that chooses among the finalists.
        key: consumed.
        config: the settings.
    """

    @jax.jit
    def scores(population: Genome) -> Float[Array, " P"]:
        # One at a time: a sampler fills the machine by itself, and memory stays that of one.
        def one(genome: Genome) -> Float[Array, ""]:
            found = sample(problem.denoise, space.decode(genome), search.x)
            error = metrics.rmse(found, search.reference)
            return jnp.where(jnp.isfinite(error), error, _FAILED)

        return jax.lax.map(one, population)

    @jax.jit
    def breed(archive: Archive, key: PRNGKeyArray) -> Genome:
        return _breed(space, archive, key, config)

    merge = jax.jit(_merge, static_argnums=3)
    seeds = space.seeds()
    count = int(seeds.first.shape[0])
    parts = [
        jax.tree.map(lambda leaf, i=i: _chunk(leaf, i, config.children), seeds)
        for i in range(0, count, config.children)
    ]
    scored = jnp.concatenate([scores(part) for part in parts])[:count]
    archive = _best(Archive(seeds, scored), config.survivors)
    history = [(count, float(archive.score[0]))]
    while count + config.children <= config.evaluations:
        key, now = jax.random.split(key)
        children = breed(archive, now)
        archive = merge(archive, children, scores(children), config.survivors)
        count += config.children
        history.append((count, float(archive.score[0])))
    genome, selected = _finalist(space, archive, select, config)
    schedule = space.to_schedule(genome)
    table = lower(schedule)
    return Evolved(
        genome,
        schedule,
        table,
        search.rmse(table),
        selected,
        count,
        tuple(history),
    )


def _breed(
    space: ScheduleSpace, archive: Archive, key: PRNGKeyArray, config: EvolutionConfig
) -> Genome:
    def child(key: PRNGKeyArray) -> Genome:
        pick, mix, cross, change = jax.random.split(key, 4)
        parents = min(config.parents, archive.score.shape[0])
        one, other = jax.random.randint(pick, (2,), 0, parents)
        a, b = (
            jax.tree.map(lambda leaf, i=i: leaf[i], archive.genome)
            for i in (one, other)
        )
        crossed = space.crossover(cross, a, b)
        both = jax.random.bernoulli(mix, config.crossover)
        chosen = jax.tree.map(lambda x, y: jnp.where(both, x, y), crossed, a)
        return space.mutate(change, chosen)

    return jax.vmap(child)(jax.random.split(key, config.children))


def _merge(
    archive: Archive, genome: Genome, score: Float[Array, " C"], survivors: int
) -> Archive:
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), archive.genome, genome)
    return _best(Archive(joined, jnp.concatenate([archive.score, score])), survivors)


def _best(archive: Archive, count: int) -> Archive:
    """The best first, each score once: copies are no diversity."""
    order = jnp.argsort(archive.score)
    score = archive.score[order]
    again: Bool[Array, " n"] = jnp.concatenate(
        [jnp.zeros(1, bool), score[1:] == score[:-1]]
    )
    kept = order[jnp.argsort(again, stable=True)][:count]
    return Archive(
        jax.tree.map(lambda leaf: leaf[kept], archive.genome), archive.score[kept]
    )


def _chunk(leaf: Array, start: int, size: int) -> Array:
    """Rows start..start + size, the last one repeated beyond the end."""
    rows = jnp.minimum(jnp.arange(start, start + size), leaf.shape[0] - 1)
    return leaf[rows]


def _finalist(
    space: ScheduleSpace, archive: Archive, select: Judge, config: EvolutionConfig
) -> tuple[Genome, float]:
    decode = jax.jit(space.decode)
    finalists = [
        jax.tree.map(lambda leaf, i=i: leaf[i], archive.genome)
        for i in range(min(config.finalists, archive.score.shape[0]))
    ]
    errors = [select.rmse(decode(genome)) for genome in finalists]
    chosen = min(range(len(errors)), key=errors.__getitem__)
    return finalists[chosen], errors[chosen]
