"""Plans as genomes: the protocols hold, and what is measured is the game's own time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import solvers
from mallocgame import engine, mapping, space, validate
from mallocgame.engine import Found
from mallocgame.instance import Problem
from solvers.command.units import Budget, Meter
from solvers.contracts import check_game, check_oracle, check_space
from solvers.protocols import Genome
from tests.mallocgame import programs

SETTINGS = engine.Settings(lanes=4)


@functools.cache
def _mlp() -> tuple[Problem, dict[str, Found], solvers.Problem]:
    problem = programs.golden("mlp", 0.05)
    start = engine.evaluate(problem, engine.seeds(problem), SETTINGS)
    return problem, start, space.search_problem(problem, start)


def test_plans_are_a_search_space() -> None:
    check_space(_mlp()[2].space, samples=16)


def test_the_game_keeps_its_contract() -> None:
    given = _mlp()[2]
    assert given.game is not None
    check_game(given.game, given.instance, episodes=2)


def test_the_simulator_is_an_oracle() -> None:
    given = _mlp()[2]
    keys = jax.random.split(jax.random.key(1), 8)
    check_oracle(given.oracle, jax.vmap(given.space.sample)(keys))


def test_seeds_cost_as_genomes_what_they_cost_as_plans() -> None:
    _, start, given = _mlp()
    measured = [m.costs[0] for m in given.oracle.measure(given.starts)]
    expected = sorted(found.seconds for found in start.values())
    np.testing.assert_allclose(measured, expected, rtol=1e-5)


def test_an_episode_and_its_genome_cost_the_same() -> None:
    problem, start, given = _mlp()
    best = min(start.values(), key=lambda found: found.seconds)
    actions = best.state.action[given.instance.instance.order]
    turns = given.instance.turns.shape[0]
    actions = jnp.pad(actions, (0, max(0, turns - len(actions))))[:turns]
    assert given.genome_fn is not None
    genome = given.genome_fn(given.instance, actions)
    assert float(space.seconds(problem.instance, genome)) == pytest.approx(best.seconds)


@pytest.mark.parametrize("strategy", ["local", "evolution"])
def test_strategies_of_the_engine_search_mappings(strategy: str) -> None:
    problem, start, _ = _mlp()
    settings = engine.Settings(strategy=strategy, lanes=4, seed=3)
    meter = Meter(Budget(simulations=120))
    spent = 0

    def done() -> bool:
        return spent >= 120 or meter.done()

    steps = []
    for step in engine.search(problem, start, settings, done):
        spent += step.simulations
        steps.append(step)
    least = min(found.seconds for found in start.values())
    found = steps[-1].found
    assert len(steps) > 1 and found.seconds <= least
    again = engine.evaluate(problem, {"it": found.plan}, SETTINGS)["it"]
    assert again.seconds == pytest.approx(found.seconds)
    # What climbing would go on from has been measured.
    assert float(steps[-1].lanes.seconds.min()) == pytest.approx(
        found.seconds, rel=1e-5
    )


def test_a_strategy_that_cannot_search_mappings_says_so() -> None:
    problem, start, _ = _mlp()
    settings = engine.Settings(strategy="cma", lanes=4)
    with pytest.raises(ValueError, match="CMA-ES needs a space of two or more values"):
        list(engine.search(problem, start, settings, lambda: False))


def test_any_numbers_are_a_plan_of_a_valid_mapping() -> None:
    # As genetic search makes them: a key for each access, whatever those of its buffer's others.
    problem = programs.golden("lstm_scan", 0.005)
    instance = problem.instance
    count = instance.order.shape[0]
    rng = np.random.default_rng(5)
    genomes = Genome(
        jnp.asarray(rng.integers(0, 4, (12, count)), jnp.int32),
        jnp.asarray(rng.random((12, 2 * count)), jnp.float32),
    )
    plans = jax.vmap(functools.partial(space.to_plan, instance))(genomes)
    buffer = np.asarray(instance.accesses.buffer)[: len(problem.accesses)]
    unordered = 0
    for k in range(12):
        rank = np.asarray(plans.rank[k])[: len(buffer)]
        keys = np.asarray(genomes.values[k])[: len(buffer)]
        for one in set(buffer.tolist()):
            assert (np.diff(rank[buffer == one]) >= 0).all()
            unordered += bool((np.diff(keys[buffer == one]) < 0).any())
        played = engine.evaluate(
            problem, {"x": jax.tree.map(lambda x, k=k: x[k], plans)}, SETTINGS
        )["x"]
        validate.require_valid(problem, mapping.from_state(problem, played.state))
    assert unordered
