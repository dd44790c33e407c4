"""Settings of memory-space assignment, as the TPU compiler has them."""

import dataclasses
from collections.abc import Mapping

from compiler.targets import MIB, Target


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What memory-space assignment is run with. Bytes, seconds.

    The defaults are those of `tpu_comp_env.txt` of libtpu 0.0.52.

    Attributes:
        capacity: fast memory to be used.
        alignment: of offsets.
        slow_bandwidth: bytes per second of an asynchronous copy.
        min_overlap: time in front of a use, in copies of the buffer, that a prefetch needs.
        preferred_overlap: the same that it likes best.
        max_overlap: longest time without an access, in copies of the whole fast memory.
        floor_bytes: a smaller buffer prefers the distances of one of this size.
        least_floor_bytes: the same for the least distance of a prefetch.
        prefetch_scale: share of a larger buffer's size that counts for its preferred distance.
        eviction_scale: the same for the distance of an eviction.
        max_prefetches: copies into fast memory in flight.
        max_evictions: copies out of it in flight.
        max_retries: attempts per buffer.
        max_repacks: times that the fast memory is packed anew.
        inefficient_ratio: least share of a copied buffer's bytes that must be accessed.
        max_slices: pieces of a sliced prefetch; below 2 nothing is sliced.
        min_sliced_bytes: smallest buffer that is sliced.
        min_loop_iterations: repetitions from which on an unrolled loop is planned as one.
        loop_copy_ratio: share of a copy that has to be hidden there.
        loop_pipelines: whether a copy over a whole period is always good enough.
        max_cross_program: buffers prefetched by the run before.
        free_cross_program: whether such a buffer may be fetched again at the program's end.
    """

    capacity: int
    alignment: int
    slow_bandwidth: float
    min_overlap: float = 1.0
    preferred_overlap: float = 2.0
    max_overlap: float = 8.0
    # Seen in dumps: prefetches and evictions of small buffers keep distances from their uses as
    # though they were of some MiB, those of large ones somewhat less than their size asks for.
    floor_bytes: int = 4 * MIB
    least_floor_bytes: int = 14 * MIB // 5
    prefetch_scale: float = 0.8
    eviction_scale: float = 0.7
    max_prefetches: int = 40
    max_evictions: int = 40
    max_retries: int = 2
    max_repacks: int = 4
    inefficient_ratio: float = 0.5
    # Seen in dumps: arrays of 1.125 MiB are sliced in four, of 1 000 KiB and less never.
    max_slices: int = 4
    min_sliced_bytes: int = MIB
    # Four repetitions are not planned as a loop, eight are; the ratio made no difference.
    min_loop_iterations: float = 5.0
    loop_copy_ratio: float = 0.7
    loop_pipelines: bool = True
    max_cross_program: int = 1
    free_cross_program: bool = True


# Field -> name in tpu_comp_env.txt.
_OPTIONS = {
    "min_overlap": "xla_msa_min_overlap_to_async_copy_ratio",
    "preferred_overlap": "xla_msa_preferred_overlap_to_async_copy_ratio",
    "max_overlap": "xla_msa_max_overlap_to_mem_size_async_copy_ratio",
    "max_prefetches": "xla_msa_max_outstanding_prefetches",
    "max_evictions": "xla_msa_max_outstanding_evictions",
    "max_retries": "xla_msa_max_retries",
    "max_repacks": "xla_msa_max_repacks",
    "inefficient_ratio": "xla_tpu_msa_inefficient_use_to_copy_ratio",
    "max_slices": "xla_tpu_sliced_prefetch_max_slices",
    "min_sliced_bytes": "xla_tpu_sliced_prefetch_min_bytes",
    "max_cross_program": "xla_max_cross_program_prefetches",
}
_COPY_SCALE = "xla_tpu_async_copy_bandwidth_scaling_factor"
_FREEING = "xla_tpu_enable_cross_program_prefetch_freeing"
_ENABLED = "xla_enable_cross_program_prefetch"


def for_target(target: Target, *, capacity: int | None = None) -> Settings:
    """Returns the settings of a chip with `capacity` bytes of fast memory, its own by default."""
    return Settings(
        capacity=target.capacity if capacity is None else capacity,
        alignment=target.alignment,
        slow_bandwidth=target.slow_bandwidth,
        min_overlap=target.min_overlap,
        preferred_overlap=target.preferred_overlap,
        max_overlap=target.max_overlap,
        max_prefetches=target.max_outstanding,
        max_evictions=target.max_outstanding,
    )


def from_options(target: Target, options: Mapping[str, str]) -> Settings:
    """Returns the settings in force in a compile.

    Args:
        target: the chip.
        options: name -> value as in `tpu_comp_env.txt`; "" and -1 stand for the compiler's default.
    """
    settings = for_target(target)
    changed: dict[str, float | int | bool] = {}
    for field, option in _OPTIONS.items():
        value = options.get(option, "")
        if value not in ("", "-1"):
            kind = type(getattr(settings, field))
            changed[field] = kind(float(value))
    scale = options.get(_COPY_SCALE, "")
    if scale not in ("", "-1"):
        changed["slow_bandwidth"] = settings.slow_bandwidth * float(scale)
    if options.get(_FREEING) == "false":
        changed["free_cross_program"] = False
    if options.get(_ENABLED) == "false":
        changed["max_cross_program"] = 0
    return dataclasses.replace(settings, **changed)  # type: ignore[arg-type]
