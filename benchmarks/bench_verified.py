"""The production compiler's own mapping against ours, every figure from its own compiles.

    python -m benchmarks.bench_verified [NAME ...] [--target tpu-v5e tpu-v6e tpu-v5p] [--tight]
        [--budget 90s,24compiles] [--jobs 2] [--rows FILE]

Runs `python -m mallocgame.search` on a dump of each program (by default the test half of
`benchmarks/workloads`), each within the same budget, and prints a table per chip, one row a program: the judged time
of the compiler's default and of what is handed over, the simulator's lower bound, and how the best
judged time fell with the number of compiles. `autotune` is the compiler's own
`xla_tpu_autotune_memory_space_assignment`. With `--tight` the scoped-memory limit is raised so far
that a sixth of the fast memory is left for tensors, for the default and for ours alike.

Rows are kept in FILE as they come (JSON lines), and programs in it are not run again;
`--summarize` prints the table of what is there.
"""

import argparse
import concurrent.futures
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MARKS = (1, 2, 4, 8, 16, 32)
_TIGHT_SHARE = 1 / 6
# Programs whose default is so far above the bound have room.
_ROOM = 1.02
_TIE = 1e-3


def main() -> None:
    """Runs what is missing, and prints the table."""
    from benchmarks import workloads

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--split", choices=("test", "tuning"), default="test")
    parser.add_argument(
        "--target", nargs="+", default=["tpu-v5e", "tpu-v6e", "tpu-v5p"]
    )
    parser.add_argument("--tight", action="store_true")
    parser.add_argument("--budget", default="90s,24compiles")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rows", type=Path, default=Path("runs/verified.jsonl"))
    parser.add_argument("--summarize", action="store_true")
    flags = parser.parse_args()
    names = flags.names or [w.name for w in workloads.of_split(flags.split)]
    done = _read(flags.rows)

    def key(one: tuple[str, str]) -> tuple[Any, ...]:
        return (*one, flags.tight, flags.budget, flags.seed)

    asked = [(name, target) for target in flags.target for name in names]
    missing = [] if flags.summarize else [one for one in asked if key(one) not in done]
    flags.rows.parent.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(flags.jobs) as pool:
        running = [pool.submit(_run, *one, flags) for one in missing]
        for future in concurrent.futures.as_completed(running):
            row = future.result()
            with flags.rows.open("a") as file:
                file.write(json.dumps(row, sort_keys=True) + "\n")
            done[key((row["program"], row["target"]))] = row
            print(f"{row['program']}: {_said(row)}", file=sys.stderr, flush=True)
    for target in flags.target:
        rows = [done[key((n, target))] for n in names if key((n, target)) in done]
        capacity = "a sixth" if flags.tight else "all"
        print(f"## {target}, {capacity} of the fast memory, {flags.budget}\n")
        for line in table(rows):
            print(line)


