"""Plans as genomes, so that the strategies of `solvers` search mappings too.

A genome has what a plan has, access by access: the advice as a choice, rank and eagerness as numbers
from 0 to 1. A mutation is that of hill-climbing; a child takes all that it knows of a buffer from
one parent. Planning strategies play `agent.MemoryGame` on the board of the best plan to start from.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

import solvers
from mallocgame import climb, rollout
from mallocgame.agent import Board, MemoryGame, Position, board, plan_of
from mallocgame.climb import MAX_EAGERNESS, MIN_EAGERNESS
from mallocgame.engine import Found
from mallocgame.instance import Problem
from mallocgame.planner import prior_logits
from mallocgame.rollout import Plan
from mallocgame.types import NUM_ACTIONS, UNDECIDED, Instance
from solvers.problem import Simulator
from solvers.protocols import Genome

_OPTIONS = NUM_ACTIONS + 1  # Of an access's advice; the first is UNDECIDED.
_ADVISED = 0.3  # Of the accesses of a random plan.
_TOKENS = 64
_RANGE = float(np.log(MAX_EAGERNESS / MIN_EAGERNESS))


@dataclasses.dataclass(frozen=True, eq=False)
class PlanSpace:
    """The plans for an instance. Equal only to itself: its arrays are constants of what is compiled.

    Attributes:
        instance: N accesses, padding included.
    """

    instance: Instance

    @property
    def sizes(self) -> tuple[int, ...]:
        """The options of each access's advice, [N]."""
        return (_OPTIONS,) * self._count

    @property
    def num_values(self) -> int:
        """Rank and eagerness of each access."""
        return 2 * self._count

    @property
    def _count(self) -> int:
        return int(self.instance.order.shape[0])

    def sample(self, key: PRNGKeyArray) -> Genome:
        """Returns a random order of the buffers, random eagerness, and some advice."""
        keys = jax.random.split(key, 4)
        shape = (self._count,)
        each = jax.random.uniform(keys[0], (2, *shape))[
            :, self.instance.accesses.buffer
        ]
        advice = jax.random.randint(keys[1], shape, 1, _OPTIONS)
        told = jax.random.bernoulli(keys[2], _ADVISED, shape)
        choices = jnp.where(told, advice, 0).astype(jnp.int32)
        return self.repair(Genome(choices, each.reshape(-1)))

    def mutate(self, key: PRNGKeyArray, genome: Genome) -> Genome:
        """Treats one to four buffers otherwise."""
        plan = to_plan(self.instance, genome)
        return self.repair(
            from_plan(self.instance, climb.mutate(self.instance, key, plan))
        )

    def crossover(self, key: PRNGKeyArray, one: Genome, other: Genome) -> Genome:
        """Takes each buffer's decisions from one of the parents."""
        coin = jax.random.bernoulli(key, 0.5, (self._count,))
        taken = coin[self.instance.accesses.buffer]
        return Genome(
            jnp.where(taken, one.choices, other.choices),
            jnp.where(jnp.tile(taken, 2), one.values, other.values),
        )

    def repair(self, genome: Genome) -> Genome:
        """Clears what belongs to padding, so that equal plans are equal genomes."""
        real = jnp.arange(self._count) < self.instance.num_accesses
        return Genome(
            jnp.where(real, genome.choices, 0).astype(jnp.int32),
            jnp.where(jnp.tile(real, 2), jnp.clip(genome.values, 0.0, 1.0), 0.0).astype(
                jnp.float32
            ),
        )

    def encode(self, genome: Genome) -> Float[Array, "L F"]:
        """Returns up to 64 tokens, each of several accesses that are played one after another."""
        columns = [
            jax.nn.one_hot(genome.choices, _OPTIONS),
            2 * genome.values.reshape(2, -1).T - 1,
        ]
        features = jnp.concatenate(columns, axis=1)[self.instance.order]
        tokens = _TOKENS if self._count % _TOKENS == 0 else 1
        return features.reshape(tokens, -1)


def to_plan(instance: Instance, genome: Genome) -> Plan:
    """Returns the plan of a genome. Whatever its numbers, a buffer's accesses are played in their order."""
    rank, eagerness = jnp.asarray(genome.values).reshape(2, -1)
    rank = _rising(rank, instance.accesses.buffer)
    total = instance.num_accesses.astype(jnp.float32)
    late = jnp.where(eagerness < 0.5, -1.0, 1.0)
    size = MIN_EAGERNESS * jnp.exp(_RANGE * jnp.abs(2 * eagerness - 1))
    advice = jnp.asarray(genome.choices) - 1
    return Plan(rank * (total + 1) - 1, late * size, advice.astype(jnp.int8))


def _rising(rank: Float[Array, " N"], buffer: Int[Array, " N"]) -> Float[Array, " N"]:
    """Returns for each access the highest rank of its buffer's accesses up to it."""
    order = jnp.argsort(buffer, stable=True)

    def higher(one: tuple[Array, Array], other: tuple[Array, Array]) -> Any:
        same = one[0] == other[0]
        return other[0], jnp.where(same, jnp.maximum(one[1], other[1]), other[1])

    _, highest = jax.lax.associative_scan(higher, (buffer[order], rank[order]))
    return rank.at[order].set(highest)


def from_plan(instance: Instance, plan: Plan) -> Genome:
    """Returns the genome of a plan; ranks from -1 to the number of accesses keep their order."""
    total = instance.num_accesses.astype(jnp.float32)
    rank = jnp.clip((plan.rank + 1) / (total + 1), 0.0, 1.0)
    share = jnp.log(jnp.abs(plan.eagerness) / MIN_EAGERNESS) / _RANGE
    eagerness = 0.5 + 0.5 * jnp.sign(plan.eagerness) * jnp.clip(share, 0.0, 1.0)
    values = jnp.concatenate([rank, eagerness]).astype(jnp.float32)
    return Genome(plan.advice.astype(jnp.int32) - UNDECIDED, values)


def seconds(instance: Instance, genome: Genome) -> Float[Array, ""]:
    """Returns the simulated time of a genome's mapping: the cost function."""
    return rollout.play(instance, to_plan(instance, genome)).timeline.total


def search_problem(problem: Problem, start: Mapping[str, Found]) -> solvers.Problem:
    """Returns the problem as the strategies of `solvers` take it.

    Args:
        problem: programs, costs and capacity.
        start: evaluated plans, which every search measures first.
    """
    instance = problem.instance
    space = PlanSpace(instance)
    ranked = sorted(start.values(), key=lambda found: found.seconds)
    genomes = [space.repair(from_plan(instance, found.plan)) for found in ranked]
    here = board(problem, ranked[0].plan)
    return solvers.Problem(
        space=space,
        oracle=Simulator(cost_fn=seconds, instance=instance),
        game=MemoryGame(),
        instance=here,
        genome_fn=functools.partial(_genome_of, space),
        prior_logits_fn=functools.partial(_prior_logits, ranked[0].plan.advice),
        value_fn=_value,
        simulations_per_step=1 / max(1, len(problem.accesses)),
        starts=jax.tree.map(lambda *columns: np.stack(columns), *genomes),
    )


def _genome_of(space: PlanSpace, instance: Board, actions: Int[Array, " S"]) -> Genome:
    return space.repair(from_plan(space.instance, plan_of(instance, actions)))


def _prior_logits(
    advice: Int[Array, " N"], instance: Board, position: Position
) -> Float[Array, " A"]:
    return prior_logits(advice, instance.instance, position.state)


def _value(instance: Board, position: Position) -> Float[Array, ""]:
    """Priced saving still to come, in all-slow times."""
    return instance.to_go[position.state.cursor]
