"""The collectives between how a value is made and how it is wanted.

A placement says for each mesh axis which dimension of the value it cuts: `NONE` for copies, `PARTIAL` for sums that are
not complete.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from compiler.hlo.collectives import Kind

NONE = -1
PARTIAL = -2
Placement = tuple[int, ...]


class Move(NamedTuple):
    """One collective.

    Attributes:
        kind: what it does.
        axes: of the mesh, over which it runs.
        devices: of a group.
        share: its result on one device, as a part of the whole value.
    """

    kind: Kind
    axes: tuple[int, ...]
    devices: int
    share: float


@functools.cache
def moves(
    sizes: tuple[int, ...], source: Placement, target: Placement
) -> tuple[Move, ...]:
    """Returns the collectives that bring a value from one placement to another, what shrinks it first.

    Args:
        sizes: of the mesh axes.
        source: how the value is.
        target: how it is wanted; never partial.
    """
    share = local_share(sizes, source)
    found: list[Move] = []
    pairs = list(enumerate(zip(source, target, sizes)))
    cut = [a for a, (s, t, n) in pairs if s == NONE and t >= 0 and n > 1]
    share /= math.prod(sizes[a] for a in cut)
    partial = [a for a, (s, _, n) in pairs if s == PARTIAL and n > 1]
    scattered = [a for a in partial if target[a] >= 0]
    summed = [a for a in partial if target[a] < 0]
    if scattered:
        share /= math.prod(sizes[a] for a in scattered)
        found.append(_move("reduce-scatter", scattered, sizes, share))
    if summed:
        found.append(_move("all-reduce", summed, sizes, share))
    swapped = [a for a, (s, t, n) in pairs if s >= 0 and t >= 0 and s != t and n > 1]
    for way in dict.fromkeys((source[a], target[a]) for a in swapped):
        axes = [a for a in swapped if (source[a], target[a]) == way]
        found.append(_move("all-to-all", axes, sizes, share))
    gathered = [a for a, (s, t, n) in pairs if s >= 0 and t < 0 and n > 1]
    for dim in dict.fromkeys(source[a] for a in gathered):
        axes = [a for a in gathered if source[a] == dim]
        share *= math.prod(sizes[a] for a in axes)
        found.append(_move("all-gather", axes, sizes, share))
    return tuple(found)


def stations(
    sizes: tuple[int, ...], source: Placement, target: Placement
) -> tuple[Placement, ...]:
    """Returns the placements on the way from one to another, each one collective from the last; the target is last.

    The partitioner does one kind of change at a time; asked for two at once it may copy everything everywhere.
    """
    now = list(source)
    for a, (s, t) in enumerate(zip(source, target)):
        if s == NONE:
            now[a] = t
    found = [] if PARTIAL in now else [tuple(now)]
    for move in moves(sizes, source, target):
        for a in move.axes:
            now[a] = target[a]
        if PARTIAL not in now:
            found.append(tuple(now))
    if not found or found[-1] != target:
        found.append(target)
    return tuple(p for p in dict.fromkeys(found) if p != source or p == target)


def local_share(sizes: Sequence[int], placement: Placement) -> float:
    """Returns the part of a value that one device holds."""
    return 1.0 / math.prod(n for n, dim in zip(sizes, placement) if dim >= 0)


def _move(kind: Kind, axes: list[int], sizes: Sequence[int], share: float) -> Move:
    return Move(kind, tuple(axes), math.prod(sizes[a] for a in axes), share)
