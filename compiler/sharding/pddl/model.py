"""An instance made ready for search: nodes that decide each other are one, strategies that never help are gone.

Most edges of real instances let one strategy of a node go with one of another (an array keeps its sharding through
elementwise operations). So one choice decides thousands of nodes; what is left is a graph of a few hundred.

Costs are floating-point here and at most `FORBIDDEN`, which leaves every lower bound one.
"""

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float64, Int64

from compiler.sharding.pddl.instance import Instance

# Far above any sum of real costs of the contest, far below what a float64 adds up exactly.
FORBIDDEN = 1e14
_REAL = FORBIDDEN / 10  # Real costs are below.


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """N nodes with K strategies each, S together; E edges between different nodes, at most one between two; P parts.

    A part is a node of the instance, which a node of the model decides.

    Attributes:
        offset: node v's strategies are offset[v]..offset[v + 1].
        cost: of each strategy.
        ends: of each edge, the smaller node first.
        edge_offset: edge e's costs begin here, row-major.
        edge_cost: of pairs.
        part_offset: part p's numbers, one for each strategy of its node, are part_offset[p]..part_offset[p + 1].
        part_strategy: of each of these numbers: which of the S strategies.
        part_original: the same: which strategy of the instance's node.
        part_usage: the same: bytes.
        part_node: the node that decides the part.
        intervals: times of each part; empty ones are (0, 0).
        limit: bytes at any time.
        times: the number of times.
    """

    offset: Int64[np.ndarray, " N1"]
    cost: Float64[np.ndarray, " S"]
    ends: Int64[np.ndarray, "E 2"]
    edge_offset: Int64[np.ndarray, " E1"]
    edge_cost: Float64[np.ndarray, " C"]
    part_offset: Int64[np.ndarray, " P1"]
    part_strategy: Int64[np.ndarray, " Q"]
    part_original: Int64[np.ndarray, " Q"]
    part_usage: Float64[np.ndarray, " Q"]
    part_node: Int64[np.ndarray, " P"]
    intervals: Int64[np.ndarray, "P 2"]
    limit: float
    times: int

    @property
    def sizes(self) -> Int64[np.ndarray, " N"]:
        """K of each node."""
        return np.diff(self.offset)

    def assignment(self, chosen: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " P"]:
        """Returns the instance's strategies of the model's."""
        return self.part_original[self._at(chosen)]

    def total(self, chosen: Int64[np.ndarray, " N"]) -> float:
        """Returns the cost of one strategy per node."""
        a, b = self.ends.T
        pair = self.edge_offset[:-1] + chosen[a] * self.sizes[b] + chosen[b]
        alone = self.cost[self.offset[:-1] + chosen]
        return float(alone.sum() + self.edge_cost[pair].sum())

    def in_use(self, chosen: Int64[np.ndarray, " N"]) -> Float64[np.ndarray, " T"]:
        """Returns bytes in use at each time."""
        return self._over_time(self.part_usage[self._at(chosen)])

    def mean_in_use(
        self, weight: Float64[np.ndarray, " S"]
    ) -> Float64[np.ndarray, " T"]:
        """Returns bytes in use at each time where nodes take strategies by shares."""
        parts = self.part_usage * weight[self.part_strategy]
        return self._over_time(np.add.reduceat(parts, self.part_offset[:-1]))

    def rent(self, price: Float64[np.ndarray, " T"]) -> Float64[np.ndarray, " S"]:
        """Returns what each strategy's memory costs at a price per byte and time."""
        sums = np.concatenate([[0.0], np.cumsum(price)])
        worth = sums[self.intervals[:, 1]] - sums[self.intervals[:, 0]]
        paid = self.part_usage * np.repeat(worth, np.diff(self.part_offset))
        return np.bincount(self.part_strategy, paid, len(self.cost))

    def _at(self, chosen: np.ndarray) -> np.ndarray:
        at: np.ndarray = self.part_offset[:-1] + chosen[self.part_node]
        return at

    def _over_time(self, usage: np.ndarray) -> np.ndarray:
        size = self.times + 1
        change = np.bincount(self.intervals[:, 0], usage, size)
        change -= np.bincount(self.intervals[:, 1], usage, size)
        return np.cumsum(change)[: self.times]


def build(instance: Instance) -> Model:
    """Returns the model of an instance."""
    graph = _Graph(instance)
    graph.settle(range(len(graph.cost)))
    while changed := graph.drop_dominated():
        graph.settle(changed)
    return graph.model()


class _Queue:
    """Nodes that wait, each once."""

    def __init__(self, nodes: Iterable[int]) -> None:
        self.line: deque[int] = deque()
        self._there: set[int] = set()
        self.add(nodes)

    def add(self, nodes: Iterable[int]) -> None:
        for a in nodes:
            if a not in self._there:
                self._there.add(a)
                self.line.append(a)

    def take(self) -> int:
        a = self.line.popleft()
        self._there.remove(a)
        return a


