"""What one chip and its links take for a piece of a program: the formulas behind the tables."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from compiler.cost.links import Links, of_topology
from compiler.hlo.collectives import Kind
from compiler.targets import of_generation

# Fitted to the estimates of libtpu 0.0.52 for n x 2048 x 8192 on v5e: 7.7e3 + 260.5 n cycles, of which the roofline
# explains 255.5 n.
MATMUL_START = 7_700.0
MATMUL_EXCESS = 1.02
# What a stored byte takes beside a loaded one, in the estimates for elementwise fusions: fitted to a copy of 8 MiB (56,078
# cycles) and a weight's update (79,623: 16 MiB in, 8 out) in a perceptron's training step of widths 1024 and 4096 on v5e.
STORE = 2.5
# Tiles of the matrix unit (128 x 128) and of the vector registers (8 x 128).
TILE, SUBLANES = 128, 8
# Vector operations per cycle: 8 x 128 lanes with 4 units each (Austin et al., How to Scale Your Model, 2025, TPU v5e).
VECTOR_OPERATIONS = 4096.0
# Transfers that v5e's compiler starts and awaits apart: the first two as it comes, all-to-alls by an option.
ASYNC_V5E: frozenset[Kind] = frozenset(
    {"all-gather", "collective-permute", "all-to-all"}
)
_OPTIONS_V5E: Mapping[str, Any] = {"xla_tpu_enable_async_all_to_all": True}
# Loops that gather an operand piece by piece do not say how often they run, so no plan with them can be judged.
WITHOUT_LOOPS: Mapping[str, Any] = {
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000
}

# Memory of one device, of which v4 and tpu7x have two on a chip (Cloud TPU docs). The compiler keeps a little of it.
HBM_GIB = {"v4": 16, "v5e": 16, "v5p": 95, "v6e": 32, "tpu7x": 96}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """One generation, in cycles of the compiler's clock.

    Attributes:
        links: between chips.
        flops_per_cycle: of the matrix unit.
        bytes_per_cycle: of the chip's memory.
        asynchronous: collectives that run while the chip computes.
        all_reduce_dimensions: torus dimensions that an all-reduce uses at once; 1 is the ring that the compiler emits
            for v5e:2x4.
        compiler_options: under which the compiler does as this says.
    """

    links: Links
    flops_per_cycle: float
    bytes_per_cycle: float
    asynchronous: frozenset[Kind]
    all_reduce_dimensions: int = 1
    compiler_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def matmul(
        self, batch: int, rows: int, columns: int, depth: int, num_bytes: float
    ) -> float:
        """Returns the cycles of a batch of products (rows, depth) (depth, columns) that moves so many bytes."""
        padded = _up(rows, SUBLANES) * _up(columns, TILE) * _up(depth, TILE)
        ideal = 2.0 * batch * padded / self.flops_per_cycle
        return MATMUL_START + max(
            MATMUL_EXCESS * ideal, num_bytes / self.bytes_per_cycle
        )

    def vector(self, operations: float, loaded: float, stored: float) -> float:
        """Returns the cycles of elementwise work that loads and stores so many bytes."""
        moved = loaded + STORE * stored
        return max(operations / VECTOR_OPERATIONS, moved / self.bytes_per_cycle)


def machine(topology: str) -> Machine:
    """Returns the machine of a topology such as `v5e:2x4`.

    Raises:
        ValueError: nothing is known of this generation.
    """
    links = of_topology(topology)
    generation = links.generation
    target = of_generation(generation)
    return Machine(
        links=links,
        flops_per_cycle=target.peak_flops / target.clock_hz,
        bytes_per_cycle=target.slow_bandwidth / target.clock_hz,
        asynchronous=ASYNC_V5E if generation == "v5e" else frozenset(),
        compiler_options={
            **WITHOUT_LOOPS,
            **(_OPTIONS_V5E if generation == "v5e" else {}),
        },
    )


def _up(size: int, tile: int) -> int:
    return math.ceil(size / tile) * tile
