"""Offsets of what lies in one heap, by `solvers.packing`.

XLA's own orders are among those tried, so what comes out is not higher than XLA's heap but for ties
that break otherwise.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from solvers import packing
from solvers.packing import Buffer, Packer, Packing

__all__ = ["Item", "Packing", "Part", "Tried", "live_peak", "search", "simple"]

_PATIENCE = {"orders": 300, "exact": 3000}  # Evaluations without a lower heap.


class Part(NamedTuple):
    """A half-open range of times in which an item takes `size` bytes."""

    start: int
    end: int
    size: int


Item = tuple[Part, ...]
"""What lies at one offset; parts by time, not overlapping."""


class Tried(NamedTuple):
    """The lowest packing so far, and what was tried since the last one.

    Attributes:
        packing: of all items.
        evaluations: orders, or as many placements as make up an order.
    """

    packing: Packing
    evaluations: int


def live_peak(items: Sequence[Item]) -> int:
    """Returns the largest sum of sizes alive at once: no packing needs less. Bytes."""
    return packing.lower_bound(_buffers(items, 1))


def simple(items: Sequence[Item], alignment: int) -> dict[str, Packing]:
    """Returns the packings of a few plain orders, by name."""
    return packing.simple_packings(Packer(_buffers(items, alignment)))


def search(
    items: Sequence[Item],
    alignment: int,
    seed: int,
    done: Callable[[], bool],
    known: Packing | None = None,
    room: int | None = None,
) -> Iterator[Tried]:
    """Yields the lowest packing, again and again; the first is the best of the plain orders.

    Args:
        items: what to pack; none of them empty.
        alignment: offsets are multiples of this many bytes.
        seed: of what is drawn.
        done: whether to stop.
        known: a packing to start from, or None.
        room: bytes that are enough, or None for the lowest.
    """
    buffers = _buffers(items, alignment)
    method = packing.choose(buffers)
    best: int | None = None
    idle = spent = 0
    for step in packing.search(buffers, room, seed=seed, done=done, known=known):
        assert step.packing is not None
        # The first step tells of orders; later ones, if exact, of placements.
        placed = 1 if best is not None and method == "exact" else len(items)
        evaluations, spent = divmod(
            spent + step.evaluations * placed, max(len(items), 1)
        )
        lower = best is None or step.packing.height < best
        idle = 0 if lower else idle + evaluations
        best = step.packing.height
        yield Tried(step.packing, evaluations)
        if idle >= _PATIENCE[method]:
            return


def _buffers(items: Sequence[Item], alignment: int) -> list[Buffer]:
    return [
        Buffer(str(number), tuple(packing.Part(*part) for part in item), alignment)
        for number, item in enumerate(items)
    ]
