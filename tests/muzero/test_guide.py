"""A trained network helps the planning of `solvers`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from muzero.agents import make_agent
from muzero.guide import Prior, guided
from muzero.task import Task
from muzero.training import Trainer
from solvers import planning
from solvers.problem import Problem, Simulator
from solvers.protocols import Genome
from solvers.spaces import ChoiceSpace
from tests.muzero import knapsack
from tests.muzero.knapsack import CONFIG, ITERATIONS, THINGS, Things

TASK: Task = knapsack.task()


def shortfall(instance: Things, genome: Genome) -> Float[Array, ""]:
    """Returns minus the worth of what is packed."""
    fits = jnp.sum(genome.choices * instance.weight) <= instance.capacity
    return jnp.where(fits, -jnp.sum(genome.choices * instance.worth), jnp.inf)


def packed(instance: Things, actions: Array) -> Genome:
    """Returns an episode as a genome: its actions are its choices."""
    return Genome(actions, jnp.zeros(0))


PROBLEM = Problem(
    space=ChoiceSpace(sizes=(2,) * 8),
    oracle=Simulator(cost_fn=shortfall, instance=THINGS),
    game=TASK.game,
    instance=THINGS,
    genome_fn=packed,
)


def test_what_was_learnt_guides_a_search_that_is_lost_alone() -> None:
    agent = make_agent("true-game", TASK)
    trainer = Trainer(agent=agent, config=CONFIG)
    state = trainer.init(TASK.instances, seed=0)
    for _ in range(ITERATIONS):
        state, _ = trainer.iterate(TASK.instances, state)
    advised = guided(PROBLEM, agent, state.params)
    totals = []
    for problem in (PROBLEM, advised):
        assert problem.game is not None and problem.genome_fn is not None
        found = planning.episodes(
            problem.game,
            problem.instance,
            jax.random.key(0),
            jnp.full(8, -1, jnp.int32),
            batch=1,
            num_simulations=2,
            gumbel_scale=0.0,
            prior_logits_fn=problem.prior_logits_fn or planning.uniform,
            value_fn=problem.value_fn or planning.nothing,
        )
        genome = problem.genome_fn(problem.instance, found.actions[0])
        batch = Genome(*(np.asarray(x)[None] for x in genome))
        (measured,) = problem.oracle.measure(batch)
        assert -measured.costs[0] == pytest.approx(float(found.total[0]), rel=1e-5)
        totals.append(float(found.total[0]))
    assert totals[0] < 0.95 * totals[1]
    assert totals[1] == pytest.approx(knapsack.optimum())


def test_the_prior_knows_the_rules() -> None:
    agent = make_agent("true-game", TASK)
    params = Trainer(agent=agent, config=CONFIG).init(TASK.instances, 0).params
    advised = guided(PROBLEM, agent, params)
    full = TASK.game.init(THINGS, jax.random.key(0))._replace(
        legal_action_mask=jnp.array([True, False])
    )
    logits = Prior(agent)(advised.instance, full)
    assert float(logits[1]) < -1e8 < float(logits[0])


def test_an_agent_of_another_game_is_refused() -> None:
    agent = make_agent("true-game", TASK)
    other = Problem(space=PROBLEM.space, oracle=PROBLEM.oracle)
    with pytest.raises(ValueError, match="not trained on this problem's game"):
        guided(other, agent, ())
