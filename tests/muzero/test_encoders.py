"""Encoders take what they are given, and only what they are given."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muzero.config import NetworkConfig
from muzero.encoders import Encoder, Tokens

CONFIG = NetworkConfig(width=16, blocks=1, token_width=8, heads=2, channels=(4,))
ENCODER = Encoder(CONFIG)
_init, _apply = jax.jit(ENCODER.init), jax.jit(ENCODER.apply)


def _tokens(count: int = 5, padded: int = 3) -> Tokens:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count + padded, 4)).astype(np.float32)
    return Tokens(
        jnp.asarray(features), jnp.arange(count + padded) < count, jnp.int32(2)
    )


@functools.cache
def _params() -> Any:
    return _init(jax.random.key(0), _tokens())


def _encode(tokens: Tokens) -> np.ndarray:
    return np.asarray(_apply(_params(), tokens))


def test_tokens_are_a_set() -> None:
    tokens, order = _tokens(), np.array([3, 0, 4, 2, 1, 5, 6, 7])
    shuffled = Tokens(tokens.features[order], tokens.valid, jnp.int32(3))
    np.testing.assert_allclose(_encode(shuffled), _encode(tokens), atol=1e-5)


def test_the_cursor_matters_and_padding_does_not() -> None:
    tokens = _tokens()
    other = tokens._replace(cursor=jnp.int32(1))
    assert np.abs(_encode(other) - _encode(tokens)).max() > 1e-3
    features = jnp.where(tokens.valid[:, None], tokens.features, 99.0)
    noisy = tokens._replace(features=features)
    np.testing.assert_allclose(_encode(noisy), _encode(tokens), atol=1e-5)
    assert np.isfinite(_encode(tokens._replace(valid=tokens.valid & False))).all()


def test_parts_are_joined_and_each_of_them_is_seen() -> None:
    seen = {
        "count": jnp.int32(3),
        "grid": jnp.ones((4, 5, 2)),
        "sequence": jnp.ones((6, 3)),
        "tokens": _tokens(),
        "vector": jnp.arange(7.0),
    }
    params = _init(jax.random.key(0), seen)
    whole = _apply(params, seen)
    assert whole.shape == (16,)
    for name in seen:
        changed = dict(seen)
        changed[name] = jax.tree.map(lambda x: x * 0 + 1 - x % 2, seen[name])
        difference = np.asarray(_apply(params, changed)) - np.asarray(whole)
        assert np.abs(difference).max() > 1e-4, name


def test_a_sequence_has_an_order() -> None:
    sequence = jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32)
    params = _init(jax.random.key(0), sequence)
    turned = np.asarray(_apply(params, sequence[::-1]))
    assert np.abs(turned - np.asarray(_apply(params, sequence))).max() > 1e-3


def test_what_has_no_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="no encoder"):
        ENCODER.init(jax.random.key(0), jnp.zeros((2, 2, 2, 2)))
