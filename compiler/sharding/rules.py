"""How one primitive relates the dimensions of its operands to those of its results.

A rule gives every dimension a label: an index of the loop nest that computes the operation. Dimensions that share a
label are cut together or not at all. A label that no result has is summed over (or reduced otherwise): where it is
cut, each device has a partial result. `WHOLE` marks a dimension that the operation needs in one piece.

    matmul (m, k) (k, n) -> (m, n)      operands (0, 1), (1, 2)     results (0, 2)

Primitives without a rule are opaque: all dimensions are whole, nothing is related.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from compiler.sharding import indexing
from compiler.sharding.labels import (
    WHOLE,
    Rule,
    Work,
    build,
    in_shapes,
    out_shapes,
)

_ELEMENTWISE_NAMES = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e bitcast_convert_type cbrt ceil
    clamp clz complex conj convert_element_type copy copy_p copysign cos cosh digamma div eq eq_to erf erf_inv erfc
    exp exp2 expm1 floor ge gt igamma igammac imag integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to
    max min mul ne neg nextafter not or population_count pow real reduce_precision rem round rsqrt select_n
    sharding_constraint shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square
    stop_gradient sub tan tanh threefry2x32 xor
"""
_ELEMENTWISE = frozenset(_ELEMENTWISE_NAMES.split())
_REDUCTION_NAMES = "sum max min prod and or xor"
_REDUCTIONS = frozenset(f"reduce_{name}" for name in _REDUCTION_NAMES.split())
# Along one axis each element needs those before it.
_SCANS = frozenset({"cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"})


def rule_of(eqn: Any) -> Rule:
    """Returns the rule of an equation of a jaxpr that calls no other jaxpr."""
    name = eqn.primitive.name
    if name in _ELEMENTWISE:
        return _elementwise(eqn)
    if name in _REDUCTIONS:
        return _reduction(eqn)
    if name in _SCANS:
        return _except(eqn, {eqn.params["axis"]}, "root")
    found = _RULES.get(name)
    return found(eqn) if found else opaque(eqn)


def opaque(eqn: Any) -> Rule:
    """Returns the rule of what nothing is known of."""
    return build(
        [[WHOLE] * len(shape) for shape in in_shapes(eqn)],
        [[WHOLE] * len(shape) for shape in out_shapes(eqn)],
        in_shapes(eqn),
        out_shapes(eqn),
        "root",
        opaque=True,
    )


def identity(shape: Sequence[int], operands: int) -> Rule:
    """Returns the rule of a name for the same value: several operands are tied to one result."""
    labels = tuple(range(len(shape)))
    return Rule((labels,) * operands, (labels,), tuple(shape), "free")


def stacked(shape: Sequence[int], stack: bool) -> Rule:
    """Returns the rule that takes one slice of a stack [L, *shape], or puts one into it.

    Args:
        shape: of the slice.
        stack: whether the slice is put in.
    """
    inner = tuple(range(len(shape)))
    outer = (WHOLE, *inner)
    operand, result = (inner, outer) if stack else (outer, inner)
    return Rule(
        (operand,), (result,), tuple(shape), "root" if stack else "fusible", False
    )


def _elementwise(eqn: Any) -> Rule:
    ins, outs = in_shapes(eqn), out_shapes(eqn)
    rank = len(outs[0])
    if any(len(shape) not in (0, rank) for shape in ins):
        return opaque(eqn)
    # A dimension of size 1 is repeated; WHOLE says no more than that.
    operands = [
        [i if size == outs[0][i] else WHOLE for i, size in enumerate(shape)]
        for shape in ins
    ]
    return build(operands, [range(rank)] * len(outs), ins, outs, "fusible")


def _reduction(eqn: Any) -> Rule:
    ins, outs = in_shapes(eqn), out_shapes(eqn)
    kept = [i for i in range(len(ins[0])) if i not in eqn.params["axes"]]
    return build([range(len(ins[0]))] * len(ins), [kept] * len(outs), ins, outs, "root")


def _except(eqn: Any, whole: set[int], work: Work) -> Rule:
    """Returns the rule in which dimension i of everything is i, but for some that are needed whole.

    Operands of another rank are needed whole.
    """
    ins, outs = in_shapes(eqn), out_shapes(eqn)
    rank = len(outs[0])
    labels = [WHOLE if i in whole else i for i in range(rank)]
    operands = [labels if len(shape) == rank else [WHOLE] * len(shape) for shape in ins]
    return build(operands, [labels] * len(outs), ins, outs, work)


