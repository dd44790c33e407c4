"""A search over the order in which a packer takes the buffers."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from solvers.packing.fit import Order, Packer
from solvers.packing.problem import Buffer, Packing, lower_bound
from solvers.packing.step import Step

_PATIENCE = 300  # Orders without a lower packing, by which the search ends by itself.
_RESTART_SHARE = 0.25  # Of the orders tried: drawn afresh instead of from the best.


def search(
    buffers: Sequence[Buffer],
    seed: int,
    done: Callable[[], bool],
    known: Packing | None = None,
    patience: int = _PATIENCE,
) -> Iterator[Step]:
    """Yields the lowest packing, again and again; the first is that of the simple orders.

    Args:
        buffers: what to pack.
        seed: of the orders drawn.
        done: whether to stop.
        known: a packing to start from, or None.
        patience: orders without a lower packing after which the search ends.
    """
    if not buffers:
        yield Step(0, Packing(np.zeros(0, np.int64), 0, "nothing to pack"), 0)
        return
    packer = Packer(buffers)
    least = lower_bound(buffers)
    best = known
    order, fit = packer.orders()["size, best fit"]
    for name, (tried, rule) in packer.orders().items():
        found = packer.pack(tried, rule, name)
        if best is None or found.height < best.height:
            best, order, fit = found, tried, rule
    assert best is not None
    yield Step(len(packer.orders()), best, least)
    random = np.random.default_rng(seed)
    current, idle = packer.pack(order, fit), 0
    while best.height > least and idle < patience and not done():
        if random.random() < _RESTART_SHARE:
            tried = _weighted(packer, random)
            rule = "best" if random.random() < 0.5 else "first"
        else:
            tried, rule = _moved(packer, order, current, random), fit
        found = packer.pack(tried, rule, "search over orders")
        idle += 1
        if found.height <= current.height:
            order, fit, current = tried, rule, found
        if found.height < best.height:
            best, idle = found, 0
        yield Step(1, best, least)


def _weighted(packer: Packer, random: np.random.Generator) -> Order:
    """An order by a random product of powers of size and duration, with noise."""
    share, noise = random.random(), random.exponential(0.3)
    score = share * np.log(packer.size) + (1 - share) * np.log(packer.duration)
    return np.argsort(-score + random.normal(0.0, noise, len(score)), kind="stable")


def _moved(
    packer: Packer, order: Order, current: Packing, random: np.random.Generator
) -> Order:
    """The order with one to three buffers put earlier, at first those on top."""
    result = list(order)
    highest = np.flatnonzero(current.offsets + packer.size >= current.height)
    for _ in range(1 + int(random.integers(3))):
        number = int(random.choice(highest))
        if random.random() < 0.3:
            number = int(random.integers(len(result)))
        position = result.index(number)
        # As a rule not far: the square root draws towards where it was.
        target = int(position * math.sqrt(random.random()))
        result.insert(target, result.pop(position))
    return np.array(result, np.intp)
