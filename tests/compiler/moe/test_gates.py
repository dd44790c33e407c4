"""Routings, by their definitions and by brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compiler.moe import gates, order

TOKENS, WIDTH, EXPERTS = 24, 8, 6
X = jax.random.normal(jax.random.key(0), (TOKENS, WIDTH))
ALL = [gates.GShard(), gates.Sigmoid(), gates.XMoE(), gates.ByExpert()]


def weights_of(gate):
    declared = gate.weights(WIDTH, EXPERTS)
    keys = jax.random.split(jax.random.key(1), len(declared))
    return {
        name: w.init(key, w.shape, jnp.float32)
        for key, (name, w) in zip(keys, declared.items())
    }


def routed(gate, x=X, key=None):
    return jax.jit(gate)(weights_of(gate), x, key)


@pytest.mark.parametrize("gate", ALL, ids=lambda gate: type(gate).__name__)
def test_orders_agree_and_undo_themselves(gate):
    routing = routed(gate).routing
    slots = routing.capacity + 3
    rows = order.scatter(X, routing, slots)
    np.testing.assert_allclose(order.einsum(X, routing, slots), rows, atol=1e-6)
    assert rows.shape == (EXPERTS, slots, WIDTH)
    back = order.scatter_inverse(rows, routing)
    np.testing.assert_allclose(order.einsum_inverse(rows, routing), back, atol=1e-6)
    # Experts that do nothing: each token comes back times the weights that it was served with.
    served = order.scatter_inverse(jnp.ones_like(rows), routing)
    np.testing.assert_allclose(back, served * X, atol=1e-5)


@pytest.mark.parametrize("gate", ALL, ids=lambda gate: type(gate).__name__)
def test_slots_in_use_are_the_first_ones(gate):
    routing = routed(gate).routing
    rows = np.asarray(order.scatter(X, routing, routing.capacity + 2))
    used = np.abs(rows).sum(-1) > 0
    np.testing.assert_array_equal(used.sum(1), routing.filled)
    np.testing.assert_array_equal(
        used, np.arange(used.shape[1]) < np.asarray(routing.filled)[:, None]
    )


def test_gshard_weights_sum_to_one_over_the_chosen_or_over_all():
    chosen = routed(gates.GShard(dropless=True)).routing.weight
    np.testing.assert_allclose(chosen.sum(1), 1, rtol=1e-6)
    gated = routed(gates.GShard(dropless=True, over="all"))
    expected = np.take_along_axis(
        np.asarray(gated.probabilities), np.asarray(gated.routing.expert), 1
    )
    np.testing.assert_allclose(gated.routing.weight, expected, rtol=1e-5)


def test_one_chosen_expert_leaves_gshard_no_gradient_unless_over_all():
    def first(weights, over):
        return gates.GShard(k=1, over=over)(weights, X, None).routing.weight.sum()

    weights = weights_of(gates.GShard())
    assert not np.any(jax.grad(first)(weights, "chosen")["score"])
    assert np.any(jax.grad(first)(weights, "all")["score"])


def test_noise_needs_a_key_and_moves_choices():
    quiet = routed(gates.GShard()).routing.expert
    noisy = routed(gates.GShard(), key=jax.random.key(7))
    assert np.any(quiet != noisy.routing.expert)
    assert np.array_equal(noisy.logits, routed(gates.GShard()).logits)


def test_first_choices_are_served_before_second_ones():
    # All want expert 0 first and expert 1 second; expert 1 is the first choice of the last token alone.
    logits = jnp.tile(jnp.array([3.0, 2.0, 0, 0, 0, 0]), (4, 1)).at[3, 1].set(4)
    gate = gates.Sigmoid(k=2, capacity_factor=1.0)
    routing = gate({"score": jnp.eye(6)}, logits, None).routing
    assert routing.capacity == 2
    np.testing.assert_array_equal(routing.slot, [[0, 1], [1, 2], [2, 3], [0, 3]])
    assert routing.dropped == pytest.approx(4 / 8)
    assert np.count_nonzero(routing.weight) == 4


def test_xmoe_sees_directions_alone():
    gate = gates.XMoE()
    far = routed(gate, 100 * X)
    np.testing.assert_allclose(far.logits, routed(gate).logits, rtol=1e-3)
    # A cosine over the first temperature.
    assert np.abs(far.logits).max() <= 1 / 0.07 + 1e-3


@pytest.mark.parametrize("over", ["tokens", "experts"])
def test_experts_take_their_best_tokens(over):
    gated = routed(gates.ByExpert(over=over))
    scores = np.asarray(gated.logits if over == "tokens" else gated.probabilities)
    best = np.sort(scores, axis=0)[::-1][: gated.routing.capacity].T
    token = np.asarray(gated.routing.token)
    np.testing.assert_array_equal(np.take_along_axis(scores.T, token, 1), best)
    if over == "tokens":
        best = np.exp(best) / np.exp(best).sum(1, keepdims=True)
    np.testing.assert_allclose(gated.routing.weight, best, rtol=1e-5)
    untouched = set(range(TOKENS)) - set(token.ravel().tolist())
    assert gated.routing.dropped == pytest.approx(len(untouched) / TOKENS, abs=1e-6)


def test_an_even_load_costs_one_and_the_worst_costs_the_number_of_experts():
    gate = gates.Sigmoid()
    even = gate({"score": 50 * jnp.eye(6)}, jnp.eye(6), None)
    worst = gate({"score": 50 * jnp.eye(6)}, jnp.tile(jnp.eye(6)[:1], (6, 1)), None)
    even = even._replace(probabilities=jax.nn.softmax(even.logits))
    worst = worst._replace(probabilities=jax.nn.softmax(worst.logits))
    assert gates.measure(even).balance_loss == pytest.approx(1)
    assert gates.measure(worst).balance_loss == pytest.approx(6)
    np.testing.assert_allclose(gates.measure(worst).load, [1, 0, 0, 0, 0, 0])
    zero = gate({"score": jnp.zeros((6, 6))}, jnp.eye(6), None)
    assert gates.measure(zero).z_loss == pytest.approx(np.log(6) ** 2)


def test_capacities():
    assert gates.GShard(k=2, capacity_factor=1.25).capacity(100, 8) == 32  # 31.25
    assert gates.GShard(capacity_factor=100.0).capacity(16, 8) == 16
    assert gates.GShard(dropless=True).capacity(16, 8) == 16
    with pytest.raises(ValueError, match="no tokens"):
        gates.GShard().capacity(0, 8)
    with pytest.raises(ValueError, match="no dropless form"):
        gates.ByExpert(dropless=True)
    with pytest.raises(ValueError, match="at least one expert, not 0"):
        gates.GShard(k=0)


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_check_reports_what_is_not_finite(value):
    gate = gates.GShard()
    gates.check(gates.measure(routed(gate)))
    with pytest.raises(ValueError, match="not all finite"):
        gates.check(gates.measure(routed(gate, X.at[2, 3].set(value))))
