"""A space-time map as a static SVG, for papers and pull requests."""

import math
from typing import Literal

from solvers.report import layout
from solvers.report.components import Layer, Rectangle, SpaceTimeMap
from solvers.report.escape import escape
from solvers.report.palette import CATEGORY_COLOURS, SURFACE_COLOURS, Theme, text_colour
from solvers.report.units import format_value

_LEFT, _RIGHT, _TOP, _BOTTOM = (
    64.0,
    12.0,
    26.0,
    38.0,
)  # Margins of a panel, for the axes.
_LEGEND = 26.0
_FONT = "system-ui, 'DejaVu Sans', Helvetica, Arial, sans-serif"
_CHARACTER = 6.4  # Mean width of a character of a rectangle's label.


def to_svg(
    figure: SpaceTimeMap,
    *,
    width: int = 1200,
    height: int = 420,
    columns: Literal[1, 2] | None = None,
    theme: Theme = "light",
    tooltips: bool = True,
) -> str:
    """Returns the map as the text of an SVG file, one panel per layer.

    Args:
        figure: the map.
        width: of the whole picture, in pixels.
        height: of each panel, in pixels.
        columns: panels per row; by default two if there are two layers or more.
        theme: colours for paper or for a dark page.
        tooltips: whether each rectangle carries its details as a title element.
    """
    per_row = min(columns or 2, len(figure.layers))
    rows = math.ceil(len(figure.layers) / per_row)
    total = rows * height + _LEGEND
    colours = SURFACE_COLOURS[theme]
    style = (
        f"text{{font:11px {_FONT};fill:{colours['ink']}}}"
        f".dim{{fill:{colours['dim']}}}.grid{{stroke:{colours['grid']}}}"
        f".r{{stroke:{colours['surface']};stroke-width:.5}}"
        f".limit{{stroke:{colours['warn']};stroke-dasharray:6 4;stroke-width:1.5}}"
    )
    panels = "".join(
        _panel(
            figure,
            layer,
            x=(i % per_row) * width / per_row,
            y=i // per_row * height,
            width=width / per_row,
            height=height,
            theme=theme,
            tooltips=tooltips,
        )
        for i, layer in enumerate(figure.layers)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{_n(total)}" '
        f'viewBox="0 0 {width} {_n(total)}" role="img">\n'
        f"<title>{escape(figure.title or 'Space-time map')}</title>\n<style>{style}</style>\n"
        f"<defs>{_stripes(theme)}</defs>\n"
        f'<rect width="100%" height="100%" fill="{colours["surface"]}"/>\n'
        f"{panels}{_legend(figure, theme, rows * height)}</svg>\n"
    )


def _panel(
    figure: SpaceTimeMap,
    layer: Layer,
    *,
    x: float,
    y: float,
    width: float,
    height: float,
    theme: Theme,
    tooltips: bool,
) -> str:
    everything = [r for other in figure.layers for r in other.rectangles]
    low, high = layout.time_range(figure.axis, everything)
    top = layout.offset_view(figure)
    plot_width, plot_height = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM

    def at_time(time: float) -> float:
        return _LEFT + (time - low) / (high - low) * plot_width

    def at_offset(offset: float) -> float:
        return _TOP + (1 - offset / top) * plot_height

    parts = [
        f'<text x="{_LEFT}" y="16" style="font-weight:bold">{escape(layer.name)}</text>'
    ]
    if layer.note:
        parts.append(
            f'<text x="{_n(width - _RIGHT)}" y="16" text-anchor="end" class="dim">{escape(layer.note)}</text>'
        )
    for tick in layout.nice_ticks(0, top, 5, figure.offset_unit):
        level = _n(at_offset(tick))
        parts.append(f'<path class="grid" d="M{_LEFT} {level}H{_n(width - _RIGHT)}"/>')
        parts.append(
            f'<text x="{_LEFT - 6}" y="{level}" dy="4" text-anchor="end" class="dim">'
            f"{escape(format_value(tick, figure.offset_unit) if tick else 0)}</text>"
        )
    for tick in layout.nice_ticks(low, high, 8):
        parts.append(
            f'<text x="{_n(at_time(tick))}" y="{_n(height - _BOTTOM + 14)}" text-anchor="middle" class="dim">'
            f"{escape(format_value(tick, figure.axis.unit))}</text>"
        )
    parts.append(
        f'<text x="{_n(_LEFT + plot_width / 2)}" y="{_n(height - 8)}" text-anchor="middle" class="dim">'
        f"{escape(figure.axis.label)}</text>"
    )
    colour_of = {c: i for i, c in enumerate(layout.map_categories(figure))}
    for r in layer.rectangles:
        left, right = at_time(r.start), at_time(r.end)
        upper, lower = at_offset(r.offset + r.size), at_offset(r.offset)
        box = (left, upper, max(right - left, 0.3), max(lower - upper, 0.3))
        parts.append(
            _rectangle(
                r,
                box,
                colour_of[r.category],
                theme,
                _tooltip(figure, r) if tooltips else "",
            )
        )
    if figure.capacity is not None:
        inside = figure.capacity <= top
        limit = at_offset(figure.capacity) if inside else None
        parts.append(_capacity(figure, limit, width))
    body = "\n".join(parts)
    return f'<g transform="translate({_n(x)} {_n(y)})">\n{body}\n</g>\n'


