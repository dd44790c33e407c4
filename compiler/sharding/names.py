"""Named dimensions: which dimensions of a program are cut together.

Every dimension of every array is a member of a class; operations whose rule gives two dimensions one label unite their
classes (TOAST, arXiv 2508.15010). Cutting a class over a mesh axis cuts all its members. Where a class occurs twice in
an array (the scores of self-attention: queries and keys), it is ambiguous which dimension is cut: a conflict, that one
bit decides. Conflicts that operations carry on are one, and so are those of repeated layers. Classes of repeated
layers (each layer's hidden width) are one class as well.
"""

import dataclasses
import hashlib
import itertools
import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

from compiler.sharding.flatten import LITERAL, Operation, Program
from compiler.sharding.labels import WHOLE

NO_CLASS = -1
NO_SIDE = (-1, 0)
_ROUNDS = 3  # Of looking at the neighbours' neighbours; layers differ nearer than that.


@dataclasses.dataclass(frozen=True)
class NamedClass:
    """Dimensions that are cut together.

    Attributes:
        name: of the argument and dimension where it is first met, `"params/w1.0"`; else of an operation.
        size: greatest common divisor of its members' extents.
        num_bytes: of all arrays with a member, uncut.
        flops: of all operations that run over it.
        occurrences: members, in all arrays.
        cuttable: whether a mesh axis may cut it at all; not the stacks that loops go along.
    """

    name: str
    size: int
    num_bytes: int
    flops: float
    occurrences: int
    cuttable: bool


@dataclasses.dataclass(frozen=True)
class Conflict:
    """An ambiguity: arrays and operations in which a class occurs twice.

    Attributes:
        klass: the class.
        sites: operations where it arises.
    """

    klass: int
    sites: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Loop:
    """The dimensions of an array, or the labels of an operation, as the classes see them.

    Attributes:
        classes: of each; `NO_CLASS` for extent 1.
        sides: (conflict, side) of each: bit b of the conflict cuts side b first; `NO_SIDE` for none.
    """

    classes: tuple[int, ...]
    sides: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Names:
    """A program with its dimensions named.

    Attributes:
        program: the program.
        classes: all of them, the largest first.
        conflicts: all of them.
        values: of each array.
        operations: of each operation.
    """

    program: Program
    classes: tuple[NamedClass, ...]
    conflicts: tuple[Conflict, ...]
    values: tuple[Loop, ...]
    operations: tuple[Loop, ...]


def flops(op: Operation) -> float:
    """Returns the operations of one run, uncut."""
    count = float(math.prod(op.rule.sizes))
    return {"dot": 2 * count, "free": 0.0}.get(op.rule.work, count)


def analyse(program: Program) -> Names:
    """Returns the program's named dimensions."""
    union = _united(program)
    roots: dict[tuple[int, int], Hashable] = {}
    for value, array in enumerate(program.values):
        for i, size in enumerate(array.shape):
            if size > 1:
                roots[value, i] = union.find((value, i))
    number = {root: i for i, root in enumerate(dict.fromkeys(roots.values()))}
    values = [
        tuple(
            number[roots[v, i]] if (v, i) in roots else NO_CLASS
            for i in range(len(array.shape))
        )
        for v, array in enumerate(program.values)
    ]
    operations = [_labels(op, values) for op in program.operations]
    tied = _twins(program, values, operations, len(number))
    values = [tuple(tied[c] if c >= 0 else c for c in row) for row in values]
    operations = [tuple(tied[c] if c >= 0 else c for c in row) for row in operations]
    return _described(program, values, operations)


class _Union:
    """Union-find over hashable things, with the parity of each to its root."""

    def __init__(self) -> None:
        self.parent: dict[Hashable, Hashable] = {}
        self.parity: dict[Hashable, int] = {}

    def find_parity(self, node: Hashable) -> tuple[Hashable, int]:
        """Returns the root, and whether the node is turned against it."""
        parity = 0
        while self.parent.get(node, node) != node:
            parity ^= self.parity[node]
            node = self.parent[node]
        return node, parity

    def find(self, node: Hashable) -> Hashable:
        """Returns the root."""
        return self.find_parity(node)[0]

    def join(self, one: Hashable, other: Hashable, parity: int = 0) -> None:
        """Makes two one."""
        (a, p), (b, q) = self.find_parity(one), self.find_parity(other)
        self.parent.setdefault(a, a)
        self.parent.setdefault(b, b)
        if a != b:
            self.parent[b], self.parity[b] = a, p ^ q ^ parity


