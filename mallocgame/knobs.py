"""Program-level compile options that belong to the mapping: one setting each per program.

They decide how memory-space assignment goes about its work (its ratios, retries and repacker, how
many arguments the run before may prefetch) and how much fast memory the compiler keeps for the
insides of instructions. Each setting costs a compile, so `solvers.guided` picks them; what they
did to the tuning programs of `benchmarks/workloads` is its prior (`python -m
benchmarks.tune_knobs` makes it).
"""

import functools
import json
import math
from collections.abc import Mapping
from importlib import resources
from typing import NamedTuple

import numpy as np

from compiler.targets import Target
from solvers.guided import Prior, Vector


class Knob(NamedTuple):
    """One option; the first value is the compiler's default, and is not sent."""

    option: str
    values: tuple[str, ...]


_MSA = "xla_msa_"
SCOPED_LIMIT = "xla_tpu_scoped_vmem_limit_kib"
CROSS_PROGRAM = "xla_max_cross_program_prefetches"
MIN_OVERLAP = f"{_MSA}min_overlap_to_async_copy_ratio"
SLICES = "xla_tpu_sliced_prefetch_max_slices"
LOOP_OPTIMIZER = "xla_tpu_memory_bound_loop_optimizer_options"
AUTOTUNE = "xla_tpu_autotune_memory_space_assignment"

# The defaults are libtpu's, by its dumped settings (tpu_comp_env.txt).
KNOBS = (
    Knob(CROSS_PROGRAM, ("1", "0", "2", "4", "8")),
    Knob(SCOPED_LIMIT, ("16384", "8192", "24576", "32768", "49152", "65536", "98304")),
    Knob(f"{_MSA}preferred_overlap_to_async_copy_ratio", ("2", "0.5", "1", "4", "8")),
    Knob(MIN_OVERLAP, ("1", "0.5", "2")),
    Knob(f"{_MSA}max_overlap_to_mem_size_async_copy_ratio", ("8", "1", "32")),
    Knob("xla_tpu_async_copy_bandwidth_scaling_factor", ("1", "0.5", "0.7", "1.5")),
    Knob("xla_tpu_msa_inefficient_use_to_copy_ratio", ("0.5", "0", "0.25", "1")),
    # It plans repeated layers ahead of everything else, and leaves their caches in slow memory.
    Knob(LOOP_OPTIMIZER, ("enabled: true", "enabled: false")),
    Knob(f"{_MSA}max_outstanding_prefetches", ("40", "200")),
    Knob(f"{_MSA}max_retries", ("2", "6")),
    Knob(f"{_MSA}max_repacks", ("4", "0", "20")),
    Knob(SLICES, ("-1", "1", "8")),
    Knob(
        "xla_tpu_alternate_memory_benefit_scaling_factor_for_large_buffers",
        ("SQRT", "NO_SCALE"),
    ),
    Knob(f"{_MSA}use_bundle_aware_cost_model", ("AUTO", "ENABLED")),
)


def options(vector: Vector, fixed: Mapping[str, str]) -> dict[str, str]:
    """Returns the compile options of a vector; options that are `fixed` stay as they are."""
    return {
        knob.option: knob.values[value]
        for knob, value in zip(KNOBS, vector, strict=True)
        if value and knob.option not in fixed
    }


def capacity(target: Target, chosen: Mapping[str, str]) -> int:
    """Returns the bytes of fast memory that the options leave for tensors."""
    limit = chosen.get(SCOPED_LIMIT)
    if limit is None:
        return target.capacity
    return max(target.fast_bytes - (int(limit) << 10), 0)


def sizes(fixed: Mapping[str, str]) -> list[int]:
    """Returns how many values each knob has; one if it is fixed."""
    return [1 if knob.option in fixed else len(knob.values) for knob in KNOBS]


def label(chosen: Mapping[str, str]) -> str:
    """Returns the options in a few words."""
    short = [
        f"{name.removeprefix('xla_').removeprefix('tpu_').removeprefix('msa_')}={value}"
        for name, value in chosen.items()
    ]
    return ", ".join(short) or "defaults"


def settings() -> list[str]:
    """Returns what a knob can be set to beside its default, as OPTION=VALUE, knob by knob."""
    return [f"{knob.option}={value}" for knob in KNOBS for value in knob.values[1:]]


def prior(fixed: Mapping[str, str]) -> Prior:
    """Returns what the tuning programs lead one to expect of the knobs that are not fixed."""
    free = [s for s in settings() if s.partition("=")[0] not in fixed]
    effects = [
        [math.inf if effect is None else effect for effect in map(told.get, free)]
        for told in _stored().values()
    ]
    return Prior.of_samples(np.array(effects))


@functools.cache
def _stored() -> dict[str, dict[str, float | None]]:
    """Changes of the log of the judged time, by tuning program and setting; None if it failed."""
    file = resources.files("mallocgame") / "knob_prior.json"
    found: dict[str, dict[str, float | None]]
    found = json.loads(file.read_text())["programs"]
    return found
