"""Number partitioning: split integers into two parts whose sums are as near as can be; all optima known."""

import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from solvers.protocols import Genome


class Partition(NamedTuple):
    """Numbers to be split in two parts of equal sum."""

    numbers: Int[Array, " N"]


def partition_cost(instance: Partition, genome: Genome) -> Float[Array, ""]:
    """Returns the difference of the sums."""
    sides = 2 * genome.choices - 1
    return jnp.abs(jnp.sum(sides * instance.numbers)).astype(jnp.float32)


def random_partition(length: int, seed: int) -> tuple[Partition, np.ndarray]:
    """Returns N random integers below 1000, and the differences of all 2 ** N splits, sorted."""
    numbers = np.random.default_rng(seed).integers(1, 1000, length)
    signs = np.array(list(itertools.product((-1, 1), repeat=length)))
    return Partition(jnp.asarray(numbers, jnp.int32)), np.sort(np.abs(signs @ numbers))
