"""Programs that people really run, as small JAX functions with real sizes.

    from benchmarks import workloads
    fn, args, jit_kwargs = workloads.get("gpt2_decode_b8").make()

`python -m benchmarks.workloads` lists them. The split into a tuning and a test half is by model family; see
`base.split_of_family`.
"""

from benchmarks.workloads import (
    algebra,
    encoders,
    gpt2,
    llama,
    optimizers,
    recurrent,
    sparse,
    vision,
)
from benchmarks.workloads.base import Call, Split, Workload, split_of_family

__all__ = [
    "WORKLOADS",
    "Call",
    "Split",
    "Workload",
    "get",
    "of_split",
    "split_of_family",
]

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for module in (
        gpt2,
        llama,
        encoders,
        vision,
        recurrent,
        sparse,
        algebra,
        optimizers,
    )
    for workload in module.WORKLOADS
}


def get(name: str) -> Workload:
    """Returns a workload.

    Raises:
        KeyError: there is none of that name; the message lists the names.
    """
    if name not in WORKLOADS:
        raise KeyError(
            f"no workload {name!r}; there are: {', '.join(sorted(WORKLOADS))}"
        )
    return WORKLOADS[name]


def of_split(split: Split) -> list[Workload]:
    """Returns the workloads of one half, in registry order."""
    return [workload for workload in WORKLOADS.values() if workload.split == split]
