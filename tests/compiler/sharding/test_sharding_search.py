"""`compiler.sharding.search` without a TPU compiler, the loop around a judge that is played, and the judges."""

import dataclasses
import importlib.util
import itertools
import json
import math
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import sharding_programs as programs
from compiler.backends import CompilerError
from compiler.sharding import (
    candidates,
    corrections,
    equal,
    explore,
    layout,
    mesh,
    oracle,
    space,
    subject,
)
from compiler.sharding import plan as plans
from compiler.sharding.game import task_of
from compiler.sharding.model import Model, model
from compiler.sharding.search import SearchFlags, search
from solvers.command import Budget, run
from solvers.command.units import Meter

HERE = "tests.compiler.sharding.subjects"


@pytest.fixture(autouse=True)
def _leave_jax_as_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))


def _run(out, *arguments):
    words = ["--out", str(out), "--verify", "never", "--equality", "never"]
    return run(
        search,
        SearchFlags,
        name="compiler.sharding.search",
        args=[*arguments, *words],
    )


def test_a_plan_is_found_written_and_reported(tmp_path, capsys):
    name = "benchmarks.sharding_programs:mlp"
    words = ["--argument-memory", "24MiB", "--evaluations", "700", "--json"]
    assert _run(tmp_path, name, *words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["judge"] == "model" and result["verified"] is None
    assert set(result["baselines"]) == set(programs.mlp().plans)
    assert result["baselines"]["data parallel"] is None  # It takes 66 MiB.
    assert result["best"] < result["baselines"][result["default"]]
    assert [one["equal"] for one in result["equal"]] == [None] * len(result["front"])
    made = plans.read(tmp_path / "plan.json")
    sizes = dict(made.mesh)
    held = [
        math.prod(leaf.shape) // math.prod(sizes[a] for axes in leaf.spec for a in axes)
        for leaf in made.inputs
    ]
    assert 2 * sum(held) <= 24 << 20
    front = [plans.read(one["plan"]) for one in result["front"]]
    times = [one["predicted"] for one in result["front"]]
    memory = [one["argument_mib"] for one in result["front"]]
    assert times == sorted(times) and memory == sorted(memory, reverse=True)
    assert front[0].inputs == made.inputs and memory[-1] <= 10
    page = (tmp_path / "report.html").read_text()
    assert "How arrays are cut" in page and "Memory against time" in page
    # The plan that was found is one of this program, and of no other.
    again = ["--check", str(tmp_path / "plan.json"), "--json"]
    assert _run(tmp_path / "again", name, *again) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["best"] == pytest.approx(result["best"], rel=1e-6)
    train = "benchmarks.sharding_programs:train"
    assert _run(tmp_path / "again", train, *again) == 4
    assert "the plan is for program" in capsys.readouterr().err


def test_plans_that_do_not_fit_the_function_are_named(tmp_path, capsys):
    assert _run(tmp_path, f"{HERE}:with_plans", "--evaluations", "40") == 0
    said = capsys.readouterr()
    assert "no such: left out, no class 'z.0'" in said.err
    assert "batch" in said.out


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["nocolon"], 2, "write MODULE:FUNCTION"),
        (["no.such.module:f"], 3, "No module named 'no'"),
        ([f"{HERE}:nobody"], 3, "has no nobody"),
        ([f"{HERE}:NOTHING"], 4, "not a pair (fn, args)"),
        ([f"{HERE}:raises"], 4, "RuntimeError: no data"),
        ([f"{HERE}:untraceable"], 4, "can't be traced: TracerBoolConversionError"),
        ([f"{HERE}:indivisible"], 4, "no dimension (5, 3) is divisible by a mesh axis"),
        ([f"{HERE}:pair", "--topology", "v9:2x4"], 2, "no link prices for 'v9:2x4'"),
        ([f"{HERE}:pair", "--topology", "v5e:2xy"], 2, "no topology 'v5e:2xy'"),
        ([f"{HERE}:pair", "--topology", "v5e:1x1"], 2, "at least 2 devices"),
        ([f"{HERE}:pair", "--mesh", "x=3,y=2"], 2, "v5e:2x4 has 8 devices"),
        ([f"{HERE}:pair", "--mesh", "8"], 2, "write x=2,y=4"),
        ([f"{HERE}:pair", "--strategy", "luck"], 2, "luck: not known"),
        ([f"{HERE}:pair", "--axes", "4"], 2, "--axes must be 1, 2 or 3"),
        ([f"{HERE}:pair", "--check", "none.json"], 3, "none.json: No such file"),
        (
            [f"{HERE}:pair", "--argument-memory", "1KiB"],
            5,
            "the least found is 0.00292969 MiB",
        ),
        ([f"{HERE}:pair", "--memory", "2KiB"], 5, "no plan fits the program into"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path, capsys, arguments, status, says):
    assert _run(tmp_path, *arguments, "--evaluations", "20") == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert says in lines[-1] and len(lines) == 1


