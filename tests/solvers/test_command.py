"""How a search command starts and ends: flags, exit statuses, streams, signals."""

import json
import math
import os
import pty
import resource
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solvers.command import (
    Budget,
    Exit,
    Failure,
    Interrupt,
    Meter,
    Report,
    Verified,
    cache_dir,
    environment,
    exact_bytes,
    format_bytes,
    format_quantity,
    one_of,
    parse_bytes,
    prepare_out,
    read_json,
    run,
    to_json,
    write_bytes,
    write_json,
    write_text,
)

ROOT = Path(__file__).resolve().parents[2]
FAKE = Path(__file__).with_name("fake_search.py")
ENV = os.environ | {"PYTHONPATH": str(ROOT)}
COMMON_KEYS = {
    "schema_version",
    "status",
    "command",
    "version",
    "input",
    "target",
    "seed",
    "strategy",
    "unit",
    "baselines",
    "best",
    "bound",
    "speedup",
    "verified",
    "evaluations",
    "wall_seconds",
    "artifacts",
}
# How the fake command is told to end, the status, the stable name.
ENDINGS = [
    ("missing", Exit.NOT_FOUND, "input_not_found"),
    ("invalid", Exit.INVALID, "bad_thing"),
    ("foreign", Exit.INVALID, "foreign_error"),
    ("infeasible", Exit.INFEASIBLE, "nothing_fits"),
    ("worse", Exit.CHECK_FAILED, "worse_than_default"),
    ("nan", Exit.CHECK_FAILED, "not_finite"),
    ("nan_extra", Exit.CHECK_FAILED, "not_finite"),
    ("crash", Exit.INTERNAL, "internal"),
    ("exit", Exit.INTERNAL, "internal"),
]
MISUSES = [
    ([], "How to end. (required)"),
    (["ok", "--budget", "30"], "--budget: '30' has no unit"),
    (["ok", "--budget", "30x"], "unknown unit 'x'"),
    (["ok", "--budget", "0s"], "more than nothing"),
    (["ok", "--seed", "one"], "--seed"),
    (["ok", "--seed", "-1"], "--seed must lie in"),
    (["ok", "--seed"], "--seed"),
    (["ok", "--sed", "1"], "did you mean --seed?"),
    (["ok", "extra"], "extra"),
    (["ok", "--capacity", "64M"], "unknown unit 'M'"),
]


def fake(cwd, *args):
    return subprocess.run(
        [sys.executable, str(FAKE), *args],
        cwd=cwd,
        env=ENV,
        capture_output=True,
        text=True,
        timeout=60,
    )


def one_line_of(stderr):
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("fake.search: ")
    assert "Traceback" not in stderr
    return lines[0]


def test_success_shows_a_table_and_ends_with_the_report(tmp_path):
    done = fake(tmp_path, "verified", "--out", "here")
    assert done.returncode == 0
    assert done.stderr == "a note\n"
    assert "A table" in done.stdout and "[red]x" in done.stdout
    assert "2.000x" in done.stdout and "oracle 1" in done.stdout
    assert done.stdout.splitlines()[-1] == "report: here/report.html"
    assert {path.name for path in (tmp_path / "here").iterdir()} == {
        "config.json",
        "mapping.json",
        "report.html",
        "result.json",
    }


def test_json_is_one_object_with_the_common_keys(tmp_path):
    done = fake(tmp_path, "verified", "--json", "--seed=7", "--target", "tpu-v5e")
    assert done.returncode == 0
    result = json.loads(done.stdout)
    assert result.keys() >= COMMON_KEYS
    assert result["schema_version"] == 1
    assert result["status"] == "OK"
    assert result["command"] == "fake.search"
    assert (result["seed"], result["target"]) == (7, "tpu-v5e")
    assert result["baselines"] == {"all_slow": 8.0, "xla": 4.0, "other": None}
    assert (result["best"], result["bound"], result["speedup"]) == (2.0, 1.0, 2.0)
    assert result["evaluations"] == {"simulator": 3, "predictor": 0, "oracle": 0}
    assert result["budget"]["ended_by"] == "simulations"
    assert result["verified"] == {
        "by": "oracle 1",
        "baseline": 4.0,
        "best": 2.0,
        "speedup": 2.0,
        "honoured": 0.5,
    }
    assert done.stdout == to_json(result)
    stored = tmp_path / result["artifacts"]["result"]
    assert stored.read_text() == done.stdout


