"""Problems whose optimum is known, for tests of the engine."""

import functools
import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import solvers
from benchmarks.landscapes import all_costs, nk, nk_cost
from solvers.problem import Problem
from solvers.protocols import Genome


@functools.cache
def nk_problem(length: int, links: int, seed: int) -> tuple[Problem, float]:
    """Returns an NK landscape and its least cost."""
    instance = nk(length, links, seed)
    problem = solvers.played(
        solvers.ChoiceSpace(sizes=(2,) * length), nk_cost, instance
    )
    return problem, float(all_costs(instance, length).min())


class Partition(NamedTuple):
    """Numbers to be split in two parts of equal sum."""

    numbers: Int[Array, " N"]


def partition_cost(instance: Partition, genome: Genome) -> Float[Array, ""]:
    """Returns the difference of the sums."""
    sides = 2 * genome.choices - 1
    return jnp.abs(jnp.sum(sides * instance.numbers)).astype(jnp.float32)


def partition_problem(length: int, seed: int) -> tuple[Problem, np.ndarray]:
    """Returns a partition problem and the costs of all splits, sorted."""
    numbers = np.random.default_rng(seed).integers(1, 1000, length)
    signs = np.array(list(itertools.product((-1, 1), repeat=length)))
    problem = solvers.played(
        solvers.ChoiceSpace(sizes=(2,) * length),
        partition_cost,
        Partition(jnp.asarray(numbers, jnp.int32)),
    )
    return problem, np.sort(np.abs(signs @ numbers))
