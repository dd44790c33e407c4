"""XLA's buffer assignment: which buffer lies at which offset of which allocation, and when.

XLA:GPU and XLA:CPU dump it inside the `HloProto` of the optimised module. (libtpu packs HBM in the
same way and dumps it in `after_optimizations_after_buffer_assignment`.) The heap simulator's trace
gives live ranges on its own clock, one tick per allocation or release, which is all that a packing
depends on:

    python -m compiler.hlo.buffers FILE...

prints allocations and peaks.
"""

import dataclasses
import gzip
import itertools
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError

from compiler.hlo import hlo_pb2 as pb
from compiler.hlo.errors import FormatError, InputError, UnreadableError
from compiler.hlo.shapes import ShapeIndex

DEVICE, HOST = 0, 5  # Memory spaces, XLA's "colors".


@dataclasses.dataclass(frozen=True, slots=True)
class Assigned:
    """One buffer in an allocation.

    Attributes:
        id: XLA's number of the logical buffer.
        name: of the defining instruction.
        index: where in its result.
        offset: bytes from the start of the allocation.
        size: bytes.
        live: half-open range of ticks of the heap simulator, or None where it was not simulated.
        sharing: number of the buffer whose memory this one takes over, itself if it has its own.
    """

    id: int
    name: str
    index: ShapeIndex
    offset: int
    size: int
    live: tuple[int, int] | None
    sharing: int


@dataclasses.dataclass(frozen=True, slots=True)
class Allocation:
    """One piece of memory that the program asks for. Bytes.

    Attributes:
        number: XLA's index.
        kind: `"argument"`, `"output"`, `"constant"`, `"local"` (of one thread) or `"temporary"`.
        parameter: number and index of the argument that it holds, or None.
        is_output: whether a result of the program is in it; true of a donated argument as well.
        space: memory space, `DEVICE` or `HOST`.
        size: bytes.
        buffers: what lies in it.
    """

    number: int
    kind: str
    parameter: tuple[int, ShapeIndex] | None
    is_output: bool
    space: int
    size: int
    buffers: tuple[Assigned, ...]

    @property
    def is_packed(self) -> bool:
        """Whether its buffers were packed by the heap simulator, live ranges known."""
        return self.kind == "temporary" and any(b.live for b in self.buffers)


class Part(NamedTuple):
    """A half-open range of ticks in which a rectangle takes `size` bytes."""

    start: int
    end: int
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class Rectangle:
    """Buffers that share one place in a packed allocation.

    Attributes:
        offset: where XLA put it, bytes.
        names: of the instructions that define the buffers.
        parts: when it takes how much, by time, not overlapping. Between two parts other buffers may
            lie there.
    """

    offset: int
    names: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Bytes, at most."""
        return max(part.size for part in self.parts)

    @property
    def live(self) -> tuple[int, int]:
        """Half-open range of ticks from the first part to the last."""
        return self.parts[0].start, self.parts[-1].end


@dataclasses.dataclass(frozen=True)
class BufferAssignment:
    """All allocations of a compiled program, in XLA's order."""

    allocations: tuple[Allocation, ...]

    def bytes_of(self, kind: str, space: int = DEVICE) -> int:
        """Bytes of all allocations of a kind in a memory space."""
        return sum(
            a.size for a in self.allocations if (a.kind, a.space) == (kind, space)
        )

    def peak(self, space: int = DEVICE) -> int:
        """Bytes that the program needs in a memory space, thread-local scratch aside."""
        return sum(
            a.size for a in self.allocations if a.kind != "local" and a.space == space
        )

    @cached_property
    def packed(self) -> tuple[Allocation, ...]:
        """The allocations that hold many buffers by offset."""
        return tuple(a for a in self.allocations if a.is_packed)


def rectangles(allocation: Allocation) -> list[Rectangle]:
    """Returns what was packed into an allocation, buffers that share memory as one."""
    groups: dict[int, list[Assigned]] = {}
    for buffer in allocation.buffers:
        if buffer.live is not None and buffer.size:
            groups.setdefault(buffer.sharing, []).append(buffer)
    return [
        Rectangle(
            offset=min(b.offset for b in group),
            names=tuple(b.name for b in group),
            parts=_parts([Part(*b.live, b.size) for b in group if b.live]),
        )
        for group in groups.values()
    ]


def table_bytes(allocation: Allocation) -> int:
    """Returns the bytes behind the heap's top: tables of pointers, which XLA does not pack."""
    top = max((r.offset + r.size for r in rectangles(allocation)), default=0)
    return allocation.size - top


def live_peak(packed: Iterable[Rectangle]) -> int:
    """Returns the largest sum of sizes alive at once: no packing needs less. Bytes."""
    change: dict[int, int] = {}
    for part in itertools.chain.from_iterable(r.parts for r in packed):
        change[part.start] = change.get(part.start, 0) + part.size
        change[part.end] = change.get(part.end, 0) - part.size
    levels = itertools.accumulate(change[tick] for tick in sorted(change))
    return max(levels, default=0)


