"""The HTML file: what it holds, that names cannot break it, and its size."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from solvers.report import (
    Bar,
    Bars,
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
    render,
)

EVIL = (
    "</script><img src=x onerror=alert(1)> \"q\" 'a' & <!-- \u2028 é 日本 \ud800 \x00"
)


class Reader(HTMLParser):
    """Collects elements, visible text and the data of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.data: dict[str, Any] = {}
        self._inside = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self._inside = "data" if ("id", "report-data") in attrs else tag

    def handle_data(self, data: str) -> None:
        if self._inside == "data" and data.startswith("{"):
            self.data = json.loads(data)
        elif self._inside not in ("script", "style"):
            self.texts.append(data)


def evil_page() -> Page:
    """Returns a page in which every text is EVIL."""
    axis = TimeAxis(label=EVIL, names=[EVIL], group=EVIL)
    box = Rectangle(
        label=EVIL,
        start=0,
        end=1,
        offset=0,
        size=1,
        category=EVIL,
        details={EVIL: EVIL},
    )
    copy = Interval(label=EVIL, start=0, end=1, category=EVIL, details={EVIL: EVIL})
    components: list[Component] = [
        SpaceTimeMap(
            title=EVIL,
            note=EVIL,
            axis=axis,
            layers=[Layer(name=EVIL, note=EVIL, rectangles=[box])],
        ),
        Lanes(title=EVIL, axis=axis, lanes=[Lane(name=EVIL, intervals=[copy])]),
        Line(
            title=EVIL,
            y_label=EVIL,
            series=[Series(name=EVIL, x=[1], y=[1])],
            references={EVIL: 1},
        ),
        Table(
            title=EVIL, columns=[EVIL, Column(name=EVIL, unit=EVIL)], rows=[[EVIL, 1]]
        ),
        Bars(title=EVIL, series=[EVIL], bars=[Bar(label=EVIL, values=[1])], unit=EVIL),
        Text(body=EVIL),
        Text(body=EVIL, preformatted=True),
    ]
    return Page(
        title=EVIL,
        subtitle=EVIL,
        facts=[Fact(name=EVIL, value=EVIL, note=EVIL)],
        sections=[Section(title=EVIL, note=EVIL, components=components)] * 2,
        footer=EVIL,
    )


def test_no_name_breaks_out_of_its_place() -> None:
    page = render(evil_page())
    page.encode("utf-8")
    reader = Reader(page)
    assert "img" not in reader.tags
    assert reader.tags.count("script") == 2
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert any("<img src=x onerror=alert(1)>" in text for text in reader.texts)
    assert EVIL in reader.data["strings"]


def test_the_data_of_a_map_comes_back() -> None:
    boxes = [
        Rectangle(
            label="a",
            start=-1,
            end=4,
            offset=512,
            size=1 << 33,
            category="x",
            details={"why": "late", "n": 2},
        ),
        Rectangle(label="b", start=0.5, end=1 / 3 + 1, offset=0, size=7, category="y"),
        Rectangle(label="a", start=0, end=2, offset=7, size=1, details={"n": 3}),
    ]
    axis = TimeAxis(names=["first", "second"], first=-1)
    chart = SpaceTimeMap(
        axis=axis, layers=[Layer(name="one", rectangles=boxes)], capacity=9
    )
    data = Reader(
        render(Page(title="t", sections=[Section(title="s", components=[chart])]))
    ).data
    strings = data["strings"]
    view = data["figures"][0]["views"][0]
    colours = data["axes"]["time"]["categories"]
    assert [strings[i] for i in view["label"]] == ["a", "b", "a"]
    assert view["start"] == [-1, 0.5, 0]
    assert view["end"] == [4, pytest.approx(4 / 3), 2]
    assert view["offset"] == [512, 0, 7]
    assert view["size"] == [1 << 33, 7, 1]
    assert [colours[i] for i in view["category"]] == ["x", "y", ""]
    details = {column["key"]: column for column in view["details"]}
    assert [strings[i] if i >= 0 else None for i in details["why"]["text"]] == [
        "late",
        None,
        None,
    ]
    assert details["n"]["values"] == [2, None, 3]
    assert data["axes"]["time"]["range"] == [-1, 4]
    assert data["axes"]["time"]["stepped"]
    assert [strings[i] for i in data["axes"]["time"]["names"]] == ["first", "second"]


