"""CMA-ES, for spaces of numbers alone, by the library `cma` (Hansen 2016, arXiv:1604.00772)."""

import importlib
import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from solvers import spaces
from solvers.problem import Problem
from solvers.protocols import Genome, Proposal


class Search(NamedTuple):
    """A run of the library, which changes in place."""

    library: Any
    random: np.random.RandomState
    asked: tuple[np.ndarray, ...]


@dataclass(frozen=True, kw_only=True)
class CovarianceAdaptation:
    """The library's defaults, within [0, 1].

    Attributes:
        step: first standard deviation.
        batch: of a generation; None for the library's choice.
        restart: whether to start again, from a random schedule, where it has converged.
    """

    step: float = 0.25
    batch: int | None = None
    restart: bool = True

    def init(self, problem: Problem, key: PRNGKeyArray) -> Search:
        """Returns the library's own state.

        Raises:
            ValueError: if there are choices, or several objectives, or no `cma`.
        """
        if problem.space.sizes or problem.space.num_values < 2:
            raise ValueError("CMA-ES needs a space of two or more values, no choices")
        if problem.oracle.num_objectives != 1:
            raise ValueError("CMA-ES has one objective")
        seed = int(jax.random.randint(key, (), 0, 2**30))
        return self._start(problem.space.sample(key), np.random.RandomState(seed))

    def ask(
        self, problem: Problem, state: Search, key: PRNGKeyArray
    ) -> tuple[Proposal, Search]:
        """Returns the library's next generation."""
        if self.restart and state.library.stop():
            state = self._start(problem.space.sample(key), state.random)
        rows = state.library.ask()
        clipped = np.clip(np.asarray(rows, np.float32), 0, 1)
        none = np.zeros((len(rows), 0), np.int32)
        repaired = jax.vmap(problem.space.repair)(Genome(none, clipped))
        return Proposal(spaces.host(repaired)), state._replace(asked=tuple(rows))

    def tell(
        self, problem: Problem, state: Search, genomes: Genome, costs: np.ndarray
    ) -> Search:
        """Adapts; the best of starts from outside becomes the first mean."""
        ranked = np.where(np.isfinite(costs[:, 0]), costs[:, 0], _FAILED)
        if not state.asked:
            best = spaces.take(spaces.host(genomes), [int(np.argmin(ranked))])
            return self._start(Genome(*(x[0] for x in best)), state.random)
        state.library.tell(list(state.asked), list(ranked))
        return state._replace(asked=())

    def _start(self, mean: Genome, random: np.random.RandomState) -> Search:
        try:
            with warnings.catch_warnings():
                # It warns where there is no matplotlib, which only its plots need.
                warnings.simplefilter("ignore", UserWarning)
                cma = importlib.import_module("cma")
        except ImportError:
            raise ValueError(
                "CMA-ES needs the library cma: pip install 'schedule-zero[tune]'"
            ) from None
        # A generator of our own: by default the library seeds NumPy's, which is everybody's.
        options = {
            "seed": np.nan,
            "randn": random.randn,
            "bounds": [0, 1],
            "verbose": -9,
        }
        if self.batch is not None:
            options["popsize"] = self.batch
        start = np.asarray(mean.values, np.float64)
        return Search(cma.CMAEvolutionStrategy(start, self.step, options), random, ())


_FAILED = 1e30  # The library can't rank infinities.
