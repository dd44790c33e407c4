"""Spaces, fronts, and the contracts over every implementation in the repository."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import solvers
from benchmarks import shops
from solvers import contracts, pareto, spaces
from solvers.adapters import SeededGame, decode
from solvers.predictor import Ensemble, kendall_tau, ranking_loss
from solvers.problem import Problem
from solvers.protocols import Genome
from solvers.spaces import ChoiceSpace
from solvers.strategies import (
    STRATEGIES,
    Beam,
    CovarianceAdaptation,
    Evolution,
    Informed,
    Local,
    Mcts,
    Predicted,
    RandomKey,
    Uct,
)
from tests.solvers import known


def _odd(genome: Genome) -> Genome:
    """Repairs to an odd sum of choices, by the first of two options."""
    even = 1 - jnp.sum(genome.choices) % 2
    first = genome.choices[0]
    return genome._replace(choices=genome.choices.at[0].set(first ^ even))


def _out(genome: Genome) -> Genome:
    """Repairs to nonsense."""
    return genome._replace(choices=genome.choices - 1)


SPACES = {
    "choices": ChoiceSpace(sizes=(2, 3, 1, 5)),
    "values": spaces.permutations(5),
    "repaired": ChoiceSpace(sizes=(2, 3, 2), num_values=2, rate=2.0, repair_fn=_odd),
}


@pytest.mark.parametrize("name", SPACES)
def test_spaces_keep_the_contract(name: str) -> None:
    contracts.check_space(SPACES[name])


def test_a_space_that_returns_no_members_is_found_out() -> None:
    with pytest.raises(AssertionError, match="out of range"):
        contracts.check_space(ChoiceSpace(sizes=(2, 2), repair_fn=_out), samples=4)


def test_permutations_are_all_and_each_is_one() -> None:
    drawn = spaces.sample(spaces.permutations(3), jax.random.key(0), 64)
    orders = {tuple(map(int, order)) for order in jax.vmap(spaces.permutation)(drawn)}
    assert orders == set(itertools.permutations(range(3)))


def test_equal_genomes_have_equal_keys() -> None:
    genomes = Genome(
        np.zeros((3, 1), np.int32), np.array([[0.0], [-0.0], [1e-9]], np.float32)
    )
    one, other, third = spaces.keys(genomes)
    assert one == other != third


def test_fronts_are_those_of_the_definition() -> None:
    costs = np.random.default_rng(0).integers(0, 6, (40, 2)).astype(np.float32)
    costs[3] = np.inf
    left, expected, level = set(range(40)), np.zeros(40, int), 0
    while left:
        best = {
            i
            for i in left
            if not any(
                (costs[j] <= costs[i]).all() and (costs[j] < costs[i]).any()
                for j in left
            )
        }
        expected[list(best)] = level
        left, level = left - best, level + 1
    np.testing.assert_array_equal(jax.jit(pareto.fronts)(costs), expected)
    rank = np.asarray(jax.jit(pareto.rank)(costs))
    assert sorted(rank) == list(range(40)) and rank[3] == 39
    finite = np.delete(np.arange(40), 3)
    assert (np.diff(expected[finite][np.argsort(rank[finite])]) >= 0).all()
    rows = pareto.front_rows(costs)
    assert {tuple(row) for row in costs[rows]} == {
        tuple(row) for row in costs[expected == 0]
    }
    assert (np.diff(costs[rows], axis=0) * [1, -1] > 0).all()


def test_a_front_gains_what_the_area_says() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        front, points = rng.integers(0, 8, (4, 2)), rng.integers(0, 8, (6, 2))
        corner = np.concatenate([points, front]).max(axis=0) + 1
        cells = list(itertools.product(range(corner[0]), range(corner[1])))

        def area(rows: Any, cells: Any = cells) -> int:
            return sum(any(x >= a and y >= b for a, b in rows) for x, y in cells)

        gains = pareto.gains(points.astype(float), front.astype(float), 1.0)
        for point, gain in zip(points, gains, strict=True):
            assert gain == pytest.approx(area([*front, point]) - area(front))
    alone = pareto.gains(np.array([[0.0, 1.0], [2.0, 0.0]]), np.zeros((0, 2)), 0.5)
    assert alone.tolist() == [2.5 * 0.5, 0.5 * 1.5]


def test_the_lonely_and_the_ends_of_a_front_come_first() -> None:
    costs = jnp.array([[0.0, 4.0], [1.0, 3.0], [1.1, 2.9], [4.0, 0.0]])
    assert set(np.argsort(jax.jit(pareto.rank)(costs))[:2]) == {0, 3}
    gap = jax.jit(pareto.crowding)(costs, jnp.zeros(4, jnp.int32))
    # Neighbours on either side, both objectives, as shares of their span 4.
    assert float(gap[1]) == pytest.approx((1.1 + 1.1) / 4)


def test_the_ensemble_keeps_the_contract() -> None:
    contracts.check_predictor(Ensemble())


def test_ranking_loss_by_hand() -> None:
    """Two pairs with a cheaper row: gaps 1 and -2; the failures are no pair."""
    score = jnp.array([[0.0], [1.0], [-2.0], [-2.0]])
    costs = jnp.array([[1.0], [3.0], [jnp.inf], [jnp.inf]])
    ones = jnp.ones(4)
    loss = jax.jit(ranking_loss, static_argnames="kind")
    hinge = loss(score, costs, ones, kind="hinge")
    # Pairs: (1, 0) gap 1; (2, 0) and (3, 0) gap -2; (2, 1) and (3, 1) gap -3.
    assert float(hinge) == pytest.approx((0 + 3 + 3 + 4 + 4) / 5)
    logistic = loss(score, costs, ones, kind="logistic")
    expected = np.log1p(np.exp([-1.0, 2.0, 2.0, 3.0, 3.0])).mean()
    assert float(logistic) == pytest.approx(expected, rel=1e-6)


def test_kendall_tau_of_an_order_and_its_reverse() -> None:
    order = jnp.arange(5.0)
    assert kendall_tau(order, order) == 1.0
    assert kendall_tau(order, -order) == -1.0


@functools.cache
def _shop() -> Problem:
    shop = shops.random_shop(3, 3, 0)
    return solvers.evolved(shops.JobShop(3), shop)


@functools.cache
def _nk() -> Problem:
    return known.nk_problem(8, 2, 0)[0]


def test_games_keep_the_contract() -> None:
    shop = _shop()
    assert isinstance(shop.game, SeededGame)
    contracts.check_game(shops.JobShop(3), shops.random_shop(3, 3, 0))
    nk = _nk()
    assert nk.game is not None and nk.advance_fn is not None
    turns = nk.advance_fn(nk.instance, None, jax.random.key(0))
    contracts.check_game(nk.game, turns)


class _Endless(shops.JobShop):
    """Says that it ends before it does."""

    def num_decisions(self, instance: shops.Shop) -> int:
        return int(instance.machine.size) - 1


def test_a_game_that_does_not_end_is_found_out() -> None:
    with pytest.raises(AssertionError, match="not over after"):
        contracts.check_game(_Endless(3), shops.random_shop(3, 3, 0))


def test_a_space_game_returns_what_the_cost_falls_by() -> None:
    space = ChoiceSpace(sizes=(3, 2), num_values=1)

    def cost(weights: Any, genome: Genome) -> Any:
        return jnp.sum(genome.choices * weights) + genome.values[0]

    problem = solvers.played(space, cost, jnp.array([1.0, 10.0]))
    game, key = problem.game, jax.random.key(0)
    assert game is not None and problem.advance_fn and problem.genome_fn
    base = Genome(jnp.array([2, 1], jnp.int32), jnp.array([0.5], jnp.float32))
    turns = problem.advance_fn(problem.instance, base, key)
    # Option 0 of every gene; of the value, level 0 of 8 is 0.
    state, total = jax.jit(game.init)(turns, key), 0.0
    assert float(state.cost) == pytest.approx(12.5)
    step = jax.jit(game.step)
    for _ in range(3):
        state = step(turns, state, jnp.int32(0))
        total += float(state.reward)
    assert total == pytest.approx(12.5) and float(state.cost) == 0.0
    made = problem.genome_fn(turns, jnp.zeros(3, jnp.int32))
    assert [*made.choices, *made.values] == [0, 0, 0]


def test_random_keys_decode_to_the_episode_that_made_them() -> None:
    problem = _shop()
    assert problem.game is not None and problem.genome_fn is not None
    actions = jnp.array([2, 0, 0, 1, 2, 1, 0, 1, 2], jnp.int32)
    keys = problem.genome_fn(problem.instance, actions)
    decoded, total = jax.jit(decode, static_argnums=0)(
        problem.game, problem.instance, keys
    )
    np.testing.assert_array_equal(decoded, actions)
    batch = Genome(*(x[None] for x in keys))
    assert problem.oracle.measure(batch)[0].costs[0] == pytest.approx(-float(total))


# Small settings, so that a few rounds reach each strategy's second phase.
_SMALL = {
    "random": (STRATEGIES["random"], "nk"),
    "local": (Local(patience=2), "nk"),
    "annealing": (Local(patience=None, heat=0.3), "nk"),
    "evolution": (Evolution(size=8, batch=8), "nk"),
    "brkga": (RandomKey(size=10), "shop"),
    "cma": (CovarianceAdaptation(batch=6), "shop"),
    "beam": (Beam(width=4, keep=2), "shop"),
    "mcts": (Mcts(batch=2, num_simulations=4), "nk"),
    "uct": (Uct(num_simulations=8), "shop"),
    "predicted": (
        Predicted(
            initial=8,
            batch=4,
            predictor=Ensemble(members=2, steps=4),
            generations=2,
            size=8,
            parents=4,
        ),
        "nk",
    ),
    "guided": (Informed(), "nk"),
}


def test_every_strategy_has_a_row_here() -> None:
    assert _SMALL.keys() == STRATEGIES.keys()


@pytest.mark.parametrize("name", _SMALL)
def test_strategies_keep_the_contract(name: str) -> None:
    if name == "cma":
        pytest.importorskip("cma")
    strategy, problem = _SMALL[name]
    contracts.check_strategy(strategy, _nk() if problem == "nk" else _shop())


def test_simulators_keep_the_contract() -> None:
    oracle = _nk().oracle
    contracts.check_oracle(oracle, spaces.sample(_nk().space, jax.random.key(0), 5))
