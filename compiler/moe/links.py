"""Lines of TPU generations: collectives as the compiler prices them, GEMMs as it estimates them.

The compiler's latency-hiding scheduler prices a collective by C cycles per MiB that passes one link in one direction,
with no start-up. Messages are MiB of the buffer that a device holds before the collective. N is the number of devices
in a group, which is one ring.

| collective | cycles |
|---|---|
| all-gather of s | C·s·N/2 on v5e, C·s·(N−1) on tpu7x, else C·s·(N−1)/2 |
| reduce-scatter of s | the mirror: as an all-gather of s/N (the compiler prices it at nothing, but for tpu7x) |
| all-to-all of s | C·s·2(N−1)/N; C·s·(N−1)/N on tpu7x |
| all-reduce of s over k torus axes | C·s/k |
| permute of s | C·s |

These are predictions of a compiler (libtpu 0.0.52); nothing here was timed on a TPU. Latency is not in the compiler's
model and comes as a parameter.
"""

import dataclasses
from typing import Literal, get_args

from compiler.moe.performance import Kind, Line, PerformanceModel

Generation = Literal["v4", "v5e", "v5p", "v6e", "tpu7x"]

# Of a bf16 GEMM n×2048×8192 on v5e, over n: 7.7e3 + 260.5·n cycles, where the peak allows 255.5·n.
GEMM_STARTUP = 7.7e3
_FLOPS_PER_ROW = 2 * 2048 * 8192
_CYCLES_PER_ROW = 260.5
_V5E_FLOPS_PER_CYCLE = 197e12 / 1.5e9
EFFICIENCY = _FLOPS_PER_ROW / _CYCLES_PER_ROW / _V5E_FLOPS_PER_CYCLE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Link:
    """What one generation's table says.

    Attributes:
        cycles_per_mib: C, through one link in one direction.
        clock: Hz.
        flops: per second in bf16, dense, one chip (tpu7x: one of its two cores), as published.
    """

    cycles_per_mib: float
    clock: float
    flops: float


LINKS: dict[Generation, Link] = {
    "v4": Link(cycles_per_mib=24_577, clock=1.05e9, flops=275e12),
    "v5e": Link(cycles_per_mib=33_715.6, clock=1.5e9, flops=197e12),
    "v5p": Link(cycles_per_mib=19_658, clock=1.75e9, flops=459e12),
    "v6e": Link(cycles_per_mib=19_658, clock=1.75e9, flops=918e12),
    "tpu7x": Link(cycles_per_mib=21_343, clock=1.9e9, flops=1153.5e12),
}


def cycles_per_mib(
    generation: Generation, kind: Kind, span: int, torus_axes: int = 1
) -> float:
    """Returns the slope of a collective over a ring of `span` devices, in cycles per MiB of local buffer.

    Args:
        generation: of the chip.
        kind: any but "gemm".
        span: N, devices in the group; 1 costs nothing.
        torus_axes: k, that an all-reduce can use at once.

    Raises:
        ValueError: a kind or a generation that the table has not.
    """
    if generation not in LINKS:
        raise ValueError(f"{generation!r} is none of {', '.join(get_args(Generation))}")
    if span == 1:
        return 0.0
    link = LINKS[generation].cycles_per_mib
    if kind in ("all_gather", "reduce_scatter"):
        received = {"v5e": span / 2, "tpu7x": span - 1}.get(generation, (span - 1) / 2)
        return link * received / (span if kind == "reduce_scatter" else 1)
    if kind == "all_to_all":
        # Half of it at two devices on v5p, where both directions of the pair are used.
        factor = {("v5p", 2): 0.5}.get((generation, span), 2 * (span - 1) / span)
        return link * ((span - 1) / span if generation == "tpu7x" else factor)
    if kind == "all_reduce":
        return link / (1 if generation == "tpu7x" else torus_axes)
    if kind == "permute":
        return link
    raise ValueError(f"no link cost of {kind!r}")


def hops(kind: Kind, span: int) -> int:
    """Returns how many links lie in a row on a collective's longest way, on a ring used in both directions."""
    if span == 1:
        return 0
    return {"all_reduce": 2 * (span // 2), "permute": 1}.get(kind, span // 2)


def tpu(
    generation: Generation,
    *,
    span: int,
    torus_axes: int = 1,
    hop_seconds: float = 0.0,
    startup_seconds: float = 0.0,
) -> PerformanceModel:
    """Returns the lines of a generation for groups of one size: cycles, flops and MiB.

    The GEMM line is that of v5e, in cycles per flop at the same share of the generation's peak. That share and the
    start-up were read on v5e alone; for other generations they are an assumption.

    Args:
        generation: of the chip.
        span: devices in a group.
        torus_axes: that an all-reduce can use at once.
        hop_seconds: latency of a link, times the hops of a collective.
        startup_seconds: of any collective.

    Raises:
        ValueError: an unknown generation.
    """
    if generation not in LINKS:
        raise ValueError(f"{generation!r} is none of {', '.join(get_args(Generation))}")
    link = LINKS[generation]
    lines: dict[Kind, Line] = {"gemm": gemm(generation)}
    kinds: tuple[Kind, ...] = (
        "all_to_all",
        "all_gather",
        "reduce_scatter",
        "all_reduce",
        "permute",
    )
    for kind in kinds:
        wait = hop_seconds * hops(kind, span) + startup_seconds * (span > 1)
        lines[kind] = Line(
            startup=wait * link.clock,
            slope=cycles_per_mib(generation, kind, span, torus_axes),
        )
    return PerformanceModel(
        name=f"TPU {generation}, groups of {span}",
        time_unit="cycles",
        gemm_unit="flops",
        message_unit="MiB",
        lines=lines,
        provenance={
            "source": "compiler-predicted cycles, libtpu 0.0.52",
            "span": span,
            "torus_axes": torus_axes,
            "hop_seconds": hop_seconds,
            "startup_seconds": startup_seconds,
            "clock": link.clock,
        },
    )


def gemm(generation: Generation) -> Line:
    """Returns the GEMM line of a generation, in cycles over flops."""
    link = LINKS[generation]
    return Line(startup=GEMM_STARTUP, slope=link.clock / link.flops / EFFICIENCY)
