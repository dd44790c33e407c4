"""The memory game through the engine's contracts, and searched by its strategies."""

import jax
import numpy as np

import solvers
from mallocgame import mapping, rollout, space, validate
from solvers import contracts
from solvers.command import Budget
from solvers.protocols import Genome
from tests.mallocgame import programs


def test_the_game_keeps_the_contract() -> None:
    instance = programs.synthetic(0).instance
    contracts.check_game(space.MemoryGame(), instance, episodes=2)


def test_what_the_engine_finds_is_a_valid_mapping_of_that_time() -> None:
    problem = programs.synthetic(0)
    found = solvers.search(space.problem(problem), "evolution", Budget(simulations=48))
    assert found.best is not None
    outcome = jax.jit(rollout.play)(
        problem.instance,
        space.plan(problem.instance, Genome(*map(np.asarray, found.best))),
    )
    validate.require_valid(problem, mapping.from_state(problem, outcome.state))
    np.testing.assert_allclose(outcome.timeline.total, found.costs[0], rtol=1e-5)
    assert found.costs[0] < found.history.max()
