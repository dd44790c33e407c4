"""Where the gradients' all-reduce goes: cut into pieces that hide behind other layers (FSMoE, section 5).

A stack is walked in the order of the backward pass: a layer's experts, then its dense part up to the next expert
layer, whose gradient is then ready for the layers that follow. What a layer hides lies beside its dense part or inside
its experts' window (`fsmoe.window`); each piece is a collective of its own and pays its start-up. What is left at the
end is exposed.

Step 1 (`greedy`) fills free time only. Step 2 lets what is left lengthen layers, in the best places: by dynamic
programming over a grid of volumes (`by_programming`; exact to the grid, since the sum is separable and the bounds are
on prefix sums), or by differential evolution as in the paper (`by_evolution`).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compiler.moe.fsmoe import (
    Floats,
    Task,
    Tasks,
    column,
    degrees,
    enumerated,
    layer_time,
    window,
)
from compiler.moe.performance import Line

GRID = 64


class Stack(NamedTuple):
    """L layers in backward order.

    Attributes:
        layers: tasks of the backward pass, [L].
        dense: time of each layer's dense part, after its experts, [L].
        gradient: volume that is ready for reduction after each layer, [L].
        all_reduce: its line.
    """

    layers: Tasks
    dense: Floats
    gradient: Floats
    all_reduce: Line


class Placed(NamedTuple):
    """Volumes of gradient by layer [L], and what is left for the end."""

    beside: Floats
    inside: Floats
    left: float
    # What could have been put into each layer or those before without taking from what others hide.
    bound: Floats


def reduce_time(line: Line, volume: ArrayLike) -> Floats:
    """Returns the time of an all-reduce; nothing takes none."""
    volume = np.asarray(volume, float)
    return np.where(volume > 0, line.startup + volume * line.slope, 0.0)


def volume_in(line: Line, time: ArrayLike) -> Floats:
    """Returns the volume that can be reduced in a time: g_inv, not below 0."""
    return np.maximum(np.asarray(time, float) - line.startup, 0.0) / line.slope


def greedy(stack: Stack) -> Placed:
    """Returns step 1: each layer hides what it can of what is ready, the rest goes on to the next."""
    alone = enumerated(stack.layers)
    free = window(stack.layers, alone.degree)
    count = stack.dense.size
    beside, inside, carried = np.zeros(count), np.zeros(count), np.zeros(count)
    ready = 0.0
    for i in range(count):
        inside[i] = min(ready, float(volume_in(stack.all_reduce, free[i])))
        ready -= inside[i]
        beside[i] = min(ready, float(volume_in(stack.all_reduce, stack.dense[i])))
        ready -= beside[i]
        carried[i] = ready
        ready += stack.gradient[i]
    # A later layer hides part of what is carried past this one; only what none will hide is free to go elsewhere.
    bound = np.minimum.accumulate(carried[::-1])[::-1]
    return Placed(beside, inside, ready, bound)


def backward_time(stack: Stack, placed: Placed) -> float:
    """Returns the time of the backward pass of a stack, the degree of each layer at its best."""
    moe = enumerated(stack.layers, reduce_time(stack.all_reduce, placed.inside)).time
    dense = np.maximum(stack.dense, reduce_time(stack.all_reduce, placed.beside))
    return float(
        np.sum(moe) + np.sum(dense) + reduce_time(stack.all_reduce, placed.left)
    )


def _with(placed: Placed, extra: Floats) -> Placed:
    return placed._replace(
        inside=placed.inside + extra, left=max(placed.left - float(np.sum(extra)), 0.0)
    )


def by_programming(stack: Stack, placed: Placed, grid: int = GRID) -> Placed:
    """Returns step 2 on a grid of volumes: the best of all placements of whole units.

    Args:
        stack: the layers.
        placed: what step 1 made of them.
        grid: units that the largest bound is cut into.

    Raises:
        ValueError: a grid of no unit.
    """
    if grid < 1:
        raise ValueError(f"a grid has a unit, not {grid}")
    total = float(placed.bound.max(initial=0.0))
    if total <= 0:
        return placed
    units = np.arange(grid + 1)
    volumes = placed.inside[:, None] + units * (total / grid)
    whole = column(column(stack.layers))
    times = reduce_time(stack.all_reduce, volumes)[..., None]
    # [L units]: the least over degrees.
    costs = np.min(layer_time(whole, degrees(), times), axis=-1)
    value = np.full(grid + 1, np.inf)
    value[0] = 0.0
    taken = np.zeros((stack.dense.size, grid + 1), np.int64)
    for i in range(stack.dense.size):
        # [now, here]: `here` units go into this layer, `now - here` into those before.
        before = units[:, None] - units[None, :]
        sums = np.where(before >= 0, value[before] + costs[i][None, :], np.inf)
        allowed = units * (total / grid) <= placed.bound[i] * (1 + 1e-12)
        taken[i] = np.argmin(sums, axis=1)
        value = np.where(allowed, np.min(sums, axis=1), np.inf)
    left = reduce_time(
        stack.all_reduce, np.maximum(placed.left - units * total / grid, 0)
    )
    state = int(np.argmin(value + left))
    extra = np.zeros(stack.dense.size)
    for i in reversed(range(stack.dense.size)):
        here = int(taken[i, state])
        extra[i] = here * total / grid
        state -= here
    return _with(placed, extra)


def by_evolution(stack: Stack, placed: Placed, seed: int = 0) -> Placed:
    """Returns step 2 by differential evolution.

    A gene is the part that a layer takes of what is still allowed, so that every vector keeps the bounds.

    Args:
        stack: the layers.
        placed: what step 1 made of them.
        seed: of the search.
    """
    from scipy import optimize

    if placed.bound.max(initial=0.0) <= 0:
        return placed

    def extra(parts: NDArray[np.float64]) -> Floats:
        result = np.zeros(placed.bound.size)
        for i, part in enumerate(parts):
            result[i] = part * max(placed.bound[i] - result.sum(), 0.0)
        return result

    found = optimize.differential_evolution(
        lambda parts: backward_time(stack, _with(placed, extra(parts))),
        bounds=[(0.0, 1.0)] * placed.bound.size,
        rng=seed,
        polish=False,
        maxiter=60,
        x0=np.zeros(placed.bound.size),
    )
    return _with(placed, extra(found.x))


def repeated(whole: Tasks, count: int) -> Tasks:
    """Returns `count` layers that are alike, from tasks of one."""
    return Tasks(*(Task(*(np.full(count, part) for part in item)) for item in whole))
