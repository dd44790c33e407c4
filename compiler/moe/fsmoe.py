"""FSMoE's closed forms: the time of a pipelined expert layer, and the best number of chunks.

Three streams run at once: all-to-alls and the gradients' all-reduce between nodes, all-gathers and reduce-scatters
inside a node, experts. With A, G, S, X the times of one of r chunks (`performance.Line`) and `gradient` the time of the
all-reduce that is put right after the last dispatch (arXiv 2501.10714, section 4):

| case | time | bound by |
|---|---|---|
| 1 | 2r·A + gradient | links between nodes, all-reduce included |
| 2 | 2A + G + S + r·X | experts |
| 3 | 2r·A + G + S | all-to-alls |
| 4 | 2A + r·G + r·S | links inside the node |

Everything is NumPy and broadcasts: times of K configurations are arrays [K], degrees [R] come as a further axis.
Times are in the unit of the lines.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compiler.moe.configurations import Ratios, Volumes
from compiler.moe.performance import Line, PerformanceModel

MAX_DEGREE = 32

Floats = NDArray[np.float64]


class Task(NamedTuple):
    """A task in whole: a start-up paid by each chunk, and the rest, that chunks share.

    Attributes:
        startup: α, [K] or a number.
        work: n·β, [K] or a number.
    """

    startup: Floats
    work: Floats

    def chunk(self, degree: ArrayLike) -> Floats:
        """Returns the time of one of `degree` chunks; [K R] for a degree [R] and times [K 1]."""
        return self.startup + self.work / np.asarray(degree, float)


class Tasks(NamedTuple):
    """The tasks of one direction of a layer, each in whole."""

    exchange: Task
    gather: Task
    scatter: Task
    expert: Task


class Times(NamedTuple):
    """Of one chunk: A, G, S and X."""

    exchange: Floats
    gather: Floats
    scatter: Floats
    expert: Floats


def task(line: Line, volume: ArrayLike, count: ArrayLike = 1) -> Task:
    """Returns `count` tasks in a row that have one volume together."""
    return Task(
        np.asarray(count, float) * line.startup, np.asarray(volume, float) * line.slope
    )


def tasks(
    model: PerformanceModel,
    volumes: Volumes,
    *,
    backward: bool = False,
    ratios: Ratios | None = None,
) -> Tasks:
    """Returns a layer's tasks on a machine.

    Args:
        model: with lines for all-to-all, all-gather, reduce-scatter and GEMMs.
        volumes: of the layer; fields may be arrays [K].
        backward: whether experts cost twice, start-up and slope, for gradients of weights and of inputs.
        ratios: multiples of the lines' times; None for 1.
    """
    r = ratios or Ratios()
    twice = 2.0 if backward else 1.0

    def scaled(by: float, whole: Task) -> Task:
        return Task(by * whole.startup, by * whole.work)

    return Tasks(
        scaled(r.exchange, task(model["all_to_all"], volumes.exchange)),
        scaled(r.gather, task(model["all_gather"], volumes.gather)),
        scaled(r.scatter, task(model["reduce_scatter"], volumes.scatter)),
        scaled(
            twice * r.expert, task(model["gemm"], volumes.expert, volumes.expert_gemms)
        ),
    )


def chunk_times(whole: Tasks, degree: ArrayLike) -> Times:
    """Returns A, G, S, X at a degree."""
    return Times(*(part.chunk(degree) for part in whole))


def case(
    whole: Tasks, degree: ArrayLike, gradient: ArrayLike = 0.0
) -> NDArray[np.int_]:
    """Returns which of the four cases holds: exactly one does.

    Args:
        whole: the tasks, [K] or broadcast against the degree.
        degree: r, at least 1.
        gradient: time of the all-reduce that shares the links between nodes.
    """
    a, g, s, x = chunk_times(whole, degree)
    r = np.asarray(degree, float)
    t = np.asarray(gradient, float)
    q1 = a > g
    q2 = r * x > 2 * (r - 1) * a
    q3 = r * x > (r - 1) * (g + s)
    q4 = t > g + s
    q5 = t > r * x - 2 * (r - 1) * a + g + s  # Also Q7.
    q6 = t > r * g + r * s - 2 * (r - 1) * a
    inter = np.where(q1, np.where(q2, q5, q4), np.where(q3, q5, q6))
    experts = np.where(q1, q2, q3)
    return np.where(inter, 1, np.where(experts, 2, np.where(q1, 3, 4)))


def layer_time(whole: Tasks, degree: ArrayLike, gradient: ArrayLike = 0.0) -> Floats:
    """Returns the time of the case that holds. Arguments as in `case`."""
    a, g, s, x = chunk_times(whole, degree)
    r = np.asarray(degree, float)
    which = case(whole, degree, gradient)
    return np.choose(
        which - 1,
        [
            2 * r * a + np.asarray(gradient, float),
            2 * a + g + s + r * x,
            2 * r * a + g + s,
            2 * a + r * g + r * s,
        ],
    )


def window(whole: Tasks, degree: ArrayLike) -> Floats:
    """Returns for how long the links between nodes are free inside the layer, if no gradient is there (section 5.1)."""
    a, g, s, x = chunk_times(whole, degree)
    r = np.asarray(degree, float)
    which = case(whole, degree)
    free = np.choose(
        which - 1,
        [
            np.zeros_like(a * r),
            r * x + g + s - 2 * (r - 1) * a,
            (g + s) * np.ones_like(r),
            r * g + r * s - 2 * (r - 1) * a,
        ],
    )
    return np.maximum(free, 0.0)


class Choice(NamedTuple):
    """A number of chunks, and what it costs; [K] each."""

    degree: NDArray[np.int_]
    time: Floats


def degrees(maximum: int = MAX_DEGREE) -> NDArray[np.int_]:
    """Returns 1..maximum."""
    return np.arange(1, maximum + 1)


def column(whole: Tasks) -> Tasks:
    """Returns tasks with an axis for degrees: [K 1]."""
    return Tasks(
        *(Task(*(np.asarray(part)[..., None] for part in item)) for item in whole)
    )


def best(times: Floats, candidates: NDArray[np.int_]) -> Choice:
    """Returns the cheapest of times [K R] at degrees [R]; the smaller degree of equals."""
    index = np.argmin(times, axis=-1)
    return Choice(
        candidates[index], np.take_along_axis(times, index[..., None], axis=-1)[..., 0]
    )


def enumerated(
    whole: Tasks,
    gradient: ArrayLike = 0.0,
    candidates: NDArray[np.int_] | None = None,
) -> Choice:
    """Returns the best degree by trying all: exact, and needs no solver.

    Args:
        whole: tasks [K].
        gradient: [K] or a number.
        candidates: degrees [R]; 1..32 by default.
    """
    tried = degrees() if candidates is None else candidates
    times = layer_time(column(whole), tried, np.asarray(gradient, float)[..., None])
    return best(times, tried)


def by_slsqp(whole: Tasks, gradient: float = 0.0, maximum: int = MAX_DEGREE) -> Choice:
    """Returns the best degree as the paper finds it: each case's time minimised by SLSQP under its condition.

    The conditions are unions, so each conjunction is a problem of its own. The real optimum is rounded both ways, and
    the better whole number kept, priced by the case that holds there.

    Args:
        whole: tasks of one layer (numbers, not arrays).
        gradient: time of the all-reduce.
        maximum: of the degree.
    """
    from scipy import optimize

    def signs(r: float) -> Floats:
        a, g, s, x = chunk_times(whole, r)
        q5 = gradient - (r * x - 2 * (r - 1) * a + g + s)
        q6 = gradient - (r * g + r * s - 2 * (r - 1) * a)
        return np.array(
            [
                a - g,
                r * x - 2 * (r - 1) * a,
                r * x - (r - 1) * (g + s),
                gradient - (g + s),
                q5,
                q6,
            ]
        )

    def time(number: int, r: float) -> float:
        a, g, s, x = chunk_times(whole, r)
        return float(
            (
                2 * r * a + gradient,
                2 * a + g + s + r * x,
                2 * r * a + g + s,
                2 * a + r * g + r * s,
            )[number - 1]
        )

    found = {1, maximum}
    for number, wanted in _CONJUNCTIONS:
        rows = np.array([index for index, _ in wanted])
        sides = np.array([side for _, side in wanted], float)
        result = optimize.minimize(
            lambda r, n=number: time(n, r[0]),
            x0=[2.0],
            bounds=[(1.0, float(maximum))],
            method="SLSQP",
            constraints={
                "type": "ineq",
                "fun": lambda r, i=rows, k=sides: k * signs(r[0])[i],
            },
        )
        if np.isfinite(result.x[0]):
            below = int(np.clip(np.floor(result.x[0]), 1, maximum))
            found |= {below, min(below + 1, maximum)}
    tried = np.array(sorted(found))
    return best(layer_time(whole, tried, gradient), tried)


# Case, and what must hold: pairs of a row of `signs` (Q1 to Q6) and its sign. Q7 is Q5.
_CONJUNCTIONS: tuple[tuple[int, tuple[tuple[int, int], ...]], ...] = (
    (1, ((0, 1), (1, -1), (3, 1))),
    (1, ((0, 1), (1, 1), (4, 1))),
    (1, ((0, -1), (2, -1), (5, 1))),
    (1, ((0, -1), (2, 1), (4, 1))),
    (2, ((0, 1), (1, 1), (4, -1))),
    (2, ((0, -1), (2, 1), (4, -1))),
    (3, ((0, 1), (1, -1), (3, -1))),
    (4, ((0, -1), (2, -1), (5, -1))),
)
