"""A space-time map as a PNG, drawn by matplotlib (extra `report`)."""

import io
from importlib.util import find_spec

from solvers.report import layout
from solvers.report.components import Layer, SpaceTimeMap
from solvers.report.palette import CATEGORY_COLOURS, SURFACE_COLOURS, Theme
from solvers.report.units import format_value

_DOTS_PER_INCH = 100


def can_png() -> bool:
    """Returns whether `to_png` has what it draws with."""
    return find_spec("matplotlib") is not None


def to_png(
    figure: SpaceTimeMap,
    *,
    width: int = 1200,
    height: int = 420,
    theme: Theme = "light",
) -> bytes:
    """Returns the map as the bytes of a PNG file, one panel per layer, at most two in a row.

    The same map gives the same bytes with the same matplotlib.

    Args:
        figure: the map.
        width: of the whole picture, in pixels.
        height: of each panel, in pixels.
        theme: colours for paper or for a dark page.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colours = CATEGORY_COLOURS[theme]
    surface = SURFACE_COLOURS[theme]
    columns = min(2, len(figure.layers))
    rows = -(-len(figure.layers) // columns)
    size = (width / _DOTS_PER_INCH, rows * height / _DOTS_PER_INCH)
    drawing = Figure(
        figsize=size,
        dpi=_DOTS_PER_INCH,
        facecolor=surface["surface"],
        layout="constrained",
    )
    FigureCanvasAgg(drawing)
    panels = drawing.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(figure.layers) :]:
        panel.set_axis_off()
    for panel, layer in zip(panels, figure.layers, strict=False):
        _panel(panel, figure, layer, theme)
    used = {r.category for layer in figure.layers for r in layer.rectangles}
    handles = [
        Patch(
            facecolor=colours[i % len(colours)],
            hatch="///" if i >= len(colours) else None,
            edgecolor=surface["surface"],
            label=category,
        )
        for i, category in enumerate(layout.map_categories(figure))
        if category and category in used
    ]
    if handles:
        drawing.legend(
            handles=handles,
            loc="outside lower left",
            ncols=len(handles),
            frameon=False,
            labelcolor=surface["ink"],
            fontsize=8,
        )
    written = io.BytesIO()
    drawing.savefig(written, format="png", metadata={"Software": None})
    return written.getvalue()


def _panel(panel, figure: SpaceTimeMap, layer: Layer, theme: Theme) -> None:  # type: ignore[no-untyped-def]
    """Draws one layer on matplotlib's axes."""
    from matplotlib.collections import PolyCollection

    colours, surface = CATEGORY_COLOURS[theme], SURFACE_COLOURS[theme]
    everything = [r for other in figure.layers for r in other.rectangles]
    for number, category in enumerate(layout.map_categories(figure)):
        corners = [
            [
                (r.start, r.offset),
                (r.end, r.offset),
                (r.end, r.offset + r.size),
                (r.start, r.offset + r.size),
            ]
            for r in layer.rectangles
            if r.category == category
        ]
        panel.add_collection(
            PolyCollection(
                corners,
                facecolors=colours[number % len(colours)],
                edgecolors=surface["surface"],
                linewidths=0.3,
                hatch="///" if number >= len(colours) else None,
            )
        )
    top = layout.offset_view(figure)
    panel.set_facecolor(surface["surface"])
    panel.set_xlim(*layout.time_range(figure.axis, everything))
    panel.set_ylim(0, top)
    if figure.capacity is not None and figure.capacity <= top:
        panel.axhline(figure.capacity, color=surface["warn"], linestyle="--", lw=1.2)
        panel.annotate(
            f"{figure.capacity_label} {format_value(figure.capacity, figure.offset_unit)}",
            (1, figure.capacity),
            xycoords=panel.get_yaxis_transform(),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=surface["ink"],
        )
    ticks = layout.nice_ticks(0, top, 5, figure.offset_unit)
    panel.set_yticks(ticks, [format_value(t, figure.offset_unit) for t in ticks])
    panel.set_title(
        layer.name, loc="left", fontsize=9, fontweight="bold", color=surface["ink"]
    )
    panel.set_xlabel(figure.axis.label, fontsize=8, color=surface["dim"])
    panel.tick_params(colors=surface["dim"], labelsize=8)
    for side in panel.spines.values():
        side.set_color(surface["grid"])
