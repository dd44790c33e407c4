"""The copy resource: XLA's unit tests, and its closed form against serving copy by copy."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from compiler.cost import resource

Copy = tuple[int, int, int]  # After which instruction, before which one, demand.

_add = jax.jit(resource.add)
_feasible = jax.jit(resource.feasible)


def _serve(ticks: list[int], copies: list[Copy]) -> tuple[bool, list[int]]:
    """Serves copies first come, first served: whether all end in time, and what is left."""
    free, left = list(ticks), [demand for _, _, demand in copies]
    order = sorted(range(len(copies)), key=lambda k: copies[k][0])
    in_time = True
    for time in range(len(ticks) + 1):
        in_time &= not any(left[k] and copies[k][1] <= time for k in order)
        for k in order:
            if copies[k][0] < time < len(ticks):
                served = min(free[time], left[k])
                free[time] -= served
                left[k] -= served
                if left[k]:
                    break
    return in_time, free


class _Resource:
    """The arrays under test, with the model beside them."""

    def __init__(self, ticks: list[int]) -> None:
        self.ticks = ticks
        self.before = resource.elapsed(jnp.array(ticks, jnp.int32))
        self.state = resource.empty(jnp.array(ticks, jnp.int32))
        self.copies: list[Copy] = []

    def has(self, *copy: int) -> bool:
        start, end, demand = copy
        ours = bool(_feasible(self.state, self.before, end, demand)[start + 1])
        assert ours == _serve(self.ticks, [*self.copies, (start, end, demand)])[0]
        return ours

    def add(self, *copy: int) -> None:
        assert self.has(*copy)
        start, end, demand = copy
        self.copies.append((start, end, demand))
        self.state = _add(self.state, self.before, start + 1, end, demand)

    @property
    def free(self) -> list[int]:
        return _serve(self.ticks, self.copies)[1]


def test_simple() -> None:
    it = _Resource([2, 3, 1, 6, 7, 1, 7, 2, 2, 4])
    it.add(-1, 3, 5)
    it.add(1, 4, 4)
    it.add(5, 9, 10)
    assert not it.has(4, 9, 3)
    it.add(4, 8, 2)


def test_propagation() -> None:
    it = _Resource([2] * 10)
    for start in range(6, 0, -1):
        it.add(start, start + 4, 2)
    assert it.free == [2, 2, 0, 0, 0, 0, 0, 0, 2, 2]
    it.add(0, 4, 3)
    assert it.free == [2, 0, 0, 0, 0, 0, 0, 0, 1, 2]
    it.add(0, 4, 3)
    assert it.free == [2, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    assert not it.has(0, 4, 1)


def test_pushed_copy_may_miss_its_end() -> None:
    it = _Resource([2] * 10)
    it.add(5, 10, 2)
    it.add(4, 7, 2)
    it.add(4, 8, 4)
    assert not it.has(3, 6, 4)


def test_nested() -> None:
    it = _Resource([2] * 5)
    it.add(1, 3, 2)
    assert not it.has(0, 4, 4)


def test_no_resource_at_first() -> None:
    it = _Resource([0, 0, 1, 1, 2])
    it.add(0, 4, 2)
    assert it.free == [0, 0, 0, 0, 2]


@pytest.mark.parametrize(("second", "fits"), [(3, True), (4, False)])
def test_several_at_once(second: int, fits: bool) -> None:
    it = _Resource([2, 1, 3, 6, 7, 3, 7, 2, 2, 4])
    it.add(-1, 3, 5)
    it.add(1, 10, 4)
    it.add(0, 6, 4)
    assert it.has(4, 6, second) == fits


def test_no_demand_is_always_accepted() -> None:
    it = _Resource([0, 0, 0])
    assert _feasible(it.state, it.before, 1, 0).all()


@pytest.mark.parametrize("seed", range(25))
def test_closed_form_is_serving_step_by_step(seed: int) -> None:
    rng = random.Random(seed)
    it = _Resource([rng.choice([0, 1, 2, 5]) for _ in range(14)])
    refused = 0
    for _ in range(30):
        end, demand = rng.randint(0, 14), rng.randint(1, 6)
        row = np.asarray(_feasible(it.state, it.before, end, demand))
        starts = [start for start in range(-1, end) if it.has(start, end, demand)]
        assert [start + 1 for start in starts] == np.flatnonzero(row).tolist()
        refused += not starts
        if starts:
            it.add(rng.choice(starts), end, demand)
    assert it.copies and refused
