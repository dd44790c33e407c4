"""Problems cut to what decides: components that share no time, sections of time, one common unit.

A section is a longest range of times in which the same buffers are alive; only sections that are
not contained in another count. Symbols of shapes: B buffers, S sections, P pairs of overlapping
buffers in each direction, M memberships of buffers in sections.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from solvers.packing.problem import Buffer

Ints = NDArray[np.int64]


class Component(NamedTuple):
    """Buffers that are connected by overlaps in time, in units, in the order of branching.

    Rows of the ragged arrays are `values[start[i] : start[i + 1]]`.

    Attributes:
        number: of each buffer in the problem, [B].
        unit: bytes.
        size: largest, rounded up, [B].
        spare: bytes that rounding up added, [B].
        alignment: [B].
        fixed: the required offset, or -1, [B].
        alike: a number, the same for those that can change places, [B].
        twin: an earlier buffer that is exactly alike, or -1, [B].
        first: section, [B].
        last: section, inclusive, [B].
        near_start, near, apart: overlapping buffers, and how far above this one they must lie at
            least if they lie above it, [B + 1], [P], [P].
        in_start, sections, tops: sections of each buffer, and its size there, [B + 1], [M], [M].
        of_start, members: buffers of each section, and their sizes there, [S + 1], [M, 2].
    """

    number: Ints
    unit: int
    size: Ints
    spare: Ints
    alignment: Ints
    fixed: Ints
    alike: Ints
    twin: Ints
    first: Ints
    last: Ints
    near_start: Ints
    near: Ints
    apart: Ints
    in_start: Ints
    sections: Ints
    tops: Ints
    of_start: Ints
    members: Ints


def components(buffers: Sequence[Buffer]) -> list[list[int]]:
    """Returns the numbers of buffers that can be packed without regard to the others, by time."""
    order = sorted(range(len(buffers)), key=lambda n: buffers[n].lower)
    found: list[list[int]] = []
    until = None
    for number in order:
        buffer = buffers[number]
        if until is None or buffer.lower >= until:
            found.append([])
            until = buffer.upper
        found[-1].append(number)
        until = max(until, buffer.upper)
    return found


def unit(buffers: Sequence[Buffer]) -> int:
    """Returns bytes that all offsets of canonical solutions are multiples of."""
    step = int(np.gcd.reduce([b.alignment for b in buffers]))
    if step > 1:
        return step
    numbers = [part.size for b in buffers for part in b.parts]
    numbers += [b.offset for b in buffers if b.offset is not None]
    numbers += [b.alignment for b in buffers if b.alignment > 1]
    return int(np.gcd.reduce(numbers))


def pairs(buffers: Sequence[Buffer]) -> int:
    """Returns how many pairs overlap in time, each counted twice; gaps in lives don't count."""
    lower = np.sort([b.lower for b in buffers])
    upper = np.sort([b.upper for b in buffers])
    begun = np.searchsorted(lower, [b.upper for b in buffers], "left")
    ended = np.searchsorted(upper, [b.lower for b in buffers], "right")
    return int((begun - ended).sum()) - len(buffers)


