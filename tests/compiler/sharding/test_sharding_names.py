"""Named dimensions, against what people would write down."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from benchmarks import sharding_programs as programs
from compiler.sharding.flatten import trace
from compiler.sharding.names import Names, analyse

SIZES = programs.SMALL


def _names(program: programs.Program) -> Names:
    return analyse(trace(program.fn, *program.args))


def _inputs(names: Names) -> dict[str, tuple[str, ...]]:
    return {
        path: tuple(names.classes[c].name for c in names.values[v].classes)
        for path, v in zip(names.program.input_paths, names.program.inputs)
    }


def test_the_classes_of_a_perceptron_are_batch_hidden_and_two_widths() -> None:
    names = _names(programs.mlp(SIZES, 32))
    assert _inputs(names) == {
        "x": ("x.0", "x.1"),
        "w": ("x.1", "w.1"),
        "v": ("w.1", "v.1"),
    }
    sizes = {c.name: c.size for c in names.classes}
    assert sizes == {"x.0": 32, "x.1": 64, "w.1": 128, "v.1": 64}
    assert not names.conflicts
    hidden = next(c for c in names.classes if c.name == "w.1")
    # Both products run over it, and eight elementwise operations between.
    assert hidden.flops == 2 * 2 * 32 * 64 * 128 + 8 * 32 * 128


def test_the_classes_of_a_transformer_block() -> None:
    names = _names(programs.forward(SIZES))
    batch, length, width, heads = "x.0", "x.1", "x.2", "p/wk.1"
    assert _inputs(names) == {
        "x": (batch, length, width),
        "p/g1": (width,),
        "p/g2": (width,),
        "p/w1": (width, "p/w1.1"),
        "p/w2": ("p/w1.1", width),
        "p/wk": (width, heads, "p/wk.2"),
        "p/wq": (width, heads, "p/wk.2"),
        "p/wv": (width, heads, "p/wo.1"),
        "p/wo": (heads, "p/wo.1", width),
    }
    # Queries and keys are positions both: one ambiguity, from the scores to the mixing.
    (conflict,) = names.conflicts
    assert names.classes[conflict.klass].name == length
    primitives = {site.partition(":")[2] for site in conflict.sites}
    assert {"dot_general", "exp", "reduce_max"} <= primitives


def test_a_conflict_has_one_orientation_everywhere() -> None:
    names = _names(programs.train(SIZES))
    assert len(names.conflicts) == 1
    program = names.program
    for op, nest in zip(program.operations, names.operations):
        for value, row in zip(
            (*op.operands, *op.results), (*op.rule.operands, *op.rule.results)
        ):
            if value < 0:
                continue
            theirs = names.values[value].sides
            for label, side in zip(row, theirs):
                if label >= 0 and side[0] >= 0 and nest.sides[label][0] >= 0:
                    assert nest.sides[label] == side


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_repeated_layers_share_classes_and_conflicts(
    scan: bool, training: bool
) -> None:
    one = _names(programs.train(SIZES) if training else programs.forward(SIZES))
    many = _names(programs.layers(SIZES, scan=scan, training=training))
    cuttable = [c.size for c in many.classes if c.cuttable]
    assert sorted(cuttable) == sorted(c.size for c in one.classes)
    assert len(many.conflicts) == len(one.conflicts) == 1
    if scan:  # Stacks are not cut.
        assert {c.size for c in many.classes if not c.cuttable} == {SIZES.layers}


def test_an_optimizers_state_is_cut_like_the_parameters() -> None:
    names = _names(programs.train(SIZES, optax.adam(1e-3)))
    found = _inputs(names)
    for name in ("w1", "wo", "g2"):
        state = [row for path, row in found.items() if path.endswith(f"/{name}")]
        assert len(state) == 3 and len(set(state)) == 1


def test_experts_follow_the_router() -> None:
    found = _inputs(_names(programs.experts(SIZES)))
    assert found["p/wg"][1] == found["p/w1"][0] == found["p/w2"][0]
    assert found["p/w1"][2] == found["p/w2"][1]


def test_calls_loops_and_branches_carry_names_through() -> None:
    @jax.custom_vjp
    def twice(x: jax.Array) -> jax.Array:
        return 2 * x

    twice.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))

    def fn(x: jax.Array, w: jax.Array, flag: jax.Array) -> Any:
        y = jax.jit(jax.checkpoint(jnp.tanh))(twice(x))
        y = jax.lax.while_loop(lambda c: c.sum() < 9, lambda c: c + x, y)
        y = jax.lax.cond(flag, lambda a: a, jax.nn.relu, y)
        return jax.lax.scan(lambda c, _: (c @ w, c), y, None, length=3)

    float32 = jnp.float32
    shapes = [
        jax.ShapeDtypeStruct((8, 6), float32),
        jax.ShapeDtypeStruct((6, 6), float32),
    ]
    names = analyse(trace(fn, *shapes, jax.ShapeDtypeStruct((), bool)))
    (x, w, _), (last, all_) = names.program.inputs, names.program.outputs
    classes = [names.values[v].classes for v in (x, w, last, all_)]
    batch, width = classes[0]
    assert batch != width
    # The carry keeps its width, so both sides of the weight are one: a conflict.
    assert classes[1:] == [
        (width, width),
        (batch, width),
        (classes[3][0], batch, width),
    ]
    assert not names.classes[classes[3][0]].cuttable
    assert [c.klass for c in names.conflicts] == [width]


def test_random_numbers_do_not_tie_what_they_fill() -> None:
    def fn(key: jax.Array, x: jax.Array) -> jax.Array:
        return x * jax.random.bernoulli(key, 0.5, x.shape)

    names = analyse(trace(fn, jax.random.key(0), jnp.ones((8, 6))))
    assert sorted(c.size for c in names.classes) == [6, 8]


def test_what_cannot_be_traced_is_said_in_one_line() -> None:
    with pytest.raises(
        ValueError, match=r"^the function can't be traced: .*\n?$"
    ) as info:
        trace(lambda x: x if x > 0 else -x, jnp.ones(()))
    assert "\n" not in str(info.value)
