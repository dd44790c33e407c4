"""The command from outside: one clear line on bad input, and what a signal leaves behind."""

import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compiler.hlo import hlo_pb2 as pb
from compiler.hlo.load import parse
from compiler.targets import TARGETS
from mallocgame import inputs, instance, priority, validate
from mallocgame.mapping import Decision, Mapping
from tests.compiler.hlo.conftest import F32, Writer

GOLDEN = Path(__file__).parents[1] / "golden"
ROOT = Path(__file__).parents[2]
MLP = GOLDEN / "mlp" / "scheduled.hlo.pb.gz"
_PATIENCE = 300.0  # Seconds; only what hangs takes as long.


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cache = tmp_path_factory.mktemp("cache")
    return os.environ | {"JAX_PLATFORMS": "cpu", "SCHEDULE_ZERO_CACHE": str(cache)}


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "mallocgame.search", *map(str, arguments)]


def _run(
    environment: dict[str, str], *arguments: object
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(*arguments),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
    )


def test_where_nothing_fits_everything_stays_slow(
    environment: dict[str, str], tmp_path: Path
) -> None:
    done = _run(
        environment,
        *(GOLDEN / "mlp", "--out", tmp_path, "--json", "--verify", "never"),
        *("--fast-bytes", "4KiB", "--budget", "10evals", "--strategy", "climb"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # The compiler's own mapping is for the chip's capacity.
    assert found["baselines"]["xla"] is None
    assert found["best"] == pytest.approx(found["baselines"]["all_slow"])
    decisions = json.loads((tmp_path / "mapping.json").read_text())["decisions"]
    assert decisions and {decision["action"] for decision in decisions} == {"Drop"}
    assert (tmp_path / "report.html").exists()


def _mlp() -> pb.Module:
    return parse(MLP.read_bytes())


def _whole() -> bytes:
    return gzip.decompress(MLP.read_bytes())


def _unscheduled() -> bytes:
    module = _mlp()
    module.ClearField("schedule")
    return module.SerializeToString()


def _with_type(number: int) -> bytes:
    module = _mlp()
    module.computations[-1].instructions[0].shape.element_type = number
    return module.SerializeToString()


def _contradicting() -> bytes:
    """The body of a loop passes on an array of another size than it was given."""
    writer = Writer()
    small, large = writer.shape(F32, 1024), writer.shape(F32, 4096)
    flag = writer.shape(1)
    body = writer.computation(
        "body",
        ("b", "parameter", writer.tuple_of(small), []),
        ("made", "broadcast", large, []),
        ("*next", "tuple", writer.tuple_of(large), ["made"]),
    )
    condition = writer.computation(
        "condition",
        ("c", "parameter", writer.tuple_of(small), []),
        ("*again", "custom-call", flag, []),
    )
    called = {"called_computation_ids": [body, condition]}
    writer.computation(
        "main",
        ("p", "parameter", small, []),
        ("start", "tuple", writer.tuple_of(small), ["p"]),
        ("*loop", "while", writer.tuple_of(small), ["start"], called),
    )
    return bytes(writer.proto.SerializeToString())


def _with_empty(*, alone: bool) -> bytes:
    """An array of no elements, alone or beside one that has some."""
    writer = Writer()
    rows = 0 if alone else 4096
    some, none = writer.shape(F32, rows, 128), writer.shape(F32, 0, 128)
    writer.computation(
        "main",
        ("p", "parameter", some, []),
        ("empty", "custom-call", none, []),
        ("joined", "concatenate", some, ["p", "empty"]),
        ("*twice", "add", some, ["joined", "p"]),
    )
    return bytes(writer.proto.SerializeToString())


_BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "the file is empty"),
    "truncated": (lambda: _whole()[: len(_whole()) // 2], "truncated"),
    "truncated.gz": (lambda: MLP.read_bytes()[:-500], "damaged gzip file"),
    "photo": (lambda: b"\xff\xd8\xff\xe0" + bytes(2000), "not a"),
    "text": (lambda: b"this is no module\n" * 50, "text file"),
    "hlo_text": (lambda: b"HloModule jit_f, is_scheduled=true\n", "HLO text"),
    "unscheduled": (_unscheduled, "schedule"),
    "unknown_type": (lambda: _with_type(99), "unknown element type number 99"),
    "contradicting": (_contradicting, "different sizes: 4096, 16384 bytes"),
    "nothing": (lambda: _with_empty(alone=True), "no array of module"),
}


@pytest.mark.parametrize("name", _BAD)
def test_bad_content_gets_one_line(
    tmp_path: Path, environment: dict[str, str], name: str
) -> None:
    make, said = _BAD[name]
    path = tmp_path / f"{name}.hlo.pb"
    path.write_bytes(make())
    done = _run(environment, path, "--out", tmp_path / "out")
    _one_line(done, 4)
    assert str(path) in done.stderr
    assert said in done.stderr


def test_a_file_of_two_gibibytes_is_not_read(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    path = tmp_path / "sparse.hlo.pb"
    with path.open("wb") as file:
        file.write(b"\x0a\x04")  # As a module starts.
        file.truncate(2 << 30)
    _one_line(_run(environment, path, "--out", tmp_path / "out"), 4)


@pytest.mark.parametrize("kind", ["missing", "folder", "folder_of_others"])
def test_what_is_not_there_gets_one_line(
    tmp_path: Path, environment: dict[str, str], kind: str
) -> None:
    path = tmp_path / "dump"
    if kind != "missing":
        path.mkdir()
    if kind == "folder_of_others":
        (path / "notes.txt").write_text("no dump")
    _one_line(_run(environment, path, "--out", tmp_path / "out"), 3)


def test_an_out_that_cannot_be_written_gets_one_line(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "file").touch()
    # Below a file nobody can write, root included.
    _one_line(_run(environment, MLP, "--out", tmp_path / "file" / "out"), 2)


def test_a_bad_input_is_refused_before_jax_is_imported(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    path = tmp_path / "empty.hlo.pb"
    path.touch()
    code = (
        "import sys; from mallocgame import search; status = search.main(); "
        "sys.exit(99 if 'jax' in sys.modules else status)"
    )
    command = [sys.executable, "-c", code, str(path), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    _one_line(done, 4)


def test_bad_input_is_an_object_under_json(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    path = tmp_path / "nothing.hlo.pb"
    path.write_bytes(_with_empty(alone=True))
    done = _run(environment, path, "--json", "--out", tmp_path / "out")
    _one_line(done, 4)
    told = json.loads(done.stdout)
    assert (told["status"], told["exit_status"]) == ("ERROR", 4)
    assert told["reason"] == "nothing_to_place"


def _one_line(done: subprocess.CompletedProcess[str], status: int) -> None:
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("mallocgame.search: ")


def test_an_empty_array_among_others_needs_no_place(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    path, out = tmp_path / "some.hlo.pb", tmp_path / "out"
    path.write_bytes(_with_empty(alone=False))
    flags = ("--budget", "16evals", "--verify", "never", "--json")
    done = _run(environment, path, *flags, "--out", out)
    assert done.returncode == 0, done.stderr
    decided = json.loads((out / "mapping.json").read_text())["decisions"]
    assert {row["buffer"] for row in decided} == {"p", "joined", "twice"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_the_best_so_far(
    tmp_path: Path, environment: dict[str, str], number: signal.Signals
) -> None:
    flags = ("--verify", "never", "--strategy", "climb", "--json", "--out", tmp_path)
    running = subprocess.Popen(
        _command(MLP, "--budget", "1h", *flags),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # The search has begun once there is something to resume.
        _wait(lambda: (tmp_path / "best.npz").exists() or running.poll() is not None)
        running.send_signal(number)
        said, noted = running.communicate(timeout=_PATIENCE)
    finally:
        running.kill()
    assert running.returncode == 130, noted
    assert "Traceback" not in noted
    result = json.loads(said)
    assert result["status"] == "INTERRUPTED"
    assert result["budget"]["ended_by"] == "interrupt"
    _check_artifacts(tmp_path, result)
    done = _run(environment, MLP, "--budget", "40evals", "--resume", *flags)
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert again["best"] <= result["best"]
    _check_artifacts(tmp_path, again)


def _wait(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + _PATIENCE
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.05)


def _check_artifacts(out: Path, result: dict[str, Any]) -> None:
    """What was written is whole, and the mapping passes the validator."""
    written = json.loads((out / "mapping.json").read_text())
    assert "overrides {" in (out / "overrides.textproto").read_text()
    assert "<html" in (out / "report.html").read_text()
    assert json.loads((out / "result.json").read_text())["best"] == result["best"]
    given = inputs.read(MLP)
    target = TARGETS[written["target"]]
    problem = instance.build(
        given.program,
        inputs.cost_model(given, target),
        cross_program=priority.cross_program_candidates(given.program, target.capacity),
    )
    fields = {field.name for field in dataclasses.fields(Decision)} - {"access", "end"}
    decisions = []
    for access, row in zip(problem.accesses, written["decisions"], strict=True):
        assert row["buffer"] == problem.program.buffers[access.buffer].name
        told = {name: row[name] for name in fields & row.keys()}
        own_stay = "start" in told
        end = row["end"] if own_stay else None
        decisions.append(Decision(access=access.number, end=end, **told))
    validate.require_valid(problem, Mapping(decisions=tuple(decisions)))


def test_a_default_below_the_simulators_bound_is_handed_over_without_a_bound(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The bound holds for the simulator; the default's time is the judge's."""
    from mallocgame import loop, search

    judge = loop.judge

    def generous(*args: Any) -> Any:
        return dataclasses.replace(judge(*args), total=1e-6)

    monkeypatch.setattr(loop, "judge", generous)
    flags = ("--strategy", "msa", "--verify", "never", "--json", "--quiet")
    argv = ["mallocgame.search", str(MLP), *flags, "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", argv)
    assert search.main() == 0
    result = json.loads(capsys.readouterr().out)
    assert result["hand_over"] == "default"
    assert result["bound"] is None
    assert result["simulator_bound"] > result["best"] == 1e-6
