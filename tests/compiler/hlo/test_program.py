"""Times, values and buffers of constructs small enough to work out by hand."""

import pytest

from compiler.hlo import Buffer, ModuleError, Program, build
from compiler.hlo import hlo_pb2 as pb
from compiler.hlo.intervals import heap_intervals
from compiler.hlo.liveness import without_overlap

S32 = 4


def buffer_of(program: Program, name: str, index: tuple[int, ...] = ()) -> Buffer:
    node = program.instructions[program.times[name]].node
    return program.buffers[program.value_at(node, index).buffer]


def uses(buffer: Buffer) -> list[str]:
    return [str(use) for use in buffer.uses]


def loop(
    writer, body_root: tuple[str, ...], limit: int = 10, config: bytes = b""
) -> Program:
    """A while over `(counter, a, b)`; the body returns the named elements."""
    data, number = writer.shape(11, 8, 128), writer.shape(S32)
    state = writer.tuple_of(number, data, data)
    one = pb.Literal(s32s=[1])
    body = writer.computation(
        "body",
        ("s", "parameter", state, ()),
        ("i", "get-tuple-element", number, ("s",), {"tuple_index": 0}),
        ("a", "get-tuple-element", data, ("s",), {"tuple_index": 1}),
        ("b", "get-tuple-element", data, ("s",), {"tuple_index": 2}),
        ("one", "constant", number, ()),
        ("next", "add", number, ("i", "one")),
        ("new", "negate", data, ("a",)),
        ("*out", "tuple", state, ("next", *body_root)),
    )
    writer.proto.computations[-1].instructions[4].literal.CopyFrom(one)
    condition = writer.computation(
        "condition",
        ("t", "parameter", state, ()),
        ("j", "get-tuple-element", number, ("t",), {"tuple_index": 0}),
        ("limit", "constant", number, ()),
        (
            "*less",
            "compare",
            writer.shape(1),
            ("j", "limit"),
            {"comparison_direction": "LT"},
        ),
    )
    writer.proto.computations[-1].instructions[2].literal.s32s.append(limit)
    writer.computation(
        "main",
        ("x", "parameter", data, ()),
        ("zero", "constant", number, ()),
        ("y", "negate", data, ("x",)),
        ("start", "tuple", state, ("zero", "x", "y")),
        (
            "loop",
            "while",
            state,
            ("start",),
            {"called_computation_ids": [body, condition], "backend_config": config},
        ),
        ("*r", "get-tuple-element", data, ("loop",), {"tuple_index": 2}),
    )
    writer.proto.computations[-1].instructions[1].literal.s32s.append(0)
    return build(writer.module())


def test_condition_comes_first_then_body_then_the_while(writer) -> None:
    program = loop(writer, ("new", "b"))
    order = [i.name for i in program.instructions]
    assert order == (
        [
            "x",
            "zero",
            "y",
            "start",
            "t",
            "j",
            "limit",
            "less",
            "s",
            "i",
            "a",
            "b",
            "one",
            "next",
            "new",
            "out",
            "loop",
            "r",
        ]
    )
    assert [(r.kind, r.start, r.end, r.while_nest) for r in program.regions] == [
        ("entry", 0, 18, 0),
        ("condition", 4, 8, 1),
        ("body", 8, 16, 1),
    ]
    inside = program.instructions[program.times["new"]]
    assert (inside.while_nest, inside.trip_count) == (1, 10.0)


def test_what_a_loop_only_carries_is_one_value(writer) -> None:
    program = loop(writer, ("new", "b"))
    carried, changed = buffer_of(program, "y"), buffer_of(program, "x")
    assert [value.name for value in carried.values] == ["y"]
    assert uses(carried) == [
        "out, operand 2",
        "loop, operand 0 {2}",
        "r, operand 0 {2}",  # Returning it counts as a use.
    ]
    # The new value goes round: parameter, condition and result are phis.
    assert [(v.name, v.is_phi) for v in changed.values] == [
        ("x", False),
        ("t{1}", True),
        ("s{1}", True),
        ("new", False),
        ("loop{1}", True),
    ]
    assert changed is buffer_of(program, "new")
    assert carried.is_live_out and not changed.is_live_out


def test_swapped_elements_share_one_buffer_with_both_inputs(writer) -> None:
    program = loop(writer, ("b", "a"))
    assert buffer_of(program, "x") is buffer_of(program, "y")
    assert {
        value.name for value in buffer_of(program, "x").values if not value.is_phi
    } == {"x", "y"}


