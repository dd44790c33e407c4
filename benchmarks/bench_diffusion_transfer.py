"""Whether a sampler that was searched on one thing serves another.

    python -m benchmarks.bench_diffusion_transfer [--nfe 5] [--data DIR]

On exact denoisers of digits: searched with one seed's noise, reported on another's; searched on classes
0 to 4, reported on 5 to 9; with the folder of Fashion-MNIST's files, searched on digits and reported on
clothes. Beside each: the sampler that was searched on the very problem, and its best published solver.
At last, the same errors to a reference of twice as many steps.
"""

import argparse
import tempfile
from pathlib import Path

import jax

from diffusion import evaluate, hunt, problems
from diffusion.evaluate import Judge, Sets
from diffusion.hunt import Found
from diffusion.problems import Problem
from diffusion.table import StepTable
from solvers.command import Budget, keep_compiled
from solvers.command.units import Meter

ROWS = ("seeds", "classes", "clothes")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nfe", type=int, default=5)
    parser.add_argument("--budget", type=int, default=1000, help="schedules")
    parser.add_argument("--fit-steps", type=int, default=2400)
    parser.add_argument("--sizes", type=int, nargs=3, default=[512, 1024, 2048])
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST's files")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    flags = parser.parse_args()
    if "clothes" in flags.rows and flags.data is None:
        flags.rows.remove("clothes")
    keep_compiled(on_host=False)
    digits = problems.digits_density()
    low, high = (problems.digits_density(classes=c) for c in (range(5), range(5, 10)))
    print(f"NFE {flags.nfe}, {flags.budget} schedules, {flags.fit_steps} steps\n")
    print("| searched on | reported on | transferred | its own search | best stock |")
    print("|---|---|---:|---:|---:|")
    first = _searched(digits, 0, flags)[0].chosen.table
    if "seeds" in flags.rows:
        _row("digits, seed 0", "digits, seed 1", first, digits, 1, flags)
    if "classes" in flags.rows:
        half = _searched(low, 0, flags)[0].chosen.table
        _row("digits 0 to 4", "digits 5 to 9", half, high, 0, flags)
    if "clothes" in flags.rows:
        clothes = problems.fashion_density(flags.data)
        _row("digits", "clothes", first, clothes, 0, flags)
    noise = digits.draw(jax.random.key(7), flags.sizes[2])
    errors = [
        Judge(digits, noise, digits.solve(noise, steps)).rmse(first)
        for steps in (problems.REFERENCE_STEPS, 2 * problems.REFERENCE_STEPS)
    ]
    print(
        f"\nThe first sampler against references of {problems.REFERENCE_STEPS} and twice "
        f"as many steps: {errors[0]:.5f}, {errors[1]:.5f}."
    )


def _row(
    source: str,
    goal: str,
    table: StepTable,
    problem: Problem,
    seed: int,
    flags: argparse.Namespace,
) -> None:
    own, sets = _searched(problem, seed, flags)
    best = own.stock_best
    print(
        f"| {source} | {goal} | {sets.report.rmse(table):.4f} | {own.chosen.reported:.4f} "
        f"| {best.reported:.4f} ({best.method}) |",
        flush=True,
    )


def _searched(
    problem: Problem, seed: int, flags: argparse.Namespace
) -> tuple[Found, Sets]:
    """Returns what a search hands over, and the sets that it was judged on."""
    sets = evaluate.sets(problem, seed=seed, sizes=tuple(flags.sizes))
    stock = evaluate.best_of_families(problem.noise, flags.nfe, sets)
    with tempfile.TemporaryDirectory() as folder:
        settings = hunt.Settings(
            strategy="evolution",
            nfe=flags.nfe,
            seed=seed,
            refine_steps=flags.fit_steps,
            saved=Path(folder) / "schedules.npz",
        )
        meter = Meter(Budget(simulations=flags.budget))
        found = hunt.hunt(problem, sets, stock, settings, meter, lambda _: None, False)
    return found, sets


if __name__ == "__main__":
    main()
