"""Many programs by one command: on a cluster that loses a node, under SIGTERM, by more workers.

    python -m benchmarks.bench_batch [--only cluster signals scaling coordinator] [--write]

Needs the extra [cluster]. Everything runs on this machine: a Ray cluster of two nodes of one CPU each
stands for two machines. The programs are those of tests/golden and examples; no compiler is asked, and
budgets are in evaluations, so that every way of running them must come to the same. `--write` puts
the sections that were run into benchmarks/results/batch.md, and leaves the others there as they are.
"""

import argparse
import json
import operator
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "batch.md"
PROGRAMS = ("tests/golden", "examples")
SMALL = ("tests/golden/mlp", "tests/golden/deblur_while")
SEVERAL = tuple(
    f"tests/golden/{name}"
    for name in (
        "lstm_scan",
        "mamba_decode",
        "mlp",
        "moe_block",
        "moe_decode",
        "resnet18",
    )
)
FLAGS = ("--verify", "never", "--budget", "40evals")
# Of a result: what says when and where it was made, rather than what it is.
VOLATILE = {"artifacts", "environment", "exit_status", "wall_seconds"}
SIGNALS = 20
TASKS = 10_000


def main() -> None:
    """Prints the sections."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS)
    )
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--tasks", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.tasks:
        print(json.dumps(_run_tasks(flags.tasks)))
        return
    for name in flags.only:
        with tempfile.TemporaryDirectory(prefix="bench-batch-") as folder:
            text = f"## {name.capitalize()}\n\n{SECTIONS[name](Path(folder))}\n"
        print(text, flush=True)
        if flags.write:
            _write(text)


def cluster(folder: Path) -> str:
    """All programs on two nodes, of which one is removed half-way, against one after the other."""
    from ray.cluster_utils import Cluster

    serial, took = _serial(folder / "serial")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = nodes.add_node(num_cpus=1)
    out = folder / "ray"
    begun = time.monotonic()
    running = _start(*PROGRAMS, "--executor", "ray", "--out", out, RAY=nodes.address)
    half = len(serial) // 2
    while len(list(out.glob("*/finished.json"))) < half and running.poll() is None:
        time.sleep(0.1)
    nodes.remove_node(second, allow_graceful=False)
    removed = time.monotonic() - begun
    told = _end(running)
    wall = time.monotonic() - begun
    nodes.shutdown()
    same = sum(_is_same(folder / "serial" / n, out / n) for n in serial)
    attempts = [len(_lines(out / name / "attempts.jsonl")) for name in serial]
    processes = {
        json.loads(line)["process"]
        for name in serial
        for line in _lines(out / name / "attempts.jsonl")
    }
    return _table(
        ("", ""),
        [
            ("programs", len(serial)),
            ("serial, in one process, s", f"{took:.0f}"),
            ("two nodes, one removed half-way, s", f"{wall:.0f}"),
            ("the node was removed after, s", f"{removed:.0f}"),
            ("results equal to the serial run's, mappings byte for byte", same),
            ("written / failed", _counts(told)),
            ("searches that ended", told["counts"]["written"]),
            ("searches begun (one more was at work on the lost node)", sum(attempts)),
            ("programs begun more than once", sum(n > 1 for n in attempts)),
            ("worker processes that took part", len(processes)),
            ("failures by name", ", ".join(told["failures"]) or "none"),
        ],
    )


def signals(folder: Path) -> str:
    """SIGTERM at random moments, then the same command again."""
    rows = []
    draw = random.Random(0)
    for kind, given in (("two programs", SMALL), ("one program", SMALL[:1])):
        base = folder / kind.replace(" ", "_")
        # JAX's compiles are kept, so that the first run would be the longest.
        _end(_start(*given, "--out", base / "warm"))
        begun = time.monotonic()
        _end(_start(*given, "--out", base / "plain"))
        whole = time.monotonic() - begun
        codes: dict[int, int] = {}
        same = 0
        for number in range(SIGNALS // 2):
            out = base / str(number)
            running = _start(*given, "--out", out)
            time.sleep(draw.uniform(0.0, whole))
            running.send_signal(signal.SIGTERM)
            running.communicate()
            codes[running.returncode] = codes.get(running.returncode, 0) + 1
            if running.returncode:
                _end(_start(*given, "--resume", "--out", out))
            same += all(
                _is_same(base / "plain" / part, out / part)
                for part in ([Path(p).name for p in given] if len(given) > 1 else ["."])
            )
        said = ", ".join(f"{n} with {code}" for code, n in sorted(codes.items()))
        rows.append((kind, f"{whole:.0f}", SIGNALS // 2, said, same))
    columns = (
        "",
        "uninterrupted, s",
        "runs",
        "ended by SIGTERM",
        "resumed to the same",
    )
    note = (
        "Status 130: the best so far was written; 0: it had ended before the signal came; -15: the "
        'signal came while Python was starting. "The same" is the whole JSON object but for times '
        "and paths, and mapping.json byte for byte."
    )
    return _table(columns, rows) + f"\n{note}\n"


def scaling(folder: Path) -> str:
    """Some programs by one and by two workers."""
    _end(_start(*SEVERAL, "--out", folder / "warm", "--workers", 2))
    rows = []
    for workers in (1, 2):
        out = folder / str(workers)
        before = os.times()
        begun = time.monotonic()
        told = _end(_start(*SEVERAL, "--out", out, "--workers", workers))
        wall, after = time.monotonic() - begun, os.times()
        spent = sum(after[2:4]) - sum(before[2:4])
        rows.append((workers, f"{wall:.0f}", f"{spent:.0f}", _counts(told)))
    ratio = float(rows[0][1]) / float(rows[1][1])
    load = os.getloadavg()[2]
    note = (
        f"The programs are {', '.join(Path(p).name for p in SEVERAL)}. Two workers are {ratio:.2f} times as fast as one, on {os.cpu_count()} CPUs of which XLA uses "
        f"more than one for one worker too; the machine's load over the last 15 minutes was {load:.1f}, "
        "that of others included. JAX's compiles were cached before."
    )
    return _table(("workers", "wall, s", "CPU, s", "written / failed"), rows) + (
        f"\n{note}\n"
    )


def coordinator(folder: Path) -> str:
    """What a task costs that does nothing."""
    rows = []
    for name in ("local", "ray"):
        command = [sys.executable, "-m", "benchmarks.bench_batch", "--tasks", name]
        said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
        wall, own = json.loads(said.stdout.splitlines()[-1])
        rows.append((name, f"{1e3 * wall / TASKS:.2f}", f"{1e3 * own / TASKS:.2f}"))
    columns = ("executor", "wall, ms a task", "CPU of the coordinator, ms a task")
    return f"{TASKS} tasks, two workers.\n\n" + _table(columns, rows)


def _run_tasks(name: str) -> tuple[float, float]:
    from solvers import executors

    with (
        tempfile.TemporaryDirectory() as folder,
        executors.make(name, 2, Path(folder)) as executor,
    ):
        for future in [executor.submit(operator.add, 1, k) for k in range(8)]:
            future.result()  # Workers have started.
        begun, own = time.monotonic(), time.process_time()
        futures = [executor.submit(operator.add, 1, k) for k in range(TASKS)]
        wrong = [k for k, f in enumerate(futures) if f.result() != k + 1]
        assert not wrong
        return time.monotonic() - begun, time.process_time() - own


def _serial(out: Path) -> tuple[list[str], float]:
    """Searches one program after the other, without the batch; names, and seconds."""
    from mallocgame import batch
    from mallocgame.search import SearchFlags, search
    from solvers.command import Budget
    from solvers.command.batch import names
    from solvers.command.runner import run_silently

    paths = batch.inputs([str(ROOT / program) for program in PROGRAMS])
    begun = time.monotonic()
    for name, path in zip(names(paths), paths):
        flags = SearchFlags(
            input=path.relative_to(ROOT),
            verify="never",
            budget=Budget.parse(FLAGS[-1]),
            out=out / name,
            json=True,
            quiet=True,
        )
        told = run_silently(search, flags, name="mallocgame.search")
        assert told["status"] == "OK", told
    return names(paths), time.monotonic() - begun


def _start(*arguments: object, RAY: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "mallocgame.search", *map(str, arguments)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    if RAY:
        environment["RAY_ADDRESS"] = RAY
    return subprocess.Popen(
        [*command, *FLAGS, "--json", "--quiet"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def _end(running: "subprocess.Popen[str]") -> dict[str, Any]:
    said, _ = running.communicate()
    told: dict[str, Any] = json.loads(said)
    return told


def _is_same(one: Path, other: Path) -> bool:
    return _result(one) == _result(other) and (
        (one / "mapping.json").read_bytes() == (other / "mapping.json").read_bytes()
    )


def _result(folder: Path) -> dict[str, Any]:
    told = json.loads((folder / "result.json").read_text())
    return {key: value for key, value in told.items() if key not in VOLATILE}


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _counts(told: dict[str, Any]) -> str:
    return f"{told['counts']['written']} / {told['counts']['failed']}"


def _table(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def _write(section: str) -> None:
    """Puts a section in place of its namesake."""
    title = section.partition("\n")[0]
    before = RESULTS.read_text() if RESULTS.exists() else ""
    parts = re.split(r"(?m)^(?=## )", before)[1:]
    kept = {part.partition("\n")[0]: part.rstrip() + "\n" for part in parts}
    kept[title] = section.rstrip() + "\n"
    order = [f"## {name.capitalize()}" for name in SECTIONS]
    head = (
        "# Many programs by one command\n\n`python -m benchmarks.bench_batch --write`, "
        f"Python {platform.python_version()}, jax {version('jax')}, ray {version('ray')}, "
        f"{os.cpu_count()} CPUs shared with other work.\n"
    )
    body = [kept[name] for name in order if name in kept]
    RESULTS.write_text("\n".join([head, *body]))


SECTIONS = {
    "cluster": cluster,
    "signals": signals,
    "scaling": scaling,
    "coordinator": coordinator,
}

if __name__ == "__main__":
    main()
