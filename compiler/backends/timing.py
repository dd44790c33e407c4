"""What repeated runs say: medians, and how sure a ratio is."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

_CONFIDENCE = 0.95
# Runs of each program below which no interval of that confidence exists.
FEWEST_RUNS = 6


class Ratio(NamedTuple):
    """Time of a program over that of the one it is compared with, run by run.

    Attributes:
        median: of the runs' ratios.
        low: lower end of an interval that holds the true median with 95 % confidence.
        high: its upper end.
    """

    median: float
    low: float
    high: float

    @property
    def is_faster(self) -> bool:
        return self.high < 1.0

    @property
    def is_slower(self) -> bool:
        return self.low > 1.0


def ratio(times: Sequence[float], against: Sequence[float]) -> Ratio:
    """Compares runs that were taken side by side, pair by pair, so that drift cancels.

    The interval is that of the sign test: it asks nothing of the distribution.

    Raises:
        ValueError: there are fewer runs than `FEWEST_RUNS`.
    """
    pairs = sorted(one / other for one, other in zip(times, against, strict=True))
    count = len(pairs)
    if count < FEWEST_RUNS:
        raise ValueError(f"{count} runs say too little: at least {FEWEST_RUNS}")
    tail, outside = 0.0, 0
    while True:
        tail += math.comb(count, outside) / 2**count
        if tail > (1 - _CONFIDENCE) / 2:
            break
        outside += 1
    return Ratio(statistics.median(pairs), pairs[outside - 1], pairs[-outside])


def choose(ratios: Sequence[Ratio]) -> int | None:
    """Returns which of several programs to take instead of the one they were compared with.

    The quickest of those that are faster beyond doubt; if none is, the first that is not slower
    beyond doubt, since they come in the order of another judge; None if all are slower.
    """
    faster = [k for k, one in enumerate(ratios) if one.is_faster]
    if faster:
        return min(faster, key=lambda k: ratios[k].median)
    return next((k for k, one in enumerate(ratios) if not one.is_slower), None)
