"""The tables that the TPU compiler writes about its own memory mapping.

Memory-space assignment can dump three CSV files per module (see the docs of
the dump flags): buffers, allocations and the schedule. They are the truth that
`compiler.hlo` is checked against:

    python -m compiler.hlo.tables DUMP_DIR...

prints for each dump which share of the tables is reproduced, and every
difference.
"""

import csv
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from compiler.hlo.build import build
from compiler.hlo.errors import FormatError, InputError, UnreadableError
from compiler.hlo.load import load
from compiler.hlo.program import Buffer, Program

Row = TypeVar("Row")
_BAD_TABLE = (
    OSError,  # Damaged gzip header.
    EOFError,
    zlib.error,
    csv.Error,
    ValueError,
    LookupError,
    AttributeError,  # A missing field is None.
    TypeError,
)


class BufferRow(NamedTuple):
    """One row of `bufferinfo`: a buffer that was considered for fast memory.

    Rows are in the order in which the compiler treats the buffers. `benefit`
    is seconds per square root of a byte.
    """

    buffer_id: int
    name: str
    benefit: float
    size: int
    definition_time: int
    use_times: tuple[int, ...]
    use_names: tuple[str, ...]


class AllocationRow(NamedTuple):
    """One row of `allocinfo`: bytes of fast memory for a closed time interval."""

    buffer_id: int
    size: int
    offset: int
    start_time: int
    end_time: int


def read_buffers(path: Path) -> list[BufferRow]:
    """Reads a `bufferinfo` table, gzipped or not.

    Raises:
        InputError: the file cannot be read or is no such table.
    """
    return _read(path, _buffer_row)


def read_allocations(path: Path) -> list[AllocationRow]:
    """Reads an `allocinfo` table; errors as in `read_buffers`."""
    return _read(
        path,
        lambda row: AllocationRow(
            *(int(row[field]) for field in AllocationRow._fields)
        ),
    )


def read_schedule(path: Path) -> list[str]:
    """Reads a `scheduleinfo` table: names by time; errors as in `read_buffers`."""
    return _read(path, lambda row: row["instruction_name"])


def _buffer_row(row: dict[str, str]) -> BufferRow:
    return BufferRow(
        buffer_id=int(row["buffer_id"]),
        name=row["buffer_name"].strip("<>").split(" ")[1],
        benefit=float(row["alt_mem_benefit"]),
        size=int(row["size"]),
        definition_time=int(row["definition_time"]),
        use_times=tuple(map(int, filter(None, row["use_times"].split(";")))),
        use_names=tuple(filter(None, row["use_names"].split(";"))),
    )


def _read(path: Path, convert: Callable[[dict[str, str]], Row]) -> list[Row]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror or error}") from error
    try:
        text = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
        rows = csv.DictReader(io.StringIO(text.decode()))
        return [convert(row) for row in rows]
    except _BAD_TABLE as error:
        raise FormatError(
            f"{path}: not one of the compiler's tables ({error!r})"
        ) from error


# ---- Comparison -------------------------------------------------------------


class Comparison(NamedTuple):
    """What of the tables a program reproduces.

    Attributes:
        schedule: times with the same instruction, and all times.
        buffers: rows reproduced in every column but the benefit, and all rows.
        differences: one line for each difference.
        omitted: buffers that the program has and the table has not, although
            nothing seems to keep them from fast memory.
    """

    schedule: tuple[int, int]
    buffers: tuple[int, int]
    differences: tuple[str, ...]
    omitted: tuple[Buffer, ...]


def compare(
    program: Program, rows: Sequence[BufferRow], schedule: Sequence[str]
) -> Comparison:
    """Compares a program with the compiler's tables."""
    names = [instruction.name for instruction in program.instructions]
    differences = [
        f"time {t}: {a} is {b} in the table"
        for t, (a, b) in enumerate(zip(names, schedule))
        if a != b
    ]
    same = sum(a == b for a, b in zip(names, schedule))
    if len(names) != len(schedule):
        differences.append(f"{len(names)} instructions, {len(schedule)} in the table")
    ours = {buffer.name: buffer for buffer in program.buffers}
    reproduced, listed = 0, set()
    for row in rows:
        buffer = ours.get(row.name)
        listed.add(row.name)
        found = list(_differences(row, buffer))
        reproduced += not found
        differences += [f"buffer {row.name}: {difference}" for difference in found]
    omitted = tuple(
        b
        for b in program.buffers
        if b.name not in listed and b.never_fast_reason is None
    )
    return Comparison(
        (same, max(len(names), len(schedule))),
        (reproduced, len(rows)),
        tuple(differences),
        omitted,
    )


def _differences(row: BufferRow, buffer: Buffer | None) -> Iterator[str]:
    if buffer is None:
        yield "is missing"
        return
    if buffer.never_fast_reason is not None:
        yield f"held to be never fast: {buffer.never_fast_reason}"
    if buffer.size != row.size:
        yield f"size {buffer.size}, {row.size} in the table"
    if buffer.definition_time != row.definition_time:
        yield f"defined at {buffer.definition_time}, {row.definition_time} in the table"
    uses = tuple((use.time, str(use)) for use in buffer.uses)
    expected = tuple(zip(row.use_times, row.use_names, strict=True))
    if uses != expected:
        yield f"more uses: {sorted(set(uses) - set(expected))}; fewer: {sorted(set(expected) - set(uses))}"


# What the files of a dump are called: as the compiler writes them, and shorter.
_SCHEDULED = ("scheduled.hlo.pb*", "*before_buffer_assignment.hlo.pb*")
_TABLES = "**/*{}*"


def find(directory: Path, *patterns: str) -> Path:
    """Returns the first file of a folder that matches one of the patterns.

    Raises:
        UnreadableError: there is none.
    """
    for pattern in patterns:
        for path in sorted(directory.glob(pattern)):
            return path
    raise UnreadableError(f"{directory}: no file {' or '.join(patterns)}")


def compare_dump(directory: Path) -> Comparison:
    """Compares the program in a dump folder with the tables beside it.

    Raises:
        InputError: a file is missing or cannot be used.
    """
    program = build(load(find(directory, *_SCHEDULED)))
    rows = read_buffers(find(directory, _TABLES.format("bufferinfo")))
    return compare(
        program, rows, read_schedule(find(directory, _TABLES.format("scheduleinfo")))
    )


def main(arguments: Sequence[str]) -> int:
    """Compares each dump folder named and prints what is reproduced."""
    for argument in arguments:
        try:
            result = compare_dump(Path(argument))
        except InputError as error:
            print(error, file=sys.stderr)
            return error.exit_status
        print(
            f"{argument}: schedule {result.schedule[0]}/{result.schedule[1]}, "
            f"buffers {result.buffers[0]}/{result.buffers[1]}"
        )
        for difference in result.differences:
            print(f"  {difference}")
        for buffer in result.omitted:
            print(f"  not in the table: {buffer.name}, {buffer.size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
