"""The static pictures of a map."""

import dataclasses
import io
import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

from solvers.report import (
    Layer,
    Rectangle,
    SpaceTimeMap,
    TimeAxis,
    can_png,
    to_png,
    to_svg,
)
from solvers.report.palette import CATEGORY_COLOURS

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "</svg> <script> \"q\" 'a' & ]]> é 日本 \ud800 \x00 \x1b"


def test_every_rectangle_is_there(sample_map: Callable[..., SpaceTimeMap]) -> None:
    chart = sample_map(80, 60)
    root = ET.fromstring(to_svg(chart))
    titles = [r.findtext(f"{SVG}title") for r in root.iter(f"{SVG}rect")]
    labels = [r.label for layer in chart.layers for r in layer.rectangles]
    assert [title.splitlines()[0] for title in titles if title] == labels


def test_names_cannot_break_it() -> None:
    box = Rectangle(
        label=EVIL,
        start=0,
        end=9,
        offset=0,
        size=9,
        category=EVIL,
        details={EVIL: EVIL},
    )
    chart = SpaceTimeMap(
        title=EVIL,
        axis=TimeAxis(label=EVIL),
        capacity=1 << 40,
        capacity_label=EVIL,
        layers=[Layer(name=EVIL, note=EVIL, rectangles=[box])],
    )
    text = to_svg(chart)
    text.encode("utf-8")
    root = ET.fromstring(text)
    assert not list(root.iter(f"{SVG}script"))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_size_and_themes(layers: int, sample_map: Callable[..., SpaceTimeMap]) -> None:
    chart = sample_map(20, 20)
    chart = SpaceTimeMap(layers=[chart.layers[0]] * layers, axis=chart.axis)
    light, dark = to_svg(chart), to_svg(chart, theme="dark")
    assert light == to_svg(chart) != dark
    root = ET.fromstring(to_svg(chart, width=800, height=300, tooltips=False))
    rows = 2 if layers == 3 else 1
    assert root.get("width") == "800"
    assert float(root.get("height", "0")) == rows * 300 + 26
    assert not root.findall(f".//{SVG}rect/{SVG}title")


def test_a_stack_names_no_offsets(sample_map: Callable[..., SpaceTimeMap]) -> None:
    chart = sample_map(20, 20)
    assert " at offset " in to_svg(chart)
    assert " at offset " not in to_svg(dataclasses.replace(chart, is_stack=True))


@pytest.mark.skipif(not can_png(), reason="needs matplotlib")
@pytest.mark.parametrize("layers", [1, 3])
def test_png(layers: int, sample_map: Callable[..., SpaceTimeMap]) -> None:
    """The size asked for, and every category in its colour."""
    from matplotlib.image import imread

    chart = sample_map(80, 60)
    chart = dataclasses.replace(chart, layers=[chart.layers[0]] * layers)
    data = to_png(chart, width=800, height=300)
    assert data == to_png(chart, width=800, height=300) != to_png(chart, theme="dark")
    picture = (
        (imread(io.BytesIO(data), format="png")[..., :3] * 255).round().astype(int)
    )
    assert picture.shape == ((2 if layers == 3 else 1) * 300, 800, 3)
    seen = {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}
    used = {r.category for r in chart.layers[0].rectangles}
    for number, category in enumerate(chart.categories):
        colour = CATEGORY_COLOURS["light"][number]
        channels = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        assert (channels in seen) == (category in used)
