"""How far the model is off: what the compiler said of some plans, carried over to others that cut alike.

Kriging with an exponential covariance over the share of units that two plans cut differently.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from compiler.sharding.candidates import Candidate
from solvers.kriging import posterior

# Of the correction's logarithm: how far the model is off, how alike plans must be, what one compile says for itself.
_SPREAD, _RANGE, _NOISE = 0.2, 0.3, 0.02
_BARE = 0.2  # Correlation of a plan with itself without constraints.


def corrections(
    codes: Int[np.ndarray, "P U"], done: Sequence[Candidate]
) -> tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]]:
    """Returns the log of compiled over predicted time to expect of plans, and its standard deviation.

    Args:
        codes: of the plans, which are not bare.
        done: what was compiled, or refused.
    """
    known = [one for one in done if one.judged]
    prior = np.full(len(codes), _SPREAD)
    if not known:
        return np.zeros(len(codes)), prior
    theirs = np.stack([one.codes for one in known])
    ratios = np.array(
        [math.log(one.judged.timeline.total / one.predicted) for one in known]  # type: ignore[union-attr]
    )
    bare = np.array([one.bare for one in known])
    # In units of the prior's variance.
    mean, deviation = posterior(
        _alike(theirs, theirs) * np.where(bare[:, None] == bare, 1.0, _BARE),
        _alike(codes, theirs) * np.where(bare, _BARE, 1.0),
        np.ones(len(codes)),
        (_NOISE / _SPREAD) ** 2,
        ratios,
    )
    return mean, _SPREAD * deviation


def _alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns the correlation of plans [P Q], by their codes."""
    return np.stack(
        [np.exp(-np.mean(one != row, axis=1) / _RANGE) for row in other], axis=1
    )
