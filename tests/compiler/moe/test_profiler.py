"""The profiler on eight virtual devices, in a process of its own: collectives do what they say, lines come out."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from compiler.moe import performance, profiler

PROGRAM = """
import json, sys
import jax, numpy as np
from compiler.moe import profiler

devices, n = jax.devices(), 8
x = np.arange(16.0 * n, dtype=np.float32)
done = {k: np.asarray(profiler.collective(k, devices)(x)).tolist()
        for k in ("all_to_all", "all_gather", "reduce_scatter", "all_reduce", "permute")}
model = profiler.profile(devices, messages=(1 << 10, 1 << 16, 1 << 17), gemm_rows=(64, 512, 1024), gemm_width=128,
                         repeats=2)
profiler.seconds = lambda run, repeats: 1e-3 * (0.5 + 1e-6 * run.args[0].size)
timed = profiler.profile(devices, messages=(1 << 10, 1 << 16), gemm_rows=(64, 512), gemm_width=128)
print(json.dumps([done, model.to_json(), timed.to_json()]))
"""


@pytest.fixture(scope="module")
def measured():
    flags = os.environ.get("XLA_FLAGS", "")
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=8",
    }
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return json.loads(run.stdout.splitlines()[-1])


def test_collectives(measured):
    done = {kind: np.array(values) for kind, values in measured[0].items()}
    own = np.arange(128.0).reshape(8, 16)
    exchanged = own.reshape(8, 8, 2).transpose(1, 0, 2)
    np.testing.assert_array_equal(done["all_to_all"], exchanged.ravel())
    np.testing.assert_array_equal(done["all_gather"], np.tile(own.ravel(), 8))
    np.testing.assert_array_equal(done["reduce_scatter"], own.sum(axis=0))
    np.testing.assert_array_equal(done["all_reduce"], np.tile(own.sum(axis=0), 8))
    np.testing.assert_array_equal(done["permute"], np.roll(own, 1, axis=0).ravel())


def test_lines(measured):
    model = performance.from_json(measured[1])
    assert set(model.lines) == set(performance.KINDS)
    for line in model.lines.values():
        assert line.r2 is not None and line.r2 <= 1
    assert model.provenance["versions"]["jax"] == jax.__version__


def test_units(measured):
    """With a clock that gives 0.5 ms and 1 ns per element of the whole array: eight devices, one message each."""
    model = performance.from_json(measured[2])
    for kind, line in model.lines.items():
        # A GEMM's array is its rows of 128, and each element meets 128 others.
        per = 1e-6 / 128 if kind == "gemm" else 8e-6
        np.testing.assert_allclose((line.startup, line.slope), (0.5, per), rtol=1e-6)


def test_refuses():
    with pytest.raises(ValueError, match="need two devices, not 1"):
        profiler.profile(jax.devices()[:1])
    with pytest.raises(ValueError, match="'gossip' is none of"):
        profiler.collective("gossip", jax.devices())
    with pytest.raises(ValueError, match="1001 elements can't be shared by 2"):
        profiler.profile(jax.devices()[:1] * 2, messages=(1000, 1001))
