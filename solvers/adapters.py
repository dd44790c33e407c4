"""Every space is a game, and every game is a space, so that both kinds of engine play everything.

`played(...)` makes the problem of a space and a cost function: its game goes through the genes one
by one. `evolved(...)` makes the problem of a game: its genomes are random keys, one per step and
action, and at each step the legal action with the largest key is taken.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from solvers.problem import CostFn, PriorFn, Problem, Simulator, ValueFn
from solvers.protocols import Game, Genome, Oracle, SearchSpace
from solvers.spaces import ChoiceSpace


class Turns(NamedTuple):
    """What a `SpaceGame` is played on: a schedule to improve, and the order of its genes."""

    base: Genome
    order: Int[Array, " G"]  # G = N + V, a permutation.
    instance: Any  # Of the cost function.


class Improving(NamedTuple):
    """A position of a `SpaceGame`: a whole schedule, of which some genes are decided."""

    genome: Genome
    cost: Float[Array, ""]
    cursor: Int[Array, ""]
    observation: Float[Array, "L G"]  # The encoding, and which token is next.
    legal_action_mask: Bool[Array, " A"]
    reward: Float[Array, ""]
    terminated: Bool[Array, ""]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpaceGame:
    """A space played gene by gene: an action is an option of the gene whose turn it is.

    A gene not decided yet is the base schedule's, so every position is a schedule that has a
    cost, and a step's reward is how much the cost falls: an episode's return is the gain over
    the base. Values are chosen from `levels` equidistant ones, and the last action keeps the base's.

    Attributes:
        space: the schedules.
        cost_fn: as in `Simulator`, of one objective.
        levels: number of options of a value.
    """

    space: SearchSpace
    cost_fn: CostFn
    levels: int = 8

    @property
    def num_actions(self) -> int:
        """Of the gene with the most options."""
        values = self.levels + 1 if self.space.num_values else 0
        return max(*self.space.sizes, values, 1, 1)

    def num_decisions(self, instance: Turns) -> int:
        """One per gene."""
        return int(instance.order.shape[0])

    def init(self, instance: Turns, key: PRNGKeyArray) -> Improving:
        """Returns the base schedule, nothing decided."""
        cost = self._cost(instance, instance.base)
        return self._position(instance, instance.base, cost, jnp.int32(0))._replace(
            reward=jnp.float32(0)
        )

    def step(
        self, instance: Turns, state: Improving, action: Int[Array, ""]
    ) -> Improving:
        """Sets the gene at the cursor."""
        num_choices = len(self.space.sizes)
        gene = instance.order[state.cursor]
        choices = jnp.where(jnp.arange(num_choices) == gene, action, state.genome[0])
        value = jnp.where(
            action == self.levels,
            instance.base.values,
            action.astype(jnp.float32) / max(1, self.levels - 1),
        )
        here = jnp.arange(self.space.num_values) + num_choices == gene
        values = jnp.where(here, value, state.genome.values)
        genome = self.space.repair(Genome(choices.astype(jnp.int32), values))
        genome = jax.tree.map(
            lambda new, old: jnp.where(state.terminated, old, new), genome, state.genome
        )
        cost = self._cost(instance, genome)
        cursor = state.cursor + jnp.where(state.terminated, 0, 1)
        after = self._position(instance, genome, cost, cursor)
        return after._replace(reward=state.cost - cost)

    def _cost(self, instance: Turns, genome: Genome) -> Float[Array, ""]:
        cost = self.cost_fn(instance.instance, genome)
        # What is not feasible is worse than anything, but a number.
        cost = jnp.asarray(cost, jnp.float32).reshape(())
        return jnp.where(jnp.isfinite(cost), cost, _INFEASIBLE)

    def _position(
        self,
        instance: Turns,
        genome: Genome,
        cost: Float[Array, ""],
        cursor: Int[Array, ""],
    ) -> Improving:
        total = instance.order.shape[0]
        over = cursor >= total
        gene = jnp.where(over, total, instance.order[jnp.minimum(cursor, total - 1)])
        options = jnp.asarray(
            [*self.space.sizes, *[self.levels + 1] * self.space.num_values, 1]
        )
        tokens = self.space.encode(genome)
        turn = jnp.arange(tokens.shape[0]) == gene
        return Improving(
            genome=genome,
            cost=cost,
            cursor=cursor,
            observation=jnp.concatenate([tokens, turn[:, None]], axis=1),
            legal_action_mask=jnp.arange(self.num_actions) < options[gene],
            reward=jnp.float32(0),
            terminated=over,
        )


_INFEASIBLE = (
    1e9  # Cost of what is not feasible, where a game must go on with a number.
)


def played(
    space: SearchSpace,
    cost_fn: CostFn,
    instance: Any = (),
    *,
    num_objectives: int = 1,
    oracle: Oracle | None = None,
    starts: Genome | None = None,
) -> Problem:
    """Returns the problem of finding a cheap genome, which planning strategies can play too.

    Args:
        space: the schedules.
        cost_fn: maps `instance` and a genome to its cost, or to `num_objectives` of them; pure JAX.
        instance: a pytree of arrays.
        num_objectives: planning needs one.
        oracle: the judge, if `cost_fn` is only a simulator of it.
        starts: a batch of genomes to measure first.
    """
    judge = Simulator(cost_fn=cost_fn, instance=instance, num_objectives=num_objectives)
    if num_objectives > 1:
        return Problem(space=space, oracle=oracle or judge, starts=starts)
    return Problem(
        space=space,
        oracle=oracle or judge,
        game=SpaceGame(space=space, cost_fn=cost_fn),
        instance=instance,
        genome_fn=functools.partial(_replayed, SpaceGame(space=space, cost_fn=cost_fn)),
        advance_fn=functools.partial(_turns, space),
        starts=starts,
    )


def evolved(
    game: Game,
    instance: Any,
    *,
    oracle: Oracle | None = None,
    prior_logits_fn: PriorFn | None = None,
    value_fn: ValueFn | None = None,
    seed: int = 0,
) -> Problem:
    """Returns the problem of playing a game well, which population strategies can evolve too.

    The cost of a schedule is minus its episode's return. A game with chance is played with one
    fixed key.

    Args:
        game: the rules.
        instance: what it is played on.
        oracle: the judge of genomes, if the game is only a simulator of it.
        prior_logits_fn: as in `Problem`.
        value_fn: as in `Problem`.
        seed: of the game's chance.
    """
    steps = game.num_decisions(instance)
    shape = (steps, game.num_actions)
    keyed = Keyed(jax.random.key_data(jax.random.key(seed)), instance)
    simulator = Simulator(cost_fn=KeyedCost(game), instance=keyed)
    return Problem(
        space=ChoiceSpace(num_values=steps * game.num_actions, rate=steps / 8),
        oracle=oracle or simulator,
        game=SeededGame(game),
        instance=keyed,
        genome_fn=functools.partial(_as_keys, shape),
        prior_logits_fn=prior_logits_fn and _Unkeyed(prior_logits_fn),
        value_fn=value_fn and _Unkeyed(value_fn),
        simulations_per_step=1 / steps,
    )


class Keyed(NamedTuple):
    """An instance with the key of its chance."""

    key: Int[Array, " K"]  # Raw, so that it is an array like any other.
    instance: Any


@dataclasses.dataclass(frozen=True)
class SeededGame:
    """A game on `Keyed` instances: every episode meets the same chance."""

    game: Game

    @property
    def num_actions(self) -> int:
        """The game's."""
        return self.game.num_actions

    def num_decisions(self, instance: Keyed) -> int:
        """The game's."""
        return self.game.num_decisions(instance.instance)

    def init(self, instance: Keyed, key: PRNGKeyArray) -> Any:
        """Returns the first position; the instance's key decides, not `key`."""
        return self.game.init(instance.instance, jax.random.wrap_key_data(instance.key))

    def step(self, instance: Keyed, state: Any, action: Int[Array, ""]) -> Any:
        """Returns the next position."""
        return self.game.step(instance.instance, state, action)