def test_a_plan_of_another_program_is_refused(tmp_path, capsys):
    assert _run(tmp_path, f"{HERE}:pair", "--evaluations", "40") == 0
    capsys.readouterr()
    check = ["--check", str(tmp_path / "plan.json")]
    assert _run(tmp_path, f"{HERE}:other", *check) == 4
    assert "the plan is for program" in capsys.readouterr().err
    assert _run(tmp_path, f"{HERE}:pair", "--topology", "v5e:4x4", *check) == 4
    assert "for 8 devices; the topology has 16" in capsys.readouterr().err


# The loop.


@pytest.fixture(scope="module")
def perceptron() -> Model:
    program = programs.mlp()
    shapes = mesh.of_topology(programs.TOPOLOGY)
    return model(program.fn, *program.args, topology=programs.TOPOLOGY, meshes=shapes)


@pytest.fixture(scope="module")
def found(perceptron) -> explore.Found:
    by_hand = {
        name: subject.choice(perceptron, plan, 1)
        for name, plan in programs.mlp().plans.items()
    }
    limits = candidates.Limits(arguments=24.0)
    return explore.search(perceptron, limits, "auto", 600, 0, by_hand=by_hand)


class _Played:
    """A judge whose cycles are known: the model's, three times as many where a weight is gathered."""

    def __init__(self, found):
        self.asked = []
        self.model = found.model

    def __call__(self, plan):
        self.asked.append(plan)
        if plan.inputs[2].spec == ((), ("x", "y")):
            raise CompilerError("failed", "I do not like it")
        cycles = plan.provenance["predicted"]["time"]
        gathered = plan.inputs[1].spec[0] != ()
        total = cycles * (3 if gathered else 1)
        arguments = plan.provenance["predicted"]["arguments"]
        return SimpleNamespace(
            timeline=SimpleNamespace(total=total), arguments=arguments, memory=1.0
        )


@pytest.mark.parametrize(
    ("topology", "one", "other", "same"),
    [
        # Mirror images, where the axes are alike, and only there.
        ("v5e:4x4", {"x": ["x.0"], "y": ["w.1"]}, {"x": ["w.1"], "y": ["x.0"]}, True),
        ("v5e:2x4", {"x": ["x.0"], "y": ["w.1"]}, {"x": ["w.1"], "y": ["x.0"]}, False),
        # All over both axes of eight is all over one.
        ("v5e:2x4", {"x": ["w.1"], "y": ["w.1"]}, "whole", True),
        ("v5e:2x4", {"x": ["w.1", "x.0"], "y": ["w.1"]}, "whole", False),
        # Equally fast by the model, but not by the compiler.
        (
            "v5e:2x4",
            {"x": ["x.0", "x.1", "v.1"], "y": ["w.1", "x.1", "v.1"]},
            {"x": ["w.1", "x.0"], "y": ["w.1", "x.0"]},
            False,
        ),
    ],
)
def test_plans_that_come_to_the_same_have_one_key(
    topology: str, one: Any, other: Any, same: bool
) -> None:
    program = programs.mlp()
    built = model(program.fn, *program.args, topology=topology)
    task = task_of(built)
    square = len(built.meshes) - 1
    assert len(built.meshes[0].axes) == 1

    def key(axes: Any, number: int) -> bytes:
        choice = subject.choice(built, subject.HandPlan(axes), number)
        return candidates.candidate(task, "", choice).key

    second = key({"x": ["w.1"]}, 0) if other == "whole" else key(other, square)
    assert (key(one, square) == second) == same