def test_a_command_can_be_called_in_process(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake_search = runpy.run_path(str(FAKE))
    search, flags = fake_search["search"], fake_search["FakeFlags"]
    assert run(search, flags, name="fake.search", args=["chatty", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["status"] == "OK"
    assert "to stdout" in captured.err
    assert run(search, flags, name="fake.search", args=["invalid"]) == Exit.INVALID
    assert capsys.readouterr() == ("", "fake.search: the thing is bad\n")


def test_out_defaults_to_a_folder_named_after_command_and_input(tmp_path):
    done = fake(tmp_path, "some/model.hlo.pb", "--json")
    artifacts = json.loads(done.stdout)["artifacts"]
    assert artifacts["report"] == "runs/fake/model.hlo/report.html"


def test_stdout_belongs_to_the_json_object_alone(tmp_path):
    done = fake(tmp_path, "chatty", "--json")
    assert json.loads(done.stdout)["status"] == "OK"
    for stray in ("to stdout", "to descriptor 1", "from a child"):
        assert stray in done.stderr


def test_quiet_says_nothing_at_all(tmp_path):
    done = fake(tmp_path, "ok", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_quiet_json_still_prints_the_object(tmp_path):
    done = fake(tmp_path, "ok", "--quiet", "--json")
    assert json.loads(done.stdout)["status"] == "OK"
    assert done.stderr == ""


@pytest.mark.parametrize(("how", "status", "reason"), ENDINGS)
def test_failure_is_one_line_and_one_object(tmp_path, how, status, reason):
    plain = fake(tmp_path, how)
    assert plain.returncode == status
    assert plain.stdout == ""
    line = one_line_of(plain.stderr)

    told = fake(tmp_path, how, "--json")
    assert told.returncode == status
    error = json.loads(told.stdout)
    assert error["status"] == "ERROR"
    assert error["reason"] == reason
    assert error["exit_status"] == status
    assert line == f"fake.search: {error['error']}"
    assert one_line_of(told.stderr) == line


@pytest.mark.parametrize(("args", "said"), MISUSES)
def test_misuse_is_one_clear_line_and_status_2(tmp_path, args, said):
    plain = fake(tmp_path, *args)
    assert plain.returncode == Exit.USAGE
    assert plain.stdout == ""
    assert said in one_line_of(plain.stderr)
    assert not list(tmp_path.iterdir())

    told = fake(tmp_path, *args, "--json")
    assert told.returncode == Exit.USAGE
    assert json.loads(told.stdout)["reason"] == "usage"


def test_internal_failure_keeps_its_traceback_in_out(tmp_path):
    done = fake(tmp_path, "crash", "--out", "here")
    assert "internal failure: RuntimeError: oh no" in done.stderr
    assert "here/traceback.txt" in done.stderr
    assert "RuntimeError" in (tmp_path / "here/traceback.txt").read_text()


def test_debug_shows_the_traceback(tmp_path):
    for how in ("crash", "foreign"):
        done = fake(tmp_path, how, "--debug")
        assert done.stderr.count("Traceback (most recent call last)") == 1


def test_unwritable_out_is_found_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    for out in ("file", "file/below", "/proc/nothing"):
        done = fake(tmp_path, "sleep", "--out", out)
        assert done.returncode == Exit.USAGE
        assert f"--out {out}" in one_line_of(done.stderr)


def test_flags_take_hyphens_and_underscores(tmp_path):
    done = fake(tmp_path, "ok", "--num_lanes", "2", "--num-lanes=5", "--json")
    assert json.loads(done.stdout)["lanes"] == 5


def test_help_is_fast_and_on_stdout(tmp_path):
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = fake(tmp_path, "--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time, since the machine may be busy with other tests.
        user = after.ru_utime - before.ru_utime
        seconds.append(user + after.ru_stime - before.ru_stime)
    assert done.returncode == 0
    assert done.stderr == ""
    for said in ("--budget", "3evals", "64MiB", "--resume", "Searches nothing"):
        assert said in done.stdout
    assert min(seconds) < 0.5


def test_kit_imports_nothing_heavy():
    heavy = ["jax", "numpy", "rich", "flax", "google.protobuf", "scipy"]
    code = (
        f"import sys, solvers.command; print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENV, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


def start_fake(cwd, *args):
    process = subprocess.Popen(
        [sys.executable, str(FAKE), *args],
        cwd=cwd,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_ends_with_the_best_so_far(tmp_path, number):
    process = start_fake(tmp_path, "sleep", "--budget=60s", "--json", "--out=here")
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == Exit.INTERRUPTED
    result = json.loads(stdout)
    assert result["status"] == "INTERRUPTED"
    assert result["budget"]["ended_by"] == "interrupt"
    assert json.loads((tmp_path / "here/result.json").read_text()) == result
    assert "interrupted" in stderr and "Traceback" not in stderr


def test_second_signal_ends_at_once(tmp_path):
    process = start_fake(tmp_path, "stubborn", "--json", "--out=here")
    process.send_signal(signal.SIGINT)
    assert "once more stops at once" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == Exit.INTERRUPTED
    assert json.loads(stdout)["reason"] == "interrupted"
    assert one_line_of(stderr)
    assert (tmp_path / "here/child_killed").exists()


@pytest.mark.parametrize("how", ["raise", "hopeless"])
def test_signal_with_nothing_to_save(tmp_path, how):
    process = start_fake(tmp_path, how, "--json", "--quiet", "--budget=60s")
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == Exit.INTERRUPTED
    assert json.loads(stdout)["status"] == "ERROR"
    assert one_line_of(stderr)


def test_progress_is_drawn_on_a_terminal_and_never_on_stdout(tmp_path):
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(FAKE), "ok", "--json"],
        cwd=tmp_path,
        env=ENV | {"TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=follower,
        text=True,
    )
    os.close(follower)
    stdout, _ = process.communicate(timeout=60)
    drawn = os.read(leader, 100_000).decode()
    os.close(leader)
    assert json.loads(stdout)["status"] == "OK"
    assert "searching" in drawn and "best 2.0" in drawn


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_reader_that_leaves_early_does_not_change_the_ending(tmp_path, extra):
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [sys.executable, str(FAKE), "ok", "--out=here", *extra],
        cwd=tmp_path,
        env=ENV,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0
    assert stderr == "a note\n"
    assert (tmp_path / "here/result.json").exists()


def test_resume_goes_on_only_with_the_same_run(tmp_path):
    def resumed(*args):
        done = fake(tmp_path, "ok", "--out=here", "--json", *args)
        return done.returncode, json.loads(done.stdout)

    status, result = resumed("--resume")
    assert (status, result["resumed"]) == (0, False)
    status, result = resumed("--resume", "--budget=5evals")
    assert (status, result["resumed"]) == (0, True)
    for other in ("--seed=1", "--num-lanes=2"):
        status, result = resumed("--resume", other)
        assert (status, result["reason"]) == (2, "resume_mismatch")
    status, result = resumed("--seed=1")
    assert (status, result["resumed"]) == (0, False)


def test_a_signal_behind_the_end_changes_nothing(tmp_path):
    leave = (
        "import atexit, os, runpy, signal, sys\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGTERM)\n"
        f"sys.argv = ['fake', sys.argv[1], '--out', {str(tmp_path)!r}]\n"
        f"runpy.run_path({str(FAKE)!r}, run_name='__main__')\n"
    )
    for how, status in (("ok", 0), ("infeasible", -signal.SIGTERM)):
        command = [sys.executable, "-c", leave, how]
        assert subprocess.run(command, env=ENV, timeout=60).returncode == status


def test_interrupt_restores_the_handlers():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    calls = []
    with Interrupt(lambda: calls.append(1), lambda: calls.append(2)) as interrupt:
        interrupt.check()
        for _ in range(2):
            seen = len(calls)
            os.kill(os.getpid(), signal.SIGTERM)
            deadline = time.monotonic() + 10
            while len(calls) == seen and time.monotonic() < deadline:
                time.sleep(0.001)
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
    assert calls == [1, 2]
    after = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert after == before


@pytest.mark.parametrize(
    ("text", "budget", "canonical"),
    [
        ("30s", Budget(seconds=30), "30s"),
        ("1.5m", Budget(seconds=90), "90s"),
        ("2h", Budget(seconds=7200), "7200s"),
        ("500ms", Budget(seconds=0.5), "0.5s"),
        ("2000evals", Budget(simulations=2000), "2000evals"),
        ("2_000 sims", Budget(simulations=2000), "2000evals"),
        ("1simulation", Budget(simulations=1), "1evals"),
        ("8compiles", Budget(measurements=8), "8measurements"),
        ("5m, 8compiles", Budget(seconds=300, measurements=8), "300s,8measurements"),
    ],
)
def test_budget_parses(text, budget, canonical):
    assert Budget.parse(text) == budget
    assert str(budget) == canonical
    assert Budget.parse(canonical) == budget


@pytest.mark.parametrize(
    "text", ["", "s", "30", "-1s", "0evals", "1.5evals", "3x", "1s,2s", "nan s", "1s,"]
)
def test_budget_refuses(text):
    with pytest.raises(ValueError):
        Budget.parse(text)


def test_budget_knows_whether_a_clock_decides():
    assert Budget.parse("5evals,2compiles").deterministic
    assert not Budget.parse("5evals,2s").deterministic
    with pytest.raises(ValueError):
        Budget()


def test_meter_ends_at_the_first_limit():
    now = [100.0]
    meter = Meter(Budget.parse("10s,50evals,2compiles"), clock=lambda: now[0])
    assert not meter.done()
    now[0] += 5
    meter.spend(simulations=10, predictions=3)
    assert meter.fraction() == 0.5
    meter.spend(simulations=40, measurements=1)
    assert meter.done() and meter.ended == "simulations"
    assert meter.fraction() == 1.0
    now[0] += 50
    assert meter.done() and meter.ended == "simulations"
    assert meter.evaluations() == {"simulator": 50, "predictor": 3, "oracle": 1}


def test_meter_ends_on_the_clock_and_on_an_interrupt():
    now = [0.0]
    meter = Meter(Budget(seconds=1), clock=lambda: now[0])
    now[0] = 1.0
    assert meter.done() and meter.ended == "seconds"
    meter = Meter(Budget(seconds=1), interrupted=lambda: True)
    assert meter.done() and meter.ended == "interrupt"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 * 2**20),
        ("1.5 GiB", 3 * 2**29),
        ("2MB", 2_000_000),
        ("4_096", 4096),
    ],
)
def test_sizes_parse(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "64M", "-1B", "0.3B", "MiB", "1e3"])
def test_sizes_refuse(text):
    with pytest.raises(ValueError):
        parse_bytes(text)


@given(st.integers(0, 2**60))
def test_exact_bytes_parse_back(size):
    assert parse_bytes(exact_bytes(size)) == size


def test_quantities_for_a_person():
    assert format_bytes(64 * 2**20) == "64 MiB"
    assert format_bytes(1536) == "1.50 KiB"
    assert format_quantity(355.1e-6, "seconds") == "355.1 µs"
    assert format_quantity(2.0, "seconds") == "2 s"
    assert format_quantity(5e-9, "seconds") == "5 ns"
    assert format_quantity(0.0, "seconds") == "0 s"
    assert format_quantity(2**20, "bytes") == "1 MiB"
    assert format_quantity(0.02, "nats") == "0.02 nats"


def make_report(**changes):
    fields = {
        "command": "fake.search",
        "version": "1",
        "input": "x",
        "target": "",
        "seed": 0,
        "strategy": "auto",
        "unit": "seconds",
        "baselines": {"xla": 4.0},
        "default": "xla",
        "best": 2.0,
        "bound": 1.0,
        "verified": None,
        "evaluations": {"simulator": 1, "predictor": 0, "oracle": 0},
        "wall_seconds": 0.1,
        "artifacts": {},
    }
    return Report(**(fields | changes))


def test_report_takes_array_scalars_and_equal_costs():
    result = make_report(
        best=np.float32(4.0), seed=np.int32(3), bound=None, baselines={"xla": 4}
    ).to_dict()
    assert json.loads(to_json(result))["best"] == 4.0
    assert result["speedup"] == 1.0
    assert result["bound"] is None


def test_report_of_a_cost_of_nothing():
    report = make_report(best=0.0, bound=0.0)
    assert report.to_dict()["speedup"] is None
    assert make_report(best=0.0, bound=0.0, baselines={"xla": 0.0}).to_dict()["speedup"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"best": math.nan}, "not_finite"),
        ({"bound": -math.inf}, "not_finite"),
        ({"default": "none"}, "no_default"),
        ({"baselines": {"xla": None}}, "no_default"),
        ({"best": 4.1}, "worse_than_default"),
        ({"best": -4.1, "baselines": {"xla": -5.0}}, "worse_than_default"),
        ({"bound": 2.1}, "better_than_bound"),
        ({"verified": Verified(by="x", baseline=1, best=1, honoured=2)}, "not_a_share"),
        ({"evaluations": {"simulator": 1}}, "bad_counters"),
        (
            {"evaluations": {"simulator": -1, "predictor": 0, "oracle": 0}},
            "bad_counters",
        ),
        ({"artifacts": {"plan": Path("no/such/file")}}, "artifact_missing"),
        ({"extra": {"best": 1.0}}, "duplicate_key"),
    ],
)
def test_report_refuses_what_contradicts_itself(changes, reason):
    with pytest.raises(Failure) as caught:
        make_report(**changes).to_dict()
    assert caught.value.reason == reason
    assert caught.value.exit_status == Exit.CHECK_FAILED