def test_trip_counts(new_writer) -> None:
    def trips(**arguments) -> float | None:
        program = loop(new_writer(), ("new", "b"), **arguments)
        return program.regions[2].own_trip_count

    assert trips(limit=7) == 7
    assert trips(limit=-7) == 0
    assert trips(config=b'{"known_trip_count":{"n":"42"}}') == 42
    assert trips(limit=7, config=b"no json") == 7
    assert trips(config=b'{"known_trip_count":{}}') is None
    assert trips(config=b'{"known_trip_count":{"n":"' + b"9" * 6000 + b'"}}') is None


def test_unknown_trip_count_counts_five(writer) -> None:
    program = loop(writer, ("new", "b"), config=b'{"known_trip_count":{}}')
    assert program.regions[2].trip_count == 5.0


def test_branches_share_the_result(writer) -> None:
    data = writer.shape(11, 8, 128)
    yes = writer.computation(
        "yes", ("p", "parameter", data, ()), ("*u", "negate", data, ("p",))
    )
    no = writer.computation(
        "no", ("q", "parameter", data, ()), ("*v", "copy", data, ("q",))
    )
    writer.computation(
        "main",
        ("c", "parameter", writer.shape(1), ()),
        ("x", "parameter", data, ()),
        (
            "*r",
            "conditional",
            data,
            ("c", "x", "x"),
            {"called_computation_ids": [yes, no]},
        ),
    )
    program = build(writer.module())
    assert [i.name for i in program.instructions] == ["c", "x", "p", "u", "q", "v", "r"]
    assert buffer_of(program, "u") is buffer_of(program, "v") is buffer_of(program, "r")
    assert buffer_of(program, "p") is buffer_of(program, "x")
    assert uses(buffer_of(program, "x")) == [
        "u, operand 0",
        "v, operand 0",
        "r, operand 1",
        "r, operand 2",
    ]


def test_in_place_updates_share_memory(writer) -> None:
    data, row, number = (
        writer.shape(11, 8, 128),
        writer.shape(11, 1, 128),
        writer.shape(S32),
    )
    fused = writer.computation(
        "fused",
        ("fx", "parameter", data, ()),
        ("fr", "parameter", row, ()),
        ("fi", "parameter", number, ()),
        ("fd", "dynamic-update-slice", data, ("fx", "fr", "fi", "fi")),
        ("*fb", "bitcast", data, ("fd",)),
        scheduled=False,
    )
    writer.computation(
        "main",
        ("x", "parameter", data, ()),
        ("r", "parameter", row, ()),
        ("i", "parameter", number, ()),
        ("y", "dynamic-update-slice", data, ("x", "r", "i", "i")),
        ("*z", "fusion", data, ("y", "r", "i"), {"called_computation_ids": [fused]}),
    )
    program = build(writer.module())
    assert buffer_of(program, "x") is buffer_of(program, "y") is buffer_of(program, "z")
    assert buffer_of(program, "r") is not buffer_of(program, "x")


def test_donated_arguments_and_results_share_memory(writer) -> None:
    data = writer.shape(11, 8, 128)
    writer.computation(
        "main", ("x", "parameter", data, ()), ("*y", "negate", data, ("x",))
    )
    writer.proto.input_output_alias.entries.add(parameter_number=0, kind=1)
    program = build(writer.module())
    (buffer,) = program.buffers
    assert buffer.is_parameter and buffer.is_live_out
    assert [value.live for value in buffer.values] == [(0, 1), (1, 2)]
    assert program.aliases[0].parameter == 0


def test_asynchronous_copies_pass_their_operand_on(writer) -> None:
    data = writer.shape(11, 8, 128)
    writer.computation(
        "main",
        ("x", "parameter", data, ()),
        ("s", "copy-start", writer.tuple_of(data, data, writer.shape(8)), ("x",)),
        ("d", "copy-done", data, ("s",)),
        ("*r", "negate", data, ("d",)),
    )
    program = build(writer.module())
    assert buffer_of(program, "s", (1,)) is buffer_of(program, "x")
    assert buffer_of(program, "d") is buffer_of(program, "s", (0,))
    assert uses(buffer_of(program, "d")) == ["d, operand 0 {0}", "r, operand 0"]


