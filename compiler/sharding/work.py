"""What a flat program does, in order: which arrays are written to memory, how long they live, what operations cost.

Elementwise work is done while its consumers read, as compilers fuse it: its result is not written, unless it leaves the
program, or so many read it that making it anew for each would take longer. What reads it reads what it is made of. What is
written is made while a product that it is made of is, if that does not have to be summed up first.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from compiler.sharding.flatten import LITERAL, Operation, Program
from compiler.sharding.labels import WHOLE
from compiler.sharding.machine import STORE, Machine

_MAX_SOURCES = 8  # Fusions that read more arrays than this are cut.


@dataclasses.dataclass(frozen=True)
class Flow:
    """Where arrays are in memory.

    Attributes:
        sources: of each value, the written values that it is computed from; itself if it is written.
        birth: of each written value, the operation that writes it; -1 for arguments.
        death: the last operation that reads it; the number of operations for results.
    """

    sources: tuple[frozenset[int], ...]
    birth: Mapping[int, int]
    death: Mapping[int, int]


def flow(program: Program) -> Flow:
    """Returns which arrays are written, and from when to when they are needed."""
    readers: dict[int, int] = defaultdict(int)
    for op in program.operations:
        for value in set(op.operands):
            readers[value] += 1
    outputs = {*program.outputs} - {LITERAL}
    sources: list[frozenset[int]] = [
        frozenset((v,)) for v in range(len(program.values))
    ]
    birth = dict.fromkeys(program.inputs, -1)
    for k, op in enumerate(program.operations):
        made_of = frozenset().union(*(sources[v] for v in op.operands if v != LITERAL))
        for result in op.results:
            if op.rule.work == "fusible" and not (
                result in outputs or _written(program, result, made_of, readers[result])
            ):
                sources[result] = made_of
            else:
                birth.setdefault(result, k)
    for value in {v for made_of in sources for v in made_of}:
        birth.setdefault(value, -1)  # Constants.
    return Flow(tuple(sources), birth, _deaths(program, sources, birth))


def _written(
    program: Program, result: int, made_of: frozenset[int], readers: int
) -> bool:
    """Returns whether it takes less to store a result and load it again than to make it anew for each reader."""
    if len(made_of) > _MAX_SOURCES:
        return True
    size = program.values[result].num_bytes
    loaded = sum(program.values[v].num_bytes for v in made_of)
    return loaded + (STORE + readers) * size < readers * loaded


def product_of(program: Program, flows: Flow, k: int) -> int:
    """Returns the product in whose loop an elementwise operation is done, -1 for none.

    Compilers finish a tile of a product, and do what follows element by element before it leaves; the product's
    arithmetic hides the traffic. That holds only where no collective stands between.
    """
    op = program.operations[k]
    if op.rule.work != "fusible" or {*op.rule.results[0]} != set(
        range(len(op.rule.sizes))
    ):
        return -1
    size = math.prod(program.values[op.results[0]].shape)
    read = {v for x in op.operands if x != LITERAL for v in flows.sources[x]}
    makers = [
        flows.birth[v] for v in read if math.prod(program.values[v].shape) == size
    ]
    return max(
        (
            maker
            for maker in makers
            if maker >= 0
            and program.operations[maker].rule.work == "dot"
            and program.operations[maker].scope == op.scope
        ),
        default=-1,
    )


def _deaths(
    program: Program, sources: Sequence[frozenset[int]], birth: Mapping[int, int]
) -> dict[int, int]:
    ends = {
        op.scope: k for k, op in enumerate(program.operations) if op.scope
    }  # Inner loops end before the loops around them do.
    for k, op in enumerate(program.operations):
        for scope in ends:
            if op.site.startswith(f"{scope}/"):
                ends[scope] = max(ends[scope], k)
    scopes = [op.scope for op in program.operations]
    death: dict[int, int] = {}

    def read(value: int, k: int) -> None:
        home = scopes[birth[value]] if birth[value] >= 0 else ""
        # What comes from outside a loop is read on every trip.
        loops = [
            s
            for s in ends
            if program.operations[k].site.startswith(f"{s}/")
            and not (home == s or home.startswith(f"{s}/"))
        ]
        last = max([k, *(ends[s] for s in loops)])
        death[value] = max(death.get(value, last), last)

    for k, op in enumerate(program.operations):
        for operand in op.operands:
            if operand != LITERAL:
                for value in sources[operand]:
                    read(value, k)
    end = len(program.operations)
    for output in {*program.outputs} - {LITERAL}:
        for value in sources[output]:
            death[value] = end
    for value, donated in zip(program.inputs, program.donated):
        death[value] = death.get(value, 0) if donated else end
    return death


def cycles(
    op: Operation,
    program: Program,
    flows: Flow,
    parts: Sequence[int],
    share: Mapping[int, float],
    machine: Machine,
) -> float:
    """Returns what one run of an operation takes on one device.

    Args:
        op: the operation.
        program: that it is of.
        flows: of the program.
        parts: into how many parts each label is cut.
        share: the part of each written value that this device reads or writes.
        machine: what it runs on.
    """
    if op.rule.work == "free":
        return 0.0
    local = [math.ceil(size / part) for size, part in zip(op.rule.sizes, parts)]
    read = frozenset().union(*(flows.sources[v] for v in op.operands if v != LITERAL))
    written = [v for v in op.results if flows.sources[v] == {v}]
    if op.rule.work == "fusible" and not written:
        read = frozenset()
    loaded = sum(_touched(op, program, v) * share.get(v, 1.0) for v in read)
    stored = sum(_touched(op, program, v) * share.get(v, 1.0) for v in written)
    if op.rule.work == "dot":
        return machine.matmul(*_matmul_sizes(op, local), loaded + stored)
    return machine.vector(float(math.prod(local)), loaded, stored)


def _touched(op: Operation, program: Program, value: int) -> float:
    """Returns the bytes of a value that one run reads or writes: in a loop, one slice of a stack."""
    array = program.values[value]
    slices = array.shape[0] if op.scope and (value, 0) in program.stacks else 1
    return array.num_bytes / slices


def _matmul_sizes(op: Operation, local: Sequence[int]) -> tuple[int, int, int, int]:
    """Returns batch, rows, columns and depth of a product on one device."""
    left, right = ({*labels} - {WHOLE} for labels in op.rule.operands[:2])
    result = {*op.rule.results[0]} - {WHOLE}

    def size(labels: set[int]) -> int:
        return math.prod(local[i] for i in labels)

    whole = 1
    if op.primitive != "dot_general":  # Windows of a convolution: points times taps.
        whole = max(1, math.prod(local) // max(1, size(left | right | result)))
    rows = size((left - right) & result) * whole
    return (
        size(left & right & result),
        rows,
        size((right - left) & result),
        size((left & right) - result),
    )
