"""Strategies on the memory game's compile options at equal numbers of real compiles.

    python -m benchmarks.bench_compiles [NAME ...] [--target tpu-v5e] [--compiles 16] [--seeds 3]
        [--jobs 2] [--store runs/compiles.sqlite]

A schedule is a setting of the options of `mallocgame.knobs`, its cost the judged time of what the
production compiler makes of it. Every search starts from the compiler's default, which counts as the
first compile. `guided` is the search of `mallocgame.search`, with the prior of the tuning half;
`guided, no prior` expects nothing; `climb` is hill-climbing, one neighbour at a time; `predicted` is
the ensemble, with four samples first. Programs (by default those of the test half that compile in
seconds) were not used for the prior. Measurements are kept in the store and shared by the strategies.
"""

import argparse
import concurrent.futures
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from solvers.protocols import Measurement, Strategy, Unit

# Of the test half, those that compile in a few seconds.
PROGRAMS = ("gpt2_decode_b8", "mamba_decode", "moe_decode", "int8_mlp", "cg_solve")
MARKS = (2, 4, 8, 16)
STRATEGIES = ("guided", "guided, no prior", "climb", "predicted", "random")


class Knobs:
    """What the compiler makes of a program under options: an oracle of judged seconds."""

    num_objectives = 1
    unit: "Unit" = "measurements"

    def __init__(self, name: str, target_name: str) -> None:
        from benchmarks import workloads
        from compiler.backends import backend_of, from_function
        from compiler.targets import TARGETS
        from mallocgame.verify import Compiler

        target = TARGETS[target_name]
        assert target.topology is not None
        call = workloads.get(name).make()
        source = from_function(
            call.fn, *call.args, topology=target.topology, **call.jit_kwargs
        )
        version = backend_of(target.topology).version()
        self._compiler = Compiler(
            source=source, topology=target.topology, target=target
        )
        self.digest = f"knobs of {name} on {target_name} by {version}"

    def measure(self, genomes: Any) -> "list[Measurement]":
        """Returns the judged time of each setting."""
        from compiler.backends import CompilerError
        from mallocgame import knobs
        from solvers.protocols import Measurement

        found = []
        for choices in genomes.choices:
            chosen = knobs.options(tuple(map(int, choices)), {})
            try:
                verdict = self._compiler.own(chosen).verdict
                found.append(Measurement((verdict.total,)))
            except CompilerError as error:
                found.append(Measurement((float("inf"),), str(error)))
        return found


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=list(PROGRAMS))
    parser.add_argument("--target", default="tpu-v5e")
    parser.add_argument("--compiles", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--store", type=Path, default=Path("runs/compiles.sqlite"))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.one:
        print(json.dumps(run(flags.names[0], flags)))
        return
    flags.store.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.bench_compiles", "--one"]
    command += [f"--target={flags.target}", f"--compiles={flags.compiles}"]
    command += [f"--seeds={flags.seeds}"]

    def one(name: str) -> dict[str, list[list[float]]]:
        store = flags.store.with_name(f"{flags.store.stem}-{name}.sqlite")
        done = subprocess.run(
            [*command, f"--store={store}", name],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found: dict[str, list[list[float]]] = json.loads(done.stdout)
        return found

    with concurrent.futures.ThreadPoolExecutor(flags.jobs) as pool:
        runs = dict(zip(flags.names, pool.map(one, flags.names), strict=True))
    marks = [mark for mark in MARKS if mark <= flags.compiles]
    head = "".join(f" after {mark} |" for mark in marks)
    print(f"{flags.target}, {flags.seeds} seeds; default over best, judged times\n")
    for name in [*flags.names, "all"]:
        print(f"| {name} |{head}")
        print("|---|" + "---|" * len(marks))
        for strategy in STRATEGIES:
            rows = [
                row
                for program in ([name] if name != "all" else flags.names)
                for row in runs[program][strategy]
            ]
            cells = (_cell([gain(row, mark) for row in rows]) for mark in marks)
            print(f"| {strategy} | " + " | ".join(cells) + " |")
        print()


def gain(costs: list[float], count: int) -> float:
    """Returns the default's time over the best of the first so many compiles."""
    return costs[0] / min(costs[:count])


def _cell(gains: list[float]) -> str:
    """Returns the geometric mean, and the quartiles if they differ."""
    mean = float(np.exp(np.mean(np.log(gains))))
    low, high = np.quantile(gains, [0.25, 0.75])
    spread = f" [{low:.3f}, {high:.3f}]" if high - low >= 0.0005 else ""
    return f"{mean:.3f}{spread}"


def run(name: str, flags: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Returns the judged times in the order measured, by strategy and seed."""
    import solvers
    from mallocgame import knobs
    from solvers.command import keep_compiled
    from solvers.command.units import Budget
    from solvers.protocols import Genome
    from solvers.strategies import Informed, Local, Predicted, Random

    keep_compiled(on_host=True)
    sizes = tuple(knobs.sizes({}))
    start = Genome(np.zeros((1, len(sizes)), np.int32), np.zeros((1, 0), np.float32))
    problem = solvers.Problem(
        space=solvers.ChoiceSpace(sizes=sizes),
        oracle=Knobs(name, flags.target),
        starts=start,
    )
    strategies: dict[str, Strategy] = {
        "guided": Informed(prior=knobs.prior({})),
        "guided, no prior": Informed(),
        "climb": Local(lanes=1, patience=flags.compiles),
        "predicted": Predicted(initial=4, batch=2),
        "random": Random(),
    }
    found: dict[str, list[list[float]]] = {}
    for label, strategy in strategies.items():
        # Guided search has no chance in it.
        seeds = 1 if isinstance(strategy, Informed) else flags.seeds
        found[label] = []
        for seed in range(seeds):
            result = solvers.search(
                problem,
                strategy,
                Budget(measurements=flags.compiles),
                seed,
                store=flags.store,
            )
            found[label].append(result.history[:, 0].tolist())
            best = min(found[label][-1])
            gained = found[label][-1][0] / best
            print(f"{name}, {label}, seed {seed}: {gained:.3f}", file=sys.stderr)
    return found


if __name__ == "__main__":
    main()
