"""Chips: capacities, bandwidths and clocks, each with the source of the figure.

A target has a *slow* memory (XLA's default memory: HBM on a TPU) and a *fast* memory (XLA's
alternate memory: VMEM, or CMEM on v4). For a GPU target HBM plays the fast memory and the host's
memory, behind PCIe, the slow one.
"""

import dataclasses

MIB = 1 << 20
GIB = 1 << 30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One chip as the cost model sees it. Bytes, seconds, hertz.

    Attributes:
        name: name on the command line.
        fast_bytes: capacity of the fast memory.
        reserved_bytes: part of it that the compiler keeps for the scoped memory of instructions.
        slow_bandwidth: bytes per second between slow memory and the core.
        fast_read_bandwidth: bytes per second read from the fast memory by instructions.
        fast_write_bandwidth: bytes per second written to it.
        peak_flops: floating-point operations per second (bf16, matrix unit).
        peak_transcendentals: transcendental operations per second.
        clock_hz: cycles per second in which the compiler's `estimated_cycles` count.
        alignment: offsets in fast memory are multiples of this many bytes.
        min_overlap, preferred_overlap, max_overlap: prefetch ratios of memory-space assignment
            (`xla_msa_{min,preferred,max}_overlap_to...`): time in front of a use, in multiples of
            the copy's own time (for `max`, of the time to copy the whole fast memory).
        max_outstanding: copies in flight, per direction.
        topology: name under which the production compiler knows one such chip, or None.
        sources: where each figure comes from.
    """

    name: str
    fast_bytes: int
    reserved_bytes: int = 0
    slow_bandwidth: float
    fast_read_bandwidth: float
    fast_write_bandwidth: float
    peak_flops: float
    peak_transcendentals: float
    clock_hz: float
    alignment: int = 4096
    min_overlap: float = 1.0
    preferred_overlap: float = 2.0
    max_overlap: float = 8.0
    max_outstanding: int = 40
    topology: str | None = None
    sources: tuple[tuple[str, str], ...] = ()

    @property
    def capacity(self) -> int:
        """Bytes of fast memory that a mapping may use."""
        return self.fast_bytes - self.reserved_bytes


# Bandwidths, ratio of fast to slow bandwidth and peaks are those of the compiler's own cost model,
# fitted to the column `alt_mem_benefit` of its bufferinfo table (exact to the printed digits on
# v5e): about 0.9 of the published HBM bandwidth.
_FITTED = "fitted to alt_mem_benefit in libtpu 0.0.52's bufferinfo tables"

_MSA_RATIOS = (
    "overlap ratios, outstanding copies",
    "tpu_comp_env.txt of libtpu 0.0.52: xla_msa_min/preferred/max_overlap = 1/2/8, "
    "xla_msa_max_outstanding_prefetches/evictions = 40",
)


def _tpu(
    name: str,
    *,
    hbm_gib: float,
    fast_factor: float,
    flops: float,
    transcendentals: float,
    clock: float,
    fast_mib: int,
    reserved_mib: int = 16,
    topology: str,
    sources: tuple[tuple[str, str], ...],
) -> Target:
    slow = hbm_gib * GIB
    return Target(
        name=name,
        fast_bytes=fast_mib * MIB,
        reserved_bytes=reserved_mib * MIB,
        slow_bandwidth=slow,
        fast_read_bandwidth=fast_factor * slow,
        fast_write_bandwidth=fast_factor * slow,
        peak_flops=flops,
        peak_transcendentals=transcendentals,
        clock_hz=clock,
        topology=topology,
        sources=(("bandwidths, peaks", _FITTED), *sources, _MSA_RATIOS),
    )


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        _tpu(
            "tpu-v4",
            hbm_gib=457.5,
            fast_factor=6.0,
            flops=137e12,
            transcendentals=5.3775e11,
            clock=1.05e9,
            fast_mib=128,
            reserved_mib=0,
            topology="v4:2x2x1",
            sources=(
                (
                    "published: 1228 GB/s, 275 Tflop/s bf16 a chip of two cores",
                    "Cloud TPU docs, v4",
                ),
                ("128 MiB CMEM, 1050 MHz", "Jouppi et al., TPU v4, ISCA 2023, table 4"),
            ),
        ),
        _tpu(
            "tpu-v5e",
            hbm_gib=687.0,
            fast_factor=22.5,
            flops=197e12,
            transcendentals=1.536e12,
            clock=1.5e9,
            fast_mib=128,
            topology="v5e:1x1",
            sources=(
                ("published: HBM 819 GB/s, 197 Tflop/s bf16", "Cloud TPU docs, v5e"),
                (
                    "128 MiB VMEM of which 16 scoped, 1.5 GHz",
                    "allocinfo tops out at 112 MiB; cycles / 1.5 GHz meets the matmul roofline",
                ),
            ),
        ),
        _tpu(
            "tpu-v5p",
            hbm_gib=2189.0,
            fast_factor=7.7,
            flops=394e12,
            transcendentals=3.072e12,
            clock=1.75e9,
            fast_mib=64,
            topology="v5p:2x2x1",
            sources=(
                ("published: HBM 2765 GB/s, 459 Tflop/s bf16", "Cloud TPU docs, v5p"),
            ),
        ),
        _tpu(
            "tpu-v6e",
            hbm_gib=1525.5,
            fast_factor=13.0,
            flops=918e12,
            transcendentals=1.792e12,
            clock=1.75e9,
            fast_mib=128,
            topology="v6e:1x1",
            sources=(
                ("published: HBM 1640 GB/s, 918 Tflop/s bf16", "Cloud TPU docs, v6e"),
            ),
        ),
        _tpu(
            "tpu-7x",
            hbm_gib=3432.9,
            fast_factor=3.2,
            flops=2307e12 / 2,
            transcendentals=1.9456e12,
            clock=1.9e9,
            fast_mib=64,
            topology="tpu7x:2x2x1",
            sources=(
                (
                    "published: 7380 GB/s, 2307 Tflop/s bf16 a chip of two cores",
                    "Cloud TPU docs, TPU7x",
                ),
            ),
        ),
        Target(
            name="gpu-h100",
            fast_bytes=84_942_979_072,
            slow_bandwidth=64e9,
            fast_read_bandwidth=3352.32e9,
            fast_write_bandwidth=3352.32e9,
            peak_flops=989e12,
            peak_transcendentals=132 * 16 * 1.98e9,
            clock_hz=1.98e9,
            alignment=256,
            sources=(
                ("HBM 3352 GB/s, 84.9 GB, 1.98 GHz", "XLA's target config of H100 SXM"),
                (
                    "989 Tflop/s bf16 dense; PCIe 5.0 x16, 64 GB/s",
                    "NVIDIA H100 data sheet",
                ),
            ),
        ),
    )
}


def of_generation(generation: str) -> Target:
    """Returns one chip of a TPU generation, such as "v5e".

    Raises:
        ValueError: nothing is known of it.
    """
    for target in TARGETS.values():
        if (target.topology or "").startswith(f"{generation}:"):
            return target
    raise ValueError(f"nothing is known of the TPU generation {generation!r}")
