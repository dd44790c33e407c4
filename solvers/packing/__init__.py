"""Offset packing (static memory allocation): buffers with known lives get offsets. No domain.

    buffers = [Buffer("a", (Part(0, 3, 4),)), Buffer("b", (Part(2, 9, 4),))]
    *_, last = search(buffers, capacity=8)
    last.packing.offsets, last.packing.height, last.bound

`python -m solvers.packing FILE.csv` is the command.
"""

from solvers.packing.check import violations
from solvers.packing.fit import XLA_ORDERS, Packer, simple_packings
from solvers.packing.problem import Buffer, Packing, Part, lower_bound, packing
from solvers.packing.solve import METHODS, choose, search
from solvers.packing.step import Step

__all__ = [
    "METHODS",
    "XLA_ORDERS",
    "Buffer",
    "Packer",
    "Packing",
    "Part",
    "Step",
    "choose",
    "lower_bound",
    "packing",
    "search",
    "simple_packings",
    "violations",
]
