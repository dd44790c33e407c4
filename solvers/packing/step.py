"""What every method of packing tells while it runs."""

import dataclasses

from solvers.packing.problem import Packing


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One piece of a search.

    Attributes:
        evaluations: placements, orders or models tried in it.
        packing: the lowest packing so far, or None.
        bound: bytes that no packing undercuts.
    """

    evaluations: int
    packing: Packing | None
    bound: int
