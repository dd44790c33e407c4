"""The learning agent on the memory game, in parts; each adds lines to a file, and goes on where it stopped.

    python -m benchmarks.bench_agent table [NAME ...] [--calls 256] [--seed 0] [--strategies NAME ...]
    python -m benchmarks.bench_agent times [NAME ...] [--seconds 5]
    python -m benchmarks.bench_agent optimum [NAME ...] [--seconds 60]
    python -m benchmarks.bench_agent curves|training|ablations|speed
    python -m benchmarks.bench_agent report

`table`: every strategy at equal simulator calls, programs at four shares of their peak demand. The
programs are those of tests/golden whose model family is of the *test* half (`benchmarks.workloads`): the
agent that ships was trained, and its settings were chosen, on the other half alone (`--programs tuning`).
`times`: the same at equal time, compilation aside. `optimum`: what CP-SAT proves (`mallocgame.optimum`).
`curves`, `training`, `ablations`, `speed`: see `benchmarks.agent_parts`. `report` prints it all as Markdown for
benchmarks/results/agent.md.
"""

import argparse
import dataclasses
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import rows as kept

if TYPE_CHECKING:
    from mallocgame.engine import Found, Settings
    from mallocgame.instance import Problem
    from mallocgame.learned import Player

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
DUMPS = Path("runs/tuning")
LINES = Path(__file__).parent / "results" / "agent.jsonl"
SHARES = (0.5, 0.25, 0.1, 0.05)
TIGHT = (0.1, 0.05)
EQUAL = 1e-3  # Closer than this is a tie.
PROVEN = 1e-4  # And this near to the bound, the optimum.
SMALL = 128  # Smaller programs are padded to one shape.
PLAYERS = ("agent", "single", "policy", "untrained", "planned", "planned, untrained")
STRATEGIES = ("climb", "hybrid", *PLAYERS, "annealing", "brkga", "mcts")
COLUMNS = ("all_slow", "msa", *STRATEGIES, "optimum", "bound")
# A call or so of each, to have it compiled before the clock runs.
_FIRST_CALLS = 40


