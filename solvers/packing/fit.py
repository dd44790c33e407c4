"""Best fit and first fit: packs buffers one after another in any order. Quick, and never proves anything.

The two orders of XLA's `GlobalDecreasingSizeBestFitHeap` are among the simple ones. Compiled where
numba is installed, else by NumPy; both give the same offsets.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from solvers import compiled
from solvers.packing.problem import Buffer, Packing

Fit = Literal["best", "first"]
Order = NDArray[np.intp]
Ints = NDArray[np.int64]

XLA_ORDERS = ("size, best fit", "duration, best fit")
"""What XLA calls spatial and temporal; it keeps the lower one."""

_DENSE = 4000  # Parts up to which NumPy keeps the overlaps.


class Packer:
    """Packs one set of buffers in any order.

    Buffers whose offset is fixed lie there from the start, also where that overlaps another fixed
    one; a part with a base counts from the buffer's offset.
    """

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self.buffers = buffers
        parts = [part[:3] for b in buffers for part in b.parts]
        self._begin, self._end, self._bytes = (
            np.array(parts, np.int64).reshape(-1, 3).T.copy()
        )
        counts = [len(b.parts) for b in buffers]
        self._rows = np.cumsum([0, *counts], dtype=np.int64)
        self._alignment = np.array([b.alignment for b in buffers], np.int64)
        self._fixed = np.array(
            [-1 if b.offset is None else b.offset for b in buffers], np.int64
        )
        self.size = np.array([b.size for b in buffers], np.int64)
        self.lower = np.array([b.lower for b in buffers], np.int64)
        self.duration = np.array([b.upper for b in buffers], np.int64) - self.lower
        self.area = np.array([b.area for b in buffers], np.float64)
        self._place = _compiled() if compiled.available() else self._place_by_numpy

    def pack(self, order: Sequence[int] | Order, fit: Fit, by: str = "") -> Packing:
        """Returns the packing in an order.

        Args:
            order: all buffers.
            fit: `"best"`, the smallest gap that is large enough, as XLA, or `"first"`, the lowest.
            by: the name that the packing gets.
        """
        given = np.asarray(order, np.int64)
        fixed = self._fixed[given] >= 0
        given = np.concatenate([given[fixed], given[~fixed]])
        offsets = self._place(
            given,
            self._rows,
            self._begin,
            self._end,
            self._bytes,
            self.size,
            self._alignment,
            self._fixed,
            fit == "best",
        )
        height = int((offsets + self.size).max(initial=0))
        return Packing(offsets, height, by)

    def orders(self) -> dict[str, tuple[Order, Fit]]:
        """Returns the simple orders with how they fit, by name; ties by position."""
        by_size = np.lexsort((-self.duration, -self.size))
        by_duration = np.lexsort((-self.size, -self.duration))
        by_area = np.argsort(-self.area, kind="stable")
        by_start = np.lexsort((-self.size, self.lower))
        return {
            "size, best fit": (by_size, "best"),
            "duration, best fit": (by_duration, "best"),
            "size, first fit": (by_size, "first"),
            "duration, first fit": (by_duration, "first"),
            "area, first fit": (by_area, "first"),
            "start, first fit": (by_start, "first"),
            "start, best fit": (by_start, "best"),
        }

    @functools.cached_property
    def _near(self) -> list[Order]:
        """Positions of other buffers' parts that are alive together with each buffer."""
        return [self._overlapping(n) for n in range(len(self.buffers))]

    def _overlapping(self, number: int) -> Order:
        near = np.zeros(len(self._bytes), bool)
        own = slice(self._rows[number], self._rows[number + 1])
        for begin, end in zip(self._begin[own], self._end[own]):
            near |= (self._begin < end) & (self._end > begin)
        near[own] = False
        return np.flatnonzero(near)

    def _place_by_numpy(self, order: Ints, rows: Ints, *rest: Any) -> Ints:
        best = rest[-1]
        offset = np.full(len(self._bytes), -1, np.int64)
        top = np.zeros_like(offset)
        chosen = np.zeros(len(rows) - 1, np.int64)
        dense = len(self._bytes) <= _DENSE
        for number in order.tolist():
            at = int(self._fixed[number])
            if at < 0:
                near = self._near[number] if dense else self._overlapping(number)
                near = near[offset[near] >= 0]
                near = near[np.argsort(offset[near], kind="stable")]
                at = self._gap(offset[near], top[near], number, best)
            chosen[number] = at
            own = slice(rows[number], rows[number + 1])
            offset[own] = at
            top[own] = at + self._bytes[own]
        return chosen

    def _gap(self, offset: Ints, top: Ints, number: int, best: bool) -> int:
        """Returns where a buffer goes between what is taken, sorted by offset."""
        unit, size = int(self._alignment[number]), int(self.size[number])
        floor = np.maximum.accumulate(np.concatenate([[0], top]))
        floor = -(-floor // unit) * unit
        room = offset - floor[:-1]
        fits = np.flatnonzero(room >= size)
        if not len(fits):
            return int(floor[-1])
        return int(floor[fits[np.argmin(room[fits])] if best else fits[0]])


def simple_packings(packer: Packer) -> dict[str, Packing]:
    """Returns the packings of the simple orders, by name."""
    return {
        name: packer.pack(order, fit, name)
        for name, (order, fit) in packer.orders().items()
    }


@functools.cache
def _compiled() -> Callable[..., Ints]:
    return compiled.compiled(_place)


def _place(
    order: Any,
    rows: Any,
    begin: Any,
    end: Any,
    bytes_: Any,
    size: Any,
    alignment: Any,
    fixed: Any,
    best: bool,
) -> Any:
    """Best or first fit as plain loops; a table of placed parts stays sorted by offset."""
    chosen = np.zeros(len(rows) - 1, np.int64)
    table = np.zeros((len(bytes_), 4), np.int64)  # Offset, top, begin, end.
    count = 0
    for number in order:
        unit, needed = alignment[number], size[number]
        at = fixed[number]
        if at < 0:
            floor, room = np.int64(0), np.int64(-1)
            for k in range(count):
                for row in range(rows[number], rows[number + 1]):
                    if table[k, 2] < end[row] and table[k, 3] > begin[row]:
                        gap = table[k, 0] - floor
                        if gap >= needed and (room < 0 or gap < room):
                            at, room = floor, gap
                        floor = max(floor, (table[k, 1] + unit - 1) // unit * unit)
                        break
                if room >= 0 and not best:
                    break
            if room < 0:
                at = floor
        chosen[number] = at
        for row in range(rows[number], rows[number + 1]):
            k = count
            while k > 0 and table[k - 1, 0] > at:
                for column in range(4):
                    table[k, column] = table[k - 1, column]
                k -= 1
            table[k, 0], table[k, 1] = at, at + bytes_[row]
            table[k, 2], table[k, 3] = begin[row], end[row]
            count += 1
    return chosen