def lives(buffers: Sequence[Buffer], step: int) -> list[dict[int, int]]:
    """Returns the buffers alive in each section, by time, with their sizes there in units.

    Sections whose buffers are all alive in the next one or the one before are left out.
    """
    events: dict[int, list[tuple[bool, int, int]]] = {}
    for number, buffer in enumerate(buffers):
        for part in buffer.parts:
            size = -(-part.size // step)
            events.setdefault(part.lower, []).append((True, number, size))
            events.setdefault(part.upper, []).append((False, number, size))
    alive: dict[int, int] = {}
    found: list[dict[int, int]] = []
    for time in sorted(events):
        for begins, number, _ in events[time]:
            if not begins:
                del alive[number]
        for begins, number, size in events[time]:
            if begins:
                alive[number] = size
        if found and found[-1].items() <= alive.items():
            found[-1] = dict(alive)
        elif alive and not (found and alive.items() <= found[-1].items()):
            found.append(dict(alive))
    return found


def component(buffers: Sequence[Buffer]) -> Component:
    """Returns buffers that are connected by overlaps in time, in the order given."""
    step = unit(buffers)
    found = lives(buffers, step)
    num = len(buffers)
    size = np.array([-(-b.size // step) for b in buffers], np.int64)
    inside = [(n, s, top) for s, alive in enumerate(found) for n, top in alive.items()]
    of, section, top = np.array(inside, np.int64).T
    first, last = np.full(num, len(found), np.int64), np.zeros(num, np.int64)
    np.minimum.at(first, of, section)
    np.maximum.at(last, of, section)
    by_buffer = np.argsort(of, kind="stable")
    near_start, near, apart = _near(buffers, step)
    return Component(
        number=np.arange(num, dtype=np.int64),
        unit=step,
        size=size,
        spare=size * step - np.array([b.size for b in buffers], np.int64),
        alignment=np.array([max(b.alignment // step, 1) for b in buffers], np.int64),
        fixed=np.array(
            [-1 if b.offset is None else b.offset // step for b in buffers], np.int64
        ),
        alike=_alike(buffers),
        twin=np.full(num, -1, np.int64),
        first=first,
        last=last,
        near_start=near_start,
        near=near,
        apart=apart,
        in_start=_starts(of, num),
        sections=section[by_buffer],
        tops=top[by_buffer],
        of_start=_starts(section, len(found)),
        members=np.stack([of, top], 1),
    )


def arranged(c: Component, order: NDArray[np.intp]) -> Component:
    """Returns the component with its buffers in another order, [B] old positions."""
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    near_start, near = _rows(c.near_start, order)
    in_start, inside = _rows(c.in_start, order)
    alike = c.alike[order]
    twin = np.full(len(order), -1, np.int64)
    grouped = np.argsort(alike, kind="stable")
    same = alike[grouped[1:]] == alike[grouped[:-1]]
    twin[grouped[1:][same]] = grouped[:-1][same]
    return c._replace(
        number=c.number[order],
        size=c.size[order],
        spare=c.spare[order],
        alignment=c.alignment[order],
        fixed=c.fixed[order],
        alike=alike,
        twin=twin,
        first=c.first[order],
        last=c.last[order],
        near_start=near_start,
        near=rank[c.near[near]],
        apart=c.apart[near],
        in_start=in_start,
        sections=c.sections[inside],
        tops=c.tops[inside],
        members=np.stack([rank[c.members[:, 0]], c.members[:, 1]], 1),
    )


def _near(buffers: Sequence[Buffer], step: int) -> tuple[Ints, Ints, Ints]:
    """Returns the overlapping buffers, by buffer, and how far above it they lie at least."""
    rows = [
        (n, part.lower, part.upper, -(-part.size // step))
        for n, b in enumerate(buffers)
        for part in b.parts
    ]
    owner, lower, upper, _ = np.array(rows, np.int64).T
    num = len(buffers)
    found = []
    for n, begin, end, size in rows:
        other = owner[(lower < end) & (upper > begin) & (owner != n)]
        found.append(np.stack([n * num + other, np.full_like(other, size)], 1))
    pairs = np.concatenate(found)
    # Of several parts that meet, the largest decides.
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    last = np.append(pairs[1:, 0] != pairs[:-1, 0], True)[: len(pairs)]
    one, other = np.divmod(pairs[last, 0], num)
    return _starts(one, num), other, pairs[last, 1]


def _alike(buffers: Sequence[Buffer]) -> Ints:
    """Returns a number for each buffer, the same for those that can change places."""
    seen: dict[tuple[object, ...], int] = {}
    return np.array(
        [
            seen.setdefault(
                (b.parts, b.alignment) if b.offset is None else (n,), len(seen)
            )
            for n, b in enumerate(buffers)
        ],
        np.int64,
    )


def _starts(row: Ints, num: int) -> Ints:
    """Returns where each row starts in values sorted by row, [num + 1]."""
    return np.concatenate([[0], np.cumsum(np.bincount(row, minlength=num))])


def _rows(start: Ints, order: NDArray[np.intp]) -> tuple[Ints, Ints]:
    """Returns ragged rows in another order: their starts, and the old positions of the values."""
    counts = np.diff(start)[order]
    new = np.concatenate([[0], np.cumsum(counts)])
    return new, np.arange(new[-1]) + np.repeat(start[:-1][order] - new[:-1], counts)
