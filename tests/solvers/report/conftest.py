"""Fixtures: a made-up report of realistic size and shape."""

import random
from collections.abc import Callable, Iterator

import pytest

from solvers.report import (
    Bar,
    Bars,
    Column,
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

CAPACITY = 4 << 20
_KINDS = ("fusion", "dot", "copy", "dynamic-update-slice", "reduce", "broadcast")
_CATEGORIES = ("stays", "prefetch", "evicted", "scratch")


@pytest.fixture(scope="session")
def sample_map() -> Callable[..., SpaceTimeMap]:
    """A maker of maps: `sample_map(count, steps)`."""
    return make_map


@pytest.fixture(scope="session")
def sample_lanes() -> Callable[..., Lanes]:
    """A maker of lanes: `sample_lanes(copies, steps)`."""
    return make_lanes


@pytest.fixture(scope="session")
def sample_page() -> Callable[..., Page]:
    """A maker of pages with every kind of component: `sample_page(count, steps)`."""
    return make_page


def make_axis(steps: int) -> TimeAxis:
    """Returns an axis with an instruction name for each step."""
    names = [f"{_KINDS[k * 7 % len(_KINDS)]}.{k}" for k in range(steps)]
    return TimeAxis(label="logical time", names=names)


def make_rectangles(count: int, steps: int, seed: int) -> list[Rectangle]:
    """Returns `count` rectangles that do not overlap, packed first-fit below CAPACITY."""
    rng = random.Random(seed)
    blocks = max(1, count // 500)  # One after the other, since packing is quadratic.
    return [
        rectangle
        for k in range(blocks)
        for rectangle in _block(
            rng,
            count * (k + 1) // blocks - count * k // blocks,
            steps * k // blocks,
            steps * (k + 1) // blocks,
        )
    ]


def _block(rng: random.Random, count: int, first: int, last: int) -> list[Rectangle]:
    """Returns `count` packed rectangles between two times."""
    packed: list[Rectangle] = []
    mean = (last - first) * 24 / count
    while len(packed) < count:
        start = rng.randrange(first, last - 1)
        end = min(last, start + 1 + int(rng.expovariate(1 / mean)))
        size = 1024 * int(2 ** rng.uniform(0, 9))
        near = [r for r in packed if r.start < end and start < r.end]
        offset = min(o for o in _gaps(near, size))
        if offset + size > CAPACITY:
            continue
        packed.append(_rectangle(rng, start, end, int(offset), size))
    return packed


def make_map(count: int = 600, steps: int = 400) -> SpaceTimeMap:
    """Returns a map of two layers with `count` rectangles each."""
    return SpaceTimeMap(
        title="Fast memory over time",
        note="Each rectangle is a value while it is in fast memory.",
        axis=make_axis(steps),
        capacity=CAPACITY,
        categories=_CATEGORIES,
        detail_units={"written back": "B", "benefit": "s"},
        layers=[
            Layer(
                name="XLA's own mapping",
                note="simulated 1.84 ms",
                rectangles=make_rectangles(count, steps, seed=1),
            ),
            Layer(
                name="ours",
                note="simulated 1.43 ms",
                rectangles=make_rectangles(count, steps, seed=2),
            ),
        ],
    )


def make_lanes(copies: int = 120, steps: int = 400) -> Lanes:
    """Returns two lanes of copies, some of which are waited for."""
    rng = random.Random(3)
    lanes = []
    for name in ("slow → fast", "fast → slow"):
        starts = sorted(rng.sample(range(steps - 20), copies))
        intervals = []
        for k, start in enumerate(starts):
            end = start + rng.randint(2, 12)
            intervals.append(
                Interval(
                    label=f"{_KINDS[k % 6]}.{k}",
                    start=start,
                    end=end,
                    amount=1024 * rng.randint(4, 900),
                    wait=(end, end + 1) if rng.random() < 0.15 else None,
                    category="prefetch" if "fast" in name[-4:] else "evicted",
                    details={"issued by": f"dot.{start}"},
                )
            )
        lanes.append(Lane(name=name, intervals=intervals))
    return Lanes(
        title="Copies",
        note="Striped: the program stands still until the copy is done.",
        axis=make_axis(steps),
        lanes=lanes,
        categories=("stays", "prefetch", "evicted"),
    )


def make_page(count: int = 600, steps: int = 400) -> Page:
    """Returns a page with every kind of component."""
    return Page(
        title="gpt2_decode.hlo.pb",
        subtitle="Memory mapping for tpu-v5e, 4 MiB of fast memory, seed 0",
        facts=[
            Fact(name="best, simulated", value=1.43e-3, unit="s", emphasis=True),
            Fact(
                name="speedup over XLA",
                value=1.287,
                unit="×",
                note="same simulator",
                emphasis=True,
            ),
            Fact(name="verified", value=None, note="no compiler here", emphasis=True),
            Fact(name="lower bound", value=1.21e-3, unit="s"),
            Fact(name="strategy", value="mcts + evolution"),
            Fact(name="simulator calls", value=1_250_000),
            Fact(name="costs from", value="analytic model"),
            Fact(name="input digest", value="9f2c4d81" * 8),
        ],
        sections=[
            Section(
                title="Result",
                note="Lower is better. All rows are judged by the same simulator.",
                components=[make_table(), make_line()],
            ),
            Section(
                title="Memory",
                components=[
                    make_map(count, steps),
                    make_lanes(min(120, steps // 4), steps),
                ],
            ),
            Section(
                title="Where the time goes", components=[make_bars(min(count, 280))]
            ),
            Section(
                title="Again",
                components=[
                    Text(body="The same command gives the same result."),
                    Text(
                        body="python -m search gpt2_decode.hlo.pb --seed=0 --budget=20000",
                        preformatted=True,
                    ),
                ],
            ),
        ],
        footer="Written by the sample of the tests.",
    )


def make_table() -> Table:
    """Returns a table of strategies with one best row."""
    return Table(
        title="Strategies",
        columns=[
            "strategy",
            Column(name="time", unit="s"),
            Column(name="over XLA", unit="×"),
            Column(name="in fast memory", unit="B"),
            "evaluations",
            "valid",
        ],
        rows=[
            ["all slow", 2.91e-3, 0.632, 0, 1, True],
            ["XLA's own mapping", 1.84e-3, 1.0, 3_900_000, 1, True],
            ["greedy", 1.71e-3, 1.076, 4_100_000, 640, True],
            ["search", 1.43e-3, 1.287, 4_194_304, 1_250_000, True],
            ["bound", 1.21e-3, 1.52, None, None, None],
        ],
        best=3,
    )


def make_line() -> Line:
    """Returns the progress of two searches with three baselines."""
    rng = random.Random(5)
    series = []
    for name, floor in (("search", 1.43e-3), ("hill climbing", 1.55e-3)):
        best, xs, ys = 1.8e-3, [], []
        for k in range(0, 1_250_000, 2500):
            if rng.random() < 0.2:
                best -= (best - floor) * rng.uniform(0, 0.25)
            xs.append(k)
            ys.append(best)
        series.append(Series(name=name, x=xs, y=ys))
    return Line(
        title="Progress",
        series=series,
        references={"XLA": 1.84e-3, "greedy": 1.71e-3, "bound": 1.21e-3},
        y_label="best simulated time",
    )


def make_bars(count: int = 280) -> Bars:
    """Returns costs before and after for many instructions."""
    rng = random.Random(7)
    bars = []
    for k in range(count):
        before = 1e-6 * rng.lognormvariate(1, 1)
        after = before * rng.choice((1, 1, 0.55, 0.7, 1.08))
        bars.append(Bar(label=f"{_KINDS[k % 6]}.{k}", values=(before, after)))
    return Bars(
        title="Cost per instruction",
        label="instruction",
        series=("XLA's own mapping", "ours"),
        bars=bars,
    )


def _gaps(near: list[Rectangle], size: int) -> Iterator[float]:
    """Yields the offsets at which `size` fits between the rectangles."""
    level = 0.0
    for r in sorted(near, key=lambda r: r.offset):
        if r.offset - level >= size:
            yield level
        level = max(level, r.offset + r.size)
    yield level


def _rectangle(
    rng: random.Random, start: int, end: int, offset: int, size: int
) -> Rectangle:
    number = start if rng.random() < 0.8 else rng.randrange(end)
    category = rng.choice(_CATEGORIES)
    uses = sorted(rng.sample(range(start, end), min(end - start, rng.randint(1, 3))))
    why = {
        "stays": "made in fast memory and used before anything needs the space",
        "prefetch": f"copy hidden behind {end - start} instructions; benefit above its cost",
        "evicted": "written back: its next use is far away and its place is worth more",
        "scratch": None,
    }[category]
    return Rectangle(
        label=f"{_KINDS[number * 7 % len(_KINDS)]}.{number}",
        start=start,
        end=end,
        offset=offset,
        size=size,
        category=category,
        details={
            "uses": ", ".join(f"dot.{t} operand {t % 3}" for t in uses),
            "decision": category,
            "why": why,
            "written back": size if category == "evicted" else None,
            "benefit": round(rng.uniform(0, 4e-6), 9),
        },
    )
