"""Other systems' schedules in the terms of `fsmoe`, so that they can be compared on the same lines.

A layer is taken out of the middle of a long stack: its time is that of its forward and backward pass and of the dense
part of both, and it has one layer's gradients to reduce. What the systems do with these (the papers' own
implementations differ in kernels too, which is not modelled):

| name | exchanges and experts | collectives inside the node | gradients |
|---|---|---|---|
| sequential | one after another | " | after the backward pass |
| deepspeed-moe | one after another, hierarchical: a pass inside the node before each exchange | " | after |
| pipemoe | exchanges beside experts | with the experts, in their stream | after |
| lina | as pipemoe | " | 30 MB pieces wherever the links between nodes are free |
| tutel | exchanges beside experts, one degree for both directions | with the exchanges, in their stream | after |
| tutel-improved | as tutel | " | beside the dense part |
| fsmoe-no-iio | as tutel, a degree for each direction | " | inside and beside, best share |
| fsmoe | three streams, a degree for each direction | their own stream | inside and beside, best share |
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compiler.moe import fsmoe
from compiler.moe.fsmoe import Choice, Floats, Task, Tasks
from compiler.moe.gradients import reduce_time
from compiler.moe.performance import Line

# Lina's fixed pieces, 30 MB of float32.
LINA_ELEMENTS = 30 * 2**20 / 4
_SHARES = np.linspace(0, 1, 33)


class Layer(NamedTuple):
    """Layers to be scheduled, [K].

    Attributes:
        forward, backward: tasks of the experts' part.
        dense_forward, dense_backward: time of the dense part.
        gradient: volume to reduce.
        all_reduce: its line.
    """

    forward: Tasks
    backward: Tasks
    dense_forward: Floats
    dense_backward: Floats
    gradient: Floats
    all_reduce: Line


class Outcome(NamedTuple):
    """What a schedule decides and takes, [K]."""

    forward_degree: NDArray[np.int_]
    backward_degree: NDArray[np.int_]
    forward: Floats
    backward: Floats

    @property
    def time(self) -> Floats:
        """Of both directions."""
        return self.forward + self.backward


def two_streams(
    into: Floats,
    out: Floats,
    work: Floats,
    degree: ArrayLike,
    gradient: ArrayLike = 0.0,
) -> Floats:
    """Returns the time of r chunks that are sent in, worked on and sent out, sends of both kinds in one stream.

    All chunks are sent in first, then comes the gradient, then they are sent out. The work of chunk j ends at
    E_j = in + max(j·work, (j−1)·in + work), and sending out waits for the stream or for some chunk:

        max(r·in + gradient + r·out, max over j of E_j + (r−j+1)·out)

    in which the second maximum is at an end, j = 1 or j = r, because E_j is convex in j.

    Args:
        into, out, work: times of one chunk.
        degree: r.
        gradient: time of the all-reduce in the same stream.
    """
    r = np.asarray(degree, float)
    last = into + np.maximum(r * work, (r - 1) * into + work)
    stream = r * into + np.asarray(gradient, float) + r * out
    return np.maximum(stream, np.maximum(into + work + r * out, last + out))


def tutel_time(whole: Tasks, degree: ArrayLike, gradient: ArrayLike = 0.0) -> Floats:
    """Returns the time with every collective in one stream."""
    a, g, s, x = fsmoe.chunk_times(whole, degree)
    return two_streams(a + g, s + a, x, degree, gradient)


def pipemoe_time(whole: Tasks, degree: ArrayLike, gradient: ArrayLike = 0.0) -> Floats:
    """Returns the time with exchanges in one stream and all else in the other."""
    a, g, s, x = fsmoe.chunk_times(whole, degree)
    return two_streams(a, a, g + x + s, degree, gradient)


_Time = Callable[[Tasks, ArrayLike, ArrayLike], Floats]


def _best(time: _Time, whole: Tasks, candidates: NDArray[np.int_]) -> Choice:
    return fsmoe.best(
        np.asarray(time(fsmoe.column(whole), candidates, 0.0)), candidates
    )


def _after(layer: Layer) -> Floats:
    return layer.dense_backward + reduce_time(layer.all_reduce, layer.gradient)


def _sequential(layer: Layer, _: NDArray[np.int_]) -> Outcome:
    one = np.ones(np.shape(layer.gradient), np.int64)
    return Outcome(
        one,
        one,
        tutel_time(layer.forward, 1) + layer.dense_forward,
        tutel_time(layer.backward, 1) + _after(layer),
    )


def _deepspeed(layer: Layer, candidates: NDArray[np.int_]) -> Outcome:
    def hierarchical(whole: Tasks) -> Tasks:
        inside = whole.gather
        return whole._replace(
            exchange=Task(
                whole.exchange.startup + inside.startup,
                whole.exchange.work + inside.work,
            )
        )

    return _sequential(
        layer._replace(
            forward=hierarchical(layer.forward), backward=hierarchical(layer.backward)
        ),
        candidates,
    )


def _one_degree(
    time: _Time, layer: Layer, candidates: NDArray[np.int_], rest: Floats
) -> Outcome:
    choice = _best(time, layer.forward, candidates)
    return Outcome(
        choice.degree,
        choice.degree,
        choice.time + layer.dense_forward,
        time(layer.backward, choice.degree, 0.0) + rest,
    )


def _tutel(layer: Layer, candidates: NDArray[np.int_]) -> Outcome:
    return _one_degree(tutel_time, layer, candidates, _after(layer))


def _tutel_improved(layer: Layer, candidates: NDArray[np.int_]) -> Outcome:
    beside = np.maximum(
        layer.dense_backward, reduce_time(layer.all_reduce, layer.gradient)
    )
    return _one_degree(tutel_time, layer, candidates, beside)


def _pipemoe(layer: Layer, candidates: NDArray[np.int_]) -> Outcome:
    return _one_degree(pipemoe_time, layer, candidates, _after(layer))


def _lina(layer: Layer, candidates: NDArray[np.int_]) -> Outcome:
    outcome = _one_degree(
        pipemoe_time, layer, candidates, np.zeros_like(layer.dense_backward)
    )
    line = layer.all_reduce
    pieces = np.ceil(layer.gradient / LINA_ELEMENTS)
    piece = line(LINA_ELEMENTS)
    sent = fsmoe.chunk_times(layer.backward, outcome.backward_degree).exchange
    free = outcome.backward - 2 * outcome.backward_degree * sent
    # The last piece is smaller, and goes last: where it fits is not looked at.
    hidden = np.minimum(pieces, free // piece + layer.dense_backward // piece)
    left = np.maximum(layer.gradient - hidden * LINA_ELEMENTS, 0.0)
    exposed = (pieces - hidden) * line.startup + left * line.slope
    return outcome._replace(backward=outcome.backward + layer.dense_backward + exposed)


def _adaptive(time: _Time, layer: Layer, candidates: NDArray[np.int_]) -> Outcome:
    forward = _best(time, layer.forward, candidates)
    # [K shares]; degrees come as a third axis.
    inside = layer.gradient[:, None] * _SHARES
    beside = layer.gradient[:, None] * (1 - _SHARES)
    whole = fsmoe.column(fsmoe.column(layer.backward))
    times = np.asarray(
        time(whole, candidates, reduce_time(layer.all_reduce, inside)[..., None])
    )
    choice = fsmoe.best(times, candidates)
    total = choice.time + np.maximum(
        layer.dense_backward[:, None], reduce_time(layer.all_reduce, beside)
    )
    share = np.argmin(total, axis=1)[:, None]
    return Outcome(
        forward.degree,
        np.take_along_axis(choice.degree, share, 1)[:, 0],
        forward.time + layer.dense_forward,
        np.take_along_axis(total, share, 1)[:, 0],
    )


def _no_iio(layer: Layer, candidates: NDArray[np.int_]) -> Outcome:
    return _adaptive(tutel_time, layer, candidates)


def _fsmoe(layer: Layer, candidates: NDArray[np.int_]) -> Outcome:
    return _adaptive(fsmoe.layer_time, layer, candidates)


SCHEDULES: Mapping[str, Callable[[Layer, NDArray[np.int_]], Outcome]] = {
    "sequential": _sequential,
    "deepspeed-moe": _deepspeed,
    "pipemoe": _pipemoe,
    "lina": _lina,
    "tutel": _tutel,
    "tutel-improved": _tutel_improved,
    "fsmoe-no-iio": _no_iio,
    "fsmoe": _fsmoe,
}


def schedule(
    name: str, layer: Layer, candidates: NDArray[np.int_] | None = None
) -> Outcome:
    """Returns what a system makes of layers.

    Args:
        name: of `SCHEDULES`.
        layer: [K] layers.
        candidates: degrees that may be chosen; 1..32 by default.

    Raises:
        ValueError: an unknown name.
    """
    if name not in SCHEDULES:
        raise ValueError(f"{name!r} is none of {', '.join(SCHEDULES)}")
    return SCHEDULES[name](layer, fsmoe.degrees() if candidates is None else candidates)
