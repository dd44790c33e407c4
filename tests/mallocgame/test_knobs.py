"""Knobs: what is sent to the compiler, and the shipped prior."""

import itertools

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


def test_a_fixed_knob_has_one_value_in_sizes_and_prior() -> None:
    fixed = {knobs.SCOPED_LIMIT: "110592"}
    sizes, prior = knobs.sizes(fixed), knobs.prior(fixed)
    assert [len(row) for row in prior.mean] == sizes
    assert [len(row) for row in prior.deviation] == sizes
    index = [k.option for k in knobs.KNOBS].index(knobs.SCOPED_LIMIT)
    assert sizes[index] == 1


def test_the_shipped_prior_covers_every_value() -> None:
    """So that a knob that is added is measured too (`python -m benchmarks.tune_knobs`)."""
    stored = knobs._stored()
    assert set(stored) == {
        f"{knob.option}={value}" for knob in knobs.KNOBS for value in knob.values[1:]
    }
    prior = knobs.prior({})
    rows = itertools.chain.from_iterable(row[1:] for row in prior.deviation)
    assert all(deviation > 0 for deviation in rows)


def test_the_scoped_limit_takes_capacity() -> None:
    v5e = TARGETS["tpu-v5e"]
    assert knobs.capacity(v5e, {}) == 112 * MIB
    assert knobs.capacity(v5e, {knobs.SCOPED_LIMIT: str(108 << 10)}) == 20 * MIB
    assert knobs.capacity(v5e, {knobs.SCOPED_LIMIT: str(200 << 10)}) == 0