def _read(path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {
        (r["program"], r["target"], r["tight"], r["budget"], r["seed"]): r for r in rows
    }


def _said(row: dict[str, Any]) -> str:
    if "error" in row:
        return str(row["error"])
    return f"{row['default'] * 1e6:.1f} us, ours {row['ours'] * 1e6:.1f} us"


def _run(name: str, target_name: str, flags: argparse.Namespace) -> dict[str, Any]:
    """Searches one program in a process of its own."""
    from compiler.targets import TARGETS
    from mallocgame.knobs import AUTOTUNE, SCOPED_LIMIT

    target = TARGETS[target_name]
    fixed = ""
    if flags.tight:
        limit = round(target.fast_bytes * (1 - _TIGHT_SHARE)) >> 20 << 10
        fixed = f"{SCOPED_LIMIT}={limit}"
    row: dict[str, Any] = {
        "program": name,
        "target": target_name,
        "tight": flags.tight,
        "budget": flags.budget,
        "seed": flags.seed,
    }
    with tempfile.TemporaryDirectory(prefix="bench-verified-") as scratch:
        command = [sys.executable, "-m", "benchmarks.dump_workload", name, scratch]
        options = [f"--target={target_name}", f"--option={AUTOTUNE}=true"]
        options += [f"--option={fixed}"] if fixed else []
        dumped = subprocess.run([*command, *options], capture_output=True, text=True)
        if dumped.returncode:
            return row | {"error": _last(dumped.stderr)}
        row |= json.loads(dumped.stdout)
        searched = subprocess.run(
            [
                *(sys.executable, "-m", "mallocgame.search", f"{scratch}/dump"),
                *("--out", f"{scratch}/out", "--json", "--verify", "always"),
                *("--budget", flags.budget, "--seed", str(flags.seed)),
                *("--target", target_name, "--compiler-options", fixed),
            ],
            capture_output=True,
            text=True,
        )
        if searched.returncode:
            return row | {"error": _last(searched.stderr)}
        found = json.loads(searched.stdout)
    judged = [c["judged"] for c in found["compiles"]]
    default = found["verified"]["baseline"]
    best = [min([default, *judged[: count - 1]]) for count in MARKS]
    return row | {
        "default": default,
        "ours": found["verified"]["best"],
        "search_alone": min(judged, default=None),
        "default_waits": found["default_waits"],
        "waits": min(
            (c for c in found["compiles"] if c["judged"] <= found["verified"]["best"]),
            key=lambda c: c["judged"],
            default={"waits": found["default_waits"]},
        )["waits"],
        "by_knobs": _least(found, False),
        "by_mapping": _least(found, True),
        "bound": min(found["simulator_bound"], found["verified"]["best"]),
        "hand_over": found["hand_over"],
        "honoured": found["verified"]["honoured"],
        "emitted": found["overrides_emitted"],
        "compiles": found["evaluations"]["oracle"],
        "seconds": found["wall_seconds"],
        "by": found["verified"]["by"],
        "best_after": dict(zip(map(str, MARKS), best, strict=True)),
    }


def _least(found: dict[str, Any], is_mapping: bool) -> float | None:
    return min(
        (c["judged"] for c in found["compiles"] if c["is_mapping"] == is_mapping),
        default=None,
    )


def _last(text: str) -> str:
    return text.strip().rpartition("\n")[2][:300]


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Returns the table and its summary as lines of Markdown."""
    lines = [
        "| program | default µs | autotune | knobs | mapping | ours | bound | speed-up "
        "| after 2, 4, 8, 16 compiles | honoured | compiles | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['program']} | failed: {row['error']} |")
            continue
        after = ", ".join(
            f"{row['default'] / row['best_after'][str(count)]:.3f}"
            for count in MARKS[1:5]
        )
        cells = [
            *(
                _micro(row[k])
                for k in (
                    *("default", "autotune", "by_knobs", "by_mapping", "ours", "bound"),
                )
            ),
            f"{row['default'] / row['ours']:.3f}",
            after,
            f"{row['honoured']:.1%} of {row['emitted']}" if row["emitted"] else "",
            str(row["compiles"]),
            f"{row['seconds']:.0f}",
        ]
        lines.append(f"| {row['program']} | " + " | ".join(cells) + " |")
    good = [row for row in rows if "error" not in row]
    if good:
        room = [r for r in good if r["default"] > _ROOM * r["bound"]]
        lines += ["", *_summary("all programs", good)]
        lines += _summary("default more than 2 % above its bound", room)
    return lines


def _micro(value: float | None) -> str:
    return "" if value is None else f"{value * 1e6:.1f}"


def _summary(title: str, rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return [f"{title}: none", ""]
    gains = [r["default"] / r["ours"] for r in rows]
    alone = [r["default"] / r["search_alone"] for r in rows if r["search_alone"]]
    closed = [
        (r["default"] - r["ours"]) / (r["default"] - r["bound"])
        for r in rows
        if r["default"] > r["bound"]
    ]
    waits = [
        statistics.mean(r[of] / r[time] for r in rows)
        for of, time in (("default_waits", "default"), ("waits", "ours"))
    ]
    left = sum(r["ours"] - r["bound"] for r in rows)
    after = ", ".join(
        f"{count}: {_geometric([r['default'] / r['best_after'][str(count)] for r in rows]):.4f}"
        for count in MARKS
    )
    return [
        f"{title} ({len(rows)}): geometric mean {_geometric(gains):.4f}, largest {max(gains):.3f}; "
        f"handed over better {_count(gains, 1)}, equal {_count(gains, 0)}, worse {_count(gains, -1)}; "
        f"search alone better {_count(alone, 1)}, equal {_count(alone, 0)}, worse {_count(alone, -1)}; "
        f"share of the gap to the bound closed, mean {statistics.mean(closed) if closed else 0:.1%}; "
        f"waiting for copies, mean share of the time: {waits[0]:.1%} in the default, {waits[1]:.1%} "
        f"in ours; of all time left above the bounds it is "
        f"{sum(min(r['waits'], r['ours'] - r['bound']) for r in rows) / left if left else 0:.0%}; "
        f"geometric mean after so many compiles: {after}",
        "",
    ]


def _geometric(values: list[float]) -> float:
    return math.exp(statistics.mean(map(math.log, values)))


def _count(gains: list[float], sign: int) -> int:
    def side(gain: float) -> int:
        return 0 if abs(gain - 1) <= _TIE else (1 if gain > 1 else -1)

    return sum(side(gain) == sign for gain in gains)


if __name__ == "__main__":
    main()
