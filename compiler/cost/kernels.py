"""Cost estimates that hand-written kernels carry with them."""

from typing import NamedTuple

from compiler.hlo import Node
from compiler.hlo.loops import backend_config


class Estimate(NamedTuple):
    """What the author of a kernel says that it costs."""

    flops: float
    transcendentals: float
    bytes_accessed: float


def kernel_estimate(node: Node) -> Estimate | None:
    """Returns the estimate of a custom call, None if it brings none."""
    if node.opcode != "custom-call":
        return None
    call = backend_config(node).get("custom_call_config")
    estimate = call.get("cost_estimate") if isinstance(call, dict) else None
    if not isinstance(estimate, dict):
        return None
    try:
        return Estimate(
            *(max(float(estimate.get(field, 0)), 0.0) for field in Estimate._fields)
        )
    except (TypeError, ValueError, OverflowError):
        return None
