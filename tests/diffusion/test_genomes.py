"""Schedules as genomes of the engine: the protocols hold, and both sides mean one sampler."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import solvers
from diffusion import problems
from diffusion.evaluate import Judge
from diffusion.genomes import GenomeSpace, search_problem
from diffusion.noise import VPLinear
from diffusion.space import ScheduleSpace
from solvers.command.units import Budget
from solvers.contracts import check_game, check_oracle, check_space

PLAIN = ScheduleSpace(noise=VPLinear(), evaluations=3)
BLENDED = ScheduleSpace(noise=VPLinear(), evaluations=4, analytical=False, blend=True)


@pytest.mark.parametrize("schedules", [PLAIN, BLENDED], ids=["plain", "blended"])
def test_schedules_are_a_search_space(schedules: ScheduleSpace) -> None:
    check_space(GenomeSpace(schedules=schedules), samples=16)


@pytest.mark.parametrize("schedules", [PLAIN, BLENDED], ids=["plain", "blended"])
def test_a_schedule_survives_the_way_there_and_back(schedules: ScheduleSpace) -> None:
    genomes = GenomeSpace(schedules=schedules)
    found = jax.vmap(schedules.sample)(jax.random.split(jax.random.key(3), 8))
    # Scales beyond the ends are cut there.
    found = found._replace(first_scale=jnp.clip(found.first_scale, -2, 2))

    @jax.jit
    @jax.vmap
    def back(one):  # type: ignore[no-untyped-def]
        return genomes.to_schedule_genome(genomes.from_schedule(one))

    for name, before, after in zip(found._fields, found, back(found), strict=True):
        np.testing.assert_allclose(before, after, atol=2e-4, err_msg=name)


@functools.cache
def _search() -> tuple[solvers.Problem, Judge, GenomeSpace]:
    problem = problems.smooth_mixture()
    judge = Judge(problem, problem.draw(jax.random.key(0), 16))
    return (
        search_problem(PLAIN, problem, judge),
        judge,
        GenomeSpace(schedules=PLAIN),
    )


def test_the_cost_is_the_judges_error() -> None:
    given, judge, genomes = _search()
    drawn = jax.vmap(genomes.sample)(jax.random.split(jax.random.key(1), 4))
    check_oracle(given.oracle, drawn)
    for i, measured in enumerate(given.oracle.measure(drawn)):
        one = genomes.to_schedule_genome(jax.tree.map(lambda x, i=i: x[i], drawn))
        table = PLAIN.decode(one)
        assert measured.costs[0] == pytest.approx(judge.rmse(table), rel=1e-4)


def test_schedules_are_a_game_decision_by_decision() -> None:
    given = _search()[0]
    assert given.game is not None and given.advance_fn is not None
    turns = given.advance_fn(given.instance, None, jax.random.key(0))
    check_game(given.game, turns, episodes=2)


def test_the_engine_searches_schedules_and_begins_with_known_solvers() -> None:
    given, judge, genomes = _search()
    assert given.starts is not None
    count = len(given.starts.choices)
    result = solvers.search(given, "evolution", Budget(simulations=count + 200), 0)
    known = result.history[:count, 0].min()
    assert result.best is not None and result.costs[0] < known
    table = PLAIN.decode(genomes.to_schedule_genome(result.best))
    assert judge.rmse(table) == pytest.approx(result.costs[0], rel=1e-4)
