"""Offsets in one memory: best fit in many orders, then a search over orders.

Two of the orders are those that XLA:GPU and XLA:CPU try (by size and by duration, best fit), so what
comes out is not higher than XLA's own heap but for ties that break otherwise.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_PATIENCE = 300  # Orders without a lower heap.
_RESTART_SHARE = 0.25  # Of the orders tried: drawn afresh instead of from the best.
_DENSE = 4000  # Parts up to which the overlaps are kept.


class Part(NamedTuple):
    """A half-open range of times in which an item takes `size` bytes."""

    start: int
    end: int
    size: int


Item = tuple[Part, ...]
"""What lies at one offset; parts by time, not overlapping."""


@dataclasses.dataclass(frozen=True, eq=False)
class Packing:
    """Offsets of all items, bytes.

    Attributes:
        offsets: by item.
        height: where the highest item ends.
        by: the order that gave it.
    """

    offsets: NDArray[np.int64]
    height: int
    by: str


@dataclasses.dataclass(frozen=True, eq=False)
class Tried:
    """The best packing so far, and orders tried since the last one."""

    packing: Packing
    evaluations: int


def live_peak(items: Sequence[Item]) -> int:
    """Returns the largest sum of sizes alive at once: no packing needs less. Bytes."""
    parts = [part for item in items for part in item]
    if not parts:
        return 0
    start, end, size = np.array(parts, np.int64).T
    time = np.concatenate([start, end])
    change = np.concatenate([size, -size])
    order = np.lexsort((change, time))  # At equal times, what ends goes first.
    return int(np.cumsum(change[order]).max(initial=0))


class Packer:
    """Packs one set of items in any order."""

    def __init__(self, items: Sequence[Item], alignment: int) -> None:
        self.items = items
        self._alignment = alignment
        parts = [part for item in items for part in item]
        columns = np.array(parts, np.int64).reshape(-1, 3).T
        self._start, self._end, self._bytes = columns
        self.owner = np.repeat(np.arange(len(items)), [len(item) for item in items])
        bounds = np.cumsum([0, *(len(item) for item in items)])
        self._own = [slice(a, b) for a, b in itertools.pairwise(bounds)]
        self.size = np.array([max(p.size for p in item) for item in items], np.int64)
        self.first = np.array([item[0].start for item in items], np.int64)
        self.duration = (
            np.array([item[-1].end for item in items], np.int64) - self.first
        )
        self.area = np.array(
            [sum(p.size * (p.end - p.start) for p in item) for item in items], float
        )
        small = len(parts) <= _DENSE
        self._kept = [self._overlapping(n) for n in range(len(items))] if small else []

    def pack(self, order: Sequence[int] | NDArray[np.intp], fit: str) -> Packing:
        """Returns the packing in an order.

        Args:
            order: all items.
            fit: `"best"`, the smallest gap that is large enough, as XLA, or `"first"`, the lowest.
        """
        offset = np.full(len(self._bytes), -1, np.int64)
        top = np.zeros_like(offset)
        chosen = np.zeros(len(self.items), np.int64)
        for item in order:
            near = self._kept[item] if self._kept else self._overlapping(item)
            near = near[offset[near] >= 0]
            near = near[np.argsort(offset[near], kind="stable")]
            chosen[item] = self._gap(
                offset[near], top[near], int(self.size[item]), fit == "best"
            )
            own = self._own[item]
            offset[own] = chosen[item]
            top[own] = chosen[item] + self._bytes[own]
        return Packing(chosen, int(top.max(initial=0)), "")

    def orders(self) -> dict[str, tuple[NDArray[np.intp], str]]:
        """Returns the simple orders with how they fit, by name; ties by position."""
        by_size = np.lexsort((-self.duration, -self.size))
        by_duration = np.lexsort((-self.size, -self.duration))
        return {
            "size, best fit": (by_size, "best"),
            "duration, best fit": (by_duration, "best"),
            "size, first fit": (by_size, "first"),
            "duration, first fit": (by_duration, "first"),
            "area, first fit": (np.argsort(-self.area, kind="stable"), "first"),
            "start, first fit": (np.lexsort((-self.size, self.first)), "first"),
            "start, best fit": (np.lexsort((-self.size, self.first)), "best"),
        }

    def _overlapping(self, item: int) -> NDArray[np.intp]:
        """Positions of other items' parts that are alive together with an item."""
        near = np.zeros(len(self._bytes), bool)
        for part in self.items[item]:
            near |= (self._start < part.end) & (self._end > part.start)
        near[self._own[item]] = False
        return np.flatnonzero(near)

    def _gap(
        self, offset: NDArray[np.int64], top: NDArray[np.int64], size: int, best: bool
    ) -> int:
        """Returns where `size` bytes go between what is taken, sorted by offset."""
        if not len(offset):
            return 0
        unit = self._alignment
        floor = np.maximum.accumulate(np.concatenate([[0], top]))
        floor = -(-floor // unit) * unit
        room = offset - floor[:-1]
        fits = np.flatnonzero(room >= size)
        if not len(fits):
            return int(floor[-1])
        return int(floor[fits[np.argmin(room[fits])] if best else fits[0]])


def search(
    items: Sequence[Item],
    alignment: int,
    seed: int,
    done: Callable[[], bool],
    known: Packing | None = None,
) -> Iterator[Tried]:
    """Yields the lowest packing, again and again; the first is that of the simple orders.

    Args:
        items: what to pack; none of them empty.
        alignment: offsets are multiples of this many bytes.
        seed: of the orders drawn.
        done: whether to stop.
        known: a packing to start from, or None.
    """
    if not items:
        yield Tried(Packing(np.zeros(0, np.int64), 0, "nothing to pack"), 0)
        return
    packer = Packer(items, alignment)
    least = live_peak(items)
    best = known
    order, fit = packer.orders()["size, best fit"]
    for name, (tried, rule) in packer.orders().items():
        found = dataclasses.replace(packer.pack(tried, rule), by=name)
        if best is None or found.height < best.height:
            best, order, fit = found, tried, rule
    assert best is not None
    yield Tried(best, len(packer.orders()))
    random = np.random.default_rng(seed)
    height, idle = packer.pack(order, fit).height, 0
    current = packer.pack(order, fit)
    while best.height > least and idle < _PATIENCE and not done():
        if random.random() < _RESTART_SHARE:
            tried = _weighted(packer, random)
            rule = "best" if random.random() < 0.5 else "first"
        else:
            tried, rule = _moved(packer, order, current, random), fit
        found = packer.pack(tried, rule)
        idle += 1
        if found.height <= height:
            height, order, fit, current = found.height, tried, rule, found
        if found.height < best.height:
            best, idle = dataclasses.replace(found, by="search over orders"), 0
        yield Tried(best, 1)


def _weighted(packer: Packer, random: np.random.Generator) -> NDArray[np.intp]:
    """An order by a random product of powers of size and duration, with noise."""
    share, noise = random.random(), random.exponential(0.3)
    score = share * np.log(packer.size) + (1 - share) * np.log(packer.duration)
    drawn: NDArray[np.intp] = np.argsort(
        -score + random.normal(0.0, noise, len(score)), kind="stable"
    )
    return drawn


def _moved(
    packer: Packer,
    order: NDArray[np.intp],
    current: Packing,
    random: np.random.Generator,
) -> NDArray[np.intp]:
    """The order with one to three items put earlier, at first those at the top of the heap."""
    result = list(order)
    highest = np.flatnonzero(current.offsets + packer.size >= current.height)
    for _ in range(1 + int(random.integers(3))):
        item = int(random.choice(highest))
        if random.random() < 0.3:
            item = int(random.integers(len(result)))
        position = result.index(item)
        # As a rule not far: the square root draws towards where it was.
        target = int(position * math.sqrt(random.random()))
        result.insert(target, result.pop(position))
    return np.array(result, np.intp)
