"""The warm child process: answers, hangs, deaths, each with one clear error and a fresh child afterwards."""

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from compiler.backends.errors import CompilerError
from compiler.backends.process import Worker

FAKE = """
import json, os, sys, time
for line in sys.stdin:
    ask = json.loads(line)["do"]
    if ask == "hang": time.sleep(60)
    if ask == "abort":
        print("noise", file=sys.stderr)
        print("F1122 00:00:00.000000 1 vmem.cc:7] Check failed: size > 0 (0 vs. 0)", file=sys.stderr, flush=True)
        os.abort()
    if ask == "exit": sys.exit(3)
    if ask == "refuse": print(json.dumps({"ok": False, "reason": "rejected-option", "message": "no  such\\noption"}), flush=True)
    else: print(json.dumps({"ok": True, "pid": os.getpid(), "variable": os.environ.get("ONLY_CHILD"), "big": "x" * ask if isinstance(ask, int) else ""}), flush=True)
"""


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker({"ONLY_CHILD": "yes"}, [sys.executable, "-c", FAKE])
    yield worker
    worker.close()


def test_the_child_stays_and_has_its_own_environment(worker: Worker) -> None:
    first, second = worker.ask({"do": "work"}, 20), worker.ask({"do": "work"}, 20)
    assert first["pid"] == second["pid"]
    assert first["variable"] == "yes"
    assert "ONLY_CHILD" not in os.environ


def test_a_long_answer_arrives_whole(worker: Worker) -> None:
    assert len(worker.ask({"do": 1 << 20}, 20)["big"]) == 1 << 20


def test_a_hang_is_stopped_at_the_limit(worker: Worker) -> None:
    pid = worker.ask({"do": "work"}, 20)["pid"]
    start = time.monotonic()
    with pytest.raises(CompilerError, match=r"no answer within 0\.5 s") as caught:
        worker.ask({"do": "hang"}, 0.5)
    assert time.monotonic() - start < 5
    assert (caught.value.reason, caught.value.exit_status) == ("timeout", 1)
    assert worker.ask({"do": "work"}, 20)["pid"] != pid


def test_an_abort_says_what_the_compiler_said_last(worker: Worker) -> None:
    with pytest.raises(
        CompilerError, match=r"died \(SIGABRT\): .*Check failed: size > 0"
    ) as caught:
        worker.ask({"do": "abort"}, 20)
    assert caught.value.reason == "aborted"
    assert "\n" not in str(caught.value)
    assert worker.ask({"do": "work"}, 20)["ok"]


def test_an_exit_is_a_death(worker: Worker) -> None:
    with pytest.raises(CompilerError, match="exit status 3"):
        worker.ask({"do": "exit"}, 20)


def test_a_child_killed_between_requests_is_replaced(worker: Worker) -> None:
    os.kill(worker.ask({"do": "work"}, 20)["pid"], 9)
    time.sleep(0.2)
    assert worker.ask({"do": "work"}, 20)["ok"]


def test_a_refusal_keeps_the_child(worker: Worker) -> None:
    pid = worker.ask({"do": "work"}, 20)["pid"]
    with pytest.raises(CompilerError, match=r"^no such option$") as caught:
        worker.ask({"do": "refuse"}, 20)
    assert (caught.value.reason, caught.value.exit_status) == ("rejected-option", 4)
    assert worker.ask({"do": "work"}, 20)["pid"] == pid


def test_threads_take_turns(worker: Worker) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda size: len(worker.ask({"do": size}, 20)["big"]), range(1, 9))
        )
    assert answers == list(range(1, 9))
