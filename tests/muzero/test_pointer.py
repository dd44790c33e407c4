"""A policy that points at tokens: of any number, whatever the padding, and learned rules about them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from muzero.config import NetworkConfig
from muzero.networks import Networks, call
from muzero.pointer import Choices
from muzero.support import Support

KINDS, FEATURES = 3, 4
SUPPORT = Support(low=0.0, high=1.0, size=11)


def _networks(length: int) -> Networks:
    return Networks(
        num_actions=length * KINDS,
        value_support=SUPPORT,
        reward_support=SUPPORT,
        config=NetworkConfig(
            width=16, blocks=1, token_width=8, token_blocks=2, atoms=11
        ),
        kinds=KINDS,
    )


def _seen(length: int, padded: int = 0, seed: int = 0) -> Choices:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(length, FEATURES)).astype(np.float32)
    # Rubbish in the padding: nobody may look at it.
    rubbish = np.full((padded, FEATURES), 7.0, np.float32)
    return Choices(
        jnp.asarray(np.concatenate([features, rubbish])),
        jnp.arange(length + padded) < length,
        jnp.asarray(rng.normal(size=2), jnp.float32),
    )


@functools.cache
def _params() -> Any:
    init = jax.jit(functools.partial(_networks(5).init, method="imagine"))
    params = init(jax.random.key(0), _seen(5), jnp.int32(0))
    # A head's last layer starts at 0, and would hide what is seen.
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape), params)


def _ask(method: str, length: int, *args: Any) -> Any:
    return jax.jit(functools.partial(call, _networks(length), _params(), method))(*args)


def test_padding_is_not_seen() -> None:
    alone = _ask("evaluate", 5, _seen(5))
    padded = _ask("evaluate", 9, _seen(5, padded=4))
    np.testing.assert_allclose(padded.policy[: 5 * KINDS], alone.policy, atol=1e-5)
    np.testing.assert_allclose(padded.value, alone.value, atol=1e-5)


def test_no_parameter_depends_on_the_number_of_tokens() -> None:
    init = jax.jit(functools.partial(_networks(12).init, method="imagine"))
    longer = init(jax.random.key(0), _seen(12), jnp.int32(0))
    assert jax.tree.map(jnp.shape, longer) == jax.tree.map(jnp.shape, _params())
    found = _ask("evaluate", 12, _seen(12))
    assert found.policy.shape == (12 * KINDS,)
    assert np.isfinite(np.asarray(found.policy)).all()


def test_a_token_is_told_from_its_neighbours_and_by_them() -> None:
    seen = _seen(9)
    first = np.asarray(_ask("evaluate", 9, seen).policy).reshape(9, KINDS)
    assert len(np.unique(first.round(6), axis=0)) == 9
    other = seen._replace(features=seen.features.at[4].add(1.0))
    second = np.asarray(_ask("evaluate", 9, other).policy).reshape(9, KINDS)
    change = np.abs(second - first).max(axis=1)
    assert change.argmax() == 4 and (change > 0).all()


def test_learned_rules_act_on_the_token_that_was_chosen() -> None:
    hidden = _ask("represent", 5, _seen(5))
    outcomes = [_ask("advance", 5, hidden, jnp.int32(a)) for a in (0, 1, KINDS)]
    rewards = [np.asarray(reward) for _, reward in outcomes]
    assert np.abs(rewards[0] - rewards[1]).max() > 1e-4, "kinds differ"
    assert np.abs(rewards[0] - rewards[2]).max() > 1e-4, "tokens differ"
    after, _ = outcomes[0]
    moved = np.abs(np.asarray(after.tokens - hidden.tokens)).max(axis=1)
    assert moved.argmax() == 0
    np.testing.assert_array_equal(after.valid, hidden.valid)
    legal = _ask("legality", 5, after)
    assert legal.shape == (5 * KINDS,)
