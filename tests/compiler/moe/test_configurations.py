"""Volumes, the 1458 layers, and what the paper measured."""

import dataclasses

import numpy as np
import pytest

from compiler.moe import configurations
from compiler.moe.configurations import PRESETS, TESTBEDS, Configuration


def test_there_are_1458():
    for bed in TESTBEDS.values():
        layers = configurations.configured(bed)
        assert len(set(layers)) == 1458
        assert {c.shard_span for c in layers} == {bed.devices}


def test_volumes_of_a_small_layer():
    c = Configuration(
        samples=2,
        length=8,
        width=4,
        hidden=16,
        experts=4,
        active=2,
        capacity=1.5,
        shard_span=2,
    )
    work = configurations.volumes(c)
    assert work.exchange == work.gather == work.scatter == 2 * 1.5 * 16 * 4
    # 48 rows through 4×8 and 8×4.
    assert work.expert == 48 * (4 * 8) * 2
    assert work.gradient == 64
    # 16 tokens: four 4×4 projections, scores and sums of 8 others; over two devices.
    assert work.dense == 16 * (4 * 16 + 2 * 8 * 4) / 2


def test_gated_and_undropped():
    c = PRESETS["mixtral-8x7b"]
    simple = configurations.volumes(dataclasses.replace(c, feed_forward="simple"))
    np.testing.assert_allclose(configurations.volumes(c).expert, 1.5 * simple.expert)
    undropped = dataclasses.replace(c, capacity=None)
    np.testing.assert_allclose(undropped.slots, c.slots / 1.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"active": 9}, "1..8 experts, not 9"),
        ({"capacity": 0.0}, "is positive, not 0"),
        ({"shard_span": 3}, "hidden 14336 can't be cut over 3"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PRESETS["mixtral-8x7b"], **change)


def test_exchanges_and_gradients_are_as_measured():
    """The count of volumes reproduces the paper's own times of what passes between nodes."""
    for key in configurations.MEASURED:
        ratios = configurations.measured_ratios(*key)
        np.testing.assert_allclose((ratios.exchange, ratios.gradient), 1, atol=0.23)
    with pytest.raises(ValueError, match="no measurement of qwen"):
        configurations.measured_ratios("A", "qwen")