def main() -> None:
    """Runs a part."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = ("table", "times", "optimum", "curves", "training", "ablations", "speed")
    parser.add_argument("part", choices=(*parts, "report"))
    parser.add_argument("names", nargs="*", default=[])
    parser.add_argument("--calls", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shares", type=float, nargs="*", default=list(SHARES))
    parser.add_argument("--programs", choices=("report", "tuning"), default="report")
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES))
    parser.add_argument("--lines", type=Path, default=LINES)
    flags = parser.parse_args()
    from benchmarks import agent_parts
    from solvers.command import keep_compiled

    keep_compiled(on_host=True)
    if flags.part == "report":
        print("\n".join(report(kept.read(flags.lines))))
        return
    run = {
        "table": table,
        "times": times,
        "optimum": agent_parts.optima,
        "curves": agent_parts.curves,
        "training": agent_parts.training,
        "ablations": agent_parts.ablations,
        "speed": agent_parts.speed,
    }
    known = {key_of(line) for line in kept.read(flags.lines)}
    for line in run[flags.part](flags, known):
        kept.append(flags.lines, line)
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
    """Returns a program's problem with a share of its peak demand as fast memory.

    Of tests/golden, or a dump of a tuning program in runs/tuning.
    """
    from compiler.cost.instruction import instruction_costs
    from compiler.cost.model import analytic
    from compiler.hlo import build, load
    from compiler.targets import TARGETS
    from mallocgame import inputs, instance, priority, relaxation

    golden = GOLDEN / name / "scheduled.hlo.pb.gz"
    if golden.exists():
        program = build(load(golden))
    else:
        program = inputs.read(DUMPS / name / "dump").program
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
    """Yields what every strategy finds with so many calls, program by program."""
    from mallocgame import relaxation

    for head, wanted, problem in _cells(flags, known, "table", calls=flags.calls):
        start = starts_of(problem)
        fixed = {
            "all_slow": start["all_slow"].seconds,
            "msa": start["msa"].seconds,
            "bound": relaxation.lower_bound(problem),
        }
        for by, seconds in fixed.items():
            line = head | {"by": by, "seconds": seconds}
            if key_of(line) not in known:
                known.add(key_of(line))
                yield line | {"accesses": len(problem.accesses)}
        for by in wanted:
            begun = time.monotonic()
            found = searched(problem, start, by, flags.calls, flags.seed)
            yield head | {
                "by": by,
                "seconds": found.seconds,
                "wall": round(time.monotonic() - begun, 2),
            }


def times(
    flags: argparse.Namespace, known: set[tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    """Yields what every strategy finds within the same time, compilation aside."""
    seconds = flags.seconds or 5.0
    for head, wanted, problem in _cells(flags, known, "times", limit=seconds):
        start = starts_of(problem)
        for by in wanted:
            search = search_of(problem, start, by, flags.seed)
            spend(search, _FIRST_CALLS)
            begun = time.monotonic()
            found, calls = min(start.values(), key=_seconds), 0
            for step in search(lambda: time.monotonic() - begun >= seconds):  # noqa: B023
                if time.monotonic() - begun > seconds:
                    break  # What it found behind the end doesn't count.
                found, calls = step.found, calls + step.simulations
            yield head | {"by": by, "seconds": found.seconds, "calls": calls}


def _cells(
    flags: argparse.Namespace, known: set[tuple[Any, ...]], part: str, **limit: float
) -> Iterator[tuple[dict[str, Any], list[str], "Problem"]]:
    """Yields programs at their capacities, with the strategies that have not been run there."""
    for name in flags.names or names_of(flags.programs):
        for share in flags.shares:
            head = {"part": part, "program": name, "share": share, **limit}
            head |= {"seed": flags.seed}
            wanted = [
                s for s in flags.strategies if key_of(head | {"by": s}) not in known
            ]
            if wanted:
                yield head, wanted, problem_of(name, share)


def starts_of(problem: "Problem") -> dict[str, "Found"]:
    """Returns the plans that every search starts from, evaluated."""
    from mallocgame import engine

    return engine.evaluate(problem, engine.seeds(problem), engine.Settings())


def searched(
    problem: "Problem",
    start: Mapping[str, "Found"],
    by: str,
    calls: int,
    seed: int,
) -> "Found":
    """Returns the best that a strategy finds within so many simulator calls; the mapping is validated."""
    from mallocgame import mapping, validate

    if by == "hybrid":
        found = _hybrid(problem, start, calls, seed)
    else:
        found = spend(search_of(problem, start, by, seed), calls)
    validate.require_valid(problem, mapping.from_state(problem, found.state))
    return found


_Search = Callable[[Callable[[], bool]], Iterator[Any]]


def _hybrid(
    problem: "Problem", start: Mapping[str, "Found"], calls: int, seed: int
) -> "Found":
    """Half of the calls for the agent, then climbing from the best that it found."""
    half = spend(search_of(problem, start, "agent", seed), calls // 2)
    both = dict(start) | {"agent": half}
    rest = search_of(problem, both, "climb", seed)
    return spend(rest, calls - calls // 2 + len(both))


def search_of(
    problem: "Problem", start: Mapping[str, "Found"], by: str, seed: int
) -> _Search:
    """Returns the search of a strategy, as a function of when it is done.

    `agent` plays as the command does, with the shipped network. `single`: one change a move. `policy`: always
    the likeliest change, no chance. `planned`: a tree of 8 simulations a move. `untrained`: as `agent`, or
    as `planned`, with a network that knows nothing: all changes are as likely.
    """
    from mallocgame import engine, learned

    player = learned.Player()
    tree = dataclasses.replace(player.search, num_simulations=8)
    players = {
        "agent": player,
        "single": dataclasses.replace(player, further=(0.0,)),
        "policy": dataclasses.replace(player, further=(0.0,), gumbel_scale=0.0),
        "planned": dataclasses.replace(player, search=tree),
        "untrained": player,
        "planned, untrained": dataclasses.replace(player, search=tree),
    }
    if by in players:
        return played(problem, start, players[by], seed, blank="untrained" in by)
    settings = engine.Settings(strategy=by, seed=seed)
    return lambda done: engine.search(problem, dict(start), settings, done)


def played(
    problem: "Problem",
    start: Mapping[str, "Found"],
    player: "Player",
    seed: int,
    *,
    blank: bool = False,
    card: Path | None = None,
) -> _Search:
    """Returns the agent's search, by the shipped network, by one that knows nothing, or by a card's."""
    from mallocgame import engine, learned

    def search(done: Callable[[], bool]) -> Iterator[Any]:
        # The calls that the starts took, as for every strategy.
        best = min(start.values(), key=_seconds)
        yield engine.Step(len(start), best, None)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as folder:
            known = _blank(problem, start, seed, Path(folder)) if blank else card
            settings: Settings = engine.Settings(
                strategy="muzero", seed=seed, mode="zero-shot", checkpoint=known
            )
            yield from learned.search(problem, dict(start), settings, done, player)

    return search


def _blank(
    problem: "Problem", start: Mapping[str, "Found"], seed: int, folder: Path
) -> Path:
    """Writes the card of a network that knows nothing."""
    from mallocgame import improve, teacher
    from muzero import agentfile
    from muzero.agents import make_agent
    from muzero.config import TrainConfig
    from muzero.training import Trainer

    best = min(start.values(), key=_seconds)
    first = improve.start(problem, best.plan)
    task = teacher.make_task(["one"], [first], [best.seconds])
    trainer = Trainer(agent=make_agent("true-game", task), config=TrainConfig())
    about = {"agent": "true-game", "plays": teacher.PLAYS}
    return agentfile.save(folder, "blank", trainer.new(task.instances, seed), about)[1]


def _seconds(found: "Found") -> float:
    return found.seconds


def spend(search: _Search, calls: int) -> "Found":
    """Returns the best that a search finds within so many calls."""
    spent: list[int] = []
    found = None
    for step in search(lambda: sum(spent) >= calls):
        spent.append(step.simulations)
        if sum(spent) > calls and found is not None:
            break  # What it found with more than it has doesn't count.
        found = step.found
    assert found is not None
    return found


def report(lines: list[dict[str, Any]]) -> list[str]:
    """Returns the tables as Markdown."""
    from benchmarks import agent_parts

    rows: dict[tuple[str, float, int], dict[str, float]] = {}
    sizes: dict[str, int] = {}
    proofs = {
        (line["program"], line["share"]): line
        for line in lines
        if line["part"] == "optimum"
    }
    for line in lines:
        if line["part"] == "table":
            row = rows.setdefault((line["program"], line["share"], line["seed"]), {})
            row[line["by"]] = line["seconds"]
            sizes[line["program"]] = line.get("accesses", sizes.get(line["program"], 0))
    for (program, share, _), row in rows.items():
        if proof := proofs.get((program, share)):
            row["bound"] = max(row["bound"], proof["floor"])
            best = min(v for k, v in row.items() if k != "bound")
            best = min(best, proof["found"] or math.inf)
            if best <= row["bound"] * (1 + PROVEN):
                row["optimum"] = best
    there = [c for c in COLUMNS if any(c in row for row in rows.values())]
    seeds = sorted({seed for *_, seed in rows})
    text = []
    for seed in seeds:
        text += [f"Seed {seed}:", "", *_grid(rows, sizes, there, seed), ""]
    text += verdicts("against climb", rows, there)
    timed: dict[tuple[str, float, int], dict[str, float]] = {}
    for line in lines:
        if line["part"] == "times":
            cell = (line["program"], line["share"], line["seed"])
            timed.setdefault(cell, {})[line["by"]] = line["seconds"]
    if timed:
        limits = sorted({x["limit"] for x in lines if x["part"] == "times"})
        said = ", ".join(f"{x:g}" for x in limits)
        text += ["", *verdicts(f"within {said} s, against climb", timed, there)]
    return text + agent_parts.report(lines)


def _grid(
    rows: Mapping[tuple[str, float, int], Mapping[str, float]],
    sizes: Mapping[str, int],
    there: list[str],
    seed: int,
) -> list[str]:
    mine = {k: row for k, row in rows.items() if k[2] == seed}
    shown = [c for c in there if any(c in row for row in mine.values())]
    text = [
        "| program | accesses | of peak | " + " | ".join(shown) + " |",
        "|---|---:|---:|" + "---:|" * len(shown),
    ]
    for (program, share, _), row in mine.items():
        cells = (f"{1e6 * row[c]:.1f}" if c in row else "" for c in shown)
        head = f"| {program} | {sizes[program]} | {share:.0%} | "
        text.append(head + " | ".join(cells) + " |")
    return text


def verdicts(
    title: str,
    rows: Mapping[tuple[str, float, int], Mapping[str, float]],
    there: list[str],
) -> list[str]:
    """Returns a table of wins, ties and losses, and the geometric means of the times relative to climbing's."""
    text = [
        f"| {title} | wins | ties | losses | geometric mean | tight | best | worst |"
    ]
    text.append("|---|---:|---:|---:|---:|---:|---:|---:|")
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
        tight = [x for (_, share, _), x in ratios.items() if share in TIGHT]
        some = list(ratios.values())
        text.append(
            f"| {by} ({len(ratios)}) | {win} | {tie} | {len(ratios) - win - tie} | {_mean(some):.4f} "
            f"| {_mean(tight):.4f} | {min(some):.4f} | {max(some):.4f} |"
        )
    return text


def _mean(ratios: list[float]) -> float:
    """Returns the geometric mean."""
    return math.exp(sum(map(math.log, ratios)) / max(len(ratios), 1))


def key_of(line: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns what makes two lines of one measurement the same; calls are a result where the time is limited."""
    names = ["part", "program", "share"]
    if line["part"] != "optimum":
        names += ["by", "seed", "limit"]
    calls = line.get("calls") if line["part"] != "times" else None
    return (*(line.get(k) for k in names), calls)


if __name__ == "__main__":
    main()
