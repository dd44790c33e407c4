"""The report in a real browser: it draws, and answers to pointer and keys."""

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from solvers.report import (
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
    TimeAxis,
    render,
)
from solvers.report.units import format_value

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
DRIVER = shutil.which("chromedriver")
MISSING = [
    name
    for name, there in (
        ("chromium", CHROMIUM),
        ("chromedriver", DRIVER),
        ("the selenium package", importlib.util.find_spec("selenium")),
    )
    if not there
]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"a browser test needs {', '.join(MISSING)}"
)

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Where a box is on the screen, from the middle of its canvas.
PLACE = """
const view = scheduleReport.figures[arguments[0]].views[arguments[1]];
const [x, y, w, h] = view.screen(arguments[2]);
const canvas = view.overlay.getBoundingClientRect();
return [x + w / 2 - canvas.width / 2, y + h / 2 - canvas.height / 2].map(Math.round);
"""
# The figures of the sample page, in order.
LINE, MAP, LANES = 0, 1, 2


class Browser:
    """A driver with the few verbs these tests need."""

    def __init__(self, driver: Any, page: Path) -> None:
        self.driver = driver
        self.page = page

    def open(self, width: int = 1400, theme: str = "light") -> None:
        """Loads the page afresh at a width, in a light or dark theme."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1}
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {**metrics, "mobile": False}
        )
        feature = {"name": "prefers-color-scheme", "value": theme}
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [feature]}
        )
        self.driver.get_log("browser")
        self.driver.get(self.page.as_uri())
        self.frame()

    def run(self, script: str, *arguments: object) -> Any:
        """Runs a script in the page and returns what it returns."""
        return self.driver.execute_script(script, *arguments)

    def frame(self) -> None:
        """Waits until everything asked for has been drawn."""
        self.driver.execute_async_script(
            "const done = arguments[0];"
            "requestAnimationFrame(() => requestAnimationFrame(() => done()));"
        )

    def find(self, selector: str, index: int = 0) -> Any:
        """Returns the index-th element that matches a CSS selector."""
        return self.driver.find_elements("css selector", selector)[index]

    def canvas(self, figure: int, view: int = 0) -> Any:
        """Returns the canvas of a view that takes the pointer and the keys."""
        canvas = self.run(
            "const f = scheduleReport.figures[arguments[0]];"
            "const c = f.views ? f.views[arguments[1]].overlay : f.canvas;"
            "c.scrollIntoView({ block: 'center' }); return c;",
            figure,
            view,
        )
        self.frame()
        return canvas

    def point_at(
        self, figure: int, view: int, box: int, *, click: bool = False
    ) -> None:
        """Moves the pointer to the middle of a box."""
        canvas = self.canvas(figure, view)
        x, y = self.run(PLACE, figure, view, box)
        actions = self.actions()
        actions.move_to_element_with_offset(canvas, x, y)
        if click:
            actions.click()
        actions.perform()
        self.frame()

    def actions(self) -> Any:
        """Returns a chain of pointer actions without pauses."""
        from selenium.webdriver import ActionChains

        return ActionChains(self.driver, duration=0)

    def panel(self, figure: int = MAP) -> str:
        """Returns the text of the details panel of a figure."""
        text: str = self.run(
            "return scheduleReport.figures[arguments[0]].panel.innerText", figure
        )
        return text

    def severe(self) -> list[Any]:
        """Returns the console's errors since the last call."""
        return [e for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless browser with an empty profile."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    profile = tmp_path_factory.mktemp("profile")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def small(
    driver: Any,
    sample_page: Callable[..., Page],
    tmp_path_factory: pytest.TempPathFactory,
) -> Browser:
    """A report of two maps of 120 rectangles."""
    return Browser(driver, _write(sample_page(120, 90), tmp_path_factory))


@pytest.fixture(scope="module")
def large(
    driver: Any,
    sample_page: Callable[..., Page],
    tmp_path_factory: pytest.TempPathFactory,
) -> Browser:
    """A report of two maps of 10^4 rectangles each."""
    return Browser(driver, _write(sample_page(10_000, 8_000), tmp_path_factory))


