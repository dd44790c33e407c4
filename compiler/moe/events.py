"""Simulates the streams of an expert layer event by event, in JAX: jit it, `vmap` it over schedules.

A layer's chunks go through a chain of stages, and some stages use the same streams:

    ENTER → DISPATCH → GATHER → EXPERT → REDUCE → COMBINE → LEAVE            GRADIENT (pieces, by themselves)

ENTER and LEAVE are there for exchanges of two steps, first and last. A stage is a queue: chunk i before chunk i + 1. Of the
queues' heads the one that can start first does, as soon as its chunk is ready and all its streams are free; of those
that start at the same time, the first by rank. So a stream serves whichever task is ready first. A stage that uses no
stream waits for none. A collective that the machine runs synchronously uses the compute stream as well.

There is no branch and no Python in the loop: one scan over layers, one over the events of a layer, each event a choice
among the eight heads. Times are in any one unit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

ENTER, DISPATCH, GATHER, EXPERT, REDUCE, COMBINE, LEAVE, GRADIENT = range(8)
NUM_STAGES = 8

# Lower goes first. A dispatch goes before a combine, a gather before a reduction. Gradients go after what is being sent
# out and before what comes back (FSMoE), or after both.
RANK_BEFORE_COMBINE = (0, 1, 3, 5, 4, 6, 7, 2)
RANK_LAST = (0, 1, 3, 5, 4, 6, 7, 8)


class Layers(NamedTuple):
    """N layers in the order in which they run, of at most R chunks and pieces, on S streams, the last of them compute.

    Attributes:
        times: of each stage's tasks; those past a layer's own number are not looked at.
        chunks: r of each layer, 1..R.
        pieces: of the gradient inside each layer, 0..R.
        ahead: chunk i + ahead may start when the experts of chunk i do.
        uses: which streams a stage occupies.
        gradient_last: whether gradients yield to every exchange, and need not wait for the last dispatch.
        dense: time on the compute stream after each layer.
        beside: time of the gradients reduced meanwhile; 0 for none.
        tail: time of the gradients that are reduced after everything.
    """

    times: Float[Array | np.ndarray, "N 8 R"]
    chunks: Int[Array | np.ndarray, " N"]
    pieces: Int[Array | np.ndarray, " N"]
    ahead: Int[Array | np.ndarray, " N"]
    uses: Bool[Array | np.ndarray, "N 8 S"]
    gradient_last: Bool[Array | np.ndarray, " N"]
    dense: Float[Array | np.ndarray, " N"]
    beside: Float[Array | np.ndarray, " N"]
    tail: Float[Array | np.ndarray, ""]


class Timeline(NamedTuple):
    """What happened.

    Attributes:
        total: when all had ended.
        start, end: of each task; of tasks that are not there, 0.
        busy: time that each stream worked, dense parts and gradients included.
    """

    total: Float[Array, ""]
    start: Float[Array, "N 8 R"]
    end: Float[Array, "N 8 R"]
    busy: Float[Array, " S"]


class _Streams(NamedTuple):
    free: Float[Array, " S"]
    busy: Float[Array, " S"]


class _Queues(NamedTuple):
    streams: _Streams
    clock: Float[
        Array, ""
    ]  # Start of the last event: no chunk overtakes another, even where no stream holds it.
    head: Int[Array, " 8"]
    start: Float[Array, "8 R"]
    end: Float[Array, "8 R"]


def simulate(layers: Layers) -> Timeline:
    """Returns the timeline of layers run one after another, each waiting for the dense part before it."""
    num_streams = layers.uses.shape[-1]
    dtype = jnp.result_type(layers.times, jnp.float32)
    streams = _Streams(jnp.zeros(num_streams, dtype), jnp.zeros(num_streams, dtype))
    layers = jax.tree.map(jnp.asarray, layers)
    (streams, now), (start, end) = jax.lax.scan(
        _layer, (streams, jnp.zeros((), dtype)), layers._replace(tail=layers.dense)
    )
    last = jnp.maximum(now, jnp.max(streams.free))
    links = layers.uses[-1, GRADIENT]
    total = last + layers.tail
    busy = streams.busy + links * layers.tail
    return Timeline(total, start, end, busy)


def total(layers: Layers) -> Float[Array, ""]:
    """Returns when all has ended."""
    return simulate(layers).total


@jax.jit
def totals(layers: Layers) -> Float[Array, " B"]:
    """Returns the totals of a batch of schedules: every field has a leading axis B."""
    return jax.vmap(total)(layers)


def _layer(
    carry: tuple[_Streams, Float[Array, ""]], layer: Layers
) -> tuple[
    tuple[_Streams, Float[Array, ""]], tuple[Float[Array, "8 R"], Float[Array, "8 R"]]
]:
    """Runs one layer, of which every field has lost its axis N."""
    streams, now = carry
    room = layer.times.shape[-1]
    counts = jnp.full(NUM_STAGES, layer.chunks).at[GRADIENT].set(layer.pieces)
    rank = jnp.where(
        layer.gradient_last, jnp.asarray(RANK_LAST), jnp.asarray(RANK_BEFORE_COMBINE)
    )
    never = jnp.full((NUM_STAGES, room), jnp.inf, layer.times.dtype)
    # Streams that the stage does not use are free, for it.
    idle = jnp.where(layer.uses, 0.0, -jnp.inf)

    def event(queues: _Queues, _: None) -> tuple[_Queues, None]:
        head = jnp.minimum(queues.head, room - 1)
        ready = _ready(queues, layer, head, now)
        free = jnp.max(queues.streams.free + idle, axis=1)
        begins = jnp.maximum(jnp.maximum(ready, free), queues.clock)
        begins = jnp.where(queues.head < counts, begins, jnp.inf)
        first = jnp.min(begins)
        stage = jnp.argmin(jnp.where(begins == first, rank, NUM_STAGES + 1))
        happens = jnp.isfinite(first)
        index = head[stage]
        time = layer.times[stage, index]
        ends = first + time
        used = layer.uses[stage] & happens
        streams = _Streams(
            jnp.where(used, ends, queues.streams.free),
            queues.streams.busy + jnp.where(used, time, 0.0),
        )
        here = (stage, jnp.where(happens, index, room))
        return _Queues(
            streams,
            jnp.where(happens, first, queues.clock),
            queues.head.at[stage].add(happens),
            queues.start.at[here].set(first, mode="drop"),
            queues.end.at[here].set(ends, mode="drop"),
        ), None

    queues, _ = jax.lax.scan(
        event,
        _Queues(streams, now, jnp.zeros(NUM_STAGES, jnp.int32), never, never),
        length=NUM_STAGES * room,
    )
    there = jnp.arange(room) < counts[:, None]
    start = jnp.where(there, queues.start, 0.0)
    end = jnp.where(there, queues.end, 0.0)
    # Gradients may still be on their way when the last chunk has come back.
    done = jnp.max(end[:GRADIENT])
    streams, now = _dense(queues.streams, layer, done)
    return (streams, now), (start, end)


def _ready(
    queues: _Queues, layer: Layers, head: Int[Array, " 8"], now: Float[Array, ""]
) -> Float[Array, " 8"]:
    """Returns when what each head waits for has happened; infinite where it has not been simulated yet."""
    chain = jnp.arange(1, GRADIENT)
    before = queues.end[chain - 1, head[chain]]
    # The first stage of chunk i waits for the experts of chunk i - ahead.
    leader = head[ENTER] - layer.ahead
    enter = jnp.where(leader < 0, now, queues.start[EXPERT, jnp.maximum(leader, 0)])
    sent = queues.end[DISPATCH, layer.chunks - 1]
    gradient = jnp.where(layer.gradient_last, now, sent)
    return jnp.concatenate([enter[None], before, gradient[None]])


def _dense(
    streams: _Streams, layer: Layers, done: Float[Array, ""]
) -> tuple[_Streams, Float[Array, ""]]:
    """Runs the dense part after a layer, gradients beside it; returns when the next layer may start."""
    links = layer.uses[GRADIENT]
    compute = jnp.arange(links.size) == links.size - 1
    free = jnp.max(jnp.where(links, streams.free, -jnp.inf), initial=0.0)
    reduced = jnp.maximum(free, done) + layer.beside
    # A synchronous reduction holds the compute stream, so that the dense part comes after it.
    blocked = jnp.where((layer.beside > 0) & links[-1], reduced, streams.free[-1])
    ends = jnp.maximum(blocked, done) + layer.dense
    free_now = jnp.where(links & (layer.beside > 0), reduced, streams.free)
    free_now = jnp.where(compute & (layer.dense > 0), ends, free_now)
    busy = streams.busy + links * layer.beside + compute * layer.dense
    return _Streams(free_now, busy), ends


def chunked(
    startup: Float[Array | np.ndarray, "... 8"],
    work: Float[Array | np.ndarray, "... 8"],
    fractions: Float[Array | np.ndarray, "... R"],
) -> Float[Array, "... 8 R"]:
    """Returns the times of chunks: of each a start-up, and its fraction of the work."""
    return (
        jnp.asarray(startup)[..., None]
        + jnp.asarray(work)[..., None] * jnp.asarray(fractions)[..., None, :]
    )


# Streams of a cluster: links between nodes, links inside a node, compute.
CLUSTER = np.zeros((NUM_STAGES, 3), bool)
CLUSTER[[DISPATCH, COMBINE, GRADIENT], 0] = True
CLUSTER[[GATHER, REDUCE], 1] = True
CLUSTER[EXPERT, 2] = True
