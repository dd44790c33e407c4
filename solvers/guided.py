"""Predictor-guided search over vectors of choices, for tens of measurements that cost seconds each.

`strategies.predicted` learns an order from scratch and wants a few dozen measurements first; this
one starts from what other problems of the same kind showed, and pays from the second measurement on.

A vector gives each of K knobs one of its values; value 0 is the default. The predictor is Bayesian
linear regression of the log of cost over default on which knobs are off their default. Its prior
may come from other problems of the same kind, with the correlations seen there: when one large
value hurts, the next larger one is expected to. Each turn measures the neighbour or crossing of the
best measured vectors that has the largest expected improvement. Nothing is proposed twice.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from solvers.protocols import Genome, Proposal

if TYPE_CHECKING:
    from jaxtyping import PRNGKeyArray

    from solvers.problem import Problem

Vector = tuple[int, ...]
Floats = NDArray[np.float64]

_NOISE = 0.01  # Of the log cost: what the linear form leaves out.
_SPREAD = 0.03  # Prior deviation of one value's effect without better knowledge.
_LEAST = 0.01  # The same, where all samples agree.
_KEPT = 0.7  # Share of the samples' correlations that is believed.
# A loss counts as no more than this, in the log: else a value that ruined one problem would
# look uncertain enough to be promising on the next.
_WORST = 0.1
_PARENTS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prior:
    """What is expected of the F values beside the defaults, knob by knob, before any measurement.

    Attributes:
        mean: of the change of the log of the cost, [F].
        covariance: of that, [F, F].
    """

    mean: Floats
    covariance: Floats

    @classmethod
    def flat(cls, sizes: Sequence[int]) -> "Prior":
        """Returns the prior that expects nothing, for knobs of so many values each."""
        count = sum(sizes) - len(sizes)
        return cls(mean=np.zeros(count), covariance=np.eye(count) * _SPREAD**2)

    @classmethod
    def of_samples(cls, samples: Floats) -> "Prior":
        """Returns the prior that other problems lead to.

        Args:
            samples: changes of the log of the cost by problem and value, [N, F]; infinite if that
                value failed.
        """
        count, width = samples.shape
        # As if one more problem had shown no effect of anything.
        seen = np.vstack([np.minimum(samples, _WORST), np.zeros(width)])
        mean = seen.mean(axis=0)
        apart = seen - mean
        covariance = apart.T @ apart / (count + 1)
        own = np.diag(np.diag(covariance))
        covariance = _KEPT * covariance + (1 - _KEPT) * own + _LEAST**2 * np.eye(width)
        return cls(mean=mean, covariance=covariance)


class Guided:
    """The search: `propose` a vector, measure it, `tell` what it cost."""

    def __init__(self, sizes: Sequence[int], prior: Prior) -> None:
        """
        Args:
            sizes: number of values of each knob, K.
            prior: of as many values.

        Raises:
            ValueError: the prior is for other knobs.
        """
        self._sizes = tuple(sizes)
        self._offsets = np.cumsum([0, *[size - 1 for size in sizes]])
        if prior.mean.shape != (self._offsets[-1],):
            raise ValueError(f"{len(prior.mean)} priors for {self._offsets[-1]} values")
        self._prior = prior
        self._measured: dict[Vector, float] = {}

    @property
    def default(self) -> Vector:
        """The vector of all defaults."""
        return (0,) * len(self._sizes)

    @property
    def knows_default(self) -> bool:
        """Whether the default was measured, which everything is compared with."""
        return math.isfinite(self._measured.get(self.default, math.inf))

    def tell(self, vector: Vector, cost: float) -> None:
        """Records a measurement; an infinite cost says that it failed, which counts as a loss."""
        self._measured[vector] = cost

    def best(self) -> tuple[Vector, float]:
        """Returns the cheapest vector measured, and its cost."""
        return min(self._measured.items(), key=lambda item: item[1])

    def propose(self) -> Vector | None:
        """Returns the vector to measure next, or None if its surroundings are exhausted.

        The default must have been told.
        """
        candidates = sorted(set(self._surroundings()) - self._measured.keys())
        if not candidates:
            return None
        features = self._features(candidates)
        mean, covariance = self.posterior()
        deviation = np.sqrt(
            np.einsum("cf,fg,cg->c", features, covariance, features) + _NOISE**2
        )
        best = math.log(self.best()[1] / self._measured[self.default])
        gains = _expected_improvement(best - features @ mean, deviation)
        return candidates[int(np.argmax(gains))]

    def posterior(self) -> tuple[Floats, Floats]:
        """Returns mean [F] and covariance [F, F] of the values' effects (Bishop, PRML, eq. 3.50)."""
        base = self._measured[self.default]
        features = self._features(list(self._measured))
        costs = np.array(list(self._measured.values()))
        change = np.where(np.isinf(costs), _WORST, np.log(costs / base))
        prior = np.linalg.inv(self._prior.covariance)
        covariance = np.linalg.inv(prior + features.T @ features / _NOISE**2)
        pull = prior @ self._prior.mean + features.T @ change / _NOISE**2
        return covariance @ pull, (covariance + covariance.T) / 2

    def _features(self, vectors: Sequence[Vector]) -> Floats:
        rows = np.zeros((len(vectors), int(self._offsets[-1])))
        for row, vector in zip(rows, vectors, strict=True):
            for knob, value in enumerate(vector):
                if value:
                    row[self._offsets[knob] + value - 1] = 1.0
        return rows

    def _surroundings(self) -> Iterator[Vector]:
        """One value changed, and crossings, of the best vectors measured."""
        ranked = sorted(
            (v for v, cost in self._measured.items() if math.isfinite(cost)),
            key=lambda v: self._measured[v],
        )
        parents = ranked[:_PARENTS]
        for parent in parents:
            for knob, size in enumerate(self._sizes):
                for value in range(size):
                    yield (*parent[:knob], value, *parent[knob + 1 :])
        for one in parents:
            for other in parents:
                yield tuple(b or a for a, b in zip(one, other, strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Informed:
    """`Guided` as a strategy of the engine: one schedule a turn, the default (all zeros) first.

    Attributes:
        prior: what other problems showed; None expects nothing.
    """

    prior: Prior | None = None

    def init(self, problem: "Problem", key: "PRNGKeyArray") -> Guided:
        """Returns a search that has measured nothing.

        Raises:
            ValueError: if there are values, or several objectives.
        """
        if problem.space.num_values or problem.oracle.num_objectives != 1:
            raise ValueError("a guided search has choices only, and one objective")
        sizes = problem.space.sizes
        return Guided(sizes, self.prior or Prior.flat(sizes))

    def ask(
        self, problem: "Problem", state: Guided, key: "PRNGKeyArray"
    ) -> tuple[Proposal, Guided]:
        """Returns the default, then the vector of largest expected improvement."""
        vector = state.propose() if state.knows_default else state.default
        # With nothing left it repeats itself, which ends the search.
        chosen = np.array([vector or state.default], np.int32)
        return Proposal(Genome(chosen, np.zeros((1, 0), np.float32))), state

    def tell(
        self,
        problem: "Problem",
        state: Guided,
        genomes: Genome,
        costs: Floats,
    ) -> Guided:
        """Records the costs."""
        for row, cost in zip(np.asarray(genomes.choices), costs[:, 0], strict=True):
            state.tell(tuple(map(int, row)), float(cost))
        return state


def _expected_improvement(margin: Floats, deviation: Floats) -> Floats:
    """Mean of max(0, x) for x normal with mean `margin` (Jones et al. 1998, eq. 15)."""
    z = margin / deviation
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    below = np.array([math.erfc(-x / math.sqrt(2)) / 2 for x in z])
    return margin * below + deviation * density