def test_plans_by_hand_that_do_not_fit_are_left_out(found):
    names = {one.name for one in found.baselines}
    assert names == {"Megatron", "hidden over all", "FSDP", "2D"}
    assert found.refused["data parallel"] == "its arguments take 66 MiB"
    assert (found.pool.costs[:, 1] <= 24).all()
    assert (np.diff(found.pool.costs[:, 0]) >= 0).all()


def test_the_integer_programs_plans_compete(found):
    plans = found.programmed
    assert [one.cut.mesh for one in plans] == [0, 1]
    for cycles, first in ((1.0, plans[1].name), (1e9, "found 1")):
        other = dataclasses.replace(plans[1], predicted=cycles, key=b"new")
        start = dataclasses.replace(found, programmed=(other,))
        meter = Meter(Budget(measurements=1))
        (one,) = explore.measure(_Played(found), start, meter, baselines=False)
        assert one.name == first
    # What the search met besides is not compiled twice.
    again = dataclasses.replace(plans[1], predicted=1.0, key=one.key)
    start = dataclasses.replace(found, programmed=(again,))
    meter = Meter(Budget(measurements=9))
    seen = list(explore.measure(_Played(found), start, meter, baselines=False))
    assert [one.name for one in seen].count(again.name) == 1
    assert sum(one.key == again.key and not one.bare for one in seen) == 1


def test_the_loop_asks_nothing_twice_and_learns_what_the_compiler_dislikes(found):
    judge, meter = _Played(found), Meter(Budget(measurements=20))
    seen = list(explore.measure(judge, found, meter))
    assert len(seen) == len(judge.asked) == meter.measurements == 20
    pinned = [one for one in seen[4:] if not one.bare]
    assert len({one.key for one in pinned}) == len(pinned) >= 12
    # What stayed best for a while is tried without constraints.
    assert any(one.bare and not one.plan.sites for one in seen[4:])
    assert [one.by_hand for one in seen[:4]] == [True] * 4
    best = min(seen, key=candidates.worth)
    assert best.plan.inputs[1].spec[0] == () and not best.by_hand
    assert all(math.isinf(one.cycles) for one in seen if one.failure)
    # After those by hand it knows what is slower than the model says.
    gathered = [one for one in pinned if one.plan.inputs[1].spec[0] != ()]
    assert all(one.expected > one.predicted for one in gathered)
    kept = candidates.front(seen)
    for one, other in itertools.permutations(kept, 2):
        assert one.cycles < other.cycles or one.arguments < other.arguments
    assert kept[0].cycles == best.cycles and best in kept


def test_a_missing_compiler_is_not_a_bad_plan(found):
    def judge(plan):
        raise CompilerError("not-installed", "libtpu is not installed")

    with pytest.raises(CompilerError, match="not installed"):
        list(explore.measure(judge, found, Meter(Budget(measurements=3))))


def test_what_takes_more_than_the_limit_is_no_answer(found):
    tight = dataclasses.replace(found, limits=candidates.Limits(24.0, 0.5))
    seen = list(explore.measure(_Played(found), tight, Meter(Budget(measurements=2))))
    assert [one.failure for one in seen] == ["it takes 1 MiB"] * 2


def test_without_plans_by_hand_the_program_is_compared_uncut_or_with_least_memory(
    found,
):
    free = candidates.automatic(found.problem, found.pool, candidates.Limits())
    assert [one.name for one in free] == [candidates.UNCUT]
    (least,) = candidates.automatic(found.problem, found.pool, found.limits)
    assert least.name == candidates.LEAST
    assert least.arguments == found.pool.costs[:, 1].min()


def test_corrections_are_those_of_the_plans_that_cut_alike():
    def one(codes, ratio):
        judged = SimpleNamespace(timeline=SimpleNamespace(total=ratio * 100.0))
        return SimpleNamespace(
            codes=np.array(codes), predicted=100.0, judged=judged, bare=False
        )

    done = [one([1, 1, 1, 1], 1.5), one([2, 2, 2, 2], 0.8)]
    codes = np.array([[1, 1, 1, 1], [2, 2, 2, 2], [1, 1, 1, 0], [3, 4, 5, 6]])
    mean, deviation = corrections.corrections(codes, done)
    assert np.exp(mean[:2]) == pytest.approx([1.5, 0.8], rel=0.02)
    assert 1.1 < np.exp(mean[2]) < 1.5 and np.exp(mean[3]) == pytest.approx(1, abs=0.05)
    assert deviation[0] < 0.03 < deviation[2] < deviation[3] <= 0.2
    nothing, prior = corrections.corrections(codes, [])
    assert not nothing.any() and (prior == 0.2).all()


