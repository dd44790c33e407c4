"""The command end to end: artefacts, JSON, exit statuses, one clear line on bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden"
ROOT = Path(__file__).parents[2]


def run(*arguments: str, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mallocgame.search", *arguments, "--out", str(out)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_search_writes_what_it_says(tmp_path: Path) -> None:
    program = str(GOLDEN / "mlp" / "scheduled.hlo.pb.gz")
    done = run(
        program, "--budget", "200evals", "--verify", "never", "--json", out=tmp_path
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["status"] == "OK"
    assert result["bound"] <= result["best"] <= result["baselines"]["xla"]
    for path in result["artifacts"].values():
        assert Path(path).stat().st_size > 0
    mapping = json.loads((tmp_path / "mapping.json").read_text())
    assert len(mapping["decisions"]) == result["accesses"]
    assert "<html" in (tmp_path / "report.html").read_text()


def test_same_seed_and_evaluations_give_the_same_answer(tmp_path: Path) -> None:
    program = str(GOLDEN / "moe_block" / "scheduled.hlo.pb.gz")
    flags = (
        program,
        "--budget",
        "60evals",
        "--verify",
        "never",
        "--strategy",
        "climb",
        "--json",
    )
    answers = [run(*flags, out=tmp_path / name) for name in ("a", "b")]
    first, second = (
        (tmp_path / name / "mapping.json").read_bytes() for name in ("a", "b")
    )
    assert [answer.returncode for answer in answers] == [0, 0]
    assert first == second


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        ("empty.hlo.pb", b"", 4),
        ("photo.hlo.pb", b"\xff\xd8\xff\xe0" + bytes(2000), 4),
        ("text.hlo.pb", b"this is no module\n" * 50, 4),
        ("truncated.hlo.pb", None, 4),
        ("missing.hlo.pb", b"MISSING", 3),
        ("folder", b"FOLDER", 3),
    ],
)
def test_bad_input_gets_one_line(
    tmp_path: Path, name: str, content: bytes | None, status: int
) -> None:
    path = tmp_path / name
    if content is None:
        import gzip

        whole = gzip.decompress((GOLDEN / "mlp" / "scheduled.hlo.pb.gz").read_bytes())
        path.write_bytes(whole[: len(whole) // 2])
    elif content == b"FOLDER":
        path.mkdir()
    elif content != b"MISSING":
        path.write_bytes(content)
    done = run(str(path), "--budget", "10evals", out=tmp_path / "out")
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
