"""What the tasks of an expert layer cost on a TPU mesh, for each way to lay the experts out on its axes.

Every device has its own tokens. Experts are spread over some axes (EP), each is cut over others (ESP), the rest hold
copies (DP); attention is copied everywhere. Costs are compiler-predicted cycles (`links`), in tables that a jitted
cost function looks up. Each mesh axis is a stream of its own and compute is the last: a collective over two axes uses
both, one that the compiler runs synchronously uses compute as well (reduce-scatter always; all-to-all and all-reduce
unless options say otherwise; all-gather and permute never).

Volumes per device, with S = k·f·B·L slots of its own tokens, in MiB of what it holds before the collective: all-to-all
S·M; all-gather over ESP S·M; reduce-scatter ESP·S·M; experts 2·g·S·M·H flops in g·E/EP GEMMs; gradients 4·M² over all
devices and those of its experts over DP.
"""

import dataclasses
import functools
import itertools
import math
from typing import NamedTuple

import numpy as np

from compiler.moe import events, links
from compiler.moe.configurations import DENSE_GEMMS, GEMMS, Configuration
from compiler.moe.links import Generation
from compiler.moe.performance import Kind
from compiler.moe.plan import Exchange, Reduce

EXCHANGES: tuple[Exchange, ...] = ("all_to_all", "hierarchical", "all_gather")
REDUCES: tuple[Reduce, ...] = ("reduce_scatter", "ring", "all_reduce")
MIB = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What is scheduled, and where.

    Attributes:
        generation: of the TPU.
        mesh: axis names and sizes; each is a ring of the torus.
        configuration: of a layer; its samples are those of one device, its spans are not looked at.
        layout: axes of experts and axes of shards, where they are given; else they are part of the search.
        layers: N, all alike.
        dense: whether the products of attention are part of a layer.
        element_bytes: of activations and gradients; bfloat16 by default.
        weight_bytes: per expert weight that a device holds, optimiser included.
        memory: bytes that the experts' weights may take on a device; None for no limit.
        hop_seconds, startup_seconds: latency, see `links.tpu`.
        reduce_axes: torus axes that an all-reduce of gradients uses at once. 1 is the strategy that the compiler
            reports on 2×4, though its scheduler prices two.
    """

    generation: Generation = "v5e"
    mesh: tuple[tuple[str, int], ...] = (("x", 2), ("y", 4))
    configuration: Configuration
    layout: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    layers: int = 2
    dense: bool = True
    element_bytes: int = 2
    weight_bytes: int = 2
    memory: float | None = None
    hop_seconds: float = 0.0
    startup_seconds: float = 0.0
    reduce_axes: int = 1

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"a stack has a layer, not {self.layers}")
        if not factorisations(self):
            raise ValueError(
                f"no axes of {self.mesh}{self._given} divide {self.configuration.experts} experts "
                f"and a hidden width of {self.configuration.hidden}"
            )

    @property
    def _given(self) -> str:
        return "" if self.layout is None else f", laid out as {self.layout},"

    def span(self, axes: tuple[str, ...]) -> int:
        """Returns how many devices axes span."""
        sizes = dict(self.mesh)
        return math.prod(sizes[axis] for axis in axes)


class Factorisation(NamedTuple):
    """Axes of experts, axes of shards, and those that hold copies."""

    expert_axes: tuple[str, ...]
    shard_axes: tuple[str, ...]
    data_axes: tuple[str, ...]


@functools.cache
def factorisations(setting: Setting) -> tuple[Factorisation, ...]:
    """Returns the ways to lay experts out on the mesh: what divides them, most axes of experts first."""
    names = [name for name, _ in setting.mesh]
    found = []
    for jobs in itertools.product(range(3), repeat=len(names)):
        axes = Factorisation(
            *(
                tuple(name for name, job in zip(names, jobs) if job == wanted)
                for wanted in range(3)
            )
        )
        if setting.layout not in (None, axes[:2]):
            continue
        if (
            setting.configuration.experts % setting.span(axes.expert_axes) == 0
            and setting.configuration.hidden % setting.span(axes.shard_axes) == 0
        ):
            found.append(axes)
    return tuple(found)


def weights(setting: Setting, axes: Factorisation) -> float:
    """Returns the number of one layer's expert weights on a device."""
    c = setting.configuration
    matrices = GEMMS[c.feed_forward] * c.width * c.hidden
    return matrices * c.experts / setting.span((*axes.expert_axes, *axes.shard_axes))