def _arrays(op: Operation) -> Iterable[tuple[int, tuple[int, ...]]]:
    """Returns the values of an operation with their labels."""
    pairs = zip((*op.operands, *op.results), (*op.rule.operands, *op.rule.results))
    return [(value, labels) for value, labels in pairs if value != LITERAL]


def _united(program: Program) -> _Union:
    union = _Union()
    for op in program.operations:
        first: dict[int, tuple[int, int]] = {}
        for value, labels in _arrays(op):
            for i, label in enumerate(labels):
                if label != WHOLE and program.values[value].shape[i] > 1:
                    union.join(first.setdefault(label, (value, i)), (value, i))
    return union


def _labels(op: Operation, values: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Returns the class of each label."""
    found = [NO_CLASS] * len(op.rule.sizes)
    for value, labels in _arrays(op):
        for i, label in enumerate(labels):
            if label != WHOLE and values[value][i] != NO_CLASS:
                found[label] = values[value][i]
    return tuple(found)


def _twins(
    program: Program,
    values: Sequence[tuple[int, ...]],
    operations: Sequence[tuple[int, ...]],
    count: int,
) -> list[int]:
    """Returns the class that stands for each: classes of one size that are used alike, and never together.

    Alike: the same operations at the same places, with neighbours that are alike (Weisfeiler-Leman colours).
    """
    sizes = _sizes(program, values, count)
    colour = [str(size) for size in sizes]
    for _ in range(_ROUNDS):
        seen: list[list[str]] = [[] for _ in range(count)]
        for op, classes in zip(program.operations, operations):
            around = [colour[c] if c >= 0 else "" for c in classes]
            for place, c in enumerate(classes):
                if c >= 0:
                    seen[c].append(f"{op.digest} {place} {around}")
        colour = [_hash([mine, *sorted(uses)]) for mine, uses in zip(colour, seen)]
    together: set[frozenset[int]] = set()
    for row in (*values, *operations):
        together |= {frozenset(pair) for pair in itertools.combinations(row, 2)}
    inputs = {c for v in program.inputs for c in values[v]}
    outputs = {c for v in program.outputs if v != LITERAL for c in values[v]}
    alike: dict[tuple[str, bool, bool], list[list[int]]] = defaultdict(list)
    tied = list(range(count))
    for c in range(count):
        groups = alike[colour[c], c in inputs, c in outputs]
        for group in groups:
            if all(frozenset((c, other)) not in together for other in group):
                tied[c] = group[0]
                group.append(c)
                break
        else:
            groups.append([c])
    return tied


def _sizes(
    program: Program, values: Sequence[tuple[int, ...]], count: int
) -> list[int]:
    sizes = [0] * count
    for array, row in zip(program.values, values):
        for extent, c in zip(array.shape, row):
            if c >= 0:
                sizes[c] = math.gcd(sizes[c], extent)
    return sizes


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _described(
    program: Program,
    values: Sequence[tuple[int, ...]],
    operations: Sequence[tuple[int, ...]],
) -> Names:
    """Returns the classes in order of size, with what there is to know of them."""
    live = {v for op in program.operations for v in (*op.operands, *op.results)}
    live |= {*program.inputs, *program.outputs}
    count = 1 + max((c for row in values for c in row), default=-1)
    sizes = _sizes(program, values, count)
    num_bytes, work, members = [0] * count, [0.0] * count, [0] * count
    names = [""] * count
    blocked = {values[v][i] for v, i in program.stacks}
    paths = dict(zip(program.inputs, program.input_paths))
    makers = {r: op.site for op in program.operations for r in op.results}
    for v in [*program.inputs, *range(len(values))]:
        for i, c in enumerate(values[v]):
            if c >= 0 and not names[c]:
                names[c] = f"{paths.get(v, makers.get(v, 'constant'))}.{i}"
    for v, row in enumerate(values):
        for c in set(row) - {NO_CLASS}:
            if v in live:
                num_bytes[c] += program.values[v].num_bytes
                members[c] += row.count(c)
    for op, row in zip(program.operations, operations):
        for c in set(row) - {NO_CLASS}:
            work[c] += op.repeat * flops(op)
    used = [c for c in range(count) if members[c]]
    order = sorted(used, key=lambda c: (-num_bytes[c], -work[c], c))
    place = {c: i for i, c in enumerate(order)} | {NO_CLASS: NO_CLASS}
    classes = tuple(
        NamedClass(
            names[c], sizes[c], num_bytes[c], work[c], members[c], c not in blocked
        )
        for c in order
    )
    rows = [tuple(place.get(c, NO_CLASS) for c in row) for row in values]
    loops = [tuple(place[c] for c in row) for row in operations]
    conflicts, sides = _conflicts(program, rows, loops)
    return Names(
        program,
        classes,
        conflicts,
        tuple(_loop(("value", v), row, sides) for v, row in enumerate(rows)),
        tuple(_loop(("op", k), row, sides) for k, row in enumerate(loops)),
    )


_Sides = dict[tuple[str, int, int], tuple[int, int]]


def _loop(key: tuple[str, int], row: tuple[int, ...], sides: _Sides) -> Loop:
    found = tuple(sides.get((*key, i), NO_SIDE) for i in range(len(row)))
    return Loop(row, found)


def _twice(row: Sequence[int]) -> list[tuple[int, int]]:
    """Returns the pairs of places with one class; of three, the first with each other."""
    first: dict[int, int] = {}
    return [
        (first[c], i)
        for i, c in enumerate(row)
        if c != NO_CLASS and first.setdefault(c, i) != i
    ]


def _conflicts(
    program: Program,
    values: Sequence[tuple[int, ...]],
    operations: Sequence[tuple[int, ...]],
) -> tuple[tuple[Conflict, ...], _Sides]:
    """Returns the conflicts, and the side of each dimension and label that has one."""
    union = _Union()
    pairs: dict[Hashable, tuple[str, int, int, int]] = {}
    for kind, rows in (("value", values), ("op", operations)):
        for k, row in enumerate(rows):
            for i, j in _twice(row):
                pairs[kind, k, i, j] = (kind, k, i, j)
                union.join((kind, k, i, j), (kind, k, i, j))
    for k, op in enumerate(program.operations):
        for value, labels in _arrays(op):
            for i, j in _twice(values[value]):
                a, b = labels[i], labels[j]
                low, high = min(a, b), max(a, b)
                if ("op", k, low, high) in pairs:
                    union.join(("op", k, low, high), ("value", value, i, j), int(a > b))
    members: dict[Hashable, list[tuple[tuple[str, int, int, int], int]]] = {}
    for node, pair in pairs.items():
        root, parity = union.find_parity(node)
        members.setdefault(root, []).append((pair, parity))
    number: dict[tuple[int, str], int] = {}
    sites: list[tuple[int, list[str]]] = []
    sides: _Sides = {}
    for group in members.values():
        kind, k, i, _ = group[0][0]
        klass = (values if kind == "value" else operations)[k][i]
        ops = [pair for pair, _ in group if pair[0] == "op"]
        # One orientation for all: that of the first operation.
        turned = next((parity for pair, parity in group if pair[0] == "op"), 0)
        digests = sorted(program.operations[pair[1]].digest for pair in ops)
        key = (klass, _hash(digests))
        index = number.setdefault(key, len(number))
        if index == len(sites):
            sites.append((klass, []))
        sites[index][1].extend(program.operations[pair[1]].site for pair in ops)
        for (kind, k, i, j), parity in group:
            flip = parity ^ turned
            sides.setdefault((kind, k, i), (index, flip))
            sides.setdefault((kind, k, j), (index, 1 - flip))
    found = tuple(Conflict(klass, tuple(where)) for klass, where in sites)
    return found, sides
