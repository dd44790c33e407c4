"""What the parts of a mixture-of-experts layer promise each other (FSMoE's six: gate, order and its inverse,
dispatch, combine, expert).

Parts hold settings, never arrays: their weights are declared as `Weight`s, which a module of NNX or of Linen
makes. Axes: n tokens of a device, M the model's width, E experts, k choices per token, T slots per expert, H the
experts' hidden width. A device holds e = E/EP experts and h = H/ESP of their width; S = ESP·EP devices send to it.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from compiler.moe.plan import Plan

Weights: TypeAlias = Mapping[str, Array]
Hook: TypeAlias = Callable[[Array], Array]


class Weight(NamedTuple):
    """A parameter to be made.

    Attributes:
        shape: of the whole, over all devices.
        init: called with a key, the shape and a dtype.
        axes: what each dimension is spread over: "expert", "hidden" or nothing.
    """

    shape: tuple[int, ...]
    init: Callable[..., Array]
    axes: tuple[str | None, ...]

    def mesh_axes(self, plan: Plan) -> tuple[tuple[str, ...] | None, ...]:
        """Returns the mesh axes that each dimension is spread over."""
        spread = {"expert": plan.expert_axes, "hidden": plan.shard_axes}
        return tuple((spread[axis] or None) if axis else None for axis in self.axes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenChoice:
    """Tokens have chosen experts.

    Attributes:
        expert: the choices of each token, best first.
        slot: the place in the expert's queue; `capacity` or more is a drop.
        weight: of the expert's answer; 0 for drops.
        experts: E.
        capacity: slots that an expert has for these tokens.
    """

    expert: Int[Array, "n k"]
    slot: Int[Array, "n k"]
    weight: Float[Array, "n k"]
    experts: int = dataclasses.field(metadata={"static": True})
    capacity: int = dataclasses.field(metadata={"static": True})

    @property
    def load(self) -> Float[Array, " E"]:
        """The share of all choices that fell on each expert, drops included."""
        return jnp.mean(jax.nn.one_hot(self.expert, self.experts), axis=(0, 1))

    @property
    def filled(self) -> Int[Array, " E"]:
        """Slots in use; they are the first ones."""
        count = jnp.sum(jax.nn.one_hot(self.expert, self.experts, dtype=int), (0, 1))
        return jnp.minimum(count, self.capacity)

    @property
    def dropped(self) -> Float[Array, ""]:
        """The share of choices that found no slot."""
        return jnp.mean((self.slot >= self.capacity).astype(jnp.float32))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ExpertChoice:
    """Experts have chosen tokens, as many as they have slots.

    Attributes:
        token: the choices of each expert.
        weight: of its answers.
        tokens: n.
    """

    token: Int[Array, "E T"]
    weight: Float[Array, "E T"]
    tokens: int = dataclasses.field(metadata={"static": True})

    @property
    def experts(self) -> int:
        """E."""
        return self.token.shape[0]

    @property
    def capacity(self) -> int:
        """Slots that an expert has for these tokens."""
        return self.token.shape[1]

    @property
    def load(self) -> Float[Array, " E"]:
        """Even by construction."""
        return jnp.full((self.experts,), 1 / self.experts)

    @property
    def filled(self) -> Int[Array, " E"]:
        """All of them."""
        return jnp.full_like(self.token[:, 0], self.capacity)

    @property
    def dropped(self) -> Float[Array, ""]:
        """The share of tokens that no expert chose."""
        chosen = jnp.zeros(self.tokens).at[self.token].set(1)
        return 1 - jnp.mean(chosen)


Routing: TypeAlias = TokenChoice | ExpertChoice


class Gated(NamedTuple):
    """A gate's answer.

    Attributes:
        routing: who goes where.
        probabilities: over the experts, for the load-balance loss.
        logits: for the z-loss.
    """

    routing: Routing
    probabilities: Float[Array, "n E"]
    logits: Float[Array, "n E"]


class Metrics(NamedTuple):
    """What a layer says of a batch, over all devices.

    Attributes:
        balance_loss: E · sum over experts of load times mean probability: 1 where both are even (GShard, Switch).
        z_loss: the mean squared logsumexp of the logits (ST-MoE).
        dropped: the share of choices without a slot; by expert choice, of tokens that no expert took.
        load: the share of all choices that fell on each expert.
        finite: whether all logits were; see `check`.
    """

    balance_loss: Float[Array, ""]
    z_loss: Float[Array, ""]
    dropped: Float[Array, ""]
    load: Float[Array, " E"]
    finite: Bool[Array, ""]


class Gate(Protocol):
    """Decides which experts see a token."""

    def weights(self, width: int, experts: int) -> dict[str, Weight]:
        """Declares the gate's parameters."""

    def capacity(self, tokens: int, experts: int) -> int:
        """Returns the slots per expert for so many tokens."""

    def __call__(
        self, weights: Weights, x: Float[Array, "n M"], key: PRNGKeyArray | None
    ) -> Gated:
        """Routes tokens; without a key, without noise."""


Order: TypeAlias = Callable[[Array, Routing, int], Array]
InverseOrder: TypeAlias = Callable[[Array, Routing], Array]


class Exchange(Protocol):
    """A dispatch, (E, t, M) -> (e, EP, t, M), or a combine, the other way. t is a chunk of T."""

    def __call__(self, rows: Array, filled: Int[Array, " E"]) -> Array:
        """Exchanges rows; of each expert's, the first `filled` of the sender are in use."""

    def transpose(self, rows: Array, filled: Int[Array, " E"]) -> Array:
        """Exchanges gradients, the other way."""


class Expert(Protocol):
    """A network of one hidden layer, per expert: out(activate(into(x))).

    `into` is linear in x and `out` in the hidden state, so the model's width can be cut: `columns` says which part
    of it is meant. What `out` returns is summed over the devices that share an expert.
    """

    def weights(self, width: int, hidden: int, experts: int) -> dict[str, Weight]:
        """Declares the experts' parameters."""

    def into(self, weights: Weights, x: Float[Array, "e S t m"], columns: slice) -> Any:
        """Returns what these columns of the input add to the hidden state before its activation."""

    def activate(self, before: Any) -> Float[Array, "e S t h"]:
        """Returns the hidden state."""

    def out(
        self, weights: Weights, hidden: Float[Array, "e S t h"], columns: slice
    ) -> Float[Array, "e S t m"]:
        """Returns these columns of the output."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hooks:
    """Functions that are called around a layer and its exchanges; what they return goes on in the place of their
    argument.

    Those of dispatch and combine see one chunk of one device, (E, t, M) on the token's side and (e, EP, t, M) on the
    expert's; they must be pure, must close over no traced array, and may change the dtype or the width on the way,
    as compression does.
    """

    before_layer: Hook | None = None
    after_layer: Hook | None = None
    before_dispatch: Hook | None = None
    after_dispatch: Hook | None = None
    before_combine: Hook | None = None
    after_combine: Hook | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """All that a layer is made of."""

    gate: Gate
    order: Order
    inverse_order: InverseOrder
    dispatch: Exchange
    combine: Exchange
    expert: Expert
    hooks: Hooks = Hooks()


def slots(capacity: int, factor: int) -> int:
    """Returns the least multiple of a factor that is no less than a capacity."""
    return math.ceil(capacity / factor) * factor
