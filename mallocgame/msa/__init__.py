"""XLA's memory-space assignment, re-implemented: the mapping that users have today.

Plain Python and NumPy on the host. What is modelled is the open-source algorithm with the settings
of the TPU compiler; what the TPU compiler adds and does not publish (which arrays a prefetch slices,
and how) was read off its dumps. `benchmarks/bench_agreement.py` measures how much of the compiler's
own solution comes out.
"""

from mallocgame.msa.assign import Assignment, assign
from mallocgame.msa.settings import Settings

__all__ = ["Assignment", "Settings", "assign"]