# The judges.


def test_the_collectives_of_a_cpu_compile_are_those_predicted():
    program = programs.mlp(dataclasses.replace(programs.SMALL, width=64), 64)
    shapes = [mesh.shape((2, 4))]
    built = model(program.fn, *program.args, topology="v5e:2x4", meshes=shapes)
    judge = oracle.Judge(fn=program.fn, args=program.args, topology="v5e:2x4")
    for name in ("Megatron", "FSDP"):
        choice = subject.choice(built, program.plans[name])
        predicted = layout.collectives(layout.layout(built, choice))
        made = layout.plan_of(built, choice)
        assert judge.structure(made) == oracle.structure_of(predicted)
    elsewhere = dataclasses.replace(judge, topology="v5e:4x4")
    with pytest.raises(ValueError, match="for 8 devices; v5e:4x4 has 16"):
        elsewhere(made)


def test_a_plan_computes_the_same_and_another_function_does_not(tmp_path):
    program = programs.mlp()
    shapes = [mesh.shape((2, 4))]
    built = model(program.fn, *program.args, topology="v5e:2x4", meshes=shapes)
    paths = []
    for name in ("Megatron", "2D"):
        made = layout.plan_of(built, subject.choice(built, program.plans[name]))
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(made.to_json()))
    checked = equal.check("benchmarks.sharding_programs:mlp", paths, 8, small=True)
    assert [one.equal for one in checked] == [True, True]
    assert all(one.largest < 1e-5 and one.on == "small" for one in checked)
    (failed,) = equal.check("benchmarks.sharding_programs:train", paths[:1], 8, True)
    assert failed.equal is None and "the plan is for program" in failed.reason


def test_differences_need_the_devices_and_are_seen(monkeypatch):
    def fn(x):
        return x * 2, jnp.sum(x > 0)

    shape = (jax.ShapeDtypeStruct((8, 4), jnp.float32),)
    built = model(fn, *shape, topology="v5e:2x4", meshes=[mesh.shape((8, 1))])
    made = layout.plan_of(built, space.problem(built).game.blank())
    if len(jax.devices()) < 8:
        with pytest.raises(ValueError, match="the plan needs 8 devices"):
            oracle.differences(fn, shape, made)
    x, y = jnp.arange(3.0), jnp.array([0.0, 1.0, 2.2])
    assert oracle.apart(x, x) == 0.0
    assert oracle.apart(y, x) == pytest.approx(0.1, rel=1e-5)
    assert oracle.apart(x, jnp.zeros(3)) == math.inf
    assert oracle.apart(jnp.array([np.nan]), jnp.array([np.nan])) == 0.0


def test_random_arguments_have_their_types():
    key, x = oracle.draw(
        (
            jax.eval_shape(lambda: jax.random.key(0)),
            jax.ShapeDtypeStruct((2,), jnp.int8),
        )
    )
    assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
    assert x.dtype == jnp.int8 and x.shape == (2,)


@pytest.mark.tpu
@pytest.mark.slow
@pytest.mark.xdist_group("libtpu")
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_the_judge_says_what_is_published():
    program = programs.mlp()
    shapes = [mesh.shape((2, 4))]
    built = model(program.fn, *program.args, topology="v5e:2x4", meshes=shapes)
    judge = oracle.Judge(fn=program.fn, args=program.args, topology="v5e:2x4")
    made = layout.plan_of(built, subject.choice(built, program.plans["Megatron"]))
    judged = judge(made)
    assert judged.timeline.total == pytest.approx(550_791, rel=1e-6)
    assert judged.arguments == 24 and 24 < judged.memory < 48
    late = dataclasses.replace(judge, latency=1e-6)(made)
    assert late.timeline.total == pytest.approx(550_791 + 1500, rel=1e-6)