class Tables(NamedTuple):
    """Costs in cycles by F factorisations, exchange, reduction, direction (forward, backward); S streams.

    Attributes:
        startup, work: of each stage: what a chunk pays, and what chunks share.
        uses: streams of each stage, by whether exchanges and reductions are asynchronous.
        gradient: [F, 2] start-up and work of one layer's all-reduce.
        dense: [2] time of the dense part by direction.
        accumulated: [F] time to add to a layer's gradients of weights, read and written in float32, once.
        feasible: whether the weights fit.
        multi_axis, exchanged, sharded: whether a factorisation has several axes of experts, one that counts, shards.
    """

    startup: np.ndarray  # float32 [F 3 3 2 8]
    work: np.ndarray  # float32 [F 3 3 2 8]
    uses: np.ndarray  # bool [F 3 3 2 2 8 S]
    gradient: np.ndarray  # float32 [F 2]
    dense: np.ndarray  # float32 [2]
    accumulated: np.ndarray  # float32 [F]
    feasible: np.ndarray  # bool [F]
    multi_axis: np.ndarray  # bool [F]
    exchanged: np.ndarray  # bool [F]
    sharded: np.ndarray  # bool [F]


class _Cost(NamedTuple):
    startup: float
    work: float


def _collective(
    setting: Setting, kind: Kind, mib: float, span: int, torus_axes: int = 1
) -> _Cost:
    model = links.tpu(
        setting.generation,
        span=span,
        torus_axes=torus_axes,
        hop_seconds=setting.hop_seconds,
        startup_seconds=setting.startup_seconds,
    )
    return _Cost(model[kind].startup, mib * model[kind].slope)


def _ring(setting: Setting, mib: float, span: int) -> _Cost:
    """A reduce-scatter as span - 1 permutes of a part each, in one direction."""
    if span == 1:
        return _Cost(0.0, 0.0)
    one = _collective(setting, "permute", mib / span, span)
    return _Cost((span - 1) * one.startup, (span - 1) * one.work)


def _reduction(setting: Setting, kind: Reduce, mib: float, span: int) -> _Cost:
    if kind == "ring":
        return _ring(setting, mib, span)
    return _collective(setting, kind, mib, span)


def _stages(
    setting: Setting, axes: Factorisation, exchange: Exchange, reduce: Reduce
) -> tuple[dict[int, _Cost], dict[int, tuple[str, ...]]]:
    """Returns what the stages of the communication cost, and the axes that they use."""
    c = setting.configuration
    moved = c.slots * c.width * setting.element_bytes / MIB
    shards = setting.span(axes.shard_axes)
    outer: tuple[str, ...] = axes.expert_axes
    inner: tuple[str, ...] = ()
    if exchange == "hierarchical":
        outer, inner = axes.expert_axes[:-1], axes.expert_axes[-1:]
    # All slots go to all devices, in both directions; each keeps its own.
    kind: Kind = "all_gather" if exchange == "all_gather" else "all_to_all"
    over_outer = _collective(setting, kind, moved, setting.span(outer))
    over_inner = _collective(setting, kind, moved, setting.span(inner))
    # The inner axis goes first both ways.
    back = (inner, outer) if inner else (outer, inner)
    back_costs = (over_inner, over_outer) if inner else (over_outer, over_inner)
    costs = {
        events.ENTER: over_inner,
        events.DISPATCH: over_outer,
        events.GATHER: _collective(setting, "all_gather", moved, shards),
        events.REDUCE: _reduction(setting, reduce, moved * shards, shards),
        events.COMBINE: back_costs[0],
        events.LEAVE: back_costs[1],
    }
    used = {
        events.ENTER: inner,
        events.DISPATCH: outer,
        events.GATHER: axes.shard_axes,
        events.REDUCE: axes.shard_axes,
        events.COMBINE: back[0],
        events.LEAVE: back[1],
    }
    return costs, used


