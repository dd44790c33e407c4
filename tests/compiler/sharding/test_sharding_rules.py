"""Rules, against what functions do: a cut is right if no part of a result needs another part of an operand."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from compiler.sharding import flatten, labels, rules

_KEYS = np.arange(8)[::-1].reshape(4, 2)
_CONV = ("NHWC", "HWIO", "NHWC")

CASES: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "matmul": (lambda a, b: a @ b, [(4, 6), (6, 8)]),
    "batched": (lambda a, b: jnp.einsum("bqhk,bshk->bhqs", a, b), [(2, 4, 2, 6)] * 2),
    "add": (lambda a, b: a + b, [(4, 6), (4, 6)]),
    "repeated": (lambda a, b: a * b, [(4, 6), (4, 1)]),
    "sum": (lambda a: a.sum(1), [(4, 6, 2)]),
    "max": (lambda a: a.max((0, 2)), [(4, 6, 2)]),
    "argmax": (lambda a: jnp.argmax(a, 1), [(4, 6)]),
    "transpose": (lambda a: a.transpose(2, 0, 1), [(4, 6, 2)]),
    "merge": (lambda a: a.reshape(8, 6), [(2, 4, 6)]),
    "split": (lambda a: a.reshape(4, 2, 6), [(8, 6)]),
    "uneven": (lambda a: a.reshape(4, 6), [(6, 4)]),
    "broadcast": (lambda a: jnp.broadcast_to(a, (4, 6, 2)), [(6, 2)]),
    "concatenate": (lambda a, b: jnp.concatenate([a, b], 1), [(4, 6), (4, 2)]),
    "slice": (lambda a: a[:, 1:5], [(4, 6)]),
    "pad": (lambda a: lax.pad(a, 0.0, [(1, -1, 0), (0, 0, 0)]), [(4, 6)]),
    "dynamic_slice": (
        lambda a: lax.dynamic_slice(a, (1, 0), (2, 6)),
        [(4, 6)],
    ),
    "update": (
        lambda a, b: lax.dynamic_update_slice(a, b, (1, 0)),
        [(4, 6), (2, 6)],
    ),
    "cumsum": (lambda a: jnp.cumsum(a, 1), [(4, 6)]),
    "sort": (lambda a: lax.sort(a, dimension=1), [(4, 6)]),
    "top_k": (lambda a: lax.top_k(a, 2)[0], [(4, 6)]),
    "rev": (lambda a: a[::-1], [(4, 6)]),
    "squeeze": (lambda a: lax.squeeze(a, (1,)), [(4, 1, 6)]),
    "select": (lambda a, b: jnp.where(a > 0, a, b), [(4, 6), (4, 6)]),
    "embedding": (lambda a: jnp.asarray(a).at[_KEYS].get(mode="clip"), [(8, 6)]),
    "embedding's gradient": (
        lambda a, b: jnp.asarray(a).at[_KEYS].add(b),
        [(8, 6), (4, 2, 6)],
    ),
    "convolution": (
        lambda a, b: lax.conv_general_dilated(
            a, b, (1, 1), "SAME", dimension_numbers=_CONV
        ),
        [(2, 4, 4, 6), (3, 3, 6, 8)],
    ),
    "depthwise": (
        lambda a, b: lax.conv_general_dilated(
            a, b, (1, 1), "SAME", dimension_numbers=_CONV, feature_group_count=6
        ),
        [(2, 4, 4, 6), (3, 3, 1, 6)],
    ),
    "window": (
        lambda a: lax.reduce_window(a, -jnp.inf, lax.max, (1, 3), (1, 1), "SAME"),
        [(4, 6)],
    ),
}


def _operation(name: str) -> tuple[flatten.Program, flatten.Operation]:
    fn, shapes = CASES[name]
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    program = flatten.trace(fn, *args)
    return program, program.operations[-1]


@pytest.mark.parametrize("name", CASES)
def test_a_part_of_a_result_needs_no_other_part(name: str) -> None:
    fn, shapes = CASES[name]
    program, op = _operation(name)
    rng = np.random.default_rng(0)
    args = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    whole = np.asarray(fn(*args))
    (result,) = op.rule.results[:1]
    if whole.shape != program.values[op.results[0]].shape:
        pytest.skip("the last operation is not the function")
    for value, operand in zip(op.operands, op.rule.operands):
        if value not in program.inputs:
            continue
        place = program.inputs.index(value)
        for axis, label in enumerate(operand):
            if label == labels.WHOLE or label not in result:
                continue
            # Cut in two: noise in one half of the operand must leave the other half of the result alone.
            noisy = list(args)
            noisy[place] = args[place].copy()
            half = [slice(None)] * args[place].ndim
            half[axis] = slice(args[place].shape[axis] // 2, None)
            noisy[place][tuple(half)] += rng.normal(
                size=noisy[place][tuple(half)].shape
            )
            rest = [slice(None)] * whole.ndim
            there = result.index(label)
            rest[there] = slice(None, whole.shape[there] // 2)
            np.testing.assert_allclose(
                np.asarray(fn(*noisy))[tuple(rest)], whole[tuple(rest)], rtol=1e-5
            )


@pytest.mark.parametrize(
    ("name", "operands", "result"),
    [
        ("matmul", ["ab", "bc"], "ac"),
        ("batched", ["bqhk", "bshk"], "bhqs"),
        ("repeated", ["ab", "a."], "ab"),
        ("sum", ["abc"], "ac"),
        ("argmax", ["a."], "a"),
        ("transpose", ["abc"], "cab"),
        ("merge", ["b.c"], "bc"),
        ("split", ["bc"], "b.c"),
        ("uneven", ["a."], "a."),
        ("broadcast", ["bc"], "abc"),
        ("concatenate", ["a.", "a."], "a."),
        ("pad", [".b"], ".b"),
        ("cumsum", ["a."], "a."),
        ("embedding", ["vd", "bs."], "bsd"),
        ("embedding's gradient", ["vd", "bs.", "bsd"], "vd"),
        ("convolution", ["n..i", "..io"], "n..o"),
        ("depthwise", ["n...", "...."], "n..."),
        ("window", [".."], ".."),
    ],
)
def test_labels_are_those_of_the_textbook(
    name: str, operands: list[str], result: str
) -> None:
    op = next(o for o in _operation(name)[1:] if isinstance(o, flatten.Operation))
    letters: dict[str, int] = {}
    rows = [*op.rule.operands[: len(operands)], op.rule.results[0]]
    for row, wanted in zip(rows, [*operands, result], strict=True):
        for label, letter in zip(row, wanted, strict=True):
            if letter == ".":
                assert label == labels.WHOLE
            else:
                assert label != labels.WHOLE
                assert letters.setdefault(letter, label) == label
    assert len(set(letters.values())) == len(letters)


def test_factor_groups_are_the_finest() -> None:
    assert rules.factor_groups((2, 4, 6), (8, 6)) == [([0, 1], [0]), ([2], [1])]
    assert rules.factor_groups((8, 6), (2, 4, 3, 2)) == [([0], [0, 1]), ([1], [2, 3])]
    assert rules.factor_groups((6, 4), (4, 6)) == [([0, 1], [0, 1])]


def test_an_unknown_primitive_is_opaque_and_no_error() -> None:
    def host(a: jax.Array) -> jax.Array:
        return jax.pure_callback(
            lambda x: x, jax.ShapeDtypeStruct((4, 6), "float32"), a
        )

    program = flatten.trace(host, jax.ShapeDtypeStruct((4, 6), "float32"))
    (op,) = program.operations
    assert op.rule.opaque and op.rule.operands == ((labels.WHOLE,) * 2,)
