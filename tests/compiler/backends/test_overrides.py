"""Decisions as text: names that match nothing else, texts that read back, reasons of a refusal."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler.backends import overrides as ov

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.\-]{0,20}", fullmatch=True)
INDICES = st.lists(st.integers(0, 9), max_size=3).map(tuple)
SIZES = st.none() | st.integers(1, 1 << 40)
PLACES = st.builds(ov.UseAt, NAMES, st.integers(0, 99), INDICES, SIZES) | st.builds(
    ov.PositionAt, NAMES, INDICES
)
ACTIONS = st.builds(ov.Prefetch, st.integers(-1, 10_000)) | st.sampled_from(
    [ov.Pin(), ov.Keep()]
)
OVERRIDES = st.lists(
    st.builds(ov.Override, PLACES, ACTIONS), max_size=8, unique_by=lambda o: o.where[:2]
)


@settings(deadline=None, derandomize=True)
@given(OVERRIDES, st.booleans())
def test_text_reads_back(overrides: list[ov.Override], strict: bool) -> None:
    assert ov.from_text(ov.to_text(overrides, strict)) == overrides


@settings(deadline=None, derandomize=True)
@given(NAMES, NAMES)
def test_a_pattern_matches_its_own_name_only(name: str, other: str) -> None:
    found = re.compile(ov.pattern(name))
    assert found.search(name)
    assert bool(found.search(other)) == (name == other)


def test_a_name_is_not_a_prefix_or_a_wildcard() -> None:
    found = re.compile(ov.pattern("fusion.1"))
    assert not any(
        found.search(name) for name in ("fusion.12", "fusionx1", "my_fusion.1")
    )


@pytest.mark.parametrize("name", ["", 'a"b', "a b", "a\nb", "fusion{1}"])
def test_refuses_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="instruction name"):
        ov.pattern(name)


def test_exact_text() -> None:
    place = ov.UseAt("fusion.1", 2, (0, 1), 4096)
    assert ov.to_text([ov.Override(place, ov.Prefetch(7))]) == (
        'overrides { hlo_operand_filter { instruction_name_regex: "^fusion\\\\.1$" operand_number: 2 '
        "size_gte: 4096 size_lte: 4096 tuple_index { index: 0 index: 1 } } "
        "prefetch { logical_time: 7 strict_timing: true } }"
    )


def test_refuses_two_for_one_place() -> None:
    place = ov.PositionAt("fusion.1")
    with pytest.raises(ValueError, match="two overrides for"):
        ov.to_text([ov.Override(place, ov.Pin()), ov.Override(place, ov.Keep())])


@pytest.mark.parametrize("text", ["foo {", "overrides { }", "overrides {"])
def test_refuses_a_text_that_the_compiler_would_ignore(text: str) -> None:
    with pytest.raises(ValueError, match="not an override"):
        ov.from_text(text)


def test_options_leave_out_what_is_not_asked() -> None:
    assert ov.options() == {}
    assert ov.options(cross_program_prefetches=0, outstanding_prefetches=200) == {
        "xla_max_cross_program_prefetches": "0",
        "xla_msa_max_outstanding_prefetches": "200",
    }
    order = [ov.SortOverride(ov.PositionAt("w"), -1, cross_program=True)]
    assert (
        "apply_to_cross_program_prefetches: true"
        in ov.options(order=order)[ov.SORT_OPTION]
    )


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "FAILED_PRECONDITION: MSA strict override failed for instruction 'fusion.2' operand 4, shape bf16[3072], "
            "defining instruction 'p.1': Ran out of outstanding asynchronous copies (requested schedule time: 239)",
            ov.Rejection(
                ov.UseAt("fusion.2", 4),
                "p.1",
                "Ran out of outstanding asynchronous copies",
                239,
            ),
        ),
        (
            "MSA strict override failed for instruction 'tuple.61' operand 17, shape bf16[8], defining instruction "
            "'d.40': Out of alternate memory / spatial placement conflict (requested schedule time: n/a)",
            ov.Rejection(
                ov.UseAt("tuple.61", 17),
                "d.40",
                "Out of alternate memory / spatial placement conflict",
                None,
            ),
        ),
        (
            "MSA strict timing override unsatisfied for instruction 'f.2' operand 0, shape bf16[8]: scheduled "
            "prefetch time (0) does not match requested prefetch time (6)",
            ov.Rejection(
                ov.UseAt("f.2", 0),
                None,
                "scheduled prefetch time (0) does not match requested prefetch time (6)",
                6,
            ),
        ),
        ("INTERNAL: something else", None),
    ],
)
def test_a_refusal_names_the_override(
    message: str, expected: ov.Rejection | None
) -> None:
    assert ov.rejection(message) == expected


def test_a_refusal_concerns_the_use_and_the_value() -> None:
    said = ov.Rejection(ov.UseAt("f", 1), "v", "", None)
    assert said.concerns(ov.Override(ov.UseAt("f", 1, (2,), 64), ov.Keep()))
    assert said.concerns(ov.Override(ov.PositionAt("v"), ov.Pin()))
    assert not said.concerns(ov.Override(ov.UseAt("f", 0), ov.Keep()))
    assert not said.concerns(ov.Override(ov.PositionAt("f"), ov.Keep()))
