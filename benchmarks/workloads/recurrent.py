"""Recurrences: LSTM scans, and Mamba-like selective state-space models (decode step and scan over time)."""

from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.workloads.base import Call, Workload, call, spec
from benchmarks.workloads.layers import rms_norm


def _cell(w: jax.Array, b: jax.Array, carry: Any, x: jax.Array) -> Any:
    """One LSTM step; `w` is `[input + hidden, 4 * hidden]`."""
    h, c = carry
    gates = jnp.concatenate([x, h], -1) @ w + b
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def _lstm(batch: int = 64, time: int = 128, width: int = 512, layers: int = 2) -> Call:
    """A stacked LSTM, as in speech and language models."""

    def encode(p: Any, x: jax.Array) -> jax.Array:
        for w, b in p:
            zero = jnp.zeros((x.shape[1], width), x.dtype)

            def step(
                carry: Any, xt: jax.Array, w: jax.Array = w, b: jax.Array = b
            ) -> Any:
                return _cell(w, b, carry, xt)

            _, x = jax.lax.scan(step, (zero, zero), x)
        return x

    params = [(spec(2 * width, 4 * width), spec(4 * width)) for _ in range(layers)]
    return call(encode, params, spec(time, batch, width))


def _lstm_step(batch: int = 8, width: int = 2048, layers: int = 4) -> Call:
    """One streaming step of a wide LSTM: every weight is read once."""

    def step(p: Any, state: Any, x: jax.Array) -> Any:
        new = []
        for (w, b), carry in zip(p, state, strict=True):
            carry, x = _cell(w, b, carry, x)
            new.append(carry)
        return new, x

    params = [(spec(2 * width, 4 * width), spec(4 * width)) for _ in range(layers)]
    state = [(spec(batch, width),) * 2 for _ in range(layers)]
    return call(step, params, state, spec(batch, width), donate=(1,))


WIDTH, INNER, STATE, RANK, TAPS = 768, 1536, 16, 48, 4


def _mamba_layer() -> Any:
    return {
        "norm": spec(WIDTH),
        "in": spec(WIDTH, 2 * INNER),
        "conv": spec(TAPS, INNER),
        "select": spec(INNER, RANK + 2 * STATE),
        "rate": spec(RANK, INNER),
        "bias": spec(INNER, dtype=jnp.float32),
        "a_log": spec(INNER, STATE, dtype=jnp.float32),
        "skip": spec(INNER, dtype=jnp.float32),
        "out": spec(INNER, WIDTH),
    }


def _selection(p: Any, u: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the decay and the input of the state (`[..., inner, state]`), and the read-out (`[..., state]`)."""
    parts = (u @ p["select"]).astype(jnp.float32)
    rate, b, c = jnp.split(parts, [RANK, RANK + STATE], axis=-1)
    delta = jax.nn.softplus(rate @ p["rate"].astype(jnp.float32) + p["bias"])
    decay = jnp.exp(delta[..., None] * -jnp.exp(p["a_log"]))
    drive = (delta * u.astype(jnp.float32))[..., None] * b[..., None, :]
    return decay, drive, c


def _mamba_step(batch: int = 8, layers: int = 24, vocabulary: int = 50280) -> Call:
    """Decode step of a 130 M Mamba-like model: a state in place of a cache."""

    def decode(p: Any, state: Any, tokens: jax.Array) -> Any:
        x, new = p["embed"][tokens], []
        for layer, (window, s) in zip(p["layers"], state, strict=True):
            u, gate = jnp.split(rms_norm(layer["norm"], x) @ layer["in"], 2, axis=-1)
            window = jnp.concatenate([window[:, 1:], u[:, None]], axis=1)
            u = jax.nn.silu((window * layer["conv"]).sum(1))
            decay, drive, c = _selection(layer, u)
            s = decay * s + drive
            y = jnp.einsum("bis,bs->bi", s, c) + layer["skip"] * u.astype(jnp.float32)
            x = x + (y.astype(x.dtype) * jax.nn.silu(gate)) @ layer["out"]
            new.append((window, s))
        return (rms_norm(p["norm"], x) @ p["embed"].T).astype(jnp.float32), new

    params = {
        "embed": spec(vocabulary, WIDTH),
        "layers": [_mamba_layer() for _ in range(layers)],
        "norm": spec(WIDTH),
    }
    one = (spec(batch, TAPS, INNER), spec(batch, INNER, STATE, dtype=jnp.float32))
    state = [one for _ in range(layers)]
    return call(decode, params, state, spec(batch, dtype=jnp.int32), donate=(1,))


def _mamba_scan(batch: int = 2, time: int = 512, layers: int = 4) -> Call:
    """Forward of four Mamba-like layers, the state carried by a scan over time."""

    def forward(p: Any, x: jax.Array) -> jax.Array:
        for layer in p:
            u, gate = jnp.split(rms_norm(layer["norm"], x) @ layer["in"], 2, axis=-1)
            padded = jnp.pad(u, ((0, 0), (TAPS - 1, 0), (0, 0)))
            taps = [padded[:, i : i + time] * layer["conv"][i] for i in range(TAPS)]
            u = jax.nn.silu(sum(taps[1:], taps[0]))

            def step(s: jax.Array, u_t: jax.Array, layer: Any = layer) -> Any:
                decay, drive, c = _selection(layer, u_t)
                s = decay * s + drive
                return s, jnp.einsum("bis,bs->bi", s, c)

            zero = jnp.zeros((batch, INNER, STATE), jnp.float32)
            _, y = jax.lax.scan(step, zero, u.swapaxes(0, 1))
            y = y.swapaxes(0, 1) + layer["skip"] * u.astype(jnp.float32)
            x = x + (y.astype(x.dtype) * jax.nn.silu(gate)) @ layer["out"]
        return x

    return call(
        forward, [_mamba_layer() for _ in range(layers)], spec(batch, time, WIDTH)
    )


WORKLOADS = (
    Workload(
        name="lstm_scan",
        family="lstm",
        make=_lstm,
        about="two-layer LSTM of 512, scan over 128 steps, batch 64",
    ),
    Workload(
        name="lstm_step",
        family="lstm",
        make=_lstm_step,
        about="one streaming step of a four-layer LSTM of 2048, batch 8",
    ),
    Workload(
        name="mamba_decode",
        family="mamba",
        make=_mamba_step,
        about="130 M Mamba-like decode step, batch 8",
    ),
    Workload(
        name="mamba_scan",
        family="mamba",
        make=_mamba_scan,
        about="four Mamba-like layers over 2 x 512 tokens, scan over time",
    ),
)
