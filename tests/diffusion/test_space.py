"""The search space: genomes stay valid, mean what their schedules mean, and can be searched."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import grids, presets
from diffusion.lower import lower
from diffusion.noise import VPLinear
from diffusion.space import Genome, ScheduleSpace

VP = VPLinear()
SPACE = ScheduleSpace(noise=VP, evaluations=3)
COUNT = 64


@functools.cache
def _population() -> Genome:
    """Random genomes, mutated and crossed a few times over."""
    keys = jax.random.split(jax.random.key(0), COUNT)
    genomes = jax.jit(jax.vmap(SPACE.sample))(keys)

    @jax.jit
    def turn(genomes: Genome, key: jax.Array) -> Genome:
        one, two = jax.random.split(key)
        others = jax.tree.map(lambda leaf: leaf[::-1], genomes)
        crossed = jax.vmap(SPACE.crossover)(
            jax.random.split(one, COUNT), genomes, others
        )
        return jax.vmap(SPACE.mutate)(jax.random.split(two, COUNT), crossed)

    for key in jax.random.split(jax.random.key(1), 5):
        genomes = turn(genomes, key)
    return genomes


def _at(genomes: Genome, i: int) -> Genome:
    return jax.tree.map(lambda leaf: leaf[i], genomes)


def _wide(leaf: jax.Array) -> np.ndarray:
    value = np.asarray(leaf)
    return value.astype(np.float64) if value.dtype == np.float32 else value


@functools.cache
def _decode():  # type: ignore[no-untyped-def]
    return jax.jit(chex.assert_max_traces(SPACE.decode, n=1))


def test_decoding_is_lowering() -> None:
    """Every kind of decision, in float64 both; compiled once."""
    genomes = _population()
    assert len(np.unique(genomes.first)) == 3
    for i in range(COUNT):
        genome = _at(genomes, i)
        table = lower(SPACE.to_schedule(genome))
        with jax.enable_x64(True):
            ours = _decode()(jax.tree.map(_wide, genome))
        size = max(1.0, float(np.abs(table.weight).max()))
        for name in ("carry", "weight", "alpha", "sigma", "start_scale"):
            np.testing.assert_allclose(
                getattr(ours, name),
                getattr(table, name),
                atol=1e-8 * size,
                err_msg=name,
            )


def test_genomes_stay_schedules() -> None:
    genomes = _population()
    low, high = VP.log_snr(VP.start), VP.log_snr(VP.end)
    snr = np.asarray(genomes.log_snr)
    assert np.all(snr > low) and np.all(snr < high)
    assert np.all(np.diff(snr, axis=1) > 0)
    assert set(np.unique(genomes.order)) <= {1, 2, 3, 4}
    assert set(np.unique(genomes.data_share)) <= {0.0, 1.0}
    for i in range(COUNT):
        assert SPACE.to_schedule(_at(genomes, i)).evaluations == 3


def test_mutation_changes_little_and_crossover_only_mixes() -> None:
    a, b = _at(_population(), 0), _at(_population(), 1)
    changed = jax.jit(SPACE.mutate)(jax.random.key(3), a)
    same = [np.mean(np.asarray(x) == np.asarray(y)) for x, y in zip(a, changed)]
    assert 0.3 < np.mean(same) < 1.0
    crossed = jax.jit(SPACE.crossover)(jax.random.key(4), a, b)
    for x, one, other in zip(crossed, a, b):
        assert np.all((x == one) | (x == other))


def test_features_tell_samplers_apart_not_names() -> None:
    genome = _at(SPACE.seeds(), 0)
    encode = jax.jit(SPACE.encode)
    features = encode(genome)
    assert features.shape == (2 * 3 + 6,)
    # Order 1 has no derivative to scale: another name for the same sampler.
    first = genome._replace(order=jnp.ones(4, jnp.int32), corrector=jnp.zeros(4, bool))
    renamed = first._replace(first_scale=jnp.ones(4), low_order=jnp.ones(4, jnp.int32))
    np.testing.assert_allclose(encode(first), encode(renamed), atol=1e-6)
    noise = first._replace(data_share=jnp.zeros(4))
    data = first._replace(data_share=jnp.ones(4))
    np.testing.assert_allclose(encode(noise), encode(data), atol=1e-4)
    moved = first._replace(log_snr=first.log_snr.at[2].add(0.3))
    assert float(jnp.abs(encode(moved) - encode(first)).max()) > 0.01


def test_seeds_are_the_solvers_they_stand_for() -> None:
    seeds = SPACE.seeds()
    schedules = [SPACE.to_schedule(_at(seeds, i)) for i in range(seeds.first.shape[0])]
    tables = [lower(s) for s in schedules]
    times = grids.time_power(VP, 3, 2.0)
    for plan in (
        presets.ddim(VP, times),
        presets.deis(VP, times),
        presets.dpm_solver(VP, times, order=2, variant="taylor", prediction="data"),
    ):
        wanted = lower(plan)
        apart = [
            max(
                np.abs(t.weight - wanted.weight).max(),
                np.abs(t.carry - wanted.carry).max(),
            )
            for t in tables
        ]
        assert min(apart) < 1e-5


def test_decoding_has_gradients_for_what_is_continuous() -> None:
    genome = _at(SPACE.seeds(), 20)
    mixed = genome._replace(
        order=jnp.array([1, 1, 2, 3]), corrector=jnp.array([1, 1, 1, 0], bool)
    )

    @jax.jit
    @jax.grad
    def slope(numbers: tuple[jax.Array, ...], first: jax.Array) -> jax.Array:
        snr, scale, share = numbers
        changed = mixed._replace(
            log_snr=snr, first_scale=scale, data_share=share, first=first
        )
        return (SPACE.decode(changed).weight ** 2).sum()

    numbers = mixed.log_snr, mixed.first_scale, mixed.data_share
    for first in (0, 2):
        found = slope(numbers, jnp.int32(first))
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in found)
        assert all(float(jnp.abs(leaf).max()) > 0 for leaf in found)


def test_one_evaluation_is_nothing_to_search() -> None:
    with pytest.raises(ValueError, match="2 evaluations or more, not 1"):
        ScheduleSpace(noise=VP, evaluations=1)
