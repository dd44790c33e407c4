"""How smooth a report stays as it grows: milliseconds that a real browser takes.

    python -m benchmarks.bench_report [--counts 1000 10000 100000]

Needs Chromium, its driver and `pip install selenium`. A page has one memory map of that many rectangles over a
quarter as many times. "redraw" is the whole map, as in panning and zooming; "point" is what the pointer's
moving takes: finding the rectangle, and marking it in all views. Each is a median of nine, until the first pixel can be read
back. A picture every 16.7 ms is smooth, one every 100 ms is felt. "opens" is from the file to the first drawing.
"""

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from solvers.report import (
    Layer,
    Page,
    Rectangle,
    Section,
    SpaceTimeMap,
    TimeAxis,
    render,
)

_CAPACITY = 128 << 20
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000")
_MEASURE = """
const view = scheduleReport.figures[0].views[0];
const time = (act) => {
  const times = [];
  for (let k = 0; k < 9; k++) {
    const began = performance.now();
    act(k);
    times.push(performance.now() - began);
  }
  return times.sort((a, b) => a - b)[4];
};
const { width, height } = view.plot.getBoundingClientRect();
// Reading one pixel makes the browser finish the drawing that was asked for.
const redraw = time(() => {
  view.dirty = true;
  view.draw();
  view.base.getContext("2d").getImageData(0, 0, 1, 1);
});
const point = time((k) => {
  view.axis.point(view.timeAt(100 + k));
  view.hit((0.2 + k / 15) * width, height / 2);
  view.draw();
  view.overlay.getContext("2d").getImageData(0, 0, 1, 1);
});
const load = performance.getEntriesByType("navigation")[0].domComplete;
return [view.boxes.count, load, redraw, point];
"""


def page(count: int, seed: int = 0) -> Page:
    """Returns a page with a map of `count` rectangles, live ranges in rows that do not overlap."""
    rng = np.random.default_rng(seed)
    times = max(8, count // 4)
    rows = 64
    height = _CAPACITY // rows
    each = -(-count // rows)
    rectangles: list[Rectangle] = []
    for row in range(rows):
        edges = np.sort(rng.choice(times * 16, 2 * each, replace=False)) // 16
        for k in range(min(each, count - len(rectangles))):
            start, end = int(edges[2 * k]), int(edges[2 * k + 1])
            rectangles.append(
                Rectangle(
                    label=f"fusion.{row}.{k}",
                    start=start,
                    end=max(end, start + 1),
                    offset=row * height,
                    size=int(height * rng.uniform(0.3, 1.0)),
                    category="kept",
                )
            )
    axis = TimeAxis(label="logical time", names=[f"op.{k}" for k in range(times + 1)])
    figure = SpaceTimeMap(
        title="Fast memory over time",
        axis=axis,
        capacity=_CAPACITY,
        categories=("kept",),
        layers=[Layer(name="mapping", rectangles=rectangles)],
    )
    return Page(
        title=f"{count} rectangles",
        sections=[Section(title="Memory", components=[figure])],
    )


def _driver(folder: str) -> Any:
    try:
        from selenium import webdriver
    except ImportError:
        raise SystemExit("selenium is not installed: pip install selenium") from None
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        raise SystemExit("chromium and chromedriver are needed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*_FLAGS, f"--user-data-dir={folder}/profile"):
        options.add_argument(flag)
    service = webdriver.ChromeService(executable_path=driver)
    return webdriver.Chrome(options=options, service=service)


def rows(counts: list[int]) -> Iterator[str]:
    """Yields a line of the table per page."""
    yield "| rectangles | file, MiB | opens, ms | redraw, ms | point, ms |"
    yield "|---:|---:|---:|---:|---:|"
    with tempfile.TemporaryDirectory() as folder:
        driver = _driver(folder)
        try:
            for count in counts:
                path = Path(folder) / f"{count}.html"
                path.write_text(render(page(count)), encoding="utf-8")
                driver.get(path.as_uri())
                found, load, redraw, point = driver.execute_script(_MEASURE)
                assert found == count
                size = path.stat().st_size / 2**20
                yield f"| {count:,} | {size:.1f} | {load:.0f} | {redraw:.1f} | {point:.2f} |"
        finally:
            driver.quit()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[1000, 10_000, 100_000]
    )
    for line in rows(parser.parse_args().counts):
        print(line, flush=True)


if __name__ == "__main__":
    main()
