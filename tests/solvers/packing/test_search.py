"""Packing against brute force, against problems with a known packing, and against XLA's heaps."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from solvers import compiled
from solvers.command import Failure
from solvers.packing import (
    Buffer,
    Packer,
    Packing,
    Part,
    Step,
    choose,
    lower_bound,
    search,
    violations,
)
from tests.solvers.packing.instances import cut_up, optimum, problems


def last(*arguments: object, steps: int = 3000, **options: object) -> Step:
    """The last step of a search, which is given up after so many steps."""
    return [*itertools.islice(search(*arguments, **options), steps)][-1]  # type: ignore[arg-type]


def checked(buffers: Sequence[Buffer], step: Step) -> Packing:
    assert step.packing is not None
    height = step.packing.height
    assert not violations(buffers, step.packing.offsets.tolist(), height)
    return step.packing


@given(problems())
@example(  # Two that are aligned more coarsely than the third, which overlaps neither.
    [
        Buffer("b0", (Part(1, 2, 1),), 1),
        Buffer("b1", (Part(0, 1, 1),), 2),
        Buffer("b2", (Part(0, 1, 1),), 2),
    ]
)
@settings(max_examples=150, deadline=None)
def test_exact_finds_the_lowest_and_proves_it(buffers: list[Buffer]) -> None:
    best = optimum(buffers)
    assert lower_bound(buffers) <= best
    found = last(buffers, method="exact")
    assert checked(buffers, found).height == best == found.bound


@given(problems(), st.integers(-2, 1))
@settings(max_examples=150, deadline=None)
def test_exact_decides_a_capacity(buffers: list[Buffer], slack: int) -> None:
    best = optimum(buffers)
    capacity = max(best + slack, 1)
    found = last(buffers, capacity, method="exact")
    packed = checked(buffers, found)
    if capacity >= best:
        assert packed.height <= capacity
    else:
        assert capacity < found.bound <= best <= packed.height


@given(problems(8))
@settings(max_examples=60, deadline=None)
def test_orders_never_get_below_the_bound_nor_above_the_simple_orders(
    buffers: list[Buffer],
) -> None:
    found = last(buffers, method="orders", steps=100)
    simple = [
        Packer(buffers).pack(*order) for order in Packer(buffers).orders().values()
    ]
    height = checked(buffers, found).height
    assert lower_bound(buffers) == found.bound <= height
    assert height <= min(p.height for p in simple)


@given(problems(8))
@settings(max_examples=60, deadline=None)
def test_compiled_and_numpy_packers_agree(buffers: list[Buffer]) -> None:
    fast, slow = Packer(buffers), Packer(buffers)
    slow._place = slow._place_by_numpy
    for order, fit in fast.orders().values():
        one, other = fast.pack(order, fit), slow.pack(order, fit)
        assert one.offsets.tolist() == other.offsets.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_exact_fills_a_rectangle_without_gaps(seed: int) -> None:
    """From nothing known, in the orders of the search alone."""
    from solvers.packing import exact

    buffers = cut_up(seed, 40)
    *_, found = itertools.islice(
        exact.search(buffers, 48, seed, lambda: False, None), 3000
    )
    assert checked(buffers, found).height == 48


def test_exact_packs_components_one_by_one() -> None:
    """Three full rectangles, one after another in time, one of them lower."""
    buffers = []
    for number, (seed, height) in enumerate([(1, 48), (2, 48), (3, 30)]):
        for b in cut_up(seed, 20, 20, height):
            shifted = [
                Part(p[0] + 20 * number, p[1] + 20 * number, *p[2:]) for p in b.parts
            ]
            buffers.append(Buffer(f"{number}{b.id}", tuple(shifted)))
    found = last(buffers)
    assert checked(buffers, found).height == 48 == found.bound


def test_exact_is_the_same_in_pieces_and_in_one_go() -> None:
    from solvers.packing import canonical, sections

    component = sections.component(cut_up(3, 40))
    whole = canonical.start(component, 48)
    status, nodes = canonical.search(component, whole, 10**6)
    assert status == canonical.SOLVED
    pieces = canonical.start(component, 48)
    for _ in range(nodes - 1):
        assert canonical.search(component, pieces, 1) == (canonical.PAUSED, 1)
    assert canonical.search(component, pieces, 1) == (canonical.SOLVED, 1)
    assert pieces.floor.tolist() == whole.floor.tolist()


def test_a_seed_repeats_itself() -> None:
    buffers = cut_up(11, 60)
    runs = [[*search(buffers, 48, seed=5)] for _ in range(2)]
    sums = [sum(step.evaluations for step in run) for run in runs]
    assert sums[0] == sums[1]
    ends = [checked(buffers, run[-1]).offsets.tolist() for run in runs]
    assert ends[0] == ends[1]


@given(problems(4))
@settings(max_examples=12, deadline=None)
def test_cpsat_agrees(buffers: list[Buffer]) -> None:
    best = optimum(buffers)
    found = last(buffers, method="cpsat")
    assert checked(buffers, found).height == best == found.bound
    if best > 1:
        assert last(buffers, best - 1, method="cpsat").bound >= best


def test_without_numba_the_search_goes_over_orders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compiled, "available", lambda: False)
    buffers = cut_up(0, 40)
    assert choose(buffers) == "orders"
    checked(buffers, last(buffers, steps=50))
    with pytest.raises(
        Failure, match=r"pip install 'schedule-zero\[solvers\]'"
    ) as told:
        last(buffers, method="exact")
    assert told.value.exit_status == 2


def test_a_window_in_a_gap_can_be_used() -> None:
    """`b` keeps its upper half while it is idle; `a` fits below that."""
    b = Buffer("b", (Part(0, 2, 4), Part(2, 4, 4, base=2), Part(4, 6, 4)), offset=0)
    a = Buffer("a", (Part(2, 4, 2),))
    assert not violations([b, a], [0, 0], 4)
    assert violations([b, a], [0, 1], 4)
    found = last([b, a], 4, steps=20)
    assert found.bound == 4  # Nothing is proved that is not so.


def test_hints_and_an_earlier_answer_are_used() -> None:
    buffers = cut_up(0, 40)
    packed = checked(buffers, last(buffers, 48, steps=2000))
    hinted = [
        Buffer(b.id, b.parts, hint=int(o)) for b, o in zip(buffers, packed.offsets)
    ]
    assert last(hinted, 48, method="bestfit").packing.height == 48  # type: ignore[union-attr]
    again = last(buffers, 48, method="bestfit", known=packed).packing
    assert again is not None and again.height == 48
    wrong = Packing(np.zeros(len(buffers), np.int64), 48, "a lie")
    assert checked(buffers, last(buffers, method="bestfit", known=wrong)).height > 48


def closed(*rows: tuple[int, int, int], alignment: int = 1) -> list[Buffer]:
    """Buffers from XLA's closed intervals and sizes."""
    return [
        Buffer(str(n), (Part(start, end + 1, size),), alignment)
        for n, (start, end, size) in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("buffers", "offsets", "height"),
    [
        (closed((0, 4, 10), (1, 5, 30), (2, 6, 20), (3, 7, 40)), [90, 40, 70, 0], 100),
        (
            closed((0, 3, 10), (1, 5, 20), (2, 6, 50), (4, 7, 40), alignment=20),
            [60, 100, 0, 60],
            120,
        ),
        (
            closed((0, 3, 10), (1, 6, 20), (2, 7, 40), (4, 8, 30), (5, 9, 50)),
            [90, 120, 50, 90, 0],
            140,
        ),
    ],
)
def test_best_fit_by_size_is_xlas(
    buffers: list[Buffer], offsets: list[int], height: int
) -> None:
    """The cases of `GlobalDecreasingSizeBestFitHeapTest`."""
    packer = Packer(buffers)
    found = packer.pack(*packer.orders()["size, best fit"])
    assert (found.offsets.tolist(), found.height) == (offsets, height)


