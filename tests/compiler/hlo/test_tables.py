"""Everything that the compiler's own tables say about times, buffers and uses."""

from functools import cache
from pathlib import Path

import pytest

from compiler.hlo import FormatError, UnreadableError, build, load, tables

GOLDEN = Path(__file__).parents[2] / "golden"
PROGRAMS = sorted(path.parent.name for path in GOLDEN.glob("*/scheduled.hlo.pb.gz"))


@cache
def compared(name: str) -> tables.Comparison:
    return tables.compare_dump(GOLDEN / name)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_tables_are_reproduced(name: str) -> None:
    result = compared(name)
    assert result.differences == ()
    assert result.schedule[0] == result.schedule[1] > 0
    assert result.buffers[0] == result.buffers[1] > 0


@pytest.mark.parametrize("name", PROGRAMS)
def test_buffers_left_out_are_prefetched_across_programs_or_too_large(
    name: str,
) -> None:
    folder = GOLDEN / name
    omitted = compared(name).omitted
    compiled = load(folder / "compiled.hlo.pb.gz")
    crossing = {
        node.operands[0].name
        for node in compiled.nodes()
        if node.attributes.HasField("cross_program_prefetch_index")
    }
    # The fast memory of the chip of the golden dumps, v5e.
    unexplained = [
        b.name for b in omitted if b.name not in crossing and b.size <= 128 << 20
    ]
    assert unexplained == []


@pytest.mark.parametrize("name", PROGRAMS)
def test_allocations_are_of_known_buffers_and_fit(name: str) -> None:
    rows = {
        row.buffer_id: row
        for row in tables.read_buffers(GOLDEN / name / "bufferinfo.csv.gz")
    }
    for allocation in tables.read_allocations(GOLDEN / name / "allocinfo.csv.gz"):
        assert allocation.start_time <= allocation.end_time
        if allocation.buffer_id in rows:  # Cross-program prefetches have no row.
            assert allocation.size <= rows[allocation.buffer_id].size


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_compiled_module_can_be_built_too(name: str) -> None:
    program = build(load(GOLDEN / name / "compiled.hlo.pb.gz"))
    assert len(program.times) == len(program.instructions)
    for value in program.values:
        assert program.buffers[value.buffer].values.count(value) == 1
        assert value.live[0] <= value.live[1]


def test_unusable_tables_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bufferinfo.csv"
    with pytest.raises(UnreadableError):
        tables.read_buffers(path)
    for data in (b"a,b\n1,2\n", b"\x1f\x8bnonsense", b"\xff\xfe", b"buffer_id\nx\n"):
        path.write_bytes(data)
        with pytest.raises(FormatError):
            tables.read_buffers(path)
        with pytest.raises(FormatError):
            tables.read_allocations(path)


def test_the_command_prints_shares_and_fails_with_the_status(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert tables.main([str(GOLDEN / "mlp")]) == 0
    assert "schedule 10/10, buffers 9/9" in capsys.readouterr().out
    assert tables.main([str(tmp_path)]) == 3
    assert "no file" in capsys.readouterr().err


def test_differences_are_reported() -> None:
    program = build(load(GOLDEN / "mlp" / "scheduled.hlo.pb.gz"))
    rows = tables.read_buffers(GOLDEN / "mlp" / "bufferinfo.csv.gz")
    rows[0] = rows[0]._replace(size=1, definition_time=99)
    rows[1] = rows[1]._replace(name="nobody")
    result = tables.compare(program, rows, ["first"])
    assert result.buffers == (len(rows) - 2, len(rows))
    assert result.schedule[0] < result.schedule[1]
    assert len(result.differences) == 5
