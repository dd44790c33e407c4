"""Evolution, refinement and the peers: each finds something better than what it starts from."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import evaluate, grids, peers, presets, problems
from diffusion.evaluate import Judge, Sets
from diffusion.evolve import EvolutionConfig, evolve
from diffusion.lower import lower
from diffusion.problems import Problem
from diffusion.refine import FitConfig, free, refine, trained_numbers, with_free
from diffusion.space import ScheduleSpace
from diffusion.table import StepTable

STEPS = 3
CONFIG = FitConfig(steps=60, batch=64, check_every=20, learning_rate=1e-2)


@functools.cache
def _problem() -> tuple[Problem, Sets]:
    """Narrow components, so that the grid matters; a few noises."""
    mixture = problems.smooth_mixture(dimensions=3, components=4)
    return mixture, evaluate.sets(mixture, sizes=(64, 64, 64))


@functools.cache
def _start() -> tuple[StepTable, float]:
    problem, sets = _problem()
    table = lower(
        presets.dpm_solver_pp(problem.noise, grids.logsnr(problem.noise, STEPS))
    )
    return table, sets.select.rmse(table)


def test_two_kinds_of_reference_agree() -> None:
    problem, sets = _problem()
    noise = problems.reference_table(problem.noise, 150, "noise")
    data = problems.reference_table(problem.noise, 150, "data")
    apart = sets.report.samples(noise) - sets.report.samples(data)
    assert float(jnp.abs(apart).max()) < 2e-4
    assert sets.report.rmse(data) < 1e-4


def test_the_three_sets_share_no_noise() -> None:
    _, sets = _problem()
    every = jnp.concatenate([sets.search.x, sets.select.x, sets.report.x])
    assert len(np.unique(np.asarray(every), axis=0)) == 3 * 64


def test_every_baseline_runs_within_its_budget_and_the_select_set_chooses() -> None:
    problem, sets = _problem()
    found = evaluate.baselines(problem.noise, STEPS)
    assert set(found) == set(evaluate.BASELINES)
    for family, samplers in found.items():
        for sampler in samplers.values():
            assert sampler.evaluations == STEPS, family
    scores = {n: sets.select.rmse(lower(s)) for n, s in found["UniPC"].items()}
    result = evaluate.report("UniPC", found["UniPC"], sets)
    assert result.setting == min(scores, key=scores.__getitem__)
    assert result.interval[0] < result.reported < result.interval[1]
    assert result.reported == sets.report.rmse(result.table)


def test_samplers_that_fail_score_worst() -> None:
    _, sets = _problem()
    table, good = _start()
    exploding = table._replace(carry=np.full(STEPS, 1e30))
    assert sets.select.rmse(exploding) == np.inf
    assert np.isfinite(good)


def test_evolution_beats_its_seeds_on_noise_it_did_not_see() -> None:
    problem, sets = _problem()
    space = ScheduleSpace(noise=problem.noise, evaluations=STEPS)
    config = EvolutionConfig(evaluations=560, survivors=64, finalists=8)
    found = evolve(space, problem, sets.search, sets.select, jax.random.key(0), config)
    errors = [error for _, error in found.history]
    assert errors == sorted(errors, reverse=True)
    assert found.evaluations == found.history[-1][0] <= 560
    assert sets.report.rmse(found.table) < 0.9 * errors[0]
    assert found.searched == pytest.approx(sets.search.rmse(lower(found.schedule)))


def test_refinement_improves_a_table_and_never_harms_it() -> None:
    problem, sets = _problem()
    table, start = _start()
    found = refine(problem, table, sets.search, sets.select, jax.random.key(0), CONFIG)
    assert found.started == pytest.approx(start, rel=1e-3)
    assert found.selected == pytest.approx(sets.select.rmse(found.table), rel=1e-4)
    assert sets.report.rmse(found.table) < 0.7 * sets.report.rmse(table)
    wild = FitConfig(steps=20, learning_rate=10.0, check_every=20, batch=64)
    kept = refine(problem, table, sets.search, sets.select, jax.random.key(0), wild)
    assert kept.selected <= kept.started
    assert trained_numbers(table) == 2 * STEPS - 1 + STEPS * (STEPS + 1) // 2


def test_free_numbers_put_back_are_the_table() -> None:
    problem, _ = _problem()
    table, _ = _start()
    back = with_free(table, free(table), problem.noise)
    for name in table._fields:
        if name != "noise":
            np.testing.assert_allclose(
                getattr(back, name), getattr(table, name), rtol=1e-9, err_msg=name
            )


def test_only_plain_tables_are_refined() -> None:
    problem, sets = _problem()
    noise = problem.noise
    table = lower(presets.sde_dpm_solver_pp(noise, grids.logsnr(noise, STEPS)))
    with pytest.raises(ValueError, match="deterministic"):
        refine(problem, table, sets.search, sets.select, jax.random.key(0))


@functools.cache
def _teacher() -> peers.Teacher:
    problem, sets = _problem()
    return peers.teacher(problem, sets.search.x[:32], points=31)


def test_the_teachers_slopes_are_those_of_its_states() -> None:
    taught = _teacher()
    moved = (taught.states[2:] - taught.states[:-2]).reshape(29, -1)
    gap = (taught.rho[2:] - taught.rho[:-2])[:, None]
    slope = taught.slopes[1:-1].reshape(29, -1)
    error = np.abs(moved / gap - slope).mean(1) / np.abs(slope).mean(1)
    assert np.median(error) < 0.1


GRIDS: dict[str, Callable[[], grids.Times]] = {
    "gits": lambda: peers.gits(_teacher(), STEPS),
    "oss": lambda: peers.oss(_problem()[0], _teacher(), STEPS),
    "dmn": lambda: peers.dmn(_problem()[0].noise, STEPS, iterations=200),
}


@pytest.mark.parametrize("name", GRIDS)
def test_grids_are_grids(name: str) -> None:
    noise = _problem()[0].noise
    times = GRIDS[name]()
    assert times.shape == (STEPS + 1,)
    assert np.all(np.diff(times) < 0)
    np.testing.assert_allclose(times[[0, -1]], [noise.start, noise.end], rtol=1e-5)


def test_dynamic_programming_finds_grids_better_for_euler_than_uniform_ones() -> None:
    problem, sets = _problem()
    noise = problem.noise

    def euler(times: grids.Times) -> float:
        return sets.report.rmse(lower(presets.ddim(noise, times)))

    plain = [euler(make(noise, STEPS)) for make in grids.GRIDS.values()]
    assert euler(GRIDS["oss"]()) < np.median(plain)
    assert euler(GRIDS["gits"]()) < max(plain)


def test_oss_is_optimal_where_it_can_be_checked() -> None:
    """Two Euler steps on a coarse teacher: every middle point tried."""
    problem, sets = _problem()
    taught = peers.teacher(problem, sets.search.x[:16], points=13)
    times = peers.oss(problem, taught, 2)
    judge = Judge(problem, sets.search.x[:16], _ends(problem, taught))
    every = [
        judge.rmse(lower(presets.ddim(problem.noise, taught.times[[0, j, -1]])))
        for j in range(1, 12)
    ]
    ours = judge.rmse(lower(presets.ddim(problem.noise, times)))
    assert ours == pytest.approx(min(every), rel=1e-3)


def _ends(problem: Problem, taught: peers.Teacher) -> jax.Array:
    alpha = float(problem.noise.marginal(taught.times[-1])[0])
    return alpha * taught.states[-1]


def test_learned_tables_improve_on_what_they_start_from() -> None:
    problem, sets = _problem()
    _, start = _start()
    common = (STEPS, sets.search, sets.select, jax.random.key(0))
    found = {
        "ld3": peers.ld3(problem, presets.dpm_solver_pp, *common, config=CONFIG),
        "gs": peers.gs(problem, *common, config=CONFIG),
        "dyweight": peers.dyweight(problem, *common, config=CONFIG),
    }
    assert found["ld3"].started == pytest.approx(start, rel=1e-2)
    for name, fitted in found.items():
        assert fitted.table.evaluations == STEPS
        assert fitted.selected < 0.9 * fitted.started, name
        error = sets.report.rmse(fitted.table)
        assert error < 1.5 * fitted.selected, name
