"""A policy that points at tokens: of any number, whatever the padding, and learned rules about them."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from muzero import pointer
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
        jnp.asarray(rng.normal(size=(length + padded, KINDS)), jnp.float32),
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


def test_a_network_that_knows_nothing_says_what_was_known_before() -> None:
    seen = _seen(5, padded=2)
    params = jax.jit(functools.partial(_networks(7).init, method="imagine"))(
        jax.random.key(0), seen, jnp.int32(0)
    )
    found = call(_networks(7), params, "evaluate", seen)
    np.testing.assert_allclose(found.policy, seen.prior.reshape(-1), atol=1e-6)
    # What is imagined of later positions begins from the same.
    hidden, _ = call(
        _networks(7), params, "advance", _hidden(params, seen), jnp.int32(4)
    )
    after = call(_networks(7), params, "predict", hidden)
    np.testing.assert_allclose(after.policy, seen.prior.reshape(-1), atol=1e-6)


def _hidden(params: Any, seen: Choices) -> Any:
    return call(_networks(7), params, "represent", seen)


def test_neighbours_are_those_of_a_convolution() -> None:
    # XLA's own, which takes ten times as long on CPUs, is the reference.
    x = jnp.asarray(np.random.default_rng(3).normal(size=(9, 4)), jnp.float32)
    mine = pointer._Near()
    params = mine.init(jax.random.key(2), x)
    theirs = nn.Conv(4, (5,), feature_group_count=4)
    kernel = params["params"]["kernel"][:, None]
    bias = params["params"]["bias"] + 0.5
    params = {"params": {"kernel": kernel[:, 0], "bias": bias}}
    expected = theirs.apply({"params": {"kernel": kernel, "bias": bias}}, x)
    np.testing.assert_allclose(mine.apply(params, x), expected, atol=1e-6)
