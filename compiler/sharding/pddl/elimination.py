"""Bucket elimination (Dechter 1999) of all nodes but a few: the cut, without which every table stays small.

A plan holds an order in which nodes are minimised away, and where each table lies in one flat memory. What it computes
is exact, given what the cut's nodes contribute to their neighbours.
"""

import dataclasses
import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from compiler.sharding.pddl.model import Model
from solvers.compiled import compiled


class Tables(NamedTuple):
    """What the loops read, all flat. M eliminated nodes in order; a node's scope is who it still depends on."""

    order: Int64[np.ndarray, " M"]
    sizes: Int64[np.ndarray, " N"]  # Strategies of each node.
    scope_at: Int64[np.ndarray, " M1"]
    scope: Int64[np.ndarray, " W"]  # Nodes, by eliminated node.
    factor_at: Int64[np.ndarray, " M1"]
    factor: Int64[np.ndarray, " F"]  # Where in memory each summand begins.
    stride_at: Int64[np.ndarray, " F1"]
    stride: Int64[
        np.ndarray, " D"
    ]  # Of each summand: one per scope node, then the node's own.
    message: Int64[np.ndarray, " M"]  # Where each minimum is put.
    argument: Int64[
        np.ndarray, " M"
    ]  # Where its strategies are put, in their own memory.


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """How a model is minimised given its cut.

    Attributes:
        cut: nodes that are not eliminated.
        tables: for the loops.
        memory: numbers needed: unary costs, edges, then messages.
        arguments: strategies needed.
        links: [L, 2], pairs of a cut node and a neighbour that is eliminated.
        link_table: [L, 3] of each: where its edge begins, the neighbour's stride, the cut node's.
        inner: edges with both ends in the cut.
    """

    cut: Int64[np.ndarray, " C"]
    tables: Tables
    memory: int
    arguments: int
    links: Int64[np.ndarray, "L 2"]
    link_table: Int64[np.ndarray, "L 3"]
    inner: Int64[np.ndarray, " I"]


def neighbours(model: Model) -> list[dict[int, int]]:
    """Returns of each node with a choice its neighbours with one, and the edge to each."""
    free = model.sizes > 1
    found: list[dict[int, int]] = [{} for _ in free]
    for e, (a, b) in enumerate(model.ends.tolist()):
        if free[a] and free[b]:
            found[a][b] = e
            found[b][a] = e
    return found


def make(
    model: Model,
    near: Sequence[dict[int, int]],
    rng: np.random.Generator,
    *,
    largest: float,
    noise: float,
) -> Plan:
    """Returns a plan: always the node with the smallest table next; a node joins the cut where none is small.

    Args:
        model: the model.
        near: its `neighbours`.
        rng: breaks ties, and with noise makes plans differ.
        largest: numbers of a table, at most.
        noise: decades by which a table's size is misjudged at random.
    """
    steps, cut = _ordered(model, near, rng, np.log10(largest), noise)
    return _laid_out(model, near, steps, cut)


def _ordered(
    model: Model,
    near: Sequence[dict[int, int]],
    rng: np.random.Generator,
    largest: float,
    noise: float,
) -> tuple[list[tuple[int, list[int]]], list[int]]:
    """Returns the eliminated nodes with their scopes, and the cut."""
    logs = np.log10(model.sizes).tolist()
    adjacent = {v: set(w) for v, w in enumerate(near) if model.sizes[v] > 1}
    bias = dict(zip(adjacent, (noise * rng.random(len(adjacent))).tolist()))
    size = {v: logs[v] + sum(logs[w] for w in adjacent[v]) for v in adjacent}
    heap = [(size[v] + bias[v], v) for v in adjacent]
    heapq.heapify(heap)
    steps: list[tuple[int, list[int]]] = []
    cut: list[int] = []

    def touch(nodes: set[int]) -> None:
        for w in nodes:
            size[w] = logs[w] + sum(logs[u] for u in adjacent[w])
            heapq.heappush(heap, (size[w] + bias[w], w))

    while adjacent:
        key, v = heapq.heappop(heap)
        if v not in adjacent or key != size[v] + bias[v]:
            continue  # Its table has changed since.
        if size[v] <= largest:
            scope = adjacent.pop(v)
            steps.append((v, sorted(scope)))
            for w in scope:
                adjacent[w] |= scope
                adjacent[w] -= {v, w}
            touch(scope)
            continue
        small = [w for w in adjacent if size[w] <= largest]
        if small:  # The noise hid it.
            for w in small:
                bias[w] = -largest
            touch(set(small))
        else:
            degrees = [
                (len(adjacent[w]) + 2 * noise * rng.random(), w) for w in adjacent
            ]
            worst = max(degrees)[1]
            cut.append(worst)
            scope = adjacent.pop(worst)
            for w in scope:
                adjacent[w].discard(worst)
            touch(scope)
        if v in adjacent:
            heapq.heappush(heap, (size[v] + bias[v], v))
    fixed = set(cut)
    return [(v, [w for w in scope if w not in fixed]) for v, scope in steps], cut


