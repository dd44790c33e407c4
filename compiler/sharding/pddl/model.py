"""An instance made ready for search: parallel edges merged, strategies that never help removed.

Costs are floating-point here and at most `FORBIDDEN`, which leaves every lower bound one.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from compiler.sharding.pddl.instance import Instance

# Far above any sum of real costs of the contest, far below what a float64 adds up exactly.
FORBIDDEN = 1e14


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """N nodes with K strategies each, and E edges between different nodes, at most one between two.

    Attributes:
        intervals: as the instance's; empty ones are (0, 0).
        original: of each strategy, which one of the instance's it is.
        offset: node v's strategies are offset[v]..offset[v + 1].
        cost, usage: of each strategy.
        ends: of each edge, the smaller node first.
        edge_offset: edge e's costs begin here, row-major.
        edge_cost: of pairs.
        limit: bytes at any time.
        times: the number of times.
    """

    intervals: Int64[np.ndarray, "N 2"]
    original: Int64[np.ndarray, " S"]
    offset: Int64[np.ndarray, " N1"]
    cost: Float64[np.ndarray, " S"]
    usage: Float64[np.ndarray, " S"]
    ends: Int64[np.ndarray, "E 2"]
    edge_offset: Int64[np.ndarray, " E1"]
    edge_cost: Float64[np.ndarray, " P"]
    limit: float
    times: int

    @property
    def sizes(self) -> Int64[np.ndarray, " N"]:
        """K of each node."""
        return np.diff(self.offset)

    def assignment(self, chosen: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
        """Returns the instance's strategies of the model's."""
        return self.original[self.offset[:-1] + chosen]

    def total(self, chosen: Int64[np.ndarray, " N"]) -> float:
        """Returns the cost of one strategy per node."""
        a, b = self.ends.T
        pair = self.edge_offset[:-1] + chosen[a] * self.sizes[b] + chosen[b]
        alone = self.cost[self.offset[:-1] + chosen]
        return float(alone.sum() + self.edge_cost[pair].sum())

    def in_use(self, usage: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " T"]:
        """Returns bytes in use at each time, of bytes per node."""
        change = np.zeros(self.times + 1)
        np.add.at(change, self.intervals[:, 0], usage)
        np.add.at(change, self.intervals[:, 1], -usage)
        return np.cumsum(change)[: self.times]


def build(instance: Instance) -> Model:
    """Returns the model of an instance, without strategies that another is never worse than."""
    merged = _merge(instance)
    while True:
        kept = _undominated(merged)
        if kept.all():
            return merged
        merged = _restrict(merged, kept)


def _merge(instance: Instance) -> Model:
    sizes, offset = instance.sizes, instance.offset
    cost = np.minimum(instance.cost.astype(np.float64), FORBIDDEN)
    parts: dict[tuple[int, int], Any] = {}
    start = instance.edge_offset
    capped = np.minimum(instance.edge_cost.astype(np.float64), FORBIDDEN)
    for e, (a, b) in enumerate(instance.ends.tolist()):
        pair = capped[start[e] : start[e + 1]].reshape(sizes[a], sizes[b])
        if a == b:
            cost[offset[a] : offset[a + 1]] += np.diag(pair)
            continue
        key, pair = ((a, b), pair) if a < b else ((b, a), pair.T)
        parts[key] = parts[key] + pair if key in parts else pair
    tables = [pair.ravel() for pair in parts.values()]
    alive = instance.intervals[:, :1] < instance.intervals[:, 1:]
    return Model(
        intervals=np.where(alive, instance.intervals, 0),
        original=np.concatenate([np.arange(size) for size in sizes]),
        offset=offset,
        cost=np.minimum(cost, FORBIDDEN),
        usage=instance.usage.astype(np.float64),
        ends=np.array(list(parts), np.int64).reshape(-1, 2),
        edge_offset=np.cumsum([0, *map(len, tables)]),
        edge_cost=np.minimum(np.concatenate([np.zeros(0), *tables]), FORBIDDEN),
        limit=float(instance.limit),
        times=instance.times,
    )


def _undominated(model: Model) -> np.ndarray:
    """Returns which strategies no other of their node is at least as good as in every way."""
    sizes, offset = model.sizes, model.offset
    rows: list[list[np.ndarray]] = [[] for _ in sizes]
    for e, (a, b) in enumerate(model.ends.tolist()):
        first, last = model.edge_offset[e : e + 2]
        pair = model.edge_cost[first:last].reshape(sizes[a], sizes[b])
        rows[a].append(pair)
        rows[b].append(pair.T)
    kept = np.ones(len(model.cost), bool)
    for v, neighbours in enumerate(rows):
        first, last = offset[v : v + 2]
        if last - first == 1:
            continue
        own = [model.cost[first:last, None]]
        if model.intervals[v, 0] < model.intervals[v, 1]:
            own.append(model.usage[first:last, None])
        table = np.concatenate([*own, *neighbours], axis=1)
        alive = kept[first:last]
        for s in np.argsort(table.sum(axis=1), kind="stable").tolist():
            if alive[s]:
                worse = (table[s] <= table).all(axis=1)
                worse[s] = False
                alive &= ~worse
    return kept


def _restrict(model: Model, kept: np.ndarray) -> Model:
    sizes, offset = model.sizes, model.offset
    masks = [kept[first:last] for first, last in itertools.pairwise(offset)]
    tables = []
    for e, (a, b) in enumerate(model.ends.tolist()):
        first, last = model.edge_offset[e : e + 2]
        pair = model.edge_cost[first:last].reshape(sizes[a], sizes[b])
        tables.append(pair[masks[a]][:, masks[b]].ravel())
    return dataclasses.replace(
        model,
        original=model.original[kept],
        offset=np.cumsum([0, *(int(mask.sum()) for mask in masks)]),
        cost=model.cost[kept],
        usage=model.usage[kept],
        edge_offset=np.cumsum([0, *map(len, tables)]),
        edge_cost=np.concatenate([np.zeros(0), *tables]),
    )