def _write(page: Page, folders: pytest.TempPathFactory) -> Path:
    path = folders.mktemp("report") / "report.html"
    path.write_text(render(page), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [1400, 420])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_opens_and_draws(small: Browser, width: int, theme: str) -> None:
    small.open(width, theme)
    assert small.severe() == []
    assert small.run("return performance.getEntriesByType('resource').length") == 0
    assert small.run("return document.documentElement.scrollWidth") <= width
    drawn = small.run(
        """
        const view = scheduleReport.figures[arguments[0]].views[0];
        const { data } = view.base.getContext("2d").getImageData(0, 0, view.base.width, view.base.height);
        const seen = new Set();
        for (let i = 0; i < data.length; i += 4) seen.add(data[i] * 65536 + data[i + 1] * 256 + data[i + 2]);
        const style = getComputedStyle(document.documentElement);
        return [0, 1, 2, 3].map((i) => seen.has(parseInt(style.getPropertyValue(`--c${i}`).trim().slice(1), 16)));
        """,
        MAP,
    )
    assert drawn == [True] * 4
    background = small.run("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(246, 247, 249)") == (theme == "light")


def test_pointing_shows_the_details(
    small: Browser, sample_page: Callable[..., Page]
) -> None:
    small.open()
    chart = sample_page(120, 90).sections[1].components[0]
    rectangles = chart.layers[1].rectangles  # type: ignore[union-attr]
    box = max(range(len(rectangles)), key=lambda i: rectangles[i].size)
    small.point_at(MAP, 1, box)
    text = small.panel()
    expected = rectangles[box]
    for part in (expected.label, "in ours", "size", "offset", "uses", "decision"):
        assert part in text
    assert f"{expected.size:,} B" in text
    assert str(expected.details["uses"]) in text
    readout = small.find(".map .readout", 0).text
    assert readout.startswith("logical time ") and "in use" in readout
    small.canvas(LANES)
    small.point_at(LANES, 0, 0)
    assert "slow → fast" in small.panel(LANES)
    assert small.severe() == []


def test_a_click_stays_and_marks_the_same_name_elsewhere(small: Browser) -> None:
    small.open()
    small.point_at(MAP, 0, 5, click=True)
    before = small.panel()
    small.run("document.body.scrollIntoView()")
    small.actions().move_to_element(small.canvas(LINE)).perform()
    small.frame()
    assert small.panel() == before
    assert "search" in small.find(".line + .readout").text
    marked = small.run(
        "const [a, b] = scheduleReport.figures[arguments[0]].views;"
        "return a.axis.marked === a.boxes.label[5]",
        MAP,
    )
    assert marked


def test_keys_reach_everything(small: Browser) -> None:
    from selenium.webdriver import Keys

    small.open()
    canvas = small.canvas(MAP)
    search = small.find("input[type=search]")
    search.click()
    for _ in range(12):
        small.driver.switch_to.active_element.send_keys(Keys.TAB)
        if small.driver.switch_to.active_element == canvas:
            break
    assert small.driver.switch_to.active_element == canvas
    seen = []
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_UP, Keys.ARROW_LEFT):
        canvas.send_keys(key)
        seen.append(small.panel())
    assert len(set(seen)) >= 3 and not any("Point at" in text for text in seen)
    assert small.find(".unseen[aria-live]").get_attribute("textContent")
    span = "const a = scheduleReport.axes.time; return a.to - a.from"
    whole = small.run(span)
    canvas.send_keys(Keys.ENTER)
    zoomed = small.run(span)
    canvas.send_keys("-")
    assert zoomed < small.run(span) <= whole
    canvas.send_keys("0")
    assert small.run(span) == whole
    canvas.send_keys(Keys.ESCAPE)
    assert "Point at" in small.panel()


def test_layers_legend_and_search(small: Browser) -> None:
    small.open()
    figure = f"scheduleReport.figures[{MAP}]"
    hidden = f"return {figure}.views.map((v) => v.root.hidden)"
    assert small.run(hidden) == [False, False]
    for choice, expected in ((1, [False, True]), (2, [True, False])):
        small.find("fieldset label", choice).click()
        assert small.run(hidden) == expected
    small.canvas(MAP, 1).send_keys("t")
    assert small.run(hidden) == [False, True]
    small.find("fieldset label", 0).click()
    assert small.run(hidden) == [False, False]

    before = _picture(small)
    small.find(".legend button", 0).click()
    small.frame()
    assert small.find(".legend button", 0).get_attribute("aria-pressed") == "false"
    assert _picture(small) != before
    small.find(".legend button", 0).click()
    # On a loaded machine the redraw may come a few frames late.
    for _ in range(60):
        small.frame()
        if _picture(small) == before:
            break
    assert _picture(small) == before

    search = small.find("input[type=search]")
    search.send_keys("EVICTED")
    small.frame()
    assert small.find(".find output").text.endswith(" found")
    assert _picture(small) != before
    assert small.severe() == []


