"""The page's data as compact JSON: one array per field, every string written once."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from solvers.report import layout
from solvers.report.components import (
    Cell,
    Interval,
    Lanes,
    Line,
    Rectangle,
    Series,
    SpaceTimeMap,
    TimeAxis,
)
from solvers.report.units import format_value

_MAX_POINTS = 4000  # Of one curve: more than a screen has columns.

Json = dict[str, Any]


class Encoder:
    """Collects strings, axes and figures, and writes them as one JSON text.

    Figures are added in page order; the same page gives the same text.
    """

    def __init__(self) -> None:
        self._strings: dict[str, int] = {}
        self._axes: dict[str, TimeAxis] = {}
        self._ranges: dict[str, tuple[float, float]] = {}
        self._stepped: dict[str, bool] = {}
        self._categories: dict[str, dict[str, int]] = {}
        self._figures: list[Json] = []

    def add(self, figure: SpaceTimeMap | Lanes | Line) -> int:
        """Adds a figure and returns its number on the page."""
        if isinstance(figure, SpaceTimeMap):
            encoded = self._map(figure)
        elif isinstance(figure, Lanes):
            encoded = self._lanes(figure)
        else:
            encoded = self._line(figure)
        self._figures.append({"title": figure.title, **encoded})
        return len(self._figures) - 1

    def to_json(self) -> str:
        """Returns the JSON text, safe inside an HTML script element."""
        axes = {group: self._axis(group, axis) for group, axis in self._axes.items()}
        data = {"axes": axes, "figures": self._figures, "strings": list(self._strings)}
        text = json.dumps(data, separators=(",", ":"), allow_nan=False)
        return text.replace("<", "\\u003c")

    def _map(self, figure: SpaceTimeMap) -> Json:
        rectangles = [r for layer in figure.layers for r in layer.rectangles]
        self._use_axis(figure.axis, rectangles)
        categories = self._colours(figure.axis, layout.map_categories(figure))
        return {
            "type": "map",
            "axis": figure.axis.group,
            "capacity": None if figure.capacity is None else number(figure.capacity),
            "capacityLabel": figure.capacity_label,
            "top": number(layout.offset_view(figure)),
            "offsetLabel": "" if figure.is_stack else figure.offset_label,
            "sizeLabel": figure.size_label,
            "unit": figure.offset_unit,
            "views": [
                {
                    "name": layer.name,
                    "note": layer.note,
                    "peak": number(_peak(layer.rectangles)),
                    "offset": [number(r.offset) for r in layer.rectangles],
                    "size": [number(r.size) for r in layer.rectangles],
                    **self._items(layer.rectangles, categories, figure.detail_units),
                }
                for layer in figure.layers
            ],
        }

    def _lanes(self, figure: Lanes) -> Json:
        items = [item for lane in figure.lanes for item in lane.intervals]
        self._use_axis(figure.axis, items)
        order = layout.category_order(figure.categories, items)
        categories = self._colours(figure.axis, order)
        rows: list[int] = []
        lanes: list[Json] = []
        first = 0
        for lane in figure.lanes:
            packed = layout.pack_rows(lane.intervals)
            count = max(packed, default=0) + 1
            lanes.append({"name": lane.name, "first": first, "rows": count})
            rows += [first + row for row in packed]
            first += count
        waits = [i for i, item in enumerate(items) if item.wait is not None]
        view = {
            "name": "",
            "row": rows,
            "amount": [None if i.amount is None else number(i.amount) for i in items],
            "wait": waits,
            "waitStart": [number(items[i].wait[0]) for i in waits],  # type: ignore[index]
            "waitEnd": [number(items[i].wait[1]) for i in waits],  # type: ignore[index]
            **self._items(items, categories, figure.detail_units),
        }
        return {
            "type": "lanes",
            "axis": figure.axis.group,
            "lanes": lanes,
            "rows": first,
            "amountLabel": figure.amount_label,
            "waitLabel": figure.wait_label,
            "unit": figure.amount_unit,
            "views": [view],
        }

    def _line(self, figure: Line) -> Json:
        series = [_points(s, log_x=figure.log_x) for s in figure.series]
        return {
            "type": "line",
            "xLabel": figure.x_label,
            "xUnit": figure.x_unit,
            "yLabel": figure.y_label,
            "yUnit": figure.y_unit,
            "logX": figure.log_x,
            "series": series,
            "references": [
                {"name": name, "y": number(y)}
                for name, y in figure.references.items()
                if math.isfinite(y)
            ],
        }

    def _items(
        self,
        items: Sequence[Rectangle] | Sequence[Interval],
        categories: Mapping[str, int],
        units: Mapping[str, str],
    ) -> Json:
        keys = dict.fromkeys(key for item in items for key in item.details)
        return {
            "start": [number(item.start) for item in items],
            "end": [number(item.end) for item in items],
            "label": [self._string(item.label) for item in items],
            "category": [categories[item.category] for item in items],
            "details": [
                self._detail(key, [item.details.get(key) for item in items], units)
                for key in keys
            ],
        }

    def _detail(self, key: str, cells: list[Cell], units: Mapping[str, str]) -> Json:
        unit = units.get(key, "")
        if all(cell is None or _is_finite_number(cell) for cell in cells):
            values = [None if cell is None else number(cell) for cell in cells]  # type: ignore[arg-type]
            return {"key": key, "unit": unit, "values": values}
        texts = [
            -1 if cell is None else self._string(format_value(cell, unit))
            for cell in cells
        ]
        return {"key": key, "text": texts}

    def _string(self, text: str) -> int:
        return self._strings.setdefault(text, len(self._strings))

    def _colours(self, axis: TimeAxis, order: Iterable[str]) -> Mapping[str, int]:
        """Returns the colour of each category, the same in all figures of the axis."""
        known = self._categories.setdefault(axis.group, {})
        for category in order:
            known.setdefault(category, len(known))
        return known

    def _use_axis(
        self, axis: TimeAxis, items: Sequence[Rectangle] | Sequence[Interval]
    ) -> None:
        if self._axes.setdefault(axis.group, axis) != axis:
            raise ValueError(f"two different time axes share the group {axis.group!r}")
        low, high = layout.time_range(axis, items)
        known = self._ranges.get(axis.group, (low, high))
        self._ranges[axis.group] = (min(low, known[0]), max(high, known[1]))
        whole = all(float(t).is_integer() for i in items for t in (i.start, i.end))
        self._stepped.setdefault(axis.group, axis.unit == "")
        self._stepped[axis.group] &= whole or bool(axis.names)

    def _axis(self, group: str, axis: TimeAxis) -> Json:
        low, high = self._ranges[group]
        return {
            "label": axis.label,
            "unit": axis.unit,
            "stepped": self._stepped[group],
            "range": [number(low), number(high)],
            "first": axis.first,
            "names": [self._string(name) for name in axis.names],
            "categories": list(self._categories[group]),
        }


def number(value: float) -> int | float:
    """Returns the value as a plain int where it is whole, else with twelve significant digits."""
    as_float = float(value)
    if as_float.is_integer() and abs(as_float) < 2**53:
        return int(value)
    return float(f"{as_float:.12g}")


def _peak(rectangles: Sequence[Rectangle]) -> float:
    return max((amount for _, amount in layout.usage(rectangles)), default=0.0)


def _is_finite_number(cell: Cell) -> bool:
    return not isinstance(cell, str | bool) and cell is not None and math.isfinite(cell)


def _points(series: Series, *, log_x: bool) -> Json:
    points = [
        (float(x), float(y))
        for x, y in zip(series.x, series.y, strict=True)
        if math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x)
    ]
    points.sort(key=lambda point: point[0])
    if series.step:
        points = list(_without_repeats(points))
    if len(points) > _MAX_POINTS:
        last = len(points) - 1
        points = [points[i * last // (_MAX_POINTS - 1)] for i in range(_MAX_POINTS)]
    return {
        "name": series.name,
        "step": series.step,
        "x": [number(x) for x, _ in points],
        "y": [number(y) for _, y in points],
    }


def _without_repeats(
    points: Sequence[tuple[float, float]],
) -> Iterable[tuple[float, float]]:
    """Yields the points at which a step curve changes, and its last point."""
    for i, point in enumerate(points):
        if i in (0, len(points) - 1) or point[1] != points[i - 1][1]:
            yield point
