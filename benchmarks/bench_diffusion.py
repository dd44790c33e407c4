"""Solvers and searches at equal numbers of network evaluations, on denoisers of real images.

    python -m benchmarks.bench_diffusion --nfe 5 8 [--model digits-mlp] [--data DIR] [--searches]

Three sets of noise: searches see the first, everything that is chosen is chosen on the second, and
the numbers are those of the third. Every baseline gets its best grid, order and variant. RMSE to a
solution with 400 steps; its distance to one of another prediction type is printed, as is every time.
Searches measure `--budget` schedules; `refined`, LD3, GS and DyWeight take 4 x `--fit-steps` gradient steps,
the last three `--fit-steps` from each of four grids. Of `--strategies`, `usf` is the released search's evolution,
the others are the engine's; the first of those is refined.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from diffusion import evaluate, grids, hunt, models, peers, presets, problems
from diffusion.evaluate import Result, Sampler, Sets, Solver
from diffusion.evolve import EvolutionConfig, evolve
from diffusion.problems import Problem
from diffusion.refine import FitConfig
from diffusion.space import ScheduleSpace
from diffusion.table import StepTable
from solvers.command.units import Budget, Meter


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="digits", help="as diffusion.search's")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST's files")
    parser.add_argument("--nfe", type=int, nargs="+", default=[5])
    parser.add_argument("--sizes", type=int, nargs=3, default=[512, 1024, 2048])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--searches", action="store_true", help="run them too")
    parser.add_argument("--strategies", nargs="+", default=["usf", "evolution"])
    parser.add_argument("--budget", type=int, default=2000, help="schedules")
    parser.add_argument("--fit-steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=256, help="noises per step")
    parser.add_argument("--peers", nargs="*", help="only these of the peers")
    flags = parser.parse_args()
    problem = models.load(flags.model, flags.data)
    began = time.perf_counter()
    sets = evaluate.sets(problem, seed=flags.seed, sizes=tuple(flags.sizes))
    took = time.perf_counter() - began
    other = problems.reference_table(problem.noise, problems.REFERENCE_STEPS, "noise")
    print(f"{flags.model}, seed {flags.seed}, sets of {flags.sizes}.")
    print(
        f"Reference: {took:.0f} s; to the other prediction type {sets.select.rmse(other):.1e}; "
        f"RMS of the solution {float(jnp.sqrt(jnp.mean(sets.report.reference**2))):.2f}.\n"
    )
    for nfe in flags.nfe:
        print(f"## NFE {nfe}\n")
        print("| method | chosen | RMSE | 95 % | select | seconds |")
        print("| --- | --- | --- | --- | --- | --- |")
        stock = []
        for family, samplers in evaluate.baselines(problem.noise, nfe).items():
            began = time.perf_counter()
            stock.append(evaluate.report(family, samplers, sets))
            _row(stock[-1], began)
        if flags.searches:
            _searches(problem, sets, stock, nfe, flags)
        print(flush=True)


def _row(result: Result, began: float) -> None:
    low, high = result.interval
    print(
        f"| {result.method} | {result.setting} | {result.reported:.4f} | {low:.4f}-{high:.4f} "
        f"| {result.selected:.4f} | {time.perf_counter() - began:.0f} |",
        flush=True,
    )


def _searches(
    problem: Problem,
    sets: Sets,
    stock: list[Result],
    nfe: int,
    flags: argparse.Namespace,
) -> None:
    """Every search, from the same sets, with as many schedules and as many gradient steps."""
    key = jax.random.key(flags.seed)
    space = ScheduleSpace(noise=problem.noise, evaluations=nfe)
    refined = False
    for strategy in flags.strategies:
        began = time.perf_counter()
        if strategy == "usf":
            tuned = EvolutionConfig(evaluations=flags.budget)
            evolved = evolve(space, problem, sets.search, sets.select, key, tuned)
            name = f"{evolved.evaluations} schedules, {evolved.schedule.first}"
            _row(
                evaluate.report("USF's evolution", {name: evolved.schedule}, sets),
                began,
            )
            continue
        with tempfile.TemporaryDirectory() as folder:
            settings = hunt.Settings(
                strategy=strategy,
                nfe=nfe,
                seed=flags.seed,
                refine_steps=0 if refined else 4 * flags.fit_steps,
                batch=flags.batch,
                saved=Path(folder) / "schedules.npz",
            )
            meter = Meter(Budget(simulations=flags.budget))
            found = hunt.hunt(
                problem, sets, stock, settings, meter, lambda _: None, False
            )
        refined = True
        for result in found.searched:
            _row(result, began)
    config = FitConfig(steps=flags.fit_steps, batch=flags.batch)
    for method, candidates in _peers(problem, sets, nfe, key, config).items():
        if flags.peers is None or method in flags.peers:
            began = time.perf_counter()
            _row(evaluate.report(method, candidates(), sets), began)


def _peers(
    problem: Problem, sets: Sets, nfe: int, key: jax.Array, config: FitConfig
) -> Mapping[str, Callable[[], dict[str, Sampler]]]:
    """What else finds schedules; grids go to the two solvers that they are published with."""
    noise = problem.noise
    solvers: Mapping[str, Solver] = {
        "iPNDM": evaluate.BASELINES["iPNDM"]["order=3"],
        "UniPC": evaluate.BASELINES["UniPC"][
            "order=2 variant=bh2 prediction=data lower_final=True"
        ],
    }
    taught = peers.teacher(problem, sets.search.x[:256])
    starts = {name: make(noise, nfe) for name, make in grids.GRIDS.items()}

    def on(times: grids.Times) -> dict[str, Sampler]:
        return {name: s(noise, lambda *_: times, nfe) for name, s in solvers.items()}

    def gits() -> dict[str, Sampler]:
        found: dict[str, Sampler] = {}
        for gamma in (0.8, 1.0, 1.15):
            tables = on(peers.gits(taught, nfe, gamma=gamma))
            found |= {f"{name} gamma={gamma}": t for name, t in tables.items()}
        return found

    def dmn() -> dict[str, Sampler]:
        return {
            f"{name} order={order}": table
            for order in (0.5, 1.0, 2.0)
            for name, table in on(peers.dmn(noise, nfe, order=order)).items()
        }

    def fits(train: Callable[..., StepTable]) -> dict[str, Sampler]:
        return {name: train(start) for name, start in starts.items()}

    common = (nfe, sets.search, sets.select, key)
    return {
        "GITS": gits,
        "OSS": lambda: on(peers.oss(problem, taught, nfe)),
        "DMN": dmn,
        "LD3": lambda: fits(
            lambda start: (
                peers.ld3(
                    problem, presets.unipc, *common, start=start, config=config
                ).table
            )
        ),
        "GS": lambda: fits(
            lambda start: peers.gs(problem, *common, start=start, config=config).table
        ),
        "DyWeight": lambda: fits(
            lambda start: (
                peers.dyweight(problem, *common, start=start, config=config).table
            )
        ),
    }


if __name__ == "__main__":
    main()
