"""Floating-point and transcendental operations that an instruction performs.

Counted as XLA's HLO cost analysis does: one operation per element of an
elementwise result, two per multiply-add of a contraction, and only kernel
positions of a convolution that fall on data.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from compiler.cost.kernels import kernel_estimate
from compiler.hlo import Computation, Node, Shape

TRANSCENDENTAL = frozenset(
    {
        "acos",
        "acosh",
        "asin",
        "asinh",
        "atan2",
        "atanh",
        "cbrt",
        "cosine",
        "cosh",
        "erf",
        "exponential",
        "exponential-minus-one",
        "log",
        "log-plus-one",
        "logistic",
        "power",
        "rng",
        "rsqrt",
        "sine",
        "sinh",
        "sqrt",
        "tan",
        "tanh",
    }
)
ELEMENTWISE = frozenset(
    {
        "abs",
        "add",
        "and",
        "ceil",
        "clamp",
        "clz",
        "compare",
        "complex",
        "convert",
        "count-leading-zeros",
        "divide",
        "floor",
        "imag",
        "is-finite",
        "map",
        "maximum",
        "minimum",
        "multiply",
        "negate",
        "not",
        "or",
        "popcnt",
        "real",
        "reduce-precision",
        "remainder",
        "round-nearest-afz",
        "round-nearest-even",
        "select",
        "shift-left",
        "shift-right-arithmetic",
        "shift-right-logical",
        "sign",
        "stochastic-convert",
        "subtract",
        "xor",
    }
)
_FMA = 2  # Operations in one multiply-add.


class Work(NamedTuple):
    """Operations, as floats because products of sizes may be huge."""

    flops: float = 0.0
    transcendentals: float = 0.0

    def times(self, count: float) -> "Work":
        return Work(self.flops * count, self.transcendentals * count)


Memo: TypeAlias = dict[Computation, Work]


def work(node: Node, memo: Memo) -> Work:
    """Returns the operations of one instruction.

    Args:
        node: the instruction. What runs other scheduled computations (while,
            conditional, call) does no work itself.
        memo: results for computations already counted; it is added to.
    """
    opcode = node.opcode
    if opcode in TRANSCENDENTAL:
        return Work(transcendentals=_elements(node.shape))
    if opcode == "map":
        return _body(node, memo).times(_elements(node.shape))
    if opcode in ELEMENTWISE:
        return Work(flops=_elements(node.shape))
    match opcode:
        case "fusion":
            return _body(node, memo)
        case "custom-call":
            estimate = kernel_estimate(node)
            return (
                Work(estimate.flops, estimate.transcendentals) if estimate else Work()
            )
        case "dot":
            return Work(flops=_FMA * _elements(node.shape) * _contracted(node))
        case "convolution":
            return Work(flops=_FMA * _convolution_macs(node))
        case "reduce":
            inputs = len(node.operands) // 2
            reduced = _elements(node.operands[0].shape) - _elements(
                _first_array(node.shape)
            )
            return _body(node, memo).times(max(reduced, 0.0) if inputs else 0.0)
        case "reduce-window":
            window = math.prod(float(d.size) for d in node.attributes.window.dimensions)
            return _body(node, memo).times(
                max(window - 1, 0.0) * _elements(_first_array(node.shape))
            )
        case "select-and-scatter" if len(node.called) == 2:
            select, scatter = (_computation(c, memo) for c in node.called)
            source = _elements(node.operands[1].shape)
            window = math.prod(float(d.size) for d in node.attributes.window.dimensions)
            a, b = select.times(max(window - 1, 0.0) * source), scatter.times(source)
            return Work(a.flops + b.flops, a.transcendentals + b.transcendentals)
        case "scatter":
            return _body(node, memo).times(_elements(node.operands[-1].shape))
        case "sort":
            elements = _elements(node.operands[0].shape) if node.operands else 0.0
            return (
                Work(flops=elements * math.ceil(math.log2(elements)))
                if elements > 1
                else Work()
            )
        case "all-reduce" | "reduce-scatter":
            return Work(flops=sum(_elements(leaf) for _, leaf in node.shape.leaves()))
    return Work()


def _body(node: Node, memo: Memo) -> Work:
    return _computation(node.called[0], memo) if node.called else Work()


def _computation(computation: Computation, memo: Memo) -> Work:
    if computation not in memo:
        memo[computation] = _sum(work(node, memo) for node in computation.nodes)
    return memo[computation]


def _sum(parts: Iterable[Work]) -> Work:
    flops = transcendentals = 0.0
    for part in parts:
        flops += part.flops
        transcendentals += part.transcendentals
    return Work(flops, transcendentals)


def _elements(shape: Shape) -> float:
    return float(shape.num_elements)


def _first_array(shape: Shape) -> Shape:
    return next((leaf for _, leaf in shape.leaves()), shape)


def _contracted(dot: Node) -> float:
    """Products that are added up for one element of a dot's result."""
    sizes = dot.operands[0].shape.dimensions
    contracting = dot.attributes.dot_dimension_numbers.lhs_contracting_dimensions
    return math.prod(float(sizes[d]) for d in contracting if 0 <= d < len(sizes))


