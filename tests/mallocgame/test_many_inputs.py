"""The search of many dumps: what the arguments mean, and that one at a time is the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mallocgame import batch
from solvers.command import Failure

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
_PATIENCE = 300.0  # Seconds; only what hangs takes as long.
_FLAGS = ("--verify", "never", "--strategy", "climb", "--budget", "24evals", "--json")
# Of a result: what says when and where it was made, rather than what it is.
_VOLATILE = {"artifacts", "environment", "wall_seconds"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cache = tmp_path_factory.mktemp("cache")
    return os.environ | {"JAX_PLATFORMS": "cpu", "SCHEDULE_ZERO_CACHE": str(cache)}


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "mallocgame.search", *map(str, arguments)]


def _run(environment: dict[str, str], *arguments: object) -> tuple[int, Any]:
    done = subprocess.run(
        _command(*arguments, *_FLAGS),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def _kept(told: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in told.items() if key not in _VOLATILE}


def test_a_folder_of_dumps_stands_for_the_dumps() -> None:
    found = batch.inputs([str(GOLDEN)])
    assert found == sorted(f.parent for f in GOLDEN.glob("*/scheduled.hlo.pb.gz"))
    assert len(found) == 14
    # GPU dumps are dumps too; a dump is named once.
    dumps = batch.inputs([str(ROOT / "examples"), str(GOLDEN / "mlp"), str(GOLDEN)])
    names = [path.name for path in dumps]
    assert names[:3] == ["gpt2_decode", "dump", "mlp"] and len(names) == 16


def test_one_dump_is_one_dump(tmp_path: Path) -> None:
    for given in (GOLDEN / "mlp", GOLDEN / "mlp" / "scheduled.hlo.pb.gz", tmp_path):
        assert batch.inputs([str(given)]) == [given]


def test_the_content_is_that_of_the_module_searched(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "mlp", tmp_path / "mlp")
    file = tmp_path / "mlp" / "scheduled.hlo.pb.gz"
    first = batch.content(tmp_path / "mlp", "")
    assert first == batch.content(file, "")
    shutil.copy(GOLDEN / "lstm_scan" / file.name, file)
    assert batch.content(tmp_path / "mlp", "") != first
    with pytest.raises(Failure):
        batch.content(tmp_path, "")
    with pytest.raises(OSError):
        batch.content(tmp_path / "none", "")


@pytest.mark.slow
def test_many_come_to_the_same_as_one_by_one(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """And a signal in the middle, of one or of many, changes nothing."""
    file = GOLDEN / "mlp" / "scheduled.hlo.pb.gz"
    status, alone = _run(environment, file, "--out", tmp_path / "one")
    assert status == 0
    bad = tmp_path / "bad.hlo.pb"
    bad.write_text("no module")
    given = (file, bad, GOLDEN / "deblur_while", "--workers", 2)
    out = tmp_path / "many"
    status, told = _run(environment, *given, "--out", out)
    assert status == told["exit_status"] == 4
    assert list(told["failures"]) == ["bad"]
    assert _kept(told["results"]["scheduled"]) == _kept(alone)
    mappings = [
        (f / "mapping.json").read_bytes() for f in (tmp_path / "one", out / "scheduled")
    ]
    assert mappings[0] == mappings[1]
    # What was stopped ends, begun again, as it would have.
    for arguments, folder, parts in (
        ((file,), tmp_path / "one_stopped", [".", "."]),
        (given, tmp_path / "many_stopped", ["scheduled", "deblur_while"]),
    ):
        running = subprocess.Popen(
            _command(*arguments, *_FLAGS, "--out", folder),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        end = time.monotonic() + _PATIENCE
        while not list(folder.rglob("best.npz")) and running.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        assert running.wait(_PATIENCE) in (0, 4, 130)
        _run(environment, *arguments, "--resume", "--out", folder)
        for part, name in zip(parts, ("scheduled", "deblur_while")):
            held = json.loads((folder / part / "result.json").read_text())
            if part != ".":
                assert _kept(held) == _kept(told["results"][name])
            else:
                assert _kept(held) == _kept(alone)