def _unequal(eqn: Any) -> set[int]:
    """Returns the dimensions in which operands and results of one rank differ."""
    first = out_shapes(eqn)[0]
    shapes = [s for s in in_shapes(eqn) + out_shapes(eqn) if len(s) == len(first)]
    return {i for i in range(len(first)) if len({shape[i] for shape in shapes}) > 1}


def _cut_out(eqn: Any) -> Rule:
    """slice, pad, split, concatenate, dynamic_slice, dynamic_update_slice: dimensions that change are whole."""
    ins, outs = in_shapes(eqn), out_shapes(eqn)
    whole = _unequal(eqn)
    if eqn.primitive.name == "concatenate":
        whole |= {eqn.params["dimension"]}
    if eqn.primitive.name == "pad":  # What is shifted keeps its size.
        paddings = eqn.params["padding_config"]
        whole |= {i for i, padding in enumerate(paddings) if any(padding)}
    rank = len(outs[0])
    labels = [WHOLE if i in whole else i for i in range(rank)]
    # Start indices and padding values are scalars, or vectors of another rank.
    operands = [labels if len(shape) == rank else [WHOLE] * len(shape) for shape in ins]
    work: Work = (
        "fusible" if eqn.primitive.name in ("slice", "pad", "split") else "root"
    )
    return build(operands, [labels] * len(outs), ins, outs, work)


def _rev(eqn: Any) -> Rule:
    return _except(eqn, set(eqn.params["dimensions"]), "fusible")


def _sort(eqn: Any) -> Rule:
    return _except(eqn, {eqn.params["dimension"]}, "root")


def _top_k(eqn: Any) -> Rule:
    axis = eqn.params.get("axis", eqn.params.get("operand_axis", -1))
    return _except(eqn, {axis % len(out_shapes(eqn)[0])}, "root")


def _argmax(eqn: Any) -> Rule:
    ins, outs = in_shapes(eqn), out_shapes(eqn)
    axes = eqn.params["axes"]
    labels = [WHOLE if i in axes else i for i in range(len(ins[0]))]
    kept = [i for i in labels if i != WHOLE]
    return build([labels], [kept] * len(outs), ins, outs, "root")


def _transpose(eqn: Any) -> Rule:
    ins, outs = in_shapes(eqn), out_shapes(eqn)
    return build(
        [range(len(ins[0]))], [eqn.params["permutation"]], ins, outs, "fusible"
    )


def _broadcast_in_dim(eqn: Any) -> Rule:
    ins, outs = in_shapes(eqn), out_shapes(eqn)
    labels = [
        i if size == outs[0][i] else WHOLE
        for i, size in zip(eqn.params["broadcast_dimensions"], ins[0])
    ]
    operands = [labels, *([WHOLE] * len(shape) for shape in ins[1:])]
    return build(operands, [range(len(outs[0]))], ins, outs, "fusible")


def _squeeze(eqn: Any) -> Rule:
    ins, outs = in_shapes(eqn), out_shapes(eqn)
    gone = {i % len(ins[0]) for i in eqn.params["dimensions"]}
    labels = [WHOLE if i in gone else i for i in range(len(ins[0]))]
    return build([labels], [[i for i in labels if i != WHOLE]], ins, outs, "fusible")


def _expand_dims(eqn: Any) -> Rule:
    ins, outs = in_shapes(eqn), out_shapes(eqn)
    new = {i % len(outs[0]) for i in eqn.params["dimensions"]}
    result = [WHOLE if i in new else i for i in range(len(outs[0]))]
    return build([[i for i in result if i != WHOLE]], [result], ins, outs, "fusible")


