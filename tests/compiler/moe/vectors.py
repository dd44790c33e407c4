"""The test vectors of the four cases: test bed B's lines, two GEMMs of start-up, milliseconds."""

from compiler.moe.fsmoe import Tasks, task
from compiler.moe.performance import TESTBED_B, Line

N = 8_388_608
DEGREES = (1, 2, 3, 4, 6, 8)
# Exchange, gather (and scatter), expert volumes, time of the all-reduce.
VECTORS = {
    "v1": (N, 4 * N, 2e11, 0.0),
    "v2": (N, N, 4e11, 0.0),
    "v3": (4 * N, N, 5e10, 0.0),
    "v4": (N, 4 * N, 2e11, 10.0),
}
CLOSED = {
    "v1": ((25.820, 17.818, 15.274, 14.094, 13.099, 12.801), (2, 2, 2, 2, 2, 4)),
    "v2": ((26.230, 22.443, 21.304, 20.826, 20.534, 20.573), (2, 2, 2, 2, 2, 2)),
    "v3": ((26.161, 22.712, 22.593, 22.709, 23.175, 23.758), (2, 3, 3, 3, 3, 3)),
    "v4": ((25.820, 17.818, 16.184, 16.534, 17.234, 17.934), (2, 2, 1, 1, 1, 1)),
}
SIMULATED = {
    **{name: times for name, (times, _) in CLOSED.items()},
    "v3": (26.161, 21.235, 21.585, 21.935, 22.635, 23.335),
}


def vector(name: str) -> tuple[Tasks, float]:
    """Returns a vector's tasks and the time of its all-reduce."""
    exchange, gather, expert, gradient = VECTORS[name]
    gemm = TESTBED_B["gemm"]
    experts = Line(startup=2 * gemm.startup, slope=gemm.slope)
    return Tasks(
        task(TESTBED_B["all_to_all"], exchange),
        task(TESTBED_B["all_gather"], gather),
        task(TESTBED_B["reduce_scatter"], gather),
        task(experts, expert),
    ), gradient
