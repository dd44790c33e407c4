"""Seconds per instruction on a GPU: the roofline over HBM.

XLA:GPU leaves no estimate for most instructions when it compiles for a chip that is not there, so
time is the larger of arithmetic and HBM traffic. Launch overhead is left out: compute that is
shorter than the real one hides less, so waits come out pessimistic.
"""

import math

import numpy as np
from numpy.typing import NDArray

from compiler.cost.instruction import instruction_costs
from compiler.hlo import Node, Program, padded_bytes
from compiler.targets import Target

_CONVOLUTION = "__cudnn$conv"


def seconds(program: Program, target: Target) -> NDArray[np.float64]:
    """Returns the time of each instruction with all its operands in HBM, [T] per execution."""
    costs = instruction_costs(program)
    flops, moved = costs.flops.copy(), costs.bytes_total.copy()
    for instruction in program.instructions:
        if instruction.opcode == "custom-call":
            flops[instruction.time] = _library_flops(instruction.node)
            moved[instruction.time] = _bytes(instruction.node)
    arithmetic = np.maximum(
        flops / target.peak_flops, costs.transcendentals / target.peak_transcendentals
    )
    asynchronous = [
        program.regions[i.region].kind == "async" for i in program.instructions
    ]
    found = np.maximum(arithmetic, moved / target.fast_read_bandwidth)
    return np.where(costs.is_control | np.array(asynchronous), 0.0, found)


def _bytes(call: Node) -> float:
    operands = sum(padded_bytes(operand.shape) for operand in call.operands)
    results = sum(padded_bytes(leaf) for _, leaf in call.shape.leaves())
    return float(operands + results)


def _library_flops(call: Node) -> float:
    """Operations of a convolution by cuDNN, those on padding included; 0 for other calls.

    Forward and both gradients pair the same elements, so the count is that of the forward pass
    whichever of input, kernel and output is the result.
    """
    target = call.attributes.custom_call_target
    if not target.startswith(_CONVOLUTION) or len(call.operands) < 2:
        return 0.0
    first, second = (operand.shape for operand in call.operands[:2])
    result = next((leaf for _, leaf in call.shape.leaves()), first)
    if target.startswith(f"{_CONVOLUTION}BackwardInput"):
        kernel, output = second, first
    elif target.startswith(f"{_CONVOLUTION}BackwardFilter"):
        kernel, output = result, second
    else:
        kernel, output = second, result
    numbers = call.attributes.convolution_dimension_numbers
    taps = math.prod(
        float(kernel.dimensions[d]) for d in numbers.kernel_spatial_dimensions
    )
    inputs = float(kernel.dimensions[numbers.kernel_input_feature_dimension])
    return 2.0 * output.num_elements * taps * inputs
