"""The compiler's own cost estimates, which it writes into the final module."""

import re

from compiler.hlo.module import Node

# int64 figures are strings in the JSON of protobuf.
_CYCLES = re.compile(rb'"(?:estimated_cycles|end_to_end_cycles)":"?([0-9.e+]+)')


def estimated_cycles(node: Node) -> int | None:
    """Returns the estimated cycles of one run of an instruction, None if it carries no figure.

    TPU: `estimated_cycles`, which sits in the window configuration. GPU: the last `end_to_end_cycles`, of the cost
    model that the compiler settled on.
    """
    figures = _CYCLES.findall(node.attributes.backend_config)
    return round(float(figures[-1])) if figures else None
