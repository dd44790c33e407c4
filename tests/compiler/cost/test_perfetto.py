"""Traces hold every event, once, at its time."""

import json
from pathlib import Path

import pytest

from compiler.cost import perfetto
from compiler.cost.timeline import Event

EVENTS = (
    Event("gather", "all-gather", "links", 0.0, 3000.0, 1500.0),
    Event("product", "fusion", "compute", 0.0, 1500.0),
)


def test_a_trace_in_microseconds(tmp_path: Path) -> None:
    perfetto.write(EVENTS, 1.5e9, tmp_path / "trace.json")
    found = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    threads = {e["args"]["name"]: e["tid"] for e in found if e["ph"] == "M"}
    spans = {e["name"]: e for e in found if e["ph"] == "X"}
    assert threads == {"compute": 0, "links": 1}
    assert spans["gather"]["tid"] == 1
    assert spans["gather"]["dur"] == pytest.approx(2.0)
    assert spans["product"]["dur"] == pytest.approx(1.0)
    assert spans["gather"]["args"] == {"cycles": 3000.0, "exposed_cycles": 1500.0}
    assert len(spans) == len(EVENTS)
