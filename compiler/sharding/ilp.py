"""Alpa's integer program on the tables of the search: every array and operation chooses by itself how it is cut.

As in Zheng et al. 2022 (section 4.2): one-hot variables for what each node does, products of two of them for each edge,
made linear; the objective is the sum of computation and communication, since a linear objective knows no overlap. Nodes are
the tables' units, that is, Alpa's merged operators; the memory of the arguments is a constraint. HiGHS solves it, through
SciPy. The mesh is given, as Alpa enumerates meshes outside. Left out: sums that are completed together.
"""

import dataclasses
import itertools
import types
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.sparse

from compiler.sharding.cost import of_codes
from compiler.sharding.layout import Layout
from compiler.sharding.model import Model
from compiler.sharding.tables import ASYNC, ASYNC_CALLS, SYNC, SYNC_CALLS
from compiler.sharding.units import Unit, codes, parts


@dataclasses.dataclass(frozen=True)
class Solution:
    """The program's answer.

    Attributes:
        cut: how everything is cut.
        codes: of the units (`units.codes`).
        objective: cycles of computation and communication, one after another.
        predicted: cycles by the search's model, which hides communication behind computation.
        bound: that no answer is below.
        arguments: MiB on one device.
        variables: of the integer program.
    """

    cut: Layout
    codes: tuple[int, ...]
    objective: float
    predicted: float
    bound: float
    arguments: float
    variables: int


@dataclasses.dataclass(frozen=True)
class Costs:
    """Of nodes and edges; C codes of a unit.

    Attributes:
        nodes: cycles [C] of each unit; infinite where the mesh does not divide what is cut.
        edges: cycles [C, C'] of pairs of units.
        arguments: MiB [C] of each unit.
    """

    nodes: tuple[np.ndarray, ...]
    edges: dict[tuple[int, int], np.ndarray]
    arguments: tuple[np.ndarray, ...]


def costs(model: Model, mesh: int, latency: float = 0.0) -> Costs:
    """Returns the tables of one mesh as costs of nodes and edges; a collective takes `latency` cycles besides."""
    arrays = {k: np.asarray(x) for k, x in model.tables._asdict().items()}
    tables = types.SimpleNamespace(**arrays)  # In this process, not on a device.
    axes = tables.mesh_sizes.shape[1]
    counts = [(len(unit) + 1) ** axes for unit in model.units]
    nodes = [np.where(_divides(model, unit, mesh), 0.0, np.inf) for unit in model.units]
    edges: dict[tuple[int, int], np.ndarray] = {}

    def add(one: int, other: int, cost: np.ndarray) -> None:
        if one == other:
            nodes[one] = nodes[one] + np.diagonal(cost)
        elif (other, one) in edges:
            edges[other, one] = edges[other, one] + cost.T
        else:
            edges[one, other] = edges.get((one, other), 0.0) + cost

    stands = []
    often = np.sum(tables.early + tables.late + tables.after, axis=1)
    ends = list(zip(tables.move_value.tolist(), tables.move_op.tolist()))
    for (value, nest), offset, mib, repeat in zip(
        ends, tables.move_offset.tolist(), tables.move_mib, often
    ):
        size = counts[value] * counts[nest]
        rows = tables.move_table[mesh, offset : offset + size]
        if len(rows) < size:  # Nothing moves in this program.
            rows = np.zeros((size, rows.shape[1]))
        shape = (counts[value], counts[nest])
        spent = (rows[:, ASYNC] + rows[:, SYNC]).reshape(shape)
        calls = (rows[:, ASYNC_CALLS] + rows[:, SYNC_CALLS]).reshape(shape)
        stands.append(spent > 0)
        add(value, nest, (spent * mib + latency * calls) * repeat)
    repeats = np.sum(tables.work_events, axis=1)
    for unit, offset, gate, repeat in zip(
        tables.work_unit.tolist(),
        tables.work_offset.tolist(),
        tables.work_gate.tolist(),
        repeats,
    ):
        cycles = tables.work[mesh, offset : offset + counts[unit]] * repeat
        # Work that is part of a product unless something moves in between.
        if gate < len(ends) and unit in ends[gate]:
            one, other = ends[gate]
            by_code = cycles[:, None] if unit == one else cycles[None, :]
            add(one, other, by_code * stands[gate])
        else:
            nodes[unit] = nodes[unit] + cycles
    arguments = [
        tables.share[mesh, start : start + count] * mib
        for start, count, mib in zip(
            tables.unit_share.tolist(), counts, tables.argument_mib
        )
    ]
    return Costs(tuple(nodes), edges, tuple(arguments))