def _reshape(eqn: Any) -> Rule:
    """Relates the major dimensions of each group of dimensions that hold the same elements.

    (b, s, h k) -> (b s, h, k): b goes with b s, and h k with h. Cut into as many parts as divide both, the parts
    are the same elements; s and k lie inside, so they are needed whole.
    """
    ins, outs = in_shapes(eqn), out_shapes(eqn)
    source, result = [WHOLE] * len(ins[0]), [WHOLE] * len(outs[0])
    for label, (before, after) in enumerate(factor_groups(ins[0], outs[0])):
        major = [
            next((i for i in group if shape[i] > 1), None)
            for group, shape in ((before, ins[0]), (after, outs[0]))
        ]
        if major[0] is not None and major[1] is not None:
            source[major[0]] = result[major[1]] = label
    operands = [source, *([WHOLE] * len(shape) for shape in ins[1:])]
    return build(operands, [result], ins, outs, "fusible")


def factor_groups(
    before: Sequence[int], after: Sequence[int]
) -> list[tuple[list[int], list[int]]]:
    """Returns the finest groups of consecutive dimensions of two shapes that hold equally many elements.

    Args:
        before: a shape.
        after: one of as many elements.
    """
    groups: list[tuple[list[int], list[int]]] = []
    if 0 in before or 0 in after:
        return groups
    i = j = 0
    while i < len(before) or j < len(after):
        left: list[int] = []
        right: list[int] = []
        a = b = 1
        while a != b or not left or not right:
            if (a <= b and i < len(before)) or j == len(after):
                if i == len(before):
                    break
                left.append(i)
                a *= before[i]
                i += 1
            else:
                right.append(j)
                b *= after[j]
                j += 1
        groups.append((left, right))
    return groups


def _dot_general(eqn: Any) -> Rule:
    ins, outs = in_shapes(eqn), out_shapes(eqn)
    (left_sum, right_sum), (left_batch, right_batch) = eqn.params["dimension_numbers"]
    left = list(range(len(ins[0])))
    right = [len(left) + i for i in range(len(ins[1]))]
    for i, j in [*zip(left_sum, right_sum), *zip(left_batch, right_batch)]:
        right[j] = left[i]
    free_left = [x for i, x in enumerate(left) if i not in {*left_sum, *left_batch}]
    free_right = [x for j, x in enumerate(right) if j not in {*right_sum, *right_batch}]
    result = [*(left[i] for i in left_batch), *free_left, *free_right]
    return build([left, right], [result], ins, outs, "dot")


def _source(eqn: Any) -> Rule:
    """iota, random_bits: every device can make its own part."""
    ins, outs = in_shapes(eqn), out_shapes(eqn)
    operands = [[WHOLE] * len(shape) for shape in ins]
    return build(operands, [range(len(outs[0]))], ins, outs, "fusible")


def _barrier(eqn: Any) -> Rule:
    """optimization_barrier: values pass by themselves."""
    ins, outs = in_shapes(eqn), out_shapes(eqn)
    starts = np.cumsum([0, *map(len, ins)])
    labels = [range(a, a + len(shape)) for a, shape in zip(starts, ins)]
    return build(labels, labels, ins, outs, "fusible")


def _generic_reduce(eqn: Any) -> Rule:
    ins, outs = in_shapes(eqn), out_shapes(eqn)
    rank = max(map(len, ins))
    whole = set(eqn.params.get("dimensions", eqn.params.get("axes", range(rank))))
    labels = [WHOLE if i in whole else i for i in range(rank)]
    operands = [labels if len(shape) == rank else [WHOLE] * len(shape) for shape in ins]
    kept = [i for i in labels if i != WHOLE]
    return build(operands, [kept] * len(outs), ins, outs, "root")


_RULES: dict[str, Callable[[Any], Rule]] = {
    "argmax": _argmax,
    "argmin": _argmax,
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _cut_out,
    "conv_general_dilated": indexing.conv,
    "dot_general": _dot_general,
    "dynamic_slice": _cut_out,
    "dynamic_update_slice": _cut_out,
    "expand_dims": _expand_dims,
    "gather": indexing.gather,
    "iota": _source,
    "optimization_barrier": _barrier,
    "pad": _cut_out,
    "random_bits": _source,
    "reduce": _generic_reduce,
    "reshape": _reshape,
    "rev": _rev,
    "scatter": indexing.scatter,
    "scatter-add": indexing.scatter,
    "scatter_add": indexing.scatter,
    "slice": _cut_out,
    "sort": _sort,
    "split": _cut_out,
    "squeeze": _squeeze,
    "top_k": _top_k,
    "transpose": _transpose,
}
