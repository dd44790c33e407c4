"""Problems whose optimum is known, for tests of the engine."""

import functools

import numpy as np

import solvers
from benchmarks.landscapes import all_costs, nk, nk_cost
from benchmarks.partition import partition_cost, random_partition
from solvers.problem import Problem


@functools.cache
def nk_problem(length: int, links: int, seed: int) -> tuple[Problem, float]:
    """Returns an NK landscape and its least cost."""
    instance = nk(length, links, seed)
    problem = solvers.played(
        solvers.ChoiceSpace(sizes=(2,) * length), nk_cost, instance
    )
    return problem, float(all_costs(instance, length).min())


def partition_problem(length: int, seed: int) -> tuple[Problem, np.ndarray]:
    """Returns a partition problem and the costs of all splits, sorted."""
    instance, costs = random_partition(length, seed)
    space = solvers.ChoiceSpace(sizes=(2,) * length)
    return solvers.played(space, partition_cost, instance), costs
