"""Programs are run as they are, on the right arguments, and what the times say is what statistics says."""

import itertools
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compiler.backends import CompilerError, Source, from_function
from compiler.backends import jaxlib_adapter as adapter
from compiler.backends import measure_worker as worker
from compiler.backends.measure import measure
from compiler.backends.timing import FEWEST_RUNS, Ratio, choose, ratio
from compiler.backends.worker import parse
from compiler.hlo import Shape

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHEDULE_ZERO_CACHE", str(tmp_path))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def _shape(name: str, *dimensions: int, bits: int = 32) -> Shape:
    return Shape(element_type=name, dimensions=dimensions, element_bits=bits)


def _program(x: jax.Array, w: jax.Array, which: jax.Array) -> tuple[jax.Array, ...]:
    return jnp.tanh(x @ w)[which], x + 1.0


def _source(**options: object) -> Source:
    shapes = [
        jax.ShapeDtypeStruct((64, 32), jnp.float32),
        jax.ShapeDtypeStruct((32, 16), jnp.float32),
        jax.ShapeDtypeStruct((5,), jnp.int32),
    ]
    return from_function(_program, *shapes, topology="cpu", **options)


@pytest.mark.parametrize(
    "name", ["f32", "bf16", "f16", "f64", "s32", "u8", "s64", "c64"]
)
def test_arguments_have_the_type_and_depend_on_seed_and_place(name: str) -> None:
    shapes = [_shape(name, 100, 3), _shape(name, 100, 3)]
    one, other = worker.arguments(shapes, 0)
    assert one.shape == (100, 3)
    assert one.dtype == jnp.dtype(worker.dtype(name))
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(one, worker.arguments(shapes[:1], 0)[0])
    assert not np.array_equal(one, worker.arguments(shapes, 1)[0])
    assert np.isfinite(np.abs(one.astype(np.complex128))).all()


@pytest.mark.parametrize("name,bits", [("s32", 32), ("u8", 8), ("s2", 2), ("u2", 2)])
def test_integers_are_small_and_none_wraps(name: str, bits: int) -> None:
    (drawn,) = worker.arguments([_shape(name, 1000, bits=bits)], 0)
    values = set(drawn.astype(np.int64).tolist())
    assert values == (set(range(4)) if bits > 2 else {0, 1})


def test_short_types_and_flags() -> None:
    for name in ("f8e4m3fn", "f8e5m2", "f8e8m0fnu", "f4e2m1fn"):
        (drawn,) = worker.arguments([_shape(name, 50)], 0)
        assert np.isfinite(drawn.astype(np.float32)).all()
    (flags,) = worker.arguments([_shape("pred", 100)], 0)
    assert flags.dtype == np.bool_ and 20 < flags.sum() < 80
    with pytest.raises(CompilerError, match="no argument of type token"):
        worker.arguments([_shape("token")], 0)


def test_differences_are_relative_to_the_largest_value() -> None:
    a, b = np.array([1.0, -4.0]), np.array([1.5, -4.0])
    assert worker.difference([a], [a]) == 0.0
    assert worker.difference([a], [b]) == pytest.approx(0.5 / 4)
    nan, inf = np.array([np.nan, 1.0]), np.array([np.inf, 1.0])
    assert worker.difference([nan], [nan.copy()]) == 0.0
    assert worker.difference([nan], [np.array([np.nan, 2.0])]) == pytest.approx(1.0)
    for other in (inf, np.array([0.0, 1.0])):
        assert worker.difference([nan], [other]) == math.inf
    assert worker.difference([np.array([1, 2])], [np.array([1, 3])]) == 0.5
    assert worker.difference([np.zeros(0)], [np.zeros(0)]) == 0.0


