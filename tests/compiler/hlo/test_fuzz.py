"""Damaged files: each loads and builds, or is refused with an `InputError`."""

import gzip
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.hlo import InputError, Module, build
from compiler.hlo import hlo_pb2 as pb
from compiler.hlo.checks import check
from compiler.hlo.intervals import heap_intervals
from compiler.hlo.load import parse

GOLDEN = Path(__file__).parents[2] / "golden"
SOURCES = ("mlp", "lstm_scan", "deblur_while")
NUMBERS = (0, 1, -1, 2, 7, 127, 2**31 - 1, 2**40, 2**62, -(2**62), 2**63 - 1, -(2**63))
OPCODES = (
    "all-gather-start",
    "all-reduce-done",
    "async-done",
    "async-start",
    "bitcast",
    "call",
    "conditional",
    "convolution",
    "copy-done",
    "copy-start",
    "custom-call",
    "dynamic-update-slice",
    "fusion",
    "gather",
    "get-tuple-element",
    "parameter",
    "recv-done",
    "reduce",
    "scatter",
    "sort",
    "tuple",
    "while",
)
CONFIGS = (
    b"{",
    b"\xff\x00",
    b'{"known_trip_count":{"n":"99999999999999999999999999"}}',
    b'{"known_trip_count":[1]}',
    b'{"a":' * 3000,
)

_fuzz = settings(
    deadline=None,
    derandomize=True,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def use(data: bytes) -> Module | None:
    """Everything that is done with a file; only an `InputError` may come out."""
    try:
        module = check(parse(data), "fuzz")
    except InputError as error:
        assert "\n" not in str(error)
        return None
    program = build(module)
    assert len(heap_intervals(program)) == len(program.buffers)
    return module


@pytest.fixture(scope="module")
def sources() -> list[bytes]:
    return [
        gzip.decompress((GOLDEN / name / "scheduled.hlo.pb.gz").read_bytes())
        for name in SOURCES
    ]


_source = st.integers(0, len(SOURCES) - 1)
_place = st.integers(0, 2**32)
_edits = st.lists(
    st.tuples(
        st.sampled_from(("set", "insert", "delete", "cut")),
        _place,
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)


@_fuzz
@given(source=_source, edits=_edits)
def test_damaged_bytes(sources: list[bytes], source: int, edits: list) -> None:
    content = bytearray(sources[source])
    for kind, place, new in edits:
        place %= len(content) + 1
        if kind == "set":
            content[place : place + len(new)] = new
        elif kind == "insert":
            content[place:place] = new
        elif kind == "delete":
            del content[place : place + len(new)]
        else:
            del content[place:]
    use(bytes(content))


_changes = st.lists(
    st.tuples(st.integers(0, 9), _place, _place, _place, st.sampled_from(NUMBERS)),
    min_size=1,
    max_size=4,
)


@_fuzz
@given(source=_source, changes=_changes)
def test_damaged_messages(sources: list[bytes], source: int, changes: list) -> None:
    """Messages that parse, but say something that no compiler would."""
    module = parse(sources[source])
    for change in changes:
        _damage(module, *change)
    use(module.SerializeToString())


def _damage(module: pb.Module, kind: int, a: int, b: int, c: int, number: int) -> None:
    computation = module.computations[a % len(module.computations)]
    node = computation.instructions[b % len(computation.instructions)]
    other = computation.instructions[c % len(computation.instructions)]
    match kind:
        case 0:
            node.opcode = OPCODES[c % len(OPCODES)]
        case 1 if node.operand_ids:
            node.operand_ids[a % len(node.operand_ids)] = other.id
        case 2:
            del node.operand_ids[: 1 + c % 3]
        case 3:
            node.shape.CopyFrom(other.shape)
        case 4 if node.shape.dimensions:
            node.shape.dimensions[0] = number
        case 5:
            node.shape.layout.tiles.add(dimensions=[number, NUMBERS[c % len(NUMBERS)]])
        case 6:
            node.backend_config = CONFIGS[c % len(CONFIGS)]
        case 7:
            called = module.computations[c % len(module.computations)]
            node.called_computation_ids.append(called.id)
        case 8:
            node.tuple_index = node.parameter_number = number
        case 9:
            module.input_output_alias.entries.add(
                output_shape_index=[number], parameter_number=c % 4
            )
