"""Timelines for ui.perfetto.dev and chrome://tracing."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compiler.cost.timeline import COMPUTE, Event


def trace(events: Iterable[Event], clock_hz: float) -> dict[str, Any]:
    """Returns events in the Trace Event Format: one thread for each stream, times in microseconds.

    Args:
        events: of a timeline.
        clock_hz: cycles per second.
    """
    events = list(events)
    streams = sorted({event.stream for event in events} - {COMPUTE})
    threads = {stream: i for i, stream in enumerate((COMPUTE, *streams))}
    named = [
        {
            "ph": "M",
            "name": "thread_name",
            "pid": 0,
            "tid": i,
            "args": {"name": stream},
        }
        for stream, i in threads.items()
    ]
    micro = 1e6 / clock_hz
    spans = [
        {
            "ph": "X",
            "name": event.name,
            "cat": event.kind,
            "pid": 0,
            "tid": threads[event.stream],
            "ts": event.start * micro,
            "dur": (event.end - event.start) * micro,
            "args": {
                "cycles": event.end - event.start,
                "exposed_cycles": event.exposed,
            },
        }
        for event in events
    ]
    return {"traceEvents": [*named, *spans], "displayTimeUnit": "ns"}


def write(events: Iterable[Event], clock_hz: float, path: Path | str) -> None:
    """Writes a trace file."""
    Path(path).write_text(json.dumps(trace(events, clock_hz)) + "\n")
