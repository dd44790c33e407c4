"""XLA's own buffer assignment as we read it, against the compilers' own memory statistics."""

import gzip
import json
from pathlib import Path

import pytest

from compiler.hlo.buffers import (
    DEVICE,
    FormatError,
    Part,
    Rectangle,
    UnreadableError,
    live_peak,
    load_buffers,
    parse_buffers,
    rectangles,
    table_bytes,
)

GOLDEN = Path(__file__).parents[2] / "mallocgame" / "offload" / "golden"
MEMORY = json.loads((GOLDEN / "memory.json").read_text())
FILES = sorted(MEMORY)


@pytest.mark.parametrize("name", FILES)
def test_sizes_are_those_of_memory_analysis(name: str) -> None:
    found, said = load_buffers(GOLDEN / name), MEMORY[name]
    temporaries = found.bytes_of("temporary")
    assert temporaries == said["temp"]
    # XLA counts donated arguments as arguments and as results.
    assert found.bytes_of("argument") == said["argument"]
    assert found.bytes_of("output") == said["output"] - said["alias"]


@pytest.mark.parametrize("name", FILES)
def test_xla_packed_without_overlaps(name: str) -> None:
    """If live ranges were read wrongly, buffers that XLA put into one place would seem to overlap."""
    for allocation in load_buffers(GOLDEN / name).packed:
        assert allocation.space == DEVICE
        found = rectangles(allocation)
        assert len(found) > 100
        for number, a in enumerate(found):
            for b in found[:number]:
                apart = a.offset + a.size <= b.offset or b.offset + b.size <= a.offset
                assert apart or not any(
                    p.start < q.end and q.start < p.end
                    for p in a.parts
                    for q in b.parts
                    if a.offset < b.offset + q.size and b.offset < a.offset + p.size
                ), (a.names, b.names)


@pytest.mark.parametrize("name", FILES)
def test_no_heap_is_below_what_is_alive(name: str) -> None:
    for allocation in load_buffers(GOLDEN / name).packed:
        found = rectangles(allocation)
        top = allocation.size - table_bytes(allocation)
        assert live_peak(found) <= top <= allocation.size
        assert all(r.offset + r.size <= top for r in found)


def test_level_counts_each_part_only_while_it_is_there() -> None:
    packed = [
        Rectangle(0, ("a",), (Part(0, 2, 10), Part(6, 8, 4))),
        Rectangle(0, ("b",), (Part(2, 6, 12),)),
        Rectangle(12, ("c",), (Part(1, 7, 1),)),
    ]
    assert live_peak(packed) == 13
    assert live_peak([]) == 0
    assert packed[0].size == 10
    assert packed[0].live == (0, 8)


def test_errors_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="nowhere"):
        load_buffers(tmp_path / "nowhere.hlo.pb")
    with pytest.raises(FormatError, match="not a serialized HloProto"):
        parse_buffers(b"\xff\xd8\xff\xe0 a photo")
    with pytest.raises(FormatError, match="not a serialized HloProto"):
        parse_buffers(gzip.compress(b"x" * 100)[:-9])
    tpu = Path(__file__).parents[2] / "golden" / "mlp" / "scheduled.hlo.pb.gz"
    with pytest.raises(FormatError, match="no buffer assignment"):
        load_buffers(tpu)
