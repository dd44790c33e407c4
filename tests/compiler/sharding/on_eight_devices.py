"""Run as a script on eight virtual CPU devices: plans computed and compiled for real.

    python on_eight_devices.py born | exhaustive | hand

Prints one line for each plan; an assertion says what is wrong.
"""

import collections
import json
import re
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core import spmd

import solvers
from benchmarks import sharding_programs as programs
from compiler.sharding import layout, mesh, plan, space, subject
from compiler.sharding.cost import Choice
from compiler.sharding.model import Model, model
from solvers.protocols import Genome

SIZES = programs.SMALL
_BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1}
_COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
)


def build(program: programs.Program, *sizes: int) -> Model:
    """Returns the model on one mesh."""
    shapes = [mesh.shape(sizes)]
    return model(program.fn, *program.args, topology=programs.TOPOLOGY, meshes=shapes)


def arguments(program: programs.Program) -> Any:
    """Returns random ones."""
    rng = np.random.default_rng(0)

    def draw(shape: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray(0.3 * rng.normal(size=shape.shape), shape.dtype)

    return jax.tree.map(draw, program.args)


def compiled(program: programs.Program, built: Model, choice: Choice, args: Any) -> Any:
    """Returns the program compiled under a plan that went through a file's format."""
    made = layout.plan_of(built, choice)
    kept = plan.from_json(json.loads(json.dumps(made.to_json())))
    assert kept == made
    devices = kept.make_mesh(jax.devices()[: kept.devices])
    return plan.jit(program.fn, kept, devices, *args).lower(*args).compile()


def require_equal(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    """Compares results, each in units of its largest element."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, atol=tolerance * (1e-6 + np.abs(b).max()))


def moved(text: str, widened: bool) -> dict[str, int]:
    """Returns the bytes of the collectives in a module, by kind; bfloat16 may have been widened to float32."""
    found: collections.Counter[str] = collections.Counter()
    for types, kind in _COLLECTIVE.findall(text):
        for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", types):
            count = int(np.prod([int(d) for d in dims.split(",") if d] or [1]))
            found[kind] += count * (2 if widened and dtype == "f32" else _BYTES[dtype])
    return dict(found)


def predicted(built: Model, choice: Choice) -> dict[str, int]:
    """Returns the bytes of the collectives to expect, as the CPU's compiler does them.

    It has no reduce-scatter, but an all-reduce of which each keeps a part.
    """
    found: collections.Counter[str] = collections.Counter()
    for one in layout.collectives(layout.layout(built, choice)):
        if one.kind == "reduce-scatter":
            found["all-reduce"] += round(one.result_bytes * one.devices)
        else:
            found[one.kind] += round(one.result_bytes)
    return dict(found)


def exhaustive() -> None:
    """Every plan of a small perceptron on four devices, and random ones on eight."""
    program = programs.mlp(programs.Sizes(width=16, hidden=32, dtype=jnp.float32), 8)
    args = arguments(program)
    want = jax.jit(program.fn)(*args)
    for sizes, draws in (((4, 1), 0), ((2, 4), 60)):
        built = build(program, *sizes)
        problem = space.problem(built, per_axis=4, max_details=1)
        assert problem.game is not None
        if draws:
            genomes = solvers.spaces.sample(problem.space, jax.random.key(0), draws)
            rows = np.asarray(genomes.choices)
        else:
            # All genomes of one axis.
            classes = np.indices((len(built.classes) + 1,) * 4).reshape(4, -1).T
            rows = np.zeros((len(classes), len(problem.space.sizes)), np.int32)
            rows[:, 1:5] = classes
        decode = jax.jit(jax.vmap(space.decode, (None, None, 0)), static_argnums=0)
        batch = Genome(jnp.asarray(rows), jnp.zeros((len(rows), 0)))
        choices = jax.tree.map(
            np.asarray, decode(problem.game, problem.instance, batch)
        )
        seen = set()
        for row in range(len(rows)):
            choice = jax.tree.map(lambda x, row=row: jnp.asarray(x[row]), choices)
            cut = layout.layout(built, choice)
            if cut.cuts in seen:
                continue
            seen.add(cut.cuts)
            require_equal(compiled(program, built, choice, args)(*args), want)
        assert len(seen) > 10
        print(sizes, len(seen), "plans")


def hand() -> None:
    """Hand plans: equal results, and the collectives that were predicted."""
    half = programs.Sizes(width=64, hidden=128, dtype=jnp.bfloat16)
    cases = {
        "mlp": programs.mlp(SIZES, 64),
        "mlp, bfloat16": programs.mlp(half, 64),
        "block": programs.forward(SIZES),
        "train": programs.train(SIZES),
        "moe": programs.experts(SIZES),
        "scanned": programs.layers(SIZES, scan=True),
    }
    for name, program in cases.items():
        built = build(program, 2, 4)
        args = arguments(program)
        want = jax.jit(program.fn)(*args)
        widened = "bfloat16" in name
        for label, wanted in program.plans.items():
            choice = subject.choice(built, wanted)
            made = compiled(program, built, choice, args)
            require_equal(made(*args), want, 2e-2 if widened else 1e-5)
            real, expected = moved(made.as_text(), widened), predicted(built, choice)
            print(name, label, real, expected)
            assert set(real) == set(expected), (name, label)
            for kind, size in real.items():
                # Numbers that fill less than a few cache lines may be kept on every device.
                assert abs(size - expected[kind]) <= 0.02 * size + 64, (name, label)


def born() -> None:
    """A parameter of NNX is born where the plan puts it."""
    program = programs.mlp(SIZES, 64)
    built = build(program, 2, 4)
    for label in ("Megatron", "FSDP"):
        made = layout.plan_of(built, subject.choice(built, program.plans[label]))
        zeros = nnx.initializers.zeros_init()
        init = nnx.with_partitioning(zeros, made.dimension_names("w"))
        devices = made.make_mesh()
        with jax.set_mesh(devices), spmd.logical_axis_rules(made.logical_axis_rules()):
            w = nnx.Param(init(jax.random.key(0), program.args[1].shape))
        (leaf,) = (leaf for leaf in made.inputs if leaf.path == "w")
        wanted = jax.NamedSharding(devices, plan.partition_spec(leaf.spec))
        assert w[...].sharding.is_equivalent_to(wanted, 2), w[...].sharding


if __name__ == "__main__":
    {"born": born, "exhaustive": exhaustive, "hand": hand}[sys.argv[1]]()
