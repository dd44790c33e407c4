"""An instance as a problem of `solvers`, so that every strategy of the engine plays it."""

import functools
import itertools
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import solvers
from compiler.sharding.pddl.instance import Instance, judge, least_memory
from compiler.sharding.pddl.model import FORBIDDEN, Model, build
from compiler.sharding.pddl.step import Step
from solvers.command.units import Meter
from solvers.protocols import Genome
from solvers.spaces import ChoiceSpace


def problem(model: Model) -> solvers.Problem:
    """Returns the search for an assignment: a choice per node.

    What needs more memory than there is costs `FORBIDDEN` and more, the more the more it needs, so that strategies
    find their way back. What needs least memory over all times is measured first.
    """
    rent = model.rent(np.ones(model.times))
    start = np.array([rent[a:b].argmin() for a, b in itertools.pairwise(model.offset)])
    arrays = {
        "cost": jnp.asarray(model.cost, jnp.float32),
        "usage": jnp.asarray(model.part_usage / model.limit, jnp.float32),
        "edge_cost": jnp.asarray(model.edge_cost, jnp.float32),
    }
    space = ChoiceSpace(sizes=tuple(model.sizes.tolist()))
    return solvers.played(
        space,
        functools.partial(_cost, _Shape(model)),
        arrays,
        starts=Genome(start[None].astype(np.int32), np.zeros((1, 0), np.float32)),
    )


class _Shape:
    """What never changes of a model, as constants of the compiled cost."""

    def __init__(self, model: Model) -> None:
        self.offset = model.offset[:-1]
        self.ends = model.ends
        self.stride = model.sizes[model.ends[:, 1]]
        self.edge_offset = model.edge_offset[:-1]
        self.part_offset = model.part_offset[:-1]
        self.part_node = model.part_node
        self.intervals = model.intervals
        self.times = model.times


def _cost(shape: _Shape, arrays: dict[str, Array], genome: Genome) -> Float[Array, ""]:
    chosen = genome.choices
    at = shape.offset + chosen
    a, b = shape.ends.T
    pair = shape.edge_offset + chosen[a] * shape.stride + chosen[b]
    cost = jnp.sum(arrays["cost"][at]) + jnp.sum(arrays["edge_cost"][pair])
    usage = arrays["usage"][shape.part_offset + chosen[shape.part_node]]
    change = jnp.zeros(shape.times + 1)
    change = change.at[shape.intervals[:, 0]].add(usage)
    change = change.at[shape.intervals[:, 1]].add(-usage)
    over = jnp.max(jnp.cumsum(change)) - 1.0
    return cost + jnp.where(over > 0, FORBIDDEN * (1.0 + over), 0.0)


def by_engine(
    instance: Instance, strategy: str, meter: Meter, seed: int
) -> Iterator[Step]:
    """Yields steps of the search by a strategy of `solvers`; it proves no bound."""
    model = build(instance)
    best = least_memory(instance)
    cost = judge(instance, best).cost
    yield Step(best, cost, 0.0, 0)
    for progress in solvers.watch(problem(model), strategy, meter, seed):
        found = model.assignment(np.asarray(progress.genomes.choices[0], np.int64))
        judged = judge(instance, found)
        if judged.peak <= instance.limit and judged.cost < cost:
            best, cost = found, judged.cost
        yield Step(best, cost, 0.0, progress.spent)
