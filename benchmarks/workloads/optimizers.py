"""Optimiser steps: used by the training workloads, and as workloads of their own (they are pure memory traffic)."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.workloads import gpt2
from benchmarks.workloads.adamw import adamw, adamw_state
from benchmarks.workloads.base import Call, Workload, call, spec, specs_like


def _adamw_gpt2() -> Call:
    params = specs_like(gpt2.params(layers=12), jnp.float32)

    def update(state: Any, grads: Any) -> Any:
        return adamw(state, grads)

    return call(update, adamw_state(params), params, donate=(0,))


def _newton_schulz(g: jax.Array, steps: int = 5) -> jax.Array:
    """Orthogonalises a matrix with the quintic iteration of the Muon optimiser."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.astype(jnp.bfloat16)
    x = x / (jnp.linalg.norm(x.astype(jnp.float32)) + 1e-7).astype(jnp.bfloat16)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def _muon() -> Call:
    shapes = [(768, 2304), (768, 768), (768, 3072), (768, 3072)] * 4
    weights = [spec(*shape, dtype=jnp.float32) for shape in shapes]

    def update(ws: Any, momentum: Any, grads: Any) -> Any:
        momentum = [0.95 * m + g for m, g in zip(momentum, grads, strict=True)]
        steps = [
            _newton_schulz(g + 0.95 * m) for g, m in zip(grads, momentum, strict=True)
        ]
        new = [w - 0.02 * s.astype(w.dtype) for w, s in zip(ws, steps, strict=True)]
        return new, momentum

    return call(update, weights, weights, weights, donate=(0, 1))


WORKLOADS = (
    Workload(
        name="adamw_update",
        family="optimizer",
        make=_adamw_gpt2,
        about="AdamW update alone, GPT-2 small's 124 M float32 parameters",
    ),
    Workload(
        name="muon_update",
        family="optimizer",
        make=_muon,
        about="Muon update of four layers' matrices, five Newton-Schulz steps each",
    ),
)
