"""What a rule is: see `compiler.sharding.rules`."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

WHOLE = -1

# dot: on the matrix unit. fusible: done while its consumers read. root: reads and writes memory. free: no work.
Work = Literal["dot", "fusible", "root", "free"]
Labels = tuple[int, ...]


class Rule(NamedTuple):
    """The labels of one operation.

    Attributes:
        operands: a label per dimension of each operand.
        results: the same of each result.
        sizes: extent of each label.
        work: what kind of work it is.
        opaque: whether nothing is known of the primitive.
    """

    operands: tuple[Labels, ...]
    results: tuple[Labels, ...]
    sizes: Labels
    work: Work
    opaque: bool = False


def _shape(var: Any) -> tuple[int, ...]:
    return tuple(getattr(var.aval, "shape", ()))


def in_shapes(eqn: Any) -> list[tuple[int, ...]]:
    return [_shape(var) for var in eqn.invars]


def out_shapes(eqn: Any) -> list[tuple[int, ...]]:
    return [_shape(var) for var in eqn.outvars]


def build(
    operands: Sequence[Sequence[int]],
    results: Sequence[Sequence[int]],
    ins: Sequence[tuple[int, ...]],
    outs: Sequence[tuple[int, ...]],
    work: Work,
    opaque: bool = False,
) -> Rule:
    """Returns the rule with labels numbered from 0; a label's size is the largest of its dimensions."""
    sizes: dict[int, int] = {}
    for labels, shape in zip([*operands, *results], [*ins, *outs]):
        for label, size in zip(labels, shape):
            if label != WHOLE:
                sizes[label] = max(sizes.get(label, 1), size)
    number = {label: i for i, label in enumerate(sizes)} | {WHOLE: WHOLE}
    return Rule(
        tuple(tuple(number[label] for label in labels) for labels in operands),
        tuple(tuple(number[label] for label in labels) for labels in results),
        tuple(sizes.values()),
        work,
        opaque,
    )
