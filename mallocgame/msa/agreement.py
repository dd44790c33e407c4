"""How much of two solutions is the same: bytes x logical time in fast memory.

A *cell* is one value at one logical time, weighed by the value's size. Slices and in-place updates
count once: what matters is whether the value, or a part of it, has a place in fast memory then.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

# Per value: size in bytes, closed intervals of logical time.
Solution = Mapping[str, tuple[int, Iterable[tuple[int, int]]]]


class Agreement(NamedTuple):
    """Bytes x logical time, by who has a cell in fast memory."""

    both: int = 0
    theirs_only: int = 0
    ours_only: int = 0

    @property
    def share(self) -> float:
        """What both have in fast memory, of what either has; 1 if neither has anything."""
        union = self.both + self.theirs_only + self.ours_only
        return self.both / union if union else 1.0

    def __add__(self, other: tuple[int, ...]) -> "Agreement":  # type: ignore[override]
        return Agreement(*(a + b for a, b in zip(self, other, strict=True)))


def agreement(ours: Solution, theirs: Solution) -> Agreement:
    """Compares two solutions of one program."""
    return sum((by_value(ours, theirs).values()), Agreement())


def by_value(ours: Solution, theirs: Solution) -> dict[str, Agreement]:
    """Compares two solutions value by value."""
    found = {}
    for name in sorted(ours.keys() | theirs.keys()):
        size, mine = ours.get(name, (0, ()))
        other_size, other = theirs.get(name, (0, ()))
        a, b = list(mine), list(other)
        last = max((end for _, end in a + b), default=-1)
        in_a, in_b = _cells(a, last + 1), _cells(b, last + 1)
        size = max(size, other_size)
        found[name] = Agreement(
            int((in_a & in_b).sum()) * size,
            int((in_b & ~in_a).sum()) * size,
            int((in_a & ~in_b).sum()) * size,
        )
    return found


def _cells(intervals: Iterable[tuple[int, int]], times: int) -> np.ndarray:
    cells = np.zeros(times, bool)
    for start, end in intervals:
        cells[start : end + 1] = True
    return cells
