"""Training by two processes: the same as by one with two devices, and one of them writes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.muzero.test_command import SIZES

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 900.0  # Seconds; only what hangs takes as long.


def _start(
    out: Path, port: int, number: int, count: int, devices: int, *more: str
) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "muzero.train", "--json", f"--out={out}", *SIZES]
    command += ["--game=tests.muzero.test_command:make", "--checkpoint-every=2", *more]
    command += ["--distributed", f"--coordinator=localhost:{port}"]
    command += [f"--num-processes={count}", f"--process-id={number}"]
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def _train(out: Path, count: int, devices: int, *more: str) -> list[str]:
    port = _port()
    running = [_start(out, port, k, count, devices, *more) for k in range(count)]
    said = []
    for process in running:
        stdout, stderr = process.communicate(timeout=_PATIENCE)
        assert process.returncode == 0, stderr
        said.append(stdout)
    return said


def _metrics(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.mark.slow
def test_two_processes_are_two_devices(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    (alone,) = _train(one, 1, 2, "--iterations=4")
    _train(two, 2, 1, "--iterations=2")
    # Stopped by its iterations, and gone on with: from a checkpoint that both read.
    first, second = _train(two, 2, 1, "--iterations=4", "--resume")
    assert second == ""
    told, expected = json.loads(first), json.loads(alone)
    assert told["best"] == pytest.approx(expected["best"])
    assert told["iterations"] == 4
    for ours, theirs in zip(_metrics(two), _metrics(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)


def test_misuse_is_refused(tmp_path: Path) -> None:
    from muzero.train import TrainFlags

    with pytest.raises(ValueError, match="are for --distributed"):
        TrainFlags(game="x", num_processes=2)
    lone = _start(tmp_path, _port(), 0, 1, 3)
    _, said = lone.communicate(timeout=_PATIENCE)
    assert lone.returncode == 2
    assert "--lanes 16 is not a multiple of the 3 devices" in said
