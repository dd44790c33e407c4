"""Knobs: what is sent to the compiler, and the shipped prior."""

import numpy as np

from compiler.targets import MIB, TARGETS
from mallocgame import knobs


def test_only_what_is_not_default_and_not_fixed_is_sent() -> None:
    default = (0,) * len(knobs.KNOBS)
    assert knobs.options(default, {}) == {}
    ones = (1,) * len(knobs.KNOBS)
    fixed = {knobs.SCOPED_LIMIT: "110592"}
    sent = knobs.options(ones, fixed)
    assert knobs.SCOPED_LIMIT not in sent
    assert sent == {
        k.option: k.values[1] for k in knobs.KNOBS if k.option != knobs.SCOPED_LIMIT
    }


def test_a_fixed_knob_has_one_value_and_no_prior() -> None:
    fixed = {knobs.SCOPED_LIMIT: "110592"}
    sizes, prior = knobs.sizes(fixed), knobs.prior(fixed)
    index = [k.option for k in knobs.KNOBS].index(knobs.SCOPED_LIMIT)
    assert sizes[index] == 1
    assert prior.mean.shape == (sum(sizes) - len(sizes),)
    free = np.array([not s.startswith(knobs.SCOPED_LIMIT) for s in knobs.settings()])
    whole = knobs.prior({})
    np.testing.assert_array_equal(prior.mean, whole.mean[free])
    # Products of other shapes are summed in another order.
    np.testing.assert_allclose(
        prior.covariance, whole.covariance[np.ix_(free, free)], rtol=1e-9, atol=1e-18
    )


def test_the_shipped_prior_covers_every_value() -> None:
    """So that a knob that is added is measured too (`python -m benchmarks.tune_knobs`)."""
    for told in knobs._stored().values():
        assert set(told) == set(knobs.settings())


def test_the_scoped_limit_takes_capacity() -> None:
    v5e = TARGETS["tpu-v5e"]
    assert knobs.capacity(v5e, {}) == 112 * MIB
    assert knobs.capacity(v5e, {knobs.SCOPED_LIMIT: str(108 << 10)}) == 20 * MIB
    assert knobs.capacity(v5e, {knobs.SCOPED_LIMIT: str(200 << 10)}) == 0
