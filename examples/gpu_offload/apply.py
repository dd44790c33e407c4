"""Compiles the training step for an H100 as it is and with a plan applied; prints `memory_analysis()` of both.

    python examples/gpu_offload/apply.py runs/offload/mapping.json      # needs the [gpu] extra, no GPU

What a user's own program needs of it is in `compile_step`: the policy, the shardings, the donation.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def h100() -> Any:
    """Returns an H100 that is not there: it compiles and does not run."""
    from jax.experimental import topologies

    from compiler.backends import BACKENDS

    gpu = BACKENDS["gpu"]
    gpu.version()  # Says so if the plugin is not installed.
    topology = topologies.get_topology_desc(
        platform="cuda", topology_name="h100", topology="1x1x1", **gpu.request("h100")
    )
    return topology.devices[0]


def compile_step(names: Any, device: Any) -> Any:
    """Returns the compiled step with what `names` says on the host."""
    import jax
    import train_step
    from jax.sharding import SingleDeviceSharding

    state, tokens = train_step.abstract_arguments()
    places = jax.tree.map(
        lambda on_host: SingleDeviceSharding(
            device, memory_kind="pinned_host" if on_host else "device"
        ),
        names.on_host("state", state),
    )
    here = SingleDeviceSharding(device, memory_kind="device")
    step = jax.jit(
        train_step.make_train_step(names),
        in_shardings=(places, here),
        out_shardings=(places, here),
        donate_argnums=0,
    )
    return step.lower(state, tokens).compile()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("mapping", type=Path)
    mapping = parser.parse_args().mapping
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.path.insert(0, str(ROOT))
    import train_step

    from compiler.backends import CompilerError
    from mallocgame import offload

    try:
        device = h100()
    except CompilerError as error:
        print(error, file=sys.stderr)
        return 3
    plan = offload.names(mapping)
    print(f"to the host: {', '.join((*plan.offload, *plan.pinned_host)) or 'nothing'}")
    before = compile_step(train_step.NOTHING, device).memory_analysis()
    after = compile_step(plan, device).memory_analysis()
    print(f"{'MiB':32}{'before':>10}{'after':>10}")
    for name in ("argument", "output", "alias", "temp"):
        for side in ("", "host_"):
            key = f"{side}{name}_size_in_bytes"
            values = [getattr(stats, key) / 2**20 for stats in (before, after)]
            print(f"{key:32}" + "".join(f"{value:10.0f}" for value in values))
    peaks = [
        s.argument_size_in_bytes
        + s.output_size_in_bytes
        - s.alias_size_in_bytes
        + s.temp_size_in_bytes
        for s in (before, after)
    ]
    print(f"{'HBM in all':32}" + "".join(f"{peak / 2**20:10.0f}" for peak in peaks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
