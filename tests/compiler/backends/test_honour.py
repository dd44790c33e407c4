"""Judging decisions by the compiler's tables, on a literal."""

import pytest

from compiler.backends.honour import Outcome, Placement, Span, place_of
from compiler.backends.overrides import (
    Action,
    Keep,
    Override,
    Pin,
    PositionAt,
    Prefetch,
    UseAt,
    Where,
)
from compiler.hlo.tables import AllocationRow, BufferRow


@pytest.fixture
def placement() -> Placement:
    """`w` is copied at 4 for a use at 8; `x` is fast from its definition at 2 to 5 but not at 9; `y` never."""
    return Placement(
        [
            BufferRow(1, "w", 1.0, 64, 0, (8,), ("f, operand 1",)),
            BufferRow(2, "x", 1.0, 64, 2, (5, 9), ("g, operand 0", "h, operand 0 {1}")),
            BufferRow(3, "y{1}", 1.0, 64, 3, (9,), ("h, operand 2",)),
        ],
        [
            AllocationRow(1, 32, 0, 5, 8),
            AllocationRow(1, 32, 32, 6, 8),
            AllocationRow(2, 64, 64, 2, 5),
        ],
        crossing=("z",),
    )


def test_adjacent_allocations_are_one_span(placement: Placement) -> None:
    assert placement.spans == {"w": [Span(5, 8)], "x": [Span(2, 5)], "y{1}": []}


@pytest.mark.parametrize(
    ("where", "action", "instead"),
    [
        (UseAt("f", 1), Prefetch(4), ""),
        (UseAt("f", 1), Prefetch(6), "copied at 4"),
        (UseAt("f", 1), Keep(), "in fast memory at 5-8"),
        (UseAt("f", 1), Pin(), ""),
        (PositionAt("x"), Pin(), ""),
        (PositionAt("x"), Keep(), "in fast memory at 2-5"),
        (UseAt("h", 0, (1,)), Keep(), ""),
        (UseAt("h", 0, (1,)), Prefetch(6), "in fast memory at 2-5 only"),
        (UseAt("g", 0), Pin(), ""),
        (PositionAt("y", (1,)), Keep(), ""),
        (PositionAt("y", (1,)), Pin(), "in default memory"),
        (PositionAt("z"), Keep(), "prefetched across programs"),
        (UseAt("nobody", 0), Prefetch(3), "not a use that the compiler places"),
    ],
)
def test_outcome(
    placement: Placement, where: Where, action: Action, instead: str
) -> None:
    override = Override(where, action)
    assert placement.outcome(override) == Outcome(override, not instead, instead)


def test_place_of() -> None:
    assert place_of("fusion.2{1,0}") == PositionAt("fusion.2", (1, 0))
    assert place_of("p.1") == PositionAt("p.1")


def test_a_kept_value_may_be_copied_for_a_later_use_that_asked_for_it(
    placement: Placement,
) -> None:
    keep = Override(PositionAt("w"), Keep())
    asked = placement.prefetches([Override(UseAt("f", 1), Prefetch(4))])
    assert asked == {"w": {4}}
    assert placement.outcome(keep, asked).is_honoured
    assert not placement.outcome(keep).is_honoured
    assert not placement.outcome(keep, {"w": {3}}).is_honoured


def test_a_value_of_which_the_tables_know_nothing_is_looked_up_in_the_module() -> None:
    keep = Override(PositionAt("u", (1,)), Keep())
    assert Placement([], []).outcome(keep).is_honoured
    assert not Placement([], [], fast=[("u", (1,))]).outcome(keep).is_honoured