def _parts(given: Sequence[Part]) -> tuple[Part, ...]:
    """Returns the largest of the given sizes at each tick; neighbours of one size are one part."""
    ticks = sorted({tick for part in given for tick in part[:2]})
    found: list[Part] = []
    for start, end in itertools.pairwise(ticks):
        size = max((p.size for p in given if p.start <= start < p.end), default=0)
        if found and found[-1].end == start and found[-1].size == size:
            found[-1] = found[-1]._replace(end=end)
        elif size:
            found.append(Part(start, end, size))
    return tuple(found)


def load_buffers(path: Path | str) -> BufferAssignment:
    """Reads the buffer assignment in a dumped `*after_optimizations.hlo.pb`, gzipped or not.

    Raises:
        UnreadableError: the file cannot be read.
        FormatError: it is no `HloProto`, or has no buffer assignment in it.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableError(f"{path}: {error.strerror or error}") from error
    return parse_buffers(data, str(path))


def parse_buffers(data: bytes, where: str = "<bytes>") -> BufferAssignment:
    """Returns the buffer assignment in the content of a file; errors as `load_buffers`."""
    try:
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
        file = pb.File.FromString(data)
    except (OSError, EOFError, zlib.error, DecodeError) as error:
        raise FormatError(f"{where}: not a serialized HloProto") from error
    if not file.buffer_assignment.buffer_allocations:
        raise FormatError(
            f"{where}: no buffer assignment in it; XLA:GPU and XLA:CPU write it to "
            "*after_optimizations.hlo.pb"
        )
    return _read(file, where)


def _read(file: pb.File, where: str) -> BufferAssignment:
    proto = file.buffer_assignment
    names = {i.id: i.name for c in file.hlo_module.computations for i in c.instructions}
    logical = {b.id: b for b in proto.logical_buffers}
    live: dict[int, tuple[int, int]] = {}
    shared: dict[int, int] = {}
    for trace in proto.heap_simulator_traces:
        found, taken = _replay(trace, where)
        live |= found
        shared |= taken

    def assigned(entry: pb.BufferAllocation.Assigned) -> Assigned:
        buffer = logical.get(entry.logical_buffer_id)
        if buffer is None:
            raise FormatError(
                f"{where}: buffer {entry.logical_buffer_id} is assigned but not defined"
            )
        return Assigned(
            id=buffer.id,
            name=names.get(buffer.defined_at.instruction_id, f"buffer {buffer.id}"),
            index=tuple(buffer.defined_at.shape_index),
            offset=entry.offset,
            size=entry.size,
            live=live.get(buffer.id),
            sharing=shared.get(buffer.id, buffer.id),
        )

    return BufferAssignment(
        tuple(
            Allocation(
                number=a.index,
                kind=_kind(a),
                parameter=(a.parameter_number, tuple(a.parameter_shape_index))
                if a.is_entry_computation_parameter
                else None,
                is_output=a.maybe_live_out,
                space=a.color,
                size=a.size,
                buffers=tuple(map(assigned, a.assigned)),
            )
            for a in proto.buffer_allocations
        )
    )


def _kind(allocation: pb.BufferAllocation) -> str:
    if allocation.is_entry_computation_parameter:
        return "argument"
    if allocation.is_constant:
        return "constant"
    if allocation.is_thread_local:
        return "local"
    return "output" if allocation.maybe_live_out else "temporary"


def _replay(
    trace: pb.HeapSimulatorTrace, where: str
) -> tuple[dict[int, tuple[int, int]], Mapping[int, int]]:
    """Returns live ranges by buffer and, for buffers that share memory, with which."""
    start: dict[int, int] = {}
    end: dict[int, int] = {}
    shared: dict[int, int] = {}
    for tick, event in enumerate(trace.events):
        if event.kind == pb.HeapSimulatorTrace.Event.FREE:
            if event.buffer_id not in start:
                raise FormatError(
                    f"{where}: the heap trace frees buffer {event.buffer_id}, never allocated"
                )
            end[event.buffer_id] = tick
            continue
        start[event.buffer_id] = tick
        if event.kind == pb.HeapSimulatorTrace.Event.SHARE_WITH:
            with_ = event.share_with_canonical_id
            shared[event.buffer_id] = shared.get(with_, with_)
    last = len(trace.events)
    return {b: (tick, end.get(b, last)) for b, tick in start.items()}, shared


def main() -> int:
    """Prints allocations and peaks of the files named on the command line."""
    for path in sys.argv[1:]:
        try:
            found = load_buffers(path)
        except InputError as error:
            print(error, file=sys.stderr)
            return error.exit_status
        print(f"{path}: device {found.peak():,} bytes, host {found.peak(HOST):,} bytes")
        for kind in ("argument", "output", "constant", "temporary"):
            print(f"  {kind}: {found.bytes_of(kind):,}")
        for allocation in found.packed:
            packed = rectangles(allocation)
            print(
                f"  packed allocation {allocation.number}: {allocation.size:,} bytes for "
                f"{len(packed)} places, at most {live_peak(packed):,} alive"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
