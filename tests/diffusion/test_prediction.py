"""Conversions, preconditioning, guidance and thresholding."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from diffusion.mixture import Mixture, MixtureNetwork, denoised, denoiser
from diffusion.noise import VPLinear
from diffusion.prediction import (
    Kind,
    Point,
    classifier_guided,
    dynamic_threshold,
    from_data,
    from_edm,
    from_module,
    from_network,
    guided,
    to_data,
)

MIXTURE = Mixture(
    mean=jnp.array([[1.0, 0.0], [-1.0, 0.5], [0.0, 2.0]]),
    variance=jnp.array([0.3, 0.1, 0.2]),
    log_weight=jnp.log(jnp.array([0.5, 0.3, 0.2])),
    label=jnp.array([0, 1, 1]),
)
X = jnp.array([[0.3, -0.2], [1.5, 0.1], [-0.4, 0.9]])
POINT = Point(jnp.float32(0.5), *map(jnp.float32, VPLinear().marginal(0.5)))


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("alpha, sigma", [(0.6, 0.8), (1.0, 7.0), (0.3, 0.7)])
def test_conversions_go_there_and_back(kind: Kind, alpha: float, sigma: float) -> None:
    rng = np.random.default_rng(0)
    data, noise = rng.normal(size=(2, 5))
    x = alpha * data + sigma * noise
    told = from_data(kind, data, x, alpha, sigma)
    by_definition = {
        "eps": noise,
        "x0": data,
        "v": alpha * noise - sigma * data,
        "score": -noise / sigma,
        "flow": noise - data,
    }
    np.testing.assert_allclose(told, by_definition[kind])
    np.testing.assert_allclose(to_data(kind, told, x, alpha, sigma), data)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="eps, x0"):
        to_data("noise", X, X, 1.0, 1.0)  # type: ignore[arg-type]


def test_the_mixtures_score_is_the_gradient_of_its_log_density() -> None:
    alpha, sigma = 0.7, 0.6

    def log_density(x: jax.Array) -> jax.Array:
        total = alpha**2 * MIXTURE.variance + sigma**2
        square = jnp.sum((x - alpha * MIXTURE.mean) ** 2, 1)
        return jax.nn.logsumexp(
            MIXTURE.log_weight - square / (2 * total) - jnp.log(total)
        )

    data = denoised(MIXTURE, X, alpha, sigma)
    score = from_data("score", data, X, alpha, sigma)
    np.testing.assert_allclose(score, jax.vmap(jax.grad(log_density))(X), rtol=2e-5)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_module_is_adapted_whatever_it_predicts(kind: Kind) -> None:
    denoise = from_module(MixtureNetwork(MIXTURE, VPLinear(), kind), kind)
    np.testing.assert_allclose(
        denoise(X, POINT, None), denoiser(MIXTURE)(X, POINT, None), rtol=1e-4
    )


def test_a_linen_network_sees_its_own_time_and_type() -> None:
    seen: dict[str, Any] = {}

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x: jax.Array, t: jax.Array, cond: Any) -> jax.Array:
            seen.update(t=t, dtype=x.dtype)
            return linen.Dense(2, dtype=x.dtype)(x)

    params = Net().init(jax.random.key(0), X, jnp.zeros(3), None)
    denoise = from_network(
        Net().apply,
        params,
        "x0",
        network_time=lambda t: 1000 * t - 1,
        dtype=jnp.bfloat16,
    )
    result = denoise(X, POINT, None)
    assert (result.dtype, seen["dtype"]) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(seen["t"], [499.0] * 3)


def test_edm_preconditioning_of_the_exact_f_is_the_exact_denoiser() -> None:
    """F is solved for from Karras et al., eq. 7, for standard normal data: D = x / (1 + s^2)."""

    def raw(params: None, x: jax.Array, noise: jax.Array, cond: None) -> jax.Array:
        s = jnp.exp(4 * noise)[:, None]
        total = jnp.sqrt(s**2 + 0.25)
        y = x * total
        return (y / (1 + s**2) - 0.25 / total**2 * y) * total / (s * 0.5)

    result = from_edm(raw, None, 0.5)(X, POINT, None)
    expected = X * POINT.alpha / (POINT.alpha**2 + POINT.sigma**2)
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_guidance_leads_from_unconditional_to_beyond_the_class() -> None:
    exact, label, none = denoiser(MIXTURE), jnp.array([1, 1, 1]), jnp.array(-1)
    off, on = exact(X, POINT, None), exact(X, POINT, label)
    assert float(jnp.max(jnp.abs(on - off))) > 0.1
    for weight in (0.0, 1.0, 2.5):
        result = guided(exact, weight, none)(X, POINT, label)
        np.testing.assert_allclose(result, off + weight * (on - off), atol=1e-6)


def test_classifier_guidance_of_weight_1_is_the_conditional_model() -> None:
    """grad log p(c | x) = score of the class - score of all (Bayes)."""

    def log_probability(x: jax.Array, point: Point, cond: Any) -> jax.Array:
        total = point.alpha**2 * MIXTURE.variance + point.sigma**2
        square = jnp.sum((x[:, None] - point.alpha * MIXTURE.mean) ** 2, -1)
        logits = MIXTURE.log_weight - square / (2 * total) - jnp.log(total)
        chosen = jnp.where(MIXTURE.label == cond[:, None], logits, -jnp.inf)
        return jax.nn.logsumexp(chosen, 1) - jax.nn.logsumexp(logits, 1)

    exact, label = denoiser(MIXTURE), jnp.array([1, 0, 1])
    plain = classifier_guided(
        lambda x, point, cond: exact(x, point, None), log_probability, 1.0
    )
    result = plain(X, POINT, label)
    np.testing.assert_allclose(result, exact(X, POINT, label), atol=1e-5)


def test_thresholding_touches_only_what_is_out_of_bounds() -> None:
    data = jnp.stack([jnp.linspace(-0.9, 0.9, 8), jnp.linspace(-4, 4, 8)])
    result = dynamic_threshold(data, quantile=1.0)
    np.testing.assert_allclose(result[0], data[0])
    np.testing.assert_allclose(result[1], data[1] / 4, rtol=1e-6)
    clipped = dynamic_threshold(data, quantile=0.5)
    assert float(jnp.abs(clipped).max()) <= 1.0


def test_a_modules_state_can_stay_an_argument() -> None:
    module = MixtureNetwork(MIXTURE, VPLinear())
    graph, state = nnx.split(module)

    @jax.jit
    def run(state: Any, x: jax.Array) -> jax.Array:
        def apply(params: Any, x: jax.Array, t: jax.Array, cond: Any) -> jax.Array:
            output: jax.Array = nnx.merge(graph, params)(x, t, cond)
            return output

        return from_network(apply, state)(x, POINT, None)

    moved = jax.tree.map(lambda leaf: leaf * 1, state)
    np.testing.assert_allclose(
        run(moved, X), denoiser(MIXTURE)(X, POINT, None), rtol=1e-4
    )
