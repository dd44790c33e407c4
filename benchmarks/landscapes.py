"""NK landscapes: how rugged a search space is, made to measure, with the optimum known.

N bits; each contributes by its own value and those of K others, by a table of random numbers
(Kauffman, Levin 1987). K = 0 is additive, K = N - 1 is white noise.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from solvers.problem import evaluate
from solvers.protocols import Genome

_CHUNK = 1 << 14


class Landscape(NamedTuple):
    """One landscape, of C = options ** (K + 1) cases a gene."""

    table: Float[Array, "N C"]
    links: Int[Array, "N K+1"]  # The gene itself first.


def nk(length: int, others: int, seed: int, *, options: int = 2) -> Landscape:
    """Returns a landscape of N genes with K others each, with so many options a gene."""
    rng = np.random.default_rng(seed)
    links = [
        [i, *rng.choice(np.delete(np.arange(length), i), others, replace=False)]
        for i in range(length)
    ]
    table = rng.random((length, options ** (others + 1)))
    return Landscape(jnp.asarray(table, jnp.float32), jnp.asarray(links, jnp.int32))


def nk_cost(instance: Landscape, genome: Genome) -> Float[Array, ""]:
    """Returns 1 - the mean contribution, from 0 to 1."""
    width = instance.links.shape[1]
    options = round(instance.table.shape[1] ** (1 / width))
    digits = genome.choices[instance.links]
    case = jnp.sum(digits * options ** jnp.arange(width), axis=1)
    return 1 - jnp.mean(instance.table[jnp.arange(len(case)), case])


def all_costs(instance: Landscape, length: int, *, options: int = 2) -> np.ndarray:
    """Returns the costs of all options ** N genomes, in the order of itertools.product."""
    rows = np.indices((options,) * length, np.int32).reshape(length, -1).T
    costs = [
        np.asarray(evaluate(nk_cost, instance, Genome(part, np.zeros((len(part), 0)))))
        for part in np.array_split(rows, max(1, len(rows) // _CHUNK))
    ]
    return np.concatenate(costs)[:, 0]
