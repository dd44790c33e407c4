"""Best fit against a search over every granule."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mallocgame import heap

CAPACITY, TIMES, SLOTS = 30, 12, 24

_best_fit = jax.jit(heap.best_fit)
_free_until = jax.jit(heap.free_until)
_insert = jax.jit(heap.insert)
_extend = jax.jit(heap.extend)


class _Granules:
    """Fast memory over time as a table of who is where; -1 is free."""

    def __init__(self) -> None:
        self.owner = np.full((TIMES, CAPACITY), -1)

    def best_fit(self, start: int, end: int, size: int) -> int:
        taken = (self.owner[start : end + 1] >= 0).any(axis=0)
        top = max(np.flatnonzero(taken), default=-1) + 1
        gaps, first = [], 0
        for offset in range(top):
            if taken[offset]:
                if offset - first >= size:
                    gaps.append((offset - first, first))
                first = offset + 1
        if gaps:
            return min(gaps)[1]
        return top if top + size <= CAPACITY else -1

    def free_until(self, after: int, offset: int, size: int) -> int:
        busy = (self.owner[:, offset : offset + size] >= 0).any(axis=1)
        return min((t for t in range(after + 1, TIMES) if busy[t]), default=TIMES) - 1

    def put(self, access: int, start: int, end: int, offset: int, size: int) -> None:
        place = self.owner[start : end + 1, offset : offset + size]
        assert (place == -1).all()
        place[:] = access


@pytest.mark.parametrize("seed", range(20))
def test_any_history_fits_as_the_granules_do(seed: int) -> None:
    rng = random.Random(seed)
    table, granules = heap.empty(SLOTS, TIMES), _Granules()
    ends: dict[int, tuple[int, int, int]] = {}
    for access in range(SLOTS):
        start = rng.randrange(TIMES)
        end = rng.randint(start, TIMES - 1)
        size = rng.randint(1, 9)
        offset = int(_best_fit(table, start, end, size, CAPACITY))
        assert offset == granules.best_fit(start, end, size)
        if offset >= 0:
            table = _insert(table, access, start, end, jnp.int32(offset), size)
            granules.put(access, start, end, offset, size)
            ends[access] = (end, offset, size)
        else:
            table = _insert(table, access, start, -1, jnp.int32(offset), size)
        if ends:
            other = rng.choice(list(ends))
            until, offset, size = ends[other]
            free = int(_free_until(table, until, offset, size))
            expected = granules.free_until(until, offset, size)
            assert min(free, TIMES - 1) == expected
            later = rng.randint(until, expected)
            table = _extend(table, other, until, later, size)
            granules.put(other, until + 1, later, offset, size)
            ends[other] = (later, offset, size)
        np.testing.assert_array_equal(table.usage, (granules.owner >= 0).sum(axis=1))
        assert (np.diff(table.offset) >= 0).all()


def test_ties_go_to_the_lowest_gap_and_the_top_comes_last() -> None:
    table = heap.empty(SLOTS, TIMES)
    for access, (start, end, offset) in enumerate([(0, 3, 4), (0, 9, 10), (2, 5, 16)]):
        table = _insert(table, access, start, end, jnp.int32(offset), 2)
    # Free: 0-3, 6-9, 12-15 and from 18 on.
    assert int(_best_fit(table, 3, 3, 4, CAPACITY)) == 0
    assert int(_best_fit(table, 3, 3, 5, CAPACITY)) == 18
    assert int(_best_fit(table, 3, 3, 13, CAPACITY)) == -1
    assert int(_best_fit(table, 4, 4, 10, CAPACITY)) == 0
    assert int(_best_fit(table, 10, 11, CAPACITY, CAPACITY)) == 0
