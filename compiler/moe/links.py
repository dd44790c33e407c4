"""Lines of TPU generations: collectives as the compiler prices them (`compiler.cost.links`), GEMMs as it estimates them.

Messages are MiB of the buffer that a device holds before the collective. These are predictions of a compiler; nothing
here was timed on a TPU. Latency is not in the compiler's model and comes as a parameter.
"""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

from compiler import targets
from compiler.cost import links
from compiler.cost.links import MIB
from compiler.moe.performance import Kind, Line, PerformanceModel

Generation = Literal["v4", "v5e", "v5p", "v6e", "tpu7x"]

# Of a bf16 GEMM n×2048×8192 on v5e, over n: 7.7e3 + 260.5·n cycles, where the peak allows 255.5·n.
GEMM_STARTUP = 7.7e3
_FLOPS_PER_ROW = 2 * 2048 * 8192
_CYCLES_PER_ROW = 260.5
_V5E_FLOPS_PER_CYCLE = 197e12 / 1.5e9
EFFICIENCY = _FLOPS_PER_ROW / _CYCLES_PER_ROW / _V5E_FLOPS_PER_CYCLE
# Per second in bf16, dense, one chip (tpu7x: one of its two cores), as published.
PEAK_FLOPS: Mapping[Generation, float] = {
    "v4": 275e12,
    "v5e": 197e12,
    "v5p": 459e12,
    "v6e": 918e12,
    "tpu7x": 1153.5e12,
}


def memory_cycles(generation: Generation, num_bytes: float) -> float:
    """Returns the cycles that reading or writing bytes in HBM takes."""
    chip = targets.of_generation(generation)
    return num_bytes / chip.slow_bandwidth * chip.clock_hz


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
    link = _links(generation)
    prices: dict[Kind, Callable[[], float]] = {
        "all_gather": lambda: links.all_gather(link, MIB, span),
        "reduce_scatter": lambda: links.reduce_scatter(link, MIB / span, span),
        "all_to_all": lambda: links.all_to_all(link, MIB, span),
        "all_reduce": lambda: links.all_reduce(link, MIB, span, dimensions=torus_axes),
        "permute": lambda: links.permute(link, MIB, span),
    }
    if kind not in prices:
        raise ValueError(f"no link cost of {kind!r}")
    return prices[kind]()


def _links(generation: Generation) -> links.Links:
    if generation not in PEAK_FLOPS:
        raise ValueError(f"{generation!r} is none of {', '.join(get_args(Generation))}")
    return links.LINKS[generation]


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
    link = _links(generation)
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
            startup=link.cycles(wait),
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
            "clock": link.clock_hz,
        },
    )


def gemm(generation: Generation) -> Line:
    """Returns the GEMM line of a generation, in cycles over flops."""
    peak = PEAK_FLOPS[generation] / _links(generation).clock_hz
    return Line(startup=GEMM_STARTUP, slope=1 / peak / EFFICIENCY)
