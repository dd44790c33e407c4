"""The sampler: one compilation, batching, sharding, gradients, hooks, noise."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import adams, grids, presets
from diffusion.lower import lower
from diffusion.mixture import Mixture, denoiser
from diffusion.noise import EDM, VPLinear
from diffusion.prediction import Point, dynamic_threshold, guided
from diffusion.sampler import sample, start, trajectory
from diffusion.schedule import Scale, Schedule, taylor
from diffusion.table import StepTable, stack

VP = VPLinear()
MIXTURE = Mixture(
    mean=jnp.array([[1.0, 0.0], [-1.0, 0.5], [0.0, 2.0]]),
    variance=jnp.array([0.3, 0.1, 0.2]),
    log_weight=jnp.log(jnp.array([0.5, 0.3, 0.2])),
    label=jnp.array([0, 1, 1]),
)
EXACT = denoiser(MIXTURE)
NOISE = jax.random.normal(jax.random.key(7), (6, 2))
RUN = jax.jit(functools.partial(sample, EXACT))


def _tables(steps: int) -> list[StepTable]:
    """As many kinds of solver as there are, all of the same number of evaluations."""
    plans = []
    for grid in grids.GRIDS.values():
        times = grid(VP, steps)
        plans += [
            presets.ddim(VP, times),
            presets.dpm_solver(VP, times, order=3),
            presets.singlestep_on(VP, times, order=3),
            presets.deis(VP, times),
            *(presets.unipc(VP, times, order=n) for n in (1, 2, 3)),
        ]
        longer = grid(VP, steps + 1)
        scale = Scale(kind="linear", value=0.1)
        plan = [taylor(min(i + 1, 2), scales=(scale,)) for i in range(steps + 1)]
        plans.append(
            Schedule(noise=VP, times=tuple(longer), steps=tuple(plan), first="unit")
        )
    tables = [lower(plan) for plan in plans]
    return [*tables, *(adams.ipndm(VP, g(VP, steps)) for g in grids.GRIDS.values())]


def _by_hand(table: StepTable, x: Any, denoise: Any = EXACT) -> Any:
    x = table.start_scale * x + table.start_shift
    past: list[Any] = []
    for n in range(table.evaluations):
        point = Point(table.time[n], table.alpha[n], table.sigma[n])
        past.insert(0, denoise(x, point, None))
        x = table.carry[n] * x + table.shift[n]
        x = x + sum(table.weight[n, k] * d for k, d in enumerate(past[: table.window]))
    return x


def test_36_solvers_are_one_compilation_and_each_is_right() -> None:
    tables = _tables(5)
    assert len(tables) == 36

    @jax.jit
    @chex.assert_max_traces(n=1)
    def run(table: StepTable, x: jax.Array) -> jax.Array:
        return sample(EXACT, table, x)

    together = jax.jit(jax.vmap(functools.partial(sample, EXACT), in_axes=(0, None)))
    batched = together(stack(tables), NOISE)
    for table, row in zip(tables, batched):
        alone = run(table, NOISE)
        np.testing.assert_allclose(alone, _by_hand(table, NOISE), atol=2e-5)
        np.testing.assert_allclose(row, alone, atol=2e-5)


def test_rows_of_a_batch_do_not_meet() -> None:
    table = _tables(4)[5]
    alone = [RUN(table, NOISE[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(RUN(table, NOISE[:3]), jnp.stack(alone), atol=1e-6)
    by_noise = jax.vmap(lambda x: RUN(table, x[None])[0])(NOISE[:3])
    np.testing.assert_allclose(by_noise, jnp.stack(alone), atol=1e-6)


def test_a_short_window_runs_in_a_ring() -> None:
    plan = presets.dpm_solver_pp(VP, grids.logsnr(VP, 9), order=3)
    short, full = lower(plan, window=3), lower(plan)
    np.testing.assert_allclose(RUN(short, NOISE), RUN(full, NOISE), atol=1e-6)


def test_coefficients_per_element() -> None:
    """A table whose second element takes another solver than the first, and its own shift."""
    one, two = (lower(presets.unipc(VP, grids.logsnr(VP, 4), order=n)) for n in (1, 3))
    mixed = one._replace(
        carry=np.stack([one.carry, two.carry], -1),
        weight=np.stack([one.weight, two.weight], -1),
        shift=np.array([[0.0, 0.5]] * 4),
    )

    def apart(x: Any, point: Point, cond: Any) -> Any:
        return jnp.tanh(x) * point.alpha

    result = sample(apart, mixed, NOISE)
    shifted = two._replace(shift=np.full(4, 0.5))
    np.testing.assert_allclose(
        result[:, 0], _by_hand(one, NOISE[:, 0], apart), atol=1e-6
    )
    np.testing.assert_allclose(
        result[:, 1], _by_hand(shifted, NOISE[:, 1], apart), atol=1e-6
    )


def test_gradients_through_the_table_are_those_of_finite_differences() -> None:
    table = lower(presets.unipc(VP, grids.logsnr(VP, 4), order=2))
    with jax.enable_x64(True):
        model = denoiser(jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), MIXTURE))
        x = jnp.asarray(np.asarray(NOISE), jnp.float64)

        @jax.jit
        def loss(table: StepTable) -> jax.Array:
            return (sample(model, table, x) ** 2).mean()

        table = jax.tree.map(jnp.asarray, table)
        slope = jax.grad(loss)(table)
        for name, index in [
            ("carry", (2,)),
            ("weight", (3, 1)),
            ("sigma", (1,)),
            ("shift", (0,)),
            ("start_scale", ()),
        ]:
            step = 1e-6
            ends = []
            for sign in (1, -1):
                leaf = getattr(table, name).at[index].add(sign * step)
                ends.append(float(loss(table._replace(**{name: leaf}))))
            numeric = (ends[0] - ends[1]) / (2 * step)
            ours = float(getattr(slope, name)[index])
            np.testing.assert_allclose(ours, numeric, rtol=1e-5, atol=1e-9)
        # Entries that mean nothing get no gradient.
        assert np.all(np.triu(np.asarray(slope.weight), 1) == 0)


def test_guidance_and_conditions_reach_the_model() -> None:
    table = lower(presets.unipc(VP, grids.logsnr(VP, 12), order=2))
    labels = jnp.zeros(6, jnp.int32)
    one_class = RUN(table, NOISE, cond=labels)
    own = MIXTURE._replace(log_weight=jnp.array([0.0, -jnp.inf, -jnp.inf]))
    np.testing.assert_allclose(
        one_class, sample(denoiser(own), table, NOISE), atol=1e-4
    )
    plain = sample(guided(EXACT, 1.0, jnp.array(-1)), table, NOISE, cond=labels)
    np.testing.assert_allclose(plain, one_class, atol=1e-4)
    none = sample(guided(EXACT, 0.0, jnp.array(-1)), table, NOISE, cond=labels)
    np.testing.assert_allclose(none, RUN(table, NOISE), atol=1e-4)


def test_hooks_change_what_goes_on() -> None:
    table = lower(presets.unipc(VP, grids.logsnr(VP, 6), order=2))

    def bounded(n: Any, x: Any, data: Any) -> Any:
        return dynamic_threshold(data, limit=0.5)

    held = jnp.array([True, False])

    def inpaint(n: Any, x: Any, data: Any) -> Any:
        return jnp.where(held, 0.25, data)

    _, way = trajectory(EXACT, table, NOISE, on_denoised=bounded)
    assert float(jnp.abs(way.denoised).max()) <= 0.5 + 1e-6
    painted = sample(EXACT, table, NOISE, on_denoised=inpaint)
    alpha, sigma = VP.marginal(np.array([VP.start, VP.end]))
    kept = 0.25 * alpha[1] + sigma[1] / sigma[0] * (NOISE[:, 0] - 0.25 * alpha[0])
    np.testing.assert_allclose(painted[:, 0], kept, atol=1e-5)
    seen = []

    def watch(n: Any, x: Any, after: Any) -> Any:
        jax.debug.callback(lambda n: seen.append(int(n)), n, ordered=True)
        return after

    sample(EXACT, table, NOISE, on_state=watch).block_until_ready()
    jax.effects_barrier()
    assert seen == list(range(6))


def test_the_trajectory_is_that_of_the_sample() -> None:
    table = lower(presets.ddim(VP, grids.logsnr(VP, 5)))
    result, way = trajectory(EXACT, table, NOISE)
    np.testing.assert_array_equal(result, sample(EXACT, table, NOISE))
    np.testing.assert_array_equal(way.states[0], NOISE)
    for n in range(4):
        after = table.carry[n] * way.states[n] + table.weight[n, 0] * way.denoised[n]
        np.testing.assert_allclose(way.states[n + 1], after, atol=1e-5)


def test_image_to_image_from_the_models_own_sample_stays_near_it() -> None:
    end_of_way = float(VP.time(2.0))
    times = np.geomspace(end_of_way, VP.end, 9)
    table = lower(presets.unipc(VP, times, order=2))
    image = jnp.array([[1.0, 0.0]])
    x = start(table, NOISE, image)
    alpha, sigma = VP.marginal(end_of_way)
    np.testing.assert_allclose(x, alpha * image + sigma * NOISE, rtol=1e-5)
    moved = float(jnp.abs(sample(EXACT, table, x) - image).max())
    assert 0.01 < moved < 1.0
    np.testing.assert_allclose(start(table, NOISE), sigma * NOISE, rtol=1e-5)


def test_low_precision_models_keep_a_float32_state() -> None:
    table = lower(presets.unipc(EDM(), grids.edm(EDM(), 8), order=2))

    def half(x: Any, point: Point, cond: Any) -> Any:
        return EXACT(x, point, cond).astype(jnp.bfloat16)

    result = sample(half, table, start(table, NOISE).astype(jnp.bfloat16))
    assert result.dtype == jnp.float32
    exact = sample(EXACT, table, start(table, NOISE))
    assert float(jnp.abs(result - exact).max()) < 0.05


@pytest.mark.parametrize("order, steps", [(1, 600), (2, 60)])
def test_stochastic_samplers_give_the_right_distribution(
    order: int, steps: int
) -> None:
    """Normal data of deviation 1/2: what comes out has it too, and depends on the key only."""
    data = MIXTURE._replace(
        mean=jnp.zeros((1, 2)),
        variance=jnp.array([0.25]),
        log_weight=jnp.zeros(1),
        label=jnp.zeros(1, jnp.int32),
    )
    table = lower(
        presets.sde_dpm_solver_pp(VP, grids.logsnr(VP, steps), order=order),
        window=order,
    )
    run = jax.jit(functools.partial(sample, denoiser(data)))
    x = jax.random.normal(jax.random.key(0), (20_000, 2))
    first = run(table, x, key=jax.random.key(1))
    np.testing.assert_array_equal(first, run(table, x, key=jax.random.key(1)))
    assert float(jnp.abs(jnp.corrcoef(x[:, 0], first[:, 0])[0, 1])) < 0.1
    np.testing.assert_allclose(first.std(0), 0.5, rtol=0.02)
    np.testing.assert_allclose(first.mean(0), 0.0, atol=0.02)


def test_what_cannot_be_run_is_named() -> None:
    table = lower(presets.sde_dpm_solver_pp(VP, grids.logsnr(VP, 4)))
    with pytest.raises(ValueError, match="needs a key"):
        sample(EXACT, table, NOISE)
    plain = table._replace(noise=None)
    broken = plain._replace(carry=np.array([1.0, np.nan, 1.0, 1.0]))
    with pytest.raises(ValueError, match=r"table\.carry holds a number"):
        sample(EXACT, broken, NOISE)
    with pytest.raises(ValueError, match=r"table\.sigma has \(3,\) rows"):
        sample(EXACT, plain._replace(sigma=plain.sigma[:3]), NOISE)
    # It would fit into the sampler's memory, in a corner.
    with pytest.raises(ValueError, match="makes an array of shape"):
        sample(lambda x, *_: x[:1], plain, NOISE)


_SHARDED = """
import functools, jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from diffusion import grids, presets
from diffusion.lower import lower
from diffusion.mixture import denoiser, kernel_density
from diffusion.noise import VPLinear
from diffusion.sampler import sample
assert jax.device_count() == 8
model = denoiser(kernel_density(jax.random.normal(jax.random.key(0), (5, 3)), 0.3))
times = grids.logsnr(VPLinear(), 4)
x, key = jax.random.normal(jax.random.key(1), (16, 3)), jax.random.key(2)
run = jax.jit(functools.partial(sample, model))
for plan in (presets.unipc, presets.sde_dpm_solver_pp):
    table = lower(plan(VPLinear(), times, order=2))
    alone = run(table, x, key=key)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((8,), ("batch",), axis_types=(kind,))
        put = jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch")))
        split = run(table, put, key=key)
        assert len(split.sharding.device_set) == 8 and split.sharding.spec[0] == "batch"
        assert "all-" not in run.lower(table, put, key=key).compile().as_text()
        np.testing.assert_allclose(alone, split, atol=1e-5)
"""


def test_batches_shard_over_eight_devices_without_talking() -> None:
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", _SHARDED],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
