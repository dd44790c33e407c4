"""The learning agent on the memory game, in parts; each adds lines to a file, and goes on where it stopped.

    python -m benchmarks.bench_agent table [NAME ...] [--calls 256] [--seed 0] [--programs report]
    python -m benchmarks.bench_agent curves|ablations|speed
    python -m benchmarks.bench_agent report

`table`: every strategy at equal simulator calls, programs at four shares of their peak demand. The
programs are those of tests/golden whose model family is of the *test* half (`benchmarks.workloads`): the
agent that ships was trained, and its settings were chosen, on the other half alone (`--programs tuning`).
`curves`: training on three tuning programs from nothing, three seeds. `ablations`: what parts of the
agent are worth. `speed`: moves and learner steps per second, growth with the size, compilations.
`report` prints it all as Markdown for benchmarks/results/agent.md.
"""

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mallocgame.engine import Found, Settings
    from mallocgame.instance import Problem

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
LINES = Path(__file__).parent / "results" / "agent.jsonl"
SHARES = (0.5, 0.25, 0.1, 0.05)
TIGHT = (0.1, 0.05)
EQUAL = 1e-3  # Closer than this is a tie.
SMALL = 128  # Smaller programs are padded to one shape.
STRATEGIES = ("climb", "agent", "hybrid", "planned", "annealing", "brkga", "mcts")
COLUMNS = ("all_slow", "msa", *STRATEGIES, "bound")


def main() -> None:
    """Runs a part."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = ("table", "curves", "ablations", "speed", "report")
    parser.add_argument("part", choices=parts)
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--calls", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--programs", choices=("report", "tuning"), default="report")
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES))
    parser.add_argument("--lines", type=Path, default=LINES)
    flags = parser.parse_args()
    from solvers.command import keep_compiled

    keep_compiled(on_host=True)
    if flags.part == "report":
        print("\n".join(report(_read(flags.lines))))
        return
    run = {"table": table, "curves": curves, "ablations": ablations, "speed": speed}
    known = {_key(line) for line in _read(flags.lines)}
    with flags.lines.open("a") as file:
        for line in run[flags.part](flags, known):
            file.write(json.dumps(line) + "\n")
            file.flush()
            print(json.dumps(line), file=sys.stderr, flush=True)


def names_of(programs: str) -> list[str]:
    """Returns the golden programs of one half, small ones first."""
    from benchmarks import workloads

    split = "test" if programs == "report" else "tuning"
    folders = [path.parent for path in GOLDEN.glob("*/scheduled.hlo.pb.gz")]
    size = {
        folder.name: (folder / "scheduled.hlo.pb.gz").stat().st_size
        for folder in folders
        if workloads.get(folder.name).split == split
    }
    return sorted(size, key=lambda name: (size[name], name))


def problem_of(name: str, share: float) -> "Problem":
    """Returns a golden program's problem with a share of its peak demand as fast memory."""
    from compiler.cost.instruction import instruction_costs
    from compiler.cost.model import analytic
    from compiler.hlo import build, load
    from compiler.targets import TARGETS
    from mallocgame import instance, priority, relaxation

    program = build(load(GOLDEN / name / "scheduled.hlo.pb.gz"))
    costs = analytic(instruction_costs(program), TARGETS["tpu-v5e"])
    capacity = int(share * relaxation.peak_bytes(program))
    crossing = priority.cross_program_candidates(program, capacity)
    small = len(program.instructions) <= SMALL
    least = SMALL if small else 0
    return instance.build(
        program,
        costs,
        capacity=capacity,
        cross_program=crossing,
        least_accesses=least,
        least_times=least,
    )


