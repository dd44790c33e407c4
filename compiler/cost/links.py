"""What collectives cost on the links between chips, in cycles of the compiler's clock.

The prices are those of the compiler's own latency-hiding scheduler: linear in the bytes, without start-up. With s the
MiB that one device gives (an all-gather: its shard), N the devices of a group and C the cycles that one MiB takes
through one link in one direction:

                  v5e            v6e, v5p, v4     tpu7x
    all-gather    C s N/2        C s (N-1)/2      C s (N-1)
    all-to-all    C s 2(N-1)/N   C s 2(N-1)/N     C s (N-1)/N
    all-reduce    C s/k          C s/k            C s            k: torus dimensions that it uses
    permute       C s            C s              C s

A reduce-scatter is the mirror of an all-gather (the scheduler prices it only on tpu7x, at C s). `latency` is what a
call takes before the first byte, in cycles: the compiler knows none, so it comes from outside (about 1 µs per hop, 1500
cycles on v5e, is the usual figure for planning).
"""

import dataclasses

from compiler.hlo.collectives import Kind

MIB = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Links:
    """The links of one generation.

    Attributes:
        generation: libtpu's name of it.
        cycles_per_mib: C, for one link in one direction.
        clock_hz: what the cycles count.
        checked: group sizes for which the prices were read off the compiler.
        sources: where the figures come from.
    """

    generation: str
    cycles_per_mib: float
    clock_hz: float
    checked: tuple[int, ...]
    sources: tuple[str, ...]

    @property
    def bandwidth(self) -> float:
        """Bytes per second of one link in one direction."""
        return MIB * self.clock_hz / self.cycles_per_mib

    def cycles(self, seconds: float) -> float:
        """Returns a time in cycles."""
        return seconds * self.clock_hz


_FITTED = (
    "C, forms: fitted to the latency-hiding scheduler's schedules "
    "(xla_dump_latency_hiding_schedule, libtpu 0.0.52) of single collectives of 1 and 8 MiB"
)

LINKS: dict[str, Links] = {
    links.generation: links
    for links in (
        Links(
            generation="v5e",
            cycles_per_mib=33_715.6,
            clock_hz=1.5e9,
            checked=(2, 4, 8, 16),
            sources=(_FITTED, "1.5 GHz: cycles meet the matmul roofline"),
        ),
        Links(
            generation="v6e",
            cycles_per_mib=19_658.0,
            clock_hz=1.75e9,
            checked=(4, 16),
            sources=(_FITTED, "clock of compiler.targets"),
        ),
        Links(
            generation="v5p",
            cycles_per_mib=19_658.0,
            clock_hz=1.75e9,
            checked=(2, 4, 64),
            sources=(_FITTED, "clock of compiler.targets"),
        ),
        Links(
            generation="v4",
            cycles_per_mib=24_577.0,
            clock_hz=1.05e9,
            checked=(8,),
            sources=(_FITTED, "1050 MHz: Jouppi et al., TPU v4, ISCA 2023, table 4"),
        ),
        Links(
            generation="tpu7x",
            cycles_per_mib=21_343.0,
            clock_hz=1.9e9,
            checked=(8,),
            sources=(_FITTED, "clock of compiler.targets, not confirmed for links"),
        ),
    )
}


def of_topology(topology: str) -> Links:
    """Returns the links of a topology such as `v5e:2x4`.

    Raises:
        ValueError: nothing is known of this generation's links.
    """
    generation = topology.partition(":")[0]
    if generation not in LINKS:
        known = ", ".join(LINKS)
        raise ValueError(f"no link prices for {topology!r}; they are known for {known}")
    return LINKS[generation]


def all_gather(
    links: Links, shard_bytes: float, devices: int, latency: float = 0.0
) -> float:
    """Returns the cycles in which each device gets the shards of all.

    Args:
        links: of the generation.
        shard_bytes: that one device gives; an array works as well, here and below.
        devices: N of a group; several mesh axes are one group, without a gain.
        latency: cycles of a call.
    """
    return _price(links, shard_bytes, _gathered(links, devices), devices, latency)


def reduce_scatter(
    links: Links, shard_bytes: float, devices: int, latency: float = 0.0
) -> float:
    """Returns the cycles in which each device gets its shard of the sum.

    Args:
        links: of the generation.
        shard_bytes: that one device ends with: an N-th of what it gives.
        devices: N of a group.
        latency: cycles of a call.
    """
    factor = (
        float(devices) if links.generation == "tpu7x" else _gathered(links, devices)
    )
    return _price(links, shard_bytes, factor, devices, latency)


def all_to_all(
    links: Links, local_bytes: float, devices: int, latency: float = 0.0
) -> float:
    """Returns the cycles in which each device sends an N-th of its buffer to each; ragged ones cost the same.

    Args:
        links: of the generation.
        local_bytes: of one device's buffer.
        devices: N of a group.
        latency: cycles of a call.
    """
    factor = 2 * (devices - 1) / devices
    if links.generation == "tpu7x" or (links.generation == "v5p" and devices == 2):
        factor /= 2
    return _price(links, local_bytes, factor, devices, latency)


def all_reduce(
    links: Links,
    local_bytes: float,
    devices: int,
    latency: float = 0.0,
    dimensions: int = 1,
) -> float:
    """Returns the cycles in which all devices get the sum of their buffers.

    Args:
        links: of the generation.
        local_bytes: of one device's buffer.
        devices: N of a group.
        latency: cycles of a call.
        dimensions: k, the torus dimensions used at once. The scheduler divides by it; the emitted algorithm of a v5e
            slice of 2x4 is one ring (1).
    """
    factor = 1.0 if links.generation == "tpu7x" else 1 / dimensions
    return _price(links, local_bytes, factor, devices, latency)


def permute(
    links: Links, local_bytes: float, devices: int = 2, latency: float = 0.0
) -> float:
    """Returns the cycles in which each device hands its buffer to another; hops are not counted.

    Args:
        links: of the generation.
        local_bytes: of one device's buffer.
        devices: that take part; one sends nothing.
        latency: cycles of a call.
    """
    return _price(links, local_bytes, 1.0, devices, latency)


def price(
    links: Links,
    kind: Kind,
    result_bytes: float,
    devices: int,
    latency: float = 0.0,
    dimensions: int = 1,
) -> float:
    """Returns the cycles of a collective as a module has it, by the bytes of its result on one device."""
    if kind == "all-gather":
        return all_gather(links, result_bytes / devices, devices, latency)
    if kind == "reduce-scatter":
        return reduce_scatter(links, result_bytes, devices, latency)
    if kind == "all-reduce":
        return all_reduce(links, result_bytes, devices, latency, dimensions)
    if kind == "collective-permute":
        return permute(links, result_bytes, devices, latency)
    return all_to_all(links, result_bytes, devices, latency)


def _gathered(links: Links, devices: int) -> float:
    """Returns the shards that pass through a device's busiest link while all are gathered."""
    if links.generation == "v5e":
        return devices / 2
    return float(devices - 1) if links.generation == "tpu7x" else (devices - 1) / 2


def _price(
    links: Links, size: float, factor: float, devices: int, latency: float
) -> float:
    if devices == 1:
        return 0.0
    return links.cycles_per_mib * factor / MIB * size + latency