def _laid_out(
    model: Model,
    near: Sequence[dict[int, int]],
    steps: list[tuple[int, list[int]]],
    cut: list[int],
) -> Plan:
    sizes = model.sizes.tolist()
    place = {v: i for i, (v, _) in enumerate(steps)}
    unary = len(model.cost)
    top, arguments = unary + len(model.edge_cost), 0
    # Summands by the step that uses them: where they begin, and the strides of their nodes.
    factors: list[list[tuple[int, dict[int, int]]]] = [[] for _ in steps]
    messages, argument = [], []
    for v, i in place.items():
        factors[i].append((int(model.offset[v]), {v: 1}))
        for w, e in near[v].items():
            if place.get(w, -1) > i:
                factors[i].append(_edge(model, e, unary))
    for _, scope in steps:
        strides, step = {}, 1
        for w in reversed(scope):
            strides[w] = step
            step *= sizes[w]
        messages.append(top)
        argument.append(arguments)
        if scope:
            factors[min(place[w] for w in scope)].append((top, strides))
        top, arguments = top + step, arguments + step
    stride: list[int] = []
    begin: list[int] = []
    stride_at = [0]
    for (v, scope), own in zip(steps, factors):
        for base, strides in own:
            begin.append(base)
            stride += [strides.get(w, 0) for w in (*scope, v)]
            stride_at.append(len(stride))
    fixed = set(cut)
    links = [(c, w) for c in cut for w in near[c] if w not in fixed]
    link_rows = []
    for c, w in links:
        base, strides = _edge(model, near[c][w], unary)
        link_rows.append((base, strides[w], strides[c]))
    tables = Tables(
        order=_ints([v for v, _ in steps]),
        sizes=model.sizes,
        scope_at=_ints(np.cumsum([0, *(len(scope) for _, scope in steps)])),
        scope=_ints([w for _, scope in steps for w in scope]),
        factor_at=_ints(np.cumsum([0, *(len(own) for own in factors)])),
        factor=_ints(begin),
        stride_at=_ints(stride_at),
        stride=_ints(stride),
        message=_ints(messages),
        argument=_ints(argument),
    )
    return Plan(
        cut=_ints(cut),
        tables=tables,
        memory=top,
        arguments=arguments,
        links=_ints(links).reshape(-1, 2),
        link_table=_ints(link_rows).reshape(-1, 3),
        inner=_ints([near[c][w] for c in cut for w in near[c] if w in fixed and c < w]),
    )


def _edge(model: Model, e: int, unary: int) -> tuple[int, dict[int, int]]:
    a, b = model.ends[e].tolist()
    return unary + int(model.edge_offset[e]), {a: int(model.sizes[b]), b: 1}


def _ints(values: Sequence[int] | Sequence[tuple[int, ...]] | np.ndarray) -> np.ndarray:
    return np.asarray(values, np.int64)


def _eliminate(
    tables: Tables, memory: Float64[np.ndarray, " P"], argument: np.ndarray
) -> float:
    """Fills messages and arguments; returns the minimum over all eliminated nodes."""
    total = 0.0
    for i in range(len(tables.order)):
        node = tables.order[i]
        first, count = tables.scope_at[i], tables.scope_at[i + 1] - tables.scope_at[i]
        summand, summands = (
            tables.factor_at[i],
            tables.factor_at[i + 1] - tables.factor_at[i],
        )
        at = tables.factor[summand : summand + summands].copy()
        digits = np.zeros(count, np.int64)
        size = 1
        for p in range(count):
            size *= tables.sizes[tables.scope[first + p]]
        for row in range(size):
            best, choice = np.inf, 0
            for s in range(tables.sizes[node]):
                value = 0.0
                for f in range(summands):
                    own = tables.stride[tables.stride_at[summand + f] + count]
                    value += memory[at[f] + s * own]
                if value < best:
                    best, choice = value, s
            memory[tables.message[i] + row] = best
            argument[tables.argument[i] + row] = choice
            for p in range(count - 1, -1, -1):  # The next row's digits.
                digits[p] += 1
                for f in range(summands):
                    at[f] += tables.stride[tables.stride_at[summand + f] + p]
                if digits[p] < tables.sizes[tables.scope[first + p]]:
                    break
                for f in range(summands):
                    at[f] -= (
                        digits[p] * tables.stride[tables.stride_at[summand + f] + p]
                    )
                digits[p] = 0
        if count == 0:
            total += memory[tables.message[i]]
    return total


def _traced(
    tables: Tables, argument: np.ndarray, chosen: Int64[np.ndarray, " N"]
) -> None:
    """Sets the eliminated nodes' strategies to those of the minimum."""
    for i in range(len(tables.order) - 1, -1, -1):
        row = 0
        for p in range(tables.scope_at[i], tables.scope_at[i + 1]):
            node = tables.scope[p]
            row = row * tables.sizes[node] + chosen[node]
        chosen[tables.order[i]] = argument[tables.argument[i] + row]


eliminate = compiled(_eliminate)
traced = compiled(_traced)
