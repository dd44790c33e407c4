"""What a report is made of: frozen descriptions with no drawing in them and no domain.

Time intervals are half-open, `[start, end)`, in the unit of their `TimeAxis`; offsets and sizes are in
the map's unit. A detail or cell is text, a number with a unit given elsewhere, or None for missing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Cell = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class TimeAxis:
    """A time axis. Figures whose axes share a `group` zoom, pan and select together.

    Attributes:
        label: what the axis counts, such as "logical time".
        unit: "s" for seconds, or "" for a plain number. If it is plain and all times are
            whole, time is counted in steps, and the figures point at whole steps.
        names: `names[k]` is what happens in `[first + k, first + k + 1)`, such as an instruction.
        first: the time of the first name.
        group: the name under which figures share the axis.
    """

    label: str = "time"
    unit: str = ""
    names: Sequence[str] = ()
    first: int = 0
    group: str = "time"


@dataclass(frozen=True, kw_only=True)
class Rectangle:
    """Something that occupies `[offset, offset + size)` during `[start, end)`."""

    label: str
    start: float
    end: float
    offset: float
    size: float
    category: str = ""
    details: Mapping[str, Cell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_span(self.label, self.start, self.end)
        if not (
            math.isfinite(self.offset) and math.isfinite(self.size) and self.size >= 0
        ):
            raise ValueError(
                f"rectangle {self.label!r}: bad offset {self.offset} or size {self.size}"
            )


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One solution on a map, such as "XLA's own mapping"."""

    name: str
    rectangles: Sequence[Rectangle]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class SpaceTimeMap:
    """Rectangles on time (x) and offset (y); the layers are shown side by side or one at a time.

    Attributes:
        capacity: draws a line at this offset.
        size_label: what the height of a rectangle is.
        is_stack: offsets only stack rectangles on each other and mean nothing else, so details leave them out.
        categories: the order of the colours; further categories follow as they appear.
            Figures that share an axis share the colours of their categories.
        detail_units: the unit of each numeric detail, by its key.
    """

    layers: Sequence[Layer]
    axis: TimeAxis = TimeAxis()
    title: str = ""
    note: str = ""
    capacity: float | None = None
    capacity_label: str = "capacity"
    offset_label: str = "offset"
    offset_unit: str = "B"
    size_label: str = "size"
    is_stack: bool = False
    categories: Sequence[str] = ()
    detail_units: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError(f"map {self.title!r} has no layers")


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Something that goes on during `[start, end)`, such as a copy.

    Attributes:
        amount: how much, in the unit of the `Lanes` it is part of (bytes, unless said otherwise).
        wait: the time, if any, in which others stand still for it; drawn as a striped mark.
    """

    label: str
    start: float
    end: float
    amount: float | None = None
    wait: tuple[float, float] | None = None
    category: str = ""
    details: Mapping[str, Cell] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_span(self.label, self.start, self.end)
        if self.wait is not None:
            _check_span(self.label, *self.wait)


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One named row of intervals; intervals that overlap in time are drawn under each other."""

    name: str
    intervals: Sequence[Interval]


@dataclass(frozen=True, kw_only=True)
class Lanes:
    """Rows of intervals on a time axis, such as the copies of each channel."""

    lanes: Sequence[Lane]
    axis: TimeAxis = TimeAxis()
    title: str = ""
    note: str = ""
    amount_label: str = "bytes"
    amount_unit: str = "B"
    wait_label: str = (
        "exposed wait"  # Empty if intervals have none, and no count is to say so.
    )
    categories: Sequence[str] = ()
    detail_units: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table; its numbers share one scale of the unit."""

    name: str
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of named columns; `best` is the index of the row to point out."""

    columns: Sequence[Column | str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    note: str = ""
    best: int | None = None

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}: row {row!r} needs {len(self.columns)} cells"
                )
        if self.best is not None and not 0 <= self.best < len(self.rows):
            raise ValueError(f"table {self.title!r}: no row {self.best} to call best")


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One labelled group of bars, a value for each series."""

    label: str
    values: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Costs per label, the `top` largest and the sum of the rest, for one or more series.

    With two series, such as before and after, the change is shown as well; with `by_change` the bars
    that differ most come first.
    """

    series: Sequence[str]
    bars: Sequence[Bar]
    title: str = ""
    note: str = ""
    label: str = ""
    unit: str = "s"
    top: int = 12
    by_change: bool = False

    def __post_init__(self) -> None:
        if self.by_change and len(self.series) != 2:
            raise ValueError(f"bars {self.title!r}: a change needs two series")
        for bar in self.bars:
            if len(bar.values) != len(self.series):
                raise ValueError(f"bar {bar.label!r} needs {len(self.series)} values")
            if not all(math.isfinite(value) and value >= 0 for value in bar.values):
                raise ValueError(
                    f"bar {bar.label!r} has a value that no length can show: {bar.values}"
                )


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve; points that are not finite are left out. `step` holds each y until the next x."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    step: bool = True

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(
                f"series {self.name!r}: {len(self.x)} x for {len(self.y)} y"
            )


@dataclass(frozen=True, kw_only=True)
class Line:
    """Curves over a common x, with horizontal reference lines (such as baselines) by name."""

    series: Sequence[Series]
    title: str = ""
    note: str = ""
    x_label: str = "evaluations"
    x_unit: str = ""
    y_label: str = "best"
    y_unit: str = "s"
    log_x: bool = False
    references: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph, or a block of code or output if `preformatted`."""

    body: str
    preformatted: bool = False


Component = Table | SpaceTimeMap | Lanes | Bars | Line | Text


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A named value for the head of the page; those with `emphasis` are written large."""

    name: str
    value: Cell
    unit: str = ""
    note: str = ""
    emphasis: bool = False


@dataclass(frozen=True, kw_only=True)
class Section:
    """A titled part of a page."""

    title: str
    components: Sequence[Component]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """One report: a title, the facts that matter, and sections."""

    title: str
    subtitle: str = ""
    facts: Sequence[Fact] = ()
    sections: Sequence[Section] = ()
    footer: str = ""


def _check_span(label: str, start: float, end: float) -> None:
    if not (math.isfinite(start) and math.isfinite(end) and start <= end):
        raise ValueError(f"{label!r}: [{start}, {end}) is not a time interval")
