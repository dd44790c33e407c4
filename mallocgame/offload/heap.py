"""XLA's own heaps packed anew: the same buffers, the same live ranges, other offsets."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from compiler.hlo import buffers
from compiler.hlo.buffers import Allocation, BufferAssignment, Rectangle
from mallocgame.offload import packing
from mallocgame.offload.check import check_packing
from mallocgame.offload.packing import Item, Packing

ALIGNMENT = {"gpu": 256, "cpu": 64}
"""Bytes that XLA's offsets are multiples of, by platform."""


@dataclasses.dataclass(frozen=True, eq=False)
class Heap:
    """One allocation of XLA that holds many buffers by offset, and where we put them. Bytes.

    Attributes:
        allocation: XLA's.
        rectangles: what is packed.
        items: the same for the packer.
        xla: XLA's offsets.
        ours: the lowest packing found, XLA's among them.
        bound: the largest sum of sizes alive at once.
    """

    allocation: Allocation
    rectangles: tuple[Rectangle, ...]
    items: tuple[Item, ...]
    xla: Packing
    ours: Packing
    bound: int

    def size(self, packing: Packing, alignment: int) -> int:
        """Bytes of the allocation with another packing; XLA's tables of pointers stay on top."""
        tables = self.allocation.size - _up(self.xla.height, alignment)
        return _up(packing.height, alignment) + max(tables, 0)


def heaps(assignment: BufferAssignment) -> tuple[Heap, ...]:
    """Returns the heaps in device memory, XLA's packing as ours."""
    found = []
    for allocation in assignment.packed:
        if allocation.space != buffers.DEVICE:
            continue
        rectangles = tuple(buffers.rectangles(allocation))
        items = tuple(
            tuple(packing.Part(*part) for part in r.parts) for r in rectangles
        )
        top = max(r.offset + r.size for r in rectangles)
        xla = Packing(np.array([r.offset for r in rectangles], np.int64), top, "xla")
        bound = packing.live_peak(items)
        found.append(Heap(allocation, rectangles, items, xla, xla, bound))
    return tuple(found)


def peak(
    assignment: BufferAssignment, found: Sequence[tuple[Heap, Packing]], alignment: int
) -> int:
    """Returns the bytes that a program needs with other packings of its heaps."""
    change = sum(h.size(p, alignment) - h.allocation.size for h, p in found)
    return assignment.peak() + change


def bound(assignment: BufferAssignment, found: Sequence[Heap]) -> int:
    """Returns bytes that no packing undercuts."""
    return assignment.peak() - sum(h.allocation.size - h.bound for h in found)


def simple(heap: Heap, alignment: int) -> dict[str, Packing]:
    """Returns the packings of the plain orders, by name."""
    return packing.simple(heap.items, alignment)


def search(
    heap: Heap,
    alignment: int,
    seed: int,
    done: Callable[[], bool],
    offsets: Sequence[int] | None = None,
) -> Iterator[tuple[Heap, int]]:
    """Yields the heap with the lowest packing so far, and orders tried since the last one.

    Args:
        heap: what to pack.
        alignment: bytes.
        seed: of the search.
        done: whether to stop.
        offsets: of an earlier run, to start from if they are lower and right.
    """
    start = heap.ours
    if offsets is not None and len(offsets) == len(heap.items):
        top = max(o + max(p.size for p in i) for o, i in zip(offsets, heap.items))
        right = not check_packing(offsets, heap.items, top, alignment)
        if right and top < start.height:
            start = Packing(np.array(offsets, np.int64), top, "an earlier run")
    for tried in packing.search(heap.items, alignment, seed, done, start):
        yield dataclasses.replace(heap, ours=tried.packing), tried.evaluations


def to_json(heap: Heap) -> dict[str, Any]:
    """Returns where each buffer of a heap goes."""
    return {
        "allocation": heap.allocation.number,
        "xla_bytes": heap.xla.height,
        "height_bytes": heap.ours.height,
        "bound_bytes": heap.bound,
        "by": heap.ours.by,
        "buffers": [
            {
                "names": list(rectangle.names),
                "offset": int(offset),
                "size": rectangle.size,
                "parts": [list(part) for part in rectangle.parts],
                "xla_offset": rectangle.offset,
            }
            for rectangle, offset in zip(heap.rectangles, heap.ours.offsets)
        ],
    }


def _up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
