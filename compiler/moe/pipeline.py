"""The body of a layer in chunks: while one chunk is at its experts, others are on their way.

Both directions are pipelines of their own: the backward pass is written out, so that its exchanges and products are
cut as `Plan.backward` says, whatever the forward pass did. Operations are emitted in the order

    send 0 … send a-1; for each chunk c: experts c, send c+a, return c

with a = `Pipeline.ahead`. Nothing but data ties them together (there are no barriers), so a scheduler is free to
start each exchange early and to finish it late. Axes: see `parts`.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from compiler.moe import exchange
from compiler.moe.parts import Hook, Parts, Weights
from compiler.moe.plan import Plan

Keep = Literal["hidden", "received", "nothing"]
_ALL = slice(None)
_Sent = TypeVar("_Sent")
_Made = TypeVar("_Made")
_Back = TypeVar("_Back")


class _Kept(NamedTuple):
    received: Array | None
    before: Any


class _Residuals(NamedTuple):
    rows: Array
    weights: Weights
    filled: Array
    kept: _Kept


@dataclasses.dataclass(frozen=True)
class Body:
    """From the experts' slots to their answers: dispatch, experts, combine, on one device of a mesh.

    Attributes:
        parts: of the layer.
        plan: how it is cut.
        keep: what the forward pass leaves for the backward pass: the hidden states before activation and the
            rows received; the rows alone, so that the first products are done again; or nothing, so that the rows
            are also sent again.
    """

    parts: Parts
    plan: Plan
    keep: Keep = "hidden"

    def __call__(
        self, rows: Float[Array, "E T M"], weights: Weights, filled: Int[Array, " E"]
    ) -> Float[Array, "E T M"]:
        """Returns the experts' answers.

        Args:
            rows: of all experts.
            weights: of this device's experts, in the type of the rows; they vary over all mesh axes.
            filled: how many slots are in use.
        """

        @jax.custom_vjp
        def run(rows: Array, weights: Weights, filled: Array) -> Array:
            return self._forward(rows, weights, filled)[0]

        def forward(
            rows: Array, weights: Weights, filled: Array
        ) -> tuple[Array, _Residuals]:
            result, kept = self._forward(rows, weights, filled)
            if self.keep != "hidden":
                kept = kept._replace(before=None)
            if self.keep == "nothing":
                kept = kept._replace(received=None)
            return result, _Residuals(rows, weights, filled, kept)

        def backward(
            residuals: _Residuals, gradient: Array
        ) -> tuple[Array, Weights, None]:
            return *self._backward(residuals, gradient), None

        run.defvjp(forward, backward)
        return run(rows, weights, filled)

    def _forward(
        self, rows: Array, weights: Weights, filled: Array
    ) -> tuple[Array, _Kept]:
        if self.plan.chunk_axis == "width":
            return self._forward_by_width(rows, weights, filled)
        expert, chunks = (
            self.parts.expert,
            _cuts(self.plan.forward.sizes(rows.shape[1])),
        )

        def send(chunk: slice) -> Array:
            return self._send(rows[:, chunk], _within(filled, chunk))

        def compute(chunk: slice, received: Array) -> tuple[_Kept, Array]:
            before = expert.into(weights, received, _ALL)
            answer = expert.out(weights, expert.activate(before), _ALL)
            return _Kept(received, before), answer

        def back(chunk: slice, made: tuple[_Kept, Array]) -> tuple[_Kept, Array]:
            return made[0], self._return(made[1], _within(filled, chunk))

        done = _interleave(chunks, self.plan.forward.ahead, send, compute, back)
        kept, results = zip(*done)
        return _join(results, 1), jax.tree.map(lambda *parts: _join(parts, 2), *kept)

    def _forward_by_width(
        self, rows: Array, weights: Weights, filled: Array
    ) -> tuple[Array, _Kept]:
        """Columns arrive while earlier ones go through the first product, and leave while later ones are made."""
        expert, chunks = (
            self.parts.expert,
            _cuts(self.plan.forward.sizes(rows.shape[2])),
        )

        def send(chunk: slice) -> Array:
            return self._send(rows[:, :, chunk], filled)

        def compute(chunk: slice, received: Array) -> tuple[Array, Any]:
            return received, expert.into(weights, received, chunk)

        done = _interleave(
            chunks, self.plan.forward.ahead, send, compute, lambda chunk, made: made
        )
        received, terms = zip(*done)
        before = jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *terms)
        hidden = expert.activate(before)
        results = [
            self._return(expert.out(weights, hidden, chunk), filled) for chunk in chunks
        ]
        return _join(results, 2), _Kept(_join(received, 3), before)

    def _backward(
        self, residuals: _Residuals, gradient: Array
    ) -> tuple[Array, Weights]:
        rows, weights, filled, kept = residuals
        expert, plan = self.parts.expert, self.plan
        total = jax.tree.map(
            lambda weight: jnp.zeros_like(weight, jnp.float32), weights
        )

        def send(chunk: slice) -> tuple[Array, Any, Array]:
            some = _within(filled, chunk)
            if kept.received is None:
                received = self._send(rows[:, chunk], some)
            else:
                received = kept.received[:, :, chunk]
            if kept.before is None:
                before = expert.into(weights, received, _ALL)
            else:
                before = jax.tree.map(lambda x: x[:, :, chunk], kept.before)
            answers = self._return_transposed(
                gradient[:, chunk],
                some,
                lambda: expert.out(weights, expert.activate(before), _ALL),
            )
            return received, before, answers

        def compute(chunk: slice, sent: tuple[Array, Any, Array]) -> Array:
            nonlocal total
            received, before, d_answer = sent
            hidden, activation = jax.vjp(expert.activate, before)
            _, out = jax.vjp(lambda w, x: expert.out(w, x, _ALL), weights, hidden)
            _, into = jax.vjp(lambda w, x: expert.into(w, x, _ALL), weights, received)
            d_out, d_hidden = out(d_answer)
            d_into, d_received = into(*activation(d_hidden))
            total = jax.tree.map(lambda t, a, b: t + a + b, total, d_out, d_into)
            return d_received

        def back(chunk: slice, d_received: Array) -> Array:
            return self._send_transposed(
                d_received, rows[:, chunk], _within(filled, chunk)
            )

        chunks = _cuts(plan.backward.sizes(rows.shape[1]))
        d_rows = _join(_interleave(chunks, plan.backward.ahead, send, compute, back), 1)
        return d_rows, jax.tree.map(lambda t, w: t.astype(w.dtype), total, weights)

    def _send(self, rows: Array, filled: Array) -> Array:
        hooks = self.parts.hooks
        rows = self.parts.dispatch(_call(hooks.before_dispatch, rows), filled)
        return exchange.gather(_call(hooks.after_dispatch, rows), self.plan)

    def _return(self, terms: Array, filled: Array) -> Array:
        hooks = self.parts.hooks
        rows = _call(hooks.before_combine, exchange.reduce(terms, self.plan))
        return _call(hooks.after_combine, self.parts.combine(rows, filled))

    # Where hooks are linear, the arguments that they had are not needed, and the compiler drops what makes them.

    def _send_transposed(self, gradient: Array, rows: Array, filled: Array) -> Array:
        hooks, dispatch = self.parts.hooks, self.parts.dispatch
        sent, before = _vjp(hooks.before_dispatch, rows)
        gradient = exchange.reduce(gradient, self.plan)
        if hooks.after_dispatch is not None:
            _, after = jax.vjp(hooks.after_dispatch, dispatch(sent, filled))
            (gradient,) = after(gradient)
        return before(dispatch.transpose(gradient, filled))

    def _return_transposed(
        self, gradient: Array, filled: Array, terms: Callable[[], Array]
    ) -> Array:
        hooks, combine = self.parts.hooks, self.parts.combine
        if hooks.before_combine is None and hooks.after_combine is None:
            return exchange.gather(combine.transpose(gradient, filled), self.plan)
        answer = exchange.reduce(terms(), self.plan)
        sent, before = _vjp(hooks.before_combine, answer)
        _, after = _vjp(hooks.after_combine, combine(sent, filled))
        gradient = before(combine.transpose(after(gradient), filled))
        return exchange.gather(gradient, self.plan)


def _interleave(
    chunks: Sequence[slice],
    ahead: int,
    send: Callable[[slice], _Sent],
    compute: Callable[[slice, _Sent], _Made],
    back: Callable[[slice, _Made], _Back],
) -> list[_Back]:
    """Calls all three for all chunks, in the order that the module's docstring gives."""
    sent = [send(chunk) for chunk in chunks[:ahead]]
    done = []
    for index, chunk in enumerate(chunks):
        made = compute(chunk, sent[index])
        if index + ahead < len(chunks):
            sent.append(send(chunks[index + ahead]))
        done.append(back(chunk, made))
    return done


def _cuts(sizes: Sequence[int]) -> list[slice]:
    ends = list(itertools.accumulate(sizes, initial=0))
    return [slice(start, stop) for start, stop in itertools.pairwise(ends)]


def _within(filled: Array, chunk: slice) -> Array:
    """How many of a chunk's slots are in use."""
    return jnp.clip(filled - chunk.start, 0, chunk.stop - chunk.start)


def _join(parts: Sequence[Array], axis: int) -> Array:
    return jnp.concatenate(parts, axis) if len(parts) > 1 else parts[0]


def _call(hook: Hook | None, x: Array) -> Array:
    return x if hook is None else hook(x)


def _vjp(hook: Hook | None, x: Array) -> tuple[Array, Hook]:
    if hook is None:
        return x, lambda gradient: gradient
    result, transpose = jax.vjp(hook, x)
    return result, lambda gradient: transpose(gradient)[0]
