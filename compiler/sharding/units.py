"""Units: what decides where an array is, or where an operation's work is.

A unit is the set of classes that an array or a loop nest has. On each mesh axis at most one of them is cut: of those
assigned to the axis the one assigned first. All arrays and operations of the same classes are the same unit, so what
one plan does to a program is a number (its code) for each unit.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from compiler.sharding.names import NO_CLASS, Loop

# (class, conflict, side, which of equals)
Entry = tuple[int, int, int, int]
Unit = tuple[Entry, ...]


class Placed(NamedTuple):
    """A loop nest or an array, as a unit.

    Attributes:
        unit: its index.
        entries: of each dimension or label, its entry in the unit; -1 where it is never cut.
    """

    unit: int
    entries: tuple[int, ...]


class Units:
    """Collects the units of a program, for the classes that a search may cut."""

    def __init__(self, place: dict[int, int], conflicts: dict[int, int]) -> None:
        """Takes the number in the search of each class, and of each conflict."""
        self.place = place
        self.conflicts = conflicts
        self.units: list[Unit] = []
        self._number: dict[Unit, int] = {}

    def add(self, loop: Loop) -> Placed:
        """Returns the unit of a loop nest or an array."""
        found: list[Entry | None] = []
        for klass, (conflict, side) in zip(loop.classes, loop.sides):
            number = self.place.get(klass, NO_CLASS)
            if number == NO_CLASS:
                found.append(None)
                continue
            known = (number, self.conflicts.get(conflict, -1), side)
            again = sum(e is not None and e[:3] == known for e in found)
            found.append((*known, again))
        unit = tuple(sorted(e for e in found if e is not None))
        index = self._number.setdefault(unit, len(self.units))
        if index == len(self.units):
            self.units.append(unit)
        entries = tuple(-1 if e is None else unit.index(e) for e in found)
        return Placed(index, entries)


def codes(unit: Unit, axes: int) -> Iterator[tuple[int, ...]]:
    """Yields what is cut on each axis: an entry, or -1; in order of the codes."""
    for row in itertools.product(range(len(unit) + 1), repeat=axes):
        yield tuple(choice - 1 for choice in reversed(row))


def parts(cut: Sequence[int], sizes: Sequence[int], entry: int) -> int:
    """Returns into how many parts an entry is cut."""
    return math.prod(n for e, n in zip(cut, sizes) if e == entry)


def shares(unit: Unit, sizes: Sequence[int]) -> np.ndarray:
    """Returns the part of an array of this unit that one device holds, for each code."""
    rows = codes(unit, len(sizes))
    return np.array(
        [1.0 / math.prod(n for e, n in zip(cut, sizes) if e >= 0) for cut in rows]
    )
