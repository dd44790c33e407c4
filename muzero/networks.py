"""MuZero's three functions: representation, dynamics, prediction (Schrittwieser et al. 2020).

Of one position each; batch with `vmap`. W is the hidden width, A the actions, S the atoms. The hidden
state is a vector, or, where actions belong to tokens (`muzero.pointer`), the tokens and a vector.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from muzero.config import NetworkConfig
from muzero.encoders import Encoder, Residual
from muzero.pointer import Advance, ChoiceEncoder, Pointed, PointerHead
from muzero.support import Support

Hidden = Float[Array, " W"] | Pointed


class Prediction(NamedTuple):
    """What is thought of a position, as logits."""

    policy: Float[Array, " A"]
    value: Float[Array, " S"]


class Networks(nn.Module):
    """All that an agent learns.

    Attributes:
        num_actions: A.
        value_support: of the rewards still to come.
        reward_support: of one step's reward.
        config: sizes.
        encoder: maps an observation to a vector; by default `Encoder` of the same sizes.
        kinds: actions per token, if the observation is `pointer.Choices` and the policy points at
            its tokens; 0: a logit per action.
    """

    num_actions: int
    value_support: Support
    reward_support: Support
    config: NetworkConfig
    encoder: nn.Module | None = None
    kinds: int = 0

    def setup(self) -> None:
        """Declares the parts; only those that are called get parameters."""
        config = self.config
        if self.encoder is None:
            self.own_encoder = ChoiceEncoder(config) if self.kinds else Encoder(config)
        self.hidden = nn.Dense(config.width)
        if self.kinds:
            self.acted = Advance(config, self.kinds)
        else:
            self.transition = nn.Dense(config.width)
        self.blocks = [Residual() for _ in range(config.blocks)]
        self.reward_head = _Head(self.reward_support.size)
        self.value_head = _Head(self.value_support.size)
        self.policy_head = self._action_head()
        self.legal_head = self._action_head()

    def _action_head(self) -> nn.Module:
        return PointerHead(self.kinds) if self.kinds else _Head(self.num_actions)

    def represent(self, observation: Any) -> Hidden:
        """Returns the hidden state of what is seen."""
        encoder = self.own_encoder if self.encoder is None else self.encoder
        seen = encoder(observation)
        if isinstance(seen, Pointed):
            return seen._replace(whole=_to_unit(self.hidden(seen.whole)))
        return _to_unit(self.hidden(seen))

    def advance(
        self, hidden: Hidden, action: Int[Array, ""]
    ) -> tuple[Hidden, Float[Array, " S"]]:
        """Returns the hidden state after an action, and the reward's logits."""
        if isinstance(hidden, Pointed):
            after = self.acted(hidden, action)
            x = after.whole
            for block in self.blocks:
                x = block(x)
            return after._replace(whole=_to_unit(x)), self.reward_head(x)
        one_hot = jax.nn.one_hot(action, self.num_actions)
        x = hidden + self.transition(jnp.concatenate([hidden, one_hot]))
        for block in self.blocks:
            x = block(x)
        return _to_unit(x), self.reward_head(x)

    def predict(self, hidden: Hidden) -> Prediction:
        """Returns what is thought of a hidden state."""
        policy = self.policy_head(hidden)
        if isinstance(hidden, Pointed):
            policy += hidden.prior.reshape(-1).astype(policy.dtype)
            return Prediction(policy, self.value_head(hidden.whole))
        return Prediction(policy, self.value_head(hidden))

    def legality(self, hidden: Hidden) -> Float[Array, " A"]:
        """Returns logits of each action's being legal: within the learned rules nobody else says."""
        return self.legal_head(hidden)

    def evaluate(self, observation: Any) -> Prediction:
        """Returns what is thought of what is seen."""
        return self.predict(self.represent(observation))

    def imagine(self, observation: Any, action: Int[Array, ""]) -> Any:
        """Calls everything, for `init`."""
        hidden = self.represent(observation)
        return self.predict(hidden), self.legality(hidden), self.advance(hidden, action)


def call(networks: Networks, params: Any, method: str, *args: Any) -> Any:
    """Returns what one of the networks' methods says with these parameters."""
    return networks.apply(params, *args, method=method)


class _Head(nn.Module):
    size: int

    @nn.compact
    def __call__(self, x: Float[Array, " W"]) -> Float[Array, " S"]:
        x = nn.gelu(nn.Dense(x.shape[-1])(nn.LayerNorm()(x)))
        # Starts out knowing nothing: all are alike.
        return nn.Dense(self.size, kernel_init=nn.initializers.zeros)(x)


def _to_unit(x: Float[Array, " W"]) -> Float[Array, " W"]:
    """Returns x scaled to [0, 1], as the actions are (appendix G)."""
    low, high = jnp.min(x), jnp.max(x)
    return (x - low) / jnp.maximum(high - low, 1e-5)
