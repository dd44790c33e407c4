"""`python -m muzero.train`: what it writes, how it goes on, and how it fails."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muzero.train import TrainFlags, train
from muzero.training import Trainer
from solvers.command import Exit, run
from tests.muzero import knapsack

ROOT = Path(__file__).resolve().parents[2]
# The sizes of `knapsack.CONFIG`: what test_training compiles serves here too.
SIZES = [
    "--lanes=16",
    "--capacity=128",
    "--best-kept=2",
    "--reanalyse-every=4",
    "--num-simulations=8",
    "--min-range=0.1",
    "--rows=64",
    "--updates=16",
    "--unroll=4",
    "--learning-rate=2e-3",
    "--decay-updates=960",
]


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # JAX reads it when it is imported: here it was, in a process of its own it will be.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "jax"))


def make(flags: TrainFlags) -> Any:
    return knapsack.task()


asked = 0


def shown(flags: TrainFlags) -> Any:
    def demonstrations() -> list[tuple[int, np.ndarray]]:
        global asked
        asked += 1
        return [(0, np.array([0, 0, 0, 0, 0, 1, 1, 1], np.int32))]

    return dataclasses.replace(knapsack.task(), demonstrations=demonstrations)


def nothing(flags: TrainFlags) -> Any:
    return 3


def _run(out: Path, *args: str, game: str = "make") -> int:
    name = f"--game=tests.muzero.test_command:{game}"
    return run(
        train,
        TrainFlags,
        name="muzero.train",
        args=[name, f"--out={out}", "--json", "--checkpoint-every=3", *SIZES, *args],
    )


def _metrics(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_the_flags_say_the_sizes() -> None:
    import tyro

    flags = tyro.cli(TrainFlags, args=["--game=x", *SIZES])
    assert flags.config == knapsack.CONFIG


def test_training_that_is_stopped_goes_on_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert _run(whole, "--iterations=7") == Exit.OK
    told = json.loads(capsys.readouterr().out)
    assert told["baselines"]["first_legal"] == pytest.approx(1.5)
    assert told["best"] < told["baselines"]["first_legal"]
    assert told["baselines"]["demonstrated"] is None
    assert told["evaluations"]["simulator"] == 7 * 16 * 8 * (8 + 1)
    assert told["iterations"] == 7
    best = json.loads((whole / "best.json").read_text())["instances"][0]
    weight = sum(w for w, a in zip(knapsack.WEIGHT, best["actions"]) if a)
    worth = sum(w for w, a in zip(knapsack.WORTH, best["actions"]) if a)
    assert weight <= knapsack.CAPACITY
    assert worth == pytest.approx(best["return"]) and best["by"] == "agent"

    iterate, count = Trainer.iterate, 0

    def stopped(*args: Any) -> Any:
        nonlocal count
        count += 1
        if count == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return iterate(*args)

    monkeypatch.setattr(Trainer, "iterate", stopped)
    assert _run(parts, "--iterations=7") == Exit.INTERRUPTED
    assert json.loads(capsys.readouterr().out)["status"] == "INTERRUPTED"
    assert 5 <= len(_metrics(parts)) < 7
    with (parts / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 6, "cut sho')
    assert _run(parts, "--iterations=7", "--resume") == Exit.OK
    again = json.loads(capsys.readouterr().out)
    assert _metrics(parts) == _metrics(whole)
    for key in ("best", "evaluations", "instances", "without_noise"):
        assert again[key] == told[key], key
    assert (parts / "best.json").read_text() == (whole / "best.json").read_text()

    assert _run(whole, "--iterations=8") == Exit.USAGE
    assert json.loads(capsys.readouterr().out)["reason"] == "out_in_use"
    assert _run(whole, "--iterations=8", "--resume", "--seed=1") == Exit.USAGE
    assert json.loads(capsys.readouterr().out)["reason"] == "resume_mismatch"


def test_training_warms_up_on_what_is_shown_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts, before = tmp_path / "whole", tmp_path / "parts", asked
    assert _run(whole, "--warmup=2", "--iterations=4", game="shown") == Exit.OK
    told = json.loads(capsys.readouterr().out)
    assert told["baselines"]["demonstrated"] == pytest.approx(1.5 - 0.82)
    assert told["evaluations"]["simulator"] == 2 * 16 * 8 * (8 + 1)
    assert [("return_mean" in row) for row in _metrics(whole)] == [False] * 2 + [
        True
    ] * 2
    assert asked == before + 1
    assert _run(parts, "--warmup=2", "--iterations=1", game="shown") == Exit.OK
    capsys.readouterr()
    args = ("--warmup=2", "--iterations=4", "--resume")
    assert _run(parts, *args, game="shown") == Exit.OK
    again = json.loads(capsys.readouterr().out)
    assert asked == before + 2, "what a checkpoint holds is not shown again"
    assert _metrics(parts) == _metrics(whole)
    assert again["baselines"] == told["baselines"] and again["best"] == told["best"]
    assert _run(tmp_path / "none", "--warmup=2") == Exit.USAGE
    assert json.loads(capsys.readouterr().out)["reason"] == "nothing_shown"


def test_killed_training_loses_at_most_a_checkpoint_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process of its own, killed in the middle of what it does; it goes on to the same numbers."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert _run(whole, "--iterations=9") == Exit.OK
    told = json.loads(capsys.readouterr().out)
    command = [sys.executable, "-m", "muzero.train", f"--out={parts}", "--quiet"]
    command += ["--game=tests.muzero.test_command:make", "--checkpoint-every=3", *SIZES]
    lines, patience = parts / "metrics.jsonl", time.monotonic() + 500
    with subprocess.Popen(
        [*command, "--iterations=100000"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        while process.poll() is None and time.monotonic() < patience:
            if lines.exists() and len(lines.read_text().splitlines()) >= 5:
                break
            time.sleep(0.01)
        process.kill()
    done = max(int(x.name) for x in (parts / "checkpoints").glob("[0-9]*"))
    assert done >= 3 and done % 3 == 0
    # What was written until then; a line may have been cut short.
    seen = len(lines.read_text().splitlines())
    assert seen - done <= 3 + 1
    more = max(9, done + 1)
    assert _run(parts, f"--iterations={more}", "--resume") == Exit.OK
    again = json.loads(capsys.readouterr().out)
    assert again["iterations"] == more
    for ours, theirs in zip(_metrics(parts), _metrics(whole), strict=False):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert len(_metrics(parts)) == more
    assert again["best"] <= told["best"]


@pytest.mark.parametrize(
    "args, game, reason",
    [
        ([], "nowhere", "unknown_game"),
        ([], "nothing", "unknown_game"),
        (["--strategy=greedy"], "make", "unknown_strategy"),
        (["--option=x"], "make", "usage"),
        (["--iterations=-1"], "make", "usage"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    game: str,
    reason: str,
) -> None:
    assert _run(tmp_path / "run", *args, game=game) == Exit.USAGE
    told = capsys.readouterr()
    assert json.loads(told.out)["reason"] == reason
    assert len(told.err.splitlines()) == 1
