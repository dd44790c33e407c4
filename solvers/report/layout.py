"""Arrangement that more than one writer needs: rows of overlapping intervals, categories, use over time."""

import heapq
import math
from collections.abc import Sequence

import numpy as np

from solvers.report.components import Interval, Rectangle, SpaceTimeMap, TimeAxis


def pack_rows(intervals: Sequence[Interval]) -> list[int]:
    """Returns a row for each interval so that intervals in one row do not overlap; as few rows as possible."""
    rows = [0] * len(intervals)
    busy: list[tuple[float, int]] = []  # (end, row) of rows that have been opened.
    free: list[int] = []
    for i in sorted(
        range(len(intervals)), key=lambda i: (intervals[i].start, intervals[i].end)
    ):
        while busy and busy[0][0] <= intervals[i].start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        rows[i] = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (intervals[i].end, rows[i]))
    return rows


def category_order(
    first: Sequence[str], items: Sequence[Rectangle | Interval]
) -> list[str]:
    """Returns the categories in the order of their colours: first those named, then as used."""
    return list(dict.fromkeys([*first, *(item.category for item in items)]))


def map_categories(figure: SpaceTimeMap) -> list[str]:
    """Returns the categories of all layers of a map in the order of their colours."""
    return category_order(
        figure.categories, [r for layer in figure.layers for r in layer.rectangles]
    )


def time_range(
    axis: TimeAxis, items: Sequence[Rectangle | Interval]
) -> tuple[float, float]:
    """Returns the times between which something is named or happens; never empty."""
    starts = [float(item.start) for item in items]
    ends = [float(item.end) for item in items]
    for item in items:
        if isinstance(item, Interval) and item.wait is not None:
            starts.append(float(item.wait[0]))
            ends.append(float(item.wait[1]))
    if axis.names:
        starts.append(float(axis.first))
        ends.append(float(axis.first + len(axis.names)))
    low, high = min(starts, default=0.0), max(ends, default=1.0)
    return (low, high) if high > low else (low, low + 1.0)


def top_offset(figure: SpaceTimeMap) -> float:
    """Returns the highest offset in use in any layer."""
    return max(
        (r.offset + r.size for layer in figure.layers for r in layer.rectangles),
        default=0.0,
    )


def offset_view(figure: SpaceTimeMap) -> float:
    """Returns the offset at the top of the picture; a capacity far above all rectangles stays out of it."""
    top, capacity = top_offset(figure), figure.capacity or 0.0
    return (
        max(top, capacity if capacity <= 2.5 * top or top == 0 else 0.0) * 1.05 or 1.0
    )


def usage(rectangles: Sequence[Rectangle]) -> list[tuple[float, float]]:
    """Returns `(time, amount in use)` at each change; offsets that rectangles share count once."""
    live = [r for r in rectangles if r.end > r.start and r.size > 0]
    edges = np.unique([edge for r in live for edge in (r.offset, r.offset + r.size)])
    lengths = np.diff(edges)
    count = np.zeros(lengths.shape, np.int64)
    events = sorted(
        [(r.end, -1, i) for i, r in enumerate(live)]
        + [(r.start, 1, i) for i, r in enumerate(live)]
    )
    steps: list[tuple[float, float]] = []
    in_use = 0.0
    for time, change, i in events:
        low, high = np.searchsorted(
            edges, (live[i].offset, live[i].offset + live[i].size)
        )
        before = count[low:high] > 0
        count[low:high] += change
        flipped = before != (count[low:high] > 0)
        in_use += change * float(lengths[low:high][flipped].sum())
        if steps and steps[-1][0] == time:
            steps.pop()
        if not steps or steps[-1][1] != in_use:
            steps.append((time, in_use))
    return steps


def nice_ticks(low: float, high: float, count: int, unit: str = "") -> list[float]:
    """Returns about `count` round numbers in [low, high]: multiples of 1, 2 or 5, or of powers of 2 for bytes."""
    raw = (high - low) / max(1, count)
    if raw <= 0:
        return [low]
    if unit == "B":
        step = 2.0 ** math.ceil(math.log2(raw))
    else:
        power = 10.0 ** math.floor(math.log10(raw))
        step = power * next(m for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    start = math.ceil(low / step - 1e-9)
    return [k * step for k in range(start, math.floor(high / step + 1e-9) + 1)]
