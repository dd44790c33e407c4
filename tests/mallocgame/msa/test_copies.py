"""Golden cases of XLA's copy resource, and a comparison with the queue written out."""

import random

import numpy as np

from mallocgame.msa.copies import Copy, CopyQueue, ticks


def _queue(resource: list[int]) -> CopyQueue:
    return CopyQueue(np.array(resource, np.float32))


def _copy(start: int, end: int, seconds: float) -> Copy:
    return Copy(start, end, ticks(seconds))


def test_copies_share_what_instructions_offer() -> None:
    queue = _queue([2, 3, 1, 6, 7, 1, 7, 2, 2, 4])
    for copy in (_copy(-1, 3, 5), _copy(1, 4, 4), _copy(5, 9, 10)):
        assert queue.fits([copy])
        queue.add(copy)
    assert not queue.fits([_copy(4, 9, 3)])
    assert queue.fits([_copy(4, 8, 2)])


def test_a_copy_pushes_those_behind_it() -> None:
    queue = _queue([2] * 10)
    for start in range(6, 0, -1):
        assert queue.fits([_copy(start, start + 4, 2)])
        queue.add(_copy(start, start + 4, 2))
    for _ in range(2):
        assert queue.fits([_copy(0, 4, 3)])
        queue.add(_copy(0, 4, 3))
    assert not queue.fits([_copy(0, 4, 1)])
    queue.remove(_copy(0, 4, 3))
    assert queue.fits([_copy(0, 4, 1)])


def test_a_copy_may_not_make_another_one_late() -> None:
    queue = _queue([2] * 10)
    for copy in (_copy(5, 10, 2), _copy(4, 7, 2), _copy(4, 8, 4)):
        queue.add(copy)
    assert not queue.fits([_copy(3, 6, 4)])
    nested = _queue([2] * 5)
    nested.add(_copy(1, 3, 2))
    assert not nested.fits([_copy(0, 4, 4)])


def test_several_at_once() -> None:
    queue = _queue([2, 1, 3, 6, 7, 3, 7, 2, 2, 4])
    queue.add(_copy(-1, 3, 5))
    queue.add(_copy(1, 10, 4))
    assert queue.fits([_copy(0, 6, 4), _copy(4, 6, 3)])
    assert not queue.fits([_copy(0, 6, 4), _copy(4, 6, 4)])


def test_what_takes_no_time_always_fits() -> None:
    assert _queue([0, 0]).fits([_copy(0, 1, 0)])


def test_in_flight_counts_closed_intervals() -> None:
    queue = _queue([1] * 10)
    queue.add(_copy(2, 5, 1))
    assert [queue.in_flight(*span) for span in ((0, 2), (0, 3), (5, 9), (6, 9))] == [
        0,
        1,
        1,
        0,
    ]


def test_agrees_with_the_queue_written_out() -> None:
    chooser = random.Random(0)
    for _ in range(300):
        resource = [chooser.randint(0, 4) for _ in range(8)]
        queue = _queue(resource)
        added: list[Copy] = []
        for _ in range(10):
            start = chooser.randint(-1, 6)
            copy = _copy(start, chooser.randint(start + 1, 8), chooser.randint(1, 5))
            fits = _served_in_time([*added, copy], resource)
            assert queue.fits([copy]) == fits
            if fits:
                added.append(copy)
                queue.add(copy)


def _served_in_time(copies: list[Copy], resource: list[int]) -> bool:
    """Serves copies instruction by instruction, first come, first served."""
    left = [[copy.start, copy.end, copy.ticks] for copy in copies]
    left.sort(key=lambda item: item[0])
    for time, offered in enumerate(resource):
        if any(end <= time and rest for _, end, rest in left):
            return False
        budget = ticks(offered)
        for item in left:
            if item[0] < time:
                used = min(budget, item[2])
                item[2] -= used
                budget -= used
    return not any(rest for _, _, rest in left)
