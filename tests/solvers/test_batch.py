"""Many inputs by one command: names, failures by name, resuming, signals, executors."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solvers import executors
from solvers.command import Exit, Failure, run
from solvers.command.batch import expand, names, worst
from tests.solvers import fake_batch

ROOT = Path(__file__).resolve().parents[2]


class _Inline(Executor):
    """Calls at once, and remembers what."""

    def __init__(self):
        self.calls = []

    def submit(self, fn, /, *args, **kwargs):
        self.calls.append(args[0].name)
        future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@pytest.fixture
def inline(monkeypatch):
    executor = _Inline()
    monkeypatch.setattr(executors, "make", lambda *_: executor)
    return executor


def _inputs(folder, **how):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in how.items():
        (folder / f"{name}.txt").write_text(text)
    return [str(folder / f"{name}.txt") for name in how]


def _run(capsys, *args):
    status = run(
        fake_batch.command, fake_batch.ManyFlags, name="fake.batch", args=[*args]
    )
    said = capsys.readouterr()
    return status, json.loads(said.out) if "--json" in args else said


def _command(*args):
    return [sys.executable, "-m", "tests.solvers.fake_batch", *map(str, args)]


def _values(told):
    """What must not depend on how and where a batch was run."""
    return {
        name: (one["status"], one["best"], one["evaluations"])
        for name, one in told["results"].items()
    }


def test_every_ending_is_told_by_name(tmp_path, capsys, inline):
    given = _inputs(tmp_path, a="ok 2", b="infeasible 0", c="crash 0", d="ok 3")
    given.append(str(tmp_path / "gone.txt"))
    status, told = _run(capsys, *given, "--json", "--out", str(tmp_path / "out"))
    assert status == told["exit_status"] == Exit.INTERNAL
    assert told["status"] == "ERROR" and told["reason"] == "inputs_failed"
    assert told["error"] == "3 of 5 inputs failed: b, c, gone"
    assert {n: f["exit_status"] for n, f in told["failures"].items()} == {
        "b": Exit.INFEASIBLE,
        "c": Exit.INTERNAL,
        "gone": Exit.NOT_FOUND,
    }
    assert told["failures"]["b"]["error"] == "nothing fits"
    assert {n: r["best"] for n, r in told["results"].items()} == {
        "a": pytest.approx(2.08),
        "d": pytest.approx(3.08),
    }
    assert told["counts"]["written"] == 2 and told["counts"]["failed"] == 3
    assert json.loads((tmp_path / "out/result.json").read_text()) == told
    assert (tmp_path / "out/c/traceback.txt").exists()
    # What is said of one input is what its own folder holds.
    held = json.loads((tmp_path / "out/a/result.json").read_text())
    assert held == told["results"]["a"]


def test_a_person_sees_a_row_for_each_and_one_line_on_stderr(tmp_path, capsys, inline):
    given = _inputs(tmp_path, first="ok 2", second="infeasible 0")
    status, said = _run(capsys, *given, "--quiet", "--out", str(tmp_path / "out"))
    assert status == Exit.INFEASIBLE
    assert said.out == ""
    assert said.err == "fake.batch: 1 of 2 inputs failed: second\n"
    _, said = _run(capsys, *given, "--out", str(tmp_path / "out"))
    rows = [line.split() for line in said.out.splitlines()]
    assert ["first", "2.08", "s", "3.846x", "-", "ok"] in rows
    assert ["second", "-", "-", "-", "nothing_fits"] in rows


def test_what_has_ended_is_not_run_again(tmp_path, capsys, inline):
    given = _inputs(tmp_path, a="ok 2", b="infeasible 0", c="ok 3")
    flags = ("--json", "--out", str(tmp_path / "out"))
    _, before = _run(capsys, *given, *flags)
    inline.calls.clear()
    _, after = _run(capsys, *given, *flags, "--resume")
    assert inline.calls == ["b"]
    assert after["results"] == before["results"]
    assert after["counts"]["ended_before"] == 2
    # Another content, a further input, another budget: only what they concern is run.
    given += _inputs(tmp_path, c="ok 4", d="ok 5")
    inline.calls.clear()
    _, told = _run(capsys, *given, *flags, "--resume")
    assert inline.calls == ["b", "c", "d"]
    assert told["results"]["c"]["best"] == pytest.approx(4.08)
    inline.calls.clear()
    _run(capsys, *given, *flags, "--resume", "--budget", "10evals")
    assert inline.calls == ["a", "b", "c", "d"]


def test_without_resume_all_are_run_again(tmp_path, capsys, inline):
    given = _inputs(tmp_path, a="ok 2", c="ok 3")
    flags = ("--json", "--out", str(tmp_path / "out"))
    _run(capsys, *given, *flags)
    inline.calls.clear()
    _, told = _run(capsys, *given, *flags)
    assert inline.calls == ["a", "c"]
    assert told["counts"]["attempts"] == 2


def test_other_settings_are_refused(tmp_path, capsys, inline):
    given = _inputs(tmp_path, a="ok 2", c="ok 3")
    flags = ("--json", "--out", str(tmp_path / "out"))
    _run(capsys, *given, *flags)
    status, told = _run(capsys, *given, *flags, "--resume", "--scale", "2")
    assert (status, told["reason"]) == (Exit.USAGE, "resume_mismatch")
    # How many at a time, and where, is another matter.
    assert _run(capsys, *given, *flags, "--resume", "--workers", "7")[0] == Exit.OK


def test_a_task_tried_twice_is_run_once(tmp_path, capsys, monkeypatch):
    class _Twice(_Inline):
        def submit(self, fn, /, *args, **kwargs):
            super().submit(fn, *args, **kwargs)
            return super().submit(fn, *args, **kwargs)

    monkeypatch.setattr(executors, "make", lambda *_: _Twice())
    given = _inputs(tmp_path, a="ok 2", c="ok 3")
    _, told = _run(capsys, *given, "--json", "--out", str(tmp_path / "out"))
    assert (tmp_path / "out/runs.txt").read_text() == "a.txt False\nc.txt False\n"
    assert told["counts"]["attempts"] == 2


def test_relative_paths_are_the_coordinators(tmp_path, capsys, monkeypatch):
    class _Elsewhere(_Inline):
        def submit(self, fn, /, *args, **kwargs):
            with contextlib.chdir("/"):
                return super().submit(fn, *args, **kwargs)

    monkeypatch.setattr(executors, "make", lambda *_: _Elsewhere())
    _inputs(tmp_path / "in", a="ok 2", b="ok 3")
    monkeypatch.chdir(tmp_path)
    status, told = _run(capsys, "in/a.txt", "in/b.txt", "--json", "--out", "out")
    assert status == 0
    assert told["results"]["b"]["input"] == "in/b.txt"
    assert (tmp_path / "out/a/mapping.json").exists()


def test_the_death_of_a_worker_is_one_inputs_failure(tmp_path):
    given = _inputs(tmp_path, a="ok 2", b="die 0", c="ok 3", d="ok 4")
    out = tmp_path / "out"
    done = subprocess.run(
        _command(*given, "--json", "--workers", 2, "--out", out),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    told = json.loads(done.stdout)
    assert done.returncode == Exit.INTERNAL, done.stderr
    assert told["failures"]["b"]["reason"] == "worker_died"
    assert sorted(told["results"]) == ["a", "c", "d"]


@pytest.mark.slow
def test_sigterm_at_any_moment_resumes_to_the_same_answer(tmp_path):
    given = _inputs(tmp_path, a="slow 2", b="slow 3", c="slow 4", d="ok 5")
    flags = ("--json", "--workers", 2, "--budget", "40evals", "--out")
    plain = subprocess.run(
        _command(*given, *flags, tmp_path / "plain"),
        cwd=ROOT,
        capture_output=True,
        timeout=120,
    )
    expected = _values(json.loads(plain.stdout))
    draw = random.Random(0)
    out = tmp_path / "out"
    for moment in (0.7, draw.uniform(0.8, 3.0), draw.uniform(0.8, 3.0)):
        running = subprocess.Popen(
            _command(*given, "--resume", *flags, out),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        time.sleep(moment)
        running.send_signal(signal.SIGTERM)
        said, noted = running.communicate(timeout=60)
        assert running.returncode in (0, 130, -signal.SIGTERM), noted
        if running.returncode == 130:
            told = json.loads(said)
            assert told["status"] in ("INTERRUPTED", "ERROR")
            parts = {*told.get("results", {}), *told.get("failures", {})}
            assert parts in (set(), {"a", "b", "c", "d"})
    done = subprocess.run(
        _command(*given, "--resume", *flags, out),
        cwd=ROOT,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert _values(json.loads(done.stdout)) == expected


def test_a_signal_leaves_the_best_so_far_of_what_is_at_work(tmp_path):
    given = _inputs(tmp_path, a="slow 2", b="ok 3", c="slow 4", d="ok 4")
    out = tmp_path / "out"
    # One worker: a is at work for a minute.
    running = subprocess.Popen(
        _command(*given, "--json", "--workers", 1, "--budget", "60s", "--out", out),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    end = time.monotonic() + 60
    while not (out / "runs.txt").exists():
        assert time.monotonic() < end and running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGTERM)
    said, noted = running.communicate(timeout=60)
    told = json.loads(said)
    assert running.returncode == told["exit_status"] == 130, noted
    assert told["status"] == "INTERRUPTED"
    assert told["results"]["a"]["status"] == "INTERRUPTED"
    assert (out / "a/mapping.json").exists()
    assert {f["reason"] for f in told["failures"].values()} == {"interrupted"}
    assert sorted(told["failures"]) == ["b", "c", "d"]


def test_worst_of_all_endings():
    assert worst({0}) == worst(set()) == 0
    assert worst({0, 5, 4}) == 4
    assert worst({3, 4}) == 3
    assert worst({2, 6}) == 6
    assert worst({1, 6}) == 1
    assert worst({1, 130}) == 130


def test_arguments_expand_each_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.txt", "[x].txt"):
        Path(name).touch()
    assert expand(["?.txt", "./a.txt", "none*", "[x].txt"]) == [
        Path("a.txt"),
        Path("b.txt"),
        Path("none*"),
        Path("[x].txt"),
    ]


def test_names_are_the_inputs_own_and_longer_where_they_clash(tmp_path):
    for folder in ("mlp", "gpt/x"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "scheduled.hlo.pb.gz").touch()
    paths = [
        tmp_path / "mlp/scheduled.hlo.pb.gz",
        tmp_path / "gpt/x/scheduled.hlo.pb.gz",
        tmp_path / "mlp",
        tmp_path / "gpt/x",
    ]
    assert names(paths) == ["mlp-scheduled", "x-scheduled", "mlp", "x"]
    assert names(paths[:1]) == ["scheduled"]


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "A", "a-a", "config.json", ".gz"]), min_size=1),
        unique_by=tuple,
        max_size=8,
    )
)
def test_names_differ(parts):
    given = [Path("/none", *one) for one in parts]
    found = names(given)
    assert len({name.casefold() for name in found}) == len(given)
    assert not {"config.json", "result.json"} & set(found)
    assert all("/" not in name and name not in ("", ".", "..") for name in found)


def test_executors_say_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(Failure, match="known are local, ray, slurm"):
        executors.make("queue", 1, tmp_path)
    for name, package in (("ray", "ray"), ("slurm", "submitit")):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, f"solvers.{name}_executor", raising=False)
        with pytest.raises(Failure, match=r"pip install 'schedule-zero\[cluster\]'"):
            executors.make(name, 1, tmp_path)


def test_local_is_a_pool_of_processes(tmp_path):
    with executors.make("local", 2, tmp_path) as executor:
        found = {executor.submit(os.getpid).result() for _ in range(4)}
    assert os.getpid() not in found and 1 <= len(found) <= 2