def _divides(model: Model, unit: Unit, mesh: int) -> np.ndarray:
    """Returns of each code of a unit whether equal parts come out."""
    sizes = model.meshes[mesh].sizes
    extents = [model.names.classes[model.classes[klass]].size for klass, *_ in unit]
    return np.array(
        [
            all(n % parts(cut, sizes, e) == 0 for e, n in enumerate(extents))
            for cut in codes(unit, len(sizes))
        ]
    )


def solve(
    model: Model,
    mesh: int,
    *,
    latency: float = 0.0,
    arguments: float = np.inf,
    seconds: float = 60.0,
) -> Solution:
    """Returns the best way to cut a program, every unit by itself.

    Args:
        model: the program on its machine.
        mesh: which of the model's meshes.
        latency: cycles of a collective before its first byte.
        arguments: MiB that the arguments may take on one device.
        seconds: for the solver.

    Raises:
        ValueError: nothing fits, or the solver found nothing in its time.
    """
    found = costs(model, mesh, latency)
    begins = np.cumsum([0, *map(len, found.nodes)])
    chosen = begins[-1]
    sizes = [table.size for table in found.edges.values()]
    pairs = chosen + np.cumsum([0, *sizes])
    count = int(pairs[-1])
    objective = np.zeros(count)
    objective[:chosen] = np.concatenate(found.nodes)
    rows: list[tuple[np.ndarray, np.ndarray]] = []  # Columns and coefficients.
    right: list[float] = []
    for begin, end in itertools.pairwise(begins):
        rows.append((np.arange(begin, end), np.ones(end - begin)))
        right.append(1.0)
    for ((one, other), table), begin in zip(found.edges.items(), pairs[:-1]):
        objective[begin : begin + table.size] = table.reshape(-1)
        cells = begin + np.arange(table.size).reshape(table.shape)
        for columns, node in (
            *zip(cells, _range(begins, one)),
            *zip(cells.T, _range(begins, other)),
        ):
            rows.append(
                (np.append(columns, node), np.append(np.ones(len(columns)), -1.0))
            )
            right.append(0.0)
    equal = _matrix(rows, count)
    upper = np.where(np.isfinite(objective), 1.0, 0.0)
    scale = 1e-3  # Thousands of cycles: solvers' tolerances are absolute.
    constraints = [scipy.optimize.LinearConstraint(equal, right, right)]
    if np.isfinite(arguments):
        memory = np.concatenate([*found.arguments, np.zeros(count - chosen)])
        constraints.append(
            scipy.optimize.LinearConstraint(memory[None], -np.inf, arguments)
        )
    answer: Any = scipy.optimize.milp(
        np.where(upper > 0, objective, 0.0) * scale,
        integrality=(np.arange(count) < chosen).astype(int),
        bounds=scipy.optimize.Bounds(0.0, upper),
        constraints=constraints,
        options={"time_limit": seconds, "mip_rel_gap": 1e-6},
    )
    if answer.x is None:
        raise ValueError(f"no plan: {answer.message}")
    picked = [
        int(np.argmax(answer.x[begin:end])) for begin, end in itertools.pairwise(begins)
    ]
    axes = len(model.meshes[mesh].sizes)
    cuts = tuple(list(codes(u, axes))[c] for u, c in zip(model.units, picked))
    total = sum(table[c] for table, c in zip(found.nodes, picked))
    total += sum(t[picked[a], picked[b]] for (a, b), t in found.edges.items())
    return Solution(
        Layout(model, cuts, mesh),
        tuple(picked),
        float(total),
        float(of_codes(model.tables, jnp.asarray(picked), mesh, latency).time),
        float(answer.mip_dual_bound) / scale,
        float(sum(table[c] for table, c in zip(found.arguments, picked))),
        count,
    )


def _range(begins: np.ndarray, node: int) -> np.ndarray:
    return np.arange(begins[node], begins[node + 1])


def _matrix(rows: list[tuple[np.ndarray, np.ndarray]], count: int) -> Any:
    lengths = [len(columns) for columns, _ in rows]
    where = np.repeat(np.arange(len(rows)), lengths)
    columns = np.concatenate([c for c, _ in rows])
    values = np.concatenate([v for _, v in rows])
    return scipy.sparse.csr_array((values, (where, columns)), (len(rows), count))
