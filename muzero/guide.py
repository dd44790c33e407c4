"""Lends a trained network to the engines of `solvers`: its policy as prior, its value as estimate.

`guided(problem, ...)` is the same problem for planning and beam search that know what the agent knows:
`solvers.search(guided(problem, agent, params), "mcts", budget)`. Parameters travel inside the instance,
so that other parameters compile nothing anew.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int, PRNGKeyArray

from muzero.agents import Agent
from solvers.problem import Problem
from solvers.protocols import Game, Genome


class Trained(NamedTuple):
    """An instance, and the parameters of a network that knows such instances."""

    params: Any
    instance: Any


@dataclasses.dataclass(frozen=True)
class TrainedGame:
    """A game on `Trained` instances."""

    game: Game

    @property
    def num_actions(self) -> int:
        """The game's."""
        return self.game.num_actions

    def num_decisions(self, instance: Trained) -> int:
        """The game's."""
        return self.game.num_decisions(instance.instance)

    def init(self, instance: Trained, key: PRNGKeyArray) -> Any:
        """Returns the first position."""
        return self.game.init(instance.instance, key)

    def step(self, instance: Trained, state: Any, action: Int[Array, ""]) -> Any:
        """Returns the next position."""
        return self.game.step(instance.instance, state, action)


@dataclasses.dataclass(frozen=True)
class Prior:
    """Logits of the policy, as `Problem.prior_logits_fn`."""

    agent: Agent

    def __call__(self, instance: Trained, state: Any) -> Float[Array, " A"]:
        return self.agent.root(instance.params, instance.instance, state).prior_logits


@dataclasses.dataclass(frozen=True)
class Value:
    """Rewards still to be had, as `Problem.value_fn`."""

    agent: Agent

    def __call__(self, instance: Trained, state: Any) -> Float[Array, ""]:
        return self.agent.root(instance.params, instance.instance, state).value


@dataclasses.dataclass(frozen=True)
class _OfInstance:
    """A function of an instance and more, as one of a trained instance."""

    function: Callable[..., Any]

    def __call__(self, instance: Trained, *args: Any) -> Any:
        return self.function(instance.instance, *args)


@dataclasses.dataclass(frozen=True)
class _Advance:
    function: Callable[[Any, Genome | None, Array], Any]

    def __call__(self, instance: Trained, best: Genome | None, key: Array) -> Trained:
        return Trained(instance.params, self.function(instance.instance, best, key))


def guided(problem: Problem, agent: Agent, params: Any) -> Problem:
    """Returns the problem as an agent sees it that was trained on the problem's game.

    Raises:
        ValueError: if the agent plays another game, or the problem has none.
    """
    if problem.game is None or problem.game != agent.game:
        raise ValueError("the agent was not trained on this problem's game")
    return dataclasses.replace(
        problem,
        game=TrainedGame(problem.game),
        instance=Trained(params, problem.instance),
        genome_fn=problem.genome_fn and _OfInstance(problem.genome_fn),
        advance_fn=problem.advance_fn and _Advance(problem.advance_fn),
        prior_logits_fn=Prior(agent),
        value_fn=Value(agent),
    )
