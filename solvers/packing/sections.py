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
        twin: an earlier buffer that is exactly alike, or -1, [B].
        first: section, [B].
        last: section, inclusive, [B].
        near_start, near, apart: overlapping buffers, and how far above this one they must lie at
            least if they lie above it, [B + 1], [P], [P].
        in_start, sections, tops: sections of each buffer, and its size there, [B + 1], [M], [M].
        of_start, members: buffers of each section, [S + 1], [M].
    """

    number: Ints
    unit: int
    size: Ints
    spare: Ints
    alignment: Ints
    fixed: Ints
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


class Lives(NamedTuple):
    """Which buffers are alive in which section.

    Attributes:
        sizes: by section, the buffers alive, with their size there.
        spans: by section, first time.
    """

    sizes: list[dict[int, int]]
    spans: list[int]


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


def lives(buffers: Sequence[Buffer], step: int) -> Lives:
    """Returns the sections that are not contained in another, by time; sizes in units."""
    events: dict[int, list[tuple[bool, int, int]]] = {}
    for number, buffer in enumerate(buffers):
        for part in buffer.parts:
            size = -(-part.size // step)
            events.setdefault(part.lower, []).append((True, number, size))
            events.setdefault(part.upper, []).append((False, number, size))
    alive: dict[int, int] = {}
    sizes: list[dict[int, int]] = []
    spans: list[int] = []
    for time in sorted(events):
        for begins, number, _ in events[time]:
            if not begins:
                del alive[number]
        for begins, number, size in events[time]:
            if begins:
                alive[number] = size
        if not alive:
            continue
        if sizes and sizes[-1].items() <= alive.items():
            sizes[-1] = dict(alive)  # The earlier one is contained in this one.
        elif not sizes or not alive.items() <= sizes[-1].items():
            sizes.append(dict(alive))
            spans.append(time)
    return Lives(sizes, spans)


def arrange(buffers: Sequence[Buffer], order: Sequence[int], found: Lives, step: int, number: Sequence[int]) -> Component:
    """Returns one component with its buffers in an order.

    Args:
        buffers: of the component, [B].
        order: of branching, [B].
        found: `lives` of the same buffers.
        step: the unit, bytes.
        number: of each buffer in the problem, [B].
    """
    rank = {old: new for new, old in enumerate(order)}
    sections = [{rank[n]: size for n, size in alive.items()} for alive in found.sizes]
    size = np.array([-(-buffers[n].size // step) for n in order], np.int64)
    within: list[list[tuple[int, int]]] = [[] for _ in order]
    near: list[dict[int, int]] = [{} for _ in order]
    for s, alive in enumerate(sections):
        for one, top in alive.items():
            within[one].append((s, top))
            row = near[one]
            for other in alive:
                if other != one and row.get(other, 0) < top:
                    row[other] = top
    twin = _twins([buffers[n] for n in order], within)
    in_start, flat = _ragged(within)
    near_start, pairs = _ragged([sorted(row.items()) for row in near])
    of_start, members = _ragged([[(n, 0) for n in sorted(alive)] for alive in sections])
    return Component(
        number=np.array([number[n] for n in order], np.int64),
        unit=step,
        size=size,
        spare=size * step - np.array([buffers[n].size for n in order], np.int64),
        alignment=np.array([max(buffers[n].alignment // step, 1) for n in order], np.int64),
        fixed=np.array([-1 if (o := buffers[n].offset) is None else o // step for n in order], np.int64),
        twin=twin,
        first=np.array([row[0][0] for row in within], np.int64),
        last=np.array([row[-1][0] for row in within], np.int64),
        near_start=near_start,
        near=pairs[:, 0].copy(),
        apart=pairs[:, 1].copy(),
        in_start=in_start,
        sections=flat[:, 0].copy(),
        tops=flat[:, 1].copy(),
        of_start=of_start,
        members=members[:, 0].copy(),
    )


def _twins(buffers: Sequence[Buffer], within: Sequence[Sequence[tuple[int, int]]]) -> Ints:
    seen: dict[tuple[object, ...], int] = {}
    twin = np.full(len(buffers), -1, np.int64)
    for n, buffer in enumerate(buffers):
        if buffer.offset is None:
            key = (tuple(within[n]), buffer.size, buffer.alignment)
            twin[n] = seen.get(key, -1)
            seen[key] = n
    return twin


def _ragged(rows: Sequence[Sequence[tuple[int, int]]]) -> tuple[Ints, Ints]:
    start = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)
    flat = np.array([pair for row in rows for pair in row], np.int64).reshape(-1, 2)
    return start, flat
