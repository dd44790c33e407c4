"""Measurements that each strategy of `solvers` needs, on problems whose optimum is known.

    python -m benchmarks.bench_strategies [--seeds 10] [--tune]

Each seed is another instance and another search. A *gap* is the share of the way from the mean
schedule to the optimum that is left: (best - optimum) / (mean - optimum). A schedule counts when it is
first measured. Settings are the strategies' defaults; they were chosen on the instances that `--tune`
runs, which are not those reported. Prints a Markdown table for benchmarks/results/strategies.md.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import solvers
from benchmarks import shops
from benchmarks.landscapes import all_costs, nk, nk_cost
from benchmarks.partition import partition_cost, random_partition
from solvers.command import Budget
from solvers.problem import Problem
from solvers.protocols import Strategy
from solvers.strategies import STRATEGIES, Beam, Mcts

TARGET = 0.2  # Gap.


@dataclass(frozen=True, kw_only=True)
class Family:
    """A kind of problem.

    Attributes:
        title: of its table.
        make: maps a seed to a problem, its optimum and its mean cost.
        budget: evaluations.
        strategies: by name.
    """

    title: str
    make: Callable[[int], tuple[Problem, float, float]]
    budget: int
    strategies: dict[str, Strategy]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--tune", action="store_true", help="on the tuning instances")
    parser.add_argument("--only", nargs="*", default=[], help="strategies")
    flags = parser.parse_args()
    seeds = range(flags.seeds) if flags.tune else range(1000, 1000 + flags.seeds)
    for family in families():
        print(f"\n## {family.title}, {family.budget} evaluations, {len(seeds)} seeds\n")
        print(
            f"| strategy | evaluations to a gap of {TARGET:.0%} | reached | gap at the end "
            "| optimum found | seconds a search |"
        )
        print("|---|---:|---:|---:|---:|---:|")
        for name, row in table(family, seeds, flags.only):
            print(f"| {name} | " + " | ".join(row) + " |", flush=True)


def families() -> list[Family]:
    """Returns what is reported."""
    vectors = ("random", "local", "evolution", "brkga", "predicted")
    by_name = {name: STRATEGIES[name] for name in vectors}
    planners: dict[str, Strategy] = {
        "beam": Beam(width=16),
        "mcts": Mcts(batch=4, num_simulations=16),
    }
    return [
        Family(
            title="NK landscapes, 18 bits, K = 2",
            make=lambda seed: _landscape(18, 2, 2, seed),
            budget=120,
            strategies=by_name,
        ),
        Family(
            title="NK landscapes, 9 choices of 4, K = 2",
            make=lambda seed: _landscape(9, 2, 4, seed),
            budget=120,
            strategies=by_name,
        ),
        Family(
            title="Number partitioning, 14 numbers",
            make=_partition,
            budget=240,
            strategies=by_name,
        ),
        Family(
            title="Job shops, 4 jobs x 4 machines, as a game (no prior) and by random keys",
            make=_shop,
            budget=600,
            strategies={
                **{name: STRATEGIES[name] for name in ("random", "local", "evolution")},
                "brkga": STRATEGIES["brkga"],
                **planners,
            },
        ),
    ]


def table(
    family: Family, seeds: Sequence[int], only: Sequence[str]
) -> Iterator[tuple[str, list[str]]]:
    """Yields a row for each strategy, in order."""
    made = [family.make(seed) for seed in seeds]
    for name, strategy in family.strategies.items():
        if only and name not in only:
            continue
        counts, gaps, seconds = [], [], []
        for seed, (problem, optimum, mean) in zip(seeds, made, strict=True):
            begun = time.process_time()
            found = solvers.search(
                problem, strategy, Budget(simulations=family.budget), seed
            )
            seconds.append(time.process_time() - begun)
            curve = np.minimum.accumulate(found.history[:, 0])
            gap = (curve - optimum) / (mean - optimum)
            # Planning spends evaluations inside the game, before its proposals are measured.
            spent = found.evaluations["simulator"] / len(gap)
            reached = np.flatnonzero(gap <= TARGET)
            counts.append(spent * (reached[0] + 1) if len(reached) else np.inf)
            gaps.append(gap[-1])
        yield (
            name,
            [
                _quartiles(counts, "{:.0f}"),
                f"{np.isfinite(counts).sum()}/{len(seeds)}",
                _quartiles(gaps, "{:.3f}"),
                f"{(np.asarray(gaps) < 1e-6).sum()}/{len(seeds)}",
                f"{np.median(seconds):.2f}",
            ],
        )


def _quartiles(values: Sequence[float], form: str) -> str:
    """Returns median [quartiles]; of counts that are infinite, the words."""
    # Ranks, not means between them: infinity is a value here.
    low, middle, high = (
        np.quantile(values, q, method="nearest") for q in (0.25, 0.5, 0.75)
    )

    def text(value: Any) -> str:
        return form.format(value) if np.isfinite(value) else "never"

    return f"{text(middle)} [{text(low)}, {text(high)}]"


def _landscape(
    length: int, others: int, options: int, seed: int
) -> tuple[Problem, float, float]:
    instance = nk(length, others, seed, options=options)
    costs = all_costs(instance, length, options=options)
    space = solvers.ChoiceSpace(sizes=(options,) * length)
    problem = solvers.played(space, nk_cost, instance)
    return problem, float(costs.min()), float(costs.mean())


def _partition(seed: int) -> tuple[Problem, float, float]:
    numbers, costs = random_partition(14, seed)
    space = solvers.ChoiceSpace(sizes=(2,) * 14)
    problem = solvers.played(space, partition_cost, numbers)
    return problem, float(costs[0]), float(costs.mean())


def _shop(seed: int) -> tuple[Problem, float, float]:
    shop = shops.random_shop(4, 4, seed)
    problem = solvers.evolved(shops.JobShop(4), shop)
    drawn = solvers.search(problem, "random", Budget(simulations=256), seed + 1)
    return problem, shops.best_makespan(shop), float(drawn.history.mean())


if __name__ == "__main__":
    main()
