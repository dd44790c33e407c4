"""Packs by any of the methods, never worse than XLA's orders, each answer checked."""

from collections.abc import Callable, Iterator, Sequence

from solvers import compiled
from solvers.command import Exit, Failure
from solvers.packing import cpsat, orders, sections
from solvers.packing.check import violations
from solvers.packing.fit import Packer, simple_packings
from solvers.packing.problem import Buffer, Packing, lower_bound, packing
from solvers.packing.step import Step

METHODS = ("auto", "exact", "bestfit", "orders", "cpsat")

MAX_BUFFERS, MAX_PAIRS = 8000, 4_000_000
"""Buffers, and overlapping pairs counted twice, that an exact search takes: hundreds of MB."""

_FOR_EVER = 1 << 60


def search(
    buffers: Sequence[Buffer],
    capacity: int | None = None,
    *,
    method: str = "auto",
    seed: int = 0,
    done: Callable[[], bool] = lambda: False,
    known: Packing | None = None,
) -> Iterator[Step]:
    """Yields the lowest packing so far and a bound, until it is decided or time is up.

    The search ends when a packing fits the capacity or reaches the bound, when the bound is
    above the capacity (nothing fits), when its method is at its end, or when `done`. After the
    first step there is always a packing, be it above the capacity.

    Args:
        buffers: what to pack.
        capacity: bytes; a packing that fits is enough. None for the lowest.
        method: `"bestfit"`, a handful of orders; `"orders"`, a local search over orders;
            `"exact"`; `"cpsat"`; `"auto"`, exact where there is compiled code and the problem
            is not too large, else over orders.
        seed: of what is drawn.
        done: whether to stop; polled about ten times a second.
        known: a packing to start from, such as an earlier answer; ignored if it is wrong.

    Raises:
        Failure: status 2 if a library is missing; 4 for an unknown method or a
            problem too large for it; 5 if buffers with
            fixed offsets are in each other's way; 6 if a method gives a wrong answer.
    """
    if method not in METHODS:
        raise Failure("bad_method", f"no method {method!r}: use {', '.join(METHODS)}")
    fixed = [b for b in buffers if b.offset is not None]
    clash = violations(fixed, [b.offset or 0 for b in fixed])
    if clash:
        raise Failure("fixed_clash", f"fixed offsets: {clash[0]}", Exit.INFEASIBLE)
    bound = lower_bound(buffers)
    simple = simple_packings(Packer(buffers))
    best = _start(buffers, [*simple.values(), *([known] if known else [])])
    yield Step(len(simple), best, bound)

    def enough() -> bool:
        impossible = capacity is not None and bound > capacity
        return impossible or best.height <= max(bound, capacity or 0)

    if enough() or method == "bestfit":
        return
    for step in _steps(buffers, capacity, method, seed, done, best):
        found = step.packing
        bound = max(bound, step.bound)
        if found is not None and found.height < best.height:
            wrong = violations(buffers, found.offsets.tolist(), found.height)
            if wrong:
                raise Failure("packing_is_wrong", wrong[0], Exit.CHECK_FAILED)
            best = found
        yield Step(step.evaluations, best, bound)
        if enough() or done():
            return


def choose(buffers: Sequence[Buffer]) -> str:
    """Returns the method that `auto` takes."""
    return "exact" if compiled.available() and not _too_large(buffers) else "orders"


def _too_large(buffers: Sequence[Buffer]) -> bool:
    return len(buffers) > MAX_BUFFERS or sections.pairs(buffers) > MAX_PAIRS


def _steps(
    buffers: Sequence[Buffer],
    capacity: int | None,
    method: str,
    seed: int,
    done: Callable[[], bool],
    best: Packing,
) -> Iterator[Step]:
    if method == "auto":
        method = choose(buffers)
    if method == "orders":
        return orders.search(buffers, seed, done, best, patience=_FOR_EVER)
    if method == "cpsat":
        return cpsat.search(buffers, capacity, seed, done, best)
    compiled.require("the method exact")
    if _too_large(buffers):
        raise Failure(
            "too_large",
            f"the method exact takes {MAX_BUFFERS} buffers with {MAX_PAIRS // 2} overlaps at "
            "most: use orders",
        )
    from solvers.packing import exact  # Imports numba.

    return exact.search(buffers, capacity, seed, done, best)


def _start(buffers: Sequence[Buffer], found: list[Packing]) -> Packing:
    """Returns the lowest of some packings and the hints, if right."""
    if any(b.hint is not None for b in buffers):
        hints = [b.hint if b.hint is not None else b.offset or 0 for b in buffers]
        found.append(packing(buffers, hints, "hints"))
    right = [p for p in found if not violations(buffers, p.offsets.tolist(), p.height)]
    if not right:
        raise Failure(
            "packing_is_wrong", "no simple packing passes its check", Exit.CHECK_FAILED
        )
    return min(right, key=lambda p: p.height)
