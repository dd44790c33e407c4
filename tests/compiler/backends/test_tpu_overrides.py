"""What memory-space assignment does with overrides: the facts of docs/overrides.md, each shown by a real compile.

All on the six-layer perceptron of the goldens: three fusions of two layers each, weights `ws_0_.1` to `ws_5_.1`.
"""

import importlib.util
from pathlib import Path

import pytest

from compiler import backends
from compiler.backends import honour
from compiler.backends import overrides as ov

pytestmark = [
    pytest.mark.tpu,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="libtpu is not installed ([tpu] extra)",
    ),
]
GOLDEN = Path(__file__).parents[2] / "golden" / "mlp"
FIRST, SECOND = "convolution_maximum_fusion.4", "convolution_maximum_fusion.2"
WEIGHT = "ws_3_.1"  # Defined at 3, operand 0 of SECOND, which is at 8; 8 MiB.
USE = ov.UseAt(SECOND, 0, (), 8 << 20)


class Lab:
    """Compiles the perceptron with options, keeping results for the whole module."""

    def __init__(self, folder: Path) -> None:
        self.cache = backends.Cache(folder)
        self.source = backends.from_dump(GOLDEN)

    def compile(
        self, *overrides: ov.Override, text: str = "", **knobs: object
    ) -> backends.Compiled:
        options = {
            **ov.options(overrides),
            **({ov.OPTION: text} if text else {}),
            **knobs,
        }
        return backends.compile_source(
            self.source, "v5e:1x1", options, cache=self.cache
        )

    def spans(
        self, *overrides: ov.Override, text: str = "", **knobs: object
    ) -> dict[str, list[honour.Span]]:
        return honour.read_placement(self.compile(*overrides, text=text, **knobs)).spans

    def crossing(self, **knobs: object) -> list[str]:
        copies = self.compile(**knobs).copies
        return [copy.source for copy in copies if copy.cross_program_index is not None]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("time", [3, 6, 7])
def test_a_copy_starts_right_after_its_logical_time(lab: Lab, time: int) -> None:
    compiled = lab.compile(ov.Override(USE, ov.Prefetch(time)))
    assert honour.read_placement(compiled).spans[WEIGHT] == [honour.Span(time + 1, 8)]
    before = honour.tables.read_schedule(compiled.tables["scheduleinfo"])
    start = next(copy.start for copy in compiled.copies if copy.source == WEIGHT)
    order = compiled.schedule
    assert (
        order.index(before[time]) < order.index(start) < order.index(before[time + 1])
    )


@pytest.mark.parametrize("time", [2, 8])
def test_a_strict_time_outside_the_live_range_refuses_the_program(
    lab: Lab, time: int
) -> None:
    with pytest.raises(backends.CompilerError, match="Live range too short") as caught:
        lab.compile(ov.Override(USE, ov.Prefetch(time)))
    assert ov.rejection(str(caught.value)) == ov.Rejection(
        ov.UseAt(SECOND, 0), WEIGHT, "Live range too short / dependency ordering", time
    )


def test_without_strictness_an_impossible_time_is_ignored(lab: Lab) -> None:
    text = ov.to_text([ov.Override(USE, ov.Prefetch(2))], strict=False)
    assert lab.spans(text=text)[WEIGHT] == lab.spans()[WEIGHT]


def test_an_override_of_a_use_spills_over_to_the_result_unless_it_has_a_size(
    lab: Lab,
) -> None:
    assert lab.spans()[SECOND]
    with_size = lab.spans(ov.Override(USE, ov.Keep()))
    without = lab.spans(ov.Override(USE._replace(size=None), ov.Keep()))
    assert not with_size[WEIGHT] and not without[WEIGHT]
    assert with_size[SECOND]
    assert not without[SECOND]


def test_a_use_filter_of_a_position_is_not_looked_at(lab: Lab) -> None:
    text = (
        'overrides { hlo_position_matcher { instruction_name_regex: "^ws_3_\\\\.1$" hlo_use_filter { '
        'instruction_name_regex: "^nobody$" } } keep_in_default_memory {} }'
    )
    assert not lab.spans(text=text)[WEIGHT]


def test_a_text_that_does_not_parse_is_ignored_in_silence(lab: Lab) -> None:
    assert lab.spans(text="foo {") == lab.spans()


def test_two_overrides_of_one_use_contradict_each_other(lab: Lab) -> None:
    keep, copy = (
        ov.to_text([ov.Override(USE, ov.Keep())]),
        ov.to_text([ov.Override(USE, ov.Prefetch(6))]),
    )
    for text in (f"{keep} {copy}", f"{copy} {keep}"):
        with pytest.raises(
            backends.CompilerError, match="strict timing override unsatisfied"
        ):
            lab.compile(text=text)


def test_a_parameter_cannot_be_pinned(lab: Lab) -> None:
    with pytest.raises(backends.CompilerError, match="illegal memory space"):
        lab.compile(ov.Override(ov.PositionAt(WEIGHT), ov.Pin()))


def test_a_pin_of_a_use_is_a_wish(lab: Lab) -> None:
    use = ov.UseAt(FIRST, 2, (), 8 << 20)  # ws_0, defined right in front of its use.
    compiled = lab.compile(ov.Override(use, ov.Pin()))
    assert [
        o.is_honoured for o in honour.outcomes([ov.Override(use, ov.Pin())], compiled)
    ] == [False]


def test_how_many_cross_program_prefetches(lab: Lab) -> None:
    knob = ov.CROSS_PROGRAM_OPTION
    assert [len(lab.crossing(**{knob: n})) for n in (0, 1, 2)] == [0, 1, 2]
    assert len(lab.crossing()) == 1


def test_the_order_chooses_what_is_prefetched_across_programs(lab: Lab) -> None:
    order = ov.sort_text(
        [ov.SortOverride(ov.PositionAt(WEIGHT), -1, cross_program=True)]
    )
    assert lab.crossing() != [WEIGHT]
    assert lab.crossing(**{ov.SORT_OPTION: order}) == [WEIGHT]


def test_a_cross_program_prefetch_ignores_overrides(lab: Lab) -> None:
    (name,) = lab.crossing()
    assert name == "ws_1_.1"
    use = ov.UseAt(FIRST, 0, (), 8 << 20)
    for action in (ov.Keep(), ov.Prefetch(6)):
        compiled = lab.compile(ov.Override(use, action))
        assert [
            c.source for c in compiled.copies if c.cross_program_index is not None
        ] == [name]


def test_where_nothing_fits_the_placement_is_empty(lab: Lab) -> None:
    """Then the compiler writes no table but the schedule."""
    compiled = lab.compile(xla_tpu_scoped_vmem_limit_kib=str(128 << 10))
    assert set(compiled.tables) == {"scheduleinfo"}
    placement = honour.read_placement(compiled)
    assert placement.spans == {}
    where = ov.PositionAt(FIRST)
    assert placement.outcome(ov.Override(where, ov.Keep())).is_honoured
    assert not placement.outcome(ov.Override(where, ov.Pin())).is_honoured
