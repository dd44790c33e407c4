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


@nnx.jit
def _call(
    network: Any, x: Any, t: Any, labels: Any = None, rngs: nnx.Rngs | None = None
) -> Any:
    return network(x, t, labels, rngs=rngs)


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
def test_it_answers_each_sample_by_itself_its_level_and_its_class(name: str) -> None:
    config = CONFIGS[name]
    x, t, labels = _input(config)
    # All in one shape, so that it is compiled once.
    fresh = _call(networks.build(config, rngs=nnx.Rngs(0)), x, t, labels)
    assert fresh.shape == x.shape
    np.testing.assert_array_equal(fresh, 0.0)
    network = _awake(config)
    found = _call(network, x, t, labels)
    turned = _call(network, x[::-1], t[::-1], labels[::-1])
    np.testing.assert_allclose(turned[::-1], found, atol=1e-5)
    for changed in (
        _call(network, x.at[0].add(1.0), t, labels),
        _call(network, x, t.at[0].add(0.3), labels),
        _call(network, x, t, labels.at[0].set(config.classes)),
    ):
        assert float(jnp.abs(changed - found)[0].max()) > 1e-4
        np.testing.assert_allclose(changed[1:], found[1:], atol=1e-5)


def test_no_labels_are_no_class() -> None:
    config = CONFIGS["mlp"]
    x, t, _ = _input(config)
    network = _awake(config)
    none = _call(network, x, t, jnp.full(3, config.classes))
    np.testing.assert_allclose(_call(network, x, t), none, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "dit"])
def test_it_drops_out_with_a_stream_only(name: str) -> None:
    config = CONFIGS[name]
    x, t, _ = _input(config)
    network = _awake(config)
    first, second = (_call(network, x, t, rngs=nnx.Rngs(dropout=k)) for k in (0, 1))
    again = _call(network, x, t, rngs=nnx.Rngs(dropout=0))
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
