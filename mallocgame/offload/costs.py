"""Seconds per instruction on a GPU: the roofline over HBM.

XLA:GPU leaves no estimate for most instructions when it compiles for a chip that is not there, so
time is the larger of arithmetic and HBM traffic. Launch overhead is left out: compute that is
shorter than the real one hides less, so waits come out pessimistic.
"""

import math

import numpy as np
from numpy.typing import NDArray

from compiler.cost.instruction import InstructionCosts, instruction_costs
from compiler.hlo import Computation, Node, Program, ShapeIndex, padded_bytes
from compiler.targets import Target

_CONVOLUTION = "__cudnn$conv"


def read_bytes(
    costs: InstructionCosts, node: Node, time: int, operand: int, index: ShapeIndex
) -> float:
    """Returns the bytes that an instruction reads of (a part of) an operand.

    The cost model takes a slice of a bitcast array for a reading of the whole, as XLA's own does;
    XLA:GPU puts bitcasts in front of most slices of a scanned array.
    """
    counted = costs.operand_bytes(time, operand, index)
    if node.opcode == "fusion" and not index:
        inside = node.called[0]
        sliced = _sliced(inside, inside.parameters[operand])
        if sliced is not None:
            return min(counted, sliced)
    return counted


def write_bytes(
    costs: InstructionCosts, node: Node, time: int, index: ShapeIndex
) -> float:
    """Returns the bytes that an instruction writes of (a part of) its result, as `read_bytes`."""
    counted = costs.output_bytes(time, index)
    if node.opcode != "fusion":
        return counted
    root = node.called[0].root
    for number in index:
        root = root.operands[number] if root.opcode == "tuple" else root
    while root.opcode == "bitcast":
        root = root.operands[0]
    if root.opcode == "dynamic-update-slice":
        return min(counted, float(padded_bytes(root.operands[1].shape)))
    return counted


def _sliced(inside: Computation, array: Node) -> float | None:
    """Bytes of all slices of an array in a fused computation, or None if it is used in another way."""
    total = 0.0
    for user in inside.nodes:
        for operand, used in enumerate(user.operands):
            if used is not array:
                continue
            if user.opcode in ("slice", "dynamic-slice") and operand == 0:
                total += padded_bytes(user.shape)
            elif user.opcode == "bitcast":
                behind = _sliced(inside, user)
                if behind is None:
                    return None
                total += behind
            elif user.opcode != "dynamic-update-slice" or operand:
                return None
    if array is inside.root:
        return None
    return total


def seconds(program: Program, target: Target) -> NDArray[np.float64]:
    """Returns the time of each instruction with all its operands in HBM, [T] per execution."""
    costs = instruction_costs(program)
    flops, moved = costs.flops.copy(), costs.bytes_total.copy()
    for instruction in program.instructions:
        if instruction.opcode == "custom-call":
            flops[instruction.time] = _library_flops(instruction.node)
            moved[instruction.time] = _bytes(instruction.node)
        elif instruction.opcode == "fusion":
            moved[instruction.time] -= _overcounted(
                costs, instruction.node, instruction.time
            )
    arithmetic = np.maximum(
        flops / target.peak_flops, costs.transcendentals / target.peak_transcendentals
    )
    asynchronous = [
        program.regions[i.region].kind == "async" for i in program.instructions
    ]
    found = np.maximum(arithmetic, moved / target.fast_read_bandwidth)
    return np.where(costs.is_control | np.array(asynchronous), 0.0, found)


def _overcounted(costs: InstructionCosts, fusion: Node, time: int) -> float:
    reads = sum(
        costs.operand_bytes(time, operand)
        - read_bytes(costs, fusion, time, operand, ())
        for operand, node in enumerate(fusion.operands)
        if not node.shape.is_tuple
    )
    writes = sum(
        costs.output_bytes(time, index) - write_bytes(costs, fusion, time, index)
        for index, _ in fusion.shape.leaves()
    )
    return reads + writes


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
