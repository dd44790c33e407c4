"""XLA's production auto-sharding pass, for `bench_autosharding`; it runs in an environment of its own.

    pip install jax==0.10.0 jaxlib==0.10.0 optax tyro rich jaxtyping && pip install --no-deps libtpu==0.0.40
    python benchmarks/autosharding.py PROGRAM BUDGET OUT [TOPOLOGY]

Later versions of JAX and libtpu have no such pass. OUT gets `PROGRAM-TOPOLOGY-BUDGET.hlo.pb`, the scheduled
module of one device, and the same with `.json`, the shardings that the pass chose on a mesh of the slice's form. BUDGET is GiB of memory on a device, or "default":
1.1 times the least that the pass thinks it needs.
"""

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

# A topology without chips.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
from jax.experimental import mesh_utils, topologies  # noqa: E402

OPTIONS: dict[str, Any] = {
    "xla_tpu_auto_spmd_partitioning_solver_timeout_seconds": 60,
    # Loops that the compiler makes of large products hide what they cost.
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": 1_000_000,
}


def main() -> None:
    """Compiles one program."""
    from jax.experimental.pjit import AUTO  # type: ignore[attr-defined]  # Gone by now.

    from benchmarks import sharding_programs

    name, budget, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    topology = sys.argv[4] if len(sys.argv) > 4 else "v5e:2x4"
    form = topology.partition(":")[2]
    mesh = dict(zip("xyz", map(int, form.split("x"))))
    # The other partitioner does not say what was chosen.
    jax.config.update("jax_use_shardy_partitioner", False)
    program = sharding_programs.PROGRAMS[name]()
    chips = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    devices = mesh_utils.create_device_mesh(
        tuple(mesh.values()), devices=chips.devices, allow_split_physical_axes=True
    )
    auto = AUTO(jax.sharding.Mesh(devices, tuple(mesh)))
    options = dict(OPTIONS)
    if budget != "default":
        options["xla_tpu_auto_spmd_partitioning_memory_budget_gb"] = budget
    began = time.perf_counter()
    lowered = jax.jit(program.fn, in_shardings=auto, out_shardings=auto).lower(
        *program.args
    )
    compiled = lowered.compile(compiler_options=options)
    seconds = time.perf_counter() - began
    executable: Any = compiled.runtime_executable()
    modules = executable.hlo_modules()
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}-{form}-{budget}"
    path.with_name(f"{path.name}.hlo.pb").write_bytes(
        modules[0].as_serialized_hlo_module_proto()
    )
    results = jax.tree.leaves(jax.eval_shape(program.fn, *program.args))
    document = {
        "program": name,
        "topology": topology,
        "budget": budget,
        "mesh": mesh,
        "inputs": _specs(compiled.input_shardings[0], jax.tree.leaves(program.args)),
        "outputs": _specs(compiled.output_shardings, results),
        "seconds": seconds,
        "versions": {"jax": jax.__version__, "libtpu": version("libtpu")},
    }
    path.with_name(f"{path.name}.json").write_text(json.dumps(document, indent=1))


def _specs(shardings: Any, arrays: list[Any]) -> list[list[list[str]]]:
    """Returns, for each array and dimension, the axes that cut it."""
    found = []
    for sharding, array in zip(jax.tree.leaves(shardings), arrays, strict=True):
        spec = list(sharding.spec) + [None] * (len(array.shape) - len(sharding.spec))
        found.append(
            [[axes] if isinstance(axes, str) else list(axes or ()) for axes in spec]
        )
    return found


if __name__ == "__main__":
    main()