def _synchronous(
    exchange: Exchange, reduce: Reduce, async_exchange: bool, async_reduce: bool
) -> tuple[int, ...]:
    """Returns the stages that hold the compute stream."""
    held = [] if async_reduce else [events.GRADIENT]
    if exchange != "all_gather" and not async_exchange:
        held += [events.ENTER, events.DISPATCH, events.COMBINE, events.LEAVE]
    if reduce == "reduce_scatter" or (reduce == "all_reduce" and not async_reduce):
        held += [events.REDUCE]
    return tuple(held)


@functools.cache
def tables(setting: Setting) -> Tables:
    """Returns the tables of a setting; not to be written to."""
    c = setting.configuration
    ways = factorisations(setting)
    names = [name for name, size in setting.mesh]
    shape = (len(ways), len(EXCHANGES), len(REDUCES))
    startup, work = np.zeros((2, *shape, 2, events.NUM_STAGES), np.float32)
    uses = np.zeros((*shape, 2, 2, events.NUM_STAGES, len(names) + 1), bool)
    gradient = np.zeros((len(ways), 2), np.float32)
    gemm = links.gemm(setting.generation)
    gemms = GEMMS[c.feed_forward]
    everywhere = setting.span(tuple(names))
    for f, axes in enumerate(ways):
        experts_here = c.experts / setting.span(axes.expert_axes)
        dense = 4 * c.width**2 * setting.element_bytes / MIB * setting.dense
        copied = weights(setting, axes) * setting.element_bytes / MIB
        parts = (
            _collective(setting, "all_reduce", dense, everywhere, setting.reduce_axes),
            _collective(setting, "all_reduce", copied, setting.span(axes.data_axes)),
        )
        gradient[f] = np.sum(parts, axis=0)
        flops = 2 * gemms * c.slots * c.width * c.hidden
        for e, r in np.ndindex(shape[1:]):
            exchange, reduce = EXCHANGES[e], REDUCES[r]
            costs, used = _stages(setting, axes, exchange, reduce)
            for stage, cost in costs.items():
                startup[f, e, r, :, stage], work[f, e, r, :, stage] = cost
            for direction in range(2):
                startup[f, e, r, direction, events.EXPERT] = (
                    (1 + direction) * gemms * experts_here * gemm.startup
                )
                work[f, e, r, direction, events.EXPERT] = (
                    (1 + direction) * flops * gemm.slope
                )
            used[events.GRADIENT] = tuple(names)
            for stage, over in used.items():
                for axis in over:
                    uses[f, e, r, :, :, stage, names.index(axis)] = True
            uses[f, e, r, :, :, events.EXPERT, -1] = True
            for a, b in np.ndindex(2, 2):
                for stage in _synchronous(exchange, reduce, bool(a), bool(b)):
                    # Nothing to do holds nothing.
                    busy = uses[f, e, r, a, b, stage].any()
                    uses[f, e, r, a, b, stage, -1] |= busy
    rows = 2 * c.tokens * (4 * c.width**2 + 2 * c.length * c.width) * gemm.slope
    forward = (DENSE_GEMMS * gemm.startup + rows) * setting.dense
    limit = math.inf if setting.memory is None else setting.memory
    held = [setting.layers * weights(setting, axes) for axes in ways]
    added = [8 * weights(setting, axes) for axes in ways]  # Bytes.
    return Tables(
        startup=startup,
        work=work,
        uses=uses,
        gradient=gradient,
        dense=np.array([forward, 2 * forward], np.float32),
        accumulated=np.array(
            [links.memory_cycles(setting.generation, n) for n in added], np.float32
        ),
        feasible=np.array([setting.weight_bytes * n <= limit for n in held]),
        multi_axis=np.array([len(axes.expert_axes) > 1 for axes in ways]),
        exchanged=np.array([setting.span(axes.expert_axes) > 1 for axes in ways]),
        sharded=np.array([setting.span(axes.shard_axes) > 1 for axes in ways]),
    )