def _rectangle(
    rectangle: Rectangle,
    box: tuple[float, float, float, float],
    category: int,
    theme: Theme,
    tooltip: str,
) -> str:
    x, y, width, height = box
    colours = CATEGORY_COLOURS[theme]
    fill = colours[category % len(colours)]
    place = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"'
    edge = ' class="r"' if width > 3 and height > 3 else ""
    shape = f'<rect{edge} {place} fill="{fill}"'
    shape += f">{tooltip}</rect>" if tooltip else "/>"
    if category >= len(colours):
        shape += f'<rect {place} fill="url(#stripes)" pointer-events="none"/>'
    room = int((width - 6) / _CHARACTER)
    if height >= 12 and room >= min(5, len(rectangle.label)):
        text = _shorten(rectangle.label, room)
        if category >= len(colours):
            shape += (
                f'<rect x="{_n(x + 1)}" y="{_n(y + height / 2 - 6)}" height="12" '
                f'width="{_n(len(text) * _CHARACTER + 4)}" fill="{fill}" '
                'pointer-events="none"/>'
            )
        shape += (
            f'<text x="{_n(x + 3)}" y="{_n(y + height / 2)}" dy="4" '
            f'style="fill:{text_colour(fill)}" pointer-events="none">'
            f"{escape(text)}</text>"
        )
    return shape


def _tooltip(figure: SpaceTimeMap, r: Rectangle) -> str:
    unit, time = figure.offset_unit, figure.axis.unit
    lines = [
        r.label,
        format_value(r.size, unit)
        + (
            ""
            if figure.is_stack
            else f" at {figure.offset_label} {format_value(r.offset, unit)}"
        ),
        f"{figure.axis.label} {format_value(r.start, time)} to {format_value(r.end, time)}",
    ]
    lines += [
        f"{key}: {format_value(value, figure.detail_units.get(key, ''))}"
        for key, value in r.details.items()
        if value is not None
    ]
    return f"<title>{escape(chr(10).join(lines))}</title>"


def _capacity(figure: SpaceTimeMap, level: float | None, width: float) -> str:
    text = (
        f"{figure.capacity_label} {format_value(figure.capacity, figure.offset_unit)}"
    )
    if level is None:
        return (
            f'<text x="{_n(width - _RIGHT - 4)}" y="{_TOP + 12}" text-anchor="end" class="dim">'
            f"{escape(text)}, above this view</text>"
        )
    return (
        f'<path class="limit" d="M{_LEFT} {_n(level)}H{_n(width - _RIGHT)}"/>'
        f'<text x="{_n(width - _RIGHT - 4)}" y="{_n(level - 4)}" text-anchor="end">'
        f"{escape(text)}</text>"
    )


def _legend(figure: SpaceTimeMap, theme: Theme, y: float) -> str:
    colours = CATEGORY_COLOURS[theme]
    parts, x = [], _LEFT
    used = {r.category for layer in figure.layers for r in layer.rectangles}
    for i, category in enumerate(layout.map_categories(figure)):
        if not category or category not in used:
            continue
        place = f'x="{_n(x)}" y="{_n(y + 6)}" width="12" height="12"'
        parts.append(f'<rect {place} fill="{colours[i % len(colours)]}"/>')
        if i >= len(colours):
            parts.append(f'<rect {place} fill="url(#stripes)"/>')
        parts.append(
            f'<text x="{_n(x + 17)}" y="{_n(y + 16)}">{escape(category)}</text>'
        )
        x += 38 + 1.15 * _CHARACTER * len(category)
    return "\n".join(parts) + "\n"


def _stripes(theme: Theme) -> str:
    surface = SURFACE_COLOURS[theme]["surface"]
    return (
        '<pattern id="stripes" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)">'
        f'<rect width="2.5" height="6" fill="{surface}" opacity=".75"/></pattern>'
    )


def _shorten(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


def _n(value: float) -> str:
    """Returns a coordinate with two decimals, no trailing zeros."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
