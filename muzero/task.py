"""What an agent is trained on: a game and instances of it."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from muzero.config import NetworkConfig
from solvers.protocols import Game


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A game and the instances to train on.

    Attributes:
        game: the rules.
        instances: a pytree with a leading axis I; `stack` makes it.
        names: of the instances, I.
        value_range: of the return still to come, from any position.
        reward_range: of one step's reward.
        network: sizes.
        encoder: of observations; None for the one that their structure says.
        kinds: actions per token, if observations are `pointer.Choices`; 0 if they aren't.
        demonstrations: returns episodes to start from, each the number of its instance and its
            actions [T], -1 from where it ends. They are kept until better ones are found. Called
            once, when training begins.
        plays: what the game is called in the cards of agents; one for another game is refused.
        unit: of a cost, for reports.
        cost_fn: maps the number of an instance and a return to a cost; None for how much the
            return falls short of the top of `value_range`.
    """

    game: Game
    instances: Any
    names: tuple[str, ...]
    value_range: tuple[float, float]
    reward_range: tuple[float, float]
    network: NetworkConfig = field(default_factory=NetworkConfig)
    encoder: nn.Module | None = None
    kinds: int = 0
    demonstrations: Callable[[], Sequence[tuple[int, np.ndarray]]] = tuple
    plays: str = ""
    unit: str = "shortfall"
    cost_fn: Callable[[int, float], float] | None = None

    def cost(self, number: int, total: float) -> float:
        """Returns the cost of an episode on an instance, from its return."""
        if self.cost_fn is None:
            return self.value_range[1] - total
        return self.cost_fn(number, total)

    def mean_cost(self, totals: Sequence[float] | np.ndarray) -> float:
        """Returns the mean cost of one episode on each instance."""
        return float(np.mean([self.cost(i, float(x)) for i, x in enumerate(totals)]))

    def digest(self) -> str:
        """Returns a name for the contents of all instances."""
        content = hashlib.sha256()
        for leaf in map(np.asarray, jax.tree.leaves(self.instances)):
            content.update(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
        return content.hexdigest()


def stack(instances: Sequence[Any]) -> Any:
    """Returns instances of equal shapes as one pytree with a leading axis.

    Raises:
        ValueError: if the shapes differ.
    """
    shapes = [[np.shape(leaf) for leaf in jax.tree.leaves(one)] for one in instances]
    if any(one != shapes[0] for one in shapes):
        raise ValueError("instances that are trained on together need equal shapes")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *instances)


def row(tree: Any, index: Any) -> Any:
    """Returns a row, or rows, of each leaf."""
    return jax.tree.map(lambda x: x[index], tree)
