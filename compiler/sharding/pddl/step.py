"""What a search says as it goes."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64


class Step(NamedTuple):
    """Progress."""

    assignment: Int64[np.ndarray, " N"]  # The best so far, of the instance.
    cost: int  # Exact.
    bound: float  # No assignment costs less.
    spent: int  # Evaluations since the last step.
