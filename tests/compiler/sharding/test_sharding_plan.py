"""Plans: files, errors, rules for Flax, and results on eight devices."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
from flax import linen
from flax.core import spmd
from jax.sharding import AbstractMesh, AxisType

from benchmarks import sharding_programs as programs
from compiler.sharding import layout, mesh, plan, subject
from compiler.sharding.model import model
from compiler.sharding.plan import Plan

AUTO = (AxisType.Auto, AxisType.Auto)
MESH = AbstractMesh((2, 4), ("x", "y"), axis_types=AUTO)


def _made(program: programs.Program, name: str) -> Plan:
    shapes = [mesh.shape((2, 4))]
    built = model(program.fn, *program.args, topology="v5e:2x4", meshes=shapes)
    return layout.plan_of(built, subject.choice(built, program.plans[name]))


def _perceptron() -> programs.Program:
    return programs.mlp(programs.SMALL, 32)


def test_specs_of_hand_plans_are_the_textbook_ones() -> None:
    both = ("x", "y")
    wanted = {
        "data parallel": [(both, ()), ((), ()), ((), ()), (both, ())],
        "Megatron": [(("x",), ()), ((), ("y",)), (("y",), ()), (("x",), ())],
        "FSDP": [(both, ()), (both, ()), (both, ()), (both, ())],
        "2D": [(("x",), ("y",)), (("x",), ("y",)), (("y",), ("x",)), (("x",), ("y",))],
    }
    program = _perceptron()
    for name, specs in wanted.items():
        made = _made(program, name)
        assert [leaf.spec for leaf in (*made.inputs, *made.outputs)] == specs


def test_a_training_steps_state_comes_back_where_it_was() -> None:
    made = _made(programs.train(programs.SMALL), "FSDP + tensor")
    came = {leaf.path.removeprefix("params/"): leaf.spec for leaf in made.inputs}
    left = {leaf.path.removeprefix("0/"): leaf.spec for leaf in made.outputs}
    assert left["w1"] == came["w1"] == (("x",), ("y",))
    assert left["wo"] == came["wo"] == (("y",), (), ("x",))


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    made = _made(_perceptron(), "2D")
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(made.to_json()))
    assert plan.read(path) == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "moe.plan"}, "its kind is not 'sharding.plan'"),
        ({"schema_version": 2}, "schema version 2; this reads 1"),
        ({"mesh": [["x", 2]]}, "no axis 'y' in the mesh"),
        ({"mesh": [["x", 2], ["y", 5]]}, "can't be cut into 10 equal parts"),
        ({"mesh": [["x", 2], ["x", 4]]}, "axes of different names"),
        ({"sites": 3}, "AttributeError"),
    ],
)
def test_broken_files_are_refused(change: dict[str, object], message: str) -> None:
    document = json.loads(json.dumps(_made(_perceptron(), "FSDP").to_json()))
    with pytest.raises(ValueError, match=message) as info:
        plan.from_json(document | change)
    assert "\n" not in str(info.value)


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        plan.read(path)


def test_a_plan_fits_one_program_and_one_mesh() -> None:
    program = _perceptron()
    made = _made(program, "Megatron")
    other = programs.mlp(programs.SMALL, 64)
    with pytest.raises(
        ValueError, match="for another program: its arguments have shapes"
    ):
        made.in_shardings(MESH, *other.args)
    with pytest.raises(ValueError, match=r"for program \w+, not \w+"):
        jitted = plan.jit(
            lambda x, w, v: jnp.tanh(x @ w) @ v, made, MESH, *program.args
        )
        jitted.lower(*program.args)
    swapped = AbstractMesh((4, 2), ("x", "y"), axis_types=AUTO)
    with pytest.raises(ValueError, match="the plan is for a mesh"):
        made.in_shardings(swapped, *program.args)
    explicit = AbstractMesh((2, 4), ("x", "y"), axis_types=(AxisType.Explicit,) * 2)
    with pytest.raises(ValueError, match="of type Auto"):
        made.in_shardings(explicit, *program.args)


@pytest.mark.parametrize("name", ["data parallel", "Megatron", "FSDP", "2D"])
def test_flax_reads_the_rules_as_the_plan_means_them(name: str) -> None:
    made = _made(_perceptron(), name)
    rules = made.logical_axis_rules()
    for leaf in made.inputs:
        names = made.dimension_names(leaf.path)
        wanted = plan.partition_spec(leaf.spec)
        assert spmd.apply_rules(names, rules) == wanted  # NNX
        assert linen.logical_to_mesh_axes(names, rules) == wanted
    with pytest.raises(ValueError, match="no argument 'w9'"):
        made.dimension_names("w9")


def _on_eight_devices(what: str) -> None:
    here = Path(__file__)
    root = here.parents[3]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(root),
    }
    done = subprocess.run(
        [sys.executable, str(here.parent / "on_eight_devices.py"), what],
        env=environment,
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_every_plan_of_a_small_perceptron_computes_the_same() -> None:
    _on_eight_devices("exhaustive")


@pytest.mark.slow
def test_hand_plans_compute_the_same_and_talk_as_predicted() -> None:
    _on_eight_devices("hand")


@pytest.mark.slow
def test_a_parameter_is_born_as_the_plan_says() -> None:
    _on_eight_devices("born")
