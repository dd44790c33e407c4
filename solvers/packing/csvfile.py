"""MiniMalloc's CSV files: `id,lower,upper,size`, optionally `alignment`, `gaps`, `hint`, `offset`.

Columns come in any order. Lives are half-open; an older header with `end` instead of `upper` has
the last time inclusive. `gaps` holds ranges of times `LOWER-UPPER`, with blanks between them, in
which others may lie there; `LOWER-UPPER@A:B` keeps bytes `[A, B)` of the buffer taken. An `offset`
says where a buffer must lie, a `hint` where it may; both may be empty.
"""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import NoReturn

from solvers.command import Failure
from solvers.packing.problem import Buffer, Part

_NAMES = {
    "id": ("id", "buffer", "buffer_id"),
    "lower": ("lower", "start", "begin"),
    "upper": ("upper", "end"),
    "size": ("size",),
    "alignment": ("alignment",),
    "gaps": ("gaps",),
    "hint": ("hint",),
    "offset": ("offset",),
}
_REQUIRED = ("id", "lower", "upper", "size")
_LARGEST = 2**60  # Sums of sizes must fit an int64.


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """A file that was read.

    Attributes:
        header: its columns.
        rows: its cells, one row per buffer.
        buffers: what they say.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    buffers: tuple[Buffer, ...]


def read(data: bytes, where: str) -> Table:
    """Returns the content of a file.

    Args:
        data: the file.
        where: its name, for messages.

    Raises:
        Failure: status 4, in one line that names the row.
    """
    try:
        text = data.decode("utf-8-sig")
        lines = [row for row in csv.reader(io.StringIO(text), strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        _refuse(f"{where} is not a CSV file: {error}")
    if not lines:
        _refuse(f"{where} is empty: its first line must be id,lower,upper,size")
    header, rows = tuple(cell.strip() for cell in lines[0]), lines[1:]
    columns = _columns(header, where)
    inclusive = header[columns["upper"]] == "end"
    seen: set[str] = set()
    buffers = []
    for number, row in enumerate(rows, 2):
        place = f"{where}, line {number}"
        if len(row) != len(header):
            _refuse(f"{place}: {len(row)} cells, but the header has {len(header)}")
        cells = {name: row[at].strip() for name, at in columns.items()}
        buffer = _buffer(cells, inclusive, place)
        if buffer.id in seen:
            _refuse(f"{place}: a second buffer called {buffer.id!r}")
        seen.add(buffer.id)
        buffers.append(buffer)
    ends = [b.size + (b.offset or 0) + b.alignment for b in buffers]
    if sum(ends) > _LARGEST:
        _refuse(f"{where}: the sizes add up to more than 2**60 bytes")
    return Table(header, tuple(tuple(row) for row in rows), tuple(buffers))


def write(table: Table, offsets: Sequence[int]) -> str:
    """Returns the file with the offsets of a packing in its `offset` column."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    known = "offset" in table.header
    at = table.header.index("offset") if known else len(table.header)
    writer.writerow([*table.header[:at], "offset", *table.header[at + 1 :]])
    for row, offset in zip(table.rows, offsets, strict=True):
        writer.writerow([*row[:at], int(offset), *row[at + 1 :]])
    return text.getvalue()


def text_of(buffers: Sequence[Buffer]) -> str:
    """Returns buffers of one size each as a file."""
    rows = ["id,lower,upper,size,alignment"]
    for b in buffers:
        if any(part.size != b.size or part.base for part in b.parts):
            raise ValueError(f"{b.id} changes its size, which the format can't say")
    rows += [f"{b.id},{b.lower},{b.upper},{b.size},{b.alignment}" for b in buffers]
    return "\n".join(rows) + "\n"


def _columns(header: Sequence[str], where: str) -> dict[str, int]:
    columns: dict[str, int] = {}
    for name, spellings in _NAMES.items():
        found = [at for at, cell in enumerate(header) if cell in spellings]
        if len(found) > 1:
            _refuse(f"{where}: two columns say {name}")
        if found:
            columns[name] = found[0]
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        _refuse(
            f"{where}: no column {', '.join(missing)}; its first line must name "
            "id,lower,upper,size"
        )
    return columns


def _buffer(cells: Mapping[str, str], inclusive: bool, place: str) -> Buffer:
    def number(name: str) -> int:
        return _integer(cells[name], name, place)

    def optional(name: str) -> int | None:
        return number(name) if cells.get(name) else None

    lower, upper, size = number("lower"), number("upper") + inclusive, number("size")
    alignment = 1 if (given := optional("alignment")) is None else given
    offset = optional("offset")
    if not cells["id"]:
        _refuse(f"{place}: the id is empty")
    if lower >= upper:
        _refuse(f"{place}: the life from {lower} to {cells['upper']} is empty")
    if size < 1:
        _refuse(f"{place}: size must be at least 1, not {size}")
    if alignment < 1:
        _refuse(f"{place}: alignment must be at least 1, not {alignment}")
    if offset is not None and (offset < 0 or offset % alignment):
        _refuse(f"{place}: offset {offset} is no multiple of alignment {alignment}")
    gaps = cells.get("gaps", "").split()
    parts = _parts(lower, upper, size, [_gap(g, inclusive, place) for g in gaps], place)
    return Buffer(cells["id"], parts, alignment, offset, optional("hint"))


def _gap(text: str, inclusive: bool, place: str) -> Part:
    """Returns the gap as the part that stays taken in it, of size 0 if none does."""
    times, _, window = text.partition("@")
    bounds = times.split("-")
    bytes_ = window.split(":") if window else ["0", "0"]
    if len(bounds) != 2 or len(bytes_) != 2:
        _refuse(f"{place}: gap {text!r} is not LOWER-UPPER or LOWER-UPPER@A:B")
    lower, upper = (_integer(b, "gaps", place) for b in bounds)
    base, size = (_integer(b, "gaps", place) for b in bytes_)
    return Part(lower, upper + inclusive, size, base)


def _parts(
    lower: int, upper: int, size: int, gaps: Sequence[Part], place: str
) -> tuple[Part, ...]:
    """Returns the life without its gaps."""
    parts, time = [], lower
    for gap in sorted(gaps):
        if not time <= gap.lower < gap.upper <= upper:
            _refuse(
                f"{place}: gap {gap.lower}-{gap.upper} is empty, overlaps another or "
                "leaves the life"
            )
        if not 0 <= gap.base <= gap.size <= size:
            _refuse(f"{place}: bytes {gap.base}:{gap.size} leave the buffer")
        if time < gap.lower:
            parts.append(Part(time, gap.lower, size))
        if gap.base < gap.size:
            parts.append(gap)
        time = gap.upper
    if time < upper:
        parts.append(Part(time, upper, size))
    if not parts:
        _refuse(f"{place}: the gaps leave nothing of the buffer")
    return tuple(parts)


def _integer(text: str, name: str, place: str) -> int:
    try:
        value = int(text)
    except ValueError:
        _refuse(f"{place}: {name} {text!r} is not a whole number")
    if abs(value) > _LARGEST:
        _refuse(f"{place}: {name} {text} is too large")
    return value


def _refuse(message: str) -> NoReturn:
    raise Failure("bad_csv", message)
