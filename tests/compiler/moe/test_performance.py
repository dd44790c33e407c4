"""Lines: fitted exactly where they are exact, read back as written, equal to the compiler's measured totals."""

import numpy as np
import pytest

from compiler.moe import links, performance
from compiler.moe.performance import TESTBED_A, TESTBED_B, Line


def test_fit_finds_a_line():
    rng = np.random.default_rng(0)
    volumes = np.arange(1, 25) * 2.0**18
    exact = performance.fit(volumes, 0.2 + 3e-7 * volumes)
    np.testing.assert_allclose((exact.startup, exact.slope, exact.r2), (0.2, 3e-7, 1))
    noise = rng.normal(size=24)
    noisy = performance.fit(volumes, 0.2 + 3e-7 * volumes + 0.1 * noise)
    slope, startup = np.polyfit(volumes, 0.2 + 3e-7 * volumes + 0.1 * noise, 1)
    np.testing.assert_allclose((noisy.startup, noisy.slope), (startup, slope))
    times = 0.2 + 3e-7 * volumes + 0.1 * noise
    correlation = np.corrcoef(volumes, times)[0, 1]
    np.testing.assert_allclose(noisy.r2, correlation**2)


@pytest.mark.parametrize("volumes", [[1.0], [2.0, 2.0], [[1.0, 2.0]]])
def test_no_line_through_a_point(volumes):
    with pytest.raises(ValueError, match="two different volumes"):
        performance.fit(volumes, volumes)


def test_read_back_as_written(tmp_path):
    path = tmp_path / "model.json"
    path.write_text(performance.json.dumps(TESTBED_A.to_json()))
    assert performance.read(path) == TESTBED_A


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "moe.plan"}, "its kind is not"),
        ({"schema_version": 9}, "schema version 9"),
        ({"lines": {"gossip": {"startup": 1, "slope": 1}}}, "'gossip' is none of"),
        ({"lines": {"gemm": {"startup": 1}}}, "slope"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_refuses_what_is_no_model(change, message):
    with pytest.raises(ValueError, match=message):
        performance.from_json({**TESTBED_A.to_json(), **change})


def test_a_missing_line_is_named():
    with pytest.raises(ValueError, match="testbed B has no line for permute"):
        TESTBED_B["permute"]


def test_corrected_exponents():
    """With them, A has the proportions of B: gathering costs what scattering does, reducing twice an exchange."""
    for bed in (TESTBED_A, TESTBED_B):
        assert 0.9 < bed["all_gather"].slope / bed["reduce_scatter"].slope < 1.1
        assert 1.9 < bed["all_reduce"].slope / bed["all_to_all"].slope < 2.3


def test_compiler_totals_of_an_expert_layer():
    """Exposed all-to-all of the unpipelined EP = 8 layer on v5e, 1024 tokens per pair, width 2048, bf16."""
    model = links.tpu("v5e", span=8)
    mib = 8 * 1024 * 2048 * 2 / 2**20
    assert round(2 * model["all_to_all"](mib)) == 3_776_147
    slow = links.tpu("v5e", span=8, startup_seconds=20e-6)
    np.testing.assert_allclose(
        slow["all_to_all"](mib) - model["all_to_all"](mib), 30_000
    )


def test_gemm_line_is_the_compilers():
    for rows, cycles in ((128, 41_081), (1024, 278_200), (8192, 2_142_048)):
        predicted = links.gemm("v5e")(2.0 * rows * 2048 * 8192)
        np.testing.assert_allclose(predicted, cycles, rtol=0.02)


def test_collectives_of_all_generations():
    prices = {
        "v4": 24_577.0,
        "v5e": 33_715.6,
        "v5p": 19_658.0,
        "v6e": 19_658.0,
        "tpu7x": 21_343.0,
    }
    for generation, c in prices.items():
        for span in (2, 4, 8, 16):
            gathered = links.cycles_per_mib(generation, "all_gather", span)
            scattered = links.cycles_per_mib(generation, "reduce_scatter", span)
            if generation == "tpu7x":  # The one that the compiler prices.
                gathered = c * span
            np.testing.assert_allclose(scattered, gathered / span)
            assert links.cycles_per_mib(generation, "permute", span) == c
        assert links.cycles_per_mib(generation, "all_to_all", 1) == 0
    assert links.cycles_per_mib("v5p", "all_to_all", 2) == 0.5 * 19_658
    assert links.cycles_per_mib("v5e", "all_reduce", 8, 2) == 33_715.6 / 2
    with pytest.raises(ValueError, match="'v3' is none of"):
        links.cycles_per_mib("v3", "permute", 2)


def test_line_of_chunks():
    line = Line(startup=1.0, slope=2.0)
    assert line(12, 4) == 7.0
