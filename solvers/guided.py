"""Predictor-guided search over vectors of choices, for oracles that cost seconds a call.

A vector gives each of K knobs one of its values; value 0 is the default. The predictor is Bayesian
linear regression of the log of cost over default on which knobs are off their default, with a
prior that may come from other problems of the same kind: few measurements are enough, and what was
not tried keeps its prior. Each turn draws one plausible weighting from the posterior (Thompson
sampling) and measures the vector that it likes best among neighbours and crossings of the best
measured ones. Nothing is proposed twice.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Vector = tuple[int, ...]

_NOISE = 0.01  # Of the log cost: what the linear form leaves out.
_SPREAD = 0.03  # Prior deviation of one value's effect without better knowledge.
_PARENTS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prior:
    """What is expected of each value of each knob before anything is measured.

    Attributes:
        mean: of the change of the log of the cost, one row per knob, entry 0 is 0.
        deviation: of that, the same shape.
    """

    mean: tuple[tuple[float, ...], ...]
    deviation: tuple[tuple[float, ...], ...]

    @classmethod
    def flat(cls, sizes: Sequence[int]) -> "Prior":
        """Returns the prior that expects nothing, for knobs of so many values each."""
        return cls(
            mean=tuple((0.0,) * size for size in sizes),
            deviation=tuple((0.0, *[_SPREAD] * (size - 1)) for size in sizes),
        )


class Guided:
    """The search: `propose` a vector, measure it, `tell` what it cost."""

    def __init__(self, sizes: Sequence[int], prior: Prior, seed: int) -> None:
        """
        Args:
            sizes: number of values of each knob, K.
            prior: of the same sizes.
            seed: of all randomness.
        """
        self._sizes = tuple(sizes)
        self._offsets = np.cumsum([0, *[size - 1 for size in sizes]])
        self._mean = np.array([m for row in prior.mean for m in row[1:]])
        self._deviation = np.array([d for row in prior.deviation for d in row[1:]])
        self._random = np.random.default_rng(seed)
        self._measured: dict[Vector, float] = {}

    @property
    def default(self) -> Vector:
        """The vector of all defaults."""
        return (0,) * len(self._sizes)

    def tell(self, vector: Vector, cost: float) -> None:
        """Records a measurement; an infinite cost says that it failed."""
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
        mean, covariance = self.posterior()
        weights = self._random.multivariate_normal(mean, covariance, method="cholesky")
        scores = self._features(candidates) @ weights
        return candidates[int(np.argmin(scores))]

    def posterior(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns mean [F] and covariance [F, F] of the values' effects (Bishop, PRML, eq. 3.53)."""
        base = self._measured[self.default]
        seen = [v for v, cost in self._measured.items() if math.isfinite(cost)]
        features = self._features(seen)
        change = np.log([self._measured[v] / base for v in seen])
        precision = np.diag(1 / self._deviation**2) + features.T @ features / _NOISE**2
        covariance = np.linalg.inv(precision)
        pull = self._mean / self._deviation**2 + features.T @ change / _NOISE**2
        return covariance @ pull, (covariance + covariance.T) / 2

    def _features(self, vectors: Sequence[Vector]) -> NDArray[np.float64]:
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
