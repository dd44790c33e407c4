"""The words of static allocation: buffers with known lives, to be given offsets.

B buffers. Times are any integers, lives half-open; sizes and offsets are bytes.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Part(NamedTuple):
    """A half-open range of times in which a buffer takes bytes `[base, size)` from its offset."""

    lower: int
    upper: int
    size: int
    base: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Buffer:
    """What lies at one offset.

    Attributes:
        id: its name.
        parts: by time, not overlapping, at least one; between two of them others may lie there.
        alignment: the offset is a multiple of this many bytes.
        offset: where it must lie, or None.
        hint: where it lay in an earlier or guessed solution, or None.
    """

    id: str
    parts: tuple[Part, ...]
    alignment: int = 1
    offset: int | None = None
    hint: int | None = None

    @property
    def size(self) -> int:
        """Bytes, at most."""
        return max(part.size for part in self.parts)

    @property
    def lower(self) -> int:
        """First time."""
        return self.parts[0].lower

    @property
    def upper(self) -> int:
        """First time after its life."""
        return self.parts[-1].upper

    @property
    def area(self) -> int:
        """Bytes times time."""
        return sum((p.upper - p.lower) * (p.size - p.base) for p in self.parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Packing:
    """Offsets of all buffers.

    Attributes:
        offsets: in the order of the buffers, [B] bytes.
        height: where the highest buffer ends.
        by: what found it.
    """

    offsets: NDArray[np.int64]
    height: int
    by: str


def packing(buffers: Sequence[Buffer], offsets: Iterable[int], by: str) -> Packing:
    """Returns a packing with its height."""
    placed = np.fromiter((int(o) for o in offsets), np.int64)
    height = max((int(o) + b.size for o, b in zip(placed, buffers)), default=0)
    return Packing(placed, height, by)


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """Returns bytes that no packing undercuts: the largest sum of sizes alive at once.

    Where all offsets are multiples of some number, all sizes but that of the topmost buffer are
    rounded up to it.
    """
    if not buffers:
        return 0
    windows = any(part.base for b in buffers for part in b.parts)
    # What has a base may reach into the rounding of what lies below.
    unit = 1 if windows else int(np.gcd.reduce([b.alignment for b in buffers]))
    alive = max(_sums(buffers, unit), default=0)
    fixed = (b.offset + b.size for b in buffers if b.offset is not None)
    return max(alive, max(fixed, default=0), max(b.size for b in buffers))


def _sums(buffers: Sequence[Buffer], unit: int) -> Iterable[int]:
    """Bounds by time, among them the highest."""
    parts = [part for b in buffers for part in b.parts]
    start, end, size, base = np.array(parts, np.int64).T
    rounded = -(-(size - base) // unit) * unit
    spare = rounded - (size - base)
    time = np.concatenate([start, end])
    change = np.concatenate([rounded, -rounded])
    order = np.lexsort((change, time))  # At equal times, what ends goes first.
    level = np.cumsum(change[order])
    if not spare.any():
        return [int(level.max())]
    # One of those alive lies on top; which, is open, so the largest rounding is taken back.
    peaks = np.unique(time[order][level > level.max() - unit])
    alive = [(start <= t) & (end > t) for t in peaks.tolist()]
    return [int(rounded[a].sum() - spare[a].max()) for a in alive if a.any()]
