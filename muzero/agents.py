"""Two agents behind one interface: what the tree search asks for at its root and at each step.

`TrueGame` plans with the rules themselves, as AlphaZero does: an embedding is a state. `LearnedModel`
plans with what it learnt of them, as MuZero does: an embedding is a hidden state. All functions are of
one game; batch with `vmap`.
"""

import functools
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from muzero.networks import Networks, Prediction, call
from muzero.support import Support
from muzero.task import Task
from solvers.planning import ILLEGAL
from solvers.protocols import Game

Kind = Literal["true-game", "learned-model"]
KINDS: tuple[Kind, ...] = ("true-game", "learned-model")


class Leaf(NamedTuple):
    """A node of the tree, evaluated."""

    prior_logits: Float[Array, " A"]
    value: Float[Array, ""]
    embedding: Any


class Step(NamedTuple):
    """An edge of the tree and the node behind it."""

    leaf: Leaf
    reward: Float[Array, ""]
    discount: Float[Array, ""]


class Agent(Protocol):
    """A model of the game, and what is thought of its positions. Hashable."""

    @property
    def game(self) -> Game:
        """The rules that episodes are played by."""

    @property
    def networks(self) -> Networks:
        """What is learnt."""

    @property
    def is_learned(self) -> bool:
        """True if rewards, legal actions and transitions have to be learnt too."""

    def init(self, key: PRNGKeyArray, observation: Any) -> Any:
        """Returns parameters."""

    def root(self, params: Any, instance: Any, state: Any) -> Leaf:
        """Returns the node of a real position."""

    def step(
        self, params: Any, instance: Any, embedding: Any, action: Int[Array, ""]
    ) -> Step:
        """Returns what an action in a node leads to."""


@dataclass(frozen=True)
class TrueGame:
    """Plans with the true rules; only policy and value are learnt."""

    game: Game
    networks: Networks
    is_learned = False

    def init(self, key: PRNGKeyArray, observation: Any) -> Any:
        """Returns parameters; of the dynamics there are none."""
        return self.networks.init(key, observation, method="evaluate")

    def root(self, params: Any, instance: Any, state: Any) -> Leaf:
        """Evaluates a position."""
        seen = call(self.networks, params, "evaluate", state.observation)
        leaf = _leaf(self.networks, seen, state.legal_action_mask, state)
        over = state.terminated
        return leaf._replace(value=jnp.where(over, 0.0, leaf.value))

    def step(
        self, params: Any, instance: Any, embedding: Any, action: Int[Array, ""]
    ) -> Step:
        """Plays."""
        after = self.game.step(instance, embedding, action)
        leaf = self.root(params, instance, after)
        return Step(leaf, after.reward, jnp.where(after.terminated, 0.0, 1.0))


@dataclass(frozen=True)
class LearnedModel:
    """Plans with learned dynamics; the true rules are needed for real moves alone."""

    game: Game
    networks: Networks
    is_learned = True

    def init(self, key: PRNGKeyArray, observation: Any) -> Any:
        """Returns parameters."""
        return self.networks.init(key, observation, jnp.int32(0), method="imagine")

    def root(self, params: Any, instance: Any, state: Any) -> Leaf:
        """Represents a position; here the legal actions are known."""
        hidden = call(self.networks, params, "represent", state.observation)
        seen = call(self.networks, params, "predict", hidden)
        return _leaf(self.networks, seen, state.legal_action_mask, hidden)

    def step(
        self, params: Any, instance: Any, embedding: Any, action: Int[Array, ""]
    ) -> Step:
        """Imagines. An action's prior is weighed with how likely it is to be legal."""
        ask = functools.partial(call, self.networks, params)
        hidden, reward = ask("advance", embedding, action)
        seen = ask("predict", hidden)
        legal = jax.nn.log_sigmoid(ask("legality", hidden))
        everything = jnp.ones(legal.shape, bool)
        leaf = _leaf(self.networks, seen, everything, hidden)
        leaf = leaf._replace(prior_logits=leaf.prior_logits + legal)
        # What comes behind the end is learnt to be worth nothing.
        return Step(leaf, self.networks.reward_support.decode(reward), jnp.float32(1))


def make_agent(kind: Kind, task: Task) -> Agent:
    """Returns the agent of that kind for a task's game."""
    atoms = task.network.atoms
    networks = Networks(
        num_actions=task.game.num_actions,
        value_support=Support(
            low=task.value_range[0], high=task.value_range[1], size=atoms
        ),
        reward_support=Support(
            low=task.reward_range[0], high=task.reward_range[1], size=atoms
        ),
        config=task.network,
        encoder=task.encoder,
        kinds=task.kinds,
    )
    if kind == "true-game":
        return TrueGame(task.game, networks)
    return LearnedModel(task.game, networks)


def _leaf(
    networks: Networks, seen: Prediction, mask: Bool[Array, " A"], embedding: Any
) -> Leaf:
    logits = jnp.where(mask, jax.nn.log_softmax(seen.policy), ILLEGAL)
    return Leaf(logits, networks.value_support.decode(seen.value), embedding)