def test_an_asynchronous_computation_is_scheduled_before_its_start(writer) -> None:
    data, half = writer.shape(11, 8, 128), writer.shape(11, 4, 128)
    inner = writer.computation(
        "inner", ("p", "parameter", data, ()), ("*cut", "slice", half, ("p",))
    )
    state = writer.tuple_of(writer.tuple_of(data), half, writer.shape(8))
    writer.computation(
        "main",
        ("x", "parameter", data, ()),
        ("begin", "async-start", state, ("x",), {"called_computation_ids": [inner]}),
        ("other", "negate", data, ("x",)),
        ("end", "async-done", half, ("begin",)),
        ("*r", "negate", half, ("end",)),
    )
    program = build(writer.module())
    assert [i.name for i in program.instructions] == [
        "x",
        "p",
        "cut",
        "begin",
        "other",
        "end",
        "r",
    ]
    cut = buffer_of(program, "end")
    assert cut.name == "cut"
    assert cut.values[0].live == (3, 6)


def offload(writer, *arguments: str):
    """A start without operands, as SparseCore offloads have, whose update brings the arguments."""
    data, half, token = (
        writer.shape(11, 8, 128),
        writer.shape(11, 4, 128),
        writer.shape(17),
    )
    inner = writer.computation(
        "inner",
        ("p", "parameter", data, ()),
        ("q", "parameter", data, ()),
        ("*got", "custom-call", half, ("p", "q")),
    )
    empty = writer.tuple_of()
    given = writer.tuple_of(*[data for _ in arguments])
    writer.computation(
        "main",
        (
            "begin",
            "async-start",
            writer.tuple_of(empty, empty, token),
            (),
            {"called_computation_ids": [inner]},
        ),
        ("x", "parameter", data, ()),
        ("y", "negate", data, ("x",)),
        (
            "bind",
            "async-update",
            writer.tuple_of(given, half, token),
            ("begin", *arguments),
        ),
        ("other", "negate", data, ("y",)),
        ("end", "async-done", half, ("bind",)),
        ("*r", "negate", half, ("end",)),
    )


def test_an_offload_runs_where_its_arguments_are_bound(writer) -> None:
    offload(writer, "x", "y")
    program = build(writer.module())
    names = ["begin", "x", "y", "p", "q", "got", "bind", "other", "end", "r"]
    assert [i.name for i in program.instructions] == names
    assert buffer_of(program, "p") is buffer_of(program, "x")
    assert buffer_of(program, "bind", (0, 1)) is buffer_of(program, "y")
    assert buffer_of(program, "end").name == "got"
    assert buffer_of(program, "end").values[0].live[1] == 9
    # As libtpu 0.0.52 lists them for an offloaded gather on v6e.
    assert uses(buffer_of(program, "y")) == [
        "got, operand 1",
        "bind, operand 2",
        "other, operand 0",
        "end, operand 0 {0,1}",
    ]


def test_an_offload_with_too_few_arguments_is_refused(writer) -> None:
    offload(writer, "x")
    with pytest.raises(ModuleError, match=r"bind .*wrong number of arguments"):
        writer.module()


def test_reasons_to_stay_in_slow_memory(writer) -> None:
    data = writer.shape(11, 8, 128)
    fixed = writer.shape(11, 8, 128)
    fixed.layout.memory_space = 5
    writer.computation(
        "main",
        ("x", "parameter", data, ()),
        ("one", "constant", writer.shape(11, 1, 1), ()),
        ("f", "copy", fixed, ("x",)),
        ("t", "after-all", writer.shape(17), ()),
        ("*r", "tuple", writer.tuple_of(data, fixed), ("x", "f")),
    )
    program = build(writer.module())
    reasons = {buffer.name: buffer.never_fast_reason for buffer in program.buffers}
    assert reasons == {
        "x": None,
        "one": "a scalar",
        "f": "its memory space is fixed",
        "t": "not an array",
        "r{}": "pointers of a tuple",
    }


def test_live_ranges_of_one_buffer_follow_each_other() -> None:
    assert without_overlap([(0, 9), (4, 6), (20, 30)]) == [(0, 4), (4, 9), (20, 30)]
    assert without_overlap([(3, 8), (3, 5)]) == [(3, 8), (3, 3)]
    assert without_overlap([(0, 4), (4, 6)]) == [(0, 4), (4, 6)]


def test_the_heap_clock_counts_events(writer) -> None:
    data = writer.shape(11, 8, 128)
    writer.computation(
        "main",
        ("x", "parameter", data, ()),
        ("a", "negate", data, ("x",)),
        ("b", "negate", data, ("a",)),
        ("*c", "negate", data, ("b",)),
    )
    program = build(writer.module())
    # allocate x, a, b; free a; allocate c; free b; free x and c at the end.
    assert heap_intervals(program) == [(0, 6), (1, 3), (2, 5), (4, 7)]
