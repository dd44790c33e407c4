"""A problem as the engine takes it, and the oracle that is a compiled function."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from solvers.protocols import Game, Genome, Measurement, Oracle, SearchSpace, Unit

CostFn = Callable[[Any, Genome], Float[Array, "..."]]
PriorFn = Callable[[Any, Any], Float[Array, " A"]]
ValueFn = Callable[[Any, Any], Float[Array, ""]]

_MIN_BATCH = 8


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is searched.

    Attributes:
        space: the schedules as genomes.
        oracle: their judge.
        game: the same schedules as decisions, for strategies that plan; None if there is no
            simulator to plan in.
        instance: what the game is played on.
        genome_fn: maps the instance and an episode's actions [num_decisions] to the genome of the
            schedule it made; with `game`.
        advance_fn: maps the instance, the best genome so far (or None) and a key to the instance
            to play next; None plays the same one again.
        prior_logits_fn: maps instance and state to logits [A] of what good play would do; None
            for none.
        value_fn: maps instance and state to the rewards still to be had; None for 0.
        simulations_per_step: evaluations that a step of the game is worth, for the budget.
        starts: a batch of genomes that every search measures first, such as today's default.
    """

    space: SearchSpace
    oracle: Oracle
    game: Game | None = None
    instance: Any = ()
    genome_fn: Callable[[Any, Array], Genome] | None = None
    advance_fn: Callable[[Any, Genome | None, Array], Any] | None = None
    prior_logits_fn: PriorFn | None = None
    value_fn: ValueFn | None = None
    simulations_per_step: float = 1.0
    starts: Genome | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Simulator:
    """An oracle that is a pure function in JAX: compiled, and a batch at a time.

    Attributes:
        cost_fn: maps `instance` and one genome to its cost, or to its M costs; not finite where
            the schedule is not feasible.
        instance: passed on as an argument, so that equal shapes compile once.
        num_objectives: M.
        one_by_one: whether genomes of a batch are evaluated one after another, not side by side:
            for functions that fill the machine, or its memory, by themselves.
    """

    cost_fn: CostFn
    instance: Any = ()
    num_objectives: int = 1
    one_by_one: bool = False

    @property
    def unit(self) -> Unit:
        """Simulations: they cost no oracle."""
        return "simulations"

    @functools.cached_property
    def digest(self) -> str:
        """Of the function's name and of the instance's content.

        Raises:
            ValueError: if the function has no name that tells it from others.
        """
        function = self.cost_fn
        name = getattr(function, "__qualname__", None) or repr(function)
        if "<" in name:
            raise ValueError(f"{name} has no lasting name: define it in a module")
        content = hashlib.sha256(f"{function.__module__}.{name}".encode())
        leaves, structure = jax.tree.flatten(self.instance)
        content.update(str(structure).encode())
        for leaf in map(np.asarray, leaves):
            content.update(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
        return content.hexdigest()

    def measure(self, genomes: Genome) -> Sequence[Measurement]:
        """Returns the costs of a batch, computed by one call, padded to a power of two."""
        count = genomes.choices.shape[0]
        size = max(_MIN_BATCH, 1 << (count - 1).bit_length())
        padded = Genome(*(_repeat_last(np.asarray(x), size) for x in genomes))
        measured = evaluate(self.cost_fn, self.instance, padded, self.one_by_one)
        costs = np.asarray(measured)[:count]
        if costs.shape[1] != self.num_objectives:
            raise ValueError(
                f"the cost function returns {costs.shape[1]} costs, not {self.num_objectives}"
            )
        failed = (float("inf"),) * self.num_objectives
        return [
            Measurement(tuple(map(float, row)))
            if np.isfinite(row).all()
            else Measurement(failed, "not feasible")
            for row in costs
        ]


@functools.partial(jax.jit, static_argnums=(0, 3))
def evaluate(
    cost_fn: CostFn, instance: Any, genomes: Genome, one_by_one: bool = False
) -> Float[Array, "B M"]:
    """Returns the costs of a batch of genomes."""
    if one_by_one:
        costs = jax.lax.map(lambda genome: cost_fn(instance, genome), genomes)
    else:
        costs = jax.vmap(cost_fn, (None, 0))(instance, genomes)
    return costs.reshape(costs.shape[0], -1).astype(jnp.float32)


def _repeat_last(column: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([column, np.repeat(column[-1:], size - len(column), axis=0)])