def test_panning_and_zooming_by_pointer_keeps_figures_together(small: Browser) -> None:
    small.open()
    window = "const a = scheduleReport.axes.time; return [a.from, a.to]"
    low, high = small.run(window)
    small.find("button[title='Zoom in']").click()
    start, end = small.run(window)
    assert end - start == pytest.approx((high - low) / 2)
    drag = small.actions().move_to_element(small.canvas(MAP)).click_and_hold()
    drag.move_by_offset(60, 0).release().perform()
    assert small.run(window)[0] < start
    views = small.run(
        "return scheduleReport.figures.flatMap((f) => f.views ?? [])"
        ".map((v) => Math.round(v.timeAt(v.area.left)))"
    )
    assert len(views) == 3 and len(set(views)) == 1


def test_numbers_read_as_in_python(small: Browser) -> None:
    small.open()
    numbers = [0, 1, 999.95, 1023, 1024, 1536, 3_294_720, 2**41, 0.00012346, 9.9999]
    numbers += [1.43e-3, 2.5e-7, 3e-13, 90, 819e9, 1234.5, 1e16, 0.25, 12_345_678]
    for unit in ("", "B", "B/s", "s", "%", "×", "rows"):
        expected = [format_value(number, unit) for number in numbers]
        script = "return arguments[0].map((n) => scheduleReport.formatValue(n, arguments[1]))"
        assert small.run(script, numbers, unit) == expected


def test_paper_is_light_and_complete(small: Browser) -> None:
    small.open(theme="dark")
    small.run("window.dispatchEvent(new Event('beforeprint'))")
    assert (
        small.run("return document.querySelectorAll('.plot > img.paper').length") == 4
    )
    assert small.run("return document.documentElement.dataset.theme") == "light"
    small.run("window.dispatchEvent(new Event('afterprint'))")
    assert small.run("return document.querySelectorAll('.paper').length") == 0
    assert small.severe() == []


def test_ten_thousand_rectangles(large: Browser) -> None:
    """How fast they are is `benchmarks/bench_report.py`'s to say."""
    large.open()
    assert large.severe() == []
    count = large.run(
        "return scheduleReport.figures[arguments[0]].views[0].boxes.count", MAP
    )
    assert count == 10_000
    large.point_at(MAP, 0, 1234)
    assert "logical time" in large.panel()


def test_a_stack_tells_heights_but_no_offsets(
    driver: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    axis = TimeAxis(label="time", unit="s", group="seconds")
    parts = [(0.0, 3e-4, 2e11, "own"), (0.0, 3e-4, 5e11, "copies")]
    stack = SpaceTimeMap(
        title="Bandwidth",
        axis=axis,
        capacity=8e11,
        offset_unit="B/s",
        size_label="bandwidth",
        is_stack=True,
        layers=[
            Layer(
                name="ours",
                rectangles=[
                    Rectangle(
                        label=name,
                        start=start,
                        end=end,
                        offset=0.0 if name == "own" else 2e11,
                        size=size,
                        category=name,
                    )
                    for start, end, size, name in parts
                ],
            )
        ],
    )
    lanes = Lanes(
        axis=axis,
        lanes=[
            Lane(name="program", intervals=[Interval(label="a", start=0, end=3e-4)])
        ],
        wait_label="",
    )
    page = Page(title="t", sections=[Section(title="s", components=[stack, lanes])])
    browser = Browser(driver, _write(page, tmp_path_factory))
    browser.open()
    browser.point_at(0, 0, 1)
    text = browser.panel(0)
    assert "copies" in text and "bandwidth" in text and "500 GB/s" in text
    assert "offset" not in text
    assert "in use 700 GB/s (88%)" in browser.find(".map .readout").text
    browser.run("document.activeElement.blur()")
    assert "with" not in browser.find(".lanes .readout").text
    assert browser.severe() == []


def test_axes_of_curves_make_room_for_their_numbers(
    driver: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    curve = Series(
        name="search", x=[1, 2, 3], y=[204_350_784, 204_100_000, 204_000_000]
    )
    line = Line(series=[curve], y_unit="cycles")
    page = Page(title="t", sections=[Section(title="s", components=[line])])
    browser = Browser(driver, _write(page, tmp_path_factory))
    for width in (1400, 420):
        browser.open(width)
        left, widest = browser.run(
            """
            const figure = scheduleReport.figures[0];
            const pen = figure.canvas.getContext("2d");
            return [figure.area.left, pen.measureText("204,350,784 cycles").width];
            """
        )
        assert left > widest
        ticks = browser.run(
            "return scheduleReport.figures[0].columns().map(([x]) => x)"
        )
        assert all(float(tick).is_integer() for tick in ticks)


def _picture(browser: Browser) -> str:
    picture: str = browser.run(
        "return scheduleReport.figures[arguments[0]].views[0].base.toDataURL()", MAP
    )
    return picture
