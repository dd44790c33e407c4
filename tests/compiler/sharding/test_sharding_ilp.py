"""Alpa's integer program, against trying everything and against the model's own sums."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import sharding_programs
from compiler.sharding import ilp, layout, mesh, model
from compiler.sharding.cost import of_codes
from compiler.sharding.model import Model


def _built(name: str, sizes: tuple[int, ...]) -> Model:
    program = sharding_programs.PROGRAMS[name]()
    return model.model(
        program.fn, *program.args, topology="v5e:2x4", meshes=(mesh.shape(sizes),)
    )


def _sum(costs: ilp.Costs, picked: tuple[int, ...]) -> float:
    nodes = sum(table[c] for table, c in zip(costs.nodes, picked))
    return float(
        nodes + sum(t[picked[a], picked[b]] for (a, b), t in costs.edges.items())
    )


@pytest.mark.parametrize("name", ["mlp", "block", "moe"])
def test_nodes_and_edges_add_up_to_the_models_computation_and_communication(
    name: str,
) -> None:
    built = _built(name, (2, 4))
    costs = ilp.costs(built, 0)
    judged = jax.jit(of_codes)
    rng = np.random.default_rng(0)
    sums, wanted = [], []
    for _ in range(20):
        legal = [np.flatnonzero(np.isfinite(table)) for table in costs.nodes]
        picked = tuple(int(rng.choice(codes)) for codes in legal)
        cost = judged(built.tables, jnp.asarray(picked), 0)
        sums.append(_sum(costs, picked))
        wanted.append(float(cost.compute + cost.communication))
        memory = sum(table[c] for table, c in zip(costs.arguments, picked))
        assert memory == pytest.approx(float(cost.arguments), rel=1e-5)
    sums_, wanted_ = np.array(sums), np.array(wanted)
    # Sums that the model completes together are the only difference, and only ever make it cheaper.
    assert np.all(sums_ >= wanted_ * (1 - 1e-5))
    if name == "mlp":
        np.testing.assert_allclose(sums_, wanted_, rtol=1e-5)


@pytest.mark.parametrize("limit", [math.inf, 24.0, 10.0])
def test_the_perceptrons_optimum_is_that_of_all_combinations(limit: float) -> None:
    built = _built("mlp", (8,))
    costs = ilp.costs(built, 0)
    every = itertools.product(
        *(np.flatnonzero(np.isfinite(table)).tolist() for table in costs.nodes)
    )
    least = math.inf
    for picked in every:
        memory = sum(table[c] for table, c in zip(costs.arguments, picked))
        if memory <= limit:
            least = min(least, _sum(costs, picked))
    found = ilp.solve(built, 0, arguments=limit)
    assert found.objective == pytest.approx(least, rel=1e-5)
    assert found.bound <= found.objective * (1 + 1e-5)
    assert found.arguments <= limit


def test_what_no_plan_meets_is_said() -> None:
    with pytest.raises(ValueError, match="no plan"):
        ilp.solve(_built("mlp", (8,)), 0, arguments=1.0)


def test_the_answer_is_a_plan() -> None:
    built = _built("mlp", (2, 4))
    found = ilp.solve(built, 0, arguments=24.0)
    plan = layout.written(found.cut, {"found_by": "ilp"})  # Checks each extent.
    sizes = dict(plan.mesh)
    share = [
        math.prod(leaf.shape)
        * 2
        / math.prod(sizes[a] for axes in leaf.spec for a in axes)
        for leaf in plan.inputs
    ]
    assert sum(share) / 2**20 == pytest.approx(found.arguments)
