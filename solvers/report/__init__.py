"""Reports of schedules: one HTML file that needs no network, a static SVG or PNG, a Perfetto trace.

Describe the page with the frozen classes of `components`, then `render` it. Knows no domain.
"""

from solvers.report.components import (
    Bar,
    Bars,
    Cell,
    Column,
    Component,
    Fact,
    Interval,
    Lane,
    Lanes,
    Layer,
    Line,
    Page,
    Rectangle,
    Section,
    Series,
    SpaceTimeMap,
    Table,
    Text,
    TimeAxis,
)
from solvers.report.page import render
from solvers.report.png import can_png, to_png
from solvers.report.svg import to_svg
from solvers.report.trace import to_trace

__all__ = [
    "Bar",
    "Bars",
    "Cell",
    "Column",
    "Component",
    "Fact",
    "Interval",
    "Lane",
    "Lanes",
    "Layer",
    "Line",
    "Page",
    "Rectangle",
    "Section",
    "Series",
    "SpaceTimeMap",
    "Table",
    "Text",
    "TimeAxis",
    "can_png",
    "render",
    "to_png",
    "to_svg",
    "to_trace",
]