def test_what_runs_is_the_program() -> None:
    """Against NumPy, arguments and all."""
    device = jax.local_devices()[0]
    for source, used_up in ((_source(), []), (_source(donate_argnums=(0,)), [0])):
        module = parse(source.kind, source.data)
        executable, left_out = worker._load(module, device, {})
        shapes = [_shape("f32", 64, 32), _shape("f32", 32, 16), _shape("s32", 5)]
        x, w, which = made = worker.arguments(shapes, 7)
        way = worker._prepare(executable, left_out, made, device)
        expected = np.tanh(x.astype(np.float64) @ w)[which]
        np.testing.assert_allclose(way.results[0], expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(way.results[1], x + 1)
        # A donated argument is whole again for every run.
        assert worker._sample(way) > 0
        assert way.used_up == used_up
        again = adapter.execute(way.executable, worker._copies(way.arrays))
        np.testing.assert_array_equal(np.asarray(again[0]), way.results[0])


def test_ways_are_run_by_turns_in_a_child_and_unknown_options_are_named() -> None:
    ways = [
        {},
        {"xla_tpu_msa_tensor_overrides": "x", "xla_cpu_enable_fast_math": "False"},
    ]
    found = measure(_source(), ways, repeats=7, seed=3)
    assert found.platform == "cpu" and "median of 7 interleaved runs" in found.by
    assert [way.left_out for way in found.ways] == [
        (),
        ("xla_tpu_msa_tensor_overrides",),
    ]
    assert all(len(way.seconds) == 7 and min(way.seconds) > 0 for way in found.ways)
    assert found.ways[1].is_bitwise and found.ways[1].difference == 0.0
    low, median, high = (getattr(found.ratio(1), n) for n in ("low", "median", "high"))
    assert low <= median <= high


def test_what_cannot_be_measured_is_refused() -> None:
    source = _source()
    with pytest.raises(ValueError, match="5 runs say too little"):
        measure(source, [{}], repeats=5)
    with pytest.raises(ValueError, match="nothing to measure"):
        measure(source, [])
    with pytest.raises(CompilerError, match="for 4 devices"):
        measure(source._replace(partitions=4), [{}])
    with pytest.raises(CompilerError, match="cannot be read"):
        measure(Source("hlo", b"no module"), [{}])
    with pytest.raises(CompilerError, match="not a valid bool"):
        measure(source, [{"xla_cpu_enable_fast_math": "maybe"}])


@pytest.mark.parametrize("count", [6, 7, 11, 21])
def test_the_interval_is_that_of_the_sign_test(count: int) -> None:
    """By counting all outcomes: the share of them in which it misses the true median."""
    found = ratio([float(k) for k in range(1, count + 1)], [1.0] * count)
    low, high = int(found.low), int(found.high)  # Ranks from 1 on.
    assert low + high == count + 1
    if count <= 11:
        below = [sum(signs) for signs in itertools.product((0, 1), repeat=count)]
        missed = sum(b < low or b > count - low for b in below) / 2**count
        narrower = sum(b < low + 1 or b > count - low - 1 for b in below) / 2**count
        assert missed <= 0.05 < narrower
    else:
        assert (low, high) == (6, 16)  # Tables of the sign test, n = 21.
    assert found.median == (count + 1) / 2


def test_pairs_cancel_drift() -> None:
    base = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert ratio([0.5 * t for t in base], base) == Ratio(0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="say too little"):
        ratio([1.0] * (FEWEST_RUNS - 1), [1.0] * (FEWEST_RUNS - 1))


def test_choice() -> None:
    faster, much, same, slower = (
        Ratio(0.9, 0.85, 0.95),
        Ratio(0.7, 0.6, 0.99),
        Ratio(1.0, 0.9, 1.1),
        Ratio(1.2, 1.1, 1.3),
    )
    assert choose([same, faster, much, slower]) == 2
    assert choose([slower, same, same]) == 1
    assert choose([slower]) is None
    assert choose([]) is None


def test_a_child_does_not_outlive_who_asked(tmp_path: Path) -> None:
    """Killed in the middle of a measurement that would take for ever."""
    program = (
        "import jax, jax.numpy as jnp\n"
        "from compiler.backends import from_function\n"
        "from compiler.backends.measure import measure\n"
        "slow = lambda x: jax.lax.fori_loop(0, 1 << 30, lambda _, y: jnp.sin(y), x)\n"
        "shape = jax.ShapeDtypeStruct((4096,), jnp.float32)\n"
        "measure(from_function(slow, shape, topology='cpu'), [{}])\n"
    )
    asking = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    child = _wait_for(lambda: _children(asking.pid))[0]
    asking.kill()
    asking.wait()
    _wait_for(lambda: not Path(f"/proc/{child}").exists())


def _children(parent: int) -> list[str]:
    """Processes that measure for another."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
            command = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if f"PPid:\t{parent}\n" in text and b"measure_worker" in command:
            found.append(status.parent.name)
    return found


def _wait_for(found: Callable[[], Any]) -> Any:
    end = time.monotonic() + 120  # Seconds; only what hangs takes as long.
    while not (value := found()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return value