def table(
    flags: argparse.Namespace, known: set[tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    """Yields what every strategy finds, program by program."""
    from mallocgame import engine, relaxation

    for name in flags.names or names_of(flags.programs):
        for share in SHARES:
            head = {
                "part": "table",
                "program": name,
                "share": share,
                "calls": flags.calls,
                "seed": flags.seed,
            }
            wanted = [
                s for s in flags.strategies if _key(head | {"by": s}) not in known
            ]
            if not wanted:
                continue
            problem = problem_of(name, share)
            start = engine.evaluate(problem, engine.seeds(problem), engine.Settings())
            fixed = {
                "all_slow": start["all_slow"].seconds,
                "msa": start["msa"].seconds,
                "bound": relaxation.lower_bound(problem),
            }
            for by, seconds in fixed.items():
                line = head | {"by": by, "seconds": seconds}
                if _key(line) not in known:
                    known.add(_key(line))
                    yield line | {"accesses": len(problem.accesses)}
            for by in wanted:
                begun = time.monotonic()
                found = searched(problem, start, by, flags.calls, flags.seed)
                yield head | {
                    "by": by,
                    "seconds": found.seconds,
                    "wall": round(time.monotonic() - begun, 2),
                }


def searched(
    problem: "Problem",
    start: Mapping[str, "Found"],
    by: str,
    calls: int,
    seed: int,
) -> "Found":
    """Returns the best that a strategy finds within so many simulator calls; the mapping is validated.

    `agent` plays with the shipped network as the command does, `planned` with a tree of 8 simulations a
    move, `hybrid` has half of the calls for the agent and then climbs from the best that it found.
    """
    from mallocgame import engine, mapping, validate

    settings = engine.Settings(strategy="climb", seed=seed)
    if by == "hybrid":
        half = _spend(_agent(problem, start, seed), calls // 2)
        both = dict(start) | {"agent": half}
        found = _spend(
            engine_search(problem, both, settings), calls - calls // 2 + len(both)
        )
    elif by in ("agent", "planned"):
        found = _spend(
            _agent(problem, start, seed, simulations=8 * (by == "planned")), calls
        )
    else:
        settings = dataclasses.replace(settings, strategy=by)
        found = _spend(engine_search(problem, start, settings), calls)
    validate.require_valid(problem, mapping.from_state(problem, found.state))
    return found


def engine_search(
    problem: "Problem", start: Mapping[str, "Found"], settings: "Settings"
) -> Callable[[Callable[[], bool]], Iterator[Any]]:
    """Returns the search of a strategy, as a function of when it is done."""
    from mallocgame import engine

    return lambda done: engine.search(problem, dict(start), settings, done)


def _agent(
    problem: "Problem",
    start: Mapping[str, "Found"],
    seed: int,
    simulations: int = 0,
    card: Path | None = None,
) -> Callable[[Callable[[], bool]], Iterator[Any]]:
    from mallocgame import engine, learned

    player = learned.Player()
    if simulations:
        search = dataclasses.replace(player.search, num_simulations=simulations)
        player = dataclasses.replace(player, search=search)
    settings = engine.Settings(
        strategy="muzero", seed=seed, mode="zero-shot", checkpoint=card
    )

    def search_by(done: Callable[[], bool]) -> Iterator[Any]:
        # The calls that the starts took, as for every strategy.
        yield engine.Step(len(start), min(start.values(), key=_seconds), None)  # type: ignore[arg-type]
        yield from learned.search(problem, dict(start), settings, done, player)

    return search_by


def _seconds(found: "Found") -> float:
    return found.seconds


def _spend(
    search: Callable[[Callable[[], bool]], Iterator[Any]], calls: int
) -> "Found":
    spent: list[int] = []
    found = None
    for step in search(lambda: sum(spent) >= calls):
        spent.append(step.simulations)
        if sum(spent) > calls and found is not None:
            break  # What it found with more than it has doesn't count.
        found = step.found
    assert found is not None
    return found


def curves(
    flags: argparse.Namespace, known: set[tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    """Yields best and mean return over training from nothing, for tuning programs and seeds."""
    import jax

    from mallocgame import engine, improve, teacher
    from muzero.agents import make_agent
    from muzero.config import LearnConfig, SearchConfig, TrainConfig
    from muzero.training import Trainer

    config = TrainConfig(
        lanes=16,
        capacity=64,
        earning_only=True,
        reanalyse_every=0,
        search=SearchConfig(
            num_simulations=4, max_considered=4, min_range=0.002, value_scale=0.3
        ),
        learn=LearnConfig(rows=32, updates=8),
    )
    for name in flags.names or ("mlp", "lstm_scan"):
        problem = problem_of(name, 0.25 if name == "mlp" else 0.5)
        slow = improve.start(problem, engine.seeds(problem)["all_slow"])
        seconds = float(problem.instance.all_slow_seconds)
        task = teacher.make_task([name], [slow], [seconds])
        trainer = Trainer(agent=make_agent("true-game", task), config=config)
        for seed in range(3):
            head = {"part": "curves", "program": name, "seed": seed}
            if _key(head) in known:
                continue
            state = trainer.init(task.instances, seed)
            history = []
            for _ in range(20):
                state, metrics = trainer.iterate(task.instances, state)
                row = {k: round(float(v), 5) for k, v in metrics.items()}
                history.append(
                    [row["return_mean"], row["return_max"], row["best_mean"]]
                )
            yield head | {"returns": history}
        jax.clear_caches()


def ablations(
    flags: argparse.Namespace, known: set[tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    """Yields what the agent finds with its network, without (all moves alike), and with trees, on tuning programs."""
    import tempfile

    from mallocgame import engine, improve, teacher
    from muzero import agentfile
    from muzero.agents import make_agent
    from muzero.config import TrainConfig
    from muzero.training import Trainer

    for name in flags.names or ("mlp", "lstm_scan"):
        for share in SHARES:
            problem = problem_of(name, share)
            start = engine.evaluate(problem, engine.seeds(problem), engine.Settings())
            base = min(start.values(), key=_seconds)
            first = improve.start(problem, base.plan)
            task = teacher.make_task([name], [first], [base.seconds])
            trainer = Trainer(agent=make_agent("true-game", task), config=TrainConfig())
            with tempfile.TemporaryDirectory() as folder:
                params = trainer.new(task.instances, flags.seed)
                about = {"agent": "true-game", "plays": teacher.PLAYS}
                blank = agentfile.save(Path(folder), "blank", params, about)[1]
                for by, card, simulations in (
                    ("agent", None, 0),
                    ("no network", blank, 0),
                    ("8 simulations a move", None, 8),
                ):
                    head = {
                        "part": "ablations",
                        "program": name,
                        "share": share,
                        "by": by,
                        "seed": flags.seed,
                        "calls": flags.calls,
                    }
                    if _key(head) in known:
                        continue
                    play = _agent(problem, start, flags.seed, simulations, card)
                    yield head | {"seconds": _spend(play, flags.calls).seconds}


def speed(
    flags: argparse.Namespace, known: set[tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    """Yields moves per second and compilations."""
    import jax
    import jax.numpy as jnp

    from mallocgame import engine, learned

    compiles = 0

    def count(event: str, duration_secs: float, **kwargs: str | int) -> None:
        nonlocal compiles
        compiles += event == "/jax/core/compile/backend_compile_duration"

    for name in flags.names or ("mlp", "lstm_scan"):
        head = {"part": "speed", "program": name}
        if _key(head) in known:
            continue
        problem = problem_of(name, 0.25)
        start = engine.evaluate(problem, engine.seeds(problem), engine.Settings())
        settings = engine.Settings(strategy="muzero", mode="zero-shot")
        marks: list[float] = []
        first = 0
        jax.monitoring.register_event_duration_secs_listener(count)
        for step in learned.search(problem, start, settings, lambda: len(marks) >= 24):  # noqa: B023
            jax.block_until_ready(step.lanes.seconds)
            marks.append(time.monotonic())
            if len(marks) == 10:
                first = compiles
        jax.monitoring.unregister_event_duration_listener(count)
        lanes = int(jnp.shape(step.lanes.seconds)[0])
        yield head | {
            "accesses": len(problem.accesses),
            "padded": int(problem.instance.order.shape[0]),
            "moves_per_second": round(lanes * 12 / (marks[22] - marks[10]), 1),
            "compiles_after_10_moves": compiles - first,
        }


def report(lines: list[dict[str, Any]]) -> list[str]:
    """Returns the tables as Markdown."""
    rows: dict[tuple[str, float], dict[str, float]] = {}
    sizes: dict[str, int] = {}
    for line in lines:
        if line["part"] == "table":
            rows.setdefault((line["program"], line["share"]), {})[line["by"]] = line[
                "seconds"
            ]
            sizes[line["program"]] = line.get("accesses", sizes.get(line["program"], 0))
    there = [c for c in COLUMNS if any(c in row for row in rows.values())]
    text = [
        "| program | accesses | of peak | " + " | ".join(there) + " |",
        "|---|---:|---:|" + "---:|" * len(there),
    ]
    for (program, share), row in rows.items():
        cells = (f"{1e6 * row[c]:.1f}" if c in row else "" for c in there)
        head = f"| {program} | {sizes[program]} | {share:.0%} | "
        text.append(head + " | ".join(cells) + " |")
    text += ["", "| against climb | wins | ties | losses | geometric mean | tight |"]
    text.append("|---|---:|---:|---:|---:|---:|")
    for by in there:
        if by in ("climb", "bound", "all_slow"):
            continue
        ratios = {
            k: r[by] / r["climb"] for k, r in rows.items() if by in r and "climb" in r
        }
        if not ratios:
            continue
        tie = sum(abs(x - 1) <= EQUAL for x in ratios.values())
        win = sum(x < 1 - EQUAL for x in ratios.values())
        tight = [x for (_, share), x in ratios.items() if share in TIGHT]
        text.append(
            f"| {by} ({len(ratios)}) | {win} | {tie} | {len(ratios) - win - tie} "
            f"| {_mean(list(ratios.values())):.4f} | {_mean(tight):.4f} |"
        )
    curve_lines = [line for line in lines if line["part"] == "curves"]
    if curve_lines:
        text += [
            "",
            "| program | seed | iteration | mean return | best of the batch | best so far |",
        ]
        text.append("|---|---:|---:|---:|---:|---:|")
        for line in curve_lines:
            for k in (0, 4, 9, 14, 19):
                mean, best, kept = line["returns"][k]
                text.append(
                    f"| {line['program']} | {line['seed']} | {k + 1} | {mean:.4f} | {best:.4f} | {kept:.4f} |"
                )
    for line in lines:
        if line["part"] in ("speed", "ablations"):
            text.append("- " + ", ".join(f"{k}: {v}" for k, v in line.items()))
    return text


def _mean(ratios: list[float]) -> float:
    """Returns the geometric mean."""
    return math.exp(sum(map(math.log, ratios)) / max(len(ratios), 1))


def _key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(
        line.get(k) for k in ("part", "program", "share", "by", "calls", "seed")
    )


def _read(path: Path) -> list[dict[str, Any]]:
    return (
        [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []
    )


if __name__ == "__main__":
    main()
