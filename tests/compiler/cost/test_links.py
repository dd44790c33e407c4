"""Prices of collectives against figures written down one by one."""

import numpy as np
import pytest

from compiler.cost import links
from compiler.cost.links import LINKS, MIB

C = {name: each.cycles_per_mib for name, each in LINKS.items()}


@pytest.mark.parametrize(
    ("generation", "gigabytes"),
    [("v5e", 46.7), ("v6e", 93.3), ("v5p", 93.3), ("v4", 44.8), ("tpu7x", 93.3)],
)
def test_bandwidth_of_one_link(generation: str, gigabytes: float) -> None:
    assert LINKS[generation].bandwidth / 1e9 == pytest.approx(gigabytes, abs=0.1)


@pytest.mark.parametrize(
    ("generation", "devices", "gather", "exchange"),
    [
        ("v5e", 2, 1.0, 1.0),
        ("v5e", 8, 4.0, 1.75),
        ("v5e", 16, 8.0, 1.875),
        ("v6e", 4, 1.5, 1.5),
        ("v5p", 2, 0.5, 0.5),
        ("v5p", 4, 1.5, 1.5),
        ("v4", 8, 3.5, 1.75),
        ("tpu7x", 8, 7.0, 0.875),
    ],
)
def test_passages_of_one_mib(
    generation: str, devices: int, gather: float, exchange: float
) -> None:
    each = LINKS[generation]
    assert links.all_gather(each, MIB, devices) == pytest.approx(gather * C[generation])
    assert links.all_to_all(each, MIB, devices) == pytest.approx(
        exchange * C[generation]
    )
    assert links.permute(each, MIB) == pytest.approx(C[generation])
    assert links.all_reduce(each, MIB, devices) == pytest.approx(C[generation])


def test_an_all_reduce_over_several_dimensions() -> None:
    one, two, three = (
        links.all_reduce(LINKS["v5p"], MIB, 64, dimensions=k) for k in (1, 2, 3)
    )
    assert (one / two, one / three) == (pytest.approx(2), pytest.approx(3))
    assert links.all_reduce(LINKS["tpu7x"], MIB, 8, dimensions=3) == C["tpu7x"]


@pytest.mark.parametrize("generation", ["v5e", "v6e", "v5p", "v4"])
def test_a_reduce_scatter_mirrors_an_all_gather(generation: str) -> None:
    each = LINKS[generation]
    assert links.reduce_scatter(each, MIB, 8) == links.all_gather(each, MIB, 8)


def test_a_reduce_scatter_on_tpu7x_costs_what_it_is_given() -> None:
    assert links.reduce_scatter(LINKS["tpu7x"], MIB / 8, 8) == pytest.approx(C["tpu7x"])


@pytest.mark.parametrize(
    "kind",
    [
        "all-gather",
        "reduce-scatter",
        "all-reduce",
        "all-to-all",
        "ragged-all-to-all",
        "collective-permute",
    ],
)
def test_prices_are_linear_with_one_latency(kind: links.Kind) -> None:
    each = LINKS["v5e"]
    once = links.price(each, kind, MIB, 4)
    assert links.price(each, kind, 3 * MIB, 4, latency=100) == pytest.approx(
        3 * once + 100
    )
    assert links.price(each, kind, MIB, 1, latency=100) == 0


def test_the_price_of_a_result_is_that_of_its_parts() -> None:
    each = LINKS["v5e"]
    whole = links.price(each, "all-gather", 8 * MIB, 8)
    assert whole == links.all_gather(each, MIB, 8)


def test_arrays_of_sizes() -> None:
    sizes = np.array([0.0, 1.0, 2.0]) * MIB
    found = links.all_to_all(LINKS["v5e"], sizes, 8)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, np.array([0, 1.75, 3.5]) * C["v5e"])


def test_topologies() -> None:
    assert links.of_topology("v5e:2x4") is LINKS["v5e"]
    with pytest.raises(ValueError, match="no link prices for 'v2:2x2'"):
        links.of_topology("v2:2x2")


def test_seconds_in_cycles() -> None:
    assert LINKS["v5e"].cycles(20e-6) == pytest.approx(30_000)
