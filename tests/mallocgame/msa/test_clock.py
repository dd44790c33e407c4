"""Golden cases of XLA's prefetch picker, from its unit tests."""

import numpy as np

from mallocgame.msa.clock import Clock, Picker, preferred_eviction_end, slice_starts


def _clock(elapsed: list[float], loop: range = range(0)) -> Clock:
    nest = [int(t in loop) for t in range(len(elapsed))]
    return Clock(np.array(elapsed, np.float32), nest, nest)


def _picker(clock: Clock, start: int, end: int, longest: float) -> Picker:
    return Picker(
        clock,
        least=3.0,
        preferred=6.0,
        reduction=0.5,
        bounds=(start, end),
        longest=longest,
    )


def test_starts_alternate_around_the_preferred_one() -> None:
    clock = _clock([1.0] * 23)
    assert list(_picker(clock, 0, 22, 12.0)) == [15, 16, 14, 17, 13, 18, 12, 11, 10, 9]
    assert list(_picker(clock, 19, 22, 12.0)) == []


def test_no_copy_starts_inside_of_a_loop_that_comes_between() -> None:
    elapsed = [1.0] * 32
    elapsed[25] = 0.0  # The loop itself; its body counts.
    clock = _clock(elapsed, range(19, 25))
    assert list(_picker(clock, 0, 31, 36.0)) == [25, 26, 18, 27, 17]


def test_the_latest_start_is_taken_however_long_it_is() -> None:
    clock = _clock([1.0, 1.0, 20.0, 1.0])
    assert list(_picker(clock, 1, 3, 12.0)) == [1]


def test_a_wish_comes_first() -> None:
    clock = _clock([1.0] * 23)
    picker = Picker(
        clock,
        least=3.0,
        preferred=6.0,
        reduction=0.5,
        bounds=(0, 22),
        longest=12.0,
        first=11,
    )
    assert next(iter(picker)) == 11


def test_an_eviction_lasts_longer_with_each_retry() -> None:
    clock = _clock([1.0] * 30)
    assert preferred_eviction_end(clock, 2, 29, 3.0, 2.0, 0) == 9
    assert preferred_eviction_end(clock, 2, 29, 3.0, 2.0, 1) == 21
    assert preferred_eviction_end(clock, 2, 12, 3.0, 2.0, 1) == 13


def test_slices_divide_the_time_evenly() -> None:
    clock = _clock([1.0] * 12)
    assert slice_starts(clock, [0] * 12, 4, 1, 10) == [1, 3, 5, 7]
    assert slice_starts(clock, [0] * 12, 2, 8, 10) == [8, 8]
    regions = [0] * 4 + [1] * 8
    assert slice_starts(clock, regions, 4, 1, 10) == [1, 3, 3, 3]
