"""Whether a predictor pays in the search for samplers: how well it ranks, and what it saves.

    python -m benchmarks.bench_diffusion_predictor [--model digits-mlp] [--nfe 5] [--seeds 5]

First, Kendall's tau on schedules that the ensemble has not seen, after training on more and more; half
of each set are random schedules, half are mutants of known solvers, and tau is printed for the better half
of the unseen ones too, since that is where a search has to tell. Then the error on the search set after
equal numbers of measured schedules, median [least, greatest] over the seeds, by strategies that all begin
with the same known solvers; and how many each needs for what evolution reaches at the end.
"""

import argparse
import functools
import statistics
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import solvers
from diffusion import models
from diffusion.evaluate import Judge
from diffusion.genomes import search_problem
from diffusion.space import ScheduleSpace
from solvers import spaces
from solvers.command import Budget, keep_compiled
from solvers.predictor import Ensemble, kendall_tau
from solvers.problem import Problem

STRATEGIES = ("evolution", "predicted", "random")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="digits-mlp", help="as diffusion.search's")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST's files")
    parser.add_argument("--nfe", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--noises", type=int, default=256)
    parser.add_argument("--budget", type=int, default=400, help="beyond known solvers")
    flags = parser.parse_args()
    keep_compiled(on_host=False)
    model = models.load(flags.model, flags.data)
    judge = Judge(model, model.draw(jax.random.key(0), flags.noises))
    space = ScheduleSpace(noise=model.noise, evaluations=flags.nfe)
    problem = search_problem(space, model, judge)
    print(f"{flags.model}, NFE {flags.nfe}, {flags.noises} noises\n")
    _ranking(problem, flags.seeds)
    _searching(problem, flags.seeds, flags.budget)


def _ranking(problem: Problem, seeds: int) -> None:
    print("| trained on | tau, all unseen | tau, better half |")
    print("|---:|---:|---:|")
    rows: dict[int, list[tuple[float, float]]] = {}
    for seed in range(seeds):
        for size, found in _taus(
            problem, jax.random.key(seed), (32, 64, 128, 256, 512)
        ):
            rows.setdefault(size, []).append(found)
    for size, pairs in rows.items():
        whole, half = zip(*pairs, strict=True)
        print(f"| {size} | {_spread(whole, '.2f')} | {_spread(half, '.2f')} |")
    print(flush=True)


def _taus(
    problem: Problem, key: jax.Array, sizes: Sequence[int]
) -> list[tuple[int, tuple[float, float]]]:
    """Returns how well schedules are ranked that were not seen, by the number seen."""
    keys = jax.random.split(key, 5)
    count, unseen = max(sizes) + 256, 256
    assert problem.starts is not None
    pick = jax.random.randint(keys[0], (count // 2,), 0, len(problem.starts.choices))
    known = spaces.take(problem.starts, np.asarray(pick))
    mutate = jax.jit(jax.vmap(problem.space.mutate))
    repair = jax.jit(jax.vmap(problem.space.repair))
    mutants = repair(mutate(jax.random.split(keys[1], count // 2), known))
    drawn = spaces.sample(problem.space, keys[2], count // 2)
    genomes = spaces.concatenate([spaces.host(mutants), spaces.host(drawn)])
    order = np.asarray(jax.random.permutation(keys[3], count))
    genomes = spaces.take(genomes, order)
    measured = problem.oracle.measure(genomes)
    costs = np.array([m.costs for m in measured], np.float32)
    tokens = spaces.encode(problem.space, genomes)
    ensemble = Ensemble()
    held_out, truth = tokens[-unseen:], costs[-unseen:, 0]
    best = np.argsort(truth)[: unseen // 2]
    found = []
    for size in sizes:
        params = ensemble.init(keys[4], tokens[0], 1)
        padded = jnp.zeros((max(sizes), *tokens.shape[1:])).at[:size].set(tokens[:size])
        known_costs = np.full((max(sizes), 1), np.inf, np.float32)
        known_costs[:size] = costs[:size]
        params = ensemble.fit(
            keys[4], params, padded, jnp.asarray(known_costs), jnp.int32(size)
        )
        scores = np.asarray(ensemble.score(params, held_out))[..., 0].mean(axis=0)
        whole = kendall_tau(jnp.asarray(scores), jnp.asarray(truth))
        half = kendall_tau(jnp.asarray(scores[best]), jnp.asarray(truth[best]))
        found.append((size, (whole, half)))
    return found


def _searching(problem: Problem, seeds: int, budget: int) -> None:
    assert problem.starts is not None
    known = len(problem.starts.choices)
    marks = [known, *(known + budget * k // 8 for k in (1, 2, 4, 8))]
    curves: dict[str, list[np.ndarray]] = {}
    for strategy in STRATEGIES:
        for seed in range(seeds):
            limit = Budget(simulations=known + budget)
            found = solvers.search(problem, strategy, limit, seed)
            costs = np.minimum.accumulate(found.history[:, 0])
            curves.setdefault(strategy, []).append(costs)
    print("| strategy |" + "".join(f" after {mark} |" for mark in marks), end="")
    print(" evaluations to evolution's last |")
    print("|---|" + "---:|" * (len(marks) + 1))
    goal = [curve[-1] for curve in curves["evolution"]]
    for strategy, runs in curves.items():
        at = functools.partial(_at, runs)
        cells = "".join(f" {_spread(at(mark), '.4f')} |" for mark in marks)
        needed = []
        for curve, least in zip(runs, goal, strict=True):
            reached = np.flatnonzero(curve <= least)
            needed.append(float(reached[0] + 1) if len(reached) else np.inf)
        print(f"| {strategy} |{cells} {_spread(needed, '.0f')} |", flush=True)


def _at(runs: list[np.ndarray], mark: int) -> list[float]:
    return [float(curve[min(mark, len(curve)) - 1]) for curve in runs]


def _spread(values: Sequence[float], form: str) -> str:
    """Returns median [least, greatest]; infinity is `never`."""

    def text(value: float) -> str:
        return format(value, form) if np.isfinite(value) else "never"

    middle = statistics.median_low(values)
    return f"{text(middle)} [{text(min(values))}, {text(max(values))}]"


if __name__ == "__main__":
    main()
