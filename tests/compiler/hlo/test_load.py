"""Whatever a user hands over: a module, or one clear line about what is wrong."""

import gzip
import time
from pathlib import Path

import pytest

from compiler.hlo import (
    FormatError,
    InputError,
    ModuleError,
    UnreadableError,
    UnscheduledError,
    build,
    load,
)
from compiler.hlo import hlo_pb2 as pb

GOLDEN = Path(__file__).parents[2] / "golden"
MLP = GOLDEN / "mlp" / "scheduled.hlo.pb.gz"


@pytest.fixture(scope="module")
def content() -> bytes:
    return gzip.decompress(MLP.read_bytes())


def test_the_form_is_told_from_the_content(tmp_path: Path, content: bytes) -> None:
    bare = pb.File.FromString(content).hlo_module.SerializeToString()
    forms = [content, bare, gzip.compress(content), gzip.compress(bare)]
    names = set()
    for form in forms:
        path = tmp_path / "anything.txt"
        path.write_bytes(form)
        names.add(tuple(node.name for node in load(path).nodes()))
    assert len(names) == 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(200), "not a protobuf"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "truncated|not"),
        (b"hello world\n" * 20, "text file"),
        (b"HloModule jit_f, is_scheduled=true\n\nENTRY main {", "HLO text"),
        ("Grüße, dies ist Text".encode(), "not"),
        (bytes(1000), "not a protobuf"),
        (b"\x1f\x8b" + bytes(50), "gzip"),
        (gzip.compress(b"text", mtime=0), "text file"),
        (gzip.compress(b"", mtime=0), "empty"),
        (b"\x0a\x02\x0a\x00", "not a serialized"),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "input.pb"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=says) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 4


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files(tmp_path: Path, content: bytes, share: float) -> None:
    for data in (content, gzip.compress(content)):
        path = tmp_path / "cut.hlo.pb"
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(InputError):
            load(path)


def test_unreadable(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path, "a\0b", tmp_path / ("x" * 5000)):
        with pytest.raises(UnreadableError) as caught:
            load(path)
        assert caught.value.exit_status == 3


def test_a_huge_file_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "huge.hlo.pb"
    with path.open("wb") as file:
        file.truncate(2 << 30)
    start = time.monotonic()
    with pytest.raises(FormatError, match="limit"):
        load(path)
    assert time.monotonic() - start < 0.5


def test_a_module_without_schedule(tmp_path: Path) -> None:
    with pytest.raises(UnscheduledError, match="schedul"):
        load(GOLDEN / "mlp" / "before_optimizations.hlo.pb.gz")


def test_an_empty_array_is_legal_and_never_fast(writer) -> None:
    empty = writer.shape(11, 0, 4)
    writer.computation(
        "main", ("p", "parameter", empty, ()), ("*r", "negate", empty, ("p",))
    )
    program = build(writer.module())
    assert [buffer.never_fast_reason for buffer in program.buffers] == [
        "empty",
        "empty",
    ]


# ---- Contradictions inside a module -----------------------------------------------


def _drop_entry(module: pb.Module) -> None:
    module.entry_computation_id = 12345


def _dangling_operand(module: pb.Module) -> None:
    module.computations[-1].instructions[-1].operand_ids.append(7)


def _self_operand(module: pb.Module) -> None:
    node = module.computations[-1].instructions[-1]
    node.operand_ids[0] = node.id


def _dangling_callee(module: pb.Module) -> None:
    node = next(n for n in module.computations[-1].instructions if n.opcode == "fusion")
    node.called_computation_ids[0] = 999


def _recursion(module: pb.Module) -> None:
    entry = module.computations[-1]
    node = next(n for n in entry.instructions if n.opcode == "fusion")
    node.called_computation_ids[0] = entry.id


def _no_root(module: pb.Module) -> None:
    module.computations[-1].root_id = 424242


def _twice(module: pb.Module) -> None:
    module.computations[-1].instructions.add().CopyFrom(
        module.computations[-1].instructions[0]
    )


def _short_schedule(module: pb.Module) -> None:
    del module.schedule.sequences[module.entry_computation_id].instruction_ids[0]


def _wrong_order(module: pb.Module) -> None:
    ids = module.schedule.sequences[module.entry_computation_id].instruction_ids
    ids[:] = list(ids)[::-1]


def _unknown_type(module: pb.Module) -> None:
    module.computations[-1].instructions[0].shape.element_type = 200


def _too_large(module: pb.Module) -> None:
    module.computations[-1].instructions[0].shape.dimensions[:] = [2**40, 2**40]


def _bad_alias(module: pb.Module) -> None:
    module.input_output_alias.entries.add(parameter_number=77)


@pytest.mark.parametrize(
    "damage",
    [
        _drop_entry,
        _dangling_operand,
        _self_operand,
        _dangling_callee,
        _recursion,
        _no_root,
        _twice,
        _short_schedule,
        _wrong_order,
        _unknown_type,
        _too_large,
        _bad_alias,
    ],
)
def test_contradictions_are_named(tmp_path: Path, content: bytes, damage) -> None:
    module = pb.File.FromString(content).hlo_module
    damage(module)
    path = tmp_path / "bad.hlo.pb"
    path.write_bytes(module.SerializeToString())
    with pytest.raises(ModuleError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
