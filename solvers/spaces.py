"""`ChoiceSpace`: vectors of categorical choices and of numbers, and permutations by random keys."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from solvers.protocols import Genome, SearchSpace


def unchanged(genome: Genome) -> Genome:
    """The repair of a space in which every vector is valid."""
    return genome


@dataclass(frozen=True, kw_only=True)
class ChoiceSpace:
    """All vectors of N choices and V values, or those that `repair_fn` leaves as they are.

    Attributes:
        sizes: number of options of each choice.
        num_values: of numbers between 0 and 1.
        repair_fn: maps any vector to a valid one near it, and a valid one to itself; jit-able.
        rate: expected number of genes that a mutation changes beyond the first.
        step: standard deviation of a changed value; one change in four draws it anew.
    """

    sizes: tuple[int, ...] = ()
    num_values: int = 0
    repair_fn: Callable[[Genome], Genome] = unchanged
    rate: float = 0.5
    step: float = 0.1

    def __post_init__(self) -> None:
        if not self.sizes and not self.num_values:
            raise ValueError("a space needs a choice or a value")
        if any(size < 1 for size in self.sizes) or self.num_values < 0:
            raise ValueError("each choice needs an option: sizes start at 1")

    def sample(self, key: PRNGKeyArray) -> Genome:
        """Returns a member, drawn uniformly before repair."""
        drawn = jax.random.uniform(key, (len(self.sizes) + self.num_values,))
        choices, values = self._split(drawn)
        return self.repair(Genome(_below(choices, np.asarray(self.sizes)), values))

    def mutate(self, key: PRNGKeyArray, genome: Genome) -> Genome:
        """Changes one gene, and each other one with probability `rate / (N + V)`."""
        # A choice of one option can't change, so it is never the one to.
        free = np.array([*(size > 1 for size in self.sizes), *[True] * self.num_values])
        # One draw for all: generators are what takes longest here, to compile and to run.
        which, more, much, other = jax.random.uniform(key, (4, free.size))
        changed = (more < self.rate / max(1, free.sum())) & free
        changed |= jnp.arange(free.size) == jnp.argmax(jnp.where(free, which, -1.0))
        change_choice, change_value = self._split(changed)
        sizes = np.asarray(self.sizes, np.int32)
        # Shifted by 1 .. size - 1, so never to itself.
        shift = 1 + _below(self._split(much)[0], np.maximum(sizes - 1, 1))
        choices = jnp.where(
            change_choice, (genome.choices + shift) % sizes, genome.choices
        )
        fresh, kind = self._split(much)[1], self._split(other)[1]
        # The rest of `kind` is uniform again.
        noise = jax.scipy.special.ndtri(jnp.clip((kind - 0.25) / 0.75, 1e-6, 1 - 1e-6))
        moved = _reflect(jnp.asarray(genome.values) + self.step * noise)
        moved = jnp.where(kind < 0.25, fresh, moved)
        values = jnp.where(change_value, moved, genome.values)
        return self.repair(Genome(choices, values))

    def crossover(self, key: PRNGKeyArray, one: Genome, other: Genome) -> Genome:
        """Takes each gene from either, as a coin says."""
        return self.repair(mix(key, one, other, 0.5))

    def repair(self, genome: Genome) -> Genome:
        """Returns `repair_fn` of the vector."""
        return self.repair_fn(genome)

    def _split(self, genes: Array) -> tuple[Array, Array]:
        return genes[: len(self.sizes)], genes[len(self.sizes) :]

    def encode(self, genome: Genome) -> Float[Array, "L F"]:
        """Returns a token per gene: its option as one of the largest size, its value, a flag."""
        width = max(self.sizes, default=0)
        choices = jax.nn.one_hot(genome.choices, width)
        columns = jnp.zeros((len(self.sizes), 2))
        # Numbers from -1 to 1, beside a column that tells them from choices.
        centred = jnp.stack(
            [2 * genome.values - 1, jnp.ones_like(genome.values)], axis=1
        )
        return jnp.concatenate(
            [
                jnp.concatenate([choices, columns], axis=1),
                jnp.concatenate([jnp.zeros((self.num_values, width)), centred], axis=1),
            ]
        )


def permutations(length: int) -> ChoiceSpace:
    """Returns the space of permutations of `length` things, as random keys: see `permutation`."""
    return ChoiceSpace(num_values=length)


def permutation(genome: Genome) -> Int[Array, " V"]:
    """Returns the order that a genome's values sort into (Bean 1994, random keys)."""
    return jnp.argsort(genome.values, stable=True).astype(jnp.int32)


def mix(
    key: PRNGKeyArray, one: Genome, other: Genome, share: float | Float[Array, ""]
) -> Genome:
    """Returns genes of `one` with probability `share`, else of `other`; not repaired."""
    first = one.choices.shape[0]
    taken = jax.random.uniform(key, (first + one.values.shape[0],)) < share
    return Genome(
        jnp.where(taken[:first], one.choices, other.choices),
        jnp.where(taken[first:], one.values, other.values),
    )


@functools.partial(jax.jit, static_argnums=(0, 2))
def sample(space: SearchSpace, key: PRNGKeyArray, count: int) -> Genome:
    """Returns a batch of random members. The key is consumed."""
    return jax.vmap(space.sample)(jax.random.split(key, count))


@functools.partial(jax.jit, static_argnums=0)
def encode(space: SearchSpace, genomes: Genome) -> Float[Array, "B L F"]:
    """Returns the encodings of a batch."""
    return jax.vmap(space.encode)(genomes)


def host(genomes: Genome) -> Genome:
    """Returns the genomes as NumPy arrays, C-ordered int32 and float32."""
    return Genome(
        np.ascontiguousarray(genomes.choices, np.int32),
        np.ascontiguousarray(genomes.values, np.float32),
    )


def keys(genomes: Genome) -> list[bytes]:
    """Returns a digest of each genome of a batch: equal genomes, equal digests.

    Values are compared bit by bit, but for the zeros, which are one.
    """
    choices, values = host(genomes)
    rows = np.concatenate([choices, (values + np.float32(0.0)).view(np.int32)], axis=1)
    return [hashlib.sha256(row.tobytes()).digest()[:16] for row in rows]


def concatenate(batches: list[Genome]) -> Genome:
    """Returns one batch of several, as NumPy arrays."""
    return Genome(*(np.concatenate(columns) for columns in zip(*map(host, batches))))


def take(genomes: Genome, index: np.ndarray | list[int]) -> Genome:
    """Returns some of a batch of NumPy genomes."""
    rows = np.asarray(index, np.int64)
    return Genome(genomes.choices[rows], genomes.values[rows])


def _below(drawn: Float[Array, " N"], sizes: np.ndarray) -> Int[Array, " N"]:
    """Returns whole numbers below sizes from numbers in [0, 1)."""
    sizes = sizes.astype(np.int32)
    return jnp.minimum((drawn * sizes).astype(jnp.int32), sizes - 1)


def _reflect(values: Float[Array, " V"]) -> Float[Array, " V"]:
    """Returns values folded back into [0, 1] at its ends."""
    return jnp.clip(1 - jnp.abs(1 - jnp.abs(values)), 0.0, 1.0)