def _convolution_macs(node: Node) -> float:
    """Multiply-adds of a convolution that touch data, not padding."""
    numbers, window = (
        node.attributes.convolution_dimension_numbers,
        node.attributes.window,
    )
    lhs, rhs, result = (
        s.dimensions
        for s in (node.operands[0].shape, node.operands[1].shape, node.shape)
    )

    def size(dimensions: tuple[int, ...], d: int) -> int:
        return dimensions[d] if 0 <= d < len(dimensions) else 1

    positions = 1.0
    spatial = zip(
        numbers.input_spatial_dimensions,
        numbers.output_spatial_dimensions,
        window.dimensions,
    )
    for read, written, dimension in spatial:
        positions *= valid_positions(
            dimension.size,
            size(lhs, read),
            size(result, written),
            stride=dimension.stride,
            low=dimension.padding_low,
            base_dilation=max(dimension.base_dilation, 1),
            window_dilation=max(dimension.window_dilation, 1),
        )
    inputs = size(rhs, numbers.kernel_input_feature_dimension)
    outputs = size(result, numbers.output_feature_dimension)
    batch = size(lhs, numbers.input_batch_dimension)
    return (
        positions * inputs * outputs * batch / max(node.attributes.batch_group_count, 1)
    )


_MAX_STEPS = 1 << 16


def valid_positions(
    kernel: int,
    data: int,
    result: int,
    *,
    stride: int,
    low: int,
    base_dilation: int,
    window_dilation: int,
) -> float:
    """Pairs of a kernel position and a result position that meet data.

    Result position `o` and kernel position `k` meet at
    `o*stride + k*window_dilation - low` of the data dilated by
    `base_dilation`; between the data that dilation puts holes, outside lies
    padding.
    """
    dilated = (data - 1) * base_dilation + 1 if data else 0
    short, long = (kernel, result), (window_dilation, stride)
    if kernel > result:
        short, long = (result, kernel), (stride, window_dilation)
    if short[0] > _MAX_STEPS:
        return float(kernel) * float(result)
    total = 0
    for i in range(short[0]):
        total += _hits(i * long[0] - low, long[1], short[1], base_dilation, dilated)
    return float(total)


def _hits(first: int, step: int, count: int, period: int, limit: int) -> int:
    """How many of `first + step*j`, `j < count`, are multiples of `period` in [0, limit)."""
    if step < 1:
        return count if 0 <= first < limit and first % period == 0 else 0
    begin = max(-(first // step), 0) if first < 0 else 0
    end = min(count, -((first - limit) // step)) if first < limit else 0
    if end <= begin:
        return 0
    # Solve first + step*j = 0 (mod period) for j: one residue or none.
    divisor = math.gcd(step, period)
    if first % divisor:
        return 0
    modulus = period // divisor
    residue = (
        (-(first // divisor) * pow(step // divisor, -1, modulus)) % modulus
        if modulus > 1
        else 0
    )
    return max(0, (end - 1 - residue) // modulus - (begin - 1 - residue) // modulus)
