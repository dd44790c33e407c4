"""The networks: shapes, classes, dropout, and that they begin as nothing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffusion import networks
from diffusion.networks import Config, DiTConfig, MLPConfig, UNetConfig, patches
from diffusion.networks.dit import positions

CONFIGS: dict[str, Config] = {
    "mlp": MLPConfig(shape=(12,), classes=3, width=16, dropout=0.5),
    "unet": UNetConfig(
        shape=(8, 4, 2),
        classes=3,
        channels=(6, 8),
        blocks=1,
        attention=(False, True),
        heads=2,
        groups=4,
        features=8,
        embedding=12,
        dropout=0.5,
    ),
    "dit": DiTConfig(
        shape=(4, 6, 2), classes=3, width=16, depth=2, heads=2, dropout=0.5
    ),
}


def _awake(config: Config) -> nnx.Module:
    """A network whose last layers are not zero any more."""
    graph, state = nnx.split(networks.build(config, rngs=nnx.Rngs(0)))
    leaves, structure = jax.tree.flatten(state)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)]
    return nnx.merge(graph, jax.tree.unflatten(structure, moved))


def _input(config: Config, count: int = 3) -> tuple[Any, Any, Any]:
    x = jax.random.normal(jax.random.key(2), (count, *config.shape))
    return x, jnp.linspace(-1.0, 1.0, count), jnp.arange(count) % 3


@pytest.mark.parametrize("name", CONFIGS)
def test_a_new_network_returns_zeros_of_the_inputs_shape(name: str) -> None:
    config = CONFIGS[name]
    x, t, labels = _input(config)
    network: Any = networks.build(config, rngs=nnx.Rngs(0))
    found = network(x, t, labels)
    assert found.shape == x.shape
    np.testing.assert_array_equal(found, 0.0)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_sample_is_answered_by_itself(name: str) -> None:
    config = CONFIGS[name]
    x, t, labels = _input(config)
    network: Any = _awake(config)
    together = network(x, t, labels)
    alone = jnp.concatenate(
        [network(x[k : k + 1], t[k : k + 1], labels[k : k + 1]) for k in range(3)]
    )
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert float(jnp.abs(together[0] - together[1]).max()) > 1e-3


@pytest.mark.parametrize("name", CONFIGS)
def test_noise_level_and_class_matter_and_no_class_is_the_last(name: str) -> None:
    config = CONFIGS[name]
    x, t, labels = _input(config)
    network: Any = _awake(config)
    found = network(x, t, labels)
    for other in (network(x, t + 0.3, labels), network(x, t, (labels + 1) % 3)):
        assert float(jnp.abs(found - other).max()) > 1e-4
    none = network(x, t, jnp.full(3, config.classes))
    np.testing.assert_array_equal(network(x, t), none)
    assert float(jnp.abs(found - none).max()) > 1e-4


@pytest.mark.parametrize("name", CONFIGS)
def test_it_drops_out_with_a_stream_only(name: str) -> None:
    config = CONFIGS[name]
    x, t, _ = _input(config)
    network: Any = _awake(config)
    first, second = (network(x, t, rngs=nnx.Rngs(dropout=k)) for k in (0, 1))
    again = network(x, t, rngs=nnx.Rngs(dropout=0))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - second).max()) > 1e-4


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_come_back_from_json(name: str) -> None:
    config = CONFIGS[name]
    assert networks.from_json(networks.to_json(config)) == config


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: networks.from_json({"network": "gan"}), "no network is called 'gan'"),
        (
            lambda: networks.from_json({"network": "mlp", "shape": [4], "depth": 3}),
            "depth",
        ),
        (lambda: UNetConfig(shape=(28, 28)), "height, width, channels"),
        (lambda: UNetConfig(shape=(28, 28, 1), patch=4), "no multiples of 16"),
        (
            lambda: UNetConfig(shape=(28, 28, 1), channels=(8,)),
            "for each entry of channels",
        ),
        (lambda: DiTConfig(shape=(9, 9, 1)), "patches of 2 do not divide"),
        (
            lambda: networks.build(
                DiTConfig(shape=(4, 4, 1), width=10, heads=4), rngs=nnx.Rngs(0)
            ),
            "4 heads do not divide a width of 10",
        ),
    ],
    ids=["name", "option", "axes", "size", "levels", "patch", "heads"],
)
def test_what_can_not_be_built_is_said(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_labels_need_classes() -> None:
    network: Any = networks.build(MLPConfig(shape=(4,)), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="without classes"):
        network(jnp.ones((2, 4)), jnp.ones(2), jnp.zeros(2, jnp.int32))


def test_patches_are_taken_apart_and_put_together() -> None:
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    apart = patches.split(x, 2)
    assert apart.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(apart[0, 0, 0], x[0, :2, :2].reshape(-1))
    np.testing.assert_array_equal(patches.merge(apart, 2), x)


def test_every_position_is_another() -> None:
    flat = np.asarray(positions(5, 7, 18)).reshape(35, 18)
    apart = np.abs(flat[:, None] - flat[None]).max(-1)
    assert apart[~np.eye(35, dtype=bool)].min() > 1e-2
