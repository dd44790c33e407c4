"""What the TPU compiler makes of a layer: it keeps the chunks apart and makes their exchanges asynchronous."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.tpu,
    pytest.mark.slow,
    pytest.mark.xdist_group("libtpu"),
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="needs libtpu"
    ),
]

_COMPILE = """
import functools, json, re, sys
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
from compiler.moe import layer
from compiler.moe.plan import Pipeline, Plan

chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4")
mesh = Mesh(np.array(chips.devices).reshape(8), ("a",))
plan = Plan(
    mesh=(("a", 8),),
    expert_axes=("a",),
    exchange=sys.argv[1],
    forward=Pipeline(chunks=(1, 1, 1, 1), ahead=2),
)
parts = layer.make_parts(plan)

def put(shape, *axes):
    return jax.ShapeDtypeStruct(
        shape, jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec(*axes))
    )

weights = [
    {name: put(w.shape, *w.mesh_axes(plan)) for name, w in group.items()}
    for group in layer.declare(parts, plan, 512, 1024, 8)
]
run = functools.partial(layer.apply, parts=parts, plan=plan, mesh=mesh)
compiled = jax.jit(run).lower(put((8 * 1024, 512), "a"), *weights).compile(
    compiler_options={"xla_tpu_enable_async_all_to_all": True}
)
text = compiled.as_text()
print(json.dumps({
    name: len(re.findall(r" %s\\(" % name, text))
    for name in (
        "all-to-all", "all-to-all-start", "ragged-all-to-all", "ragged-all-to-all-start"
    )
}))
"""


@pytest.mark.parametrize("exchange", ["all_to_all", "ragged"])
def test_chunks_stay_apart(exchange):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE, exchange],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    kind = "ragged-all-to-all" if exchange == "ragged" else "all-to-all"
    # Four there and four back.
    assert found[kind] + found[f"{kind}-start"] == 8
    assert found[f"{kind}-start"] > 0
