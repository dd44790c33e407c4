"""The trace for Perfetto."""

import itertools
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from solvers.report import (
    Interval,
    Lane,
    Lanes,
    Layer,
    Rectangle,
    SpaceTimeMap,
    TimeAxis,
    to_trace,
)


def events_of(text: str) -> list[dict[str, Any]]:
    """Returns the events, each checked for what the format asks of its phase."""
    events = json.loads(text)["traceEvents"]
    for event in events:
        assert event["ph"] in "XCM"
        assert {"name", "pid", "tid"} <= set(event)
        assert event["ph"] == "M" or "ts" in event
        assert event["ph"] != "X" or event["dur"] >= 0
    return list(events)


def test_slices_of_a_track_do_not_overlap(
    sample_lanes: Callable[..., Lanes], sample_map: Callable[..., SpaceTimeMap]
) -> None:
    events = events_of(to_trace(lanes=[sample_lanes()], maps=[sample_map(80, 400)]))
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert len(tracks) > 3
    for spans in tracks.values():
        spans.sort()
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    named = {e["tid"] for e in events if e["name"] == "thread_name"}
    assert set(tracks) <= named


def test_times_amounts_and_waits_come_back() -> None:
    copy = Interval(
        label="c",
        start=2e-6,
        end=5e-6,
        amount=4096,
        wait=(4e-6, 6e-6),
        details={"bad": float("inf")},
    )
    lanes = Lanes(axis=TimeAxis(unit="s"), lanes=[Lane(name="read", intervals=[copy])])
    slices = [e for e in events_of(to_trace(lanes=[lanes])) if e["ph"] == "X"]
    assert [(e["ts"], e["dur"]) for e in slices] == [(2, 3), (4, 2)]
    assert slices[0]["args"] == {"bytes": 4096, "bad": "∞"}


def test_counters_follow_the_use() -> None:
    boxes = [
        Rectangle(label="a", start=0, end=4, offset=0, size=10),
        Rectangle(label="b", start=2, end=3, offset=10, size=5),
    ]
    chart = SpaceTimeMap(
        axis=TimeAxis(names=["i0", "i1"]), layers=[Layer(name="ours", rectangles=boxes)]
    )
    events = events_of(to_trace(maps=[chart], microseconds_per_step=10))
    counters = [e for e in events if e["ph"] == "C"]
    assert [(e["ts"], e["args"]["in use"]) for e in counters] == [
        (0, 10),
        (20, 15),
        (30, 10),
        (40, 0),
    ]
    assert [e["name"] for e in events if e["ph"] == "X"] == ["i0", "i1"]
