"""Metrics on disk: JSON lines that a resumed run takes back, and the same numbers for TensorBoard."""

import json
import struct
import sys
from pathlib import Path

import pytest

from solvers.command import Failure
from solvers.metrics import Metrics


def test_a_run_that_goes_on_takes_back_what_it_plays_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with Metrics(path, before=0) as log:
        for iteration in range(4):
            log.write(iteration, {"loss": 1.0 / (1 + iteration)})
    with path.open("a") as file:
        file.write('{"iteration": 3, "lo')  # Killed while it wrote.
    with Metrics(path, before=2) as log:
        log.write(2, {"loss": 7.0})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["iteration"], row["loss"]) for row in rows] == [
        (0, 1.0),
        (1, 0.5),
        (2, 7.0),
    ]
    with Metrics(path, before=3) as log, pytest.raises(ValueError, match="JSON"):
        log.write(3, {"loss": float("nan")})


def test_tensorboard_reads_the_same_numbers(tmp_path: Path) -> None:
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    for before, iterations in ((0, range(4)), (2, range(2, 3))):
        with Metrics(
            tmp_path / "metrics.jsonl", before=before, tensorboard=True
        ) as log:
            for iteration in iterations:
                log.write(iteration, {"loss": 0.5 * iteration + before})
    files = (tmp_path / "tensorboard").iterdir()
    events = []
    for file in sorted(files, key=lambda file: int(file.suffix[1:])):
        content = file.read_bytes()
        while content:  # Length, checksum, event, checksum.
            (length,) = struct.unpack("<Q", content[:8])
            events.append(event_pb2.Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    shown: dict[int, float] = {}
    for event in events:
        if event.HasField("session_log"):
            shown = {k: v for k, v in shown.items() if k < event.step}
        for value in event.summary.value:
            assert value.tag == "loss"
            shown[event.step] = value.simple_value
    assert shown == {0: 0.0, 1: 0.5, 2: 3.0}


def test_without_its_library_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(Failure, match=r"schedule-zero\[tensorboard\]") as caught:
        Metrics(tmp_path / "metrics.jsonl", before=0, tensorboard=True)
    assert caught.value.exit_status == 2 and "\n" not in str(caught.value)
