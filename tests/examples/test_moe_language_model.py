"""The example trains, and what it learns does not depend on the plan."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from compiler.moe import Pipeline, Plan
from examples import moe_language_model

ROOT = Path(__file__).parents[2]
TINY = "--steps=41 --batch=16 --length=32 --width=32 --layers=1"
# Of exchanges and reductions other than the example's own; experts without copies, on axes of two and four.
OTHER = Plan(
    mesh=(("x", 2), ("y", 4)),
    expert_axes=("x", "y"),
    exchange="hierarchical",
    forward=Pipeline(chunks=(1, 1, 1, 1), ahead=3),
    backward=Pipeline(chunks=(1, 2), ahead=1),
)
# A loss of 4 in float32 is exact to 2.4e-7, and orders of summation differ by a few times that. Forty steps of Adam
# leave room for it to grow; another seed is 1e-2 apart and more.
TOLERANCE = 1e-4


def train(*arguments: str) -> str:
    environment = os.environ | {
        # What is run forty times need not be fast.
        "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-m", "examples.moe_language_model", *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("plan", [moe_language_model.PIPELINED, OTHER])
def test_it_learns_the_same_with_and_without_a_pipeline(
    plan: Plan, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan.to_json()))
    told = train(f"--plan={path}", "--compare", *TINY.split())
    uniform, single, _ = map(
        float, re.findall(r"^uniform (\S+) bytes (\S+) pairs (\S+)$", told, re.M)[0]
    )
    rows = re.findall(r"^step (\d+) plan (\S+) one chunk (\S+)$", told, re.M)
    assert [int(step) for step, _, _ in rows] == [0, 10, 20, 30, 40]
    ours, theirs = ([float(row[column]) for row in rows] for column in (1, 2))
    assert ours == pytest.approx(theirs, rel=0, abs=TOLERANCE)
    largest = float(re.findall(r"^largest difference (\S+)$", told, re.M)[0])
    assert largest < TOLERANCE

    # From no better than a guess to better than what knows how often each byte is, on text not seen.
    held_out = re.findall(r"^held out (\S+)$", told, re.M)
    assert len(held_out) == 2
    assert ours[0] > uniform - 0.5
    assert max(float(loss) for loss in held_out) < single
    assert ours[-1] < single


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is not JSON"),
        ('{"kind": "other"}', "not a plan"),
        (Plan(mesh=(("x", 3),), expert_axes=()), "16 sequences, but 3 devices"),
        (
            Plan(mesh=(("x", 16),), expert_axes=("x",)),
            "8 experts can't be spread evenly over 16 devices",
        ),
        (None, "No such file"),
    ],
)
def test_a_bad_plan_is_one_line(
    text: Plan | str | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "plan.json"
    if text is not None:
        path.write_text(text if isinstance(text, str) else json.dumps(text.to_json()))
    monkeypatch.setattr(sys, "argv", ["moe_language_model", f"--plan={path}"])
    with pytest.raises(SystemExit) as stopped:
        moe_language_model.main()
    told = capsys.readouterr()
    assert stopped.value.code == 2
    assert not told.out
    assert len(told.err.splitlines()) == 1
    assert message in told.err
