"""The layer against a dense reference on eight devices (`layer_cases.py`), what it emits, and what it refuses."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import AbstractMesh

from compiler.moe import gates
from compiler.moe.layer import MoE, apply, declare, make_parts
from compiler.moe.plan import Pipeline, Plan

# One process runs what all tests of this module look at.
pytestmark = pytest.mark.xdist_group("moe_layer")

PLAN = Plan(mesh=(("a", 4), ("b", 2)), expert_axes=("a",), shard_axes=("b",))
# Rows of the product of routing (96 rows each), order (48), exchange (12), degree (3) and reduce (1): each routing,
# exchange and degree once, either order twice, all ways to reduce.
SOME = [96 * i + 48 * (i % 2) + 12 * i + 3 * ((i + 2) % 4) + i % 3 for i in range(4)]
CHECKS = Path(__file__).with_name("layer_cases.py")


def run_on_eight_devices(*arguments):
    environment = os.environ | {
        # Code that is run once need not be fast: compiled so, a row takes half a second, and not two.
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 "
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    done = subprocess.run(
        [sys.executable, str(CHECKS), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def checks():
    return run_on_eight_devices("checks", *SOME)


def differing(cases):
    return {
        index: found
        for index, found in cases.items()
        if found["forward"] > 1e-5 or found["backward"] > 1e-5
    }


def test_each_part_equals_the_dense_layer(checks):
    cases = {index: checks[str(index)] for index in SOME}
    assert not differing(cases)
    assert all(found["dropped"] > 0 for found in cases.values())


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_every_fifth_of_the_product_equals_the_dense_layer(part):
    # A gate and an order each. Five has no divisor with the numbers of exchanges, degrees and reductions in common, so
    # that all of them meet. `python tests/compiler/moe/layer_cases.py $(seq 0 383)` computes the whole product.
    cases = run_on_eight_devices(*range(48 * part, 48 * (part + 1), 5))
    assert len(cases) == 10
    assert not differing(cases)


def test_nnx_equals_linen_and_declares_the_same(checks):
    found = checks["check_nnx_equals_linen"]
    assert found["difference"] < 1e-6
    assert found["spread_in"] == ["a", None, "b"]
    assert found["declared_alike"]


def test_a_set_mesh_serves_as_a_given_one(checks):
    found = checks["check_set_mesh_equals_given_mesh"]
    assert found == {"difference": 0.0, "spread": ["a", "None", "b"]}


def test_dropless_drops_nothing(checks):
    found = checks["check_dropless_equals_dense_and_drops_nothing"]
    assert found["difference"] < 1e-5
    assert found["dropped"] == 0
    assert found["load"] == pytest.approx(1)


def test_bfloat16_is_close_to_float32(checks):
    found = checks["check_bfloat16"]
    assert found["dtype"] == "bfloat16"
    assert found["types"] == ["float32"]
    # Eight bits of mantissa, a few roundings in a row.
    assert max(found["forward"], found["backward"]) < 2**-5


def test_hooks_see_chunks_and_are_differentiated(checks):
    found = checks["check_hooks"]
    assert found["difference"] < 1e-5
    # 5 slots padded to 8, cut in 2 by the backward pass, which traced last but the layer's hooks.
    assert found["shapes"] == {
        "before_layer": [4, 32, 16],
        "before_dispatch": [8, 8, 16],
        "after_dispatch": [2, 4, 8, 16],
        "before_combine": [2, 4, 8, 16],
        "after_combine": [8, 8, 16],
        "after_layer": [4, 32, 16],
    }


def test_all_parts_can_be_replaced(checks):
    found = checks["check_replaced_parts_are_used"]
    assert found["difference"] < 1e-5
    assert found["used"] == [
        "combine",
        "combine_transposed",
        "dispatch",
        "dispatch_transposed",
        "expert",
        "gate",
        "inverse_order",
        "order",
    ]


def test_not_finite_logits_are_reported(checks):
    assert "not all finite" in checks["check_not_finite_is_reported"]


def test_ragged_exchange_moves_rows_as_the_dense_one(checks):
    found = checks["check_ragged_moves_rows_as_dense_exchanges_do"]
    assert found == {"there": 0.0, "back": 0.0}


def lowered(plan, *, gradient=False, platform="cpu", **options):
    """The program before any compiler saw it, for a mesh of no devices."""
    parts = make_parts(plan, gate=gates.Sigmoid(k=1, capacity_factor=2.0))
    gate, experts = declare(parts, plan, 16, 32, 8)
    mesh = AbstractMesh(
        tuple(size for _, size in plan.mesh), tuple(name for name, _ in plan.mesh)
    )
    run = functools.partial(apply, parts=parts, plan=plan, mesh=mesh, **options)
    if gradient:
        run = jax.grad(lambda *args, run=run: jnp.mean(run(*args)[0] ** 2), (0, 1, 2))
    arguments = [
        jax.ShapeDtypeStruct((8 * 32, 16), jnp.float32),
        *(
            {n: jax.ShapeDtypeStruct(w.shape, jnp.float32) for n, w in group.items()}
            for group in (gate, experts)
        ),
    ]
    return (
        jax.jit(run).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    )


def order_of(text):
    """A for each exchange of rows, x for each product of the experts, as they come."""
    found = re.findall(r'"stablehlo.(all_to_all)"|dot_general.*batching_dims', text)
    return "".join("A" if one else "x" for one in found)


@pytest.mark.parametrize(
    "ahead, expected",
    [(1, "AxxAAxxAAxxA"), (2, "AAxxAAxxAxxA"), (3, "AAAxxAxxAxxA")],
)
def test_chunks_are_emitted_in_order(ahead, expected):
    plan = Plan(
        mesh=(("a", 8),),
        expert_axes=("a",),
        forward=Pipeline(chunks=(1, 2, 1), ahead=ahead),
    )
    assert order_of(lowered(plan)) == expected


@pytest.mark.parametrize("keep, more", [("hidden", 0), ("received", 0), ("nothing", 4)])
def test_backward_is_cut_by_its_own_degree(keep, more):
    plan = Plan(
        mesh=(("a", 8),),
        expert_axes=("a",),
        forward=Pipeline(chunks=(1, 1)),
        backward=Pipeline(chunks=(1, 1, 1, 1)),
    )
    text = lowered(plan, gradient=True, keep=keep)
    # There and back, of 2 chunks and of 4; without anything kept, 4 are sent once more.
    assert order_of(text).count("A") == 2 * 2 + 2 * 4 + more
    assert "optimization_barrier" not in text


def test_ragged_exchange_is_dense_on_cpu_alone():
    plan = Plan(mesh=(("a", 8),), expert_axes=("a",), exchange="ragged")
    assert "ragged_all_to_all" not in lowered(plan)
    calls = re.findall("custom_call @ragged_all_to_all", lowered(plan, platform="tpu"))
    assert len(calls) == 2


@pytest.mark.parametrize(
    "reduce, operation",
    [
        ("reduce_scatter", "reduce_scatter"),
        ("ring", "collective_permute"),
        ("all_reduce", "all_reduce"),
    ],
)
def test_sums_come_together_as_the_plan_says(reduce, operation):
    plan = Plan(mesh=(("a", 8),), expert_axes=(), shard_axes=("a",), reduce=reduce)
    large = re.findall(
        r'"stablehlo\.(reduce_scatter|collective_permute|all_reduce)"[^\n]*\n?(?:.*\n){0,4}?.*x16xf32>',
        lowered(plan),
    )
    assert operation in large


@pytest.mark.parametrize(
    "changes, sizes, message",
    [
        ({}, (16, 32, 6), "6 experts can't be spread evenly over 4 devices"),
        ({}, (16, 33, 8), "hidden width of 33 can't be cut evenly over 2 devices"),
        (
            {"chunk_axis": "width", "forward": Pipeline(chunks=(1, 2))},
            (16, 32, 8),
            "16 rows can't be cut in the proportions",
        ),
        ({"expert_axes": ()}, (16, 32, 1), "2 experts per token, but only 1"),
    ],
)
def test_refuses_what_can_not_be_cut(changes, sizes, message):
    fields = {"mesh": PLAN.mesh, "expert_axes": ("a",), "shard_axes": ("b",)}
    plan = Plan(**{**fields, **changes})
    with pytest.raises(ValueError, match=message):
        MoE(*sizes, plan, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("axes, sizes", [(("a", "c"), (4, 2)), (("a", "b"), (2, 4))])
def test_refuses_another_mesh(axes, sizes):
    layer = MoE(16, 32, 8, PLAN, rngs=nnx.Rngs(0))
    layer.mesh = AbstractMesh(sizes, axes)
    with pytest.raises(ValueError, match=r"the plan is for the mesh .* not for"):
        layer(jnp.zeros((16, 16)))


def test_refuses_no_mesh_and_uneven_tokens():
    layer = MoE(16, 32, 8, PLAN, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="no mesh"):
        layer(jnp.zeros((16, 16)))
    layer.mesh = AbstractMesh((4, 2), ("a", "b"))
    with pytest.raises(ValueError, match="12 tokens can't be spread evenly over 8"):
        layer(jnp.zeros((3, 4, 16)))
    with pytest.raises(ValueError, match="0 tokens"):
        layer(jnp.zeros((0, 16)))


@pytest.mark.parametrize("factor", [0, -1, float("nan"), float("inf")])
def test_refuses_no_capacity(factor):
    with pytest.raises(ValueError, match="capacity factor"):
        gates.Sigmoid(capacity_factor=factor)
