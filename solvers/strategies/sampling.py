"""Random search: what every other strategy has to beat."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import PRNGKeyArray

from solvers import spaces
from solvers.problem import Problem
from solvers.protocols import Genome, Proposal


@dataclass(frozen=True, kw_only=True)
class Random:
    """Draws from the space.

    Attributes:
        batch: schedules at a time.
    """

    batch: int = 16

    def init(self, problem: Problem, key: PRNGKeyArray) -> None:
        """Nothing is remembered."""

    def ask(
        self, problem: Problem, state: None, key: PRNGKeyArray
    ) -> tuple[Proposal, None]:
        """Returns a batch of samples."""
        return Proposal(spaces.sample(problem.space, key, self.batch)), None

    def tell(
        self, problem: Problem, state: None, genomes: Genome, costs: np.ndarray
    ) -> None:
        """Learns nothing."""
