"""Maps and lanes as a Chrome trace, to be opened in Perfetto or chrome://tracing."""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from solvers.report import layout
from solvers.report.components import (
    Cell,
    Interval,
    Lane,
    Lanes,
    SpaceTimeMap,
    TimeAxis,
)
from solvers.report.encode import number
from solvers.report.units import format_value

Event = dict[str, Any]
Track = tuple[str, list[Event]]

_MICROSECONDS = {"s": 1e6, "ms": 1e3, "µs": 1.0, "ns": 1e-3}


def to_trace(
    *,
    lanes: Sequence[Lanes] = (),
    maps: Sequence[SpaceTimeMap] = (),
    process: str = "schedule",
    microseconds_per_step: float = 1.0,
) -> str:
    """Returns the trace as JSON: a track per lane, a counter of use per map layer.

    Axis names become a track of their own, and so do the waits of a lane. Intervals of
    a lane that overlap in time go to further tracks of the same name, since the slices
    of one track must nest.

    Args:
        lanes: the lanes to write.
        maps: the maps whose use over time to write.
        process: the name under which the viewer groups the tracks.
        microseconds_per_step: length of a time unit of axes that do not count seconds.
    """

    def step_of(axis: TimeAxis) -> float:
        return _MICROSECONDS.get(axis.unit, microseconds_per_step)

    axes = {f.axis.group: f.axis for f in maps} | {f.axis.group: f.axis for f in lanes}
    tracks = [_names(axis, step_of(axis)) for axis in axes.values() if axis.names]
    for figure in lanes:
        for lane in figure.lanes:
            tracks += _lane(figure, lane, step_of(figure.axis))
    events = [_meta("process_name", 0, {"name": process})]
    for tid, (name, slices) in enumerate(tracks, start=1):
        events.append(_meta("thread_name", tid, {"name": name}))
        events.append(_meta("thread_sort_index", tid, {"sort_index": tid}))
        events += ({**event, "tid": tid} for event in slices)
    for chart in maps:
        events += _counters(chart, step_of(chart.axis))
    document = {
        "traceEvents": [{**event, "pid": 1} for event in events],
        "displayTimeUnit": "ns",
    }
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def _names(axis: TimeAxis, step: float) -> Track:
    """Returns the track of what happens in each step of the axis."""
    names = enumerate(axis.names, start=axis.first)
    return axis.label, [_slice(name, time, time + 1, step) for time, name in names]


def _lane(figure: Lanes, lane: Lane, step: float) -> Iterator[Track]:
    yield from _packed(lane.name, lane.intervals, figure, step)
    waits = [
        dataclasses.replace(i, start=i.wait[0], end=i.wait[1], wait=None)
        for i in lane.intervals
        if i.wait is not None
    ]
    if waits:
        yield from _packed(f"{lane.name}: {figure.wait_label}", waits, figure, step)


def _packed(
    name: str, intervals: Sequence[Interval], figure: Lanes, step: float
) -> Iterator[Track]:
    rows = layout.pack_rows(intervals)
    for row in range(max(rows, default=0) + 1):
        some = [i for i, at in zip(intervals, rows, strict=True) if at == row]
        yield name, [_interval(figure, i, step) for i in some]


def _interval(figure: Lanes, interval: Interval, step: float) -> Event:
    details: dict[str, Cell] = dict(interval.details)
    if interval.amount is not None:
        details = {figure.amount_label: interval.amount, **details}
    return {
        **_slice(interval.label, interval.start, interval.end, step),
        "cat": interval.category or "interval",
        "args": {key: _argument(value) for key, value in details.items()},
    }


def _counters(chart: SpaceTimeMap, step: float) -> Iterator[Event]:
    for layer in chart.layers:
        for time, amount in layout.usage(layer.rectangles):
            yield {
                "name": f"{layer.name}: in use ({chart.offset_unit})",
                "ph": "C",
                "tid": 0,
                "ts": number(time * step),
                "args": {"in use": number(amount)},
            }


def _slice(name: str, start: float, end: float, step: float) -> Event:
    duration = number((end - start) * step)
    return {"name": name, "ph": "X", "ts": number(start * step), "dur": duration}


def _meta(name: str, tid: int, args: Event) -> Event:
    return {"name": name, "ph": "M", "tid": tid, "args": args}


def _argument(value: Cell) -> Cell:
    if value is None or isinstance(value, str | bool):
        return value
    return number(value) if math.isfinite(value) else format_value(value)
