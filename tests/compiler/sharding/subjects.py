"""Functions that the search command is asked to cut, most of which it can't."""

import types

import jax
import jax.numpy as jnp

from compiler.sharding.subject import HandPlan


def _array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _two_layers(x, w, v):
    return jnp.tanh(x @ w) @ v


def pair():
    return _two_layers, (_array(64, 32), _array(32, 64), _array(64, 32))


def other():
    return _two_layers, (_array(64, 64), _array(64, 64), _array(64, 32))


def with_plans():
    fn, args = pair()
    plans = {
        "batch": HandPlan({"x": ["x.0"], "y": ["x.0"]}),
        "no such": HandPlan({"x": ["z.0"]}),
    }
    return types.SimpleNamespace(fn=fn, args=args, plans=plans)


def untraceable():
    return (lambda x: 1 if x.sum() > 0 else x), (_array(8, 8),)


def indivisible():
    return (lambda x: x * 2), (_array(3, 5),)


def raises():
    raise RuntimeError("no data\nat all")


NOTHING = 3


def _random(key, x):
    return x + jax.random.normal(key, x.shape)


def random():
    return _random, (jax.eval_shape(lambda: jax.random.key(0)), _array(16, 16))
