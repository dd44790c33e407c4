"""The game: legal plans only, costs like the compiler's, an optimum that brute force confirms."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import solvers
from compiler.moe import events, game, machine, optimum
from compiler.moe import plan as plans
from compiler.moe.configurations import Configuration
from compiler.moe.machine import Setting, factorisations
from solvers import contracts
from solvers.command import Budget
from solvers.protocols import Genome
from solvers.spaces import sample

# The layer of the compiled measurements: 1024 tokens for each of eight experts from each of eight devices.
LAYER = Configuration(
    samples=8,
    length=1024,
    width=2048,
    hidden=8192,
    experts=8,
    active=1,
    capacity=1.0,
)
SETTING = Setting(configuration=LAYER)
SMALL = Setting(
    configuration=dataclasses.replace(LAYER, samples=2, experts=4, hidden=4096),
    mesh=(("x", 4),),
    layers=1,
)


def genes(setting, **changes):
    row = np.zeros(game.NUM_GENES, np.int32)
    for name, value in changes.items():
        row[getattr(game, name)] = value
    return game.repaired(setting, row)


def factor(setting, *expert_axes, shards=()):
    return next(
        i
        for i, axes in enumerate(factorisations(setting))
        if axes.expert_axes == expert_axes and axes.shard_axes == tuple(shards)
    )


def test_space_keeps_its_contract():
    contracts.check_space(game.space(SETTING))


def test_plans_are_legal_and_written():
    """Every genome is a plan that the layer can cut: `Plan` checks axes and chunks."""
    batch = sample(game.space(SETTING), jax.random.key(1), 200)
    slots = int(LAYER.slots // LAYER.experts)
    seen = set()
    for row in np.asarray(batch.choices):
        plan = game.plan(SETTING, Genome(row, np.zeros(0, np.float32)))
        for pipeline in (plan.forward, plan.backward):
            assert sum(pipeline.sizes(slots)) == slots
        if plan.exchange == "hierarchical":
            assert len(plan.expert_axes) > 1
        assert plans.from_json(plan.to_json()) == plan
        seen.add((plan.exchange, plan.reduce))
    # On two axes a hierarchical exchange leaves none for shards, and so nothing to reduce.
    assert len(seen) == 7


def test_agrees_with_compiled_totals():
    """Forward pass, EP = 8 on v5e 2×4, asynchronous all-to-all: totals read off compiled schedules, in cycles."""
    compiled = {1: 8_236_447, 2: 6_751_007, 4: 5_899_200, 8: 5_044_346, 16: 4_902_349}
    setting = dataclasses.replace(SETTING, layers=1)
    dense = machine.tables(setting).dense[0]
    rows = [
        genes(
            setting,
            FACTOR=factor(setting, "x", "y"),
            ASYNC_EXCHANGE=1,
            FORWARD=i,
        ).choices
        for i in range(5)
    ]
    cycles = optimum.simulated(setting, 0, np.array(rows)) - dense
    np.testing.assert_allclose(cycles, list(compiled.values()), rtol=0.11)
    assert np.all(np.diff(cycles) < 0)


def test_synchronous_collectives_do_not_overlap():
    """Nothing asynchronous: the forward pass is the sum of its parts, whatever the chunks."""
    setting = dataclasses.replace(SETTING, layers=1)
    way = factor(setting, "y", shards=["x"])
    held = machine.tables(setting)
    one = genes(setting, FACTOR=way, FORWARD=0)
    work = held.work[way, 0, 0, 0].sum() + held.startup[way, 0, 0, 0].sum()
    cycles = optimum.simulated(setting, 0, one.choices[None])[0]
    np.testing.assert_allclose(cycles, work + held.dense[0], rtol=1e-5)


def test_a_ring_overlaps_where_a_reduce_scatter_does_not():
    setting = dataclasses.replace(SETTING, layers=1)
    way = factor(setting, "y", shards=["x"])
    base = {"FACTOR": way, "ASYNC_EXCHANGE": 1, "FORWARD": 3}
    scatter, ring = (
        genes(setting, **base, REDUCE=machine.REDUCES.index(kind)).choices
        for kind in ("reduce_scatter", "ring")
    )
    cycles = optimum.simulated(setting, 0, np.array([scatter, ring]))
    held = machine.tables(setting)
    # Over two devices both move the same.
    np.testing.assert_allclose(
        held.work[way, 0, 0, 0, events.REDUCE], held.work[way, 0, 1, 0, events.REDUCE]
    )
    assert cycles[1] < cycles[0]


@pytest.mark.slow
@pytest.mark.parametrize("memory", [None, 5e7])
def test_optimum_is_that_of_the_whole_product(memory):
    """On a small setting the product of both directions is tried too."""
    setting = dataclasses.replace(SMALL, memory=memory)
    found = optimum.exhaustive(setting)
    space = game.space(setting)
    # The best of all layouts and exchanges at the pipelines found, and of all pipelines at the layout found.
    best = np.asarray(found.genome.choices)
    rows = []
    for vary in ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9, 10)):
        for options in itertools.product(*(range(space.sizes[gene]) for gene in vary)):
            row = best.copy()
            row[list(vary)] = options
            rows.append(row)
    repaired = jax.vmap(lambda r: space.repair(Genome(r, jnp.zeros(0))).choices)(
        jnp.asarray(rows)
    )
    table = np.unique(np.asarray(repaired), axis=0)
    both = sum(optimum.simulated(setting, which, table) for which in range(2))
    assert found.cost * 1e6 == pytest.approx(both.min(), rel=1e-6)
    random = sample(space, jax.random.key(2), 3000)
    drawn = sum(
        optimum.simulated(setting, which, np.asarray(random.choices))
        for which in range(2)
    )
    assert found.cost * 1e6 <= drawn.min() * (1 + 1e-6)


def test_memory_is_kept():
    full = machine.weights(SMALL, factorisations(SMALL)[0])
    tight = dataclasses.replace(SMALL, memory=2 * full)
    found = optimum.exhaustive(tight)
    plan = game.plan(tight, found.genome)
    assert not plan.data_axes
    assert np.isfinite(found.cost)
    nothing = dataclasses.replace(SMALL, memory=1.0)
    for solve in (optimum.exhaustive, optimum.closed_form):
        with pytest.raises(ValueError, match=r"fits 1\.0 bytes"):
            solve(nothing)


@pytest.mark.slow
def test_search_reaches_the_optimum():
    found = optimum.exhaustive(SMALL)
    result = solvers.search(
        game.problem(SMALL), "evolution", Budget(simulations=600), key=0
    )
    assert found.cost * (1 - 1e-6) <= result.costs[0] <= 1.05 * found.cost
    default = game.default(SMALL).choices[None]
    start = sum(optimum.simulated(SMALL, which, default)[0] for which in range(2))
    assert result.costs[0] < start / 1e6


def test_it_is_a_game():
    problem = game.problem(SMALL)
    assert problem.game is not None and problem.advance_fn is not None
    key = jax.random.key(0)
    instance = problem.advance_fn(problem.instance, None, key)
    contracts.check_game(problem.game, instance)


def test_closed_forms_choose_what_they_can():
    chosen = game.plan(SETTING, optimum.closed_form(SETTING))
    assert chosen.exchange == "all_to_all" and chosen.reduce == "reduce_scatter"
    assert chosen.forward.ahead == chosen.forward.degree
    assert len(set(chosen.forward.chunks)) == 1


def test_refuses_what_cannot_be_laid_out():
    with pytest.raises(ValueError, match="a stack has a layer"):
        dataclasses.replace(SETTING, layers=0)


def test_costs_of_exchanges():
    """Over 2×4: C·s·2(N−1)/N for one all-to-all of eight or one per axis, C·s·N/2 for an all-gather."""
    held = machine.tables(SETTING)
    way = factor(SETTING, "x", "y")
    link = 33_715.6 * 8 * 1024 * 2048 * 2 / 2**20
    ends = {
        "all_to_all": {events.DISPATCH: 1.75, events.COMBINE: 1.75},
        "hierarchical": {
            events.ENTER: 1.5,
            events.DISPATCH: 1.0,
            events.COMBINE: 1.5,
            events.LEAVE: 1.0,
        },
        "all_gather": {events.DISPATCH: 4.0, events.COMBINE: 4.0},
    }
    for kind, stages in ends.items():
        work = held.work[way, machine.EXCHANGES.index(kind), 0, 0] / link
        for stage in (events.ENTER, events.DISPATCH, events.COMBINE, events.LEAVE):
            np.testing.assert_allclose(work[stage], stages.get(stage, 0.0), rtol=1e-6)
    y = [name for name, _ in SETTING.mesh].index("y")
    used = held.uses[way, machine.EXCHANGES.index("hierarchical"), 0, 1, 0]
    assert [s for s in range(events.NUM_STAGES) if used[s, y]] == [
        events.ENTER,
        events.COMBINE,
        events.GRADIENT,
    ]