@dataclasses.dataclass(frozen=True)
class _Unkeyed:
    function: Callable[[Any, Any], Array]

    def __call__(self, instance: Keyed, state: Any) -> Array:
        return self.function(instance.instance, state)


@dataclasses.dataclass(frozen=True)
class KeyedCost:
    """The cost function of random keys: minus the return of the episode that they decode to."""

    game: Game

    def __call__(self, instance: Keyed, genome: Genome) -> Float[Array, ""]:
        game = SeededGame(self.game)
        return -decode(game, instance, genome)[1]


def decode(
    game: Game, instance: Any, genome: Genome
) -> tuple[Int[Array, " T"], Float[Array, ""]]:
    """Plays random keys: returns the actions of T = num_decisions steps, and the return."""
    steps = game.num_decisions(instance)
    preference = jnp.asarray(genome.values).reshape(steps, game.num_actions)

    def turn(state: Any, wanted: Array) -> tuple[Any, tuple[Array, Array]]:
        action = jnp.argmax(jnp.where(state.legal_action_mask, wanted, -jnp.inf))
        after = game.step(instance, state, action.astype(jnp.int32))
        return after, (action.astype(jnp.int32), after.reward)

    start = game.init(instance, jax.random.key(0))
    _, (actions, rewards) = jax.lax.scan(turn, start, preference)
    return actions, jnp.sum(rewards)


def _as_keys(shape: tuple[int, int], _: Any, actions: Int[Array, " T"]) -> Genome:
    """Returns keys that decode to those actions: 1 for what was taken, 0.5 for the rest."""
    taken = jax.nn.one_hot(actions, shape[1], dtype=jnp.float32)
    return Genome(jnp.zeros(0, jnp.int32), (0.5 + 0.5 * taken).reshape(-1))


def _replayed(game: SpaceGame, instance: Turns, actions: Int[Array, " T"]) -> Genome:
    def turn(k: Array, state: Improving) -> Improving:
        return game.step(instance, state, actions[k])

    start = game.init(instance, jax.random.key(0))
    state: Improving = jax.lax.fori_loop(0, actions.shape[0], turn, start)
    return state.genome


@functools.partial(jax.jit, static_argnums=0)
def _turns(
    space: SearchSpace, instance: Any, best: Genome | None, key: PRNGKeyArray
) -> Turns:
    """Returns the turns of the next batch of episodes: from the best, in a random order."""
    base = space.sample(key) if best is None else best
    genes = len(space.sizes) + space.num_values
    order = jax.random.permutation(jax.random.fold_in(key, 1), genes)
    return Turns(base, order.astype(jnp.int32), instance)


__all__ = [
    "Improving",
    "Keyed",
    "KeyedCost",
    "SeededGame",
    "SpaceGame",
    "Turns",
    "decode",
    "evolved",
    "played",
]
