"""Best fit, slices and repacking, on XLA's golden cases."""

import pytest

from mallocgame.msa.memory import Memory, Rectangle, repack


def _place(memory: Memory, start: int, end: int, size: int) -> int:
    offset = memory.best_fit([(start, end)], size)
    memory.add(Rectangle(start, end, offset, offset + size))
    return offset


@pytest.mark.parametrize(
    ("alignment", "blocks", "offsets"),
    [
        (1, [(3, 7, 40), (1, 5, 30), (2, 6, 20), (0, 4, 10)], [0, 40, 70, 90]),
        (20, [(2, 6, 50), (4, 7, 40), (1, 5, 20), (0, 3, 10)], [0, 60, 100, 60]),
        (
            1,
            [(5, 9, 50), (2, 7, 40), (4, 8, 30), (1, 6, 20), (0, 3, 10)],
            [0, 50, 90, 120, 90],
        ),
    ],
)
def test_best_fit(
    alignment: int, blocks: list[tuple[int, int, int]], offsets: list[int]
) -> None:
    memory = Memory(10, 200, alignment)
    assert [_place(memory, *block) for block in blocks] == offsets


def test_what_is_removed_is_free_again() -> None:
    memory = Memory(10, 100, 1)
    memory.add(Rectangle(2, 5, 0, 60))
    assert memory.free_until(0, 9, 0, 10) == 1
    assert memory.roomy_from(0, 9, 50) == 6
    assert memory.roomy_from(0, 5, 50) is None
    memory.remove(Rectangle(2, 5, 0, 60))
    assert memory.is_free((0, 9), 0, 100)
    assert not memory.usage.any()


def test_slices_that_start_later_find_room_below() -> None:
    memory = Memory(20, 40, 10)
    memory.add(Rectangle(0, 5, 0, 20))
    # Only the upper half is free before time 6.
    assert memory.best_slices([2, 6], 9, [20, 20]) == (20, 0)
    assert memory.best_slices([2, 5], 9, [20, 20]) is None
    assert memory.slices_at(0, [2, 6], 9, [20, 20]) == (20, 0)


def _group(*blocks: tuple[int, int, int]) -> list[Rectangle]:
    return [Rectangle(start, end, 0, size) for start, end, size in blocks]


def test_repacking() -> None:
    assert repack([_group((10, 20, 10)), _group((5, 25, 15))], 100, 1) == [15, 0]
    together = [_group((0, 2, 10), (10, 20, 10)), _group((5, 25, 15))]
    assert repack(together, 100, 1) == [15, 0]
    uneven = [_group((0, 2, 5), (10, 20, 10)), _group((9, 11, 2)), _group((1, 2, 2))]
    assert repack(uneven, 100, 1) == [0, 10, 5]
    too_much = [
        _group(block)
        for block in (
            (10, 20, 10),
            (5, 25, 15),
            (15, 20, 10),
            (12, 22, 50),
            (10, 18, 20),
        )
    ]
    assert repack(too_much, 100, 1) is None