def test_nothing_to_pack() -> None:
    found = last([])
    assert found.packing is not None
    assert (found.packing.height, found.bound) == (0, 0)


def test_violations_are_named() -> None:
    a = Buffer("a", (Part(0, 4, 10),), alignment=8)
    b = Buffer("b", (Part(2, 6, 10),), alignment=8)
    assert not violations([a, b], [0, 16], 26)
    assert "overlap at time 2" in violations([a, b], [0, 8])[0]
    assert "beyond 20" in violations([a, b], [0, 16], 20)[0]
    assert "no multiple of 8" in violations([a, b], [0, 12])[0]
    assert "below 0" in violations([a, b], [-16, 0])[0]
    assert "2 buffers but 1" in violations([a, b], [0])[0]
    fixed = Buffer("f", (Part(9, 10, 1),), offset=4)
    assert "must lie at 4" in violations([fixed], [0])[0]


@given(problems(6), st.data())
@settings(max_examples=100, deadline=None)
def test_violations_are_found_as_by_brute_force(
    buffers: list[Buffer], data: st.DataObject
) -> None:
    offsets = [data.draw(st.integers(0, 6)) * b.alignment for b in buffers]
    free = [Buffer(b.id, b.parts, b.alignment) for b in buffers]
    clash = any(
        p.lower < q.upper and q.lower < p.upper and x < y + q.size and y < x + p.size
        for (a, x), (b, y) in itertools.combinations(zip(free, offsets), 2)
        for p in a.parts
        for q in b.parts
    )
    assert bool(violations(free, offsets)) == clash
