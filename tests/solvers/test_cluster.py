"""The same tasks through Ray and through submitit: results, failures by name, a node that goes."""

import json
import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from solvers import executors
from solvers.pool import WorkerDied

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 300.0  # Seconds; only what hangs takes as long.


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    module = pytest.importorskip("ray", reason="needs the extra [cluster]: ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield module
    module.shutdown()


def _die() -> None:
    os._exit(9)


@pytest.mark.slow
def test_ray_runs_tasks_and_names_what_fails(ray: Any, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with executors.make("ray", 2, tmp_path) as executor:
        futures = [executor.submit(operator.mul, k, 3) for k in range(20)]
        failing = executor.submit(operator.truediv, 1, 0)
        dying = executor.submit(_die)
        assert [f.result(_PATIENCE) for f in futures] == [3 * k for k in range(20)]
        assert isinstance(failing.exception(_PATIENCE), ZeroDivisionError)
        assert isinstance(dying.exception(_PATIENCE), WorkerDied)
        assert signal.getsignal(signal.SIGTERM) is before
    assert not ray.is_initialized()


@pytest.mark.slow
def test_a_batch_survives_the_loss_of_a_node(ray: Any, tmp_path: Path) -> None:
    """Against the same batch by local processes."""
    from ray.cluster_utils import Cluster

    given = []
    for number in range(16):
        given.append(tmp_path / f"p{number:02}.txt")
        given[-1].write_text(
            "infeasible 0" if number == 5 else f"slow {2 + number / 8}"
        )
    flags = [*given, "--budget", "40evals", "--json", "--quiet"]
    expected = _told(_start(*flags, "--workers", 2, "--out", tmp_path / "local"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        out = tmp_path / "ray"
        running = _start(
            *flags, "--executor", "ray", "--out", out, RAY_ADDRESS=cluster.address
        )
        end = time.monotonic() + _PATIENCE
        while len(list(out.glob("*/finished.json"))) < 8:
            assert time.monotonic() < end and running.poll() is None
            time.sleep(0.05)
        cluster.remove_node(second, allow_graceful=False)
        told = _told(running)
    finally:
        cluster.shutdown()
    assert list(told["failures"]) == list(expected["failures"]) == ["p05"]
    assert _values(told) == _values(expected) and len(told["results"]) == 15
    # What had ended was not begun again; what the node had at work was, once.
    begun = (out / "runs.txt").read_text().split()[::2]
    again = {name for name in begun if begun.count(name) > 1}
    assert len(begun) <= 16 + 1 and again <= {f"p{k:02}.txt" for k in range(16)} - {
        "p05.txt"
    }


@pytest.mark.slow
def test_submitit_runs_tasks_and_names_what_fails(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="needs the extra [cluster]: submitit")
    from solvers.slurm_executor import SlurmExecutor

    with SlurmExecutor(2, tmp_path, cluster="local") as executor:
        futures = [executor.submit(operator.mul, k, 3) for k in range(3)]
        failing = executor.submit(operator.truediv, 1, 0)
        assert [f.result(_PATIENCE) for f in futures] == [0, 3, 6]
        assert "ZeroDivisionError" in str(failing.exception(_PATIENCE))


def _start(*arguments: object, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.solvers.fake_batch", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def _told(running: "subprocess.Popen[str]") -> Any:
    said, _ = running.communicate(timeout=_PATIENCE)
    return json.loads(said)


def _values(told: Any) -> dict[str, Any]:
    return {
        name: (one["status"], one["best"], one["evaluations"])
        for name, one in told["results"].items()
    }