class _Graph:
    """The instance while nodes are being joined.

    Tables of two nodes are kept in both directions. Of each node: `parts` are pairs of nodes of the instance and a table
    of their strategies, a row for each and a column for each strategy of the node.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        offset, sizes = instance.offset, instance.sizes
        cost = np.minimum(instance.cost.astype(np.float64), FORBIDDEN)
        capped = np.minimum(instance.edge_cost.astype(np.float64), FORBIDDEN)
        self.usage = instance.usage.astype(np.float64)
        self.alive = instance.intervals[:, 0] < instance.intervals[:, 1]
        self.cost = [cost[a:b].copy() for a, b in itertools.pairwise(offset.tolist())]
        self.near: list[dict[int, np.ndarray]] = [{} for _ in sizes]
        self.parts = [
            [(np.array([v]), np.arange(size)[None])]
            for v, size in enumerate(sizes.tolist())
        ]
        self.joined = np.zeros(len(sizes), bool)
        start = instance.edge_offset.tolist()
        for e, (a, b) in enumerate(instance.ends.tolist()):
            pair = capped[start[e] : start[e + 1]].reshape(sizes[a], sizes[b])
            if a == b:
                self.cost[a] += np.diag(pair)
            else:
                self._add(a, b, pair)

    def _add(self, a: int, b: int, pair: np.ndarray) -> None:
        """Adds the costs of an edge."""
        if b in self.near[a]:
            pair = np.minimum(self.near[a][b] + pair, FORBIDDEN)
        self.near[a][b], self.near[b][a] = pair, pair.T

    def settle(self, nodes: Iterable[int]) -> None:
        """Drops what is forbidden and joins nodes that decide others, until there is nothing more to do."""
        # First come, first served: hubs, which are looked at once for each change, come after their leaves.
        waiting = _Queue(nodes)
        while waiting.line:
            a = waiting.take()
            if self.joined[a]:
                continue
            possible = self.cost[a] < _REAL
            for pair in self.near[a].values():
                possible &= pair.min(axis=1) < _REAL
            if not possible.all() and possible.any():
                self._keep(a, possible)
                waiting.add([a, *self.near[a]])
                continue
            for b, pair in self.near[a].items():
                real = pair < _REAL
                if (real.sum(axis=0) == 1).all():
                    # Where each decides the other, the one with more edges stays.
                    both = (
                        real.shape[0] == real.shape[1] and (real.sum(axis=1) == 1).all()
                    )
                    if both and len(self.near[a]) > len(self.near[b]):
                        waiting.add([a, *self._join(b, a, real.argmax(axis=1))])
                    else:
                        waiting.add([b, *self._join(a, b, real.argmax(axis=0))])
                    break

    def _keep(self, a: int, kept: np.ndarray) -> None:
        """Removes the other strategies of a node."""
        self.cost[a] = self.cost[a][kept]
        self.parts[a] = [(v, table[:, kept]) for v, table in self.parts[a]]
        for b, pair in self.near[a].items():
            pair = pair[kept]
            self.near[a][b], self.near[b][a] = pair, pair.T

    def _join(self, a: int, b: int, decided: np.ndarray) -> list[int]:
        """Has b decide a, whose strategy under each of b's is given; returns other nodes whose edges changed."""
        pair = self.near[a].pop(b)
        del self.near[b][a]
        cost = self.cost[a][decided] + pair[decided, np.arange(len(decided))]
        self.cost[b] = np.minimum(self.cost[b] + cost, FORBIDDEN)
        self.parts[b] += [(v, table[:, decided]) for v, table in self.parts[a]]
        for c, other in self.near[a].items():
            del self.near[c][a]
            self._add(b, c, other[decided])
        changed = [*self.near[a]]
        self.near[a], self.parts[a] = {}, []
        self.joined[a] = True
        return changed

    def drop_dominated(self) -> list[int]:
        """Removes strategies that another of their node is in every way at least as good as; returns where."""
        changed = []
        for a in np.flatnonzero(~self.joined).tolist():
            if len(self.cost[a]) == 1:
                continue
            rows = [self.cost[a][:, None], *self.near[a].values()]
            rows += [self._needs(v, table).T for v, table in self.parts[a]]
            table = np.concatenate(rows, axis=1)
            kept = np.ones(len(table), bool)
            for s in np.argsort(table.sum(axis=1), kind="stable").tolist():
                if kept[s]:
                    worse = (table[s] <= table).all(axis=1)
                    worse[s] = False
                    kept &= ~worse
            if not kept.all():
                self._keep(a, kept)
                changed += [a, *self.near[a]]
        return changed

    def _needs(self, v: np.ndarray, table: np.ndarray) -> np.ndarray:
        """Returns bytes of parts, by strategy; of those that are never in memory none."""
        usage = self.usage[self.instance.offset[v][:, None] + table]
        return np.where(self.alive[v][:, None], usage, 0.0)

    def model(self) -> Model:
        """Returns the arrays of what is left."""
        nodes = np.flatnonzero(~self.joined).tolist()
        number = {a: k for k, a in enumerate(nodes)}
        sizes = [len(self.cost[a]) for a in nodes]
        offset = np.cumsum([0, *sizes])
        ends, tables = [], []
        for a in nodes:
            for b, pair in self.near[a].items():
                if a < b:
                    ends.append((number[a], number[b]))
                    tables.append(pair.ravel())
        count = len(self.joined)
        node = np.zeros(count, np.int64)
        rows: list[np.ndarray] = [np.zeros(0, np.int64)] * count
        for a in nodes:
            for parts, table in self.parts[a]:
                node[parts] = number[a]
                for v, row in zip(parts.tolist(), table):
                    rows[v] = row
        lengths = np.array([len(row) for row in rows])
        original = np.concatenate(rows)
        start = np.cumsum([0, *lengths])
        within = np.arange(len(original)) - np.repeat(start[:-1], lengths)
        part = np.repeat(np.arange(count), lengths)
        alive = self.alive[:, None]
        return Model(
            offset=offset,
            cost=np.concatenate([self.cost[a] for a in nodes]),
            ends=np.array(ends, np.int64).reshape(-1, 2),
            edge_offset=np.cumsum([0, *map(len, tables)]),
            edge_cost=np.concatenate([np.zeros(0), *tables]),
            part_offset=start,
            part_strategy=offset[:-1][node[part]] + within,
            part_original=original,
            part_usage=self.usage[self.instance.offset[part] + original],
            part_node=node,
            intervals=np.where(alive, self.instance.intervals, 0),
            limit=float(self.instance.limit),
            times=self.instance.times,
        )
