"""Rows, use over time, ticks and colours."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.report import Interval, Rectangle
from solvers.report.layout import nice_ticks, pack_rows, usage
from solvers.report.palette import CATEGORY_COLOURS, SURFACE_COLOURS, Theme, luminance

# Simulated dichromacy of linear RGB, severity 1 (Machado, Oliveira and Fernandes 2009).
VISIONS = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# Okabe and Ito's own colours come to 0.076 on this scale.
LEAST_DISTANCE = 0.1

spans = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 6)), max_size=20)


@settings(deadline=None, derandomize=True)
@given(spans)
def test_rows_do_not_overlap_and_are_as_few_as_possible(
    spans: list[tuple[int, int]],
) -> None:
    intervals = [Interval(label="", start=s, end=s + n) for s, n in spans]
    rows = pack_rows(intervals)
    for (a, row_a), (b, row_b) in itertools.combinations(
        zip(intervals, rows, strict=True), 2
    ):
        assert row_a != row_b or a.end <= b.start or b.end <= a.start
    depth = [sum(i.start <= t < i.end for i in intervals) for t in range(30)]
    assert max(rows, default=-1) + 1 == max(depth)


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(*[st.integers(0, 9)] * 2, *[st.integers(0, 5)] * 2), max_size=12)
)
def test_use_over_time_counts_shared_offsets_once(
    boxes: list[tuple[int, int, int, int]],
) -> None:
    rectangles = [
        Rectangle(label="", start=t, end=t + n, offset=o, size=z)
        for t, o, n, z in boxes
    ]
    steps = usage(rectangles)
    for time in range(16):
        taken = {
            cell
            for r in rectangles
            if r.start <= time < r.end
            for cell in range(int(r.offset), int(r.offset + r.size))
        }
        known = [amount for at, amount in steps if at <= time]
        assert (known[-1] if known else 0) == len(taken)


def test_ticks_are_round() -> None:
    assert nice_ticks(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert nice_ticks(0, 3 << 20, 4, "B") == [k << 20 for k in range(4)]
    assert nice_ticks(-1, 1, 2) == [-1, 0, 1]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("vision", VISIONS)
def test_colours_stay_apart_for_the_colour_blind(theme: Theme, vision: str) -> None:
    seen = {
        colour: _oklab(np.asarray(VISIONS[vision]) @ _linear(colour))
        for colour in CATEGORY_COLOURS[theme]
    }
    for a, b in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[a] - seen[b]) > LEAST_DISTANCE, (a, b)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_marks_stand_out(theme: Theme) -> None:
    colours = SURFACE_COLOURS[theme]
    for behind in ("page", "surface"):
        for text in ("ink", "dim", "accent", "warn"):
            assert _contrast(colours[text], colours[behind]) >= 4.5, (text, behind)
    for fill in CATEGORY_COLOURS[theme]:
        assert _contrast(fill, colours["surface"]) >= 2.4, fill


def _contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def _linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(
        channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
    )


def _oklab(linear: np.ndarray) -> np.ndarray:
    to_lms = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return to_lab @ np.cbrt(to_lms @ np.clip(linear, 0, 1))