def test_reasons_are_stable_names():
    with pytest.raises(ValueError):
        Failure("Not a name", "x")


def test_writes_are_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file.json"
    write_json(path, {"b": np.float32(0.5), "a": [Path("x"), np.arange(2)]})
    assert path.read_text() == to_json({"a": ["x", [0, 1]], "b": 0.5})
    assert read_json(path) == {"a": ["x", [0, 1]], "b": 0.5}
    with pytest.raises(ValueError):
        write_json(path, {"x": math.nan})
    assert read_json(path)["b"] == 0.5
    assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]


def test_failed_write_is_a_failure_and_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(Failure) as caught:
        write_text(tmp_path / "folder", "x")
    assert caught.value.reason == "write_failed"
    (tmp_path / "file").touch()
    with pytest.raises(Failure):
        write_bytes(tmp_path / "file" / "below", b"")
    assert {entry.name for entry in tmp_path.iterdir()} == {"folder", "file"}


def test_read_json_names_the_cause(tmp_path):
    with pytest.raises(Failure) as caught:
        read_json(tmp_path / "none")
    assert caught.value.exit_status == Exit.NOT_FOUND
    (tmp_path / "bad").write_text("{")
    with pytest.raises(Failure) as caught:
        read_json(tmp_path / "bad")
    assert caught.value.exit_status == Exit.INVALID
    with pytest.raises(Failure) as caught:
        read_json(tmp_path)
    assert caught.value.reason == "input_unreadable"


def test_prepare_out_makes_the_folder_and_leaves_it_empty(tmp_path):
    out = prepare_out(tmp_path / "a" / "b")
    assert out.is_dir() and not list(out.iterdir())


def test_cache_dir_follows_the_environment(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("SCHEDULE_ZERO_CACHE", raising=False)
    assert cache_dir() == Path("/x/schedule-zero")
    monkeypatch.setenv("SCHEDULE_ZERO_CACHE", "/y")
    assert cache_dir() == Path("/y")


def test_one_of_lists_the_known_names():
    assert one_of("--strategy", "a", ["a", "b"]) == "a"
    with pytest.raises(Failure, match="known are a, b") as caught:
        one_of("--strategy", "c", ["a", "b"])
    assert caught.value.exit_status == Exit.USAGE
    assert caught.value.reason == "unknown_strategy"


def test_environment_names_versions():
    found = environment()
    assert found["python"] == sys.version.split()[0]
    assert "jax" in found
