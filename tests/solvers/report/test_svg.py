"""The static picture of a map."""

import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

from solvers.report import Layer, Rectangle, SpaceTimeMap, TimeAxis, to_svg

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
