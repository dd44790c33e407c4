"""A contest instance as arrays, and the exact judge of an assignment.

N nodes, S strategies of all nodes together, E edges. Costs are integers up to 10^18 (which means forbidden), so that
sums are taken in Python's integers.
"""

import dataclasses
import gzip
import itertools
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

_GZIP = b"\x1f\x8b"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Instance:
    """One problem.

    Attributes:
        name: of the instance.
        intervals: times [first, last) at which a node's choice is in memory; empty where last is not behind first.
        offset: node v's strategies are offset[v]..offset[v + 1].
        cost: of each strategy.
        usage: bytes of each strategy.
        ends: the two nodes of each edge; parallel edges add up.
        edge_offset: edge e's costs are edge_offset[e]..edge_offset[e + 1], row-major.
        edge_cost: of each pair of strategies.
        limit: bytes at any time.
    """

    name: str
    intervals: Int64[np.ndarray, "N 2"]
    offset: Int64[np.ndarray, " N1"]
    cost: Int64[np.ndarray, " S"]
    usage: Int64[np.ndarray, " S"]
    ends: Int64[np.ndarray, "E 2"]
    edge_offset: Int64[np.ndarray, " E1"]
    edge_cost: Int64[np.ndarray, " P"]
    limit: int

    @property
    def sizes(self) -> Int64[np.ndarray, " N"]:
        """Strategies of each node."""
        return np.diff(self.offset)

    @property
    def times(self) -> int:
        """Times are 0..times - 1."""
        return int(self.intervals[:, 1].max(initial=0))


class Judged(NamedTuple):
    """What an assignment costs, and the most memory it needs at a time."""

    cost: int
    peak: int


def read(path: Path | str) -> Instance:
    """Returns the instance in a file, JSON, gzipped or not.

    Raises:
        OSError: the file cannot be read.
        ValueError: in one line, what is wrong with it.
    """
    data = Path(path).read_bytes()
    try:
        if data[:2] == _GZIP:
            data = gzip.decompress(data)
        document = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    try:
        return from_json(document)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def from_json(document: Any) -> Instance:
    """Returns the instance that a JSON object describes.

    Raises:
        ValueError: in one line, what is wrong with it.
    """
    try:
        given = document["problem"]
        nodes, edges = given["nodes"], given["edges"]
        intervals = np.array(nodes["intervals"], np.int64).reshape(-1, 2)
        costs, usages, joint = nodes["costs"], nodes["usages"], edges["costs"]
        sizes = np.array([len(row) for row in costs], np.int64)
        offset = _offsets(sizes)
        instance = Instance(
            name=str(given.get("name", "")),
            intervals=intervals,
            offset=offset,
            cost=_flat(costs),
            usage=_flat(usages),
            ends=np.array(edges["nodes"], np.int64).reshape(-1, 2),
            edge_offset=_offsets(np.array([len(row) for row in joint], np.int64)),
            edge_cost=_flat(joint),
            limit=int(given["usage_limit"]),
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"not a contest instance: {type(error).__name__}: {error}"
        ) from None
    _check(instance, [len(row) for row in usages])
    return instance


def judge(instance: Instance, assignment: Sequence[int] | np.ndarray) -> Judged:
    """Returns the exact cost and the peak memory of an assignment.

    Args:
        instance: the problem.
        assignment: a strategy per node.

    Raises:
        ValueError: it is no assignment of this instance.
    """
    chosen = np.asarray(assignment, np.int64)
    sizes = instance.sizes
    if chosen.shape != sizes.shape:
        raise ValueError(f"{len(chosen)} choices for {len(sizes)} nodes")
    if wrong := np.flatnonzero((chosen < 0) | (chosen >= sizes)).tolist():
        raise ValueError(f"node {wrong[0]} has no strategy {chosen[wrong[0]]}")
    at = instance.offset[:-1] + chosen
    a, b = instance.ends.T
    pair = instance.edge_offset[:-1] + chosen[a] * sizes[b] + chosen[b]
    cost = sum(instance.cost[at].tolist()) + sum(instance.edge_cost[pair].tolist())
    alive = instance.intervals[:, 0] < instance.intervals[:, 1]
    change = np.zeros(instance.times + 1, np.int64)
    for column, sign in ((0, 1), (1, -1)):
        np.add.at(
            change, instance.intervals[alive, column], sign * instance.usage[at][alive]
        )
    return Judged(cost, int(np.cumsum(change).max(initial=0)))


def least_memory(instance: Instance) -> Int64[np.ndarray, " N"]:
    """Returns the assignment that needs least at every time, the cheaper where two need the same.

    If its peak is above the limit, no assignment is feasible.
    """
    chosen = np.zeros(len(instance.sizes), np.int64)
    for v, (first, last) in enumerate(itertools.pairwise(instance.offset.tolist())):
        order = np.lexsort((instance.cost[first:last], instance.usage[first:last]))
        chosen[v] = order[0]
    return chosen


def _offsets(sizes: Int64[np.ndarray, " N"]) -> Int64[np.ndarray, " N1"]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _flat(rows: Sequence[Sequence[int]]) -> Int64[np.ndarray, " S"]:
    return np.array(list(itertools.chain.from_iterable(rows)), np.int64)


def _check(instance: Instance, usages: list[int]) -> None:
    sizes, ends = instance.sizes, instance.ends
    count = len(sizes)
    if len(instance.intervals) != count or usages != sizes.tolist():
        raise ValueError("intervals, costs and usages are not of the same nodes")
    if count == 0 or sizes.min() < 1:
        raise ValueError("there is no node, or one without a strategy")
    if len(ends) and (ends.min() < 0 or ends.max() >= count):
        raise ValueError(f"an edge has an end that is none of {count} nodes")
    if len(ends) + 1 != len(instance.edge_offset):
        raise ValueError(
            f"{len(ends)} edges with {len(instance.edge_offset) - 1} lists of costs"
        )
    wanted = sizes[ends].prod(axis=1)
    if wrong := np.flatnonzero(np.diff(instance.edge_offset) != wanted).tolist():
        raise ValueError(
            f"edge {wrong[0]} has {np.diff(instance.edge_offset)[wrong[0]]} costs, "
            f"its nodes {wanted[wrong[0]]} pairs of strategies"
        )
    if instance.usage.min() < 0 or instance.intervals.min() < 0 or instance.limit < 0:
        raise ValueError("a usage, a time or the limit is negative")
