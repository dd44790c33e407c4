"""What a benchmark program is: a JAX function, the shapes that it takes, and the half it belongs to.

A workload holds no arrays: `make` returns a function and `jax.ShapeDtypeStruct` arguments, which is all that an
ahead-of-time compile needs.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Split = Literal["tuning", "test"]


class Call(NamedTuple):
    """One call to compile: `jax.jit(fn, **jit_kwargs).lower(*args)`."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]  # Pytrees of jax.ShapeDtypeStruct.
    jit_kwargs: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One benchmark program.

    Attributes:
        name: unique, a valid file name.
        family: the model family; programs of one family share layers, so they are never on both sides of the split.
        make: builds the call; cheap, no arrays are made.
        about: one line for tables and `--list`.
    """

    name: str
    family: str
    make: Callable[[], Call]
    about: str

    @property
    def split(self) -> Split:
        """The half of the benchmark that this program belongs to, by `split_of_family`."""
        return split_of_family(self.family)


def split_of_family(family: str) -> Split:
    """Returns the half that a model family belongs to.

    The rule, fixed before anything was measured: a family is for tuning if the first byte of the SHA-256 of its name is
    even, else for test. It looks at nothing but the name, so new families never move old ones.
    """
    return "tuning" if hashlib.sha256(family.encode()).digest()[0] % 2 == 0 else "test"


def spec(*shape: int, dtype: DTypeLike = jnp.bfloat16) -> jax.ShapeDtypeStruct:
    """Returns the shape of an array argument (bfloat16 unless told otherwise)."""
    return jax.ShapeDtypeStruct(shape, dtype)


def specs_like(tree: Any, dtype: DTypeLike) -> Any:
    """Returns the same tree of shapes with another element type."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), tree)


def stacked(tree: Any, count: int) -> Any:
    """Returns the shapes of `count` such trees stacked on a new first axis, as `jax.lax.scan` over layers wants them."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), tree
    )


def call(fn: Callable[..., Any], *args: Any, donate: Sequence[int] = ()) -> Call:
    """Returns a `Call`; `donate` names the arguments whose buffers the results may take over."""
    return Call(fn, args, {"donate_argnums": tuple(donate)} if donate else {})