def test_a_step_curve_loses_only_points_that_show_nothing() -> None:
    ys = [9.0] * 50 + [5.0] * 50 + [float("inf")] + [4.0] * 10
    line = Line(series=[Series(name="s", x=range(len(ys)), y=ys)])
    data = Reader(
        render(Page(title="t", sections=[Section(title="s", components=[line])]))
    ).data
    series = data["figures"][0]["series"][0]
    assert (series["x"], series["y"]) == ([0, 50, 101, 110], [9, 5, 4, 4])


def test_the_same_page_gives_the_same_text(sample_page: Callable[..., Page]) -> None:
    assert render(sample_page(60, 40)) == render(sample_page(60, 40))


def test_nothing_is_fetched(sample_page: Callable[..., Page]) -> None:
    page = render(sample_page(60, 40))
    assert "default-src 'none'" in page
    assert not re.findall(r"""https?://|@import|\bfetch\(|\bimport\(|url\(""", page)
    fetched = [v for k, v in Reader(page).attributes if k in ("src", "href")]
    assert all(v and v.startswith(("#", "data:,")) for v in fetched)


def test_size_of_a_small_and_a_large_program(sample_page: Callable[..., Page]) -> None:
    assert len(render(sample_page(600, 400)).encode()) < 300_000
    assert len(render(sample_page(5000, 4000)).encode()) < 2_000_000


def test_two_axes_of_one_group_are_refused() -> None:
    charts = [
        SpaceTimeMap(
            axis=TimeAxis(names=[name]), layers=[Layer(name="", rectangles=[])]
        )
        for name in "ab"
    ]
    page = Page(title="t", sections=[Section(title="s", components=charts)])
    with pytest.raises(ValueError, match="share the group 'time'"):
        render(page)


def test_impossible_values_are_named() -> None:
    with pytest.raises(ValueError, match="'v'"):
        Rectangle(label="v", start=2, end=1, offset=0, size=1)
    with pytest.raises(ValueError, match="'v'"):
        Rectangle(label="v", start=0, end=1, offset=float("nan"), size=1)
    with pytest.raises(ValueError, match="'c'"):
        Interval(label="c", start=0, end=1, wait=(3, 2))
    with pytest.raises(ValueError, match="needs 2 cells"):
        Table(columns=["a", "b"], rows=[[1]])
    with pytest.raises(ValueError, match="no row 1"):
        Table(columns=["a"], rows=[[1]], best=1)
    with pytest.raises(ValueError, match="'i'"):
        Bars(series=["a"], bars=[Bar(label="i", values=[float("inf")])])


def test_a_table_shares_units_and_names_the_best() -> None:
    table = Table(
        columns=["name", Column(name="time", unit="s")],
        rows=[["slow", 2.91e-3], ["fast", 8e-4], ["unknown", None]],
        best=1,
    )
    page = render(Page(title="t", sections=[Section(title="s", components=[table])]))
    assert "time <small>(ms)</small>" in page
    assert '<th scope=row>fast <span class="badge">best</span>' in page
    for cell in ("2.910", "0.800", "–"):
        assert f"<td class=right>{cell}</td>" in page


def test_bars_show_the_largest_and_sum_the_rest() -> None:
    bars = [Bar(label=f"i{k}", values=[k * 1e-6, k * 5e-7]) for k in range(1, 6)]
    page = render(
        Page(
            title="t",
            sections=[
                Section(
                    title="s",
                    components=[Bars(series=["before", "after"], bars=bars, top=2)],
                )
            ],
        )
    )
    assert [f">i{k}<" in page for k in range(1, 6)] == [False, False, False, True, True]
    rest = page[page.index("the other 3") :]
    assert rest.index("6.000") < rest.index("3.000") < rest.index("\N{MINUS SIGN}50.0%")
